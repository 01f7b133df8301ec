//! A run: epochs of steps, validation, checkpoints, and going on after a stop.
//!
//! The order of the images is a function of (seed, epoch), every random number one of (seed, step): so weights, moments, counters
//! and the running sums of the epoch are all there is to save, and a resumed run gives the same bits as one that never stopped.
//! Printing is not done here: an [`Observer`] is told what happens. Read next: `cli/train.rs`.

use super::checkpoint::{self, Array, Checkpoint};
use super::config::Config;
use super::metrics::Running;
use super::rundir::{Record, RunDir};
use super::step::{Setting, evaluate, train_step};
use crate::data::{Loader, Normalization, Splits, permutation, validation_split};
use crate::error::{Error, Kind, Result};
use crate::models::{Model, Options};
use crate::optim::{Mode, Optimizer, Schedule, Scheduler};
use crate::tensor::{DType, Spec, Tensor};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Images per batch of evaluation.
pub const EVAL_BATCH: usize = 256;

/// How many steps each parameter has taken, in a checkpoint.
const STEPS: &str = "optimizer.step";

/// A long epoch is also saved on the way.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// How far a run has come: all of its state that is not a tensor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs finished.
    pub epoch: u64,
    /// Steps taken in all.
    pub step: u64,
    /// Steps taken in the epoch under way.
    pub step_in_epoch: u64,
    /// Sums over the epoch under way.
    pub sums: Running,
    /// The best validation accuracy so far, and its epoch.
    pub best: Option<(f64, u64)>,
    /// Seconds spent in training steps so far, over all resumptions; validation and saving not counted.
    pub seconds: f64,
}

/// The end of an epoch, for those who print it.
#[derive(Debug, Clone, Copy)]
pub struct Epoch {
    /// Its number, from 1.
    pub epoch: u64,
    /// Sums over the training images as they were learned from.
    pub train: Running,
    /// Sums over the validation images, if there are any.
    pub val: Option<Running>,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Training images per second.
    pub img_per_s: f64,
    /// Is this the best checkpoint so far?
    pub best: bool,
}

/// Is told what happens in a run.
pub trait Observer {
    /// A run begins, or goes on: steps in each epoch, and where it stands.
    fn begin(&mut self, steps_per_epoch: u64, progress: &Progress);
    /// A step is done.
    fn step(&mut self, progress: &Progress, lr: f64);
    /// An epoch is done and saved.
    fn epoch(&mut self, epoch: &Epoch);
}

/// A run that is ready to go.
#[derive(Debug)]
pub struct Trainer<'a> {
    config: Config,
    splits: &'a Splits,
    train: Vec<u32>,
    val: Vec<u32>,
    /// The network.
    pub model: Model,
    optimizer: Optimizer,
    scheduler: Scheduler,
    /// How far it has come.
    pub progress: Progress,
}

impl<'a> Trainer<'a> {
    /// A new run of `config` on these data.
    pub fn new(config: Config, splits: &'a Splits) -> Result<Self> {
        config.check()?;
        let classes = splits.train.classes.len();
        let model = Model::build(&config.model, &Options { classes, seed: config.seed, ..Options::default() })?;
        Loader::new(&splits.train, &splits.normalization, model.input, DType::F32)?;
        let (train, val) = validation_split(splits.train.len(), config.val_split, config.seed)?;
        if train.is_empty() || splits.test.is_empty() {
            return Err(Error::data(format!("{} training and {} test images are too few", train.len(), splits.test.len()))
                .hint("raise --limit or lower --val-split"));
        }
        let optimizer = Optimizer::new(config.rule()?, &model.params);
        let steps = cut(train.len(), config.batch).len() as u64;
        let scheduler = Scheduler::new(config.schedule()?, config.lr, config.epochs, steps);
        Ok(Self { config, splits, train, val, model, optimizer, scheduler, progress: Progress::default() })
    }

    /// Goes on where a checkpoint stopped. The trainer must have been made from the checkpoint's configuration.
    pub fn resume(&mut self, saved: &Checkpoint, path: &Path) -> Result<()> {
        let meta = |key: &str| {
            saved.meta.get(key).ok_or_else(|| {
                Error::run(format!("{}: has no '{key}', so it cannot be resumed from", path.display()))
                    .hint("resume from a run's last.safetensors")
            })
        };
        let broken = |e: serde_json::Error| Error::run(format!("{}: its training state is damaged: {e}", path.display()));
        let progress = serde_json::from_str(meta("trainer")?).map_err(broken)?;
        let watch = serde_json::from_str(meta("scheduler")?).map_err(broken)?;
        load_model(&mut self.model, saved)?;
        let mut moments: Vec<(String, Vec<usize>)> =
            self.optimizer.state().into_iter().map(|(name, t)| (name, t.shape().to_vec())).collect();
        moments.push((STEPS.into(), vec![self.model.params.len()]));
        checkpoint::compare(&moments, saved, |name| name.starts_with("optimizer."))?;
        for (name, tensor) in self.optimizer.state_mut() {
            restore(tensor, &saved.tensors[&name].1);
        }
        for (steps, &saved) in self.optimizer.steps_mut().zip(saved.i64(STEPS)?) {
            *steps = saved as u64;
        }
        self.progress = progress;
        self.scheduler.watch = watch;
        Ok(())
    }

