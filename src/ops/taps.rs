//! A convolution's weight gradient by direct sums over pixels and images.
//!
//! This is not an op. `conv2d.rs` derives the sum; here it is cut into tasks, each of some output channels and groups of images. One lane is
//! one image; a tile of weights (all nine taps of a 3x3 kernel for two output channels, or five taps of a row for four) stays in
//! registers while the loop runs over the pixels of some rows, for which x gets its zeros around. Its sums go to a lane vector for each
//! weight, and the lanes are added once all groups are through. On a GPU `kernels/conv2d.cu` does the same with other tiles. Read next:
//! `winograd/dw.rs`, the way with fewer products.

use super::conv2d::Dims;
use super::correlate::Scratch;
use crate::simd;
use crate::tensor::{Element, L, Real, Spec, Tensor, Vector, groups};
use rayon::prelude::*;
use std::ops::Range;

/// Bytes of a band of x and of a tile's dy: most of a first-level cache.
const BAND: usize = 20 << 10;

/// Where each pixel of dy, row by row, begins to read x, which is widened by its padding. A list costs less than loops over rows and
/// columns, whose rows are short.
fn pixels(d: &Dims) -> Vec<u32> {
    let width = d.w + 2 * d.pw;
    (0..d.oh).flat_map(|oh| (0..d.ow).map(move |ow| (oh * d.sh * width + ow * d.sw) as u32)).collect()
}

/// Tasks that weight gradients are summed in, about (by shapes alone, and so the result is too), and the bytes of the sums that each
/// owns: they are to stay in a second-level cache.
const TASKS: usize = 16;
const SUMS: usize = 320 << 10;

/// Output channels of one task: as many as its cache holds, so that x is read seldom; fewer where there are few groups to share out.
fn outputs_of_task(d: &Dims, groups: usize) -> usize {
    let most = (SUMS / (d.c * d.kh * d.kw * size_of::<[f32; L]>())).max(2);
    let chunks = d.o.div_ceil(most).max(TASKS / 2 / groups).clamp(1, d.o);
    d.o.div_ceil(chunks)
}

/// dw `[O][C][KH][KW]` of x `[N,C,H,W]` and dy `[N,O,OH,OW]`.
pub(super) fn weights<T: Element>(d: &Dims, x: &Tensor, dy: &Tensor) -> Vec<T::Acc> {
    let (g, per_output, plane) = (groups(d.n), d.c * d.kh * d.kw, d.oh * d.ow);
    let outputs = outputs_of_task(d, g);
    let shares = (TASKS / d.o.div_ceil(outputs)).clamp(1, g);
    let (x, dy, pixels) = (x.lanes::<T>(), dy.lanes::<T>(), pixels(d));
    let per_group = x.len() / g;
    let cut = Cut { groups: g, shares, outputs: [d.o, outputs], per_output };
    cut.run(
        || [(); 4].map(|()| Scratch::default()),
        |[x_scratch, dy_scratch, wide, sums], groups, o, dw| {
            let sums = sums.room::<T::Acc>(dw.len());
            for (i, g) in groups.enumerate() {
                let x = x_scratch.sums::<T>(&x[g * per_group..][..per_group]);
                let dy = dy_scratch.sums::<T>(&dy[(g * d.o + o) * plane..][..dw.len() / per_output * plane]);
                weights_of_group::<T::Acc>(x, dy, sums, d, &pixels, i == 0, wide);
            }
            add_lanes::<T::Acc>(sums, dw);
        },
    )
}

/// How a weight gradient is cut into tasks: groups of images into shares, and output channels, all and those of a task, of so many weights each.
pub(super) struct Cut {
    pub(super) groups: usize,
    pub(super) shares: usize,
    pub(super) outputs: [usize; 2],
    pub(super) per_output: usize,
}

impl Cut {
    /// dw: for each task `sum` writes the sums of some groups for the channels from one on; those of the shares are added in order.
    pub(super) fn run<A: Real, S: Send>(
        &self,
        room: impl Fn() -> S + Sync + Send,
        sum: impl Fn(&mut S, Range<usize>, usize, &mut [A]) + Sync + Send,
    ) -> Vec<A> {
        let (g, shares, [all, outputs], per_output) = (self.groups, self.shares, self.outputs, self.per_output);
        // Each share of the groups has its sums for all channels.
        let mut partial = Tensor::new(Spec::rows([shares, all * per_output], A::DTYPE));
        let mut tasks = Vec::new();
        for (share, partial) in partial.data_mut::<A>().chunks_mut(all * per_output).enumerate() {
            let channels = partial.chunks_mut(outputs * per_output).enumerate();
            tasks.extend(channels.map(|(i, dw)| (share * g / shares..(share + 1) * g / shares, i * outputs, dw)));
        }
        tasks.into_par_iter().for_each_init(room, |room, (groups, o, dw)| sum(room, groups, o, dw));
        let mut dw = vec![A::ZERO; all * per_output];
        for partial in partial.data::<A>().chunks(dw.len()) {
            for (dw, &p) in dw.iter_mut().zip(partial) {
                *dw = *dw + p;
            }
        }
        dw
    }
}

