//! Max pooling.
//!
//! # Forward
//!
//! With stride (sh, sw) and padding (ph, pw), the window of output pixel (oy, ox) covers the input pixels
//!
//! ```text
//! iy = oy·sh + ky - ph    ky = 0..kh        ix = ox·sw + kx - pw    kx = 0..kw
//!
//! y[n,c,oy,ox] = max over (ky, kx) of x[n,c,iy,ix]
//! at[n,c,oy,ox] = ky·kw + kx of the winner
//! ```
//!
//! There are oh = floor((h + 2·ph - kh) / sh) + 1 rows of output, and likewise ow. Pixels outside the picture count as -inf: they
//! never win, so the loops leave them out. With padding <= kernel / 2 every window holds at least one real pixel. As in PyTorch,
//! the first maximum in row-major order of the window wins a tie, and a NaN wins over any number.
//!
//! With ReLU behind it y is max(0, that), and where nothing in the window is above 0 nobody wins: `at` holds a place that no window has.
//! Backward then stops dy there by itself, so the two ops cost no more than one.
//!
//! # Backward
//!
//! Locally y is a copy of the one pixel that won, so dy/dx is 1 there and 0 elsewhere:
//!
//! ```text
//! dx[n,c,iy,ix] = sum over the windows (oy, ox) that cover (iy, ix) of
//!                     dy[n,c,oy,ox]  if at[n,c,oy,ox] = (iy + ph - oy·sh)·kw + (ix + pw - ox·sw)
//!                     0              otherwise
//! ```
//!
//! Written like this, as a sum that each input pixel gathers instead of one that each winner scatters, every lane does the same
//! thing although the winners of the L images differ; and each dx is written once, so nothing has to be zeroed before.
//! Only `at`, one byte a pixel of output, is kept for backward.
//!
//! Cost: kh·kw comparisons per output pixel; backward kh·kw/(sh·sw) comparisons and additions per input pixel. Forward reads x
//! and writes y and a byte; backward reads dy and the bytes and writes dx. Neighbouring windows overlap in cache, so it is bound
//! by memory for kernels up to 3x3.
//!
//! Read next: `avgpool2d.rs`, the same loops with a sum.

use super::case::{BATCHES, Case, Draw, Input};
use super::window::{self, Axis, Window};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::simd;
use crate::tensor::{DType, Element, L, Lane, Real, Spec, Tensor, Vector, load, put, store};
use rayon::prelude::*;
use std::hint::select_unpredictable;
use std::ops::Range;

/// The maximum of each window: [N, C, H, W] to [N, C, OH, OW].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaxPool2d {
    /// Height and width of the window; at most 255 pixels together.
    pub kernel: [usize; 2],
    /// Rows and columns from one window to the next.
    pub stride: [usize; 2],
    /// Rows of -inf above and below, columns left and right; at most half the kernel.
    pub padding: [usize; 2],
    /// Is ReLU behind it?
    pub rectify: bool,
}

/// No place in a window: they have at most 255.
pub(super) const NOBODY: u8 = u8::MAX;

impl MaxPool2d {
    fn axes(&self, x: &[Spec]) -> Result<[Axis; 2]> {
        window::axes(self.name(), x, self.kernel, self.stride, self.padding)
    }
}

