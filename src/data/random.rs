//! Random numbers for data: which image comes when, and how a generated digit is bent.
//!
//! Not the engine's generator (that one is Philox, and runs on devices too): here it must be tiny, exact and the same everywhere.
//! A stream is named by its keys, so an order or a digit is a pure function of, say, (seed, epoch) and nothing needs storing.
//! Read next: `dataset.rs`, which shuffles with it.

/// A stream of random numbers: SplitMix64 (Steele, Lea, Flood 2014), a counter sent through a mixing function.
pub(super) struct Stream(u64);

/// The increment of the counter: 2^64 over the golden ratio, made odd.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Stream {
    /// The stream of these keys; streams of different keys (in value or order) are unrelated.
    pub fn new(keys: &[u64]) -> Self {
        // Mixing after every key keeps (1, 2) and (2, 1), and neighbouring seeds, far apart.
        Self(keys.iter().fold(0, |state, key| mix(state.wrapping_add(STEP) ^ mix(key.wrapping_add(STEP)))))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A whole number in 0..n, every one equally likely (n > 0).
    pub fn below(&mut self, n: u32) -> u32 {
        // Lemire 2019: the high half of a product is the answer; the few low halves that would favour some answers are drawn again.
        let unfair = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.bits() as u32) * u64::from(n);
            if product as u32 >= unfair {
                return (product >> 32) as u32;
            }
        }
    }

    /// A number in lo..hi.
    pub fn uniform(&mut self, lo: f32, hi: f32) -> f32 {
        // 24 bits fill the significand exactly, so the product below is never rounded up to one.
        lo + (hi - lo) * (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// About normal with mean 0 and deviation 1, and never beyond 3.5: the sum of four uniform numbers.
    pub fn normal(&mut self) -> f32 {
        // Each of the four has variance 1/3.
        (0..4).map(|_| self.uniform(-1.0, 1.0)).sum::<f32>() * 0.75f32.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_gives_its_published_numbers() {
        // The first outputs of SplitMix64 from state 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64").
        let mut stream = Stream(1234567);
        let drawn: Vec<u64> = (0..3).map(|_| stream.bits()).collect();
        assert_eq!(drawn, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn keys_make_different_streams() {
        let first = |keys: &[u64]| Stream::new(keys).bits();
        assert_eq!(first(&[1, 2]), first(&[1, 2]));
        assert_ne!(first(&[1, 2]), first(&[2, 1]));
        assert_ne!(first(&[0]), first(&[0, 0]));
    }

    #[test]
    fn draws_have_their_mean_and_spread() {
        let mut stream = Stream::new(&[7]);
        let mut seen = [0u32; 6];
        (0..60_000).for_each(|_| seen[stream.below(6) as usize] += 1);
        assert!(seen.iter().all(|&n| n.abs_diff(10_000) < 400), "{seen:?}");
        let draws: Vec<f32> = (0..60_000).map(|_| stream.normal()).collect();
        let mean = draws.iter().sum::<f32>() / 60_000.0;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 60_000.0;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
