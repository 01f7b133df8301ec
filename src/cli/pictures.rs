//! What the commands that draw have in common: their flags, how they read pictures, and names of files that any file system takes.
//!
//! Read next: `findings.rs`.

use crate::data::{Dataset, Normalization, Source, read_digit, read_picture};
use crate::error::Result;
use crate::plot::{Bar, Bars, Figure, Fonts, Grid, Picture, colour};
use crate::train::Config;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// How pictures are drawn.
#[derive(Debug, Clone, Args)]
pub(super) struct PictureArgs {
    /// Kind of the figures
    #[arg(long, value_enum, default_value_t = Format::Png)]
    format: Format,
    /// A font (.ttf, .otf) for writing that the built-in one lacks
    #[arg(long, value_name = "FILE")]
    font: Option<PathBuf>,
}

/// A kind of picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Pixels.
    Png,
    /// Shapes and text.
    Svg,
}

impl PictureArgs {
    /// The fonts.
    pub fn fonts(&self) -> Result<Fonts> {
        Fonts::open(self.font.as_deref())
    }

    /// `dir/stem.png`, or `.svg`.
    pub fn path(&self, dir: &Path, stem: &str) -> PathBuf {
        dir.join(format!("{stem}.{}", if self.format == Format::Svg { "svg" } else { "png" }))
    }
}

/// A class's name, or a file's, as a part of a file's name: letters, digits, `.` and `_` stay, all else becomes `-`.
pub(super) fn safe(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || c == '_' || c == '.' { c } else { '-' };
    let safe: String = name.chars().map(plain).take(40).collect();
    // A leading dot would hide the file, and '..' leave the directory.
    let safe = safe.trim_matches('.');
    if safe.is_empty() { "-".into() } else { safe.into() }
}

/// Reads pictures as a network takes them, all of them labelled 0; `input` is its channels, height and width.
pub(super) fn read_pictures(
    paths: &[PathBuf],
    config: &Config,
    normalization: &Normalization,
    [_, height, width]: [usize; 3],
    classes: &[String],
) -> Result<Dataset> {
    // The network repeats a grey picture for its channels if it was trained on grey ones.
    let channels = normalization.mean.len();
    // What was trained on pictures as they are sees this one as it is; the others see white signs on black.
    let digits = config.data.parse::<Source>()?.is_white_on_black();
    let size = config.size()?.filter(|_| !digits);
    let [height, width] = size.unwrap_or([height, width]);
    let (labels, classes) = (vec![0; paths.len()], classes.to_vec());
    let mut data = Dataset { name: "pictures".into(), images: Vec::new(), labels, channels, height, width, classes };
    for path in paths {
        data.images.extend(match digits {
            true => read_digit(path, height, width, channels)?,
            false => read_picture(path, [channels, height, width])?,
        });
    }
    Ok(data)
}

/// A picture beside the probabilities of the classes: all of up to twenty, else the ten most probable ones.
pub(super) fn prediction(title: String, input: Picture, class: usize, classes: &[String], p: &[f64]) -> Figure {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    if order.len() <= 20 {
        order.sort_unstable();
    } else {
        order.truncate(10);
    }
    let mut grid = Grid::new("");
    grid.side = 300.0;
    grid.push(input, "as the network sees it");
    let bar = |c: usize| Bar {
        name: classes.get(c).cloned().unwrap_or_else(|| c.to_string()),
        value: p[c],
        text: format!("{:.2}%", 100.0 * p[c]),
        colour: if c == class { colour::SERIES[0] } else { colour::Map::Blues.at(0.4) },
    };
    let bars = Bars { bars: order.into_iter().map(bar).collect(), full: Some(1.0), ..Bars::new("", "probability") };
    Figure::new(title).with(grid).with(bars)
}

#[cfg(test)]
mod tests {
    use super::safe;

    #[test]
    fn names_of_files() {
        for (name, expected) in [
            ("3", "3"),
            ("T-shirt/top", "T-shirt-top"),
            ("Ankle boot", "Ankle-boot"),
            ("../../etc", "-..-etc"),
            ("..", "-"),
            ("", "-"),
            ("a:b*c?\"<>|\\\n\0", "a-b-c--------"),
            ("七", "七"),
        ] {
            assert_eq!(safe(name), expected, "{name:?}");
        }
        assert_eq!(safe(&"x".repeat(300)).len(), 40);
    }
}
