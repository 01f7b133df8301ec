//! The matrix unit of some Xeons (AMX), made to multiply f32.
//!
//! The unit multiplies tiles: 16 rows of 32 numbers of bf16, a, by 32 rows of 16, b, and adds the 16x16 sums of products to a tile of f32, in as many
//! cycles as a has rows. That is sixteen times as many products as AVX-512 does in f32. But bf16 has 8 of f32's 24 bits. So a number is cut
//! into three [`PIECES`], whose sum is the number itself, and six products take the place of one:
//!
//! ```text
//! x = x0 + x1 + x2                  |x1| ≤ 2⁻⁸·|x|,  |x2| ≤ 2⁻¹⁶·|x|
//! a·b ≈ a0·b0 + a1·b0 + a2·b0 + a0·b1 + a1·b1 + a0·b2
//! ```
//!
//! Those left out come to 2⁻²³·|a·b| at most, which is what sums in f32 lose anyhow; a test holds the error to that of fused multiply-adds one after
//! another where many are added up (Henry, Tang, Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations", ARITH
//! 2019). What remains is 16 / 6 = 2.7 times the products of AVX-512. Products below 2⁻¹²⁶ count as 0, and beside a number that is not finite sums
//! may be NaN.
//!
//! Where so much is not needed two pieces do, and half the products: a0·b0 + a1·b0 + a0·b1, with errors of up to 2⁻¹⁶·|a·b|. That is what inference takes for
//! convolutions; gradients never do. And numbers of bf16 are one piece, whose products are exact.
//!
//! This page knows tiles and pieces, and all of its memory is counted in `[bf16; L]`, half a row of a tile. Read next: `ops/amx.rs`, which lays out
//! what is multiplied.

use super::{simd, vector::L};
use half::bf16;

/// Pieces of a number.
pub const PIECES: usize = 3;

/// A tile of sums: rows of a by columns of b.
pub type Sums = [[f32; L]; L];

/// Leave to use the unit: there is one, and the system lends it.
#[derive(Debug, Clone, Copy)]
pub struct Amx {
    /// How many of a number's pieces are made and multiplied.
    pieces: usize,
}

/// One operand: some tiles for each step of a sum.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// Where the first tile begins.
    pub numbers: &'a [[bf16; L]],
    /// From a piece to the next of the same numbers.
    pub piece: usize,
    /// From a row of a tile to the next. Of a, a row is 32 numbers; of b, 16 pairs, one below the other.
    pub row: usize,
    /// From a tile to that of the next sums.
    pub tile: usize,
}

/// Where the tiles of a step lie: 32 products of each sum.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// From the first tile of a on.
    pub a: u32,
    /// And of b.
    pub b: u32,
}

/// What the sums of products are added to.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// Nothing.
    Zeros,
    /// A number for each row of a, as often as b is wide.
    Rows(&'a [[f32; L]]),
    /// What is there already.
    There,
}

/// Where sums go, in lane vectors: a row of a tile is one.
#[derive(Debug)]
pub struct Out<'a> {
    /// Where the first tile begins.
    pub sums: &'a mut [[f32; L]],
    /// From a row to the next.
    pub row: usize,
    /// From the sums of a tile of a to those of the next, and of b.
    pub tiles: [usize; 2],
}

/// How rows of a are cut into tiles: how many there are, and their rows; the last may have fewer.
pub fn tiles_of(rows: usize) -> [usize; 2] {
    let tiles = rows.div_ceil(L);
    [tiles, rows.div_ceil(tiles.max(1))]
}

/// Where pieces go: the i-th half row, or row, to `to[i·stride]`, its pieces `piece` apart.
#[derive(Debug)]
pub struct Target<'a> {
    /// Where the first goes.
    pub to: &'a mut [[bf16; L]],
    /// From one to the next.
    pub stride: usize,
    /// From a piece to the next.
    pub piece: usize,
}

/// Has the CPU the unit, and may this process use it? To be asked where there is AVX-512.
pub(super) fn is_lent() -> bool {
    unit::is_lent()
}

