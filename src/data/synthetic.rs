//! Digits drawn by the program in MNIST's shape, for machines with neither data nor network.
//!
//! Not MNIST, and no measure of anything: easier than people's hands, but no toy either (a test holds it between bounds). Each digit
//! is one of its skeletons (`glyphs.rs`), its points moved, bent by waves, slanted and turned, drawn with a soft round pen and
//! placed as MNIST's were: in a box of 20x20, the ink's centre of mass in the middle of 28x28.
//! Read next: `picture.rs`, which brings real pictures to the same form.

use std::f32::consts::TAU;

use rayon::prelude::*;

use super::dataset::{Dataset, Normalization, Splits};
use super::glyphs::{DIGITS, Point, Stroke};
use super::random::Stream;

/// Rows, and columns, of an image.
const SIDE: usize = 28;
/// The longer side of the box that the ink fills.
const BOX: f32 = 20.0;
/// Straight pieces per piece of a curve: at this size nobody sees the corners.
const PIECES: usize = 4;

/// Generated digits: `train` to learn from and `test` to be judged on, a tenth of each class.
///
/// Image `i` of either half is a function of the seed and `i` alone, whatever the other counts and the number of threads.
pub fn synthetic(train: usize, test: usize, seed: u64) -> Splits {
    let half = |name: &str, which: u64, n: usize| {
        let mut images = vec![0; n * SIDE * SIDE];
        images.par_chunks_mut(SIDE * SIDE).enumerate().for_each(|(i, image)| {
            draw(i % 10, &mut Stream::new(&[seed, which, i as u64]), image);
        });
        let labels = (0..n).map(|i| (i % 10) as u8).collect();
        let classes = (0..10).map(|digit| digit.to_string()).collect();
        Dataset { name: format!("synthetic {name}"), images, labels, channels: 1, height: SIDE, width: SIDE, classes }
    };
    let (train, test) = (half("train", 0, train), half("test", 1, test));
    let normalization = Normalization::of(&train);
    Splits { train, test, normalization, val: 0 }
}

/// Draws one digit into an image of zeros.
fn draw(digit: usize, stream: &mut Stream, image: &mut [u8]) {
    let styles = DIGITS[digit];
    let style = styles[stream.below(styles.len() as u32) as usize];
    // Half the thickness of the pen, in pixels: MNIST's writers had anything from fine pens to felt tips.
    let pen = stream.uniform(0.8, 1.9);
    let paths = placed(bent(style, stream), pen, stream);

    let mut nearest = [f32::INFINITY; SIDE * SIDE];
    paths.iter().flat_map(|path| path.windows(2)).for_each(|piece| ink(piece[0], piece[1], pen, &mut nearest));

    // The edge of the ink is about one pixel wide, as after MNIST's reduction in size.
    let soft = stream.uniform(0.9, 1.3);
    let (full, grain) = (stream.uniform(200.0, 285.0), stream.uniform(0.0, 14.0));
    for (pixel, distance) in image.iter_mut().zip(nearest) {
        let cover = ((pen - distance) / soft + 0.5).clamp(0.0, 1.0);
        if cover > 0.0 {
            // Most strokes are saturated in the middle; paper outside the ink stays black, as in MNIST.
            *pixel = (full * cover + grain * stream.uniform(-1.0, 1.0)).clamp(0.0, 255.0) as u8;
        }
    }
}

