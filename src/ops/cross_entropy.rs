//! Cross entropy between logits and labels or soft targets, and what evaluation reads from logits.
//!
//! # Forward
//!
//! Image n has logits x `[C]` and a target t `[C]`: probabilities, or a label, which is the t with a one there and zeros
//! elsewhere. Smoothing by ε moves a part of the target to all classes alike:
//!
//! ```text
//! t'_c = (1-ε)·t_c + ε/C
//! y = r Σ_n Σ_c -t'_c·logp_c        logp_c = x_c - log Σ_k exp(x_k)        r = 1/N (mean) or 1 (sum)
//! ```
//!
//! A class with t' = 0 contributes nothing, even where logp = -inf. Unlike PyTorch there is no label that means "ignore". A label
//! that is no class is an error on the CPU; on a GPU, where the host sees no label, the loss becomes NaN.
//!
//! # Backward
//!
//! With ∂logp_k/∂x_c = [k=c] - p_c and p = exp(logp) (`softmax.rs`), and scale = dy·r,
//!
//! ```text
//! dx_c = scale·Σ_k -t'_k·([k=c] - p_c) = scale·(p_c·Σ_k t'_k - t'_c)
//! dt_c = -scale·(1-ε)·logp_c
//! ```
//!
//! where Σ t' = 1 for labels and for anything that is a distribution. That softmax and logarithm together leave only p - t is
//! why they are one op: no division by a vanishing p appears.
//!
//! Cost per logit: 2 exponentials and 12 FLOPs; forward reads x and t and writes logp, backward reads logp and t and writes dx.
//! Read next: `kl_div.rs`.

use super::case::{BATCHES, Case, Draw, Input};
use super::softmax::{exp_below, first, groups_per_task, maximum};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::simd;
use crate::tensor::{DType, Element, L, Lane, Layout, Real, Spec, Stored, Tensor, filled};
use rayon::prelude::*;

/// How the losses of the images become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Their mean over the batch.
    Mean,
    /// Their sum.
    Sum,
}

/// The loss, a scalar, of logits `[N, C]` in lanes and labels i32 `[N]` or probabilities `[N, C]` in lanes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossEntropy {
    /// Mean or sum.
    pub reduction: Reduction,
    /// ε, from 0 (none) to 1.
    pub label_smoothing: f64,
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            return Err(Error::run(format!("cross_entropy: label smoothing is {}, not in [0, 1]", self.label_smoothing)));
        }
        match x {
            [x, t]
                if x.layout == Layout::Lanes
                    && x.shape.len() == 2
                    && x.shape[1] > 0
                    && (t == x || *t == Spec::rows([x.shape[0]], DType::I32).on(x.device)) =>
            {
                Ok(Spec::rows([], x.dtype.acc()).on(x.device))
            }
            _ => Err(mismatch(self.name(), x, "takes logits [N, C] and i32 labels [N] or probabilities [N, C] of the same dtype")),
        }
    }

    fn needs(&self) -> Needs {
        Needs { inputs: 0b10, output: false }
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        let mut logp = Tensor::new(Spec { dtype: x[0].dtype().acc(), ..x[0].spec() });
        let factor = self.factor(x[0].spec());
        if x[1].dtype() == DType::I32 && y.device() == Device::Cpu {
            check(x[1].data(), x[0].shape()[1])?;
        }
        crate::dispatch!(x[0].dtype(), T => match y.device() {
            Device::Cpu => y.data_mut()[0] = <T as Element>::Acc::from_f64(factor * forward::<T>(self, x[0], x[1], &mut logp)),
            Device::Cuda(_) => cuda::forward::<T>(self, x[0], x[1], &mut logp, factor, y)?,
        });
        Ok(vec![logp])
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        let factor = self.factor(n.spec(0));
        let (logp, t) = (&n.saved[0], n.x(1));
        let [dx, dt] = dx else { unreachable!("logits and target") };
        crate::dispatch!(n.spec(0).dtype, T => match dy.device() {
            Device::Cpu => {
                backward_input::<T>(self, logp, t, dy.item() * factor, dx);
                backward_target::<T>(self, logp, dy.item() * factor, dt);
            }
            Device::Cuda(_) => {
                cuda::backward_input::<T>(self, logp, t, dy, factor, dx)?;
                cuda::backward_target::<T>(self, logp, dy, factor, dt)?;
            }
        });
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        7 * x[0].shape.count() as u64
    }
}

