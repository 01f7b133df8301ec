//! Augmentation: every time a picture is learned from, it is moved a little, and perhaps mirrored.
//!
//! What happens to image i of the batch of a step is a function of (seed, step, i), as with dropout: Philox's words w of counter
//! (i, step, step >> 32, 2³² - 1) give
//!
//! ```text
//! dy = w₀ mod (2·shift + 1) - shift        dx = w₁ mod (2·shift + 1) - shift        mirrored if w₂ is odd
//! pixel (row, col) takes the byte at (row + dy, col' + dx), where col' is col, or width - 1 - col; black outside
//! ```
//!
//! So the CPU and a GPU (`kernels/batch.cu`) draw the same, nothing is stored, and a resumed run goes on as it would have. Read next:
//! `loader.rs`.

use crate::error::{Error, Result};
use crate::tensor::Philox;
use std::fmt;
use std::str::FromStr;

/// What is done to training pictures; parsed from and printed as `none` or `shift:2,flip`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Augment {
    /// The most pixels that a picture is moved by, in each direction.
    pub shift: usize,
    /// Mirror half of the pictures left to right. Not for digits: a mirrored 2 is none.
    pub flip: bool,
}

/// What happens to one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Rows and columns from a pixel to the one that it shows.
    pub by: [isize; 2],
    /// Mirrored left to right?
    pub flipped: bool,
}

impl Augment {
    /// Does it leave pictures as they are?
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What happens to image `i` of the batch of a step.
    pub fn draw(&self, seed: u64, step: u64, i: usize) -> Move {
        let w = Philox::new(seed).words([i as u32, step as u32, (step >> 32) as u32, u32::MAX]);
        let by = |word: u32| (word % (2 * self.shift as u32 + 1)) as isize - self.shift as isize;
        Move { by: [by(w[0]), by(w[1])], flipped: self.flip && w[2] & 1 == 1 }
    }
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
        match (self.shift, self.flip) {
            (0, false) => f.pad("none"),
            (0, true) => f.pad("flip"),
            (shift, false) => write!(f, "shift:{shift}"),
            (shift, true) => write!(f, "shift:{shift},flip"),
        }
    }
}

impl FromStr for Augment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown =
            || Error::usage(format!("unknown augmentation '{text}'")).hint("use none, shift:PIXELS (1 to 14), flip, or shift:2,flip");
        let mut augment = Augment::default();
        for part in text.split(',').filter(|_| text != "none") {
            match part.split_once(':') {
                None if part == "flip" && !augment.flip => augment.flip = true,
                Some(("shift", pixels)) if augment.shift == 0 => {
                    augment.shift = pixels.parse().ok().filter(|pixels| (1..=14).contains(pixels)).ok_or_else(unknown)?;
                }
                _ => return Err(unknown()),
            }
        }
        Ok(augment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line() {
        for (text, shift, flip) in [("none", 0, false), ("shift:2", 2, false), ("flip", 0, true), ("shift:3,flip", 3, true)] {
            let augment: Augment = text.parse().unwrap();
            assert_eq!((augment, augment.to_string()), (Augment { shift, flip }, text.to_string()));
        }
        for bad in ["", "shift", "shift:0", "shift:15", "shift:x", "rotate:3", "flip,flip", "none,flip", "shift:1,shift:2"] {
            assert_eq!(bad.parse::<Augment>().unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn pictures_are_moved_everywhere_and_half_are_mirrored() {
        let augment = Augment { shift: 2, flip: true };
        let all: Vec<Move> = (0..2000).map(|i| augment.draw(7, 3, i)).collect();
        let flipped = all.iter().filter(|m| m.flipped).count();
        assert!((900..1100).contains(&flipped), "{flipped}");
        for (dy, dx) in (-2..=2).flat_map(|dy| (-2..=2).map(move |dx| (dy, dx))) {
            let count = all.iter().filter(|m| m.by == [dy, dx]).count();
            assert!((40..120).contains(&count), "({dy}, {dx}): {count}");
        }
        assert_ne!(all[0..50], (0..50).map(|i| augment.draw(7, 4, i)).collect::<Vec<_>>());
    }

    #[test]
    fn what_comes_from_outside_is_nothing() {
        let m = Move { by: [1, -2], flipped: true };
        assert_eq!(m.source(0, 0, 3, 4), Some((1, 1)));
        assert_eq!(m.source(2, 0, 3, 4), None);
        assert_eq!(m.source(0, 2, 3, 4), None);
    }
}
