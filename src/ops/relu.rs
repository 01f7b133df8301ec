//! ReLU and leaky ReLU.
//!
//! # Forward
//!
//! ```text
//! y = x        if x > 0
//!     slope·x  otherwise
//! ```
//!
//! with slope = 0 for ReLU and 0.01 for PyTorch's default leaky ReLU.
//!
//! # Backward
//!
//! The function acts on each element by itself, so its Jacobian is diagonal:
//!
//! ```text
//! dx = dy        if x > 0
//!      slope·dy  otherwise
//! ```
//!
//! For slope >= 0, y > 0 exactly where x > 0, so the output alone tells which branch was taken, and x can be freed. At x = 0 the
//! derivative does not exist; like PyTorch we take the lower branch.
//!
//! Cost per element: one comparison and one multiplication; forward moves 2 numbers, backward 3. It is bound by memory.
//!
//! Read next: `linear.rs`.

use super::case::{BATCHES, Case, Draw, Input};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::simd;
use crate::tensor::{Element, Layout, Real, Spec, Stored, Tensor};
use rayon::prelude::*;

/// y = max(x, slope·x), element by element; any shape in lanes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Relu {
    /// The slope for x <= 0: 0 for ReLU; at least 0 and below 1.
    pub slope: f64,
}

impl Op for Relu {
    fn name(&self) -> &'static str {
        if self.slope == 0.0 { "relu" } else { "leaky_relu" }
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        match x {
            [x] if x.layout == Layout::Lanes => Ok(*x),
            _ => Err(mismatch(self.name(), x, "takes one activation [N, ...]")),
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

    fn rectifies(&self) -> bool {
        self.slope == 0.0
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        x[0].shape.count() as u64
    }
}

// ---- CPU

/// Numbers that one task works on: 64 KB of f32.
const CHUNK: usize = 16 << 10;

/// x, y: any shape in lanes.
fn forward<T: Element>(op: &Relu, x: &Tensor, y: &mut Tensor) {
    simd! {
        fn run<T: Element>(x: &[T], y: &mut [T], slope: T::Acc) {
            for (x, y) in x.iter().zip(y) {
                let x = x.up();
                *y = T::down(if x > T::Acc::ZERO { x } else { slope * x });
            }
        }
    }
    let slope = T::Acc::from_f64(op.slope);
    let y = y.lanes_mut::<T>().as_flattened_mut().par_chunks_mut(CHUNK);
    x.lanes::<T>().as_flattened().par_chunks(CHUNK).zip(y).for_each(|(x, y)| run::<T>(x, y, slope));
}

/// y, dy, dx: any shape in lanes.
fn backward_input<T: Element>(op: &Relu, y: &Tensor, dy: &Tensor, dx: &mut Slot) {
    simd! {
        fn run<T: Element>(y: &[T], dy: &[T], dx: &mut [T], slope: T::Acc, add: bool) {
            for ((y, dy), dx) in y.iter().zip(dy).zip(dx) {
                let d = if y.up() > T::Acc::ZERO { dy.up() } else { slope * dy.up() };
                *dx = T::down(if add { d + dx.up() } else { d });
            }
        }
    }
    let (dx, add) = dx.open();
    let slope = T::Acc::from_f64(op.slope);
    let dx = dx.lanes_mut::<T>().as_flattened_mut().par_chunks_mut(CHUNK);
    let dy = dy.lanes::<T>().as_flattened().par_chunks(CHUNK);
    y.lanes::<T>().as_flattened().par_chunks(CHUNK).zip(dy).zip(dx).for_each(|((y, dy), dx)| run::<T>(y, dy, dx, slope, add));
}

// ---- CUDA

mod cuda {
    use super::*;
    use crate::device::cuda::{Launch, kernels::relu as kernel};

    /// x, y: any shape in lanes.
    pub fn forward<T: Element>(op: &Relu, x: &Tensor, y: &mut Tensor) -> Result<()> {
        let (slope, count) = (T::Acc::from_f64(op.slope), y.spec().stored());
        kernel::forward::<T>(Launch::each(y.device(), count, 256), x.cuda(), y.cuda_mut(), slope, count as i32)
    }

    /// y, dy, dx: any shape in lanes.
    pub fn backward_input<T: Element>(op: &Relu, y: &Tensor, dy: &Tensor, dx: &mut Slot) -> Result<()> {
        let (dx, add) = dx.open();
        let (slope, count) = (T::Acc::from_f64(op.slope), dy.spec().stored());
        let at = Launch::each(dy.device(), count, 256);
        kernel::backward_input::<T>(at, y.cuda(), dy.cuda(), dx.cuda_mut(), slope, count as i32, add.into())
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for n in BATCHES {
        for slope in [0.0, 0.01] {
            let shape = [n, 3, 3, 2];
            cases.push(Case::new(Relu { slope }, format!("n{n} slope {slope}"), vec![Input::lanes(shape, Draw::AwayFromZero)]));
        }
    }
    cases
}
