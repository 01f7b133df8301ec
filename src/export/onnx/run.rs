//! Runs an ONNX graph with the plainest of loops: the witness that an exported file computes what the network does.
//!
//! It shares no code with the engine: rows of f32, sums in f64, no lanes, one operator after the other, and only the operators that our
//! exports use, as <https://onnx.ai/onnx/operators> defines them. It is for checking, not for speed. A graph may come from anywhere:
//! whatever does not fit is an error. Read next: `../mod.rs`.

use super::proto::{FLOAT, ModelProto, NodeProto, TensorProto};
use crate::error::{Error, Result};
use prost::Message;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The most numbers a value may have.
const MOST: usize = 1 << 26;

/// Numbers with a shape, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The shape.
    pub dims: Vec<usize>,
    /// The numbers.
    pub data: Vec<f32>,
}

impl Array {
    /// Checks that there are as many numbers as the shape says.
    pub fn new(dims: Vec<usize>, data: Vec<f32>) -> Result<Array> {
        match dims.iter().try_fold(1_usize, |n, &side| n.checked_mul(side)) {
            Some(n) if n == data.len() => Ok(Array { dims, data }),
            _ => Err(bad(format!("{} numbers for the shape {dims:?}", data.len()))),
        }
    }

    fn of<const N: usize>(&self, what: &str) -> Result<[usize; N]> {
        self.dims.as_slice().try_into().map_err(|_| bad(format!("{what} has the shape {:?}, not {N} dimensions", self.dims)))
    }
}

fn bad(why: impl std::fmt::Display) -> Error {
    Error::run(format!("the ONNX graph cannot be run: {why}"))
}

/// Reads a file.
pub fn decode(bytes: &[u8]) -> Result<ModelProto> {
    ModelProto::decode(bytes).map_err(|e| Error::run(format!("not an ONNX file: {e}")))
}

/// The graph's first output for its first input, `x`.
pub fn run(model: &ModelProto, x: Array) -> Result<Array> {
    let graph = model.graph.as_ref().ok_or_else(|| bad("there is none"))?;
    let (Some(input), Some(output)) = (graph.input.first(), graph.output.first()) else { return Err(bad("it has no input or no output")) };
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    let mut values: BTreeMap<&str, Cow<Array>> = BTreeMap::new();
    for tensor in &graph.initializer {
        values.insert(tensor.name(), Cow::Owned(weight(tensor)?));
    }
    values.insert(input.name(), Cow::Owned(x));
    for node in &graph.node {
        let at = |e: Error| Error { message: format!("{} ({}): {}", node.name(), node.op_type(), e.message), ..e };
        let inputs: Vec<&Array> = (node.input.iter())
            .map(|input| values.get(input.as_str()).map(Cow::as_ref).ok_or_else(|| bad(format!("nothing makes '{input}'"))))
            .collect::<Result<_>>()
            .map_err(at)?;
        let y = Operator(node).run(&inputs).map_err(at)?;
        let made = node.output.first().ok_or_else(|| at(bad("it has no output")))?;
        values.insert(made, Cow::Owned(y));
    }
    values.remove(output.name()).map(Cow::into_owned).ok_or_else(|| bad(format!("nothing makes '{}'", name(&output.name))))
}

fn weight(tensor: &TensorProto) -> Result<Array> {
    let raw = tensor.raw_data.as_deref().unwrap_or_default();
    let (numbers, rest) = raw.as_chunks();
    let dims: Option<Vec<usize>> = tensor.dims.iter().map(|&n| usize::try_from(n).ok()).collect();
    match dims {
        Some(dims) if tensor.data_type == Some(FLOAT) && rest.is_empty() => {
            Array::new(dims, numbers.iter().map(|&b| f32::from_le_bytes(b)).collect())
        }
        _ => Err(bad(format!("weight '{}' is not of floats in raw_data", tensor.name()))),
    }
}

/// A node, to be run.
struct Operator<'a>(&'a NodeProto);

