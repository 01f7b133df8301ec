//! Every case of every op: empty lanes stay without effect, and gradients are written first and added later.

use cugrad::Result;
use cugrad::autograd::{Gradients, Tape, Var};
use cugrad::device::memory;
use cugrad::ops::{self, Case};
use cugrad::tensor::{DType, L, Layout, Philox, Tensor, filled};
use std::sync::Arc;

/// The lanes of `t` that belong to no image.
fn empty(t: &mut Tensor) -> impl Iterator<Item = &mut f32> {
    let (n, per_image) = (t.shape()[0], t.shape().per_image());
    t.lanes_mut::<f32>().iter_mut().enumerate().flat_map(move |(i, lane)| &mut lane[filled(n, i / per_image)..L])
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
    let values = tape.value(y).values();
    let cotangent: Vec<f64> = (0..values.len()).map(|i| Philox::new(6).normal(0, i as u64)).collect();
    tape.backward_from(y, Tensor::from_values(tape.spec(y), &cotangent), gradients)?;
    Ok(values)
}

/// Room for the gradients, full of NaN.
fn room(inputs: &[Tensor]) -> Gradients {
    memory::poison();
    Gradients::new(inputs.iter().map(|x| Tensor::new(x.spec())).collect())
}

/// Runs over the case table and reports all failures at once.
fn each_case(test: impl Fn(&Case) -> Result<Vec<String>>) {
    let mut failures = Vec::new();
    for case in ops::cases() {
        let found = test(&case).unwrap_or_else(|e| vec![e.to_string()]);
        failures.extend(found.iter().map(|what| format!("{} {}: {what}", case.op.name(), case.name)));
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn empty_lanes_have_no_effect_and_no_gradient() {
    each_case(|case| {
        let clean = case.draw(DType::F32, 5);
        let mut dirty = clean.clone();
        for x in dirty.iter_mut().filter(|x| in_lanes(x)) {
            x.make_unique();
            empty(x).zip([1e3, -7.0, 0.25].iter().cycle()).for_each(|(x, &garbage)| *x = garbage);
        }
        let (mut of_clean, mut of_dirty) = (room(&clean), room(&dirty));
        let mut found = Vec::new();
        if run(case, &clean, &mut of_clean)? != run(case, &dirty, &mut of_dirty)? {
            found.push("empty lanes change the output".into());
        }
        for i in (0..clean.len()).filter(|&i| case.wanted()[i]) {
            let (a, b) = (of_clean.get(i).map(Tensor::values), of_dirty.get(i).map(Tensor::values));
            if a.is_none() || a != b {
                found.push(format!("empty lanes change gradient {i}"));
            }
            if let Some(mut dx) = of_dirty.get(i).filter(|dx| in_lanes(dx)).cloned() {
                dx.make_unique();
                if !empty(&mut dx).all(|dx| *dx == 0.0) {
                    found.push(format!("gradient {i} reaches empty lanes"));
                }
            }
        }
        Ok(found)
    });
}

#[test]
fn later_gradients_are_added() {
    each_case(|case| {
        let inputs = case.draw(DType::F32, 5);
        let mut gradients = room(&inputs);
        let mut seen: Vec<Vec<f64>> = Vec::new();
        for _ in 0..2 {
            run(case, &inputs, &mut gradients)?;
            seen.push((0..inputs.len()).filter_map(|i| gradients.get(i)).flat_map(Tensor::values).collect());
        }
        let added = |once: f64, twice: f64| (twice - 2.0 * once).abs() <= 1e-6 * once.abs().max(1.0);
        let wrong = seen[0].iter().zip(&seen[1]).find(|&(&once, &twice)| !added(once, twice));
        Ok(wrong.map(|(once, twice)| format!("first {once}, then {twice}")).into_iter().collect())
    });
}
