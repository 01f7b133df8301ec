//! Gradient clipping: PyTorch's figures on every device, captured and resumed runs, and training that diverges without it.

#![allow(clippy::unwrap_used)]

use crate::cli::{QUICK, cugrad, read, same_runs};
use crate::{cuda, device, golden};
use cugrad::autograd::Tape;
use cugrad::data::synthetic;
use cugrad::device::Device;
use cugrad::nn::{Builder, Init, ParamId, Params};
use cugrad::ops::linear::Linear;
use cugrad::optim::{Clock, Limit, LossScale, Optimizer, Options, Rule};
use cugrad::tensor::{DType, Spec, Tensor};
use cugrad::train::Config;
use cugrad::train::progress::Place;
use serde_json::Value;
use tempfile::tempdir;

/// The sizes of the fixture's parameters.
const SIZES: [usize; 3] = [7, 5000, 3];

/// The gradient of parameter `k` before it is clipped; f16 holds every number exactly.
fn gradient(k: usize) -> Vec<f64> {
    golden::values(3001 + k as u64, SIZES[k], 256.0).iter().map(|g| g.round_ties_even() / 256.0).collect()
}

/// The clipped gradients of the parameters `which`, as what a step of plain descent from 0 at rate 1 moves them by, and the factor.
fn clipped(limit: Limit, which: &[usize], dtype: DType, device: Device) -> (Vec<Vec<f64>>, f64) {
    let mut builder = Builder::new(dtype, device);
    for (k, n) in SIZES.into_iter().enumerate() {
        builder.param(&format!("p{k}"), [1, n], Init::Zeros);
    }
    let mut params: Params = builder.build(0);
    // With f16, gradients that are 1024 times as large.
    let clock = Clock::new(dtype, device, LossScale { scale: 1024.0, ..LossScale::default() });
    let scale = if dtype == DType::F16 { 1024.0 } else { 1.0 };
    for &k in which {
        let mut tape = Tape::new();
        let x = tape.input(Tensor::from_values(Spec::lanes([1, SIZES[k]], dtype).on(device), &gradient(k)));
        let w = tape.param(k, params.working(ParamId(k)).clone());
        let y = tape.apply(Linear, &[x, w]).unwrap();
        let dy = Tensor::from_values(tape.value(y).spec(), &[scale]);
        tape.backward_from(y, dy, &mut params.gradients).unwrap();
    }
    let mut optimizer = Optimizer::new(Rule::by_name("sgd", &Options::default()).unwrap(), &params).with_clip(limit, &params);
    optimizer.plan(&params, 1, std::iter::once((1.0, None)));
    optimizer.take_step(&mut params, &clock, 1.0).unwrap();
    let moved = |w: &Tensor| w.read().unwrap().iter().map(|w| -w).collect();
    (params.values().iter().map(moved).collect(), optimizer.clipped().unwrap())
}

#[test]
fn clipped_gradients_equal_pytorch() {
    let all = golden::load("clip.json", "clip");
    let places = [
        (DType::F64, Device::Cpu, 1e-12),
        (DType::F32, Device::Cpu, 1e-6),
        (DType::F16, Device::Cpu, 1e-6),
        (DType::F64, device::open(), 1e-12),
        (DType::F32, device::open(), 1e-6),
        (DType::F16, device::open(), 1e-6),
        (DType::Bf16, device::open(), 1e-6),
    ];
    for theirs in all.as_array().unwrap() {
        let (most, norm) = (theirs["most"].as_f64().unwrap(), theirs["norm"].as_f64().unwrap());
        let by_norm = theirs["by"] == "norm";
        let limit = if by_norm { Limit::Norm(most) } else { Limit::Value(most) };
        for (dtype, device, bound) in places {
            let what = format!("{limit:?} in {dtype} on {device}");
            let (ours, factor) = clipped(limit, &[0, 1, 2], dtype, device);
            let expected = if by_norm { (most / (norm + 1e-6)).min(1.0) } else { 1.0 };
            golden::close(&[factor], &[expected], bound, &what);
            for (ours, theirs) in ours.iter().zip(theirs["gradients"].as_array().unwrap()) {
                let first = golden::floats(&theirs["first"]);
                golden::close(&ours[..first.len()], &first, bound, &what);
                let squares: f64 = ours.iter().map(|g| g * g).sum();
                golden::close(&[squares], &[theirs["sum_of_squares"].as_f64().unwrap()], 4.0 * bound, &what);
            }
        }
    }
}

