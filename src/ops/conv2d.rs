//! Two-dimensional convolution (as in every framework: a cross-correlation, the kernel is not flipped).
//!
//! # Forward
//!
//! ```text
//! y[n,o,oh,ow] = b[o] + Σ_c Σ_kh Σ_kw w[o,c,kh,kw]·x[n, c, oh·sh + kh − ph, ow·sw + kw − pw]
//!
//! x [N,C,H,W]   w [O,C,KH,KW]   b [O]   y [N,O,OH,OW]   OH = ⌊(H + 2ph − KH)/sh⌋ + 1, OW alike; x is 0 outside
//! ```
//!
//! # Backward
//!
//! Each y is a sum of products, so ∂y/∂x is the weight it was multiplied with and ∂y/∂w the pixel. Summing dy·∂y/∂· over all y:
//!
//! ```text
//! dw[o,c,kh,kw] = Σ_n Σ_oh Σ_ow dy[n,o,oh,ow]·x[n, c, oh·sh + kh − ph, ow·sw + kw − pw]
//! db[o]         = Σ_n Σ_oh Σ_ow dy[n,o,oh,ow]
//! dx[n,c,h,w]   = Σ_o Σ_kh Σ_kw w[o,c,kh,kw]·dy[n,o,oh,ow]     over those with oh·sh + kh − ph = h and ow·sw + kw − pw = w
//! ```
//!
//! The condition in dx has a solution oh only for kh ≡ h + ph (mod sh). So the input rows fall into sh classes (and the columns
//! into sw), each with taps kh = k0, k0 + sh, ... of its own, and within a class
//!
//! ```text
//! h = r + j·sh,  k0 = (r + ph) mod sh,  kh = k0 + t·sh   gives   oh = j + (r + ph − k0)/sh − t
//! ```
//!
//! which is again a convolution with stride 1, over dy, with the taps in reverse order. With stride 1 there is one class and this
//! is the well-known "convolution with the flipped kernel". No multiplication with a zero that a stride would insert is done, and
//! forward and dx are one inner loop, [`correlate`], with different [`Grid`]s.
//!
//! Cost: 2·N·O·OH·OW·C·KH·KW FLOP for each of y, dx and dw. One pass reads x and writes y; the weights stay in cache.
//!
//! Read next: `maxpool2d.rs`.

use super::case::{BATCHES, Case, Draw, Input};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::error::Result;
use crate::simd;
use crate::tensor::{Element, L, Lane, Layout, Real, Spec, Tensor, groups};
use rayon::prelude::*;

/// Convolution; inputs x `[N,C,H,W]`, w `[O,C,KH,KW]` and, if there is a bias, b `[O]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv2d {
    /// Step between windows, down and right; at least 1.
    pub stride: [usize; 2],
    /// Zeros around the picture: rows above and below, columns left and right.
    pub padding: [usize; 2],
}

/// All sizes of one convolution.
#[derive(Debug, Clone, Copy)]
struct Dims {
    n: usize,
    c: usize,
    h: usize,
    w: usize,
    o: usize,
    kh: usize,
    kw: usize,
    sh: usize,
    sw: usize,
    ph: usize,
    pw: usize,
    oh: usize,
    ow: usize,
}

