//! Several runs one after the other, each in a directory of its own below one, each made once.
//!
//! A run that is finished is not made again, one that was stopped goes on, and a directory that holds another run is an error. So a
//! sweep that was stopped, by Ctrl-C or otherwise, is given the same command again. Not here: which runs (`sweep.rs`, `reproduce.rs`, the
//! presets). Read next: `sweep.rs`.

use super::interrupt::on_interrupt;
use super::progress::Show;
use super::remark;
use super::train::Train;
use crate::error::{Error, Result};
use crate::train::history::{self, Row};
use crate::train::{Config, RunDir};
use clap::Parser;
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A run to be made.
#[derive(Debug)]
pub struct Planned {
    /// The name of its directory.
    pub name: String,
    /// How.
    pub train: Train,
}

/// What a run came to.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Its directory.
    pub run: PathBuf,
    /// Share of the test images that the network of the last epoch got right.
    pub test_acc: Option<f64>,
    /// Its mean loss there.
    pub test_loss: Option<f64>,
    /// The best share of validation images over the epochs.
    pub val_acc: Option<f64>,
    /// Seconds of training.
    pub seconds: Option<f64>,
    /// Validation accuracy (training accuracy, without validation images) after each epoch.
    #[serde(skip)]
    pub curve: Vec<(f64, f64)>,
}

/// The flags of `cugrad train`, apart from the command.
#[derive(Debug, Parser)]
#[command(name = "cugrad train")]
pub struct Flags {
    /// All of them.
    #[command(flatten)]
    pub train: Train,
}

impl Flags {
    /// Parses flags that were put together.
    pub fn read<S: Into<OsString>>(flags: impl IntoIterator<Item = S>) -> Result<Train> {
        let all = std::iter::once(OsString::from("cugrad train")).chain(flags.into_iter().map(Into::into));
        let parsed = Flags::try_parse_from(all);
        parsed.map(|flags| flags.train).map_err(|e| {
            let text = e.to_string();
            let message = text.lines().next().unwrap_or_default();
            Error::usage(message.trim_start_matches("error: ").to_string()).hint("cugrad train --help lists the flags")
        })
    }
}

/// Makes every run that is not finished, in directories below `base`; gives what all came to, in order.
pub fn make(base: &Path, planned: &[Planned]) -> Result<Vec<Outcome>> {
    let choices: Vec<Config> = planned.iter().map(|run| run.train.check()).collect::<Result<_>>()?;
    let stop = on_interrupt()?;
    let mut outcomes = Vec::new();
    for (i, (Planned { name, train }, config)) in planned.iter().zip(&choices).enumerate() {
        let dir = base.join(name);
        let label = format!("{} of {}, {name}", i + 1, planned.len());
        let rows = match standing(&dir, config)? {
            Standing::Finished(rows) => {
                remark(format_args!("{label}: finished before"));
                rows
            }
            Standing::Stopped => {
                remark(format_args!("{label}: goes on"));
                train.again(&dir)?.train(Show::Remarks, Some(stop.clone()))?;
                history::read(&dir)?
            }
            Standing::New => {
                remark(&label);
                train.at(&dir).train(Show::Remarks, Some(stop.clone()))?;
                history::read(&dir)?
            }
        };
        outcomes.push(outcome(dir, &rows));
    }
    Ok(outcomes)
}

/// What a run's directory holds.
enum Standing {
    New,
    Stopped,
    Finished(Vec<Row>),
}

fn standing(dir: &Path, config: &Config) -> Result<Standing> {
    let file = dir.join("config.toml");
    if !file.exists() {
        return Ok(Standing::New);
    }
    let held = Config::read(&file)?;
    // Which data `auto` is, is known once they are loaded.
    let data = if config.data == "auto" { held.data.clone() } else { config.data.clone() };
    if (Config { data, ..config.clone() }) != held {
        return Err(Error::usage(format!("{} holds a run with other choices", dir.display()))
            .hint("give --out another directory, or the choices that these runs were begun with"));
    }
    let rows = history::read(dir)?;
    if rows.last().is_some_and(|row| row.split == "test") {
        return Ok(Standing::Finished(rows));
    }
    if dir.join("last.safetensors").exists() {
        return Ok(Standing::Stopped);
    }
    // Killed before there was anything to go on from.
    RunDir::create(Some(dir.into()), "")?.clear_records()?;
    Ok(Standing::New)
}

fn outcome(run: PathBuf, rows: &[Row]) -> Outcome {
    let test = rows.iter().rev().find(|row| row.split == "test");
    let of = |split: &str| -> Vec<(f64, f64)> {
        rows.iter().filter(|row| row.split == split).filter_map(|row| Some((row.epoch as f64, row.acc?))).collect()
    };
    let val = of("val");
    Outcome {
        run,
        test_acc: test.and_then(|row| row.acc),
        test_loss: test.and_then(|row| row.loss),
        val_acc: val.iter().map(|(_, acc)| *acc).reduce(f64::max),
        seconds: test.and_then(|row| row.time_s),
        curve: if val.is_empty() { of("train") } else { val },
    }
}
