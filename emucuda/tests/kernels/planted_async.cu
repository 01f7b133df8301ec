// Planted bugs: copies that run beside the threads (cp.async).

__device__ __forceinline__ void copy_async(float* shared, const float* global) {
    unsigned to = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" :: "r"(to), "l"(global) : "memory");
}
#define COMMIT() asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT(n) asm volatile("cp.async.wait_group %0;" :: "n"(n) : "memory")

extern "C" __global__ void __launch_bounds__(32) no_wait(float* y, const float* x) {
    __shared__ __align__(16) float tile[128];
    int t = threadIdx.x;
    copy_async(tile + 4 * t, x + 4 * t);
    COMMIT();
    __syncthreads();
    y[t] = tile[t];                                                                                  // REPORT: no_wait
}

// Two copies are on their way; the wait is content with one.
extern "C" __global__ void __launch_bounds__(32) waits_for_too_few(float* y, const float* x) {
    __shared__ __align__(16) float tile[2][128];
    int t = threadIdx.x;
    copy_async(tile[0] + 4 * t, x + 4 * t);
    COMMIT();
    copy_async(tile[1] + 4 * t, x + 128 + 4 * t);
    COMMIT();
    WAIT(1);
    __syncthreads();
    y[t] = tile[0][t] + tile[1][t];                                                                  // REPORT: waits_for_too_few
}

// A thread waits for its own copies only: for those of others, a barrier must follow.
extern "C" __global__ void __launch_bounds__(64) no_barrier_after_wait(float* y, const float* x) {
    __shared__ __align__(16) float tile[256];
    int t = threadIdx.x;
    copy_async(tile + 4 * t, x + 4 * t);                                                             // REPORT: no_barrier_after_wait
    COMMIT();
    WAIT(0);                                                                                         // REPORT: no_barrier_after_wait
    y[t] = tile[255 - t];                                                                            // REPORT: no_barrier_after_wait
}

// The next copy goes to the tile that other threads still read.
extern "C" __global__ void __launch_bounds__(64) overwrites_the_tile(float* y, const float* x, int n) {
    __shared__ __align__(16) float tile[256];
    int t = threadIdx.x;
    float sum = 0;
    for (int k = 0; k < n; k++) {
        copy_async(tile + 4 * t, x + 256 * k + 4 * t);                                               // REPORT: overwrites_the_tile
        COMMIT();
        WAIT(0);                                                                                     // REPORT: overwrites_the_tile
        __syncthreads();
        sum += tile[255 - t];                                                                        // REPORT: overwrites_the_tile
    }
    y[t] = sum;
}

// A copy of 16 bytes to a place that is a multiple of 4 only.
extern "C" __global__ void __launch_bounds__(16) misaligned_copy(float* y, const float* x) {
    __shared__ __align__(16) float tile[128];
    int t = threadIdx.x;
    copy_async(tile + 4 * t + 1, x + 4 * t);                                                         // REPORT: misaligned_copy
    COMMIT();
    WAIT(0);
    __syncthreads();
    y[t] = tile[t + 1];
}
