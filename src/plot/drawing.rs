//! A drawing: a list of shapes on white paper, in units of 1/100 inch from the upper left corner.
//!
//! Charts put shapes here and know of nothing else; `svg.rs` and `raster.rs` turn the list into a file. Read next: `font.rs`.

use super::colour::Rgb;
use super::picture::Picture;

/// Where a text stands on its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// A line of text.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// The point, on the baseline.
    pub at: [f32; 2],
    /// Height of a line, in units.
    pub size: f32,
    /// How it stands on the point.
    pub anchor: Anchor,
    /// Runs upwards instead of to the right.
    pub upwards: bool,
    /// Its colour.
    pub colour: Rgb,
    /// The letters.
    pub text: String,
}

/// A shape.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// A filled rectangle.
    Rect {
        /// Left, top, width, height.
        area: Area,
        /// Its colour.
        fill: Rgb,
        /// 0 (unseen) to 1 (hides what is behind it).
        opacity: f32,
    },
    /// A line through points.
    Line {
        /// The points.
        points: Vec<[f32; 2]>,
        /// Its colour.
        colour: Rgb,
        /// How thick it is.
        width: f32,
        /// Lengths of a dash and of the gap behind it.
        dash: Option<[f32; 2]>,
    },
    /// A filled circle.
    Dot {
        /// Its centre.
        at: [f32; 2],
        /// Its radius.
        radius: f32,
        /// Its colour.
        fill: Rgb,
    },
    /// A line of text.
    Text(Text),
    /// A picture, each of its pixels a rectangle.
    Picture {
        /// Where it is stretched to.
        area: Area,
        /// The pixels.
        picture: Picture,
    },
}

/// A rectangle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area {
    /// Left edge.
    pub x: f32,
    /// Upper edge.
    pub y: f32,
    /// Width.
    pub w: f32,
    /// Height.
    pub h: f32,
}

impl Area {
    /// The rectangle without strips at its left, top, right and bottom.
    pub fn inset(self, left: f32, top: f32, right: f32, bottom: f32) -> Area {
        Area { x: self.x + left, y: self.y + top, w: (self.w - left - right).max(1.0), h: (self.h - top - bottom).max(1.0) }
    }
}

/// Shapes on paper; later ones hide earlier ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    /// Width of the paper.
    pub width: f32,
    /// Height of the paper.
    pub height: f32,
    /// What is on it.
    pub shapes: Vec<Shape>,
}

impl Drawing {
    /// White paper.
    pub fn new(width: f32, height: f32) -> Drawing {
        Drawing { width, height, shapes: Vec::new() }
    }

    /// Fills a rectangle.
    pub fn rect(&mut self, area: Area, fill: Rgb) {
        self.shapes.push(Shape::Rect { area, fill, opacity: 1.0 });
    }

    /// Draws a line through points.
    pub fn line(&mut self, points: Vec<[f32; 2]>, colour: Rgb, width: f32) {
        self.shapes.push(Shape::Line { points, colour, width, dash: None });
    }

    /// Draws a dashed line through points.
    pub fn dashed(&mut self, points: Vec<[f32; 2]>, colour: Rgb, width: f32, dash: [f32; 2]) {
        self.shapes.push(Shape::Line { points, colour, width, dash: Some(dash) });
    }

    /// Draws the outline of a rectangle.
    pub fn frame(&mut self, Area { x, y, w, h }: Area, colour: Rgb, width: f32) {
        self.line(vec![[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]], colour, width);
    }

    /// Writes a line of text.
    pub fn text(&mut self, at: [f32; 2], size: f32, anchor: Anchor, colour: Rgb, text: impl Into<String>) {
        self.shapes.push(Shape::Text(Text { at, size, anchor, upwards: false, colour, text: text.into() }));
    }

    /// Writes a line of text that runs upwards.
    pub fn upwards(&mut self, at: [f32; 2], size: f32, anchor: Anchor, colour: Rgb, text: impl Into<String>) {
        self.shapes.push(Shape::Text(Text { at, size, anchor, upwards: true, colour, text: text.into() }));
    }
}

/// How far below the middle of a line of text its baseline is, for capitals and digits.
pub fn drop(size: f32) -> f32 {
    0.36 * size
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Paper with some text.
    pub fn letters(text: &str) -> Drawing {
        let mut drawing = Drawing::new(60.0, 20.0);
        drawing.text([2.0, 15.0], 12.0, Anchor::Start, [0; 3], text);
        drawing
    }

    #[test]
    fn strips_are_taken_off() {
        let area = Area { x: 1.0, y: 2.0, w: 10.0, h: 20.0 }.inset(1.0, 2.0, 3.0, 4.0);
        assert_eq!(area, Area { x: 2.0, y: 4.0, w: 6.0, h: 14.0 });
        assert!(area.inset(50.0, 0.0, 0.0, 50.0).w > 0.0);
    }
}