impl CrossEntropy {
    /// r.
    fn factor(&self, x: Spec) -> f64 {
        match self.reduction {
            Reduction::Mean => 1.0 / x.shape[0] as f64,
            Reduction::Sum => 1.0,
        }
    }

    /// t' = a·t + b for C classes.
    fn smoothing(&self, c: usize) -> [f64; 2] {
        [1.0 - self.label_smoothing, self.label_smoothing / c as f64]
    }
}

/// The error that names the first label outside [0, classes).
fn check(labels: &[i32], classes: usize) -> Result<()> {
    match labels.iter().position(|&label| usize::try_from(label).map_or(true, |label| label >= classes)) {
        Some(n) => Err(Error::run(format!(
            "cross_entropy: image {n} of the batch has label {}, but the logits have {classes} classes (labels 0 to {})",
            labels[n],
            classes - 1
        ))),
        None => Ok(()),
    }
}

/// The class with the largest logit for each image, the first of equals; logits `[N, C]` in lanes. NaN counts as largest.
pub fn predictions(logits: &Tensor) -> Vec<u32> {
    let largest = |x: &[f64]| (1..x.len()).fold(0, |best, c| if x[c] > x[best] || x[c].is_nan() && !x[best].is_nan() { c } else { best });
    logits.values().chunks(logits.shape()[1]).map(|x| largest(x) as u32).collect()
}

/// For how many images the largest logit stands at the label; with soft targets, at the largest probability.
///
/// logits `[N, C]` in lanes; target labels i32 `[N]` or probabilities `[N, C]` in lanes.
pub fn hits(logits: &Tensor, target: &Tensor) -> usize {
    let labels: Vec<f64> = match target.dtype() {
        DType::I32 => target.values(),
        _ => predictions(target).into_iter().map(f64::from).collect(),
    };
    assert_eq!(logits.shape()[0], labels.len(), "each image has one label");
    predictions(logits).iter().zip(&labels).filter(|&(&class, &label)| f64::from(class) == label).count()
}

/// Adds a batch to what a run counts: totals (f64 `[3]`) += summed loss, hits, images.
///
/// loss: what the op gave, `images_in_loss` times which is the sum (N for a mean, 1 for a sum); logits `[N, C]` in lanes, target labels
/// i32 `[N]` or probabilities `[N, C]` in lanes; all on one device, which the host need not wait for.
pub fn accumulate(loss: &Tensor, images_in_loss: f64, logits: &Tensor, target: &Tensor, totals: &mut Tensor) -> Result<()> {
    if let Device::Cuda(_) = totals.device() {
        return crate::dispatch!(logits.dtype(), T => cuda::metrics::<T>(loss, images_in_loss, logits, target, totals));
    }
    let counted = [loss.item() * images_in_loss, hits(logits, target) as f64, logits.shape()[0] as f64];
    for (total, more) in totals.data_mut::<f64>().iter_mut().zip(counted) {
        *total += more;
    }
    Ok(())
}

/// The sum over images of -logp at the label, all in f64; logits `[N, C]` in lanes, labels i32 `[N]`.
pub fn losses(logits: &Tensor, labels: &Tensor) -> Result<f64> {
    let labels = labels.fetch()?;
    let labels = labels.data::<i32>();
    assert_eq!(logits.shape()[0], labels.len(), "each image has one label");
    let c = logits.shape()[1];
    check(labels, c)?;
    let loss = |x: &[f64], label: i32| {
        let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        x.iter().map(|x| (x - max).exp()).sum::<f64>().ln() - (x[label as usize] - max)
    };
    Ok(logits.values().chunks(c).zip(labels).map(|(x, &label)| loss(x, label)).sum())
}

// ---- CPU

/// The target of the images of one group.
#[derive(Clone, Copy)]
enum Target<'a, T> {
    /// One label an image; -1 in empty lanes.
    Labels([i32; L]),
    /// `[C]` lane vectors.
    Soft(&'a [[T; L]]),
}

impl<'a, T: Element> Target<'a, T> {
    /// The part of `t` that belongs to group `g`.
    fn of(t: &'a Tensor, g: usize) -> Self {
        if t.dtype() == DType::I32 {
            let labels = &t.data::<i32>()[g * L..];
            Target::Labels(std::array::from_fn(|i| labels.get(i).copied().unwrap_or(-1)))
        } else {
            let c = t.shape()[1];
            Target::Soft(&t.lanes()[g * c..][..c])
        }
    }

