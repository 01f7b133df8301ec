// Planted bugs: shared and local memory, and the barriers around shared memory.

extern "C" __global__ void __launch_bounds__(256) past_the_array(float* y) {
    __shared__ float line[256];
    int t = threadIdx.x;
    line[t] = t;
    __syncthreads();
    y[t] = line[t + 1] - line[t];                                                                    // REPORT: past_the_array
}

// The launch gives less dynamic shared memory than there are threads.
extern "C" __global__ void __launch_bounds__(256) dynamic_too_small(float* y) {
    extern __shared__ float dynamic[];
    int t = threadIdx.x;
    dynamic[t] = t;                                                                                  // REPORT: dynamic_too_small
    __syncthreads();
    y[t] = dynamic[blockDim.x - 1 - t];
}

// The last tile is only partly filled, and wholly read.
extern "C" __global__ void __launch_bounds__(64) tail_of_the_tile(float* y, const float* x, int n) {
    __shared__ float tile[64];
    int t = threadIdx.x;
    if (t < n) tile[t] = x[t];
    __syncthreads();
    float sum = 0;
    for (int k = 0; k < 64; k++) sum += tile[k];                                                     // REPORT: tail_of_the_tile
    y[t] = sum;
}

// Written for 256 threads: with fewer, half of the tile is never filled.
extern "C" __global__ void __launch_bounds__(256) wrong_block(float* y, const float* x) {
    __shared__ float tile[256];
    int t = threadIdx.x;
    tile[t] = x[t];
    __syncthreads();
    y[t] = tile[255 - t];                                                                            // REPORT: wrong_block
}

// Written for blocks of 16 x 16: with 32 x 8, the rows of the tile run into each other.
extern "C" __global__ void __launch_bounds__(256) wrong_shape(float* y, const float* x) {
    __shared__ float tile[16][17];
    int i = threadIdx.y, j = threadIdx.x, at = i * blockDim.x + j;
    tile[i][j] = x[at];                                                                              // REPORT: wrong_shape
    __syncthreads();
    y[at] = tile[j & 15][i];
}

extern "C" __global__ void __launch_bounds__(256) no_sync_after_load(float* y, const float* x) {
    __shared__ float tile[256];
    int t = threadIdx.x;
    tile[t] = x[t];                                                                                  // REPORT: no_sync_after_load
    y[t] = tile[255 - t];                                                                            // REPORT: no_sync_after_load
}

// A product of a 64 x n and an n-vector by tiles: the next tile is loaded while others still read this one.
extern "C" __global__ void __launch_bounds__(64) no_sync_at_the_end(float* y, const float* a, const float* x, int n) {
    __shared__ float tile[64];
    int t = threadIdx.x;
    float sum = 0;
    for (int start = 0; start < n; start += 64) {
        tile[t] = x[start + t];                                                                      // REPORT: no_sync_at_the_end
        __syncthreads();
        for (int k = 0; k < 64; k++) sum += a[t * n + start + k] * tile[k];                          // REPORT: no_sync_at_the_end
    }
    y[t] = sum;
}

// The first warp sums what each warp has found, without waiting for the others.
extern "C" __global__ void __launch_bounds__(128) no_sync_before_second_stage(float* y, const float* x) {
    __shared__ float parts[4];
    int t = threadIdx.x;
    float v = x[t];
    for (int half = 16; half > 0; half /= 2) v += __shfl_xor_sync(0xffffffff, v, half);
    if (t % 32 == 0) parts[t / 32] = v;                                                              // REPORT: no_sync_before_second_stage
    if (t == 0) y[0] = parts[0] + parts[1] + parts[2] + parts[3];                                    // REPORT: no_sync_before_second_stage
}

// All threads write one place: whose number stays?
extern "C" __global__ void __launch_bounds__(64) all_write_one_place(float* y) {
    __shared__ float one;
    one = threadIdx.x;                                                                               // REPORT: all_write_one_place
    __syncthreads();
    y[threadIdx.x] = one;
}

// Counts per class in shared memory, without atomics.
extern "C" __global__ void __launch_bounds__(64) shared_histogram(int* y, const int* x) {
    __shared__ int counts[8];
    int t = threadIdx.x;
    if (t < 8) counts[t] = 0;
    __syncthreads();
    counts[x[t] & 7]++;                                                                              // REPORT: shared_histogram
    __syncthreads();
    if (t < 8) y[t] = counts[t];
}

// Of the local array, only a part is set before all of it is used.
extern "C" __global__ void __launch_bounds__(32) local_not_set(float* y, const float* x, int n) {
    float window[8];
    for (int k = 0; k < n; k++) window[k & 7] = x[k];
    float sum = 0;
    for (int k = 0; k < 8; k++) sum += window[(k * 3 + n) & 7] * (k + 1);                            // REPORT: local_not_set
    y[threadIdx.x] = sum;
}

// Shared memory is not zero at the start.
extern "C" __global__ void __launch_bounds__(64) shared_not_zeroed(int* y, const int* x) {
    __shared__ int counts[8];
    int t = threadIdx.x;
    atomicAdd(&counts[x[t] & 7], 1);                                                                 // REPORT: shared_not_zeroed
    __syncthreads();
    if (t < 8) y[t] = counts[t];
}
