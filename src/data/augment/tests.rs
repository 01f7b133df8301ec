//! What the words mean, what is drawn, and pictures sampled by the formulas of these pages in f64.

use super::draw::Drawn;
use super::*;
use crate::data::{Dataset, Loader, Normalization};
use crate::device::Device;
use crate::tensor::{DType, Tensor};
use proptest::prelude::*;

const NONE: Augment =
    Augment { shift: 0, flip: false, rotate: 0.0, translate: 0.0, scale: 0.0, shear: 0.0, elastic: [0.0; 2], erase: 0.0, sharpen: 0.0 };

#[test]
fn words_of_the_command_line() {
    for (text, expected) in [
        ("none", NONE),
        ("shift:2", Augment { shift: 2, ..NONE }),
        ("flip", Augment { flip: true, ..NONE }),
        ("shift:3,flip", Augment { shift: 3, flip: true, ..NONE }),
        ("rotate:15", Augment { rotate: 15.0, ..NONE }),
        ("rotate:10,translate:0.07,scale:0.1", Augment { rotate: 10.0, translate: 0.07, scale: 0.1, ..NONE }),
        ("shear:10,erase:0.5,sharpen:1.5", Augment { shear: 10.0, erase: 0.5, sharpen: 1.5, ..NONE }),
        ("shift:1,elastic:34:4", Augment { shift: 1, elastic: [34.0, 4.0], ..NONE }),
    ] {
        let augment: Augment = text.parse().unwrap();
        assert_eq!((augment, augment.to_string()), (expected, text.to_string()));
    }
    let same = |a: &str, b: &str| assert_eq!(a.parse::<Augment>().unwrap(), b.parse().unwrap(), "{a} {b}");
    same("crop:4", "shift:4");
    same(" scale:0.1, flip ,shift:2", "shift:2,flip,scale:0.1");
}

#[test]
fn what_cannot_be_asked_for() {
    for (bad, says) in [
        ("", "there is no augmentation ''"),
        ("shift", "takes 1 numbers behind colons, not 0"),
        ("shift:0", "pixels must be a whole number from 1 to 14, not '0'"),
        ("shift:15", "1 to 14"),
        ("crop:x", "1 to 14, not 'x'"),
        ("flip,flip", "flip stands twice in 'flip,flip'"),
        ("flip:2", "takes 0 numbers"),
        ("none,flip", "there is no augmentation 'none'"),
        ("crop:1,shift:2", "shift stands twice"),
        ("rotate:200", "degrees must be a number from 0.01 to 180, not '200'"),
        ("rotate:-3", "degrees"),
        ("translate:nan", "the share must be a number from 0.001 to 1, not 'nan'"),
        ("scale:1", "from 0.001 to 0.9"),
        ("elastic:34", "takes 2 numbers behind colons, not 1"),
        ("elastic:34:0.5", "sigma must be a number from 1 to 100, not '0.5'"),
        ("erase:1.1", "the probability"),
        ("sharpen:inf", "the amount"),
        ("rotate:1:2", "takes 1 numbers behind colons, not 2"),
        ("blur:3", "there is no augmentation 'blur:3'"),
    ] {
        let e = bad.parse::<Augment>().unwrap_err();
        assert_eq!(e.exit_code(), 2, "{bad}");
        assert!(e.message.contains(says), "{bad}: {e}");
        assert!(e.hint.unwrap().contains("elastic:ALPHA:SIGMA"), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[a-z]{0,9}(:[0-9.e-]{0,6}){0,3}(,(rotate|scale|elastic|crop)(:[0-9.]{0,4}){0,3}){0,2}") {
        if let Ok(augment) = text.parse::<Augment>() {
            prop_assert_eq!(augment.to_string().parse::<Augment>().unwrap(), augment);
        }
    }
}

#[test]
fn pictures_are_moved_everywhere_and_half_are_mirrored() {
    let augment = Augment { shift: 2, flip: true, ..NONE };
    let all: Vec<Move> = (0..2000).map(|i| augment.draw(7, 3, i)).collect();
    let flipped = all.iter().filter(|m| m.flipped).count();
    assert!((900..1100).contains(&flipped), "{flipped}");
    for (dy, dx) in (-2..=2).flat_map(|dy| (-2..=2).map(move |dx| (dy, dx))) {
        let count = all.iter().filter(|m| m.by == [dy, dx]).count();
        assert!((40..120).contains(&count), "({dy}, {dx}): {count}");
    }
    assert_ne!(all[0..50], (0..50).map(|i| augment.draw(7, 4, i)).collect::<Vec<_>>());
}

#[test]
fn what_comes_from_outside_is_nothing() {
    let m = Move { by: [1, -2], flipped: true };
    assert_eq!(m.source(0, 0, 3, 4), Some((1, 1)));
    assert_eq!(m.source(2, 0, 3, 4), None);
    assert_eq!(m.source(0, 2, 3, 4), None);
}

fn drawn(augment: Augment, size: [usize; 2]) -> impl Iterator<Item = Drawn> {
    let ranges = augment.ranges(size);
    (0..4000).map(move |i| augment.sampled(&ranges, size, 5, 1 << 33 | 7, i))
}

/// Least, mean and greatest.
fn spread(values: impl Iterator<Item = f32>) -> [f64; 3] {
    let all: Vec<f64> = values.map(f64::from).collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    [all.iter().copied().fold(f64::INFINITY, f64::min), mean, all.iter().copied().fold(f64::NEG_INFINITY, f64::max)]
}

fn near(got: [f64; 3], expected: [f64; 3], within: f64) {
    assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() <= within), "{got:?}, not {expected:?}");
}

