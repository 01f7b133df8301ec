//! Pictures of digits in many dresses, and broken ones.

use std::path::PathBuf;
use std::sync::OnceLock;

use image::{GrayAlphaImage, GrayImage, ImageFormat, Luma, LumaA, Rgb, RgbImage, imageops};
use proptest::prelude::*;

use super::*;
use crate::data::synthetic;

/// A generated digit, `[28][28]`.
fn digit(i: usize) -> GrayImage {
    GrayImage::from_raw(28, 28, synthetic(10, 0, 2).train.image(i).to_vec()).unwrap()
}

fn inverted(mut image: GrayImage) -> GrayImage {
    imageops::invert(&mut image);
    image
}

/// A digit eight times as large, on wide paper and not in its middle.
fn large(i: usize) -> GrayImage {
    let mut paper = GrayImage::new(400, 300);
    let ink = imageops::resize(&digit(i), 224, 224, imageops::FilterType::Triangle);
    imageops::replace(&mut paper, &ink, 150, 60);
    paper
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn saved(&self, image: impl Into<DynamicImage>, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        image.into().save(&path).unwrap();
        path
    }

    fn written(&self, bytes: &[u8], name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    read_digit(path, 28, 28, 1)
}

/// Mean difference of two images, in levels.
fn difference(a: &[u8], b: &[u8]) -> f32 {
    a.iter().zip(b).map(|(&a, &b)| f32::from(a.abs_diff(b))).sum::<f32>() / a.len() as f32
}

#[test]
fn mnist_shaped_pictures_pass_unchanged() {
    let folder = Folder::new();
    for i in 0..10 {
        let plain = digit(i).into_raw();
        assert_eq!(read(&folder.saved(digit(i), "a.png")).unwrap(), plain);
        let colour = DynamicImage::from(digit(i)).to_rgba8();
        assert_eq!(read_digit(&folder.saved(colour, "b.png"), 28, 28, 3).unwrap(), plain.repeat(3));
    }
}

#[test]
fn size_place_polarity_colour_and_format_do_not_matter() {
    let folder = Folder::new();
    for i in 0..10 {
        let white = read(&folder.saved(large(i), "white.png")).unwrap();
        // What MNIST's recipe makes of it is near the digit that it was drawn from.
        let best = difference(&white, &digit(i).into_raw());
        assert!(best < 20.0, "digit {i}: {best}");

        let black = read(&folder.saved(inverted(large(i)), "black.png")).unwrap();
        assert!(difference(&white, &black) < 1.0);
        let jpeg = read(&folder.saved(inverted(large(i)), "black.jpg")).unwrap();
        assert!(difference(&white, &jpeg) < 3.0);
        // Blue ink on yellowish paper.
        let plain = large(i);
        let tint = |v: u8| if v > 127 { Rgb([30, 30, 150]) } else { Rgb([200, 190, 150]) };
        let blue = RgbImage::from_fn(400, 300, |x, y| tint(plain.get_pixel(x, y).0[0]));
        assert!(difference(&white, &read(&folder.saved(blue, "blue.png")).unwrap()) < 25.0);
        // Black ink on nothing.
        let clear = GrayAlphaImage::from_fn(400, 300, |x, y| LumaA([0, plain.get_pixel(x, y).0[0]]));
        assert!(difference(&white, &read(&folder.saved(clear, "clear.png")).unwrap()) < 1.0);
    }
}

#[test]
fn the_ink_fills_twenty_pixels_around_its_centre_of_mass() {
    let folder = Folder::new();
    // An L of two bars: the centre of mass is not that of the box.
    let image = GrayImage::from_fn(200, 300, |x, y| {
        Luma([if (50..90).contains(&x) && (40..240).contains(&y) || (50..150).contains(&x) && (200..240).contains(&y) { 0 } else { 255 }])
    });
    let digit = read(&folder.saved(image, "l.png")).unwrap();
    let inked: Vec<(usize, usize)> = (0..784).filter(|&i| digit[i] > 127).map(|i| (i % 28, i / 28)).collect();
    let range = |of: fn(&(usize, usize)) -> usize| (inked.iter().map(of).min().unwrap(), inked.iter().map(of).max().unwrap());
    let (columns, rows) = (range(|p| p.0), range(|p| p.1));
    assert_eq!((columns.1 - columns.0 + 1, rows.1 - rows.0 + 1), (10, 20));
    // Mass: the upright 4x20 around column 2 and row 10, the foot 6x4 beyond it around column 7 and row 18.
    assert_eq!((columns.0, rows.0), (11, 2));
    assert!(digit.iter().all(|&v| v == 0 || v == 255));
}

#[test]
fn a_speck_and_a_bar_do_not_overflow() {
    let folder = Folder::new();
    for (name, image) in [
        ("speck.png", GrayImage::from_fn(50, 50, |x, y| Luma([if (x, y) == (1, 48) { 255 } else { 0 }]))),
        ("bar.png", GrayImage::from_fn(900, 3, |x, y| Luma([if (50..850).contains(&x) && y == 1 { 255 } else { 0 }]))),
    ] {
        let path = folder.saved(image, name);
        for (height, width) in [(28, 28), (32, 20), (1, 1), (64, 64)] {
            assert_eq!(read_digit(&path, height, width, 2).unwrap().len(), 2 * height * width);
        }
    }
}

#[test]
fn errors_are_clear() {
    let folder = Folder::new();
    let message = |path: &Path| read(path).unwrap_err().message;
    for (name, level) in [("white.png", 255), ("black.png", 0), ("grey.png", 120)] {
        assert!(message(&folder.saved(GrayImage::from_pixel(90, 60, Luma([level])), name)).contains("blank"));
    }
    assert!(message(&folder.saved(GrayImage::new(1, 1), "one.png")).contains("blank"));
    assert!(message(&folder.0.path().join("none.png")).contains("none.png: "));
    assert!(message(&folder.written(b"hello", "text.png")).contains("text.png: "));
    assert!(message(&folder.written(&[], "empty.png")).contains("empty.png: "));
    assert!(message(folder.0.path()).contains(&folder.0.path().display().to_string()));
}

#[test]
fn huge_dimensions_are_refused_before_memory_is_taken() {
    let folder = Folder::new();
    for size in [20_000u32, 0x7fff_ffff] {
        // A small PNG with the size in its header changed, and the header's checksum made right again.
        let mut png = encoded(ImageFormat::Png);
        png[16..20].copy_from_slice(&size.to_be_bytes());
        png[20..24].copy_from_slice(&size.to_be_bytes());
        let mut crc = flate2::Crc::new();
        crc.update(&png[12..29]);
        png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        let e = read(&folder.written(&png, "huge.png")).unwrap_err();
        assert_eq!(e.exit_code(), 4, "{}", e.message);
    }
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    inverted(large(5)).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A PNG and a JPEG.
fn pictures() -> &'static [Vec<u8>; 2] {
    static PICTURES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    PICTURES.get_or_init(|| [encoded(ImageFormat::Png), encoded(ImageFormat::Jpeg)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn broken_pictures_never_panic(which in 0usize..2, cut in 0.0..1.0, flips in prop::collection::vec((0.0..1.0, 0u8..8), 0..6)) {
        let mut bytes = pictures()[which].clone();
        for (at, bit) in flips {
            let at = (at * bytes.len() as f64) as usize;
            bytes[at] ^= 1 << bit;
        }
        let keep = if cut < 0.5 { bytes.len() } else { (bytes.len() as f64 * (cut - 0.5) * 2.0) as usize };
        let folder = Folder::new();
        if let Ok(digit) = read(&folder.written(&bytes[..keep], "broken")) {
            prop_assert_eq!(digit.len(), 784);
        }
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), start in 0usize..3) {
        let starts: [&[u8]; 3] = [&[], &[0x89, b'P', b'N', b'G', 13, 10, 26, 10], &[0xff, 0xd8, 0xff]];
        bytes.splice(0..0, starts[start].iter().copied());
        let folder = Folder::new();
        prop_assert!(read(&folder.written(&bytes, "random")).is_err());
    }
}
