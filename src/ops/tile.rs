//! The loop that most of the time is spent in: a tile of sums that stays in the CPU's registers.
//!
//! This is not an op. Convolutions, linear layers and their gradients are all sums of products of lane vectors with single numbers,
//!
//! ```text
//! out[o][p] = bias[o] + Σ_t x[p][t.x]·w[o][t.w]
//! ```
//!
//! over taps t; they differ in what an output o, a pixel p and a tap are. [`strip`] cuts outputs and pixels into tiles of up to 5x4 sums,
//! or with AVX2's fewer registers 6x1. For one tap the first reads 4 lane vectors and 5 numbers and does 20 multiply-adds, so the
//! multipliers never wait for memory, and so many sums under way at once are enough to hide how long one takes. Each sum runs over the taps in their order, whatever
//! the tile: all CPUs give the same bits. Read next: `correlate.rs`, whose pixels are those of a row.

use crate::simd;
use crate::tensor::{L, Real, Vector};

/// What one product is made of: places in x, counted from a pixel's first, and in w, from an output's first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    pub(super) x: u32,
    pub(super) w: u32,
}

/// How far apart neighbours are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strides {
    /// Pixels in x, in lane vectors.
    pub(super) x: usize,
    /// Outputs in w.
    pub(super) w: usize,
    /// Outputs and pixels in out, in lane vectors.
    pub(super) out: [usize; 2],
}

simd! {
    /// out[o][p] = bias[o] + Σ_t x[p][t.x]·w[o][t.w], or that added to out. `counts`: outputs and pixels.
    pub(super) fn strip<A: Real>(
        x: &[[A; L]],
        w: &[A],
        bias: Option<&[A]>,
        taps: &[Tap],
        out: &mut [[A; L]],
        counts: [usize; 2],
        s: &Strides,
        add: bool,
    ) {
        let [outputs, pixels] = counts;
        // The largest tile, outputs and pixels: its sums, its x and one w must fit into registers.
        let most = match const { V::ROOM } {
            32.. => [5, 4],
            8.. => [6, 1],
            _ => [4, 1],
        };
        let [blocks, tiles] = [outputs.div_ceil(most[0]), pixels.div_ceil(most[1])];
        for tile in 0..tiles {
            let (p0, p1) = (tile * pixels / tiles, (tile + 1) * pixels / tiles);
            for block in 0..blocks {
                let (o0, o1) = (block * outputs / blocks, (block + 1) * outputs / blocks);
                let at = Place { x: &x[p0 * s.x..], w: &w[o0 * s.w..], bias: bias.map(|b| &b[o0..]), taps, s, add };
                let out = &mut out[o0 * s.out[0] + p0 * s.out[1]..];
                match p1 - p0 {
                    1 => outputs_of::<A, V, 1>(&at, out, o1 - o0),
                    2 if const { V::ROOM >= 32 } => outputs_of::<A, V, 2>(&at, out, o1 - o0),
                    3 if const { V::ROOM >= 32 } => outputs_of::<A, V, 3>(&at, out, o1 - o0),
                    _ if const { V::ROOM >= 32 } => outputs_of::<A, V, 4>(&at, out, o1 - o0),
                    _ => unreachable!("a tile has no more pixels than registers"),
                }
            }
        }
    }
}

/// Where a tile reads.
struct Place<'a, A> {
    x: &'a [[A; L]],
    w: &'a [A],
    bias: Option<&'a [A]>,
    taps: &'a [Tap],
    s: &'a Strides,
    add: bool,
}

#[inline(always)]
fn outputs_of<A: Real, V: Vector<A>, const P: usize>(at: &Place<A>, out: &mut [[A; L]], outputs: usize) {
    match outputs {
        1 => tile::<A, V, 1, P>(at, out),
        2 => tile::<A, V, 2, P>(at, out),
        3 => tile::<A, V, 3, P>(at, out),
        4 => tile::<A, V, 4, P>(at, out),
        5 if const { V::ROOM >= 8 } => tile::<A, V, 5, P>(at, out),
        _ if const { V::ROOM >= 8 } && P == 1 => tile::<A, V, 6, P>(at, out),
        _ => unreachable!("a tile has no more outputs than registers"),
    }
}

/// O outputs of P pixels.
#[inline(always)]
fn tile<A: Real, V: Vector<A>, const O: usize, const P: usize>(at: &Place<A>, out: &mut [[A; L]]) {
    // All pixels' slices have one length, and so have all outputs': one check a tap is enough for each.
    let (len_x, len_w) = (at.x.len() - (P - 1) * at.s.x, at.w.len() - (O - 1) * at.s.w);
    let mut xs = [at.x; P];
    for p in 0..P {
        xs[p] = &at.x[p * at.s.x..][..len_x];
    }
    let mut ws = [at.w; O];
    for o in 0..O {
        ws[o] = &at.w[o * at.s.w..][..len_w];
    }
    let mut acc = [[V::splat(A::ZERO); P]; O];
    if let Some(bias) = at.bias {
        for o in 0..O {
            acc[o] = [V::splat(bias[o]); P];
        }
    }
    for tap in at.taps {
        let (tx, tw) = (tap.x as usize, tap.w as usize);
        let mut x = [V::splat(A::ZERO); P];
        for p in 0..P {
            x[p] = V::load(&xs[p][tx]);
        }
        for o in 0..O {
            let w = V::splat(ws[o][tw]);
            for p in 0..P {
                acc[o][p] = x[p].fma(w, acc[o][p]);
            }
        }
    }
    for o in 0..O {
        for p in 0..P {
            let out = &mut out[o * at.s.out[0] + p * at.s.out[1]];
            let sum = if at.add { V::load(out).plus(acc[o][p]) } else { acc[o][p] };
            sum.store(out);
        }
    }
}

/// The numbers 0, 1, ... as taps `x` and `w` apart: a dot product.
pub(super) fn dot(taps: usize, x: usize, w: usize) -> Vec<Tap> {
    (0..taps).map(|t| Tap { x: (t * x) as u32, w: (t * w) as u32 }).collect()
}
