//! The flags that say which data and where they lie, shared by all commands that read some.
//!
//! Read next: `data/mod.rs`, which does the reading.

use super::remark;
use crate::data::{self, Source, Splits, reshape};
use crate::error::{Error, Result};
use crate::models::Model;
use crate::train::Config;
use clap::Args;
use std::path::PathBuf;

/// Which data, and where they lie.
#[derive(Debug, Clone, Args)]
pub(super) struct DataArgs {
    /// Where data sets lie and are downloaded to (looks in DIR, DIR/<name> and torchvision's DIR/<NAME>/raw) [default: where a checkpoint's
    /// data lay, else data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Never use the network
    #[arg(long)]
    pub offline: bool,
    /// A folder's address to download from, tried before the known ones
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// Bring pictures to N x N pixels, or to H rows of W; residual networks and VGGs take any size [default: what the network takes]
    #[arg(long, value_name = "N|HxW")]
    pub image_size: Option<String>,
    /// Leave out pictures of a folder or list that cannot be read, instead of failing
    #[arg(long)]
    pub skip_broken: bool,
}

impl DataArgs {
    /// Puts the flags that a result depends on into a configuration.
    pub fn set(&self, config: &mut Config) {
        if self.image_size.is_some() {
            config.image_size.clone_from(&self.image_size);
        }
        config.skip_broken |= self.skip_broken;
        if let Some(dir) = &self.data_dir {
            // A run may go on from elsewhere.
            config.data_dir = Some(std::path::absolute(dir).unwrap_or_else(|_| dir.clone()));
        }
    }

    /// Loads the data of a configuration in the form that its network takes, at most `limit` images of each part.
    ///
    /// Gives the name of what was really loaded, with full paths: `auto` becomes `mnist` or `synthetic`.
    pub fn load(&self, config: &Config) -> Result<(String, Splits)> {
        self.read(config, false)
    }

    /// Loads what a trained network is to be judged on: `name`, or else the data that it was trained on. Labels are numbered as `classes`.
    ///
    /// Of a folder or list that it was not trained on, every picture is to be judged.
    pub fn load_for(&self, config: &Config, classes: &[String], name: Option<&str>, limit: Option<usize>) -> Result<(String, Splits)> {
        let trained: Source = config.data.parse()?;
        let source: Source = name.unwrap_or(&config.data).parse()?;
        let config = Config { data: source.to_string(), limit, ..config.clone() };
        let (name, mut splits) = self.read(&config, !source.same(&trained))?;
        if source.is_own() {
            splits.renumber(classes)?;
        }
        Ok((name, splits))
    }

    fn read(&self, config: &Config, judge_all: bool) -> Result<(String, Splits)> {
        let options = data::Options {
            seed: config.seed,
            input: Some(Model::input(&config.model, config.size()?)?),
            size: self.size()?.or(config.size()?),
            skip_broken: self.skip_broken || config.skip_broken,
            limit: config.limit,
            judge_all,
            ..self.options()
        };
        // What a checkpoint says may be a directory of another machine.
        let saved = config.data_dir.clone().filter(|dir| self.data_dir.is_none() && dir.is_dir());
        let options = data::Options { dir: saved.unwrap_or(options.dir.clone()), ..options };
        self.open(&config.data.parse()?, &options)
    }

    /// The size asked for.
    pub fn size(&self) -> Result<Option<[usize; 2]>> {
        self.image_size.as_deref().map(reshape::parse_size).transpose()
    }

    /// The flags alone, as [`data::load`] takes them.
    pub fn options(&self) -> data::Options {
        data::Options {
            dir: self.data_dir.clone().unwrap_or_else(|| "data".into()),
            offline: self.offline,
            mirror: self.mirror.clone(),
            skip_broken: self.skip_broken,
            ..data::Options::default()
        }
    }

    /// Loads a source; gives the name of what was really loaded.
    pub fn open(&self, source: &Source, options: &data::Options) -> Result<(String, Splits)> {
        let splits = data::load(source, options, &mut |line| remark(line))?;
        let name = match source {
            Source::Auto if splits.train.name.starts_with("MNIST") => "mnist".into(),
            Source::Auto => "synthetic".into(),
            source => source.clone().absolute().to_string(),
        };
        Ok((name, splits))
    }
}

/// Makes sure that a network can be used on data with these classes; `path` is its checkpoint.
pub(super) fn same_classes(classes: &[String], saved: &[String], path: &std::path::Path) -> Result<()> {
    if classes == saved {
        return Ok(());
    }
    let (now, then, path) = (classes.join(", "), saved.join(", "), path.display());
    Err(Error::data(format!("the data have the classes {now}, but {path} has learned {then}"))
        .hint("bring the folders or labels back to what they were, or start a new run"))
}
