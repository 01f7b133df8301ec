//! Convolutions with a 3x3 or 5x5 kernel and stride 1 by fewer multiplications: Winograd's F(2x2, 3x3), F(2x2, 5x5) and F(4x4, 3x3).
//!
//! This is not an op. A tile of 2x2 outputs needs a window of 4x4 (6x6) pixels. Transformed, its 36 (100) products become 16 (36)
//! (Winograd, "Arithmetic complexity of computations", 1980; Lavin and Gray, "Fast algorithms for convolutional neural networks",
//! CVPR 2016). A row of pixels and a row of the kernel are taken for polynomials; their product is known from its values at the points
//! 0, 1, -1 (2, -2) and infinity. With the window d and the kernel g
//!
//! ```text
//!      | 1  0 -1  0 |       | 4  0 -5  0  1  0 |        ┌ Σ_k g_k·pᵏ at each point p,
//! Bᵀ = | 0  1  1  0 |  or   | 0 -4 -4  1  1  0 |   Gg = ┤   times 1, ½, ½ or ¼, -⅙, -⅙, 1/24, 1/24;
//!      | 0 -1  1  0 |       | 0  4 -4 -1  1  0 |        └ the last g
//!      | 0 -1  0  1 |       | 0 -2 -1  2  1  0 |
//!                           | 0  2 -1 -2  1  0 |  (Aᵀm)_k = Σ_p m_p·pᵏ for each k; the last plus m_∞
//!                           | 0  4  0 -5  0  1 |
//!
//! y = Aᵀ [ Σ_c (G g Gᵀ) ∘ (Bᵀ d B) ] A
//! ```
//!
//! where ∘ multiplies place by place. For each place the sum over channels is a product of matrices, which `tile.rs` computes; a lane is an
//! image, so the transforms are a few operations on lane vectors. Some tiles at a time go through all three stages, so that what
//! lies between them stays in the second-level cache.
//!
//! The transforms cost additions and rounding: a test holds the error against that of direct sums. Tiles of 4x4 with a 3x3 kernel take the
//! windows of a 5x5 kernel and little more than half the products (36 for 144), but their error moved ResNet-8's gradients too far from PyTorch's: they
//! serve where nothing is differentiated. [`Picture::pays`] decides by the shape alone; `CUGRAD_WINOGRAD=off` keeps to direct sums. Read
//! next: `winograd/dw.rs`, the weight gradient.

pub(super) mod dw;
mod kernels;
mod products;

use kernels::SIDE;
pub(super) use kernels::weights;

use super::conv2d::Dims;
use super::correlate::Scratch;
use super::finish::{End, Rows};
use super::tile::{Strides, dot, strip};
use crate::device::second_level_cache;
use crate::simd;
use crate::tensor::{Element, L, Real, Tensor, Vector};
use rayon::prelude::*;
use std::sync::LazyLock;

/// A convolution with stride 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Picture {
    /// What is read: planes, rows, columns.
    pub(super) read: [usize; 3],
    /// What is written.
    pub(super) written: [usize; 3],
    /// Zeros above and left of what is read.
    pub(super) padding: [usize; 2],
    /// The side of the kernel, 3 or 5.
    pub(super) kernel: usize,
    /// Outputs of a tile along each side: 2, or 4 with a 3x3 kernel.
    pub(super) out: usize,
}

impl Picture {
    /// Pixels of a window, and places of its transform, along each side.
    fn side(&self) -> usize {
        self.kernel + self.out - 1
    }

    fn places(&self) -> usize {
        self.side() * self.side()
    }

    /// Tiles in a column and in a row.
    fn tiles(&self) -> [usize; 2] {
        [self.written[1], self.written[2]].map(|size| size.div_ceil(self.out))
    }

    /// Products of direct sums, which leave out what lies outside: the taps inside of a column's, and of a row's, windows.
    fn products(&self) -> usize {
        let inside = |i: usize| -> usize {
            let (size, pad) = (self.read[i], self.padding[i - 1]);
            (0..self.written[i]).map(|at| (at + self.kernel).min(size + pad).saturating_sub(at.max(pad))).sum()
        };
        inside(1) * inside(2) * self.read[0] * self.written[0]
    }

    /// Counts what a CPU does for all tiles: products, and the transforms' loads, stores and additions.
    pub(super) fn work(&self) -> usize {
        let ([c, o], [rows, cols]) = ([self.read[0], self.written[0]], self.tiles());
        rows * cols * (self.places() * c * o + 2 * self.places() * self.side() * (c + o))
    }

    /// Is this the faster way?
    pub(super) fn pays(&self) -> bool {
        enabled() && self.work() < self.products()
    }

