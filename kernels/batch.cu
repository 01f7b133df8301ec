// A batch from the pictures that lie on the device: src/data/loader.rs.
#include "common.cuh"

// Sizes: the network's pictures c x h x w; the data set's dc x dh x dw, which lie at (top, left) of them.
// For augmentation (src/data/augment.rs), moved by at most `shift` pixels, and mirrored if `flip`; drawn from seed, step and image.
struct Pictures { int c, h, w, dc, dh, dw, top, left, shift, flip; u64 seed; };

// x[g][ch][pixel][l] = tables[ch][byte of image order[first + g·32 + l]], labels likewise
//
// images [..][dc][dh][dw], all_labels and order: one an image; place[1] = first; step: low and high word, read only for augmentation; tables [c][256]; x [G][c][h·w][32], labels [n]. One
// block = 32 neighbouring pixels of one channel of one group; grid (h·w / 32, c, G); 8 warps.
//
// A picture's bytes lie side by side, a pixel's images do in x: so each warp reads 32 neighbouring bytes of one image at a time, and
// through shared memory hands them on to the images' lanes. Rows of 36 bytes begin in different banks.
extern "C" __global__ void __launch_bounds__(256) batch_gather(
    const u8* images, const int* all_labels, const int* order, const int* place, const int* step, const A* tables, T* x, int* labels, Pictures d, int n) {
    __shared__ u8 tile[32][36];
    int lane = threadIdx.x, warp = threadIdx.y, ch = blockIdx.y, g = blockIdx.z, first = place[1];
    int pixel = blockIdx.x * 32 + lane;
    int row = pixel / d.w - d.top, col = pixel % d.w - d.left;
    bool inside = row >= 0 && row < d.dh && col >= 0 && col < d.dw;
    int plane = (ch < d.dc ? ch : d.dc - 1) * d.dh * d.dw;
    for (int l = warp; l < 32; l += 8) {
        int i = g * L + l, r = row, c = col;
        bool there = inside && i < n;
        if (d.shift || d.flip) {
            Words w = philox(d.seed, i, (u32)step[0], (u32)step[1], 0xffffffffu);
            r += (int)(w.w[0] % (2 * d.shift + 1)) - d.shift;
            c = (d.flip && (w.w[2] & 1) ? d.dw - 1 - c : c) + (int)(w.w[1] % (2 * d.shift + 1)) - d.shift;
            there = there && r >= 0 && r < d.dh && c >= 0 && c < d.dw;
        }
        // Outside the picture, and where there is no image, it is black.
        tile[l][lane] = there ? images[(i64)order[first + i] * (d.dc * d.dh * d.dw) + plane + r * d.dw + c] : 0;
    }
    __syncthreads();
    for (int p = warp; p < 32; p += 8) {
        int to = blockIdx.x * 32 + p;
        if (to < d.h * d.w) x[((g * d.c + ch) * d.h * d.w + to) * L + lane] = down(tables[ch * 256 + tile[lane][p]]);
    }
    int i = g * L + lane;
    if (blockIdx.x == 0 && ch == 0 && warp == 0 && i < n) labels[i] = all_labels[order[first + i]];
}