simd! {
    /// One group, some output channels: dw[o][c][kh][kw] += Σ_oh Σ_ow dy[o][oh][ow]·x[c][oh·sh + kh][ow·sw + kw], lane by
    /// lane; `first`: dw holds nothing yet; `wide`: room for a band of x with its zeros.
    ///
    /// x [C][H][W], dy [outputs][OH][OW], dw [outputs][C][KH][KW]
    fn weights_of_group<A: Real>(
        x: &[[A; L]],
        dy: &[[A; L]],
        dw: &mut [[A; L]],
        d: &Dims,
        pixels: &[u32],
        first: bool,
        wide: &mut Scratch,
    ) {
        let outputs = dy.len() / (d.oh * d.ow);
        let nine = const { V::ROOM >= 32 } && [d.kh, d.kw] == [3, 3];
        let most = match const { V::ROOM } {
            32.. => if nine { 2 } else { 4 },
            8.. => 2,
            _ => 1,
        };
        let width = d.w + 2 * d.pw;
        let row = (d.sh * width + most * d.ow) * size_of::<[A; L]>();
        let bands = d.oh.div_ceil((BAND / row).max(1));
        // What is larger, a row of x or the rows of dy that it meets, stays in the first-level cache while the other goes by.
        let inner = if d.sh * width > most * d.ow { 1 } else { d.c };
        let most_rows = d.oh.div_ceil(bands);
        let wide = wide.room::<A>(if d.ph + d.pw == 0 { 0 } else { inner * ((most_rows - 1) * d.sh + d.kh) * width });
        for (oh, rows) in blocks(d.oh, most_rows) {
            let (pixels, dy) = (&pixels[..rows * d.ow], &dy[oh * d.ow..]);
            // Of x a band has its rows, from the first that its first kernel reads.
            let (h, rows) = (oh * d.sh, (rows - 1) * d.sh + d.kh);
            for i in (0..d.c).step_by(inner) {
                let x = &x[i * d.h * d.w..];
                let (x, plane) = if wide.is_empty() {
                    (&x[h * width..], d.h * width)
                } else {
                    for (x, wide) in x.chunks(d.h * d.w).zip(wide[..inner * rows * width].chunks_mut(rows * width)) {
                        widen(x, wide, d, h);
                    }
                    (&*wide, rows * width)
                };
                for (o, n) in blocks(outputs, most) {
                    for c in i..i + inner {
                        let x = &x[(c - i) * plane..][..rows * width];
                        let at = Place { x, dy, d, pixels, o, c, first: first && oh == 0 };
                        match (nine, n) {
                            (true, 1) => tile::<A, V, 1, 3, 3>(&at, dw, [0, 0]),
                            (true, _) => tile::<A, V, 2, 3, 3>(&at, dw, [0, 0]),
                            (false, _) => pieces::<A, V>(&at, dw, n),
                        }
                    }
                }
            }
        }
    }
}

/// Some rows of a plane, from the row `h` on, with the zeros that its padding puts around it.
#[inline(always)]
fn widen<A: Real>(x: &[[A; L]], out: &mut [[A; L]], d: &Dims, h: usize) {
    for (i, out) in out.chunks_exact_mut(d.w + 2 * d.pw).enumerate() {
        match x.chunks_exact(d.w).nth((h + i).wrapping_sub(d.ph)) {
            Some(x) => {
                out[..d.pw].fill([A::ZERO; L]);
                out[d.pw..d.pw + d.w].copy_from_slice(x);
                out[d.pw + d.w..].fill([A::ZERO; L]);
            }
            None => out.fill([A::ZERO; L]),
        }
    }
}

/// Cuts `all` into blocks of nearly the same size, at most `most`: the first of each, and how many there are.
#[inline(always)]
fn blocks(all: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let blocks = all.div_ceil(most);
    (0..blocks).map(move |block| (block * all / blocks, (block + 1) * all / blocks - block * all / blocks))
}

/// Any kernel, in tiles of some taps of a row.
#[inline(always)]
fn pieces<A: Real, V: Vector<A>>(at: &Place<A>, dw: &mut [[A; L]], outputs: usize) {
    let most = if const { V::ROOM >= 32 } { 5 } else { 3 };
    for kh in 0..at.d.kh {
        for (kw, taps) in blocks(at.d.kw, most) {
            match taps {
                1 => outputs_of::<A, V, 1>(at, dw, [kh, kw], outputs),
                2 => outputs_of::<A, V, 2>(at, dw, [kh, kw], outputs),
                3 => outputs_of::<A, V, 3>(at, dw, [kh, kw], outputs),
                4 if const { V::ROOM >= 32 } => outputs_of::<A, V, 4>(at, dw, [kh, kw], outputs),
                _ if const { V::ROOM >= 32 } => outputs_of::<A, V, 5>(at, dw, [kh, kw], outputs),
                _ => unreachable!("a tile has no more taps than registers"),
            }
        }
    }
}

