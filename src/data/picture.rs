//! A picture of a digit from anywhere, made to look like MNIST: grey, white ink on black, filling a box of 20x20 in 28x28.
//!
//! This follows how MNIST was made (LeCun and others, 1998): the ink's bounding box is brought to 20 pixels with its proportions kept,
//! and its centre of mass put in the middle. It finds no digit in a busy photograph: one digit on plain paper is what it reads.
//! Read next: `mod.rs`, for the other ways into this part of the crate.

use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::error::{Error, Result};

/// The longest side that is read, in pixels: twice that of a large camera.
const LONGEST: u32 = 16_384;
/// The most memory for a decoded picture, in bytes.
const MEMORY: u64 = 256 << 20;
/// Ink must stand out from the paper by this many of 255 levels.
const CONTRAST: f32 = 24.0;
/// After the contrast is stretched to 0..255: what is below is paper, grain and shadow.
const GRAIN: f32 = 40.0;
/// After the contrast is stretched: what is above is surely ink, and spans the bounding box.
const INK: f32 = 100.0;

/// A grey picture.
struct Grey {
    width: usize,
    height: usize,
    /// `[height][width]`
    pixels: Vec<f32>,
}

/// Reads a PNG, JPEG or BMP of one digit as `[channels][height][width]` bytes, white ink on black, placed like MNIST's.
///
/// Dark ink on light paper is inverted, what is transparent counts as white paper, and grey is repeated for every channel. A picture
/// that has the right size and white ink on black already is passed through as it is. Panics when height or width is zero.
pub fn read_digit(path: &Path, height: usize, width: usize, channels: usize) -> Result<Vec<u8>> {
    let name = path.display();
    let picture = grey(&decode(path)?);
    let paper = picture.border_median();
    let (darkest, lightest) = picture.pixels.iter().fold((255.0f32, 0.0f32), |(lo, hi), &v| (lo.min(v), hi.max(v)));
    // Ink is what differs most from the paper, and the border is paper.
    let contrast = if paper - darkest > lightest - paper { darkest - paper } else { lightest - paper };
    if contrast.abs() < CONTRAST {
        return Err(Error::data(format!("{name}: the picture is blank: nothing stands out from its border")).hint(
            "a picture of one digit is needed, dark on light or light on dark, with some free space around it (transparent counts as white)",
        ));
    }
    let plane: Vec<u8> = if contrast > 0.0 && paper < 128.0 && (picture.height, picture.width) == (height, width) {
        picture.pixels.iter().map(|&v| v as u8).collect()
    } else {
        let stretched = |v: f32| ((v - paper) / contrast * 255.0).clamp(0.0, 255.0);
        let ink = |&v: &f32| Some(stretched(v)).filter(|&v| v >= GRAIN).unwrap_or(0.0);
        let ink = Grey { pixels: picture.pixels.iter().map(ink).collect(), ..picture };
        ink.cropped().placed(height, width)
    };
    Ok(plane.repeat(channels))
}

/// Decodes a PNG, JPEG or BMP, upright. What is too large to be meant is refused before memory is taken for it.
pub(super) fn decode(path: &Path) -> Result<DynamicImage> {
    let name = path.display();
    let unreadable = |e: &dyn std::fmt::Display| Error::data(format!("{name}: {e}")).hint("a whole PNG, JPEG or BMP file is needed");
    let mut reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(|e| unreadable(&e))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST);
    limits.max_image_height = Some(LONGEST);
    limits.max_alloc = Some(MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| unreadable(&e))?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > LONGEST || decoder.total_bytes() > MEMORY {
        return Err(
            Error::data(format!("{name}: {width}x{height} pixels are too many")).hint("make the picture smaller: 1000x1000 is plenty")
        );
    }
    // Telephones store how they were held rather than turn the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| unreadable(&e))?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// The grey of a picture that lies on white paper.
fn grey(picture: &DynamicImage) -> Grey {
    let over_white = |grey: u8, alpha: u8| {
        let alpha = f32::from(alpha) / 255.0;
        (alpha * f32::from(grey) + (1.0 - alpha) * 255.0).round()
    };
    let pixels = picture.to_luma_alpha8().pixels().map(|p| over_white(p.0[0], p.0[1])).collect();
    Grey { width: picture.width() as usize, height: picture.height() as usize, pixels }
}

