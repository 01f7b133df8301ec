//! Pictures of any size and colour, brought to the shape that a network takes. Not augmentation, and not the recipe for digits.
//!
//! Grey is `(19595 R + 38470 G + 7471 B + 32768) >> 16` (ITU-R 601 luma, in the whole numbers that Pillow uses), transparency is dropped, and
//! sizes change by the triangle filter, stretched over the area of the old pixels where the picture shrinks: what torchvision's
//! `convert` and `Resize((h, w))` do. Proportions are not kept. Read next: `pictures.rs`, which reads many; `picture.rs` for digits.

use std::path::Path;

use image::imageops::{self, FilterType};
use image::{DynamicImage, GrayImage};
use rayon::prelude::*;

use super::dataset::Dataset;
use super::picture;
use crate::error::{Error, Result};

/// The most rows, and columns, that pictures are brought to.
pub const LARGEST: usize = 4096;

/// Reads a PNG, JPEG or BMP as `[channels][height][width]` bytes: 1 channel for grey, 3 for red, green and blue.
pub fn read_picture(path: &Path, shape: [usize; 3]) -> Result<Vec<u8>> {
    Ok(planes(&picture::decode(path)?, shape))
}

/// The shape that a picture has by itself: 1 channel if it knows no colour, else 3; height, width.
pub(super) fn own_shape(path: &Path) -> Result<[usize; 3]> {
    let picture = picture::decode(path)?;
    let channels = if picture.color().has_color() { 3 } else { 1 };
    Ok([channels, picture.height() as usize, picture.width() as usize])
}

/// A decoded picture as `[channels][height][width]` bytes.
fn planes(picture: &DynamicImage, [channels, height, width]: [usize; 3]) -> Vec<u8> {
    let from = [picture.height() as usize, picture.width() as usize];
    if !picture.color().has_color() {
        return resized(picture.to_luma8().into_raw(), from, [height, width]).repeat(channels);
    }
    let rgb = picture.to_rgb8();
    let planes: Vec<Vec<u8>> = if channels == 1 {
        vec![rgb.pixels().map(|p| grey(p.0)).collect()]
    } else {
        (0..3).map(|c| rgb.pixels().map(|p| p.0[c]).collect()).collect()
    };
    planes.into_iter().flat_map(|plane| resized(plane, from, [height, width])).collect()
}

/// The luma of a colour.
fn grey([r, g, b]: [u8; 3]) -> u8 {
    ((19595 * u32::from(r) + 38470 * u32::from(g) + 7471 * u32::from(b) + 32768) >> 16) as u8
}

/// A plane of `from` (height, width) at the size of `to`.
fn resized(plane: Vec<u8>, from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    if from == to {
        return plane;
    }
    match GrayImage::from_raw(from[1] as u32, from[0] as u32, plane) {
        Some(image) => imageops::resize(&image, to[1] as u32, to[0] as u32, FilterType::Triangle).into_raw(),
        // A plane has the bytes that its size says: both come from one picture.
        None => vec![0; to[0] * to[1]],
    }
}

impl Dataset {
    /// The set with its images in another shape (channels, height, width); grey is repeated for colour.
    pub fn reshaped(&self, shape: [usize; 3]) -> Dataset {
        let [channels, height, width] = shape;
        let plane = self.height * self.width;
        let image = |i: usize| -> Vec<u8> {
            let image = self.image(i);
            let planes: Vec<Vec<u8>> = if channels == 1 && self.channels == 3 {
                vec![(0..plane).map(|p| grey([image[p], image[plane + p], image[2 * plane + p]])).collect()]
            } else {
                (0..channels).map(|c| image[c.min(self.channels - 1) * plane..][..plane].to_vec()).collect()
            };
            planes.into_iter().flat_map(|p| resized(p, [self.height, self.width], [height, width])).collect()
        };
        let images = (0..self.len()).into_par_iter().flat_map_iter(image).collect();
        Dataset { images, channels, height, width, name: self.name.clone(), labels: self.labels.clone(), classes: self.classes.clone() }
    }
}

/// A size as the command line has it: `32` is 32x32, and `24x32` is 24 rows of 32 columns.
pub fn parse_size(text: &str) -> Result<[usize; 2]> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=LARGEST).contains(side));
    let size = match text.split_once('x') {
        None => side(text).map(|side| [side, side]),
        Some((height, width)) => side(height).zip(side(width)).map(|(height, width)| [height, width]),
    };
    size.ok_or_else(|| {
        Error::usage(format!("'{text}' is no size of pictures"))
            .hint(format!("write N for NxN pixels or HxW for H rows of W, each from 1 to {LARGEST}, as in --image-size 32"))
    })
}

#[cfg(test)]
mod tests;
