//! What a training run shows: a bar on a terminal, a line an epoch, or JSON.
//!
//! Read next: `train.rs`.

use crate::train::progress::{Epoch, Log, Observer, Progress};
use crate::train::watch::Figures;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::io::Write;

/// How the end of an epoch is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// As a line of results.
    Lines,
    /// As a line of JSON.
    Json,
    /// As a remark, where the results are something else.
    Remarks,
}

/// Follows a run on the terminal.
pub struct Terminal {
    bar: ProgressBar,
    epochs: u64,
    batch: u64,
    show: Show,
}

impl Terminal {
    /// For a run of so many epochs and images a step.
    pub fn new(epochs: u64, batch: u64, show: Show) -> Self {
        Self { bar: ProgressBar::hidden(), epochs, batch, show }
    }

    /// Prints a line of results, where they are wanted. Nobody is left to read it if this fails; the run goes on for its checkpoints.
    fn line(&self, line: String) {
        self.bar.suspend(|| match self.show {
            Show::Remarks => super::remark(line),
            Show::Lines | Show::Json => drop(writeln!(std::io::stdout(), "{line}")),
        });
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Terminal {
    fn begin(&mut self, steps_per_epoch: u64, progress: &Progress) {
        // indicatif hides the bar where stderr is not a terminal.
        let style = ProgressStyle::with_template("{prefix} {bar:16} {pos}/{len}  {msg}  {eta} left");
        self.bar = ProgressBar::new(steps_per_epoch * self.epochs);
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.set_position(progress.step);
        self.bar.reset_eta();
    }

    fn step(&mut self, progress: &Progress, lr: f64) {
        // Formatting at every step of a small network would cost more than it shows.
        if progress.step.is_multiple_of(16) {
            let rate = self.bar.per_sec() * self.batch as f64;
            self.bar.set_prefix(format!("epoch {}/{}", progress.epoch + 1, self.epochs));
            let (loss, acc) = (progress.sums.loss(), 100.0 * progress.sums.accuracy());
            self.bar.set_message(format!("loss {loss:.4}  acc {acc:.2}%  lr {lr:.2e}  {rate:.0} img/s"));
            self.bar.set_position(progress.step);
        }
    }

    fn epoch(&mut self, e: &Epoch) {
        let line = if self.show == Show::Json {
            let val = e.val.map(|v| json!({"loss": v.loss(), "acc": v.accuracy()}));
            json!({"event": "epoch", "epoch": e.epoch, "loss": e.train.loss(), "acc": e.train.accuracy(), "val": val, "lr": e.lr,
                "samples_per_s": e.samples_per_s, "best": e.best})
            .to_string()
        } else {
            let val = e.val.map_or(String::new(), |v| format!("   val loss {:.4}  acc {:.2}%", v.loss(), 100.0 * v.accuracy()));
            let (loss, acc, best) = (e.train.loss(), 100.0 * e.train.accuracy(), if e.best { "  best" } else { "" });
            let (epoch, epochs, rate) = (e.epoch, self.epochs, e.samples_per_s);
            format!("epoch {epoch:>3}/{epochs}  loss {loss:.4}  acc {acc:.2}%{val}   {rate:.0} img/s{best}")
        };
        self.line(line);
    }

    fn log(&mut self, log: &Log) {
        let Log { epoch, step: (step, steps), sums, lr, grad_norm } = log;
        let line = if self.show == Show::Json {
            json!({"event": "step", "epoch": epoch, "step": step, "steps": steps, "loss": sums.loss(), "acc": sums.accuracy(), "lr": lr,
                "grad_norm": grad_norm})
            .to_string()
        } else {
            let (loss, acc) = (sums.loss(), 100.0 * sums.accuracy());
            format!(
                "epoch {epoch:>3}/{}  step {step}/{steps}  loss {loss:.4}  acc {acc:.2}%  lr {lr:.2e}  |grad| {grad_norm:.2e}",
                self.epochs
            )
        };
        self.line(line);
    }

    fn watch(&mut self, figures: &[Figures]) {
        if self.show == Show::Json {
            return self.line(json!({"event": "watch", "params": figures}).to_string());
        }
        let mut table = format!("{:<28} {:>10} {:>10} {:>10}", "parameter", "|grad|", "|weight|", "update");
        let cell = |x: f64| if x.is_finite() { format!("{x:.2e}") } else { "-".into() };
        for f in figures {
            let [grad, weight, update] = [f.grad_norm, f.weight_norm, f.update_ratio].map(cell);
            table += &format!("\n{:<28} {grad:>10} {weight:>10} {update:>10}", f.param);
        }
        self.line(table);
    }

    fn remark(&mut self, line: &str) {
        self.bar.suspend(|| super::remark(line));
    }
}
