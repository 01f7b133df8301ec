//! Sums over windows, for one group of images: what forward and dx of a convolution have in common.
//!
//! This is not an op. `conv2d.rs` derives that y and dx are the same kind of sum over different windows; a [`Grid`] says which, and
//! [`correlate`] computes it, row by row. One lane is one image. Pixels whose windows reach as far out of the picture share a list of
//! taps, from which those outside are left out. Read next: `tile.rs`, the inner loop; then `conv2d.rs`, below `// ---- CPU`.
//!
//! On a GPU the same sums are done by tiles of output planes and pixels of a row, and all classes of a stride at once; a warp has
//! more pixels and fewer planes in registers than the CPU, because there a weight costs as much to fetch as 32 pixels.

use super::finish::{End, Rows};
use super::tile::{Strides, Tap, strip};
use crate::simd;
use crate::tensor::{Element, L, Real, Spec, Stored, Tensor};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// A convolution as [`correlate`] sees it: which windows to sum, and where the sums go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// The picture that is read: planes, rows, columns.
    pub(super) planes: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// The window.
    pub(super) kh: usize,
    pub(super) kw: usize,
    /// Pixel (j, i) of the grid sums the window whose first row is j·sy + top and first column i·sx + left; they may lie outside.
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) sy: usize,
    pub(super) sx: usize,
    pub(super) top: isize,
    pub(super) left: isize,
    /// The picture that is written: planes, their pixels, their columns.
    pub(super) out_planes: usize,
    pub(super) out_plane: usize,
    pub(super) out_width: usize,
    /// Pixel (j, i) goes to row out_row + j·out_sy and column out_col + i·out_sx.
    pub(super) out_row: usize,
    pub(super) out_col: usize,
    pub(super) out_sy: usize,
    pub(super) out_sx: usize,
}

impl Grid {
    /// Multiply-adds of lane vectors for one group: those with taps inside.
    pub(super) fn products(&self) -> usize {
        let along = |all: Vec<Stretch>| -> usize { all.iter().map(|stretch| stretch.positions.len() * stretch.taps.len()).sum() };
        let rows = along(stretches(self.rows, self.sy, self.top, self.kh, self.height));
        let cols = along(stretches(self.cols, self.sx, self.left, self.kw, self.width));
        rows * cols * self.planes * self.out_planes
    }
}

/// Neighbouring positions, and which of the window's taps lie inside the picture for all of them.
struct Stretch {
    positions: Range<usize>,
    taps: Range<usize>,
}

/// Cuts `count` positions into stretches; position i sums `k` taps from i·step + first on, of which 0 to `size` lie inside.
fn stretches(count: usize, step: usize, first: isize, k: usize, size: usize) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    for i in 0..count {
        let start = (i * step) as isize + first;
        let inside = |tap: isize| tap.clamp(0, k as isize) as usize;
        let taps = inside(-start)..inside(size as isize - start);
        match all.last_mut() {
            Some(last) if last.taps == taps => last.positions.end = i + 1,
            _ => all.push(Stretch { positions: i..i + 1, taps }),
        }
    }
    all
}

/// Pixels of some rows that share their taps.
struct Region {
    cols: Range<usize>,
    /// The first tap's column for the first pixel.
    left: usize,
    taps: Vec<Tap>,
}

/// Rows whose windows reach as far out above and below.
struct Band {
    rows: Range<usize>,
    /// The first of the window's rows that lies inside.
    kh: usize,
    /// From left to right.
    regions: Vec<Region>,
}

/// A [`Grid`] with the taps of all its pixels: made once, used for each group of images.
pub(super) struct Plan {
    grid: Grid,
    /// From top to bottom.
    bands: Vec<Band>,
}

impl Plan {
    /// Works out which taps lie inside.
    pub(super) fn new(grid: Grid) -> Plan {
        let d = &grid;
        let cols = stretches(d.cols, d.sx, d.left, d.kw, d.width);
        let bands = stretches(d.rows, d.sy, d.top, d.kh, d.height).into_iter().map(|row| {
            let regions = cols.iter().map(|col| Region {
                cols: col.positions.clone(),
                left: ((col.positions.start * d.sx + col.taps.start) as isize + d.left).max(0) as usize,
                taps: taps(d, &row.taps, &col.taps),
            });
            Band { kh: row.taps.start, regions: regions.collect(), rows: row.positions }
        });
        Plan { bands: bands.collect(), grid }
    }
}

