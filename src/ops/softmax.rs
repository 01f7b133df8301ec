//! Softmax and log-softmax over the classes.
//!
//! # Forward
//!
//! For each image, over its C numbers x:
//!
//! ```text
//! y_c = exp(x_c) / Σ_k exp(x_k)                     softmax: positive, sums to one
//! y_c = x_c - log Σ_k exp(x_k)                      log-softmax: its logarithm
//! ```
//!
//! Adding a number to all x changes neither, so the maximum is subtracted first: then every exp is at most 1, none overflows,
//! and the sum is at least 1.
//!
//! # Backward
//!
//! Both from the output alone. For softmax, ∂y_k/∂x_c = y_k·([k=c] - y_c), so
//!
//! ```text
//! dx_c = Σ_k dy_k·y_k·([k=c] - y_c) = y_c·(dy_c - Σ_k dy_k·y_k)
//! ```
//!
//! and for log-softmax, ∂y_k/∂x_c = [k=c] - softmax_c with softmax_c = exp(y_c), so
//!
//! ```text
//! dx_c = dy_c - exp(y_c)·Σ_k dy_k
//! ```
//!
//! In both, Σ_c dx_c = 0: no gradient along the direction that changes nothing.
//!
//! Cost per element: forward 2 exponentials (log-softmax 1) and 4 FLOPs, reads x and writes y; backward 4 FLOPs, reads y and dy
//! and writes dx. The C numbers of a group stay in cache between the passes over them. Read next: `cross_entropy.rs`.

use super::case::{BATCHES, Case, Draw, Input};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::simd;
use crate::tensor::{Element, L, Lane, Layout, Real, Spec, Tensor};
use rayon::prelude::*;

/// y = softmax(x) or its logarithm, over the last dimension of `[N, C]` in lanes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Softmax {
    /// The logarithm?
    pub log: bool,
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        match x {
            [x] if x.layout == Layout::Lanes && x.shape.len() == 2 && x.shape[1] > 0 => Ok(*x),
            _ => Err(mismatch(self.name(), x, "takes one activation [N, C] with at least one class")),
        }
    }

    fn needs(&self) -> Needs {
        Needs::OUTPUT
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        crate::dispatch!(y.dtype(), T => match y.device() {
            Device::Cpu => forward::<T>(self, x[0], y),
            Device::Cuda(_) => cuda::forward::<T>(self, x[0], y)?,
        });
        Ok(Saved::new())
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        if dx[0].wanted() {
            crate::dispatch!(dy.dtype(), T => match dy.device() {
                Device::Cpu => backward_input::<T>(self, n.y(), dy, &mut dx[0]),
                Device::Cuda(_) => cuda::backward_input::<T>(self, n.y(), dy, &mut dx[0])?,
            });
        }
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        4 * x[0].shape.count() as u64
    }
}

// ---- CPU

/// Groups of C classes that one task works on, at least: some thousand exponentials.
pub(super) fn groups_per_task(c: usize) -> usize {
    (256 / c).max(1)
}

/// The largest number of each image.
#[inline(always)]
pub(super) fn maximum<T: Element>(x: &[[T; L]]) -> Lane<T::Acc> {
    x.iter().fold(Lane::splat(T::Acc::NEG_INFINITY), |max, x| max.zip(Lane::load(x), |a, b| if b > a { b } else { a }))
}

/// The first n lanes, zeros in the others.
#[inline(always)]
pub(super) fn first<A: Real>(x: Lane<A>, n: usize) -> Lane<A> {
    Lane(std::array::from_fn(|i| if i < n { x.0[i] } else { A::ZERO }))
}

/// exp(x - max) of each image.
#[inline(always)]
pub(super) fn exp_below<T: Element>(x: &[T; L], max: Lane<T::Acc>) -> Lane<T::Acc> {
    Lane::load(x).zip(max, |x, max| (x - max).exp())
}

/// x, y `[N, C]` in lanes.
fn forward<T: Element>(op: &Softmax, x: &Tensor, y: &mut Tensor) {
    simd! {
        fn run<T: Element>(x: &[[T; L]], y: &mut [[T; L]], log: bool) {
            let max = maximum(x);
            let sum = x.iter().fold(Lane::zero(), |sum, x| sum.add(exp_below(x, max)));
            let log_sum = if log { sum.map(T::Acc::ln) } else { sum };
            for (x, y) in x.iter().zip(y) {
                if log {
                    Lane::load(x).zip(max, |x, max| x - max).zip(log_sum, |x, log_sum| x - log_sum).store(y);
                } else {
                    exp_below(x, max).zip(sum, |e, sum| e / sum).store(y);
                }
            }
        }
    }
    let c = x.shape()[1];
    let y = y.lanes_mut::<T>().par_chunks_mut(c);
    x.lanes::<T>().par_chunks(c).zip(y).with_min_len(groups_per_task(c)).for_each(|(x, y)| run::<T>(x, y, op.log));
}

