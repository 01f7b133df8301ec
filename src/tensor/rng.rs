//! Random numbers without a state: Philox4x32-10.
//!
//! A counter goes in, four random words come out, and the key is (seed, stream). So the number for element i of a dropout mask at
//! step s is a function of (seed, s, i): nothing is stored, any thread can compute any part, a resumed run sees the same numbers.
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011; constants from its reference
//! implementation. Read next: `ops/dropout.rs`, which uses it inside a kernel.

/// A family of random numbers, numbered by a 128-bit counter.
#[derive(Debug, Clone, Copy)]
pub struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// The family with this seed.
    pub fn new(seed: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32] }
    }

    /// Four independent words for a counter.
    #[inline]
    pub fn words(&self, counter: [u32; 4]) -> [u32; 4] {
        self.lanes(counter.map(|c| [c])).map(|[word]| word)
    }

    /// [`Philox::words`] of N counters side by side: `[i][l]` is word i of counter l, and word i of its result.
    #[inline(always)]
    pub fn lanes<const N: usize>(&self, counters: [[u32; N]; 4]) -> [[u32; N]; 4] {
        let [mut c0, mut c1, mut c2, mut c3] = counters;
        let [mut k0, mut k1] = self.key;
        for _ in 0..10 {
            let (a_high, a_low) = wide::<N>(c0, 0xD251_1F53);
            let (b_high, b_low) = wide::<N>(c2, 0xCD9E_8D57);
            for l in 0..N {
                c0[l] = b_high[l] ^ c1[l] ^ k0;
            }
            for l in 0..N {
                c2[l] = a_high[l] ^ c3[l] ^ k1;
            }
            (c1, c3) = (b_low, a_low);
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        [c0, c1, c2, c3]
    }

    /// Word number `i` of a stream.
    #[inline]
    pub fn word(&self, stream: u64, i: u64) -> u32 {
        let block = i / 4;
        self.words([block as u32, (block >> 32) as u32, stream as u32, (stream >> 32) as u32])[(i % 4) as usize]
    }

    /// Number `i` of a stream, uniform in [0, 1) in steps of 2^-24.
    #[inline]
    pub fn uniform(&self, stream: u64, i: u64) -> f32 {
        unit(self.word(stream, i))
    }

    /// Number `i` of a stream, standard normal (Box-Muller).
    pub fn normal(&self, stream: u64, i: u64) -> f64 {
        let [a, b, ..] = self.words([i as u32, (i >> 32) as u32, stream as u32, (stream >> 32) as u32 ^ 0x8000_0000]);
        let radius = (-2.0 * ((f64::from(a) + 1.0) / 4_294_967_296.0).ln()).sqrt();
        radius * (std::f64::consts::TAU * f64::from(b) / 4_294_967_296.0).cos()
    }
}

/// The upper and the lower words of N products; one loop for each, which is what becomes vector code.
#[inline(always)]
fn wide<const N: usize>(c: [u32; N], factor: u32) -> ([u32; N], [u32; N]) {
    let (mut high, mut low) = ([0; N], [0; N]);
    for l in 0..N {
        high[l] = ((u64::from(c[l]) * u64::from(factor)) >> 32) as u32;
    }
    for l in 0..N {
        low[l] = c[l].wrapping_mul(factor);
    }
    (high, low)
}

/// A word as a number in [0, 1), in steps of 2^-24 so that every value is an exact f32.
#[inline]
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the authors' reference implementation (kat_vectors, philox4x32-10).
    #[test]
    fn known_answers() {
        let key = |k0: u32, k1: u32| Philox::new(u64::from(k0) | u64::from(k1) << 32);
        assert_eq!(key(0, 0).words([0; 4]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(key(!0, !0).words([!0; 4]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            key(0xa4093822, 0x299f31d0).words([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn moments() {
        let rng = Philox::new(7);
        let n = 100_000;
        let mean = (0..n).map(|i| f64::from(rng.uniform(1, i))).sum::<f64>() / n as f64;
        let var = (0..n).map(|i| rng.normal(1, i).powi(2)).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        assert!((var - 1.0).abs() < 0.02, "{var}");
    }
}
