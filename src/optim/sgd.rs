//! Stochastic gradient descent.
//!
//! With learning rate lr, momentum μ, dampening τ, weight decay λ and the gradient dw at step t = 1, 2, ...:
//!
//! ```text
//! g = dw + λ·w
//! b = g                  if t = 1                    the velocity; kept only if μ is not 0
//!     μ·b + (1 - τ)·g    otherwise
//! d = g                  without momentum
//!     g + μ·b            with Nesterov's             looks ahead along the new velocity
//!     b                  with momentum
//! w = w - lr·d
//! ```
//!
//! The learning rate stands outside the velocity, as in PyTorch (`torch.optim.SGD`), not inside as in Sutskever et al. 2013, "On
//! the importance of initialization and momentum in deep learning": when the rate is cut, the velocity does not keep the old one.
//!
//! Read next: `adam.rs`.

use super::{Coefficients, Options, Run, Stretch, take};
use crate::device::cuda::kernels::optimizer as kernel;
use crate::error::Result;
use crate::simd;
use crate::tensor::{Element, Stored};
use serde::{Deserialize, Serialize};

/// Settings of SGD; the default is plain gradient descent.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Sgd {
    /// μ: which part of the velocity lives on; 0 for none.
    pub momentum: f64,
    /// τ: which part of the gradient does not enter the velocity.
    pub dampening: f64,
    /// Look ahead along the velocity.
    pub nesterov: bool,
    /// λ: the L2 penalty is λ/2·|w|².
    pub weight_decay: f64,
}

impl Sgd {
    /// The same with options, which are taken out.
    pub(super) fn with(mut self, o: &mut Options) -> Self {
        take(&mut self.momentum, &mut o.momentum);
        take(&mut self.dampening, &mut o.dampening);
        take(&mut self.nesterov, &mut o.nesterov);
        take(&mut self.weight_decay, &mut o.weight_decay);
        self
    }

    pub(super) fn moments(&self) -> Vec<&'static str> {
        if self.momentum == 0.0 { vec![] } else { vec!["momentum_buffer"] }
    }

    /// What the loops read: λ, μ, the part of g that enters b at step t, lr.
    pub(super) fn coefficients(&self, t: u64, lr: f64) -> Coefficients {
        // The velocity is 0 before the first step, so b = g needs no branch.
        let fresh = if t == 1 { 1.0 } else { 1.0 - self.dampening };
        [self.weight_decay, self.momentum, fresh, lr, 0.0, 0.0, 0.0, 0.0]
    }

    // ---- CPU

    /// w, dw, b: `[n]`; b is empty without momentum.
    pub(super) fn update<T: Element>(&self, s: Stretch<T>) {
        simd! {
            fn plain<T: Element>(w: &mut [T], dw: &[T], k: [T::Acc; 2]) {
                let dw = &dw[..w.len()];
                let [decay, lr] = k;
                for i in 0..w.len() {
                    let g = dw[i].up() + decay * w[i].up();
                    w[i] = T::down(w[i].up() - lr * g);
                }
            }
        }
        simd! {
            fn momentum<T: Element>(w: &mut [T], dw: &[T], b: &mut [T::Acc], k: [T::Acc; 4], nesterov: bool) {
                let (dw, b) = (&dw[..w.len()], &mut b[..w.len()]);
                let [decay, mu, fresh, lr] = k;
                for i in 0..w.len() {
                    let g = dw[i].up() + decay * w[i].up();
                    b[i] = mu * b[i] + fresh * g;
                    let d = if nesterov { g + mu * b[i] } else { b[i] };
                    w[i] = T::down(w[i].up() - lr * d);
                }
            }
        }
        let Stretch { w, dw, m: [b, ..], k } = s;
        let [decay, mu, fresh, lr, ..] = k.map(T::Acc::from_f64);
        if b.is_empty() {
            plain(w, dw, [decay, lr]);
        } else {
            momentum(w, dw, b, [decay, mu, fresh, lr], self.nesterov);
        }
    }

    // ---- CUDA

    /// w, dw, b: `[n]`, padding included. One thread an element.
    pub(super) fn launch<A: Element<Acc = A>>(&self, s: Run<'_, A>) -> Result<()> {
        let Run { at, w, dw, m: [b, ..], table, place, health, scale, count } = s;
        kernel::sgd::<A>(at, w, dw, b, table, place, health, scale, self.nesterov.into(), count)
    }
}
