//! The command line: one file a command.
//!
//! Results go to stdout, progress and remarks to stderr; an error is one message that says what was wrong and one line that says
//! what to do, and the exit code tells its kind (0 ok, 1 failed, 2 usage, 3 device, 4 data, 5 check failed, 130 interrupted).
//! Read next: `train.rs`.

mod check;
mod data;
mod data_args;
mod doctor;
mod done;
mod eval;
mod export;
mod findings;
mod import;
mod interrupt;
mod look;
mod lr_find;
mod others;
mod pictures;
mod plot;
mod predict;
mod progress;
mod recipe;
mod reproduce;
mod runs;
mod summary;
mod sweep;
mod train;
mod trial;

use crate::device;
use crate::error::{Error, Result};
use clap::{Parser, Subcommand};
use data_args::DataArgs;
use std::io::Write;
use std::process::ExitCode;

/// Trains small networks on images and shows how backprop works.
#[derive(Debug, Parser)]
#[command(name = "cugrad", version, long_version = BUILD, about, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What `--version` prints: enough to say what a figure was measured with.
const BUILD: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\nbuilt by ",
    env!("CUGRAD_RUSTC"),
    " for ",
    env!("CUGRAD_TARGET"),
    " (",
    env!("CUGRAD_PROFILE"),
    ")"
);

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a network; keeps checkpoints and metrics in a run directory
    Train(Box<train::Train>),
    /// Train a network to imitate another: train with a --teacher
    Distill(Box<train::Train>),
    /// Find a learning rate: one short run whose rate grows until the loss explodes
    LrFind(Box<lr_find::LrFind>),
    /// Train once for each point of a grid of choices, and compare
    Sweep(Box<sweep::Sweep>),
    /// Make the reference experiments again, and put their figures beside ours
    Reproduce(reproduce::Reproduce),
    /// Judge a checkpoint on the test images: accuracy, report by class, confusion matrix
    Eval(eval::Eval),
    /// Say which digit a picture (PNG, JPEG or BMP) shows
    Predict(predict::Predict),
    /// Look at data sets, and bring them into other forms: download, stats, split, show, export, mosaic
    Data(Box<data::Data>),
    /// Write a checkpoint for other programs: safetensors, PyTorch's .pth, ONNX
    Export(export::Export),
    /// Make a checkpoint of weights from PyTorch
    Import(import::Import),
    /// Draw the history of one run or several, or a function and its derivative
    Plot(plot::Plot),
    /// Draw what is inside a network: feature maps, filters, which pixels a decision depends on
    Look(look::Look),
    /// Check every op's gradient against finite differences
    Check(check::Check),
    /// Say what this machine has, what will work on it, and why the rest will not
    Doctor(doctor::Doctor),
    /// Print a network's layers, shapes, parameters, FLOPs and bytes
    Summary(summary::Summary),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = device::start_threads(0).and_then(|()| match command {
        Command::Train(command) => command.run(),
        Command::Distill(command) => command.distill(),
        Command::LrFind(command) => command.run(),
        Command::Sweep(command) => command.run(),
        Command::Reproduce(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Predict(command) => command.run(),
        Command::Data(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Import(command) => command.run(),
        Command::Plot(command) => command.run(),
        Command::Look(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Summary(command) => command.run(),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            remark(format_args!("error: {e}"));
            if let Some(hint) = &e.hint {
                remark(format_args!("  help: {hint}"));
            }
            ExitCode::from(e.exit_code())
        }
    }
}

/// Prints a line of progress or remarks. `eprintln!` would panic when nobody reads them any more (`2>&1 | head`).
fn remark(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Rows of cells as lines of columns, each as wide as its widest cell; the first is left-aligned, as it names the row.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let line = |row: &Vec<String>| {
        let cell = |(c, cell): (usize, &String)| if c == 0 { format!("{cell:<0$}", width(0)) } else { format!("{cell:>0$}", width(c)) };
        row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Prints a line of results. A reader that has gone away (`| head`) ends the program quietly.
fn print(line: impl std::fmt::Display) -> Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        done => done.map_err(|e| Error::run(format!("cannot write to the standard output: {e}"))),
    }
}
