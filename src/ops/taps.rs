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

/// Bytes of a band of x and of a tile's dy: most of a first-level cache.
const BAND: usize = 20 << 10;

/// One product's places: in x, counted from its channel's plane, and in dy, counted from its output's.
#[derive(Debug, Clone, Copy)]
struct Pixel {
    x: u32,
    dy: u32,
}

/// Which pixels meet a row of the kernel: all of dy's rows from `first` on whose pixels of x lie inside the picture.
struct Row {
    first: usize,
    pixels: Vec<Pixel>,
}

impl Row {
    /// The pixels of dy's rows from rows[0] to rows[1], as far as they are here.
    #[inline(always)]
    fn between(&self, rows: [usize; 2], cols: usize) -> &[Pixel] {
        let [from, to] = rows.map(|row| (row.saturating_sub(self.first) * cols).min(self.pixels.len()));
        self.pixels.get(from..to).unwrap_or(&[])
    }
}

/// What meets what, for each row of the kernel. A list costs less than loops over rows and columns, whose rows are short.
pub(super) struct Pixels(Vec<Row>);

impl Pixels {
    /// For x widened to W + 2pw columns.
    pub(super) fn new(d: &Dims) -> Pixels {
        let width = d.w + 2 * d.pw;
        let row = |kh: usize| {
            let inside = |oh: &usize| (d.ph..d.h + d.ph).contains(&(oh * d.sh + kh));
            let rows: Vec<usize> = (0..d.oh).filter(inside).collect();
            let pixel =
                |oh: usize, ow: usize| Pixel { x: ((oh * d.sh + kh - d.ph) * width + ow * d.sw) as u32, dy: (oh * d.ow + ow) as u32 };
            Row {
                first: rows.first().copied().unwrap_or(0),
                pixels: rows.into_iter().flat_map(|oh| (0..d.ow).map(move |ow| pixel(oh, ow))).collect(),
            }
        };
        Pixels((0..d.kh).map(row).collect())
    }

    /// The rows of dy that meet all rows of the kernel.
    fn common(&self, d: &Dims) -> [usize; 2] {
        let from = self.0.iter().map(|row| row.first).max().unwrap_or(0);
        let to = self.0.iter().map(|row| row.first + row.pixels.len() / d.ow).min().unwrap_or(0);
        [from, to.max(from)]
    }
}

simd! {
    /// One group, some output channels: dw[o][c][kh][kw] += Σ_oh Σ_ow dy[o][oh][ow]·x[c][oh·sh + kh − ph][ow·sw + kw], lane by
    /// lane; `first`: dw holds nothing yet.
    ///
    /// x [C][H][W + 2pw], dy [outputs][OH][OW], dw [outputs][C][KH][KW]
    pub(super) fn weights_of_group<A: Real>(x: &[[A; L]], dy: &[[A; L]], dw: &mut [[A; L]], d: &Dims, pixels: &Pixels, first: bool) {
        let outputs = dy.len() / (d.oh * d.ow);
        let nine = const { V::ROOM >= 32 } && [d.kh, d.kw] == [3, 3];
        let most = match const { V::ROOM } {
            32.. => if nine { 2 } else { 4 },
            8.. => 2,
            _ => 1,
        };
        // A few rows at a time: dy's stay in the cache for all channels, and x's for all taps.
        let row = (d.sh * (d.w + 2 * d.pw) + most * d.ow) * size_of::<[A; L]>();
        let bands = d.oh.div_ceil((BAND / row).max(1));
        for band in 0..bands {
            let rows = [band * d.oh / bands, (band + 1) * d.oh / bands];
            for (o, n) in blocks(outputs, most) {
                for c in 0..d.c {
                    let x = &x[c * d.h * (d.w + 2 * d.pw)..];
                    let at = Place { x, dy, d, pixels, rows, o, c, first: first && band == 0 };
                    if nine { whole::<A, V>(&at, dw, n) } else { pieces::<A, V>(&at, dw, n) }
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

/// A 3x3 kernel, in tiles of all nine taps; where a row of the kernel looks outside of the picture, in tiles of the other rows.
#[inline(always)]
fn whole<A: Real, V: Vector<A>>(at: &Place<A>, dw: &mut [[A; L]], outputs: usize) {
    let ([from, to], [begin, end]) = (at.pixels.common(at.d).map(|row| row.clamp(at.rows[0], at.rows[1])), at.rows);
    let mut first = at.first;
    for (rows, all) in [([begin, from], false), ([from, to], true), ([to, end], false)] {
        if rows[0] == rows[1] {
            continue;
        }
        let at = Place { rows, first, ..*at };
        match (all, outputs) {
            (true, 1) => tile::<A, V, 1, 3, 3>(&at, dw, [0, 0]),
            (true, _) => tile::<A, V, 2, 3, 3>(&at, dw, [0, 0]),
            (false, 1) => (0..3).for_each(|kh| tile::<A, V, 1, 1, 3>(&at, dw, [kh, 0])),
            (false, _) => (0..3).for_each(|kh| tile::<A, V, 2, 1, 3>(&at, dw, [kh, 0])),
        }
        first = false;
    }
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

/// What a tile reads.
struct Place<'a, A> {
    /// From the channel's plane on.
    x: &'a [[A; L]],
    dy: &'a [[A; L]],
    d: &'a Dims,
    pixels: &'a Pixels,
    /// The rows of dy.
    rows: [usize; 2],
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

/// O output channels, R rows of the kernel, K taps of each, from the tap [kh, kw] on. For R > 1, `at.rows` must meet all of them.
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
    let len = at.x.len() - (kw + (R - 1) * width + K - 1);
    let mut taps = [[at.x; K]; R];
    for r in 0..R {
        for k in 0..K {
            taps[r][k] = &at.x[kw + r * width + k..][..len];
        }
    }
    let mut dys = [at.dy; O];
    for i in 0..O {
        dys[i] = &at.dy[(o + i) * plane..][..plane];
    }
    for pixel in at.pixels.0[kh].between(at.rows, d.ow) {
        let (px, py) = (pixel.x as usize, pixel.dy as usize);
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
