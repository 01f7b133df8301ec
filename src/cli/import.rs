//! `cugrad import`.
//!
//! Read next: `../export/import.rs`, which reads the file.

use super::{DataArgs, print};
use crate::data::{Normalization, source::MNIST};
use crate::error::{Error, Result};
use crate::export::import;
use crate::models::{Model, Options};
use crate::train::trained::{describe, load_model};
use crate::train::{Checkpoint, Config};
use clap::Args;
use std::path::PathBuf;

/// Make a checkpoint of weights from PyTorch.
#[derive(Debug, Args)]
#[command(
    after_help = "Reads .pth files (a state dict, or one under model_state_dict, state_dict or model) and .safetensors; nothing in them is executed.\n\nExamples:\n  cugrad import weights.pth --model lenet -o lenet.safetensors\n  cugrad import weights.pth --model lenet --rename c1=conv1 --rename c2=conv2 -o lenet.safetensors\n  cugrad import clothes.pth --model digit --data fashion --mean 0.5 --std 0.5 -o clothes.safetensors"
)]
pub struct Import {
    /// A .pth or .safetensors file
    file: PathBuf,
    /// The network that the weights are of (cugrad summary lists them)
    #[arg(long)]
    model: String,
    /// The checkpoint to write
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// The data set it was trained on: gives names of classes and the normalisation
    #[arg(long, default_value = "mnist")]
    data: String,
    #[command(flatten)]
    data_args: DataArgs,
    /// Names of the classes, in order [default: the data set's]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    classes: Option<Vec<String>>,
    /// What was subtracted from pixels on a scale from 0 to 1, one number or one a channel [default: the data set's]
    #[arg(long, value_name = "X", value_delimiter = ',', requires = "std")]
    mean: Option<Vec<f32>>,
    /// What they were divided by then
    #[arg(long, value_name = "X", value_delimiter = ',', requires = "mean")]
    std: Option<Vec<f32>>,
    /// Take a layer or tensor called FROM for TO; may be given again
    #[arg(long, value_name = "FROM=TO")]
    rename: Vec<String>,
}

impl Import {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let mut weights = import::read(&self.file)?;
        for pair in &self.rename {
            let (from, to) = pair.split_once('=').ok_or_else(|| Error::usage(format!("--rename takes FROM=TO, not '{pair}'")))?;
            rename(&mut weights, from, to)?;
        }
        let mut config = Config { model: self.model.clone(), data: self.data.clone(), ..Config::default() };
        self.data_args.set(&mut config);
        let size = config.size()?;
        Model::input(&self.model, size)?;
        let (classes, normalization) = self.about(&mut config)?;
        let mut model = Model::build(&self.model, &Options { classes: classes.len(), size, ..Options::default() })?;
        let channels = normalization.mean.len();
        if channels != normalization.std.len() || ![1, model.input[0]].contains(&channels) {
            return Err(Error::usage(format!("{channels} means and {} deviations are given", normalization.std.len()))
                .hint(format!("give one of each, or one for each of the {} channels", model.input[0])));
        }
        load_model(&mut model, &weights).map_err(|mut e| {
            e.message = format!("{}: {}", self.file.display(), e.message);
            e.hint("choose the right --model, give the names of all --classes, and --rename what is called something else")
        })?;
        describe(&model, &classes, &normalization, &config)?.save(&self.out)?;
        print(format_args!(
            "{}: {} tensors, {} parameters of {}",
            self.out.display(),
            weights.tensors.len(),
            model.params.count(),
            self.model
        ))
    }

    /// Names of the classes and the normalisation; data that are read get their full name.
    fn about(&self, config: &mut Config) -> Result<(Vec<String>, Normalization)> {
        let given = self.mean.clone().zip(self.std.clone()).map(|(mean, std)| Normalization { mean, std });
        if let Some(Normalization { mean, std }) = &given
            && !(mean.iter().all(|x| x.is_finite()) && std.iter().all(|x| x.is_finite() && *x > 0.0))
        {
            return Err(Error::usage(format!("--mean {mean:?} and --std {std:?} must be finite, deviations above 0")));
        }
        // MNIST's are known without the data.
        let (classes, normalization) = match (self.data.as_str(), &self.classes, given) {
            (_, Some(classes), Some(normalization)) => (classes.clone(), normalization),
            ("mnist", _, given) => (MNIST.classes.iter().map(ToString::to_string).collect(), given.unwrap_or_else(Normalization::mnist)),
            (_, _, given) => {
                let (name, splits) = self.data_args.load(config)?;
                config.data = name;
                (splits.train.classes, given.unwrap_or(splits.normalization))
            }
        };
        Ok((self.classes.clone().unwrap_or(classes), normalization))
    }
}

/// Gives tensors whose name is `from`, or begins with the layer `from`, another name.
fn rename(weights: &mut Checkpoint, from: &str, to: &str) -> Result<()> {
    let renamed = |name: &str| match name.strip_prefix(from) {
        Some(rest) if rest.is_empty() || rest.starts_with('.') => Some(format!("{to}{rest}")),
        _ => None,
    };
    let names: Vec<(String, String)> = weights.tensors.keys().filter_map(|name| Some((name.clone(), renamed(name)?))).collect();
    if names.is_empty() {
        return Err(Error::usage(format!("--rename: no tensor is called '{from}' or '{from}.…'"))
            .hint(format!("there are {}", weights.tensors.keys().map(String::as_str).collect::<Vec<_>>().join(", "))));
    }
    for (name, new) in names {
        if let Some(tensor) = weights.tensors.remove(&name)
            && weights.tensors.insert(new.clone(), tensor).is_some()
        {
            return Err(Error::usage(format!("--rename {from}={to}: there is a tensor '{new}' already")));
        }
    }
    Ok(())
}
