//! The matrix unit's sums against direct sums in f64, for layers whose tiles are full, or not, in each direction.

use super::{correlate, linear, unit, weights};
use crate::device::amx::Amx;
use crate::ops::conv2d::{Conv2d, Dims, flipped, of_dx, of_y};
use crate::ops::finish::End;
use crate::ops::taps;
use crate::tensor::{DType, Element, Philox, Spec, Tensor};

fn lent() -> Option<Amx> {
    let unit = unit::<f32>();
    if unit.is_none() {
        eprintln!("this CPU has no matrix unit that is lent: not tried");
    }
    unit
}

/// Numbers that f32 holds, or bf16.
fn draw(stream: u64, spec: Spec, half: bool) -> Tensor {
    let rng = Philox::new(7);
    let round = |x: f64| if half { half::bf16::from_f64(x).to_f64() } else { f64::from(x as f32) };
    let values: Vec<f64> = (0..spec.shape.count() as u64).map(|i| round(rng.normal(stream, i))).collect();
    Tensor::from_values(spec, &values)
}

fn numbers(stream: u64, count: usize) -> Vec<f32> {
    draw(stream, Spec::rows([count], DType::F32), false).data().to_vec()
}

/// Largest error in units of the root mean square of what is exact.
fn error(got: &[f64], exact: &[f64]) -> f64 {
    assert_eq!(got.len(), exact.len());
    let rms = (exact.iter().map(|x| x * x).sum::<f64>() / exact.len() as f64).sqrt();
    got.iter().zip(exact).map(|(a, b)| (a - b).abs()).fold(0.0, |worst: f64, e| if e > worst || e.is_nan() { e } else { worst }) / rms
}

/// Planes in, rows, columns; planes out, kernel, stride, padding; images.
type Shape = ([usize; 3], usize, [usize; 2], [usize; 2], [usize; 2], usize);

const SHAPES: [Shape; 14] = [
    ([16, 9, 7], 16, [3, 3], [1, 1], [1, 1], 33),
    ([10, 12, 12], 20, [5, 5], [1, 1], [0, 0], 17),
    ([33, 5, 6], 50, [3, 3], [1, 1], [1, 1], 2),
    ([16, 28, 28], 32, [3, 3], [2, 2], [1, 1], 1),
    ([17, 8, 7], 18, [3, 3], [2, 2], [1, 1], 20),
    ([3, 6, 6], 5, [1, 1], [2, 2], [0, 0], 16),
    ([40, 4, 4], 7, [1, 1], [1, 1], [0, 0], 40),
    ([2, 11, 10], 3, [2, 3], [1, 2], [0, 1], 17),
    ([5, 9, 10], 4, [2, 2], [3, 4], [0, 1], 33),
    ([112, 6, 7], 128, [3, 3], [1, 1], [0, 0], 2),
    ([160, 5, 6], 176, [3, 3], [1, 1], [0, 0], 1),
    ([1, 1, 30], 17, [1, 7], [1, 1], [0, 3], 2),
    ([8, 40, 40], 8, [5, 5], [1, 1], [2, 2], 3),
    ([4, 7, 7], 12, [4, 4], [2, 2], [2, 2], 17),
];

/// x, w, b and dy of a shape, and its sizes.
fn layer(shape: &Shape, dtype: DType, half: bool) -> (Dims, [Tensor; 2], [Vec<f32>; 2]) {
    let &([c, h, w], o, [kh, kw], stride, padding, n) = shape;
    let d = Conv2d { stride, padding }.dims(&Spec::lanes([n, c, h, w], dtype), &Spec::rows([o, c, kh, kw], dtype));
    let of = |stream, dims: [usize; 4]| draw(stream, Spec::lanes(dims, dtype), half);
    (d, [of(0, [n, c, h, w]), of(1, [n, o, d.oh, d.ow])], [numbers(2, o * c * kh * kw), numbers(3, o)])
}