impl Op for MaxPool2d {
    fn name(&self) -> &'static str {
        "maxpool2d"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        let [rows, cols] = self.axes(x)?;
        if self.kernel[0].saturating_mul(self.kernel[1]) > usize::from(u8::MAX) {
            let rule = format!("a winner's place is kept in a byte, so kernel {:?} must cover at most 255 pixels", self.kernel);
            return Err(mismatch(self.name(), x, rule));
        }
        Ok(x[0].with_shape([x[0].shape[0], x[0].shape[1], rows.output, cols.output]))
    }

    fn needs(&self) -> Needs {
        Needs::NOTHING
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        let axes = self.axes(&[x[0].spec()])?;
        let mut at = Tensor::new(Spec { dtype: DType::U8, ..y.spec() });
        crate::dispatch!(y.dtype(), T => match y.device() {
            Device::Cpu => forward::<T>(&axes, self.rectify, x[0], y, &mut at),
            Device::Cuda(_) => cuda::forward::<T>(&axes, self.rectify, x[0], y, &mut at)?,
        });
        Ok(vec![at])
    }

    fn infer(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        let axes = self.axes(&[x[0].spec()])?;
        if y.device() != Device::Cpu {
            return self.forward(x, y);
        }
        crate::dispatch!(y.dtype(), T => infer::<T>(&axes, self.rectify, x[0], y));
        Ok(Saved::new())
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        let axes = self.axes(&[n.spec(0)])?;
        if dx[0].wanted() {
            crate::dispatch!(dy.dtype(), T => match dy.device() {
                Device::Cpu => backward_input::<T>(&axes, &n.saved[0], dy, &mut dx[0]),
                Device::Cuda(_) => {
                    let (dx, add) = dx[0].open();
                    cuda::backward_input::<T>(&axes, &n.saved[0], dy, dx, add)?;
                }
            });
        }
        Ok(())
    }

    fn rectifies(&self) -> bool {
        self.rectify
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        let taps = self.kernel[0] * self.kernel[1];
        self.output(x).map_or(0, |y| (y.shape.count() * taps) as u64)
    }
}

// ---- CPU

/// x: [G, C, H, W, L]; y and at: [G, C, OH, OW, L]. One task = one plane of one group.
fn forward<T: Element>(axes: &[Axis; 2], rectify: bool, x: &Tensor, y: &mut Tensor, at: &mut Tensor) {
    simd! {
        fn run<T: Element>(x: &[[T; L]], y: &mut [[T; L]], at: &mut [[u8; L]], cols: &Axis, rows: &[Window], columns: &[Window], rectify: bool) {
            let ow = cols.output;
            for ((row, y), at) in rows.iter().zip(y.chunks_exact_mut(ow)).zip(at.chunks_exact_mut(ow)) {
                for ((column, y), at) in columns.iter().zip(y).zip(at) {
                    let (best, places) = winners::<T, V>(x, cols, row, column, rectify);
                    store(best, y);
                    *at = places;
                }
            }
        }
    }
    let [rows, cols] = axes;
    let (windows_y, windows_x) = (rows.windows(), cols.windows());
    let (plane, out) = (rows.input * cols.input, rows.output * cols.output);
    let y = y.lanes_mut::<T>().par_chunks_mut(out).zip(at.lanes_mut::<u8>().par_chunks_mut(out));
    x.lanes::<T>().par_chunks(plane).zip(y).for_each(|(x, (y, at))| run::<T>(x, y, at, cols, &windows_y, &windows_x, rectify));
}

/// The same without winners' places.
fn infer<T: Element>(axes: &[Axis; 2], rectify: bool, x: &Tensor, y: &mut Tensor) {
    simd! {
        fn run<T: Element>(x: &[[T; L]], y: &mut [[T; L]], cols: &Axis, rows: &[Window], columns: &[Window], rectify: bool) {
            for (row, y) in rows.iter().zip(y.chunks_exact_mut(cols.output)) {
                for (column, y) in columns.iter().zip(y) {
                    store(winners::<T, V>(x, cols, row, column, rectify).0, y);
                }
            }
        }
    }
    let [rows, cols] = axes;
    let (windows_y, windows_x) = (rows.windows(), cols.windows());
    let (plane, out) = (rows.input * cols.input, rows.output * cols.output);
    let planes = x.lanes::<T>().par_chunks(plane).zip(y.lanes_mut::<T>().par_chunks_mut(out));
    planes.for_each(|(x, y)| run::<T>(x, y, cols, &windows_y, &windows_x, rectify));
}

/// The greatest of a window, and where it was.
#[inline(always)]
fn winners<T: Element, V: Vector<T::Acc>>(x: &[[T; L]], cols: &Axis, row: &Window, column: &Window, rectify: bool) -> (V, [u8; L]) {
    let first = (row.taps.start * cols.kernel + column.taps.start) as u8;
    let (least, nobody) = if rectify { (T::Acc::ZERO, NOBODY) } else { (T::Acc::NEG_INFINITY, first) };
    let (mut best, mut places) = (V::splat(least), [nobody; L]);
    for (i, ky) in row.taps.clone().enumerate() {
        let first = ky * cols.kernel + column.taps.start;
        let x = &x[(row.start + i) * cols.input + column.start..][..column.taps.len()];
        for (x, place) in x.iter().zip(first as u8..) {
            load::<T, V>(x).challenge(&mut best, &mut places, place);
        }
    }
    (best, places)
}

