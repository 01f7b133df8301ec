//! Gradient clipping: gradients that are held to a length, or each number of them to a bound, before the optimiser sees them.
//!
//! With the gradients g of all parameters as one vector (Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural
//! networks"), as PyTorch's `clip_grad_norm_(parameters, most)` and `clip_grad_value_(parameters, most)` do it:
//!
//! ```text
//! norm:   |g| = √(Σ g²)        g = g·min(1, most/(|g| + 1e-6))      the direction stays
//! value:                       g = min(max(g, -most), most)
//! ```
//!
//! The loss scale of f16 is taken out first: on the CPU the gradients are divided by it already, on a GPU the optimiser does that later, and
//! here only |g| is, or the bound is multiplied by it; it is a power of two, so the numbers are the same. The sum of squares is kept in f64 and
//! added in a fixed order. If the norm is not finite, all stays as it is, so that one can see which parameter's gradient it was; PyTorch would make
//! all of them NaN. Nothing here waits for a GPU or reads from it, so it is captured with the step.
//!
//! Read next: `average.rs`.

use super::Clock;
use crate::autograd::Gradients;
use crate::device::Device;
use crate::device::cuda::{Launch, kernels::optimizer as kernel};
use crate::error::Result;
use crate::nn::Params;
use crate::tensor::{DType, Element, Real, Spec, Tensor, span, span_mut};
use rayon::prelude::*;

/// What gradients are held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// The norm of all gradients together.
    Norm(f64),
    /// The size of each number.
    Value(f64),
}

/// A limit at work on the gradients of one network.
#[derive(Debug)]
pub struct Clip {
    limit: Limit,
    /// What the gradients of the last step were multiplied by, one number in the type of sums.
    factor: Tensor,
    /// On a GPU: room for the sums of squares of pieces, f64.
    sums: Option<Tensor>,
}

/// Numbers whose squares one block of a GPU, or one task, adds up.
const PIECE: usize = 4096;

impl Clip {
    /// For the gradients of these parameters.
    pub fn new(limit: Limit, params: &Params) -> Self {
        let (dtype, device) = params.values().first().map_or((DType::F32, Device::Cpu), |w| (w.dtype(), w.device()));
        let factor = Tensor::from_values(Spec::rows([1], dtype).on(device), &[1.0]);
        // Each run of neighbours ends in a piece of its own, and there are no more runs than parameters.
        let pieces: usize = params.values().iter().map(|w| w.shape().count().div_ceil(PIECE) + 1).sum();
        let sums = (device != Device::Cpu).then(|| Tensor::zeros(Spec::rows([pieces], DType::F64).on(device)));
        Self { limit, factor, sums }
    }

    /// Holds the gradients of the last backward to the limit.
    pub(super) fn apply(&mut self, gradients: &mut Gradients, clock: &Clock) -> Result<()> {
        crate::dispatch!(sums self.factor.dtype(), A => match self.factor.device() {
            Device::Cpu => {
                self.here::<A>(gradients);
                Ok(())
            }
            device @ Device::Cuda(_) => self.there::<A>(device, gradients, clock),
        })
    }

    /// What the gradients of the last step were multiplied by to make them as short as they are. Waits for the device.
    pub fn factor(&self) -> Result<f64> {
        Ok(self.factor.read()?[0])
    }

    fn here<A: Real>(&mut self, gradients: &mut Gradients) {
        fn each<A: Real>(gradients: &mut Gradients, change: impl Fn(A) -> A + Sync) {
            for dw in gradients.runs_mut().into_iter().flatten() {
                dw.data_mut::<A>().par_chunks_mut(PIECE).for_each(|piece| piece.iter_mut().for_each(|g| *g = change(*g)));
            }
        }
        match self.limit {
            Limit::Norm(most) => {
                let square = |sum: f64, g: &A| sum + g.to_f64() * g.to_f64();
                let all = gradients.runs().into_iter().flatten();
                let of =
                    |dw: &Tensor| -> Vec<f64> { dw.data::<A>().par_chunks(PIECE).map(|piece| piece.iter().fold(0.0, square)).collect() };
                let norm = all.flat_map(of).sum::<f64>().sqrt();
                let factor = if norm.is_finite() { (most / (norm + 1e-6)).min(1.0) } else { 1.0 };
                self.factor = Tensor::from_values(self.factor.spec(), &[factor]);
                let factor = A::from_f64(factor);
                each(gradients, |g: A| g * factor);
            }
            Limit::Value(most) => {
                let most = A::from_f64(most);
                // NaN is neither larger nor smaller.
                each(gradients, |g: A| {
                    if g > most {
                        most
                    } else if g < -most {
                        -most
                    } else {
                        g
                    }
                });
            }
        }
    }

    fn there<A: Element<Acc = A>>(&mut self, device: Device, gradients: &mut Gradients, clock: &Clock) -> Result<()> {
        let (_, scale) = clock.verdict_there::<A>();
        if let (Limit::Norm(most), Some(sums)) = (self.limit, &mut self.sums) {
            let mut pieces = 0;
            for run in gradients.runs() {
                let (dw, count) = span::<A>(run);
                let blocks = count.div_ceil(PIECE);
                kernel::squares::<A>(Launch::new(device, [blocks, 1, 1], [256, 1, 1]), dw, sums.cuda_mut(), pieces as i32, count as i32)?;
                pieces += blocks;
            }
            let at = Launch::new(device, [1, 1, 1], [256, 1, 1]);
            kernel::clip_factor::<A>(at, sums.cuda(), scale, self.factor.cuda_mut(), most, pieces as i32)?;
        }
        for run in gradients.runs_mut() {
            let (dw, count) = span_mut::<A>(run);
            let at = Launch::each(device, count, 256);
            match self.limit {
                Limit::Norm(_) => kernel::clip_norm::<A>(at, dw, self.factor.cuda(), count as i32)?,
                Limit::Value(most) => kernel::clip_value::<A>(at, dw, scale, A::from_f64(most), count as i32)?,
            }
        }
        Ok(())
    }
}
