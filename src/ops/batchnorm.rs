//! Batch normalisation, in training and in evaluation.
//!
//! # Forward
//!
//! Each channel c of x `[N, C, H, W]` (or `[N, C]`) is brought to mean 0 and variance 1 over its m = N·H·W values, then scaled:
//!
//! ```text
//! mean = 1/m Σ x        var = 1/m Σ (x - mean)²        s = 1/√(var + eps)        x̂ = (x - mean)·s
//! y = w·x̂ + b
//! ```
//!
//! # Backward
//!
//! y is linear in w and b, so dw = Σ dy·x̂ and db = Σ dy. Every x_i of a channel moves every y_j of it, through the mean and the
//! variance too. Since Σ (x_j - mean) = 0, moving the mean does not change the variance, and
//!
//! ```text
//! ∂mean/∂x_i = 1/m        ∂var/∂x_i = 2(x_i - mean)/m        ∂s/∂x_i = -s³/2 · ∂var/∂x_i = -s²·x̂_i/m
//! ∂x̂_j/∂x_i = s·([i=j] - 1/m) + (x_j - mean)·∂s/∂x_i = s·([i=j] - 1/m - x̂_j·x̂_i/m)
//! dx_i = Σ_j w·dy_j·∂x̂_j/∂x_i = w·s·(dy_i - db/m - x̂_i·dw/m)
//! ```
//!
//! The gradient of x is dy with its mean and its component along x̂ taken out. In evaluation the statistics are constants, so
//! only dx = w·s·dy is left. x̂ is not stored but computed again from x.
//!
//! # The variance without cancellation
//!
//! 1/m Σ x² - mean² loses all digits when the mean is large. Instead the plane of one channel and group is read in pieces that
//! stay in the first-level cache; each gets its own mean p, then D = Σ (x-p) and Σ (x-p)² (the small D corrects p's rounding),
//! and pieces a, b are merged in a fixed order, in f64, by Chan's formula (Chan, Golub, LeVeque 1983), with δ = mean_b - mean_a:
//!
//! ```text
//! m = m_a + m_b        mean = mean_a + δ·m_b/m        M2 = M2_a + M2_b + δ²·m_a·m_b/m        var = M2/m
//! ```
//!
//! Cost per element: forward 8 FLOPs, reads x twice and writes y; backward 9 FLOPs, reads x and dy twice and writes dx: bound by
//! memory. Read next: `softmax.rs`.

use super::case::{BATCHES, Case, Draw, Input};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::error::Result;
use crate::simd;
use crate::tensor::{DType, Element, L, Lane, Layout, Real, Spec, Stored, Tensor, filled};
use rayon::prelude::*;

/// Normalises by the statistics of the batch. Inputs x `[N, C, ...]` in lanes, w `[C]`, b `[C]`.
///
/// Saves mean, 1/√(var + eps) and the unbiased variance M2/(m-1), each `[C]`: [`update_running`] reads the first and the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance; PyTorch's default is 1e-5.
    pub eps: f64,
}

/// Normalises by given statistics. Inputs x `[N, C, ...]` in lanes, w, b, running mean and running variance `[C]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormEval {
    /// Added to the variance; PyTorch's default is 1e-5.
    pub eps: f64,
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batchnorm"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        let y = output(self.name(), x, 3, "takes an activation [N, C, ...], weight [C] and bias [C]")?;
        if per_channel(&y) < 2 {
            return Err(mismatch(self.name(), x, "needs more than one value per channel when training"));
        }
        Ok(y)
    }

    fn needs(&self) -> Needs {
        Needs::INPUTS
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        let all = crate::dispatch!(y.dtype(), T => statistics::<T>(x[0]));
        let row = |f: &dyn Fn(&Moments) -> f64| row(y.dtype(), &all.iter().map(f).collect::<Vec<_>>());
        let saved = vec![row(&|a| a.mean), row(&|a| 1.0 / (a.m2 / a.m + self.eps).sqrt()), row(&|a| a.m2 / (a.m - 1.0))];
        crate::dispatch!(y.dtype(), T => forward::<T>(x[0], x[1], x[2], &saved, y));
        Ok(saved)
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        let m = per_channel(&n.spec(0)) as f64;
        crate::dispatch!(dy.dtype(), T => backward::<T>(n, dy, dx, 1.0 / m));
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        8 * x[0].shape.count() as u64
    }
}

impl Op for BatchNormEval {
    fn name(&self) -> &'static str {
        "batchnorm_eval"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        output(self.name(), x, 5, "takes an activation [N, C, ...], weight [C], bias [C], running mean [C] and running variance [C]")
    }

    fn needs(&self) -> Needs {
        Needs::INPUTS
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        let inv_std: Vec<f64> = x[4].values().iter().map(|var| 1.0 / (var + self.eps).sqrt()).collect();
        let saved = vec![row(y.dtype(), &x[3].values()), row(y.dtype(), &inv_std)];
        crate::dispatch!(y.dtype(), T => forward::<T>(x[0], x[1], x[2], &saved, y));
        Ok(saved)
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        crate::dispatch!(dy.dtype(), T => backward::<T>(n, dy, dx, 0.0));
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        3 * x[0].shape.count() as u64
    }
}

