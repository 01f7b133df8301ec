//! 3x3 convolutions with stride 1 by fewer multiplications: Winograd's F(2x2, 3x3).
//!
//! This is not an op. A tile of 2x2 outputs needs a window of 4x4 pixels. Transformed, its 36 products become 16
//! (Winograd, "Arithmetic complexity of computations", 1980; Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR
//! 2016): with the window d, the kernel g and
//!
//! ```text
//!      | 1  0 -1  0 |        | 1   0   0 |
//! Bᵀ = | 0  1  1  0 |    G = | ½   ½   ½ |    Aᵀ = | 1  1  1  0 |        y = Aᵀ [ Σ_c (G g Gᵀ) ∘ (Bᵀ d B) ] A
//!      | 0 -1  1  0 |        | ½  -½   ½ |         | 0  1 -1 -1 |
//!      | 0  1  0 -1 |        | 0   0   1 |
//! ```
//!
//! where ∘ multiplies place by place. For each of the 16 places the sum over channels is a product of matrices, which `tile.rs`
//! computes; a lane is an image, so the transforms are additions of lane vectors. A few tiles at a time go through all three stages, so
//! that what lies between them stays in the second-level cache.
//!
//! The transforms cost additions and rounding: results differ from direct sums by a few units in the last place more (a test says how
//! much). [`pays`] decides by the shape alone; `CUGRAD_WINOGRAD=off` keeps to direct sums. Read next: `conv2d.rs`.

use super::correlate::Scratch;
use super::tile::{Strides, dot, strip};
use crate::simd;
use crate::tensor::{Element, L, Real, Tensor, Vector};
use rayon::prelude::*;
use std::sync::LazyLock;

/// Places of a transformed window.
const PLACES: usize = 16;

/// Lane vectors of transformed windows at a time: with their products, and the weights, half a second-level cache.
const ROOM: usize = 2048;

/// A convolution with a 3x3 kernel and stride 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Picture {
    /// What is read: planes, rows, columns.
    pub(super) read: [usize; 3],
    /// What is written.
    pub(super) written: [usize; 3],
    /// Zeros above and left of what is read.
    pub(super) padding: [usize; 2],
}

/// Is this the faster way? Counts what a CPU does for a tile in each: products, and the transforms' loads, stores and additions.
pub(super) fn pays(p: &Picture) -> bool {
    static WANTED: LazyLock<bool> = LazyLock::new(|| std::env::var("CUGRAD_WINOGRAD").as_deref() != Ok("off"));
    let ([c, ..], [o, h, w]) = (p.read, p.written);
    let tile = PLACES * c * o + 50 * (c + o);
    *WANTED && h.div_ceil(2) * w.div_ceil(2) * tile < h * w * 9 * c * o
}

/// G g Gᵀ for each output o and plane c with the taps g(o, c, kh, kw): `[16][O][C]`.
pub(super) fn weights<A: Real>([outputs, planes]: [usize; 2], g: impl Fn(usize, usize, usize, usize) -> A) -> Vec<A> {
    let half = A::from_f64(0.5);
    let rows = |[a, b, c]: [A; 3]| [a, half * (a + b + c), half * (a - b + c), c];
    let mut u = vec![A::ZERO; PLACES * outputs * planes];
    for o in 0..outputs {
        for c in 0..planes {
            // G g, by columns of g; then each of its four rows times Gᵀ.
            let columns: [[A; 4]; 3] = std::array::from_fn(|j| rows([g(o, c, 0, j), g(o, c, 1, j), g(o, c, 2, j)]));
            for i in 0..4 {
                for (j, u_ij) in rows([columns[0][i], columns[1][i], columns[2][i]]).into_iter().enumerate() {
                    u[((4 * i + j) * outputs + o) * planes + c] = u_ij;
                }
            }
        }
    }
    u
}

/// All groups: x and out as `p` says, u the transformed weights, b a bias for each plane of out.
pub(super) fn run<T: Element>(p: &Picture, u: &[T::Acc], b: Option<&[T::Acc]>, x: &Tensor, out: &mut Tensor, add: bool) {
    let ([c, h, w], per_group) = (p.read, p.written.iter().product());
    let x = x.lanes::<T>();
    let groups = out.lanes_mut::<T>().par_chunks_mut(per_group).enumerate();
    groups.for_each_init(Default::default, |[x_scratch, out_scratch, room]: &mut [Scratch; 3], (g, out)| {
        let x = x_scratch.widen::<T>(&x[g * c * h * w..][..c * h * w], w, 0, 0);
        let room = room.room::<T::Acc>(scratch(p));
        out_scratch.sum_into::<T>(out, add, |out, add| correlate::<T::Acc>(x, u, b, out, p, room, add));
    });
}

