//! The sum of two activations: the joint of a residual block.
//!
//! # Forward
//!
//! ```text
//! y = a + b
//! ```
//!
//! element by element; a and b have one shape, nothing is broadcast.
//!
//! # Backward
//!
//! dy/da = dy/db = 1 at each element, so the gradient flows to both sides unchanged:
//!
//! ```text
//! da = dy        db = dy
//! ```
//!
//! That is why a shortcut helps a deep network: through it, the gradient reaches the early layers undiminished. Nothing is read
//! and, when dy is the first contribution to a slot, nothing is moved: the slot takes a share of dy's buffer. For a = b the tape
//! adds the two contributions and gives 2·dy, as d(2a)/da must be.
//!
//! Cost per element: one addition; forward moves 3 numbers, backward none (or 3 where a gradient is already there). Bound by
//! memory.
//!
//! Read next: `flatten.rs`.

use super::case::{BATCHES, Case, Draw, Input};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::simd;
use crate::tensor::{Element, Layout, Spec, Tensor};
use rayon::prelude::*;

/// y = a + b, element by element; two activations of one spec.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        match x {
            [a, b] if a == b && a.layout == Layout::Lanes => Ok(*a),
            _ => Err(mismatch(self.name(), x, "takes two activations [N, ...] of the same shape and dtype")),
        }
    }

    fn needs(&self) -> Needs {
        Needs::NOTHING
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        crate::dispatch!(y.dtype(), T => match y.device() {
            Device::Cpu => forward::<T>(x[0], x[1], y),
            Device::Cuda(_) => cuda::forward::<T>(x[0], x[1], y)?,
        });
        Ok(Saved::new())
    }

    fn backward(&self, _: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        for dx in dx.iter_mut().filter(|dx| dx.wanted()) {
            dx.give(dy)?;
        }
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        x[0].shape.count() as u64
    }
}

// ---- CPU

/// Numbers that one task works on: 64 KB of f32.
const CHUNK: usize = 16 << 10;

/// a, b, y: any one shape in lanes.
fn forward<T: Element>(a: &Tensor, b: &Tensor, y: &mut Tensor) {
    simd! {
        fn run<T: Element>(a: &[T], b: &[T], y: &mut [T]) {
            for ((a, b), y) in a.iter().zip(b).zip(y) {
                *y = T::down(a.up() + b.up());
            }
        }
    }
    let y = y.lanes_mut::<T>().as_flattened_mut().par_chunks_mut(CHUNK);
    let b = b.lanes::<T>().as_flattened().par_chunks(CHUNK);
    a.lanes::<T>().as_flattened().par_chunks(CHUNK).zip(b).zip(y).for_each(|((a, b), y)| run::<T>(a, b, y));
}

// ---- CUDA

mod cuda {
    use super::*;
    use crate::device::cuda::{Launch, kernels::add as kernel};

    /// a, b, y: any one shape in lanes.
    pub fn forward<T: Element>(a: &Tensor, b: &Tensor, y: &mut Tensor) -> Result<()> {
        let count = y.spec().stored();
        kernel::forward::<T>(Launch::each(y.device(), count, 256), a.cuda(), b.cuda(), y.cuda_mut(), count as i32)
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let case = |n: usize| {
        let x = Input::lanes([n, 3, 3, 2], Draw::Normal);
        Case::new(Add, format!("n{n}"), vec![x, x])
    };
    let mut cases = BATCHES.map(case).to_vec();
    let x = Input::lanes([3, 5], Draw::Normal);
    cases.push(Case::new(Add, "features", vec![x, x]));
    cases.push(Case::new(Add, "one side wanted", vec![x.fixed(), x]));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Gradients, Tape};
    use crate::tensor::DType;

    fn tensor(values: &[f64]) -> Tensor {
        Tensor::from_values(Spec::lanes([1, values.len()], DType::F32), values)
    }

    #[test]
    fn a_value_added_to_itself_has_twice_the_gradient() {
        let mut tape = Tape::new();
        let x = tape.leaf(tensor(&[1.0, -2.0]));
        let y = tape.apply(Add, &[x, x]).unwrap();
        assert_eq!(tape.value(y).values(), [2.0, -4.0]);
        tape.backward_from(y, tensor(&[3.0, 5.0]), &mut Gradients::default()).unwrap();
        assert_eq!(tape.gradient(x).unwrap().values(), [6.0, 10.0]);
    }

    /// z = (x + x) + x: the gradient that lies at x already must not be lost, and the shared dy must not be written to.
    #[test]
    fn contributions_pile_up_without_touching_a_shared_buffer() {
        let mut tape = Tape::new();
        let x = tape.leaf(tensor(&[1.0, -2.0]));
        let other = tape.leaf(tensor(&[0.0, 0.0]));
        let y = tape.apply(Add, &[x, x]).unwrap();
        let z = tape.apply(Add, &[y, other]).unwrap();
        let z = tape.apply(Add, &[x, z]).unwrap();
        tape.backward_from(z, tensor(&[3.0, 5.0]), &mut Gradients::default()).unwrap();
        assert_eq!(tape.gradient(x).unwrap().values(), [9.0, 15.0]);
        assert_eq!(tape.gradient(other).unwrap().values(), [3.0, 5.0]);
    }

    #[test]
    fn shapes_and_dtypes_must_agree() {
        let a = Spec::lanes([2, 3], DType::F32);
        for b in [Spec::lanes([2, 4], DType::F32), Spec::lanes([2, 3], DType::F64), Spec::rows([2, 3], DType::F32)] {
            assert!(Add.output(&[a, b]).unwrap_err().message.contains("same shape"));
        }
        assert!(Add.output(&[a]).is_err());
    }
}
