//! Pictures: charts, heat maps, bars and grids of images, as PNG or SVG.
//!
//! A [`Figure`] is a title over panes; each [`Pane`] puts shapes into its part of a [`Drawing`], and the drawing becomes a file of the
//! kind that its name ends with. Nothing here asks the machine for fonts or programs. Not here: what is worth a picture (`cli/`).
//! Read in this order: `colour.rs`, `picture.rs`, `drawing.rs`, `font.rs`, `svg.rs`, `raster.rs`, `axes.rs`, then the panes: `lines.rs`,
//! `heat.rs`, `bars.rs`, `grid.rs`.

pub mod axes;
pub mod bars;
pub mod colour;
pub mod drawing;
pub mod font;
pub mod grid;
pub mod heat;
pub mod lines;
pub mod picture;
mod raster;
mod svg;

pub use axes::Axis;
pub use bars::{Bar, Bars};
pub use colour::{Map, Rgb};
pub use drawing::{Anchor, Area, Drawing};
pub use font::Fonts;
pub use grid::{Cell, Grid};
pub use heat::Heat;
pub use lines::{Lines, Series};
pub use picture::Picture;

use crate::disk::replace;
use crate::error::{Error, Result};
use std::io::Write;
use std::path::Path;

/// Dots per inch of PNG files where nobody asks for others.
pub const DPI: f32 = 200.0;

/// Space around and between panes.
const MARGIN: f32 = 12.0;
/// Size of the letters of a figure's title.
const TITLE: f32 = 18.0;

/// A part of a figure.
pub trait Pane {
    /// The width and height that suit it, in 1/100 inch.
    fn size(&self, fonts: &Fonts) -> [f32; 2];
    /// Draws it into `area`, which is at least that large.
    fn draw(&self, d: &mut Drawing, area: Area, fonts: &Fonts);
}

/// Panes in rows under a title.
#[derive(Default)]
pub struct Figure {
    title: String,
    panes: Vec<Box<dyn Pane>>,
    columns: Option<usize>,
}

impl Figure {
    /// A figure without panes; the title may be empty.
    pub fn new(title: impl Into<String>) -> Figure {
        Figure { title: title.into(), ..Figure::default() }
    }

    /// Appends a pane.
    pub fn with(mut self, pane: impl Pane + 'static) -> Figure {
        self.panes.push(Box::new(pane));
        self
    }

    /// So many panes in a row; by default all.
    pub fn columns(self, columns: usize) -> Figure {
        Figure { columns: Some(columns.max(1)), ..self }
    }

    /// Lays out the panes: a row is as high as its highest pane, and panes stand in its middle.
    pub fn draw(&self, fonts: &Fonts) -> Drawing {
        let sizes: Vec<[f32; 2]> = self.panes.iter().map(|pane| pane.size(fonts)).collect();
        let columns = self.columns.unwrap_or(self.panes.len()).max(1);
        let wide = |row: &[[f32; 2]]| row.iter().map(|s| s[0] + MARGIN).sum::<f32>() + MARGIN;
        let high = |row: &[[f32; 2]]| row.iter().map(|s| s[1]).fold(0.0, f32::max);
        let mut width = sizes.chunks(columns).map(wide).fold(2.0 * MARGIN, f32::max);
        if !self.title.is_empty() {
            width = width.max(fonts.width(&self.title, TITLE).min(900.0) + 2.0 * MARGIN);
        }
        let head = if self.title.is_empty() { 0.0 } else { 2.0 * TITLE };
        let height = sizes.chunks(columns).map(|row| high(row) + MARGIN).sum::<f32>() + MARGIN + head;
        let mut d = Drawing::new(width, height);
        let title = fonts.fit(&self.title, TITLE, width - 2.0 * MARGIN);
        d.text([width / 2.0, MARGIN + TITLE], TITLE, Anchor::Middle, colour::INK, title);
        let mut y = MARGIN + head;
        for (panes, row) in self.panes.chunks(columns).zip(sizes.chunks(columns)) {
            let mut x = (width - wide(row)) / 2.0 + MARGIN;
            for (pane, &[w, h]) in panes.iter().zip(row) {
                pane.draw(&mut d, Area { x, y: y + (high(row) - h) / 2.0, w, h }, fonts);
                x += w + MARGIN;
            }
            y += high(row) + MARGIN;
        }
        d
    }

    /// Writes the figure to a file, PNG or SVG as the name ends; a file that was there is replaced only by a whole one.
    pub fn save(&self, path: &Path, fonts: &Fonts) -> Result<()> {
        self.save_with(path, fonts, DPI)
    }

    /// The same with so many dots per inch in a PNG file.
    pub fn save_with(&self, path: &Path, fonts: &Fonts, dpi: f32) -> Result<()> {
        let drawing = self.draw(fonts);
        let bytes = match kind(path)? {
            Kind::Svg => svg::text(&drawing, fonts)?.into_bytes(),
            Kind::Png => raster::pixels(&drawing, fonts, dpi / 100.0)?.png()?,
        };
        disk_picture(path, &bytes)
    }
}

impl std::fmt::Debug for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Figure {{ {:?}, {} panes }}", self.title, self.panes.len())
    }
}

/// What a file's name says that it is.
enum Kind {
    Png,
    Svg,
}

fn kind(path: &Path) -> Result<Kind> {
    match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("png") => Ok(Kind::Png),
        Some("svg") => Ok(Kind::Svg),
        _ => Err(Error::usage(format!("cannot tell the kind of picture from the name {}", path.display()))
            .hint("end the name with .png or .svg")),
    }
}

/// Makes sure that a name ends as pictures do, so that it is known before any work is done.
pub fn check_name(path: &Path) -> Result<()> {
    kind(path).map(|_| ())
}

/// Writes a picture's bytes beside its place, creating the directory if need be, and renames.
fn disk_picture(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)
            .map_err(|e| Error::run(format!("cannot create {}: {e}", parent.display())).hint("choose a directory that you may write to"))?;
    }
    replace(path, |out| out.write_all(bytes))
}

#[cfg(test)]
mod tests;
