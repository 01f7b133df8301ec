//! Dropout: zeros at random, in training only.
//!
//! # Forward
//!
//! ```text
//! y = m·x        m = 0            with probability p
//!                    1 / (1 - p)  otherwise
//! ```
//!
//! The factor 1 / (1 - p) keeps the mean of y equal to x, so evaluation needs no change. With `channels` (PyTorch's Dropout2d)
//! one m is drawn for a whole plane (n, c).
//!
//! # The mask
//!
//! m is not stored but computed, twice, as a pure function of who asks. Element e of x is number e = (n·C + c)·H·W + h·W + w in
//! row-major order (e = n·C + c with `channels`), whatever the layout or the device, and
//!
//! ```text
//! u = word (e mod 4) of Philox_seed(e div 4, step, step >> 32, layer), its upper 24 bits as a number in [0, 1)
//! m = 0 exactly if u < p
//! ```
//!
//! The step is an input of the op, two words, so that on a GPU a captured step can draw anew each time it is replayed.
//!
//! u is a multiple of 2^-24, so u < p is the same as (word >> 8) < ceil(p·2^24): the kernel compares integers.
//!
//! # Backward
//!
//! m does not depend on x, so the Jacobian is diagonal with m on it:
//!
//! ```text
//! dx = m·dy
//! ```
//!
//! the very same computation, with the same mask drawn again. Nothing is kept.
//!
//! Cost per element: one multiplication, and a quarter of Philox's 20 wide multiplications and 40 other operations; forward moves
//! 2 numbers, backward 2. Bound by the drawing, unless `channels` shares each draw among H·W elements.
//!
//! Read next: `tensor/rng.rs`.

use super::case::{BATCHES, Case, Draw, Input};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::simd;
use crate::tensor::{DType, Element, L, Lane, Layout, Philox, Real, Shape, Spec, Stored, Tensor};
use rayon::prelude::*;
use std::hint::select_unpredictable;

/// y = m·x with a random mask m that is a function of (seed, step, layer, element). Inputs x `[N, C, ...]` in lanes and the number of
/// the training step, i32 `[2]`: its low and its high word ([`step`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The probability of a zero: at least 0 and below 1.
    pub p: f64,
    /// The seed of the run.
    pub seed: u64,
    /// The number of the layer: another mask in each.
    pub layer: u32,
    /// Drop whole planes (n, c) instead of single elements.
    pub channels: bool,
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        if self.channels { "dropout2d" } else { "dropout" }
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        if !(0.0..1.0).contains(&self.p) {
            return Err(mismatch(self.name(), x, format!("p = {} must be at least 0 and below 1", self.p)));
        }
        match x {
            [x, step] if x.layout == Layout::Lanes && x.shape.len() >= 2 && *step == Spec::rows([2], DType::I32).on(x.device) => Ok(*x),
            _ => Err(mismatch(self.name(), x, "takes an activation [N, C, ...] and the step, i32 [2]")),
        }
    }

    fn needs(&self) -> Needs {
        Needs { inputs: 0b10, output: false }
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        crate::dispatch!(y.dtype(), T => match y.device() {
            Device::Cpu => forward::<T>(self, x[0], x[1], y),
            Device::Cuda(_) => cuda::forward::<T>(self, x[0], x[1], y)?,
        });
        Ok(Saved::new())
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        if dx[0].wanted() {
            crate::dispatch!(dy.dtype(), T => match dy.device() {
                Device::Cpu => backward_input::<T>(self, n.x(1), dy, &mut dx[0]),
                Device::Cuda(_) => cuda::backward_input::<T>(self, n.x(1), dy, &mut dx[0])?,
            });
        }
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        x[0].shape.count() as u64
    }
}

/// The number of a training step as [`Dropout`] takes it.
pub fn step(number: u64, device: Device) -> Tensor {
    Tensor::from_values(Spec::rows([2], DType::I32).on(device), &[number as u32 as i32, (number >> 32) as i32])
}

