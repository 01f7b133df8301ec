//! `cugrad data show`: a contact sheet.
//!
//! Read next: `export.rs`.

use super::{Choice, Part, print};
use crate::data::{Augment, Dataset, preview};
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
    /// The first N images of each class, a row a class [default: 8; 1 with --augment]
    #[arg(long, value_name = "N", conflicts_with = "first")]
    per_class: Option<usize>,
    /// The first N images, whatever their class
    #[arg(long, value_name = "N")]
    first: Option<usize>,
    /// Beside each image, what train --augment would learn from instead of it
    #[arg(long, value_name = "CHANGES")]
    augment: Option<String>,
    /// How many changed pictures stand beside each image
    #[arg(long, value_name = "N", default_value_t = 7, requires = "augment")]
    variants: usize,
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
        let augment: Option<Augment> = self.augment.as_deref().map(str::parse).transpose()?;
        let fonts = Fonts::open(self.font.as_deref())?;
        let (name, splits) = self.choice.load()?;
        let data = self.part.of(&splits);
        let per_class = self.per_class.unwrap_or(if augment.is_some() { 1 } else { 8 });
        let numbers: Vec<usize> = match self.first {
            Some(n) => (0..n.min(data.len())).collect(),
            None => by_class(data, per_class),
        };
        let variants = if augment.is_some() { self.variants } else { 0 };
        let pictures = numbers.len().saturating_mul(variants.saturating_add(1));
        if pictures == 0 || pictures > MOST {
            return Err(Error::usage(format!("a sheet has 1 to {MOST} pictures, not {pictures}"))
                .hint("give other --first, --per-class or --variants"));
        }
        let mut sheet = Grid::new(format!("{name}, {} of {} images", numbers.len(), data.len()));
        // A row for each class; where a class has fewer images than its row has room, rows would mix.
        let full = self.first.is_none() && numbers.len() == per_class * data.classes.len();
        sheet.columns = full.then_some(per_class);
        if let Some(augment) = augment {
            sheet.title += &format!(", and each changed by {augment}");
            sheet.columns = Some(variants + 1);
        }
        // Each picture of a batch has its own draws.
        let repeated: Vec<u32> = numbers.iter().flat_map(|&i| std::iter::repeat_n(i as u32, variants)).collect();
        let mut changed = preview(data, &repeated, augment.unwrap_or_default(), self.choice.seed, 0)?.into_iter();
        for &i in &numbers {
            sheet.push(picture(data, i), format!("{} #{i}", data.classes[usize::from(data.labels[i])]));
            for bytes in changed.by_ref().take(variants) {
                sheet.push(Picture::planes(data.channels, data.height, data.width, &bytes), "");
            }
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
