//! Batch norm, ReLU and a max-pool of 2x2 windows side by side, in as few passes over memory as there can be.
//!
//! # Forward
//!
//! ```text
//! v = w·x̂ + b        y[n,c,oy,ox] = max(0, the largest v of its window)        x̂ as in batchnorm.rs
//! at[n,c,oy,ox] = the place of that v in its window, 0 to 3, or that of nobody, 255, if it is not above 0
//! ```
//!
//! As in `maxpool2d.rs` the first of equal values wins, and NaN wins over any number; a last odd row or column has no window.
//!
//! # Backward
//!
//! ```text
//! d[n,c,iy,ix] = dy[n,c,oy,ox] where at says that this pixel won, else 0        dw, db and dx: those of batchnorm.rs with d for dy
//! ```
//!
//! d is nowhere written. Σ d and Σ d·(x - mean) run over winners alone, so forward keeps the x of each; dx makes d from dy and `at` on its way.
//!
//! These are the ops of `norm_relu.rs` and `maxpool2d.rs`, which it is tested against. Cost per element of x: forward reads x twice and writes
//! y, the winners' x and their places, 9/16 of x in f32; backward reads these and dy twice, reads x and writes dx. One by one the ops move twice as much.
//!
//! On a GPU forward is one kernel behind the statistics; backward spreads dy, then takes the batch norm's kernels. Read next: `softmax.rs`.

use super::batchnorm::{self, by_m, factors, output};
use super::case::{BATCHES, Case, Draw, Input};
use super::maxpool2d::NOBODY;
use super::moments::{PIECE, given, planes_per_task};
use super::normalise::{Affine, of_channels, total};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::simd;
use crate::tensor::{DType, Element, L, Lane, Real, Spec, Tensor, Vector, filled, load, put, store};
use rayon::prelude::*;
use std::hint::select_unpredictable;

/// The maximum of each 2x2 window of relu(batch norm(x)). Inputs x `[N, C, H, W]` in lanes, w `[C]` and b `[C]` in the type of sums, then, if
/// `running`, the running mean and variance `[C]`.
///
/// Saves what [`batchnorm::BatchNorm`] saves (or, if `running`, `BatchNormEval`), then places and, on the CPU, winners.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormReluPool {
    /// Added to the variance; PyTorch's default is 1e-5.
    pub eps: f64,
    /// Normalise by given statistics instead of the batch's.
    pub running: bool,
}

impl NormReluPool {
    /// Inputs, and tensors that the batch norm saves.
    fn counts(&self) -> [usize; 2] {
        if self.running { [5, 2] } else { [3, 3] }
    }

    /// The statistics, and what they make of each channel.
    fn channels<T: Element>(&self, x: &[&Tensor]) -> (Saved, Vec<Affine<T::Acc>>) {
        let saved = given::<T>(x, self.eps);
        let channels = Affine::each(x[1], x[2], &saved[0], &saved[1]);
        (saved, channels)
    }
}