/// Lane vectors that [`correlate`] needs beside its arguments.
fn scratch(p: &Picture) -> usize {
    let t = tiles_at_once(p);
    PLACES * (slab(p.read[0], t) + slab(p.written[0], t))
}

/// Lane vectors from one place to the next: odd, or a window's 16 places would fall into few sets of the cache.
#[inline(always)]
fn slab(planes: usize, tiles: usize) -> usize {
    planes * tiles | 1
}

/// Tiles of a row that go through together.
fn tiles_at_once(p: &Picture) -> usize {
    let most = (ROOM / PLACES / p.read[0].max(p.written[0])).max(2);
    let tiles = p.written[2].div_ceil(2);
    tiles.div_ceil(tiles.div_ceil(most))
}

/// One group of images: out (+)= b + the windows of x times the kernels whose transformed weights are u.
///
/// x and out as `p` says, u `[16][O][C]`, b `[O]`, scratch [`scratch`].
fn correlate<A: Real>(x: &[[A; L]], u: &[A], b: Option<&[A]>, out: &mut [[A; L]], p: &Picture, scratch: &mut [[A; L]], add: bool) {
    let ([c, ..], [o, h, w]) = (p.read, p.written);
    let most = tiles_at_once(p);
    for row in 0..h.div_ceil(2) {
        let mut first = 0;
        while first < w.div_ceil(2) {
            let t = most.min(w.div_ceil(2) - first);
            // v and m: [16][plane][tile]
            let (v, m) = scratch.split_at_mut(PLACES * slab(c, t));
            windows::<A>(x, v, p, row, first, t);
            let taps = dot(c, t, 1);
            let strides = Strides { x: 1, w: c, out: [t, 1] };
            for ((v, m), u) in v.chunks(slab(c, t)).zip(m.chunks_mut(slab(o, t))).zip(u.chunks(o * c)) {
                strip::<A>(v, u, None, &taps, m, [o, t], &strides, false);
            }
            outputs::<A>(m, b, out, p, row, first, t, add);
            first += t;
        }
    }
}

simd! {
    /// v[.][c][i] = Bᵀ d B of t tiles of a row, beginning with the tile `first`.
    fn windows<A: Real>(x: &[[A; L]], v: &mut [[A; L]], p: &Picture, row: usize, first: usize, t: usize) {
        let [planes, height, width] = p.read;
        let start = 2 * first as isize - p.padding[1] as isize;
        let slab = slab(planes, t);
        for c in 0..planes {
            let x = &x[c * height * width..][..height * width];
            // The window's rows that lie in the picture.
            let mut rows: [Option<&[[A; L]]>; 4] = [None; 4];
            for i in 0..4 {
                let row = (2 * row + i).wrapping_sub(p.padding[0]);
                if row < height {
                    rows[i] = Some(&x[row * width..][..width]);
                }
            }
            // Neighbouring windows share two columns.
            let (mut a, mut b) = (column::<A, V>(&rows, start), column::<A, V>(&rows, start + 1));
            for i in 0..t {
                let at = start + 2 * i as isize;
                let (d, e) = (column::<A, V>(&rows, at + 2), column::<A, V>(&rows, at + 3));
                for r in 0..4 {
                    let places = [a[r].minus(d[r]), b[r].plus(d[r]), d[r].minus(b[r]), b[r].minus(e[r])];
                    for j in 0..4 {
                        places[j].store(&mut v[(4 * r + j) * slab + c * t + i]);
                    }
                }
                (a, b) = (d, e);
            }
        }
    }
}

/// Column j of Bᵀ d; zeros lie outside of the picture.
#[inline(always)]
fn column<A: Real, V: Vector<A>>(rows: &[Option<&[[A; L]]>; 4], j: isize) -> [V; 4] {
    let mut d = [V::splat(A::ZERO); 4];
    for i in 0..4 {
        if let Some(row) = rows[i]
            && let Some(x) = row.get(j as usize)
        {
            d[i] = V::load(x);
        }
    }
    [d[0].minus(d[2]), d[1].plus(d[2]), d[2].minus(d[1]), d[1].minus(d[3])]
}

