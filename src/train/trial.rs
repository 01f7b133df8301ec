//! Trials of a network before it is trained, which leave nothing behind: one step and one batch of validation, and learning one batch by
//! heart.
//!
//! A network that is put together rightly begins with the loss of guessing, ln(classes), and can learn a single batch until the loss is
//! all but 0; one that cannot has a mistake that no amount of data will mend. Not here: how the outcome is shown (`cli/trial.rs`).
//! Read next: `history.rs`.

use super::engine::Engine;
use super::metrics::Running;
use super::step::{Setting, evaluate, totals};
use super::trainer::{EVAL_BATCH, Trainer, cut};
use super::watch::{self, health, nonfinite};
use crate::autograd::Tape;
use crate::autograd::tape::Line;
use crate::device::memory;
use crate::error::{Error, Result};
use crate::models::MOMENTUM;
use crate::ops::cross_entropy::{self, CrossEntropy, Reduction};
use crate::optim::{Clock, LossScale};
use crate::tensor::{Layout, Spec, Tensor};

/// A network has learned a batch by heart when the loss is below this.
pub const BY_HEART: f64 = 0.01;

/// One op as it ran.
#[derive(Debug)]
pub struct Layer {
    /// The layer's path; empty for an op outside any.
    pub label: String,
    /// The op.
    pub op: &'static str,
    /// What it read of other ops.
    pub inputs: Vec<Spec>,
    /// What it read of parameters and tables.
    pub parameters: Vec<Spec>,
    /// What it wrote.
    pub output: Spec,
}

/// What one step and one batch of validation came to.
#[derive(Debug)]
pub struct DryRun {
    /// The ops of the step's forward.
    pub layers: Vec<Layer>,
    /// Sums over the step's images.
    pub train: Running,
    /// Sums over one batch of validation images, after the step; of training images if there are no others.
    pub val: Running,
    /// The norm of the step's gradient.
    pub grad_norm: f64,
    /// The most memory that tensors took, in bytes.
    pub peak: usize,
}

/// How one batch was learned.
#[derive(Debug)]
pub struct Overfit {
    /// Images of the batch.
    pub images: usize,
    /// Steps taken.
    pub steps: u64,
    /// The loss before each of them.
    pub losses: Vec<f64>,
}

