//! `cugrad data show`: a contact sheet.
//!
//! Read next: `export.rs`.

use super::{Choice, Part, print};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::plot::{self, Figure, Fonts, Grid, Picture};
use clap::Args;
use std::path::PathBuf;

/// The most pictures on a sheet.
const MOST: usize = 2000;

/// Draw a contact sheet.
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    choice: Choice,
    /// Of the images to learn from, or of those to be judged on
    #[arg(long, value_enum, default_value = "train")]
    part: Part,
    /// The first N images of each class, a row a class
    #[arg(long, value_name = "N", default_value_t = 8, conflicts_with = "first")]
    per_class: usize,
    /// The first N images, whatever their class
    #[arg(long, value_name = "N")]
    first: Option<usize>,
    /// The picture to write, .png or .svg
    #[arg(long, value_name = "FILE", default_value = "samples.png")]
    out: PathBuf,
    /// A TrueType font for captions that the built-in one cannot write
    #[arg(long, value_name = "FILE")]
    font: Option<PathBuf>,
}

impl Show {
    pub fn run(self) -> Result<()> {
        plot::check_name(&self.out)?;
        let fonts = Fonts::open(self.font.as_deref())?;
        let (name, splits) = self.choice.load()?;
        let data = self.part.of(&splits);
        let numbers = match self.first {
            Some(n) => (0..n.min(data.len())).collect(),
            None => by_class(data, self.per_class),
        };
        if numbers.is_empty() || numbers.len() > MOST {
            return Err(
                Error::usage(format!("a sheet has 1 to {MOST} pictures, not {}", numbers.len())).hint("give other --first or --per-class")
            );
        }
        let mut sheet = Grid::new(format!("{name}, {} of {} images", numbers.len(), data.len()));
        // A row for each class; where a class has fewer images than its row has room, rows would mix.
        let full = self.first.is_none() && numbers.len() == self.per_class * data.classes.len();
        sheet.columns = full.then_some(self.per_class);
        for &i in &numbers {
            sheet.push(picture(data, i), format!("{} #{i}", data.classes[usize::from(data.labels[i])]));
        }
        Figure::new("").with(sheet).save(&self.out, &fonts)?;
        print(self.out.display())
    }
}

/// An image as it is.
fn picture(data: &Dataset, i: usize) -> Picture {
    Picture::planes(data.channels, data.height, data.width, data.image(i))
}

/// The numbers of the first `n` images of each class, class by class.
fn by_class(data: &Dataset, n: usize) -> Vec<usize> {
    let of = |class: usize| (0..data.len()).filter(move |&i| usize::from(data.labels[i]) == class).take(n);
    (0..data.classes.len()).flat_map(of).collect()
}
