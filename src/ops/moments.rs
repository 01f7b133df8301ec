//! The statistics of a batch norm: mean and variance of each channel without cancellation.
//!
//! This is not an op. The formulas serve both devices; a GPU's code is `batchnorm_pieces` and `batchnorm_statistics` in
//! `kernels/batchnorm.cu`.
//!
//! # The variance without cancellation
//!
//! 1/m Σ x² - mean² loses all digits when the mean is large. Instead the plane of one channel and group is read in pieces that
//! stay in the first-level cache (on a GPU, in registers); each gets its own mean p, then D = Σ (x-p) and Σ (x-p)² (the small D
//! corrects p's rounding), and pieces a, b are merged in a fixed order, in f64, by Chan's formula (Chan, Golub, LeVeque 1983),
//! with δ = mean_b - mean_a:
//!
//! ```text
//! m = m_a + m_b        mean = mean_a + δ·m_b/m        M2 = M2_a + M2_b + δ²·m_a·m_b/m        var = M2/m
//! ```
//!
//! Read next: `batchnorm.rs`, below `// ---- CPU`.

use crate::autograd::Saved;
use crate::simd;
use crate::tensor::{Element, L, Lane, Spec, Stored, Tensor, filled};
use rayon::prelude::*;

/// Lane vectors of a piece: 16 KB of f32, half a first-level cache.
pub(super) const PIECE: usize = 256;

/// Planes that one task works on, at least.
pub(super) fn planes_per_task(plane: usize) -> usize {
    (1024 / plane).max(1)
}

/// How many values there are, their mean, and their summed squared distance from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    pub(super) m: f64,
    pub(super) mean: f64,
    pub(super) m2: f64,
}

impl Moments {
    const NONE: Moments = Moments { m: 0.0, mean: 0.0, m2: 0.0 };

    /// Chan's formula.
    #[inline(always)]
    fn merge(self, b: Moments) -> Moments {
        let m = self.m + b.m;
        let delta = b.mean - self.mean;
        Moments { m, mean: self.mean + delta * b.m / m, m2: self.m2 + b.m2 + delta * delta * self.m * b.m / m }
    }
}

/// K sums over a piece, lane by lane: Σ f(x, y).
#[inline(always)]
pub(super) fn sums<T: Element, const K: usize>(
    x: &[[T; L]],
    y: &[[T; L]],
    f: impl Fn(Lane<T::Acc>, Lane<T::Acc>) -> [Lane<T::Acc>; K],
) -> [Lane<T::Acc>; K] {
    let mut sums = [Lane::zero(); K];
    for (x, y) in x.iter().zip(y) {
        let terms = f(Lane::load(x), Lane::load(y));
        for k in 0..K {
            sums[k] = sums[k].add(terms[k]);
        }
    }
    sums
}

/// x `[N, C, H, W]` in lanes -> the moments of each channel.
pub(super) fn statistics<T: Element>(x: &Tensor) -> Vec<Moments> {
    simd! {
        fn total<T: Element>(x: &[[T; L]]) -> [Lane<T::Acc>; 1] {
            sums(x, x, |x, _| [x])
        }
    }
    simd! {
        fn distances<T: Element>(x: &[[T; L]], p: T::Acc) -> [Lane<T::Acc>; 2] {
            sums(x, x, |x, _| {
                let d = x.map(|x| x - p);
                [d, d.zip(d, |a, b| a * b)]
            })
        }
    }
    let piece = |x: &[[T; L]], n: usize| {
        let m = (x.len() * n) as f64;
        let p = T::Acc::from_f64(total(x)[0].sum(n).to_f64() / m);
        let [d, d2] = distances(x, p).map(|sum| sum.sum(n).to_f64());
        Moments { m, mean: p.to_f64() + d / m, m2: d2 - d * d / m }
    };
    let [images, c, h, w] = x.shape().nchw();
    let planes = x.lanes::<T>().par_chunks(h * w).with_min_len(planes_per_task(h * w)).enumerate();
    let planes: Vec<Moments> =
        planes.map(|(i, x)| x.chunks(PIECE).map(|x| piece(x, filled(images, i / c))).fold(Moments::NONE, Moments::merge)).collect();
    (0..c).map(|i| planes[i..].iter().step_by(c).fold(Moments::NONE, |a, &b| a.merge(b))).collect()
}

/// The statistics that the inputs x of a batch norm bring, `[C]` each: the batch's mean, 1/√(var + eps) and unbiased variance, or, where a running
/// mean and variance follow on x, w and b, that mean and 1/√(var + eps).
pub(super) fn given<T: Element>(x: &[&Tensor], eps: f64) -> Saved {
    if let [_, _, _, mean, var] = x {
        return running::<T>(mean, var, eps);
    }
    let all = statistics::<T>(x[0]);
    let each = |f: &dyn Fn(&Moments) -> f64| row::<T>(all.iter().map(f).collect());
    vec![each(&|a| a.mean), each(&|a| 1.0 / (a.m2 / a.m + eps).sqrt()), each(&|a| a.m2 / (a.m - 1.0))]
}

/// The same of running statistics.
pub(super) fn running<T: Element>(mean: &Tensor, var: &Tensor, eps: f64) -> Saved {
    vec![mean.clone(), row::<T>(var.values().iter().map(|var| 1.0 / (var + eps).sqrt()).collect())]
}

fn row<T: Element>(values: Vec<f64>) -> Tensor {
    Tensor::from_values(Spec::rows([values.len()], T::DTYPE.acc()), &values)
}