/// at, dy: [G, C, OH, OW, L]; dx: [G, C, H, W, L]. One task = one plane of one group.
fn backward_input<T: Element>(axes: &[Axis; 2], at: &Tensor, dy: &Tensor, dx: &mut Slot) {
    simd! {
        fn run<T: Element>(at: &[[u8; L]], dy: &[[T; L]], dx: &mut [[T; L]], axes: &[Axis; 2], rows: &[Range<usize>], columns: &[Range<usize>], add: bool) {
            let [ys, xs] = axes;
            for ((iy, row), dx) in rows.iter().enumerate().zip(dx.chunks_exact_mut(xs.input)) {
                for ((ix, column), dx) in columns.iter().enumerate().zip(dx) {
                    let mut sum = Lane::<T::Acc>::zero();
                    for oy in row.clone() {
                        let ky = iy + ys.padding - oy * ys.stride;
                        // Without a window here (a gap between windows) this may be below 0, and is not used.
                        let kx = (ix + xs.padding).wrapping_sub(column.start * xs.stride);
                        let mut tap = (ky * xs.kernel).wrapping_add(kx) as u8;
                        let range = oy * xs.output + column.start..oy * xs.output + column.end;
                        for (dy, at) in dy[range.clone()].iter().zip(&at[range]) {
                            let dy = Lane::load(dy);
                            for l in 0..L {
                                // A plain `if` becomes a branch that nobody can predict: three times slower.
                                sum.0[l] = sum.0[l] + select_unpredictable(at[l] == tap, dy.0[l], T::Acc::ZERO);
                            }
                            tap = tap.wrapping_sub(xs.stride as u8);
                        }
                    }
                    sum.put(dx, add);
                }
            }
        }
    }
    simd! {
        /// Where windows lie side by side each pixel has one reader, and each window is unfolded at once.
        fn unfold<T: Element>(at: &[[u8; L]], dy: &[[T; L]], dx: &mut [[T; L]], axes: &[Axis; 2], add: bool) {
            let [ys, xs] = axes;
            let zero = V::splat(T::Acc::ZERO);
            for (iy, dx) in dx.chunks_exact_mut(xs.input).enumerate() {
                let (oy, ky) = (iy / ys.kernel, iy % ys.kernel);
                let covered = if oy < ys.output { xs.output * xs.kernel } else { 0 };
                for (ox, dx) in dx[..covered].chunks_exact_mut(xs.kernel).enumerate() {
                    let (d, at) = (load::<T, V>(&dy[oy * xs.output + ox]), &at[oy * xs.output + ox]);
                    for (kx, dx) in dx.iter_mut().enumerate() {
                        put::<T, V>(d.pick(at, (ky * xs.kernel + kx) as u8), dx, add);
                    }
                }
                for dx in &mut dx[covered..] {
                    put::<T, V>(zero, dx, add);
                }
            }
        }
    }
    let apart = axes.iter().all(|axis| axis.stride == axis.kernel && axis.padding == 0);
    let (dx, add) = dx.open();
    let [rows, cols] = axes;
    let (readers_y, readers_x) = (rows.readers(), cols.readers());
    let (plane, out) = (rows.input * cols.input, rows.output * cols.output);
    let dx = dx.lanes_mut::<T>().par_chunks_mut(plane);
    let dy = dy.lanes::<T>().par_chunks(out).zip(at.lanes::<u8>().par_chunks(out));
    dy.zip(dx).for_each(|((dy, at), dx)| match apart {
        true => unfold::<T>(at, dy, dx, axes, add),
        false => run::<T>(at, dy, dx, axes, &readers_y, &readers_x, add),
    });
}

// ---- CUDA

