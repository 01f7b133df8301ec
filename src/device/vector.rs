//! The vector registers of a CPU: [`L`] numbers that a kernel computes on together and keeps in registers.
//!
//! Loops over arrays become vector code by themselves only while they are short. A kernel that holds twenty sums in registers says
//! so: it is written once for any [`Vector`], and [`simd!`](crate::simd!) compiles it with AVX-512's registers, with pairs of
//! AVX2's, and with plain arrays. All round alike (each multiply-add is fused), so they give the same bits. Read next:
//! `tensor/lane.rs`, the same for short loops; `ops/tile.rs`, the loop that most of the time is spent in; `amx.rs`, tiles of sums.

/// Images side by side on the CPU: one AVX-512 register of f32, or two AVX2 registers.
pub const L: usize = 16;

/// L numbers of type A.
pub trait Vector<A>: Copy {
    /// How many of them the CPU's registers hold.
    const ROOM: usize;
    /// The same number L times.
    fn splat(a: A) -> Self;
    /// Reads L numbers.
    fn load(x: &[A; L]) -> Self;
    /// Writes L numbers.
    fn store(self, x: &mut [A; L]);
    /// `self · w + acc`, rounded once.
    fn fma(self, w: Self, acc: Self) -> Self;
    /// `self + other`
    fn plus(self, other: Self) -> Self;
    /// `self - other`
    fn minus(self, other: Self) -> Self;
    /// `d` where self is greater than 0, and 0 elsewhere.
    fn gate(self, d: Self) -> Self;
    /// self where `places` holds `place`, and 0 elsewhere.
    fn pick(self, places: &[u8; L], place: u8) -> Self;
    /// Takes the place of `best`, and writes `place` to `places`, where it is greater, or is NaN and so wins over any number.
    fn challenge(self, best: &mut Self, places: &mut [u8; L], place: u8);
    /// The sum of all L, always in the same order: pairs, then pairs of pairs.
    fn total(self) -> A;
    /// The [`total`](Self::total)s of L vectors.
    fn totals(vectors: [Self; L]) -> Self;
}

/// The vectors of a type that is computed with, for each [`Level`](super::simd::Level).
pub trait Vectors: Sized {
    /// With AVX-512.
    type Avx512: Vector<Self>;
    /// With AVX2.
    type Avx2: Vector<Self>;
    /// Without either.
    type Portable: Vector<Self>;
}

#[cfg(target_arch = "x86_64")]
impl Vectors for f32 {
    type Avx512 = x86::Zmm;
    type Avx2 = x86::Ymm2;
    type Portable = [f32; L];
}

#[cfg(not(target_arch = "x86_64"))]
impl Vectors for f32 {
    type Avx512 = [f32; L];
    type Avx2 = [f32; L];
    type Portable = [f32; L];
}

/// f64 is for checks; plain arrays do.
impl Vectors for f64 {
    type Avx512 = [f64; L];
    type Avx2 = [f64; L];
    type Portable = [f64; L];
}

macro_rules! arrays {
    ($($t:ty)*) => {$(
        impl Vector<$t> for [$t; L] {
            const ROOM: usize = 4;
            #[inline(always)]
            fn splat(a: $t) -> Self {
                [a; L]
            }
            #[inline(always)]
            fn load(x: &[$t; L]) -> Self {
                *x
            }
            #[inline(always)]
            fn store(self, x: &mut [$t; L]) {
                *x = self;
            }
            #[inline(always)]
            fn fma(self, w: Self, acc: Self) -> Self {
                let mut r = acc;
                for i in 0..L {
                    r[i] = self[i].mul_add(w[i], r[i]);
                }
                r
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                let mut r = self;
                for i in 0..L {
                    r[i] += other[i];
                }
                r
            }
            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                let mut r = self;
                for i in 0..L {
                    r[i] -= other[i];
                }
                r
            }
            #[inline(always)]
            fn gate(self, d: Self) -> Self {
                let mut r = d;
                for i in 0..L {
                    r[i] = if self[i] > 0.0 { d[i] } else { 0.0 };
                }
                r
            }
            #[inline(always)]
            fn pick(self, places: &[u8; L], place: u8) -> Self {
                let mut r = self;
                for i in 0..L {
                    r[i] = std::hint::select_unpredictable(places[i] == place, self[i], 0.0);
                }
                r
            }
            #[inline(always)]
            fn challenge(self, best: &mut Self, places: &mut [u8; L], place: u8) {
                for i in 0..L {
                    let wins = (self[i] > best[i]) | self[i].is_nan();
                    best[i] = std::hint::select_unpredictable(wins, self[i], best[i]);
                    places[i] = std::hint::select_unpredictable(wins, place, places[i]);
                }
            }
            #[inline(always)]
            fn total(mut self) -> $t {
                for half in [8, 4, 2, 1] {
                    for i in 0..half {
                        self[i] += self[i + half];
                    }
                }
                self[0]
            }
            #[inline(always)]
            fn totals(vectors: [Self; L]) -> Self {
                vectors.map(Self::total)
            }
        }
    )*};
}

