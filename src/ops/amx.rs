//! The sums of linear layers and convolutions on a CPU's matrix unit.
//!
//! This is not an op. `device/amx.rs` says how the unit multiplies f32, in tiles of a that hold 32 numbers of each of 16 rows, and of b that hold 16
//! pairs of rows. Lane vectors are made for it: the 16 numbers of a row of b are 16 images. So for y and dx of a convolution, and y of a linear
//! layer, a is the weights and b the activations, of which two channels make a pair. A weight gradient sums over images: its pairs are of two
//! images, and the activations are turned first (`turned`).
//!
//! What is read is cut into pieces once for all products that it enters, some rows of a picture or some weights at a time, so that the pieces stay in the
//! second-level cache.
//!
//! The unit's sums are no less accurate than fused multiply-adds, but their bits are others. It is for f32 alone; f64 and CPUs without it take the loops
//! of `linear.rs` and `conv2d.rs`. Read next: `amx/linear.rs`.

pub(super) mod correlate;
pub(super) mod linear;
pub(super) mod weights;

#[cfg(test)]
mod tests;

use crate::device::amx::{Amx, Out, PIECES};
use crate::tensor::{DType, Element, L, Real, Spec, Stored, Tensor};
use half::bf16;
use std::ops::Range;

/// Numbers of a row of a, and rows of b: the products that a step adds to each sum.
const DEPTH: usize = 2 * L;

/// Half rows in a piece of a tile, and in all pieces.
const PIECE: usize = 2 * L;
const TILE: usize = PIECES * PIECE;

/// The unit, where there is one and sums over this type can be done on it: those kept in f32. A number of bf16 is one piece.
pub(super) fn unit<T: Element>() -> Option<Amx> {
    let unit = (T::Acc::DTYPE == DType::F32).then(Amx::get).flatten()?;
    Some(if T::DTYPE == DType::Bf16 { unit.at_most(1) } else { unit })
}

/// Lane vectors of a type that [`unit`] has let through.
fn floats<A: Real>(x: &[[A; L]]) -> &[[f32; L]] {
    A::as_f32(x).expect("the unit is for f32")
}

fn floats_mut<A: Real>(x: &mut [[A; L]]) -> &mut [[f32; L]] {
    A::as_f32_mut(x).expect("the unit is for f32")
}

/// Single numbers, likewise.
fn numbers<A: Real>(x: &[A]) -> &[f32] {
    A::as_f32(x.as_chunks::<1>().0).expect("the unit is for f32").as_flattened()
}

fn numbers_mut<A: Real>(x: &mut [A]) -> &mut [f32] {
    A::as_f32_mut(x.as_chunks_mut::<1>().0).expect("the unit is for f32").as_flattened_mut()
}

/// Room for tiles; whatever is in it.
fn room(halves: usize) -> Tensor {
    Tensor::new(Spec::lanes([L, halves], DType::Bf16))
}

/// Zeros for the rows of b from `rows` on, in all pieces of a tile: what is multiplied with zeros must be numbers.
fn clear_below(tile: &mut [[bf16; L]], rows: usize) {
    for piece in tile[..TILE].chunks_exact_mut(PIECE) {
        piece[2 * rows..].fill([bf16::ZERO; L]);
    }
}

/// Each number as often as b is wide.
fn spread(x: &[f32]) -> Vec<[f32; L]> {
    x.iter().map(|&x| [x; L]).collect()
}

/// Tiles one after another, `[tile of a][tile of b]`.
fn in_tiles(sums: &mut [[f32; L]], columns: usize) -> Out<'_> {
    Out { sums, row: 1, tiles: [columns * L, L] }
}

/// Half rows from a piece to the next where each has so many, and what a step reads beyond them. An odd number of tiles: the pieces of a pixel must not
/// fall into the same sets of the cache.
fn apart(halves: usize) -> usize {
    ((halves.div_ceil(PIECE) + 1) | 1) * PIECE
}

/// Moves the rows of a picture, of which pieces hold `there` and shall hold `wanted`, to where the wanted begin, and gives those still to be made. Zeros
/// come behind the last. `row`, `piece`: half rows of a row and from one piece to the next.
fn keep(pieces: &mut [[bf16; L]], row: usize, piece: usize, there: &Range<usize>, wanted: &Range<usize>) -> Range<usize> {
    let kept = wanted.start..there.end.clamp(wanted.start, wanted.end);
    for piece in pieces.chunks_exact_mut(piece) {
        if !kept.is_empty() {
            piece.copy_within((kept.start - there.start) * row..(kept.end - there.start) * row, 0);
        }
        piece[wanted.len() * row..][..PIECE].fill([bf16::ZERO; L]);
    }
    kept.end..wanted.end
}
