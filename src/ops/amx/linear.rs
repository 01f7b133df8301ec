//! A linear layer's sums on the matrix unit; `linear.rs` derives them.
//!
//! ```text
//!       a, rows of 32          b, 16 numbers wide       tiles of sums
//! y     w     [f][32 k]        x     [32 k][16 n]       [f][n]
//! dx    dy    [n][32 f]        w     [32 f][16 k]       [n][k]
//! dw    dy    [f][32 n]        x     [32 n][16 k]       [f][k]
//! ```
//!
//! Nothing of the size of w is turned, only activations and dx's tiles. A task cuts the weights of some rows or columns into pieces and multiplies them
//! with all images. Read next: `correlate.rs`.

use super::{DEPTH, PIECE, TILE, clear_below, floats, floats_mut, in_tiles, numbers, numbers_mut, room, spread};
use crate::device::amx::{Amx, Out, Side, Start, Step, Target, tiles_of};
use crate::ops::correlate::Scratch;
use crate::tensor::{Element, L, Spec, Stored, Tensor, groups};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of w that a task multiplies, and columns: as many as lie together in a stretch of memory worth reading.
const ROWS: usize = 2 * L;
const COLUMNS: usize = 8 * L;

/// Half rows of a step of dw's a, for each f.
const PIECES_OF_ROW: usize = TILE / L;

/// Is this the faster way? For few weights it is not, nor for one group of images, for which weights are cut in vain; dw cuts none.
pub(in crate::ops) fn pays(x: &Tensor, k: usize, f: usize, dw: bool) -> bool {
    groups(x.shape()[0]) > 1 && f.min(k) >= L && k * f >= if dw { 4 << 10 } else { 64 << 10 }
}

/// Rows of w that are fetched ahead where only some of their columns are read.
const AHEAD: usize = 6;

/// Half rows of x in pieces, so few that they stay in a second-level cache while the weights go by.
const STRETCH: usize = 12 << 10;

/// Cuts `all` tiles of x, for each of which there are `many`, into stretches.
fn stretches(all: usize, many: usize) -> impl Iterator<Item = Range<usize>> {
    let most = (STRETCH / (many * TILE)).max(1);
    (0..all).step_by(most).map(move |first| first..all.min(first + most))
}

/// Steps whose tiles follow each other.
fn in_order(steps: usize) -> Vec<Step> {
    (0..steps).map(|s| (s * TILE) as u32).map(|at| Step { a: at, b: at }).collect()
}

fn tiles(numbers: &[[bf16; L]], steps: usize) -> Side<'_> {
    Side { numbers, piece: PIECE, row: 2, tile: steps * TILE }
}

/// y[f][g] = b[f] + Σ_k w[f][k]·x[g][k], as lane vectors. x `[G][K]` lanes, w `[F][K]`, b `[F]`.
pub(in crate::ops) fn forward<T: Element>(unit: Amx, x: &Tensor, w: &[T::Acc], b: Option<&[T::Acc]>) -> Tensor {
    let (g, k) = (groups(x.shape()[0]), x.shape()[1]);
    let (f, steps, x) = (w.len() / k, k.div_ceil(DEPTH), x.lanes::<T>());
    let (w, b) = (numbers(w), b.map(|b| spread(numbers(b))));
    let mut pieces = room(g * steps * TILE);
    pieces.lanes_mut().par_chunks_mut(steps * TILE).zip(x.par_chunks(k)).for_each_init(Scratch::default, |scratch, (to, x)| {
        for (to, x) in to.chunks_mut(TILE).zip(floats(scratch.sums::<T>(x)).chunks(DEPTH)) {
            unit.pairs(x, &x[1..], 2, Target { to, stride: 2, piece: PIECE });
            clear_below(to, x.len().div_ceil(2));
        }
    });
    let (x, mut y) = (pieces.lanes(), Tensor::new(Spec::lanes([L, f * g], T::Acc::DTYPE)));
    for stretch in stretches(steps, g) {
        let (steps_of_x, steps, from) = (steps, stretch.len(), stretch.start);
        let (order, x) = (in_order(steps), tiles(&x[from * TILE..], steps_of_x));
        let tasks = y.lanes_mut::<T::Acc>().par_chunks_mut(ROWS * g).enumerate();
        tasks.for_each_init(Scratch::default, |pieces, (task, y)| {
            let (first, count, sums) = (task * ROWS, y.len() / g, floats_mut(y));
            let [count_of_tiles, rows] = tiles_of(count);
            let pieces = pieces.room(count_of_tiles * steps * TILE);
            for (i, w) in w[first * k..].chunks_exact(k).take(count).enumerate() {
                let to = &mut pieces[i / rows * steps * TILE + i % rows * 2..];
                unit.rows(&w[from * DEPTH..k.min(stretch.end * DEPTH)], Target { to, stride: TILE, piece: PIECE });
            }
            let start = match &b {
                _ if from > 0 => Start::There,
                Some(b) => Start::Rows(&b[first..]),
                None => Start::Zeros,
            };
            let out = &mut Out { sums, row: g, tiles: [rows * g, 1] };
            unit.sums(&tiles(pieces, steps), &x, &order, count, g, start, out);
        });
    }
    y
}

