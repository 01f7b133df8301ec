//! A look at what learning does to each parameter: how large its gradient is, and how far a step moves it.
//!
//! The figures are taken on the host from what lies in the arenas before and after a step, so that a captured step need not know of it.
//! A step that is looked at is only taken alone, not with others at one go. The size of an update against that of what it moves is the
//! best single sign of a learning rate: about 1e-3 is usual (Karpathy, "A recipe for training neural networks"), 1e-1 jumps, 1e-6 sleeps.
//! Read next: `health.rs`, which puts into words what is wrong.

use crate::error::Result;
use crate::nn::Params;
use serde::Serialize;

/// What was seen of one parameter; NaN (null in JSON) where there is no such figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Its name.
    pub param: String,
    /// The norm of its gradient.
    pub grad_norm: f64,
    /// The norm of its values, before the step.
    pub weight_norm: f64,
    /// The norm of what the step added, in parts of that.
    pub update_ratio: f64,
}

/// Looks at every so many steps of an epoch.
#[derive(Debug)]
pub struct Watch {
    every: u64,
    /// The values before the step that is looked at.
    before: Vec<Vec<f64>>,
    /// Sums of the figures of this epoch, and how many there are.
    sums: Vec<Figures>,
    looks: u64,
}

impl Watch {
    /// Looks at every `every`th step.
    pub fn new(every: u64) -> Self {
        Self { every, before: Vec::new(), sums: Vec::new(), looks: 0 }
    }

    /// How many steps may be taken at one go after `done` of the epoch: 1 if the next is to be looked at.
    pub fn until(&self, done: u64) -> usize {
        (self.every - 1 - done % self.every).max(1) as usize
    }

    /// Before a step, `done` being taken of the epoch: remembers the values if it is to be looked at. Waits for the device.
    pub fn before(&mut self, done: u64, params: &Params) -> Result<()> {
        self.before.clear();
        if (done + 1).is_multiple_of(self.every) {
            self.before = params.values().iter().map(|w| w.read()).collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// After it: what was seen, if it was looked at. `scale` is what the gradients are multiplied by.
    pub fn after(&mut self, params: &Params, scale: f64) -> Result<Option<Vec<Figures>>> {
        if self.before.is_empty() {
            return Ok(None);
        }
        let mut all = Vec::new();
        let parts = params.names().iter().zip(params.values()).zip(&self.before).zip(gradients(params, scale)?);
        for (((name, w), before), grad_norm) in parts {
            // A frozen parameter has no gradient.
            let Some(grad_norm) = grad_norm else { continue };
            let weight_norm = length(before.iter().copied());
            let moved = length(w.read()?.iter().zip(before).map(|(now, before)| now - before));
            let update_ratio = if weight_norm > 0.0 { moved / weight_norm } else { f64::NAN };
            all.push(Figures { param: name.clone(), grad_norm, weight_norm, update_ratio });
        }
        if self.sums.is_empty() {
            self.sums.clone_from(&all);
        } else {
            for (sum, new) in self.sums.iter_mut().zip(&all) {
                sum.grad_norm += new.grad_norm;
                sum.weight_norm += new.weight_norm;
                sum.update_ratio += new.update_ratio;
            }
        }
        self.looks += 1;
        Ok(Some(all))
    }

    /// The means over the epoch, which is over.
    pub fn take(&mut self) -> Vec<Figures> {
        let n = std::mem::take(&mut self.looks) as f64;
        let mut means = std::mem::take(&mut self.sums);
        for mean in &mut means {
            mean.grad_norm /= n;
            mean.weight_norm /= n;
            mean.update_ratio /= n;
        }
        means
    }
}

/// The norm of each parameter's gradient after a step, in the order of the parameters; none where backward did not reach. `scale` is what
/// the gradients are multiplied by. Waits for the device.
pub fn gradients(params: &Params, scale: f64) -> Result<Vec<Option<f64>>> {
    let one = |i: usize| match params.gradients.get(i) {
        None => Ok(None),
        Some(dw) => Ok(Some(length(dw.read()?.into_iter().map(|x| x / scale)))),
    };
    (0..params.len()).map(one).collect()
}

/// The norm of the whole gradient from those of its parts.
pub fn norm(parts: &[Option<f64>]) -> f64 {
    length(parts.iter().flatten().copied())
}

/// The square root of the sum of squares.
fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}
