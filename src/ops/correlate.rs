//! The inner loop of convolutions: sums over windows, for one group of images.
//!
//! This is not an op. `conv2d.rs` derives that y and dx are the same kind of sum over different windows; a [`Grid`] says which, and
//! [`correlate`] computes it. One lane is one image; the loop holds the sums of one pixel of four output channels in registers
//! and runs over all taps of their windows. Rows above and below the picture are left out beforehand; left and right of it,
//! [`Scratch::widen`] puts zeros. Read next: `conv2d.rs`, below `// ---- CPU`.
//!
//! On a GPU the same sums are done by tiles of output planes and pixels of a row, and all classes of a stride at once; a warp has
//! more pixels and fewer planes in registers than the CPU, because there a weight costs as much to fetch as 32 pixels.

use crate::simd;
use crate::tensor::{Element, L, Lane, Real, Spec, Tensor};

/// Output channels that are summed at once: 4 lane vectors are 8 of AVX2's 16 registers, enough to keep both multipliers busy.
pub(super) const CHANNELS: usize = 4;

/// A convolution as [`correlate`] sees it: which windows to sum, and where the sums go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// The picture that is read: planes, rows, and columns after padding.
    pub(super) planes: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// The window.
    pub(super) kh: usize,
    pub(super) kw: usize,
    /// Pixel (j, i) of the grid sums the window whose first row is j·sy + top (it may lie outside) and first column i·sx + left.
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) sy: usize,
    pub(super) sx: usize,
    pub(super) top: isize,
    pub(super) left: usize,
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

simd! {
    /// One group of images: out[o][j][i] = b[o] + Σ_c Σ_kh Σ_kw w[o][c][kh][kw]·x[c][j·sy + top + kh][i·sx + left + kw]
    ///
    /// x [planes][height][width], w [blocks][planes][kh][kw] of [`CHANNELS`] outputs, b [blocks], out [out_planes][out_plane]
    pub(super) fn correlate<A: Real>(x: &[[A; L]], w: &[[A; CHANNELS]], b: &[[A; CHANNELS]], out: &mut [[A; L]], d: &Grid, add: bool) {
        let mut runs = Vec::with_capacity(d.planes * d.kh * d.kw);
        for j in 0..d.rows {
            // Unrolling over a run pays where a multiply-add is an instruction, and in f32; f64 is for checks.
            match d.kw {
                2 if const { FUSED && size_of::<A>() == 4 } => row::<A, 2>(x, w, b, out, d, j, add, &mut runs),
                3 if const { FUSED && size_of::<A>() == 4 } => row::<A, 3>(x, w, b, out, d, j, add, &mut runs),
                5 if const { FUSED && size_of::<A>() == 4 } => row::<A, 5>(x, w, b, out, d, j, add, &mut runs),
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
    let per_block = d.planes * d.kh * d.kw;
    for i in 0..d.cols {
        let x = &x[i * d.sx..];
        let to = (d.out_row + j * d.out_sy) * d.out_width + d.out_col + i * d.out_sx;
        for (block, bias) in b.iter().enumerate() {
            let w = &w[block * per_block..][..per_block];
            let mut acc = [Lane::zero(); CHANNELS];
            for o in 0..CHANNELS {
                acc[o] = Lane::splat(bias[o]);
            }
            for &(pixel, tap) in runs.iter() {
                let x = &x[pixel as usize..][..K];
                let w = &w[tap as usize..][..K];
                for k in 0..K {
                    for o in 0..CHANNELS {
                        acc[o] = Lane(x[k]).fma(w[k][o], acc[o]);
                    }
                }
            }
            for o in 0..CHANNELS.min(d.out_planes - block * CHANNELS) {
                acc[o].put(&mut out[(block * CHANNELS + o) * d.out_plane + to], add);
            }
        }
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

/// Weights of `n` outputs with `per` weights each, in blocks of [`CHANNELS`] outputs side by side; the last block is filled up with 0.
pub(super) fn pack<A: Real>(n: usize, per: usize, w: impl Fn(usize, usize) -> A) -> Vec<[A; CHANNELS]> {
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
pub(super) struct Scratch(Option<Tensor>);

impl Scratch {
    /// Lets `sum` write all of y, or add to it if told so: at once, or where y's type is narrower than sums by way of a copy.
    pub(super) fn sum_into<T: Element>(&mut self, y: &mut [[T; L]], add: bool, sum: impl Fn(&mut [[T::Acc; L]], bool)) {
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
    pub(super) fn widen<'a, T: Element>(&'a mut self, x: &'a [[T; L]], w: usize, left: usize, right: usize) -> &'a [[T::Acc; L]] {
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
