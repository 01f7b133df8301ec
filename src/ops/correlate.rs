//! The inner loop of convolutions: sums over windows, for one group of images.
//!
//! This is not an op. `conv2d.rs` derives that y and dx are the same kind of sum over different windows; a [`Grid`] says which, and
//! [`correlate`] computes it. One lane is one image; the loop holds the sums of one pixel of four output channels in registers
//! and runs over all taps of their windows. Rows above and below the picture are left out beforehand; left and right of it,
//! [`Scratch::widen`] puts zeros. Read next: `conv2d.rs`, below `// ---- CPU`.

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
