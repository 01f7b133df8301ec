//! Line charts: several series over linear or logarithmic axes, on a dashed grid.
//!
//! Numbers that an axis cannot show (NaN; zero on a logarithmic one) are gaps. The legend stands where no line runs, else below.
//! Read next: `heat.rs`.

use super::Pane;
use super::axes::{Axis, Range};
use super::colour::{self, Rgb};
use super::drawing::{Anchor, Area, Drawing, Shape, drop};
use super::font::Fonts;

/// Size of letters.
pub(super) const LETTERS: f32 = 13.0;
/// Size of letters of ticks, legends, captions.
pub(super) const SMALL: f32 = 12.0;
/// Size of letters of a pane's title.
pub(super) const HEADING: f32 = 15.0;
/// Height of a line of a legend.
const ENTRY: f32 = 18.0;
/// Width of the line before a name in a legend, with its gaps.
const SAMPLE: f32 = 36.0;

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Series {
    /// What the legend calls it; without a name it is not there.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// Its colour; by default the next of [`colour::SERIES`].
    pub colour: Option<Rgb>,
    /// Dashed instead of solid.
    pub dashed: bool,
    /// A dot on each point.
    pub markers: bool,
}

impl Series {
    /// A solid line, with dots where the points are few.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        let markers = points.len() <= 30;
        Series { name: name.into(), points, colour: None, dashed: false, markers }
    }

    /// The line dashed.
    pub fn dashed(self) -> Series {
        Series { dashed: true, ..self }
    }

    /// The line in a colour of one's own.
    pub fn colour(self, colour: Rgb) -> Series {
        Series { colour: Some(colour), ..self }
    }

    /// The line without dots.
    pub fn plain(self) -> Series {
        Series { markers: false, ..self }
    }
}

/// A line chart.
#[derive(Debug, Clone)]
pub struct Lines {
    /// What is written above it; may be empty.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// Its lines.
    pub series: Vec<Series>,
    /// Width and height, in 1/100 inch.
    pub size: [f32; 2],
}

impl Lines {
    /// An empty chart.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Lines {
        Lines { title: title.into(), x, y, series: Vec::new(), size: [640.0, 420.0] }
    }

    /// The chart with one more line.
    pub fn with(mut self, series: Series) -> Lines {
        self.series.push(series);
        self
    }

    /// The chart in another size.
    pub fn size(self, width: f32, height: f32) -> Lines {
        Lines { size: [width, height], ..self }
    }

    fn colour(&self, i: usize) -> Rgb {
        self.series[i].colour.unwrap_or(colour::SERIES[i % colour::SERIES.len()])
    }

    /// After all colours have been used, dashes tell series apart.
    fn dash(&self, i: usize) -> Option<[f32; 2]> {
        let again = self.series[i].colour.is_none() && i / colour::SERIES.len() % 2 == 1;
        (self.series[i].dashed != again).then_some([6.0, 4.0])
    }

    /// The points of a series on paper, in pieces between gaps.
    fn pieces(&self, series: &Series, on: &On) -> Vec<Vec<[f32; 2]>> {
        let shown = |&(x, y): &(f64, f64)| self.x.shows(x) && self.y.shows(y);
        let pieces = series.points.split(|p| !shown(p)).filter(|piece| !piece.is_empty());
        pieces.map(|piece| piece.iter().map(|&(x, y)| on.at(x, y)).collect()).collect()
    }

    /// The names in the legend: number of the series and text.
    fn entries(&self, fonts: &Fonts, room: f32) -> Vec<(usize, String)> {
        let named = self.series.iter().enumerate().filter(|(_, s)| !s.name.is_empty());
        named.map(|(i, s)| (i, fonts.fit(&s.name, SMALL, room))).collect()
    }

    /// A place for a legend of this size in the plot where no line runs.
    fn free(&self, on: &On, [w, h]: [f32; 2]) -> Option<[f32; 2]> {
        let Area { x, y, w: room, h: depth } = on.area;
        if w > 0.6 * room || h > 0.6 * depth {
            return None;
        }
        let lines: Vec<Vec<[f32; 2]>> = self.series.iter().flat_map(|s| self.pieces(s, on)).collect();
        let (right, bottom) = (x + room - w - 10.0, y + depth - h - 10.0);
        let (left, top, middle) = (x + 10.0, y + 10.0, y + (depth - h) / 2.0);
        let places = [[right, top], [left, top], [right, bottom], [left, bottom], [right, middle], [left, middle]];
        places.into_iter().find(|[x, y]| {
            let near = |p: [f32; 2]| (x - 6.0..x + w + 6.0).contains(&p[0]) && (y - 6.0..y + h + 6.0).contains(&p[1]);
            let crossed = |a: [f32; 2], b: [f32; 2]| {
                let steps = ((b[0] - a[0]).abs().max((b[1] - a[1]).abs()) / 4.0).ceil().max(1.0);
                (0..=steps as usize).any(|i| {
                    let part = i as f32 / steps;
                    near([a[0] + part * (b[0] - a[0]), a[1] + part * (b[1] - a[1])])
                })
            };
            !lines.iter().any(|line| line.first().is_some_and(|&p| near(p)) || line.windows(2).any(|w| crossed(w[0], w[1])))
        })
    }

    fn entry(&self, d: &mut Drawing, [x, y]: [f32; 2], (i, name): &(usize, String)) {
        let line = vec![[x, y], [x + 26.0, y]];
        d.shapes.push(Shape::Line { points: line, colour: self.colour(*i), width: 2.0, dash: self.dash(*i) });
        if self.series[*i].markers {
            d.shapes.push(Shape::Dot { at: [x + 13.0, y], radius: 3.2, fill: self.colour(*i) });
        }
        d.text([x + SAMPLE - 4.0, y + drop(SMALL)], SMALL, Anchor::Start, colour::INK, name.clone());
    }
}