    /// Everything that is needed to go on, and to use the network.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let mut saved = describe(&self.model, self.splits, &self.config)?;
        for (name, tensor) in self.optimizer.state() {
            saved.tensors.insert(name, keep(tensor));
        }
        let steps: Vec<i64> = self.optimizer.steps().map(|s| s as i64).collect();
        saved.tensors.insert(STEPS.into(), (vec![steps.len()], Array::I64(steps)));
        saved.meta.insert("trainer".into(), json(&self.progress)?);
        saved.meta.insert("scheduler".into(), json(&self.scheduler.watch)?);
        Ok(saved)
    }

    /// How many images it has learned from, over all epochs and resumptions.
    pub fn images(&self) -> u64 {
        self.progress.epoch * self.train.len() as u64 + self.progress.sums.samples()
    }

    /// Trains until the last epoch, or until `stop` is set: then what was reached is saved first.
    pub fn run(&mut self, dir: &mut RunDir, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<()> {
        let loader = Loader::new(&self.splits.train, &self.splits.normalization, self.model.input, DType::F32)?;
        let steps = cut(self.train.len(), self.config.batch);
        observer.begin(steps.len() as u64, &self.progress);
        while self.progress.epoch < self.config.epochs {
            let order = permutation(self.train.len(), self.config.seed, self.progress.epoch);
            let (first, images) = (self.progress.step_in_epoch, self.images());
            let (before, entered) = (self.progress.seconds, Instant::now());
            let mut saved = Instant::now();
            let mut lr = self.scheduler.lr(self.progress.step);
            for step in steps.iter().skip(first as usize) {
                let numbers: Vec<u32> = order[step.clone()].iter().map(|&i| self.train[i as usize]).collect();
                let (x, labels) = loader.batch(&numbers);
                lr = self.scheduler.lr(self.progress.step);
                let Config { seed, label_smoothing, .. } = self.config;
                let setting = Setting { lr, label_smoothing, seed, step: self.progress.step };
                if let Some(momentum) = self.scheduler.momentum(self.progress.step) {
                    self.optimizer.set_momentum(momentum);
                }
                let outcome = train_step(&mut self.model, &mut self.optimizer, x, labels, &setting)?;
                let progress = &mut self.progress;
                progress.sums.merge(&outcome);
                progress.step += 1;
                progress.step_in_epoch += 1;
                progress.seconds = before + entered.elapsed().as_secs_f64();
                observer.step(progress, lr);
                if stop.load(Ordering::Relaxed) {
                    return self.interrupt(dir);
                }
                if saved.elapsed() > SAVE_EVERY {
                    self.checkpoint()?.save(&dir.last())?;
                    saved = Instant::now();
                }
            }
            let images = self.images() - images;
            self.end_epoch(&loader, dir, observer, lr, images as f64 / (self.progress.seconds - before))?;
        }
        Ok(())
    }

    /// Validates, writes the metrics of an epoch whose steps are all done, and saves.
    ///
    /// `last` comes last: a run killed before it goes on from the epoch before, drops the records and makes all of this again.
    fn end_epoch(&mut self, loader: &Loader, dir: &mut RunDir, observer: &mut dyn Observer, lr: f64, img_per_s: f64) -> Result<()> {
        let val = match self.val.is_empty() {
            true => None,
            false => Some(evaluate(&mut self.model, loader, &self.val, EVAL_BATCH, |_, _| Ok(()))?),
        };
        let progress = &mut self.progress;
        let train = std::mem::take(&mut progress.sums);
        progress.epoch += 1;
        progress.step_in_epoch = 0;
        let better = |val: Running| val.loss().is_finite() && progress.best.is_none_or(|(best, _)| val.accuracy() > best);
        let best = val.is_some_and(better);
        if let (true, Some(val)) = (best, val) {
            progress.best = Some((val.accuracy(), progress.epoch));
        }
        let judged = val.unwrap_or(train);
        self.scheduler.epoch_end(match self.scheduler.schedule() {
            Schedule::Plateau { mode: Mode::Max, .. } => judged.accuracy(),
            _ => judged.loss(),
        });
        let Progress { step, epoch, seconds, .. } = self.progress;
        for (split, sums) in [("train", Some(train)), ("val", val)] {
            if let Some(sums) = sums {
                let (loss, acc) = (sums.loss(), sums.accuracy());
                dir.append(&Record { step, epoch, split, loss, acc, lr, time_s: seconds, img_per_s })?;
            }
        }
        let saved = self.checkpoint()?;
        if best {
            saved.save(&dir.best())?;
        }
        saved.save(&dir.last())?;
        observer.epoch(&Epoch { epoch, train, val, lr, img_per_s, best });
        Ok(())
    }

    fn interrupt(&self, dir: &RunDir) -> Result<()> {
        self.checkpoint()?.save(&dir.last())?;
        let Progress { epoch, step_in_epoch, .. } = self.progress;
        let message =
            format!("interrupted in epoch {} after step {step_in_epoch}; everything is saved in {}", epoch + 1, dir.last().display());
        Err(Error::new(Kind::Interrupted, message).hint(format!("go on with: cugrad train --resume {}", dir.last().display())))
    }
}

