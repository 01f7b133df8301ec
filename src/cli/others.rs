//! Flags of `cugrad train` about other networks: whose weights a network begins with, what of them it keeps, and whom it imitates.
//!
//! They are choices of the run's `Config`, where their meanings stand, too. Read next: `train.rs`, which has the other flags.

use crate::train::Config;
use clap::Args;
use std::path::PathBuf;

/// Transfer and distillation.
#[derive(Debug, Clone, Args)]
pub struct Others {
    /// Begin with a checkpoint's weights where names and shapes fit, its network being the default of --model
    #[arg(long, value_name = "CHECKPOINT")]
    pub init_from: Option<PathBuf>,
    /// Parameters that keep their values: patterns of their names such as 'conv1.*', separated by commas
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    freeze: Option<Vec<String>>,
    /// Imitate the network of a checkpoint: the loss becomes A·T²·KL(teacher at T, student at T) + (1 - A)·cross-entropy
    #[arg(long, value_name = "CHECKPOINT")]
    pub teacher: Option<PathBuf>,
    /// T: what the logits of both networks are divided by [default: 4]
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// A: the teacher's share of the loss, 0 to 1 [default: 0.9]
    #[arg(long, value_name = "A")]
    distill_alpha: Option<f64>,
}

impl Others {
    /// Puts what was given into a run's choices.
    pub fn set(&self, config: &mut Config) {
        config.init_from = self.init_from.clone().or(config.init_from.take());
        config.teacher = self.teacher.clone().or(config.teacher.take());
        config.temperature = self.temperature.unwrap_or(config.temperature);
        config.distill_alpha = self.distill_alpha.unwrap_or(config.distill_alpha);
        if let Some(freeze) = &self.freeze {
            config.freeze = freeze.clone();
        }
    }
}
