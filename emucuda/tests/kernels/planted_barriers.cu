// Planted bugs: barriers that not all threads reach.

// Threads beyond the end leave, and the others wait for them.
extern "C" __global__ void __launch_bounds__(128) early_return(float* y, const float* x, int n) {
    __shared__ float tile[128];
    int t = threadIdx.x;
    if (t >= n) return;
    tile[t] = x[t];
    __syncthreads();                                                                                 // REPORT: early_return
    y[t] = tile[n - 1 - t];
}

extern "C" __global__ void __launch_bounds__(64) half_a_warp(float* y) {
    __shared__ float tile[64];
    int t = threadIdx.x;
    tile[t] = t;
    if (t % 32 < 16) {
        __syncthreads();                                                                             // REPORT: half_a_warp
        y[t] = tile[t + 16];
    }
}

// The second warp goes by, to its end.
extern "C" __global__ void __launch_bounds__(64) one_warp_only(float* y) {
    __shared__ float tile[64];
    int t = threadIdx.x;
    tile[t] = t;
    if (t < 32) {
        __syncthreads();                                                                             // REPORT: one_warp_only
        y[t] = tile[t] + 1;
    }
}

// Warps that go round the loop a different number of times.
extern "C" __global__ void __launch_bounds__(64) uneven_loop(float* y) {
    __shared__ float tile[64];
    int t = threadIdx.x, rounds = 1 + t / 32;
    float sum = 0;
    for (int k = 0; k < rounds; k++) {
        tile[t] = k;
        __syncthreads();                                                                             // REPORT: uneven_loop
        sum += tile[t];
    }
    y[t] = sum;
}

// Each half of the warp waits at a barrier of its own.
extern "C" __global__ void __launch_bounds__(32) two_places(int* y) {
    __shared__ int tile[32];
    int t = threadIdx.x;
    tile[t] = t;
    if (t < 16) {
        __syncthreads();                                                                             // REPORT: two_places
        y[t] = tile[t + 16] * 3;
    } else {
        __syncthreads();                                                                             // REPORT: two_places
        y[t] = tile[t - 16] - 5;
    }
}

// A barrier for 64 threads of a block, at which only 32 arrive.
extern "C" __global__ void __launch_bounds__(64) named_barrier_short(int* y) {
    int t = threadIdx.x;
    if (t < 32) {
        asm volatile("bar.sync 1, 64;" ::: "memory");                                                // REPORT: named_barrier_short
    }
    y[t] = t;
}