/// The norm is that of the parameters which have a gradient, wherever they lie; those without stay where they are.
#[test]
fn parameters_without_a_gradient_do_not_count() {
    let squares = |k: usize| gradient(k).iter().map(|g| g * g).sum::<f64>();
    let norm = (squares(0) + squares(2)).sqrt();
    for device in [Device::Cpu, device::open()] {
        let (moved, factor) = clipped(Limit::Norm(0.5), &[0, 2], DType::F64, device);
        golden::close(&[factor], &[0.5 / (norm + 1e-6)], 1e-12, "factor");
        assert_eq!(moved[1], vec![0.0; SIZES[1]]);
        golden::close(&moved[2], &gradient(2).iter().map(|g| g * factor).collect::<Vec<_>>(), 1e-12, "gradient");
    }
}

#[test]
fn captured_and_resumed_runs_clip_alike() {
    let splits = synthetic(170, 4, 3);
    for (precision, norm, value) in [("f32", Some(0.05), None), ("f16", Some(0.05), None), ("f16", None, Some(0.001))] {
        let config = Config { clip_grad_norm: norm, clip_grad_value: value, ..cuda::config("net1", precision) };
        let free = cuda::config("net1", precision);
        let gpu = |config: &Config, capture, stop| cuda::train(config, &splits, Place { device: device::open(), capture }, stop);
        let (captured, eager, resumed) = (gpu(&config, true, None), gpu(&config, false, None), gpu(&config, true, Some(7)));
        assert_eq!(cuda::different(&captured, &eager), [""; 0], "captured and eager");
        assert_eq!(cuda::different(&captured, &resumed), [""; 0], "stopped and resumed");
        assert!(!cuda::different(&captured, &gpu(&free, true, None)).is_empty(), "nothing was clipped");
    }
}

/// The records of a run with this split.
fn column(text: &str, split: &str, key: &str) -> Vec<f64> {
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|record| record["split"] == split);
    records.map(|record| record[key].as_f64().unwrap()).collect()
}

#[test]
fn a_rate_that_diverges_learns_with_clipping() {
    let dir = tempdir().unwrap();
    let wild = format!("{} --epochs 4 --batch 16 --optimizer sgd --momentum 0.9 --lr 0.5", QUICK.replace("net1", "lenet"));
    cugrad(&dir, &format!("{wild} --out wild")).fails(1, &["the loss became", "--clip-grad-norm"]);
    for (run, flags) in [("norm", "--clip-grad-norm 0.1"), ("value", "--clip-grad-value 0.001")] {
        cugrad(&dir, &format!("{wild} {flags} --log-every 1 --out {run}")).succeeds();
        let text = read(&dir, &format!("{run}/metrics.jsonl"));
        let acc = column(&text, "train", "acc");
        println!("{run}: {acc:?}");
        assert!(acc[3] > 0.6, "{run}: {acc:?}");
        // What is told of a norm is what it was before it was clipped.
        let longest = column(&text, "step", "grad_norm").into_iter().fold(0.0, f64::max);
        assert!(run == "value" || longest > 0.2, "{longest}");
    }
}

#[test]
fn the_limit_is_a_choice_of_the_run() {
    let dir = tempdir().unwrap();
    let line = format!("{QUICK} --clip-grad-norm 0.2");
    cugrad(&dir, &format!("{line} --epochs 2 --out a")).succeeds();
    assert!(read(&dir, "a/config.toml").contains("clip-grad-norm = 0.2"));
    cugrad(&dir, &format!("{line} --epochs 1 --out b")).succeeds();
    cugrad(&dir, "train --device cpu --resume b/last.safetensors --epochs 2").succeeds();
    same_runs(&dir, "a", "b");
    cugrad(&dir, "train --device cpu --resume b/last.safetensors --epochs 3 --clip-grad-norm 0.3").fails(2, &["keeps its choices"]);
    for (flags, parts) in [
        ("--clip-grad-norm 0", &["--clip-grad-norm must be above 0, not 0"][..]),
        ("--clip-grad-value -1", &["--clip-grad-value must be above 0, not -1"]),
        ("--clip-grad-norm nan", &["--clip-grad-norm must be above 0, not NaN"]),
        ("--clip-grad-norm 1 --clip-grad-value 1", &["cannot go together", "choose one"]),
    ] {
        cugrad(&dir, &format!("{QUICK} {flags}")).fails(2, parts);
    }
}
