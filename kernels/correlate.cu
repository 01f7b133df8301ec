// The inner loop of convolutions: y of x, and dx of dy. Mathematics in src/ops/conv2d.rs and src/ops/correlate.rs.
#include "common.cuh"

// One convolution, as sums over windows of the picture that is read; kernel, stride and padding are those of the forward formula.
struct Grid {
    int planes, height, width;              // the picture that is read: x, or dy
    int out_planes, out_height, out_width;  // the picture that is written: y, or dx
    int kh, kw, sh, sw, ph, pw;
    int transposed;                         // 0: y of x; 1: dx of dy
    int split;                              // among how many warps the planes of one sum are dealt out: 1, 2 or 4
};

// Warps of a block; weights and partial sums share 16 KB of shared memory; a Quad is what one load of 16 bytes brings.
#define WARPS 4
#define ROOM (16384 / (int)sizeof(A))
#define QUAD (16 / (int)sizeof(A))
struct alignas(16) Quad { A a[QUAD]; };

// Sums in f64 take two registers each, so its tiles have half as many output planes.
#define NARROW ((int)sizeof(A) / 4)

// The output positions r, r + every, r + 2·every, ... along one direction, and the windows they sum:
// position r + j·every reads the `taps` pixels from j·step + first, and the weights tap, tap + next, ...
// Forward has one such class; backward has one for each remainder r of the stride, a convolution with stride 1 over dy.
struct Class { int r, every, count, step, first, taps, tap, next; };

__device__ __forceinline__ Class class_of(int transposed, int size, int k, int s, int p, int r) {
    if (!transposed) return {0, 1, size, s, -p, k, 0, 1};
    int k0 = (r + p) % s, taps = k > k0 ? (k - k0 + s - 1) / s : 0;
    return {r, s, (size - r + s - 1) / s, 1, (r + p - k0) / s - (taps - 1), taps, k0 + (taps - 1) * s, -s};
}

// acc[o][p] += Σ_c Σ_t Σ_u w[o0 + o][c][t][u]·x[c][row + t][col + p·step + u]     c = slice, slice + split, ...; a block's warps together
//
// K = 2, 3, 5: as many columns of taps, and S the step. K = 1: any number of columns, one after the other, any step.
// The windows' pixels of a row of taps are fetched while the row before is summed; each weight is used P times, each pixel O·K times.
template <int O, int P, int K, int S>
__device__ __forceinline__ void sum(A (&acc)[O][P], A* room, const T* x, const T* w, const Grid& d, const Class& rows, const Class& cols, int o0, int row, int col, int slice, bool busy) {
    constexpr int PIXELS = K > 1 ? (P - 1) * S + K : P;  // of a row of taps
    constexpr int TAPS = ROOM / O / K * K;               // of which the room holds the weights
    constexpr bool AHEAD = S < 2;                        // twice the pixels of a wide step would take too many registers
    const int th = rows.taps, tw = K > 1 ? K : cols.taps, taps = d.planes * th * tw;
    // Rows of taps outside the picture are left out, pixels left and right of it stay 0.
    const int t0 = max(0, -row), t1 = min(th, d.height - row);
    int c = busy && t0 < t1 && tw > 0 ? slice : d.planes, t = t0, u = 0;
    T ahead[PIXELS];
#pragma unroll
    for (int i = 0; i < PIXELS; i++) ahead[i] = T();
    auto fetch = [&]() {
        if (c >= d.planes) return;
        int at = col + u;
        const T* from = x + ((c * d.height + row + t) * d.width + at) * L;
#pragma unroll
        for (int i = 0; i < PIXELS; i++) {
            int step = K > 1 ? i : i * cols.step;
            if ((u32)(at + step) < (u32)d.width) ahead[i] = from[step * L];
            else if (K == 1) ahead[i] = T();
        }
    };
    if (AHEAD) fetch();
    // w[o][c][kh][kw] forward, w[c][o][kh][kw] backward.
    const int window = d.kh * d.kw;
    const int next_o = d.transposed ? window : d.planes * window, next_c = d.transposed ? d.out_planes * window : window;
    for (int first = 0; first < taps; first += TAPS) {
        // room[tap − first][o] = w, 0 for planes that there are not
        __syncthreads();
        const int quads = min(TAPS, taps - first) * (O / QUAD);
#pragma unroll 2
        for (int i = threadIdx.y * L + threadIdx.x; i < quads; i += WARPS * L) {
            u32 tap = first + i / (O / QUAD), o = o0 + i % (O / QUAD) * QUAD;
            u32 v = tap % (u32)tw, of = tap / (u32)tw;
            const T* from = w + o * next_o + (of / (u32)th) * next_c + (rows.tap + (int)(of % (u32)th) * rows.next) * d.kw + cols.tap + (int)v * cols.next;
            Quad q;
#pragma unroll
            for (int e = 0; e < QUAD; e++) q.a[e] = o + e < d.out_planes ? up(from[e * next_o]) : 0;
            ((Quad*)room)[i] = q;
        }
        __syncthreads();
        while (c < d.planes) {
            int tap = (c * th + t) * tw + u - first;
            if (tap >= TAPS) break;
            if (!AHEAD) fetch();
            A v[PIXELS];
#pragma unroll
            for (int i = 0; i < PIXELS; i++) v[i] = up(ahead[i]);
            if (K > 1 || ++u == tw) {
                u = 0;
                if (++t == t1) t = t0, c += d.split;
            }
            if (AHEAD) fetch();
            const Quad* weights = (const Quad*)(room + tap * O);
#pragma unroll
            for (int k = 0; k < K; k++) {
#pragma unroll
                for (int q = 0; q < O / QUAD; q++) {
                    Quad four = weights[k * (O / QUAD) + q];
#pragma unroll
                    for (int e = 0; e < QUAD; e++) {
#pragma unroll
                        for (int p = 0; p < P; p++) acc[q * QUAD + e][p] += four.a[e] * v[K > 1 ? p * S + k : p];
                    }
                }
            }
        }
    }
}

