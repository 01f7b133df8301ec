//! Elastic distortion: a smooth field of random displacements that is never stored.
//!
//! Simard, Steinkraus and Platt ("Best practices for convolutional neural networks applied to visual document analysis", 2003) draw for each
//! pixel a displacement uniform in [-1, 1], smooth the field with a Gaussian of standard deviation σ, and multiply it by α. Their best for MNIST
//! were α = 34 and σ = 4. To compute one pixel of that takes all draws in a window of some 6σ x 6σ. Here the draws lie on a coarse
//! grid instead, and are smoothed by a cubic B-spline β, which is nearly a Gaussian and reaches over 4 x 4 points only:
//!
//! ```text
//! e(row, col) = a·Σⱼ Σᵢ β(row/h - j)·β(col/h - i)·g[j][i]          g uniform in [-1, 1), one for rows and one for columns
//! ```
//!
//! **h**: β is the density of a sum of four numbers uniform in [-½, ½], so its variance is 4/12 of h². That it be σ², h = √3·σ.
//!
//! **a**: smoothing leaves of a draw's variance, 1/3, the part Σ G². For the Gaussian in two dimensions this is 1 / 4πσ², so Simard's displacements
//! have a variance of α²/12πσ² (α = 34, σ = 4: 1.4 pixels). For β it is (∫ β²)² = (151/315)² on average over the places between points. Equal if
//!
//! ```text
//! a²/3·(151/315)² = α²/12πσ²          a = 315/151·α / (2√π·σ)
//! ```
//!
//! With t the distance of a place from the last point before it, in units of h, the four values of β are
//! (1 - t)³/6, 2/3 - t² + t³/2, the same two for 1 - t the other way round.
//!
//! Point number n = j·columns + i of an image takes word n mod 4 of block n div 4, counted from the fifth block on: its upper half gives
//! the displacement of rows, its lower half that of columns. Read next: `resample.rs`.

use crate::tensor::{L, Philox};

/// Blocks of words before those of the grid.
const BEFORE: u32 = 4;

/// Points per pixel: 1 / h.
pub(super) fn knots(sigma: f32) -> f32 {
    if sigma > 0.0 { 1.0 / (3f32.sqrt() * sigma) } else { 0.0 }
}

/// a: the largest displacement that a point asks for, in pixels.
pub(super) fn amplitude(alpha: f32, sigma: f32) -> f32 {
    if alpha > 0.0 { 315.0 / 151.0 * alpha / (2.0 * std::f32::consts::PI.sqrt() * sigma) } else { 0.0 }
}

/// How many points reach over `size` pixels: the first lies one before pixel 0.
pub(super) fn points(size: usize, knots: f32) -> usize {
    knot(size - 1, knots).0 + 4
}

/// The first of the four points that reach over a pixel, and their weights.
#[inline(always)]
pub(super) fn knot(pixel: usize, knots: f32) -> (usize, [f32; 4]) {
    let at = pixel as f32;
    let first = (at * knots) as usize;
    let t = at.mul_add(knots, -(first as f32));
    let u = 1.0 - t;
    let near = |t: f32| (t * t).mul_add(t.mul_add(0.5, -1.0), 2.0 / 3.0);
    let far = |t: f32| t * t * t * (1.0 / 6.0);
    (first, [far(u), near(t), near(u), far(t)])
}

/// Half a word as a number in (-1, 1).
#[inline(always)]
fn half(bits: u32) -> f32 {
    (bits as f32).mul_add(1.0 / 32_768.0, 1.0 / 65_536.0 - 1.0)
}

/// The displacements of one image, as far as rows of points have been smoothed along columns of pixels.
#[derive(Debug, Default)]
pub(super) struct Field {
    /// For each pixel of a row: its first point and their weights.
    columns: Vec<(usize, [f32; 4])>,
    /// Rows and columns of points.
    points: [usize; 2],
    /// g `[2][rows of points][columns of points]`, filled up to whole vectors of blocks.
    grid: [Vec<f32>; 2],
    /// Σᵢ β·g, `[2][rows of points][width]`
    rows: [Vec<f32>; 2],
}

impl Field {
    /// For pictures of `height` x `width`.
    pub fn new([height, width]: [usize; 2], knots: f32) -> Self {
        let points = [height, width].map(|size| points(size, knots));
        let grid = || vec![0.0; (points[0] * points[1]).next_multiple_of(4 * L)];
        let rows = || vec![0.0; points[0] * width];
        let columns = (0..width).map(|col| knot(col, knots)).collect();
        Self { columns, points, grid: [grid(), grid()], rows: [rows(), rows()] }
    }

