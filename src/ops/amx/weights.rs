//! A convolution's weight gradient on the matrix unit; `ops/taps.rs` has the loops.
//!
//! ```text
//! dw[o][c][kh][kw] = Σ_n Σ_oh Σ_ow dy[n][o][oh][ow]·x[n][c][oh·sh + kh − ph][ow·sw + kw − pw]
//! ```
//!
//! sums over images and pixels. A step takes 16 images of two neighbouring pixels: a row of a is an output plane's, as it lies in memory; for b 16 planes of x are
//! turned, so that two images make a pair. The taps of a kernel's row are sums of their own, whose b begin a pixel further on. With a stride of s, each s-th
//! column of x lies together. Zeros lie around the picture, and beside the last pixel of a row of dy if it has no neighbour.
//!
//! A task owns some output planes for a share of the groups, whose sums it adds up; some rows of a picture are in pieces at a time. Tasks and bands are cut by
//! shapes alone: so is the result. Read next: `ops/winograd.rs`, the way with fewer products.

use super::{apart, floats, in_tiles, keep, numbers_mut};
use crate::device::amx::{Amx, PIECES, Side, Start, Step, Target, tiles_of};
use crate::ops::conv2d::Dims;
use crate::ops::correlate::Scratch;
use crate::ops::taps::Cut;
use crate::tensor::{Element, L, Tensor, groups};
use half::bf16;
use std::ops::Range;

/// Bytes of a band of x in pieces, and of a task's sums: both are to stay in a second-level cache.
const BAND: usize = 512 << 10;
const SUMS: usize = 512 << 10;

/// Tasks that there are at least, if there are tiles for them.
const TASKS: usize = 8;

/// Half rows of a pixel of x: eight pairs of images.
const PIXEL: usize = L;

/// How x and dy lie in pieces.
struct Frame<'a> {
    d: &'a Dims,
    /// Tiles of 16 planes of x.
    blocks: usize,
    /// Columns of x that lie together, and all of a row.
    class: usize,
    row: usize,
    /// Rows of dy in a band, and the pixels of one: an even number.
    rows: usize,
    pixels: usize,
}

impl Frame<'_> {
    fn new(d: &Dims) -> Frame<'_> {
        let (blocks, class) = (d.c.div_ceil(L), (d.w + 2 * d.pw).div_ceil(d.sw));
        let row = class * d.sw;
        let rows_of_x = BAND / (blocks * PIECES * row * PIXEL * size_of::<[bf16; L]>());
        let rows = (rows_of_x.saturating_sub(d.kh) / d.sh + 1).min(d.oh);
        Frame { d, blocks, class, row, rows, pixels: d.ow.next_multiple_of(2) }
    }

    /// Rows of x that so many of dy read.
    fn rows_of_x(&self, rows: usize) -> usize {
        (rows - 1) * self.d.sh + self.d.kh
    }

    /// Half rows from one piece of x to the next.
    fn piece_of_x(&self) -> usize {
        apart(self.rows_of_x(self.rows) * self.row * PIXEL)
    }

    /// Half rows from one output plane of dy to the next: an odd number of rows of a.
    fn plane(&self) -> usize {
        (self.rows * self.pixels) | 2
    }

    /// The kernel's rows, and the taps of one that read columns which lie together: the first, and how many.
    fn taps(&self) -> impl Iterator<Item = [usize; 3]> {
        let (kh, kw, sw) = (self.d.kh, self.d.kw, self.d.sw);
        (0..kh).flat_map(move |kh| (0..sw.min(kw)).map(move |first| [kh, first, (kw - first).div_ceil(sw)]))
    }
}

