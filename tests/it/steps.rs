//! What surrounds forward and backward in a training step (batches, clock, loss scale, optimisers) does on a device what it does on
//! the CPU: to the last bit, wherever the order of operations is the same.

#![allow(clippy::unwrap_used)]

use crate::{device, golden};
use cugrad::autograd::Tape;
use cugrad::data::{Augment, Dataset, Loader, Normalization};
use cugrad::device::Device;
use cugrad::nn::{Builder, Init, ParamId, Params};
use cugrad::ops::cross_entropy::{CrossEntropy, Reduction};
use cugrad::ops::linear::Linear;
use cugrad::optim::{Clock, LossScale, Optimizer, Options, Rule};
use cugrad::tensor::{DType, Spec, Tensor};

const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::Bf16, DType::F16];

fn bits(tensor: &Tensor) -> Vec<u64> {
    tensor.values().into_iter().map(f64::to_bits).collect()
}

/// Parameters `p0`, `p1`, ... of these shapes, with the same numbers on every device.
fn params(shapes: &[[usize; 2]], dtype: DType, device: Device) -> Params {
    let mut builder = Builder::new(dtype, device);
    for (i, &shape) in shapes.iter().enumerate() {
        builder.param(&format!("p{i}"), shape, Init::Uniform(1.0));
    }
    builder.build(7)
}

/// Makes `dw` the gradient of parameter `i`, by way of y = dw·w for one image: no sum, so the same bits everywhere.
fn backward(params: &mut Params, i: usize, dw: &[f64]) {
    let w = params.values()[i].clone();
    let mut tape = Tape::new();
    let x = tape.input(Tensor::from_values(Spec::lanes([1, dw.len()], w.dtype()).on(w.device()), dw));
    let w = tape.param(i, w);
    let y = tape.apply(Linear, &[x, w]).unwrap();
    tape.backward(y, &mut params.gradients).unwrap();
}

/// A network that trains on one device.
struct Net {
    params: Params,
    optimizer: Optimizer,
    clock: Clock,
}

impl Net {
    fn new(rule: &Rule, shapes: &[[usize; 2]], dtype: DType, device: Device) -> Net {
        let params = params(shapes, dtype, device);
        Net { optimizer: Optimizer::new(rule.clone(), &params), params, clock: Clock::new(dtype, device, LossScale::default()) }
    }

    /// Rates of the coming steps, on the CPU they come with each step.
    fn plan(&mut self, lrs: &[f64]) {
        self.clock.set(0, 0, 0);
        self.optimizer.plan(&self.params, 8, lrs.iter().map(|&lr| (lr, None)));
    }

    /// One step in which these parameters get a gradient.
    fn step(&mut self, t: u64, lr: f64, with: &[usize]) {
        self.params.gradients.clear();
        for &i in with {
            let n = self.params.values()[i].shape().count();
            backward(&mut self.params, i, &golden::values(3001 + t, n, 1.0));
        }
        self.clock.check(&self.params.gradients.runs()).unwrap();
        self.optimizer.take_step(&mut self.params, &self.clock, lr).unwrap();
        self.clock.advance(1).unwrap();
    }

    fn bits(&self) -> Vec<Vec<u64>> {
        let moments = self.optimizer.state();
        self.params.values().iter().chain(moments.iter().map(|(_, m)| *m)).map(bits).collect()
    }
}

/// The optimisers of optimizers.json.
fn rules() -> Vec<(String, Rule)> {
    let all = golden::load("optimizers.json", "optimizers");
    let rule = |entry: &serde_json::Value| {
        let mut args = entry["args"].clone();
        args.as_object_mut().unwrap().remove("lr");
        let options: Options = serde_json::from_value(args).unwrap();
        Rule::by_name(&entry["kind"].as_str().unwrap().to_lowercase(), &options).unwrap()
    };
    all.as_object().unwrap().iter().map(|(name, entry)| (name.clone(), rule(entry))).collect()
}

/// Sizes with padding behind them and without, over several blocks; and the last begins later than the others, so that there are
/// stretches of the arena with other counts of steps.
#[test]
fn optimizers_move_weights_to_the_same_bits() {
    let device = device::open();
    let (shapes, lrs) = ([[1, 7], [1, 64], [1, 300], [1, 5]], [0.1, 0.05, 0.025, 0.0125]);
    for (name, rule) in rules() {
        for dtype in [DType::F32, DType::F64] {
            let mut nets = [Device::Cpu, device].map(|device| Net::new(&rule, &shapes, dtype, device));
            for epoch in 0..2 {
                for net in &mut nets {
                    net.plan(&lrs);
                }
                let with: &[usize] = if epoch == 0 { &[0, 1, 2] } else { &[0, 1, 2, 3] };
                for (t, &lr) in lrs.iter().enumerate() {
                    for net in &mut nets {
                        net.step(4 * epoch + t as u64, lr, with);
                    }
                    let [here, there] = nets.each_ref().map(Net::bits);
                    assert_eq!(here, there, "{name} {dtype} after step {t} of epoch {epoch}");
                }
                let taken = nets[1].clock.read().unwrap().0;
                assert_eq!(taken, 4);
                nets[1].optimizer.settle(taken);
                let [here, there] = nets.each_ref().map(|net| net.optimizer.steps().collect::<Vec<_>>());
                assert_eq!(here, there, "{name} {dtype}");
            }
        }
    }
}

