// Batch normalisation; mathematics in src/ops/batchnorm.rs, and of the statistics in src/ops/moments.rs.
//
// x is read in pieces: up to 16 neighbouring pixels of one channel and group, which one warp (32 images) holds in registers. What is
// summed over a piece goes to memory; a second kernel adds the pieces of a channel, in f64 and in a fixed order.
#include "common.cuh"

#define PIECE 16

// Sizes: n images in `groups` groups, c channels of `plane` pixels in `pieces` pieces.
struct Planes { int n, groups, c, plane, pieces; };

// The piece of this warp: where it begins in memory, how many pixels it has, its channel, its place among the channel's pieces, and how many
// lanes carry an image.
struct Piece { int at, pixels, c, place, images; };
__device__ __forceinline__ bool piece_of(const Planes& d, Piece& p) {
    int i = blockIdx.x * 8 + threadIdx.y;
    if (i >= d.groups * d.c * d.pieces) return false;
    int piece = i % d.pieces, c = i / d.pieces % d.c, g = i / d.pieces / d.c;
    p.at = ((g * d.c + c) * d.plane + piece * PIECE) * L + threadIdx.x;
    p.pixels = min(PIECE, d.plane - piece * PIECE);
    p.c = c;
    p.place = c * (d.groups * d.pieces) + g * d.pieces + piece;
    p.images = min(L, d.n - g * L);
    return true;
}

// The piece of this warp in registers, 0 behind its end: all loads are under way before the first number is needed, or a result written.
__device__ __forceinline__ void load(A (&v)[PIECE], const T* x, const Piece& p) {
#pragma unroll
    for (int i = 0; i < PIECE; i++) v[i] = i < p.pixels ? up(x[p.at + i * L]) : (A)0;
}

// Each piece's mean and summed squared distance from it, empty lanes left out.
//
// x [G][C][plane][32]; mean, m2 [C][G·pieces]. One warp = one piece; one block = 8 of them.
extern "C" __global__ void __launch_bounds__(256) batchnorm_pieces(const T* x, A* mean, A* m2, Planes d) {
    Piece p;
    if (!piece_of(d, p)) return;
    bool there = threadIdx.x < p.images;
    A v[PIECE], sum = 0;
    load(v, x, p);
#pragma unroll
    for (int i = 0; i < PIECE; i++) sum += v[i];
    A m = (A)(p.images * p.pixels), centre = warp_sum(there ? sum : (A)0) / m, off = 0, square = 0;
#pragma unroll
    for (int i = 0; i < PIECE; i++) {
        A e = i < p.pixels ? v[i] - centre : (A)0;
        off += e;
        square += e * e;
    }
    // `off` is what rounding left of the mean.
    off = warp_sum(there ? off : (A)0);
    square = warp_sum(there ? square : (A)0);
    if (threadIdx.x == 0) {
        mean[p.place] = centre + off / m;
        m2[p.place] = square - off * off / m;
    }
}

// How many values there are, their mean, their summed squared distance from it; Chan's formula merges two.
struct Moments { f64 m, mean, m2; };
__device__ __forceinline__ Moments merge(Moments a, Moments b) {
    f64 m = a.m + b.m, delta = b.mean - a.mean;
    if (m == 0) return a;
    Moments r = {m, a.mean + delta * b.m / m, a.m2 + b.m2 + delta * delta * a.m * b.m / m};
    return r;
}

// The statistics of each channel from those of its pieces: mean, 1/√(var + eps), and the unbiased variance.
//
// piece_mean, piece_m2 [C][G·pieces]; mean, inv_std, var [C]. One block = one channel, 128 threads.
extern "C" __global__ void __launch_bounds__(128) batchnorm_statistics(
    const A* piece_mean, const A* piece_m2, A* mean, A* inv_std, A* var, f64 eps, Planes d) {
    __shared__ f64 m[128], means[128], m2[128];
    int c = blockIdx.x, t = threadIdx.x, count = d.groups * d.pieces;
    Moments all = {0, 0, 0};
    for (int i = t; i < count; i += 128) {
        int images = min(L, d.n - i / d.pieces * L), pixels = min(PIECE, d.plane - i % d.pieces * PIECE);
        Moments piece = {(f64)(images * pixels), (f64)piece_mean[c * count + i], (f64)piece_m2[c * count + i]};
        all = merge(all, piece);
    }
    for (int half = 64; half > 0; half /= 2) {
        m[t] = all.m;
        means[t] = all.mean;
        m2[t] = all.m2;
        __syncthreads();
        if (t < half) {
            Moments other = {m[t + half], means[t + half], m2[t + half]};
            all = merge(all, other);
        }
        __syncthreads();
    }
    if (t > 0) return;
    mean[c] = (A)all.mean;
    inv_std[c] = (A)(1 / sqrt(all.m2 / all.m + eps));
    var[c] = (A)(all.m2 / (all.m - 1));
}

// inv_std = 1/√(var + eps), for evaluation. One thread = one channel.
extern "C" __global__ void __launch_bounds__(128) batchnorm_inv_std(const A* var, A* inv_std, f64 eps, int c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < c) inv_std[i] = (A)(1 / sqrt((f64)var[i] + eps));
}

