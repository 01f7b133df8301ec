//! Shapes and colours.

use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use proptest::prelude::*;

use super::*;

fn saved(image: impl Into<DynamicImage>, name: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    image.into().save(&path).unwrap();
    (dir, path)
}

#[test]
fn a_picture_of_the_right_shape_is_not_touched() {
    let image = RgbImage::from_fn(5, 3, |x, y| Rgb([(x * 40) as u8, (y * 80) as u8, 7]));
    for name in ["a.png", "a.bmp"] {
        let (_dir, path) = saved(image.clone(), name);
        let read = read_picture(&path, [3, 3, 5]).unwrap();
        let plane = |c: usize| image.pixels().map(move |p| p.0[c]);
        assert!(read.iter().copied().eq((0..3).flat_map(plane)), "{name}");
        assert_eq!(own_shape(&path).unwrap(), [3, 3, 5]);
    }
    let grey = GrayImage::from_fn(5, 3, |x, y| Luma([(x * y * 17) as u8]));
    let (_dir, path) = saved(grey.clone(), "a.png");
    assert_eq!(read_picture(&path, [1, 3, 5]).unwrap(), *grey.as_raw());
    assert_eq!(read_picture(&path, [3, 3, 5]).unwrap(), grey.as_raw().repeat(3));
    assert_eq!(own_shape(&path).unwrap(), [1, 3, 5]);
}

/// Pillow: `Image.new("RGB", (1, 1), c).convert("L").getpixel((0, 0))`.
#[test]
fn grey_is_pillows() {
    for (colour, expected) in [([255, 0, 0], 76), ([0, 255, 0], 150), ([0, 0, 255], 29), ([10, 200, 77], 129), ([255, 255, 255], 255)] {
        assert_eq!(grey(colour), expected, "{colour:?}");
        let (_dir, path) = saved(RgbImage::from_pixel(2, 2, Rgb(colour)), "a.png");
        assert_eq!(read_picture(&path, [1, 2, 2]).unwrap(), [expected; 4]);
    }
    let (_dir, path) = saved(RgbaImage::from_pixel(1, 1, Rgba([9, 9, 9, 0])), "a.png");
    assert_eq!(read_picture(&path, [3, 1, 1]).unwrap(), [9; 3]);
}

#[test]
fn sizes_change_by_area() {
    let (_dir, path) = saved(GrayImage::from_fn(8, 8, |x, _| Luma([if x < 4 { 0 } else { 200 }])), "a.png");
    let read = read_picture(&path, [1, 2, 4]).unwrap();
    assert_eq!(read[..4], read[4..]);
    assert!(read[0] == 0 && read[3] == 200 && read[1] < 50 && read[2] > 150, "{read:?}");
    assert_eq!(read_picture(&path, [3, 16, 16]).unwrap().len(), 3 * 256);
    assert!(read_picture(&path.with_extension("none"), [1, 2, 2]).is_err());
}

#[test]
fn a_set_changes_its_shape() {
    let data = Dataset {
        name: "a".into(),
        images: (0..2 * 3 * 4).map(|i| i * 9).collect(),
        labels: vec![0, 1],
        channels: 3,
        height: 2,
        width: 2,
        classes: vec!["a".into(), "b".into()],
    };
    assert_eq!(data.reshaped([3, 2, 2]), data);
    let grey = data.reshaped([1, 2, 2]);
    assert_eq!((grey.channels, grey.image(1)[0]), (1, super::grey([108, 144, 180])));
    assert_eq!(grey.reshaped([3, 2, 2]).image(1)[4..8], *grey.image(1));
    let large = data.reshaped([3, 4, 6]);
    assert_eq!((large.image_len(), large.len(), &large.labels), (72, 2, &data.labels));
    large.check().unwrap();
}

#[test]
fn sizes_of_the_command_line() {
    assert_eq!(parse_size("32").unwrap(), [32, 32]);
    assert_eq!(parse_size("24x40").unwrap(), [24, 40]);
    for bad in ["", "0", "x", "3x", "x3", "0x3", "4097", "-1", "3x3x3", "99999999999999999999"] {
        assert_eq!(parse_size(bad).unwrap_err().exit_code(), 2, "{bad}");
    }
}

/// A picture as a PNG, a JPEG and a BMP file.
fn encoded() -> [Vec<u8>; 3] {
    let image = DynamicImage::from(RgbImage::from_fn(9, 7, |x, y| Rgb([(x * 25) as u8, (y * 30) as u8, 99])));
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp].map(|format| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    })
}

proptest! {
    #[test]
    fn broken_pictures_never_panic(which in 0usize..3, cut in 0.0..2.0, flips in prop::collection::vec((0.0..1.0, 0u8..8), 0..6)) {
        let mut bytes = encoded()[which].clone();
        for (at, bit) in flips {
            let at = (at * bytes.len() as f64) as usize;
            bytes[at] ^= 1 << bit;
        }
        bytes.truncate((cut * bytes.len() as f64) as usize);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broken");
        std::fs::write(&path, bytes).unwrap();
        if let Ok(read) = read_picture(&path, [3, 5, 6]) {
            prop_assert_eq!(read.len(), 90);
        }
        prop_assert!(own_shape(&path).is_err() || read_picture(&path, [1, 1, 1]).is_ok());
    }

    #[test]
    fn words_never_panic(text in "[0-9x:, a-z]{0,12}") {
        if let Ok([h, w]) = parse_size(&text) {
            prop_assert!((1..=LARGEST).contains(&h) && (1..=LARGEST).contains(&w));
        }
        let _ = text.parse::<crate::data::Source>();
    }
}
