//! Adam and AdamW.
//!
//! With learning rate lr, betas β₁ and β₂, weight decay λ and the gradient dw at step t = 1, 2, ...:
//!
//! ```text
//! g = dw + λ·w                                       Adam: the decay goes through the moments
//! g = dw,  w = w - lr·λ·w                            AdamW: the decay goes around them (decoupled)
//! m = m + (1 - β₁)·(g - m)                           mean of the gradient
//! v = β₂·v + (1 - β₂)·g²                             mean of its square
//! w = w - lr/(1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε)
//! ```
//!
//! m and v begin at 0, so after t steps their weights sum to 1 - βᵗ only; the divisions undo that. Kingma and Ba 2015, "Adam: a
//! method for stochastic optimization", algorithm 1; Loshchilov and Hutter 2019, "Decoupled weight decay regularization". The
//! order of operations is PyTorch's (`torch.optim.Adam`, `AdamW`).
//!
//! Read next: `rmsprop.rs`.

use super::{Coefficients, Options, Run, Stretch, take};
use crate::device::cuda::kernels::optimizer as kernel;
use crate::error::Result;
use crate::simd;
use crate::tensor::{Element, Real, Stored};
use serde::{Deserialize, Serialize};

/// Settings of Adam and AdamW.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Adam {
    /// β₁ and β₂: which part of each mean lives on.
    pub betas: [f64; 2],
    /// ε: keeps the division sane where gradients vanish.
    pub eps: f64,
    /// λ: 0 by default; 0.01 for AdamW.
    pub weight_decay: f64,
    /// The decay goes around the moments: AdamW.
    pub decoupled: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, decoupled: false }
    }
}

impl Adam {
    pub(super) const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

    /// AdamW with PyTorch's defaults.
    pub fn decoupled() -> Self {
        Self { weight_decay: 1e-2, decoupled: true, ..Self::default() }
    }

    /// The same with options, which are taken out.
    pub(super) fn with(mut self, o: &mut Options) -> Self {
        take(&mut self.betas, &mut o.betas);
        take(&mut self.eps, &mut o.eps);
        take(&mut self.weight_decay, &mut o.weight_decay);
        self
    }

    /// What the loop reads: λ in the gradient, 1 - lr·λ or 1, 1 - β₁, β₂, 1 - β₂, lr/(1 - β₁ᵗ), √(1 - β₂ᵗ), ε.
    pub(super) fn coefficients(&self, t: u64, lr: f64) -> Coefficients {
        let [b1, b2] = self.betas;
        let correction = |beta: f64| 1.0 - beta.powf(t as f64);
        let (decay, shrink) = if self.decoupled { (0.0, 1.0 - lr * self.weight_decay) } else { (self.weight_decay, 1.0) };
        [decay, shrink, 1.0 - b1, b2, 1.0 - b2, lr / correction(b1), correction(b2).sqrt(), self.eps]
    }

    // ---- CPU

    /// w, dw, m, v: `[n]`.
    pub(super) fn update<T: Element>(&self, s: Stretch<T>) {
        simd! {
            fn run<T: Element>(w: &mut [T], dw: &[T], m: &mut [T::Acc], v: &mut [T::Acc], k: [T::Acc; 8]) {
                let (dw, m, v) = (&dw[..w.len()], &mut m[..w.len()], &mut v[..w.len()]);
                let [decay, shrink, a1, b2, a2, size, root, eps] = k;
                for i in 0..w.len() {
                    let g = dw[i].up() + decay * w[i].up();
                    m[i] = m[i] + a1 * (g - m[i]);
                    v[i] = b2 * v[i] + a2 * g * g;
                    w[i] = T::down(shrink * w[i].up() - size * m[i] / (v[i].sqrt() / root + eps));
                }
            }
        }
        let Stretch { w, dw, m: [m, v, _], k } = s;
        run(w, dw, m, v, k.map(T::Acc::from_f64));
    }

    // ---- CUDA

    /// w, dw, m, v: `[n]`, padding included. One thread an element.
    pub(super) fn launch<A: Element<Acc = A>>(&self, s: Run<'_, A>) -> Result<()> {
        let Run { at, w, dw, m: [m, v, _], table, place, health, scale, count } = s;
        kernel::adam::<A>(at, w, dw, m, v, table, place, health, scale, count)
    }
}
