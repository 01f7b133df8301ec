// Max pooling; mathematics in src/ops/maxpool2d.rs.
#include "common.cuh"
#include "window.cuh"

// y[oy,ox] = max over the window, at[oy,ox] = its place ky·kw + kx; the first of equals wins, and NaN wins over any number.
// With `rectify` y = max(0, that), and at = 255 where nothing is above 0.
//
// x [planes][H][W][32], y and at [planes][OH][OW][32]. One warp = one output pixel of 32 images; one block = 8 of them.
extern "C" __global__ void __launch_bounds__(256) maxpool2d_forward(const T* x, T* y, u8* at, Windows d, int rectify) {
    int pixel = blockIdx.x * 8 + threadIdx.y, l = threadIdx.x;
    if (pixel >= d.planes * d.oh * d.ow) return;
    int ox = pixel % d.ow, oy = pixel / d.ow % d.oh, plane = pixel / (d.ow * d.oh);
    Range rows = taps(oy, d.h, d.kh, d.sh, d.ph), cols = taps(ox, d.w, d.kw, d.sw, d.pw);
    A best = rectify ? (A)0 : NEG_INFINITY;
    int place = rectify ? 255 : rows.start * d.kw + cols.start;
    for (int ky = rows.start; ky < rows.end; ky++) {
        const T* row = x + ((plane * d.h + oy * d.sh + ky - d.ph) * d.w + ox * d.sw - d.pw) * L + l;
        for (int kx = cols.start; kx < cols.end; kx++) {
            A v = up(row[kx * L]);
            bool wins = v > best || v != v;
            best = wins ? v : best;
            place = wins ? ky * d.kw + kx : place;
        }
    }
    y[pixel * L + l] = down(best);
    at[pixel * L + l] = (u8)place;
}

// dx[iy,ix] (+)= Σ dy[oy,ox] over the windows that cover (iy, ix) and whose winner it is
//
// at, dy [planes][OH][OW][32], dx [planes][H][W][32]. One warp = one input pixel of 32 images; one block = 8 of them.
extern "C" __global__ void __launch_bounds__(256) maxpool2d_backward_input(const u8* at, const T* dy, T* dx, Windows d, int add) {
    int pixel = blockIdx.x * 8 + threadIdx.y, l = threadIdx.x;
    if (pixel >= d.planes * d.h * d.w) return;
    int ix = pixel % d.w, iy = pixel / d.w % d.h, plane = pixel / (d.w * d.h);
    Range rows = readers(iy, d.oh, d.kh, d.sh, d.ph), cols = readers(ix, d.ow, d.kw, d.sw, d.pw);
    A sum = 0;
    for (int oy = rows.start; oy < rows.end; oy++) {
        for (int ox = cols.start; ox < cols.end; ox++) {
            int from = ((plane * d.oh + oy) * d.ow + ox) * L + l;
            int tap = (iy + d.ph - oy * d.sh) * d.kw + ix + d.pw - ox * d.sw;
            // Read before it is asked for, so that the whole warp reads together.
            A v = up(dy[from]);
            sum += at[from] == tap ? v : (A)0;
        }
    }
    put(dx + pixel * L + l, sum, add);
}
