// Average pooling; mathematics in src/ops/avgpool2d.rs.
#include "common.cuh"
#include "window.cuh"

// y[oy,ox] = Σ x over the window / (kh·kw)
//
// x [planes][H][W][32], y [planes][OH][OW][32]. One warp = one output pixel of 32 images; one block = 8 of them.
extern "C" __global__ void __launch_bounds__(256) avgpool2d_forward(const T* x, T* y, Windows d) {
    int pixel = blockIdx.x * 8 + threadIdx.y, l = threadIdx.x;
    if (pixel >= d.planes * d.oh * d.ow) return;
    int ox = pixel % d.ow, oy = pixel / d.ow % d.oh, plane = pixel / (d.ow * d.oh);
    Range rows = taps(oy, d.h, d.kh, d.sh, d.ph), cols = taps(ox, d.w, d.kw, d.sw, d.pw);
    A sum = 0;
    for (int ky = rows.start; ky < rows.end; ky++) {
        const T* row = x + ((plane * d.h + oy * d.sh + ky - d.ph) * d.w + ox * d.sw - d.pw) * L + l;
        for (int kx = cols.start; kx < cols.end; kx++) sum += up(row[kx * L]);
    }
    y[pixel * L + l] = down(sum / (A)(d.kh * d.kw));
}

// dx[iy,ix] (+)= Σ dy over the windows that cover (iy, ix) / (kh·kw)
//
// dy [planes][OH][OW][32], dx [planes][H][W][32]. One warp = one input pixel of 32 images; one block = 8 of them.
extern "C" __global__ void __launch_bounds__(256) avgpool2d_backward_input(const T* dy, T* dx, Windows d, int add) {
    int pixel = blockIdx.x * 8 + threadIdx.y, l = threadIdx.x;
    if (pixel >= d.planes * d.h * d.w) return;
    int ix = pixel % d.w, iy = pixel / d.w % d.h, plane = pixel / (d.w * d.h);
    Range rows = readers(iy, d.oh, d.kh, d.sh, d.ph), cols = readers(ix, d.ow, d.kw, d.sw, d.pw);
    A sum = 0;
    for (int oy = rows.start; oy < rows.end; oy++) {
        const T* row = dy + (plane * d.oh + oy) * d.ow * L + l;
        for (int ox = cols.start; ox < cols.end; ox++) sum += up(row[ox * L]);
    }
    put(dx + pixel * L + l, sum / (A)(d.kh * d.kw), add);
}
