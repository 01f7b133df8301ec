//! Average pooling, over windows and over the whole picture.
//!
//! # Forward
//!
//! With the windows of `maxpool2d.rs`, stride (sh, sw) and padding (ph, pw),
//!
//! ```text
//! y[n,c,oy,ox] = 1/(kh·kw) · sum over ky, kx of x[n,c, oy·sh + ky - ph, ox·sw + kx - pw]
//! ```
//!
//! Pixels outside the picture count as zeros: they add nothing, but the divisor stays kh·kw (PyTorch's default,
//! `count_include_pad=True`). The global average is the case of one window, kh = h and kw = w:
//!
//! ```text
//! y[n,c,0,0] = 1/(h·w) · sum over iy, ix of x[n,c,iy,ix]
//! ```
//!
//! # Backward
//!
//! y is linear in x with the coefficient 1/(kh·kw) for each pixel of the window, so
//!
//! ```text
//! dx[n,c,iy,ix] = 1/(kh·kw) · sum over the windows (oy, ox) that cover (iy, ix) of dy[n,c,oy,ox]
//! ```
//!
//! gathered by each input pixel, so that dx is written once. Nothing of the forward is needed.
//!
//! Cost: kh·kw additions and a division per output pixel; backward kh·kw/(sh·sw) additions and a division per input pixel. Both
//! read one of x, y once and write the other; bound by memory for kernels up to 3x3 and for the global average.
//!
//! Read next: `dropout.rs`.

use super::case::{BATCHES, Case, Draw, Input};
use super::window::{self, Axis, Window};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::simd;
use crate::tensor::{Element, L, Lane, Spec, Stored, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// The mean of each window: [N, C, H, W] to [N, C, OH, OW].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AvgPool2d {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Rows and columns from one window to the next.
    pub stride: [usize; 2],
    /// Rows of zeros above and below, columns left and right; at most half the kernel.
    pub padding: [usize; 2],
}

impl AvgPool2d {
    fn axes(&self, x: &[Spec]) -> Result<[Axis; 2]> {
        window::axes(self.name(), x, self.kernel, self.stride, self.padding)
    }
}

impl Op for AvgPool2d {
    fn name(&self) -> &'static str {
        "avgpool2d"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        let [rows, cols] = self.axes(x)?;
        Ok(x[0].with_shape([x[0].shape[0], x[0].shape[1], rows.output, cols.output]))
    }

    fn needs(&self) -> Needs {
        Needs::NOTHING
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        let axes = self.axes(&[x[0].spec()])?;
        crate::dispatch!(y.dtype(), T => match y.device() {
            Device::Cpu => forward::<T>(&axes, x[0], y),
            Device::Cuda(_) => cuda::forward::<T>(&axes, x[0], y)?,
        });
        Ok(Saved::new())
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        let axes = self.axes(&[n.spec(0)])?;
        if dx[0].wanted() {
            crate::dispatch!(dy.dtype(), T => match dy.device() {
                Device::Cpu => backward_input::<T>(&axes, dy, &mut dx[0]),
                Device::Cuda(_) => cuda::backward_input::<T>(&axes, dy, &mut dx[0])?,
            });
        }
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        let taps = self.kernel[0] * self.kernel[1];
        self.output(x).map_or(0, |y| (y.shape.count() * taps) as u64)
    }
}

/// The mean of each whole picture: [N, C, H, W] to [N, C, 1, 1], for any H and W.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GlobalAvgPool;

impl GlobalAvgPool {
    /// The one window that covers the picture.
    fn window(&self, x: &[Spec]) -> Result<AvgPool2d> {
        match x {
            [x] if x.shape.len() == 4 => Ok(AvgPool2d { kernel: [x.shape[2], x.shape[3]], stride: [1, 1], padding: [0, 0] }),
            _ => Err(mismatch(self.name(), x, "takes one activation [N, C, H, W]")),
        }
    }
}

