//! The directory of a run: its resolved configuration, its figures as JSON lines, as CSV and for TensorBoard, and the paths of its checkpoints.
//!
//! Every record is one write to each file, so a killed run loses at most the record it was writing, and `tail -f` sees them at
//! once. Not here: what is in a checkpoint (`checkpoint.rs`), pictures and reports (`plot/`), reading figures back.
//! Read next: `checkpoint.rs`.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::disk::{io_error, replace};
use super::tensorboard::Events;
use super::watch::Figures;
use crate::error::{Error, Result};

/// The columns of `metrics.csv`, which are the keys of [`Record`].
const HEADER: &str = "step,epoch,split,loss,acc,lr,grad_norm,time_s,samples_per_s\n";

/// One line of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Record<'a> {
    /// Optimiser steps taken so far.
    pub step: u64,
    /// Epochs finished or under way.
    pub epoch: u64,
    /// What was measured: `train`, `val` or `test`, or `step`: some steps of an epoch, as often as `--log-every` says.
    pub split: &'a str,
    /// Mean loss per sample.
    pub loss: f64,
    /// Share classified right, 0 to 1.
    pub acc: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// The norm of the whole gradient at the last step, where it was measured.
    pub grad_norm: Option<f64>,
    /// Seconds spent in steps since the run began.
    pub time_s: f64,
    /// Images per second.
    pub samples_per_s: f64,
}

impl Record<'_> {
    /// A line of CSV; numbers that are not finite are empty, as they are null in JSON.
    fn csv(&self) -> String {
        let number = |x: f64| if x.is_finite() { x.to_string() } else { String::new() };
        let norm = self.grad_norm.unwrap_or(f64::NAN);
        let [loss, acc, lr, norm, time_s, rate] = [self.loss, self.acc, self.lr, norm, self.time_s, self.samples_per_s].map(number);
        // A comma, quote or line end in the split would shift the columns.
        let split = match self.split.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", self.split.replace('"', "\"\"")),
            false => self.split.to_string(),
        };
        format!("{},{},{split},{loss},{acc},{lr},{norm},{time_s},{rate}\n", self.step, self.epoch)
    }
}

/// The directory of a run.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    jsonl: File,
    csv: File,
    /// The step that a resumed run goes on from.
    from: Option<u64>,
    /// TensorBoard's file, from the first record on.
    events: Option<Events>,
    /// What `--watch` sees.
    watch: Option<File>,
}

impl RunDir {
    /// Opens the directory `base` (`--out`), creating it if need be; without one, a new `runs/<UTC yyyymmdd-hhmmss>-<name>`.
    ///
    /// What is in `base` stays: records are appended ([`RunDir::has_records`] tells). Fails when `base` is not a directory or
    /// cannot be written.
    pub fn create(base: Option<PathBuf>, name: &str) -> Result<RunDir> {
        match base {
            Some(path) => Self::open(path),
            None => Self::open(fresh(name)?),
        }
    }

