//! What a run is: every choice that its result depends on, with the defaults.
//!
//! The same struct is read from `--config run.toml`, written to the run directory, and kept in every checkpoint, so that a run
//! can be repeated and resumed. Flags of the command line override the file (`cli/train.rs`). Read next: `trainer.rs`.

use crate::data::reshape::parse_size;
use crate::data::{Augment, Source};
use crate::error::{Error, Result};
use crate::models::{ALL, Model};
use crate::optim::{Limit, Mode, Options, Rule, Schedule};
use crate::tensor::DType;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The choices of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Network by name.
    pub model: String,
    /// Data set by name, or `folder:DIR`, `list:FILE`, `list:TRAIN,TEST`.
    pub data: String,
    /// The size that pictures are brought to, as in `32` or `24x32`, if it is not that of the network or data set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<String>,
    /// Leave out pictures that cannot be read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_broken: bool,
    /// The directory that data sets lie in, if it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Passes over the training images.
    pub epochs: u64,
    /// Images per step.
    pub batch: usize,
    /// `sgd`, `adam`, `adamw` or `rmsprop`.
    pub optimizer: String,
    /// Learning rate: the schedule's start, or its maximum for one-cycle.
    pub lr: f64,
    /// Momentum of SGD and RMSprop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Nesterov's form of SGD's momentum.
    pub nesterov: bool,
    /// Weight decay, 0 by default, for AdamW 0.01: in the gradient for SGD, Adam and RMSprop, decoupled for AdamW.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Adam's and AdamW's smoothing of the gradient and of its square.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// What keeps the division of Adam, AdamW and RMSprop sane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// The part of the gradient that does not enter SGD's velocity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dampening: Option<f64>,
    /// RMSprop's smoothing of the gradient's square.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// RMSprop divides by the standard deviation instead of the root mean square.
    pub centered: bool,
    /// Gradients are made shorter where the norm of all of them together is above this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_grad_norm: Option<f64>,
    /// Each number of a gradient is brought into ± this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_grad_value: Option<f64>,
    /// The learning rate over the run, as in `cosine` or `step:10:0.1`.
    pub schedule: String,
    /// Share of each target that is spread over all classes.
    pub label_smoothing: f64,
    /// What is done to training pictures: `none`, or as in `rotate:10,translate:0.1`.
    pub augment: String,
    /// Type of activations and working weights: `f32`, `bf16` or `f16`.
    pub precision: String,
    /// Seed of first weights, order of images, dropout and generated data.
    pub seed: u64,
    /// Use only so many training (and test) images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Share of the training images set aside to choose the best checkpoint by.
    pub val_split: f64,
    /// A checkpoint whose weights the network begins with, as far as they fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
    /// Patterns of the names of parameters that keep their values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// A checkpoint whose network is imitated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// What the logits of both are divided by, for that.
    pub temperature: f64,
    /// The teacher's share of the loss.
    pub distill_alpha: f64,
    /// What makes a validation better, for the best checkpoint and for stopping early: `acc` or `loss`.
    pub monitor: String,
    /// Stop when so many epochs have gone by without a better validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<u64>,
    /// Judge and keep the running average of the weights with this decay; beside it the weights go on as ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Look at each parameter's gradient and update after each so many steps of an epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<u64>,
    /// Report the loss after each so many steps, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_every: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: "lenet".into(),
            data: "auto".into(),
            data_dir: None,
            image_size: None,
            skip_broken: false,
            epochs: 5,
            batch: 64,
            optimizer: "adam".into(),
            lr: 2e-3,
            momentum: None,
            nesterov: false,
            weight_decay: None,
            betas: None,
            eps: None,
            dampening: None,
            alpha: None,
            centered: false,
            clip_grad_norm: None,
            clip_grad_value: None,
            schedule: "cosine".into(),
            label_smoothing: 0.0,
            augment: "none".into(),
            precision: "f32".into(),
            seed: 0,
            limit: None,
            val_split: 0.05,
            init_from: None,
            freeze: Vec::new(),
            teacher: None,
            temperature: 4.0,
            distill_alpha: 0.9,
            monitor: "acc".into(),
            early_stop: None,
            ema: None,
            watch: None,
            log_every: None,
        }
    }
}