    /// The same with windows of 6x6.
    pub(super) fn large(self) -> Picture {
        Picture { out: SIDE + 1 - self.kernel, ..self }
    }

    /// The same with the tiles that are fastest where nothing is differentiated.
    pub(super) fn for_inference(self) -> Picture {
        let large = self.large();
        if large.work() < self.work() { large } else { self }
    }

    /// Tiles of a row that go through together: their transformed windows, in f32, fill a third of a second-level cache at most; products
    /// and weights come on top.
    fn tiles_at_once(&self) -> usize {
        let room = second_level_cache() / 3 / size_of::<[f32; L]>();
        let (most, tiles) = ((room / self.places() / self.read[0].max(self.written[0])).max(2), self.tiles()[1]);
        tiles.div_ceil(tiles.div_ceil(most))
    }
}

/// d's y as a picture of x, if it has stride 1 and one of the kernels.
pub(super) fn of_y(d: &Dims) -> Option<Picture> {
    picture(d, [d.c, d.h, d.w], [d.o, d.oh, d.ow], [d.ph, d.pw])
}

/// d's dx as a picture of dy, likewise.
pub(super) fn of_dx(d: &Dims) -> Option<Picture> {
    picture(d, [d.o, d.oh, d.ow], [d.c, d.h, d.w], [d.ph, d.pw].map(|p| (d.kh - 1).wrapping_sub(p)))
}

fn picture(d: &Dims, read: [usize; 3], written: [usize; 3], padding: [usize; 2]) -> Option<Picture> {
    let fits = matches!([d.kh, d.kw, d.sh, d.sw], [3, 3, 1, 1] | [5, 5, 1, 1]) && d.ph.max(d.pw) < d.kh;
    fits.then_some(Picture { read, written, padding, kernel: d.kh, out: 2 })
}

/// `CUGRAD_WINOGRAD=off` keeps to direct sums.
fn enabled() -> bool {
    static WANTED: LazyLock<bool> = LazyLock::new(|| std::env::var("CUGRAD_WINOGRAD").as_deref() != Ok("off"));
    *WANTED
}

/// All groups: x and the sums as `p` says, u the transformed weights, b a bias for each plane of sums.
pub(super) fn run<T: Element>(p: &Picture, u: &[T::Acc], b: Option<&[T::Acc]>, x: &Tensor, end: End<T>) {
    let groups = end.groups().into_par_iter().zip(x.lanes::<T>().par_chunks(p.read.iter().product()));
    groups.for_each_init(Default::default, |[x_scratch, out_scratch, room]: &mut [Scratch; 3], (group, x)| {
        let x = x_scratch.sums::<T>(x);
        let room = room.room::<T::Acc>(scratch(p));
        group.fill(out_scratch, |out, add, rows| correlate::<T::Acc>(x, u, b, out, p, room, add, rows));
    });
}

/// Lane vectors that [`correlate`] needs beside its arguments.
fn scratch(p: &Picture) -> usize {
    let t = p.tiles_at_once();
    p.places() * (slab(p.read[0], t) + slab(p.written[0], t))
}

/// Lane vectors from one place to the next: odd, or a window's places would fall into few sets of the cache.
#[inline(always)]
fn slab(planes: usize, tiles: usize) -> usize {
    (planes * tiles) | 1
}

/// One group of images: out (+)= b + the windows of x times the kernels whose transformed weights are u.
///
/// x and out as `p` says, u `[places][O][C]`, b `[O]`, scratch [`scratch`]; after each row of tiles `done` gets out and how many of its rows are there.
#[allow(clippy::too_many_arguments)]
fn correlate<A: Real>(
    x: &[[A; L]],
    u: &[A],
    b: Option<&[A]>,
    out: &mut [[A; L]],
    p: &Picture,
    scratch: &mut [[A; L]],
    add: bool,
    done: &mut Rows<A>,
) {
    let (c, o, [rows, cols]) = (p.read[0], p.written[0], p.tiles());
    for row in 0..rows {
        for first in (0..cols).step_by(p.tiles_at_once()) {
            let t = p.tiles_at_once().min(cols - first);
            // v and m: [places][plane][tile]
            let (v, m) = scratch.split_at_mut(p.places() * slab(c, t));
            let tiles = [row, first, t];
            transformed::<A>(x, v, p, tiles);
            let (taps, strides) = (dot(c, t, 1), Strides { x: 1, w: c, out: [t, 1] });
            for ((v, m), u) in v.chunks(slab(c, t)).zip(m.chunks_mut(slab(o, t))).zip(u.chunks(o * c)) {
                strip::<A>(v, u, None, &taps, m, [o, t], &strides, false);
            }
            returned::<A>(m, b, out, p, tiles, add);
        }
        done(out, p.written[1].min((row + 1) * p.out));
    }
}