impl Op for GlobalAvgPool {
    fn name(&self) -> &'static str {
        "global_avgpool"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        self.window(x)?.output(x)
    }

    fn needs(&self) -> Needs {
        Needs::NOTHING
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        self.window(&[x[0].spec()])?.forward(x, y)
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        self.window(&[n.spec(0)])?.backward(n, dy, dx)
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        x[0].shape.count() as u64
    }
}

// ---- CPU

/// x: [G, C, H, W, L]; y: [G, C, OH, OW, L]. One task = one plane of one group.
fn forward<T: Element>(axes: &[Axis; 2], x: &Tensor, y: &mut Tensor) {
    simd! {
        fn run<T: Element>(x: &[[T; L]], y: &mut [[T; L]], axes: &[Axis; 2], rows: &[Window], columns: &[Window]) {
            let (w, ow) = (axes[1].input, axes[1].output);
            let area = T::Acc::from_f64((axes[0].kernel * axes[1].kernel) as f64);
            for (row, y) in rows.iter().zip(y.chunks_exact_mut(ow)) {
                for (column, y) in columns.iter().zip(y) {
                    let mut sum = Lane::zero();
                    for i in 0..row.taps.len() {
                        for x in &x[(row.start + i) * w + column.start..][..column.taps.len()] {
                            sum = sum.add(Lane::load(x));
                        }
                    }
                    sum.map(|sum| sum / area).store(y);
                }
            }
        }
    }
    let [rows, cols] = axes;
    let (windows_y, windows_x) = (rows.windows(), cols.windows());
    let (plane, out) = (rows.input * cols.input, rows.output * cols.output);
    let y = y.lanes_mut::<T>().par_chunks_mut(out);
    x.lanes::<T>().par_chunks(plane).zip(y).for_each(|(x, y)| run::<T>(x, y, axes, &windows_y, &windows_x));
}

/// dy: [G, C, OH, OW, L]; dx: [G, C, H, W, L]. One task = one plane of one group.
fn backward_input<T: Element>(axes: &[Axis; 2], dy: &Tensor, dx: &mut Slot) {
    simd! {
        fn run<T: Element>(dy: &[[T; L]], dx: &mut [[T; L]], axes: &[Axis; 2], rows: &[Range<usize>], columns: &[Range<usize>], add: bool) {
            let (w, ow) = (axes[1].input, axes[1].output);
            let area = T::Acc::from_f64((axes[0].kernel * axes[1].kernel) as f64);
            for (row, dx) in rows.iter().zip(dx.chunks_exact_mut(w)) {
                for (column, dx) in columns.iter().zip(dx) {
                    let mut sum = Lane::zero();
                    for oy in row.clone() {
                        for dy in &dy[oy * ow + column.start..oy * ow + column.end] {
                            sum = sum.add(Lane::load(dy));
                        }
                    }
                    sum.map(|sum| sum / area).put(dx, add);
                }
            }
        }
    }
    let (dx, add) = dx.open();
    let [rows, cols] = axes;
    let (readers_y, readers_x) = (rows.readers(), cols.readers());
    let (plane, out) = (rows.input * cols.input, rows.output * cols.output);
    let dx = dx.lanes_mut::<T>().par_chunks_mut(plane);
    dy.lanes::<T>().par_chunks(out).zip(dx).for_each(|(dy, dx)| run::<T>(dy, dx, axes, &readers_y, &readers_x, add));
}

// ---- CUDA

mod cuda {
    use super::*;
    use crate::device::cuda::{Launch, kernels::avgpool2d as kernel};

    /// x: [G, C, H, W, L]; y: [G, C, OH, OW, L]. One warp an output pixel.
    pub fn forward<T: Element>(axes: &[Axis; 2], x: &Tensor, y: &mut Tensor) -> Result<()> {
        let d = window::sizes(axes, x.spec());
        let at = Launch::warps(y.device(), (d.planes * d.oh * d.ow) as usize, 8);
        kernel::forward::<T>(at, x.cuda(), y.cuda_mut(), d)
    }

