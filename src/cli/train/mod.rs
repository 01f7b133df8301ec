//! `cugrad train`: its flags, and what it does with them.
//!
//! A run goes through three files: `choose.rs` puts its choices together, `start.rs` loads what it begins with, `run.rs` trains it and judges what
//! came of it. Read in that order, then `eval.rs`.

mod choose;
mod run;
mod start;

use super::done::wrong;
use super::interrupt::on_interrupt;
use super::others::Others;
use super::progress::Show;
use super::recipe::Recipe;
use super::runs::{self, Flags, Planned};
use super::{DataArgs, print, remark};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::export::import;
use crate::train::trainer::range_test::Point;
use crate::train::{Config, Ensemble, Preset, Views, presets, rundir};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Train a network.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  cugrad train\n  cugrad train --preset fast99\n  cugrad train --model resnet8 --epochs 3 --data mnist --data-dir ~/data\n  cugrad train --optimizer sgd --lr 0.05 --momentum 0.9 --schedule onecycle\n  cugrad train --resume runs/20260101-120000-lenet/last.safetensors"
)]
pub struct Train {
    /// A named set of choices in place of the defaults; flags override it
    #[arg(long, value_name = "NAME", value_parser = names())]
    preset: Option<String>,
    /// Network: lenet, resnet8, ... (cugrad summary lists them), or resnet:2,2,2 [default: lenet]
    #[arg(long)]
    model: Option<String>,
    /// Data set: auto, mnist, fashion, kmnist, cifar10, synthetic, folder:DIR, list:FILE or list:TRAIN,TEST [default: auto]
    #[arg(long)]
    data: Option<String>,
    #[command(flatten)]
    pub(super) data_args: DataArgs,
    /// Where to compute: auto, cpu, cuda:N or emu
    #[arg(long, default_value = "auto")]
    pub(super) device: String,
    /// On a GPU, launch every kernel of a step by itself instead of replaying a captured step (same bits, slower)
    #[arg(long)]
    no_capture: bool,
    /// Change training pictures at random: none, or some of crop:4, flip, rotate:15, translate:0.1, scale:0.1, shear:10, elastic:34:4,
    /// erase:0.5, sharpen:1, with commas between [default: none]
    #[arg(long)]
    augment: Option<String>,
    /// f32, bf16 or f16: type of activations and working weights [default: f32]
    #[arg(long)]
    precision: Option<String>,
    /// Passes over the training images [default: 5]
    #[arg(long)]
    epochs: Option<u64>,
    /// Images per step [default: 64]
    #[arg(long)]
    batch: Option<usize>,
    /// sgd, adam, adamw or rmsprop [default: adam]
    #[arg(long)]
    optimizer: Option<String>,
    /// Learning rate [default: 0.002]
    #[arg(long, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Momentum of sgd and rmsprop [default: 0]
    #[arg(long)]
    momentum: Option<f64>,
    /// Nesterov momentum
    #[arg(long)]
    nesterov: bool,
    /// Weight decay [default: 0, and 0.01 for adamw]
    #[arg(long)]
    weight_decay: Option<f64>,
    /// constant, step:10:0.1, multistep:20,30:0.1, cosine, onecycle or reduce-on-plateau:min:10:0.1 (min watches the validation loss, max the accuracy) [default: cosine]
    #[arg(long)]
    schedule: Option<String>,
    /// Share of each target spread over all classes [default: 0]
    #[arg(long)]
    label_smoothing: Option<f64>,
    /// Seed of everything random [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Use only the first N training and test images
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Share of the training images set aside to choose the best checkpoint by [default: 0.05]
    #[arg(long)]
    val_split: Option<f64>,
    #[command(flatten)]
    others: Others,
    #[command(flatten)]
    recipe: Recipe,
    /// Run directory [default: runs/<time>-<model>, or that of --resume]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Go on from a run's last.safetensors, bit for bit as if it had never stopped
    #[arg(long, value_name = "CHECKPOINT")]
    pub(super) resume: Option<PathBuf>,
    /// Read choices from a TOML file; flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print events as lines of JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Train {
    /// Runs `cugrad distill`: the same with a teacher.
    pub fn distill(self) -> Result<()> {
        if self.others.teacher.is_none() && self.resume.is_none() && self.config.is_none() {
            return Err(Error::usage("cugrad distill needs a teacher").hint("give --teacher a run's best.safetensors"));
        }
        self.run()
    }

