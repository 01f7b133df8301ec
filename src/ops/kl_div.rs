//! The Kullback-Leibler divergence between a target distribution and log-probabilities: the loss of distillation.
//!
//! # Forward
//!
//! x are log-probabilities (the student's), t the target's probabilities p or their logarithms; N images:
//!
//! ```text
//! y = r Σ p·(log p - x)        r = scale/N
//! ```
//!
//! which is PyTorch's `kl_div` with `reduction="batchmean"` for scale = 1. As p·log p -> 0 for p -> 0, such a class contributes
//! nothing. In distillation at temperature T both distributions are softmax(logits/T), whose gradients shrink by T²; scale = T²
//! makes up for it (Hinton, Vinyals, Dean 2015).
//!
//! # Backward
//!
//! y is linear in x. Where t is p, ∂(p·log p)/∂p = log p + 1; where t is log p, ∂p/∂t = p and the product rule gives the rest:
//!
//! ```text
//! dx = -dy·r·p
//! dt = dy·r·(log p + 1 - x)          t = p (where p = 0, by convention, 0)
//! dt = dy·r·p·(log p + 1 - x)        t = log p
//! ```
//!
//! Cost per element: one logarithm or exponential and 3 FLOPs; forward reads x and t, backward reads them again and writes dx
//! and, if wanted, dt. Read next: `linear.rs`, if you have not; else `nn/layers.rs`.

use super::case::{BATCHES, Case, Draw, Input};
use super::softmax::{first, groups_per_task};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::simd;
use crate::tensor::{Element, L, Lane, Layout, Real, Spec, Stored, Tensor, filled};
use rayon::prelude::*;

/// The divergence, a scalar: inputs log-probabilities x and target t, both `[N, C]` in lanes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KlDiv {
    /// Is the target given as log-probabilities?
    pub log_target: bool,
    /// Multiplies the loss: 1, or T² for distillation at temperature T.
    pub scale: f64,
}

impl Op for KlDiv {
    fn name(&self) -> &'static str {
        "kl_div"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        match x {
            [x, t] if x == t && x.layout == Layout::Lanes && x.shape.len() == 2 && x.shape[1] > 0 => {
                Ok(Spec::rows([], x.dtype.acc()).on(x.device))
            }
            _ => Err(mismatch(self.name(), x, "takes log-probabilities [N, C] and a target of the same shape and dtype")),
        }
    }

    fn needs(&self) -> Needs {
        Needs::INPUTS
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        let factor = self.factor(x[0].spec());
        crate::dispatch!(x[0].dtype(), T => match y.device() {
            Device::Cpu => y.data_mut()[0] = <T as Element>::Acc::from_f64(factor * forward::<T>(self, x[0], x[1])),
            Device::Cuda(_) => cuda::forward::<T>(self, x[0], x[1], factor, y)?,
        });
        Ok(Saved::new())
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        let factor = self.factor(n.spec(0));
        let [dx, dt] = dx else { unreachable!("log-probabilities and target") };
        crate::dispatch!(n.spec(0).dtype, T => match dy.device() {
            Device::Cpu => {
                backward_input::<T>(self, n.x(1), dy.item() * factor, dx);
                backward_target::<T>(self, n.x(0), n.x(1), dy.item() * factor, dt);
            }
            Device::Cuda(_) => {
                cuda::backward_input::<T>(self, n.x(1), dy, factor, dx)?;
                cuda::backward_target::<T>(self, n.x(0), n.x(1), dy, factor, dt)?;
            }
        });
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        3 * x[0].shape.count() as u64
    }
}

impl KlDiv {
    /// r.
    fn factor(&self, x: Spec) -> f64 {
        self.scale / x.shape[0] as f64
    }
}

// ---- CPU

/// p and log p of a target. Where p = 0, p·log p must be left out.
#[inline(always)]
fn both<A: Real>(t: A, log_target: bool) -> (A, A) {
    if log_target { (t.exp(), t) } else { (t, t.ln()) }
}

