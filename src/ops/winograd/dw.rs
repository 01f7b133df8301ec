//! Winograd's way to a convolution's weight gradient: its transforms transposed, and sums as long as possible.
//!
//! `winograd.rs` has y = Aᵀ [ Σ_c (G g Gᵀ) ∘ (Bᵀ d B) ] A for a tile of outputs. A change of g changes y linearly, so its gradient
//! passes the same matrices backwards:
//!
//! ```text
//! dg = Gᵀ [ Σ_tiles (A dy Aᵀ) ∘ (Bᵀ d B) ] G      (each sum over tiles is one over images, too)
//! ```
//!
//! The windows are those of 6x6 pixels in both cases: a 5x5 kernel has tiles of 2x2, where 36 products stand for 100, and a 3x3 kernel
//! tiles of 4x4, where they stand for 144. (Its error, larger than that of forward's smaller tiles, ends in this gradient instead of
//! going on through other layers.)
//!
//! A task owns some outputs and some stretches of rows of tiles. As many tiles as half a second-level cache holds are transformed together, one of the
//! six rows of places after another, so that a sum stays in a register for long before its lanes are added. Read next: `kernels.rs`, `products.rs`.

use super::kernels::{self, SIDE, points};
use super::products::{blocks, place, products, stride};
use super::{Picture, by, enabled, input};
use crate::ops::correlate::Scratch;
use crate::simd;
use crate::tensor::{Element, L, Real, Spec, Stored, Tensor, Vector, load};
use rayon::prelude::*;
use std::ops::Range;

const PLACES: usize = SIDE * SIDE;

/// Lane vectors that are at hand at a time, pixels and a row of their places: they stay in a second-level cache while all rows are transformed.
const ROOM: usize = 16384;

/// Outputs of a task at most, and planes of x that are transformed together: the windows are transformed again for other outputs, dy for
/// other planes.
const OUTPUTS: usize = 32;
const PLANES: usize = 32;

/// Tiles of a row that go together at most.
const TILES: usize = 16;

/// Tasks by shapes alone: at least, where there is as much to share out, and at most.
const TASKS: [usize; 2] = [8, 16];

/// Neighbouring tiles of a row, of one group of images.
#[derive(Debug, Clone, Copy)]
struct Segment {
    group: usize,
    row: usize,
    first: usize,
    tiles: usize,
}

/// Is this the faster way for a picture of windows of 6x6?
pub(in crate::ops) fn pays(p: &Picture) -> bool {
    let ([c, ..], [o, ..], [rows, cols]) = (p.read, p.written, p.tiles());
    // Measured: a transform costs as much as 12 products for each number that it writes, the way through the second-level cache most of it.
    let written = c * o.div_ceil(OUTPUTS) + o * c.div_ceil(PLANES);
    enabled() && rows * cols * PLACES * (c * o + 12 * written) < p.products()
}

/// dw `[O][C][K][K]` of x and dy as p reads and writes them.
pub(in crate::ops) fn run<T: Element>(p: &Picture, x: &Tensor, dy: &Tensor) -> Vec<T::Acc> {
    let ([c, ..], [o, ..], [rows, cols]) = (p.read, p.written, p.tiles());
    let pieces = cols.div_ceil(TILES);
    let segment = |i: usize| {
        let (piece, row, group) = (i % pieces, i / pieces % rows, i / pieces / rows);
        let first = piece * cols / pieces;
        Segment { group, row, first, tiles: (piece + 1) * cols / pieces - first }
    };
    let segments: Vec<Segment> = (0..dy.spec().groups() * rows * pieces).map(segment).collect();
    let outputs = o.div_ceil(o.div_ceil(OUTPUTS));
    let tasks_of_share = o.div_ceil(outputs);
    let tile = (p.out * p.out + SIDE) * (c.min(PLANES) + outputs);
    let most = (segments.len() * tasks_of_share).div_ceil(TASKS[0]);
    let at_once = (ROOM / tile / cols.div_ceil(pieces)).clamp(1, most);
    let chunks = segments.len().div_ceil(at_once);
    let chunks_of_share = chunks.div_ceil(TASKS[1].div_ceil(tasks_of_share));
    let shares = chunks.div_ceil(chunks_of_share);
    // m: [shares][blocks of outputs][places][outputs and planes]
    let of_task = PLACES * blocks(outputs, c);
    let of_share = of_task * tasks_of_share;
    let mut m = Tensor::new(Spec::rows([shares, of_share], T::Acc::DTYPE));
    let m = m.data_mut::<T::Acc>();
    let tasks = m.chunks_mut(of_share).enumerate().flat_map(|(share, m)| {
        let segments = &segments[share * segments.len() / shares..(share + 1) * segments.len() / shares];
        m.chunks_mut(of_task).enumerate().map(move |(i, m)| (segments, i * outputs..o.min((i + 1) * outputs), m))
    });
    let tasks: Vec<_> = tasks.collect();
    let (x, dy) = (x.lanes::<T>(), dy.lanes::<T>());
    tasks.into_par_iter().for_each_init(Scratch::default, |room, (segments, outputs, m)| {
        let chunks = segments.len().div_ceil(at_once);
        let chunks = (0..chunks).map(|i| &segments[i * segments.len() / chunks..(i + 1) * segments.len() / chunks]);
        sums::<T>(p, x, dy, chunks, outputs, m, room);
    });
    finish::<T::Acc>(p, m, of_share, outputs)
}