impl Op for NormReluPool {
    fn name(&self) -> &'static str {
        "norm_relu_pool"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        let rule = "takes an activation [N, C, H, W] of at least 2x2 pixels, weight [C] and bias [C], perhaps running statistics [C]";
        let spec = output(self.name(), x, self.counts()[0], rule)?;
        let [n, c, h, w] = spec.shape.nchw();
        if spec.shape.len() != 4 || h < 2 || w < 2 {
            return Err(mismatch(self.name(), x, rule));
        }
        Ok(spec.with_shape([n, c, h / 2, w / 2]))
    }

    fn needs(&self) -> Needs {
        Needs { inputs: 7, output: false }
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        let mut at = Tensor::new(Spec { dtype: DType::U8, ..y.spec() });
        crate::dispatch!(y.dtype(), T => {
            if let Device::Cuda(_) = y.device() {
                return cuda::forward::<T>(self, x, y, at);
            }
            let (mut saved, channels) = self.channels::<T>(x);
            let mut won = Tensor::new(y.spec());
            forward::<T>(x[0], &channels, y, &mut at, &mut won);
            saved.extend([at, won]);
            Ok(saved)
        })
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        let (by_m, [_, kept]) = (by_m(&n.spec(0), self.running), self.counts());
        crate::dispatch!(dy.dtype(), T => {
            if let Device::Cuda(_) = dy.device() {
                return cuda::backward::<T>(n, &n.saved[kept], dy, dx, by_m);
            }
            let channels = Affine::each(n.x(1), n.x(2), &n.saved[0], &n.saved[1]);
            let [at, won] = [&n.saved[kept], &n.saved[kept + 1]];
            let factors = factors::<T>(n, dx, by_m, &sums::<T>(won, at, dy, &channels));
            if dx[0].wanted() {
                backward_input::<T>(n.x(0), at, dy, &mut dx[0], &channels, &factors);
            }
        });
        Ok(())
    }

    fn rectifies(&self) -> bool {
        true
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        let each = if self.running { 4 } else { 9 };
        (each + 1) * x[0].shape.count() as u64
    }
}

// ---- CPU

/// Lane vectors of a plane of x and of one of y, and in a row of each.
fn sizes(x: &Spec) -> [usize; 4] {
    let [.., h, w] = x.shape.nchw();
    [h * w, (h / 2) * (w / 2), w, w / 2]
}

/// x `[N, C, H, W]`, y, at and won (the x of each winner) `[N, C, H/2, W/2]`, all in lanes.
fn forward<T: Element>(x: &Tensor, channels: &[Affine<T::Acc>], y: &mut Tensor, at: &mut Tensor, won: &mut Tensor) {
    simd! {
        fn run<T: Element>(x: &[[T; L]], y: &mut [[T; L]], at: &mut [[u8; L]], won: &mut [[T; L]], k: Affine<T::Acc>, widths: [usize; 2]) {
            let ([w, ow], [mean, scale, b]) = (widths, [k.mean, k.scale, k.b].map(V::splat));
            let rows = y.chunks_exact_mut(ow).zip(at.chunks_exact_mut(ow)).zip(won.chunks_exact_mut(ow));
            for (x, ((y, at), won)) in x.chunks_exact(2 * w).zip(rows) {
                let (above, below) = x.split_at(w);
                for i in 0..ow {
                    let window = [&above[2 * i], &above[2 * i + 1], &below[2 * i], &below[2 * i + 1]];
                    let (best, places) = winners::<T, V>(window, [mean, scale, b]);
                    let mut winner = load::<T, V>(window[0]).pick(&places, 0);
                    for j in 1..4 {
                        winner = winner.plus(load::<T, V>(window[j]).pick(&places, j as u8));
                    }
                    store(best, &mut y[i]);
                    store(winner, &mut won[i]);
                    at[i] = places;
                }
            }
        }
    }
    let [plane, out, w, ow] = sizes(&x.spec());
    let (at, won) = (at.lanes_mut::<u8>().par_chunks_mut(out), won.lanes_mut::<T>().par_chunks_mut(out));
    let y = y.lanes_mut::<T>().par_chunks_mut(out).zip(at).zip(won);
    let planes = x.lanes::<T>().par_chunks(plane).zip(y).with_min_len(planes_per_task(plane)).enumerate();
    planes.for_each(|(i, (x, ((y, at), won)))| run::<T>(x, y, at, won, channels[i % channels.len()], [w, ow]));
}

/// The largest v of a window, if above 0, and its place.
#[inline(always)]
fn winners<T: Element, V: Vector<T::Acc>>(window: [&[T; L]; 4], [mean, scale, b]: [V; 3]) -> (V, [u8; L]) {
    let (mut best, mut places) = (V::splat(T::Acc::ZERO), [NOBODY; L]);
    for j in 0..4 {
        load::<T, V>(window[j]).minus(mean).fma(scale, b).challenge(&mut best, &mut places, j as u8);
    }
    (best, places)
}