/// x, t `[N, C]` in lanes -> Σ p·(log p - x).
fn forward<T: Element>(op: &KlDiv, x: &Tensor, t: &Tensor) -> f64 {
    simd! {
        fn run<T: Element>(x: &[[T; L]], t: &[[T; L]], log_target: bool) -> Lane<T::Acc> {
            x.iter().zip(t).fold(Lane::zero(), |sum, (x, t)| {
                let terms = Lane::load(x).zip(Lane::load(t), |x, t| {
                    let (p, log_p) = both(t, log_target);
                    if p == T::Acc::ZERO { p } else { p * (log_p - x) }
                });
                sum.add(terms)
            })
        }
    }
    let [n, c, ..] = x.shape().nchw();
    let groups = x.lanes::<T>().par_chunks(c).zip(t.lanes::<T>().par_chunks(c));
    let sums = groups.with_min_len(groups_per_task(c)).enumerate().map(|(g, (x, t))| {
        let sum = run::<T>(x, t, op.log_target);
        sum.0[..filled(n, g)].iter().map(|s| s.to_f64()).sum::<f64>()
    });
    sums.collect::<Vec<f64>>().iter().sum()
}

/// t, dx `[N, C]` in lanes; factor = dy·r.
fn backward_input<T: Element>(op: &KlDiv, t: &Tensor, factor: f64, dx: &mut Slot) {
    simd! {
        fn run<T: Element>(t: &[[T; L]], dx: &mut [[T; L]], log_target: bool, factor: T::Acc, n: usize, add: bool) {
            for (t, dx) in t.iter().zip(dx) {
                let p = Lane::load(t).map(|t| if log_target { t.exp() } else { t });
                first(p.map(|p| -factor * p), n).put(dx, add);
            }
        }
    }
    if !dx.wanted() {
        return;
    }
    let [n, c, ..] = t.shape().nchw();
    let factor = T::Acc::from_f64(factor);
    let (dx, add) = dx.open();
    let groups = t.lanes::<T>().par_chunks(c).zip(dx.lanes_mut::<T>().par_chunks_mut(c));
    groups.with_min_len(groups_per_task(c)).enumerate().for_each(|(g, (t, dx))| {
        run::<T>(t, dx, op.log_target, factor, filled(n, g), add);
    });
}

/// x, t, dt `[N, C]` in lanes; factor = dy·r.
fn backward_target<T: Element>(op: &KlDiv, x: &Tensor, t: &Tensor, factor: f64, dt: &mut Slot) {
    simd! {
        fn run<T: Element>(x: &[[T; L]], t: &[[T; L]], dt: &mut [[T; L]], log_target: bool, factor: T::Acc, n: usize, add: bool) {
            for ((x, t), dt) in x.iter().zip(t).zip(dt) {
                let d = Lane::load(x).zip(Lane::load(t), |x, t| {
                    let (p, log_p) = both(t, log_target);
                    let d = factor * (log_p + T::Acc::ONE - x);
                    if p == T::Acc::ZERO {
                        p
                    } else if log_target {
                        p * d
                    } else {
                        d
                    }
                });
                first(d, n).put(dt, add);
            }
        }
    }
    if !dt.wanted() {
        return;
    }
    let [n, c, ..] = x.shape().nchw();
    let factor = T::Acc::from_f64(factor);
    let (dt, add) = dt.open();
    let dt = dt.lanes_mut::<T>().par_chunks_mut(c);
    let groups = x.lanes::<T>().par_chunks(c).zip(t.lanes::<T>().par_chunks(c)).zip(dt);
    groups.with_min_len(groups_per_task(c)).enumerate().for_each(|(g, ((x, t), dt))| {
        run::<T>(x, t, dt, op.log_target, factor, filled(n, g), add);
    });
}

// ---- CUDA

mod cuda {
    use super::*;
    use crate::device::cuda::{Launch, kernels::kl_div as kernel};

    /// x, t `[N, C]` in lanes; y a scalar. One thread an image, then one block for their sum.
    pub fn forward<T: Element>(op: &KlDiv, x: &Tensor, t: &Tensor, factor: f64, y: &mut Tensor) -> Result<()> {
        let (device, [n, c, ..]) = (y.device(), x.shape().nchw());
        let mut losses = Tensor::new(Spec { dtype: T::Acc::DTYPE, ..x.spec().with_shape([n, 1]) });
        let at = Launch::warps(device, x.spec().groups(), 4);
        kernel::forward::<T>(at, x.cuda(), t.cuda(), losses.cuda_mut(), op.log_target.into(), n as i32, c as i32)?;
        kernel::total::<T>(Launch::each(device, 1, 256), losses.cuda(), y.cuda_mut(), factor, losses.spec().stored() as i32)
    }

