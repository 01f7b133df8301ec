//! What is drawn for a picture that is sampled between its pixels: a map, a rectangle to erase, an amount of sharpening.
//!
//! # The map
//!
//! Pixel (row, col) of the changed picture shows place (y, x) of the picture itself. Where pictures are changed in the order that
//! `augment.rs` gives, the map undoes the changes from the last to the first: (ey, ex) is the elastic displacement (`elastic.rs`),
//! (ay, ax) the middle of the picture plus how far it is translated, c, s, k = cos, sin of the angle and tangent of the shear, f the factor of size:
//!
//! ```text
//! elastic     v = row + ey                        u = col + ex
//! flip        v                                   u = width - 1 - u                  if mirrored
//! shift       v = v + dy                          u = u + dx
//! middle      q = v - ay                          p = u - ax
//! rotate      b = c·q - s·p                       a = c·p + s·q
//! shear       b                                   a = a - k·b
//! scale       y = b / f + height/2 - 1/2          x = a / f + width/2 - 1/2
//! ```
//!
//! All but the first are affine, so they are put together into six numbers:
//!
//! ```text
//! y = y₀ + y_row·(row + ey) + y_col·(col + ex)         y_row = c / f            y_col = -s / f
//! x = x₀ + x_row·(row + ey) + x_col·(col + ex)         x_row = (s - k·c) / f    x_col = (c + k·s) / f
//! ```
//!
//! with the signs of y_col and x_col turned where mirrored, and y₀, x₀ what the constants of the steps come to.
//!
//! # The draws
//!
//! u(w) = (w >> 8)·2⁻²⁴ is uniform in [0, 1), ±(w) = 2·u(w) - 1 in [-1, 1). With words `w[k]` of block 2³² - 1 - k:
//!
//! ```text
//! sharpening amount · u(w[0]₃)     angle rotate · ±(w[1]₀)     f = 1 + scale · ±(w[1]₁)     translated translate · (height · ±(w[1]₂), width · ±(w[1]₃))
//! lean shear · ±(w[2]₀)      erased if u(w[2]₁) < erase: area 0.02 + 0.38·u(w[2]₂) of the picture, height : width 0.3 + (1/0.3 - 0.3)·u(w[2]₃),
//!                                   cut where it does not fit, at a place that w[3]₀ and w[3]₁ choose
//! ```
//!
//! # The same bits everywhere
//!
//! Everything here is in f32 and made of single operations that are rounded alike on every machine: +, ·, /, √ and fused multiply-adds,
//! written as such. cos and sin are polynomials for a quarter of the angle, which is doubled twice. So a GPU's batches (`kernels/batch.cu`
//! has the same lines) are equal to the CPU's to the last bit. Read next: `resample.rs`.

use super::{Augment, words};
use crate::device::cuda::kernels::batch::Ranges;
use crate::tensor::rng::unit;

/// What happens to one picture, but for elastic displacements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// y₀, y_row, y_col
    pub y: [f32; 3],
    /// x₀, x_row, x_col
    pub x: [f32; 3],
    /// What is erased: from this row and column
    pub from: [usize; 2],
    /// to before this row and column.
    pub to: [usize; 2],
    /// A thirteenth of the amount of sharpening: see [`super::resample`].
    pub sharpen: f32,
}

/// A number in [-1, 1) from a word.
#[inline(always)]
fn either(word: u32) -> f32 {
    ((word >> 8) as f32).mul_add(1.0 / 8_388_608.0, -1.0)
}

/// cos and sin of 4h, for |h| up to π/4.
#[inline(always)]
fn turn(h: f32) -> [f32; 2] {
    let z = h * h;
    let sin = z.mul_add(1.0 / 362_880.0, -1.0 / 5040.0).mul_add(z, 1.0 / 120.0).mul_add(z, -1.0 / 6.0);
    let cos = z.mul_add(1.0 / 40_320.0, -1.0 / 720.0).mul_add(z, 1.0 / 24.0).mul_add(z, -0.5);
    let (mut s, mut c) = ((h * z).mul_add(sin, h), z.mul_add(cos, 1.0));
    for _ in 0..2 {
        let twice = s + s;
        (s, c) = (twice * c, (-twice).mul_add(s, 1.0));
    }
    [c, s]
}

impl Augment {
    /// The numbers that both the CPU and a GPU draw and sample with, for pictures of `height` x `width`.
    pub fn ranges(&self, [height, width]: [usize; 2]) -> Ranges {
        let [alpha, sigma] = self.elastic;
        let knots = super::elastic::knots(sigma);
        Ranges {
            // A quarter of it is what `turn` takes.
            rotate: self.rotate.to_radians() / 4.0,
            shear: self.shear.to_radians() / 4.0,
            scale: self.scale,
            up: self.translate * height as f32,
            across: self.translate * width as f32,
            erase: self.erase,
            sharpen: self.sharpen / 13.0,
            elastic: super::elastic::amplitude(alpha, sigma),
            knots,
            columns: super::elastic::points(width, knots) as i32,
        }
    }

    /// What happens to image `i` of the batch of a step; `ranges` are its [`Augment::ranges`].
    #[inline(always)]
    pub(super) fn sampled(&self, ranges: &Ranges, [height, width]: [usize; 2], seed: u64, step: u64, i: usize) -> Drawn {
        let [first, second, third] = [0, 1, 2].map(|block| words(seed, step, i, block));
        let [c, s] = turn(ranges.rotate * either(second[0]));
        let [shear_c, shear_s] = turn(ranges.shear * either(third[0]));
        let k = shear_s / shear_c;
        let smaller = 1.0 / ranges.scale.mul_add(either(second[1]), 1.0);
        let (y_row, y_col) = (c * smaller, -s * smaller);
        let (x_row, x_col) = ((-k).mul_add(c, s) * smaller, k.mul_add(s, c) * smaller);
        let (cy, cx) = ((height - 1) as f32 * 0.5, (width - 1) as f32 * 0.5);
        let (ay, ax) = (ranges.up.mul_add(either(second[2]), cy), ranges.across.mul_add(either(second[3]), cx));
        // Where the moved and mirrored pixel (0, 0) lies, from the middle.
        let moved = self.moved(first);
        let (v, u) = (moved.by[0] as f32 - ay, (moved.by[1] + if moved.flipped { width as isize - 1 } else { 0 }) as f32 - ax);
        let sign = if moved.flipped { -1.0 } else { 1.0 };
        let mut drawn = Drawn {
            y: [y_row.mul_add(v, y_col.mul_add(u, cy)), y_row, sign * y_col],
            x: [x_row.mul_add(v, x_col.mul_add(u, cx)), x_row, sign * x_col],
            from: [0; 2],
            to: [0; 2],
            sharpen: ranges.sharpen * unit(first[3]),
        };
        if unit(third[1]) < ranges.erase {
            let place = words(seed, step, i, 3);
            let (area, ratio) = (unit(third[2]).mul_add(0.38, 0.02), unit(third[3]).mul_add(1.0 / 0.3 - 0.3, 0.3));
            for (d, (size, share)) in [(height, area * ratio), (width, area / ratio)].into_iter().enumerate() {
                let length = (share.sqrt().mul_add(size as f32, 0.5) as usize).clamp(1, size);
                drawn.from[d] = place[d] as usize % (size - length + 1);
                drawn.to[d] = drawn.from[d] + length;
            }
        }
        drawn
    }
}