simd! {
    fn transformed<A: Real>(x: &[[A; L]], v: &mut [[A; L]], p: &Picture, tiles: [usize; 3]) {
        match (p.kernel, p.out) {
            (3, 2) => windows::<A, V, 4, 2>(x, v, p, tiles),
            (3, _) => windows::<A, V, 6, 4>(x, v, p, tiles),
            _ => windows::<A, V, 6, 2>(x, v, p, tiles),
        }
    }
}
simd! {
    fn returned<A: Real>(m: &[[A; L]], b: Option<&[A]>, out: &mut [[A; L]], p: &Picture, tiles: [usize; 3], add: bool) {
        match (p.kernel, p.out) {
            (3, 2) => outputs::<A, V, 4, 2>(m, b, out, p, tiles, add),
            (3, _) => outputs::<A, V, 6, 4>(m, b, out, p, tiles, add),
            _ => outputs::<A, V, 6, 2>(m, b, out, p, tiles, add),
        }
    }
}

/// v[.][c][i] = Bᵀ d B of t tiles of a row, whose windows have `S` rows, beginning with the tile `first`.
#[inline(always)]
fn windows<A: Real, V: Vector<A>, const S: usize, const OUT: usize>(
    x: &[[A; L]],
    v: &mut [[A; L]],
    p: &Picture,
    [row, first, t]: [usize; 3],
) {
    let [planes, height, width] = p.read;
    let start = (OUT * first) as isize - p.padding[1] as isize;
    let slab = slab(planes, t);
    for c in 0..planes {
        let x = &x[c * height * width..][..height * width];
        // The window's rows that lie in the picture.
        let mut rows: [Option<&[[A; L]]>; S] = [None; S];
        for i in 0..S {
            let row = (OUT * row + i).wrapping_sub(p.padding[0]);
            if row < height {
                rows[i] = Some(&x[row * width..][..width]);
            }
        }
        // Neighbouring windows share all but OUT columns.
        let mut columns = [[V::splat(A::ZERO); S]; S];
        for j in OUT..S {
            columns[j] = column::<A, V, S>(&rows, start + (j - OUT) as isize);
        }
        for i in 0..t {
            for j in 0..S - OUT {
                columns[j] = columns[j + OUT];
            }
            for j in S - OUT..S {
                columns[j] = column::<A, V, S>(&rows, start + (OUT * i + j) as isize);
            }
            for r in 0..S {
                let mut d = [V::splat(A::ZERO); S];
                for j in 0..S {
                    d[j] = columns[j][r];
                }
                let places = input::<A, V, S>(d);
                for j in 0..S {
                    places[j].store(&mut v[(S * r + j) * slab + c * t + i]);
                }
            }
        }
    }
}

/// Column j of Bᵀ d; zeros lie outside of the picture.
#[inline(always)]
fn column<A: Real, V: Vector<A>, const S: usize>(rows: &[Option<&[[A; L]]>; S], j: isize) -> [V; S] {
    let mut d = [V::splat(A::ZERO); S];
    for i in 0..S {
        if let Some(row) = rows[i]
            && let Some(x) = row.get(j as usize)
        {
            d[i] = V::load(x);
        }
    }
    input::<A, V, S>(d)
}

/// A factor.
#[inline(always)]
fn by<A: Real, V: Vector<A>>(k: f64) -> V {
    V::splat(A::from_f64(k))
}

/// Bᵀ d
#[inline(always)]
fn input<A: Real, V: Vector<A>, const S: usize>(d: [V; S]) -> [V; S] {
    let mut places = d;
    if S == 4 {
        places[0] = d[0].minus(d[2]);
        places[1] = d[1].plus(d[2]);
        places[2] = d[2].minus(d[1]);
        places[3] = d[3].minus(d[1]);
        return places;
    }
    let (four, minus_four, minus_five) = (by::<A, V>(4.0), by::<A, V>(-4.0), by::<A, V>(-5.0));
    let (even, odd) = (d[2].fma(minus_four, d[4]), d[1].fma(minus_four, d[3]));
    let (outer, inner) = (d[4].minus(d[2]), d[3].minus(d[1]));
    let inner = inner.plus(inner);
    places[0] = d[0].fma(four, d[2].fma(minus_five, d[4]));
    places[1] = even.plus(odd);
    places[2] = even.minus(odd);
    places[3] = outer.plus(inner);
    places[4] = outer.minus(inner);
    places[5] = d[1].fma(four, d[3].fma(minus_five, d[5]));
    places
}

