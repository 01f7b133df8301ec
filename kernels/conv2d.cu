// The weights' and biases' gradients of a convolution; mathematics in src/ops/conv2d.rs. y and dx are in correlate.cu.
//
// dw[o,c,kh,kw] = Σ_n Σ_oh Σ_ow dy[n,o,oh,ow]·x[n, c, oh·sh + kh − ph, ow·sw + kw − pw]     db[o] = Σ_n Σ_oh Σ_ow dy[n,o,oh,ow]
//
// The rows (g, oh) of all groups are cut into slices. For each slice and each tile of weights one warp runs over the pixels of its
// rows, a lane its own image's, with the tile's sums in registers; then the lanes' sums are added and written to partial. A second
// kernel adds the slices. Every order is fixed, and the slices depend on shapes alone. Empty lanes do not count: there dy is 0.
#include "common.cuh"

// x [G][C][H][W][32], w [O,C,KH,KW], dy [G][O][OH][OW][32]; partial [slices][O·C·KH·KW + O]
struct Dims {
    int groups, c, h, w, o, kh, kw, sh, sw, ph, pw, oh, ow;
    int slices;
};

// Sums in f64 take two registers each, so its tiles have half as many output channels.
#define NARROW ((int)sizeof(A) / 4)

// The first row of slice s; that of slice s + 1 is the end of s.
__device__ __forceinline__ int first_row(const Dims& d, int s) { return (int)((i64)d.groups * d.oh * s / d.slices); }

// Values v[0..N] of each lane -> their sums over the 32 lanes, of which each lane gets about N/32: index i of lane l is handed to
// write(i, sum). In each of five steps a lane passes one half of its values on to its partner and takes the other half from it.
template <int N, int HALF = 16, class Write>
__device__ __forceinline__ void sums_of_lanes(A (&v)[N], int base, int end, Write write) {
    if constexpr (HALF == 0) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (base + i < end) write(base + i, v[i]);
        }
    } else {
        constexpr int M = (N + 1) / 2;
        const bool upper = threadIdx.x & HALF;
        A half[M];
#pragma unroll
        for (int i = 0; i < M; i++) {
            A low = v[i], high = i + M < N ? v[i + M] : 0;
            A kept = upper ? high : low, given = upper ? low : high;
            half[i] = kept + __shfl_xor_sync(FULL, given, HALF);
        }
        sums_of_lanes<M, HALF / 2>(half, upper ? base + M : base, upper ? end : min(end, base + M), write);
    }
}