impl Dropout {
    /// How many masks an image needs, and how many neighbouring elements share one.
    fn masks(&self, x: Shape) -> [usize; 2] {
        let [_, c, h, w] = x.nchw();
        if self.channels { [c, h * w] } else { [c * h * w, 1] }
    }
}

// ---- CPU

/// Masks that one task draws for each image of its group; a multiple of 4.
const CHUNK: usize = 256;

/// x, y: [G, masks, span, L]; step: `[2]`.
fn forward<T: Element>(op: &Dropout, x: &Tensor, step: &Tensor, y: &mut Tensor) {
    let shape = x.shape();
    mask::<T>(op, shape, step, x.lanes(), y.lanes_mut(), false);
}

/// dy, dx: [G, masks, span, L]; step: `[2]`.
fn backward_input<T: Element>(op: &Dropout, step: &Tensor, dy: &Tensor, dx: &mut Slot) {
    let (dx, add) = dx.open();
    mask::<T>(op, dy.shape(), step, dy.lanes(), dx.lanes_mut(), add);
}

/// y (+)= m·x. One task = up to `CHUNK` masks of each image of one group.
fn mask<T: Element>(op: &Dropout, shape: Shape, step: &Tensor, x: &[[T; L]], y: &mut [[T; L]], add: bool) {
    simd! {
        fn run<T: Element>(op: &Dropout, step: [u32; 2], first: [u64; L], x: &[[T; L]], y: &mut [[T; L]], span: usize, add: bool) {
            let rng = Philox::new(op.seed);
            let dropped_below = (op.p * 16_777_216.0).ceil() as u32;
            let keep = T::Acc::from_f64(1.0 / (1.0 - op.p));
            // The images' elements follow each other, so those of an image may begin inside a block of four words: `offset`
            // words into it. Two neighbouring blocks hold the four words that four neighbouring masks take.
            let offset = first.map(|e| (e % 4) as u32);
            let mut counter = first.map(|e| (e / 4) as u32);
            let rest = [step[0], step[1], op.layer].map(|word| [word; L]);
            let mut words = rng.lanes([counter, rest[0], rest[1], rest[2]]);
            for (x, y) in x.chunks(4 * span).zip(y.chunks_mut(4 * span)) {
                counter = counter.map(|c| c.wrapping_add(1));
                let next = rng.lanes([counter, rest[0], rest[1], rest[2]]);
                let both = [words[0], words[1], words[2], words[3], next[0], next[1], next[2], next[3]];
                words = next;
                let mut m = [Lane::splat(keep); 4];
                for i in 0..4 {
                    let mut word = both[i];
                    for shift in 1..4 {
                        for l in 0..L {
                            word[l] = select_unpredictable(offset[l] == shift as u32, both[i + shift][l], word[l]);
                        }
                    }
                    for l in 0..L {
                        m[i].0[l] = select_unpredictable(word[l] >> 8 < dropped_below, T::Acc::ZERO, keep);
                    }
                }
                for ((x, y), m) in x.chunks(span).zip(y.chunks_mut(span)).zip(m) {
                    for (x, y) in x.iter().zip(y) {
                        Lane::load(x).zip(m, |x, m| x * m).put(y, add);
                    }
                }
            }
        }
    }
    let step = [0, 1].map(|i| step.data::<i32>()[i] as u32);
    let [masks, span] = op.masks(shape);
    let image = (masks * span).max(1);
    let groups = x.par_chunks(image).zip(y.par_chunks_mut(image)).enumerate();
    groups.for_each(|(g, (x, y))| {
        let chunks = x.par_chunks(CHUNK * span).zip(y.par_chunks_mut(CHUNK * span)).enumerate();
        chunks.for_each(|(i, (x, y))| {
            let first = std::array::from_fn(|l| ((g * L + l) * masks + i * CHUNK) as u64);
            run::<T>(op, step, first, x, y, span, add);
        });
    });
}

