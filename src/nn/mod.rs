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

/// What a network's run may do with its numbers.
#[derive(Debug)]
pub enum Mode<'a> {
    /// Batch statistics, which update the running ones, and dropout.
    Training(&'a mut Params),
    /// Running statistics, no dropout: nothing is written, so that several threads can run it.
    Evaluation(&'a Params),
}

impl Mode<'_> {
    /// The numbers to be updated, in training.
    pub fn training(&mut self) -> Option<&mut Params> {
        match self {
            Mode::Training(params) => Some(params),
            Mode::Evaluation(_) => None,
        }
    }
}

impl std::ops::Deref for Mode<'_> {
    type Target = Params;

    fn deref(&self) -> &Params {
        match self {
            Mode::Training(params) => params,
            Mode::Evaluation(params) => params,
        }
    }
}

/// One run of a network: the tape that is written, and the parameters that are read.
#[derive(Debug)]
pub struct Forward<'a> {
    /// What is recorded.
    pub tape: &'a mut Tape,
    /// Weights and running statistics, and the mode.
    pub params: Mode<'a>,
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
