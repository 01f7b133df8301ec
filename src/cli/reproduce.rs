//! `cugrad reproduce`: makes the reference experiments again, and puts their figures beside ours.
//!
//! [`ROWS`] is the table: networks, optimisers and schedules of five MNIST recognisers written in PyTorch, with the test accuracy of
//! the last epoch that they reported (for `mnist-cnn` the two digits of a report). Ours is the test accuracy of the last epoch, too: the test
//! set chooses nothing. All training images are learned from, as there. Read next: `runs.rs`.

use super::data_args::DataArgs;
use super::runs::{Flags, Outcome, Planned, make};
use super::{print, remark};
use crate::disk::replace;
use crate::error::{Error, Result};
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// One reference experiment.
struct Row {
    name: &'static str,
    /// In percent, as it was reported; none where no figure was.
    theirs: Option<f64>,
    epochs: u64,
    /// Flags of `cugrad train`.
    flags: &'static str,
}

const fn row(name: &'static str, theirs: Option<f64>, epochs: u64, flags: &'static str) -> Row {
    Row { name, theirs, epochs, flags }
}

/// Every experiment.
const ROWS: &[Row] = &[
    row("digit", Some(98.72), 5, "--model digit --optimizer adam --lr 0.001 --batch 128"),
    row("net1", Some(98.45), 30, "--model net1 --optimizer sgd --momentum 0.5 --batch 32 --lr 0.01 --weight-decay 1e-3"),
    row("net1-lr0.002", Some(98.41), 30, "--model net1 --optimizer sgd --momentum 0.5 --batch 32 --lr 0.002 --weight-decay 1e-3"),
    row("net1-lr0.05", Some(98.30), 30, "--model net1 --optimizer sgd --momentum 0.5 --batch 32 --lr 0.05 --weight-decay 1e-3"),
    row("net1-wd1e-4", Some(98.32), 30, "--model net1 --optimizer sgd --momentum 0.5 --batch 32 --lr 0.01 --weight-decay 1e-4"),
    row("net1-wd1e-2", Some(97.97), 30, "--model net1 --optimizer sgd --momentum 0.5 --batch 32 --lr 0.01 --weight-decay 1e-2"),
    row("lenet-relu", Some(98.98), 30, "--model lenet-relu --optimizer sgd --momentum 0.5 --batch 32 --lr 0.01 --weight-decay 1e-4"),
    row("lenet", Some(99.26), 30, "--model lenet --optimizer sgd --momentum 0.5 --batch 32 --lr 0.01 --weight-decay 1e-4"),
    row("resnet8", Some(99.28), 10, "--model resnet8 --optimizer sgd --momentum 0.5 --batch 32 --lr 0.01 --weight-decay 1e-4"),
    // No figure was reported; with the moves that were recommended for it.
    row(
        "improved",
        None,
        15,
        "--model improved --optimizer adam --lr 0.001 --batch 64 --schedule cosine --augment rotate:10,translate:0.1",
    ),
    row("mnist-cnn", Some(98.0), 50, "--model mnist-cnn --optimizer sgd --momentum 0.9 --batch 64 --lr 0.01"),
    // Theirs were pictures of their own, of which "almost 100%" were right.
    row("rgb-cnn", None, 50, "--model rgb-cnn --optimizer adam --batch 256 --lr 0.01 --weight-decay 1e-3 --schedule multistep:20,30:0.1"),
];

