//! The letters of figures: an embedded font, and one that a user may put before it.
//!
//! DejaVu Sans (`font/`, its licence beside it) has Latin, Greek and Cyrillic letters and the signs that figures need; other writing
//! needs a font file (`--font`). Letters are set one after the other: writing that joins or reorders letters comes out unjoined.
//! Read next: `svg.rs`, `raster.rs`.

use crate::error::{Error, Result};
use std::path::Path;
use ttf_parser::{Face, GlyphId, name_id};

const EMBEDDED: &[u8] = include_bytes!("font/DejaVuSans.ttf");

/// The fonts of a figure.
#[derive(Debug, Clone, Default)]
pub struct Fonts {
    own: Option<Vec<u8>>,
}

impl Fonts {
    /// The embedded font, and before it the font in a TrueType or OpenType file if one is given.
    pub fn open(path: Option<&Path>) -> Result<Fonts> {
        let Some(path) = path else { return Ok(Fonts::default()) };
        let hint = "give --font a TrueType or OpenType file (.ttf, .otf or .ttc), such as one of Noto's";
        let bytes = std::fs::read(path).map_err(|e| Error::usage(format!("cannot read the font {}: {e}", path.display())).hint(hint))?;
        Self::from_bytes(bytes).ok_or_else(|| Error::usage(format!("{}: not a font", path.display())).hint(hint))
    }

    /// The same from a file's bytes; none where they are no font with letters.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Fonts> {
        let usable = Face::parse(&bytes, 0).is_ok_and(|face| face.number_of_glyphs() > 1 && face.units_per_em() > 0);
        usable.then_some(Fonts { own: Some(bytes) })
    }

    fn faces(&self) -> impl Iterator<Item = Face<'_>> {
        self.own.as_deref().into_iter().chain([EMBEDDED]).filter_map(|bytes| Face::parse(bytes, 0).ok())
    }

    /// What CSS calls these fonts, for viewers of SVG that have them.
    pub fn families(&self) -> String {
        let own = self.own.as_deref().and_then(|bytes| Face::parse(bytes, 0).ok()).and_then(|face| {
            let names = face.names().into_iter().filter(|name| name.name_id == name_id::FAMILY);
            names.filter_map(|name| name.to_string()).find(|name| !name.is_empty() && !name.contains(['\'', '"', '\\', ',']))
        });
        own.map_or(String::new(), |own| format!("'{own}', ")) + "'DejaVu Sans', Verdana, sans-serif"
    }

    /// Gives each letter of a line: its font, its number there, how far from the start it stands, and pixels per unit of the font.
    /// Returns the width of the line.
    pub(super) fn set(&self, text: &str, size: f32, mut letter: impl FnMut(&Face, GlyphId, f32, f32)) -> f32 {
        let faces: Vec<Face> = self.faces().collect();
        let mut x = 0.0;
        for c in text.chars().filter(|c| !c.is_control()) {
            let found = faces.iter().find_map(|face| face.glyph_index(c).map(|glyph| (face, glyph)));
            // Glyph 0 is a font's sign for what it lacks.
            let Some((face, glyph)) = found.or(faces.last().map(|face| (face, GlyphId(0)))) else { continue };
            let scale = size / f32::from(face.units_per_em()).max(1.0);
            letter(face, glyph, x, scale);
            x += f32::from(face.glyph_hor_advance(glyph).unwrap_or(0)) * scale;
        }
        x
    }

    /// The width of a line of text.
    pub fn width(&self, text: &str, size: f32) -> f32 {
        self.set(text, size, |_, _, _, _| {})
    }

    /// A line cut with … so that it is no wider than `room`.
    pub fn fit(&self, text: &str, size: f32, room: f32) -> String {
        if self.width(text, size) <= room {
            return text.into();
        }
        let mut kept = text.to_string();
        while kept.pop().is_some() {
            let cut = format!("{}…", kept.trim_end());
            if self.width(&cut, size) <= room {
                return cut;
            }
        }
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_embedded_font_has_what_figures_need() {
        let face = Face::parse(EMBEDDED, 0).unwrap();
        for c in "AZaz09 äöüßéñçøåłőș ΑΩαωµ АЯая .,:;!?()[]{}<>|/\\'\"#%&*+-=_~@$^` –—…×·±→←↑↓−≤≥≠≈∞∂√∑⁰¹²³⁴⁵⁶⁷⁸⁹⁻".chars()
        {
            assert!(face.glyph_index(c).is_some(), "'{c}' is missing");
        }
        assert!(Fonts::default().families().starts_with("'DejaVu Sans'"));
    }

    #[test]
    fn widths_add_up() {
        let fonts = Fonts::default();
        let wide = fonts.width("mmmm", 10.0);
        assert!(wide > 2.0 * fonts.width("iiii", 10.0) && (fonts.width("mmmm", 20.0) - 2.0 * wide).abs() < 1e-3);
        assert_eq!(fonts.width("", 10.0), 0.0);
        // A letter that no font has still takes room.
        assert!(fonts.width("数", 10.0) > 3.0);
        assert_eq!(fonts.fit("short", 10.0, 100.0), "short");
        let cut = fonts.fit("a text that is much too long", 10.0, 60.0);
        assert!(cut.ends_with('…') && cut.starts_with("a text") && fonts.width(&cut, 10.0) <= 60.0, "{cut}");
        assert_eq!(fonts.fit("text", 10.0, 1.0), "");
    }

    #[test]
    fn an_own_font_comes_first() {
        let fonts = Fonts::from_bytes(EMBEDDED.to_vec()).unwrap();
        assert_eq!(fonts.families(), "'DejaVu Sans', 'DejaVu Sans', Verdana, sans-serif");
        assert_eq!(fonts.width("数a", 10.0), Fonts::default().width("数a", 10.0));
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text.ttf");
        std::fs::write(&text, "no font").unwrap();
        for path in [text, dir.path().join("none")] {
            let error = Fonts::open(Some(&path)).unwrap_err();
            assert!(error.message.contains(&path.display().to_string()) && error.hint.is_some(), "{error}");
        }
    }

    proptest! {
        /// Whatever a file holds, it is refused or can be set.
        #[test]
        fn damaged_fonts_do_not_panic(at in 0..EMBEDDED.len(), bytes in prop::collection::vec(any::<u8>(), 1..64), cut in 0..EMBEDDED.len()) {
            let mut font = EMBEDDED.to_vec();
            // Half of the damage in the head, where the tables are listed.
            let at = if at % 2 == 0 { at % 400 } else { at };
            let end = (at + bytes.len()).min(font.len());
            font[at..end].copy_from_slice(&bytes[..end - at]);
            for font in [font.clone(), font[..cut].to_vec(), bytes] {
                if let Some(fonts) = Fonts::from_bytes(font) {
                    let drawing = super::super::drawing::tests::letters("Añ 数 θ");
                    super::super::raster::pixels(&drawing, &fonts, 1.0).unwrap();
                    fonts.families();
                }
            }
        }
    }
}