    fn open(path: PathBuf) -> Result<RunDir> {
        if path.exists() && !path.is_dir() {
            return Err(Error::usage(format!("{} is not a directory", path.display()))
                .hint("give --out a directory, or a path that does not exist yet"));
        }
        fs::create_dir_all(&path).map_err(|e| io_error("cannot create", &path, &e))?;
        let jsonl = append_to(&path.join("metrics.jsonl"))?;
        let csv = append_to(&path.join("metrics.csv"))?;
        let mut run = RunDir { path, jsonl, csv, from: None, events: None, watch: None };
        if size(&run.csv, &run.path)? == 0 {
            write(&mut run.csv, &run.path.join("metrics.csv"), HEADER)?;
        }
        Ok(run)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The records, one JSON object per line.
    pub fn metrics_jsonl(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The same records as a table.
    pub fn metrics_csv(&self) -> PathBuf {
        self.path.join("metrics.csv")
    }

    /// What `--watch` sees of each parameter, one JSON object per line.
    pub fn watch_jsonl(&self) -> PathBuf {
        self.path.join("watch.jsonl")
    }

    /// The checkpoint to resume from.
    pub fn last(&self) -> PathBuf {
        self.path.join("last.safetensors")
    }

    /// The checkpoint with the best validation.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// Writes `config.toml`, replacing an older one only when the new one is whole.
    pub fn write_config(&self, config: &impl Serialize) -> Result<()> {
        let path = self.config();
        let text = toml::to_string_pretty(config).map_err(|e| Error::run(format!("cannot write {}: {e}", path.display())))?;
        replace(&path, |out| out.write_all(text.as_bytes()))
    }

    /// Whether records are there, from this run or an earlier one.
    pub fn has_records(&self) -> Result<bool> {
        Ok(size(&self.jsonl, &self.path)? > 0)
    }

    /// Appends one record to both metrics files, and its figures to TensorBoard's.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let (jsonl, csv) = (self.metrics_jsonl(), self.metrics_csv());
        let line = serde_json::to_string(record).map_err(|e| Error::run(format!("cannot write {}: {e}", jsonl.display())))?;
        write(&mut self.jsonl, &jsonl, &(line + "\n"))?;
        write(&mut self.csv, &csv, &record.csv())?;
        let split = record.split;
        let mut figures = vec![(format!("loss/{split}"), record.loss), (format!("acc/{split}"), record.acc)];
        if let Some(norm) = record.grad_norm {
            figures.extend([(format!("grad_norm/{split}"), norm), (format!("lr/{split}"), record.lr)]);
        }
        // A test at the step that a run was resumed at has been told by the file before.
        if split == "test" && self.from.is_some_and(|from| record.step < from) {
            return Ok(());
        }
        self.events()?.scalars(record.step, figures.iter().map(|(tag, x)| (tag.as_str(), *x)))
    }

    /// Appends what `--watch` saw at a step.
    pub fn append_watch(&mut self, step: u64, epoch: u64, figures: &[Figures]) -> Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            step: u64,
            epoch: u64,
            #[serde(flatten)]
            figures: &'a Figures,
        }
        let path = self.watch_jsonl();
        let mut lines = String::new();
        let mut scalars = Vec::new();
        for figures in figures {
            let line = serde_json::to_string(&Line { step, epoch, figures });
            lines += &line.map_err(|e| Error::run(format!("cannot write {}: {e}", path.display())))?;
            lines.push('\n');
            let Figures { param, grad_norm, update_ratio, .. } = figures;
            scalars.extend([(format!("grad_norm/{param}"), *grad_norm), (format!("update_ratio/{param}"), *update_ratio)]);
        }
        let file = match &mut self.watch {
            Some(file) => file,
            none => none.insert(append_to(&path)?),
        };
        write(file, &path, &lines)?;
        self.events()?.scalars(step, scalars.iter().map(|(tag, x)| (tag.as_str(), *x)))
    }

    /// Shows TensorBoard how numbers are spread.
    pub fn histograms(&mut self, step: u64, arrays: Vec<(String, Vec<f64>)>) -> Result<()> {
        self.events()?.histograms(step, arrays)
    }

    fn events(&mut self) -> Result<&mut Events> {
        match &mut self.events {
            Some(events) => Ok(events),
            none => Ok(none.insert(Events::create(&self.path, self.from)?)),
        }
    }

    /// Drops the records after `step`, for a run that resumes there and will write them again: the test of its end, too.
    ///
    /// A line that a killed run left unfinished, and any other that is no record, is dropped too.
    pub fn truncate_after(&mut self, step: u64) -> Result<()> {
        self.from = Some(step + 1);
        self.keep(|s, split| s < step || s == step && split != "test")?;
        if self.watch_jsonl().exists() {
            #[derive(Deserialize)]
            struct Row {
                step: u64,
            }
            self.watch =
                Some(rewrite(&self.watch_jsonl(), "", |line| serde_json::from_str::<Row>(line).is_ok_and(|row| row.step <= step))?);
        }
        Ok(())
    }

    /// Drops all records, for a run that begins anew in a directory that has some.
    pub fn clear_records(&mut self) -> Result<()> {
        self.keep(|_, _| false)
    }

    fn keep(&mut self, wanted: impl Fn(u64, &str) -> bool) -> Result<()> {
        #[derive(Deserialize)]
        struct Row {
            step: u64,
            split: String,
        }
        let in_json = |line: &str| serde_json::from_str::<Row>(line).is_ok_and(|row| wanted(row.step, &row.split));
        // A line cut short has fewer columns; one cut within its last number has no line end.
        let in_csv = |line: &str| {
            let mut columns = line.split(',');
            let (step, split) = (columns.next().and_then(|step| step.parse().ok()), columns.nth(1));
            line.ends_with('\n') && step.zip(split).is_some_and(|(step, split)| wanted(step, split))
        };
        let (jsonl, csv) = (self.metrics_jsonl(), self.metrics_csv());
        let table = fs::read(&csv).map_err(|e| io_error("cannot read", &csv, &e))?;
        if !table.starts_with(HEADER.as_bytes()) {
            return Err(Error::usage(format!("{}: has other columns, those of another version", csv.display()))
                .hint("go on in another directory with --out"));
        }
        self.jsonl = rewrite(&jsonl, "", in_json)?;
        self.csv = rewrite(&csv, HEADER, in_csv)?;
        Ok(())
    }
}

