//! Layers: ops with parameters, and their composition.
//!
//! A [`Module`] is built once with a [`Builder`], which collects the names, shapes and first values of all parameters, and then
//! run on a tape as often as one likes. It holds no numbers itself: they are in [`Params`], one flat arena. Not here: whole
//! networks (`models`). Read in this order: `params.rs`, `layers.rs`.

pub mod layers;
pub mod params;

pub use layers::{Module, Sequential};
pub use params::{BufferId, Builder, Init, ParamId, Params};

use crate::autograd::{Op, Tape, Var};
use crate::error::Result;
use crate::tensor::Tensor;
use std::sync::Arc;

/// One run of a network: the tape that is written, the parameters that are read, and the mode.
#[derive(Debug)]
pub struct Forward<'a> {
    /// What is recorded.
    pub tape: &'a mut Tape,
    /// Weights, and the running statistics that a training run updates.
    pub params: &'a mut Params,
    /// Training (batch statistics, dropout) or evaluation (running statistics, no dropout).
    pub training: bool,
    /// Seed of the run's random numbers.
    pub seed: u64,
    /// In training: the part of running statistics that comes from this batch (PyTorch's momentum).
    pub momentum: f64,
    /// Number of the step, so that every step draws its own, as dropout takes it; none in evaluation.
    pub step: Option<Tensor>,
}

impl Forward<'_> {
    /// Puts a parameter on the tape; a frozen one as a value whose gradient nobody wants.
    pub fn param(&mut self, id: ParamId) -> Var {
        let value = self.params.working(id).clone();
        if self.params.is_frozen(id) { self.tape.input(value) } else { self.tape.param(id.0, value) }
    }

    /// Runs an op for a layer.
    pub fn apply(&mut self, label: &Arc<str>, op: impl Op + 'static, inputs: &[Var]) -> Result<Var> {
        self.tape.apply_at(label, Arc::new(op), inputs)
    }
}