impl Conv2d {
    fn dims(&self, x: &Spec, w: &Spec) -> Dims {
        let ([n, c, h, wd], [o, _, kh, kw]) = (x.shape.nchw(), w.shape.nchw());
        let ([sh, sw], [ph, pw]) = (self.stride, self.padding);
        let (oh, ow) = ((h + 2 * ph - kh) / sh + 1, (wd + 2 * pw - kw) / sw + 1);
        Dims { n, c, h, w: wd, o, kh, kw, sh, sw, ph, pw, oh, ow }
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        let rule = |rule: &str| Err(mismatch("conv2d", x, rule));
        let (&[x0, w], b) = match (x.first_chunk::<2>(), x.get(2)) {
            (Some(xw), b) if x.len() <= 3 => (xw, b),
            _ => return rule("takes x [N,C,H,W], w [O,C,KH,KW] and optionally b [O]"),
        };
        if x0.layout != Layout::Lanes || x0.shape.len() != 4 || w.shape.len() != 4 {
            return rule("takes x [N,C,H,W], w [O,C,KH,KW] and optionally b [O]");
        }
        let ([_, c, h, wd], [o, wc, kh, kw]) = (x0.shape.nchw(), w.shape.nchw());
        if c != wc {
            let e = mismatch("conv2d", x, format!("x brings {c} channels and w expects {wc}"));
            return Err(e.hint(format!("build the layer with {c} input channels")));
        }
        if b.is_some_and(|b| b.shape[..] != [o]) {
            return rule("b must have one element for each output channel");
        }
        if self.stride.contains(&0) || kh == 0 || kw == 0 {
            return rule("stride and kernel must be at least 1");
        }
        if h + 2 * self.padding[0] < kh || wd + 2 * self.padding[1] < kw {
            return rule("the kernel is larger than the padded picture");
        }
        let d = self.dims(&x0, &w);
        Ok(x0.with_shape([d.n, d.o, d.oh, d.ow]))
    }

    fn needs(&self) -> Needs {
        Needs::INPUTS
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        let d = self.dims(&x[0].spec(), &x[1].spec());
        crate::dispatch!(y.dtype(), T => forward::<T>(&d, x[0], x[1], x.get(2).copied(), y));
        Ok(Saved::new())
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        let d = self.dims(&n.spec(0), &n.spec(1));
        crate::dispatch!(dy.dtype(), T => {
            if dx[0].wanted() {
                backward_input::<T>(&d, n.x(1), dy, &mut dx[0]);
            }
            if dx[1..].iter().any(Slot::wanted) {
                backward_weight::<T>(&d, n.x(0), dy, &mut dx[1..]);
            }
        });
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        let d = self.dims(&x[0], &x[1]);
        2 * (d.n * d.o * d.oh * d.ow * d.c * d.kh * d.kw) as u64
    }
}

// ---- CPU

/// Output channels that are summed at once. With [`PIXELS`] pixels, 6 lane vectors stay in registers: 12 of AVX2's 16.
const CHANNELS: usize = 2;
/// Pixels of a row that are summed at once.
const PIXELS: usize = 3;

/// A convolution as [`correlate`] sees it: which windows to sum, and where the sums go.
#[derive(Debug, Clone, Copy)]
struct Grid {
    /// The picture that is read: planes, rows, and columns after padding.
    planes: usize,
    height: usize,
    width: usize,
    /// The window.
    kh: usize,
    kw: usize,
    /// Pixel (j, i) of the grid sums the window whose first row is j·sy + top (it may lie outside) and first column i·sx + left.
    rows: usize,
    cols: usize,
    sy: usize,
    sx: usize,
    top: isize,
    left: usize,
    /// The picture that is written: planes, their pixels, their columns.
    out_planes: usize,
    out_plane: usize,
    out_width: usize,
    /// Pixel (j, i) goes to row out_row + j·out_sy and column out_col + i·out_sx.
    out_row: usize,
    out_col: usize,
    out_sy: usize,
    out_sx: usize,
}

simd! {
    /// One group of images: out[o][j][i] = b[o] + Σ_c Σ_kh Σ_kw w[o][c][kh][kw]·x[c][j·sy + top + kh][i·sx + left + kw]
    ///
    /// x [planes][height][width], w [blocks][planes][kh][kw] of [`CHANNELS`] outputs, b [blocks], out [out_planes][out_plane]
    fn correlate<A: Real>(x: &[[A; L]], w: &[[A; CHANNELS]], b: &[[A; CHANNELS]], out: &mut [[A; L]], d: &Grid, add: bool) {
        let mut runs = Vec::with_capacity(d.planes * d.kh * d.kw);
        for j in 0..d.rows {
            // f64 is for checks: it need not be fast, and a tile of it would not fit the registers.
            if const { !FUSED || size_of::<A>() > 4 } {
                runs_of_row(d, j, 1, &mut runs);
                for i in 0..d.cols {
                    pixels_of_row::<A, 1, 1, 1>(x, w, b, out, d, j, i, add, &runs);
                }
                continue;
            }
            match d.kw {
                1 => row::<A, 1>(x, w, b, out, d, j, add, &mut runs),
                2 => row::<A, 2>(x, w, b, out, d, j, add, &mut runs),
                3 => row::<A, 3>(x, w, b, out, d, j, add, &mut runs),
                5 => row::<A, 5>(x, w, b, out, d, j, add, &mut runs),
                _ => row::<A, 1>(x, w, b, out, d, j, add, &mut runs),
            }
        }
    }
}

