//! `cugrad data`: look at data sets, and bring them into other forms.
//!
//! Read next: `stats.rs`, the shortest.

mod export;
mod mosaic;
mod show;
mod stats;

use super::{DataArgs, print, remark};
use crate::data::cifar::{CIFAR10, Found};
use crate::data::source::{FASHION, KMNIST, Known, MNIST};
use crate::data::{self, Dataset, Options, Source, Splits, download};
use crate::error::{Error, Result};
use crate::models::Model;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use std::path::PathBuf;

/// Look at data sets, and bring them into other forms.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cugrad data download cifar10\n  cugrad data stats --data folder:pictures\n  cugrad data show --data mnist --per-class 8 --out digits.png\n  cugrad data mosaic 2024013325 --checkpoint runs/20260101-120000-lenet/best.safetensors"
)]
pub struct Data {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Fetch a data set, or verify one that is there
    Download(Download),
    /// Print counts of classes, and mean and standard deviation of the pixels
    Stats(stats::Stats),
    /// Write list files of which pictures of a folder or list are learned from, and which are judged
    Split(Split),
    /// Draw a contact sheet
    Show(show::Show),
    /// Write every image as a PNG file in a folder of its class, as --data folder:DIR reads it
    Export(export::Export),
    /// Write a number with digits of a data set, and let a network read it
    Mosaic(mosaic::Mosaic),
}

/// Which data, for commands without a network.
#[derive(Debug, Args)]
struct Choice {
    /// Data set: auto, mnist, fashion, kmnist, cifar10, synthetic, folder:DIR, list:FILE or list:TRAIN,TEST
    #[arg(long, default_value = "auto")]
    data: String,
    #[command(flatten)]
    data_args: DataArgs,
    /// In the size and colours that this network takes [default: their own, or those of the first picture]
    #[arg(long)]
    model: Option<String>,
    /// Seed of generated digits, of the split of a folder or list, and of choices
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Use only the first N training and test images
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Choice {
    fn options(&self) -> Result<Options> {
        let size = self.data_args.size()?;
        Ok(Options {
            seed: self.seed,
            limit: self.limit,
            input: self.model.as_deref().map(|name| Model::input(name, size)).transpose()?,
            size,
            ..self.data_args.options()
        })
    }

    fn load(&self) -> Result<(String, Splits)> {
        self.data_args.open(&self.data.parse()?, &self.options()?)
    }
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    /// To learn from.
    Train,
    /// To be judged on.
    Test,
}

impl Part {
    fn of(self, splits: &Splits) -> &Dataset {
        match self {
            Part::Train => &splits.train,
            Part::Test => &splits.test,
        }
    }
}

impl Data {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self.what {
            What::Download(command) => command.run(),
            What::Stats(command) => command.run(),
            What::Split(command) => command.run(),
            What::Show(command) => command.run(),
            What::Export(command) => command.run(),
            What::Mosaic(command) => command.run(),
        }
    }
}

/// Fetch a data set.
#[derive(Debug, Args)]
struct Download {
    /// mnist, fashion, kmnist or cifar10
    name: String,
    #[command(flatten)]
    data_args: DataArgs,
}

impl Download {
    fn run(self) -> Result<()> {
        let options = self.data_args.options();
        let log = &mut |line: &str| remark(line);
        let files: Vec<PathBuf> = match self.name.parse()? {
            Source::Mnist => four(&MNIST, &options, log)?,
            Source::Fashion => four(&FASHION, &options, log)?,
            Source::Kmnist => four(&KMNIST, &options, log)?,
            Source::Cifar10 => match CIFAR10.fetch(&options, log)? {
                Found::Archive(file) => vec![file],
                Found::Folder(folder) => CIFAR10.files.iter().map(|file| folder.join(file)).collect(),
            },
            other => {
                return Err(Error::usage(format!("'{other}' is nothing to download")).hint("choose mnist, fashion, kmnist or cifar10"));
            }
        };
        // Reading a set verifies it.
        let splits = data::load(&self.name.parse()?, &Options { offline: true, ..options }, log)?;
        for file in files {
            let sum = download::sha256(&file).map_err(|e| Error::data(format!("{}: {e}", file.display())))?;
            print(format_args!("{sum}  {}", file.display()))?;
        }
        print(format_args!("{} is whole: {} training and {} test images", self.name, splits.train.len(), splits.test.len()))
    }
}

/// The four files of a set, fetched if need be.
fn four(known: &Known, options: &Options, log: &mut dyn FnMut(&str)) -> Result<Vec<PathBuf>> {
    if known.find(&options.dir).contains(&None) {
        match options.offline {
            true => return Err(known.missing(&options.dir)),
            false => known.fetch(&options.dir, options.mirror.as_deref(), log)?,
        }
    }
    Ok(known.find(&options.dir).into_iter().flatten().collect())
}

/// Write list files.
#[derive(Debug, Args)]
struct Split {
    #[command(flatten)]
    choice: Choice,
    /// The folder for total.txt, train.txt and val.txt [default: where train looks for them]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Split {
    fn run(self) -> Result<()> {
        let source: Source = self.choice.data.parse()?;
        if !matches!(source, Source::Folder(_) | Source::List(..)) {
            return Err(Error::usage(format!("'{source}' has its own training and test images")).hint("split a folder:DIR or list:FILE"));
        }
        let options = self.choice.options()?;
        if let Some(name) = data::LIST_FILES.iter().find(|name| self.out.as_ref().is_some_and(|out| out.join(name).exists())) {
            return Err(Error::usage(format!("--out has a {name} already")).hint("choose an empty folder"));
        }
        let folder = self.out.unwrap_or_else(|| data::lists(&source, &options));
        let (train, val) = data::write_lists(&source, &options, &folder, &mut |line| remark(line))?;
        if self.json {
            return print(json!({"data": self.choice.data, "seed": self.choice.seed, "train": train, "val": val, "folder": folder}));
        }
        print(format_args!("{train} pictures to learn from, {val} to be judged on"))?;
        data::LIST_FILES.iter().try_for_each(|name| print(folder.join(name).display()))
    }
}
