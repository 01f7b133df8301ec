//! Augmentation: every time a picture is learned from, it is changed a little, so that no two epochs see the same.
//!
//! | word | what happens | as in PyTorch |
//! | --- | --- | --- |
//! | `shift:N`, `crop:N` | moved by -N to N whole pixels in each direction | `RandomCrop(size, padding=N)` |
//! | `flip` | half of the pictures are mirrored left to right | `RandomHorizontalFlip()` |
//! | `rotate:D` | turned by -D to D degrees about the middle | `RandomRotation(D)` |
//! | `translate:T` | moved by -T to T of its height and of its width | `RandomAffine(0, translate=(T, T))` |
//! | `scale:S` | 1 - S to 1 + S times as large, about the middle | `RandomAffine(0, scale=(1-S, 1+S))` |
//! | `shear:D` | upright lines lean by -D to D degrees | `RandomAffine(0, shear=D)` |
//! | `elastic:A:S` | bent smoothly, by about A / 6S pixels | Simard, Steinkraus, Platt 2003; `ElasticTransform` |
//! | `erase:P` | with probability P a rectangle becomes black | Zhong et al. 2017; `RandomErasing(P)` |
//! | `sharpen:A` | sharpened by a factor of 1 to 1 + A | `adjust_sharpness` |
//!
//! They can be combined, `rotate:10,translate:0.1`, and happen in a fixed order, whatever that of the words: sharpen, scale, shear,
//! rotate, translate, shift, flip, elastic, erase. All moves are one map from a pixel to the place that it shows, so that a picture is
//! sampled (and blurred) only once. What comes from outside of the picture is black. Test pictures are never changed.
//!
//! What happens to image i of the batch of a step is a function of (seed, step, i), as with dropout: of Philox's words w of counter
//! (i, step, step >> 32, k), where k counts down from 2³² - 1 and dropout's layers count up from 0. So the CPU and a GPU
//! (`kernels/batch.cu`) draw the same, nothing is stored, and a resumed run goes on as it would have. With k = 2³² - 1
//!
//! ```text
//! dy = w₀ mod (2·shift + 1) - shift        dx = w₁ mod (2·shift + 1) - shift        mirrored if w₂ is odd
//! pixel (row, col) takes the byte at (row + dy, col' + dx), where col' is col, or width - 1 - col; black outside
//! ```
//!
//! If nothing else is asked for, that is all: bytes stay bytes. Read next: `augment/draw.rs` for what else is drawn.

pub mod draw;
pub mod elastic;
pub mod resample;

use crate::error::{Error, Result};
use crate::tensor::Philox;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// What is done to training pictures; parsed from and printed as `none` or `shift:2,flip`. Zero is: not at all.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Augment {
    /// The most whole pixels that a picture is moved by, in each direction.
    pub shift: usize,
    /// Mirror half of the pictures left to right. Not for digits: a mirrored 2 is none.
    pub flip: bool,
    /// The most that it is turned, in degrees.
    pub rotate: f32,
    /// The most that it is moved, as a share of its height and width.
    pub translate: f32,
    /// The most that its size differs from 1.
    pub scale: f32,
    /// The most that upright lines lean, in degrees.
    pub shear: f32,
    /// Strength and smoothness (in pixels) of elastic distortion: Simard's α and σ.
    pub elastic: [f32; 2],
    /// The probability that a rectangle is erased.
    pub erase: f32,
    /// The most that is added to a sharpness of 1.
    pub sharpen: f32,
}

/// What happens to one picture that is only moved by whole pixels and mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Rows and columns from a pixel to the one that it shows.
    pub by: [isize; 2],
    /// Mirrored left to right?
    pub flipped: bool,
}

/// All that there is, for messages.
const WORDS: &str = "none, or some of shift:PIXELS (or crop:PIXELS, 1 to 14), flip, rotate:DEGREES, translate:SHARE, scale:SHARE, \
    shear:DEGREES, elastic:ALPHA:SIGMA, erase:PROBABILITY and sharpen:AMOUNT, as in rotate:10,translate:0.1";

impl Augment {
    /// Does it leave pictures as they are?
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Are pictures moved by whole pixels at most, so that their bytes stay what they are?
    pub fn keeps_bytes(&self) -> bool {
        *self == Self { shift: self.shift, flip: self.flip, ..Self::default() }
    }

    /// What happens to image `i` of the batch of a step, if [`Augment::keeps_bytes`].
    pub fn draw(&self, seed: u64, step: u64, i: usize) -> Move {
        self.moved(words(seed, step, i, 0))
    }

