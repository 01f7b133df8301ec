// Correct kernels: what threads of a block do together. None of these may be accused of anything.

extern "C" __global__ void __launch_bounds__(128) grid_stride(float* y, const float* x, float a, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = a * x[i] + y[i];
}

// A tail guard around the work, not around the barrier.
extern "C" __global__ void __launch_bounds__(128) guarded_tail(float* y, const float* x, int n) {
    __shared__ float tile[128];
    int i = blockIdx.x * 128 + threadIdx.x;
    tile[threadIdx.x] = i < n ? x[i] : 0;
    __syncthreads();
    if (i < n) y[i] = tile[threadIdx.x] + (threadIdx.x > 0 ? tile[threadIdx.x - 1] : 0);
}

// The classic: 32 x 32 tiles with a column more, blocks of 32 x 8.
extern "C" __global__ void __launch_bounds__(256) transpose(float* y, const float* x, int rows, int columns) {
    __shared__ float tile[32][33];
    int j = blockIdx.x * 32 + threadIdx.x;
    for (int k = threadIdx.y; k < 32; k += 8) {
        int i = blockIdx.y * 32 + k;
        if (i < rows && j < columns) tile[k][threadIdx.x] = x[i * columns + j];
    }
    __syncthreads();
    int i = blockIdx.y * 32 + threadIdx.x;
    for (int k = threadIdx.y; k < 32; k += 8) {
        int j = blockIdx.x * 32 + k;
        if (i < rows && j < columns) y[j * rows + i] = tile[threadIdx.x][k];
    }
}

// A product by tiles, with both barriers.
extern "C" __global__ void __launch_bounds__(256) product(float* c, const float* a, const float* b, int n) {
    __shared__ float ta[16][16], tb[16][17];
    int i = blockIdx.y * 16 + threadIdx.y, j = blockIdx.x * 16 + threadIdx.x;
    float sum = 0;
    for (int start = 0; start < n; start += 16) {
        int ka = start + threadIdx.x, kb = start + threadIdx.y;
        ta[threadIdx.y][threadIdx.x] = i < n && ka < n ? a[i * n + ka] : 0;
        tb[threadIdx.y][threadIdx.x] = kb < n && j < n ? b[kb * n + j] : 0;
        __syncthreads();
        for (int k = 0; k < 16; k++) sum += ta[threadIdx.y][k] * tb[k][threadIdx.x];
        __syncthreads();
    }
    if (i < n && j < n) c[i * n + j] = sum;
}

// Sums of warps, then the sum of those, in dynamic shared memory.
extern "C" __global__ void __launch_bounds__(256) block_sum(float* y, const float* x, int n) {
    extern __shared__ float parts[];
    float v = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) v += x[blockIdx.x * n + i];
    for (int half = 16; half > 0; half /= 2) v += __shfl_xor_sync(0xffffffff, v, half);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x == 0) {
        float sum = 0;
        for (int w = 0; w < blockDim.x / 32; w++) sum += parts[w];
        y[blockIdx.x] = sum;
    }
}

// Whole warps beyond the end leave early; those that stay need no barrier of the block.
extern "C" __global__ void __launch_bounds__(256) warps_leave(int* y, const int* x, int rows) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    int v = x[row * 32 + threadIdx.x % 32];
    for (int half = 16; half > 0; half /= 2) v += __shfl_xor_sync(0xffffffff, v, half);
    if (threadIdx.x % 32 == 0) y[row] = v;
}

// Counts: first in shared memory with atomics, then one atomic per class and block.
extern "C" __global__ void __launch_bounds__(128) histogram(int* counts, const int* x, int n) {
    __shared__ int own[16];
    if (threadIdx.x < 16) own[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&own[x[i] & 15], 1);
    __syncthreads();
    if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], own[threadIdx.x]);
}

// The same tile serves twice, with a barrier between the last read and the next write.
extern "C" __global__ void __launch_bounds__(64) tile_twice(int* y) {
    __shared__ int tile[64];
    int t = threadIdx.x, sum = 0;
    for (int k = 1; k < 4; k++) {
        tile[t] = k * t;
        __syncthreads();
        sum += tile[63 - t];
        __syncthreads();
    }
    y[t] = sum;
}

// Warps that meet in pairs, each pair at a barrier of its own.
extern "C" __global__ void __launch_bounds__(128) named_barriers(int* y) {
    __shared__ int line[128];
    int t = threadIdx.x, pair = t / 64;
    line[t] = t * t;
    asm volatile("bar.sync %0, 64;" :: "r"(pair + 1) : "memory");
    y[t] = line[pair * 64 + 63 - t % 64];
}

// A barrier that also counts, and one that decides.
extern "C" __global__ void __launch_bounds__(64) counting_barriers(int* y, const int* x) {
    int v = x[threadIdx.x];
    int count = __syncthreads_count(v > 0), all = __syncthreads_and(v > -100), any = __syncthreads_or(v > 100);
    y[threadIdx.x] = count * 100 + all * 10 + any;
}

// Prefix sums: a barrier between every read and every write.
extern "C" __global__ void __launch_bounds__(256) prefix_sum(int* y, const int* x) {
    __shared__ int line[2][256];
    int t = threadIdx.x, now = 0;
    line[0][t] = x[t];
    __syncthreads();
    for (int step = 1; step < blockDim.x; step *= 2) {
        line[1 - now][t] = line[now][t] + (t >= step ? line[now][t - step] : 0);
        now = 1 - now;
        __syncthreads();
    }
    y[t] = line[now][t];
}
