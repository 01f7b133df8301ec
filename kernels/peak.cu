// How fast the device is at its best: what benches/kernels.rs measures all other kernels by.
#include "common.cuh"

__device__ __forceinline__ f32 fused(f32 a, f32 b, f32 c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ f64 fused(f64 a, f64 b, f64 c) { return __fma_rn(a, b, c); }

// Sixteen chains of r = a·r + b, each step one fused multiply-add: 32 FLOP a thread and round. Enough chains that no step waits for
// the one before it, as one takes 4 cycles.
//
// y [threads]: the sums, so that the compiler cannot leave the work out. One thread = 16 chains; one block = 256 threads.
extern "C" __global__ void __launch_bounds__(256) peak_multiply(A* y, A a, A b, int rounds) {
    A r[16];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
#pragma unroll
    for (int j = 0; j < 16; j++) r[j] = (A)(i + j);
#pragma unroll 4
    for (int n = 0; n < rounds; n++) {
#pragma unroll
        for (int j = 0; j < 16; j++) r[j] = fused(a, r[j], b);
    }
    A sum = 0;
#pragma unroll
    for (int j = 0; j < 16; j++) sum += r[j];
    y[i] = sum;
}

// y = x
//
// x, y [4·quads]. One thread = 16 neighbouring bytes; one block = 256 threads.
extern "C" __global__ void __launch_bounds__(256) peak_copy(const int* x, int* y, int quads) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < quads) ((int4*)y)[i] = ((const int4*)x)[i];
}
