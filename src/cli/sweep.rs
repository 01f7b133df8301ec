//! `cugrad sweep`: a run for each point of a grid of choices, and a table of what they came to.
//!
//! Read next: `runs.rs`, which makes them; `reproduce.rs`.

use super::runs::{Flags, Outcome, Planned, make};
use super::train::Train;
use super::{print, remark};
use crate::disk::replace;
use crate::error::{Error, Result};
use crate::plot::{Axis as Scale, Figure, Fonts, Lines, Series};
use crate::train::rundir;
use clap::{ArgAction, Args, CommandFactory};
use serde_json::json;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

/// Train once for each combination of choices.
#[derive(Debug, Args)]
#[command(
    after_help = "A sweep that was stopped goes on when the same command is given again with its --out. Values are separated by commas, or by semicolons where they have commas themselves; a switch takes true and false.\n\nExamples:\n  cugrad sweep --grid lr=0.002,0.01,0.05 --grid weight-decay=1e-4,1e-3 --model net1 --optimizer sgd --momentum 0.5 --out runs/sweep\n  cugrad sweep --grid 'schedule=cosine;multistep:20,30:0.1' --grid seed=0,1,2"
)]
pub struct Sweep {
    /// A flag of train and the values to try it with; several grids make all their combinations
    #[arg(long, required = true, value_name = "FLAG=V,V,...")]
    grid: Vec<String>,
    #[command(flatten)]
    train: Train,
}

/// One flag of the grid and its values.
struct Axis {
    flag: String,
    values: Vec<String>,
    switch: bool,
}

impl Axis {
    fn read(text: &str) -> Result<Axis> {
        let fault = |what: String| Err(Error::usage(format!("--grid {text}: {what}")).hint("write it as in --grid lr=0.002,0.01,0.05"));
        let Some((flag, values)) = text.split_once('=') else { return fault("there is no '='".into()) };
        let flag = flag.trim_start_matches("--");
        let command = Flags::command();
        let Some(known) = command.get_arguments().find(|arg| arg.get_long() == Some(flag)) else {
            return fault(format!("train has no flag --{flag}"));
        };
        if ["out", "resume", "json", "device", "data-dir"].contains(&flag) {
            return fault(format!("--{flag} is no choice of a run"));
        }
        let switch = matches!(known.get_action(), ArgAction::SetTrue);
        let values: Vec<String> = values.split(if values.contains(';') { ';' } else { ',' }).map(|v| v.trim().to_string()).collect();
        if let Some(bad) = values.iter().find(|v| v.is_empty() || switch && !["true", "false"].contains(&v.as_str())) {
            return fault(format!("'{bad}' is no value of --{flag}"));
        }
        Ok(Axis { flag: flag.into(), values, switch })
    }

    /// The flags of one value.
    fn flags(&self, value: &str) -> Vec<String> {
        match (self.switch, value) {
            (true, "true") => vec![format!("--{}", self.flag)],
            (true, _) => vec![],
            (false, value) => vec![format!("--{}={value}", self.flag)],
        }
    }
}

/// Every combination of the axes' values, the last axis running fastest.
fn combinations(axes: &[Axis]) -> Vec<Vec<&str>> {
    axes.iter().fold(vec![vec![]], |all, axis| {
        all.iter().flat_map(|head| axis.values.iter().map(move |v| head.iter().copied().chain([v.as_str()]).collect())).collect()
    })
}

/// The command line behind the command, without what is the sweep's own: the flags that all runs have.
fn common(line: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut flags = Vec::new();
    let mut line = line.skip(2);
    while let Some(arg) = line.next() {
        let text = arg.to_string_lossy();
        match text.as_ref() {
            "--grid" | "--out" => drop(line.next()),
            "--json" => {}
            _ if text.starts_with("--grid=") || text.starts_with("--out=") => {}
            _ => flags.push(arg),
        }
    }
    flags
}

impl Sweep {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        if self.train.resume.is_some() {
            return Err(Error::usage("a sweep has no one run to resume").hint("give the same sweep and --out again: it goes on by itself"));
        }
        let axes: Vec<Axis> = self.grid.iter().map(|text| Axis::read(text)).collect::<Result<_>>()?;
        let common = common(std::env::args_os());
        let points = combinations(&axes);
        let mut planned: Vec<Planned> = Vec::new();
        for point in &points {
            let own = axes.iter().zip(point).flat_map(|(axis, value)| axis.flags(value));
            let train = Flags::read(common.iter().cloned().chain(own.map(OsString::from)))?;
            let name = axes.iter().zip(point).map(|(axis, value)| format!("{}={value}", axis.flag)).collect::<Vec<_>>().join(",");
            let name: String = name.chars().map(|c| if c.is_alphanumeric() || "._=+,-".contains(c) { c } else { '_' }).collect();
            if planned.iter().any(|other| other.name == name) {
                return Err(Error::usage(format!("two runs of the grid would be called {name}")).hint("leave one of the two values out"));
            }
            planned.push(Planned { name, train });
        }
        let base = match &self.train.out {
            Some(base) => base.clone(),
            None => rundir::fresh("sweep")?,
        };
        remark(format_args!("{} runs in {}; if stopped, go on with the same command and --out {1}", planned.len(), base.display()));
        let outcomes = make(&base, &planned)?;
        write_files(&base, &axes, &points, &outcomes)?;
        draw(&base.join("sweep.png"), &planned, &outcomes)?;
        if self.train.json {
            return print(as_json(&axes, &points, &outcomes));
        }
        print(table(&axes, &points, &outcomes))?;
        if let Some(best) = (0..outcomes.len()).rev().filter(|&i| outcomes[i].val_acc.is_some()).max_by(|&a, &b| {
            let val = |i: usize| outcomes[i].val_acc.unwrap_or(0.0);
            val(a).total_cmp(&val(b))
        }) {
            print(format_args!("best by validation: {}", planned[best].name))?;
        }
        print(format_args!("results: {}, sweep.json and sweep.png", base.join("sweep.csv").display()))
    }
}