/// dx[k][g] = Σ_f dy[g][f]·w[f][k], as lane vectors. dy `[G][F]` lanes, w `[F][K]`.
pub(in crate::ops) fn backward_input<T: Element>(unit: Amx, dy: &Tensor, w: &[T::Acc]) -> Tensor {
    let (g, f) = (groups(dy.shape()[0]), dy.shape()[1]);
    let (k, steps, dy) = (w.len() / f, f.div_ceil(DEPTH), dy.lanes::<T>());
    let mut pieces = room(g * steps * TILE);
    pieces.lanes_mut().par_chunks_mut(steps * TILE).zip(dy.par_chunks(f)).for_each_init(Scratch::default, |scratch, (to, dy)| {
        let dy = floats(scratch.sums::<T>(dy));
        for block in 0..2 * steps {
            let to = &mut to[block / 2 * TILE + block % 2..];
            let images = unit.turned(&dy[f.min(block * L)..f.min((block + 1) * L)], 1);
            unit.half_rows(images.as_flattened(), Target { to, stride: 2, piece: PIECE });
        }
    });
    let (dy, order, w) = (pieces.lanes(), in_order(steps), numbers(w));
    let mut dx = Tensor::new(Spec::lanes([L, k * g], T::Acc::DTYPE));
    let tasks = dx.lanes_mut::<T::Acc>().par_chunks_mut(COLUMNS * g).enumerate();
    tasks.for_each_init(<[Scratch; 2]>::default, |[pieces, sums], (task, dx)| {
        let (columns, dx) = (dx.len() / g, floats_mut(dx));
        let (count, rest) = (columns.div_ceil(L), columns % L);
        let pieces = pieces.room(count * steps * TILE);
        let ahead = |row: usize| w.chunks_exact(k).nth(row).map(|w| unit.fetch(&w[task * COLUMNS..][..columns]));
        for (i, w) in w.chunks(2 * k).enumerate() {
            (2 * i + AHEAD..2 * i + AHEAD + 2).for_each(|row| ahead(row).unwrap_or_default());
            let of_row = |row: usize| w.chunks_exact(k).nth(row).map_or(&[][..], |w| &w[task * COLUMNS..][..columns]);
            let to = &mut pieces[i / L * TILE + i % L * 2..];
            let [first, second] = [0, 1].map(|row| of_row(row).as_chunks::<L>().0);
            unit.pairs(first, second, 1, Target { to, stride: steps * TILE, piece: PIECE });
            if rest > 0 {
                let [mut first, mut second] = [[0.0; L]; 2];
                first[..rest].copy_from_slice(&of_row(0)[columns - rest..]);
                if w.len() > k {
                    second[..rest].copy_from_slice(&of_row(1)[columns - rest..]);
                }
                let to = &mut pieces[(count - 1) * steps * TILE + i / L * TILE + i % L * 2..];
                unit.pairs(&[first], &[second], 1, Target { to, stride: 0, piece: PIECE });
            }
        }
        for tile in pieces.chunks_exact_mut(steps * TILE) {
            clear_below(&mut tile[(steps - 1) * TILE..], f.div_ceil(2) - (steps - 1) * L);
        }
        let sums = sums.room(g * count * L);
        unit.sums(&tiles(dy, steps), &tiles(pieces, steps), &order, g * L, count, Start::Zeros, &mut in_tiles(sums, count));
        for (i, tile) in sums.chunks_exact(L).enumerate() {
            for (k, column) in unit.turned(tile, 1).into_iter().enumerate() {
                if let Some(dx) = dx.get_mut((i % count * L + k) * g + i / count) {
                    *dx = column;
                }
            }
        }
    });
    dx
}

