//! Whole networks and whole runs on the device under test: PyTorch's figures, finite differences, captured steps, and what kernels ask
//! of memory.

#![allow(clippy::unwrap_used)]

use crate::{device, golden, models};
use cugrad::autograd::check;
use cugrad::data::{Splits, synthetic};
use cugrad::device::Device;
use cugrad::device::cuda::{Graph, emulator};
use cugrad::device::memory::PrivatePool;
use cugrad::ops::{self, Case};
use cugrad::optim::LossScale;
use cugrad::tensor::{DType, Spec, Tensor};
use cugrad::train::progress::{Epoch, Place, Progress};
use cugrad::train::{Array, Config, Observer, RunDir, Teacher, Trainer};
use rayon::prelude::*;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn gradients_on_a_gpu_agree_with_finite_differences() {
    let device = device::open();
    let test = |case: &Case| {
        let inputs: Vec<Tensor> = case.draw(DType::F64, 1).iter().map(|x| x.to(device)).collect();
        match check::check(&case.op, &inputs, &case.wanted(), 2) {
            Ok(worst) if worst.agrees() && worst.elements > 0 => None,
            Ok(worst) => Some(format!("{} {}: {worst:?}", case.op.name(), case.name)),
            Err(e) => Some(format!("{} {}: {e}", case.op.name(), case.name)),
        }
    };
    let cases = ops::cases();
    let failures: Vec<String> = cases.par_iter().filter_map(test).collect();
    assert!(failures.is_empty(), "{} of {} cases failed:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Loss, logits, every gradient, running statistics, and the losses of several steps.
#[test]
fn networks_on_a_gpu_equal_pytorch() {
    let all = golden::load("models.json", "models");
    for (name, dtype) in
        [("lenet", DType::F64), ("lenet", DType::F32), ("resnet8", DType::F32), ("lenet-bn3", DType::F32), ("net1", DType::F32)]
    {
        models::compare(name, &all[name], dtype, device::open());
    }
}

/// Hears nothing; stops the run after a number of steps.
struct StopAfter<'a>(u64, &'a AtomicBool);

impl Observer for StopAfter<'_> {
    fn begin(&mut self, _: u64, _: &Progress) {}
    fn step(&mut self, progress: &Progress, _: f64) {
        if progress.step >= self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    fn epoch(&mut self, _: &Epoch) {}
}

/// Hears nothing.
pub struct Silent;

impl Observer for Silent {
    fn begin(&mut self, _: u64, _: &Progress) {}
    fn step(&mut self, _: &Progress, _: f64) {}
    fn epoch(&mut self, _: &Epoch) {}
}

/// Everything that a run leaves behind, to the last bit: weights, buffers, moments, counters.
pub type State = Vec<(String, Vec<u64>)>;

fn state(trainer: &Trainer) -> State {
    let saved = trainer.checkpoint().unwrap();
    let bits = |array: &Array| match array {
        Array::F32(values) => values.iter().map(|&x| f64::from(x).to_bits()).collect(),
        Array::F64(values) => values.iter().map(|x| x.to_bits()).collect(),
        Array::I64(values) => values.iter().map(|&x| (x as f64).to_bits()).collect(),
    };
    saved.tensors.iter().map(|(name, (_, array))| (name.clone(), bits(array))).collect()
}

pub fn config(model: &str, precision: &str) -> Config {
    let schedule = "onecycle".into();
    Config {
        model: model.into(),
        precision: precision.into(),
        epochs: 2,
        batch: 32,
        schedule,
        lr: 5e-3,
        val_split: 0.0,
        ..Config::default()
    }
}

/// Trains two epochs; gives the end and the mean loss of all steps.
pub fn train(config: &Config, splits: &Splits, place: Place, interrupt_after: Option<u64>) -> State {
    train_from(config, splits, place, interrupt_after, None)
}

/// A run that is ready to go, with its teacher.
fn begin<'a>(config: &Config, splits: &'a Splits, place: Place) -> Trainer<'a> {
    let mut trainer = Trainer::new(config.clone(), splits, place).unwrap();
    if let Some(path) = &config.teacher {
        trainer.teach(Teacher::load(path, config, place.device).unwrap()).unwrap();
    }
    trainer
}

/// The same, beginning with a loss scale.
fn train_from(config: &Config, splits: &Splits, place: Place, interrupt_after: Option<u64>, scale: Option<f64>) -> State {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = begin(config, splits, place);
    trainer.progress.loss_scale = scale.map(|scale| LossScale { scale, ..LossScale::default() });
    let stop = AtomicBool::new(false);
    let mut dir = RunDir::create(Some(folder.path().join("run")), "test").unwrap();
    let first = trainer.run(&mut dir, &mut StopAfter(interrupt_after.unwrap_or(u64::MAX), &stop), &stop);
    if interrupt_after.is_some() {
        assert_eq!(first.unwrap_err().exit_code(), 130);
        let (path, saved) = (dir.last(), cugrad::train::Checkpoint::load(&dir.last()).unwrap());
        trainer = begin(config, splits, place);
        trainer.resume(&saved, &path).unwrap();
        let stop = AtomicBool::new(false);
        trainer.run(&mut dir, &mut StopAfter(u64::MAX, &stop), &stop).unwrap();
    } else {
        first.unwrap();
    }
    state(&trainer)
}