/// The images of each step of an epoch, `batch` at a time; one left over alone joins the step before, as batch norm needs two.
fn cut(n: usize, batch: usize) -> Vec<Range<usize>> {
    let alone = n > batch && n % batch == 1;
    let steps = if alone { n / batch } else { n.div_ceil(batch) };
    (0..steps).map(|step| step * batch..if step + 1 == steps { n } else { (step + 1) * batch }).collect()
}

/// A network with the names and numbers that using it takes: `eval` and `predict` read nothing else.
fn describe(model: &Model, splits: &Splits, config: &Config) -> Result<Checkpoint> {
    let mut saved = Checkpoint::default();
    for (name, tensor) in model.params.state() {
        saved.tensors.insert(name.into(), keep(tensor));
    }
    let Normalization { mean, std } = &splits.normalization;
    for (key, value) in [
        ("cugrad", env!("CARGO_PKG_VERSION").to_string()),
        ("model", model.name.clone()),
        ("classes", json(&splits.train.classes)?),
        ("normalization", json(&(mean, std))?),
        ("config", json(config)?),
    ] {
        saved.meta.insert(key.into(), value);
    }
    Ok(saved)
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::run(format!("cannot write the training state: {e}")))
}

/// A tensor as a checkpoint holds it; counters become i64, as PyTorch's are.
fn keep(t: &Tensor) -> (Vec<usize>, Array) {
    let array = match t.dtype() {
        DType::F32 => Array::F32(t.data::<f32>().to_vec()),
        DType::I32 => Array::I64(t.data::<i32>().iter().map(|&x| i64::from(x)).collect()),
        _ => Array::F64(t.values()),
    };
    (t.shape().to_vec(), array)
}

/// The way back; shapes agree already.
fn restore(t: &mut Tensor, array: &Array) {
    let spec: Spec = t.spec();
    t.copy_from(&match array {
        Array::F32(values) => Tensor::from_values(spec, values),
        Array::F64(values) => Tensor::from_values(spec, values),
        Array::I64(values) => Tensor::from_values(spec, &values.iter().map(|&x| x as f64).collect::<Vec<_>>()),
    });
}

/// Puts a checkpoint's weights and buffers into a network; one error lists everything that does not fit.
pub fn load_model(model: &mut Model, saved: &Checkpoint) -> Result<()> {
    let expected: Vec<(String, Vec<usize>)> = model.params.state().map(|(name, t)| (name.into(), t.shape().to_vec())).collect();
    checkpoint::compare(&expected, saved, checkpoint::is_model).map_err(|mut e| {
        e.message = format!("the checkpoint does not fit model '{}': {}", model.name, e.message);
        e
    })?;
    for (name, tensor) in model.params.state_mut() {
        restore(tensor, &saved.tensors[name].1);
    }
    Ok(())
}

/// A trained network and what it needs to be used.
#[derive(Debug)]
pub struct Trained {
    /// The network with its weights.
    pub model: Model,
    /// What each class is called.
    pub classes: Vec<String>,
    /// How its pictures were normalised.
    pub normalization: Normalization,
    /// How it was trained.
    pub config: Config,
}

impl Trained {
    /// Builds the network that a checkpoint describes.
    pub fn load(path: &Path, saved: &Checkpoint) -> Result<Trained> {
        fn read<T: serde::de::DeserializeOwned>(path: &Path, saved: &Checkpoint, key: &str) -> Result<T> {
            let text = saved
                .meta
                .get(key)
                .ok_or_else(|| Error::run(format!("{}: was not written by cugrad: it has no '{key}' in its metadata", path.display())))?;
            serde_json::from_str(text).map_err(|e| Error::run(format!("{}: its '{key}' cannot be read: {e}", path.display())))
        }
        let config: Config = read(path, saved, "config")?;
        let classes: Vec<String> = read(path, saved, "classes")?;
        let (mean, std): (Vec<f32>, Vec<f32>) = read(path, saved, "normalization")?;
        let mut model = Model::build(&config.model, &Options { classes: classes.len(), ..Options::default() })?;
        load_model(&mut model, saved)?;
        if mean.len() != std.len() || ![1, model.input[0]].contains(&mean.len()) {
            return Err(Error::run(format!("{}: its 'normalization' does not fit model '{}'", path.display(), model.name)));
        }
        Ok(Trained { model, classes, normalization: Normalization { mean, std }, config })
    }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn no_image_is_left_out_or_alone() {
        for n in 1..100 {
            for batch in 1..40 {
                let steps = cut(n, batch);
                assert!(steps.iter().cloned().flatten().eq(0..n), "{n} by {batch}");
                assert!(batch == 1 || n == 1 || steps.iter().all(|s| (2..=batch + 1).contains(&s.len())), "{n} by {batch}");
            }
        }
    }
}