/// y, dy, dx `[N, C]` in lanes.
fn backward_input<T: Element>(op: &Softmax, y: &Tensor, dy: &Tensor, dx: &mut Slot) {
    simd! {
        fn run<T: Element>(y: &[[T; L]], dy: &[[T; L]], dx: &mut [[T; L]], log: bool, add: bool) {
            let mut sum = Lane::zero();
            for (y, dy) in y.iter().zip(dy) {
                let dy = Lane::load(dy);
                sum = if log { sum.add(dy) } else { dy.fma_lane(Lane::load(y), sum) };
            }
            for ((y, dy), dx) in y.iter().zip(dy).zip(dx) {
                let (y, dy) = (Lane::load(y), Lane::load(dy));
                if log {
                    dy.zip(y.zip(sum, |y, sum| y.exp() * sum), |dy, s| dy - s).put(dx, add);
                } else {
                    dy.zip(sum, |dy, sum| dy - sum).zip(y, |d, y| d * y).put(dx, add);
                }
            }
        }
    }
    let c = y.shape()[1];
    let (dx, add) = dx.open();
    let dx = dx.lanes_mut::<T>().par_chunks_mut(c);
    let groups = y.lanes::<T>().par_chunks(c).zip(dy.lanes::<T>().par_chunks(c)).zip(dx);
    groups.with_min_len(groups_per_task(c)).for_each(|((y, dy), dx)| run::<T>(y, dy, dx, op.log, add));
}

// ---- CUDA

mod cuda {
    use super::*;
    use crate::device::cuda::{Launch, kernels::softmax as kernel};

    /// x, y `[N, C]` in lanes. One thread an image.
    pub fn forward<T: Element>(op: &Softmax, x: &Tensor, y: &mut Tensor) -> Result<()> {
        let [groups, c] = [x.spec().groups(), x.shape()[1]];
        let at = Launch::warps(y.device(), groups, 4);
        kernel::forward::<T>(at, x.cuda(), y.cuda_mut(), op.log.into(), groups as i32, c as i32)
    }

    /// y, dy, dx `[N, C]` in lanes. One thread an image.
    pub fn backward_input<T: Element>(op: &Softmax, y: &Tensor, dy: &Tensor, dx: &mut Slot) -> Result<()> {
        let (dx, add) = dx.open();
        let [groups, c] = [y.spec().groups(), y.shape()[1]];
        let at = Launch::warps(dy.device(), groups, 4);
        kernel::backward_input::<T>(at, y.cuda(), dy.cuda(), dx.cuda_mut(), op.log.into(), groups as i32, c as i32, add.into())
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for n in BATCHES {
        for log in [false, true] {
            for c in [10, 3] {
                cases.push(Case::new(Softmax { log }, format!("n{n} c{c}"), vec![Input::lanes([n, c], Draw::Normal)]));
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;
    use approx::assert_relative_eq;

    fn run(op: Softmax, shape: [usize; 2], values: &[f64]) -> Vec<f64> {
        let x = Tensor::from_values(Spec::lanes(shape, DType::F32), values);
        let mut y = Tensor::new(x.spec());
        op.forward(&[&x], &mut y).unwrap();
        y.values()
    }

    #[test]
    fn by_hand() {
        let x = [0.0, 2f64.ln(), 5f64.ln(), 7.0, 7.0, 7.0];
        let want = [0.125, 0.25, 0.625, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0];
        let (y, log_y) = (run(Softmax { log: false }, [2, 3], &x), run(Softmax { log: true }, [2, 3], &x));
        for i in 0..6 {
            assert_relative_eq!(y[i], want[i], epsilon = 1e-7);
            assert_relative_eq!(log_y[i], want[i].ln(), epsilon = 1e-6);
        }
    }

    #[test]
    fn large_and_infinite_numbers_do_not_overflow() {
        let x = [1000.0, 1000.0, f64::NEG_INFINITY];
        assert_eq!(run(Softmax { log: false }, [1, 3], &x), [0.5, 0.5, 0.0]);
        assert_eq!(run(Softmax { log: true }, [1, 3], &x)[2], f64::NEG_INFINITY);
    }

    #[test]
    fn other_shapes_are_an_error() {
        let message = Softmax { log: false }.output(&[Spec::lanes([2, 3, 4, 4], DType::F32)]).unwrap_err().message;
        assert_eq!(message, "softmax: takes one activation [N, C] with at least one class; got f32 [2, 3, 4, 4]");
    }
}
