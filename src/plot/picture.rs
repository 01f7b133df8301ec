//! Pictures made of pixels: digits, feature maps, filters.
//!
//! They stand in figures as they are, each pixel a square, or go to a file of their own. Read next: `drawing.rs`.

use super::colour::{Map, Rgb};
use super::disk_picture;
use crate::error::{Error, Result};
use std::path::Path;

/// Pixels in rows from the top, three bytes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green, blue of every pixel.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// Of bytes as a data set has them, `[channels][height][width]`: one channel is grey, three are red, green and blue.
    ///
    /// Pixels that `bytes` lacks are black. Of two channels, or more than three, the first is shown.
    pub fn planes(channels: usize, height: usize, width: usize, bytes: &[u8]) -> Picture {
        let plane = height * width;
        let byte = |c: usize, i: usize| bytes.get(c * plane + i).copied().unwrap_or(0);
        let colours = if channels == 3 { [0, 1, 2] } else { [0; 3] };
        Picture { width, height, rgb: (0..plane).flat_map(|i| colours.map(|c| byte(c, i))).collect() }
    }

    /// Of numbers, `[height][width]`, between `low` and `high` by a colour map.
    pub fn mapped(height: usize, width: usize, values: &[f64], (low, high): (f64, f64), map: Map) -> Picture {
        let span = if high > low { high - low } else { 1.0 };
        let colour = |i: usize| map.at((values.get(i).copied().unwrap_or(f64::NAN) - low) / span);
        Picture { width, height, rgb: (0..height * width).flat_map(colour).collect() }
    }

    /// The colour of a pixel.
    pub fn pixel(&self, x: usize, y: usize) -> Rgb {
        let at = 3 * (y * self.width + x);
        [self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]]
    }

    /// The bytes of a PNG file: grey (one byte a pixel) where there is no colour.
    pub fn png(&self) -> Result<Vec<u8>> {
        use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
        let grey = self.rgb.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]);
        let bytes: Vec<u8> = if grey { self.rgb.iter().step_by(3).copied().collect() } else { self.rgb.clone() };
        let kind = if grey { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
        let mut out = Vec::new();
        PngEncoder::new(&mut out)
            .write_image(&bytes, self.width as u32, self.height as u32, kind)
            .map_err(|e| Error::run(format!("cannot make a PNG of {}x{} pixels: {e}", self.width, self.height)))?;
        Ok(out)
    }

    /// Writes a PNG file, pixel by pixel as it is.
    pub fn save(&self, path: &Path) -> Result<()> {
        disk_picture(path, &self.png()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_pixels() {
        let grey = Picture::planes(1, 1, 2, &[7, 9]);
        assert_eq!((grey.pixel(0, 0), grey.pixel(1, 0)), ([7; 3], [9; 3]));
        let colour = Picture::planes(3, 1, 2, &[1, 2, 3, 4, 5, 6]);
        assert_eq!((colour.pixel(0, 0), colour.pixel(1, 0)), ([1, 3, 5], [2, 4, 6]));
        assert_eq!(Picture::planes(1, 2, 2, &[5]).rgb, [5, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn files_hold_the_very_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..28 * 28).map(|i| (i * 37 % 256) as u8).collect();
        let path = dir.path().join("x.png");
        Picture::planes(1, 28, 28, &bytes).save(&path).unwrap();
        let read = image::open(&path).unwrap();
        assert_eq!((read.color(), read.to_luma8().as_raw()), (image::ColorType::L8, &bytes));
        let colour: Vec<u8> = (0..3 * 12).map(|i| (i * 7) as u8).collect();
        Picture::planes(3, 3, 4, &colour).save(&path).unwrap();
        let read = image::open(&path).unwrap().to_rgb8();
        assert_eq!(read.get_pixel(2, 1).0, [42, 42 + 84, 42 + 168]);
    }

    #[test]
    fn numbers_become_colours() {
        let p = Picture::mapped(1, 3, &[-1.0, 1.0, f64::NAN], (-1.0, 1.0), Map::Grey);
        assert_eq!((p.pixel(0, 0), p.pixel(1, 0), p.pixel(2, 0)), ([0; 3], [255; 3], [128; 3]));
        // All the same: no division by zero.
        assert_eq!(Picture::mapped(1, 1, &[3.0], (3.0, 3.0), Map::Viridis).pixel(0, 0), [68, 1, 84]);
    }
}