/// The strokes as fine polylines, in the manner of one writer: points misplaced, lines wavy, letters turned, slanted and stretched.
fn bent(style: &[Stroke], stream: &mut Stream) -> Vec<Vec<Point>> {
    let unsure = stream.uniform(0.01, 0.045);
    // Most hands lean to the right.
    let (turn, slant) = (0.14 * stream.normal(), 0.12 + 0.22 * stream.normal());
    let (wide, tall) = (stream.uniform(0.72, 1.25), stream.uniform(0.9, 1.1));
    let (sin, cos) = turn.sin_cos();
    // Two waves, one across and one along, of a length about that of the digit: the elastic part.
    let waves: [[f32; 4]; 2] = [(); 2].map(|()| {
        let [along, phase] = [stream.uniform(0.0, TAU), stream.uniform(0.0, TAU)];
        let length = stream.uniform(3.0, 7.0);
        [0.05 * stream.normal(), length * along.cos(), length * along.sin(), phase]
    });
    let wave = |[height, a, b, phase]: [f32; 4], (x, y): Point| height * (a * x + b * y + phase).sin();
    let shape = |p: Point| {
        let (x, y) = (p.0 + wave(waves[0], p) - 0.35, p.1 + wave(waves[1], p) - 0.5);
        let (x, y) = (wide * x - slant * y, tall * y);
        (cos * x - sin * y, sin * x + cos * y)
    };
    let mut before = None;
    style
        .iter()
        .map(|stroke| {
            let (Stroke::Line(points) | Stroke::Curve(points)) = stroke;
            let mut moved: Vec<Point> = points.iter().map(|p| (p.0 + unsure * stream.normal(), p.1 + unsure * stream.normal())).collect();
            // A stroke that starts where the one before ended still does: the pen was not lifted.
            if let Some((_, end)) = before.filter(|&(end, _)| end == points[0]) {
                moved[0] = end;
            }
            before = Some((points[points.len() - 1], moved[moved.len() - 1]));
            let curved = matches!(stroke, Stroke::Curve(_));
            let mut path: Vec<Point> = (0..moved.len() - 1).flat_map(|i| piece(&moved, i, curved)).map(shape).collect();
            path.push(shape(moved[moved.len() - 1]));
            path
        })
        .collect()
}

/// The way from point `i` towards the next, in [`PIECES`] steps: straight, or as a Catmull-Rom spline (through all points, smoothly).
fn piece(points: &[Point], i: usize, curved: bool) -> impl Iterator<Item = Point> {
    let (b, c) = (points[i], points[i + 1]);
    let (a, d) = (points[i.saturating_sub(1)], points[(i + 2).min(points.len() - 1)]);
    (0..PIECES).map(move |step| {
        let t = step as f32 / PIECES as f32;
        let at = |a: f32, b: f32, c: f32, d: f32| {
            let bow = (c - a) + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a));
            if curved { b + 0.5 * t * bow } else { b + t * (c - b) }
        };
        (at(a.0, b.0, c.0, d.0), at(a.1, b.1, c.1, d.1))
    })
}

/// Scales so that the ink about fills the box with its longer side, and puts its centre of mass about in the middle of the image.
fn placed(mut paths: Vec<Vec<Point>>, pen: f32, stream: &mut Stream) -> Vec<Vec<Point>> {
    let reach = |of: fn(&Point) -> f32| {
        let (lo, hi) = paths.iter().flatten().map(of).fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), x| (lo.min(x), hi.max(x)));
        hi - lo
    };
    let scale = stream.uniform(0.9, 1.05) * (BOX - 2.0 * pen) / reach(|p| p.0).max(reach(|p| p.1));
    // Ink lies along the way, as much as the way is long.
    let mut mass = [0.0; 3];
    for (p, q) in paths.iter().flat_map(|path| path.windows(2)).map(|piece| (piece[0], piece[1])) {
        let length = (p.0 - q.0).hypot(p.1 - q.1);
        mass[0] += length;
        mass[1] += length * (p.0 + q.0) / 2.0;
        mass[2] += length * (p.1 + q.1) / 2.0;
    }
    let mut middle = || SIDE as f32 / 2.0 + stream.uniform(-0.7, 0.7);
    let middle = (middle(), middle());
    for p in paths.iter_mut().flatten() {
        *p = ((p.0 - mass[1] / mass[0]) * scale + middle.0, (p.1 - mass[2] / mass[0]) * scale + middle.1);
    }
    paths
}