fn up(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// `half`: of numbers that bf16 holds.
fn convolutions<T: Element<Acc = f32>>(pieces: usize, half: bool, bound: f64) {
    let Some(unit) = lent().map(|unit| unit.at_most(pieces)) else { return };
    for shape in &SHAPES {
        let ((d, [x, dy], [w, b]), (_, [x64, dy64], _)) = (layer(shape, T::DTYPE, half), layer(shape, DType::F64, half));
        let w = if half { w.iter().map(|&w| half::bf16::from_f32(w).to_f32()).collect() } else { w };
        let (w64, b64) = (up(&w), up(&b));
        let both = |out: [usize; 4], add: bool| {
            let of = |dtype| Spec::lanes(out, dtype);
            if add {
                (draw(9, of(T::DTYPE), half), draw(9, of(DType::F64), half))
            } else {
                (Tensor::new(of(T::DTYPE)), Tensor::new(of(DType::F64)))
            }
        };
        let (mut y, mut y64) = both([d.n, d.o, d.oh, d.ow], false);
        correlate::run::<T>(unit, &[((&w[..]).into(), of_y(&d))], Some(&b), &x, End::Put(&mut y, false));
        crate::ops::correlate::run::<f64>(&[((&w64[..]).into(), of_y(&d))], Some(&b64), &x64, End::Put(&mut y64, false));
        let e = error(&y.values(), &y64.values());
        assert!(e < bound, "{shape:?} y: {e:e}");
        for add in [false, true] {
            let (mut dx, mut dx64) = both([d.n, d.c, d.h, d.w], add);
            let parts: Vec<_> = of_dx(&d).into_iter().map(|grid| (flipped(&d, &w, &grid), grid)).collect();
            correlate::run::<T>(unit, &parts, None, &dy, End::Put(&mut dx, add));
            let parts: Vec<_> = of_dx(&d).into_iter().map(|grid| (flipped(&d, &w64, &grid), grid)).collect();
            crate::ops::correlate::run::<f64>(&parts, None, &dy64, End::Put(&mut dx64, add));
            let e = error(&dx.values(), &dx64.values());
            assert!(e < bound, "{shape:?} dx, add {add}: {e:e}");
        }
        let (dw, dw64) = (weights::run::<T>(unit, &d, &x, &dy), taps::weights::<f64>(&d, &x64, &dy64));
        let e = error(&up(&dw), &dw64);
        assert!(e < 3e-5, "{shape:?} dw: {e:e}");
    }
}

/// What inference takes: errors like those of Winograd's tiles of 4x4. Where few products are added, one of them may be much larger than their sum.
#[test]
fn two_pieces_are_as_exact_as_large_tiles() {
    let Some(unit) = lent().map(|unit| unit.at_most(2)) else { return };
    for shape in &SHAPES {
        let ((d, [x, _], [w, b]), (_, [x64, _], _)) = (layer(shape, DType::F32, false), layer(shape, DType::F64, false));
        let [mut y, mut y64] = [DType::F32, DType::F64].map(|dtype| Tensor::new(Spec::lanes([d.n, d.o, d.oh, d.ow], dtype)));
        correlate::run::<f32>(unit, &[((&w[..]).into(), of_y(&d))], Some(&b), &x, End::Put(&mut y, false));
        crate::ops::correlate::run::<f64>(&[(up(&w).into(), of_y(&d))], Some(&up(&b)), &x64, End::Put(&mut y64, false));
        let (e, bound) = (error(&y.values(), &y64.values()), if d.c * d.kh * d.kw < 16 { 6e-5 } else { 3e-5 });
        println!("{shape:?}: {e:.1e}");
        assert!(e < bound && e > 1e-6, "{shape:?}: {e:e}");
    }
}

#[test]
fn convolutions_equal_direct_sums() {
    convolutions::<f32>(3, false, 1e-5);
    // One piece of such numbers is all of them.
    convolutions::<f32>(1, true, 1e-5);
    // An output is rounded, and some are ten times as large as the root of their mean square.
    convolutions::<half::bf16>(1, true, 4e-2);
}

#[test]
fn linear_layers_equal_sums_in_f64() {
    let Some(unit) = lent() else { return };
    for (n, k, f) in [(1, 16, 16), (16, 7, 3), (17, 33, 50), (33, 70, 31), (100, 320, 128), (128, 1000, 33), (49, 300, 500)] {
        let of = |stream, features| draw(stream, Spec::lanes([n, features], DType::F32), false);
        let (x, dy, w, b) = (of(0, k), of(1, f), numbers(2, f * k), numbers(3, f));
        let (x64, dy64) = (x.values(), dy.values());
        let sum = |count: usize, at: &dyn Fn(usize) -> f64| (0..count).map(at).sum::<f64>();
        // [features][groups] lanes, as [n][features].
        let rows = |out: &Tensor, features: usize| -> Vec<f64> {
            let (lanes, groups) = (out.lanes::<f32>(), n.div_ceil(16));
            (0..n * features).map(|i| (i / features, i % features)).map(|(n, i)| f64::from(lanes[i * groups + n / 16][n % 16])).collect()
        };
        let y: Vec<f64> = (0..n * f).map(|i| f64::from(b[i % f]) + sum(k, &|j| x64[i / f * k + j] * f64::from(w[i % f * k + j]))).collect();
        let e = error(&rows(&linear::forward::<f32>(unit, &x, &w, Some(&b)), f), &y);
        assert!(e < 1e-5, "{n} {k} {f} y: {e:e}");
        let dx: Vec<f64> = (0..n * k).map(|i| sum(f, &|j| dy64[i / k * f + j] * f64::from(w[j * k + i % k]))).collect();
        let e = error(&rows(&linear::backward_input::<f32>(unit, &dy, &w), k), &dx);
        assert!(e < 1e-5, "{n} {k} {f} dx: {e:e}");
        for before in [None, Some(3.0)] {
            let mut dw = vec![before.unwrap_or(f32::NAN); f * k];
            linear::backward_weight::<f32>(unit, &x, &dy, &mut dw, before.is_some());
            let exact = |i: usize| f64::from(before.unwrap_or(0.0)) + sum(n, &|j| dy64[j * f + i / k] * x64[j * k + i % k]);
            let e = error(&up(&dw), &(0..f * k).map(exact).collect::<Vec<_>>());
            assert!(e < 1e-5, "{n} {k} {f} dw after {before:?}: {e:e}");
        }
    }
}