/// Make the reference experiments again.
#[derive(Debug, Args)]
#[command(
    after_help = "Rows that are finished in the output directory are not made again, so the command can be stopped and given again.\n\nExamples:\n  cugrad reproduce --quick\n  cugrad reproduce net1 lenet resnet8"
)]
pub struct Reproduce {
    /// Which experiments: digit, net1, net1-lr0.002, net1-lr0.05, net1-wd1e-4, net1-wd1e-2, lenet-relu, lenet, resnet8, improved, mnist-cnn, rgb-cnn [default: all]
    #[arg(value_name = "ROW")]
    rows: Vec<String>,
    /// One epoch each: whether everything works, not what it comes to
    #[arg(long)]
    quick: bool,
    /// Data set; their figures are for mnist
    #[arg(long, default_value = "mnist")]
    data: String,
    #[command(flatten)]
    data_args: DataArgs,
    /// Where to compute: auto, cpu, cuda:N or emu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Use only the first N training and test images
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Where the runs, reproduce.json and reproduce.txt are kept
    #[arg(long, value_name = "DIR", default_value = "runs/reproduce")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Reproduce {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        if let Some(unknown) = self.rows.iter().find(|name| !ROWS.iter().any(|row| row.name == **name)) {
            let names = ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
            return Err(Error::usage(format!("there is no reference experiment '{unknown}'")).hint(format!("choose of {names}")));
        }
        let wanted = |row: &&Row| self.rows.is_empty() || self.rows.iter().any(|name| name == row.name);
        let rows: Vec<&Row> = ROWS.iter().filter(wanted).collect();
        let planned: Vec<Planned> = rows.iter().map(|row| self.plan(row)).collect::<Result<_>>()?;
        remark(format_args!("{} experiments in {}; if stopped, go on with the same command", rows.len(), self.out.display()));
        let outcomes = make(&self.out, &planned)?;
        let json = self.as_json(&rows, &outcomes);
        replace(&self.out.join("reproduce.json"), |out| writeln!(out, "{json:#}"))?;
        let table = table(&rows, &outcomes);
        replace(&self.out.join("reproduce.txt"), |out| writeln!(out, "{table}"))?;
        if self.json { print(json) } else { print(table) }
    }

    fn epochs(&self, row: &Row) -> u64 {
        if self.quick { 1 } else { row.epochs }
    }

    fn plan(&self, row: &Row) -> Result<Planned> {
        // Later flags would be a second --schedule.
        let schedule = if row.flags.contains("--schedule") { "" } else { " --schedule constant" };
        let epochs = self.epochs(row);
        let mut line = format!("{}{schedule} --epochs {epochs} --val-split 0 --seed {}", row.flags, self.seed);
        if let Some(limit) = self.limit {
            line += &format!(" --limit {limit}");
        }
        let mut flags: Vec<&str> = line.split_whitespace().collect();
        flags.extend(["--data", &self.data]);
        let mut train = Flags::read(flags)?;
        (train.data_args, train.device) = (self.data_args.clone(), self.device.clone());
        // Runs of one epoch and whole ones do not stand in each other's way, nor do those of several seeds.
        let name = format!("{}-{epochs}-epochs-seed-{}", row.name, self.seed);
        Ok(Planned { name, train })
    }

    fn as_json(&self, rows: &[&Row], outcomes: &[Outcome]) -> serde_json::Value {
        let one = |(row, outcome): (&&Row, &Outcome)| {
            let mut value = json!(outcome);
            let theirs = row.theirs.map(|theirs| theirs / 100.0);
            value["row"] = json!(row.name);
            value["epochs"] = json!(self.epochs(row));
            value["flags"] = json!(row.flags);
            value["reference_acc"] = json!(theirs);
            value["difference"] = json!(theirs.zip(outcome.test_acc).map(|(theirs, ours)| ours - theirs));
            value
        };
        json!({"data": self.data, "seed": self.seed, "quick": self.quick, "rows": rows.iter().zip(outcomes).map(one).collect::<Vec<_>>()})
    }
}

fn table(rows: &[&Row], outcomes: &[Outcome]) -> String {
    let mut all = vec![["experiment", "theirs", "ours", "difference", "seconds"].map(String::from).to_vec()];
    for (row, outcome) in rows.iter().zip(outcomes) {
        let ours = outcome.test_acc.map(|acc| 100.0 * acc);
        let percent = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.2}%"));
        let difference = row.theirs.zip(ours).map_or("-".into(), |(theirs, ours)| format!("{:+.2}", ours - theirs));
        let seconds = outcome.seconds.map_or("-".into(), |s| format!("{s:.0}"));
        all.push(vec![row.name.into(), percent(row.theirs), percent(ours), difference, seconds]);
    }
    super::columns(&all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clap would refuse is not found out by a user.
    #[test]
    fn every_row_can_be_run_and_is_named_in_the_help() {
        use clap::{Args, Command};
        let help = Reproduce::augment_args(Command::new("x")).render_help().to_string();
        for row in ROWS {
            let config = Flags::read(row.flags.split_whitespace()).unwrap().check().unwrap();
            assert!(row.flags.contains(&config.model) && help.replace('\n', " ").contains(row.name), "{}", row.name);
        }
    }
}