/// Windows over the last two dimensions: kernel, strides, rows and columns added before and after, and how many windows there are.
struct Windows {
    kernel: [usize; 2],
    stride: [usize; 2],
    pad: [usize; 2],
    out: [usize; 2],
}

impl Windows {
    /// The part of window `i` along dimension `d` that lies inside `n`: its first tap, the taps, and where the first of them is.
    fn taps(&self, d: usize, i: usize, n: usize) -> (usize, usize, usize) {
        let from = i * self.stride[d];
        let first = self.pad[d].saturating_sub(from).min(self.kernel[d]);
        let last = self.kernel[d].min((n + self.pad[d]).saturating_sub(from));
        (first, last.max(first), (from + first).saturating_sub(self.pad[d]).min(n))
    }
}

impl Operator<'_> {
    fn run(&self, x: &[&Array]) -> Result<Array> {
        match (self.0.op_type(), x) {
            ("Conv", [x, w]) => self.conv(x, w, None),
            ("Conv", [x, w, b]) => self.conv(x, w, Some(b)),
            ("Gemm", [x, w]) => self.gemm(x, w, None),
            ("Gemm", [x, w, b]) => self.gemm(x, w, Some(b)),
            ("BatchNormalization", [x, w, b, mean, var]) => self.batch_normalization(x, [w, b, mean, var]),
            ("MaxPool", [x]) => self.pool(x, f64::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a }, |max, _| max),
            ("AveragePool", [x]) => {
                let all = self.int("count_include_pad", 0) == 1;
                self.pool(x, 0.0, |a, b| a + b, move |sum, [inside, window]| sum / if all { window } else { inside } as f64)
            }
            ("GlobalAveragePool", [x]) => {
                let [n, c, h, w] = x.of("x")?;
                let mean = |plane: &[f32]| (plane.iter().map(|&v| f64::from(v)).sum::<f64>() / plane.len() as f64) as f32;
                Array::new(vec![n, c, 1, 1], x.data.chunks_exact((h * w).max(1)).map(mean).collect())
            }
            ("Relu", [x]) => Ok(Array { dims: x.dims.clone(), data: x.data.iter().map(|&v| v.max(0.0)).collect() }),
            ("LeakyRelu", [x]) => {
                let alpha = self.float("alpha", 0.01);
                Ok(Array { dims: x.dims.clone(), data: x.data.iter().map(|&v| if v < 0.0 { alpha * v } else { v }).collect() })
            }
            ("Add", [a, b]) if a.dims == b.dims => {
                Ok(Array { dims: a.dims.clone(), data: a.data.iter().zip(&b.data).map(|(a, b)| a + b).collect() })
            }
            ("Flatten", [x]) if self.int("axis", 1) == 1 && !x.dims.is_empty() => {
                Array::new(vec![x.dims[0], x.data.len() / x.dims[0].max(1)], x.data.clone())
            }
            ("Softmax" | "LogSoftmax", [x]) => self.softmax(x),
            (_, x) => Err(bad(format!("no such operator is known for inputs of {:?}", x.iter().map(|x| &x.dims).collect::<Vec<_>>()))),
        }
    }

    fn int(&self, name: &str, or: i64) -> i64 {
        self.0.attribute.iter().find(|a| a.name() == name).map_or(or, |a| a.i())
    }

    fn float(&self, name: &str, or: f32) -> f32 {
        self.0.attribute.iter().find(|a| a.name() == name).map_or(or, |a| a.f())
    }

    fn ints<const N: usize>(&self, name: &str, or: [usize; N]) -> Result<[usize; N]> {
        let Some(found) = self.0.attribute.iter().find(|a| a.name() == name) else { return Ok(or) };
        let ints: Option<Vec<usize>> = found.ints.iter().map(|&n| usize::try_from(n).ok().filter(|&n| n <= 1 << 16)).collect();
        ints.and_then(|ints| ints.try_into().ok()).ok_or_else(|| bad(format!("{name} is {:?}", found.ints)))
    }

    /// The windows over pictures of this size.
    fn windows(&self, kernel: [usize; 2], size: [usize; 2]) -> Result<Windows> {
        let (stride, pads) = (self.ints("strides", [1; 2])?, self.ints("pads", [0; 4])?);
        if self.ints("dilations", [1; 2])? != [1; 2] || self.int("group", 1) != 1 || self.int("ceil_mode", 0) != 0 {
            return Err(bad("dilations, groups and ceil_mode are not known here"));
        }
        let out = |d: usize| {
            let room = size[d].checked_add(pads[d] + pads[d + 2])?.checked_sub(kernel[d])?;
            (kernel[d] > 0).then(|| room.checked_div(stride[d]))?.map(|n| n + 1)
        };
        let [Some(height), Some(width)] = [out(0), out(1)] else {
            return Err(bad(format!("a kernel of {kernel:?}, strides {stride:?} and pads {pads:?} do not fit {size:?}")));
        };
        Ok(Windows { kernel, stride, pad: [pads[0], pads[1]], out: [height, width] })
    }

    /// y[n,o,oy,ox] = b[o] + sum over c, ky, kx of x[n,c, oy·sh + ky - ph, ox·sw + kx - pw] · w[o,c,ky,kx]
    fn conv(&self, x: &Array, w: &Array, b: Option<&&Array>) -> Result<Array> {
        let ([n, c, h, wide], [o, c_of_w, kh, kw]) = (x.of("x")?, w.of("the weight")?);
        if c != c_of_w || b.is_some_and(|b| b.dims != [o]) {
            return Err(bad(format!("x {:?}, weight {:?} and bias {:?} do not fit", x.dims, w.dims, b.map(|b| &b.dims))));
        }
        let windows = self.windows(self.ints("kernel_shape", [kh, kw])?, [h, wide])?;
        if windows.kernel != [kh, kw] {
            return Err(bad("kernel_shape is not the weight's"));
        }
        let [oh, ow] = windows.out;
        let mut y = zeros([n, o, oh, ow])?;
        y.data.par_chunks_mut((oh * ow).max(1)).enumerate().for_each(|(plane, y)| {
            let (image, o) = (plane / o, plane % o);
            let bias = b.map_or(0.0, |b| f64::from(b.data[o]));
            for oy in 0..oh {
                let (ky0, ky1, iy) = windows.taps(0, oy, h);
                for ox in 0..ow {
                    let (kx0, kx1, ix) = windows.taps(1, ox, wide);
                    let mut sum = bias;
                    for c_in in 0..c {
                        for ky in ky0..ky1 {
                            let row = ((image * c + c_in) * h + iy + ky - ky0) * wide + ix;
                            let taps = ((o * c + c_in) * kh + ky) * kw;
                            let (x, w) = (&x.data[row..row + kx1 - kx0], &w.data[taps + kx0..taps + kx1]);
                            sum += x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>();
                        }
                    }
                    y[oy * ow + ox] = sum as f32;
                }
            }
        });
        Ok(y)
    }

    /// y[n,f] = b[f] + sum over k of x[n,k] · w[f,k]
    fn gemm(&self, x: &Array, w: &Array, b: Option<&&Array>) -> Result<Array> {
        let ([n, k], [f, k_of_w]) = (x.of("x")?, w.of("the weight")?);
        let plain =
            self.int("transA", 0) == 0 && self.int("transB", 0) == 1 && [self.float("alpha", 1.0), self.float("beta", 1.0)] == [1.0; 2];
        if k != k_of_w || !plain || b.is_some_and(|b| b.dims != [f]) {
            return Err(bad(format!("x {:?}, weight {:?} and bias {:?} do not fit", x.dims, w.dims, b.map(|b| &b.dims))));
        }
        let mut y = zeros([n, f])?;
        for (i, y) in y.data.iter_mut().enumerate() {
            let (x, w) = (&x.data[i / f * k..][..k], &w.data[i % f * k..][..k]);
            let sum: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            *y = (sum + b.map_or(0.0, |b| f64::from(b.data[i % f]))) as f32;
        }
        Ok(y)
    }

    /// y = w · (x - mean) / √(var + ε) + b, each of them one number a channel
    fn batch_normalization(&self, x: &Array, of_channel: [&Array; 4]) -> Result<Array> {
        let (&n, &c) = x.dims.first().zip(x.dims.get(1)).ok_or_else(|| bad("x has no channels"))?;
        if of_channel.iter().any(|a| a.dims != [c]) || self.int("training_mode", 0) != 0 {
            return Err(bad(format!("x is {:?}, but scale, bias, mean or variance are not [{c}]", x.dims)));
        }
        let eps = f64::from(self.float("epsilon", 1e-5));
        let plane = x.data.len() / (n * c).max(1);
        let y = |(i, &x): (usize, &f32)| {
            let [w, b, mean, var] = of_channel.map(|a| f64::from(a.data[i / plane % c]));
            (w * (f64::from(x) - mean) / (var + eps).sqrt() + b) as f32
        };
        Ok(Array { dims: x.dims.clone(), data: x.data.iter().enumerate().map(y).collect() })
    }

    /// `fold` over each window from `first` on, then `end` with the numbers of taps inside the picture and in the window.
    fn pool(&self, x: &Array, first: f64, fold: impl Fn(f64, f64) -> f64, end: impl Fn(f64, [usize; 2]) -> f64) -> Result<Array> {
        let [n, c, h, wide] = x.of("x")?;
        let windows = self.windows(self.ints("kernel_shape", [0; 2])?, [h, wide])?;
        let [oh, ow] = windows.out;
        let mut y = zeros([n, c, oh, ow])?;
        for (i, y) in y.data.iter_mut().enumerate() {
            let (plane, oy, ox) = (i / (oh * ow), i / ow % oh, i % ow);
            let ((ky0, ky1, iy), (kx0, kx1, ix)) = (windows.taps(0, oy, h), windows.taps(1, ox, wide));
            let mut sum = first;
            for ky in 0..ky1 - ky0 {
                let row = (plane * h + iy + ky) * wide + ix;
                sum = x.data[row..row + kx1 - kx0].iter().fold(sum, |sum, &x| fold(sum, x.into()));
            }
            *y = end(sum, [(ky1 - ky0) * (kx1 - kx0), windows.kernel[0] * windows.kernel[1]]) as f32;
        }
        Ok(y)
    }

    /// Over the last dimension of `[N, F]`.
    fn softmax(&self, x: &Array) -> Result<Array> {
        let [_, f] = x.of::<2>("x")?;
        if ![1, -1].contains(&self.int("axis", -1)) {
            return Err(bad("axis is not the last"));
        }
        let log = self.0.op_type() == "LogSoftmax";
        let row = |x: &[f32]| -> Vec<f32> {
            let max = x.iter().fold(f64::NEG_INFINITY, |max, &v| max.max(v.into()));
            let sum: f64 = x.iter().map(|&v| (f64::from(v) - max).exp()).sum();
            let y = |&v: &f32| f64::from(v) - max - sum.ln();
            x.iter().map(|v| if log { y(v) } else { y(v).exp() } as f32).collect()
        };
        Ok(Array { dims: x.dims.clone(), data: x.data.chunks_exact(f.max(1)).flat_map(row).collect() })
    }
}

/// Zeros of a shape that is not too large.
fn zeros<const N: usize>(dims: [usize; N]) -> Result<Array> {
    let count = dims.iter().try_fold(1_usize, |n, &side| n.checked_mul(side)).filter(|&n| n <= MOST);
    let count = count.ok_or_else(|| bad(format!("a value of the shape {dims:?} is too large")))?;
    Ok(Array { dims: dims.to_vec(), data: vec![0.0; count] })
}