/// The rule of both: one activation of at least two dimensions and, for each of the other inputs, one number per channel.
fn output(op: &str, x: &[Spec], inputs: usize, rule: &str) -> Result<Spec> {
    match x {
        [x, rows @ ..]
            if x.layout == Layout::Lanes
                && x.shape.len() >= 2
                && rows.len() + 1 == inputs
                && rows.iter().all(|r| r.layout == Layout::Rows && r.shape[..] == x.shape[1..2]) =>
        {
            Ok(*x)
        }
        _ => Err(mismatch(op, x, rule)),
    }
}

/// m = N·H·W.
fn per_channel(x: &Spec) -> usize {
    let [n, _, h, w] = x.shape.nchw();
    n * h * w
}

/// One number per channel, in the type that sums over `dtype` are kept in.
fn row(dtype: DType, values: &[f64]) -> Tensor {
    Tensor::from_values(Spec::rows([values.len()], dtype.acc()), values)
}

/// Moves the running averages towards a batch's statistics, as PyTorch does: r = (1 - momentum)·r + momentum·statistic.
///
/// `saved` is what [`BatchNorm`] kept; `running_mean` and `running_var` (the unbiased one) are `[C]`; `batches`, i32 `[]`, counts.
pub fn update_running(saved: &[Tensor], momentum: f64, running_mean: &mut Tensor, running_var: &mut Tensor, batches: &mut Tensor) {
    for (running, statistic) in [(running_mean, &saved[0]), (running_var, &saved[2])] {
        running.make_unique();
        crate::dispatch!(running.dtype(), T => {
            for (r, s) in running.data_mut::<T>().iter_mut().zip(statistic.values()) {
                *r = T::from_f64((1.0 - momentum) * r.to_f64() + momentum * s);
            }
        });
    }
    batches.make_unique();
    batches.data_mut::<i32>()[0] += 1;
}

// ---- CPU

/// Lane vectors of a piece: 16 KB of f32, half a first-level cache.
const PIECE: usize = 256;

/// Planes that one task works on, at least.
fn planes_per_task(plane: usize) -> usize {
    (1024 / plane).max(1)
}

