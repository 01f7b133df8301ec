//! The history of runs: their figures read back from `metrics.jsonl`, and drawn.
//!
//! Not here: writing them (`train/rundir.rs`). Read next: `cli/plot.rs`.

use super::axes::Axis;
use super::lines::{Lines, Series};
use super::{Figure, Fonts, colour};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// One record of a run; what was not finite is NaN.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Epochs finished.
    pub epoch: f64,
    /// What was measured: train, val or test.
    pub split: String,
    /// Mean loss.
    pub loss: f64,
    /// Share classified right, 0 to 1.
    pub acc: f64,
    /// Learning rate.
    pub lr: f64,
    /// Images per second.
    pub img_per_s: f64,
}

/// A run's records.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// What the run is called: its directory.
    pub name: String,
    /// Its records, in the order in which they were written.
    pub points: Vec<Point>,
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
        let has_val = history.points.iter().any(|p| p.split == "val");
        match self {
            Metric::Loss | Metric::Accuracy if has_val => vec![("train", true), ("val", false)],
            Metric::ValLoss | Metric::ValAccuracy if has_val => vec![("val", false)],
            _ => vec![("train", false)],
        }
    }

    fn value(self, p: &Point) -> f64 {
        match self {
            Metric::Loss | Metric::ValLoss => p.loss,
            Metric::Accuracy | Metric::ValAccuracy => 100.0 * p.acc,
            Metric::Rate => p.lr,
            Metric::Speed => p.img_per_s,
        }
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
                let of = history.points.iter().filter(|p| p.split == split);
                let spelt = if split == "val" { "validation" } else { "training" };
                let name = match (alone, splits.len()) {
                    (true, 1) => String::new(),
                    (true, _) => spelt.into(),
                    (false, 1) if !fallback => history.name.clone(),
                    (false, _) => format!("{} ({spelt})", history.name),
                };
                let series = Series::new(name, of.map(|p| (p.epoch, self.value(p))).collect());
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
        let points = records(&String::from_utf8_lossy(&bytes));
        if points.is_empty() {
            return Err(Error::run(format!("{}: holds no records yet", file.display())).hint("a run writes its first after an epoch"));
        }
        let folder = std::path::absolute(&file).unwrap_or(file);
        let folder = folder.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        Ok(History { name: folder.unwrap_or_else(|| "run".into()), points })
    }

    /// The two panes that everybody wants first: loss of training and validation, accuracy of validation.
    pub fn figure(&self) -> Figure {
        let alone = std::slice::from_ref(self);
        Figure::new(self.name.clone()).with(Metric::Loss.pane(alone, false)).with(Metric::ValAccuracy.pane(alone, false))
    }
}

/// Draws a run's history to `plots/history.png` and `.svg` in its directory; nothing where there are no records yet.
pub fn save(run: &Path) -> Result<Option<PathBuf>> {
    let Ok(history) = History::read(run) else { return Ok(None) };
    let (fonts, figure, png) = (Fonts::default(), history.figure(), run.join("plots/history.png"));
    figure.save(&png, &fonts)?;
    figure.save(&run.join("plots/history.svg"), &fonts)?;
    Ok(Some(png))
}

/// The lines of JSON that are records. Numbers may be null, as those that are not finite are written.
fn records(text: &str) -> Vec<Point> {
    #[derive(Deserialize)]
    struct Row {
        epoch: f64,
        split: String,
        loss: Option<f64>,
        acc: Option<f64>,
        lr: Option<f64>,
        samples_per_s: Option<f64>,
    }
    let point = |row: Row| {
        let [loss, acc, lr, img_per_s] = [row.loss, row.acc, row.lr, row.samples_per_s].map(|x| x.unwrap_or(f64::NAN));
        Point { epoch: row.epoch, split: row.split, loss, acc, lr, img_per_s }
    };
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).map(point).collect()
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
        History { name: "a".into(), points: records(text) }
    }

    #[test]
    fn records_become_lines() {
        let history = run(RUN);
        assert_eq!(history.points.len(), 5);
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
        assert!(History::read(dir.path()).unwrap_err().message.contains("no records yet"));
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
                let history = run(&String::from_utf8_lossy(&bytes));
                history.figure().draw(&Fonts::default());
            }
        }
    }
}
