// Correct kernels: memory of all kinds.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned long long u64;

// Neighbours write bytes of the same word: different places.
extern "C" __global__ void __launch_bounds__(128) bytes(u8* y, const u8* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 255 - x[i];
}

extern "C" __global__ void __launch_bounds__(128) halves(u16* y, const float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    u16 bits;
    if (i < n) {
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x[i]));
        y[2 * i] = bits;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x[i]));
        y[2 * i + 1] = bits;
    }
}

extern "C" __global__ void __launch_bounds__(64) vectors(float4* y, const float4* x, int2* z) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float4 v = x[i];
    y[i] = make_float4(v.w, v.z, v.y, v.x);
    z[i] = make_int2((int)v.x, i);
}

// In place, and said so: each thread has its own element.
extern "C" __global__ void __launch_bounds__(128) in_place(float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = x[i] * x[i] + 1;
}

// A local array that is indexed by what was read.
extern "C" __global__ void __launch_bounds__(64) local_array(int* y, const int* x) {
    int counts[8];
    for (int k = 0; k < 8; k++) counts[k] = 0;
    for (int k = 0; k < 20; k++) counts[x[threadIdx.x * 20 + k] & 7] += k;
    int r = 0;
    for (int k = 0; k < 8; k++) r = r * 31 + counts[(k * 3 + threadIdx.x) & 7];
    y[threadIdx.x] = r;
}

__constant__ float weights[9] = {1, 2, 1, 2, 4, 2, 1, 2, 1};
__device__ int calls;

// A convolution 3x3 with weights in constant memory.
extern "C" __global__ void __launch_bounds__(64) blur(float* y, const float* x, int height, int width) {
    int i = blockIdx.y * blockDim.y + threadIdx.y, j = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= height || j >= width) return;
    float sum = 0;
    for (int p = -1; p <= 1; p++)
        for (int q = -1; q <= 1; q++)
            if (i + p >= 0 && i + p < height && j + q >= 0 && j + q < width) sum += weights[p * 3 + q + 4] * x[(i + p) * width + j + q];
    y[i * width + j] = sum / 16;
    if (i == 0 && j == 0) calls += 1;
}

// The largest f32, kept with a loop of compare-and-swap.
extern "C" __global__ void __launch_bounds__(64) largest(int* most, const float* x, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        int old = atomicAdd(most, 0);
        while (__int_as_float(old) < x[i]) {
            int seen = atomicCAS(most, old, __float_as_int(x[i]));
            if (seen == old) break;
            old = seen;
        }
    }
}

// All the atomics on words, and one on 64 bits.
extern "C" __global__ void __launch_bounds__(64) atomics(int* y, u64* z) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&y[0], t);
    atomicSub(&y[1], t);
    atomicMin(&y[2], t - 5);
    atomicMax(&y[3], t);
    atomicAnd(&y[4], ~(1 << (t & 7)));
    atomicOr(&y[5], 1 << (t & 15));
    atomicXor(&y[6], t);
    atomicInc((unsigned*)&y[7], 9);
    atomicAdd(z, (u64)t << 32);
    atomicMax(z + 1, (u64)t << 33);
}

struct Shape { int rows, columns; long long skip; u8 flag; double scale; };

// A structure by value, with holes in it.
extern "C" __global__ void __launch_bounds__(64) structure(double* y, Shape s) {
    int t = threadIdx.x;
    if (t < s.rows * s.columns) y[t] = s.flag ? s.scale * t + s.skip : 0;
}

// Shared memory that is reached through a pointer which may be to either kind.
extern "C" __global__ void __launch_bounds__(64) generic(int* y, const int* x) {
    __shared__ int line[64];
    line[threadIdx.x] = -x[threadIdx.x];
    __syncthreads();
    const int* from = x[threadIdx.x] % 2 ? line : x;
    y[threadIdx.x] = from[63 - threadIdx.x];
}