impl Amx {
    /// The unit, if there is one; `CUGRAD_SIMD=avx512` leaves it alone.
    pub fn get() -> Option<Amx> {
        (simd::level() == simd::Level::Amx).then_some(Amx { pieces: PIECES })
    }

    /// The same with so many pieces of each number at most: two are half the products, one a sixth.
    pub fn at_most(self, pieces: usize) -> Amx {
        Amx { pieces: self.pieces.min(pieces) }
    }

    /// How many of a number's pieces are made and multiplied.
    pub fn pieces(self) -> usize {
        self.pieces
    }

    /// `out[i][j] (+)= Σ a_i·b_j` over all steps, tile by tile: a's of [`tiles_of`] so many `rows`, b's of so many `columns` of tiles.
    #[allow(clippy::too_many_arguments)]
    pub fn sums(self, a: &Side, b: &Side, steps: &[Step], rows: usize, columns: usize, start: Start, out: &mut Out) {
        if rows * columns == 0 {
            return;
        }
        let [tiles, most] = tiles_of(rows);
        let end = |side: &Side, rows: usize, count: usize, step: u32| {
            step as usize + (self.pieces - 1) * side.piece + (count - 1) * side.tile + (rows - 1) * side.row + 2
        };
        let (last_a, last_b) = steps.iter().fold((0, 0), |(a, b), step| (a.max(step.a), b.max(step.b)));
        assert!(steps.is_empty() || end(a, most, tiles, last_a) <= a.numbers.len(), "a tile of a lies outside");
        assert!(steps.is_empty() || end(b, L, columns, last_b) <= b.numbers.len(), "a tile of b lies outside");
        // The last row of a whole tile, or of the last, may be the farthest.
        let row = |row: usize| row / most * out.tiles[0] + row % most * out.row + (columns - 1) * out.tiles[1];
        let last_whole = rows / most * most - 1;
        assert!(row(rows - 1).max(row(last_whole)) < out.sums.len(), "a tile of sums lies outside");
        assert!(!matches!(start, Start::Rows(x) if x.len() < rows), "each row needs a number to begin with");
        // SAFETY: there is an `Amx` only where the unit is lent, and all that is read and written lies in the slices, as was just seen.
        unsafe {
            match self.pieces {
                1 => unit::sums::<1>(a, b, steps, rows, columns, start, out),
                2 => unit::sums::<2>(a, b, steps, rows, columns, start, out),
                _ => unit::sums::<PIECES>(a, b, steps, rows, columns, start, out),
            }
        }
    }

    /// The pieces of x as rows of a, 32 numbers each; zeros fill up the last.
    pub fn rows(self, x: &[f32], at: Target) {
        // SAFETY: the CPU has AVX-512 where there is an `Amx`.
        unsafe { unit::rows(x, self.pieces, at) }
    }

    /// The same for halves of rows, 16 numbers each.
    pub fn half_rows(self, x: &[f32], at: Target) {
        // SAFETY: as above.
        unsafe { unit::half_rows(x, self.pieces, at) }
    }

    /// Has the first-level cache fetch numbers that will be read soon, where they lie too scattered for it to see.
    pub fn fetch(self, x: &[f32]) {
        // SAFETY: as above.
        unsafe { unit::fetch(x) }
    }

    /// The pieces of rows of b: the i-th are 16 numbers of x0, beside each the one of x1, both from i·step on. What x1 lacks is 0.
    pub fn pairs(self, x0: &[[f32; L]], x1: &[[f32; L]], step: usize, at: Target) {
        // SAFETY: as above.
        unsafe { unit::pairs(x0, x1, step, self.pieces, at) }
    }