// out[o][r + j·every] (+)= b[o] + Σ_c Σ_t Σ_u w[o][c][t][u]·x[c][j·step + first + t]...     the classes of `Grid`, both directions alike
//
// x [G][planes][height][width][32], b [out_planes] or null, out [G][out_planes][out_height][out_width][32]; w [O,C,KH,KW].
// One thread = one image: O output planes x P pixels of a row of one class, or its share of their sums. One warp = 32 images.
// One block = 4 / split such tiles, one after the other in the picture, of the same planes: they share the weights.
// Blocks: x = tiles of a class, class after class; y = O output planes each; z = groups of images.
template <int O, int P>
__device__ __forceinline__ void correlate(const T* x, const T* w, const T* b, T* out, const Grid& d, int add) {
    static_assert(O % QUAD == 0 && O % 2 == 0 && WARPS * (O / 2) * P * L <= ROOM, "half of a block's sums must fit into the room");
    alignas(16) __shared__ A room[ROOM];
    const int classes_h = d.transposed ? min(d.sh, d.out_height) : 1, classes_w = d.transposed ? min(d.sw, d.out_width) : 1;
    const int blocks = gridDim.x / (classes_h * classes_w), of_class = blockIdx.x / blocks;
    const Class rows = class_of(d.transposed, d.out_height, d.kh, d.sh, d.ph, of_class / classes_w);
    const Class cols = class_of(d.transposed, d.out_width, d.kw, d.sw, d.pw, of_class % classes_w);
    const int o0 = blockIdx.y * O, g = blockIdx.z, slice = threadIdx.y % d.split;
    const int tile = (blockIdx.x % blocks * WARPS + threadIdx.y) / d.split, tiles_w = (cols.count + P - 1) / P;
    const int j = tile / tiles_w, i = tile % tiles_w * P;
    const bool busy = j < rows.count;

    A acc[O][P];
#pragma unroll
    for (int o = 0; o < O; o++) {
        A start = b && slice == 0 && o0 + o < d.out_planes ? up(b[o0 + o]) : 0;
#pragma unroll
        for (int p = 0; p < P; p++) acc[o][p] = start;
    }
    x += g * d.planes * d.height * d.width * L + threadIdx.x;
    const int row = j * rows.step + rows.first, col = i * cols.step + cols.first;
    if (cols.step == 1 && cols.taps == 2) sum<O, P, 2, 1>(acc, room, x, w, d, rows, cols, o0, row, col, slice, busy);
    else if (cols.step == 1 && cols.taps == 3) sum<O, P, 3, 1>(acc, room, x, w, d, rows, cols, o0, row, col, slice, busy);
    else if (cols.step == 1 && cols.taps == 5) sum<O, P, 5, 1>(acc, room, x, w, d, rows, cols, o0, row, col, slice, busy);
    else if (cols.step == 2 && cols.taps == 3) sum<O, P, 3, 2>(acc, room, x, w, d, rows, cols, o0, row, col, slice, busy);
    else if (cols.step == 2 && cols.taps == 5) sum<O, P, 5, 2>(acc, room, x, w, d, rows, cols, o0, row, col, slice, busy);
    else sum<O, P, 1, 0>(acc, room, x, w, d, rows, cols, o0, row, col, slice, busy);

    out += (((g * d.out_planes + o0) * d.out_height + rows.r + j * rows.every) * d.out_width + cols.r + i * cols.every) * L + threadIdx.x;
    const int plane = d.out_height * d.out_width * L;
    // Half of the planes at a time: the slices' sums are added in order, and the warps of a tile share the adding. room[warp][o][p][lane]
    constexpr int HALF = O / 2 * P;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        __syncthreads();
#pragma unroll
        for (int e = 0; e < HALF; e++) room[(threadIdx.y * HALF + e) * L + threadIdx.x] = acc[half * (O / 2) + e / P][e % P];
        __syncthreads();
        for (int e = slice; e < HALF; e += d.split) {
            int o = half * (O / 2) + e / P, p = e % P;
            A total = 0;
            for (int s = 0; s < d.split; s++) total += room[((threadIdx.y - slice + s) * HALF + e) * L + threadIdx.x];
            if (busy && o0 + o < d.out_planes && i + p < cols.count) put(out + o * plane + p * cols.every * L, total, add);
        }
    }
}

// The tiles, named after f32: output planes x pixels of a row. The page picks the one that wastes least.
extern "C" __global__ void __launch_bounds__(128, 1) correlate_tile_8x7(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y, Grid d, int add) {
    correlate<8 / NARROW, 7>(x, w, b, y, d, add);
}
extern "C" __global__ void __launch_bounds__(128, 1) correlate_tile_8x8(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y, Grid d, int add) {
    correlate<8 / NARROW, 8>(x, w, b, y, d, add);
}
extern "C" __global__ void __launch_bounds__(128, 1) correlate_tile_4x8(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y, Grid d, int add) {
    correlate<4 / NARROW, 8>(x, w, b, y, d, add);
}
extern "C" __global__ void __launch_bounds__(128, 1) correlate_tile_4x4(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y, Grid d, int add) {
    correlate<4 / NARROW, 4>(x, w, b, y, d, add);
}
