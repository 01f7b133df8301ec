//! Heat maps: a table of cells in shades, with numbers where they fit.
//!
//! Read next: `bars.rs`.

use super::Pane;
use super::colour::{self, Map};
use super::drawing::{Anchor, Area, Drawing, drop};
use super::font::Fonts;
use super::lines::{LETTERS, SMALL, title};

/// Names longer than this are cut.
const LONGEST: f32 = 150.0;

/// A heat map.
#[derive(Debug, Clone)]
pub struct Heat {
    /// What is written above it; may be empty.
    pub title: String,
    /// What is written below it, and to its left.
    pub labels: [String; 2],
    /// Names of the columns, and of the rows.
    pub names: [Vec<String>; 2],
    /// The shade of each cell, 0 to 1, in rows.
    pub shades: Vec<Vec<f64>>,
    /// What is written in each cell, in rows; may be empty.
    pub texts: Vec<Vec<String>>,
    /// The colours.
    pub map: Map,
    /// A bar beside it that explains the shades: what they are, and marks (shade and text).
    pub bar: Option<(String, Vec<(f64, String)>)>,
}

/// How the parts of a heat map are laid out.
struct Layout {
    cell: f32,
    left: f32,
    top: f32,
    bottom: f32,
    right: f32,
    upright: bool,
}

impl Heat {
    fn layout(&self, fonts: &Fonts) -> Layout {
        let [columns, rows] = &self.names;
        let most = columns.len().max(rows.len()).max(1) as f32;
        let cell = (560.0 / most).clamp(9.0, 62.0);
        let widest = |names: &[String]| names.iter().map(|n| fonts.width(n, SMALL)).fold(0.0, f32::max).min(LONGEST);
        let upright = widest(columns) > cell - 6.0 && cell >= SMALL;
        let below = if upright { widest(columns) } else { SMALL };
        Layout {
            cell,
            left: widest(rows) + 14.0 + if self.labels[1].is_empty() { 0.0 } else { 24.0 },
            top: if self.title.is_empty() { 12.0 } else { 38.0 },
            bottom: below + 14.0 + if self.labels[0].is_empty() { 0.0 } else { 24.0 },
            right: if self.bar.is_some() { 110.0 } else { 16.0 },
            upright,
        }
    }

    /// Draws the bar that explains the shades.
    fn bar(&self, d: &mut Drawing, x: f32, y: f32, h: f32) {
        let Some((label, marks)) = &self.bar else { return };
        const STEPS: usize = 128;
        let step = h / STEPS as f32;
        for i in 0..STEPS {
            let shade = 1.0 - (i as f64 + 0.5) / STEPS as f64;
            // A little overlap, so that no seam shows.
            d.rect(Area { x, y: y + i as f32 * step, w: 16.0, h: if i + 1 < STEPS { step + 0.5 } else { step } }, self.map.at(shade));
        }
        d.frame(Area { x, y, w: 16.0, h }, colour::SOFT, 0.8);
        for (shade, text) in marks {
            let at = y + h * (1.0 - *shade as f32);
            d.line(vec![[x + 16.0, at], [x + 20.0, at]], colour::SOFT, 1.0);
            d.text([x + 24.0, at + drop(SMALL)], SMALL, Anchor::Start, colour::SOFT, text.clone());
        }
        d.upwards([x + 84.0, y + h / 2.0], LETTERS, Anchor::Middle, colour::INK, label.clone());
    }
}

impl Pane for Heat {
    fn size(&self, fonts: &Fonts) -> [f32; 2] {
        let Layout { cell, left, top, bottom, right, .. } = self.layout(fonts);
        let [columns, rows] = &self.names;
        [left + columns.len() as f32 * cell + right, top + rows.len() as f32 * cell + bottom]
    }

    fn draw(&self, d: &mut Drawing, area: Area, fonts: &Fonts) {
        let Layout { cell, left, top, bottom, upright, .. } = self.layout(fonts);
        let [columns, rows] = &self.names;
        let (x0, y0) = (area.x + left, area.y + top);
        let (w, h) = (columns.len() as f32 * cell, rows.len() as f32 * cell);
        // The largest letters that let every number fit.
        let widest = self.texts.iter().flatten().map(|t| fonts.width(t, 1.0)).fold(0.0, f32::max);
        let size = (0.32 * cell + 1.0).min((cell - 4.0) / widest.max(0.1)).min(16.0);
        for (r, shades) in self.shades.iter().enumerate() {
            for (c, &shade) in shades.iter().enumerate() {
                let fill = self.map.at(shade);
                let at = Area { x: x0 + c as f32 * cell, y: y0 + r as f32 * cell, w: cell, h: cell };
                d.rect(at, fill);
                if let Some(text) = self.texts.get(r).and_then(|row| row.get(c)).filter(|_| size >= 5.0) {
                    let middle = [at.x + cell / 2.0, at.y + cell / 2.0 + drop(size)];
                    d.text(middle, size, Anchor::Middle, colour::readable_on(fill), text.clone());
                }
            }
        }
        d.frame(Area { x: x0, y: y0, w, h }, colour::SOFT, 1.0);
        // Of many names only every so many has room.
        let every = (SMALL / cell).ceil().max(1.0) as usize;
        for (i, name) in rows.iter().enumerate().step_by(every) {
            let at = [x0 - 7.0, y0 + (i as f32 + 0.5) * cell + drop(SMALL)];
            d.text(at, SMALL, Anchor::End, colour::INK, fonts.fit(name, SMALL, LONGEST));
        }
        let every =
            if upright { 1 } else { (columns.iter().map(|n| fonts.width(n, SMALL) + 4.0).fold(1.0, f32::max) / cell).ceil() as usize };
        for (i, name) in columns.iter().enumerate().step_by(every.max(1)) {
            let (middle, name) = (x0 + (i as f32 + 0.5) * cell, fonts.fit(name, SMALL, LONGEST));
            if upright {
                d.upwards([middle + drop(SMALL), y0 + h + 7.0], SMALL, Anchor::End, colour::INK, name);
            } else {
                d.text([middle, y0 + h + 18.0], SMALL, Anchor::Middle, colour::INK, name);
            }
        }
        d.text([x0 + w / 2.0, y0 + h + bottom - 8.0], LETTERS, Anchor::Middle, colour::INK, self.labels[0].clone());
        d.upwards([area.x + 16.0, y0 + h / 2.0], LETTERS, Anchor::Middle, colour::INK, self.labels[1].clone());
        title(d, &self.title, area, x0 + w / 2.0, fonts);
        self.bar(d, x0 + w + 18.0, y0, h);
    }
}