/// dw of all shares' sums m `[shares][blocks of outputs][places][outputs and planes]`, with so many numbers a share and outputs a block.
fn finish<A: Real>(p: &Picture, m: &mut [A], of_share: usize, outputs: usize) -> Vec<A> {
    let ([c, ..], [o, ..], k) = (p.read, p.written, p.kernel);
    let of_place = blocks(outputs, c);
    let (m, others) = m.split_at_mut(of_share);
    m.par_chunks_mut(of_place).enumerate().for_each(|(i, m)| {
        for other in others.chunks(of_share) {
            for (m, &other) in m.iter_mut().zip(&other[i * of_place..]) {
                *m = *m + other;
            }
        }
    });
    let m = &*m;
    let mut dw = vec![A::ZERO; o * c * k * k];
    dw.par_chunks_mut(c * k * k).enumerate().for_each_init(Scratch::default, |room, (i, dw)| {
        let m = &m[i / outputs * PLACES * of_place..];
        kernels::gradients(|j, plane| m[j * of_place + place(i % outputs, plane, c)], dw, k, room);
    });
    dw
}

/// One task: m `[places][outputs and planes]`, for each chunk of segments.
fn sums<'a, T: Element>(
    p: &Picture,
    x: &[[T; L]],
    dy: &[[T; L]],
    chunks: impl Iterator<Item = &'a [Segment]>,
    outputs: Range<usize>,
    m: &mut [T::Acc],
    room: &mut Scratch,
) {
    let (planes, of_place) = (p.read[0], m.len() / PLACES);
    m.fill(T::Acc::ZERO);
    for segments in chunks {
        let tiles = segments.iter().map(|s| s.tiles).sum();
        for first in (0..planes).step_by(PLANES) {
            let here = first..planes.min(first + PLANES);
            let stride = stride(tiles);
            // v: [places of a row][planes][tiles], d: [places of a row][outputs][tiles], and a row of pixels on its way
            let (of_v, of_d) = (here.len() * stride, outputs.len() * stride);
            let room = room.room::<T::Acc>(SIDE * (of_v + of_d) + 4 * TILES + SIDE);
            let (v, room) = room.split_at_mut(SIDE * of_v);
            let (d, line) = room.split_at_mut(SIDE * of_d);
            for (row, m) in m.chunks_exact_mut(SIDE * of_place).enumerate() {
                let mut at = 0;
                for s in segments {
                    windows::<T>(x, v, line, p, &here, s, [row, at, stride]);
                    gradients::<T>(dy, d, line, p, &outputs, s, [row, at, stride]);
                    at += s.tiles;
                }
                for ((d, v), m) in d.chunks_exact(of_d).zip(v.chunks_exact(of_v)).zip(m.chunks_exact_mut(of_place)) {
                    products::<T::Acc>(d, v, m, [outputs.len(), here.len(), tiles], [first, planes]);
                }
            }
        }
    }
}

/// The rows of Bᵀ, each by the pixels that it adds up and their factors.
const WINDOW: [[(usize, f64); 4]; SIDE] = [
    [(0, 4.0), (2, -5.0), (4, 1.0), (4, 0.0)],
    [(1, -4.0), (2, -4.0), (3, 1.0), (4, 1.0)],
    [(1, 4.0), (2, -4.0), (3, -1.0), (4, 1.0)],
    [(1, -2.0), (2, -1.0), (3, 2.0), (4, 1.0)],
    [(1, 2.0), (2, -1.0), (3, -2.0), (4, 1.0)],
    [(1, 4.0), (3, -5.0), (5, 1.0), (5, 0.0)],
];

