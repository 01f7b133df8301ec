//! Sums over windows on the matrix unit: y and dx of a convolution, for which `ops/correlate.rs` has the loops.
//!
//! Of a the rows are output planes, of b a row is two planes of a pixel. The pieces of a picture lie as `[row][column][pair of planes]`, so that a row
//! of a window, for all its planes, is one stretch of rows of b: it is cut into steps of 16, and the last one's surplus meets weights of 0. The next
//! pixel's stretch begins a pixel further on. Zeros lie around the picture.
//!
//! A group of images is done band by band: so many rows are in pieces at a time that they fill a quarter of the second-level cache; what the next
//! band reads again moves up. Read next: `weights.rs`.

use super::{PIECE, TILE, apart, floats, floats_mut, keep, numbers, room, spread};
use crate::device::amx::{Amx, Out, Side, Start, Step, Target, tiles_of};
use crate::device::second_level_cache;
use crate::ops::correlate::{Grid, Scratch};
use crate::ops::finish::{End, Rows};
use crate::ops::winograd::Picture;
use crate::tensor::{Element, L, Real, Tensor};
use half::bf16;
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Is this the faster way? `picture`: Winograd's, where that is faster than direct sums.
///
/// Counts a Xeon's cycles for one group of images, as `cargo bench --bench kernels -- conv2d` told them with the unit and without; and
/// a fifth more, as the other ways find more in the caches during a step than there.
pub(in crate::ops) fn pays(unit: Amx, grids: &[Grid], picture: Option<&Picture>) -> bool {
    // A step of a row, and cutting a lane vector.
    let [step, cut] = [[1.6, 7.0], [4.5, 10.0], [7.8, 14.0]][unit.pieces() - 1];
    let of_pixels = |d: &Grid| {
        let ([tiles, rows], steps) = (tiles_of(d.out_planes), d.kh * (d.kw * d.planes.div_ceil(2)).div_ceil(L));
        (d.rows * d.cols) as f64 * (step * (steps * tiles * rows.max(12)) as f64 + 3.0 * d.out_planes as f64)
    };
    let cutting = grids.first().map_or(0.0, |d| cut * (d.planes * d.height * d.width) as f64);
    let otherwise = picture.map_or_else(|| grids.iter().map(Grid::products).sum(), Picture::work);
    1.2 * (cutting + grids.iter().map(of_pixels).sum::<f64>()) < otherwise as f64 / 1.6
}

/// The sums of one [`Grid`].
struct Part<'a> {
    grid: &'a Grid,
    steps: Vec<Step>,
    /// The weights' pieces: `[tile][step][piece][row][32]`
    weights: Tensor,
}

/// What of a picture the parts read: rows and columns from these on, which may lie outside.
struct Frame {
    top: isize,
    left: isize,
    /// Rows that a row of sums reads, and from one row of sums to the next.
    height: usize,
    step: usize,
    width: usize,
    /// Pairs of planes.
    pairs: usize,
    /// Rows in pieces at a time.
    band: usize,
}

impl Frame {
    fn new(unit: Amx, parts: &[(Cow<[impl Real]>, Grid)]) -> Frame {
        // Parts without taps read nothing.
        let read = || parts.iter().map(|(_, grid)| grid).filter(|grid| grid.kh > 0);
        let first = |of: fn(&Grid) -> isize| read().map(of).min().unwrap_or(0);
        let (top, left) = (first(|d| d.top), first(|d| d.left));
        let end = |of: fn(&Grid) -> isize| read().map(of).max().unwrap_or(0);
        let bottom = end(|d| d.top + d.kh as isize);
        let right = end(|d| d.left + (d.cols.saturating_sub(1) * d.sx + d.kw) as isize);
        let (height, step, pairs) = ((bottom - top) as usize, parts[0].1.sy, parts[0].1.planes.div_ceil(2));
        let width = (right - left) as usize;
        let row = unit.pieces() * width * pairs * size_of::<[bf16; 2 * L]>();
        Frame { top, left, height, step, width, pairs, band: (second_level_cache() / 4 / row.max(1)).max(height + step) }
    }

    /// Half rows of b in a row of the picture.
    fn row(&self) -> usize {
        self.width * self.pairs * 2
    }

    /// Half rows from a piece to the next.
    fn piece(&self) -> usize {
        apart(self.band * self.row())
    }

    /// Where the window of a row's first pixel begins, if pieces begin with the frame's row `first`.
    fn place(&self, d: &Grid, j: usize, first: usize) -> usize {
        let (row, col) = (j * self.step + (d.top - self.top) as usize - first, (d.left - self.left) as usize);
        row * self.row() + col * self.pairs * 2
    }
}

/// All groups: sums[o][j][i] (+)= b[o] + Σ_c Σ_kh Σ_kw w[o][c][kh][kw]·x[c][j·sy + top + kh][i·sx + left + kw], for the weights and the grid of each part.
pub(in crate::ops) fn run<T: Element>(unit: Amx, parts: &[(Cow<[T::Acc]>, Grid)], b: Option<&[T::Acc]>, x: &Tensor, end: End<T>) {
    let frame = Frame::new(unit, parts);
    let parts: Vec<Part> = parts.iter().map(|(w, grid)| part(unit, numbers(w), grid, &frame)).collect();
    let (grid, b) = (parts[0].grid, b.map(|b| spread(numbers(b))));
    let x = x.lanes::<T>().par_chunks(grid.planes * grid.height * grid.width);
    end.groups().into_par_iter().zip(x).for_each_init(<[Scratch; 3]>::default, |[x_scratch, out_scratch, pieces], (to, x)| {
        let x = floats(x_scratch.sums::<T>(x));
        to.fill(out_scratch, |out, add, rows| {
            let start = if add { Start::There } else { b.as_deref().map_or(Start::Zeros, Start::Rows) };
            group::<T::Acc>(unit, &parts, &frame, x, out, start, pieces, rows);
        });
    });
}

