//! Bars that run to the right, one below the other: probabilities, counts.
//!
//! Read next: `grid.rs`.

use super::Pane;
use super::axes::Axis;
use super::colour::{self, Rgb};
use super::drawing::{Anchor, Area, Drawing, drop};
use super::font::Fonts;
use super::lines::{LETTERS, SMALL, title};

/// Names longer than this are cut.
const LONGEST: f32 = 160.0;

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What stands before it.
    pub name: String,
    /// Its length; what is negative or no number has none.
    pub value: f64,
    /// What stands behind it.
    pub text: String,
    /// Its colour.
    pub colour: Rgb,
}

/// A chart of bars.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What is written above it; may be empty.
    pub title: String,
    /// What the lengths are; may be empty.
    pub label: String,
    /// The bars, from the top.
    pub bars: Vec<Bar>,
    /// The length that fills the chart; by default that of the longest bar.
    pub full: Option<f64>,
    /// Width in 1/100 inch.
    pub width: f32,
}

impl Bars {
    /// An empty chart.
    pub fn new(title: impl Into<String>, label: impl Into<String>) -> Bars {
        Bars { title: title.into(), label: label.into(), bars: Vec::new(), full: None, width: 460.0 }
    }

    fn pitch(&self) -> f32 {
        (420.0 / self.bars.len().max(1) as f32).clamp(17.0, 30.0)
    }

    fn top(&self) -> f32 {
        if self.title.is_empty() { 12.0 } else { 34.0 }
    }

    fn bottom(&self) -> f32 {
        26.0 + if self.label.is_empty() { 0.0 } else { 24.0 }
    }
}

impl Pane for Bars {
    fn size(&self, _: &Fonts) -> [f32; 2] {
        [self.width, self.top() + self.bars.len().max(1) as f32 * self.pitch() + 8.0 + self.bottom()]
    }

    fn draw(&self, d: &mut Drawing, area: Area, fonts: &Fonts) {
        let widest = self.bars.iter().map(|b| fonts.width(&b.name, SMALL)).fold(0.0, f32::max);
        let left = widest.min(LONGEST) + 16.0;
        let Area { x, y, w, h } = area.inset(left, self.top(), 22.0, self.bottom());
        let length = |v: f64| if v.is_finite() { v.max(0.0) } else { 0.0 };
        let longest = self.bars.iter().map(|b| length(b.value)).fold(0.0, f64::max);
        let full = self.full.unwrap_or(longest);
        let full = if full > 0.0 && full.is_finite() { full } else { 1.0 };
        for (number, text) in Axis::default().fit([0.0, full].into_iter(), 0.0).ticks((w / 70.0) as usize) {
            let at = x + w * (number / full) as f32;
            d.dashed(vec![[at, y], [at, y + h]], colour::GRID, 1.0, [4.0, 3.0]);
            d.text([at, y + h + 19.0], SMALL, Anchor::Middle, colour::SOFT, text);
        }
        let pitch = (h - 8.0) / self.bars.len().max(1) as f32;
        for (i, bar) in self.bars.iter().enumerate() {
            let at = y + 4.0 + (i as f32 + 0.5) * pitch;
            let long = w * (length(bar.value) / full).min(1.0) as f32;
            d.rect(Area { x, y: at - 0.36 * pitch, w: long, h: 0.72 * pitch }, bar.colour);
            let name = fonts.fit(&bar.name, SMALL, LONGEST);
            d.text([x - 8.0, at + drop(SMALL)], SMALL, Anchor::End, colour::INK, name);
            // Behind the bar, or within one that leaves no room there.
            let (from, anchor, ink) = match long > 0.6 * w && long > fonts.width(&bar.text, SMALL) + 12.0 {
                true => (long - 6.0, Anchor::End, colour::readable_on(bar.colour)),
                false => (long + 6.0, Anchor::Start, colour::SOFT),
            };
            d.text([x + from, at + drop(SMALL)], SMALL, anchor, ink, bar.text.clone());
        }
        d.line(vec![[x, y], [x, y + h], [x + w, y + h]], colour::SOFT, 1.2);
        d.text([x + w / 2.0, y + h + 42.0], LETTERS, Anchor::Middle, colour::INK, self.label.clone());
        title(d, &self.title, area, x + w / 2.0, fonts);
    }
}
