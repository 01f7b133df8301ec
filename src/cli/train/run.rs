//! A run from its first step to its figures on the test images.
//!
//! What happens in between is `train/trainer.rs`; what is shown of it, `cli/progress.rs`. Read next: `eval.rs`.

use super::Train;
use super::start::Saved;
use crate::cli::done::Done;
use crate::cli::interrupt::on_interrupt;
use crate::cli::progress::{Show, Terminal};
use crate::cli::remark;
use crate::data::Loader;
use crate::error::{Error, Result};
use crate::plot::history;
use crate::train::progress::Progress;
use crate::train::step::evaluate;
use crate::train::trainer::EVAL_BATCH;
use crate::train::{Checkpoint, Config, Record, RunDir, Running, Trainer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

impl Train {
    /// Trains, and judges the network of the last epoch on the test images. `stop` ends it early, once everything is saved; without
    /// one, Ctrl-C does.
    pub(in crate::cli) fn train(&self, show: Show, stop: Option<Arc<AtomicBool>>) -> Result<Done> {
        let began = Instant::now();
        let saved = match &self.resume {
            Some(path) => Some((path.clone(), Checkpoint::load(path)?)),
            None => None,
        };
        let mut start = self.start(saved.as_ref())?;
        let mut trainer = start.trainer(saved.as_ref())?;
        let config = trainer.config().clone();
        let mut dir = self.directory(&trainer, saved.as_ref())?;

        let Config { model, data, epochs, batch, optimizer, lr, schedule, seed, precision, .. } = &config;
        remark(format_args!(
            "training {model} ({} parameters) on {data} ({} images), {epochs} epochs of batch {batch}, {optimizer} lr {lr} {schedule}, seed {seed}, {precision} on {}",
            trainer.model.params.count(),
            trainer.splits().train.len(),
            trainer.model.device,
        ));
        remark(format_args!("run directory: {}", dir.path().display()));

        let mut terminal = Terminal::new(*epochs, *batch as u64, show);
        let (before, images) = (trainer.progress.seconds, trainer.images());
        let stop = stop.map_or_else(on_interrupt, Ok)?;
        let result = trainer.run(&mut dir, &mut terminal, &stop);
        terminal.finish();
        // Also of what was reached before Ctrl-C; a run is not lost for a picture.
        if let Err(e) = history::save(dir.path()) {
            remark(format_args!("note: the history is not drawn: {e}"));
        }
        result?;

        let seconds = trainer.progress.seconds - before;
        let images = trainer.images() - images;
        let samples_per_s = if images == 0 { 0.0 } else { images as f64 / seconds };
        let test = test(&mut trainer, &mut dir, samples_per_s)?;
        Ok(Done { test, samples_per_s, seconds: began.elapsed().as_secs_f64(), checkpoint: dir.last(), config })
    }

    /// The run's directory, new or where the run goes on, with the choices written to it.
    fn directory(&self, trainer: &Trainer, saved: Option<&Saved>) -> Result<RunDir> {
        // The parent of a bare file name is empty.
        let beside = saved.and_then(|(path, _)| path.parent());
        let beside = beside.map(|parent| if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.into() });
        let mut dir = RunDir::create(self.out.clone().or(beside.clone()), &trainer.config().model)?;
        if beside.is_some_and(|beside| same(&beside, dir.path())) {
            dir.truncate_after(trainer.progress.step)?;
        } else if dir.has_records()? || dir.last().exists() {
            return Err(Error::usage(format!("{} holds a run already", dir.path().display()))
                .hint("choose another --out, or go on with --resume and that run's last.safetensors"));
        }
        dir.write_config(trainer.config())?;
        Ok(dir)
    }
}

/// Judges the network on the test images and records it, with the speed of training.
fn test(trainer: &mut Trainer, dir: &mut RunDir, samples_per_s: f64) -> Result<Running> {
    // What is tested is what was validated.
    trainer.exchange()?;
    let (splits, device) = (trainer.splits(), trainer.model.device);
    let loader = Loader::new(&splits.test, &splits.normalization, trainer.model.input, trainer.model.dtype, device)?;
    let numbers: Vec<u32> = (0..splits.test.len() as u32).collect();
    let test = evaluate(&trainer.model, &loader, &numbers, EVAL_BATCH, |_, _| Ok(()))?;
    let Progress { step, epoch, seconds, .. } = trainer.progress;
    dir.append(&Record {
        step,
        epoch,
        split: "test",
        loss: test.loss(),
        acc: test.accuracy(),
        lr: 0.0,
        time_s: seconds,
        grad_norm: None,
        samples_per_s,
    })?;
    Ok(test)
}

/// Whether two paths lead to one directory.
fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