    /// Draws the points of image `i` of the batch of a step, and smooths along rows.
    #[inline(always)]
    pub fn draw(&mut self, seed: u64, step: u64, i: usize) {
        let rng = Philox::new(seed);
        let [gy, gx] = &mut self.grid;
        for (blocks, (gy, gx)) in gy.chunks_exact_mut(4 * L).zip(gx.chunks_exact_mut(4 * L)).enumerate() {
            let last = std::array::from_fn(|n| u32::MAX - BEFORE - (blocks * L + n) as u32);
            let words = rng.lanes::<L>([[i as u32; L], [step as u32; L], [(step >> 32) as u32; L], last]);
            for (w, words) in words.iter().enumerate() {
                for n in 0..L {
                    gy[4 * n + w] = half(words[n] >> 16);
                    gx[4 * n + w] = half(words[n] & 0xFFFF);
                }
            }
        }
        let width = self.columns.len();
        for (grid, rows) in self.grid.iter().zip(&mut self.rows) {
            for (points, row) in grid.chunks_exact(self.points[1]).zip(rows.chunks_exact_mut(width)) {
                for (e, (first, w)) in row.iter_mut().zip(&self.columns) {
                    if let Some([a, b, c, d]) = points.get(*first..first + 4) {
                        *e = w[3].mul_add(*d, w[2].mul_add(*c, w[1].mul_add(*b, w[0] * a)));
                    }
                }
            }
        }
    }

    /// (ey, ex) / a of every pixel of a row, which has these points and weights.
    #[inline(always)]
    pub fn row(&self, (first, w): (usize, [f32; 4]), e: [&mut [f32]; 2]) {
        let width = self.columns.len();
        for (e, rows) in e.into_iter().zip(&self.rows) {
            let [a, b, c, d] = [0, 1, 2, 3].map(|j| &rows[(first + j) * width..][..width]);
            for col in 0..width.min(e.len()) {
                e[col] = w[3].mul_add(d[col], w[2].mul_add(c[col], w[1].mul_add(b[col], w[0] * a[col])));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights add up to 1 everywhere, are those of the spline, and move on from point to point without a jump.
    #[test]
    fn weights_are_a_spline() {
        let beta = |x: f32| match x.abs() {
            x if x < 1.0 => 2.0 / 3.0 - x * x + x * x * x / 2.0,
            x if x < 2.0 => (2.0 - x).powi(3) / 6.0,
            _ => 0.0,
        };
        for sigma in [1.0, 1.7, 4.0, 100.0] {
            for pixel in 0..60 {
                let (first, w) = knot(pixel, knots(sigma));
                let at = pixel as f32 * knots(sigma);
                for (i, w) in w.iter().enumerate() {
                    // Point i lies one before where it would lie without the first.
                    assert!((w - beta(at - (first + i) as f32 + 1.0)).abs() < 1e-5, "{sigma} {pixel} {i}");
                }
                assert!((w.iter().sum::<f32>() - 1.0).abs() < 1e-6);
                assert!(first + 4 <= points(60, knots(sigma)));
            }
        }
    }

    /// Displacements have the mean and the variance of Simard's, and as little to do with each other at a distance.
    #[test]
    fn displacements_are_like_those_of_a_smoothed_field() {
        let (alpha, sigma) = (34.0, 4.0);
        let size = [40, 40];
        let mut field = Field::new(size, knots(sigma));
        let (mut count, mut sum, mut square, mut near, mut far) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let (mut ey, mut ex) = ([0.0; 40], [0.0; 40]);
        for i in 0..3000 {
            field.draw(3, 1 << 40, i);
            field.row(knot(20 + i % 7, knots(sigma)), [&mut ey, &mut ex]);
            for e in [ey, ex] {
                let a = f64::from(amplitude(alpha, sigma));
                let at = |col: usize| a * f64::from(e[col]);
                for col in 10..17 {
                    count += 1.0;
                    sum += at(col);
                    square += at(col) * at(col);
                    near += at(col) * at(col + 4);
                    far += at(col) * at(col + 16);
                }
            }
        }
        let variance = 34f64.powi(2) / (12.0 * std::f64::consts::PI * 16.0);
        assert!((sum / count).abs() < 0.05, "{}", sum / count);
        assert!((square / count / variance - 1.0).abs() < 0.05, "{} {variance}", square / count);
        // A field smoothed by a Gaussian has correlations exp(-r² / 4σ²).
        assert!((near / square - (-16f64 / 64.0).exp()).abs() < 0.05, "{}", near / square);
        assert!((far / square).abs() < 0.05, "{}", far / square);
    }
}
