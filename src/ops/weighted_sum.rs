//! A sum of values with constant factors: a loss made of several, logits divided by a temperature.
//!
//! # Forward
//!
//! ```text
//! y = Σ_i a_i·x_i
//! ```
//!
//! element by element; the x_i have one shape, the a_i are plain numbers. With one x it is a scaling.
//!
//! # Backward
//!
//! dy/dx_i = a_i at each element, so each x_i gets its share of the gradient:
//!
//! ```text
//! dx_i = a_i·dy
//! ```
//!
//! Cost per element and x: one multiply-add; each pass reads one number and writes one. Bound by memory.
//!
//! Read next: `kl_div.rs`, which distillation weighs against the cross-entropy (`train/distill.rs`).

use super::case::{BATCHES, Case, Draw, Input};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::simd;
use crate::tensor::{Element, Layout, Spec, Stored, Tensor};
use rayon::prelude::*;

/// y = Σ a_i·x_i, element by element: activations in lanes, or rows in the type of sums, such as losses.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedSum {
    /// The factors, one for each input.
    pub weights: Vec<f64>,
}

impl Op for WeightedSum {
    fn name(&self) -> &'static str {
        "weighted_sum"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        match x {
            [first, rest @ ..]
                if x.len() == self.weights.len()
                    && rest.iter().all(|s| s == first)
                    && (first.layout == Layout::Lanes || first.dtype == first.dtype.acc()) =>
            {
                Ok(*first)
            }
            _ => {
                let rule = format!("takes {} values of the same shape and dtype, losses in the type of sums", self.weights.len());
                Err(mismatch(self.name(), x, rule))
            }
        }
    }

    fn needs(&self) -> Needs {
        Needs::NOTHING
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        for (i, (x, &weight)) in x.iter().zip(&self.weights).enumerate() {
            add_scaled(x, weight, y, i > 0)?;
        }
        Ok(Saved::new())
    }

    fn backward(&self, _: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        for (dx, &weight) in dx.iter_mut().zip(&self.weights).filter(|(dx, _)| dx.wanted()) {
            let (dx, add) = dx.open();
            add_scaled(dy, weight, dx, add)?;
        }
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        x.iter().map(|x| 2 * x.shape.count() as u64).sum()
    }
}

/// y = a·x, or y += a·x: both passes. x, y: one shape, any layout.
fn add_scaled(x: &Tensor, a: f64, y: &mut Tensor, add: bool) -> Result<()> {
    crate::dispatch!(y.dtype(), T => match y.device() {
        Device::Cpu => cpu::<T>(x, a, y, add),
        Device::Cuda(_) => cuda::add_scaled::<T>(x, a, y, add)?,
    });
    Ok(())
}

// ---- CPU

/// Numbers that one task works on: 64 KB of f32.
const CHUNK: usize = 16 << 10;

/// x, y: one shape, any layout.
fn cpu<T: Element>(x: &Tensor, a: f64, y: &mut Tensor, add: bool) {
    simd! {
        fn run<T: Element>(x: &[T], y: &mut [T], a: T::Acc, add: bool) {
            for (x, y) in x.iter().zip(y) {
                *y = T::down(if add { a * x.up() + y.up() } else { a * x.up() });
            }
        }
    }
    let a = T::Acc::from_f64(a);
    let y = y.data_mut::<T>().par_chunks_mut(CHUNK);
    x.data::<T>().par_chunks(CHUNK).zip(y).for_each(|(x, y)| run::<T>(x, y, a, add));
}

// ---- CUDA

mod cuda {
    use super::*;
    use crate::device::cuda::{Launch, kernels::weighted_sum as kernel};

    /// x, y: one shape, any layout.
    pub fn add_scaled<T: Element>(x: &Tensor, a: f64, y: &mut Tensor, add: bool) -> Result<()> {
        let count = y.spec().stored();
        let at = Launch::each(y.device(), count, 256);
        kernel::add_scaled::<T>(at, x.cuda(), y.cuda_mut(), T::Acc::from_f64(a), count as i32, add.into())
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name: String, weights: &[f64], input: Input| {
        let op = WeightedSum { weights: weights.to_vec() };
        cases.push(Case::new(op, format!("{name} weights {weights:?}").replace(", ", " "), vec![input; weights.len()]));
    };
    for n in BATCHES {
        case(format!("n{n}"), &[0.25], Input::lanes([n, 3], Draw::Normal));
        case(format!("n{n}"), &[2.0, -0.5], Input::lanes([n, 2, 3, 2], Draw::Normal));
    }
    case("losses".into(), &[0.9, 0.1, 1.0], Input::sums([1], Draw::Normal));
    case("losses".into(), &[0.5], Input::sums([5], Draw::Normal));
    cases
}
