//! The case table: an op, the shapes of its inputs, and how to draw them.
//!
//! One table feeds the gradient check, the parity test, `cugrad check` and the benches. Each op's page lists its cases, with
//! batches of 1, 2, 17 and 33 among them (less than a group, just over one, just over two), odd sizes and corners. Read next:
//! `relu.rs`.

use crate::autograd::Op;
use crate::tensor::{DType, Layout, Philox, Shape, Spec, Tensor};
use std::sync::Arc;

/// The batches that every op is tried with: part of a group, one lane over a group, one lane over two.
pub const BATCHES: [usize; 4] = [1, 2, 17, 33];

/// How the numbers of an input are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Draw {
    /// Standard normal.
    Normal,
    /// Standard normal, but at least 0.1 away from zero: for functions with a kink there.
    AwayFromZero,
    /// All different, at least 0.01 apart: for functions that take a maximum.
    Distinct,
    /// Uniform in [0.5, 1.5): variances and scales.
    Positive,
    /// Integers in [0, classes).
    Labels(usize),
    /// Rows that are positive and sum to one.
    Probabilities,
    /// Rows of logarithms of probabilities.
    LogProbabilities,
}

/// One input of a case.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    /// Logical shape.
    pub shape: Shape,
    /// Activations are in lanes, parameters in rows.
    pub layout: Layout,
    /// How to draw it.
    pub draw: Draw,
    /// Does it have a gradient?
    pub wanted: bool,
    /// Is it kept in the type of sums, f32 where the activations are in half precision?
    pub sums: bool,
}

impl Input {
    /// An activation `[N, ...]` with a gradient.
    pub fn lanes(shape: impl Into<Shape>, draw: Draw) -> Self {
        Self { shape: shape.into(), layout: Layout::Lanes, draw, wanted: true, sums: false }
    }

    /// A parameter with a gradient.
    pub fn rows(shape: impl Into<Shape>, draw: Draw) -> Self {
        Self { shape: shape.into(), layout: Layout::Rows, draw, wanted: true, sums: false }
    }

    /// A parameter with a gradient that is kept in the type of sums: a batch norm's.
    pub fn sums(shape: impl Into<Shape>, draw: Draw) -> Self {
        Self { sums: true, ..Self::rows(shape, draw) }
    }

    /// The same without a gradient.
    pub fn fixed(self) -> Self {
        Self { wanted: false, ..self }
    }
}

/// An op with inputs to try it on.
#[derive(Debug, Clone)]
pub struct Case {
    /// The op.
    pub op: Arc<dyn Op>,
    /// What is special about it, as in `k3 s2 p1 n17`.
    pub name: String,
    /// Its inputs.
    pub inputs: Vec<Input>,
}

impl Case {
    /// A case of an op.
    pub fn new(op: impl Op + 'static, name: impl Into<String>, inputs: Vec<Input>) -> Self {
        Self { op: Arc::new(op), name: name.into(), inputs }
    }

    /// Draws the inputs; floats in `dtype`, labels as i32.
    pub fn draw(&self, dtype: DType, seed: u64) -> Vec<Tensor> {
        self.inputs.iter().enumerate().map(|(i, input)| input.tensor(dtype, &Philox::new(seed), i as u64)).collect()
    }

    /// Which inputs have a gradient.
    pub fn wanted(&self) -> Vec<bool> {
        self.inputs.iter().map(|i| i.wanted).collect()
    }
}

impl Input {
    fn tensor(&self, dtype: DType, rng: &Philox, stream: u64) -> Tensor {
        let count = self.shape.count();
        let normal = |i: usize| rng.normal(stream, i as u64);
        let mut values: Vec<f64> = match self.draw {
            Draw::Normal => (0..count).map(normal).collect(),
            Draw::AwayFromZero => (0..count).map(normal).map(|x| x + 0.1f64.copysign(x)).collect(),
            Draw::Positive => (0..count).map(|i| 0.5 + f64::from(rng.uniform(stream, i as u64))).collect(),
            Draw::Labels(classes) => (0..count).map(|i| f64::from(rng.word(stream, i as u64) % classes as u32)).collect(),
            Draw::Probabilities | Draw::LogProbabilities => (0..count).map(|i| normal(i).exp()).collect(),
            Draw::Distinct => {
                // Ranks of random words, spread evenly over [-2, 2]: no two are equal, and none is 0, where ReLU has its kink.
                let mut order: Vec<usize> = (0..count).collect();
                order.sort_by_key(|&i| (rng.word(stream, i as u64), i));
                let mut values = vec![0.0; count];
                for (rank, &i) in order.iter().enumerate() {
                    values[i] = (rank as f64 + 0.25 - count as f64 / 2.0) * 0.01f64.max(4.0 / count as f64);
                }
                values
            }
        };
        if matches!(self.draw, Draw::Probabilities | Draw::LogProbabilities) {
            for row in values.chunks_mut(self.shape.per_image().max(1)) {
                let sum: f64 = row.iter().sum();
                for p in row {
                    *p /= sum;
                    if self.draw == Draw::LogProbabilities {
                        *p = p.ln();
                    }
                }
            }
        }
        let dtype = match self.draw {
            Draw::Labels(_) => DType::I32,
            _ if self.sums => dtype.acc(),
            _ => dtype,
        };
        Tensor::from_values(Spec { layout: self.layout, ..Spec::rows(self.shape, dtype) }, &values)
    }
}
