// The optimisers over whole arenas of parameters; mathematics in src/optim/{clip,sgd,adam,rmsprop}.rs.
//
// Every array holds count numbers at the same places: weights, gradients and moments of all parameters one after the other, with
// unused numbers between them. What changes from step to step lies in device memory, so that a captured step can be
// replayed: `table` has a row of 8 coefficients for each step of an epoch, and place[2], the steps taken since it was written (not those
// left out), says which one is next; place[3] says that training is halted; in half precision
// scale[1] undoes the loss scale, and health[0] says that a gradient overflowed and the step must be left out.
#include "common.cuh"

// A number whose products are rounded before anything is added to them, as on the CPU: the compiler would make one operation of
// a·b + c, rounded once, and the weights of CPU and GPU would part in their last bits.
struct Exact {
    A v;
    __device__ __forceinline__ Exact() {}
    __device__ __forceinline__ Exact(A a) : v(a) {}
};
__device__ __forceinline__ f32 product(f32 a, f32 b) { return __fmul_rn(a, b); }
__device__ __forceinline__ f64 product(f64 a, f64 b) { return __dmul_rn(a, b); }
__device__ __forceinline__ Exact operator*(Exact a, Exact b) { return product(a.v, b.v); }
__device__ __forceinline__ Exact operator/(Exact a, Exact b) { return a.v / b.v; }
__device__ __forceinline__ Exact operator+(Exact a, Exact b) { return a.v + b.v; }
__device__ __forceinline__ Exact operator-(Exact a, Exact b) { return a.v - b.v; }
__device__ __forceinline__ Exact root(Exact a) { return root(a.v); }

// What an optimiser needs to know of the step; false if the step is left out.
struct Step { Exact k[8], unscale; };
__device__ __forceinline__ bool begin(Step& s, const A* table, const int* place, const int* health, const A* scale) {
#pragma unroll
    for (int j = 0; j < 8; j++) s.k[j] = table[8 * place[2] + j];
    s.unscale = scale ? scale[1] : (A)1;
    return !place[3] && !(health && health[0]);
}

// sums[first + block] = Σ dw² over 4096 numbers
//
// dw [count]. One block = 4096 numbers; one thread = 16 of them, 256 apart.
extern "C" __global__ void __launch_bounds__(256) optimizer_squares(const A* dw, f64* sums, int first, int count) {
    f64 sum = 0;
    for (int k = 0; k < 16; k++) {
        int i = (blockIdx.x * 16 + k) * 256 + threadIdx.x;
        f64 g = i < count ? (f64)dw[i] : 0;
        sum += g * g;
    }
    sum = block_sum<256>(sum, threadIdx.x);
    if (threadIdx.x == 0) sums[first + blockIdx.x] = sum;
}

// factor = min(1, most/(norm + 1e-6)) with norm = √(Σ sums), the loss scale taken out; 1 if that is not finite
//
// sums [count]; factor: one number; scale: (scale, 1/scale) or null. One block adds all in a fixed order.
extern "C" __global__ void __launch_bounds__(256) optimizer_clip_factor(const f64* sums, const A* scale, A* factor, f64 most, int count) {
    f64 sum = 0;
    for (int i = threadIdx.x; i < count; i += 256) sum += sums[i];
    sum = block_sum<256>(sum, threadIdx.x);
    if (threadIdx.x != 0) return;
    f64 norm = root(sum) * (scale ? (f64)scale[1] : 1.0) + 1e-6;
    factor[0] = norm - norm == 0 && norm > most ? (A)(most / norm) : (A)1;
}

// dw *= factor
//
// dw [count]; factor: one number. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) optimizer_clip_norm(A* dw, const A* factor, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) dw[i] *= factor[0];
}

