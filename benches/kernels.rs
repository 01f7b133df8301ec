//! Every layer of LeNet, ResNet-8 and Improved, and some of their relatives', at batch 128: forward, and backward of each input.
//!
//! `cargo bench` runs all, `cargo bench -- conv2d` those whose name contains conv2d.
//!
//! * `CUGRAD_BENCH_DEVICE=cuda:0` measures a GPU: by events in its stream, around many launches. `cpu` is the default;
//!   `RAYON_NUM_THREADS=1` measures one core. `emu` tries the kernels in the emulator, at batch 32: its times say nothing of a GPU's.
//! * `CUGRAD_BENCH_DTYPE=bf16` (f16, f64) measures another type of activations than f32.
//!
//! Below criterion's lines stands what the best sample reached: GFLOP/s and GB/s, each with its share of the peak of the device, which
//! is measured first (`kernels/peak.rs`: fused multiply-adds in registers, a copy of a large buffer). Bytes are those that must be moved once:
//! a small tensor that stays in a cache can go beyond the peak.

#[path = "kernels/peak.rs"]
mod peak;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use cugrad::autograd::{Gradients, Op, Tape, Var};
use cugrad::device::cuda::emulator;
use cugrad::device::{self, Device};
use cugrad::error::Result;
use cugrad::ops::case::{Draw, Input};
use cugrad::ops::{Case, add, avgpool2d, batchnorm, conv2d, cross_entropy, linear, maxpool2d, norm_relu, norm_relu_pool, relu};
use cugrad::tensor::{DType, Philox, Spec, Tensor};
use peak::Peak;
use std::sync::Arc;
use std::time::Duration;

/// Where it is measured, and what can be reached there.
struct Bench {
    device: Device,
    dtype: DType,
    peak: Option<Peak>,
}

/// What one call of a kernel computes and moves.
#[derive(Clone, Copy)]
struct Work {
    flops: u64,
    bytes: u64,
}

fn cases(n: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for (net, c, o, h, k, s, p) in [
        ("lenet", 1, 10, 28, 5, 1, 0),
        ("lenet", 10, 20, 12, 5, 1, 0),
        ("digit", 10, 20, 12, 3, 1, 0),
        ("lenet-bn3", 1, 16, 28, 5, 1, 2),
        ("lenet-bn3", 16, 32, 14, 5, 1, 2),
        ("lenet-bn3", 32, 64, 7, 3, 1, 1),
        ("rgb-cnn", 3, 32, 28, 3, 1, 1),
        ("improved", 1, 32, 28, 3, 1, 1),
        ("improved", 32, 32, 28, 3, 1, 1),
        ("improved", 32, 64, 14, 3, 1, 1),
        ("improved", 64, 64, 14, 3, 1, 1),
        ("resnet8", 1, 16, 28, 3, 1, 1),
        ("resnet8", 16, 16, 28, 3, 1, 1),
        ("resnet8", 16, 32, 28, 3, 2, 1),
        ("resnet8", 32, 32, 14, 3, 1, 1),
        ("resnet8", 32, 64, 14, 3, 2, 1),
        ("resnet8", 64, 64, 7, 3, 1, 1),
    ] {
        let inputs = vec![Input::lanes([n, c, h, h], Draw::Normal), Input::rows([o, c, k, k], Draw::Normal)];
        let op = conv2d::Conv2d { stride: [s; 2], padding: [p; 2] };
        cases.push(Case::new(op, format!("{net} {c}->{o} {h}x{h} k{k} s{s}"), inputs));
    }
    for (net, k, f) in [
        ("lenet", 320, 128),
        ("lenet", 128, 32),
        ("lenet", 32, 10),
        ("digit", 2000, 500),
        ("resnet8", 64, 10),
        ("improved", 3136, 256),
        ("improved", 256, 10),
    ] {
        let inputs = vec![Input::lanes([n, k], Draw::Normal), Input::rows([f, k], Draw::Normal), Input::rows([f], Draw::Normal)];
        cases.push(Case::new(linear::Linear, format!("{net} {k}->{f}"), inputs));
    }
    let picture = |c, h| vec![Input::lanes([n, c, h, h], Draw::Normal)];
    for (net, c, h, k, s, p) in [
        ("lenet", 10, 24, 2, 2, 0),
        ("lenet", 20, 8, 2, 2, 0),
        ("resnet8", 16, 28, 3, 1, 1),
        ("improved", 32, 28, 2, 2, 0),
        ("improved", 64, 14, 2, 2, 0),
    ] {
        let op = maxpool2d::MaxPool2d { kernel: [k; 2], stride: [s; 2], padding: [p; 2], rectify: false };
        cases.push(Case::new(op, format!("{net} {c} {h}x{h} k{k} s{s}"), picture(c, h)));
    }
    cases.push(Case::new(avgpool2d::GlobalAvgPool, "resnet8 64 7x7", picture(64, 7)));
    for (net, c, h) in [("resnet8", 16, 28), ("resnet8", 32, 14), ("resnet8", 64, 7), ("improved", 32, 28), ("improved", 64, 14)] {
        let mut inputs = picture(c, h);
        inputs.extend([Input::sums([c], Draw::Positive), Input::sums([c], Draw::Normal)]);
        cases.push(Case::new(batchnorm::BatchNorm { eps: 1e-5 }, format!("{net} {c} {h}x{h}"), inputs.clone()));
        for shortcut in [false, true].into_iter().filter(|shortcut| !shortcut || net == "resnet8") {
            let name = format!("{net} {c} {h}x{h}{}", if shortcut { " with shortcut" } else { "" });
            let inputs = if shortcut { [inputs.clone(), picture(c, h)].concat() } else { inputs.clone() };
            cases.push(Case::new(norm_relu::NormRelu { eps: 1e-5, running: false, shortcut }, name, inputs));
        }
    }
    for (net, c, h) in [("lenet-bn3", 16, 28), ("lenet-bn3", 32, 14), ("lenet-bn3", 64, 7), ("improved", 32, 28), ("improved", 64, 14)] {
        let inputs = [picture(c, h), vec![Input::sums([c], Draw::Positive), Input::sums([c], Draw::Normal)]].concat();
        cases.push(Case::new(norm_relu_pool::NormReluPool { eps: 1e-5, running: false }, format!("{net} {c} {h}x{h}"), inputs));
    }
    cases.push(Case::new(relu::Relu { slope: 0.0 }, "resnet8 16 28x28", picture(16, 28)));
    cases.push(Case::new(add::Add, "resnet8 16 28x28", [picture(16, 28), picture(16, 28)].concat()));
    let loss = cross_entropy::CrossEntropy { reduction: cross_entropy::Reduction::Mean, label_smoothing: 0.0 };
    let labels = Input::rows([n], Draw::Labels(10)).fixed();
    cases.push(Case::new(loss, "10 classes", vec![Input::lanes([n, 10], Draw::Normal), labels]));
    cases
}