/// Cuts the weights w `[O][C][KH][KW]` into pieces.
fn part<'a>(unit: Amx, w: &[f32], grid: &'a Grid, frame: &Frame) -> Part<'a> {
    let (tiles, stretch) = (tiles_of(grid.out_planes), grid.kw * frame.pairs);
    let of_row = stretch.div_ceil(L);
    let step = |s: usize| Step { a: (s * TILE) as u32, b: (s / of_row * frame.row() + s % of_row * PIECE) as u32 };
    let steps: Vec<Step> = (0..grid.kh * of_row).map(step).collect();
    let mut weights = room(tiles[0] * steps.len() * TILE);
    weights.lanes_mut().par_chunks_mut((steps.len() * TILE).max(1)).enumerate().for_each(|(tile, to)| {
        let mut line = vec![0.0; 2 * stretch];
        for (row, o) in (tile * tiles[1]..grid.out_planes.min((tile + 1) * tiles[1])).enumerate() {
            for kh in 0..grid.kh {
                for (c, kw) in (0..grid.planes).flat_map(|c| (0..grid.kw).map(move |kw| (c, kw))) {
                    line[kw * frame.pairs * 2 + c] = w[((o * grid.planes + c) * grid.kh + kh) * grid.kw + kw];
                }
                let to = &mut to[kh * of_row * TILE + 2 * row..];
                unit.rows(&line, Target { to, stride: TILE, piece: PIECE });
            }
        }
    });
    Part { grid, steps, weights }
}

/// One group of images: x and out as the grids say; after each band `done` gets out and how many of the grids' rows are there.
#[allow(clippy::too_many_arguments)]
fn group<A: Real>(
    unit: Amx,
    parts: &[Part],
    frame: &Frame,
    x: &[[f32; L]],
    out: &mut [[A; L]],
    start: Start,
    pieces: &mut Scratch,
    done: &mut Rows<A>,
) {
    let pieces = pieces.room(unit.pieces() * frame.piece());
    let rows = parts.iter().map(|part| part.grid.rows).max().unwrap_or(0);
    let of_band = (frame.band - frame.height) / frame.step + 1;
    let mut there = 0..0;
    for j0 in (0..rows).step_by(of_band) {
        let j1 = rows.min(j0 + of_band);
        // Rows of the frame that the band reads, counted from the frame's first.
        let wanted = j0 * frame.step..(j1 - 1) * frame.step + frame.height;
        cut(unit, x, parts[0].grid, frame, pieces, there, wanted.clone());
        for (part, j) in parts.iter().flat_map(|part| (j0..j1.min(part.grid.rows)).map(move |j| (part, j))) {
            let d = part.grid;
            // Without taps nothing is read, wherever the windows lie.
            let at = if part.steps.is_empty() { 0 } else { frame.place(d, j, wanted.start) };
            let weights = Side { numbers: part.weights.lanes(), piece: PIECE, row: 2, tile: part.steps.len() * TILE };
            let pixels = Side { numbers: &pieces[at..], piece: frame.piece(), row: 2, tile: d.sx * frame.pairs * 2 };
            let [_, rows] = tiles_of(d.out_planes);
            let sums = &mut floats_mut(out)[(d.out_row + j * d.out_sy) * d.out_width + d.out_col..];
            let out = &mut Out { sums, row: d.out_plane, tiles: [rows * d.out_plane, d.out_sx] };
            unit.sums(&weights, &pixels, &part.steps, d.out_planes, d.cols, start, out);
        }
        done(out, j1);
        there = wanted;
    }
}

/// Brings the rows `wanted` of the frame into pieces, where the rows `there` are already.
fn cut(unit: Amx, x: &[[f32; L]], d: &Grid, frame: &Frame, pieces: &mut [[bf16; L]], there: Range<usize>, wanted: Range<usize>) {
    let (row, piece) = (frame.row(), frame.piece());
    // The frame's columns that lie in the picture.
    let inside = |column: isize| (column - frame.left).clamp(0, frame.width as isize) as usize;
    let (first, last) = (inside(0), inside(d.width as isize));
    for r in keep(pieces, row, piece, &there, &wanted) {
        let (to, from) = ((r - wanted.start) * row, r as isize + frame.top);
        let there = (0..d.height as isize).contains(&from) && first < last;
        let (first, last) = if there { (first, last) } else { (frame.width, frame.width) };
        for piece in pieces.chunks_exact_mut(piece) {
            let row = &mut piece[to..to + row];
            row[..first * frame.pairs * 2].fill([bf16::ZERO; L]);
            row[last * frame.pairs * 2..].fill([bf16::ZERO; L]);
        }
        if !there {
            continue;
        }
        let start = (first as isize + frame.left) as usize;
        let of_plane =
            |c: usize| x.chunks_exact(d.height * d.width).nth(c).map_or(&[][..], |x| &x[from as usize * d.width + start..][..last - first]);
        for pair in 0..frame.pairs {
            let to = &mut pieces[to + (first * frame.pairs + pair) * 2..];
            unit.pairs(of_plane(2 * pair), of_plane(2 * pair + 1), 1, Target { to, stride: frame.pairs * 2, piece });
        }
    }
}
