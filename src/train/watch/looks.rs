//! What a run looks at and tells on the way: log lines between epochs, gradients and updates, health in words, when to stop early, and where a
//! loss that is no number came from.
//!
//! Not here: the figures themselves (`figures.rs`, `health.rs`, `nonfinite.rs`), the run (`trainer.rs`). Read next: `trial.rs`.

use super::{Watch, gradients, health, norm};
use crate::error::{Error, Result};
use crate::train::engine::Engine;
use crate::train::metrics::Running;
use crate::train::progress::{Log, Observer, Progress};
use crate::train::rundir::{Record, RunDir};
use crate::train::trainer::Trainer;
use std::collections::BTreeSet;
use std::ops::Range;

/// What is remembered between two looks.
#[derive(Debug)]
pub(in crate::train) struct Looks {
    /// When the last log line was, in seconds of training.
    told: f64,
    watch: Option<Watch>,
    /// What was found before, so that nobody is told the same every epoch.
    said: BTreeSet<String>,
}

impl Looks {
    pub fn new(trainer: &Trainer) -> Self {
        Self { told: trainer.progress.seconds, watch: trainer.config.watch.map(Watch::new), said: BTreeSet::new() }
    }
}

impl Trainer<'_> {
    /// Before steps are taken: how many may be at one go, if something is to be looked at after them.
    pub(in crate::train) fn before_steps(&self, looks: &mut Looks) -> Result<usize> {
        let done = self.progress.step_in_epoch;
        let until_log = self.config.log_every.map_or(u64::MAX, |n| n - done % n) as usize;
        let Some(watch) = &mut looks.watch else { return Ok(until_log) };
        watch.before(done, &self.model.params)?;
        Ok(until_log.min(watch.until(done)))
    }

    /// After they are taken and counted, `steps` being those of an epoch.
    pub(in crate::train) fn after_steps(
        &mut self,
        looks: &mut Looks,
        engine: &Engine,
        dir: &mut RunDir,
        observer: &mut dyn Observer,
        (steps, lr): (u64, f64),
    ) -> Result<()> {
        let Progress { epoch, step, step_in_epoch, untold: sums, seconds, .. } = self.progress;
        let epoch = epoch + 1;
        if let Some(watch) = &mut looks.watch
            && let Some(figures) = watch.after(&self.model.params, engine.scale(&self.model, &self.optimizer)?)?
        {
            dir.append_watch(step, epoch, &figures)?;
        }
        let due = self.config.log_every.is_some_and(|n| step_in_epoch.is_multiple_of(n) || step_in_epoch == steps);
        if !due {
            return Ok(());
        }
        let grad_norm = engine.grad_norm(&self.model, &self.optimizer)?;
        let rate = sums.samples() as f64 / (seconds - looks.told);
        let (loss, acc) = (sums.loss(), sums.accuracy());
        dir.append(&Record {
            step,
            epoch,
            split: "step",
            loss,
            acc,
            lr,
            grad_norm: Some(grad_norm),
            time_s: seconds,
            samples_per_s: rate,
        })?;
        observer.log(&Log { epoch, step: (step_in_epoch, steps), sums, lr, grad_norm });
        self.progress.untold = Running::default();
        looks.told = seconds;
        Ok(())
    }

    /// At the end of an epoch that is validated and saved: the spread of the weights, figures of each parameter, health in words. Gives the
    /// norm of the last step's gradient.
    pub(in crate::train) fn after_epoch(
        &mut self,
        looks: &mut Looks,
        engine: &Engine,
        dir: &mut RunDir,
        observer: &mut dyn Observer,
        train: &Running,
    ) -> Result<f64> {
        let norms = gradients(&self.model.params, engine.scale(&self.model, &self.optimizer)?)?;
        let mut weights = Vec::new();
        for (name, w) in self.model.params.names().iter().zip(self.model.params.values()) {
            weights.push((format!("weights/{name}"), w.read()?));
        }
        dir.histograms(self.progress.step, weights)?;
        if let Some(watch) = &mut looks.watch {
            observer.watch(&watch.take());
        }
        let pictures = if self.val.is_empty() { &self.train } else { &self.val };
        let (x, _) = engine.loader().batch(&pictures[..pictures.len().min(health::PICTURES)])?;
        let mut findings = health::dead_units(&self.model, x)?;
        findings.extend(health::gradients(&self.model, &norms));
        findings.extend(health::guessing(train, self.model.classes));
        for (kind, sentence) in findings {
            if looks.said.insert(kind) {
                observer.remark(&format!("note: {sentence}"));
            }
        }
        Ok(norm(&norms))
    }

    /// Has there been no better validation for so long that the run is to stop? Says so.
    pub(in crate::train) fn enough(&self, dir: &RunDir, observer: &mut dyn Observer) -> bool {
        let (Some(patience), Some((best, at))) = (self.config.early_stop, self.progress.best) else { return false };
        let stop = self.progress.epoch >= at + patience && self.progress.step_in_epoch == 0;
        if stop {
            let what = if self.config.monitor == "loss" { format!("loss {best:.4}") } else { format!("accuracy {:.2}%", 100.0 * best) };
            let (epoch, path) = (self.progress.epoch, dir.best());
            observer.remark(&format!(
                "stopped early after epoch {epoch}: no better validation for {patience} epochs; the best, {what}, was in epoch {at}: {}",
                path.display()
            ));
        }
        stop
    }

    /// The error of a loss that is no number, `steps` being those of the epoch: which step it was, and where it came from.
    pub(in crate::train) fn failed(&mut self, engine: &Engine, steps: &[Range<usize>], loss: f64) -> Result<Error> {
        let setting = self.setting(self.scheduler.lr(self.rate()));
        let Progress { step, step_in_epoch, .. } = self.progress;
        let message = match engine.autopsy(&mut self.model, steps, &setting, self.teacher.as_ref())? {
            Some((at, found)) => format!("the loss became {loss} at step {}: {found}", step + at - step_in_epoch),
            None => format!("the loss became {loss} before step {step}"),
        };
        Ok(Error::run(message)
            .hint("lower --lr, try --clip-grad-norm 1, or look at the data; the checkpoints of finished epochs are intact"))
    }
}
