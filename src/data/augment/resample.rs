//! Pictures sampled between their pixels, on the CPU: straight into their lanes of a batch.
//!
//! At place (y, x), with fy and fx the distances from the last row and column before it, a picture's level is
//!
//! ```text
//! v = a + fx·(b - a)        a, b = p₀ + fy·(p₁ - p₀) of the pixels above (p₀) and below (p₁), to the left and to the right
//! ```
//!
//! on the scale of bytes, 0 outside. The network is given v·gain + offset: gain = 1 / (255·deviation), offset = -mean / deviation of
//! the channel. Sharpening comes first: PyTorch's `adjust_sharpness` mixes a picture with its mean m = (Σ₉ + 4p) / 13 over 3 x 3 pixels,
//! 5-fold in the middle, by a factor of 1 + s, and keeps it in 0 to 255:
//!
//! ```text
//! p + s·(p - m) = p + s/13·(9p - Σ₉)
//! ```
//!
//! A picture takes three passes. The first finds the place of every pixel, a row at a time, as vector code. The second lays the picture out
//! with a border of black, each pixel with the one below it, so that the four levels around a place lie side by side. The third, a pixel
//! at a time, reads those four. Read next: `loader.rs`.

use super::Augment;
use super::draw::Drawn;
use super::elastic::{Field, knot};
use crate::device::cuda::kernels::batch::Ranges;
use crate::simd;
use crate::tensor::{Element, L, Real, Stored};

/// Samples the pictures of one step.
#[derive(Debug, Clone, Copy)]
pub struct Resample {
    augment: Augment,
    ranges: Ranges,
    /// Height and width of the pictures.
    size: [usize; 2],
    seed: u64,
    step: u64,
}

/// What one thread works in.
#[derive(Debug)]
pub struct Scratch {
    field: Option<Field>,
    /// (ey, ex) / a of one row.
    displaced: [Vec<f32>; 2],
    /// For each pixel: the number of the pair above and left of its place, and the distances from there.
    places: Vec<u32>,
    fractions: [Vec<f32>; 2],
    /// A picture with a border of black: one pixel above and to the left, two to the right; each with the pixel below it.
    pairs: Vec<[f32; 2]>,
    /// Sums over three rows of pixels, with a border.
    sums: Vec<i32>,
}

/// Where a plane of a batch lies, and how its numbers come from levels.
#[derive(Debug, Clone, Copy)]
pub struct Target<A> {
    /// The first pixel of the picture, and pixels from row to row.
    pub first: usize,
    /// Pixels from row to row.
    pub stride: usize,
    /// The image's lane.
    pub lane: usize,
    /// A number is level · gain + offset.
    pub gain: A,
    /// That of black.
    pub offset: A,
}

impl Resample {
    /// For pictures of `size` (height, width) in the batch of a step.
    pub fn new(augment: Augment, size: [usize; 2], seed: u64, step: u64) -> Self {
        Self { augment, ranges: augment.ranges(size), size, seed, step }
    }

    /// What a thread needs to work.
    pub fn scratch(&self) -> Scratch {
        let [h, w] = self.size;
        let zeros = || vec![0.0; h * w];
        Scratch {
            field: (self.ranges.elastic > 0.0).then(|| Field::new(self.size, self.ranges.knots)),
            displaced: [vec![0.0; w], vec![0.0; w]],
            places: vec![0; h * w],
            fractions: [zeros(), zeros()],
            pairs: vec![[0.0; 2]; (h + 2) * (w + 3)],
            sums: vec![0; w + 2],
        }
    }

    /// Draws what happens to image `i` of the batch, and finds the place of each of its pixels.
    pub fn place(&self, i: usize, scratch: &mut Scratch) -> Drawn {
        place::<f32>(self, i, scratch)
    }

    /// Lays out one plane of bytes to be sampled.
    pub fn lay_out(&self, plane: &[u8], drawn: &Drawn, scratch: &mut Scratch) {
        lay_out::<f32>(self.size, plane, drawn.sharpen, scratch);
    }

    /// Writes the plane that was laid out, changed as was drawn, into a lane of a plane of a batch.
    pub fn write<T: Element>(&self, drawn: &Drawn, scratch: &Scratch, to: Target<T::Acc>, x: &mut [[T; L]]) {
        let [_, w] = self.size;
        write::<T>(w, scratch, to, x);
        for row in drawn.from[0]..drawn.to[0] {
            for x in &mut x[to.first + row * to.stride..][drawn.from[1]..drawn.to[1]] {
                x[to.lane] = T::down(to.offset);
            }
        }
    }
}