impl Config {
    /// Reads a TOML file; unknown keys and wrong types are errors that name them.
    pub fn read(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::usage(format!("cannot read the configuration {}: {e}", path.display())).hint("give --config a run's config.toml")
        })?;
        toml::from_str(&text).map_err(|e| {
            Error::usage(format!("{}: {}", path.display(), e.to_string().trim_end())).hint("keys are those of a run's config.toml")
        })
    }

    /// Makes sure that every value can be used.
    pub fn check(&self) -> Result<()> {
        let positive = |name: &str, x: u64| if x == 0 { Err(Error::usage(format!("--{name} must be at least 1"))) } else { Ok(()) };
        positive("epochs", self.epochs)?;
        positive("batch", self.batch as u64)?;
        positive("limit", self.limit.unwrap_or(1) as u64)?;
        positive("early-stop", self.early_stop.unwrap_or(1))?;
        positive("watch", self.watch.unwrap_or(1))?;
        positive("log-every", self.log_every.unwrap_or(1))?;
        let within = |name: &str, x: f64, range: std::ops::Range<f64>| {
            if range.contains(&x) {
                Ok(())
            } else {
                Err(Error::usage(format!("--{name} must be at least {} and below {}, not {x}", range.start, range.end)))
            }
        };
        within("lr", self.lr, 0.0..1e6)?;
        within("weight-decay", self.weight_decay.unwrap_or(0.0), 0.0..1e6)?;
        within("label-smoothing", self.label_smoothing, 0.0..1.0)?;
        within("ema", self.ema.unwrap_or(0.0), 0.0..1.0)?;
        within("val-split", self.val_split, 0.0..1.0)?;
        within("temperature", self.temperature, 1e-3..1e4)?;
        if !(0.0..=1.0).contains(&self.distill_alpha) {
            return Err(Error::usage(format!("--distill-alpha must be from 0 to 1, not {}", self.distill_alpha)));
        }
        self.rule()?;
        self.limit()?;
        self.schedule()?;
        self.monitor()?;
        if self.early_stop.is_some() && self.val_split == 0.0 {
            return Err(Error::usage("--early-stop needs validation images").hint("set --val-split above 0"));
        }
        self.dtype()?;
        self.augment()?;
        self.data.parse::<Source>()?;
        self.size()?;
        // To be known before data are fetched. Building a network says it, but takes time.
        if !ALL.iter().any(|known| known.name == self.model) {
            Model::build(&self.model, &Default::default())?;
        }
        Ok(())
    }

    /// The size that pictures are brought to, if it was chosen: height, width.
    pub fn size(&self) -> Result<Option<[usize; 2]>> {
        self.image_size.as_deref().map(parse_size).transpose()
    }

    /// What is done to training pictures.
    pub fn augment(&self) -> Result<Augment> {
        self.augment.parse()
    }

    /// The type that the network computes in.
    pub fn dtype(&self) -> Result<DType> {
        match &*self.precision {
            "f32" => Ok(DType::F32),
            "bf16" => Ok(DType::Bf16),
            "f16" => Ok(DType::F16),
            other => Err(Error::usage(format!("unknown precision '{other}'")).hint("use f32, bf16 or f16")),
        }
    }

    /// The optimiser's update rule.
    pub fn rule(&self) -> Result<Rule> {
        let options = Options {
            momentum: self.momentum,
            nesterov: self.nesterov.then_some(true),
            weight_decay: self.weight_decay,
            betas: self.betas,
            eps: self.eps,
            dampening: self.dampening,
            alpha: self.alpha,
            centered: self.centered.then_some(true),
        };
        Rule::by_name(&self.optimizer, &options)
    }

    /// What gradients are held to.
    pub fn limit(&self) -> Result<Option<Limit>> {
        let positive = |name: &str, most: f64| match most > 0.0 && most < f64::INFINITY {
            true => Ok(()),
            false => Err(Error::usage(format!("--clip-grad-{name} must be above 0, not {most}")).hint("leave it out for no clipping")),
        };
        match (self.clip_grad_norm, self.clip_grad_value) {
            (Some(_), Some(_)) => Err(Error::usage("--clip-grad-norm and --clip-grad-value cannot go together").hint("choose one of them")),
            (Some(most), None) => positive("norm", most).map(|()| Some(Limit::Norm(most))),
            (None, Some(most)) => positive("value", most).map(|()| Some(Limit::Value(most))),
            (None, None) => Ok(None),
        }
    }

    /// What makes a validation better: a small loss, or a large accuracy.
    pub fn monitor(&self) -> Result<Mode> {
        match &*self.monitor {
            "loss" => Ok(Mode::Min),
            "acc" => Ok(Mode::Max),
            other => Err(Error::usage(format!("unknown --monitor '{other}'")).hint("use acc or loss")),
        }
    }

    /// The schedule of the learning rate.
    pub fn schedule(&self) -> Result<Schedule> {
        self.schedule.parse()
    }
}
