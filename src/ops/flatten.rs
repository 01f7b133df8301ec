//! Flatten: pictures to feature vectors, before the first linear layer.
//!
//! # Forward
//!
//! ```text
//! y[n, (c·H + h)·W + w] = x[n, c, h, w]
//! ```
//!
//! # Backward
//!
//! A renaming of indices, so its Jacobian is a permutation and its transpose the renaming back:
//!
//! ```text
//! dx[n, c, h, w] = dy[n, (c·H + h)·W + w]
//! ```
//!
//! In lanes both sides lie as `[ceil(N/L)][C·H·W][L]`: the numbers already are where they belong. So y is another view of x and
//! dx another view of dy; the cost is nothing, on any device.
//!
//! Read next: `linear.rs`.

use super::case::{BATCHES, Case, Draw, Input};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::error::Result;
use crate::tensor::{Layout, Spec, Tensor};

/// [N, ...] to [N, F], where F is the number of elements of one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flatten;

impl Op for Flatten {
    fn name(&self) -> &'static str {
        "flatten"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        match x {
            [x] if x.layout == Layout::Lanes && !x.shape.is_empty() => Ok(x.with_shape([x.shape[0], x.shape.per_image()])),
            _ => Err(mismatch(self.name(), x, "takes one activation [N, ...]")),
        }
    }

    fn needs(&self) -> Needs {
        Needs::NOTHING
    }

    fn alias(&self, x: &Tensor) -> Option<Tensor> {
        Some(x.reshape([x.shape()[0], x.shape().per_image()]))
    }

    /// For a caller that brings its own y; the tape takes [`Op::alias`].
    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        let x = x[0].reshape(y.shape());
        y.copy_from(&x);
        Ok(Saved::new())
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        if dx[0].wanted() {
            dx[0].give(&dy.reshape(n.spec(0).shape))?;
        }
        Ok(())
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let case = |shape: &[usize]| Case::new(Flatten, format!("{shape:?}"), vec![Input::lanes(shape, Draw::Normal)]);
    let mut cases = BATCHES.map(|n| case(&[n, 3, 3, 2])).to_vec();
    cases.push(case(&[2, 5]));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Tape;
    use crate::tensor::DType;

    #[test]
    fn no_number_moves() {
        let x = Tensor::from_values(Spec::lanes([2, 2, 1, 3], DType::F32), &(0..12).map(f64::from).collect::<Vec<_>>());
        let mut tape = Tape::new();
        let v = tape.leaf(x.clone());
        let y = tape.apply(Flatten, &[v]).unwrap();
        let y = tape.value(y);
        assert_eq!(y.shape(), [2, 6].into());
        assert_eq!(y.values(), x.values());
        assert!(std::ptr::eq(y.data::<f32>(), x.data::<f32>()));

        let mut copy = Tensor::zeros(y.spec());
        Flatten.forward(&[&x], &mut copy).unwrap();
        assert_eq!(copy.values(), x.values());
    }
}
