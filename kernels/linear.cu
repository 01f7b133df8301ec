// Linear layer; mathematics in src/ops/linear.rs.
//
// All three sums are products of matrices, out[r][c] = Σ_d left[r,d]·right[c,d], and are computed in the same way: a block of 64 threads owns
// a tile of 32 rows and 32 columns of the result. It walks along d in steps of 32, brings a tile of left and one of right to shared memory
// and multiplies them; each thread keeps 4 rows by 4 columns of the result in registers, so 8 numbers read from shared memory feed 16
// multiply-adds. What differs is which index of left and right lies side by side in memory.
#include "common.cuh"

#define SIDE 32
#define THREADS 64

// Four neighbouring numbers, read from shared memory in one go.
struct __align__(16) Quad { A v[4]; };

// A tile, [d][r]: what a step of the inner loop reads lies side by side. Lines are padded by a quad: they begin 4 banks apart, so that the
// stores of `stage`, 4 r by 8 d a warp, hit 32 different banks.
typedef Quad Tile[SIDE][SIDE / 4 + 1];

// tile[d][r] = from[r][d] for rows and depth that are there, else 0. Neighbours in memory are along d if ALONG_DEPTH (r·stride + d), else
// along r (d·stride + r).
//
// All 16 loads of a thread are under way at once. Along d, a warp reads 8 neighbours of 4 rows: whole sectors of 32 bytes (of f32).
template <bool ALONG_DEPTH> __device__ __forceinline__ void stage(Tile& tile, const T* from, int rows, int depth, int stride) {
    int thread = threadIdx.x;
#pragma unroll
    for (int i = 0; i < SIDE * SIDE / THREADS; i++) {
        int d = ALONG_DEPTH ? thread % 8 + i % 4 * 8 : thread / 32 + i * 2;
        int r = ALONG_DEPTH ? thread / 8 + i / 4 * 8 : thread % 32;
        tile[d][r / 4].v[r % 4] = r < rows && d < depth ? up(from[ALONG_DEPTH ? r * stride + d : d * stride + r]) : (A)0;
    }
}

// sum[i][j] += Σ_d left[d][4·(thread / 8) + i]·right[d][4·(thread % 8) + j]
__device__ __forceinline__ void multiply(A (&sum)[4][4], const Tile& left, const Tile& right) {
    int tx = threadIdx.x % 8, ty = threadIdx.x / 8;
#pragma unroll 8
    for (int d = 0; d < SIDE; d++) {
        Quad a = left[d][ty], b = right[d][tx];
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) sum[i][j] += a.v[i] * b.v[j];
    }
}

// The sums of all threads as [r][c], so that a warp can write whole lines of the result. Everybody must be done with the tile.
__device__ __forceinline__ void collect(Tile& tile, const A (&sum)[4][4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        Quad q = {{sum[i][0], sum[i][1], sum[i][2], sum[i][3]}};
        tile[threadIdx.x / 8 * 4 + i][threadIdx.x % 8] = q;
    }
}

struct Dims { int groups, rows, inner, slices; };

// out[g][r][l] = Σ_k w[r,k]·x[g][k][l] for 32 rows r (block.x) of group block.y: to y with the bias or added to what is there; or, where the
// sum is cut into slices to occupy more blocks, the part of slice block.z to partial.
//
// x [G][K][32]; w [R][K], or [K][R] if TRANSPOSED; b [R] or null; y [G][R][32]; partial [slices][G][R][32] or null.
template <bool TRANSPOSED> __device__ __forceinline__ void product(
    const T* x, const T* w, const T* b, T* y, A* partial, const Dims& d, bool add) {
    __shared__ Tile left, right;
    int r0 = blockIdx.x * SIDE, g = blockIdx.y, rows = d.rows - r0;
    // A slice is a number of whole tiles; the last ones may be shorter, or empty.
    int tiles = (d.inner + SIDE - 1) / SIDE, each = (tiles + d.slices - 1) / d.slices * SIDE;
    int begin = blockIdx.z * each, end = min(d.inner, begin + each);
    A sum[4][4] = {};
    for (int k = begin; k < end; k += SIDE) {
        stage<!TRANSPOSED>(left, w + (TRANSPOSED ? k * d.rows + r0 : r0 * d.inner + k), rows, end - k, TRANSPOSED ? d.rows : d.inner);
        stage<false>(right, x + (g * d.inner + k) * L, L, end - k, L);
        __syncthreads();
        multiply(sum, left, right);
        __syncthreads();
    }
    collect(left, sum);
    __syncthreads();
    int lane = threadIdx.x % L;
    for (int r = threadIdx.x / L; r < min(SIDE, rows); r += THREADS / L) {
        int to = (g * d.rows + r0 + r) * L + lane;
        A v = left[r][lane / 4].v[lane % 4];
        if (partial) partial[blockIdx.z * d.groups * d.rows * L + to] = v;
        else put(y + to, v + (b ? up(b[r0 + r]) : (A)0), add);
    }
}

