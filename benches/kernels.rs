//! Every convolution, pool, norm and linear layer of LeNet and ResNet-8 at batch 128: forward, and backward of each input.
//!
//! `cargo bench` runs all, `cargo bench -- conv2d` those whose name contains conv2d. Throughput is in FLOP for ops that compute
//! (Gelem/s reads as GFLOP/s) and in bytes for those that move memory. `RAYON_NUM_THREADS=1` measures one core.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cugrad::autograd::{Gradients, Op, Tape};
use cugrad::ops::case::{Draw, Input};
use cugrad::ops::{Case, avgpool2d, batchnorm, conv2d, linear, maxpool2d, relu};
use cugrad::tensor::{DType, Spec, Tensor};
use std::sync::Arc;
use std::time::{Duration, Instant};

const N: usize = 128;

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (net, c, o, h, k, s, p) in [
        ("lenet", 1, 10, 28, 5, 1, 0),
        ("lenet", 10, 20, 12, 5, 1, 0),
        ("resnet8", 1, 16, 28, 3, 1, 1),
        ("resnet8", 16, 16, 28, 3, 1, 1),
        ("resnet8", 16, 32, 28, 3, 2, 1),
        ("resnet8", 32, 32, 14, 3, 1, 1),
        ("resnet8", 32, 64, 14, 3, 2, 1),
        ("resnet8", 64, 64, 7, 3, 1, 1),
    ] {
        let inputs = vec![Input::lanes([N, c, h, h], Draw::Normal), Input::rows([o, c, k, k], Draw::Normal)];
        let op = conv2d::Conv2d { stride: [s; 2], padding: [p; 2] };
        cases.push(Case::new(op, format!("{net} {c}->{o} {h}x{h} k{k} s{s}"), inputs));
    }
    for (net, k, f) in [("lenet", 320, 128), ("lenet", 128, 32), ("improved", 3136, 256)] {
        let inputs = vec![Input::lanes([N, k], Draw::Normal), Input::rows([f, k], Draw::Normal), Input::rows([f], Draw::Normal)];
        cases.push(Case::new(linear::Linear, format!("{net} {k}->{f}"), inputs));
    }
    let picture = |c, h| vec![Input::lanes([N, c, h, h], Draw::Normal)];
    for (net, c, h, k, s, p) in [("lenet", 10, 24, 2, 2, 0), ("lenet", 20, 8, 2, 2, 0), ("resnet8", 16, 28, 3, 1, 1)] {
        let op = maxpool2d::MaxPool2d { kernel: [k; 2], stride: [s; 2], padding: [p; 2] };
        cases.push(Case::new(op, format!("{net} {c} {h}x{h} k{k} s{s}"), picture(c, h)));
    }
    cases.push(Case::new(avgpool2d::GlobalAvgPool, "resnet8 64 7x7", picture(64, 7)));
    for (c, h) in [(16, 28), (32, 14), (64, 7)] {
        let mut inputs = picture(c, h);
        inputs.extend([Input::rows([c], Draw::Positive), Input::rows([c], Draw::Normal)]);
        cases.push(Case::new(batchnorm::BatchNorm { eps: 1e-5 }, format!("resnet8 {c} {h}x{h}"), inputs));
    }
    cases.push(Case::new(relu::Relu { slope: 0.0 }, "resnet8 16 28x28", picture(16, 28)));
    cases
}

fn kernels(criterion: &mut Criterion) {
    for case in cases() {
        let op = &case.op;
        let x = case.draw(DType::F32, 1);
        let specs: Vec<Spec> = x.iter().map(Tensor::spec).collect();
        let Ok(spec) = op.output(&specs) else { panic!("{}: the case does not fit its op", case.name) };
        let bytes = spec.bytes() + specs.iter().map(Spec::bytes).sum::<usize>();
        let computes = op.flops(&specs) > 8 * bytes as u64;
        let throughput = if computes { Throughput::Elements(op.flops(&specs)) } else { Throughput::Bytes(bytes as u64) };
        let mut group = criterion.benchmark_group(format!("{} {}", op.name(), case.name));
        group.throughput(throughput).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        group.bench_function("forward", |b| {
            let (inputs, mut y) = (x.iter().collect::<Vec<_>>(), Tensor::new(spec));
            b.iter(|| op.forward(&inputs, &mut y));
        });
        for (input, what) in ["backward_input", "backward_weight"].into_iter().enumerate().take(x.len()) {
            let dy = Tensor::zeros(spec);
            group.bench_function(what, |b| b.iter_custom(|times| (0..times).map(|_| backward(op, &x, &dy, input)).sum()));
        }
        group.finish();
    }
}

/// The time of one backward into one input.
fn backward(op: &Arc<dyn Op>, x: &[Tensor], dy: &Tensor, input: usize) -> Duration {
    let mut tape = Tape::new();
    let leaves: Vec<_> =
        (x.iter().enumerate()).map(|(i, x)| if i == input { tape.leaf(x.clone()) } else { tape.input(x.clone()) }).collect();
    let y = tape.apply_at(&Arc::from(""), op.clone(), &leaves).map_err(|e| e.to_string());
    let began = Instant::now();
    if let Ok(y) = y {
        let done = tape.backward_from(y, dy.clone(), &mut Gradients::default());
        assert!(done.is_ok());
    }
    began.elapsed()
}

criterion_group!(benches, kernels);
criterion_main!(benches);
