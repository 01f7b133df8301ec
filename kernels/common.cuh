// What all kernels share: the types, the lane, sums over a warp and a block, random numbers.
//
// Every unit (a .cu file) is compiled once for each type that tensors are stored in, with -DTYPE=f32, f64, bf16 or f16. No header of
// the CUDA toolkit is included, so NVRTC needs none. Read next: relu.cu.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
typedef float f32;
typedef double f64;
struct bf16 { u16 bits; };
struct f16 { u16 bits; };

// T is what tensors are stored in, A what sums over T are kept in: f64 for f64, f32 for all others.
template <class X> struct SumOf { typedef f32 type; };
template <> struct SumOf<f64> { typedef f64 type; };
typedef TYPE T;
typedef SumOf<T>::type A;

// One warp carries one group of images; lane l of it carries image l of the group. Blocks of kernels over lanes are (32, warps).
#define L 32
#define FULL 0xffffffffu
#define NEG_INFINITY __int_as_float(0xff800000)
#define NOT_A_NUMBER __int_as_float(0x7fffffff)

// ---- A stored number and the number it is computed with

__device__ __forceinline__ f32 up(f32 x) { return x; }
__device__ __forceinline__ f64 up(f64 x) { return x; }
__device__ __forceinline__ f32 up(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ f32 up(f16 x) { f32 r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x.bits)); return r; }

// Rounded to nearest, ties to even.
template <class X> __device__ __forceinline__ X down_to(typename SumOf<X>::type a);
template <> __device__ __forceinline__ f32 down_to<f32>(f32 a) { return a; }
template <> __device__ __forceinline__ f64 down_to<f64>(f64 a) { return a; }
template <> __device__ __forceinline__ bf16 down_to<bf16>(f32 a) { bf16 r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(a)); return r; }
template <> __device__ __forceinline__ f16 down_to<f16>(f32 a) { f16 r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(a)); return r; }
__device__ __forceinline__ T down(A a) { return down_to<T>(a); }

// Writes, or adds to what is there: how a gradient is first written and later added to.
template <class X> __device__ __forceinline__ void put(X* y, A a, bool add) { *y = down_to<X>(add ? up(*y) + a : a); }

// ---- Functions of A

__device__ __forceinline__ f32 exponential(f32 x) { return expf(x); }
__device__ __forceinline__ f64 exponential(f64 x) { return exp(x); }
__device__ __forceinline__ f32 logarithm(f32 x) { return logf(x); }
__device__ __forceinline__ f64 logarithm(f64 x) { return log(x); }
__device__ __forceinline__ f32 root(f32 x) { return sqrtf(x); }
__device__ __forceinline__ f64 root(f64 x) { return sqrt(x); }

// ---- Sums in a fixed order

// Over the 32 lanes of a warp, all of which must take part; every lane gets the sum.
template <class X> __device__ __forceinline__ X warp_sum(X x) {
#pragma unroll
    for (int half = 16; half > 0; half /= 2) x += __shfl_xor_sync(FULL, x, half);
    return x;
}

// Over a block of THREADS threads (a power of two), all of which must take part; thread 0 gets the sum. Pairs, then pairs of pairs.
template <int THREADS> __device__ __forceinline__ f64 block_sum(f64 x, int thread) {
    __shared__ f64 sums[THREADS];
    sums[thread] = x;
    __syncthreads();
#pragma unroll
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) sums[thread] += sums[thread + half];
        __syncthreads();
    }
    f64 all = sums[0];
    // The next call may write to sums only when everybody has read.
    __syncthreads();
    return all;
}

// Σ x over count numbers, by one block of THREADS threads in a fixed order; thread 0 gets the sum.
template <int THREADS> __device__ __forceinline__ f64 total(const A* x, int count) {
    f64 sum = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += x[i];
    return block_sum<THREADS>(sum, threadIdx.x);
}

// ---- Images

// Does lane l of group g carry one of n images?
__device__ __forceinline__ bool filled(int n, int g, int l) { return g * L + l < n; }

// ---- Random numbers: Philox4x32-10, as in src/tensor/rng.rs. The same bits on every device.

struct Words { u32 w[4]; };
__device__ __forceinline__ Words philox(u64 seed, u32 c0, u32 c1, u32 c2, u32 c3) {
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 a_high = __umulhi(c0, 0xD2511F53u), a_low = c0 * 0xD2511F53u;
        u32 b_high = __umulhi(c2, 0xCD9E8D57u), b_low = c2 * 0xCD9E8D57u;
        c0 = b_high ^ c1 ^ k0;
        c2 = a_high ^ c3 ^ k1;
        c1 = b_low;
        c3 = a_low;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    Words r = {{c0, c1, c2, c3}};
    return r;
}