    /// t'_c = a·t_c + b.
    #[inline(always)]
    fn at(&self, c: usize, [a, b]: [T::Acc; 2]) -> Lane<T::Acc> {
        match self {
            Target::Labels(labels) => Lane(std::array::from_fn(|i| if labels[i] == c as i32 { a + b } else { b })),
            Target::Soft(t) => Lane::load(&t[c]).fma(a, Lane::splat(b)),
        }
    }
}

/// x, t `[N, C]` in lanes or t `[N]` -> Σ_n Σ_c -t'·logp; writes logp `[N, C]` in lanes.
fn forward<T: Element>(op: &CrossEntropy, x: &Tensor, t: &Tensor, logp: &mut Tensor) -> f64 {
    simd! {
        fn run<T: Element>(x: &[[T; L]], t: Target<'_, T>, ab: [T::Acc; 2], logp: &mut [[T::Acc; L]]) -> Lane<T::Acc> {
            let max = maximum(x);
            let log_sum = x.iter().fold(Lane::zero(), |sum, x| sum.add(exp_below(x, max))).map(T::Acc::ln);
            let mut loss = Lane::zero();
            for (c, (x, logp)) in x.iter().zip(logp).enumerate() {
                let l = Lane::load(x).zip(max, |x, max| x - max).zip(log_sum, |x, log_sum| x - log_sum);
                loss = loss.add(t.at(c, ab).zip(l, |t, l| if t == T::Acc::ZERO { t } else { -t * l }));
                l.store(logp);
            }
            loss
        }
    }
    let [n, c, ..] = x.shape().nchw();
    let ab = op.smoothing(c).map(T::Acc::from_f64);
    let groups = x.lanes::<T>().par_chunks(c).zip(logp.lanes_mut::<T::Acc>().par_chunks_mut(c));
    let losses = groups.with_min_len(groups_per_task(c)).enumerate().map(|(g, (x, logp))| {
        let loss = run::<T>(x, Target::of(t, g), ab, logp);
        loss.0[..filled(n, g)].iter().map(|l| l.to_f64()).sum::<f64>()
    });
    losses.collect::<Vec<f64>>().iter().sum()
}

/// logp, dx `[N, C]` in lanes, t `[N, C]` in lanes or `[N]`.
fn backward_input<T: Element>(op: &CrossEntropy, logp: &Tensor, t: &Tensor, scale: f64, dx: &mut Slot) {
    simd! {
        fn run<T: Element>(
            logp: &[[T::Acc; L]],
            t: Target<'_, T>,
            ab: [T::Acc; 2],
            scale: T::Acc,
            n: usize,
            dx: &mut [[T; L]],
            add: bool,
        ) {
            let sum = (0..logp.len()).fold(Lane::zero(), |sum, c| sum.add(t.at(c, ab)));
            for (c, (logp, dx)) in logp.iter().zip(dx).enumerate() {
                let p = Lane::load(logp).map(T::Acc::exp);
                let d = p.zip(sum, |p, sum| p * sum).zip(t.at(c, ab), |p, t| scale * (p - t));
                first(d, n).put(dx, add);
            }
        }
    }
    if !dx.wanted() {
        return;
    }
    let [n, c, ..] = logp.shape().nchw();
    let (ab, scale) = (op.smoothing(c).map(T::Acc::from_f64), T::Acc::from_f64(scale));
    let (dx, add) = dx.open();
    let groups = logp.lanes::<T::Acc>().par_chunks(c).zip(dx.lanes_mut::<T>().par_chunks_mut(c));
    groups.with_min_len(groups_per_task(c)).enumerate().for_each(|(g, (logp, dx))| {
        run::<T>(logp, Target::of(t, g), ab, scale, filled(n, g), dx, add);
    });
}

/// logp, dt `[N, C]` in lanes.
fn backward_target<T: Element>(op: &CrossEntropy, logp: &Tensor, scale: f64, dt: &mut Slot) {
    simd! {
        fn run<T: Element>(logp: &[[T::Acc; L]], a: T::Acc, n: usize, dt: &mut [[T; L]], add: bool) {
            for (logp, dt) in logp.iter().zip(dt) {
                first(Lane::load(logp).map(|l| a * l), n).put(dt, add);
            }
        }
    }
    if !dt.wanted() {
        return;
    }
    let [n, c, ..] = logp.shape().nchw();
    let a = T::Acc::from_f64(-scale * (1.0 - op.label_smoothing));
    let (dt, add) = dt.open();
    let groups = logp.lanes::<T::Acc>().par_chunks(c).zip(dt.lanes_mut::<T>().par_chunks_mut(c));
    groups.with_min_len(groups_per_task(c)).enumerate().for_each(|(g, (logp, dt))| run::<T>(logp, a, filled(n, g), dt, add));
}