#[test]
fn every_amount_is_uniform_in_its_range() {
    let size = [28, 20];
    let degrees = |d: Drawn| (-d.y[2]).atan2(d.y[1]).to_degrees();
    for most in [15.0, 180.0] {
        let turned = drawn(Augment { rotate: most, ..NONE }, size).map(degrees);
        near(spread(turned), [-f64::from(most), 0.0, f64::from(most)], 0.03 * f64::from(most));
    }
    let scale = Augment { scale: 0.1, ..NONE };
    near(spread(drawn(scale, size).map(|d| 1.0 / d.y[1])), [0.9, 1.0, 1.1], 3e-3);
    // Nothing but the size changes, and the middle stays where it is.
    for d in drawn(scale, size) {
        assert_eq!((d.y[2], d.x[1], d.x[2]), (0.0, 0.0, d.y[1]));
        assert!((d.y[0] + d.y[1] * 13.5 - 13.5).abs() < 1e-5 && (d.x[0] + d.x[2] * 9.5 - 9.5).abs() < 1e-5);
    }
    let moved = || drawn(Augment { translate: 0.1, ..NONE }, size);
    near(spread(moved().map(|d| d.y[0])), [-2.8, 0.0, 2.8], 0.08);
    near(spread(moved().map(|d| d.x[0])), [-2.0, 0.0, 2.0], 0.08);
    assert!(moved().all(|d| (d.y[1], d.y[2], d.x[1], d.x[2]) == (1.0, 0.0, 0.0, 1.0)));
    let leaning = drawn(Augment { shear: 10.0, ..NONE }, size).map(|d| d.x[1].atan().to_degrees());
    near(spread(leaning), [-10.0, 0.0, 10.0], 0.2);
    near(spread(drawn(Augment { sharpen: 2.0, ..NONE }, size).map(|d| d.sharpen * 13.0)), [0.0, 1.0, 2.0], 0.05);
}