    /// t, dx `[N, C]` in lanes; dy a scalar.
    pub fn backward_input<T: Element>(op: &KlDiv, t: &Tensor, dy: &Tensor, factor: f64, dx: &mut Slot) -> Result<()> {
        if !dx.wanted() {
            return Ok(());
        }
        let ([n, c, ..], factor) = (t.shape().nchw(), T::Acc::from_f64(factor));
        let (dx, add) = dx.open();
        let at = Launch::warps(dy.device(), t.spec().groups(), 4);
        let (log_target, add) = (op.log_target.into(), add.into());
        kernel::backward_input::<T>(at, t.cuda(), dy.cuda(), dx.cuda_mut(), factor, log_target, n as i32, c as i32, add)
    }

    /// x, t, dt `[N, C]` in lanes; dy a scalar.
    pub fn backward_target<T: Element>(op: &KlDiv, x: &Tensor, t: &Tensor, dy: &Tensor, factor: f64, dt: &mut Slot) -> Result<()> {
        if !dt.wanted() {
            return Ok(());
        }
        let ([n, c, ..], factor) = (t.shape().nchw(), T::Acc::from_f64(factor));
        let (dt, add) = dt.open();
        let at = Launch::warps(dy.device(), t.spec().groups(), 4);
        let (log_target, add) = (op.log_target.into(), add.into());
        kernel::backward_target::<T>(at, x.cuda(), t.cuda(), dy.cuda(), dt.cuda_mut(), factor, log_target, n as i32, c as i32, add)
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for n in BATCHES {
        for (c, scale) in [(10, 1.0), (3, 16.0)] {
            for (log_target, draw) in [(false, Draw::Probabilities), (true, Draw::LogProbabilities)] {
                let kind = if log_target { "log target" } else { "target" };
                let inputs = vec![Input::lanes([n, c], Draw::LogProbabilities), Input::lanes([n, c], draw)];
                cases.push(Case::new(KlDiv { log_target, scale }, format!("n{n} c{c} scale {scale} {kind}"), inputs));
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Gradients, Tape};
    use crate::tensor::DType;
    use approx::assert_relative_eq;

    /// Loss, dx and dt of one image.
    fn run(op: KlDiv, x: [f64; 2], t: [f64; 2]) -> (f64, Vec<f64>, Vec<f64>) {
        let mut tape = Tape::new();
        let [x, t] = [x, t].map(|v| tape.leaf(Tensor::from_values(Spec::lanes([1, 2], DType::F64), &v)));
        let y = tape.apply(op, &[x, t]).unwrap();
        let loss = tape.value(y).item();
        tape.backward(y, &mut Gradients::default()).unwrap();
        let gradient = |v| tape.gradient(v).map(Tensor::values).unwrap_or_default();
        (loss, gradient(x), gradient(t))
    }

    #[test]
    fn by_hand() {
        // p = (1/2, 1/2), q = (1/4, 3/4): Σ p·log(p/q) = log(2)/2 + log(2/3)/2.
        let x = [0.25f64.ln(), 0.75f64.ln()];
        let want = 0.5 * (4.0f64 / 3.0).ln();
        let (loss, dx, dt) = run(KlDiv { log_target: false, scale: 4.0 }, x, [0.5, 0.5]);
        assert_relative_eq!(loss, 4.0 * want, epsilon = 1e-14);
        assert_eq!(dx, [-2.0, -2.0]);
        assert_relative_eq!(dt[0], 4.0 * (2f64.ln() + 1.0), epsilon = 1e-14);
        let (loss, dx, dt) = run(KlDiv { log_target: true, scale: 1.0 }, x, [0.5f64.ln(); 2]);
        assert_relative_eq!(loss, want, epsilon = 1e-14);
        assert_relative_eq!(dx[0], -0.5, epsilon = 1e-14);
        assert_relative_eq!(dt[0], 0.5 * (2f64.ln() + 1.0), epsilon = 1e-14);
    }

    #[test]
    fn a_class_of_probability_zero_contributes_nothing() {
        for (log_target, t) in [(false, [1.0, 0.0]), (true, [0.0, f64::NEG_INFINITY])] {
            let (loss, dx, dt) = run(KlDiv { log_target, scale: 1.0 }, [0.0, f64::NEG_INFINITY], t);
            assert_eq!((loss, dx[1], dt[1]), (0.0, 0.0, 0.0));
        }
    }
}