pub fn different(a: &State, b: &State) -> Vec<String> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a != b).map(|(a, _)| a.0.clone()).collect()
}

/// 170 images in batches of 32: the last batch of an epoch has another size and is never captured.
#[test]
fn captured_steps_equal_eager_steps_bit_for_bit() {
    let splits = synthetic(170, 4, 3);
    // The first draws dropout masks, the second has batch norms, the third a loss scale.
    for (model, precision, augment) in [
        ("mnist-cnn-fixed", "f32", "shift:2,flip"),
        ("lenet-bn3", "bf16", "rotate:15,scale:0.1,erase:0.3"),
        ("lenet", "f16", "crop:2,elastic:34:4"),
    ] {
        // All that looks at a run on the way, too.
        let (augment, ema, watch, log_every) = (augment.into(), Some(0.9), Some(3), Some(2));
        let config = Config { augment, ema, watch, log_every, ..config(model, precision) };
        let run = |capture, interrupt| train(&config, &splits, Place { device: device::open(), capture }, interrupt);
        let (captured, eager, again) = (run(true, None), run(false, None), run(true, None));
        assert_eq!(different(&captured, &eager), [""; 0], "{model}: captured and eager");
        assert_eq!(different(&captured, &again), [""; 0], "{model}: two runs");
        let resumed = run(true, Some(4));
        assert_eq!(different(&captured, &resumed), [""; 0], "{model}: stopped and resumed");
    }
}

/// A captured step whose loss is no number is found and named, though others were replayed after it.
#[test]
fn a_loss_that_is_no_number_is_named_on_a_gpu() {
    let splits = synthetic(170, 4, 3);
    let sgd = |lr| Config { optimizer: "sgd".into(), schedule: "constant".into(), lr, ..config("net1", "f32") };
    let failure = |place| {
        let folder = tempfile::tempdir().unwrap();
        let mut trainer = Trainer::new(Config { epochs: 9, ..sgd(1e6 - 1.0) }, &splits, place).unwrap();
        let (mut dir, stop) = (RunDir::create(Some(folder.path().join("run")), "test").unwrap(), AtomicBool::new(false));
        trainer.run(&mut dir, &mut StopAfter(u64::MAX, &stop), &stop).unwrap_err().message
    };
    let message = failure(Place { device: device::open(), capture: true });
    assert!(message.contains("the loss became") && message.contains(" gave "), "{message}");
    assert_eq!(
        message.split(" at step ").nth(1).unwrap().split(" gave").next(),
        failure(Place::CPU).split(" at step ").nth(1).unwrap().split(" gave").next()
    );
}

/// With a scale far too large the first steps overflow and are left out, on both devices alike; the schedule waits for them.
#[test]
fn steps_that_overflow_are_left_out_alike_and_after_a_stop_too() {
    let splits = synthetic(170, 4, 3);
    let config = config("lenet", "f16");
    let run = |place, interrupt| train_from(&config, &splits, place, interrupt, Some(2f64.powi(21)));
    let gpu = |capture| Place { device: device::open(), capture };
    let (captured, eager, resumed) = (run(gpu(true), None), run(gpu(false), None), run(gpu(true), Some(6)));
    assert_eq!(different(&captured, &eager), [""; 0], "captured and eager");
    assert_eq!(different(&captured, &resumed), [""; 0], "stopped and resumed");
    let cpu = run(Place::CPU, None);
    let steps = |state: &State| state.iter().find(|(name, _)| name == "optimizer.step").unwrap().1[0];
    let taken = f64::from_bits(steps(&captured));
    assert!((1.0..12.0).contains(&taken), "of 12 steps {taken} were taken");
    assert_eq!(f64::from_bits(steps(&cpu)), taken);
}

/// Different orders of summing, the same training: the weights after nine steps.
#[test]
fn a_run_on_a_gpu_follows_the_cpu() {
    let splits = synthetic(150, 4, 5);
    let config =
        Config { optimizer: "sgd".into(), momentum: Some(0.9), lr: 0.02, augment: "shift:2,rotate:10".into(), ..config("lenet", "f32") };
    let there = train(&config, &splits, Place { device: device::open(), capture: true }, None);
    let here = train(&config, &splits, Place::CPU, None);
    for ((name, a), (_, b)) in there.iter().zip(&here) {
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        let numbers = |v: &[u64]| v.iter().map(|&x| f64::from_bits(x)).collect::<Vec<_>>();
        let (a, b) = (numbers(a), numbers(b));
        let (off, size) = (norm(&mut a.iter().zip(&b).map(|(a, b)| a - b)), norm(&mut b.iter().copied()));
        assert!(off <= 2e-4 * size.max(1e-3), "{name}: off by {off:.1e} of {size:.1e}");
    }
}

