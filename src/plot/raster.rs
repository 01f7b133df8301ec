//! A drawing as pixels, for PNG files.
//!
//! Read next: `axes.rs`, then the charts.

use super::colour::Rgb;
use super::drawing::{Anchor, Drawing, Shape, Text};
use super::font::Fonts;
use super::picture::Picture;
use crate::error::{Error, Result};
use tiny_skia::{
    Color, FillRule, FilterQuality, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, PixmapPaint, Rect, Stroke, StrokeDash, Transform,
};
use ttf_parser::OutlineBuilder;

/// More pixels than this (a square of 10,000) are of no use, and take half a gigabyte.
const MOST: f32 = 1e8;

/// The drawing with `scale` pixels a unit; fewer where it is too large for that.
pub fn pixels(drawing: &Drawing, fonts: &Fonts, scale: f32) -> Result<Picture> {
    let scale = scale.min((MOST / (drawing.width * drawing.height)).sqrt());
    let [width, height] = [drawing.width, drawing.height].map(|side| (side * scale).round().max(1.0) as u32);
    let mut paper = Pixmap::new(width, height).ok_or_else(|| Error::run(format!("cannot draw a picture of {width}x{height} pixels")))?;
    paper.fill(Color::WHITE);
    for shape in &drawing.shapes {
        draw(&mut paper, shape, fonts, Transform::from_scale(scale, scale));
    }
    let rgb = paper.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
    Ok(Picture { width: width as usize, height: height as usize, rgb })
}

/// A shape without extent, or one that is not finite, leaves no mark.
fn draw(paper: &mut Pixmap, shape: &Shape, fonts: &Fonts, scale: Transform) {
    match shape {
        Shape::Rect { area, fill, opacity } => {
            let Some(rect) = Rect::from_xywh(area.x, area.y, area.w, area.h) else { return };
            paper.fill_rect(rect, &paint(*fill, *opacity), scale, None);
        }
        Shape::Line { points, colour, width, dash } => {
            let mut path = PathBuilder::new();
            for (i, [x, y]) in points.iter().enumerate() {
                if i == 0 { path.move_to(*x, *y) } else { path.line_to(*x, *y) }
            }
            let dash = dash.and_then(|d| StrokeDash::new(d.to_vec(), 0.0));
            let stroke = Stroke { width: *width, line_join: LineJoin::Round, line_cap: LineCap::Butt, dash, ..Stroke::default() };
            if let Some(path) = path.finish() {
                paper.stroke_path(&path, &paint(*colour, 1.0), &stroke, scale, None);
            }
        }
        Shape::Dot { at, radius, fill } => {
            if let Some(path) = PathBuilder::from_circle(at[0], at[1], *radius) {
                paper.fill_path(&path, &paint(*fill, 1.0), FillRule::Winding, scale, None);
            }
        }
        Shape::Text(text) => {
            if let Some(path) = outline(text, fonts) {
                let turned = if text.upwards { Transform::from_rotate_at(-90.0, text.at[0], text.at[1]) } else { Transform::identity() };
                paper.fill_path(&path, &paint(text.colour, 1.0), FillRule::Winding, scale.pre_concat(turned), None);
            }
        }
        Shape::Picture { area, picture } => {
            let (w, h) = (picture.width as u32, picture.height as u32);
            let Some(mut small) = Pixmap::new(w, h) else { return };
            for (to, from) in small.data_mut().chunks_exact_mut(4).zip(picture.rgb.chunks_exact(3)) {
                to.copy_from_slice(&[from[0], from[1], from[2], 255]);
            }
            let place = scale.pre_translate(area.x, area.y).pre_scale(area.w / w as f32, area.h / h as f32);
            let how = PixmapPaint { quality: FilterQuality::Nearest, ..PixmapPaint::default() };
            paper.draw_pixmap(0, 0, small.as_ref(), &how, place, None);
        }
    }
}

fn paint([r, g, b]: Rgb, opacity: f32) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color_rgba8(r, g, b, (255.0 * opacity.clamp(0.0, 1.0)).round() as u8);
    paint
}

