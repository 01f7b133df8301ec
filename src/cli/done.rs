//! What a run of `cugrad train` came to, in words and as JSON. Read next: `train.rs`.

use crate::train::{Config, Running};
use serde_json::json;
use std::fmt;
use std::path::PathBuf;

/// What a run came to.
#[derive(Debug)]
pub struct Done {
    /// Its choices, resolved.
    pub config: Config,
    /// Sums over the test images, judged after the last epoch.
    pub test: Running,
    /// Images a second in training.
    pub samples_per_s: f64,
    /// Wall time, loading included.
    pub seconds: f64,
    /// The network.
    pub checkpoint: PathBuf,
}

impl Done {
    /// As an event of `--json`.
    pub(super) fn json(&self) -> serde_json::Value {
        let Config { model, data, epochs, seed, .. } = &self.config;
        json!({"event": "done", "model": model, "data": data, "epochs": epochs, "test_acc": self.test.accuracy(),
            "test_loss": self.test.loss(), "samples_per_s": self.samples_per_s, "seconds": self.seconds, "seed": seed,
            "checkpoint": self.checkpoint})
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (acc, loss, images) = (self.test.accuracy(), self.test.loss(), self.test.samples());
        writeln!(f, "test accuracy {:.2}%  loss {loss:.4}  ({} of {images} wrong)", 100.0 * acc, wrong(&self.test))?;
        write!(f, "checkpoint: {}", self.checkpoint.display())
    }
}

/// The number of misses.
pub(super) fn wrong(sums: &Running) -> u64 {
    sums.samples() - (sums.accuracy() * sums.samples() as f64).round() as u64
}
