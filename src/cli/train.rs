//! `cugrad train`.
//!
//! Flags override `--config`, which overrides the defaults in `train/config.rs`. Read next: `eval.rs`.

use super::data_args::same_classes;
use super::done::{Done, wrong};
use super::interrupt::on_interrupt;
use super::others::Others;
use super::progress::{Show, Terminal};
use super::recipe::Recipe;
use super::runs::{self, Flags, Planned};
use super::{DataArgs, print, remark};
use crate::data::{Loader, Source, Splits};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::export::import;
use crate::plot::history;
use crate::train::progress::Place;
use crate::train::step::evaluate;
use crate::train::trained::classes;
use crate::train::trainer::EVAL_BATCH;
use crate::train::trainer::range_test::Point;
use crate::train::{Checkpoint, Config, Ensemble, Preset, Record, RunDir, Teacher, Trainer, Transfer, Views, presets, rundir};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

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
        if let Some(preset) = self.preset.as_deref().map(Preset::by_name).transpose()?.filter(|preset| preset.members > 1) {
            return self.several(preset);
        }
        let done = self.train(if self.json { Show::Json } else { Show::Lines }, None)?;
        if self.json { print(done.json()) } else { print(&done) }
    }

    /// Trains the members of a preset in turn, and lets them judge together.
    fn several(&self, preset: &Preset) -> Result<()> {
        let first = self.check()?.seed;
        let member = |i: u64| Planned { name: format!("seed-{}", first + i), train: Train { seed: Some(first + i), ..self.clone() } };
        let planned: Vec<Planned> = (0..preset.members).map(member).collect();
        let base = self.out.clone().map_or_else(|| rundir::fresh(preset.name), Ok)?;
        remark(format_args!("{} runs in {}; if stopped, go on with the same command and --out {1}", preset.members, base.display()));
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

    /// Everything that a run begins with.
    fn start(&self, saved: Option<&Saved>) -> Result<Start> {
        let (device, why) = Device::open(&self.device)?;
        why.into_iter().for_each(remark);
        let place = Place { device, capture: !self.no_capture };
        let mut config = self.choose(saved)?;
        config.check().map_err(|e| self.blame(e))?;
        let (data, mut splits) = self.data_args.load(&config)?;
        config.data = data;

        let source: Source = config.data.parse()?;
        if config.augment()?.flip && source.is_white_on_black() && source != Source::Fashion {
            remark("note: --augment flip mirrors half of the pictures, and a mirrored digit or letter is another sign");
        }
        let teacher = match &config.teacher {
            Some(path) => {
                let teacher = Teacher::load(path, &config, device)?;
                same_classes(&splits.train.classes, &teacher.classes, path)?;
                Some(teacher)
            }
            None => None,
        };
        // Both are shown the same pictures.
        splits.normalization = teacher.as_ref().map_or(splits.normalization, |teacher| teacher.normalization.clone());
        Ok(Start { config, splits, teacher, place })
    }

    /// Trains, and judges the network of the last epoch on the test images. `stop` ends it early, once everything is saved; without
    /// one, Ctrl-C does.
    pub(super) fn train(&self, show: Show, stop: Option<Arc<AtomicBool>>) -> Result<Done> {
        let began = Instant::now();
        let saved = match &self.resume {
            Some(path) => Some((path.clone(), Checkpoint::load(path)?)),
            None => None,
        };
        let mut start = self.start(saved.as_ref())?;
        let mut trainer = start.trainer(saved.as_ref())?;
        let (config, splits, device) = (trainer.config().clone(), trainer.splits(), trainer.model.device);
        // The parent of a bare file name is empty.
        let beside = saved.as_ref().and_then(|(path, _)| path.parent());
        let beside = beside.map(|parent| if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.into() });
        let mut dir = RunDir::create(self.out.clone().or(beside.clone()), &config.model)?;
        if beside.is_some_and(|beside| same(&beside, dir.path())) {
            dir.truncate_after(trainer.progress.step)?;
        } else if dir.has_records()? || dir.last().exists() {
            return Err(Error::usage(format!("{} holds a run already", dir.path().display()))
                .hint("choose another --out, or go on with --resume and that run's last.safetensors"));
        }
        dir.write_config(&config)?;

        let Config { model, data, epochs, batch, optimizer, lr, schedule, seed, precision, .. } = &config;
        remark(format_args!(
            "training {model} ({} parameters) on {data} ({} images), {epochs} epochs of batch {batch}, {optimizer} lr {lr} {schedule}, seed {seed}, {precision} on {device}",
            trainer.model.params.count(),
            splits.train.len(),
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

        // What is tested is what was validated.
        trainer.exchange()?;
        let loader = Loader::new(&splits.test, &splits.normalization, trainer.model.input, trainer.model.dtype, device)?;
        let numbers: Vec<u32> = (0..splits.test.len() as u32).collect();
        let test = evaluate(&mut trainer.model, &loader, &numbers, EVAL_BATCH, |_, _| Ok(()))?;
        let progress = &trainer.progress;
        let images = trainer.images() - images;
        let rate = if images == 0 { 0.0 } else { images as f64 / (progress.seconds - before) };
        dir.append(&Record {
            step: progress.step,
            epoch: progress.epoch,
            split: "test",
            loss: test.loss(),
            acc: test.accuracy(),
            lr: 0.0,
            time_s: progress.seconds,
            grad_norm: None,
            samples_per_s: rate,
        })?;
        Ok(Done { test, samples_per_s: rate, seconds: began.elapsed().as_secs_f64(), checkpoint: dir.last(), config })
    }

    /// Names the configuration file in an error that is there without the flags, too.
    fn blame(&self, e: Error) -> Error {
        match &self.config {
            Some(path) if Config::read(path).and_then(|c| c.check()).is_err_and(|own| own.message == e.message) => {
                Error { message: format!("{}: {}", path.display(), e.message), ..e }
            }
            _ => e,
        }
    }

    /// The run's choices: from the checkpoint to resume, else from the file, else the defaults; then the flags.
    fn choose(&self, saved: Option<&Saved>) -> Result<Config> {
        let preset = self.preset.as_deref().map(Preset::by_name).transpose()?;
        let mut config = match (saved, &self.config) {
            _ if preset.is_some() && (saved.is_some() || self.config.is_some()) => {
                return Err(Error::usage("--preset cannot go with --resume or --config: all of them are sets of choices"));
            }
            (Some(_), Some(_)) => {
                return Err(Error::usage("--resume and --config cannot go together: a checkpoint knows its configuration"));
            }
            (Some((path, saved)), None) => {
                let text = saved
                    .meta
                    .get("config")
                    .ok_or_else(|| Error::run(format!("{}: not a checkpoint of cugrad: it has no configuration", path.display())))?;
                serde_json::from_str(text).map_err(|e| Error::run(format!("{}: its configuration cannot be read: {e}", path.display())))?
            }
            (None, Some(path)) => Config::read(path)?,
            (None, None) => preset.map_or_else(Config::default, Preset::config),
        };
        // A network that begins with a checkpoint's weights is of its kind, if nothing else is said.
        if let (None, None, None, Some(path)) = (saved, &self.config, &self.model, &self.others.init_from) {
            config.model = import::read(path)?.meta.remove("model").unwrap_or(config.model);
        }
        let before = config.clone();
        fn set<T: Clone>(to: &mut T, flag: &Option<T>) {
            if let Some(value) = flag {
                *to = value.clone();
            }
        }
        set(&mut config.model, &self.model);
        // A path must mean the same wherever the run goes on; what is no source is refused later.
        set(
            &mut config.data,
            &self.data.as_ref().map(|data| data.parse().map_or(data.clone(), |source: Source| source.absolute().to_string())),
        );
        self.data_args.set(&mut config);
        set(&mut config.epochs, &self.epochs);
        set(&mut config.batch, &self.batch);
        set(&mut config.optimizer, &self.optimizer);
        set(&mut config.lr, &self.lr);
        set(&mut config.momentum, &self.momentum.map(Some));
        set(&mut config.weight_decay, &self.weight_decay.map(Some));
        set(&mut config.schedule, &self.schedule);
        set(&mut config.label_smoothing, &self.label_smoothing);
        set(&mut config.augment, &self.augment);
        set(&mut config.precision, &self.precision);
        set(&mut config.seed, &self.seed);
        set(&mut config.limit, &self.limit.map(Some));
        set(&mut config.val_split, &self.val_split);
        self.others.set(&mut config);
        config.nesterov |= self.nesterov;
        self.recipe.set(&mut config);
        let own = |data: &str| data.parse().is_ok_and(|source: Source| source.is_own());
        let data = if own(&config.data) && own(&before.data) { &before.data } else { &config.data }.clone();
        // What may change is what no step depends on; and another place of the same pictures.
        let Config { epochs, early_stop, log_every, watch, .. } = before;
        let data_dir = before.data_dir.clone();
        if saved.is_some() && (Config { epochs, early_stop, log_every, watch, data, data_dir, ..config.clone() }) != before {
            return Err(Error::usage(
                "a resumed run keeps its choices; only --epochs, --early-stop, --log-every and --watch can change, and where a folder or list lies",
            )
                .hint("leave out the other flags, or start a new run"));
        }
        Ok(config)
    }
}

/// A checkpoint to go on from, and where it lies.
type Saved = (PathBuf, Checkpoint);

/// What a run begins with.
struct Start {
    config: Config,
    splits: Splits,
    teacher: Option<Teacher>,
    place: Place,
}

impl Start {
    /// The run, ready to go; once.
    fn trainer(&mut self, saved: Option<&Saved>) -> Result<Trainer<'_>> {
        let mut trainer = Trainer::new(self.config.clone(), &self.splits, self.place)?;
        self.teacher.take().map_or(Ok(()), |teacher| trainer.teach(teacher))?;
        match (saved, &self.config.init_from) {
            (Some((path, saved)), _) => {
                trainer.resume(saved, path)?;
                same_classes(&self.splits.train.classes, &classes(path, saved)?, path)?;
            }
            (None, Some(path)) => {
                let transfer = Transfer::start(&mut trainer.model, &import::read(path)?, path)?;
                remark(format_args!("first weights from {}: {transfer}", path.display()));
            }
            (None, None) => {}
        }
        Ok(trainer)
    }
}

/// The presets by name, with what they are for, as `--help` lists them.
fn names() -> clap::builder::PossibleValuesParser {
    presets::ALL.iter().map(|preset| clap::builder::PossibleValue::new(preset.name).help(preset.about)).collect::<Vec<_>>().into()
}

/// Whether two paths lead to one directory.
fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