/// Brings the distance of every pixel's centre from the ink down to that from the straight piece p..q, near it.
fn ink(p: Point, q: Point, pen: f32, nearest: &mut [f32; SIDE * SIDE]) {
    // Beyond this the ink's soft edge ends.
    let reach = pen + 1.0;
    let range = |a: f32, b: f32| {
        let end = |x: f32| x.clamp(0.0, SIDE as f32) as usize;
        end(a.min(b) - reach)..end(a.max(b) + reach + 1.0)
    };
    let (dx, dy) = (q.0 - p.0, q.1 - p.1);
    let square = (dx * dx + dy * dy).max(1e-12);
    for row in range(p.1, q.1) {
        for column in range(p.0, q.0) {
            let (x, y) = (column as f32 + 0.5 - p.0, row as f32 + 0.5 - p.1);
            let t = ((x * dx + y * dy) / square).clamp(0.0, 1.0);
            let distance = ((x - t * dx).powi(2) + (y - t * dy).powi(2)).sqrt();
            let pixel = &mut nearest[row * SIDE + column];
            *pixel = pixel.min(distance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(a: &[u8], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(&x, y)| (f32::from(x) - y).powi(2)).sum()
    }

    /// How much of `test` is right when each image gets the label of the nearest example.
    fn nearest(examples: &[(Vec<f32>, u8)], test: &Dataset) -> f64 {
        let right = (0..test.len()).into_par_iter().filter(|&i| {
            let near = examples.iter().min_by(|a, b| distance(test.image(i), &a.0).total_cmp(&distance(test.image(i), &b.0)));
            near.unwrap().1 == test.labels[i]
        });
        right.count() as f64 / test.len() as f64
    }

    #[test]
    fn digits_are_neither_trivial_nor_hopeless() {
        let Splits { train, test, normalization, .. } = synthetic(6_000, 400, 0);
        let examples: Vec<_> =
            (0..train.len()).map(|i| (train.image(i).iter().map(|&v| f32::from(v)).collect::<Vec<_>>(), train.labels[i])).collect();
        let means: Vec<_> = (0..10u8)
            .map(|digit| {
                let of = examples.iter().filter(|e| e.1 == digit);
                let sum = of.fold(vec![0.0; 784], |sum, e| sum.iter().zip(&e.0).map(|(s, v)| s + v / 600.0).collect());
                (sum, digit)
            })
            .collect();
        let (mean, one, all) = (nearest(&means, &test), nearest(&examples[..500], &test), nearest(&examples, &test));
        println!("nearest mean {mean:.3}, nearest of 500 {one:.3}, nearest of 6000 {all:.3}, {normalization:?}");
        assert!((0.5..0.85).contains(&mean), "nearest class mean: {mean}");
        assert!((0.7..0.96).contains(&one), "nearest of 500: {one}");
        assert!((0.93..0.998).contains(&all), "nearest of 6000: {all}");
        // About as much ink as MNIST (0.1307, 0.3081).
        assert!((0.10..0.17).contains(&normalization.mean[0]) && (0.26..0.36).contains(&normalization.std[0]), "{normalization:?}");
    }

    #[test]
    fn an_image_depends_on_seed_and_index_alone() {
        let (a, b) = (synthetic(40, 20, 5), synthetic(30, 10, 5));
        assert_eq!(a.train.image(29), b.train.image(29));
        assert_eq!(a.test.image(9), b.test.image(9));
        assert_ne!(a.train.image(0), a.test.image(0));
        assert_ne!(a.train.image(0), a.train.image(10));
        assert_ne!(synthetic(1, 0, 6).train.image(0), a.train.image(0));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(pool.install(|| synthetic(40, 20, 5)), a);
        a.train.check().unwrap();
    }

    #[test]
    fn digits_lie_as_in_mnist() {
        let data = synthetic(500, 0, 1).train;
        for i in 0..data.len() {
            let (mut total, mut x, mut y) = (0.0, 0.0, 0.0);
            for (at, &v) in data.image(i).iter().enumerate() {
                total += f64::from(v);
                x += f64::from(v) * (at % SIDE) as f64;
                y += f64::from(v) * (at / SIDE) as f64;
            }
            (x, y) = (x / total, y / total);
            assert!((x - 13.5).abs() < 2.0 && (y - 13.5).abs() < 2.0, "image {i}: centre of mass {x} {y}");
        }
    }
}