/// won, at, dy `[N, C, H/2, W/2]` in lanes -> Σ d·(x - mean) and Σ d for each channel.
fn sums<T: Element>(won: &Tensor, at: &Tensor, dy: &Tensor, channels: &[Affine<T::Acc>]) -> Vec<[f64; 2]> {
    simd! {
        fn run<T: Element>(won: &[[T; L]], at: &[[u8; L]], dy: &[[T; L]], k: Affine<T::Acc>) -> [[T::Acc; L]; 2] {
            let mut sums = [[T::Acc::ZERO; L]; 2];
            for ((won, at), dy) in won.iter().zip(at).zip(dy) {
                let (x, dy) = (Lane::load(won).0, Lane::load(dy).0);
                for l in 0..L {
                    let d = select_unpredictable(at[l] != NOBODY, dy[l], T::Acc::ZERO);
                    sums[0][l] = (x[l] - k.mean).mul_add(d, sums[0][l]);
                    sums[1][l] = sums[1][l] + d;
                }
            }
            sums
        }
    }
    let [images, c, oh, ow] = dy.shape().nchw();
    let plane = oh * ow;
    let (at, dy) = (at.lanes::<u8>().par_chunks(plane), dy.lanes::<T>().par_chunks(plane));
    let planes = won.lanes::<T>().par_chunks(plane).zip(at).zip(dy).with_min_len(planes_per_task(plane)).enumerate();
    let planes = planes.map(|(i, ((won, at), dy))| {
        let pieces = won.chunks(PIECE).zip(at.chunks(PIECE)).zip(dy.chunks(PIECE));
        total(filled(images, i / c), pieces.map(|((won, at), dy)| run::<T>(won, at, dy, channels[i % c])))
    });
    let planes: Vec<[f64; 2]> = planes.collect();
    of_channels(&planes, c)
}

/// x, dx `[N, C, H, W]`, at, dy `[N, C, H/2, W/2]`, in lanes: dx (+)= a·d + k·(x - mean) + q with `[a, k, q]` of each channel.
fn backward_input<T: Element>(x: &Tensor, at: &Tensor, dy: &Tensor, dx: &mut Slot, channels: &[Affine<T::Acc>], factors: &[[T::Acc; 3]]) {
    simd! {
        fn run<T: Element>(x: &[[T; L]], at: &[[u8; L]], dy: &[[T; L]], dx: &mut [[T; L]], widths: [usize; 2], mean: T::Acc, factors: [T::Acc; 3], add: bool) {
            let ([w, ow], mean, [a, k, q]) = (widths, V::splat(mean), factors.map(V::splat));
            for (iy, (x, dx)) in x.chunks_exact(w).zip(dx.chunks_exact_mut(w)).enumerate() {
                let rest = |x: &[T; L]| load::<T, V>(x).minus(mean).fma(k, q);
                let windows = if iy / 2 < dy.len() / ow { (iy / 2 * ow)..(iy / 2 + 1) * ow } else { 0..0 };
                let covered = 2 * windows.len();
                let pixels = x[..covered].chunks_exact(2).zip(dx[..covered].chunks_exact_mut(2));
                for ((x, dx), (dy, at)) in pixels.zip(dy[windows.clone()].iter().zip(&at[windows])) {
                    let d: V = load(dy);
                    for kx in 0..2 {
                        let d = d.pick(at, (iy % 2 * 2 + kx) as u8);
                        put::<T, V>(d.fma(a, rest(&x[kx])), &mut dx[kx], add);
                    }
                }
                for (x, dx) in x[covered..].iter().zip(&mut dx[covered..]) {
                    put::<T, V>(rest(x), dx, add);
                }
            }
        }
    }
    let ([plane, out, w, ow], [images, c, ..]) = (sizes(&x.spec()), x.shape().nchw());
    let (dx, add) = dx.open();
    let dx = dx.lanes_mut::<T>().par_chunks_mut(plane);
    let dy = dy.lanes::<T>().par_chunks(out).zip(at.lanes::<u8>().par_chunks(out));
    let planes = x.lanes::<T>().par_chunks(plane).zip(dy).zip(dx).with_min_len(planes_per_task(plane)).enumerate();
    planes.for_each(|(i, ((x, (dy, at)), dx))| {
        run::<T>(x, at, dy, dx, [w, ow], channels[i % c].mean, factors[i % c], add);
        // q would reach the empty lanes.
        let n = filled(images, i / c);
        if n < L {
            dx.iter_mut().for_each(|dx| dx[n..].fill(T::down(T::Acc::ZERO)));
        }
    });
}

