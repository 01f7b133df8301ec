// Kernels for the test of the driver's functions: small, and with what that test needs to see.

extern "C" __global__ void __launch_bounds__(256) scale(float* x, float factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= factor;
}

extern "C" __global__ void __launch_bounds__(256) count_up(int* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += 1;
}

// No guard: the last block goes beyond the end unless n is a multiple of the block's size.
extern "C" __global__ void __launch_bounds__(256) fill_unguarded(int* x, int value) {
    x[blockIdx.x * blockDim.x + threadIdx.x] = value;
}

// Reads four numbers at once, which have to lie at a multiple of 16 bytes.
extern "C" __global__ void __launch_bounds__(32) copy_by_four(float4* to, const float4* from) {
    to[threadIdx.x] = from[threadIdx.x];
}

// Turns each block's numbers around by way of dynamic shared memory.
extern "C" __global__ void __launch_bounds__(256) turn(int* x) {
    extern __shared__ int turned[];
    int* mine = x + blockIdx.x * blockDim.x;
    turned[threadIdx.x] = mine[threadIdx.x];
    __syncthreads();
    mine[threadIdx.x] = turned[blockDim.x - 1 - threadIdx.x];
}