// All taps of one c and O output channels: acc[o][kh][kw] += dy[o]·x[kh][kw] for each pixel of the slice, S = sw <= KW.
//
// Pixel ow looks at columns ow·S .. ow·S + KW of the padded picture. They stay in registers, column q in slot q % KW, so that each
// pixel brings S new ones. What the next pixel brings is fetched while this one's products are summed.
template <int O, int KH, int KW, int S>
__device__ __forceinline__ void sum_window(const T* x, const T* dy, A* partial, const Dims& d, int with_db) {
    const int o0 = blockIdx.y * O, c = blockIdx.z * blockDim.y + threadIdx.y, outputs = d.o - o0;
    if (c >= d.c) return;
    const bool biases = with_db && c == 0;
    A dw[O * KH * KW], db[O];
#pragma unroll
    for (int i = 0; i < O * KH * KW; i++) dw[i] = 0;
#pragma unroll
    for (int o = 0; o < O; o++) db[o] = 0;

    // An output channel that there is not reads another one's dy; its sums are not written.
    int from[O];
#pragma unroll
    for (int o = 0; o < O; o++) from[o] = min(o, outputs - 1) * d.oh * d.ow * L;

    const int end = first_row(d, blockIdx.x + 1), pitch = d.w * L;
    for (int r = first_row(d, blockIdx.x); r < end; r++) {
        const int g = r / d.oh, oh = r % d.oh, row = oh * d.sh - d.ph;
        const T* xr = x + (((g * d.c + c) * d.h + row) * d.w - d.pw) * L + threadIdx.x;
        const T* dyr = dy + ((g * d.o + o0) * d.oh + oh) * d.ow * L + threadIdx.x;
        // Bit kh: is row + kh in the picture?
        u32 rows = 0;
#pragma unroll
        for (int kh = 0; kh < KH; kh++) rows |= (u32)((u32)(row + kh) < (u32)d.h) << kh;
        // The columns of x come one after another; so do the pixels of dy.
        int q = -d.pw;
        auto column = [&](auto take) {
            const u32 inside = (u32)q < (u32)d.w ? rows : 0;
#pragma unroll
            for (int kh = 0; kh < KH; kh++) take(kh, inside >> kh & 1 ? xr[kh * pitch] : T());
            q++;
            xr += L;
        };
        A v[KH][KW];
        T new_x[KH][S], new_dy[O];
#pragma unroll
        for (int kw = 0; kw < KW - S; kw++) column([&](int kh, T pixel) { v[kh][kw] = up(pixel); });
        auto fetch = [&]() {
#pragma unroll
            for (int s = 0; s < S; s++) column([&](int kh, T pixel) { new_x[kh][s] = pixel; });
#pragma unroll
            for (int o = 0; o < O; o++) new_dy[o] = dyr[from[o]];
            dyr += L;
        };
        fetch();
        for (int ow0 = 0; ow0 < d.ow; ow0 += KW) {
#pragma unroll
            for (int i = 0; i < KW; i++) {
                if (ow0 + i >= d.ow) break;
                A e[O];
#pragma unroll
                for (int o = 0; o < O; o++) e[o] = up(new_dy[o]);
#pragma unroll
                for (int kh = 0; kh < KH; kh++) {
#pragma unroll
                    for (int s = 0; s < S; s++) v[kh][(i * S + KW - S + s) % KW] = up(new_x[kh][s]);
                }
                if (ow0 + i + 1 < d.ow) fetch();
#pragma unroll
                for (int o = 0; o < O; o++) {
#pragma unroll
                    for (int kh = 0; kh < KH; kh++) {
#pragma unroll
                        for (int kw = 0; kw < KW; kw++) dw[(o * KH + kh) * KW + kw] += e[o] * v[kh][(i * S + kw) % KW];
                    }
                }
                if (biases) {
#pragma unroll
                    for (int o = 0; o < O; o++) db[o] += e[o];
                }
            }
        }
    }
    const int weights = d.o * d.c * KH * KW;
    partial += blockIdx.x * (weights + d.o);
    sums_of_lanes(dw, 0, min(outputs, O) * KH * KW, [&](int i, A sum) {
        partial[((o0 + i / (KH * KW)) * d.c + c) * KH * KW + i % (KH * KW)] = sum;
    });
    if (biases) sums_of_lanes(db, 0, min(outputs, O), [&](int o, A sum) { partial[weights + o0 + o] = sum; });
}