/// Turned and sheared, areas stay as they are; all together, they are divided by the square of the factor.
#[test]
fn areas_change_with_the_size_alone() {
    for d in drawn(Augment { rotate: 90.0, shear: 30.0, translate: 0.3, flip: true, shift: 3, ..NONE }, [9, 9]) {
        assert!(((d.y[1] * d.x[2] - d.y[2] * d.x[1]).abs() - 1.0).abs() < 1e-5, "{d:?}");
    }
}

#[test]
fn rectangles_are_erased_as_often_and_as_large_as_asked_for() {
    let all: Vec<Drawn> = drawn(Augment { erase: 0.4, ..NONE }, [28, 20]).collect();
    let erased: Vec<[usize; 2]> = all.iter().map(|d| [d.to[0] - d.from[0], d.to[1] - d.from[1]]).filter(|[h, w]| h * w > 0).collect();
    assert!((1500..1700).contains(&erased.len()), "{}", erased.len());
    let share = erased.iter().map(|[h, w]| (h * w) as f64 / 560.0).sum::<f64>() / erased.len() as f64;
    // A mean of 0.21; little of it is cut off.
    assert!((0.19..0.23).contains(&share), "{share}");
    assert!(all.iter().all(|d| d.from[0] <= d.to[0] && d.to[0] <= 28 && d.from[1] <= d.to[1] && d.to[1] <= 20));
    for edge in [0, 19] {
        assert!(all.iter().any(|d| d.from[1] <= edge && d.to[1] > edge), "column {edge} is never erased");
    }
    assert_eq!(drawn(Augment { erase: 1.0, ..NONE }, [3, 2]).filter(|d| d.to[0] == d.from[0]).count(), 0);
}

/// Pictures of noise.
fn pictures(channels: usize, height: usize, width: usize) -> Dataset {
    let n = 40;
    let words = |i: usize| Philox::new(1).word(2, i as u64) as u8;
    Dataset {
        name: "noise".into(),
        images: (0..n * channels * height * width).map(words).collect(),
        labels: vec![0; n],
        channels,
        height,
        width,
        classes: vec!["noise".into()],
    }
}

/// Learned from with levels as they are.
fn levels(data: &Dataset, input: [usize; 3], augment: &str) -> Tensor {
    let norm = Normalization { mean: vec![0.0; 3], std: vec![1.0 / 255.0; 3] };
    let numbers: Vec<u32> = (0..33).collect();
    let loader = Loader::new(data, &norm, input, DType::F64, Device::Cpu).unwrap();
    loader.batch_to_learn(&numbers, augment.parse().unwrap(), 9, 4).0
}

/// By whole pixels only, sampling gives what moving bytes gives; where it is as good as nothing, the pictures themselves.
#[test]
fn sampling_at_whole_pixels_is_exact() {
    for (channels, input) in [(1, [1, 9, 7]), (1, [3, 12, 8]), (3, [3, 9, 7])] {
        let data = pictures(channels, 9, 7);
        for moves in ["shift:2", "shift:3,flip"] {
            let (bytes, sampled) = (levels(&data, input, moves).values(), levels(&data, input, &format!("{moves},erase:0.001")).values());
            let off = bytes.iter().zip(&sampled).filter(|(a, b)| (*a - *b).abs() > 1e-4).count();
            assert_eq!(off, 0, "{moves} of {} as {input:?}", data.channels);
        }
    }
}

