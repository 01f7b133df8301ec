//! `cugrad train`.
//!
//! Flags override `--config`, which overrides the defaults in `train/config.rs`. Read next: `eval.rs`.

use super::data_args::same_classes;
use super::progress::{Show, Terminal};
use super::recipe::Recipe;
use super::{DataArgs, print, remark};
use crate::data::{Loader, Source, Splits};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::train::progress::Place;
use crate::train::step::evaluate;
use crate::train::trained::classes;
use crate::train::trainer::EVAL_BATCH;
use crate::train::{Checkpoint, Config, Record, RunDir, Running, Trainer, Transfer};
use clap::Args;
use serde_json::json;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Train a network.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cugrad train\n  cugrad train --model resnet8 --epochs 3 --data mnist --data-dir ~/data\n  cugrad train --optimizer sgd --lr 0.05 --momentum 0.9 --schedule onecycle\n  cugrad train --resume runs/20260101-120000-lenet/last.safetensors"
)]
pub struct Train {
    /// Network: lenet, resnet8, ... (cugrad summary lists them), or resnet:2,2,2 [default: lenet]
    #[arg(long)]
    model: Option<String>,
    /// Data set: auto, mnist, fashion, kmnist, cifar10, synthetic, folder:DIR, list:FILE or list:TRAIN,TEST [default: auto]
    #[arg(long)]
    data: Option<String>,
    #[command(flatten)]
    data_args: DataArgs,
    /// Where to compute: auto, cpu, cuda:N or emu
    #[arg(long, default_value = "auto")]
    device: String,
    /// On a GPU, launch every kernel of a step by itself instead of replaying a captured step (same bits, slower)
    #[arg(long)]
    no_capture: bool,
    /// Move training pictures by up to so many pixels, and mirror half of them: none, shift:2, flip, or shift:2,flip [default: none]
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
    /// Begin with a checkpoint's weights where names and shapes fit, its network being the default of --model
    #[arg(long, value_name = "CHECKPOINT")]
    init_from: Option<PathBuf>,
    /// Parameters that keep their values: patterns of their names such as 'conv1.*', separated by commas
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    freeze: Option<Vec<String>>,
    #[command(flatten)]
    recipe: Recipe,
    /// Run directory [default: runs/<time>-<model>, or that of --resume]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from a run's last.safetensors, bit for bit as if it had never stopped
    #[arg(long, value_name = "CHECKPOINT")]
    resume: Option<PathBuf>,
    /// Read choices from a TOML file; flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print events as lines of JSON
    #[arg(long)]
    json: bool,
}

impl Train {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        if self.recipe.is_trial() {
            let (place, config, splits) = self.start(None)?;
            return self.recipe.trial(&mut trainer(config, &splits, place, None)?, self.json);
        }
        let done = self.train(if self.json { Show::Json } else { Show::Lines }, None)?;
        if self.json { print(done.json()) } else { print(&done) }
    }

    /// Trains, and judges the network of the last epoch on the test images. `stop` ends it early, once everything is saved; without
    /// one, Ctrl-C does.
    pub(super) fn train(&self, show: Show, stop: Option<Arc<AtomicBool>>) -> Result<Done> {
        let began = Instant::now();
        let saved = match &self.resume {
            Some(path) => Some((path.clone(), Checkpoint::load(path)?)),
            None => None,
        };
        let (place, config, splits) = self.start(saved.as_ref())?;
        let device = place.device;
        let mut trainer = trainer(config.clone(), &splits, place, saved.as_ref())?;
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
        Ok(Done { test, img_per_s: rate, seconds: began.elapsed().as_secs_f64(), checkpoint: dir.last(), config })
    }

    /// Where to compute, the choices, and the data.
    fn start(&self, saved: Option<&(PathBuf, Checkpoint)>) -> Result<(Place, Config, Splits)> {
        let (device, why) = Device::open(&self.device)?;
        why.into_iter().for_each(remark);
        let mut config = self.choose(saved)?;
        config.check().map_err(|e| self.blame(e))?;
        let (data, splits) = self.data_args.load(&config)?;
        config.data = data;
        let source: Source = config.data.parse()?;
        if config.augment()?.flip && source.is_white_on_black() && source != Source::Fashion {
            remark("note: --augment flip mirrors half of the pictures, and a mirrored digit or letter is another sign");
        }
        Ok((Place { device, capture: !self.no_capture }, config, splits))
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
    fn choose(&self, saved: Option<&(PathBuf, Checkpoint)>) -> Result<Config> {
        let mut config = match (saved, &self.config) {
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
            (None, None) => Config::default(),
        };
        // A network that begins with a checkpoint's weights is of its kind, if nothing else is said.
        if let (None, None, None, Some(path)) = (saved, &self.config, &self.model, &self.init_from) {
            config.model = Checkpoint::load(path)?.meta.remove("model").unwrap_or(config.model);
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
        set(&mut config.init_from, &self.init_from.clone().map(Some));
        set(&mut config.freeze, &self.freeze);
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

/// A trainer with its first weights: those of the checkpoint to resume, of another network, or drawn.
fn trainer<'a>(config: Config, splits: &'a Splits, place: Place, saved: Option<&(PathBuf, Checkpoint)>) -> Result<Trainer<'a>> {
    let init_from = config.init_from.clone();
    let mut trainer = Trainer::new(config, splits, place)?;
    match (saved, init_from) {
        (Some((path, saved)), _) => {
            trainer.resume(saved, path)?;
            same_classes(&splits.train.classes, &classes(path, saved)?, path)?;
        }
        (None, Some(path)) => {
            let transfer = Transfer::start(&mut trainer.model, &Checkpoint::load(&path)?, &path)?;
            remark(format_args!("first weights from {}: {transfer}", path.display()));
        }
        (None, None) => {}
    }
    Ok(trainer)
}

/// What a run came to.
#[derive(Debug)]
pub struct Done {
    /// Its choices, resolved.
    pub config: Config,
    /// Sums over the test images, judged after the last epoch.
    pub test: Running,
    /// Images a second in training.
    pub img_per_s: f64,
    /// Wall time, loading included.
    pub seconds: f64,
    /// The network.
    pub checkpoint: PathBuf,
}

impl Done {
    /// As an event of `--json`.
    fn json(&self) -> serde_json::Value {
        let Config { model, data, epochs, seed, .. } = &self.config;
        json!({"event": "done", "model": model, "data": data, "epochs": epochs, "test_acc": self.test.accuracy(),
            "test_loss": self.test.loss(), "train_img_per_s": self.img_per_s, "seconds": self.seconds, "seed": seed,
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

/// Whether two paths lead to one directory.
fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// The number of misses.
fn wrong(sums: &Running) -> u64 {
    sums.samples() - (sums.accuracy() * sums.samples() as f64).round() as u64
}

/// A flag that the first Ctrl-C (or SIGTERM) sets; a second one ends the program at once.
pub(super) fn on_interrupt() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .map_err(|e| Error::run(format!("cannot listen for Ctrl-C: {e}")))?;
    Ok(stop)
}
