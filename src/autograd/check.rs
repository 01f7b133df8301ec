//! The gradient check: is J^T c the same by the chain rule and by finite differences?
//!
//! For a random cotangent c the scalar s(x) = sum c·f(x) has the gradient J^T c, which backward computes; central differences
//! (s(x + h e_i) - s(x - h e_i)) / 2h give the same number for every element i of every input. All in f64, where the difference
//! formula is good to about 1e-9. The cotangent is random and never all ones: the sum of a batch norm's output is a constant, so
//! ones would make any gradient pass. Inputs must be drawn away from kinks and ties (`ops/case.rs` does). Read next:
//! `ops/mod.rs`.

use super::gradients::Gradients;
use super::op::Op;
use super::tape::{Tape, Var};
use crate::device::Device;
use crate::error::Result;
use crate::tensor::{DType, Philox, Spec, Tensor};
use std::sync::Arc;

/// The largest error a right gradient may show, relative to the larger of the two numbers (and to 1 below that).
pub const TOLERANCE: f64 = 1e-6;

/// Step of the central difference: near the optimum for f64, the cube root of its precision.
const STEP: f64 = 1e-5;

/// Where the analytic and the numeric gradient differ most.
#[derive(Debug, Clone)]
pub struct Worst {
    /// |analytic - numeric| / max(1, |analytic|, |numeric|); NaN if either is.
    pub error: f64,
    /// Which input.
    pub input: usize,
    /// Which element of it, in row-major order.
    pub index: usize,
    /// By backward.
    pub analytic: f64,
    /// By central differences.
    pub numeric: f64,
    /// How many elements were compared.
    pub elements: usize,
}

impl Worst {
    /// Does the gradient agree? False for NaN.
    pub fn agrees(&self) -> bool {
        self.error <= TOLERANCE
    }
}

/// Checks an op at the given f64 inputs, on the device where they are; `wanted` says which of them have a gradient.
pub fn check(op: &Arc<dyn Op>, inputs: &[Tensor], wanted: &[bool], seed: u64) -> Result<Worst> {
    let (mut tape, vars, y) = run(op, inputs, wanted)?;
    let spec = tape.spec(y);
    let rng = Philox::new(seed);
    let cotangent: Vec<f64> = (0..spec.shape.count()).map(|i| rng.normal(u64::MAX, i as u64)).collect();
    tape.backward_from(y, Tensor::from_values(spec, &cotangent), &mut Gradients::default())?;

    let scalar = |inputs: &[Tensor]| -> Result<f64> {
        let (tape, _, y) = run(op, inputs, wanted)?;
        Ok(tape.value(y).read()?.iter().zip(&cotangent).map(|(y, c)| y * c).sum())
    };
    let mut worst = Worst { error: 0.0, input: 0, index: 0, analytic: 0.0, numeric: 0.0, elements: 0 };
    for (input, _) in wanted.iter().enumerate().filter(|&(_, &w)| w) {
        let values = inputs[input].read()?;
        let zeros = vec![0.0; values.len()];
        let analytic = tape.gradient(vars[input]).map_or(Ok(zeros), Tensor::read)?;
        for index in 0..values.len() {
            let shifted = |by: f64| {
                let mut moved = values.clone();
                moved[index] += by;
                let mut inputs = inputs.to_vec();
                inputs[input] = Tensor::from_values(inputs[input].spec(), &moved);
                scalar(&inputs)
            };
            let numeric = (shifted(STEP)? - shifted(-STEP)?) / (2.0 * STEP);
            let analytic = analytic[index];
            let error = (analytic - numeric).abs() / analytic.abs().max(numeric.abs()).max(1.0);
            worst.elements += 1;
            // A NaN wins, and stays.
            if (error > worst.error || error.is_nan()) && !worst.error.is_nan() {
                worst = Worst { error, input, index, analytic, numeric, elements: worst.elements };
            }
        }
    }
    Ok(worst)
}

/// The largest relative distance between the op on `device` and in f64 on the CPU, over its output and all wanted gradients:
/// max |a - b| / max(1, max |b|). `inputs` are in the types that the op is to be tried in, of which `dtype` is that of activations; the
/// run in f64 sees the same numbers.
pub fn parity(op: &Arc<dyn Op>, inputs: &[Tensor], wanted: &[bool], dtype: DType, device: Device, seed: u64) -> Result<f64> {
    let rng = Philox::new(seed);
    let results = |run_in: DType, device: Device| -> Result<Vec<Vec<f64>>> {
        let there = |x: &Tensor| if run_in == DType::F64 && is_float(x.spec()) { x.to_dtype(run_in) } else { x.clone() }.to(device);
        let (mut tape, vars, y) = run(op, &inputs.iter().map(there).collect::<Vec<_>>(), wanted)?;
        let spec = tape.spec(y);
        let cotangent: Vec<f64> = (0..spec.shape.count()).map(|i| rng.normal(u64::MAX, i as u64)).collect();
        let cotangent = Tensor::from_values(Spec { dtype, ..spec }.on(Device::Cpu), &cotangent).to_dtype(spec.dtype).to(device);
        let mut all = vec![tape.value(y).read()?];
        tape.backward_from(y, cotangent, &mut Gradients::default())?;
        for gradient in vars.iter().filter_map(|&v| tape.gradient(v)) {
            all.push(gradient.read()?);
        }
        Ok(all)
    };
    let mut worst: f64 = 0.0;
    for (a, b) in results(dtype, device)?.iter().zip(&results(DType::F64, Device::Cpu)?) {
        let scale = b.iter().fold(1.0, |m: f64, b| m.max(b.abs()));
        for (a, b) in a.iter().zip(b) {
            let error = (a - b).abs() / scale;
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        }
    }
    Ok(worst)
}

fn is_float(spec: Spec) -> bool {
    !matches!(spec.dtype, DType::U8 | DType::I32)
}

fn run(op: &Arc<dyn Op>, inputs: &[Tensor], wanted: &[bool]) -> Result<(Tape, Vec<Var>, Var)> {
    let mut tape = Tape::new();
    let vars: Vec<Var> =
        (inputs.iter().zip(wanted)).map(|(x, &wanted)| if wanted { tape.leaf(x.clone()) } else { tape.input(x.clone()) }).collect();
    let y = tape.apply_at(&Arc::from(""), op.clone(), &vars)?;
    Ok((tape, vars, y))
}