    /// Rows and columns changed about: `out[n][i] = x[i·step][n]`, for up to 16 i; 0 beyond.
    pub fn turned(self, x: &[[f32; L]], step: usize) -> Sums {
        let mut out = [[0.0; L]; L];
        // SAFETY: as above.
        unsafe { unit::turn(x, step, &mut out) }
        out
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod unit;

/// Elsewhere there is no unit, so nobody has an [`Amx`] to call these with.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod unit {
    use super::{Out, Side, Start, Step, Sums, Target};
    use crate::device::vector::L;

    pub fn is_lent() -> bool {
        false
    }
    pub unsafe fn sums<const P: usize>(_: &Side, _: &Side, _: &[Step], _: usize, _: usize, _: Start, _: &mut Out) {
        unreachable!("there is no unit")
    }
    pub unsafe fn rows(_: &[f32], _: usize, _: Target) {
        unreachable!("there is no unit")
    }
    pub unsafe fn half_rows(_: &[f32], _: usize, _: Target) {
        unreachable!("there is no unit")
    }
    pub unsafe fn fetch(_: &[f32]) {
        unreachable!("there is no unit")
    }
    pub unsafe fn pairs(_: &[[f32; L]], _: &[[f32; L]], _: usize, _: usize, _: Target) {
        unreachable!("there is no unit")
    }
    pub unsafe fn turn(_: &[[f32; L]], _: usize, _: &mut Sums) {
        unreachable!("there is no unit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws from -1 to 1, some of them large or small.
    fn draws(seed: u64) -> impl FnMut() -> f32 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let draw = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            draw * [1.0, 1.0, 1.0, 1e-3, 30.0][(state >> 35) as usize % 5]
        }
    }

    fn unit() -> Option<Amx> {
        let unit = Amx::get();
        if unit.is_none() {
            eprintln!("this CPU has no matrix unit that is lent: not tried");
        }
        unit
    }

    #[test]
    fn pieces_add_up_to_the_number() {
        let Some(unit) = unit() else { return };
        let mut draw = draws(1);
        let mut x: Vec<f32> = (0..61).map(|_| draw()).collect();
        x.extend([0.0, -0.0, 1.0, 1e-30, -1e-30, 3e38, -3e38, 1.0 + f32::EPSILON, 255.996]);
        let mut rows = vec![[bf16::ONE; L]; 3 * PIECES * 2];
        unit.rows(&x, Target { to: &mut rows, stride: 6, piece: 2 });
        let (first, second) = (x.as_chunks::<L>().0, &x.as_chunks::<L>().0[1..]);
        let mut pairs = vec![[bf16::ONE; L]; 2 * PIECES * 2];
        unit.pairs(first, second, 2, Target { to: &mut pairs, stride: 6, piece: 2 });
        let sum = |pieces: [bf16; PIECES]| pieces.iter().rev().map(|p| p.to_f32()).sum::<f32>();
        for i in 0..96 {
            let pieces = std::array::from_fn(|p| rows[i / 32 * 6 + 2 * p + i / L % 2][i % L]);
            assert_eq!(sum(pieces), x.get(i).copied().unwrap_or(0.0), "{i}");
            assert!(pieces[1].to_f32().abs() <= pieces[0].to_f32().abs() / 128.0 || i >= 61, "{i}: {pieces:?}");
        }
        for (i, j) in (0..2).flat_map(|i| (0..2 * L).map(move |j| (i, j))) {
            let pieces = std::array::from_fn(|p| pairs.as_flattened()[(i * 6 + 2 * p) * L + j]);
            assert_eq!(sum(pieces), first.get(2 * i + j % 2).map_or(0.0, |x| x[j / 2]), "{i} {j}");
        }
    }

    #[test]
    fn rows_become_columns() {
        let Some(unit) = unit() else { return };
        let x: Vec<[f32; L]> = (0..40).map(|i| std::array::from_fn(|l| (i * L + l) as f32)).collect();
        for (step, count) in [(1, 16), (2, 16), (3, 14), (5, 8)] {
            let turned = unit.turned(&x, step);
            for (n, i) in (0..L).flat_map(|n| (0..L).map(move |i| (n, i))) {
                assert_eq!(turned[n][i], if i < count { x[i * step][n] } else { 0.0 }, "{step} {n} {i}");
            }
        }
    }

    /// a `[rows][k]` and b `[k][columns·16]` in pieces, each tile's steps one after another.
    fn operands(unit: Amx, a: &[Vec<f32>], b: &[Vec<[f32; L]>]) -> [Vec<[bf16; L]>; 2] {
        let (k, [tiles, most]) = (a[0].len(), tiles_of(a.len()));
        let steps = k.div_ceil(32);
        let mut pieces = [tiles, b.len()].map(|tiles| vec![[bf16::ZERO; L]; tiles * steps * 96]);
        for (r, a) in a.iter().enumerate() {
            unit.rows(a, Target { to: &mut pieces[0][(r / most * steps * 48 + r % most) * 2..], stride: 96, piece: 32 });
        }
        for (to, b) in pieces[1].chunks_mut(96).zip(b.iter().flat_map(|b| b.chunks(32))) {
            unit.pairs(b, &b[1..], 2, Target { to, stride: 2, piece: 32 });
        }
        pieces
    }

    #[test]
    fn sums_are_no_less_accurate_than_fused_multiply_adds() {
        let Some(unit) = unit() else { return };
        for (rows, k, columns) in [(1, 2usize, 1), (5, 32, 2), (16, 33, 3), (17, 70, 4), (33, 100, 5), (50, 1, 6), (20, 2000, 2)] {
            let mut draw = draws(rows as u64);
            let a: Vec<Vec<f32>> = (0..rows).map(|_| (0..k).map(|_| draw()).collect()).collect();
            let b: Vec<Vec<[f32; L]>> = (0..columns).map(|_| (0..k).map(|_| std::array::from_fn(|_| draw())).collect()).collect();
            let [pieces_a, pieces_b] = operands(unit, &a, &b);
            let steps: Vec<Step> = (0..k.div_ceil(32)).map(|s| Step { a: s as u32 * 96, b: s as u32 * 96 }).collect();
            let side = |numbers| Side { numbers, piece: 32, row: 2, tile: steps.len() * 96 };
            let first: Vec<[f32; L]> = (0..rows).map(|_| [draw(); L]).collect();
            for start in [Start::Zeros, Start::Rows(&first), Start::There] {
                // [row][column]
                let mut sums = vec![[0.25; L]; rows * columns];
                let out = &mut Out { sums: &mut sums, row: columns, tiles: [tiles_of(rows)[1] * columns, 1] };
                unit.sums(&side(&pieces_a), &side(&pieces_b), &steps, rows, columns, start, out);
                let (mut worst, mut worst_of_fma, mut largest) = (0.0f64, 0.0f64, 0.0f32);
                for (r, c, l) in (0..rows * columns * L).map(|i| (i / L / columns, i / L % columns, i % L)) {
                    let first = match start {
                        Start::Zeros => 0.0,
                        Start::Rows(first) => first[r][l],
                        Start::There => 0.25,
                    };
                    let products = || (0..k).map(|i| (a[r][i], b[c][i][l]));
                    let exact = products().fold(f64::from(first), |sum, (a, b)| sum + f64::from(a) * f64::from(b));
                    let fma = products().fold(first, |sum, (a, b)| a.mul_add(b, sum));
                    largest = products().fold(largest.max(exact.abs() as f32), |largest, (a, b)| largest.max((a * b).abs()));
                    worst = worst.max((f64::from(sums[r * columns + c][l]) - exact).abs());
                    worst_of_fma = worst_of_fma.max((f64::from(fma) - exact).abs());
                }
                // Where there are few products, what each lacks counts, and that six sums are rounded instead of one.
                assert!(
                    worst <= 1.2 * worst_of_fma + f64::from(largest * f32::EPSILON),
                    "{rows} {k} {columns} {start:?}: {worst:e} and {worst_of_fma:e}"
                );
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_tile_beyond_its_slice_is_refused() {
        let unit = unit().expect("outside of this CPU");
        let side = |numbers| Side { numbers, piece: 32, row: 2, tile: 0 };
        let (numbers, mut sums) = (vec![[bf16::ZERO; L]; 95], vec![[0.0; L]; L]);
        let out = &mut Out { sums: &mut sums, row: 1, tiles: [0, 0] };
        unit.sums(&side(&numbers), &side(&numbers), &[Step { a: 0, b: 0 }], 16, 1, Start::Zeros, out);
    }
}
