//! Flags of `cugrad train` that are settings of its optimiser, and those that say what is looked at on the way.
//!
//! They are choices of the run's `Config`, where their meanings stand, too. Read next: `train.rs`, which has the other flags.

use super::trial;
use crate::error::Result;
use crate::train::{Config, Trainer};
use clap::Args;

/// Settings that few runs change.
#[derive(Debug, Clone, Args)]
pub struct Recipe {
    /// Smoothing of the gradient and of its square, for adam and adamw [default: 0.9,0.999]
    #[arg(long, value_name = "B1,B2", value_parser = pair)]
    betas: Option<[f64; 2]>,
    /// What keeps divisions sane, for adam, adamw and rmsprop [default: 1e-8]
    #[arg(long)]
    eps: Option<f64>,
    /// The part of the gradient that does not enter the velocity, for sgd [default: 0]
    #[arg(long, allow_negative_numbers = true)]
    dampening: Option<f64>,
    /// Smoothing of the gradient's square, for rmsprop [default: 0.99]
    #[arg(long)]
    alpha: Option<f64>,
    /// Divide by the standard deviation, for rmsprop
    #[arg(long)]
    centered: bool,
    /// Make gradients shorter where the norm of all of them together is above this, as in 1
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    clip_grad_norm: Option<f64>,
    /// Bring each number of a gradient into ± this, as in 0.1
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    clip_grad_value: Option<f64>,
    /// What makes a validation the best, and better for --early-stop: acc or loss [default: acc]
    #[arg(long, value_name = "METRIC")]
    monitor: Option<String>,
    /// Stop when so many epochs have gone by without a better validation
    #[arg(long, value_name = "EPOCHS")]
    early_stop: Option<u64>,
    /// Judge, test and keep the running average of the weights with this decay, as in 0.999 (batch norms' statistics are taken anew for
    /// it from training images); the decay is at most (1 + t)/(10 + t) after t steps
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true)]
    ema: Option<f64>,
    /// Look at each parameter's gradient and update after each N steps of an epoch: a table per epoch, and watch.jsonl
    #[arg(long, value_name = "N")]
    watch: Option<u64>,
    /// Take one step and judge one batch, print every layer's shapes, the first loss and the memory, and leave nothing behind
    #[arg(long, conflicts_with_all = ["overfit_batch", "resume", "out"])]
    dry_run: bool,
    /// Learn one batch by heart and say whether it can be done in so many steps; leaves nothing behind
    #[arg(long, value_name = "STEPS", num_args = 0..=1, default_missing_value = "500", conflicts_with_all = ["resume", "out"], value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    overfit_batch: Option<u64>,
    /// Report mean loss and accuracy after each N steps of an epoch, too
    #[arg(long, value_name = "N")]
    log_every: Option<u64>,
}

impl Recipe {
    /// Is the network to be tried and not trained?
    pub fn is_trial(&self) -> bool {
        self.dry_run || self.overfit_batch.is_some()
    }

    /// Tries it.
    pub fn trial(&self, trainer: &mut Trainer, json: bool) -> Result<()> {
        match self.overfit_batch {
            Some(most) => trial::overfit(trainer, most, json),
            None => trial::dry_run(trainer, json),
        }
    }

    /// Puts what was given into a run's choices.
    pub fn set(&self, config: &mut Config) {
        fn set<T: Clone>(to: &mut Option<T>, flag: &Option<T>) {
            if flag.is_some() {
                *to = flag.clone();
            }
        }
        set(&mut config.betas, &self.betas);
        set(&mut config.eps, &self.eps);
        set(&mut config.dampening, &self.dampening);
        set(&mut config.alpha, &self.alpha);
        set(&mut config.clip_grad_norm, &self.clip_grad_norm);
        set(&mut config.clip_grad_value, &self.clip_grad_value);
        set(&mut config.early_stop, &self.early_stop);
        set(&mut config.ema, &self.ema);
        set(&mut config.watch, &self.watch);
        set(&mut config.log_every, &self.log_every);
        config.centered |= self.centered;
        if let Some(monitor) = &self.monitor {
            config.monitor = monitor.clone();
        }
    }
}

/// Two numbers with a comma between them.
fn pair(text: &str) -> std::result::Result<[f64; 2], String> {
    let numbers: std::result::Result<Vec<f64>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    numbers.ok().and_then(|numbers| numbers.try_into().ok()).ok_or_else(|| "write two numbers, as in 0.9,0.999".into())
}