impl Trainer<'_> {
    /// Takes one step and judges one batch.
    pub fn dry_run(&mut self) -> Result<DryRun> {
        let loader = self.loader()?;
        let steps = cut(self.train.len(), self.config.batch);
        let numbers: Vec<u32> = self.train[steps[0].clone()].to_vec();
        let layers = self.layers(loader.batch(&numbers)?)?;
        let mut engine = Engine::new(&self.model, loader, self.config.augment()?, LossScale::default(), false);
        self.begin(&mut engine, &steps);
        self.step(&mut engine, &steps)?;
        let train = engine.read()?;
        if !train.loss().is_finite() {
            return Err(self.failed(&engine, &steps, train.loss())?);
        }
        let grad_norm = engine.grad_norm(&self.model, &self.optimizer)?;
        let judged = if self.val.is_empty() { &self.train } else { &self.val };
        let numbers = &judged[..judged.len().min(EVAL_BATCH)];
        let val = evaluate(&self.model, engine.loader(), numbers, EVAL_BATCH, |_, _| Ok(()))?;
        Ok(DryRun { layers, train, val, grad_norm, peak: memory::usage().peak })
    }

    /// The ops of a training step's forward on a batch.
    fn layers(&mut self, (x, labels): (Tensor, Tensor)) -> Result<Vec<Layer>> {
        let step = Clock::new(self.model.dtype, self.model.device, LossScale::default()).step;
        let mut tape = Tape::new();
        let (x, target) = (tape.input(x), tape.input(labels));
        let logits = self.model.train(&mut tape, x, self.config.seed, step)?;
        tape.apply(self.loss(), &[logits, target])?;
        let layer = |line: Line| {
            let (inputs, parameters) = line.specs.iter().copied().partition(|spec: &Spec| spec.layout == Layout::Lanes);
            Layer { label: line.label.into(), op: line.op.name(), inputs, parameters, output: line.spec }
        };
        Ok(tape.lines().map(layer).collect())
    }

    fn loss(&self) -> CrossEntropy {
        CrossEntropy { reduction: Reduction::Mean, label_smoothing: self.config.label_smoothing }
    }

    /// Learns the first batch of the training images by heart: at the run's learning rate, which stays as it is, without augmentation,
    /// dropout and label smoothing. Ends below [`BY_HEART`], or after `most` steps with an error that says what is wrong.
    pub fn overfit(&mut self, most: u64) -> Result<Overfit> {
        let loader = self.loader()?;
        let numbers: Vec<u32> = self.train[cut(self.train.len(), self.config.batch)[0].clone()].to_vec();
        let (x, labels) = loader.batch(&numbers)?;
        let (images, lr) = (numbers.len(), self.config.lr);
        let mut clock = Clock::new(self.model.dtype, self.model.device, LossScale::default());
        self.optimizer.plan(&self.model.params, most as usize, (0..most).map(|_| (lr, None)));
        let mut losses = Vec::new();
        let mut account = totals(&self.model);
        let mut before = Running::default();
        loop {
            let mut tape = Tape::new();
            let (x_var, target) = (tape.input(x.clone()), tape.input(labels.clone()));
            let logits = self.model.train_plain(&mut tape, x_var, MOMENTUM)?;
            let loss = tape.apply(CrossEntropy { reduction: Reduction::Mean, label_smoothing: 0.0 }, &[logits, target])?;
            cross_entropy::accumulate(tape.value(loss), images as f64, tape.value(logits), tape.value(target), &mut account)?;
            let now = Running::read(&account)?;
            let (value, steps) = (now.since(&before).loss(), losses.len() as u64);
            before = now;
            losses.push(value);
            if value < BY_HEART {
                return Ok(Overfit { images, steps, losses });
            }
            if !value.is_finite() {
                drop(tape);
                let s = Setting { lr, label_smoothing: 0.0, seed: self.config.seed };
                let found = nonfinite::find(&mut self.model, clock.step.clone(), (x, labels), &s, None)?;
                return Err(Error::run(format!("the loss became {value} at step {steps}: {found}")).hint("lower --lr"));
            }
            if steps == most {
                return Err(self.no_overfit(&losses));
            }
            self.model.params.gradients.clear();
            let seed = clock.seed(tape.value(loss))?;
            tape.backward_from(loss, seed, &mut self.model.params.gradients)?;
            drop(tape);
            clock.check(&self.model.params.gradients.runs())?;
            self.optimizer.take_step(&mut self.model.params, &clock, lr)?;
            clock.advance(images)?;
        }
    }

    /// What is wrong with a network that did not learn one batch.
    fn no_overfit(&self, losses: &[f64]) -> Error {
        let (last, least) = (losses[losses.len() - 1], losses.iter().copied().fold(f64::INFINITY, f64::min));
        let (steps, guess) = (losses.len() - 1, (self.model.classes as f64).ln());
        let message = format!("one batch was not learned by heart: after {steps} steps the loss is {last:.4}, not below {BY_HEART}");
        let norms = self.optimizer.clipped().and_then(|clipped| watch::gradients(&self.model.params, clipped)).ok();
        let hint = match norms.and_then(|norms| health::gradients(&self.model, &norms)) {
            _ if last > 2.0 * least.max(BY_HEART) => format!("it was {least:.4} before and jumps: lower --lr"),
            Some((_, finding)) => finding,
            None if last > 0.9 * guess => {
                format!(
                    "it has hardly left that of guessing ({guess:.4}): try --lr ten times as large and as small; then suspect the labels"
                )
            }
            None => "it sinks: give more steps, as in --overfit-batch 2000, raise --lr, or lower --weight-decay".into(),
        };
        Error::run(message).hint(hint)
    }
}