fn kernels(criterion: &mut Criterion) {
    let bench = match Bench::open() {
        Ok(bench) => bench,
        Err(e) => panic!("{e}{}", e.hint.iter().map(|hint| format!("\nhint: {hint}")).collect::<String>()),
    };
    let emulated = emulator::get().is_some();
    for case in cases(if emulated { 32 } else { 128 }) {
        let op = &case.op;
        let x: Vec<Tensor> = case.draw(bench.dtype, 1).iter().map(|x| x.to(bench.device)).collect();
        let specs: Vec<Spec> = x.iter().map(Tensor::spec).collect();
        let Ok(spec) = op.output(&specs) else { panic!("{}: the case does not fit its op", case.name) };
        let dy = gradient(spec);
        let bytes: Vec<u64> = specs.iter().map(|s| s.bytes() as u64).collect();
        let (flops, out) = (op.flops(&specs), spec.bytes() as u64);
        let mut group = criterion.benchmark_group(format!("{} {}", op.name(), case.name));
        let (warm, long) = if emulated { (1, 10) } else { (300, 1000) };
        group.warm_up_time(Duration::from_millis(warm)).measurement_time(Duration::from_millis(long));
        group.sample_size(if emulated { 10 } else { 100 });
        let work = Work { flops, bytes: out + bytes.iter().sum::<u64>() };
        bench.measure(&mut group, "forward", work, |times| bench.forward(op, &x, spec, times));
        // What backward reads beside dy: the inputs and the output that its op asks for.
        let needs = op.needs();
        let read: u64 = bytes.iter().enumerate().map(|(i, b)| if needs.inputs >> i & 1 == 1 { *b } else { 0 }).sum();
        let read = out + read + if needs.output { out } else { 0 };
        for (i, what) in ["backward_input", "backward_weight"].into_iter().enumerate().take(x.len()) {
            if case.inputs[i].wanted {
                let work = Work { flops, bytes: read + bytes[i] };
                bench.measure(&mut group, what, work, |times| bench.backward(op, &x, &dy, i, times));
            }
        }
        group.finish();
    }
}

