//! The kernels' side of Winograd's transforms: from taps to places and, for their gradient, back.
//!
//! This is not an op. `winograd.rs` says what G is. Read next: `products.rs`.

use super::Picture;
use crate::ops::correlate::Scratch;
use crate::simd;
use crate::tensor::{L, Real, Spec, Tensor};
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
///
/// All planes of an output go together, side by side, so that the transforms run along memory.
pub(in crate::ops) fn weights<A: Real>(p: &Picture, g: impl Fn(usize, usize, usize, usize) -> A + Sync) -> Tensor {
    let ([planes, ..], [outputs, ..], k, side) = (p.read, p.written, p.kernel, p.side());
    let points: Vec<[A; 2]> = points(side).iter().map(|&(p, scale)| [p, scale].map(A::from_f64)).collect();
    // First `[O][places][C]`, as they are made.
    let count = Spec::rows([outputs * planes * side * side], A::DTYPE);
    let (mut made, mut u) = (Tensor::new(count), Tensor::new(count));
    let each = made.data_mut::<A>().par_chunks_mut(planes * side * side).enumerate();
    each.for_each_init(Scratch::default, |room, (o, made)| {
        let (taps, half) = halves(room, [k * k, side * k], planes);
        for (tap, row) in taps.chunks_exact_mut(planes).enumerate() {
            for (c, tap_of_c) in row.iter_mut().enumerate() {
                *tap_of_c = g(o, c, tap / k, tap % k);
            }
        }
        // G g, then each of its rows times Gᵀ.
        values::<A>(taps, half, k * planes, &points);
        for (row, made) in half.chunks_exact(k * planes).zip(made.chunks_exact_mut(side * planes)) {
            values::<A>(row, made, planes, &points);
        }
    });
    let made = made.data::<A>();
    u.data_mut::<A>().par_chunks_mut(outputs * planes).enumerate().for_each(|(place, u)| {
        for (u, made) in u.chunks_exact_mut(planes).zip(made.chunks_exact(side * side * planes)) {
            u.copy_from_slice(&made[place * planes..][..planes]);
        }
    });
    u
}

/// Gᵀ m G with the points of 6x6 places, for all planes of an output: dw `[C][K][K]` of m(place, c).
pub(super) fn gradients<A: Real>(m: impl Fn(usize, usize) -> A, dw: &mut [A], k: usize, room: &mut Scratch) {
    let planes = dw.len() / (k * k);
    let points: [[A; 2]; SIDE - 1] = std::array::from_fn(|i| points(SIDE)[i]).map(|(p, scale)| [p, scale].map(A::from_f64));
    let (places, rest) = halves(room, [SIDE * SIDE, SIDE * k + k * k], planes);
    let (half, taps) = rest.split_at_mut(SIDE * k * planes);
    for (place, row) in places.chunks_exact_mut(planes).enumerate() {
        for (c, of_c) in row.iter_mut().enumerate() {
            *of_c = m(place, c);
        }
    }
    // Each row of m times G, then Gᵀ times that.
    for (row, half) in places.chunks_exact(SIDE * planes).zip(half.chunks_exact_mut(k * planes)) {
        coefficients::<A>(row, half, planes, &points);
    }
    coefficients::<A>(half, taps, k * planes, &points);
    for (tap, row) in taps.chunks_exact(planes).enumerate() {
        for (dw, &sum) in dw[tap..].iter_mut().step_by(k * k).zip(row) {
            *dw = sum;
        }
    }
}

/// Room for two numbers of rows, of so many planes.
fn halves<A: Real>(room: &mut Scratch, rows: [usize; 2], planes: usize) -> (&mut [A], &mut [A]) {
    let count = (rows[0] + rows[1]) * planes;
    room.room::<A>(count.div_ceil(L)).as_flattened_mut()[..count].split_at_mut(rows[0] * planes)
}

simd! {
    /// Polynomials' values at the points, and the last coefficient, of coefficients x `[K][n]`: out `[points + 1][n]`.
    fn values<A: Real>(x: &[A], out: &mut [A], n: usize, points: &[[A; 2]]) {
        let (rest, last) = x.split_at(x.len() - n);
        for (out, [p, scale]) in out.chunks_exact_mut(n).zip(points) {
            out.copy_from_slice(last);
            for x in rest.chunks_exact(n).rev() {
                out.iter_mut().zip(x).for_each(|(sum, x)| *sum = *sum * *p + *x);
            }
            out.iter_mut().for_each(|sum| *sum = *scale * *sum);
        }
        out[points.len() * n..].copy_from_slice(last);
    }
}

simd! {
    /// [`values`] transposed: x `[points + 1][n]`, out `[K][n]`.
    fn coefficients<A: Real>(x: &[A], out: &mut [A], n: usize, points: &[[A; 2]]) {
        out.fill(A::ZERO);
        for (x, [p, scale]) in x.chunks_exact(n).zip(points) {
            let mut factor = *scale;
            for out in out.chunks_exact_mut(n) {
                out.iter_mut().zip(x).for_each(|(sum, x)| *sum = *sum + factor * *x);
                factor = factor * *p;
            }
        }
        let last = out.len() - n;
        out[last..].iter_mut().zip(&x[points.len() * n..]).for_each(|(sum, x)| *sum = *sum + *x);
    }
}
