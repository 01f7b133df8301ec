//! Distillation: a network learns what another has learned, from how likely that one holds every class to be.
//!
//! With the student's logits z, the teacher's v, and a temperature T that makes both softer (Hinton, Vinyals, Dean 2015, "Distilling the
//! knowledge in a neural network"):
//!
//! ```text
//! loss = α·T²·KL(softmax(v/T) ‖ softmax(z/T)) + (1 - α)·CE(z, labels)
//! ```
//!
//! KL is PyTorch's `kl_div(log_softmax(z/T), softmax(v/T), reduction="batchmean")`. Its gradient by z is α·T·(softmax(z/T) - softmax(v/T))/N;
//! as both softmaxes come closer to each other by 1/T, the factor T² keeps the share of the teacher independent of T. The teacher runs in
//! evaluation mode and learns nothing. Read next: `engine.rs`.

use super::checkpoint::Checkpoint;
use super::config::Config;
use super::trained::Trained;
use crate::autograd::{Tape, Var};
use crate::data::Normalization;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::Model;
use crate::ops::kl_div::KlDiv;
use crate::ops::softmax::Softmax;
use crate::ops::weighted_sum::WeightedSum;
use crate::tensor::Tensor;
use std::path::Path;

/// A trained network that another learns from.
#[derive(Debug)]
pub struct Teacher {
    /// The network.
    pub model: Model,
    /// How its pictures were normalised; its student sees the same pictures.
    pub normalization: Normalization,
    /// What its classes are called.
    pub classes: Vec<String>,
    blend: Blend,
}

/// How a student's two losses are put together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// T: what both networks' logits are divided by.
    pub temperature: f64,
    /// α: the teacher's share of the loss.
    pub alpha: f64,
}

impl Teacher {
    /// Loads the teacher of a run, to compute where and in which type the student does.
    pub fn load(path: &Path, config: &Config, device: Device) -> Result<Teacher> {
        let Trained { model, normalization, classes, .. } =
            Trained::load_as(path, &Checkpoint::load(path)?, Some(config.dtype()?), device)?;
        let blend = Blend { temperature: config.temperature, alpha: config.distill_alpha };
        Ok(Teacher { model, normalization, classes, blend })
    }

    /// Makes sure that it can teach this network.
    pub fn check(&self, student: &Model) -> Result<()> {
        let about = |m: &Model| format!("{} takes {:?} pictures and tells {} classes apart", m.name, m.input, m.classes);
        match self.model.input == student.input && self.model.classes == student.classes {
            true => Ok(()),
            false => Err(Error::usage(format!("the teacher {}, the student {}", about(&self.model), about(student)))
                .hint("choose another --model or --teacher")),
        }
    }

    /// The loss of a student with these logits and cross-entropy on pictures x, a scalar.
    pub fn judge(&self, tape: &mut Tape, x: Tensor, logits: Var, cross_entropy: Var) -> Result<Var> {
        let taught = self.model.logits(x)?;
        self.blend.loss(tape, logits, taught, cross_entropy)
    }
}

impl Blend {
    /// From the student's logits `[N,C]`, the teacher's and the student's mean cross-entropy.
    pub fn loss(&self, tape: &mut Tape, logits: Var, teacher: Tensor, cross_entropy: Var) -> Result<Var> {
        let Blend { temperature, alpha } = *self;
        let soften = || WeightedSum { weights: vec![1.0 / temperature] };
        // No gradient is wanted on this side: the tape keeps nothing of it.
        let target = tape.input(teacher);
        let target = tape.apply(soften(), &[target])?;
        let target = tape.apply(Softmax { log: false }, &[target])?;
        let log_p = tape.apply(soften(), &[logits])?;
        let log_p = tape.apply(Softmax { log: true }, &[log_p])?;
        let divergence = tape.apply(KlDiv { log_target: false, scale: temperature * temperature }, &[log_p, target])?;
        tape.apply(WeightedSum { weights: vec![alpha, 1.0 - alpha] }, &[divergence, cross_entropy])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Gradients;
    use crate::ops::cross_entropy::{CrossEntropy, Reduction};
    use crate::tensor::{DType, Spec};
    use approx::assert_relative_eq;

    const Z: [f64; 6] = [1.0, -0.5, 0.25, 2.0, 0.0, -1.5];
    const LOSS: f64 = 0.8172129630669065;
    const DZ: [f64; 6] =
        [0.005781297069106076, -0.24047431024861673, 0.23469301317951033, -0.039397437116666344, 0.18678001334290592, -0.14738257622623951];
    const V: [f64; 6] = [0.5, 0.75, -2.0, 3.0, -1.0, 0.125];

    /// Loss and dz of two images of three classes.
    fn loss(blend: Blend, z: &[f64]) -> (f64, Vec<f64>) {
        let spec = Spec::lanes([2, 3], DType::F64);
        let mut tape = Tape::new();
        let z = tape.leaf(Tensor::from_values(spec, z));
        let labels = tape.input(Tensor::from_values(Spec::rows([2], DType::I32), &[0, 2]));
        let ce = tape.apply(CrossEntropy { reduction: Reduction::Mean, label_smoothing: 0.1 }, &[z, labels]).unwrap();
        let y = blend.loss(&mut tape, z, Tensor::from_values(spec, &V), ce).unwrap();
        let value = tape.value(y).item();
        tape.backward(y, &mut Gradients::default()).unwrap();
        (value, tape.gradient(z).unwrap().values())
    }

    /// Recorded from PyTorch 2: `alpha*T*T*F.kl_div(F.log_softmax(z/T, 1), F.softmax(v/T, 1), reduction="batchmean") +
    /// (1 - alpha)*F.cross_entropy(z, labels, label_smoothing=0.1)` in float64, and its gradient.
    #[test]
    fn it_is_pytorchs() {
        let (value, dz) = loss(Blend { temperature: 4.0, alpha: 0.9 }, &Z);
        assert_relative_eq!(value, LOSS, epsilon = 1e-12);
        for (dz, want) in dz.iter().zip(DZ) {
            assert_relative_eq!(*dz, want, epsilon = 1e-12);
        }
    }

    #[test]
    fn its_gradient_agrees_with_finite_differences() {
        for (temperature, alpha) in [(4.0, 0.9), (1.0, 0.5), (2.5, 1.0), (3.0, 0.0)] {
            let blend = Blend { temperature, alpha };
            let (_, dz) = loss(blend, &Z);
            for i in 0..Z.len() {
                let moved = |by: f64| {
                    let mut z = Z;
                    z[i] += by;
                    loss(blend, &z).0
                };
                let numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((numeric - dz[i]).abs() < 1e-8, "T {temperature} α {alpha} [{i}]: {numeric} {}", dz[i]);
            }
        }
    }
}