/// A random gradient of this spec.
fn gradient(spec: Spec) -> Tensor {
    let rng = Philox::new(2);
    let values: Vec<f64> = (0..spec.shape.count() as u64).map(|i| rng.normal(0, i)).collect();
    Tensor::from_values(spec, &values)
}

impl Bench {
    fn open() -> Result<Bench> {
        device::start_threads(0)?;
        let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.into());
        let (device, _) = Device::open(&variable("CUGRAD_BENCH_DEVICE", "cpu"))?;
        let dtype = match &*variable("CUGRAD_BENCH_DTYPE", "f32") {
            "f32" => DType::F32,
            "f64" => DType::F64,
            "bf16" => DType::Bf16,
            "f16" => DType::F16,
            other => panic!("CUGRAD_BENCH_DTYPE is {other}, not f32, f64, bf16 or f16"),
        };
        let peak = if emulator::get().is_some() { None } else { Some(Peak::measure(device, dtype.acc())?) };
        match peak {
            None => println!("{device}, {dtype}: the times are the emulator's own"),
            Some(Peak { gflops, gbs }) => println!("{device}, {dtype}: peak {gflops:.0} GFLOP/s, {gbs:.0} GB/s"),
        }
        Ok(Self { device, dtype, peak })
    }

    /// Lets criterion measure `run`, which gives the time of so many calls, and prints what the best sample reached.
    fn measure(&self, group: &mut BenchmarkGroup<WallTime>, what: &str, work: Work, run: impl Fn(u64) -> Result<Duration>) {
        let computes = work.flops > 8 * work.bytes;
        group.throughput(if computes { Throughput::Elements(work.flops) } else { Throughput::Bytes(work.bytes) });
        let mut best = f64::INFINITY;
        group.bench_function(what, |b| {
            b.iter_custom(|times| {
                let took = run(times).unwrap_or_else(|e| panic!("{e}"));
                best = best.min(took.as_secs_f64() / times as f64);
                took
            })
        });
        let (gflops, gbs) = (work.flops as f64 / best / 1e9, work.bytes as f64 / best / 1e9);
        if let (Some(peak), true) = (&self.peak, best.is_finite()) {
            let share = |reached: f64, peak: f64| 100.0 * reached / peak;
            let (a, b) = (share(gflops, peak.gflops), share(gbs, peak.gbs));
            println!("{:24}best {:.2} us: {gflops:.1} GFLOP/s ({a:.0} % of the peak), {gbs:.1} GB/s ({b:.0} %)", "", best * 1e6);
        }
    }

    /// The time of so many forwards.
    fn forward(&self, op: &Arc<dyn Op>, x: &[Tensor], spec: Spec, times: u64) -> Result<Duration> {
        let (inputs, mut y) = (x.iter().collect::<Vec<_>>(), Tensor::new(spec));
        // On a GPU, one that is not measured keeps the stream busy until the host has sent the first of the others.
        op.forward(&inputs, &mut y)?;
        peak::time(self.device, || (0..times).try_for_each(|_| op.forward(&inputs, &mut y).map(drop)))
    }

    /// The time of so many backwards into one input.
    fn backward(&self, op: &Arc<dyn Op>, x: &[Tensor], dy: &Tensor, input: usize, times: u64) -> Result<Duration> {
        // Each needs a forward of its own. On a GPU those of a few come first, so that what is measured lies side by side in the stream.
        let together = if self.device == Device::Cpu { 1 } else { 16 };
        let mut all = Duration::ZERO;
        let mut left = times;
        while left > 0 {
            let some = left.min(together);
            let mut tapes: Vec<(Tape, Var)> = (0..some).map(|_| record(op, x, input)).collect::<Result<_>>()?;
            all += peak::time(self.device, || {
                tapes.iter_mut().try_for_each(|(tape, y)| tape.backward_from(*y, dy.clone(), &mut Gradients::default()))
            })?;
            left -= some;
        }
        Ok(all)
    }
}

/// The tape of one forward, with a gradient wanted of one input.
fn record(op: &Arc<dyn Op>, x: &[Tensor], input: usize) -> Result<(Tape, Var)> {
    let mut tape = Tape::new();
    let leaves: Vec<Var> =
        (x.iter().enumerate()).map(|(i, x)| if i == input { tape.leaf(x.clone()) } else { tape.input(x.clone()) }).collect();
    let y = tape.apply_at(&Arc::from(""), op.clone(), &leaves)?;
    Ok((tape, y))
}

criterion_group!(benches, kernels);
criterion_main!(benches);