pub(super) mod cuda {
    use super::*;
    use crate::device::cuda::{Launch, kernels::maxpool2d as kernel};

    /// x: [G, C, H, W, L]; y and at: [G, C, OH, OW, L]. One warp an output pixel.
    pub fn forward<T: Element>(axes: &[Axis; 2], rectify: bool, x: &Tensor, y: &mut Tensor, at: &mut Tensor) -> Result<()> {
        let d = window::sizes(axes, x.spec());
        let launch = Launch::warps(y.device(), (d.planes * d.oh * d.ow) as usize, 8);
        kernel::forward::<T>(launch, x.cuda(), y.cuda_mut(), at.cuda_mut(), d, rectify.into())
    }

    /// at, dy: [G, C, OH, OW, L]; dx: [G, C, H, W, L]. One warp an input pixel.
    pub fn backward_input<T: Element>(axes: &[Axis; 2], at: &Tensor, dy: &Tensor, dx: &mut Tensor, add: bool) -> Result<()> {
        let d = window::sizes(axes, dx.spec());
        let launch = Launch::warps(dy.device(), (d.planes * d.h * d.w) as usize, 8);
        kernel::backward_input::<T>(launch, at.cuda(), dy.cuda(), dx.cuda_mut(), d, add.into())
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let one = |rectify: bool, kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2], shape: [usize; 4]| {
        let name = format!("{}k{kernel:?} s{stride:?} p{padding:?} {shape:?}", if rectify { "relu " } else { "" });
        Case::new(MaxPool2d { kernel, stride, padding, rectify }, name, vec![Input::lanes(shape, Draw::Distinct)])
    };
    let case = |kernel, stride, padding, shape| one(false, kernel, stride, padding, shape);
    let mut cases = Vec::new();
    for n in BATCHES {
        cases.push(case([2, 2], [2, 2], [0, 0], [n, 1, 4, 5]));
        cases.push(case([3, 3], [2, 2], [1, 1], [n, 1, 5, 4]));
        cases.push(one(true, [2, 2], [2, 2], [0, 0], [n, 1, 5, 4]));
    }
    cases.push(one(true, [3, 3], [1, 1], [1, 1], [2, 2, 5, 7]));
    cases.push(case([3, 3], [1, 1], [1, 1], [2, 2, 5, 7]));
    cases.push(case([4, 4], [4, 4], [0, 0], [2, 2, 9, 8]));
    cases.push(case([2, 2], [1, 1], [0, 0], [2, 2, 5, 7]));
    cases.push(case([3, 2], [2, 1], [1, 0], [3, 2, 6, 5]));
    cases.push(case([2, 2], [3, 4], [1, 1], [2, 2, 7, 7]));
    cases.push(case([5, 4], [1, 2], [2, 2], [1, 2, 2, 1]));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Gradients, Tape};
    use crate::ops::add::Add;
    use crate::tensor::Layout;

    const NAN: f64 = f64::NAN;
    const LOW: f64 = f64::NEG_INFINITY;

    /// Output and gradient for dy = 1, 2, 3, ... of a picture of three rows, in the last of 17 images.
    fn pool(op: MaxPool2d, picture: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let spec = Spec::lanes([17, 1, 3, picture.len() / 3], DType::F32);
        let last = |t: &Tensor| t.values()[16 * t.shape().per_image()..].to_vec();
        let mut tape = Tape::new();
        let x = tape.leaf(Tensor::from_values(spec, &[vec![0.0; 16 * picture.len()], picture.to_vec()].concat()));
        let y = tape.apply(op, &[x]).unwrap();
        let out = last(tape.value(y));
        let mut inferred = Tensor::new(tape.spec(y));
        op.infer(&[tape.value(x)], &mut inferred).unwrap();
        let bits = |values: &[f64]| values.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&last(&inferred)), bits(&out));
        let dy: Vec<f64> = (0..tape.spec(y).shape.count()).map(|i| (i % out.len() + 1) as f64).collect();
        tape.backward_from(y, Tensor::from_values(tape.spec(y), &dy), &mut Gradients::default()).unwrap();
        (out, last(tape.gradient(x).unwrap()))
    }

    #[test]
    fn the_first_maximum_wins_a_tie() {
        let op = MaxPool2d { kernel: [2, 2], stride: [1, 1], padding: [0, 0], rectify: false };
        let (y, dx) = pool(op, &[1.0, 5.0, 5.0, 5.0, 0.0, 5.0, 1.0, 1.0, 1.0]);
        assert_eq!(y, [5.0, 5.0, 5.0, 5.0]);
        assert_eq!(dx, [0.0, 3.0, 0.0, 3.0, 0.0, 4.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn nan_wins_and_minus_infinity_still_has_a_winner() {
        let op = MaxPool2d { kernel: [3, 3], stride: [3, 3], padding: [1, 1], rectify: false };
        let (y, dx) = pool(op, &[1.0, NAN, 9.0, 2.0, 3.0, 9.0, 9.0, 9.0, 9.0]);
        assert!(y[0].is_nan());
        assert_eq!(dx, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let (y, dx) = pool(op, &[LOW; 9]);
        assert_eq!(y, [LOW]);
        assert_eq!(dx, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn with_relu_nobody_wins_who_is_not_above_zero() {
        let op = MaxPool2d { kernel: [3, 3], stride: [3, 3], padding: [0, 0], rectify: true };
        let (y, dx) = pool(op, &[-1.0, -2.0, -3.0, 2.0, 2.0, 0.0, -1.0, 0.0, -3.0, 1.0, 0.0, -1.0, -1.0, 0.0, -3.0, LOW, LOW, 5.0]);
        assert_eq!(y, [0.0, 5.0]);
        assert_eq!((dx[17], dx.iter().sum::<f64>()), (2.0, 2.0));
        let (y, dx) = pool(op, &[0.0, -1.0, -1.0, -1.0, LOW, -1.0, 0.0, -0.0, -1.0]);
        assert_eq!((y, dx), (vec![0.0], vec![0.0; 9]));
        assert!(pool(op, &[-1.0, NAN, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0]).0[0].is_nan());
    }

    #[test]
    fn a_second_contribution_is_added() {
        let op = MaxPool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1], rectify: false };
        let spec = Spec::lanes([18, 2, 5, 4], DType::F64);
        let values: Vec<f64> = (0..spec.shape.count()).map(|i| (i * 7 % 101) as f64).collect();
        let gradient = |twice: bool| {
            let mut tape = Tape::new();
            let x = tape.leaf(Tensor::from_values(spec, &values));
            let a = tape.apply(op, &[x]).unwrap();
            let b = if twice { tape.apply(op, &[x]).unwrap() } else { tape.input(tape.value(a).clone()) };
            let y = tape.apply(Add, &[a, b]).unwrap();
            let dy = Tensor::from_values(tape.spec(y), &values[..tape.spec(y).shape.count()]);
            tape.backward_from(y, dy, &mut Gradients::default()).unwrap();
            tape.gradient(x).unwrap().values()
        };
        assert_eq!(gradient(true), gradient(false).iter().map(|dx| 2.0 * dx).collect::<Vec<_>>());
    }

    #[test]
    fn errors_name_the_rule() {
        let x = Spec::lanes([2, 3, 4, 5], DType::F32);
        let op = MaxPool2d { kernel: [2, 2], stride: [2, 2], padding: [0, 0], rectify: false };
        assert_eq!(op.output(&[x]).unwrap().shape, [2, 3, 2, 2].into());
        for (op, x, rule) in [
            (op, x.with_shape([2, 60]), "[N, C, H, W]"),
            (op, Spec { layout: Layout::Rows, ..x }, "[N, C, H, W]"),
            (MaxPool2d { kernel: [5, 2], ..op }, x, "must fit"),
            (MaxPool2d { padding: [0, 2], ..op }, x, "at most half"),
            (MaxPool2d { stride: [0, 1], ..op }, x, "at least 1"),
            (MaxPool2d { kernel: [16, 16], ..op }, x.with_shape([1, 1, 16, 16]), "255"),
        ] {
            let message = op.output(&[x]).unwrap_err().message;
            assert!(message.contains(rule) && message.contains("maxpool2d"), "{message}");
        }
    }
}