/// Is this the faster way? `winograd`: Winograd's is faster than direct sums. In cycles, as in `correlate.rs`.
pub(in crate::ops) fn pays(unit: Amx, d: &Dims, winograd: bool) -> bool {
    let (step, cut) = if unit.pieces() == 1 { (0.9, 100) } else { (3.9, 130) };
    let (frame, [tiles, rows], taps) = (Frame::new(d), tiles_of(d.o), d.kh * d.kw);
    let products = step * (frame.blocks * tiles * rows.max(12) * taps * d.oh * frame.pixels) as f64;
    let cutting = cut * frame.blocks * frame.row * (d.h + 2 * d.ph) + 10 * d.o * d.oh * d.ow;
    let otherwise = (taps * d.c * d.o * d.oh * d.ow) as f64 / if winograd { 1.5 * 1.8 } else { 1.5 };
    1.2 * (products + cutting as f64) < otherwise
}

/// dw `[O][C][KH][KW]` of x `[N,C,H,W]` and dy `[N,O,OH,OW]`.
pub(in crate::ops) fn run<T: Element>(unit: Amx, d: &Dims, x: &Tensor, dy: &Tensor) -> Vec<T::Acc> {
    let (frame, g, per_output) = (Frame::new(d), groups(d.n), d.c * d.kh * d.kw);
    let [tiles, rows] = tiles_of(d.o);
    let most = (SUMS / (frame.blocks * d.kh * d.kw * size_of::<[[f32; L]; L]>())).max(1);
    let chunks = tiles.div_ceil(most).max(TASKS / g).clamp(1, tiles);
    let outputs = tiles.div_ceil(chunks) * rows;
    let cut = Cut { groups: g, shares: g.min(2 * TASKS), outputs: [d.o, outputs], per_output };
    let (x, dy, plane) = (x.lanes::<T>(), dy.lanes::<T>(), d.oh * d.ow);
    cut.run(Room::default, |room, groups, o, dw| {
        let count = dw.len() / per_output;
        let mut task = Task::new(unit, &frame, count, &mut room.tiles);
        for g in groups {
            let x = floats(room.x.sums::<T>(&x[g * d.c * d.h * d.w..][..d.c * d.h * d.w]));
            let dy = floats(room.dy.sums::<T>(&dy[(g * d.o + o) * plane..][..count * plane]));
            task.add(x, dy);
        }
        task.weights(numbers_mut(dw));
    })
}

/// Room that a thread's tasks use one after another.
#[derive(Default)]
struct Room {
    x: Scratch,
    dy: Scratch,
    tiles: [Scratch; 3],
}

/// Some output planes for some groups of images.
struct Task<'a> {
    unit: Amx,
    frame: &'a Frame<'a>,
    /// Output planes, their tiles, and the rows of one.
    outputs: usize,
    tiles: usize,
    rows: usize,
    steps: Vec<Step>,
    /// x as `[16 planes][piece][row][column][pairs of images]`, dy as `[piece][plane][row][pixel]`.
    x: &'a mut [[bf16; L]],
    dy: &'a mut [[bf16; L]],
    /// `[16 planes][taps][tile][tap]`, a tile each; nothing before the first.
    sums: &'a mut [[f32; L]],
    first: bool,
}

