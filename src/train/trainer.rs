//! A run: epochs of steps, validation, checkpoints, and going on after a stop.
//!
//! The order of the images is a function of (seed, epoch), every random number one of (seed, step): so weights, moments, counters
//! and the running sums of the epoch are all there is to save, and a resumed run gives the same bits as one that never stopped.
//! Printing is not done here: an [`Observer`] (`progress.rs`) is told what happens. Read next: `cli/train.rs`.

pub mod range_test;

use super::averaged::Averaged;
use super::checkpoint::{self, Array, Checkpoint};
use super::config::Config;
use super::distill::Teacher;
use super::engine::Engine;
use super::metrics::Running;
use super::progress::{Epoch, Observer, Place, Progress, Stretch};
use super::rundir::{Record, RunDir};
use super::step::{Setting, evaluate};
use super::trained::{describe, json, keep, load_model, restore};
use super::transfer::freeze;
use super::watch::looks::Looks;
use crate::data::{Loader, Splits, permutation};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::models::{Model, Options};
use crate::optim::{Mode, Optimizer, Schedule, Scheduler};
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

/// A run that is ready to go.
#[derive(Debug)]
pub struct Trainer<'a> {
    pub(super) config: Config,
    splits: &'a Splits,
    pub(super) train: Vec<u32>,
    pub(super) val: Vec<u32>,
    /// The network.
    pub model: Model,
    pub(super) teacher: Option<Teacher>,
    pub(super) optimizer: Optimizer,
    pub(super) scheduler: Scheduler,
    averaged: Option<Averaged>,
    place: Place,
    /// How far it has come.
    pub progress: Progress,
}

impl<'a> Trainer<'a> {
    /// A new run of `config` on these data.
    pub fn new(config: Config, splits: &'a Splits, place: Place) -> Result<Self> {
        config.check()?;
        let classes = splits.train.classes.len();
        let (dtype, device) = (config.dtype()?, place.device);
        let size = config.size()?;
        let mut model = Model::build(&config.model, &Options { classes, size, dtype, device, seed: config.seed, ..Options::default() })?;
        freeze(&mut model, &config.freeze)?;
        Loader::new(&splits.train, &splits.normalization, model.input, dtype, Device::Cpu)?;
        let (train, val) = splits.parts(config.val_split, config.seed)?;
        if train.is_empty() || splits.test.is_empty() {
            return Err(Error::data(format!("{} training and {} test images are too few", train.len(), splits.test.len()))
                .hint("raise --limit or lower --val-split"));
        }
        let mut optimizer = Optimizer::new(config.rule()?, &model.params);
        if let Some(limit) = config.limit()? {
            optimizer = optimizer.with_clip(limit, &model.params);
        }
        if let Some(decay) = config.ema {
            optimizer = optimizer.with_average(decay, &model.params);
        }
        let averaged = config.ema.map(|_| Averaged::new(&model));
        let steps = cut(train.len(), config.batch).len() as u64;
        let scheduler = Scheduler::new(config.schedule()?, config.lr, config.epochs, steps);
        Ok(Self { config, splits, train, val, model, teacher: None, optimizer, scheduler, averaged, place, progress: Progress::default() })
    }

    /// Lets the network learn from another, too: that of the configuration's `teacher`. The data must be normalised as they were for it.
    pub fn teach(&mut self, teacher: Teacher) -> Result<()> {
        teacher.check(&self.model)?;
        self.teacher = Some(teacher);
        Ok(())
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
        if let Some(averaged) = &mut self.averaged {
            averaged.resume(saved, &mut self.model, &mut self.optimizer)?;
        }
        self.progress = progress;
        self.scheduler.watch = watch;
        Ok(())
    }