// ---- CUDA

mod cuda {
    use super::*;
    use crate::device::cuda::Launch;
    use crate::device::cuda::kernels::norm_relu_pool::{self as kernel, Halves};
    use crate::ops::{maxpool2d, window};

    /// x: the inputs of a batch norm; y and at `[N, C, H/2, W/2]`. One warp an output pixel.
    pub fn forward<T: Element>(op: &NormReluPool, x: &[&Tensor], y: &mut Tensor, mut at: Tensor) -> Result<Saved> {
        let mut saved = batchnorm::cuda::given::<T>(x, op.eps)?;
        let ([n, c, h, w], [.., oh, ow], groups) = (x[0].shape().nchw(), y.shape().nchw(), y.spec().groups());
        let launch = Launch::warps(y.device(), groups * c * oh * ow, 8);
        let [n, groups, c, h, w, oh, ow] = [n, groups, c, h, w, oh, ow].map(|d| d as i32);
        let (rows, d) = ([x[1], x[2], &saved[0], &saved[1]].map(Tensor::cuda), Halves { n, groups, c, h, w, oh, ow });
        let [w, b, mean, inv_std] = rows;
        kernel::forward::<T>(launch, x[0].cuda(), w, b, mean, inv_std, y.cuda_mut(), at.cuda_mut(), d)?;
        saved.push(at);
        Ok(saved)
    }

    /// at, dy like y; dx: those of a batch norm.
    pub fn backward<T: Element>(n: &Node, at: &Tensor, dy: &Tensor, dx: &mut [Slot], by_m: f64) -> Result<()> {
        let mut d = Tensor::new(n.spec(0));
        let axes = window::axes("norm_relu_pool", &[n.spec(0)], [2; 2], [2; 2], [0; 2])?;
        maxpool2d::cuda::backward_input::<T>(&axes, at, dy, &mut d, false)?;
        batchnorm::cuda::backward::<T>(n, &d, dx, by_m)
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, shape: [usize; 4], running: bool| {
        let row = |draw| Input::sums([shape[1]], draw);
        let mut inputs = vec![Input::lanes(shape, Draw::Distinct), row(Draw::Normal), row(Draw::Normal)];
        if running {
            inputs.extend([row(Draw::Normal).fixed(), row(Draw::Positive).fixed()]);
        }
        Case::new(NormReluPool { eps: 1e-5, running }, format!("{name}n{} {}x{}", shape[0], shape[2], shape[3]), inputs)
    };
    let mut cases = Vec::new();
    for n in BATCHES {
        cases.push(case("", [n, 3, 4, 5], false));
        cases.push(case("running ", [n, 3, 3, 2], true));
    }
    cases.push(case("", [2, 2, 7, 6], false));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Gradients, Tape};
    use crate::ops::maxpool2d::MaxPool2d;
    use crate::ops::norm_relu::NormRelu;
    use crate::tensor::Philox;