// dw = min(max(dw, -most), most), most being of gradients without the loss scale; NaN stays
//
// dw [count]; scale: (scale, 1/scale) or null. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) optimizer_clip_value(A* dw, const A* scale, A most, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    A bound = scale ? most * scale[0] : most, g = dw[i];
    dw[i] = g > bound ? bound : g < -bound ? -bound : g;
}

// g = dw + decay·w;  b = mu·b + fresh·g;  d = b, or g + mu·b with Nesterov's;  w -= lr·d;  k = decay, mu, fresh, lr
//
// w, dw, b [count]; b null: plain gradient descent. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) optimizer_sgd(
    A* w, const A* dw, A* b, const A* table, const int* place, const int* health, const A* scale, int nesterov, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    Step s;
    if (i >= count || !begin(s, table, place, health, scale)) return;
    Exact decay = s.k[0], mu = s.k[1], fresh = s.k[2], lr = s.k[3];
    Exact g = dw[i] * s.unscale + decay * w[i], d = g;
    if (b) {
        Exact velocity = mu * b[i] + fresh * g;
        b[i] = velocity.v;
        d = nesterov ? g + mu * velocity : velocity;
    }
    w[i] = (w[i] - lr * d).v;
}

// g = dw + decay·w;  m += a1·(g - m);  v = b2·v + a2·g²;  w = shrink·w - size·m/(√v/root + eps)
// k = decay, shrink, a1, b2, a2, size, root, eps
//
// w, dw, m, v [count]. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) optimizer_adam(
    A* w, const A* dw, A* m, A* v, const A* table, const int* place, const int* health, const A* scale, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    Step s;
    if (i >= count || !begin(s, table, place, health, scale)) return;
    Exact decay = s.k[0], shrink = s.k[1], a1 = s.k[2], b2 = s.k[3], a2 = s.k[4], size = s.k[5], correction = s.k[6], eps = s.k[7];
    Exact g = dw[i] * s.unscale + decay * w[i];
    Exact mean = m[i] + a1 * (g - m[i]), square = b2 * v[i] + a2 * g * g;
    m[i] = mean.v;
    v[i] = square.v;
    w[i] = (shrink * w[i] - size * mean / (root(square) / correction + eps)).v;
}

// g = dw + decay·w;  v = alpha·v + beta·g²;  a += beta·(g - a);  d = g/(√(v - a²) + eps);  b = mu·b + d;  w -= lr·b
// k = decay, alpha, beta, eps, mu, lr
//
// w, dw, v, b, a [count]; b null: no momentum; a null: not centered. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) optimizer_rmsprop(
    A* w, const A* dw, A* v, A* b, A* a, const A* table, const int* place, const int* health, const A* scale, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    Step s;
    if (i >= count || !begin(s, table, place, health, scale)) return;
    Exact decay = s.k[0], alpha = s.k[1], beta = s.k[2], eps = s.k[3], mu = s.k[4], lr = s.k[5];
    Exact g = dw[i] * s.unscale + decay * w[i];
    Exact square = alpha * v[i] + beta * g * g;
    v[i] = square.v;
    if (a) {
        Exact mean = a[i] + beta * (g - a[i]);
        a[i] = mean.v;
        square = square - mean * mean;
        // Rounding can take it below 0, whose root is NaN.
        if (square.v < 0) square = (A)0;
    }
    Exact d = g / (root(square) + eps);
    if (b) {
        d = mu * b[i] + d;
        b[i] = d.v;
    }
    w[i] = (w[i] - lr * d).v;
}

// The running average of the weights: ema += k·(w - ema), k from a table with a number for each step of an epoch.
//
// ema, w [count]. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) optimizer_average(
    A* ema, const A* w, const A* table, const int* place, const int* health, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count || place[3] || (health && health[0])) return;
    Exact k = table[place[2]], old = ema[i];
    ema[i] = (old + k * (w[i] - old)).v;
}

// The working weights: the master weights rounded to T.
//
// w, working [count]. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) optimizer_round(const A* w, T* working, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) working[i] = down(w[i]);
}
