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

// ---- Pictures sampled between their pixels: src/data/augment/draw.rs, elastic.rs and resample.rs derive what follows, in the same
// letters. Each sum and product is rounded as there: a multiply-add is fused where it is written so, and nowhere else.

// How far pictures are changed: `ranges` in draw.rs.
struct Ranges { f32 rotate, shear, scale, up, across, erase, sharpen, elastic, knots; int columns; };

// What happens to one picture. An odd number of words, so that 32 of them lie in different banks.
struct Drawn { f32 y0, y_row, y_col, x0, x_row, x_col, sharpen; int from[2], to[2]; };

__device__ __forceinline__ f32 fused(f32 a, f32 b, f32 c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ f64 fused(f64 a, f64 b, f64 c) { return __fma_rn(a, b, c); }
__device__ __forceinline__ f32 unit(u32 word) { return (f32)(word >> 8) * (1.0f / 16777216.0f); }
__device__ __forceinline__ f32 either(u32 word) { return fused((f32)(word >> 8), 1.0f / 8388608.0f, -1.0f); }

// cos and sin of 4h
__device__ __forceinline__ void turn(f32 h, f32* cos, f32* sin) {
    f32 z = __fmul_rn(h, h);
    f32 s = fused(fused(fused(z, 1.0f / 362880.0f, -1.0f / 5040.0f), z, 1.0f / 120.0f), z, -1.0f / 6.0f);
    f32 c = fused(fused(fused(z, 1.0f / 40320.0f, -1.0f / 720.0f), z, 1.0f / 24.0f), z, -0.5f);
    s = fused(__fmul_rn(h, z), s, h);
    c = fused(z, c, 1.0f);
    for (int i = 0; i < 2; i++) {
        f32 twice = s + s, next = __fmul_rn(twice, c);
        c = fused(-twice, s, 1.0f);
        s = next;
    }
    *cos = c;
    *sin = s;
}

__device__ __forceinline__ Drawn draw(const int* step, Pictures d, Ranges r, int i) {
    Words a = philox(d.seed, i, (u32)step[0], (u32)step[1], 0xffffffffu);
    Words b = philox(d.seed, i, (u32)step[0], (u32)step[1], 0xfffffffeu);
    Words e = philox(d.seed, i, (u32)step[0], (u32)step[1], 0xfffffffdu);
    f32 c, s, shear_c, shear_s;
    turn(__fmul_rn(r.rotate, either(b.w[0])), &c, &s);
    turn(__fmul_rn(r.shear, either(e.w[0])), &shear_c, &shear_s);
    f32 k = __fdiv_rn(shear_s, shear_c), smaller = __fdiv_rn(1.0f, fused(r.scale, either(b.w[1]), 1.0f));
    f32 y_row = __fmul_rn(c, smaller), y_col = __fmul_rn(-s, smaller);
    f32 x_row = __fmul_rn(fused(-k, c, s), smaller), x_col = __fmul_rn(fused(k, s, c), smaller);
    f32 cy = (f32)(d.dh - 1) * 0.5f, cx = (f32)(d.dw - 1) * 0.5f;
    f32 ay = fused(r.up, either(b.w[2]), cy), ax = fused(r.across, either(b.w[3]), cx);
    // Where the moved and mirrored pixel (0, 0) lies, from the middle.
    bool flipped = d.flip && (a.w[2] & 1);
    int dy = (int)(a.w[0] % (2 * d.shift + 1)) - d.shift, dx = (int)(a.w[1] % (2 * d.shift + 1)) - d.shift;
    f32 v = (f32)dy - ay, u = (f32)(dx + (flipped ? d.dw - 1 : 0)) - ax;
    Drawn o;
    o.y0 = fused(y_row, v, fused(y_col, u, cy));
    o.x0 = fused(x_row, v, fused(x_col, u, cx));
    o.y_row = y_row;
    o.x_row = x_row;
    o.y_col = flipped ? -y_col : y_col;
    o.x_col = flipped ? -x_col : x_col;
    o.sharpen = __fmul_rn(r.sharpen, unit(a.w[3]));
    o.from[0] = o.from[1] = o.to[0] = o.to[1] = 0;
    if (unit(e.w[1]) < r.erase) {
        Words place = philox(d.seed, i, (u32)step[0], (u32)step[1], 0xfffffffcu);
        f32 area = fused(unit(e.w[2]), 0.38f, 0.02f), ratio = fused(unit(e.w[3]), 1.0f / 0.3f - 0.3f, 0.3f);
        int height = (int)fused(__fsqrt_rn(__fmul_rn(area, ratio)), (f32)d.dh, 0.5f), width = (int)fused(__fsqrt_rn(__fdiv_rn(area, ratio)), (f32)d.dw, 0.5f);
        height = min(max(height, 1), d.dh);
        width = min(max(width, 1), d.dw);
        o.from[0] = place.w[0] % (d.dh - height + 1);
        o.from[1] = place.w[1] % (d.dw - width + 1);
        o.to[0] = o.from[0] + height;
        o.to[1] = o.from[1] + width;
    }
    return o;
}

// The four points that reach over a pixel, from `first` on, and their weights.
struct Knot { int first; f32 w[4]; };
__device__ __forceinline__ f32 near_knot(f32 t) { return fused(__fmul_rn(t, t), fused(t, 0.5f, -1.0f), 2.0f / 3.0f); }
__device__ __forceinline__ f32 far_knot(f32 t) { return __fmul_rn(__fmul_rn(__fmul_rn(t, t), t), 1.0f / 6.0f); }
__device__ __forceinline__ Knot knot(int pixel, f32 knots) {
    Knot k;
    k.first = (int)__fmul_rn((f32)pixel, knots);
    f32 t = fused((f32)pixel, knots, -(f32)k.first), u = 1.0f - t;
    k.w[0] = far_knot(u);
    k.w[1] = near_knot(t);
    k.w[2] = near_knot(u);
    k.w[3] = far_knot(t);
    return k;
}

__device__ __forceinline__ f32 half_word(u32 bits) { return fused((f32)bits, 1.0f / 32768.0f, 1.0f / 65536.0f - 1.0f); }
__device__ __forceinline__ f32 four(const f32* w, const f32* g) { return fused(w[3], g[3], fused(w[2], g[2], fused(w[1], g[1], __fmul_rn(w[0], g[0])))); }

// (ey, ex) / a of a pixel of image i. Four neighbouring points may begin inside a block of four words, `offset` words into it.
__device__ __forceinline__ void displacement(const int* step, Pictures d, int columns, int i, Knot row, Knot col, f32* ey, f32* ex) {
    f32 y = 0, x = 0;
    // Not unrolled: eight copies of Philox would be a long way for one pixel.
#pragma unroll 1
    for (int j = 0; j < 4; j++) {
        u32 first = (row.first + j) * columns + col.first, block = 0xffffffffu - 4 - first / 4, offset = first % 4;
        Words a = philox(d.seed, i, (u32)step[0], (u32)step[1], block), b = philox(d.seed, i, (u32)step[0], (u32)step[1], block - 1);
        u32 words[8] = {a.w[0], a.w[1], a.w[2], a.w[3], b.w[0], b.w[1], b.w[2], b.w[3]};
        f32 gy[4], gx[4];
#pragma unroll
        for (int n = 0; n < 4; n++) {
            // Choosing instead of indexing keeps the words in registers; so for the row's weight.
            u32 word = offset == 0 ? words[n] : offset == 1 ? words[n + 1] : offset == 2 ? words[n + 2] : words[n + 3];
            gy[n] = half_word(word >> 16);
            gx[n] = half_word(word & 0xffff);
        }
        f32 w = j == 0 ? row.w[0] : j == 1 ? row.w[1] : j == 2 ? row.w[2] : row.w[3];
        y = fused(w, four(col.w, gy), y);
        x = fused(w, four(col.w, gx), x);
    }
    *ey = y;
    *ex = x;
}

__device__ __forceinline__ int byte_at(const u8* plane, Pictures d, int r, int c) {
    return r >= 0 && r < d.dh && c >= 0 && c < d.dw ? plane[r * d.dw + c] : 0;
}

// A pixel's level, sharpened; 0 outside.
__device__ __forceinline__ f32 level(const u8* plane, Pictures d, f32 sharpen, int r, int c) {
    int pixel = byte_at(plane, d, r, c);
    if (!(sharpen > 0) || r < 0 || r >= d.dh || c < 0 || c >= d.dw) return (f32)pixel;
    int sum = 0;
#pragma unroll 1
    for (int i = -1; i <= 1; i++)
        for (int j = -1; j <= 1; j++) sum += byte_at(plane, d, r + i, c + j);
    return fminf(fmaxf(fused(sharpen, (f32)(9 * pixel - sum), (f32)pixel), 0.0f), 255.0f);
}

// x[g][ch][pixel][l] = gain · level + offset of image order[first + g·32 + l] at the place that the pixel shows, labels likewise
//
// Arguments, thread and block as above; lines [c][2]: gain and offset. 8 warps.
//
// First each lane of one warp draws for one image. A warp then samples 32 neighbouring pixels of one image at a time, whose places lie close to each
// other, and through shared memory hands them on to the images' lanes.
extern "C" __global__ void __launch_bounds__(256) batch_resample(
    const u8* images, const int* all_labels, const int* order, const int* place, const int* step, const A* lines, T* x, int* labels, Pictures d, Ranges r, int n) {
    __shared__ f32 tile[32][33];
    __shared__ Drawn drawn[32];
    int lane = threadIdx.x, warp = threadIdx.y, ch = blockIdx.y, g = blockIdx.z, first = place[1];
    if (warp == 0) drawn[lane] = draw(step, d, r, g * L + lane);
    int pixel = blockIdx.x * 32 + lane;
    int row = pixel / d.w - d.top, col = pixel % d.w - d.left;
    bool inside = row >= 0 && row < d.dh && col >= 0 && col < d.dw;
    int at = (ch < d.dc ? ch : d.dc - 1) * d.dh * d.dw;
    Knot row_knot = knot(max(row, 0), r.knots), col_knot = knot(max(col, 0), r.knots);
    __syncthreads();
    for (int l = warp; l < 32; l += 8) {
        int i = g * L + l;
        f32 v = 0;
        if (inside && i < n && !(row >= drawn[l].from[0] && row < drawn[l].to[0] && col >= drawn[l].from[1] && col < drawn[l].to[1])) {
            const u8* plane = images + (i64)order[first + i] * (d.dc * d.dh * d.dw) + at;
            f32 ey = 0, ex = 0;
            if (r.elastic > 0) displacement(step, d, r.columns, i, row_knot, col_knot, &ey, &ex);
            ey = fused(r.elastic, ey, (f32)row);
            ex = fused(r.elastic, ex, (f32)col);
            f32 yy = fused(drawn[l].y_col, ex, fused(drawn[l].y_row, ey, drawn[l].y0)), xx = fused(drawn[l].x_col, ex, fused(drawn[l].x_row, ey, drawn[l].x0));
            // From one above and to the left of the picture on; farther outside it is as black as there.
            yy = fminf(fmaxf(yy + 1.0f, 0.0f), (f32)(d.dh + 1));
            xx = fminf(fmaxf(xx + 1.0f, 0.0f), (f32)(d.dw + 1));
            int above = (int)yy, left = (int)xx;
            f32 fy = yy - (f32)above, fx = xx - (f32)left, sharpen = drawn[l].sharpen;
            f32 p = level(plane, d, sharpen, above - 1, left - 1), q = level(plane, d, sharpen, above - 1, left);
            f32 a = fused(fy, level(plane, d, sharpen, above, left - 1) - p, p), b = fused(fy, level(plane, d, sharpen, above, left) - q, q);
            v = fused(fx, b - a, a);
        }
        tile[l][lane] = v;
    }
    __syncthreads();
    for (int p = warp; p < 32; p += 8) {
        int to = blockIdx.x * 32 + p;
        if (to < d.h * d.w) x[((g * d.c + ch) * d.h * d.w + to) * L + lane] = down(fused((A)tile[lane][p], lines[ch * 2], lines[ch * 2 + 1]));
    }
    int i = g * L + lane;
    if (blockIdx.x == 0 && ch == 0 && warp == 0 && i < n) labels[i] = all_labels[order[first + i]];
}
