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
mod tests {
    use super::*;
    use std::time::Duration;
    use tempfile::tempdir;

    fn record(step: u64, split: &str) -> Record<'_> {
        Record { step, epoch: 1, split, loss: 0.25, acc: 0.5, lr: 1e-3, grad_norm: None, time_s: 2.0, samples_per_s: 1000.5 }
    }

    fn read(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn out(directory: &Path) -> RunDir {
        RunDir::create(Some(directory.to_path_buf()), "unused").unwrap()
    }

    #[test]
    fn stamps_are_utc_dates() {
        let at = |seconds| stamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101-000000");
        assert_eq!(at(951_782_399), "20000228-235959");
        assert_eq!(at(951_782_400), "20000229-000000");
        assert_eq!(at(1_709_251_199), "20240229-235959");
        assert_eq!(at(1_735_689_599), "20241231-235959");
        assert_eq!(at(1_234_567_890), "20090213-233130");
        assert_eq!(at(4_107_542_400), "21000301-000000"); // 2100 has no leap day
        assert_eq!(stamp(UNIX_EPOCH - Duration::from_secs(1)), "19700101-000000");
    }

    #[test]
    fn new_directories_take_the_next_free_number() {
        let parent = tempdir().unwrap();
        let runs = parent.path().join("runs");
        let names: Vec<_> = (0..3).map(|_| fresh_in(&runs, "20240229-120000", "lenet/mnist").unwrap()).collect();
        let expected = ["20240229-120000-lenet-mnist", "20240229-120000-lenet-mnist-2", "20240229-120000-lenet-mnist-3"];
        assert_eq!(names, expected.map(|name| runs.join(name)));
    }

    #[test]
    fn a_given_directory_is_created_with_its_parents() {
        let parent = tempdir().unwrap();
        let run = out(&parent.path().join("a/b"));
        assert_eq!(run.path(), parent.path().join("a/b"));
        assert_eq!(run.last(), parent.path().join("a/b/last.safetensors"));
        assert_eq!(run.best(), parent.path().join("a/b/best.safetensors"));
        assert_eq!(read(run.metrics_csv()), HEADER);
        assert_eq!(read(run.metrics_jsonl()), "");
    }

    #[test]
    fn a_file_or_a_path_through_one_is_refused() {
        let parent = tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "kept").unwrap();
        let error = RunDir::create(Some(file.clone()), "x").unwrap_err();
        assert_eq!((error.message, error.kind), (format!("{} is not a directory", file.display()), crate::Kind::Usage));
        let error = RunDir::create(Some(file.join("run")), "x").unwrap_err();
        assert!(error.message.contains(&file.join("run").display().to_string()), "{error}");
        assert!(error.hint.unwrap().contains("is a file"));
        assert!(fresh_in(&file, "t", "x").is_err());
        assert_eq!(read(file), "kept");
    }

    /// As root permissions do not hold, so a directory stands where the file should be.
    #[test]
    fn metrics_that_cannot_be_opened_are_named() {
        let parent = tempdir().unwrap();
        fs::create_dir(parent.path().join("metrics.csv")).unwrap();
        let error = RunDir::create(Some(parent.path().into()), "x").unwrap_err();
        assert!(error.message.contains("metrics.csv"), "{error}");
    }

    #[test]
    fn records_are_written_as_they_come() {
        let parent = tempdir().unwrap();
        let mut run = out(parent.path());
        assert!(!run.has_records().unwrap());
        run.append(&Record { grad_norm: Some(1.5), ..record(10, "train") }).unwrap();
        run.append(&Record { loss: f64::NAN, lr: f64::INFINITY, ..record(20, "a,\"b\"") }).unwrap();
        assert!(run.has_records().unwrap());
        let jsonl = r#"{"step":10,"epoch":1,"split":"train","loss":0.25,"acc":0.5,"lr":0.001,"grad_norm":1.5,"time_s":2.0,"samples_per_s":1000.5}
{"step":20,"epoch":1,"split":"a,\"b\"","loss":null,"acc":0.5,"lr":null,"grad_norm":null,"time_s":2.0,"samples_per_s":1000.5}
"#;
        assert_eq!(read(run.metrics_jsonl()), jsonl);
        assert_eq!(
            read(run.metrics_csv()),
            format!("{HEADER}10,1,train,0.25,0.5,0.001,1.5,2,1000.5\n20,1,\"a,\"\"b\"\"\",,0.5,,,2,1000.5\n")
        );
    }

    #[test]
    fn a_second_run_appends_under_the_same_header() {
        let parent = tempdir().unwrap();
        out(parent.path()).append(&record(1, "train")).unwrap();
        let mut second = out(parent.path());
        assert!(second.has_records().unwrap());
        second.append(&record(2, "train")).unwrap();
        let csv = read(second.metrics_csv());
        assert_eq!((csv.matches("step").count(), csv.lines().count()), (1, 3));
        assert_eq!(read(second.metrics_jsonl()).lines().count(), 2);
    }

    #[test]
    fn a_resumed_run_has_no_duplicates() {
        let parent = tempdir().unwrap();
        let mut run = out(parent.path());
        (1..=4).for_each(|step| run.append(&record(step * 10, "train")).unwrap());
        run.append(&record(20, "test")).unwrap();
        // The last write of a killed run, torn.
        write(&mut run.jsonl, Path::new("x"), "{\"step\":15,\"ep").unwrap();
        write(&mut run.csv, Path::new("x"), "15,1,train,0.2").unwrap();
        drop(run);

        let mut run = out(parent.path());
        run.truncate_after(20).unwrap();
        run.append(&record(30, "val")).unwrap();
        let csv = read(run.metrics_csv());
        let steps: Vec<&str> = csv.lines().map(|line| line.split(',').next().unwrap()).collect();
        assert_eq!(steps, ["step", "10", "20", "30"]);
        let jsonl = read(run.metrics_jsonl());
        let steps: Vec<_> = jsonl.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].clone()).collect();
        assert_eq!(steps, [10, 20, 30]);
        assert_eq!(csv.lines().last().unwrap(), record(30, "val").csv().trim_end());

        run.clear_records().unwrap();
        assert!(!run.has_records().unwrap());
        assert_eq!(read(run.metrics_csv()), HEADER);
        run.append(&record(1, "train")).unwrap();
        assert_eq!(read(run.metrics_jsonl()).lines().count(), 1);
    }

    #[test]
    fn the_configuration_reads_back() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Config {
            optim: Optim,
            seed: u64,
            out: Option<String>,
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Optim {
            lr: f64,
        }
        let parent = tempdir().unwrap();
        let run = out(parent.path());
        let config = Config { optim: Optim { lr: 0.1 }, seed: 7, out: None };
        run.write_config(&config).unwrap();
        run.write_config(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&read(run.config())).unwrap(), config);
        let error = run.write_config(&5).unwrap_err();
        assert!(error.message.contains("config.toml"), "{error}");
        assert_eq!(toml::from_str::<Config>(&read(run.config())).unwrap(), config);
    }
}
