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
    let vars: Vec<Var> = inputs.iter().zip(case.wanted()).enumerate().map(|(i, (x, w))| tape.param(i, x.clone(), w)).collect();
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

#[test]
fn empty_lanes_have_no_effect_and_no_gradient() {
    for case in ops::cases() {
        let at = format!("{} {}", case.op.name(), case.name);
        let clean = case.draw(DType::F32, 5);
        let mut dirty = clean.clone();
        for x in dirty.iter_mut().filter(|x| in_lanes(x)) {
            x.make_unique();
            empty(x).zip([1e3, -7.0, 0.25].iter().cycle()).for_each(|(x, &garbage)| *x = garbage);
        }
        let (mut of_clean, mut of_dirty) = (room(&clean), room(&dirty));
        assert_eq!(run(&case, &clean, &mut of_clean).unwrap(), run(&case, &dirty, &mut of_dirty).unwrap(), "{at}: output");
        for i in (0..clean.len()).filter(|&i| case.wanted()[i]) {
            let (a, b) = (of_clean.get(i).unwrap(), of_dirty.get(i).unwrap());
            assert_eq!(a.values(), b.values(), "{at}: gradient {i}");
            let mut b = b.clone();
            b.make_unique();
            assert!(!in_lanes(&b) || empty(&mut b).all(|x| *x == 0.0), "{at}: gradient {i} reaches empty lanes");
        }
    }
}

#[test]
fn later_gradients_are_added() {
    for case in ops::cases() {
        let inputs = case.draw(DType::F32, 5);
        let mut gradients = room(&inputs);
        let mut seen: Vec<Vec<f64>> = Vec::new();
        for _ in 0..2 {
            run(&case, &inputs, &mut gradients).unwrap();
            seen.push((0..inputs.len()).filter_map(|i| gradients.get(i)).flat_map(Tensor::values).collect());
        }
        for (i, (once, twice)) in seen[0].iter().zip(&seen[1]).enumerate() {
            let error = (twice - 2.0 * once).abs();
            assert!(error <= 1e-6 * once.abs().max(1.0), "{} {}: {i}: {once} then {twice}", case.op.name(), case.name);
        }
    }
}
