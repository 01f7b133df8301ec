//! Where the windows of a pooling lie, one axis at a time.
//!
//! Output pixel o of an axis reads input pixels o·stride + k - padding for k = 0..kernel, as far as they lie on the picture. The
//! pooling kernels ask here once for all ranges, both ways ([`Axis::windows`], [`Axis::readers`]), so that their inner loops
//! have no branch for the border. This is index arithmetic only. Read next: `maxpool2d.rs`.

use crate::autograd::op::mismatch;
use crate::device::cuda::kernels::Windows;
use crate::error::Result;
use crate::tensor::{Layout, Spec};
use std::ops::Range;

/// The windows of a pooling along one axis, height or width.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    /// Pixels of x.
    pub input: usize,
    /// Pixels of y: floor((input + 2·padding - kernel) / stride) + 1.
    pub output: usize,
    /// Pixels of a window.
    pub kernel: usize,
    /// Pixels from one window to the next.
    pub stride: usize,
    /// Pixels beyond each edge; at most kernel / 2.
    pub padding: usize,
}

/// What one window covers along one axis: `taps` of the kernel, of which the first lies on input pixel `start`.
#[derive(Debug, Clone)]
pub struct Window {
    /// The first input pixel it covers.
    pub start: usize,
    /// The kernel's taps that lie on the picture.
    pub taps: Range<usize>,
}

impl Axis {
    /// For each output pixel, the part of its window that lies on the picture; never empty.
    pub fn windows(&self) -> Vec<Window> {
        let window = |o: usize| {
            let corner = o * self.stride; // the window's first pixel, counted from the edge of the padding
            let taps = self.padding.saturating_sub(corner)..self.kernel.min(self.input + self.padding - corner);
            Window { start: corner + taps.start - self.padding, taps }
        };
        (0..self.output).map(window).collect()
    }

    /// For each input pixel, the output pixels whose windows cover it; empty between windows that leave gaps.
    pub fn readers(&self) -> Vec<Range<usize>> {
        let reader = |i: usize| {
            let end = ((i + self.padding) / self.stride + 1).min(self.output);
            let start = (i + self.padding + 1).saturating_sub(self.kernel).div_ceil(self.stride);
            // Nothing may be computed from the start of an empty range: it lies beyond the pixel.
            if start < end { start..end } else { 0..0 }
        };
        (0..self.input).map(reader).collect()
    }
}

/// Rows and columns of a pooling of x: [N, C, H, W]; the error names `op` and the rule that is broken.
pub fn axes(op: &str, x: &[Spec], kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Result<[Axis; 2]> {
    let [.., h, w] = match x {
        [x] if x.layout == Layout::Lanes && x.shape.len() == 4 => x.shape.nchw(),
        _ => return Err(mismatch(op, x, "takes one activation [N, C, H, W]")),
    };
    let axis = |i: usize, input: usize| {
        let (kernel, stride, padding) = (kernel[i], stride[i], padding[i]);
        if kernel == 0 || stride == 0 || input == 0 {
            return Err(mismatch(op, x, format!("kernel {kernel}, stride {stride} and picture {input} must be at least 1")));
        }
        if padding > kernel / 2 {
            return Err(mismatch(op, x, format!("padding {padding} must be at most half of kernel {kernel}")));
        }
        if kernel > input + 2 * padding {
            return Err(mismatch(op, x, format!("kernel {kernel} must fit into {input} pixels and twice padding {padding}")));
        }
        Ok(Axis { input, output: (input + 2 * padding - kernel) / stride + 1, kernel, stride, padding })
    };
    Ok([axis(0, h)?, axis(1, w)?])
}

/// The same for a kernel: all sizes of a pooling of x.
pub fn sizes(axes: &[Axis; 2], x: Spec) -> Windows {
    let [rows, cols] = axes;
    let planes = x.groups() * x.shape[1];
    let [planes, h, w, oh, ow] = [planes, rows.input, cols.input, rows.output, cols.output].map(|d| d as i32);
    let [kh, kw, sh, sw, ph, pw] = [rows.kernel, cols.kernel, rows.stride, cols.stride, rows.padding, cols.padding].map(|d| d as i32);
    Windows { planes, h, w, oh, ow, kh, kw, sh, sw, ph, pw }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    /// Every window holds a pixel, lies on the picture, and is among the readers of exactly the pixels it covers.
    #[test]
    fn no_window_is_empty_and_readers_are_the_inverse_of_windows() {
        for (input, kernel, stride) in (1..8).flat_map(|i| (1..6).flat_map(move |k| (1..5).map(move |s| (i, k, s)))) {
            for padding in 0..=kernel / 2 {
                let spec = Spec::lanes([1, 1, input, 1], DType::F32);
                let Ok([axis, _]) = axes("test", &[spec], [kernel, 1], [stride, 1], [padding, 0]) else {
                    assert!(kernel > input + 2 * padding);
                    continue;
                };
                let (windows, readers) = (axis.windows(), axis.readers());
                assert_eq!((windows.len(), readers.len()), (axis.output, input));
                for (o, window) in windows.iter().enumerate() {
                    assert!(!window.taps.is_empty() && window.taps.end <= kernel && window.start + window.taps.len() <= input);
                    assert_eq!(window.start + padding, o * stride + window.taps.start);
                    for i in 0..input {
                        let covers = (window.start..window.start + window.taps.len()).contains(&i);
                        assert_eq!(covers, readers[i].contains(&o), "{axis:?} {i} {o}");
                    }
                }
            }
        }
    }
}