/// What a step may not do while it is captured, it is told about.
#[test]
fn a_capture_refuses_copies_to_the_host_and_new_memory() {
    let spec = |device| Spec::rows([1000], DType::F32).on(device);
    let reads = device::open();
    let x = Tensor::zeros(spec(reads));
    let e = Graph::capture(reads, PrivatePool::new(), || x.read().map(drop)).unwrap_err();
    assert!(e.message.contains("must not copy from or to the host"), "{e}");
    let (writes, pool) = (device::open(), PrivatePool::new());
    let ready = Tensor::zeros(spec(writes));
    let upload = || {
        Tensor::zeros(spec(Device::Cpu)).to(writes);
        Ok(())
    };
    // A rehearsal, so that the capture finds memory.
    let inside = pool.enter();
    upload().unwrap();
    drop(inside);
    let e = Graph::capture(writes, pool, upload);
    assert!(e.unwrap_err().message.contains("must not copy from or to the host"));
    // Neither spoils the device.
    assert_eq!(ready.values(), [0.0; 1000]);
    assert_eq!(x.values(), [0.0; 1000]);
    let takes = device::open();
    Tensor::zeros(spec(takes));
    let e = Graph::capture(takes, PrivatePool::new(), || {
        Tensor::zeros(spec(takes));
        Ok(())
    })
    .unwrap_err();
    assert!(e.message.contains("memory") && e.hint.as_deref().unwrap_or_default().contains("a captured step must not"), "{e} {:?}", e.hint);
}

/// What each kernel asked of memory in two steps of a network at a full batch; None on a real GPU, which does not tell.
fn counters(model: &str) -> Option<serde_json::Map<String, Value>> {
    let Device::Cuda(ordinal) = device::open() else { return None };
    let emulator = emulator::get()?;
    let splits = synthetic(64, 4, 7);
    let config = Config { epochs: 1, ..config(model, "f32") };
    emulator.reset_counters(ordinal).unwrap();
    train(&config, &splits, Place { device: Device::Cuda(ordinal), capture: false }, None);
    let Value::Object(all) = serde_json::from_str(&emulator.counters(ordinal).unwrap()).unwrap() else { panic!("no object") };
    Some(all)
}

/// Every kernel of a step reads and writes whole lines, and its shared memory without conflicts.
#[test]
fn kernels_are_coalesced_and_free_of_bank_conflicts() {
    for model in ["lenet", "resnet8"] {
        let Some(all) = counters(model) else { return };
        assert!(all.len() > 12, "{model}: only {} kernels ran", all.len());
        let mut wasteful = Vec::new();
        println!("{model:<36} {:>12} {:>9} {:>7} {:>9} {:>7}", "instructions", "requests", "waste", "shared", "waste");
        for (kernel, c) in &all {
            let of = |key: &str| c[key].as_f64().unwrap();
            let waste = |got: &str, ideal: &str| if of(ideal) == 0.0 { 0.0 } else { of(got) / of(ideal) - 1.0 };
            let (sectors, banks) = (waste("global_sectors", "ideal_sectors"), waste("bank_cycles", "ideal_bank_cycles"));
            println!(
                "{kernel:<36} {:>12} {:>9} {:>6.1}% {:>9} {:>6.1}%",
                of("warp_instructions"),
                of("global_requests"),
                100.0 * sectors,
                of("shared_requests"),
                100.0 * banks
            );
            let (may_sectors, may_banks) = allowed(kernel);
            if sectors > may_sectors || banks > may_banks {
                wasteful.push(format!("{kernel}: {:.1}% more sectors, {:.1}% more bank cycles", 100.0 * sectors, 100.0 * banks));
            }
        }
        assert!(wasteful.is_empty(), "{model}:\n{}", wasteful.join("\n"));
    }
}

/// What a kernel may waste: parts of sectors, of bank cycles.
fn allowed(kernel: &str) -> (f64, f64) {
    // What is in lanes begins at a sector's edge. Rows of weights (25 numbers, say), and the bytes of a picture, begin anywhere: the run
    // that a warp reads of them may touch one sector more than it fills.
    match kernel.split('_').next() {
        Some("batch") => (1.0, 0.0),
        Some("conv2d" | "correlate" | "linear") => (0.125, 0.0),
        // So do the rows of partial sums of each channel, which these two add up.
        Some("batchnorm") if kernel == "batchnorm_statistics" || kernel == "batchnorm_backward_weight" => (0.125, 0.0),
        _ => (0.0, 0.0),
    }
}