/// Aᵀ m
#[inline(always)]
fn output<A: Real, V: Vector<A>, const S: usize, const OUT: usize>(m: [V; S]) -> [V; OUT] {
    let (sum, difference) = (m[1].plus(m[2]), m[1].minus(m[2]));
    let mut y = [m[0].plus(sum); OUT];
    y[1] = difference;
    if S == 6 {
        let (sum_2, difference_2) = (m[3].plus(m[4]), m[3].minus(m[4]));
        y[0] = y[0].plus(sum_2);
        y[1] = difference_2.fma(by::<A, V>(2.0), difference);
        if OUT == 4 {
            y[2] = sum_2.fma(by::<A, V>(4.0), sum);
            y[3] = difference_2.fma(by::<A, V>(8.0), difference);
        }
    }
    y[OUT - 1] = y[OUT - 1].plus(m[S - 1]);
    y
}

/// out (+)= b + Aᵀ m A of t tiles of a row.
#[inline(always)]
fn outputs<A: Real, V: Vector<A>, const S: usize, const OUT: usize>(
    m: &[[A; L]],
    b: Option<&[A]>,
    out: &mut [[A; L]],
    p: &Picture,
    [row, first, t]: [usize; 3],
    add: bool,
) {
    let [planes, height, width] = p.written;
    let slab = slab(planes, t);
    for o in 0..planes {
        let bias = V::splat(b.map_or(A::ZERO, |b| b[o]));
        let out = &mut out[o * height * width..][..height * width];
        for i in 0..t {
            let mut columns = [[bias; OUT]; S];
            for j in 0..S {
                let mut places = [bias; S];
                for r in 0..S {
                    places[r] = V::load(&m[(S * r + j) * slab + o * t + i]);
                }
                columns[j] = output::<A, V, S, OUT>(places);
            }
            for r in 0..OUT {
                let mut places = [bias; S];
                for j in 0..S {
                    places[j] = columns[j][r];
                }
                let y = output::<A, V, S, OUT>(places);
                let (row, col) = (OUT * row + r, OUT * (first + i));
                if row < height {
                    for (out, y) in out[row * width..][col..width].iter_mut().zip(y) {
                        let y = y.plus(bias);
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
        let k = p.kernel;
        let g: Vec<f32> = (0..o * c * k * k).map(|i| rng.normal(1, i as u64) as f32).collect();
        let tap = |o: usize, plane: usize, kh: usize, kw: usize| g[((o * c + plane) * k + kh) * k + kw];
        let u = weights::<f32>(p, tap);
        let mut out = vec![[f32::NAN; L]; o * oh * ow];
        correlate::<f32>(&x, u.data(), None, &mut out, p, &mut vec![[f32::NAN; L]; scratch(p)], false, &mut |_, _| ());
        let (mut worst, mut squares) = ([0.0f64; 2], 0.0);
        for (i, lanes) in out.iter().enumerate() {
            let (plane, row, col) = (i / (oh * ow), i / ow % oh, i % ow);
            for (l, &y) in lanes.iter().enumerate() {
                let (mut exact, mut direct) = (0.0f64, 0.0f32);
                for (c, kh, kw) in (0..c).flat_map(|c| (0..k * k).map(move |i| (c, i / k, i % k))) {
                    let (r, s) = ((row + kh).wrapping_sub(p.padding[0]), (col + kw).wrapping_sub(p.padding[1]));
                    if r < h && s < w {
                        let (x, g) = (x[(c * h + r) * w + s][l], tap(plane, c, kh, kw));
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
    fn its_error_is_near_that_of_direct_sums() {
        for (c, o, h, kernel, padding, tile) in [
            (3, 5, 6, 3, 1, 2),
            (16, 16, 28, 3, 1, 2),
            (64, 64, 7, 3, 1, 2),
            (10, 20, 9, 3, 0, 2),
            (7, 2, 5, 3, 2, 2),
            (10, 20, 12, 5, 0, 2),
            (16, 32, 14, 5, 2, 2),
            (20, 10, 8, 5, 4, 2),
            (3, 5, 6, 3, 1, 4),
            (16, 16, 28, 3, 1, 4),
            (64, 64, 7, 3, 1, 4),
            (10, 20, 9, 3, 0, 4),
            (7, 2, 5, 3, 2, 4),
        ] {
            let out = h + 2 * padding + 1 - kernel;
            let p = Picture { read: [c, h, h], written: [o, out, out], padding: [padding; 2], kernel, out: tile };
            let [winograd, direct] = errors(&p);
            println!(
                "{c}->{o} {h}x{h} k{kernel} p{padding}, tiles of {tile}: {winograd:.1e} of the root mean square, direct sums {direct:.1e}"
            );
            let times = match (kernel, tile) {
                (3, 2) => 1.5,
                (5, _) => 8.0,
                _ => 20.0,
            };
            assert!(winograd < times * direct, "{p:?}: {winograd:e} against {direct:e}");
        }
    }
}
