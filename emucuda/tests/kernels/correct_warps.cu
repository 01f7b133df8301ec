// Correct kernels: within a warp.

#define FULL 0xffffffff

extern "C" __global__ void __launch_bounds__(64) warp_sums(float* y, const float* x) {
    float v = x[threadIdx.x];
    for (int half = 16; half > 0; half /= 2) v += __shfl_down_sync(FULL, v, half);
    v = __shfl_sync(FULL, v, 0);
    y[threadIdx.x] = v;
}

// The mask names just the lanes that take part, however many are left.
extern "C" __global__ void __launch_bounds__(64) partial_masks(int* y, const int* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned mask = __ballot_sync(FULL, i < n);
    if (i < n) {
        int v = x[i], lane = threadIdx.x % 32, count = __popc(mask);
        for (int half = 16; half > 0; half /= 2) {
            bool there = lane + half < count;
            int other = __shfl_sync(mask, v, there ? lane + half : lane);
            if (there) v += other;
        }
        if (lane == 0) y[i / 32] = v;
    }
}

// Lanes exchange through shared memory, and wait for each other.
extern "C" __global__ void __launch_bounds__(64) syncwarp_exchange(int* y) {
    __shared__ int line[64];
    int t = threadIdx.x, lane = t % 32, warp = t / 32 * 32;
    line[t] = t * 3;
    __syncwarp();
    y[t] = line[warp + 31 - lane];
}

// The levels of a reduction in shared memory, each behind the one before.
extern "C" __global__ void __launch_bounds__(32) tree(float* y, const float* x) {
    __shared__ float tree[32];
    int t = threadIdx.x;
    tree[t] = x[t];
    for (int half = 16; half > 0; half /= 2) {
        __syncwarp();
        if (t < half) tree[t] += tree[t + half];
    }
    if (t == 0) y[0] = tree[0];
}

// Each lane goes round its own number of times.
extern "C" __global__ void __launch_bounds__(64) divergent_loops(int* y, const int* x) {
    int v = x[threadIdx.x], steps = 0;
    while (v != 1) {
        v = v % 2 ? 3 * v + 1 : v / 2;
        steps++;
        if (steps > 1000) break;
    }
    y[threadIdx.x] = steps;
}

// Branches within branches, and a vote of those that meet again.
extern "C" __global__ void __launch_bounds__(32) nested_branches(unsigned* y, const int* x) {
    int t = threadIdx.x, v = x[t];
    unsigned r;
    if (v % 2) {
        if (v % 3) r = v * 10;
        else r = v * 20;
        r += __popc(__activemask()) > 0;
    } else {
        for (r = 0; r < (unsigned)v; r += 7) ;
    }
    __syncwarp();
    y[t] = r + __popc(__ballot_sync(FULL, r > 50));
}

__device__ __noinline__ int far_away(int v, int* found) {
    *found += 1;
    return v * v - 3;
}

// A switch that becomes a jump by table, and a function that is really called.
extern "C" __global__ void __launch_bounds__(64) switches(int* y, const int* x) {
    int v = x[threadIdx.x], r, found = 0;
    switch (v) {
        case 0: r = 11; break;
        case 1: r = y[64] + 1; break;
        case 2: r = far_away(v, &found); break;
        case 3: r = __popc(v * 77); break;
        case 4: r = v << 4;   // goes on into the next
        case 5: r = v + 1000; break;
        case 6: r = __clz(v); break;
        case 7: r = far_away(far_away(v, &found), &found); break;
        default: r = -v;
    }
    y[threadIdx.x] = r * 10 + found;
}

// Which lanes have the same key; sums over a warp in one instruction.
extern "C" __global__ void __launch_bounds__(32) matches(unsigned* y, const int* x) {
    int t = threadIdx.x, key = x[t];
    unsigned same = __match_any_sync(FULL, key);
    unsigned sum = __reduce_add_sync(FULL, key), most = __reduce_max_sync(FULL, (unsigned)key);
    y[t] = same;
    y[32 + t] = sum * 1000 + most;
}

// The lanes that pass write side by side.
extern "C" __global__ void __launch_bounds__(64) compaction(int* y, int* count, const int* x) {
    int v = x[threadIdx.x], lane = threadIdx.x % 32;
    bool keep = v > 0;
    unsigned kept = __ballot_sync(FULL, keep);
    int base = 0;
    if (lane == 0) base = atomicAdd(count, __popc(kept));
    base = __shfl_sync(FULL, base, 0);
    if (keep) y[base + __popc(kept & ((1u << lane) - 1))] = v;
}