// Any kernel: J neighbours q, q + 1, ... of the weights (c, kh, kw) of one output, each with a pixel of its own, and O output channels.
template <int O, int J>
__device__ __forceinline__ void sum_any(const T* x, const T* dy, A* partial, const Dims& d, int with_db) {
    const int window = d.kh * d.kw, per_output = d.c * window;
    const int o0 = blockIdx.y * O, q0 = (blockIdx.z * blockDim.y + threadIdx.y) * J, outputs = d.o - o0;
    if (q0 >= per_output) return;
    const bool biases = with_db && q0 == 0;
    int from[J], kh[J], kw[J], plane[O];
    A dw[O * J], db[O];
#pragma unroll
    for (int j = 0; j < J; j++) {
        int q = min(q0 + j, per_output - 1), tap = q % window;
        kh[j] = tap / d.kw - d.ph;
        kw[j] = tap % d.kw - d.pw;
        from[j] = (q / window * d.h + kh[j]) * d.w + kw[j];
    }
#pragma unroll
    for (int i = 0; i < O * J; i++) dw[i] = 0;
#pragma unroll
    for (int o = 0; o < O; o++) {
        db[o] = 0;
        plane[o] = min(o, outputs - 1) * d.oh * d.ow * L;
    }

    const int end = first_row(d, blockIdx.x + 1);
    for (int r = first_row(d, blockIdx.x); r < end; r++) {
        const int g = r / d.oh, oh = r % d.oh;
        const T* dyr = dy + ((g * d.o + o0) * d.oh + oh) * d.ow * L + threadIdx.x;
        for (int ow = 0; ow < d.ow; ow++) {
            const T* at = x + ((g * d.c * d.h + oh * d.sh) * d.w + ow * d.sw) * L + threadIdx.x;
            A e[O], v[J];
#pragma unroll
            for (int o = 0; o < O; o++) e[o] = up(dyr[plane[o] + ow * L]);
#pragma unroll
            for (int j = 0; j < J; j++) {
                bool inside = (u32)(oh * d.sh + kh[j]) < (u32)d.h && (u32)(ow * d.sw + kw[j]) < (u32)d.w;
                v[j] = inside ? up(at[from[j] * L]) : 0;
            }
#pragma unroll
            for (int o = 0; o < O; o++) {
#pragma unroll
                for (int j = 0; j < J; j++) dw[o * J + j] += e[o] * v[j];
            }
            if (biases) {
#pragma unroll
                for (int o = 0; o < O; o++) db[o] += e[o];
            }
        }
    }
    const int weights = d.o * per_output;
    partial += blockIdx.x * (weights + d.o);
    sums_of_lanes(dw, 0, min(outputs, O) * J, [&](int i, A sum) {
        if (q0 + i % J < per_output) partial[(o0 + i / J) * per_output + q0 + i % J] = sum;
    });
    if (biases) sums_of_lanes(db, 0, min(outputs, O), [&](int o, A sum) { partial[weights + o0 + o] = sum; });
}

// partial[slice] = the slice's share of dw and, if wanted, db
//
// One thread = one image: 8 output channels x the 3x3 taps of one c; sw 1 or 2. One warp = the 32 images of a group, one group after
// another. One block = up to 4 warps, each with a c of its own. Blocks: x = slices, y = output channels, z = c.
extern "C" __global__ void __launch_bounds__(128, 1) conv2d_backward_weight_3x3(const T* __restrict__ x, const T* __restrict__ dy, A* __restrict__ partial, Dims d, int with_db) {
    if (d.sw == 1) sum_window<8 / NARROW, 3, 3, 1>(x, dy, partial, d, with_db);
    else sum_window<8 / NARROW, 3, 3, 2>(x, dy, partial, d, with_db);
}

// The same with 4 output channels x the 5x5 taps of one c.
extern "C" __global__ void __launch_bounds__(128, 1) conv2d_backward_weight_5x5(const T* __restrict__ x, const T* __restrict__ dy, A* __restrict__ partial, Dims d, int with_db) {
    if (d.sw == 1) sum_window<4 / NARROW / NARROW, 5, 5, 1>(x, dy, partial, d, with_db);
    else sum_window<4 / NARROW / NARROW, 5, 5, 2>(x, dy, partial, d, with_db);
}

// The same with 8 output channels x 8 of the weights (c, kh, kw) of any kernel and stride.
extern "C" __global__ void __launch_bounds__(128) conv2d_backward_weight_any(const T* __restrict__ x, const T* __restrict__ dy, A* __restrict__ partial, Dims d, int with_db) {
    sum_any<8 / NARROW, 8>(x, dy, partial, d, with_db);
}

// dw (+)= Σ_slices partial, db alike; either may be null
//
// partial [slices][weights + biases], dw [weights], db [biases]. One thread = one weight or bias; one block = 128 of them.
extern "C" __global__ void __launch_bounds__(128) conv2d_sum_slices(const A* __restrict__ partial, A* dw, A* db, int slices, int weights, int biases, int add_w, int add_b) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= weights + biases) return;
    A* to = i < weights ? dw + i : db + (i - weights);
    if (!(i < weights ? dw : db)) return;
    A sum = 0;
#pragma unroll 8
    for (int s = 0; s < slices; s++) sum += partial[s * (weights + biases) + i];
    put(to, sum, i < weights ? add_w : add_b);
}