    /// y, dx, dw and db of one op, or of the two that it stands for.
    fn results(fused: bool, running: bool, dtype: DType, shape: [usize; 4], edit: impl Fn(&mut [f64])) -> [Vec<f64>; 4] {
        let (rng, c) = (Philox::new(7), shape[1]);
        let draw = |stream: u64, n: usize| -> Vec<f64> { (0..n).map(|i| rng.normal(stream, i as u64)).collect() };
        let row = |values: &[f64]| Tensor::from_values(Spec::rows([c], dtype.acc()), values);
        let spec = Spec::lanes(shape, dtype);
        let mut pixels = draw(0, spec.shape.count());
        edit(&mut pixels);
        let mut tape = Tape::new();
        let x = [Tensor::from_values(spec, &pixels), row(&draw(1, c)), row(&draw(2, c))].map(|x| tape.leaf(x));
        let mut inputs = x.to_vec();
        if running {
            inputs.extend([row(&draw(3, c)), row(&vec![0.7; c])].map(|s| tape.input(s)));
        }
        let y = if fused {
            tape.apply(NormReluPool { eps: 1e-5, running }, &inputs).unwrap()
        } else {
            let y = tape.apply(NormRelu { eps: 1e-5, running, shortcut: false }, &inputs).unwrap();
            tape.apply(MaxPool2d { kernel: [2; 2], stride: [2; 2], padding: [0; 2], rectify: false }, &[y]).unwrap()
        };
        let out = tape.value(y).values();
        if fused {
            let inputs: Vec<&Tensor> = inputs.iter().map(|&x| tape.value(x)).collect();
            let mut inferred = Tensor::new(tape.spec(y));
            NormReluPool { eps: 1e-5, running }.infer(&inputs, &mut inferred).unwrap();
            let bits = |values: &[f64]| values.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&inferred.values()), bits(&out));
        }
        let dy = Tensor::from_values(tape.spec(y), &draw(4, tape.spec(y).shape.count()));
        tape.backward_from(y, dy, &mut Gradients::default()).unwrap();
        let [dx, dw, db] = x.map(|x| tape.gradient(x).unwrap().values());
        [out, dx, dw, db]
    }

    #[test]
    fn it_is_its_two_ops() {
        for (running, dtype, shape) in [
            (false, DType::F64, [17, 3, 6, 4]),
            (true, DType::F64, [2, 3, 7, 5]),
            (false, DType::F32, [33, 2, 28, 28]),
            (true, DType::F32, [17, 2, 9, 3]),
        ] {
            // Many equal pixels: the first of them must win.
            let round = |x: &mut [f64]| x.iter_mut().for_each(|x| *x = (*x * 2.0).round() / 2.0);
            let [ours, theirs] = [true, false].map(|fused| results(fused, running, dtype, shape, round));
            assert_eq!(ours[0], theirs[0], "y");
            let bound = if dtype == DType::F64 { 1e-12 } else { 1e-5 };
            for (ours, theirs) in ours[1..].iter().zip(&theirs[1..]) {
                let largest = theirs.iter().fold(1.0f64, |most, x| most.max(x.abs()));
                for (a, b) in ours.iter().zip(theirs) {
                    assert!((a - b).abs() <= bound * largest, "{a} and {b}");
                }
            }
        }
    }

    #[test]
    fn nan_is_passed_on() {
        let one = |x: &mut [f64]| x[3] = f64::NAN;
        let [ours, theirs] = [true, false].map(|fused| results(fused, true, DType::F32, [2, 2, 4, 4], one));
        let places = |y: &[f64]| y.iter().map(|y| y.is_nan()).collect::<Vec<_>>();
        assert_eq!(places(&ours[0]), places(&theirs[0]));
        assert!(ours[0][1].is_nan() && ours[0].iter().filter(|y| y.is_nan()).count() == 1);
    }

    #[test]
    fn errors_name_the_rule() {
        let (op, row) = (NormReluPool { eps: 1e-5, running: false }, Spec::rows([3], DType::F32));
        for shape in [Spec::lanes([2, 3, 1, 4], DType::F32), Spec::lanes([2, 3], DType::F32)] {
            let message = op.output(&[shape, row, row]).unwrap_err().message;
            assert!(message.contains("norm_relu_pool") && message.contains("2x2"), "{message}");
        }
    }
}