/// The taps of a window's rows and columns, in x from the first of them on.
fn taps(d: &Grid, rows: &Range<usize>, cols: &Range<usize>) -> Vec<Tap> {
    let mut taps = Vec::with_capacity(d.planes * rows.len() * cols.len());
    for c in 0..d.planes {
        for kh in rows.clone() {
            let (x, w) = ((c * d.height + kh - rows.start) * d.width, (c * d.kh + kh) * d.kw);
            taps.extend(cols.clone().map(|kw| Tap { x: (x + kw - cols.start) as u32, w: (w + kw) as u32 }));
        }
    }
    taps
}

/// All groups: b + the windows of x times w, for each part of the sums by itself.
pub(super) fn run<T: Element>(parts: &[(Cow<[T::Acc]>, Grid)], b: Option<&[T::Acc]>, x: &Tensor, end: End<T>) {
    let parts: Vec<_> = parts.iter().map(|(w, grid)| (w, Plan::new(*grid))).collect();
    let of_x = x.lanes::<T>().len() / x.spec().groups();
    let groups = end.groups().into_par_iter().zip(x.lanes::<T>().par_chunks(of_x));
    groups.for_each_init(<[Scratch; 2]>::default, |[x_scratch, out_scratch], (group, x)| {
        let x = x_scratch.sums::<T>(x);
        group.fill(out_scratch, |out, add, rows| {
            for (w, plan) in &parts {
                correlate::<T::Acc>(x, w, b, out, plan, add, rows);
            }
        });
    });
}

/// One group of images: out[o][j][i] = b[o] + Σ_c Σ_kh Σ_kw w[o][c][kh][kw]·x[c][j·sy + top + kh][i·sx + left + kw]
///
/// x [planes][height][width], w [out_planes][planes][kh][kw], b [out_planes], out [out_planes][out_plane]; after each row of the grid `rows` gets out and
/// how many are there.
fn correlate<A: Real>(x: &[[A; L]], w: &[A], b: Option<&[A]>, out: &mut [[A; L]], plan: &Plan, add: bool, rows: &mut Rows<A>) {
    let d = &plan.grid;
    for Band { rows: of_band, kh, regions } in &plan.bands {
        for j in of_band.clone() {
            let row = ((j * d.sy + kh) as isize + d.top).max(0) as usize * d.width;
            let row_of_out = &mut out[(d.out_row + j * d.out_sy) * d.out_width + d.out_col..];
            for region in regions {
                // Windows that lie outside have no taps: wherever they begin, nothing is read.
                let (x, step) = if region.taps.is_empty() { (&[][..], 0) } else { (&x[row + region.left..], d.sx) };
                let strides = Strides { x: step, w: d.planes * d.kh * d.kw, out: [d.out_plane, d.out_sx] };
                let out = &mut row_of_out[region.cols.start * d.out_sx..];
                strip::<A>(x, w, b, &region.taps, out, [d.out_planes, region.cols.len()], &strides, add);
            }
            rows(out, j + 1);
        }
    }
}

/// The input positions with the same remainder modulo the stride, along one direction.
pub(super) struct Class {
    pub(super) remainder: usize,
    /// How many positions: remainder, remainder + s, ...
    pub(super) count: usize,
    /// How many taps reach them.
    pub(super) taps: usize,
    /// The output that the last tap connects position `remainder` with; may lie outside.
    pub(super) first: isize,
}

/// The classes of `size` input positions under a kernel of `k` taps, stride `s` and padding `p`.
pub(super) fn classes(size: usize, k: usize, s: usize, p: usize) -> Vec<Class> {
    (0..s.min(size))
        .map(|r| {
            let k0 = (r + p) % s;
            let taps = k.saturating_sub(k0).div_ceil(s);
            let first = ((r + p - k0) / s) as isize - (taps as isize - 1);
            Class { remainder: r, count: (size - r).div_ceil(s), taps, first: if taps == 0 { 0 } else { first } }
        })
        .collect()
}

/// Room for a group's planes in the type of sums.
#[derive(Default)]
pub(super) struct Scratch(Option<Tensor>);