impl<'a> Task<'a> {
    fn new(unit: Amx, frame: &'a Frame<'a>, outputs: usize, [x, dy, sums]: &'a mut [Scratch; 3]) -> Task<'a> {
        let (d, [tiles, rows]) = (frame.d, tiles_of(outputs));
        let step = |oh: usize, ow: usize| Step { a: (oh * frame.pixels + ow) as u32, b: ((oh * d.sh * frame.row + ow) * PIXEL) as u32 };
        Task {
            unit,
            frame,
            outputs,
            tiles,
            rows,
            steps: (0..frame.rows).flat_map(|oh| (0..d.ow).step_by(2).map(move |ow| step(oh, ow))).collect(),
            x: x.room(frame.blocks * PIECES * frame.piece_of_x()),
            dy: dy.room(PIECES * apart(tiles * rows * frame.plane())),
            sums: sums.room(tiles * frame.blocks * d.kh * d.kw * L),
            first: true,
        }
    }

    /// One group: x `[C][H][W]`, dy `[outputs][OH][OW]`.
    fn add(&mut self, x: &[[f32; L]], dy: &[[f32; L]]) {
        let (frame, d) = (self.frame, self.frame.d);
        let piece = frame.piece_of_x();
        let mut there = 0..0;
        for oh in (0..d.oh).step_by(frame.rows) {
            let rows = frame.rows.min(d.oh - oh);
            let wanted = oh * d.sh..oh * d.sh + frame.rows_of_x(rows);
            self.cut_x(x, &there, &wanted);
            self.cut_dy(dy, oh, rows);
            let a = Side { numbers: self.dy, piece: self.dy.len() / PIECES, row: frame.plane(), tile: self.rows * frame.plane() };
            let (start, steps) = (if self.first { Start::Zeros } else { Start::There }, &self.steps[..rows * frame.pixels / 2]);
            let mut sums = &mut *self.sums;
            for (block, [kh, first, taps]) in (0..frame.blocks).flat_map(|block| frame.taps().map(move |taps| (block, taps))) {
                let at = block * PIECES * piece + (kh * frame.row + first * frame.class) * PIXEL;
                let b = Side { numbers: &self.x[at..], piece, row: 2, tile: PIXEL };
                let (these, rest) = sums.split_at_mut(self.tiles * taps * L);
                self.unit.sums(&a, &b, steps, self.outputs, taps, start, &mut in_tiles(these, taps));
                sums = rest;
            }
            (there, self.first) = (wanted, false);
        }
    }

    /// Brings the rows `wanted` of x, counted from the first above it, into pieces, where the rows `there` are already.
    fn cut_x(&mut self, x: &[[f32; L]], there: &Range<usize>, wanted: &Range<usize>) {
        let (frame, d, piece) = (self.frame, self.frame.d, self.frame.piece_of_x());
        for r in keep(self.x, frame.row * PIXEL, piece, there, wanted) {
            let h = r.wrapping_sub(d.ph);
            for (block, column) in (0..frame.blocks).flat_map(|block| (0..frame.row).map(move |column| (block, column))) {
                let w = (column / frame.class + column % frame.class * d.sw).wrapping_sub(d.pw);
                let to = &mut self.x[block * PIECES * piece + ((r - wanted.start) * frame.row + column) * PIXEL..];
                if h < d.h && w < d.w {
                    let images = self.unit.turned(&x[(block * L * d.h + h) * d.w + w..], d.h * d.w);
                    self.unit.pairs(&images, &images[1..], 2, Target { to, stride: 2, piece });
                } else {
                    for p in 0..PIECES {
                        to[p * piece..][..PIXEL].fill([bf16::ZERO; L]);
                    }
                }
            }
        }
    }

    /// Brings rows of dy from `oh` on into pieces.
    fn cut_dy(&mut self, dy: &[[f32; L]], oh: usize, rows: usize) {
        let (frame, d, piece) = (self.frame, self.frame.d, self.dy.len() / PIECES);
        for o in 0..self.outputs {
            for r in 0..rows {
                let to = &mut self.dy[o * frame.plane() + r * frame.pixels..];
                let dy = &dy[(o * d.oh + oh + r) * d.ow..][..d.ow];
                for p in 0..PIECES {
                    to[p * piece..][d.ow..frame.pixels].fill([bf16::ZERO; L]);
                }
                self.unit.half_rows(dy.as_flattened(), Target { to, stride: 1, piece });
            }
        }
    }

    /// Takes the tiles apart: dw `[outputs][C][KH][KW]`.
    fn weights(&self, dw: &mut [f32]) {
        let d = self.frame.d;
        let mut tiles = self.sums.chunks_exact(L);
        for (block, [kh, first, taps]) in (0..self.frame.blocks).flat_map(|block| self.frame.taps().map(move |taps| (block, taps))) {
            for (tile, kw) in (0..self.tiles).flat_map(|tile| (0..taps).map(move |tap| (tile, first + tap * d.sw))) {
                let (o, sums) = (tile * self.rows, tiles.next().into_iter().flatten());
                for (o, sums) in (o..self.outputs.min(o + self.rows)).zip(sums) {
                    for (c, &sum) in (block * L..d.c).zip(sums) {
                        dw[((o * d.c + c) * d.kh + kh) * d.kw + kw] = sum;
                    }
                }
            }
        }
    }
}