/// `K` neighbouring taps: where their pixels begin in x (for column 0), and where their weights begin in a block of w.
type Run = (u32, u32);

/// Row j of the output, summed in runs of `K` taps (a divisor of d.kw).
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn row<A: Real, const K: usize>(
    x: &[[A; L]],
    w: &[[A; CHANNELS]],
    b: &[[A; CHANNELS]],
    out: &mut [[A; L]],
    d: &Grid,
    j: usize,
    add: bool,
    runs: &mut Vec<Run>,
) {
    runs_of_row(d, j, K, runs);
    let mut i = 0;
    while i < d.cols {
        let pixels = at_once(d.cols - i);
        match (pixels, d.sx) {
            (3, 1) => pixels_of_row::<A, K, 3, 1>(x, w, b, out, d, j, i, add, runs),
            (2, 1) => pixels_of_row::<A, K, 2, 1>(x, w, b, out, d, j, i, add, runs),
            (3, 2) if const { K == 3 } => pixels_of_row::<A, K, 3, 2>(x, w, b, out, d, j, i, add, runs),
            (2, 2) if const { K == 3 } => pixels_of_row::<A, K, 2, 2>(x, w, b, out, d, j, i, add, runs),
            _ => {
                for i in i..i + pixels {
                    pixels_of_row::<A, K, 1, 1>(x, w, b, out, d, j, i, add, runs);
                }
            }
        }
        i += pixels;
    }
}

/// Cuts the windows' rows of output row j that lie inside the picture into runs of `k` taps.
fn runs_of_row(d: &Grid, j: usize, k: usize, runs: &mut Vec<Run>) {
    let row0 = (j * d.sy) as isize + d.top;
    runs.clear();
    for c in 0..d.planes {
        for kh in 0..d.kh {
            let row = row0 + kh as isize;
            if (0..d.height as isize).contains(&row) {
                let (row, tap) = ((c * d.height + row as usize) * d.width + d.left, (c * d.kh + kh) * d.kw);
                runs.extend((0..d.kw).step_by(k).map(|kw| ((row + kw) as u32, (tap + kw) as u32)));
            }
        }
    }
}

/// How many of `left` things to do at once: threes, but rather two twos at the end than a three and a one.
#[inline(always)]
fn at_once(left: usize) -> usize {
    if left == 1 || left == 2 || left == 4 { left.min(2) } else { PIXELS }
}

/// `P` pixels from (j, i) on, of all output channels. `S` is d.sx (any value if P is 1).
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn pixels_of_row<A: Real, const K: usize, const P: usize, const S: usize>(
    x: &[[A; L]],
    w: &[[A; CHANNELS]],
    b: &[[A; CHANNELS]],
    out: &mut [[A; L]],
    d: &Grid,
    j: usize,
    i: usize,
    add: bool,
    runs: &[Run],
) {
    let x = &x[i * d.sx..];
    let per_block = d.planes * d.kh * d.kw;
    for (block, bias) in b.iter().enumerate() {
        let w = &w[block * per_block..][..per_block];
        let mut acc = [[Lane::zero(); P]; CHANNELS];
        for o in 0..CHANNELS {
            acc[o] = [Lane::splat(bias[o]); P];
        }
        for &(pixel, tap) in runs {
            let x = &x[pixel as usize..][..(P - 1) * S + K];
            let w = &w[tap as usize..][..K];
            for k in 0..K {
                for o in 0..CHANNELS {
                    for p in 0..P {
                        acc[o][p] = Lane(x[p * S + k]).fma(w[k][o], acc[o][p]);
                    }
                }
            }
        }
        for o in 0..CHANNELS.min(d.out_planes - block * CHANNELS) {
            for p in 0..P {
                let (row, col) = (d.out_row + j * d.out_sy, d.out_col + (i + p) * d.out_sx);
                acc[o][p].put(&mut out[(block * CHANNELS + o) * d.out_plane + row * d.out_width + col], add);
            }
        }
    }
}

