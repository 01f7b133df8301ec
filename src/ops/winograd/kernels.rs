//! The kernels' side of Winograd's transforms: from taps to places and, for their gradient, back.
//!
//! This is not an op. `winograd.rs` says what G is. Read next: `products.rs`.

use super::Picture;
use crate::tensor::{Real, Spec, Tensor};
use rayon::prelude::*;

/// Places along each side of a large window.
pub(super) const SIDE: usize = 6;

/// The points of a window with that side, each with its factor in G; infinity is one more.
pub(super) fn points(side: usize) -> &'static [(f64, f64)] {
    match side {
        4 => &[(0.0, 1.0), (1.0, 0.5), (-1.0, 0.5)],
        _ => &[(0.0, 1.0 / 4.0), (1.0, -1.0 / 6.0), (-1.0, -1.0 / 6.0), (2.0, 1.0 / 24.0), (-2.0, 1.0 / 24.0)],
    }
}

/// G g Gᵀ for each output o and plane c of p, with the taps g(o, c, kh, kw) of the kernel: `[places][O][C]`.
pub(in crate::ops) fn weights<A: Real>(p: &Picture, g: impl Fn(usize, usize, usize, usize) -> A + Sync) -> Tensor {
    let ([planes, ..], [outputs, ..], kernel, side) = (p.read, p.written, p.kernel, p.side());
    let points: Vec<[A; 2]> = points(side).iter().map(|&(p, scale)| [p, scale].map(A::from_f64)).collect();
    let transform = |g: &[A; 5]| {
        let mut u = [g[kernel - 1]; 6];
        for (u, [p, scale]) in u.iter_mut().zip(&points) {
            *u = *scale * g[..kernel].iter().rev().fold(A::ZERO, |sum, g| sum * *p + *g);
        }
        u
    };
    // First `[O][C][places]`, as they are made.
    let count = Spec::rows([outputs * planes * side * side], A::DTYPE);
    let (mut made, mut u) = (Tensor::new(count), Tensor::new(count));
    made.data_mut::<A>().par_chunks_mut(planes * side * side).enumerate().for_each(|(o, made)| {
        for (c, made) in made.chunks_exact_mut(side * side).enumerate() {
            // G g, by columns of g; then each of its rows times Gᵀ.
            let mut rows = [[A::ZERO; 5]; 6];
            for j in 0..kernel {
                let mut column = [A::ZERO; 5];
                for i in 0..kernel {
                    column[i] = g(o, c, i, j);
                }
                for (row, u) in rows.iter_mut().zip(transform(&column)) {
                    row[j] = u;
                }
            }
            for (made, row) in made.chunks_exact_mut(side).zip(&rows) {
                made.copy_from_slice(&transform(row)[..side]);
            }
        }
    });
    let made = made.data::<A>();
    u.data_mut::<A>().par_chunks_mut(outputs * planes).enumerate().for_each(|(place, u)| {
        for (u, made) in u.iter_mut().zip(made.iter().skip(place).step_by(side * side)) {
            *u = *made;
        }
    });
    u
}

/// Gᵀ m G with the points of 6x6 places: dw `[K][K]`.
pub(super) fn gradient<A: Real>(m: [A; SIDE * SIDE], dw: &mut [A], k: usize) {
    // Σ_p scale·pⁱ·m_p for each i, and for the last m at infinity.
    let transform = |m: [A; SIDE]| {
        let mut out = [A::ZERO; SIDE];
        for (&(p, scale), &m) in points(SIDE).iter().zip(&m) {
            let mut power = A::from_f64(scale) * m;
            for out in &mut out[..k] {
                *out = *out + power;
                power = power * A::from_f64(p);
            }
        }
        out[k - 1] = out[k - 1] + m[SIDE - 1];
        out
    };
    let rows: [[A; SIDE]; SIDE] = std::array::from_fn(|i| transform(std::array::from_fn(|j| m[SIDE * i + j])));
    for j in 0..k {
        let column = transform(std::array::from_fn(|i| rows[i][j]));
        for i in 0..k {
            dw[i * k + j] = column[i];
        }
    }
}