    /// Everything that is needed to go on, and to use the network.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let mut saved = describe(&self.model, &self.splits.train.classes, &self.splits.normalization, &self.config)?;
        for (name, tensor) in self.optimizer.state() {
            saved.tensors.insert(name, keep(tensor)?);
        }
        let steps: Vec<i64> = self.optimizer.steps().map(|s| s as i64).collect();
        saved.tensors.insert(STEPS.into(), (vec![steps.len()], Array::I64(steps)));
        saved.meta.insert("trainer".into(), json(&self.progress)?);
        saved.meta.insert("scheduler".into(), json(&self.scheduler.watch)?);
        if let Some(averaged) = &self.averaged {
            averaged.add_to(&mut saved, &self.model, &self.optimizer)?;
        }
        Ok(saved)
    }

    /// How many images it has learned from, over all epochs and resumptions.
    pub fn images(&self) -> u64 {
        self.progress.epoch * self.train.len() as u64 + self.progress.sums.samples()
    }

    /// Trains until the last epoch, or until `stop` is set: then what was reached is saved first.
    pub fn run(&mut self, dir: &mut RunDir, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<()> {
        let loader = self.loader()?;
        let augment = self.config.augment()?;
        let mut engine = Engine::new(&self.model, loader, augment, self.progress.loss_scale.unwrap_or_default(), self.place.capture);
        self.progress.loss_scale = engine.settle(&self.model, &mut self.optimizer)?;
        let steps = cut(self.train.len(), self.config.batch);
        observer.begin(steps.len() as u64, &self.progress);
        let mut stretch = Stretch::new(self.model.device);
        let mut looks = Looks::new(self);
        if let (0, Some(average)) = (self.progress.step, self.optimizer.average_mut()) {
            average.begin(&self.model.params);
        }
        while self.progress.epoch < self.config.epochs && !self.enough(dir, observer) {
            let (images, before, entered) = (self.images(), self.progress.seconds, Instant::now());
            let mut saved = Instant::now();
            self.begin(&mut engine, &steps);
            let mut lr = self.scheduler.lr(self.progress.step);
            while let Some(left) = steps.len().checked_sub(self.progress.step_in_epoch as usize).filter(|left| *left > 0) {
                let began = Instant::now();
                let now = stretch.length.min(left).min(self.before_steps(&mut looks)?);
                for _ in 0..now {
                    lr = self.step(&mut engine, &steps)?;
                }
                let counted = engine.read()?;
                if !counted.loss().is_finite() {
                    return Err(self.failed(&engine, &steps, counted.loss())?);
                }
                let progress = &mut self.progress;
                progress.sums.merge(&counted);
                progress.seconds = before + entered.elapsed().as_secs_f64();
                progress.untold.merge(&counted);
                observer.step(progress, lr);
                self.after_steps(&mut looks, &engine, dir, observer, (steps.len() as u64, lr))?;
                stretch.adapt(began.elapsed());
                if self.progress.loss_scale.is_some() && self.model.device == Device::Cpu {
                    self.progress.loss_scale = engine.settle(&self.model, &mut self.optimizer)?;
                }
                if stop.load(Ordering::Relaxed) {
                    self.progress.loss_scale = engine.settle(&self.model, &mut self.optimizer)?;
                    return self.interrupt(&engine, dir);
                }
                if saved.elapsed() > SAVE_EVERY {
                    self.progress.loss_scale = engine.settle(&self.model, &mut self.optimizer)?;
                    self.save(&engine, dir)?;
                    self.begin(&mut engine, &steps);
                    saved = Instant::now();
                }
            }
            self.progress.loss_scale = engine.settle(&self.model, &mut self.optimizer)?;
            let images = self.images() - images;
            self.end_epoch(&mut looks, &engine, dir, observer, lr, images as f64 / (self.progress.seconds - before))?;
        }
        Ok(())
    }

    /// The choices of the run.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The data of the run.
    pub fn splits(&self) -> &'a Splits {
        self.splits
    }

    /// The training images for this network.
    pub(super) fn loader(&self) -> Result<Loader<'a>> {
        Loader::new(&self.splits.train, &self.splits.normalization, self.model.input, self.model.dtype, self.model.device)
    }

    /// Lets the engine begin, or go on with, the epoch under way.
    pub(super) fn begin(&mut self, engine: &mut Engine, steps: &[Range<usize>]) {
        let Progress { epoch, step, step_in_epoch, .. } = self.progress;
        let order = permutation(self.train.len(), self.config.seed, epoch).iter().map(|&i| self.train[i as usize]).collect();
        let first = steps.get(step_in_epoch as usize).map_or(0, |range| range.start);
        let left = steps.len() as u64 - step_in_epoch;
        let scheduler = &self.scheduler;
        let from = self.rate();
        let rates = (from..from + left).map(|step| (scheduler.lr(step), scheduler.momentum(step)));
        engine.begin(&self.model, &mut self.optimizer, order, (step, step_in_epoch, first), steps.len(), rates);
    }

    /// Where the schedule stands: it moves on with each step that was taken, not with those that the loss scale left out.
    pub(super) fn rate(&self) -> u64 {
        self.progress.step - self.progress.loss_scale.map_or(0, |scale| scale.skipped)
    }

    /// What a step needs to know at this learning rate.
    pub(super) fn setting(&self, lr: f64) -> Setting {
        let Config { seed, label_smoothing, .. } = self.config;
        Setting { lr, label_smoothing, seed }
    }

    /// Takes the next step; gives its learning rate.
    pub(super) fn step(&mut self, engine: &mut Engine, steps: &[Range<usize>]) -> Result<f64> {
        let (step, step_in_epoch) = (self.rate(), self.progress.step_in_epoch);
        let (lr, range) = (self.scheduler.lr(step), steps[step_in_epoch as usize].clone());
        if let Some(momentum) = self.scheduler.momentum(step) {
            self.optimizer.set_momentum(momentum);
        }
        let (full, setting) = (range.len() == self.config.batch, self.setting(lr));
        engine.step(&mut self.model, &mut self.optimizer, range, full, &setting, self.teacher.as_ref())?;
        self.progress.step += 1;
        self.progress.step_in_epoch += 1;
        Ok(lr)
    }

    /// Validates, writes the metrics of an epoch whose steps are all done, and saves.
    ///
    /// `last` comes last: a run killed before it goes on from the epoch before, drops the records and makes all of this again.
    fn end_epoch(
        &mut self,
        looks: &mut Looks,
        engine: &Engine,
        dir: &mut RunDir,
        observer: &mut dyn Observer,
        lr: f64,
        samples_per_s: f64,
    ) -> Result<()> {
        let train = self.progress.sums;
        let grad_norm = self.after_epoch(looks, engine, dir, observer, &train)?;
        self.show(engine.loader())?;
        let val = match self.val.is_empty() {
            true => None,
            false => Some(evaluate(&self.model, engine.loader(), &self.val, EVAL_BATCH, |_, _| Ok(()))?),
        };
        let progress = &mut self.progress;
        progress.sums = Running::default();
        progress.epoch += 1;
        progress.step_in_epoch = 0;
        let by = self.config.monitor()?;
        let figure = |val: Running| if by == Mode::Min { val.loss() } else { val.accuracy() };
        let beats = |x: f64, best: f64| if by == Mode::Min { x < best } else { x > best };
        let better = |val: Running| val.loss().is_finite() && progress.best.is_none_or(|(best, _)| beats(figure(val), best));
        let best = val.is_some_and(better);
        if let (true, Some(val)) = (best, val) {
            progress.best = Some((figure(val), progress.epoch));
        }
        let judged = val.unwrap_or(train);
        self.scheduler.epoch_end(match self.scheduler.schedule() {
            Schedule::Plateau { mode: Mode::Max, .. } => judged.accuracy(),
            _ => judged.loss(),
        });
        let Progress { step, epoch, seconds, .. } = self.progress;
        for (split, sums, grad_norm) in [("train", Some(train), Some(grad_norm)), ("val", val, None)] {
            if let Some(sums) = sums {
                let (loss, acc) = (sums.loss(), sums.accuracy());
                dir.append(&Record { step, epoch, split, loss, acc, lr, grad_norm, time_s: seconds, samples_per_s })?;
            }
        }
        let saved = self.checkpoint()?;
        if best {
            saved.save(&dir.best())?;
        }
        saved.save(&dir.last())?;
        self.exchange()?;
        observer.epoch(&Epoch { epoch, train, val, lr, samples_per_s, best });
        Ok(())
    }

    /// With `--ema`: puts the averaged network in the network's place, with statistics that fit it.
    fn show(&mut self, loader: &Loader) -> Result<()> {
        self.exchange()?;
        if let Some(averaged) = &mut self.averaged {
            let order = permutation(self.train.len(), self.config.seed, 0);
            let order: Vec<u32> = order.iter().map(|&i| self.train[i as usize]).collect();
            averaged.estimate(&mut self.model, loader, &order)?;
        }
        Ok(())
    }

    /// With `--ema`: the network becomes the averaged one, to be used when the run is over, or again the one that trains.
    pub fn exchange(&mut self) -> Result<()> {
        match &mut self.averaged {
            Some(averaged) => averaged.exchange(&mut self.model, &mut self.optimizer),
            None => Ok(()),
        }
    }

    /// Saves everything within an epoch.
    fn save(&mut self, engine: &Engine, dir: &RunDir) -> Result<()> {
        self.show(engine.loader())?;
        let saved = self.checkpoint()?;
        self.exchange()?;
        saved.save(&dir.last())
    }

    fn interrupt(&mut self, engine: &Engine, dir: &RunDir) -> Result<()> {
        self.save(engine, dir)?;
        let Progress { epoch, step_in_epoch, .. } = self.progress;
        let message =
            format!("interrupted in epoch {} after step {step_in_epoch}; everything is saved in {}", epoch + 1, dir.last().display());
        Err(Error::new(Kind::Interrupted, message)
            .hint(format!("go on with: cugrad train --resume {} (and the same --device)", dir.last().display())))
    }
}

/// The images of each step of an epoch, `batch` at a time; one left over alone joins the step before, as batch norm needs two.
pub(super) fn cut(n: usize, batch: usize) -> Vec<Range<usize>> {
    let alone = n > batch && n % batch == 1;
    let steps = if alone { n / batch } else { n.div_ceil(batch) };
    (0..steps).map(|step| step * batch..if step + 1 == steps { n } else { (step + 1) * batch }).collect()
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
