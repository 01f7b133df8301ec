//! The ops: one page each, mathematics first, then the code of each device.
//!
//! Adding an op is: a page here with its `cases()`, and one line in [`cases`] below. Gradient checks, precision parity and the
//! table of `cugrad check` follow from the cases without another edit. Read first: `relu.rs` (the shortest), then `linear.rs`,
//! then `conv2d.rs`.

pub mod add;
mod amx;
pub mod avgpool2d;
pub mod batchnorm;
pub mod case;
pub mod conv2d;
mod correlate;
pub mod cross_entropy;
pub mod dropout;
mod finish;
pub mod flatten;
pub mod kl_div;
pub mod linear;
pub mod maxpool2d;
mod moments;
pub mod norm_relu;
pub mod norm_relu_pool;
mod normalise;
pub mod relu;
pub mod softmax;
mod taps;
mod tile;
pub mod weighted_sum;
mod window;
mod winograd;

pub use case::Case;

use crate::autograd::Slot;
use crate::device::cuda::Mut;
use crate::tensor::{Element, Real, Stored, Tensor};
use std::borrow::Cow;

/// Every case of every op, in the order in which the pages are best read.
pub fn cases() -> Vec<Case> {
    [
        relu::cases(),
        add::cases(),
        flatten::cases(),
        linear::cases(),
        conv2d::cases(),
        maxpool2d::cases(),
        avgpool2d::cases(),
        batchnorm::cases(),
        norm_relu::cases(),
        norm_relu_pool::cases(),
        dropout::cases(),
        softmax::cases(),
        cross_entropy::cases(),
        kl_div::cases(),
        weighted_sum::cases(),
    ]
    .concat()
}

/// A parameter in the type of sums; a copy where it is stored in another.
fn sums<T: Element>(w: &[T]) -> Cow<'_, [T::Acc]> {
    match T::as_acc(w.as_chunks::<1>().0) {
        Some(w) => Cow::Borrowed(w.as_flattened()),
        None => w.iter().map(|w| w.up()).collect(),
    }
}

/// A parameter's gradient for a kernel, null if nobody wants it, and whether to add to what is there.
fn gradient<T: Element>(slot: &mut Slot) -> (Mut<'_, T::Acc>, i32) {
    if !slot.wanted() {
        return (Mut::null(), 0);
    }
    let (dw, add) = slot.open();
    (dw.cuda_mut(), add.into())
}

/// Writes sums to a parameter's gradient in its own dtype, or adds them to what is there; does nothing if nobody wants it.
fn put<A: Real>(slot: &mut Slot, sums: &[A]) {
    fn run<T: Stored, A: Real>(dw: &mut Tensor, sums: &[A], add: bool) {
        for (dw, sum) in dw.data_mut::<T>().iter_mut().zip(sums) {
            *dw = T::from_f64(if add { dw.to_f64() + sum.to_f64() } else { sum.to_f64() });
        }
    }
    if slot.wanted() {
        let (dw, add) = slot.open();
        crate::dispatch!(dw.dtype(), T => run::<T, A>(dw, sums, add));
    }
}
