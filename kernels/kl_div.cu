// The Kullback-Leibler divergence; mathematics in src/ops/kl_div.rs.
#include "common.cuh"

// Each image's Σ_c p·(log p - x), where t is p or, with log_target, log p. A class with p = 0 contributes nothing.
//
// x, t [G][C][32], losses [G][32] (0 in empty lanes). One thread = one image; one block = 4 groups.
extern "C" __global__ void __launch_bounds__(128) kl_div_forward(const T* x, const T* t, A* losses, int log_target, int n, int c) {
    int g = blockIdx.x * 4 + threadIdx.y, image = g * L + threadIdx.x;
    if (g * L >= n) return;
    int first = g * c * L + threadIdx.x;
    A loss = 0;
    for (int k = 0; k < c; k++) {
        A v = up(t[first + k * L]);
        A p = log_target ? exponential(v) : v, log_p = log_target ? v : logarithm(v);
        loss += p == 0 ? (A)0 : p * (log_p - up(x[first + k * L]));
    }
    losses[image] = image < n ? loss : (A)0;
}

// y = factor·Σ losses
//
// losses: count numbers; y: one. One block adds all in a fixed order.
extern "C" __global__ void __launch_bounds__(256) kl_div_total(const A* losses, A* y, f64 factor, int count) {
    f64 sum = total<256>(losses, count);
    if (threadIdx.x == 0) y[0] = (A)(sum * factor);
}

// dx (+)= -dy·factor·p
//
// t, dx [G][C][32], dy: one number. One thread = one image; one block = 4 groups.
extern "C" __global__ void __launch_bounds__(128) kl_div_backward_input(
    const T* t, const A* dy, T* dx, A factor, int log_target, int n, int c, int add) {
    int g = blockIdx.x * 4 + threadIdx.y, image = g * L + threadIdx.x;
    if (g * L >= n) return;
    int first = g * c * L + threadIdx.x;
    A scale = -dy[0] * factor;
    for (int k = 0; k < c; k++) {
        A v = up(t[first + k * L]);
        put(dx + first + k * L, image < n ? scale * (log_target ? exponential(v) : v) : (A)0, add);
    }
}

// dt (+)= dy·factor·(log p + 1 - x), times p with log_target; 0 where p = 0
//
// x, t, dt [G][C][32], dy: one number. One thread = one image; one block = 4 groups.
extern "C" __global__ void __launch_bounds__(128) kl_div_backward_target(
    const T* x, const T* t, const A* dy, T* dt, A factor, int log_target, int n, int c, int add) {
    int g = blockIdx.x * 4 + threadIdx.y, image = g * L + threadIdx.x;
    if (g * L >= n) return;
    int first = g * c * L + threadIdx.x;
    A scale = dy[0] * factor;
    for (int k = 0; k < c; k++) {
        A v = up(t[first + k * L]);
        A p = log_target ? exponential(v) : v, log_p = log_target ? v : logarithm(v);
        A d = scale * (log_p + 1 - up(x[first + k * L]));
        put(dt + first + k * L, image >= n || p == 0 ? (A)0 : log_target ? p * d : d, add);
    }
}
