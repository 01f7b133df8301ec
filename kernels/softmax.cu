// Softmax and log-softmax; mathematics in src/ops/softmax.rs.
#include "common.cuh"

// y_c = exp(x_c - max) / Σ_k exp(x_k - max), or its logarithm
//
// x, y [G][C][32]. One thread = one image; one block = 4 groups.
extern "C" __global__ void __launch_bounds__(128) softmax_forward(const T* x, T* y, int log, int groups, int c) {
    int g = blockIdx.x * 4 + threadIdx.y;
    if (g >= groups) return;
    int first = g * c * L + threadIdx.x;
    A most = NEG_INFINITY, sum = 0;
    for (int k = 0; k < c; k++) {
        A v = up(x[first + k * L]);
        most = v > most ? v : most;
    }
    for (int k = 0; k < c; k++) sum += exponential(up(x[first + k * L]) - most);
    A log_sum = log ? logarithm(sum) : (A)0;
    for (int k = 0; k < c; k++) {
        A v = up(x[first + k * L]) - most;
        y[first + k * L] = down(log ? v - log_sum : exponential(v) / sum);
    }
}

// softmax:      dx_c (+)= y_c·(dy_c - Σ_k dy_k·y_k)
// log-softmax:  dx_c (+)= dy_c - exp(y_c)·Σ_k dy_k
//
// y, dy, dx [G][C][32]. One thread = one image; one block = 4 groups.
extern "C" __global__ void __launch_bounds__(128) softmax_backward_input(const T* y, const T* dy, T* dx, int log, int groups, int c, int add) {
    int g = blockIdx.x * 4 + threadIdx.y;
    if (g >= groups) return;
    int first = g * c * L + threadIdx.x;
    A sum = 0;
    for (int k = 0; k < c; k++) {
        A d = up(dy[first + k * L]);
        sum += log ? d : d * up(y[first + k * L]);
    }
    for (int k = 0; k < c; k++) {
        A v = up(y[first + k * L]), d = up(dy[first + k * L]);
        put(dx + first + k * L, log ? d - exponential(v) * sum : (d - sum) * v, add);
    }
}