simd! {
    /// v[.][c][.] = a row of Bᵀ d B for the tiles of a segment.
    ///
    /// x as p reads it, v `[places of a row][planes][stride]`; `at`: the row, the segment's first tile in v, the stride.
    fn windows<T: Element>(x: &[[T; L]], v: &mut [[T::Acc; L]], line: &mut [[T::Acc; L]], p: &Picture, planes: &Range<usize>, s: &Segment, at: [usize; 3]) {
        let ([all, height, width], [row, first, stride]) = (p.read, at);
        let line = &mut line[..p.out * s.tiles + SIDE - p.out];
        let rows = WINDOW[row].map(|(i, factor)| ((p.out * s.row + i).wrapping_sub(p.padding[0]), factor));
        for (i, c) in planes.clone().enumerate() {
            let x = &x[(s.group * all + c) * height * width..][..height * width];
            combine::<T, V, 4>(x, [height, width], rows, p.out * s.first, p.padding[1], line);
            let mut places = v.chunks_exact_mut(planes.len() * stride);
            let places: [&mut [_]; SIDE] = std::array::from_fn(|_| places.next().map_or(&mut [][..], |v| &mut v[i * stride + first..][..s.tiles]));
            for (t, d) in line.windows(SIDE).step_by(p.out).enumerate().take(s.tiles) {
                let mut pixels = [V::splat(T::Acc::ZERO); SIDE];
                for j in 0..SIDE {
                    pixels[j] = V::load(&d[j]);
                }
                let sums = input::<T::Acc, V, SIDE>(pixels);
                for j in 0..SIDE {
                    sums[j].store(&mut places[j][t]);
                }
            }
        }
    }
}

simd! {
    /// d[.][o][.] = a row of A dy Aᵀ for the tiles of a segment. As [`windows`], and dy as p writes it.
    fn gradients<T: Element>(dy: &[[T; L]], d: &mut [[T::Acc; L]], line: &mut [[T::Acc; L]], p: &Picture, outputs: &Range<usize>, s: &Segment, at: [usize; 3]) {
        let ([all, height, width], [row, first, stride]) = (p.written, at);
        let line = &mut line[..p.out * s.tiles];
        // The row's point p takes the rows of dy times 1, p, p², p³; infinity takes the last.
        let power = |i: usize| points(SIDE).get(row).map_or(f64::from(u8::from(i + 1 == p.out)), |(p, _)| p.powi(i as i32));
        let rows: [(usize, f64); 4] = std::array::from_fn(|i| if i < p.out { (p.out * s.row + i, power(i)) } else { (height, 0.0) });
        for (i, o) in outputs.clone().enumerate() {
            let dy = &dy[(s.group * all + o) * height * width..][..height * width];
            match p.out {
                2 => combine::<T, V, 2>(dy, [height, width], [rows[0], rows[1]], 2 * s.first, 0, line),
                _ => combine::<T, V, 4>(dy, [height, width], rows, 4 * s.first, 0, line),
            }
            let mut places = d.chunks_exact_mut(outputs.len() * stride);
            let places: [&mut [_]; SIDE] = std::array::from_fn(|_| places.next().map_or(&mut [][..], |d| &mut d[i * stride + first..][..s.tiles]));
            for (t, f) in line.chunks_exact(p.out).enumerate().take(s.tiles) {
                let sums = match f {
                    [f0, f1] => spread::<T::Acc, V>([V::load(f0), V::load(f1)], None),
                    [f0, f1, f2, f3] => spread::<T::Acc, V>([V::load(f0), V::load(f1)], Some([V::load(f2), V::load(f3)])),
                    _ => unreachable!("a tile is 2 or 4 pixels wide"),
                };
                for j in 0..SIDE {
                    sums[j].store(&mut places[j][t]);
                }
            }
        }
    }
}

/// A f: the polynomial whose coefficients are f at the points 0, 1, -1, 2, -2 and infinity.
#[inline(always)]
fn spread<A: Real, V: Vector<A>>([f0, f1]: [V; 2], higher: Option<[V; 2]>) -> [V; SIDE] {
    let (two, four) = (by::<A, V>(2.0), by::<A, V>(4.0));
    let (mut one, mut odd_one, mut two_even, mut two_odd, mut last) = (f0, f1, f0, f1, f1);
    if let Some([f2, f3]) = higher {
        (one, odd_one, last) = (f0.plus(f2), f1.plus(f3), f3);
        (two_even, two_odd) = (f2.fma(four, f0), f3.fma(four, f1));
    }
    let minus_two = by::<A, V>(-2.0);
    [f0, one.plus(odd_one), one.minus(odd_one), two_odd.fma(two, two_even), two_odd.fma(minus_two, two_even), last]
}