impl Scratch {
    /// `len` lane vectors of unspecified content.
    pub(super) fn room<A: Stored>(&mut self, len: usize) -> &mut [[A; L]] {
        let spec = Spec::lanes([L, len], A::DTYPE);
        if self.0.as_ref().is_none_or(|room| room.spec() != spec) {
            self.0 = Some(Tensor::new(spec));
        }
        self.0.get_or_insert_with(|| Tensor::new(spec)).lanes_mut()
    }

    /// x in the type of sums: x itself where it has that type.
    pub(super) fn sums<'a, T: Element>(&'a mut self, x: &'a [[T; L]]) -> &'a [[T::Acc; L]] {
        if let Some(x) = T::as_acc(x) {
            return x;
        }
        let out = self.room::<T::Acc>(x.len());
        copy::<T>(x, out);
        out
    }
}

simd! {
    /// x in the type of sums.
    fn copy<T: Element>(x: &[[T; L]], out: &mut [[T::Acc; L]]) {
        for (x, out) in x.as_flattened().iter().zip(out.as_flattened_mut()) {
            *out = x.up();
        }
    }
}

// ---- CUDA

pub(super) mod cuda {
    use super::*;
    use crate::device::cuda::kernels::correlate::{self as kernel, Grid};
    use crate::device::cuda::{Const, Launch};
    use crate::error::Result;
    use crate::ops::conv2d::Dims;

    /// Which picture of a convolution is written.
    #[derive(Clone, Copy, PartialEq)]
    pub enum Picture {
        /// y of x.
        Output,
        /// dx of dy.
        Input,
    }

    /// Output planes and pixels of a row that a warp sums, in f32 (in f64 half as many planes), and what one product costs in them:
    /// each weight is fetched from shared memory once for its pixels, each pixel once for its planes.
    const TILES: [(usize, usize, usize); 4] = [(8, 7, 20), (8, 8, 20), (4, 8, 22), (4, 4, 28)];

    /// Warps that a large GPU should have at least; where there are fewer tiles, up to 4 warps share one.
    const WARPS: usize = 1024;

    /// y = b + the windows of x times w; or dx (+)= those of dy. Shapes as in `conv2d.rs`.
    #[allow(clippy::too_many_arguments)]
    pub fn correlate<T: Element>(
        d: &Dims,
        written: Picture,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        out: &mut Tensor,
        add: bool,
    ) -> Result<()> {
        let transposed = written == Picture::Input;
        let ([_, planes, height, width], [_, out_planes, out_height, out_width]) = (x.shape().nchw(), out.shape().nchw());
        // Backward, the positions of dx with the same remainder of the stride are a class; the first class is the largest.
        let (sh, sw) = if transposed { (d.sh, d.sw) } else { (1, 1) };
        let (rows, cols, classes) = (out_height.div_ceil(sh), out_width.div_ceil(sw), sh.min(out_height) * sw.min(out_width));
        let narrow = size_of::<T::Acc>() / 4;
        let price = |(o, p, cost): (usize, usize, usize)| out_planes.next_multiple_of(o / narrow) * cols.next_multiple_of(p) * cost;
        let (o, p, _) = TILES.into_iter().min_by_key(|&tile| price(tile)).unwrap_or(TILES[0]);
        let (blocks_o, tiles, groups) = (out_planes.div_ceil(o / narrow), rows * cols.div_ceil(p), out.spec().groups());
        let mut split = 1;
        while split < 4 && tiles * classes * blocks_o * groups * split < WARPS && planes >= 4 * split {
            split *= 2;
        }
        let grid = Grid {
            planes: planes as i32,
            height: height as i32,
            width: width as i32,
            out_planes: out_planes as i32,
            out_height: out_height as i32,
            out_width: out_width as i32,
            kh: d.kh as i32,
            kw: d.kw as i32,
            sh: d.sh as i32,
            sw: d.sw as i32,
            ph: d.ph as i32,
            pw: d.pw as i32,
            transposed: transposed.into(),
            split: split as i32,
        };
        let at = Launch::new(out.device(), [(tiles * split).div_ceil(4) * classes, blocks_o, groups], [32, 4, 1]);
        let tile = match (o, p) {
            (8, 7) => kernel::tile_8x7::<T>,
            (8, 8) => kernel::tile_8x8::<T>,
            (4, 8) => kernel::tile_4x8::<T>,
            _ => kernel::tile_4x4::<T>,
        };
        tile(at, x.cuda(), w.cuda(), b.map_or(Const::null(), Tensor::cuda), out.cuda_mut(), grid, add.into())
    }
}