/// dw[f][k] (+)= Σ_n dy[n][f]·x[n][k]. x `[G][K]` and dy `[G][F]` lanes.
pub(in crate::ops) fn backward_weight<T: Element>(unit: Amx, x: &Tensor, dy: &Tensor, dw: &mut [T::Acc], add: bool) {
    let (g, k, f) = (groups(x.shape()[0]), x.shape()[1], dy.shape()[1]);
    let (steps, x, dy) = (g.div_ceil(2), x.lanes::<T>(), dy.lanes::<T>());
    // [step][piece][f][two groups], and room for the rows that the last tile has beyond f.
    let mut rows_of_dy = room(steps * PIECES_OF_ROW * f + PIECE);
    let to = rows_of_dy.lanes_mut()[..steps * PIECES_OF_ROW * f].par_chunks_mut(PIECES_OF_ROW * f);
    to.zip(dy.par_chunks(2 * f)).for_each_init(Scratch::default, |scratch, (to, dy)| {
        if dy.len() == f {
            to.fill([bf16::ZERO; L]);
        }
        for (half, dy) in floats(scratch.sums::<T>(dy)).chunks_exact(f).enumerate() {
            unit.half_rows(dy.as_flattened(), Target { to: &mut to[half..], stride: 2, piece: 2 * f });
        }
    });
    // [16 k][step][piece][pairs of images]
    let blocks = k.div_ceil(L);
    let mut columns_of_x = room(blocks * steps * TILE);
    let to = columns_of_x.lanes_mut().par_chunks_mut(steps * TILE).enumerate();
    to.for_each_init(Scratch::default, |scratch, (block, to)| {
        for (i, x) in x.chunks_exact(k).enumerate() {
            let images = unit.turned(floats(scratch.sums::<T>(&x[block * L..k.min((block + 1) * L)])), 1);
            let to = &mut to[i / 2 * TILE + i % 2 * L..];
            unit.pairs(&images, &images[1..], 2, Target { to, stride: 2, piece: PIECE });
        }
        if g % 2 == 1 {
            clear_below(&mut to[(steps - 1) * TILE..], L / 2);
        }
    });
    let (dy, x) = (rows_of_dy.lanes(), columns_of_x.lanes());
    let order: Vec<Step> = (0..steps).map(|s| Step { a: (s * PIECES_OF_ROW * f) as u32, b: (s * TILE) as u32 }).collect();
    for stretch in stretches(blocks, steps) {
        let (blocks, from) = (stretch.len(), stretch.start * L);
        let (x, width) = (tiles(&x[stretch.start * steps * TILE..], steps), k.min(stretch.end * L) - from);
        dw.par_chunks_mut(ROWS * k).enumerate().for_each_init(Scratch::default, |sums, (task, dw)| {
            let (dw, count) = (numbers_mut(dw), f.min((task + 1) * ROWS) - task * ROWS);
            let [_, rows] = tiles_of(count);
            let dy = Side { numbers: &dy[task * ROWS * 2..], piece: 2 * f, row: 2, tile: 2 * rows };
            if k.is_multiple_of(L) {
                let start = if add { Start::There } else { Start::Zeros };
                let out = &mut Out { sums: &mut dw.as_chunks_mut().0[from / L..], row: k / L, tiles: [rows * k / L, 1] };
                return unit.sums(&dy, &x, &order, count, blocks, start, out);
            }
            let sums = sums.room(count * blocks);
            let out = &mut Out { sums, row: blocks, tiles: [rows * blocks, 1] };
            unit.sums(&dy, &x, &order, count, blocks, Start::Zeros, out);
            for (dw, sums) in dw.chunks_exact_mut(k).zip(sums.chunks_exact(blocks)) {
                for (dw, &sum) in dw[from..from + width].iter_mut().zip(sums.as_flattened()) {
                    *dw = if add { *dw + sum } else { sum };
                }
            }
        });
    }
}