/// A new directory `runs/<UTC yyyymmdd-hhmmss>-<name>`, with -2, -3, ... behind it when taken.
pub fn fresh(name: &str) -> Result<PathBuf> {
    fresh_in(Path::new("runs"), &stamp(SystemTime::now()), name)
}

fn fresh_in(parent: &Path, stamp: &str, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent).map_err(|e| io_error("cannot create", parent, &e))?;
    let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = name.chars().map(plain).collect();
    let mut path = parent.join(format!("{stamp}-{name}"));
    let mut next = 2;
    // `create_dir` both asks and takes, so two runs started in the same second cannot get the same directory.
    while let Err(e) = fs::create_dir(&path) {
        if e.kind() != ErrorKind::AlreadyExists {
            return Err(io_error("cannot create", &path, &e));
        }
        path = parent.join(format!("{stamp}-{name}-{next}"));
        next += 1;
    }
    Ok(path)
}

/// Replaces a file by `header` and those of its lines (line ends included) that are wanted, and opens it again for appending.
fn rewrite(path: &Path, header: &str, wanted: impl Fn(&str) -> bool) -> Result<File> {
    let bytes = fs::read(path).map_err(|e| io_error("cannot read", path, &e))?;
    // A torn line may end within a letter.
    let text = String::from_utf8_lossy(&bytes);
    let lines: String = text.split_inclusive('\n').filter(|line| wanted(line)).collect();
    replace(path, |out| write!(out, "{header}{lines}"))?;
    append_to(path)
}

fn append_to(path: &Path) -> Result<File> {
    File::options().append(true).create(true).open(path).map_err(|e| io_error("cannot write", path, &e))
}

/// One call, one line: the file is not buffered, so the line is out of our hands when this returns.
fn write(file: &mut File, path: &Path, text: &str) -> Result<()> {
    file.write_all(text.as_bytes()).map_err(|e| io_error("cannot write", path, &e))
}

fn size(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(|e| io_error("cannot read", path, &e))?.len())
}

/// A time as `yyyymmdd-hhmmss` in UTC.
///
/// The date is Howard Hinnant's civil_from_days (<https://howardhinnant.github.io/date_algorithms.html>): years are counted from
/// March, so that the leap day is the last of its year, and in eras of 400 years, which all have 146 097 days.
fn stamp(time: SystemTime) -> String {
    // A clock before 1970 is a broken clock; a run still needs a name.
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400); // since 0000-03-01
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0 is March
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, wrapped) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + wrapped;
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests;