// y[n,f] = b[f] + Σ_k w[f,k]·x[n,k]
//
// x [G][K][32], w [F][K], b [F] or null, y [G][F][32]; rows = F, inner = K. Grid (F / 32, G, slices), 64 threads.
extern "C" __global__ void __launch_bounds__(64) linear_forward(const T* x, const T* w, const T* b, T* y, A* partial, Dims d) {
    product<false>(x, w, b, y, partial, d, false);
}

// dx[n,k] (+)= Σ_f dy[n,f]·w[f,k]
//
// dy [G][F][32], w [F][K], dx [G][K][32]; rows = K, inner = F. Grid (K / 32, G, slices), 64 threads.
extern "C" __global__ void __launch_bounds__(64) linear_backward_input(const T* dy, const T* w, T* dx, A* partial, Dims d, int add) {
    product<true>(dy, w, nullptr, dx, partial, d, add);
}

// y (+)= b + the slices of the sum, in their order
//
// partial [slices][G][R][32], b [R] or null, y [G][R][32]. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) linear_total(const A* partial, const T* b, T* y, Dims d, int add) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, count = d.groups * d.rows * L;
    if (i >= count) return;
    A sum = b ? up(b[i / L % d.rows]) : (A)0;
#pragma unroll 4
    for (int s = 0; s < d.slices; s++) sum += partial[s * count + i];
    put(y + i, sum, add);
}

// dw[f,k] (+)= Σ_n dy[n,f]·x[n,k],  db[f] (+)= Σ_n dy[n,f]
//
// x [G][K][32], dy [G][F][32], dw [F][K], db [F], each null if nobody wants it. Grid (K / 32, F / 32), 64 threads; a step of the sum is one
// group of images, whose empty lanes have dy = 0.
extern "C" __global__ void __launch_bounds__(64) linear_backward_weight(
    const T* x, const T* dy, A* dw, A* db, int groups, int k_n, int f_n, int add_weight, int add_bias) {
    __shared__ Tile left, right;
    int thread = threadIdx.x, k0 = blockIdx.x * SIDE, f0 = blockIdx.y * SIDE, fs = f_n - f0, ks = k_n - k0;
    bool sums_bias = db && blockIdx.x == 0 && thread < SIDE;
    A sum[4][4] = {}, bias = 0;
    for (int g = 0; g < groups; g++) {
        stage<true>(left, dy + (g * f_n + f0) * L, fs, L, L);
        stage<true>(right, x + (g * k_n + k0) * L, ks, L, L);
        __syncthreads();
        if (dw) multiply(sum, left, right);
        if (sums_bias)
            for (int l = 0; l < L; l++) bias += left[l][thread / 4].v[thread % 4];
        __syncthreads();
    }
    if (sums_bias && thread < fs) put(db + f0 + thread, bias, add_bias);
    if (!dw) return;
    collect(left, sum);
    __syncthreads();
    int k = thread % SIDE;
    if (k >= ks) return;
    for (int f = thread / SIDE; f < min(SIDE, fs); f += THREADS / SIDE)
        put(dw + (f0 + f) * k_n + k0 + k, left[f][k / 4].v[k % 4], add_weight);
}