/// x [N,C,H,W], w [O,C,KH,KW], b [O], y [N,O,OH,OW]
fn forward<T: Element>(d: &Dims, x: &Tensor, w: &Tensor, b: Option<&Tensor>, y: &mut Tensor) {
    let w = w.data::<T>();
    let packed = pack(d.o, d.c * d.kh * d.kw, |o, i| w[o * d.c * d.kh * d.kw + i].up());
    let b = pack(d.o, 1, |o, _| b.map_or(T::Acc::ZERO, |b| b.data::<T>()[o].up()));
    let grid = Grid {
        planes: d.c,
        height: d.h,
        width: d.w + 2 * d.pw,
        kh: d.kh,
        kw: d.kw,
        rows: d.oh,
        cols: d.ow,
        sy: d.sh,
        sx: d.sw,
        top: -(d.ph as isize),
        left: 0,
        out_planes: d.o,
        out_plane: d.oh * d.ow,
        out_width: d.ow,
        out_row: 0,
        out_col: 0,
        out_sy: 1,
        out_sx: 1,
    };
    let x = x.lanes::<T>();
    let per_group = d.o * d.oh * d.ow;
    y.lanes_mut::<T>().par_chunks_mut(per_group).enumerate().for_each_init(Default::default, |scratch: &mut [Scratch; 2], (g, y)| {
        let [x_scratch, y_scratch] = scratch;
        let x = x_scratch.widen::<T>(&x[g * d.c * d.h * d.w..][..d.c * d.h * d.w], d.w, d.pw, d.pw);
        y_scratch.sum_into::<T>(y, false, |y, add| correlate::<T::Acc>(x, &packed, &b, y, &grid, add));
    });
}

/// w [O,C,KH,KW], dy [N,O,OH,OW], dx [N,C,H,W]
fn backward_input<T: Element>(d: &Dims, w: &Tensor, dy: &Tensor, dx: &mut Slot) {
    let w = w.data::<T>();
    let (rows, cols) = (classes(d.h, d.kh, d.sh, d.ph), classes(d.w, d.kw, d.sw, d.pw));
    // dy is widened so far that no class looks outside.
    let left = cols.iter().map(|c| -c.first).max().unwrap_or(0).max(0);
    let right = cols.iter().map(|c| c.first + (c.taps + c.count) as isize - 1 - d.ow as isize).max().unwrap_or(0).max(0);
    let width = d.ow + (left + right) as usize;
    let mut parts = Vec::new();
    for y in &rows {
        for x in &cols {
            let (th, tw) = if y.taps * x.taps == 0 { (0, 0) } else { (y.taps, x.taps) };
            let packed = pack(d.c, d.o * th * tw, |c, i| {
                let (o, t, u) = (i / (th * tw), i / tw % th, i % tw);
                let (kh, kw) = (y.k0 + (th - 1 - t) * d.sh, x.k0 + (tw - 1 - u) * d.sw);
                w[((o * d.c + c) * d.kh + kh) * d.kw + kw].up()
            });
            let grid = Grid {
                planes: d.o,
                height: d.oh,
                width,
                kh: th,
                kw: tw,
                rows: y.count,
                cols: x.count,
                sy: 1,
                sx: 1,
                top: y.first,
                left: (x.first + left) as usize,
                out_planes: d.c,
                out_plane: d.h * d.w,
                out_width: d.w,
                out_row: y.remainder,
                out_col: x.remainder,
                out_sy: d.sh,
                out_sx: d.sw,
            };
            parts.push((packed, grid));
        }
    }
    let b = pack(d.c, 1, |_, _| T::Acc::ZERO);
    let dy = dy.lanes::<T>();
    let (dx, add) = dx.open();
    let per_group = d.o * d.oh * d.ow;
    dx.lanes_mut::<T>().par_chunks_mut(d.c * d.h * d.w).enumerate().for_each_init(
        Default::default,
        |scratch: &mut [Scratch; 2], (g, dx)| {
            let [dy_scratch, dx_scratch] = scratch;
            let dy = dy_scratch.widen::<T>(&dy[g * per_group..][..per_group], d.ow, left as usize, right as usize);
            dx_scratch.sum_into::<T>(dx, add, |dx, add| {
                for (packed, grid) in &parts {
                    correlate::<T::Acc>(dy, packed, &b, dx, grid, add);
                }
            });
        },
    );
}