simd! {
    /// out (+)= b + Aᵀ m A of t tiles of a row.
    fn outputs<A: Real>(
        m: &[[A; L]],
        b: Option<&[A]>,
        out: &mut [[A; L]],
        p: &Picture,
        row: usize,
        first: usize,
        t: usize,
        add: bool,
    ) {
        let [planes, height, width] = p.written;
        let slab = slab(planes, t);
        for o in 0..planes {
            let bias = V::splat(b.map_or(A::ZERO, |b| b[o]));
            let out = &mut out[o * height * width..][..height * width];
            for i in 0..t {
                let mut columns = [[bias; 2]; 4];
                for j in 0..4 {
                    let mut place = [bias; 4];
                    for r in 0..4 {
                        place[r] = V::load(&m[(4 * r + j) * slab + o * t + i]);
                    }
                    let [a, b, c, d] = place;
                    columns[j] = [a.plus(b).plus(c), b.minus(c).minus(d)];
                }
                let [a, b, c, d] = columns;
                for r in 0..2.min(height - 2 * row) {
                    let pair = [a[r].plus(b[r]).plus(c[r]), b[r].minus(c[r]).minus(d[r])];
                    for j in 0..2.min(width - 2 * (first + i)) {
                        let out = &mut out[(2 * row + r) * width + 2 * (first + i) + j];
                        let y = pair[j].plus(bias);
                        let y = if add { V::load(out).plus(y) } else { y };
                        y.store(out);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Philox;

    /// The largest error of one group's convolution in f32, in units of what its outputs' root mean square is, against direct sums
    /// in f64: Winograd's, and that of direct sums in f32.
    fn errors(p: &Picture) -> [f64; 2] {
        let ([c, h, w], [o, oh, ow], rng) = (p.read, p.written, Philox::new(3));
        let x: Vec<[f32; L]> = (0..c * h * w).map(|i| std::array::from_fn(|l| rng.normal(0, (i * L + l) as u64) as f32)).collect();
        let g: Vec<[[f32; 3]; 3]> = (0..o * c)
            .map(|i| std::array::from_fn(|a| std::array::from_fn(|b| rng.normal(1, (9 * i + 3 * a + b) as u64) as f32)))
            .collect();
        let u = weights::<f32>([o, c], |o, plane, kh, kw| g[o * c + plane][kh][kw]);
        let mut out = vec![[f32::NAN; L]; o * oh * ow];
        correlate::<f32>(&x, &u, None, &mut out, p, &mut vec![[f32::NAN; L]; scratch(p)], false);
        let (mut worst, mut squares) = ([0.0f64; 2], 0.0);
        for (i, lanes) in out.iter().enumerate() {
            let (plane, row, col) = (i / (oh * ow), i / ow % oh, i % ow);
            for (l, &y) in lanes.iter().enumerate() {
                let (mut exact, mut direct) = (0.0f64, 0.0f32);
                for (c, kh, kw) in (0..c).flat_map(|c| (0..9).map(move |k| (c, k / 3, k % 3))) {
                    let (r, s) = ((row + kh).wrapping_sub(p.padding[0]), (col + kw).wrapping_sub(p.padding[1]));
                    if r < h && s < w {
                        let (x, g) = (x[(c * h + r) * w + s][l], g[plane * p.read[0] + c][kh][kw]);
                        exact += f64::from(x) * f64::from(g);
                        direct = x.mul_add(g, direct);
                    }
                }
                squares += exact * exact;
                for (worst, y) in worst.iter_mut().zip([y, direct]) {
                    *worst = worst.max((f64::from(y) - exact).abs());
                }
            }
        }
        let rms = (squares / (out.len() * L) as f64).sqrt();
        worst.map(|worst| worst / rms)
    }

    #[test]
    fn its_error_is_a_few_times_that_of_direct_sums() {
        for (c, o, h, padding) in [(3, 5, 6, 1), (16, 16, 28, 1), (64, 64, 7, 1), (10, 20, 9, 0), (7, 2, 5, 2)] {
            let out = h + 2 * padding - 2;
            let p = Picture { read: [c, h, h], written: [o, out, out], padding: [padding; 2] };
            let [winograd, direct] = errors(&p);
            println!("{c}->{o} {h}x{h} p{padding}: {winograd:.1e} of the root mean square, direct sums {direct:.1e}");
            assert!(winograd < 1e-5 && winograd < 8.0 * direct, "{p:?}: {winograd:e} against {direct:e}");
        }
    }
}