/// The average of the weights, too; a loss that is no number halts all of it, whatever steps still come.
#[test]
fn averages_follow_and_halt_to_the_same_bits() {
    let device = device::open();
    let (shapes, lrs) = ([[1, 7], [1, 64], [1, 300]], [0.1, 0.05, 0.025, 0.0125]);
    let rule = Rule::by_name("adam", &Options::default()).unwrap();
    for dtype in [DType::F32, DType::F64] {
        let mut nets = [Device::Cpu, device].map(|device| {
            let mut net = Net::new(&rule, &shapes, dtype, device);
            net.optimizer = Optimizer::new(rule.clone(), &net.params).with_average(0.3, &net.params);
            net
        });
        let average = |net: &Net| net.optimizer.average().unwrap().values().iter().map(bits).collect::<Vec<_>>();
        let mut seen = vec![average(&nets[0])];
        for epoch in 0..2 {
            nets.iter_mut().for_each(|net| net.plan(&lrs));
            for (t, &lr) in lrs.iter().enumerate() {
                if epoch == 1 && t == 2 {
                    let loss = |net: &Net| Tensor::from_values(Spec::rows([1], dtype).on(net.params.values()[0].device()), &[f64::NAN]);
                    nets.iter_mut().for_each(|net| drop(net.clock.seed(&loss(net)).unwrap()));
                }
                nets.iter_mut().for_each(|net| net.step(4 * epoch + t as u64, lr, &[0, 1, 2]));
                let [here, there] = nets.each_ref().map(|net| (average(net), net.bits()));
                assert!(here == there, "{dtype}, step {t} of epoch {epoch}");
                let moves = epoch == 0 || t < 2;
                assert_eq!(seen.last().unwrap() != &here.0, moves, "{dtype}, step {t} of epoch {epoch}");
                seen.push(here.0);
            }
            let taken = nets[1].clock.read().unwrap().0;
            assert_eq!((taken, nets[1].clock.halted().unwrap()), if epoch == 0 { (4, None) } else { (2, Some(2)) });
            nets[1].optimizer.settle(taken);
            let [here, there] = nets.each_ref().map(|net| net.optimizer.average().unwrap().taken());
            assert_eq!(here, there);
        }
    }
}

#[test]
fn working_weights_are_rounded_alike() {
    let device = device::open();
    for dtype in [DType::Bf16, DType::F16] {
        let [here, there] = [Device::Cpu, device].map(|device| {
            let params = params(&[[1, 7], [1, 300]], dtype, device);
            [0, 1].map(|i| bits(params.working(ParamId(i))))
        });
        assert_eq!(here, there, "{dtype}");
    }
}

/// From a scale that overflows f16 in backward down to one that does not: the steps before are left out.
#[test]
fn the_loss_scale_finds_its_place() {
    let device = device::open();
    let rule = Rule::by_name("adam", &Options::default()).unwrap();
    let outcomes = [Device::Cpu, device].map(|device| {
        let mut net = Net::new(&rule, &[[3, 4]], DType::F16, device);
        net.clock = Clock::new(DType::F16, device, LossScale { scale: f64::from(1 << 20), ..LossScale::default() });
        net.plan(&[0.1; 8]);
        let before = bits(&net.params.values()[0]);
        let mut left_out = 0;
        for _ in 0..8 {
            net.params.gradients.clear();
            let mut tape = Tape::new();
            let x = Tensor::from_values(Spec::lanes([3, 4], DType::F16), &golden::values(1, 12, 1.0)).to(device);
            let (x, w) = (tape.input(x), tape.param(0, net.params.working(ParamId(0)).clone()));
            let labels = tape.input(Tensor::from_values(Spec::rows([3], DType::I32).on(device), &[0, 1, 2]));
            let y = tape.apply(Linear, &[x, w]).unwrap();
            let loss = tape.apply(CrossEntropy { reduction: Reduction::Mean, label_smoothing: 0.0 }, &[y, labels]).unwrap();
            let seed = net.clock.seed(tape.value(loss)).unwrap();
            tape.backward_from(loss, seed, &mut net.params.gradients).unwrap();
            drop(tape);
            net.clock.check(&net.params.gradients.runs()).unwrap();
            net.optimizer.take_step(&mut net.params, &net.clock, 0.1).unwrap();
            net.clock.advance(3).unwrap();
            let skipped = net.clock.read().unwrap().1.unwrap().skipped;
            if skipped > left_out {
                left_out = skipped;
                assert_eq!(bits(&net.params.values()[0]), before, "a step that overflows moves nothing");
            }
        }
        let (taken, loss_scale) = net.clock.read().unwrap();
        if device != Device::Cpu {
            net.optimizer.settle(taken);
        }
        let steps: Vec<u64> = net.optimizer.steps().collect();
        assert_eq!(steps, [taken]);
        (taken, loss_scale.unwrap(), net.params.values()[0].values())
    });
    let [(taken, scale, here), (taken_there, scale_there, there)] = outcomes;
    assert_eq!((taken, scale), (taken_there, scale_there));
    assert!(scale.skipped > 0 && taken > 0 && scale.scale == f64::from(1 << 20) / f64::from(1 << scale.skipped), "{scale:?}");
    assert!(there.iter().zip(&here).all(|(a, b)| (a - b).abs() < 1e-2), "{here:?} {there:?}");
}

