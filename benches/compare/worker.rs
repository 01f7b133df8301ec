//! A network on the CPU with one random batch, and windows of its steps: what is measured here and in `../scaling.rs`.
//!
//! Read next: `step.rs`, which runs it for `compare.py`.

use cugrad::device::{Device, memory};
use cugrad::error::Result;
use cugrad::models::{Model, Options};
use cugrad::optim::{Clock, LossScale, Optimizer, Rule, Sgd};
use cugrad::tensor::{DType, Philox, Spec, Tensor};
use cugrad::train::step::{Setting, totals, train_step};
use serde::Serialize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Steps before anything is measured: they take memory and wake the threads. `torch_step.py` has as many.
pub const WARM_UP: usize = 5;

/// The optimiser's: the same as in `torch_step.py`.
const LR: f64 = 0.01;
const MOMENTUM: f64 = 0.9;

/// What happened in a window.
#[derive(Serialize)]
pub struct Window {
    /// Whole steps.
    pub steps: u64,
    /// How long they took.
    pub seconds: f64,
    /// Pages that the system had to map while it ran; unknown where there is no /proc.
    pub page_faults: Option<u64>,
    /// How often cugrad's pool asked the system for memory.
    pub allocations: usize,
}

/// A network and all that its steps take.
pub struct Worker {
    /// The network.
    pub model: Model,
    optimizer: Optimizer,
    clock: Clock,
    totals: Tensor,
    x: Tensor,
    labels: Tensor,
    infer: bool,
}

impl Worker {
    /// A network of this name with steps of `n` random images.
    pub fn new(model: &str, options: &Options, n: usize, infer: bool) -> Result<Worker> {
        let model = Model::build(model, options)?;
        let ([c, h, w], rng) = (model.input, Philox::new(1));
        let pictures: Vec<f64> = (0..(n * c * h * w) as u64).map(|i| rng.normal(0, i)).collect();
        let labels: Vec<i32> = (0..n as u64).map(|i| (rng.word(1, i) % options.classes as u32) as i32).collect();
        let mut worker = Worker {
            optimizer: Optimizer::new(Rule::Sgd(Sgd { momentum: MOMENTUM, ..Sgd::default() }), &model.params),
            clock: Clock::new(options.dtype, Device::Cpu, LossScale::default()),
            totals: totals(&model),
            x: Tensor::from_values(Spec::lanes([n, c, h, w], options.dtype), &pictures),
            labels: Tensor::from_values(Spec::rows([n], DType::I32), &labels),
            infer,
            model,
        };
        for _ in 0..WARM_UP {
            worker.step()?;
        }
        Ok(worker)
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
    pub fn window(&mut self, time: Duration) -> Result<Window> {
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

/// How a benchmark ends: with what went wrong and what to do on stderr, if anything did.
pub fn exit(result: Result<()>) -> ExitCode {
    let Err(e) = result else { return ExitCode::SUCCESS };
    eprintln!("error: {e}{}", e.hint.iter().map(|hint| format!("\n  help: {hint}")).collect::<String>());
    ExitCode::from(e.exit_code())
}