    /// dy: [G, C, OH, OW, L]; dx: [G, C, H, W, L]. One warp an input pixel.
    pub fn backward_input<T: Element>(axes: &[Axis; 2], dy: &Tensor, dx: &mut Slot) -> Result<()> {
        let (dx, add) = dx.open();
        let d = window::sizes(axes, dx.spec());
        let at = Launch::warps(dy.device(), (d.planes * d.h * d.w) as usize, 8);
        kernel::backward_input::<T>(at, dy.cuda(), dx.cuda_mut(), d, add.into())
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let case = |kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2], shape: [usize; 4]| {
        let name = format!("k{kernel:?} s{stride:?} p{padding:?} {shape:?}");
        Case::new(AvgPool2d { kernel, stride, padding }, name, vec![Input::lanes(shape, Draw::Normal)])
    };
    let mut cases = Vec::new();
    for n in BATCHES {
        cases.push(case([3, 3], [2, 2], [1, 1], [n, 1, 5, 4]));
        cases.push(Case::new(GlobalAvgPool, format!("n{n}"), vec![Input::lanes([n, 2, 3, 2], Draw::Normal)]));
    }
    cases.push(case([2, 2], [2, 2], [0, 0], [2, 2, 5, 6]));
    cases.push(case([3, 3], [1, 1], [1, 1], [2, 2, 4, 5]));
    cases.push(case([3, 2], [2, 1], [1, 0], [3, 2, 6, 5]));
    cases.push(case([2, 2], [3, 4], [1, 1], [2, 2, 7, 7]));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Gradients, Tape};
    use crate::ops::add::Add;
    use crate::tensor::DType;

    #[test]
    fn padding_counts_in_the_divisor() {
        let x = Tensor::from_values(Spec::lanes([1, 1, 2, 2], DType::F32), &[9.0f64, 18.0, 27.0, 36.0]);
        let mut tape = Tape::inference();
        let x = tape.input(x);
        let y = tape.apply(AvgPool2d { kernel: [3, 3], stride: [1, 1], padding: [1, 1] }, &[x]).unwrap();
        assert_eq!(tape.value(y).values(), [10.0; 4]);
        let y = tape.apply(GlobalAvgPool, &[x]).unwrap();
        assert_eq!(tape.value(y).values(), [22.5]);
    }

    #[test]
    fn a_second_contribution_is_added_and_empty_lanes_stay_zero() {
        let mut tape = Tape::new();
        let x = tape.leaf(Tensor::from_values(Spec::lanes([1, 1, 2, 2], DType::F32), &[1.0f64, 2.0, 3.0, 4.0]));
        let a = tape.apply(AvgPool2d { kernel: [2, 2], stride: [2, 2], padding: [0, 0] }, &[x]).unwrap();
        let b = tape.apply(GlobalAvgPool, &[x]).unwrap();
        let y = tape.apply(Add, &[a, b]).unwrap();
        tape.backward_from(y, Tensor::from_values(tape.spec(y), &[8.0f64]), &mut Gradients::default()).unwrap();
        let dx = tape.gradient(x).unwrap();
        assert_eq!(dx.values(), [4.0; 4]);
        assert_eq!(dx.data::<f32>().iter().sum::<f32>(), 16.0);
    }

    #[test]
    fn errors_name_the_rule() {
        let x = Spec::lanes([2, 3, 4, 5], DType::F32);
        let op = AvgPool2d { kernel: [5, 2], stride: [1, 1], padding: [0, 0] };
        assert!(op.output(&[x]).unwrap_err().message.contains("avgpool2d: kernel 5 must fit"));
        assert!(GlobalAvgPool.output(&[x.with_shape([2, 60])]).unwrap_err().message.contains("[N, C, H, W]"));
        assert_eq!(GlobalAvgPool.output(&[x]).unwrap().shape, [2, 3, 1, 1].into());
    }
}
