//! Steps of one network on the CPU, run for as long as somebody asks: cugrad's side of the comparison with PyTorch.
//!
//! `compare.py` starts it and talks to it by lines; by hand it is `cargo bench --bench step -- --model lenet --batch 128`. It prints
//! `ready` and the number of parameters after some steps that nobody measures. Each line `run SECONDS` on its input is answered by
//! one of JSON, a [`worker::Window`]. It ends when its input ends.
//!
//! The batch is made once, of random numbers: what is measured is the step, not the loading. Read next: `worker.rs`; `torch_step.py`, the
//! same of PyTorch; `README.md` for why it is measured like this.

mod worker;

use clap::Parser;
use cugrad::device;
use cugrad::error::{Error, Result};
use cugrad::models::Options;
use cugrad::tensor::DType;
use std::io::Write;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;
use worker::Worker;

/// Runs steps of a network on random pictures, as lines "run SECONDS" on its input ask for.
#[derive(Parser)]
struct Args {
    /// The network, as `cugrad train --model` calls it
    #[arg(long)]
    model: String,
    /// Images of a step
    #[arg(long)]
    batch: NonZeroUsize,
    /// Inference instead of training
    #[arg(long)]
    infer: bool,
    /// Type of activations and working weights
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16", "f16"])]
    precision: String,
    /// Threads to compute on [default: RAYON_NUM_THREADS, or all cores]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Cargo says this to every benchmark.
    #[arg(long = "bench", hide = true)]
    _bench: bool,
}

/// The time that a line asks for.
fn read(line: &str) -> Result<Duration> {
    let seconds = line.strip_prefix("run ").and_then(|seconds| seconds.trim().parse().ok());
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.ok_or_else(|| Error::usage(format!("cannot read the line '{line}'")).hint("write, say, run 1.0"))
}

fn failed(e: impl std::error::Error) -> Error {
    Error::run(e.to_string())
}

fn run(args: &Args) -> Result<()> {
    device::start_threads(args.threads.map_or(0, NonZeroUsize::get))?;
    let dtype = match &*args.precision {
        "bf16" => DType::Bf16,
        "f16" => DType::F16,
        _ => DType::F32,
    };
    let mut worker = Worker::new(&args.model, &Options { dtype, ..Options::default() }, args.batch.get(), args.infer)?;
    let mut out = std::io::stdout();
    writeln!(out, "ready {}", worker.model.params.count()).map_err(failed)?;
    for line in std::io::stdin().lines() {
        let window = worker.window(read(&line.map_err(failed)?)?)?;
        let answer = serde_json::to_string(&window).map_err(failed)?;
        writeln!(out, "{answer}").map_err(failed)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    // Plain `cargo bench`, perhaps with a filter for the kernels, runs this too and has nothing for it to do.
    let given = |name: &str| std::env::args().any(|argument| argument.starts_with(name));
    if given("--bench") && !given("--model") {
        println!("step: nothing to do without --model; benches/compare/README.md says what it is for");
        return ExitCode::SUCCESS;
    }
    worker::exit(run(&Args::parse()))
}
