//! The history of runs, drawn: loss, accuracy, learning rate and speed over epochs.
//!
//! Not here: writing them (`train/rundir.rs`), reading them (`train/history.rs`). Read next: `cli/plot.rs`.

use super::axes::Axis;
use super::lines::{Lines, Series};
use super::{Figure, Fonts, colour};
use crate::error::{Error, Result};
use crate::train::history::{Row, parse};
use std::path::{Path, PathBuf};

/// A run's records.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// What the run is called: its directory.
    pub name: String,
    /// Its records, in the order in which they were written.
    pub rows: Vec<Row>,
}

/// What a pane shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Loss over training images, dashed, and over those set aside for validation.
    Loss,
    /// The same of accuracy.
    Accuracy,
    /// Loss of validation; of training for a run without any.
    ValLoss,
    /// The same of accuracy.
    ValAccuracy,
    /// Learning rate.
    Rate,
    /// Images per second.
    Speed,
}

impl std::str::FromStr for Metric {
    type Err = Error;

    fn from_str(text: &str) -> Result<Metric> {
        Ok(match text.trim() {
            "loss" => Metric::Loss,
            "acc" => Metric::Accuracy,
            "val-loss" => Metric::ValLoss,
            "val-acc" => Metric::ValAccuracy,
            "lr" => Metric::Rate,
            "speed" => Metric::Speed,
            other => {
                return Err(Error::usage(format!("unknown metric '{other}'")).hint("use loss, acc, val-loss, val-acc, lr or speed"));
            }
        })
    }
}

impl Metric {
    /// The splits that are shown, whether dashed; the last stands in for the one before it in a run that lacks that.
    fn splits(self, history: &History) -> Vec<(&'static str, bool)> {
        let has_val = history.rows.iter().any(|row| row.split == "val");
        match self {
            Metric::Loss | Metric::Accuracy if has_val => vec![("train", true), ("val", false)],
            Metric::ValLoss | Metric::ValAccuracy if has_val => vec![("val", false)],
            _ => vec![("train", false)],
        }
    }

    /// What is shown of a record; NaN, a gap in the line, where there is no such number.
    fn value(self, row: &Row) -> f64 {
        let value = match self {
            Metric::Loss | Metric::ValLoss => row.loss,
            Metric::Accuracy | Metric::ValAccuracy => row.acc.map(|acc| 100.0 * acc),
            Metric::Rate => row.lr,
            Metric::Speed => row.samples_per_s,
        };
        value.unwrap_or(f64::NAN)
    }

    fn label(self) -> &'static str {
        match self {
            Metric::Loss | Metric::ValLoss => "loss",
            Metric::Accuracy | Metric::ValAccuracy => "accuracy (%)",
            Metric::Rate => "learning rate",
            Metric::Speed => "images per second",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Metric::Loss => "loss",
            Metric::Accuracy => "accuracy",
            Metric::ValLoss => "validation loss",
            Metric::ValAccuracy => "validation accuracy",
            Metric::Rate => "learning rate",
            Metric::Speed => "speed",
        }
    }

    /// The pane: over epochs, on a logarithmic axis if `log` and the metric is a loss or rate.
    pub fn pane(self, histories: &[History], log: bool) -> Lines {
        let log = log && matches!(self, Metric::Loss | Metric::ValLoss | Metric::Rate);
        let alone = histories.len() == 1;
        let fallback = histories.iter().any(|h| self.splits(h)[0].0 == "train") && matches!(self, Metric::ValLoss | Metric::ValAccuracy);
        let title = if alone && fallback { self.title().replace("validation", "training") } else { self.title().into() };
        let mut lines = Lines::new(title, Axis::new("epoch").whole(), Axis::new(self.label()).log(log));
        for (i, history) in histories.iter().enumerate() {
            let splits = self.splits(history);
            for (k, &(split, dashed)) in splits.iter().enumerate() {
                let of = history.rows.iter().filter(|row| row.split == split);
                let spelt = if split == "val" { "validation" } else { "training" };
                let name = match (alone, splits.len()) {
                    (true, 1) => String::new(),
                    (true, _) => spelt.into(),
                    (false, 1) if !fallback => history.name.clone(),
                    (false, _) => format!("{} ({spelt})", history.name),
                };
                let series = Series::new(name, of.map(|row| (row.epoch as f64, self.value(row))).collect());
                let series = match alone {
                    true => series.colour(colour::SERIES[if split == "val" { 1 } else { 0 }]),
                    false => series.colour(colour::SERIES[i % colour::SERIES.len()]),
                };
                // Beyond ten runs colours come again.
                let again = !alone && i / colour::SERIES.len() % 2 == 1;
                lines = lines.with(if (dashed && !alone && k == 0) != again { series.dashed() } else { series });
            }
        }
        lines
    }
}