// ---- CUDA

mod cuda {
    use super::*;
    use crate::device::cuda::{Const, Launch, kernels::cross_entropy as kernel};

    /// Labels and soft targets, of which one is there.
    fn either<T: Element>(t: &Tensor) -> (Const<'_, i32>, Const<'_, T>) {
        if t.dtype() == DType::I32 { (t.cuda(), Const::null()) } else { (Const::null(), t.cuda()) }
    }

    /// x, t, logp `[N, C]` in lanes or t `[N]`; y a scalar. One thread an image, then one block for their sum.
    pub fn forward<T: Element>(op: &CrossEntropy, x: &Tensor, t: &Tensor, logp: &mut Tensor, factor: f64, y: &mut Tensor) -> Result<()> {
        let (device, [n, c, ..]) = (y.device(), x.shape().nchw());
        let [a, b] = op.smoothing(c).map(T::Acc::from_f64);
        let mut losses = Tensor::new(logp.spec().with_shape([n, 1]));
        let (labels, soft) = either(t);
        let at = Launch::warps(device, x.spec().groups(), 4);
        kernel::forward::<T>(at, x.cuda(), labels, soft, logp.cuda_mut(), losses.cuda_mut(), a, b, n as i32, c as i32)?;
        kernel::total::<T>(Launch::each(device, 1, 256), losses.cuda(), y.cuda_mut(), factor, losses.spec().stored() as i32)
    }

    /// One block counts the whole batch.
    pub fn metrics<T: Element>(loss: &Tensor, images_in_loss: f64, logits: &Tensor, t: &Tensor, totals: &mut Tensor) -> Result<()> {
        let (at, [n, c, ..]) = (Launch::each(totals.device(), 1, 256), logits.shape().nchw());
        let (labels, soft) = either(t);
        kernel::metrics::<T>(at, logits.cuda(), labels, soft, loss.cuda(), totals.cuda_mut(), images_in_loss, n as i32, c as i32)
    }

    /// logp, dx `[N, C]` in lanes, t `[N, C]` in lanes or `[N]`; dy a scalar.
    pub fn backward_input<T: Element>(op: &CrossEntropy, logp: &Tensor, t: &Tensor, dy: &Tensor, factor: f64, dx: &mut Slot) -> Result<()> {
        if !dx.wanted() {
            return Ok(());
        }
        let [n, c, ..] = logp.shape().nchw();
        let ([a, b], factor) = (op.smoothing(c).map(T::Acc::from_f64), T::Acc::from_f64(factor));
        let ((dx, add), (labels, soft)) = (dx.open(), either(t));
        let at = Launch::warps(dy.device(), logp.spec().groups(), 4);
        let dx = dx.cuda_mut();
        kernel::backward_input::<T>(at, logp.cuda(), labels, soft, dy.cuda(), dx, a, b, factor, n as i32, c as i32, add.into())
    }