    /// Runs the command.
    pub fn run(self) -> Result<()> {
        if self.recipe.is_trial() {
            return self.recipe.trial(&mut self.start(None)?.trainer(None)?, self.json);
        }
        if let Some(preset) = self.preset.as_deref().map(Preset::by_name).transpose()?.filter(|preset| !preset.members.is_empty()) {
            return self.several(preset);
        }
        let done = self.train(if self.json { Show::Json } else { Show::Lines }, None)?;
        if self.json { print(done.json()) } else { print(&done) }
    }

    /// Trains the members of a preset in turn, and lets them judge together.
    fn several(&self, preset: &Preset) -> Result<()> {
        let first = self.check()?.seed;
        let planned: Vec<Planned> = (first..).zip(preset.members).map(|(seed, model)| self.member(seed, model)).collect();
        let base = self.out.clone().map_or_else(|| rundir::fresh(preset.name), Ok)?;
        remark(format_args!("{} runs in {}; if stopped, go on with the same command and --out {1}", planned.len(), base.display()));
        let outcomes = runs::make(&base, &planned)?;
        let checkpoints: Vec<PathBuf> = outcomes.iter().map(|outcome| outcome.run.join("last.safetensors")).collect();
        let mut ensemble = Ensemble::load(&checkpoints, import::read, false, Views::One, Device::open(&self.device)?.0)?;
        let (classes, config) = (ensemble.members[0].classes.clone(), ensemble.members[0].config.clone());
        let (_, splits) = self.data_args.load_for(&config, &classes, None, config.limit)?;
        let sums = ensemble.judge(&splits.test)?.sums;
        if self.json {
            return print(json!({"event": "done", "members": outcomes, "test_acc": sums.accuracy(), "test_loss": sums.loss()}));
        }
        for outcome in &outcomes {
            print(format_args!("{:.2}%  {}", 100.0 * outcome.test_acc.unwrap_or(f64::NAN), outcome.run.display()))?;
        }
        let (acc, loss, images) = (100.0 * sums.accuracy(), sums.loss(), sums.samples());
        print(format_args!("together: test accuracy {acc:.2}%  loss {loss:.4}  ({} of {images} wrong)", wrong(&sums)))
    }

    /// One member of an ensemble; --model makes all of them that network.
    fn member(&self, seed: u64, model: &str) -> Planned {
        let model = self.model.clone().unwrap_or_else(|| model.into());
        Planned { name: format!("seed-{seed}"), train: Train { seed: Some(seed), model: Some(model), ..self.clone() } }
    }

    /// The choices of a new run, checked; the data are not loaded yet.
    pub(super) fn check(&self) -> Result<Config> {
        let config = self.choose(None)?;
        config.check()?;
        Ok(config)
    }

    /// The same run in another directory.
    pub(super) fn at(&self, dir: &Path) -> Train {
        Train { out: Some(dir.into()), ..self.clone() }
    }

    /// What goes on with the run in a directory; its choices stand there.
    pub(super) fn again(&self, dir: &Path) -> Result<Train> {
        let (data_args, device) = (self.data_args.clone(), self.device.clone());
        let resume = Some(dir.join("last.safetensors"));
        Ok(Train { data_args, device, no_capture: self.no_capture, resume, ..Flags::read(Vec::<std::ffi::OsString>::new())? })
    }

    /// The learning-rate range test with this run's choices: its points, and what they are for.
    pub(super) fn range_test(&self, rates: &[f64]) -> Result<(Config, Vec<Point>)> {
        if self.resume.is_some() {
            return Err(Error::usage("a range test begins a run, it resumes none").hint("leave out --resume; --init-from takes weights"));
        }
        let mut start = self.start(None)?;
        let stop = on_interrupt()?;
        let points = start.trainer(None)?.range_test(rates, &stop)?;
        match stop.load(Ordering::Relaxed) {
            true => Err(Error::new(Kind::Interrupted, format!("interrupted after {} steps", points.len()))),
            false => Ok((start.config, points)),
        }
    }
}

/// The presets by name, with what they are for, as `--help` lists them.
fn names() -> clap::builder::PossibleValuesParser {
    presets::ALL.iter().map(|preset| clap::builder::PossibleValue::new(preset.name).help(preset.about)).collect::<Vec<_>>().into()
}