simd! {
    /// out[i] = the sum of x[i]'s lanes.
    fn add_lanes<A: Real>(x: &[[A; L]], out: &mut [A]) {
        for (x, out) in x.iter().zip(out) {
            *out = V::load(x).total();
        }
    }
}

simd! {
    /// The sum of all of x's numbers: first those of a lane, then the lanes.
    fn total<A: Real>(x: &[[A; L]]) -> A {
        let mut sum = V::splat(A::ZERO);
        for x in x {
            sum = sum.plus(V::load(x));
        }
        sum.total()
    }
}

/// The sum of each of `count` planes over all images, db: of dy `[G][count][plane]`.
pub(super) fn planes<T: Element>(dy: &[[T; L]], count: usize, plane: usize) -> Vec<T::Acc> {
    let sum = |scratch: &mut Scratch, o: usize| {
        let planes = dy.chunks_exact(plane).skip(o).step_by(count);
        planes.fold(T::Acc::ZERO, |sum, dy| sum + total::<T::Acc>(scratch.sums::<T>(dy)))
    };
    (0..count).into_par_iter().map_init(Scratch::default, sum).collect()
}

/// What a tile reads.
struct Place<'a, A> {
    /// The rows of the channel's plane that the pixels read.
    x: &'a [[A; L]],
    /// From the first pixel's row on.
    dy: &'a [[A; L]],
    d: &'a Dims,
    pixels: &'a [u32],
    /// The first output channel, and the channel of x.
    o: usize,
    c: usize,
    /// dw holds nothing yet.
    first: bool,
}

#[inline(always)]
fn outputs_of<A: Real, V: Vector<A>, const K: usize>(at: &Place<A>, dw: &mut [[A; L]], taps: [usize; 2], outputs: usize) {
    match outputs {
        1 => tile::<A, V, 1, 1, K>(at, dw, taps),
        2 if const { V::ROOM >= 8 } => tile::<A, V, 2, 1, K>(at, dw, taps),
        3 if const { V::ROOM >= 32 } => tile::<A, V, 3, 1, K>(at, dw, taps),
        _ if const { V::ROOM >= 32 } => tile::<A, V, 4, 1, K>(at, dw, taps),
        _ => unreachable!("a tile has no more outputs than registers"),
    }
}

/// O output channels, R rows of the kernel, K taps of each, from the tap [kh, kw] on.
#[inline(always)]
fn tile<A: Real, V: Vector<A>, const O: usize, const R: usize, const K: usize>(at: &Place<A>, dw: &mut [[A; L]], [kh, kw]: [usize; 2]) {
    let Place { d, o, c, .. } = *at;
    let mut acc = [[[V::splat(A::ZERO); K]; R]; O];
    let weight = |i: usize, r: usize, k: usize| (((o + i) * d.c + c) * d.kh + kh + r) * d.kw + kw + k;
    if !at.first {
        for i in 0..O {
            for r in 0..R {
                for k in 0..K {
                    acc[i][r][k] = V::load(&dw[weight(i, r, k)]);
                }
            }
        }
    }
    // Slices of one length: one check a pixel is enough for all.
    let (plane, width) = (d.oh * d.ow, d.w + 2 * d.pw);
    let len = at.x.len() - ((kh + R - 1) * width + kw + K - 1);
    let mut taps = [[at.x; K]; R];
    for r in 0..R {
        for k in 0..K {
            taps[r][k] = &at.x[(kh + r) * width + kw + k..][..len];
        }
    }
    let mut dys = [at.dy; O];
    for i in 0..O {
        dys[i] = &at.dy[(o + i) * plane..][..at.pixels.len()];
    }
    for (py, &px) in at.pixels.iter().enumerate() {
        let px = px as usize;
        let mut dy = [V::splat(A::ZERO); O];
        for i in 0..O {
            dy[i] = V::load(&dys[i][py]);
        }
        for r in 0..R {
            for k in 0..K {
                let x = V::load(&taps[r][k][px]);
                for i in 0..O {
                    acc[i][r][k] = x.fma(dy[i], acc[i][r][k]);
                }
            }
        }
    }
    for i in 0..O {
        for r in 0..R {
            for k in 0..K {
                acc[i][r][k].store(&mut dw[weight(i, r, k)]);
            }
        }
    }
}