impl Grey {
    /// The median of the outermost pixels.
    fn border_median(&self) -> f32 {
        let (w, h) = (self.width, self.height);
        let at_border = |&(i, _): &(usize, &f32)| i / w == 0 || i / w == h - 1 || i % w == 0 || i % w == w - 1;
        let mut border: Vec<f32> = self.pixels.iter().enumerate().filter(at_border).map(|(_, &v)| v).collect();
        let middle = border.len() / 2;
        *border.select_nth_unstable_by(middle, f32::total_cmp).1
    }

    /// The bounding box of the ink.
    fn cropped(&self) -> Grey {
        let inked = |x: usize, y: usize| self.pixels[y * self.width + x] >= INK;
        let rows: Vec<usize> = (0..self.height).filter(|&y| (0..self.width).any(|x| inked(x, y))).collect();
        let columns: Vec<usize> = (0..self.width).filter(|&x| rows.iter().any(|&y| inked(x, y))).collect();
        // The extreme of the contrast is ink, so there is at least one row and one column.
        let ends = |of: &[usize]| (of.first().copied().unwrap_or(0), of.last().copied().unwrap_or(0));
        let ((top, bottom), (left, right)) = (ends(&rows), ends(&columns));
        let pixels = (top..=bottom).flat_map(|y| self.pixels[y * self.width + left..=y * self.width + right].iter().copied()).collect();
        Grey { width: right - left + 1, height: bottom - top + 1, pixels }
    }

    /// Brought to 20/28 of the image by its longer side, with its centre of mass in the middle, on black.
    fn placed(&self, height: usize, width: usize) -> Vec<u8> {
        let room = height.min(width) as f64 * 20.0 / 28.0;
        let scale = room / self.width.max(self.height) as f64;
        let size = |n: usize, most: usize| ((n as f64 * scale).round() as usize).clamp(1, most);
        let small = self.resized(size(self.width, width), size(self.height, height));

        let total: f32 = small.pixels.iter().sum();
        let mean = |coordinate: &dyn Fn(usize) -> usize| {
            small.pixels.iter().enumerate().map(|(i, &v)| v * (coordinate(i) as f32 + 0.5)).sum::<f32>() / total
        };
        // In whole pixels, so that nothing is blurred again, and never beyond the edge.
        let start = |n: usize, inner: usize, mean: f32| ((n as f32 / 2.0 - mean).round().max(0.0) as usize).min(n - inner);
        let left = start(width, small.width, mean(&|i| i % small.width));
        let top = start(height, small.height, mean(&|i| i / small.width));
        let mut image = vec![0; height * width];
        for (y, row) in small.pixels.chunks_exact(small.width).enumerate() {
            for (x, &v) in row.iter().enumerate() {
                image[(top + y) * width + left + x] = v.round() as u8;
            }
        }
        image
    }

    /// Every new pixel is the mean of the area it covers.
    fn resized(&self, width: usize, height: usize) -> Grey {
        let (across, down) = (overlaps(self.width, width), overlaps(self.height, height));
        let pixel = |x: usize, y: usize| {
            let row = |&(j, weight): &(usize, f32)| {
                let line = &self.pixels[j * self.width..(j + 1) * self.width];
                weight * across[x].iter().map(|&(i, weight)| weight * line[i]).sum::<f32>()
            };
            down[y].iter().map(row).sum()
        };
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| pixel(x, y)).collect();
        Grey { width, height, pixels }
    }
}

/// For each of `new` equal parts of a line of `old` pixels: which pixels it covers, and each one's share, adding up to one.
fn overlaps(old: usize, new: usize) -> Vec<Vec<(usize, f32)>> {
    let size = old as f64 / new as f64;
    let part = |k: usize| {
        let (from, to) = (k as f64 * size, (k + 1) as f64 * size);
        let share = |i: usize| (to.min(i as f64 + 1.0) - from.max(i as f64)) / size;
        (from as usize..old.min(to.ceil() as usize)).map(|i| (i, share(i) as f32)).filter(|p| p.1 > 0.0).collect()
    };
    (0..new).map(part).collect()
}

#[cfg(test)]
mod tests;