    /// The move by whole pixels that the first words of an image say.
    #[inline(always)]
    fn moved(&self, w: [u32; 4]) -> Move {
        let by = |word: u32| (word % (2 * self.shift as u32 + 1)) as isize - self.shift as isize;
        Move { by: [by(w[0]), by(w[1])], flipped: self.flip && w[2] & 1 == 1 }
    }

    /// The numbers that are not zero, with their words, in the order in which they are printed.
    fn numbers(&self) -> [(&'static str, f32); 6] {
        let Self { rotate, translate, scale, shear, erase, sharpen, .. } = *self;
        [("rotate", rotate), ("translate", translate), ("scale", scale), ("shear", shear), ("erase", erase), ("sharpen", sharpen)]
    }
}

/// Four words for image `i` of the batch of a step; `block` counts from 0.
#[inline(always)]
fn words(seed: u64, step: u64, i: usize, block: u32) -> [u32; 4] {
    Philox::new(seed).lanes([[i as u32], [step as u32], [(step >> 32) as u32], [u32::MAX - block]]).map(|[word]| word)
}

impl Move {
    /// The place in a picture of `height` x `width` that pixel (row, col) shows; none outside of it.
    pub fn source(&self, row: usize, col: usize, height: usize, width: usize) -> Option<(usize, usize)> {
        let col = if self.flipped { width - 1 - col } else { col };
        let place = |at: usize, by: isize, size: usize| at.checked_add_signed(by).filter(|&at| at < size);
        Some((place(row, self.by[0], height)?, place(col, self.by[1], width)?))
    }
}

impl fmt::Display for Augment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut parts = Vec::new();
        if self.shift > 0 {
            parts.push(format!("shift:{}", self.shift));
        }
        if self.flip {
            parts.push("flip".into());
        }
        parts.extend(self.numbers().iter().filter(|(_, number)| *number != 0.0).map(|(word, number)| format!("{word}:{number}")));
        if self.elastic[0] != 0.0 {
            parts.push(format!("elastic:{}:{}", self.elastic[0], self.elastic[1]));
        }
        f.pad(&if parts.is_empty() { "none".into() } else { parts.join(",") })
    }
}

impl FromStr for Augment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut augment = Augment::default();
        if text == "none" {
            return Ok(augment);
        }
        let mut seen = Vec::new();
        for part in text.split(',').map(str::trim) {
            let mut pieces = part.split(':');
            // Splitting gives one piece at least.
            let word = pieces.next().unwrap_or_default();
            let values: Vec<&str> = pieces.collect();
            let wrong = |what: String| Error::usage(format!("augmentation '{part}': {what}")).hint(format!("use {WORDS}"));
            // crop is another word for shift.
            let kind = if word == "crop" { "shift" } else { word };
            if seen.contains(&kind) {
                return Err(wrong(format!("{kind} stands twice in '{text}'")));
            }
            seen.push(kind);
            let count = |expected: usize| match values.len() == expected {
                true => Ok(()),
                false => Err(wrong(format!("takes {expected} numbers behind colons, not {}", values.len()))),
            };
            let number = |i: usize, name: &str, range: RangeInclusive<f32>| {
                let parsed = values[i].parse().ok().filter(|x: &f32| range.contains(x));
                let (from, to) = (range.start(), range.end());
                parsed.ok_or_else(|| wrong(format!("{name} must be a number from {from} to {to}, not '{}'", values[i])))
            };
            let one = |name: &str, range| count(1).and_then(|()| number(0, name, range));
            match kind {
                "shift" => {
                    count(1)?;
                    let pixels = values[0].parse().ok().filter(|pixels| (1..=14).contains(pixels));
                    augment.shift =
                        pixels.ok_or_else(|| wrong(format!("pixels must be a whole number from 1 to 14, not '{}'", values[0])))?;
                }
                "flip" => {
                    count(0)?;
                    augment.flip = true;
                }
                "rotate" => augment.rotate = one("degrees", 0.01..=180.0)?,
                "translate" => augment.translate = one("the share", 0.001..=1.0)?,
                "scale" => augment.scale = one("the share", 0.001..=0.9)?,
                "shear" => augment.shear = one("degrees", 0.01..=60.0)?,
                "elastic" => {
                    count(2)?;
                    augment.elastic = [number(0, "alpha", 0.01..=1000.0)?, number(1, "sigma", 1.0..=100.0)?];
                }
                "erase" => augment.erase = one("the probability", 0.001..=1.0)?,
                "sharpen" => augment.sharpen = one("the amount", 0.01..=100.0)?,
                _ => return Err(Error::usage(format!("there is no augmentation '{part}'")).hint(format!("use {WORDS}"))),
            }
        }
        Ok(augment)
    }
}

#[cfg(test)]
mod tests;
