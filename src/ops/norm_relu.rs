//! Batch norm, the sum with a shortcut, and ReLU, in as few passes over memory as there can be.
//!
//! # Forward
//!
//! ```text
//! v = w·x̂ + b + s        y = max(v, 0)        x̂ as in batchnorm.rs; s: the shortcut of a residual block, if there is one
//! ```
//!
//! # Backward
//!
//! ```text
//! d = dy where v > 0, else 0        ds = d        dw, db and dx: those of batchnorm.rs with d for dy
//! ```
//!
//! Without a shortcut v is computed again from x, so that y need not be read. With one, y > 0 tells where v > 0, and d is written
//! once, as the gradient of s.
//!
//! These are the ops of `batchnorm.rs`, `add.rs` and `relu.rs`, which remain what the fused op is tested against; but a batch is read
//! and written once for all three. Cost per element: forward reads x twice (and s) and writes y; backward reads x and dy twice and
//! writes dx (with s, reads y and writes ds too). One by one the three ops move twice as much.
//!
//! On a GPU the three ops run one after the other for now. Read next: `norm_relu_pool.rs`, the same with a max-pool behind it.

use super::batchnorm::{self, by_m, from_sums, output, per_channel};
use super::case::{BATCHES, Case, Draw, Input};
use super::moments::given;
use super::normalise::{Affine, Gate, forward, sums};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::tensor::{Element, Real, Spec, Tensor};

/// relu(batch norm(x) + s). Inputs x `[N, C, ...]` in lanes, w `[C]` and b `[C]` in the type of sums, then, if `running`, the running
/// mean and variance `[C]`, and at the end, if `shortcut`, s like x.
///
/// Saves what [`batchnorm::BatchNorm`] saves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormRelu {
    /// Added to the variance; PyTorch's default is 1e-5.
    pub eps: f64,
    /// Normalise by given statistics instead of the batch's.
    pub running: bool,
    /// Is there an s?
    pub shortcut: bool,
}

impl NormRelu {
    /// Inputs without s.
    fn rows(&self) -> usize {
        if self.running { 5 } else { 3 }
    }
}

impl Op for NormRelu {
    fn name(&self) -> &'static str {
        "norm_relu"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        let rule = "takes an activation [N, C, ...], weight [C] and bias [C], perhaps running statistics [C] and a shortcut like the first";
        let rows = self.rows();
        if x.len() != rows + usize::from(self.shortcut) || x[rows..].iter().any(|s| *s != x[0]) {
            return Err(mismatch(self.name(), x, rule));
        }
        let y = output(self.name(), &x[..rows], rows, rule)?;
        if !self.running && per_channel(&y) < 2 {
            return Err(mismatch(self.name(), x, "needs more than one value per channel when training"));
        }
        Ok(y)
    }

    fn needs(&self) -> Needs {
        Needs { inputs: 7, output: true }
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        crate::dispatch!(y.dtype(), T => {
            let s = self.shortcut.then(|| x[self.rows()]);
            if let Device::Cuda(_) = y.device() {
                return cuda::forward::<T>(self, &x[..self.rows()], s, y);
            }
            let saved = given::<T>(&x[..self.rows()], self.eps);
            forward::<T>(x[0], s, &Affine::each(x[1], x[2], &saved[0], &saved[1]), true, y);
            Ok(saved)
        })
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        let by_m = by_m(&n.spec(0), self.running);
        let (rows, shortcut) = dx.split_at_mut(self.rows());
        crate::dispatch!(dy.dtype(), T => match (dy.device(), shortcut) {
            (Device::Cuda(_), shortcut) => cuda::backward::<T>(n, dy, rows, shortcut.first_mut(), by_m)?,
            (Device::Cpu, []) => batchnorm::backward::<T>(n, dy, rows, by_m, true),
            (Device::Cpu, [ds, ..]) => {
                let channels = Affine::each(n.x(1), n.x(2), &n.saved[0], &n.saved[1]);
                let mut d = Tensor::new(dy.spec());
                let sums = sums::<T>(n.x(0), dy, &channels, Gate::Output(n.y(), &mut d));
                from_sums::<T>(n, &d, rows, by_m, &channels, &sums, false);
                if ds.wanted() {
                    ds.give(&d)?;
                }
            }
        });
        Ok(())
    }

    fn rectifies(&self) -> bool {
        true
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        let each = if self.running { 4 } else { 9 };
        (each + u64::from(self.shortcut)) * x[0].shape.count() as u64
    }
}

// ---- CUDA

mod cuda {
    use super::*;
    use crate::device::cuda::Launch;
    use crate::device::cuda::kernels::{add, relu};

    /// x: the inputs of a batch norm; s, y like the first.
    pub fn forward<T: Element>(op: &NormRelu, x: &[&Tensor], s: Option<&Tensor>, y: &mut Tensor) -> Result<Saved> {
        let mut v = Tensor::new(y.spec());
        let saved = batchnorm::cuda::forward::<T>(x, op.eps, &mut v)?;
        let count = y.spec().stored();
        let at = Launch::each(y.device(), count, 256);
        if let Some(s) = s {
            add::accumulate::<T>(at, v.cuda_mut(), s.cuda(), count as i32)?;
        }
        relu::forward::<T>(at, v.cuda(), y.cuda_mut(), T::Acc::ZERO, count as i32)?;
        Ok(saved)
    }

    /// dy like y; dx: those of a batch norm, and that of s.
    pub fn backward<T: Element>(n: &Node, dy: &Tensor, dx: &mut [Slot], ds: Option<&mut Slot>, by_m: f64) -> Result<()> {
        let mut d = Tensor::new(dy.spec());
        let count = dy.spec().stored();
        let at = Launch::each(dy.device(), count, 256);
        relu::backward_input::<T>(at, n.y().cuda(), dy.cuda(), d.cuda_mut(), T::Acc::ZERO, count as i32, 0)?;
        batchnorm::cuda::backward::<T>(n, &d, dx, by_m)?;
        match ds {
            Some(ds) if ds.wanted() => ds.give(&d),
            _ => Ok(()),
        }
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let case = |name: String, shape: &[usize], running: bool, shortcut: bool| {
        let row = |draw| Input::sums([shape[1]], draw);
        let mut inputs = vec![Input::lanes(shape, Draw::Normal), row(Draw::Normal), row(Draw::Normal)];
        if running {
            inputs.extend([row(Draw::Normal).fixed(), row(Draw::Positive).fixed()]);
        }
        if shortcut {
            inputs.push(Input::lanes(shape, Draw::Normal));
        }
        Case::new(NormRelu { eps: 1e-5, running, shortcut }, name, inputs)
    };
    let mut cases = Vec::new();
    for n in BATCHES {
        cases.push(case(format!("n{n}"), &[n, 3, 4, 3], false, false));
        cases.push(case(format!("shortcut n{n}"), &[n, 3, 4, 3], false, true));
        cases.push(case(format!("running n{n}"), &[n, 3, 2, 3], true, false));
        cases.push(case(format!("running shortcut n{n}"), &[n, 3, 2, 3], true, true));
    }
    cases.push(case("features".into(), &[17, 5], false, false));
    cases
}