/// One pixel by the formulas, in f64.
fn expected(data: &Dataset, image: usize, channel: usize, at: [usize; 2], d: &Drawn, e: [f64; 2]) -> f64 {
    let [h, w] = [data.height, data.width].map(|size| size as isize);
    let plane = &data.image(image)[channel * data.height * data.width..];
    let inside = |r: isize, c: isize| (0..h).contains(&r) && (0..w).contains(&c);
    let pixel = |r: isize, c: isize| if inside(r, c) { f64::from(plane[(r * w + c) as usize]) } else { 0.0 };
    let level = |r: isize, c: isize| {
        let around: f64 = (-1..2).flat_map(|i| (-1..2).map(move |j| (i, j))).map(|(i, j)| pixel(r + i, c + j)).sum();
        let mean = (around + 4.0 * pixel(r, c)) / 13.0;
        let sharp = pixel(r, c) + 13.0 * f64::from(d.sharpen) * (pixel(r, c) - mean);
        if inside(r, c) { sharp.clamp(0.0, 255.0) } else { 0.0 }
    };
    if (0..2).all(|i| (d.from[i]..d.to[i]).contains(&at[i])) {
        return 0.0;
    }
    let (v, u) = (at[0] as f64 + e[0], at[1] as f64 + e[1]);
    let place = |m: [f32; 3]| f64::from(m[0]) + f64::from(m[1]) * v + f64::from(m[2]) * u;
    let (y, x) = (place(d.y), place(d.x));
    let (r, c) = (y.floor() as isize, x.floor() as isize);
    let (fy, fx) = (y - y.floor(), x - x.floor());
    let (a, b) = ((1.0 - fy) * level(r, c) + fy * level(r + 1, c), (1.0 - fy) * level(r, c + 1) + fy * level(r + 1, c + 1));
    (1.0 - fx) * a + fx * b
}

#[test]
fn pictures_are_what_the_formulas_say() {
    for (channels, height, width, input) in [(1, 28, 28, [1, 28, 28]), (3, 9, 7, [3, 11, 9]), (1, 1, 1, [1, 3, 3])] {
        let data = pictures(channels, height, width);
        for text in [
            "rotate:30",
            "translate:0.3,flip",
            "shear:20,scale:0.5,shift:2",
            "sharpen:3",
            "elastic:40:3",
            "elastic:9:1,rotate:180,erase:0.5",
        ] {
            let augment: Augment = text.parse().unwrap();
            let x = levels(&data, input, text).values();
            let size = [height, width];
            let ranges = augment.ranges(size);
            let [c, h, w] = input;
            let (top, left) = ((h - height) / 2, (w - width) / 2);
            for i in [0, 15, 16, 32] {
                let d = augment.sampled(&ranges, size, 9, 4, i);
                let mut field = elastic::Field::new(size, ranges.knots);
                field.draw(9, 4, i);
                let (mut ey, mut ex) = (vec![0.0; width], vec![0.0; width]);
                for (row, col) in (0..height).flat_map(|row| (0..width).map(move |col| (row, col))) {
                    field.row(elastic::knot(row, ranges.knots), [&mut ey, &mut ex]);
                    let e = [ey[col], ex[col]].map(|e| f64::from(ranges.elastic) * f64::from(e));
                    for ch in 0..c {
                        let want = expected(&data, i, ch.min(channels - 1), [row, col], &d, e);
                        let got = x[((i * c + ch) * h + top + row) * w + left + col];
                        assert!((got - want).abs() < 0.02, "{text} {i} ({row}, {col}): {got}, not {want}");
                    }
                }
            }
        }
    }
}

/// The same picture, batch, step and seed give the same; others differ.
#[test]
fn what_happens_depends_on_seed_step_and_place_alone() {
    let data = pictures(1, 6, 6);
    let norm = Normalization { mean: vec![0.1], std: vec![0.3] };
    let loader = Loader::new(&data, &norm, [1, 6, 6], DType::F32, Device::Cpu).unwrap();
    let learn = |text: &str, seed, step| loader.batch_to_learn(&[3; 20], text.parse().unwrap(), seed, step).0.values();
    for text in ["rotate:20", "translate:0.2", "scale:0.3", "shear:30", "elastic:20:2", "sharpen:9", "erase:0.9"] {
        let x = learn(text, 1, 2);
        assert_eq!(x, learn(text, 1, 2), "{text}");
        for (seed, step) in [(2, 2), (1, 3), (1, 2 + (1 << 32))] {
            assert_ne!(x, learn(text, seed, step), "{text}");
        }
        assert_ne!(x[..36], x[36..72], "{text}");
    }
}