/// The input positions with the same remainder modulo the stride, along one direction.
struct Class {
    remainder: usize,
    /// How many positions: remainder, remainder + s, ...
    count: usize,
    /// The first tap that reaches them, and how many do: k0, k0 + s, ...
    k0: usize,
    taps: usize,
    /// The output that the last tap connects position `remainder` with; may lie outside.
    first: isize,
}

/// The classes of `size` input positions under a kernel of `k` taps, stride `s` and padding `p`.
fn classes(size: usize, k: usize, s: usize, p: usize) -> Vec<Class> {
    (0..s.min(size))
        .map(|r| {
            let k0 = (r + p) % s;
            let taps = k.saturating_sub(k0).div_ceil(s);
            let first = ((r + p - k0) / s) as isize - (taps as isize - 1);
            Class { remainder: r, count: (size - r).div_ceil(s), k0, taps, first: if taps == 0 { 0 } else { first } }
        })
        .collect()
}

/// Weights of `n` outputs with `per` weights each, in blocks of [`CHANNELS`] outputs side by side; the last block is filled up with 0.
fn pack<A: Real>(n: usize, per: usize, w: impl Fn(usize, usize) -> A) -> Vec<[A; CHANNELS]> {
    (0..n.div_ceil(CHANNELS) * per)
        .map(|at| {
            let mut block = [A::ZERO; CHANNELS];
            for (o, b) in block.iter_mut().enumerate() {
                let o = at / per * CHANNELS + o;
                *b = if o < n { w(o, at % per) } else { A::ZERO };
            }
            block
        })
        .collect()
}

/// Room for a group's planes in the type of sums.
#[derive(Default)]
struct Scratch(Option<Tensor>);

impl Scratch {
    /// Lets `sum` write all of y, or add to it if told so: at once, or where y's type is narrower than sums by way of a copy.
    fn sum_into<T: Element>(&mut self, y: &mut [[T; L]], add: bool, sum: impl Fn(&mut [[T::Acc; L]], bool)) {
        match T::as_acc_mut(y) {
            Some(y) => sum(y, add),
            None => {
                let room = self.room::<T::Acc>(y.len());
                sum(room, false);
                for (y, r) in y.iter_mut().zip(room) {
                    Lane(*r).put(y, add);
                }
            }
        }
    }

    fn room<A: Real>(&mut self, len: usize) -> &mut [[A; L]] {
        let spec = Spec::lanes([L, len], A::DTYPE);
        self.0.get_or_insert_with(|| Tensor::new(spec)).lanes_mut()
    }

    /// x [rows][w] -> [rows][left + w + right], zeros left and right; x itself where there is nothing to widen or convert.
    fn widen<'a, T: Element>(&'a mut self, x: &'a [[T; L]], w: usize, left: usize, right: usize) -> &'a [[T::Acc; L]] {
        if left + right == 0
            && let Some(x) = T::as_acc(x)
        {
            return x;
        }
        let width = left + w + right;
        let out = self.room::<T::Acc>(x.len() / w * width);
        copy::<T>(x, out, w, left, width);
        out
    }
}