/// How many ticks an axis of this height has at most.
fn ticks(height: f32) -> usize {
    (height / 50.0) as usize
}

/// The part of the paper between the axes.
struct On {
    area: Area,
    x: Range,
    y: Range,
}

impl On {
    fn at(&self, x: f64, y: f64) -> [f32; 2] {
        let Area { x: left, y: top, w, h } = self.area;
        [left + w * self.x.place(x) as f32, top + h * (1.0 - self.y.place(y) as f32)]
    }
}

impl Pane for Lines {
    fn size(&self, _: &Fonts) -> [f32; 2] {
        self.size
    }

    fn draw(&self, d: &mut Drawing, area: Area, fonts: &Fonts) {
        let points = || self.series.iter().flat_map(|s| &s.points).filter(|p| self.x.shows(p.0) && self.y.shows(p.1));
        let x = self.x.fit(points().map(|p| p.0), 0.02);
        let y = self.y.fit(points().map(|p| p.1), 0.05);
        // The lower the plot, the fewer ticks it has, and those may have more digits.
        let left = |height: f32| {
            let widest = y.ticks(ticks(height)).iter().map(|(_, text)| fonts.width(text, SMALL)).fold(0.0, f32::max);
            widest + 14.0 + if self.y.label.is_empty() { 0.0 } else { 30.0 }
        };
        let top = if self.title.is_empty() { 12.0 } else { 34.0 };
        let bottom = 26.0 + if self.x.label.is_empty() { 0.0 } else { 24.0 };

        let entries = self.entries(fonts, 0.75 * area.w);
        let wide = entries.iter().map(|(_, name)| fonts.width(name, SMALL)).fold(0.0, f32::max) + SAMPLE;
        let legend = [wide + 14.0, entries.len() as f32 * ENTRY + 10.0];
        let mut on = On { area: area.inset(left(area.h - top - bottom), top, 20.0, bottom), x, y };
        let inside = if entries.is_empty() { Some([0.0; 2]) } else { self.free(&on, legend) };
        let columns = (((on.area.w + 14.0) / (wide + 14.0)) as usize).clamp(1, entries.len().max(1));
        if inside.is_none() {
            let below = (entries.len().div_ceil(columns) as f32 * ENTRY + 6.0).min(0.6 * area.h);
            on.area = area.inset(left(area.h - top - bottom - below), top, 20.0, bottom + below);
        }

        let Area { x: x0, y: y0, w, h } = on.area;
        for (number, text) in on.y.ticks(ticks(on.area.h)) {
            let [_, at] = on.at(1.0, number);
            d.dashed(vec![[x0, at], [x0 + w, at]], colour::GRID, 1.0, [4.0, 3.0]);
            d.text([x0 - 8.0, at + drop(SMALL)], SMALL, Anchor::End, colour::SOFT, text);
        }
        for (number, text) in on.x.ticks((on.area.w / 80.0) as usize) {
            let [at, _] = on.at(number, 1.0);
            d.dashed(vec![[at, y0], [at, y0 + h]], colour::GRID, 1.0, [4.0, 3.0]);
            d.line(vec![[at, y0 + h], [at, y0 + h + 4.0]], colour::SOFT, 1.0);
            d.text([at, y0 + h + 19.0], SMALL, Anchor::Middle, colour::SOFT, text);
        }
        d.line(vec![[x0, y0], [x0, y0 + h], [x0 + w, y0 + h]], colour::SOFT, 1.2);
        d.text([x0 + w / 2.0, y0 + h + 42.0], LETTERS, Anchor::Middle, colour::INK, self.x.label.clone());
        d.upwards([area.x + 16.0, y0 + h / 2.0], LETTERS, Anchor::Middle, colour::INK, self.y.label.clone());
        title(d, &self.title, area, x0 + w / 2.0, fonts);

        for (i, series) in self.series.iter().enumerate() {
            for piece in self.pieces(series, &on) {
                if series.markers || piece.len() == 1 {
                    let dots = piece.iter().map(|&at| Shape::Dot { at, radius: 3.2, fill: self.colour(i) });
                    d.shapes.extend(dots);
                }
                d.shapes.push(Shape::Line { points: piece, colour: self.colour(i), width: 2.0, dash: self.dash(i) });
            }
        }
        if points().next().is_none() {
            d.text([x0 + w / 2.0, y0 + h / 2.0], LETTERS, Anchor::Middle, colour::SOFT, "nothing to show");
        }
        match inside {
            Some([x, y]) if !entries.is_empty() => {
                let box_ = Area { x, y, w: legend[0], h: legend[1] };
                d.rect(box_, colour::PAPER);
                d.frame(box_, colour::GRID, 1.0);
                for (row, entry) in entries.iter().enumerate() {
                    self.entry(d, [x + 8.0, y + 5.0 + ENTRY * (row as f32 + 0.5)], entry);
                }
            }
            Some(_) => {}
            None => {
                let rows = entries.len().div_ceil(columns);
                let down = y0 + h + bottom + 6.0;
                for (i, entry) in entries.iter().enumerate() {
                    let (column, row) = (i / rows, i % rows);
                    self.entry(d, [x0 + column as f32 * (wide + 14.0), down + ENTRY * (row as f32 + 0.5)], entry);
                }
            }
        }
    }
}