/// The outlines of a line of letters.
fn outline(text: &Text, fonts: &Fonts) -> Option<Path> {
    let back = match text.anchor {
        Anchor::Start => 0.0,
        Anchor::Middle => 0.5,
        Anchor::End => 1.0,
    } * fonts.width(&text.text, text.size);
    let mut path = PathBuilder::new();
    fonts.set(&text.text, text.size, |face, glyph, x, scale| {
        face.outline_glyph(glyph, &mut Pen { path: &mut path, at: [text.at[0] - back + x, text.at[1]], scale });
    });
    path.finish()
}

/// Carries a glyph's outline, in units of its font with y upwards, to its place on the paper.
struct Pen<'a> {
    path: &'a mut PathBuilder,
    at: [f32; 2],
    scale: f32,
}

impl Pen<'_> {
    fn to(&self, x: f32, y: f32) -> (f32, f32) {
        (self.at[0] + x * self.scale, self.at[1] - y * self.scale)
    }
}

impl OutlineBuilder for Pen<'_> {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.to(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.to(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.to(x1, y1), self.to(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.to(x1, y1), self.to(x2, y2), self.to(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::super::drawing::{Area, tests::letters};
    use super::*;

    fn dark(picture: &Picture, x: std::ops::Range<usize>, y: std::ops::Range<usize>) -> usize {
        y.flat_map(|y| x.clone().map(move |x| (x, y))).filter(|&(x, y)| picture.pixel(x, y)[0] < 128).count()
    }

    #[test]
    fn rectangles_and_pictures_land_on_their_pixels() {
        let mut d = Drawing::new(10.0, 10.0);
        d.rect(Area { x: 1.0, y: 1.0, w: 2.0, h: 2.0 }, [0; 3]);
        d.shapes
            .push(Shape::Picture { area: Area { x: 5.0, y: 5.0, w: 4.0, h: 4.0 }, picture: Picture::planes(1, 2, 2, &[10, 20, 30, 40]) });
        let p = pixels(&d, &Fonts::default(), 2.0).unwrap();
        assert_eq!((p.width, p.height, dark(&p, 0..8, 0..8), dark(&p, 2..6, 2..6)), (20, 20, 16, 16));
        assert_eq!(
            [p.pixel(10, 10), p.pixel(13, 13), p.pixel(14, 10), p.pixel(13, 14), p.pixel(17, 17)].map(|p| p[0]),
            [10, 10, 20, 30, 40]
        );
        assert_eq!(p.pixel(18, 18), [255; 3]);
    }

    #[test]
    fn letters_leave_ink_where_they_are_anchored() {
        let fonts = Fonts::default();
        let p = pixels(&letters("H"), &fonts, 1.0).unwrap();
        let ink = dark(&p, 0..60, 0..20);
        assert!(ink > 10 && ink == dark(&p, 2..12, 5..16), "{ink}");
        assert_eq!(dark(&pixels(&letters(" "), &fonts, 1.0).unwrap(), 0..60, 0..20), 0);
    }

    #[test]
    fn odd_shapes_leave_no_mark_and_do_no_harm() {
        let mut d = Drawing::new(10.0, 10.0);
        d.rect(Area { x: f32::NAN, y: 1.0, w: 2.0, h: 2.0 }, [0; 3]);
        d.line(vec![[1.0, f32::INFINITY], [2.0, 2.0]], [0; 3], 1.0);
        d.line(Vec::new(), [0; 3], 1.0);
        d.shapes.push(Shape::Dot { at: [5.0, 5.0], radius: -1.0, fill: [0; 3] });
        d.shapes.push(Shape::Picture { area: Area { x: 0.0, y: 0.0, w: 0.0, h: 0.0 }, picture: Picture::planes(1, 0, 0, &[]) });
        let p = pixels(&d, &Fonts::default(), 1.0).unwrap();
        assert_eq!(dark(&p, 0..10, 0..10), 0);
    }

    #[test]
    fn huge_paper_is_drawn_coarser() {
        let p = pixels(&Drawing::new(40_000.0, 10.0), &Fonts::default(), 100.0).unwrap();
        assert!(p.width * p.height <= 101_000_000, "{}x{}", p.width, p.height);
    }
}