simd! {
    /// x [rows][w] -> out [rows][left + w + rest], zeros around.
    fn copy<T: Element>(x: &[[T; L]], out: &mut [[T::Acc; L]], w: usize, left: usize, width: usize) {
        for (x, out) in x.chunks_exact(w).zip(out.chunks_exact_mut(width)) {
            for out in &mut out[..left] {
                *out = [T::Acc::ZERO; L];
            }
            for (x, out) in x.iter().zip(&mut out[left..left + w]) {
                Lane::load(x).store(out);
            }
            for out in &mut out[left + w..] {
                *out = [T::Acc::ZERO; L];
            }
        }
    }
}

/// The most tasks that weight gradients are summed in. Their number depends on N alone, so the result does not depend on threads.
const TASKS: usize = 16;

/// x [N,C,H,W], dy [N,O,OH,OW], dw [O,C,KH,KW], db [O]
fn backward_weight<T: Element>(d: &Dims, x: &Tensor, dy: &Tensor, dwb: &mut [Slot]) {
    let (g, weights) = (groups(d.n), d.o * d.c * d.kh * d.kw);
    let tasks = g.min(TASKS);
    let (x, dy) = (x.lanes::<T>(), dy.lanes::<T>());
    let mut partial = vec![T::Acc::ZERO; tasks * (weights + d.o)];
    partial.par_chunks_mut(weights + d.o).enumerate().for_each_init(
        || (Scratch::default(), Scratch::default()),
        |(x_scratch, dy_scratch), (task, sums)| {
            let (dw, db) = sums.split_at_mut(weights);
            for g in task * g / tasks..(task + 1) * g / tasks {
                let (x_group, dy_group) = (d.c * d.h * d.w, d.o * d.oh * d.ow);
                let x = x_scratch.widen::<T>(&x[g * x_group..][..x_group], d.w, d.pw, d.pw);
                let dy = dy_scratch.widen::<T>(&dy[g * dy_group..][..dy_group], d.ow, 0, 0);
                weights_of_group::<T::Acc>(x, dy, dw, db, d);
            }
        },
    );
    let mut sums = vec![T::Acc::ZERO; weights + d.o];
    for partial in partial.chunks(weights + d.o) {
        for (sum, &p) in sums.iter_mut().zip(partial) {
            *sum = *sum + p;
        }
    }
    for (slot, sums) in dwb.iter_mut().zip([&sums[..weights], &sums[weights..]]) {
        if slot.wanted() {
            let (dw, add) = slot.open();
            super::put(dw, sums, add);
        }
    }
}

simd! {
    /// One group: dw[o][c][kh][kw] += Σ_images Σ_oh Σ_ow dy[o][oh][ow]·x[c][oh·sh + kh − ph][ow·sw + kw], db[o] += Σ dy
    ///
    /// x [C][H][W + 2pw], dy [O][OH][OW]
    fn weights_of_group<A: Real>(x: &[[A; L]], dy: &[[A; L]], dw: &mut [A], db: &mut [A], d: &Dims) {
        for (db, dy) in db.iter_mut().zip(dy.chunks_exact(d.oh * d.ow)) {
            let mut sum = Lane::zero();
            for dy in dy {
                sum = sum.add(Lane(*dy));
            }
            *db = *db + sum.sum(L);
        }
        let mut o = 0;
        while o < d.o {
            let channels = if FUSED { CHANNELS.min(d.o - o) } else { 1 };
            for c in 0..d.c {
                for kh in 0..d.kh {
                    let mut kw = 0;
                    while kw < d.kw {
                        let taps = if FUSED { at_once(d.kw - kw) } else { 1 };
                        match (channels, taps) {
                            (2, 3) => taps_of_row::<A, 2, 3>(x, dy, dw, d, o, c, kh, kw),
                            (2, 2) => taps_of_row::<A, 2, 2>(x, dy, dw, d, o, c, kh, kw),
                            (2, _) => taps_of_row::<A, 2, 1>(x, dy, dw, d, o, c, kh, kw),
                            (_, 3) => taps_of_row::<A, 1, 3>(x, dy, dw, d, o, c, kh, kw),
                            (_, 2) => taps_of_row::<A, 1, 2>(x, dy, dw, d, o, c, kh, kw),
                            _ => taps_of_row::<A, 1, 1>(x, dy, dw, d, o, c, kh, kw),
                        }
                        kw += taps;
                    }
                }
            }
            o += channels;
        }
    }
}

