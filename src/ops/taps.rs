//! The inner loop of a convolution's weight gradient: sums over pixels and images, for one group of images.
//!
//! This is not an op. `conv2d.rs` derives the sum and cuts it into tasks; here one task's group is summed. One lane is one
//! image; a tile of weights (all nine taps of a 3x3 kernel for two output channels, or five taps of a row for four) stays in
//! registers while the loop runs over the pixels. Its sums go to a lane vector for each weight, and the lanes are added once all groups
//! are through. Rows above and below the picture are left out; left and right of it, x comes with zeros. On a GPU
//! `kernels/conv2d.cu` does the same with other tiles. Read next: `conv2d.rs`, below `// ---- CPU`.

use super::conv2d::Dims;
use crate::simd;
use crate::tensor::{L, Real, Vector};

/// Bytes of a band: half a first-level cache.
const BAND: usize = 16 << 10;

simd! {
    /// One group, some output channels: dw[o][c][kh][kw] += Σ_oh Σ_ow dy[o][oh][ow]·x[c][oh·sh + kh − ph][ow·sw + kw], lane by
    /// lane; `first`: dw holds nothing yet.
    ///
    /// x [C][H][W + 2pw], dy [outputs][OH][OW], dw [outputs][C][KH][KW]
    pub(super) fn weights_of_group<A: Real>(x: &[[A; L]], dy: &[[A; L]], dw: &mut [[A; L]], d: &Dims, first: bool) {
        let outputs = dy.len() / (d.oh * d.ow);
        // A few rows of one x at a time, so that they stay in the cache for all outputs.
        let row = d.sh * (d.w + 2 * d.pw) * size_of::<[A; L]>();
        let bands = d.oh.div_ceil((BAND / row).max(1));
        for band in 0..bands {
            let rows = [band * d.oh / bands, (band + 1) * d.oh / bands];
            for c in 0..d.c {
                let at = Place { x, dy, d, rows, o: 0, c, kh: 0, kw: 0, first: first && band == 0 };
                match [d.kh, d.kw] {
                    [3, 3] if const { V::ROOM >= 32 } => {
                        for (o, n) in blocks(outputs, 2) {
                            match n {
                                1 => tile::<A, V, 1, 3, 3>(&at.weight(o, 0, 0), dw),
                                _ => tile::<A, V, 2, 3, 3>(&at.weight(o, 0, 0), dw),
                            }
                        }
                    }
                    _ => pieces::<A, V>(&at, dw, outputs),
                }
            }
        }
    }
}

/// Cuts `all` into blocks of nearly the same size, at most `most`: the first of each, and how many there are.
#[inline(always)]
fn blocks(all: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let blocks = all.div_ceil(most);
    (0..blocks).map(move |block| (block * all / blocks, (block + 1) * all / blocks - block * all / blocks))
}

/// Any kernel, in tiles of some outputs and some taps of a row.
#[inline(always)]
fn pieces<A: Real, V: Vector<A>>(at: &Place<A>, dw: &mut [[A; L]], outputs: usize) {
    let [most_outputs, most_taps] = match const { V::ROOM } {
        32.. => [4, 5],
        8.. => [2, 3],
        _ => [1, 3],
    };
    for (o, n) in blocks(outputs, most_outputs) {
        for kh in 0..at.d.kh {
            for (kw, taps) in blocks(at.d.kw, most_taps) {
                let at = at.weight(o, kh, kw);
                match taps {
                    1 => outputs_of::<A, V, 1>(&at, dw, n),
                    2 => outputs_of::<A, V, 2>(&at, dw, n),
                    3 => outputs_of::<A, V, 3>(&at, dw, n),
                    4 if const { V::ROOM >= 32 } => outputs_of::<A, V, 4>(&at, dw, n),
                    _ if const { V::ROOM >= 32 } => outputs_of::<A, V, 5>(&at, dw, n),
                    _ => unreachable!("a tile has no more taps than registers"),
                }
            }
        }
    }
}

simd! {
    /// out[i] = the sum of x[i]'s lanes.
    pub(super) fn add_lanes<A: Real>(x: &[[A; L]], out: &mut [A]) {
        for (x, out) in x.iter().zip(out) {
            *out = V::load(x).total();
        }
    }
}