// y = (x - mean)·w·inv_std + b; 0 in empty lanes, whatever is there, so that layer after layer it stays finite
//
// x, y [G][C][plane][32]; w, b, mean, inv_std [C]. One warp = one piece; one block = 8 of them.
extern "C" __global__ void __launch_bounds__(256) batchnorm_forward(
    const T* x, const A* w, const A* b, const A* mean, const A* inv_std, T* y, Planes d) {
    Piece p;
    if (!piece_of(d, p)) return;
    bool there = threadIdx.x < p.images;
    A centre = mean[p.c], scale = w[p.c] * inv_std[p.c], shift = b[p.c], v[PIECE];
    load(v, x, p);
#pragma unroll
    for (int i = 0; i < PIECE; i++)
        if (i < p.pixels) y[p.at + i * L] = down(there ? (v[i] - centre) * scale + shift : (A)0);
}

// Each piece's Σ dy·(x - mean) and Σ dy; dy is 0 in empty lanes.
//
// x, dy [G][C][plane][32], mean [C]; dw, db [C][G·pieces]. One warp = one piece; one block = 8 of them.
extern "C" __global__ void __launch_bounds__(256) batchnorm_backward_pieces(const T* x, const T* dy, const A* mean, A* dw, A* db, Planes d) {
    Piece p;
    if (!piece_of(d, p)) return;
    bool there = threadIdx.x < p.images;
    A centre = mean[p.c], weight = 0, bias = 0, v[PIECE], e[PIECE];
    load(v, x, p);
    load(e, dy, p);
#pragma unroll
    for (int i = 0; i < PIECE; i++) {
        weight += (v[i] - centre) * e[i];
        bias += e[i];
    }
    weight = warp_sum(there ? weight : (A)0);
    bias = warp_sum(there ? bias : (A)0);
    if (threadIdx.x == 0) {
        dw[p.place] = weight;
        db[p.place] = bias;
    }
}

// dw (+)= inv_std·Σ, db (+)= Σ over the pieces, and the factors of dx = a·dy + k·(x - mean) + q
//
// piece_dw, piece_db [C][G·pieces]; w, inv_std, dw, db [C] (dw, db null if nobody wants them); factors [C][3]; by_m = 1/m, or 0 in
// evaluation. One block = one channel, 128 threads.
extern "C" __global__ void __launch_bounds__(128) batchnorm_backward_weight(
    const A* piece_dw, const A* piece_db, const A* w, const A* inv_std, A* dw, A* db, A* factors, f64 by_m, int pieces, int add_weight, int add_bias) {
    int c = blockIdx.x, t = threadIdx.x;
    f64 weight = 0, bias = 0;
    for (int i = t; i < pieces; i += 128) {
        weight += piece_dw[c * pieces + i];
        bias += piece_db[c * pieces + i];
    }
    weight = block_sum<128>(weight, t);
    bias = block_sum<128>(bias, t);
    if (t > 0) return;
    f64 s = inv_std[c], a = w[c] * s;
    weight *= s;
    if (dw) put(dw + c, (A)weight, add_weight);
    if (db) put(db + c, (A)bias, add_bias);
    factors[3 * c] = (A)a;
    factors[3 * c + 1] = (A)(-a * s * weight * by_m);
    factors[3 * c + 2] = (A)(-a * bias * by_m);
}

// dx (+)= a·dy + k·(x - mean) + q; 0 in empty lanes, which q would reach
//
// x, dy, dx [G][C][plane][32], mean [C], factors [C][3]. One warp = one piece; one block = 8 of them.
extern "C" __global__ void __launch_bounds__(256) batchnorm_backward_input(
    const T* x, const T* dy, const A* mean, const A* factors, T* dx, Planes d, int add) {
    Piece p;
    if (!piece_of(d, p)) return;
    bool there = threadIdx.x < p.images;
    A centre = mean[p.c], a = factors[3 * p.c], k = factors[3 * p.c + 1], q = factors[3 * p.c + 2], v[PIECE], e[PIECE];
    load(v, x, p);
    load(e, dy, p);
#pragma unroll
    for (int i = 0; i < PIECE; i++) v[i] = there ? a * e[i] + (k * (v[i] - centre) + q) : (A)0;
    if (add) {
        load(e, dx, p);
#pragma unroll
        for (int i = 0; i < PIECE; i++) v[i] += e[i];
    }
#pragma unroll
    for (int i = 0; i < PIECE; i++)
        if (i < p.pixels) dx[p.at + i * L] = down(v[i]);
}

// running = (1 - momentum)·running + momentum·statistic, for mean and variance; batches counts
//
// all [C] but batches, one number. One thread = one channel.
extern "C" __global__ void __launch_bounds__(128) batchnorm_update_running(
    const A* mean, const A* var, A* running_mean, A* running_var, int* batches, f64 momentum, int c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i == 0) batches[0] += 1;
    if (i >= c) return;
    running_mean[i] = (A)((1 - momentum) * running_mean[i] + momentum * mean[i]);
    running_var[i] = (A)((1 - momentum) * running_var[i] + momentum * var[i]);
}