/// How many values there are, their mean, and their summed squared distance from it.
#[derive(Debug, Clone, Copy)]
struct Moments {
    m: f64,
    mean: f64,
    m2: f64,
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
fn sums<T: Element, const K: usize>(
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
fn statistics<T: Element>(x: &Tensor) -> Vec<Moments> {
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

/// x, y `[N, C, H, W]` in lanes; w, b, mean, inv_std `[C]`.
fn forward<T: Element>(x: &Tensor, w: &Tensor, b: &Tensor, saved: &[Tensor], y: &mut Tensor) {
    simd! {
        fn run<T: Element>(x: &[[T; L]], y: &mut [[T; L]], mean: T::Acc, scale: T::Acc, b: T::Acc) {
            for (x, y) in x.iter().zip(y) {
                Lane::load(x).map(|x| (x - mean).mul_add(scale, b)).store(y);
            }
        }
    }
    let [_, c, h, width] = x.shape().nchw();
    let plane = (h * width).max(1);
    let (w, b, mean, inv_std) = (w.values(), b.values(), saved[0].values(), saved[1].values());
    let y = y.lanes_mut::<T>().par_chunks_mut(plane);
    x.lanes::<T>().par_chunks(plane).zip(y).with_min_len(planes_per_task(plane)).enumerate().for_each(|(i, (x, y))| {
        let [mean, scale, b] = [mean[i % c], w[i % c] * inv_std[i % c], b[i % c]].map(T::Acc::from_f64);
        run::<T>(x, y, mean, scale, b)
    });
}

/// Both backward passes; `by_m` is 1/m in training and 0 in evaluation, where the statistics do not depend on x.
fn backward<T: Element>(n: &Node, dy: &Tensor, dx: &mut [Slot], by_m: f64) {
    let (mean, inv_std) = (n.saved[0].values(), n.saved[1].values());
    let (mut dw, mut db) = (vec![0.0; mean.len()], vec![0.0; mean.len()]);
    if by_m > 0.0 || dx[1].wanted() || dx[2].wanted() {
        (dw, db) = backward_weight::<T>(n.x(0), dy, &mean, &inv_std);
        super::put(&mut dx[1], &dw);
        super::put(&mut dx[2], &db);
    }
    if dx[0].wanted() {
        // dx = a·dy + k·(x - mean) + q
        let w = n.x(1).values();
        let factors = |i: usize| {
            let a = w[i] * inv_std[i];
            [a, -a * inv_std[i] * dw[i] * by_m, -a * db[i] * by_m, mean[i]].map(T::Acc::from_f64)
        };
        let factors: Vec<[T::Acc; 4]> = (0..mean.len()).map(factors).collect();
        backward_input::<T>(n.x(0), dy, &mut dx[0], &factors);
    }
}

/// x, dy `[N, C, H, W]` in lanes, mean, inv_std `[C]` -> dw = Σ dy·x̂ and db = Σ dy, `[C]`.
fn backward_weight<T: Element>(x: &Tensor, dy: &Tensor, mean: &[f64], inv_std: &[f64]) -> (Vec<f64>, Vec<f64>) {
    simd! {
        fn run<T: Element>(x: &[[T; L]], dy: &[[T; L]], mean: T::Acc) -> [Lane<T::Acc>; 2] {
            sums(x, dy, |x, dy| [x.zip(dy, |x, dy| (x - mean) * dy), dy])
        }
    }
    let plane_sums = |x: &[[T; L]], dy: &[[T; L]], mean: f64, n: usize| {
        let pieces = x.chunks(PIECE).zip(dy.chunks(PIECE));
        pieces.fold([0.0; 2], |[dw, db], (x, dy)| {
            let piece = run(x, dy, T::Acc::from_f64(mean)).map(|sum| sum.sum(n).to_f64());
            [dw + piece[0], db + piece[1]]
        })
    };
    let [images, c, h, w] = x.shape().nchw();
    let plane = (h * w).max(1);
    let dy = dy.lanes::<T>().par_chunks(plane);
    let planes = x.lanes::<T>().par_chunks(plane).zip(dy).with_min_len(planes_per_task(plane)).enumerate();
    let planes: Vec<[f64; 2]> = planes.map(|(i, (x, dy))| plane_sums(x, dy, mean[i % c], filled(images, i / c))).collect();
    let sum = |i: usize, k: usize| planes[i..].iter().step_by(c).map(|p| p[k]).sum::<f64>();
    (0..c).map(|i| (inv_std[i] * sum(i, 0), sum(i, 1))).unzip()
}

/// x, dy, dx `[N, C, H, W]` in lanes; dx = a·dy + k·(x - mean) + q with `[a, k, q, mean]` of each channel.
fn backward_input<T: Element>(x: &Tensor, dy: &Tensor, dx: &mut Slot, factors: &[[T::Acc; 4]]) {
    simd! {
        fn run<T: Element>(x: &[[T; L]], dy: &[[T; L]], dx: &mut [[T; L]], factors: [T::Acc; 4], n: usize, add: bool) {
            let [a, k, q, mean] = factors;
            for ((x, dy), dx) in x.iter().zip(dy).zip(dx) {
                let all = Lane::load(x).zip(Lane::load(dy), |x, dy| a.mul_add(dy, k.mul_add(x - mean, q)));
                // q would reach the empty lanes.
                Lane(std::array::from_fn(|i| if i < n { all.0[i] } else { T::Acc::ZERO })).put(dx, add);
            }
        }
    }
    let [images, c, h, w] = x.shape().nchw();
    let plane = (h * w).max(1);
    let (dx, add) = dx.open();
    let dx = dx.lanes_mut::<T>().par_chunks_mut(plane);
    let dy = dy.lanes::<T>().par_chunks(plane);
    let planes = x.lanes::<T>().par_chunks(plane).zip(dy).zip(dx).with_min_len(planes_per_task(plane)).enumerate();
    planes.for_each(|(i, ((x, dy), dx))| run::<T>(x, dy, dx, factors[i % c], filled(images, i / c), add));
}

/// What they are tried on.
pub fn cases() -> Vec<Case> {
    let eps = 1e-5;
    let train = |name: String, shape: &[usize]| {
        let row = || Input::rows([shape[1]], Draw::Normal);
        Case::new(BatchNorm { eps }, name, vec![Input::lanes(shape, Draw::Normal), row(), row()])
    };
    let eval = |name: String, shape: &[usize]| {
        let row = |draw| Input::rows([shape[1]], draw);
        let statistics = [row(Draw::Normal).fixed(), row(Draw::Positive).fixed()];
        let parameters = [row(Draw::Normal), row(Draw::Normal)];
        let x = [Input::lanes(shape, Draw::Normal)];
        Case::new(BatchNormEval { eps }, name, [&x[..], &parameters, &statistics].concat())
    };
    let mut cases = vec![
        train("n17 c1".into(), &[17, 1, 2, 2]),
        train("n2 two pieces".into(), &[2, 1, 1, PIECE + 3]),
        eval("n17 c1".into(), &[17, 1, 2, 2]),
    ];
    for n in BATCHES {
        cases.push(train(format!("n{n}"), &[n, 3, 4, 3]));
        cases.push(eval(format!("n{n}"), &[n, 3, 4, 3]));
        cases.push(eval(format!("n{n} features"), &[n, 5]));
        if n > 1 {
            cases.push(train(format!("n{n} features"), &[n, 5]));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Gradients, Tape};
    use crate::tensor::Philox;
    use approx::assert_relative_eq;

    fn lanes(shape: &[usize], values: &[f64]) -> Tensor {
        Tensor::from_values(Spec::lanes(shape, DType::F32), values)
    }

    fn rows(values: &[f64]) -> Tensor {
        Tensor::from_values(Spec::rows([values.len()], DType::F32), values)
    }

    #[test]
    fn by_hand() {
        // 1, 2, 3, 6: mean 3, biased variance 14/4, unbiased 14/3.
        let x = lanes(&[2, 1, 1, 2], &[1.0, 2.0, 3.0, 6.0]);
        let mut y = Tensor::new(x.spec());
        let saved = BatchNorm { eps: 0.5 }.forward(&[&x, &rows(&[2.0]), &rows(&[1.0])], &mut y).unwrap();
        assert_eq!(y.values(), [-1.0, 0.0, 1.0, 4.0]); // std = √(3.5 + 0.5) = 2
        assert_eq!(saved[1].item(), 0.5);
        let (mut mean, mut var) = (rows(&[0.0]), rows(&[1.0]));
        let mut batches = Tensor::zeros(Spec::rows([], DType::I32));
        update_running(&saved, 0.1, &mut mean, &mut var, &mut batches);
        assert_relative_eq!(mean.item(), 0.3, epsilon = 1e-7);
        assert_relative_eq!(var.item(), 0.9 + 1.4 / 3.0, epsilon = 1e-7);
        assert_eq!(batches.item(), 1.0);
    }

    #[test]
    fn one_value_per_channel_is_an_error() {
        let [x, row] = [Spec::lanes([1, 5], DType::F32), Spec::rows([5], DType::F32)];
        let message = BatchNorm { eps: 1e-5 }.output(&[x, row, row]).unwrap_err().message;
        assert_eq!(message, "batchnorm: needs more than one value per channel when training; got f32 [1, 5], f32 [5], f32 [5]");
        assert!(BatchNorm { eps: 1e-5 }.output(&[x, row, Spec::rows([4], DType::F32)]).is_err());
        assert!(BatchNormEval { eps: 1e-5 }.output(&[x, row, row, row, row]).is_ok());
    }

    #[test]
    fn a_large_mean_does_no_harm() {
        let rng = Philox::new(5);
        let shape = [20, 1, 17, 31];
        let values: Vec<f64> = (0..20 * 17 * 31).map(|i| f64::from((1000.0 + rng.normal(0, i)) as f32)).collect();
        let m = values.len() as f64;
        let mean = values.iter().sum::<f64>() / m;
        let var = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / m;
        let x = lanes(&shape, &values);
        let mut y = Tensor::new(x.spec());
        let saved = BatchNorm { eps: 1e-5 }.forward(&[&x, &rows(&[1.0]), &rows(&[0.0])], &mut y).unwrap();
        assert_relative_eq!(saved[0].item(), mean, max_relative = 1e-7);
        assert_relative_eq!(saved[1].item(), 1.0 / (var + 1e-5).sqrt(), max_relative = 1e-6);
        assert_relative_eq!(saved[2].item(), var * m / (m - 1.0), max_relative = 1e-6);
        for (y, x) in y.values().iter().zip(&values) {
            // Half a unit in the last place of the mean as f32 is 3e-5.
            assert_relative_eq!(*y, (x - mean) / (var + 1e-5).sqrt(), epsilon = 4e-5);
        }
    }

    #[test]
    fn gradients_of_parameters_keep_their_own_dtype() {
        let half = |t: Tensor| t.to_dtype(DType::Bf16);
        let mut gradients = Gradients::new(vec![rows(&[f64::NAN]), rows(&[f64::NAN])]);
        for times in [1.0, 2.0] {
            let mut tape = Tape::new();
            let x = tape.input(half(lanes(&[2, 1], &[1.0, 3.0])));
            let w = tape.param(0, half(rows(&[1.0])));
            let b = tape.param(1, half(rows(&[0.0])));
            let y = tape.apply(BatchNorm { eps: 0.0 }, &[x, w, b]).unwrap();
            tape.backward_from(y, half(lanes(&[2, 1], &[1.0, 256.0])), &mut gradients).unwrap();
            assert_eq!(gradients.get(0).map(Tensor::item), Some(255.0 * times));
            assert_eq!(gradients.get(1).map(Tensor::item), Some(257.0 * times)); // 257 is no bf16
        }
    }
}