// ---- CUDA

mod cuda {
    use super::*;
    use crate::device::cuda::kernels::dropout::{self as kernel, Mask};
    use crate::device::cuda::{Const, Launch, Mut};

    /// x, y: [G, masks, span, L]; step: `[2]`.
    pub fn forward<T: Element>(op: &Dropout, x: &Tensor, step: &Tensor, y: &mut Tensor) -> Result<()> {
        mask::<T>(op, x.spec(), step, x.cuda(), y.cuda_mut(), false)
    }

    /// dy, dx: [G, masks, span, L]; step: `[2]`.
    pub fn backward_input<T: Element>(op: &Dropout, step: &Tensor, dy: &Tensor, dx: &mut Slot) -> Result<()> {
        let (dx, add) = dx.open();
        mask::<T>(op, dy.spec(), step, dy.cuda(), dx.cuda_mut(), add)
    }

    /// y (+)= m·x. One warp draws four neighbouring masks of each of its images.
    fn mask<T: Element>(op: &Dropout, x: Spec, step: &Tensor, from: Const<T>, to: Mut<T>, add: bool) -> Result<()> {
        let [masks, span] = op.masks(x.shape);
        let d = Mask {
            seed: op.seed,
            layer: op.layer,
            dropped_below: (op.p * 16_777_216.0).ceil() as u32,
            masks: masks as i32,
            span: span as i32,
        };
        let keep = T::Acc::from_f64(1.0 / (1.0 - op.p));
        let at = Launch::new(x.device, [masks.div_ceil(32), x.groups(), 1], [32, 8, 1]);
        kernel::mask::<T>(at, from, step.cuda(), to, d, keep, add.into())
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let case = |p: f64, channels: bool, shape: &[usize]| {
        let op = Dropout { p, seed: 5, layer: 2, channels };
        let step = Input::rows([2], Draw::Labels(1 << 30)).fixed();
        Case::new(op, format!("p {p} {shape:?}"), vec![Input::lanes(shape, Draw::Normal), step])
    };
    let mut cases = Vec::new();
    for n in BATCHES {
        cases.push(case(0.5, false, &[n, 3, 3, 2]));
        cases.push(case(0.25, true, &[n, 5, 2, 2]));
    }
    cases.push(case(0.0, false, &[2, 2, 2, 2]));
    cases.push(case(0.9, false, &[3, 7]));
    cases.push(case(0.3, false, &[1, 4, 9, 9]));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Gradients, Tape};
    use crate::ops::add::Add;
    use crate::tensor::rng::unit;

    const OP: Dropout = Dropout { p: 0.3, seed: 1 << 40 | 9, layer: 6, channels: false };
    const STEP: u64 = 1 << 32 | 4;

    /// The mask itself: dropout of ones, and its gradient for dy = 1, which must be the same.
    fn drawn(op: Dropout, shape: impl Into<Shape>, dtype: DType) -> Vec<f64> {
        drawn_at(op, STEP, shape, dtype)
    }

    fn drawn_at(op: Dropout, number: u64, shape: impl Into<Shape>, dtype: DType) -> Vec<f64> {
        let shape = shape.into();
        let ones = Tensor::from_values(Spec::lanes(shape, dtype), &vec![1.0f64; shape.count()]);
        let mut tape = Tape::new();
        let (x, number) = (tape.leaf(ones.clone()), tape.input(step(number, Device::Cpu)));
        let y = tape.apply(op, &[x, number]).unwrap();
        let m = tape.value(y).values();
        tape.backward_from(y, ones, &mut Gradients::default()).unwrap();
        let dx = tape.gradient(x).unwrap();
        assert_eq!(dx.values(), m);
        let lanes = dx.to_dtype(DType::F64).data::<f64>().iter().sum::<f64>();
        assert!((lanes - m.iter().sum::<f64>()).abs() < 1e-9, "an empty lane has a gradient");
        m
    }

