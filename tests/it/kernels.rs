//! Every case of every op on a GPU against the CPU, and what the case table does not draw: ties, NaN, labels that are no class.
//!
//! The GPU is an emulated one in checked mode unless `CUGRAD_TEST_DEVICE` names another.

use crate::device;
use cugrad::Result;
use cugrad::autograd::{Gradients, Tape, check};
use cugrad::device::{Device, memory};
use cugrad::ops::batchnorm::{self, BatchNorm};
use cugrad::ops::case::{Draw, Input};
use cugrad::ops::cross_entropy::{self, CrossEntropy, Reduction};
use cugrad::ops::dropout;
use cugrad::ops::maxpool2d::MaxPool2d;
use cugrad::ops::{self, Case};
use cugrad::tensor::{DType, Philox, Spec, Tensor};

/// Bounds on max |error| / max |value| against f64 on the CPU.
fn parity(dtype: DType, bound: f64) {
    memory::poison();
    let device = device::open();
    let cases = ops::cases();
    let test = |case: &Case| match check::parity(&case.op, &case.draw(dtype, 3), &case.wanted(), dtype, device, 4) {
        Ok(error) if error <= bound => None,
        Ok(error) => Some(format!("{} {}: differs by {error:.3e}", case.op.name(), case.name)),
        Err(e) => Some(format!("{} {}: {e}", case.op.name(), case.name)),
    };
    let failures: Vec<String> = cases.iter().filter_map(test).collect();
    assert!(failures.is_empty(), "{} of {} cases failed in {dtype}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn f64_agrees_with_the_cpu() {
    parity(DType::F64, 1e-12);
}

#[test]
fn f32_agrees_with_the_cpu() {
    parity(DType::F32, 1e-5);
}

#[test]
fn bf16_agrees_with_the_cpu() {
    parity(DType::Bf16, 2e-2);
}

#[test]
fn f16_agrees_with_the_cpu() {
    parity(DType::F16, 3e-3);
}

/// Output and gradients of an op for a random cotangent, as bits: so that NaN equals itself and 0 is not -0.
fn bits(case: &Case, inputs: &[Tensor], device: Device) -> Result<Vec<u64>> {
    let mut tape = Tape::new();
    let inputs = inputs.iter().zip(case.wanted());
    let vars: Vec<_> = inputs.map(|(x, w)| if w { tape.leaf(x.to(device)) } else { tape.input(x.to(device)) }).collect();
    let y = tape.apply_at(&"".into(), case.op.clone(), &vars)?;
    let cotangent: Vec<f64> = (0..tape.spec(y).shape.count()).map(|i| Philox::new(7).normal(0, i as u64)).collect();
    let mut all = tape.value(y).read()?;
    tape.backward_from(y, Tensor::from_values(tape.spec(y), &cotangent), &mut Gradients::default())?;
    for dx in vars.iter().filter_map(|&v| tape.gradient(v)) {
        all.extend(dx.read()?);
    }
    Ok(all.iter().map(|x| if x.is_nan() { f64::NAN } else { *x }.to_bits()).collect())
}

#[test]
fn dropout_draws_the_same_masks_on_every_device() {
    let device = device::open();
    for case in dropout::cases() {
        let mut inputs = case.draw(DType::F32, 3);
        for number in [0, 1, 77 << 32 | 5] {
            inputs[1] = dropout::step(number, Device::Cpu);
            assert_eq!(bits(&case, &inputs, device).unwrap(), bits(&case, &inputs, Device::Cpu).unwrap(), "{} at step {number}", case.name);
        }
    }
}

#[test]
fn the_first_of_equals_wins_and_nan_wins_over_all_on_every_device() {
    let device = device::open();
    let op = MaxPool2d { kernel: [3, 3], stride: [2, 1], padding: [1, 1], rectify: false };
    let spec = Spec::lanes([33, 2, 5, 4], DType::F32);
    let rare = [f64::NAN, f64::NEG_INFINITY, f64::INFINITY];
    let draw = |i: usize| match Philox::new(8).word(0, i as u64) % 16 {
        rank @ 0..3 => rare[rank as usize],
        rank => f64::from(rank % 3),
    };
    let x = Tensor::from_values(spec, &(0..spec.shape.count()).map(draw).collect::<Vec<_>>());
    let low = Tensor::from_values(spec, &vec![f64::NEG_INFINITY; spec.shape.count()]);
    let case = Case::new(op, "ties", vec![Input::lanes(spec.shape, Draw::Normal)]);
    for x in [x, low] {
        assert_eq!(bits(&case, std::slice::from_ref(&x), device).unwrap(), bits(&case, &[x], Device::Cpu).unwrap());
    }
}

/// Labels `[N]` that are classes of `classes`, and logits with ties and NaN.
fn batch(n: usize, classes: usize, dtype: DType) -> [Tensor; 2] {
    let word = |stream: u64, i: usize| Philox::new(9).word(stream, i as u64) % 7;
    let logits: Vec<f64> = (0..n * classes).map(|i| if word(1, i) == 6 { f64::NAN } else { f64::from(word(0, i) % 4) }).collect();
    let labels: Vec<i32> = (0..n).map(|i| (word(2, i) as usize % classes) as i32).collect();
    [Tensor::from_values(Spec::lanes([n, classes], dtype), &logits), Tensor::from_values(Spec::rows([n], DType::I32), &labels)]
}

#[test]
fn totals_are_the_same_on_every_device() {
    let gpu = device::open();
    for (n, classes, images_in_loss) in [(1, 1, 1.0), (33, 3, 33.0), (300, 10, 1.0)] {
        let [logits, labels] = batch(n, classes, DType::F16);
        let totals = |device: Device| {
            let mut totals = Tensor::from_values(Spec::rows([3], DType::F64).on(device), &[0.5, 2.0, 3.0]);
            let loss = Tensor::from_values(Spec::rows([], DType::F32).on(device), &[1.5]);
            let [logits, labels] = [&logits, &labels].map(|t| t.to(device));
            for target in [&labels, &logits] {
                cross_entropy::accumulate(&loss, images_in_loss, &logits, target, &mut totals).unwrap();
            }
            totals.read().unwrap()
        };
        assert_eq!(totals(gpu), totals(Device::Cpu), "{n} images");
    }
}

#[test]
fn a_label_outside_the_classes_makes_the_loss_nan_on_a_gpu() {
    let device = device::open();
    let logits = Tensor::zeros(Spec::lanes([33, 3], DType::F32).on(device));
    for (label, finite) in [(-1, false), (0, true), (2, true), (3, false), (i32::MIN, false), (i32::MAX, false)] {
        let mut labels = [1; 33];
        labels[32] = label;
        let mut tape = Tape::new();
        let x = tape.leaf(logits.clone());
        let t = tape.input(Tensor::from_values(Spec::rows([33], DType::I32).on(device), &labels));
        let y = tape.apply(CrossEntropy { reduction: Reduction::Mean, label_smoothing: 0.0 }, &[x, t]).unwrap();
        assert_eq!(tape.value(y).item().is_finite(), finite, "label {label}");
        tape.backward(y, &mut Gradients::default()).unwrap();
    }
}

#[test]
fn batch_norm_merges_more_pieces_than_a_block_has_threads() {
    let row = || Input::sums([2], Draw::Normal);
    let case = Case::new(BatchNorm { eps: 1e-5 }, "150 pieces", vec![Input::lanes([70, 2, 50, 16], Draw::Normal), row(), row()]);
    let error = check::parity(&case.op, &case.draw(DType::F64, 3), &case.wanted(), DType::F64, device::open(), 4).unwrap();
    assert!(error <= 1e-12, "differs by {error:.3e}");
}

#[test]
fn running_averages_move_alike_on_every_device() {
    let gpu = device::open();
    let moved = |device: Device| {
        let row =
            |from: f64| Tensor::from_values(Spec::rows([200], DType::F32), &(0..200).map(|i| from + f64::from(i)).collect::<Vec<_>>());
        let [mean, inv_std, var, mut running_mean, mut running_var] = [-3.25, 1.0, 0.5, 7.75, 0.125].map(|from| row(from).to(device));
        let mut batches = Tensor::from_values(Spec::rows([], DType::I32), &[41.0]).to(device);
        batchnorm::update_running(&[mean, inv_std, var], 0.25, &mut running_mean, &mut running_var, &mut batches).unwrap();
        [running_mean, running_var, batches].map(|t| t.read().unwrap())
    };
    // All numbers are exact in f32.
    assert_eq!(moved(gpu), moved(Device::Cpu));
}