/// The weights (o.., c, kh, kw..): `O` output channels and `K` taps of a row, all sums in registers.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn taps_of_row<A: Real, const O: usize, const K: usize>(
    x: &[[A; L]],
    dy: &[[A; L]],
    dw: &mut [A],
    d: &Dims,
    o: usize,
    c: usize,
    kh: usize,
    kw: usize,
) {
    // The rows oh for which row oh·sh + kh − ph exists.
    let oh0 = d.ph.saturating_sub(kh).div_ceil(d.sh);
    let oh1 = ((d.h + d.ph).saturating_sub(kh).div_ceil(d.sh)).min(d.oh);
    let mut acc = [[Lane::zero(); K]; O];
    for oh in oh0..oh1 {
        let row = oh * d.sh + kh - d.ph;
        let x = &x[(c * d.h + row) * (d.w + 2 * d.pw) + kw..][..(d.ow - 1) * d.sw + K];
        let mut dys = [dy; O];
        for i in 0..O {
            dys[i] = &dy[((o + i) * d.oh + oh) * d.ow..][..d.ow];
        }
        for ow in 0..d.ow {
            let window = &x[ow * d.sw..ow * d.sw + K];
            for i in 0..O {
                let dy = Lane(dys[i][ow]);
                for k in 0..K {
                    acc[i][k] = Lane(window[k]).fma_lane(dy, acc[i][k]);
                }
            }
        }
    }
    for i in 0..O {
        for k in 0..K {
            let dw = &mut dw[(((o + i) * d.c + c) * d.kh + kh) * d.kw + kw + k];
            *dw = *dw + acc[i][k].sum(L);
        }
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |x: [usize; 4], o: usize, k: [usize; 2], stride: [usize; 2], padding: [usize; 2], bias: bool| {
        let mut inputs = vec![Input::lanes(x, Draw::Normal), Input::rows([o, x[1], k[0], k[1]], Draw::Normal)];
        if bias {
            inputs.push(Input::rows([o], Draw::Normal));
        }
        let name = format!("{}->{o} {}x{} k{k:?} s{stride:?} p{padding:?} n{}", x[1], x[2], x[3], x[0]);
        cases.push(Case::new(Conv2d { stride, padding }, name.replace(", ", "x"), inputs));
    };
    for n in BATCHES {
        case([n, 2, 5, 4], 3, [3, 3], [1, 1], [1, 1], true);
        case([n, 1, 5, 7], 2, [3, 3], [2, 2], [1, 1], false);
    }
    case([2, 3, 7, 9], 5, [5, 5], [1, 1], [0, 0], true);
    case([1, 2, 6, 6], 2, [5, 5], [1, 1], [2, 2], true);
    case([2, 3, 4, 4], 4, [1, 1], [1, 1], [0, 0], true);
    case([2, 3, 5, 5], 2, [1, 1], [2, 2], [0, 0], false);
    case([2, 2, 6, 7], 3, [2, 3], [1, 2], [0, 1], true);
    case([2, 1, 8, 9], 1, [3, 2], [3, 2], [2, 1], true);
    case([1, 2, 9, 10], 2, [2, 2], [3, 4], [0, 1], true);
    case([1, 1, 3, 3], 1, [3, 3], [1, 1], [0, 0], true);
    case([2, 2, 4, 13], 3, [4, 4], [2, 2], [1, 2], true);
    case([1, 1, 2, 2], 2, [3, 3], [2, 2], [2, 2], true);
    case([1, 1, 1, 30], 2, [1, 7], [1, 1], [0, 3], true);
    cases
}
