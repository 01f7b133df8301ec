// Batch norm, ReLU and 2x2 max-pool in one pass; mathematics in src/ops/norm_relu_pool.rs. Statistics and backward are those of
// batchnorm.cu and maxpool2d.cu.
#include "common.cuh"

// Sizes: n images in `groups` groups, c planes of H x W pixels and OH x OW windows in each.
struct Halves { int n, groups, c, h, w, oh, ow; };

// y = max(0, the largest v of the window), v = (x - mean)·w·inv_std + b; at = its place, or 255 if it is not above 0. Empty lanes are as if they held
// nothing above 0.
//
// x [planes][H][W][32], w, b, mean, inv_std [C], y and at [planes][OH][OW][32]. One warp = one output pixel of 32 images; one block = 8 of them.
extern "C" __global__ void __launch_bounds__(256) norm_relu_pool_forward(
    const T* x, const A* w, const A* b, const A* mean, const A* inv_std, T* y, u8* at, Halves d) {
    int pixel = blockIdx.x * 8 + threadIdx.y, l = threadIdx.x;
    if (pixel >= d.groups * d.c * d.oh * d.ow) return;
    int ox = pixel % d.ow, oy = pixel / d.ow % d.oh, plane = pixel / (d.ow * d.oh), c = plane % d.c;
    bool there = l < d.n - plane / d.c * L;
    A scale = w[c] * inv_std[c], shift = b[c], centre = mean[c], best = 0;
    int place = 255;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        A v = (up(x[((plane * d.h + 2 * oy + i / 2) * d.w + 2 * ox + i % 2) * L + l]) - centre) * scale + shift;
        bool wins = there && (v > best || v != v);
        best = wins ? v : best;
        place = wins ? i : place;
    }
    y[pixel * L + l] = down(best);
    at[pixel * L + l] = (u8)place;
}