simd! {
    /// The sum of all of x's numbers: first those of a lane, then the lanes.
    pub(super) fn total<A: Real>(x: &[[A; L]]) -> A {
        let mut sum = V::splat(A::ZERO);
        for x in x {
            sum = sum.plus(V::load(x));
        }
        sum.total()
    }
}

/// What a tile reads, and its first weight.
struct Place<'a, A> {
    x: &'a [[A; L]],
    dy: &'a [[A; L]],
    d: &'a Dims,
    /// The rows of dy.
    rows: [usize; 2],
    o: usize,
    c: usize,
    kh: usize,
    kw: usize,
    first: bool,
}

impl<A> Place<'_, A> {
    /// The same with another first weight.
    #[inline(always)]
    fn weight(&self, o: usize, kh: usize, kw: usize) -> Self {
        Place { x: self.x, dy: self.dy, d: self.d, rows: self.rows, o, c: self.c, kh, kw, first: self.first }
    }
}

#[inline(always)]
fn outputs_of<A: Real, V: Vector<A>, const K: usize>(at: &Place<A>, dw: &mut [[A; L]], outputs: usize) {
    match outputs {
        1 => tile::<A, V, 1, 1, K>(at, dw),
        2 if const { V::ROOM >= 8 } => tile::<A, V, 2, 1, K>(at, dw),
        3 if const { V::ROOM >= 32 } => tile::<A, V, 3, 1, K>(at, dw),
        _ if const { V::ROOM >= 32 } => tile::<A, V, 4, 1, K>(at, dw),
        _ => unreachable!("a tile has no more outputs than registers"),
    }
}

/// O output channels, R rows of the kernel, K taps of each.
#[inline(always)]
fn tile<A: Real, V: Vector<A>, const O: usize, const R: usize, const K: usize>(at: &Place<A>, dw: &mut [[A; L]]) {
    let Place { d, o, c, kh, kw, .. } = *at;
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
    let width = d.w + 2 * d.pw;
    for oh in at.rows[0]..at.rows[1] {
        let mut dys = [at.dy; O];
        for i in 0..O {
            dys[i] = &at.dy[((o + i) * d.oh + oh) * d.ow..][..d.ow];
        }
        // Row r of the tile lies in the picture for lo <= r < hi.
        let row = (oh * d.sh + kh) as isize - d.ph as isize;
        let (lo, hi) = ((-row).max(0), d.h as isize - row);
        let x_row = |r: usize| &at.x[(c * d.h + (row + r as isize) as usize) * width + kw..][..(d.ow - 1) * d.sw + K];
        if lo == 0 && hi >= R as isize {
            let mut xs = [at.x; R];
            for r in 0..R {
                xs[r] = x_row(r);
            }
            line::<A, V, O, R, K>(xs, dys, d.sw, &mut acc);
        } else {
            for r in 0..R {
                if (lo..hi).contains(&(r as isize)) {
                    let mut part = [[[V::splat(A::ZERO); K]; 1]; O];
                    for i in 0..O {
                        part[i][0] = acc[i][r];
                    }
                    line::<A, V, O, 1, K>([x_row(r)], dys, d.sw, &mut part);
                    for i in 0..O {
                        acc[i][r] = part[i][0];
                    }
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

/// One row of dy.
#[inline(always)]
fn line<A: Real, V: Vector<A>, const O: usize, const R: usize, const K: usize>(
    xs: [&[[A; L]]; R],
    dys: [&[[A; L]]; O],
    step: usize,
    acc: &mut [[[V; K]; R]; O],
) {
    // Slices of one length: one check a pixel is enough for all.
    let (cols, len) = (dys[0].len(), xs[0].len() - (K - 1));
    let mut taps = [[xs[0]; K]; R];
    for r in 0..R {
        for k in 0..K {
            taps[r][k] = &xs[r][k..][..len];
        }
    }
    for i in 0..cols {
        let at = i * step;
        let mut dy = [V::splat(A::ZERO); O];
        for o in 0..O {
            dy[o] = V::load(&dys[o][i]);
        }
        for r in 0..R {
            for k in 0..K {
                let x = V::load(&taps[r][k][at]);
                for o in 0..O {
                    acc[o][r][k] = x.fma(dy[o], acc[o][r][k]);
                }
            }
        }
    }
}
