//! One training step, and one pass of evaluation: the whole of learning in two functions.
//!
//! Read next: `trainer.rs`, which repeats them.

use super::metrics::Running;
use crate::autograd::Tape;
use crate::data::Loader;
use crate::error::{Error, Result};
use crate::models::Model;
use crate::ops::cross_entropy::{self, CrossEntropy, Reduction};
use crate::optim::Optimizer;
use crate::tensor::Tensor;

/// What a step needs beside the network and a batch.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Learning rate.
    pub lr: f64,
    /// Label smoothing of the loss.
    pub label_smoothing: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the step, from 0.
    pub step: u64,
}

/// Runs the network on a batch, back-propagates the mean cross-entropy, and updates the weights.
///
/// x `[N,C,H,W]` in lanes, labels `[N]` in i32. Gives the sum of the losses and the hits of the batch, before the update.
pub fn train_step(model: &mut Model, optimizer: &mut Optimizer, x: Tensor, labels: Tensor, s: &Setting) -> Result<Running> {
    let n = labels.shape().count();
    let mut tape = Tape::new();
    let x = tape.input(x);
    let target = tape.input(labels);
    let logits = model.train(&mut tape, x, s.seed, s.step)?;
    let loss = tape.apply(CrossEntropy { reduction: Reduction::Mean, label_smoothing: s.label_smoothing }, &[logits, target])?;
    let mean = tape.value(loss).item();
    if !mean.is_finite() {
        return Err(Error::run(format!("the loss became {mean} at step {}", s.step))
            .hint("lower --lr, or look at the data; the checkpoints of finished epochs are intact"));
    }
    let hits = cross_entropy::hits(tape.value(logits), tape.value(target));
    model.params.gradients.clear();
    tape.backward(loss, &mut model.params.gradients)?;
    // The tape shares the weights; they can be written once it is gone.
    drop(tape);
    optimizer.step(&mut model.params, s.lr);
    let mut outcome = Running::default();
    outcome.add(mean * n as f64, hits as u64, n as u64);
    Ok(outcome)
}

/// Runs the network in evaluation mode over the pictures with these numbers; `visit` sees each batch's labels and logits.
///
/// Gives the sums of the losses (without label smoothing) and of the hits.
pub fn evaluate(
    model: &mut Model,
    loader: &Loader,
    numbers: &[u32],
    batch: usize,
    mut visit: impl FnMut(&Tensor, &Tensor) -> Result<()>,
) -> Result<Running> {
    let mut sums = Running::default();
    for numbers in numbers.chunks(batch) {
        let (x, labels) = loader.batch(numbers);
        let logits = model.logits(x)?;
        let mut tape = Tape::inference();
        let inputs = [tape.input(logits.clone()), tape.input(labels.clone())];
        let loss = tape.apply(CrossEntropy { reduction: Reduction::Sum, label_smoothing: 0.0 }, &inputs)?;
        sums.add(tape.value(loss).item(), cross_entropy::hits(&logits, &labels) as u64, numbers.len() as u64);
        visit(&labels, &logits)?;
    }
    Ok(sums)
}
