//! The inner loop of a convolution's weight gradient: sums over pixels and images, for one group of images.
//!
//! This is not an op. `conv2d.rs` derives the sum and cuts the batch into tasks; here one task's group is summed. One lane is one
//! image; the loop holds the sums of up to three taps of a row for two output channels in registers, runs over the pixels, and adds
//! the lanes at the end. Rows above and below the picture are left out; left and right of it, x comes with zeros. On a GPU
//! `kernels/conv2d.cu` does the same with larger tiles. Read next: `conv2d.rs`, below `// ---- CPU`.

use super::conv2d::Dims;
use crate::simd;
use crate::tensor::{L, Lane, Real};

simd! {
    /// One group: dw[o][c][kh][kw] += Σ_images Σ_oh Σ_ow dy[o][oh][ow]·x[c][oh·sh + kh − ph][ow·sw + kw], db[o] += Σ dy
    ///
    /// x [C][H][W + 2pw], dy [O][OH][OW]
    pub(super) fn weights_of_group<A: Real>(x: &[[A; L]], dy: &[[A; L]], dw: &mut [A], db: &mut [A], d: &Dims) {
        for (db, dy) in db.iter_mut().zip(dy.chunks_exact(d.oh * d.ow)) {
            let mut sum = Lane::zero();
            for dy in dy {
                sum = sum.add(Lane(*dy));
            }
            *db = *db + sum.sum(L);
        }
        let mut o = 0;
        while o < d.o {
            let channels = if FUSED { 2.min(d.o - o) } else { 1 };
            for c in 0..d.c {
                for kh in 0..d.kh {
                    let mut kw = 0;
                    while kw < d.kw {
                        // Threes, but rather two twos at the end than a three and a one.
                        let left = d.kw - kw;
                        let taps = if !FUSED { 1 } else if left == 2 || left == 4 { 2 } else { left.min(3) };
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
