// Cross entropy; mathematics in src/ops/cross_entropy.rs.
#include "common.cuh"

// The smoothed target t'_c = a·t_c + b of one image: t is 1 at its label, or given by soft (already at the image's first class).
__device__ __forceinline__ A target(int label, const T* soft, int k, A a, A b) {
    return soft ? a * up(soft[k * L]) + b : label == k ? a + b : b;
}

// logp_c = x_c - log Σ_k exp(x_k), and each image's loss Σ_c -t'_c·logp_c; NaN where a label is not a class.
//
// x, soft, logp [G][C][32] (or soft null and labels [N]), losses [G][32] (0 in empty lanes). One thread = one image; one block = 4
// groups.
extern "C" __global__ void __launch_bounds__(128) cross_entropy_forward(
    const T* x, const int* labels, const T* soft, A* logp, A* losses, A a, A b, int n, int c) {
    int g = blockIdx.x * 4 + threadIdx.y, image = g * L + threadIdx.x;
    if (g * L >= n) return;
    int first = g * c * L + threadIdx.x;
    int label = soft || image >= n ? 0 : labels[image];
    A most = NEG_INFINITY, sum = 0, loss = 0;
    for (int k = 0; k < c; k++) {
        A v = up(x[first + k * L]);
        most = v > most ? v : most;
    }
    for (int k = 0; k < c; k++) sum += exponential(up(x[first + k * L]) - most);
    A log_sum = logarithm(sum);
    for (int k = 0; k < c; k++) {
        A l = up(x[first + k * L]) - most - log_sum;
        A t = target(label, soft ? soft + first : soft, k, a, b);
        // Where t' = 0 nothing is lost, even if logp is -inf.
        loss += t == 0 ? (A)0 : -t * l;
        logp[first + k * L] = l;
    }
    if (label < 0 || label >= c) loss = NOT_A_NUMBER;
    losses[image] = image < n ? loss : (A)0;
}

// y = factor·Σ losses
//
// losses: count numbers; y: one. One block adds all in a fixed order.
extern "C" __global__ void __launch_bounds__(256) cross_entropy_total(const A* losses, A* y, f64 factor, int count) {
    f64 sum = total<256>(losses, count);
    if (threadIdx.x == 0) y[0] = (A)(sum * factor);
}

// dx_c (+)= dy·factor·(p_c·Σ_k t'_k - t'_c) with p = exp(logp)
//
// logp, soft, dx [G][C][32], labels [N], dy: one number. One thread = one image; one block = 4 groups.
extern "C" __global__ void __launch_bounds__(128) cross_entropy_backward_input(
    const A* logp, const int* labels, const T* soft, const A* dy, T* dx, A a, A b, A factor, int n, int c, int add) {
    int g = blockIdx.x * 4 + threadIdx.y, image = g * L + threadIdx.x;
    if (g * L >= n) return;
    int first = g * c * L + threadIdx.x;
    int label = soft || image >= n ? 0 : labels[image];
    if (soft) soft += first;
    // An empty lane's gradient is 0.
    A scale = image < n ? dy[0] * factor : (A)0, sum = 0;
    for (int k = 0; k < c; k++) sum += target(label, soft, k, a, b);
    for (int k = 0; k < c; k++) {
        A d = exponential(logp[first + k * L]) * sum - target(label, soft, k, a, b);
        put(dx + first + k * L, image < n ? scale * d : (A)0, add);
    }
}

// dt_c (+)= -dy·factor·a·logp_c
//
// logp, dt [G][C][32], dy: one number; factor holds -a. One thread = one image; one block = 4 groups.
extern "C" __global__ void __launch_bounds__(128) cross_entropy_backward_target(
    const A* logp, const A* dy, T* dt, A factor, int n, int c, int add) {
    int g = blockIdx.x * 4 + threadIdx.y, image = g * L + threadIdx.x;
    if (g * L >= n) return;
    int first = g * c * L + threadIdx.x;
    A scale = dy[0] * factor;
    for (int k = 0; k < c; k++) put(dt + first + k * L, image < n ? scale * logp[first + k * L] : (A)0, add);
}

// The class with the largest of c numbers, the first of equals; NaN counts as largest.
__device__ __forceinline__ int largest(const T* x, int c) {
    int best = 0;
    A most = up(x[0]);
    for (int k = 1; k < c; k++) {
        A v = up(x[k * L]);
        bool wins = v > most || (v != v && most == most);
        most = wins ? v : most;
        best = wins ? k : best;
    }
    return best;
}

// totals += (summed loss, hits, images) of a batch: what the host reads now and then.
//
// logits, soft [G][C][32], labels [N], loss: one number, to be multiplied by `images_in_loss` to be a sum; totals [3]. One block.
extern "C" __global__ void __launch_bounds__(256) cross_entropy_metrics(
    const T* logits, const int* labels, const T* soft, const A* loss, f64* totals, f64 images_in_loss, int n, int c) {
    f64 hits = 0;
    for (int image = threadIdx.x; image < n; image += 256) {
        int first = image / L * c * L + image % L;
        int truth = soft ? largest(soft + first, c) : labels[image];
        hits += largest(logits + first, c) == truth;
    }
    hits = block_sum<256>(hits, threadIdx.x);
    if (threadIdx.x > 0) return;
    totals[0] += loss[0] * images_in_loss;
    totals[1] += hits;
    totals[2] += n;
}