simd! {
    fn place<T: Real>(all: &Resample, i: usize, scratch: &mut Scratch) -> Drawn {
        let Resample { augment, ranges, size: [height, width], seed, step } = *all;
        let drawn = augment.sampled(&ranges, [height, width], seed, step, i);
        let Scratch { field, displaced: [ey, ex], places, fractions: [fy, fx], .. } = scratch;
        if let Some(field) = field {
            field.draw(seed, step, i);
        }
        let [y_first, y_row, y_col] = drawn.y;
        let [x_first, x_row, x_col] = drawn.x;
        let (bottom, right) = ((height + 1) as f32, (width + 1) as f32);
        let rows = places.chunks_exact_mut(width).zip(fy.chunks_exact_mut(width)).zip(fx.chunks_exact_mut(width));
        for (row, ((places, fy), fx)) in rows.enumerate() {
            if let Some(field) = field {
                field.row(knot(row, ranges.knots), [ey, ex]);
            }
            let (ey, ex) = (&ey[..width], &ex[..width]);
            for col in 0..width {
                let v = ranges.elastic.mul_add(ey[col], row as f32);
                let u = ranges.elastic.mul_add(ex[col], col as f32);
                let y = y_col.mul_add(u, y_row.mul_add(v, y_first));
                let x = x_col.mul_add(u, x_row.mul_add(v, x_first));
                // From the border's corner on; farther outside it is as black as on the border.
                let y = (y + 1.0).max(0.0).min(bottom);
                let x = (x + 1.0).max(0.0).min(right);
                let (above, left) = (y as i32, x as i32);
                places[col] = (above * (width as i32 + 3) + left) as u32;
                fy[col] = y - above as f32;
                fx[col] = x - left as f32;
            }
        }
        drawn
    }
}

simd! {
    fn lay_out<T: Real>(size: [usize; 2], plane: &[u8], sharpen: f32, scratch: &mut Scratch) {
        let [_, width] = size;
        let Scratch { pairs, sums, .. } = scratch;
        let stride = width + 3;
        let black = vec![0; if sharpen > 0.0 { width } else { 0 }];
        for (row, pixels) in plane.chunks_exact(width).enumerate() {
            let (before, after) = pairs.split_at_mut((row + 1) * stride);
            let above = &mut before[row * stride + 1..][..width];
            let own = &mut after[1..][..width];
            if sharpen > 0.0 {
                let line = |row: Option<usize>| row.and_then(|row| plane.get(row * width..(row + 1) * width)).unwrap_or(&black);
                let (over, under) = (line(row.checked_sub(1)), line(Some(row + 1)));
                for (((sum, &a), &b), &c) in sums[1..].iter_mut().zip(over).zip(pixels).zip(under) {
                    *sum = i32::from(a) + i32::from(b) + i32::from(c);
                }
                for col in 0..width {
                    let pixel = i32::from(pixels[col]);
                    let edge = 9 * pixel - (sums[col] + sums[col + 1] + sums[col + 2]);
                    let level = sharpen.mul_add(edge as f32, pixel as f32).clamp(0.0, 255.0);
                    (above[col][1], own[col][0]) = (level, level);
                }
            } else {
                for ((above, own), &pixel) in above.iter_mut().zip(own).zip(pixels) {
                    let level = f32::from(pixel);
                    (above[1], own[0]) = (level, level);
                }
            }
        }
    }
}

simd! {
    fn write<T: Element>(width: usize, scratch: &Scratch, to: Target<T::Acc>, x: &mut [[T; L]]) {
        let Scratch { places, fractions: [fy, fx], pairs, .. } = scratch;
        let rows = places.chunks_exact(width).zip(fy.chunks_exact(width)).zip(fx.chunks_exact(width));
        for (((places, fy), fx), x) in rows.zip(x[to.first..].chunks_mut(to.stride)) {
            for (((&place, fy), fx), x) in places.iter().zip(fy).zip(fx).zip(x) {
                let place = place as usize;
                // There always are two.
                if let Some([left, right]) = pairs.get(place..place + 2) {
                    let a = fy.mul_add(left[1] - left[0], left[0]);
                    let b = fy.mul_add(right[1] - right[0], right[0]);
                    let level = fx.mul_add(b - a, a);
                    x[to.lane % L] = T::down(T::Acc::from_f64(f64::from(level)).mul_add(to.gain, to.offset));
                }
            }
        }
    }
}