    /// Element by element from the definition, where images begin at every offset in a block of four words.
    #[test]
    fn the_mask_is_the_documented_function() {
        for (shape, channels) in [
            ([18, 2, 3, 4], false),
            ([18, 3, 3, 3], false),
            ([19, 7, 5, 17], false),
            ([33, 1, 1, 2], false),
            ([18, 7, 2, 2], true),
            ([17, 300, 1, 1], true),
        ] {
            let rng = Philox::new(OP.seed);
            let span = if channels { shape[2] * shape[3] } else { 1 };
            let expected: Vec<f64> = (0..shape.iter().product::<usize>())
                .map(|i| {
                    let e = i / span;
                    let word = rng.words([(e / 4) as u32, 4, 1, 6])[e % 4];
                    if f64::from(unit(word)) < OP.p { 0.0 } else { 1.0 / (1.0 - OP.p) }
                })
                .collect();
            let op = Dropout { channels, ..OP };
            assert_eq!(drawn(op, shape, DType::F64), expected, "{shape:?}");
            let zeros = |m: Vec<f64>| m.iter().map(|&m| m == 0.0).collect::<Vec<_>>();
            assert_eq!(zeros(drawn(op, shape, DType::F32)), zeros(expected));
        }
    }

    #[test]
    fn the_rate_is_p_and_the_mean_is_kept() {
        for p in [0.1, 0.5, 0.8] {
            let m = drawn(Dropout { p, ..OP }, [64, 1000], DType::F64);
            let rate = m.iter().filter(|&&m| m == 0.0).count() as f64 / m.len() as f64;
            assert!((rate - p).abs() < 5.0 * (p * (1.0 - p) / m.len() as f64).sqrt(), "{p}: {rate}");
            assert!((m.iter().sum::<f64>() / m.len() as f64 - 1.0).abs() < 0.05);
        }
        assert_eq!(drawn(Dropout { p: 0.0, ..OP }, [2, 50], DType::F32), [1.0; 100]);
    }

    #[test]
    fn every_seed_step_and_layer_has_its_own_mask() {
        let m = drawn(OP, [4, 40], DType::F32);
        assert_eq!(m, drawn(OP, [4, 40], DType::F32));
        for (other, number) in [(OP, 4), (OP, STEP + 1), (Dropout { layer: 7, ..OP }, STEP), (Dropout { seed: 9, ..OP }, STEP)] {
            assert_ne!(m, drawn_at(other, number, [4, 40], DType::F32), "{other:?} {number}");
        }
    }

    #[test]
    fn a_second_contribution_is_added() {
        let ones = Tensor::from_values(Spec::lanes([2, 20], DType::F64), &[1.0f64; 40]);
        let mut tape = Tape::new();
        let (x, number) = (tape.leaf(ones.clone()), tape.input(step(STEP, Device::Cpu)));
        let (a, b) = (tape.apply(OP, &[x, number]).unwrap(), tape.apply(OP, &[x, number]).unwrap());
        let y = tape.apply(Add, &[a, b]).unwrap();
        tape.backward_from(y, ones, &mut Gradients::default()).unwrap();
        let twice: Vec<f64> = drawn(OP, [2, 20], DType::F64).iter().map(|m| 2.0 * m).collect();
        assert_eq!(tape.gradient(x).unwrap().values(), twice);
    }

    #[test]
    fn errors_name_the_rule() {
        let (x, number) = (Spec::lanes([2, 3], DType::F32), Spec::rows([2], DType::I32));
        for p in [1.0, -0.1, f64::NAN] {
            assert!(Dropout { p, ..OP }.output(&[x, number]).unwrap_err().message.contains("below 1"));
        }
        assert!(OP.output(&[Spec { layout: Layout::Rows, ..x }, number]).unwrap_err().message.contains("[N, C, ...]"));
        assert!(OP.output(&[x]).unwrap_err().message.contains("the step"));
        assert_eq!(OP.output(&[x, number]).unwrap(), x);
    }
}
