//! RMSprop.
//!
//! With learning rate lr, smoothing α, momentum μ, weight decay λ and the gradient dw:
//!
//! ```text
//! g = dw + λ·w
//! v = α·v + (1 - α)·g²                   mean of the gradient's square
//! a = a + (1 - α)·(g - a)                its mean; kept only if centered
//! s = √v         or √(v - a²) if centered, the standard deviation instead of the root mean square
//! d = g / (s + ε)
//! b = μ·b + d,  d = b                    the velocity; kept only if μ is not 0
//! w = w - lr·d
//! ```
//!
//! Hinton 2012, lecture 6e of "Neural networks for machine learning"; centered as in Graves 2013, "Generating sequences with
//! recurrent neural networks", but with ε outside the root, as in PyTorch (`torch.optim.RMSprop`), whose order this is.
//!
//! Read next: `schedule.rs`.

use super::{Coefficients, Options, Run, Stretch, take};
use crate::device::cuda::kernels::optimizer as kernel;
use crate::error::Result;
use crate::simd;
use crate::tensor::{Element, Real, Stored};
use serde::{Deserialize, Serialize};

/// Settings of RMSprop.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct RmsProp {
    /// α: which part of the means lives on.
    pub alpha: f64,
    /// ε: keeps the division sane where gradients vanish.
    pub eps: f64,
    /// μ: which part of the velocity lives on; 0 for none.
    pub momentum: f64,
    /// Divide by the standard deviation.
    pub centered: bool,
    /// λ: the L2 penalty is λ/2·|w|².
    pub weight_decay: f64,
}

impl Default for RmsProp {
    fn default() -> Self {
        Self { alpha: 0.99, eps: 1e-8, momentum: 0.0, centered: false, weight_decay: 0.0 }
    }
}

impl RmsProp {
    /// The same with options, which are taken out.
    pub(super) fn with(mut self, o: &mut Options) -> Self {
        take(&mut self.alpha, &mut o.alpha);
        take(&mut self.eps, &mut o.eps);
        take(&mut self.momentum, &mut o.momentum);
        take(&mut self.centered, &mut o.centered);
        take(&mut self.weight_decay, &mut o.weight_decay);
        self
    }

    pub(super) fn moments(&self) -> Vec<&'static str> {
        let optional = [("momentum_buffer", self.momentum != 0.0), ("grad_avg", self.centered)];
        std::iter::once("square_avg").chain(optional.into_iter().filter(|(_, kept)| *kept).map(|(name, _)| name)).collect()
    }

    /// What the loops read: λ, α, 1 - α, ε, μ, lr.
    pub(super) fn coefficients(&self, lr: f64) -> Coefficients {
        [self.weight_decay, self.alpha, 1.0 - self.alpha, self.eps, self.momentum, lr, 0.0, 0.0]
    }

    // ---- CPU

    /// w, dw, v: `[n]`; b is empty without momentum, a unless centered.
    pub(super) fn update<T: Element>(&self, s: Stretch<T>) {
        simd! {
            fn run<T: Element>(w: &mut [T], dw: &[T], v: &mut [T::Acc], b: &mut [T::Acc], a: &mut [T::Acc], k: [T::Acc; 6]) {
                match (b.is_empty(), a.is_empty()) {
                    (true, true) => each::<T, false, false>(w, dw, v, b, a, k),
                    (true, false) => each::<T, false, true>(w, dw, v, b, a, k),
                    (false, true) => each::<T, true, false>(w, dw, v, b, a, k),
                    (false, false) => each::<T, true, true>(w, dw, v, b, a, k),
                }
            }
        }
        let Stretch { w, dw, m: [v, second, third], k } = s;
        let (b, a) = if self.momentum == 0.0 { (third, second) } else { (second, third) };
        let [decay, alpha, beta, eps, mu, lr, ..] = k.map(T::Acc::from_f64);
        run(w, dw, v, b, a, [decay, alpha, beta, eps, mu, lr]);
    }

    // ---- CUDA

    /// w, dw, v, b, a: `[n]`, padding included. One thread an element.
    pub(super) fn launch<A: Element<Acc = A>>(&self, s: Run<'_, A>) -> Result<()> {
        let Run { at, w, dw, m: [v, second, third], table, place, health, scale, count } = s;
        let (b, a) = if self.momentum == 0.0 { (third, second) } else { (second, third) };
        kernel::rmsprop::<A>(at, w, dw, v, b, a, table, place, health, scale, count)
    }
}

/// w, dw, v: `[n]`; b: `[n]` if MOMENTUM, a: `[n]` if CENTERED. A loop for each of the four keeps branches out of it.
#[inline(always)]
fn each<T: Element, const MOMENTUM: bool, const CENTERED: bool>(
    w: &mut [T],
    dw: &[T],
    v: &mut [T::Acc],
    b: &mut [T::Acc],
    a: &mut [T::Acc],
    k: [T::Acc; 6],
) {
    let n = w.len();
    let (dw, v) = (&dw[..n], &mut v[..n]);
    let (b, a) = (&mut b[..if MOMENTUM { n } else { 0 }], &mut a[..if CENTERED { n } else { 0 }]);
    let [decay, alpha, beta, eps, mu, lr] = k;
    for i in 0..n {
        let g = dw[i].up() + decay * w[i].up();
        v[i] = alpha * v[i] + beta * g * g;
        let mut square = v[i];
        if CENTERED {
            a[i] = a[i] + beta * (g - a[i]);
            square = square - a[i] * a[i];
            // v is at least a², but under a steady gradient rounding can take the difference below 0, whose root is NaN.
            square = if square < T::Acc::ZERO { T::Acc::ZERO } else { square };
        }
        let mut d = g / (square.sqrt() + eps);
        if MOMENTUM {
            b[i] = mu * b[i] + d;
            d = b[i];
        }
        w[i] = T::down(w[i].up() - lr * d);
    }
}
