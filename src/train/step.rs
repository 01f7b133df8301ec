//! One training step, and one pass of evaluation: the whole of learning in two functions, on any device.
//!
//! Read next: `shares.rs`, gradients by shares of the batch; `engine.rs`, which runs steps on a device and captures them; `trainer.rs`, which repeats them.

use super::distill::Teacher;
use super::metrics::Running;
use super::shares;
use crate::autograd::{Tape, Var};
use crate::data::Loader;
use crate::error::Result;
use crate::models::Model;
use crate::ops::cross_entropy::{self, CrossEntropy, Reduction};
use crate::optim::{Clock, Optimizer};
use crate::tensor::{DType, Spec, Tensor};

/// What a step needs beside the network and a batch.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Learning rate; on a GPU the optimiser's plan has it, and a captured step does not look here.
    pub lr: f64,
    /// Label smoothing of the loss.
    pub label_smoothing: f64,
    /// Seed of the run.
    pub seed: u64,
}

/// A step's forward on a tape: x `[N,C,H,W]`, labels `[N]` to the labels and logits there and the loss, a scalar.
pub(super) fn forward(
    model: &mut Model,
    tape: &mut Tape,
    (pictures, labels): (Tensor, Tensor),
    step: Tensor,
    s: &Setting,
    teacher: Option<&Teacher>,
) -> Result<[Var; 3]> {
    let x = tape.input(pictures.clone());
    let target = tape.input(labels);
    let logits = model.train(tape, x, s.seed, step)?;
    let mut loss = tape.apply(CrossEntropy { reduction: Reduction::Mean, label_smoothing: s.label_smoothing }, &[logits, target])?;
    if let Some(teacher) = teacher {
        loss = teacher.judge(tape, pictures, logits, loss)?;
    }
    Ok([target, logits, loss])
}

/// Runs the network on a batch, back-propagates the mean cross-entropy (or, with a teacher, the loss of `distill.rs`), and updates the weights.
///
/// `batch` is x `[N,C,H,W]` in lanes and labels `[N]` in i32. Adds the sum of the losses, the hits and the images of the batch to `totals`, f64 `[3]`.
/// On a GPU nothing here waits for it or reads from it, so the whole step can be captured.
pub fn train_step(
    model: &mut Model,
    optimizer: &mut Optimizer,
    clock: &mut Clock,
    totals: &mut Tensor,
    batch: (Tensor, Tensor),
    s: &Setting,
    teacher: Option<&Teacher>,
) -> Result<()> {
    let n = batch.1.shape().count();
    if teacher.is_none() && shares::possible(model, n) {
        shares::gradients(model, clock, totals, &batch, s)?;
    } else {
        // The tape shares the weights; they can be written once it is gone.
        let mut tape = Tape::new();
        let [target, logits, loss] = forward(model, &mut tape, batch, clock.step.clone(), s, teacher)?;
        cross_entropy::accumulate(tape.value(loss), n as f64, tape.value(logits), tape.value(target), totals)?;
        model.params.gradients.clear();
        let seed = clock.seed(tape.value(loss))?;
        tape.backward_from(loss, seed, &mut model.params.gradients)?;
    }
    clock.check(&model.params.gradients.runs())?;
    optimizer.take_step(&mut model.params, clock, s.lr)?;
    clock.advance(n)
}

/// An empty account of losses, hits and images, where the network computes.
pub fn totals(model: &Model) -> Tensor {
    Tensor::zeros(Spec::rows([3], DType::F64).on(model.device))
}

/// Runs the network in evaluation mode over the pictures with these numbers; `visit` sees each batch's labels and logits, where they are.
///
/// Gives the sums of the losses (without label smoothing) and of the hits.
pub fn evaluate(
    model: &Model,
    loader: &Loader,
    numbers: &[u32],
    batch: usize,
    mut visit: impl FnMut(&Tensor, &Tensor) -> Result<()>,
) -> Result<Running> {
    let mut totals = totals(model);
    for numbers in numbers.chunks(batch) {
        let (x, labels) = loader.batch(numbers)?;
        let logits = model.logits(x)?;
        let mut tape = Tape::inference();
        let inputs = [tape.input(logits.clone()), tape.input(labels.clone())];
        let loss = tape.apply(CrossEntropy { reduction: Reduction::Sum, label_smoothing: 0.0 }, &inputs)?;
        cross_entropy::accumulate(tape.value(loss), 1.0, &logits, &labels, &mut totals)?;
        visit(&labels, &logits)?;
    }
    Running::read(&totals)
}