    /// logp, dt `[N, C]` in lanes; dy a scalar.
    pub fn backward_target<T: Element>(op: &CrossEntropy, logp: &Tensor, dy: &Tensor, factor: f64, dt: &mut Slot) -> Result<()> {
        if !dt.wanted() {
            return Ok(());
        }
        let ([n, c, ..], factor) = (logp.shape().nchw(), T::Acc::from_f64(-factor * (1.0 - op.label_smoothing)));
        let (dt, add) = dt.open();
        let at = Launch::warps(dy.device(), logp.spec().groups(), 4);
        kernel::backward_target::<T>(at, logp.cuda(), dy.cuda(), dt.cuda_mut(), factor, n as i32, c as i32, add.into())
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let op = CrossEntropy { reduction: Reduction::Mean, label_smoothing: 0.1 };
    let any_target = vec![Input::lanes([17, 3], Draw::Normal), Input::lanes([17, 3], Draw::Positive)];
    let mut cases = vec![Case::new(op, "n17 c3 no distribution", any_target)];
    for n in BATCHES {
        for c in [10, 3] {
            for label_smoothing in [0.0, 0.1] {
                for reduction in [Reduction::Mean, Reduction::Sum] {
                    let op = CrossEntropy { reduction, label_smoothing };
                    let name = format!("n{n} c{c} {reduction:?} smoothing {label_smoothing}").to_lowercase();
                    let logits = Input::lanes([n, c], Draw::Normal);
                    let labels = Input::rows([n], Draw::Labels(c)).fixed();
                    cases.push(Case::new(op, format!("{name} labels"), vec![logits, labels]));
                    cases.push(Case::new(op, format!("{name} soft"), vec![logits, Input::lanes([n, c], Draw::Probabilities)]));
                }
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Gradients, Tape};
    use approx::assert_relative_eq;

    /// Softmax of a row is 1/8, 2/8, 5/8.
    fn logits(n: usize) -> Tensor {
        let row = [0.0, 2f64.ln(), 5f64.ln()];
        Tensor::from_values(Spec::lanes([n, 3], DType::F64), &row.repeat(n))
    }

    fn labels(labels: &[i32]) -> Tensor {
        Tensor::from_values(Spec::rows([labels.len()], DType::I32), labels)
    }

    fn loss(reduction: Reduction, label_smoothing: f64, t: Tensor) -> Result<(f64, Vec<f64>)> {
        let mut tape = Tape::new();
        let x = tape.leaf(logits(t.shape()[0]));
        let t = tape.input(t);
        let y = tape.apply(CrossEntropy { reduction, label_smoothing }, &[x, t])?;
        let value = tape.value(y).item();
        tape.backward(y, &mut Gradients::default())?;
        Ok((value, tape.gradient(x).map(Tensor::values).unwrap_or_default()))
    }

    #[test]
    fn by_hand() {
        let (y, dx) = loss(Reduction::Sum, 0.0, labels(&[1, 0])).unwrap();
        assert_relative_eq!(y, 4f64.ln() + 8f64.ln(), epsilon = 1e-12);
        for (dx, want) in dx.iter().zip([1.0, -6.0, 5.0, -7.0, 2.0, 5.0]) {
            assert_relative_eq!(*dx, want / 8.0, epsilon = 1e-12);
        }
        let (y, dx) = loss(Reduction::Mean, 0.3, labels(&[1, 0])).unwrap();
        let all = 8f64.ln() + 4f64.ln() + 1.6f64.ln();
        assert_relative_eq!(y, 0.5 * (0.7 * (4f64.ln() + 8f64.ln()) + 2.0 * 0.1 * all), epsilon = 1e-12);
        assert_relative_eq!(dx[1], 0.5 * (0.25 - 0.8), epsilon = 1e-12);
        assert_relative_eq!(dx[2], 0.5 * (0.625 - 0.1), epsilon = 1e-12);
    }

    #[test]
    fn a_label_is_the_soft_target_with_a_one_there() {
        let soft = Tensor::from_values(Spec::lanes([2, 3], DType::F64), &[0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(loss(Reduction::Mean, 0.1, soft).unwrap(), loss(Reduction::Mean, 0.1, labels(&[1, 0])).unwrap());
    }

    #[test]
    fn a_label_outside_the_classes_is_an_error() {
        let want = "cross_entropy: image 1 of the batch has label 3, but the logits have 3 classes (labels 0 to 2)";
        assert_eq!(loss(Reduction::Mean, 0.0, labels(&[2, 3])).unwrap_err().message, want);
        assert!(loss(Reduction::Mean, 0.0, labels(&[-1])).is_err());
        assert!(loss(Reduction::Mean, 1.5, labels(&[0])).is_err());
        assert!(losses(&logits(1), &labels(&[3])).is_err());
    }

    #[test]
    fn an_impossible_class_costs_nothing_unless_it_is_the_target() {
        let x = Tensor::from_values(Spec::lanes([1, 3], DType::F32), &[0.0, 0.0, f64::NEG_INFINITY]);
        let op = CrossEntropy { reduction: Reduction::Sum, label_smoothing: 0.0 };
        for (label, want) in [(0, 2f64.ln()), (2, f64::INFINITY)] {
            let mut y = Tensor::new(Spec::rows([], DType::F32));
            op.forward(&[&x, &labels(&[label])], &mut y).unwrap();
            assert_relative_eq!(y.item(), want, epsilon = 1e-6);
        }
    }

    #[test]
    fn evaluation() {
        let x = Tensor::from_values(Spec::lanes([4, 3], DType::F32), &[1.0, 2.0, 2.0, 3.0, 0.0, 3.0, 0.0, f64::NAN, 1.0, 0.0, -1.0, 5.0]);
        assert_eq!(predictions(&x), [1, 0, 1, 2]);
        assert_eq!(hits(&x, &labels(&[1, 2, 1, 2])), 3);
        assert_eq!(hits(&x, &x), 4);
        assert_relative_eq!(losses(&logits(2), &labels(&[1, 0])).unwrap(), 4f64.ln() + 8f64.ln(), epsilon = 1e-12);
    }
}
