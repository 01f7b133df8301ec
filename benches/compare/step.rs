//! Steps of one network on the CPU, run for as long as somebody asks: cugrad's side of the comparison with PyTorch.
//!
//! `compare.py` starts it and talks to it by lines; by hand it is `cargo bench --bench step -- --model lenet --batch 128`. It prints
//! `ready` and the number of parameters after some steps that nobody measures. Each line `run SECONDS` on its input is answered by
//! one of JSON, a [`Window`]. It ends when its input ends.
//!
//! The batch is made once, of random numbers: what is measured is the step, not the loading. Read next: `torch_step.py`, the same of
//! PyTorch; `README.md` for why it is measured like this.

use clap::Parser;
use cugrad::device::{self, Device, memory};
use cugrad::error::{Error, Result};
use cugrad::models::{Model, Options};
use cugrad::optim::{Clock, LossScale, Optimizer, Rule, Sgd};
use cugrad::tensor::{DType, Philox, Spec, Tensor};
use cugrad::train::step::{Setting, totals, train_step};
use serde::Serialize;
use std::io::Write;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Steps before `ready`: they take memory and wake the threads. `torch_step.py` has as many.
const WARM_UP: usize = 5;

/// The optimiser's: the same as in `torch_step.py`.
const LR: f64 = 0.01;
const MOMENTUM: f64 = 0.9;

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
    /// Threads to compute on [default: RAYON_NUM_THREADS, or all cores]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Cargo says this to every benchmark.
    #[arg(long = "bench", hide = true)]
    _bench: bool,
}

/// The answer to one line.
#[derive(Serialize)]
struct Window {
    steps: u64,
    seconds: f64,
    /// Pages that the system had to map while it ran; unknown where there is no /proc.
    page_faults: Option<u64>,
    /// How often cugrad's pool asked the system for memory.
    allocations: usize,
}

/// A network and all that its steps take.
struct Worker {
    model: Model,
    optimizer: Optimizer,
    clock: Clock,
    totals: Tensor,
    x: Tensor,
    labels: Tensor,
    infer: bool,
}

impl Worker {
    fn new(args: &Args) -> Result<Worker> {
        let options = Options::default();
        let model = Model::build(&args.model, &options)?;
        let ([c, h, w], n, rng) = (model.input, args.batch.get(), Philox::new(1));
        let pictures: Vec<f64> = (0..(n * c * h * w) as u64).map(|i| rng.normal(0, i)).collect();
        let labels: Vec<i32> = (0..n as u64).map(|i| (rng.word(1, i) % options.classes as u32) as i32).collect();
        Ok(Worker {
            optimizer: Optimizer::new(Rule::Sgd(Sgd { momentum: MOMENTUM, ..Sgd::default() }), &model.params),
            clock: Clock::new(DType::F32, Device::Cpu, LossScale::default()),
            totals: totals(&model),
            x: Tensor::from_values(Spec::lanes([n, c, h, w], DType::F32), &pictures),
            labels: Tensor::from_values(Spec::rows([n], DType::I32), &labels),
            infer: args.infer,
            model,
        })
    }

    fn step(&mut self) -> Result<()> {
        // Clones share their numbers.
        let (x, labels) = (self.x.clone(), self.labels.clone());
        if self.infer {
            return self.model.logits(x).map(drop);
        }
        let setting = Setting { lr: LR, label_smoothing: 0.0, seed: 0 };
        train_step(&mut self.model, &mut self.optimizer, &mut self.clock, &mut self.totals, (x, labels), &setting, None)
    }

    /// Whole steps until so much time has passed, and one at least.
    fn window(&mut self, time: Duration) -> Result<Window> {
        let (faults, allocations) = (page_faults(), memory::usage().allocations);
        let (began, mut steps) = (Instant::now(), 0);
        let took = loop {
            self.step()?;
            steps += 1;
            let took = began.elapsed();
            if took >= time {
                break took;
            }
        };
        let page_faults = page_faults().zip(faults).map(|(after, before)| after - before);
        Ok(Window { steps, seconds: took.as_secs_f64(), page_faults, allocations: memory::usage().allocations - allocations })
    }
}

/// The minor page faults of all threads of this process so far.
fn page_faults() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name of the program in brackets, which may hold anything; minflt is the tenth.
    stat.rsplit_once(") ")?.1.split(' ').nth(7)?.parse().ok()
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
    let mut worker = Worker::new(args)?;
    for _ in 0..WARM_UP {
        worker.step()?;
    }
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
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}{}", e.hint.iter().map(|hint| format!("\n  help: {hint}")).collect::<String>());
            ExitCode::from(e.exit_code())
        }
    }
}
