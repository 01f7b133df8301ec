//! Pictures side by side in rows, with captions.
//!
//! Read next: `history.rs`.

use super::Pane;
use super::colour::{self, Rgb};
use super::drawing::{Anchor, Area, Drawing, Shape};
use super::font::Fonts;
use super::lines::{SMALL, title};
use super::picture::Picture;

/// Space between pictures.
const GAP: f32 = 12.0;
/// Height of a caption.
const CAPTION: f32 = 18.0;

/// A picture and what is written below it.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The picture.
    pub picture: Picture,
    /// Below it; may be empty.
    pub caption: String,
    /// Colour of the caption.
    pub colour: Rgb,
}

/// Pictures in rows.
#[derive(Debug, Clone)]
pub struct Grid {
    /// What is written above them; may be empty.
    pub title: String,
    /// The pictures, in rows from the top.
    pub cells: Vec<Cell>,
    /// How many stand in a row; by default as many as make the grid about square.
    pub columns: Option<usize>,
    /// Width of a picture, in 1/100 inch.
    pub side: f32,
}

impl Grid {
    /// An empty grid of pictures 90 units wide.
    pub fn new(title: impl Into<String>) -> Grid {
        Grid { title: title.into(), cells: Vec::new(), columns: None, side: 90.0 }
    }

    /// Appends a picture with its caption.
    pub fn push(&mut self, picture: Picture, caption: impl Into<String>) {
        self.cells.push(Cell { picture, caption: caption.into(), colour: colour::INK });
    }

    fn columns(&self) -> usize {
        let square = (self.cells.len() as f64).sqrt().ceil() as usize;
        self.columns.unwrap_or(square).clamp(1, self.cells.len().max(1))
    }

    /// Height of a row of pictures, that of the tallest.
    fn height(&self) -> f32 {
        let shape = |p: &Picture| p.height as f32 / p.width.max(1) as f32;
        self.side * self.cells.iter().map(|c| shape(&c.picture)).fold(0.0, f32::max)
    }

    /// Height of a row with its captions and the space below.
    fn pitch(&self) -> f32 {
        let captions = self.cells.iter().any(|c| !c.caption.is_empty());
        self.height() + if captions { CAPTION } else { 0.0 } + GAP
    }

    fn top(&self) -> f32 {
        if self.title.is_empty() { GAP } else { 38.0 }
    }
}

impl Pane for Grid {
    fn size(&self, fonts: &Fonts) -> [f32; 2] {
        let rows = self.cells.len().div_ceil(self.columns());
        // A title longer than the pictures are wide still gets its room, up to a point.
        let heading = fonts.width(&self.title, super::lines::HEADING).min(700.0) + 16.0;
        [(self.columns() as f32 * (self.side + GAP) + GAP).max(heading), self.top() + rows as f32 * self.pitch()]
    }

    fn draw(&self, d: &mut Drawing, area: Area, fonts: &Fonts) {
        let width = self.columns() as f32 * (self.side + GAP) - GAP;
        let left = area.x + (area.w - width) / 2.0;
        for (i, cell) in self.cells.iter().enumerate() {
            let (row, column) = (i / self.columns(), i % self.columns());
            let x = left + column as f32 * (self.side + GAP);
            let y = area.y + self.top() + row as f32 * self.pitch();
            let h = self.side * cell.picture.height as f32 / cell.picture.width.max(1) as f32;
            let at = Area { x, y, w: self.side, h };
            d.shapes.push(Shape::Picture { area: at, picture: cell.picture.clone() });
            d.frame(at, colour::GRID, 0.8);
            let caption = fonts.fit(&cell.caption, SMALL, self.side + GAP - 2.0);
            d.text([x + self.side / 2.0, y + self.height() + 14.0], SMALL, Anchor::Middle, cell.colour, caption);
        }
        title(d, &self.title, area, area.x + area.w / 2.0, fonts);
    }
}