/// line[j] = Σ_k factor_k·plane[row_k][first + j − padding]; zeros lie outside of the picture.
#[inline(always)]
fn combine<T: Element, V: Vector<T::Acc>, const N: usize>(
    plane: &[[T; L]],
    [height, width]: [usize; 2],
    rows: [(usize, f64); N],
    first: usize,
    padding: usize,
    line: &mut [[T::Acc; L]],
) {
    let zero = V::splat(T::Acc::ZERO);
    // line[from..to] lies inside.
    let from = padding.saturating_sub(first).min(line.len());
    let to = (width + padding).saturating_sub(first).clamp(from, line.len());
    let start = (first + from).saturating_sub(padding);
    let (left, rest) = line.split_at_mut(from);
    let (inside, right) = rest.split_at_mut(to - from);
    left.iter_mut().chain(right).for_each(|line| zero.store(line));
    let Some(&(some, _)) = rows.iter().find(|(row, _)| *row < height) else {
        return inside.iter_mut().for_each(|line| zero.store(line));
    };
    let (mut sources, mut factors) = ([plane; N], [zero; N]);
    for k in 0..N {
        // A row outside of the picture counts nothing: whichever is read for it.
        let (row, factor) = if rows[k].0 < height { rows[k] } else { (some, 0.0) };
        sources[k] = &plane[row * width + start..][..inside.len()];
        factors[k] = by::<T::Acc, V>(factor);
    }
    for j in 0..inside.len() {
        let mut sum = zero;
        for k in 0..N {
            sum = load::<T, V>(&sources[k][j]).fma(factors[k], sum);
        }
        sum.store(&mut inside[j]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DType, Philox};

    /// The largest error of a gradient in f32, in units of what its root mean square is, against sums in f64: Winograd's, and that of
    /// sums in f32 one after another.
    fn errors(p: Picture, n: usize) -> [f64; 2] {
        let ([c, h, w], [o, oh, ow], k, rng) = (p.read, p.written, p.kernel, Philox::new(5));
        let draw = |stream: u64, count: usize| -> Vec<f64> { (0..count as u64).map(|i| f64::from(rng.normal(stream, i) as f32)).collect() };
        let (x, dy) = (draw(0, n * c * h * w), draw(1, n * o * oh * ow));
        let tensor = |shape: [usize; 4], values: &[f64]| Tensor::from_values(Spec::lanes(shape, DType::F32), values);
        let dw = run::<f32>(&p, &tensor([n, c, h, w], &x), &tensor([n, o, oh, ow], &dy));
        let (mut worst, mut squares) = ([0.0f64; 2], 0.0);
        for (i, &winograd) in dw.iter().enumerate() {
            let (output, plane, kh, kw) = (i / (c * k * k), i / (k * k) % c, i / k % k, i % k);
            let (mut exact, mut direct) = (0.0, 0.0f32);
            for (image, row, col) in (0..n * oh * ow).map(|j| (j / (oh * ow), j / ow % oh, j % ow)) {
                let (r, s) = ((row + kh).wrapping_sub(p.padding[0]), (col + kw).wrapping_sub(p.padding[1]));
                if r < h && s < w {
                    let (x, dy) = (x[((image * c + plane) * h + r) * w + s], dy[((image * o + output) * oh + row) * ow + col]);
                    exact += x * dy;
                    direct = (x as f32).mul_add(dy as f32, direct);
                }
            }
            squares += exact * exact;
            for (worst, sum) in worst.iter_mut().zip([winograd, direct]) {
                *worst = worst.max((f64::from(sum) - exact).abs());
            }
        }
        let rms = (squares / dw.len() as f64).sqrt();
        worst.map(|worst| worst / rms)
    }

    #[test]
    fn its_error_is_near_that_of_direct_sums() {
        for (n, c, o, h, w, kernel, padding) in [
            (1, 3, 5, 6, 6, 3, 1),
            (17, 16, 16, 28, 28, 3, 1),
            (2, 64, 40, 7, 7, 3, 1),
            (33, 10, 20, 12, 9, 3, 0),
            (1, 7, 2, 5, 5, 3, 2),
            (2, 2, 3, 4, 70, 3, 1),
            (33, 10, 20, 12, 12, 5, 0),
            (17, 16, 33, 14, 14, 5, 2),
            (2, 35, 10, 8, 8, 5, 4),
        ] {
            let [oh, ow] = [h, w].map(|size| size + 2 * padding + 1 - kernel);
            let p = Picture { read: [c, h, w], written: [o, oh, ow], padding: [padding; 2], kernel, out: SIDE + 1 - kernel };
            let [winograd, direct] = errors(p, n);
            println!("{c}->{o} {h}x{w} k{kernel} p{padding} n{n}: {winograd:.1e} of the root mean square, direct sums {direct:.1e}");
            assert!(winograd < 10.0 * direct, "{p:?}: {winograd:e} against {direct:e}");
        }
    }
}