arrays! { f32 f64 }

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{L, Vector};
    use std::arch::x86_64::*;

    /// One register of AVX-512. Only code that [`simd!`](crate::simd!) compiled for AVX-512, and runs after finding it, names it.
    #[derive(Debug, Clone, Copy)]
    pub struct Zmm(__m512);

    // SAFETY of all blocks below: the CPU has the instructions, by what `Zmm` says; loads and stores have no alignment to keep and
    // stay inside the array that they are given.
    impl Vector<f32> for Zmm {
        const ROOM: usize = 32;
        #[inline(always)]
        fn splat(a: f32) -> Self {
            // SAFETY: see above.
            Zmm(unsafe { _mm512_set1_ps(a) })
        }
        #[inline(always)]
        fn load(x: &[f32; L]) -> Self {
            // SAFETY: see above.
            Zmm(unsafe { _mm512_loadu_ps(x.as_ptr()) })
        }
        #[inline(always)]
        fn store(self, x: &mut [f32; L]) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(x.as_mut_ptr(), self.0) }
        }
        #[inline(always)]
        fn fma(self, w: Self, acc: Self) -> Self {
            // SAFETY: see above.
            Zmm(unsafe { _mm512_fmadd_ps(self.0, w.0, acc.0) })
        }
        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            // SAFETY: see above.
            Zmm(unsafe { _mm512_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn minus(self, other: Self) -> Self {
            // SAFETY: see above.
            Zmm(unsafe { _mm512_sub_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn gate(self, d: Self) -> Self {
            // SAFETY: see above.
            unsafe { Zmm(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, _mm512_setzero_ps()), d.0)) }
        }
        #[inline(always)]
        fn pick(self, places: &[u8; L], place: u8) -> Self {
            // SAFETY: see above.
            unsafe {
                let found = _mm_cmpeq_epi8_mask(_mm_loadu_si128(places.as_ptr().cast()), _mm_set1_epi8(place as i8));
                Zmm(_mm512_maskz_mov_ps(found, self.0))
            }
        }
        #[inline(always)]
        fn challenge(self, best: &mut Self, places: &mut [u8; L], place: u8) {
            // SAFETY: see above.
            unsafe {
                let wins = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, best.0) | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
                best.0 = _mm512_mask_mov_ps(best.0, wins, self.0);
                let held = _mm_loadu_si128(places.as_ptr().cast());
                _mm_storeu_si128(places.as_mut_ptr().cast(), _mm_mask_mov_epi8(held, wins, _mm_set1_epi8(place as i8)));
            }
        }
        #[inline(always)]
        fn total(self) -> f32 {
            // SAFETY: see above.
            unsafe { Ymm2(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0)).total() }
        }
        #[inline(always)]
        fn totals(v: [Self; L]) -> Self {
            // Each step adds up the halves of what is left of two vectors, side by side in one: 15 additions instead of 64.
            // SAFETY: see above.
            unsafe {
                let mut half = [v[0].0; 8];
                for i in 0..8 {
                    // [a's 8, b's 8]: four quarters each
                    let (a, b) = (v[i].0, v[i + 8].0);
                    half[i] = _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
                }
                let mut quarter = [half[0]; 4];
                for i in 0..4 {
                    let (a, b) = (half[i], half[i + 4]);
                    quarter[i] = _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b));
                }
                let mut pair = [half[0]; 2];
                for i in 0..2 {
                    let (a, b) = (quarter[i], quarter[i + 2]);
                    pair[i] = _mm512_add_ps(_mm512_shuffle_ps::<0b01_00_01_00>(a, b), _mm512_shuffle_ps::<0b11_10_11_10>(a, b));
                }
                let (a, b) = (pair[0], pair[1]);
                let sums = _mm512_add_ps(_mm512_shuffle_ps::<0b10_00_10_00>(a, b), _mm512_shuffle_ps::<0b11_01_11_01>(a, b));
                // Where the total of each vector has come to.
                let order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
                Zmm(_mm512_permutexvar_ps(order, sums))
            }
        }
    }

    /// Two registers of AVX2. Only code that [`simd!`](crate::simd!) compiled for AVX2, and runs after finding it, names it.
    #[derive(Debug, Clone, Copy)]
    pub struct Ymm2(__m256, __m256);

    // SAFETY of all blocks below: as above; the second half begins 8 numbers into an array of 16.
    impl Vector<f32> for Ymm2 {
        const ROOM: usize = 8;
        #[inline(always)]
        fn splat(a: f32) -> Self {
            // SAFETY: see above.
            let half = unsafe { _mm256_set1_ps(a) };
            Ymm2(half, half)
        }
        #[inline(always)]
        fn load(x: &[f32; L]) -> Self {
            // SAFETY: see above.
            unsafe { Ymm2(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
        }
        #[inline(always)]
        fn store(self, x: &mut [f32; L]) {
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_ps(x.as_mut_ptr(), self.0);
                _mm256_storeu_ps(x.as_mut_ptr().add(8), self.1);
            }
        }
        #[inline(always)]
        fn fma(self, w: Self, acc: Self) -> Self {
            // SAFETY: see above.
            unsafe { Ymm2(_mm256_fmadd_ps(self.0, w.0, acc.0), _mm256_fmadd_ps(self.1, w.1, acc.1)) }
        }
        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            // SAFETY: see above.
            unsafe { Ymm2(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
        }
        #[inline(always)]
        fn minus(self, other: Self) -> Self {
            // SAFETY: see above.
            unsafe { Ymm2(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
        }
        #[inline(always)]
        fn gate(self, d: Self) -> Self {
            // SAFETY: see above.
            unsafe {
                let zero = _mm256_setzero_ps();
                let above = |x| _mm256_cmp_ps::<_CMP_GT_OQ>(x, zero);
                Ymm2(_mm256_and_ps(above(self.0), d.0), _mm256_and_ps(above(self.1), d.1))
            }
        }
        #[inline(always)]
        fn pick(self, places: &[u8; L], place: u8) -> Self {
            // SAFETY: see above.
            unsafe {
                let found = _mm_cmpeq_epi8(_mm_loadu_si128(places.as_ptr().cast()), _mm_set1_epi8(place as i8));
                let low = _mm256_castsi256_ps(_mm256_cvtepi8_epi32(found));
                let high = _mm256_castsi256_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(found)));
                Ymm2(_mm256_and_ps(low, self.0), _mm256_and_ps(high, self.1))
            }
        }
        #[inline(always)]
        fn challenge(self, best: &mut Self, places: &mut [u8; L], place: u8) {
            // SAFETY: see above.
            unsafe {
                let wins = |x, best| _mm256_or_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(x, best), _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
                let (low, high) = (wins(self.0, best.0), wins(self.1, best.1));
                *best = Ymm2(_mm256_blendv_ps(best.0, self.0, low), _mm256_blendv_ps(best.1, self.1, high));
                // Eight masks of 32 bits to eight of 16, and those of both halves to 16 of 8.
                let narrow = |wins| {
                    let wins = _mm256_castps_si256(wins);
                    _mm_packs_epi32(_mm256_castsi256_si128(wins), _mm256_extracti128_si256::<1>(wins))
                };
                let (wins, held) = (_mm_packs_epi16(narrow(low), narrow(high)), _mm_loadu_si128(places.as_ptr().cast()));
                _mm_storeu_si128(places.as_mut_ptr().cast(), _mm_blendv_epi8(held, _mm_set1_epi8(place as i8), wins));
            }
        }
        #[inline(always)]
        fn total(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                let eight = _mm256_add_ps(self.0, self.1);
                let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }
        #[inline(always)]
        fn totals(vectors: [Self; L]) -> Self {
            let mut totals = [0.0; L];
            for i in 0..L {
                totals[i] = vectors[i].total();
            }
            Self::load(&totals)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::L;
    use crate::tensor::Real;

    crate::simd! {
        fn both<A: Real>(x: &[[A; L]; L], together: &mut [A; L], alone: &mut [A; L]) {
            let vectors: [V; L] = std::array::from_fn(|i| V::load(&x[i]));
            V::totals(vectors).store(together);
            for i in 0..L {
                alone[i] = vectors[i].total();
            }
        }
    }

    #[test]
    fn totals_together_are_those_of_each_to_the_last_bit() {
        let x: [[f32; L]; L] =
            std::array::from_fn(|i| std::array::from_fn(|l| (1.0 + (i * L + l) as f32).sin() * 10f32.powi(l as i32 % 5)));
        let (mut together, mut alone) = ([0.0; L], [0.0; L]);
        both::<f32>(&x, &mut together, &mut alone);
        assert_eq!(together.map(f32::to_bits), alone.map(f32::to_bits));
    }
}