impl History {
    /// Reads the records of a run directory, or of the `metrics.jsonl` of one; lines that are no records are left out.
    pub fn read(run: &Path) -> Result<History> {
        let file = if run.is_dir() { run.join("metrics.jsonl") } else { run.to_path_buf() };
        let hint = "give a directory that train has made, such as runs/<time>-lenet";
        let bytes = std::fs::read(&file).map_err(|e| Error::usage(format!("cannot read {}: {e}", file.display())).hint(hint))?;
        let rows = parse(&bytes);
        if !rows.iter().any(|row| row.split == "train") {
            let last = file.with_file_name("last.safetensors");
            let hint = match last.exists() {
                true => format!("let it go on: cugrad train --resume {}", last.display()),
                false => "a run writes its first records after an epoch".into(),
            };
            let message = format!("{}: no epoch of this run is finished yet, so there is nothing to draw", file.display());
            return Err(Error::run(message).hint(hint));
        }
        let folder = std::path::absolute(&file).unwrap_or(file);
        let folder = folder.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        Ok(History { name: folder.unwrap_or_else(|| "run".into()), rows })
    }

    /// The two panes that everybody wants first: loss of training and validation, accuracy of validation.
    pub fn figure(&self) -> Figure {
        let alone = std::slice::from_ref(self);
        Figure::new(self.name.clone()).with(Metric::Loss.pane(alone, false)).with(Metric::ValAccuracy.pane(alone, false))
    }
}

/// Draws a run's history to `plots/history.png` and `.svg` in its directory; nothing where no epoch is finished yet.
pub fn save(run: &Path) -> Result<Option<PathBuf>> {
    let Ok(history) = History::read(run) else { return Ok(None) };
    let (fonts, figure, png) = (Fonts::default(), history.figure(), run.join("plots/history.png"));
    figure.save(&png, &fonts)?;
    figure.save(&run.join("plots/history.svg"), &fonts)?;
    Ok(Some(png))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RUN: &str = r#"{"step":10,"epoch":1,"split":"train","loss":0.5,"acc":0.8,"lr":0.001,"time_s":2.0,"samples_per_s":1000.5}
{"step":10,"epoch":1,"split":"val","loss":0.4,"acc":0.9,"lr":0.001,"time_s":2.0,"samples_per_s":1000.5}
{"step":20,"epoch":2,"split":"train","loss":null,"acc":0.85,"lr":0.001,"time_s":4.0,"samples_per_s":1000.5}
{"step":20,"epoch":2,"split":"val","loss":0.3,"acc":0.95,"lr":0.001,"time_s":4.0,"samples_per_s":1000.5}
{"step":20,"epoch":2,"split":"test","loss":0.3,"acc":0.94,"lr":0.0,"time_s":4.0,"samples_per_s":1000.5}
{"step":30,"epoch":3,"spl"#;

    fn run(text: &str) -> History {
        History { name: "a".into(), rows: parse(text.as_bytes()) }
    }

    #[test]
    fn records_become_lines() {
        let history = run(RUN);
        assert_eq!(history.rows.len(), 5);
        let loss = Metric::Loss.pane(std::slice::from_ref(&history), false);
        assert_eq!(loss.series.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["training", "validation"]);
        assert!(loss.series[0].points[1].1.is_nan());
        assert_eq!(loss.series[1].points, [(1.0, 0.4), (2.0, 0.3)]);
        let acc = Metric::ValAccuracy.pane(std::slice::from_ref(&history), true);
        assert_eq!((acc.series.len(), acc.series[0].points[1], acc.y.log), (1, (2.0, 95.0), false));
        // Without a validation split, training stands in and is called so.
        let alone = run(&RUN.replace("\"val\"", "\"other\""));
        assert_eq!(Metric::ValAccuracy.pane(std::slice::from_ref(&alone), false).title, "training accuracy");
        let both = Metric::ValLoss.pane(&[history, alone], true);
        assert_eq!(both.series.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["a (validation)", "a (training)"]);
        assert!(both.y.log && both.series[0].colour != both.series[1].colour);
    }

    #[test]
    fn runs_are_read_and_drawn() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(History::read(dir.path()).unwrap_err().kind, crate::Kind::Usage);
        std::fs::write(dir.path().join("metrics.jsonl"), "{\"step\":").unwrap();
        assert!(History::read(dir.path()).unwrap_err().message.contains("no epoch of this run is finished"));
        // Log lines alone are no epoch.
        std::fs::write(dir.path().join("metrics.jsonl"), RUN.lines().next().unwrap().replace("train", "step")).unwrap();
        assert!(History::read(dir.path()).unwrap_err().message.contains("no epoch of this run is finished"));
        assert_eq!(save(dir.path()).unwrap(), None);
        std::fs::write(dir.path().join("metrics.jsonl"), RUN).unwrap();
        let png = save(dir.path()).unwrap().unwrap();
        assert!(image::open(png).unwrap().width() > 1000);
        let svg = std::fs::read_to_string(dir.path().join("plots/history.svg")).unwrap();
        assert!(svg.contains(">validation accuracy<") && svg.contains(">training<"));
        let name = dir.path().file_name().unwrap().to_string_lossy();
        assert_eq!(History::read(&dir.path().join("metrics.jsonl")).unwrap().name, name);
    }

    proptest! {
        #[test]
        fn any_file_is_read(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..RUN.len(), cut in 0..RUN.len()) {
            let mut damaged = RUN.as_bytes().to_vec();
            damaged.splice(at..(at + bytes.len()).min(RUN.len()), bytes.iter().copied());
            for bytes in [bytes, damaged, RUN.as_bytes()[..cut].to_vec()] {
                let history = History { name: "a".into(), rows: parse(&bytes) };
                history.figure().draw(&Fonts::default());
            }
        }
    }
}
