//! The gradients of a step by shares of the batch, each of which goes through the whole network by itself.
//!
//! Where no batch norm and no dropout stand in a network, an image meets the others in sums over the batch alone: the loss, and the
//! gradients of parameters. So on the CPU a thread takes some groups of images forward and back, finds in its cache what a layer wrote, and
//! waits for others only at the end, when the shares' gradients are added in order:
//!
//! ```text
//! loss = Σ_s n_s/n·loss_s        d loss/dw = Σ_s n_s/n·d loss_s/dw
//! ```
//!
//! with n_s of the n images in share s. The shares are cut by n alone, so the bits are the same for any number of threads. Read next:
//! `step.rs`, which does all else.

use super::step::Setting;
use crate::autograd::{Gradients, Tape};
use crate::device::Device;
use crate::error::Result;
use crate::models::{Model, shares};
use crate::ops::cross_entropy::{self, CrossEntropy, Reduction};
use crate::optim::Clock;
use crate::tensor::{DType, Tensor};
use rayon::prelude::*;

/// What a share gives: labels, logits, loss.
type Judged = [Tensor; 3];

/// Can the gradients of n images be computed so? With f16 the loss has a scale.
pub(super) fn possible(model: &Model, n: usize) -> bool {
    model.device == Device::Cpu && model.separate() && shares(n).len() > 1 && model.dtype != DType::F16
}

/// Fills the network's gradients, and adds to `totals` as a step does.
pub(super) fn gradients(model: &mut Model, clock: &mut Clock, totals: &mut Tensor, batch: &(Tensor, Tensor), s: &Setting) -> Result<()> {
    // The network is read by all threads, so its gradients are taken out meanwhile.
    let mut all = std::mem::take(&mut model.params.gradients);
    all.clear();
    let judged = by_shares(model, &mut all, batch, s);
    model.params.gradients = all;
    for [labels, logits, loss] in judged? {
        cross_entropy::accumulate(&loss, labels.shape().count() as f64, &logits, &labels, totals)?;
        // A loss that is not finite halts training.
        clock.seed(&loss)?;
    }
    Ok(())
}

fn by_shares(model: &Model, all: &mut Gradients, (x, labels): &(Tensor, Tensor), s: &Setting) -> Result<Vec<Judged>> {
    let n = labels.shape().count();
    let shares = shares(n);
    let mut others: Vec<Gradients> = shares[1..].iter().map(|_| all.like()).collect();
    let gradients: Vec<&mut Gradients> = std::iter::once(&mut *all).chain(&mut others).collect();
    let judged = shares.into_par_iter().zip(gradients).map(|(images, gradients)| {
        let part = images.len() as f64 / n as f64;
        one(model, gradients, (x.images(images.clone()), labels.images(images)), part, s)
    });
    let judged = judged.collect::<Result<Vec<_>>>()?;
    all.add(&others);
    Ok(judged)
}

/// Forward and back, with `part` for the gradient of the loss.
fn one(model: &Model, gradients: &mut Gradients, (x, labels): (Tensor, Tensor), part: f64, s: &Setting) -> Result<Judged> {
    let mut tape = Tape::new();
    let (x, target) = (tape.input(x), tape.input(labels));
    // Without batch norm and dropout, training and evaluation are one.
    let logits = model.eval(&mut tape, x)?;
    let loss = tape.apply(CrossEntropy { reduction: Reduction::Mean, label_smoothing: s.label_smoothing }, &[logits, target])?;
    let judged = [target, logits, loss].map(|v| tape.value(v).clone());
    tape.backward_from(loss, Tensor::from_values(judged[2].spec(), &[part]), gradients)?;
    Ok(judged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Options;
    use crate::tensor::{Philox, Spec};
    use crate::train::step::totals;

    /// The gradients of n images by shares or at once, and loss, hits and images.
    fn run(name: &str, n: usize, by_shares: bool) -> (Vec<Vec<f64>>, Vec<f64>) {
        let options = Options { dtype: DType::F64, ..Options::default() };
        let (mut model, rng) = (Model::build(name, &options).unwrap(), Philox::new(9));
        let [c, h, w] = model.input;
        let pictures: Vec<f64> = (0..(n * c * h * w) as u64).map(|i| rng.normal(0, i)).collect();
        let labels: Vec<i32> = (0..n as u64).map(|i| (rng.word(1, i) % 10) as i32).collect();
        let batch = (
            Tensor::from_values(Spec::lanes([n, c, h, w], DType::F64), &pictures),
            Tensor::from_values(Spec::rows([n], DType::I32), &labels),
        );
        let mut clock = Clock::new(DType::F64, Device::Cpu, Default::default());
        let (mut totals, s) = (totals(&model), Setting { lr: 0.1, label_smoothing: 0.1, seed: 0 });
        assert!(possible(&model, n));
        if by_shares {
            gradients(&mut model, &mut clock, &mut totals, &batch, &s).unwrap();
        } else {
            let mut all = std::mem::take(&mut model.params.gradients);
            let [labels, logits, loss] = one(&model, &mut all, batch, 1.0, &s).unwrap();
            cross_entropy::accumulate(&loss, n as f64, &logits, &labels, &mut totals).unwrap();
            model.params.gradients = all;
        }
        ((0..model.params.len()).map(|i| model.params.gradients.get(i).unwrap().values()).collect(), totals.values())
    }

    #[test]
    fn shares_add_up_to_the_whole_batch() {
        for (name, n) in [("lenet", 65), ("digit", 100), ("net1", 200)] {
            let ((shares, totals), (whole, expected)) = (run(name, n, true), run(name, n, false));
            for (i, (a, b)) in shares.iter().zip(&whole).enumerate() {
                let norm = b.iter().map(|b| b * b).sum::<f64>().sqrt();
                for (a, b) in a.iter().zip(b) {
                    assert!((a - b).abs() < 1e-12 * norm, "{name}, {n} images, parameter {i}: {a} and {b}");
                }
            }
            assert!((totals[0] - expected[0]).abs() < 1e-9 && totals[1..] == expected[1..], "{name}: {totals:?} and {expected:?}");
        }
    }

    #[test]
    fn the_bits_are_the_same_for_any_number_of_threads() {
        let with =
            |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| run("lenet", 100, true));
        assert_eq!(with(1), with(3));
    }
}