/// The words of a clock: a step that carries into the high word, and places in the epoch.
#[test]
fn a_clock_goes_on_alike() {
    let device = device::open();
    let [here, there] = [Device::Cpu, device].map(|device| {
        let good = LossScale { good: 1998, ..LossScale::default() };
        let mut clock = Clock::new(DType::F16, device, good);
        clock.set(u64::from(u32::MAX) - 1, 5, 160);
        (0..4)
            .map(|_| {
                clock.advance(32).unwrap();
                (clock.step.values(), clock.place.values(), clock.read().unwrap())
            })
            .collect::<Vec<_>>()
    });
    assert_eq!(here, there);
    let (step, place, (taken, scale)) = &here[3];
    assert_eq!((&step[..], &place[..], *taken), (&[2.0, 1.0][..], &[9.0, 288.0, 4.0, 0.0][..], 4));
    assert_eq!(*scale, Some(LossScale { scale: 131_072.0, good: 2, skipped: 0 }));
    // The largest power of two that f32 holds is not doubled: infinity would stay.
    for device in [Device::Cpu, device] {
        let mut clock = Clock::new(DType::F16, device, LossScale { scale: 2f64.powi(127), good: 1999, skipped: 0 });
        clock.advance(1).unwrap();
        assert_eq!(clock.read().unwrap().1.unwrap().scale, 2f64.powi(127), "{device}");
    }
}

fn pictures(channels: usize, height: usize, width: usize, n: usize) -> Dataset {
    Dataset {
        name: "test".into(),
        images: (0..n * channels * height * width).map(|i| (i * 37 % 251) as u8).collect(),
        labels: (0..n).map(|i| (i % 10) as u8).collect(),
        channels,
        height,
        width,
        classes: (0..10).map(|c| c.to_string()).collect(),
    }
}

/// Each augmentation, and all together.
const AUGMENTED: [&str; 7] = [
    "shift:2,flip",
    "rotate:30,translate:0.1",
    "scale:0.3,shear:20",
    "elastic:20:2",
    "erase:0.9",
    "sharpen:5",
    "crop:2,flip,rotate:180,translate:0.2,scale:0.5,shear:30,elastic:34:4,erase:0.5,sharpen:2",
];

/// Grey and colour, repeated and centred; less than a group of images and more; all of an epoch in batches, and some by number.
#[test]
fn batches_are_gathered_to_the_same_bits() {
    let device = device::open();
    let norm = Normalization { mean: vec![0.1307, 0.4, 0.5], std: vec![0.3081, 0.2, 0.3] };
    for (channels, height, width, input) in [(1, 9, 7, [1, 9, 7]), (1, 5, 4, [3, 8, 7]), (3, 6, 6, [3, 6, 6]), (1, 28, 28, [1, 32, 32])] {
        let set = pictures(channels, height, width, 80);
        for dtype in FLOATS {
            let [here, there] = [Device::Cpu, device].map(|device| Loader::new(&set, &norm, input, dtype, device).unwrap());
            let numbers: Vec<u32> = (0..72).map(|i| (i * 7 % 80) as u32).collect();
            let order = there.numbers(&numbers);
            let mut clock = Clock::new(dtype, device, LossScale::default());
            clock.set(0, 0, 3);
            let mut first = 3;
            for (step, n) in [33, 32, 1].into_iter().enumerate() {
                let what = format!("{channels}x{height}x{width} as {input:?} {dtype}, {n} from {first}");
                let (x, labels) = here.batch(&numbers[first..first + n]).unwrap();
                let (device_x, device_labels) = there.gather(&order, &clock.place, n, None).unwrap();
                assert_eq!(device_labels.values(), labels.values(), "{what}");
                assert_eq!(bits(&device_x), bits(&x), "{what}");
                let (by_number, _) = there.batch(&numbers[first..first + n]).unwrap();
                assert_eq!(bits(&by_number), bits(&x), "{what}");
                for augment in AUGMENTED {
                    let draws: Augment = augment.parse().unwrap();
                    let (moved, _) = here.batch_to_learn(&numbers[first..first + n], draws, 9, step as u64);
                    let (device_moved, labels) = there.gather(&order, &clock.place, n, Some((draws, 9, &clock.step))).unwrap();
                    assert_eq!(bits(&device_moved), bits(&moved), "{what}, {augment}");
                    assert_eq!(labels.values(), device_labels.values(), "{what}, {augment}");
                    assert_ne!(bits(&moved), bits(&x), "{what}, {augment}");
                }
                clock.advance(n).unwrap();
                first += n;
            }
        }
    }
}
