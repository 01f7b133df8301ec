//! Every case of every op, on the CPU and on a GPU: empty lanes stay without effect, and gradients are written first and added
//! later.

use crate::device;
use cugrad::Result;
use cugrad::autograd::{Gradients, Tape, Var};
use cugrad::device::{Device, memory};
use cugrad::ops::{self, Case};
use cugrad::tensor::{DType, Layout, Philox, Spec, Tensor};
use std::sync::Arc;

/// All numbers of `t` in the order of memory.
fn stored(t: &Tensor) -> Vec<f64> {
    t.view_as(Spec::rows([t.spec().stored()], t.dtype()).on(t.device())).values()
}

/// Where in memory those lanes of `t` lie that belong to no image.
fn empty(t: &Tensor) -> impl Iterator<Item = usize> {
    let spec = t.spec();
    let (lanes, per_image) = (spec.device.lanes(), spec.shape.per_image());
    (0..spec.stored()).filter(move |i| i / (lanes * per_image) * lanes + i % lanes >= spec.shape[0])
}

/// `t` with garbage in its empty lanes.
fn dirty(t: &Tensor) -> Tensor {
    if !in_lanes(t) {
        return t.clone();
    }
    let mut values = stored(t);
    empty(t).zip([1e3, -7.0, 0.25].iter().cycle()).for_each(|(i, &garbage)| values[i] = garbage);
    Tensor::from_values(Spec::rows([values.len()], t.dtype()).on(t.device()), &values).view_as(t.spec())
}

fn in_lanes(t: &Tensor) -> bool {
    t.spec().layout == Layout::Lanes && t.dtype() == DType::F32
}

/// Runs a case forward and backward in f32; its wanted inputs are parameters, so that their gradients stay in `gradients`.
fn run(case: &Case, inputs: &[Tensor], gradients: &mut Gradients) -> Result<Vec<f64>> {
    let mut tape = Tape::new();
    let vars: Vec<Var> = inputs
        .iter()
        .zip(case.wanted())
        .enumerate()
        .map(|(i, (x, w))| if w { tape.param(i, x.clone()) } else { tape.input(x.clone()) })
        .collect();
    let y = tape.apply_at(&Arc::from(""), case.op.clone(), &vars)?;
    let values = tape.value(y).read()?;
    let cotangent: Vec<f64> = (0..values.len()).map(|i| Philox::new(6).normal(0, i as u64)).collect();
    tape.backward_from(y, Tensor::from_values(tape.spec(y), &cotangent), gradients)?;
    Ok(values)
}

/// Room for the gradients, full of NaN.
fn room(inputs: &[Tensor]) -> Gradients {
    memory::poison();
    Gradients::new(inputs.iter().map(|x| Tensor::new(x.spec())).collect())
}

/// Runs over the case table on a device and reports all failures at once.
fn each_case(device: Device, test: impl Fn(&Case, &[Tensor]) -> Result<Vec<String>>) {
    let mut failures = Vec::new();
    for case in ops::cases() {
        let inputs: Vec<Tensor> = case.draw(DType::F32, 5).iter().map(|x| x.to(device)).collect();
        let found = test(&case, &inputs).unwrap_or_else(|e| vec![e.to_string()]);
        failures.extend(found.iter().map(|what| format!("{} {}: {what}", case.op.name(), case.name)));
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn empty_lanes_have_no_effect(device: Device) {
    each_case(device, |case, clean| {
        let dirty: Vec<Tensor> = clean.iter().map(dirty).collect();
        let (mut of_clean, mut of_dirty) = (room(clean), room(&dirty));
        let mut found = Vec::new();
        if run(case, clean, &mut of_clean)? != run(case, &dirty, &mut of_dirty)? {
            found.push("empty lanes change the output".into());
        }
        for i in (0..clean.len()).filter(|&i| case.wanted()[i]) {
            let (a, b) = (of_clean.get(i).map(Tensor::values), of_dirty.get(i).map(Tensor::values));
            if a.is_none() || a != b {
                found.push(format!("empty lanes change gradient {i}"));
            }
            if let Some(dx) = of_dirty.get(i).filter(|dx| in_lanes(dx)) {
                let values = stored(dx);
                if !empty(dx).all(|i| values[i] == 0.0) {
                    found.push(format!("gradient {i} reaches empty lanes"));
                }
            }
        }
        Ok(found)
    });
}

fn later_gradients_add(device: Device) {
    each_case(device, |case, inputs| {
        let mut gradients = room(inputs);
        let mut seen: Vec<Vec<f64>> = Vec::new();
        for _ in 0..2 {
            run(case, inputs, &mut gradients)?;
            seen.push((0..inputs.len()).filter_map(|i| gradients.get(i)).flat_map(Tensor::values).collect());
        }
        let added = |once: f64, twice: f64| (twice - 2.0 * once).abs() <= 1e-6 * once.abs().max(1.0);
        let wrong = seen[0].iter().zip(&seen[1]).find(|&(&once, &twice)| !added(once, twice));
        Ok(wrong.map(|(once, twice)| format!("first {once}, then {twice}")).into_iter().collect())
    });
}

#[test]
fn empty_lanes_have_no_effect_and_no_gradient() {
    empty_lanes_have_no_effect(Device::Cpu);
}

#[test]
fn empty_lanes_have_no_effect_and_no_gradient_on_a_gpu() {
    empty_lanes_have_no_effect(device::open());
}

#[test]
fn later_gradients_are_added() {
    later_gradients_add(Device::Cpu);
}

#[test]
fn later_gradients_are_added_on_a_gpu() {
    later_gradients_add(device::open());
}

/// Where nothing is differentiated an op may go another way; only a convolution's rounding may differ.
#[test]
fn inference_gives_what_forward_gives() {
    each_case(Device::Cpu, |case, inputs| {
        let value = |mut tape: Tape| {
            let vars: Vec<Var> = inputs.iter().map(|x| tape.input(dirty(x))).collect();
            let y = tape.apply_at(&Arc::from(""), case.op.clone(), &vars)?;
            tape.value(y).read()
        };
        let (forward, inference) = (value(Tape::new())?, value(Tape::inference())?);
        let bound = if case.op.name() == "conv2d" { 1e-4 } else { 0.0 };
        let differ = forward.iter().zip(&inference).filter(|(a, b)| (*a - *b).abs() > bound * (1.0 + a.abs())).count();
        Ok(if differ == 0 { Vec::new() } else { vec![format!("{differ} of {} numbers differ", forward.len())] })
    });
}