/// Writes a pane's title above it, around `middle` where there is room, cut where it is too long.
pub(super) fn title(d: &mut Drawing, text: &str, area: Area, middle: f32, fonts: &Fonts) {
    let text = fonts.fit(text, HEADING, area.w - 8.0);
    let half = fonts.width(&text, HEADING) / 2.0;
    let middle = middle.min(area.x + area.w - 4.0 - half).max(area.x + 4.0 + half);
    d.text([middle, area.y + 20.0], HEADING, Anchor::Middle, colour::INK, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: Vec<Series>) -> Drawing {
        let mut lines = Lines::new("title", Axis::new("x"), Axis::new("y"));
        lines.series = series;
        let mut d = Drawing::new(640.0, 420.0);
        lines.draw(&mut d, Area { x: 0.0, y: 0.0, w: 640.0, h: 420.0 }, &Fonts::default());
        d
    }

    /// Lines of the data, which are the only ones that are 2 units thick and not in the legend.
    fn drawn(d: &Drawing, colour: Rgb) -> Vec<Vec<[f32; 2]>> {
        let wanted = |s: &Shape| match s {
            Shape::Line { points, colour: c, width, .. } if *c == colour && *width == 2.0 => Some(points.clone()),
            _ => None,
        };
        d.shapes.iter().filter_map(wanted).collect()
    }

    #[test]
    fn higher_numbers_are_higher_up() {
        let d = chart(vec![Series::new("", vec![(0.0, 0.0), (1.0, 1.0), (2.0, 0.5)])]);
        let line = &drawn(&d, colour::SERIES[0])[0];
        assert!(line[1][1] < line[2][1] && line[2][1] < line[0][1] && line[0][0] < line[1][0]);
        assert!(line.iter().all(|p| (0.0..640.0).contains(&p[0]) && (0.0..420.0).contains(&p[1])));
    }

    /// Where ticks are few their numbers may have more digits: 95, 97.5, 100.
    #[test]
    fn ticks_keep_clear_of_the_axis_label() {
        let fonts = Fonts::default();
        for height in (200..600).step_by(7).map(|h| h as f32) {
            for (low, high) in [(94.1, 99.2), (0.012, 0.46), (3.0, 1e4), (0.0, 1.0)] {
                let mut lines = Lines::new("title", Axis::new("x"), Axis::new("y"));
                // The second time with a legend that has no room but below.
                for names in [["", ""], ["a name that is long enough to find no room beside lines", "and another one"]] {
                    lines.series = names.map(|name| Series::new(name, vec![(0.0, low), (1.0, high), (2.0, low), (3.0, high)])).into();
                    let mut d = Drawing::new(480.0, height);
                    lines.draw(&mut d, Area { x: 0.0, y: 0.0, w: 480.0, h: height }, &fonts);
                    for shape in &d.shapes {
                        if let Shape::Text(t) = shape
                            && t.anchor == Anchor::End
                        {
                            let left = t.at[0] - fonts.width(&t.text, t.size);
                            assert!(left >= 35.9, "{} at {left} for a height of {height}", t.text);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_shown_is_a_gap() {
        let d = chart(vec![Series::new("", vec![(0.0, 0.0), (1.0, f64::NAN), (2.0, 0.5), (3.0, 1.0), (4.0, f64::INFINITY)])]);
        assert_eq!(drawn(&d, colour::SERIES[0]).iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
        let texts = |d: &Drawing| d.shapes.iter().filter(|s| matches!(s, Shape::Text(t) if t.text == "nothing to show")).count();
        assert_eq!((texts(&d), texts(&chart(vec![])), texts(&chart(vec![Series::new("a", vec![(f64::NAN, 1.0)])]))), (0, 1, 1));
    }

    #[test]
    fn the_legend_covers_no_line() {
        // Lines in the upper right corner, then everywhere.
        let corner = vec![Series::new("one", vec![(0.0, 0.0), (1.0, 1.0)]), Series::new("two", vec![(0.0, 0.1), (1.0, 0.9)])];
        let dense = |k: f64| Series::new(format!("s{k}"), (0..400).map(|i| (f64::from(i), (f64::from(i) * k).sin())).collect());
        for series in [corner, vec![dense(0.7), dense(0.9)]] {
            let n = series.len();
            let d = chart(series);
            let legend: Vec<Area> =
                d.shapes.iter().filter_map(|s| if let Shape::Rect { area, .. } = s { Some(*area) } else { None }).collect();
            for i in 0..n {
                // The last line of each colour is the legend's own.
                let lines = drawn(&d, colour::SERIES[i]);
                for p in lines[..lines.len() - 1].iter().flatten() {
                    let hit = legend.iter().any(|a| (a.x..a.x + a.w).contains(&p[0]) && (a.y..a.y + a.h).contains(&p[1]));
                    assert!(!hit, "{p:?} is under {legend:?}");
                }
            }
        }
    }
}