/// The columns behind those of the grid.
const COLUMNS: [&str; 4] = ["test_acc", "test_loss", "val_acc", "seconds"];

fn numbers(outcome: &Outcome) -> [Option<f64>; 4] {
    [outcome.test_acc, outcome.test_loss, outcome.val_acc, outcome.seconds]
}

fn as_json(axes: &[Axis], points: &[Vec<&str>], outcomes: &[Outcome]) -> serde_json::Value {
    let row = |(point, outcome): (&Vec<&str>, &Outcome)| {
        let choices: serde_json::Map<_, _> = axes.iter().zip(point).map(|(axis, value)| (axis.flag.clone(), json!(value))).collect();
        let mut row = json!(outcome);
        row["choices"] = choices.into();
        row
    };
    json!({"grid": axes.iter().map(|axis| &axis.flag).collect::<Vec<_>>(), "runs": points.iter().zip(outcomes).map(row).collect::<Vec<_>>()})
}

/// `sweep.json` and `sweep.csv`.
fn write_files(base: &Path, axes: &[Axis], points: &[Vec<&str>], outcomes: &[Outcome]) -> Result<()> {
    let json = as_json(axes, points, outcomes);
    replace(&base.join("sweep.json"), |out| writeln!(out, "{json:#}"))?;
    let quoted = |text: &str| if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() };
    replace(&base.join("sweep.csv"), |out| {
        let heads: Vec<&str> = axes.iter().map(|axis| axis.flag.as_str()).chain(COLUMNS).collect();
        writeln!(out, "{}", heads.join(","))?;
        for (point, outcome) in points.iter().zip(outcomes) {
            let values = point.iter().map(|value| quoted(value));
            let numbers = numbers(outcome).map(|x| x.map_or(String::new(), |x| x.to_string()));
            writeln!(out, "{}", values.chain(numbers).collect::<Vec<_>>().join(","))?;
        }
        Ok(())
    })
}

/// Accuracy after each epoch, one line a run.
fn draw(path: &Path, planned: &[Planned], outcomes: &[Outcome]) -> Result<()> {
    let validated = outcomes.iter().all(|outcome| outcome.val_acc.is_some());
    let what = if validated { "validation accuracy, %" } else { "training accuracy, %" };
    let mut chart = Lines::new("", Scale::new("epoch").whole(), Scale::new(what)).size(760.0, 460.0);
    for (Planned { name, .. }, outcome) in planned.iter().zip(outcomes) {
        let points = outcome.curve.iter().map(|&(epoch, acc)| (epoch, 100.0 * acc)).collect();
        chart = chart.with(Series::new(name.replace(',', ", "), points));
    }
    Figure::new("Accuracy by epoch").with(chart).save(path, &Fonts::default())
}

fn table(axes: &[Axis], points: &[Vec<&str>], outcomes: &[Outcome]) -> String {
    let heads = axes.iter().map(|axis| axis.flag.clone()).chain(["test acc", "test loss", "val acc", "seconds"].map(String::from));
    let mut rows: Vec<Vec<String>> = vec![heads.collect()];
    for (point, outcome) in points.iter().zip(outcomes) {
        let [acc, loss, val, seconds] = numbers(outcome);
        let percent = |x: Option<f64>| x.map_or("-".into(), |x| format!("{:.2}%", 100.0 * x));
        let plain = |x: Option<f64>, digits: usize| x.map_or("-".into(), |x| format!("{x:.digits$}"));
        let figures = [percent(acc), plain(loss, 4), percent(val), plain(seconds, 1)];
        rows.push(point.iter().map(|value| value.to_string()).chain(figures).collect());
    }
    super::columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_read_and_multiplied() {
        let axes = ["lr=0.1, 0.2", "--nesterov=true,false", "schedule=cosine;multistep:2,3:0.1"].map(|text| Axis::read(text).unwrap());
        assert_eq!(axes[2].values, ["cosine", "multistep:2,3:0.1"]);
        assert_eq!((axes[1].flags("true"), axes[1].flags("false").len()), (vec!["--nesterov".to_string()], 0));
        let all = combinations(&axes);
        assert_eq!(
            (all.len(), &all[1][..], &all[7][..]),
            (8, &["0.1", "true", "multistep:2,3:0.1"][..], &["0.2", "false", "multistep:2,3:0.1"][..])
        );
        for bad in ["lr", "no-such=1", "lr=1,,2", "nesterov=maybe", "out=a,b", "resume=a"] {
            assert_eq!(Axis::read(bad).err().unwrap().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn what_is_the_sweeps_own_is_not_given_to_its_runs() {
        let line = "cugrad sweep --grid lr=1 --model net1 --out a --grid=x=2 --json --out=b --epochs 3".split(' ').map(OsString::from);
        assert_eq!(common(line), ["--model", "net1", "--epochs", "3"]);
    }
}
