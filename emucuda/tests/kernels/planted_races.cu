// Planted bugs: races in global memory.

extern "C" __global__ void __launch_bounds__(128) histogram(int* counts, const int* x) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    counts[x[i] & 15] += 1;                                                                          // REPORT: histogram
}

// Every block leaves its sum at the same place.
extern "C" __global__ void __launch_bounds__(32) blocks_share_a_place(float* y, const float* x) {
    float v = x[blockIdx.x * 32 + threadIdx.x];
    for (int half = 16; half > 0; half /= 2) v += __shfl_xor_sync(0xffffffff, v, half);
    if (threadIdx.x == 0) y[0] = v;                                                                  // REPORT: blocks_share_a_place
}

// Each block uses what the block before has written: in which order blocks run is not defined.
extern "C" __global__ void __launch_bounds__(32) chain_of_blocks(float* y) {
    int t = threadIdx.x, b = blockIdx.x;
    float before = b == 0 ? 0 : y[(b - 1) * 32 + t];                                                 // REPORT: chain_of_blocks
    y[b * 32 + t] = before + 1;                                                                      // REPORT: chain_of_blocks
}

// The sum is collected with atomics, and read before all have added.
extern "C" __global__ void __launch_bounds__(64) atomic_and_plain(int* sum, int* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(sum, i);                                                                               // REPORT: atomic_and_plain
    y[i] = *sum;                                                                                     // REPORT: atomic_and_plain
}

// Blocks overlap by one element.
extern "C" __global__ void __launch_bounds__(32) overlapping_tiles(int* y) {
    int i = blockIdx.x * 31 + threadIdx.x;
    y[i] = blockIdx.x;                                                                               // REPORT: overlapping_tiles
}

// Threads of a block exchange through global memory without a barrier.
extern "C" __global__ void __launch_bounds__(64) exchange_in_global(int* y, int* z) {
    int t = threadIdx.x;
    y[t] = t;                                                                                        // REPORT: exchange_in_global
    z[t] = y[63 - t];                                                                                // REPORT: exchange_in_global
}

// Two bytes of one word are two places; here both threads write the same byte.
extern "C" __global__ void __launch_bounds__(32) same_byte(unsigned char* y) {
    y[threadIdx.x / 2] = threadIdx.x;                                                                // REPORT: same_byte
}
