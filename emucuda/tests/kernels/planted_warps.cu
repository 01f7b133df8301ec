// Planted bugs: within a warp.

#define FULL 0xffffffff

// All lanes take part, the mask names half of them.
extern "C" __global__ void __launch_bounds__(32) mask_too_small(int* y) {
    int v = threadIdx.x;
    y[threadIdx.x] = __shfl_xor_sync(0x0000ffff, v, 16);                                             // REPORT: mask_too_small
}

// Half of the lanes take part, the mask names them all.
extern "C" __global__ void __launch_bounds__(32) shuffle_in_branch(int* y, const int* x) {
    int t = threadIdx.x, v = x[t];
    if (v > 0) {
        v += __shfl_down_sync(FULL, v, 1);                                                           // REPORT: shuffle_in_branch
    }
    y[t] = v;
}

extern "C" __global__ void __launch_bounds__(32) vote_in_branch(unsigned* y, const int* x) {
    int t = threadIdx.x, v = x[t];
    unsigned all = 0;
    if (v > 0) {
        all = __ballot_sync(FULL, v > 1);                                                            // REPORT: vote_in_branch
    }
    y[t] = all;
}

// The lanes beyond the end have left, the mask still names them.
extern "C" __global__ void __launch_bounds__(32) shuffle_after_return(int* y, int n) {
    int t = threadIdx.x;
    if (t >= n) return;
    int v = t;
    for (int half = 16; half > 0; half /= 2) v += __shfl_down_sync(FULL, v, half);                   // REPORT: shuffle_after_return
    y[t] = v;
}

// A warp exchanges numbers through shared memory as if its lanes still ran in step.
extern "C" __global__ void __launch_bounds__(32) no_syncwarp(int* y) {
    __shared__ volatile int line[32];
    int t = threadIdx.x;
    line[t] = t;                                                                                     // REPORT: no_syncwarp
    y[t] = line[31 - t];                                                                             // REPORT: no_syncwarp
}

// Two warps exchange, but each waits for its own lanes only.
extern "C" __global__ void __launch_bounds__(64) syncwarp_for_a_block(int* y) {
    __shared__ int line[64];
    int t = threadIdx.x;
    line[t] = t;                                                                                     // REPORT: syncwarp_for_a_block
    __syncwarp();
    y[t] = line[63 - t];                                                                             // REPORT: syncwarp_for_a_block
}

// A shuffle brings lanes together, but orders no memory.
extern "C" __global__ void __launch_bounds__(32) shuffle_is_no_fence(int* y) {
    __shared__ volatile int line[32];
    int t = threadIdx.x;
    line[t] = t;                                                                                     // REPORT: shuffle_is_no_fence
    int other = __shfl_xor_sync(FULL, t, 1);
    y[t] = line[31 - t] + other;                                                                     // REPORT: shuffle_is_no_fence
}

// The tree of a reduction without a barrier between its levels.
extern "C" __global__ void __launch_bounds__(32) tree_without_sync(float* y, const float* x) {
    __shared__ volatile float tree[64];
    int t = threadIdx.x;
    tree[t] = x[t];
    tree[t + 32] = 0;
    for (int half = 16; half > 0; half /= 2) tree[t] = tree[t] + tree[t + half];                     // REPORT: tree_without_sync
    if (t == 0) y[0] = tree[0];
}

// The mask is right, but the number comes from a lane that is not in it.
extern "C" __global__ void __launch_bounds__(32) reads_an_absent_lane(int* y, int n) {
    int t = threadIdx.x, v = t;
    unsigned mask = __ballot_sync(FULL, t < n);
    if (t < n) {
        v += __shfl_down_sync(mask, v, 16);                                                          // REPORT: reads_an_absent_lane
    }
    y[t] = v;
}
