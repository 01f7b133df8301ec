//! A drawing as SVG: one element a shape, text as text.
//!
//! Letters are left to the viewer's fonts, so that text can be searched and copied; numbers have two decimals. Read next: `raster.rs`.

use super::colour::Rgb;
use super::drawing::{Anchor, Drawing, Shape, Text};
use super::font::Fonts;
use crate::error::Result;
use std::fmt::Write;

/// The text of an SVG file.
pub fn text(drawing: &Drawing, fonts: &Fonts) -> Result<String> {
    let (w, h, families) = (number(drawing.width), number(drawing.height), escape(&fonts.families()));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" font-family=\"{families}\">\n\
         <rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n"
    );
    for shape in &drawing.shapes {
        svg += &element(shape)?;
        svg.push('\n');
    }
    svg += "</svg>\n";
    Ok(svg)
}

fn element(shape: &Shape) -> Result<String> {
    Ok(match shape {
        Shape::Rect { area, fill, opacity } => {
            let [x, y, w, h] = [area.x, area.y, area.w, area.h].map(number);
            let opacity = if *opacity < 1.0 { format!(" fill-opacity=\"{}\"", number(*opacity)) } else { String::new() };
            format!("<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{}\"{opacity}/>", hex(*fill))
        }
        Shape::Line { points, colour, width, dash } => {
            let points: Vec<String> = points.iter().map(|p| format!("{},{}", number(p[0]), number(p[1]))).collect();
            let dash = dash.map_or(String::new(), |d| format!(" stroke-dasharray=\"{},{}\"", number(d[0]), number(d[1])));
            format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linejoin=\"round\"{dash}/>",
                points.join(" "),
                hex(*colour),
                number(*width)
            )
        }
        Shape::Dot { at, radius, fill } => {
            let [x, y, r] = [at[0], at[1], *radius].map(number);
            format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{r}\" fill=\"{}\"/>", hex(*fill))
        }
        Shape::Text(Text { at, size, anchor, upwards, colour, text }) => {
            let [x, y, size] = [at[0], at[1], *size].map(number);
            let anchor = match anchor {
                Anchor::Start => "",
                Anchor::Middle => " text-anchor=\"middle\"",
                Anchor::End => " text-anchor=\"end\"",
            };
            let turn = if *upwards { format!(" transform=\"rotate(-90 {x} {y})\"") } else { String::new() };
            let (colour, text) = (hex(*colour), escape(text));
            format!("<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" fill=\"{colour}\"{anchor}{turn}>{text}</text>")
        }
        Shape::Picture { area, picture } => {
            let [x, y, w, h] = [area.x, area.y, area.w, area.h].map(number);
            let data = base64(&picture.png()?);
            format!(
                "<image x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" preserveAspectRatio=\"none\" style=\"image-rendering:pixelated\" \
                 href=\"data:image/png;base64,{data}\"/>"
            )
        }
    })
}

/// Two decimals, without zeros at the end.
fn number(x: f32) -> String {
    let text = format!("{x:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

fn hex([r, g, b]: Rgb) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// XML has no way to write most control characters, so they are left out, as they are when letters are set.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')) {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c => out.push(c),
        }
    }
    out
}

/// RFC 4648: every three bytes as four letters, the rest filled up with =.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let letter = char::from(LETTERS[(bits >> (18 - 6 * i) & 63) as usize]);
            let _ = out.write_char(if i <= three.len() { letter } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::drawing::Area;
    use super::super::picture::Picture;
    use super::*;

    #[test]
    fn every_shape_is_an_element() {
        let mut d = Drawing::new(100.0, 50.0);
        d.rect(Area { x: 1.0, y: 2.5, w: 3.0, h: 4.0 }, [255, 0, 16]);
        d.dashed(vec![[0.0, 0.0], [1.0 / 3.0, 2.0]], [0; 3], 1.5, [4.0, 3.0]);
        d.shapes.push(Shape::Dot { at: [5.0, 6.0], radius: 2.0, fill: [1, 2, 3] });
        d.upwards([7.0, 8.0], 12.0, Anchor::Middle, [0; 3], "a<b & \"c\"\u{1}");
        d.shapes.push(Shape::Picture { area: Area { x: 0.0, y: 0.0, w: 8.0, h: 8.0 }, picture: Picture::planes(1, 1, 1, &[9]) });
        let svg = text(&d, &Fonts::default()).unwrap();
        for part in [
            "<rect x=\"1\" y=\"2.5\" width=\"3\" height=\"4\" fill=\"#ff0010\"/>",
            "points=\"0,0 0.33,2\"",
            "stroke-dasharray=\"4,3\"",
            "<circle cx=\"5\" cy=\"6\" r=\"2\" fill=\"#010203\"/>",
            "text-anchor=\"middle\" transform=\"rotate(-90 7 8)\">a&lt;b &amp; &quot;c&quot;</text>",
            "href=\"data:image/png;base64,iVBORw0KGgo",
        ] {
            assert!(svg.contains(part), "{part} is not in\n{svg}");
        }
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    /// The examples of RFC 4648.
    #[test]
    fn base64_of_the_standard() {
        let known = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        known.iter().for_each(|(plain, coded)| assert_eq!(base64(plain.as_bytes()), *coded));
    }
}
