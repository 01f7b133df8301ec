//! Sums of products of lane vectors by lane vectors: the matrix products of a Winograd weight gradient.
//!
//! This is not an op. For each place of a transform, m[o][c] += Σ_tiles Σ_images d[o]·v[c] (`dw.rs`). A block of 4x4 sums stays in registers over
//! all tiles, 16 lane vectors; then the lanes of all 16 are added together ([`Vector::totals`]), which gives one vector of 16 numbers. Read
//! next: `conv2d.rs`, below `// ---- CPU`.

use crate::simd;
use crate::tensor::{L, Real, Vector};

/// Sums are kept in blocks of 4x4, outputs by planes: their lanes are added together.
const BLOCK: usize = 4;

/// Lane vectors from one plane's, or output's, tiles to the next: odd, or those that a sum reads side by side would share a set of the cache.
pub(super) fn stride(tiles: usize) -> usize {
    tiles | 1
}

/// Numbers in the blocks of so many outputs and planes.
pub(super) fn blocks(outputs: usize, planes: usize) -> usize {
    outputs.div_ceil(BLOCK) * planes.div_ceil(BLOCK) * BLOCK * BLOCK
}

/// Where a block keeps an output and a plane, of so many planes.
pub(super) fn place(o: usize, c: usize, planes: usize) -> usize {
    (((o / BLOCK) * planes.div_ceil(BLOCK) + c / BLOCK) * BLOCK + o % BLOCK) * BLOCK + c % BLOCK
}

simd! {
    /// m[o][c] += Σ_t Σ_lanes d[o][t]·v[c][t], m in blocks.
    ///
    /// `counts`: outputs, planes of v, tiles; `among`: the first of v's planes among m's, and how many m has.
    pub(super) fn products<A: Real>(d: &[[A; L]], v: &[[A; L]], m: &mut [A], counts: [usize; 3], among: [usize; 2]) {
        let ([outputs, planes, tiles], [first, all]) = (counts, among);
        // At an edge the last output or plane is taken again: nobody reads those sums.
        let rows = |x: &mut [&[[A; L]]; BLOCK], from: usize, most: usize| {
            for i in 0..BLOCK {
                x[i] = &x[i][(from + i).min(most - 1) * stride(tiles)..];
            }
        };
        for c in (0..planes).step_by(BLOCK) {
            let mut vs = [v; BLOCK];
            rows(&mut vs, c, planes);
            for o in (0..outputs).step_by(BLOCK) {
                let mut ds = [d; BLOCK];
                rows(&mut ds, o, outputs);
                let m = &mut m[place(o, first + c, all)..][..BLOCK * BLOCK];
                if const { V::ROOM >= 32 } {
                    block::<A, V>(&ds, &vs, m, tiles);
                } else {
                    quarters::<A, V>(&ds, &vs, m, tiles);
                }
            }
        }
    }
}

/// 4x4 sums at a time.
#[inline(always)]
fn block<A: Real, V: Vector<A>>(d: &[&[[A; L]]; BLOCK], v: &[&[[A; L]]; BLOCK], m: &mut [A], tiles: usize) {
    let sums = tile::<A, V, BLOCK>(*d, *v, tiles);
    let mut all = [V::splat(A::ZERO); L];
    for o in 0..BLOCK {
        for c in 0..BLOCK {
            all[BLOCK * o + c] = sums[o][c];
        }
    }
    let mut totals = [A::ZERO; L];
    V::totals(all).store(&mut totals);
    for (m, total) in m.iter_mut().zip(totals) {
        *m = *m + total;
    }
}

/// 2x2 sums at a time, where registers are few.
#[inline(always)]
fn quarters<A: Real, V: Vector<A>>(d: &[&[[A; L]]; BLOCK], v: &[&[[A; L]]; BLOCK], m: &mut [A], tiles: usize) {
    for o in [0, 2] {
        for c in [0, 2] {
            let sums = tile::<A, V, 2>([d[o], d[o + 1]], [v[c], v[c + 1]], tiles);
            for i in 0..2 {
                for j in 0..2 {
                    let m = &mut m[BLOCK * (o + i) + c + j];
                    *m = *m + sums[i][j].total();
                }
            }
        }
    }
}

/// Σ_t d[o][t]·v[c][t], lane by lane.
#[inline(always)]
fn tile<A: Real, V: Vector<A>, const N: usize>(d: [&[[A; L]]; N], v: [&[[A; L]]; N], tiles: usize) -> [[V; N]; N] {
    let (mut ds, mut vs) = (d, v);
    for i in 0..N {
        (ds[i], vs[i]) = (&d[i][..tiles], &v[i][..tiles]);
    }
    let mut acc = [[V::splat(A::ZERO); N]; N];
    for t in 0..tiles {
        let mut x = [V::splat(A::ZERO); N];
        for c in 0..N {
            x[c] = V::load(&vs[c][t]);
        }
        for o in 0..N {
            let dy = V::load(&ds[o][t]);
            for c in 0..N {
                acc[o][c] = x[c].fma(dy, acc[o][c]);
            }
        }
    }
    acc
}
