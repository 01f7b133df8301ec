// Where the emulator's judgement differs from a GPU's: what it accuses although it works, and what it does not see.

// The last block to finish adds up what all have left: ordered by a fence and an atomic, which the emulator does not take for order.
extern "C" __global__ void __launch_bounds__(32) last_block_sums(float* y, float* parts, unsigned* finished, const float* x) {
    float v = x[blockIdx.x * 32 + threadIdx.x];
    for (int half = 16; half > 0; half /= 2) v += __shfl_xor_sync(0xffffffff, v, half);
    if (threadIdx.x == 0) {
        ((volatile float*)parts)[blockIdx.x] = v;
        __threadfence();
        if (atomicInc(finished, gridDim.x - 1) == gridDim.x - 1) {
            float sum = 0;
            for (int b = 0; b < gridDim.x; b++) sum += ((volatile float*)parts)[b];                  // REPORT: last_block_sums
            y[0] = sum;
        }
    }
}

// One row too far, but still inside of the same array: not seen.
extern "C" __global__ void __launch_bounds__(32) past_the_row(int* y) {
    __shared__ int rows[4][32];
    for (int i = 0; i < 4; i++) rows[i][threadIdx.x] = i;
    __syncthreads();
    y[threadIdx.x] = rows[1][threadIdx.x + 32];
}

// Two buffers of one type and size, swapped by the caller: only the numbers show it.
extern "C" __global__ void __launch_bounds__(32) difference(float* y, const float* a, const float* b) {
    y[threadIdx.x] = a[threadIdx.x] - b[threadIdx.x];
}
