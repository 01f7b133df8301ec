//! What stands behind a convolution, done to its sums while they are in the caches: batch norm by running statistics, the sum with a shortcut, ReLU,
//! and a max-pool whose windows lie side by side.
//!
//! This is not an op. The ops are those of `batchnorm.rs`, `norm_relu.rs`, `norm_relu_pool.rs`, `maxpool2d.rs` and `relu.rs`; here they work on some rows of
//! one group's sums at a time, as soon as these are there, and the sums themselves never leave the caches: they lie in a scratch that every group uses
//! anew. One by one each op reads from memory what the one before it wrote. An op that shall be done like this, too, gets its line in [`Finish::new`]. The numbers are the same to the last bit (in half precision more exact, as
//! sums are not rounded in between).
//!
//! In training a batch norm needs its statistics first, so there only ReLU and max-pools are done like this; their backward needs
//! their own output, or winners' places, and a convolution's needs none of what lies between. Read next: `conv2d.rs`, below `// ---- CPU`.

use super::batchnorm::BatchNormEval;
use super::correlate::Scratch;
use super::maxpool2d::{MaxPool2d, NOBODY};
use super::moments::running;
use super::norm_relu::NormRelu;
use super::norm_relu_pool::NormReluPool;
use super::normalise::Affine;
use super::relu::Relu;
use crate::autograd::Op;
use crate::simd;
use crate::tensor::{DType, Element, L, Lane, Real, Spec, Tensor, Vector, load, store};
use std::any::Any;

/// Gets the sums of a group of images and how many of their rows, from above, are there.
pub(super) type Rows<'a, A> = dyn FnMut(&mut [[A; L]], usize) + 'a;

/// Where the sums of a convolution go.
pub(super) enum End<'a, T: Element> {
    /// To a tensor, or, if so told, added to it.
    Put(&'a mut Tensor, bool),
    /// Through a [`Finish`] to its output, and to winners' places if there are any.
    Through(&'a Finish<'a, T>, &'a mut Tensor, Option<&'a mut Tensor>),
}

/// What is done to a convolution's sums.
pub(super) struct Finish<'a, T: Element> {
    how: How<T::Acc>,
    shortcut: Option<&'a Tensor>,
    /// Does backward follow?
    learns: bool,
}

pub(super) struct How<A> {
    /// Of the sums: planes, rows, columns.
    sums: [usize; 3],
    /// One for each plane, if there is a batch norm.
    channels: Option<Vec<Affine<A>>>,
    /// The side of a max-pool's windows; 1 without one.
    side: usize,
    rectify: bool,
}

/// The part of a group of images in an [`End`].
pub(super) enum Group<'a, T: Element> {
    Put(&'a mut [[T; L]], bool),
    Through { how: &'a How<T::Acc>, shortcut: &'a [[T; L]], z: &'a mut [[T; L]], at: &'a mut [[u8; L]] },
}

impl<'a, T: Element> Finish<'a, T> {
    /// The way to do `next` to sums of so many planes, rows and columns, if there is one; `rest`: what it reads beside the sums. `learns`: does
    /// backward follow?
    pub(super) fn new(next: &dyn Op, rest: &[&'a Tensor], sums: [usize; 3], learns: bool) -> Option<Self> {
        let next = next as &dyn Any;
        let norm = |eps: f64| match rest {
            [w, b, mean, var, ..] if !learns => {
                let saved = running::<T>(mean, var, eps);
                Some(Some(Affine::each(w, b, &saved[0], &saved[1])))
            }
            _ => None,
        };
        let (channels, side, rectify) = if let Some(op) = next.downcast_ref::<BatchNormEval>() {
            (norm(op.eps)?, 1, false)
        } else if let Some(op) = next.downcast_ref::<NormRelu>().filter(|op| op.running) {
            (norm(op.eps)?, 1, true)
        } else if let Some(op) = next.downcast_ref::<NormReluPool>().filter(|op| op.running) {
            (norm(op.eps)?, 2, true)
        } else if let Some(op) = next.downcast_ref::<MaxPool2d>() {
            let side = op.kernel[0];
            if op.kernel != [side; 2] || op.stride != [side; 2] || op.padding != [0; 2] || !(2..=4).contains(&side) {
                return None;
            }
            (None, side, op.rectify)
        } else if next.downcast_ref::<Relu>().is_some_and(|op| op.slope == 0.0) {
            (None, 1, true)
        } else {
            return None;
        };
        Some(Finish { how: How { sums, channels, side, rectify }, shortcut: rest.get(4).copied(), learns })
    }

    /// For the winners' places of an output z, if backward needs them.
    pub(super) fn places(&self, z: Spec) -> Option<Tensor> {
        (self.learns && self.how.side > 1).then(|| Tensor::new(Spec { dtype: DType::U8, ..z }))
    }
}

impl<'a, T: Element> End<'a, T> {
    /// What belongs to each group of images.
    pub(super) fn groups(self) -> Vec<Group<'a, T>> {
        match self {
            End::Put(y, add) => {
                let of_group = y.spec().stored() / L / y.spec().groups();
                y.lanes_mut::<T>().chunks_mut(of_group).map(|y| Group::Put(y, add)).collect()
            }
            End::Through(Finish { how, shortcut, .. }, z, at) => {
                let of_group = z.spec().stored() / L / z.spec().groups();
                let mut at = at.map(|at| at.lanes_mut::<u8>().chunks_mut(of_group));
                let mut shortcut = shortcut.map(|s| s.lanes::<T>().chunks(of_group));
                let group = |z| Group::Through {
                    how,
                    shortcut: shortcut.as_mut().and_then(Iterator::next).unwrap_or(&[]),
                    z,
                    at: at.as_mut().and_then(Iterator::next).unwrap_or(&mut []),
                };
                z.lanes_mut::<T>().chunks_mut(of_group).map(group).collect()
            }
        }
    }
}

impl<T: Element> Group<'_, T> {
    /// Lets `sum` write all sums of the group, or add to what is there if told so. Where it is to say after each row, or some, how many are there, it
    /// calls the function that it gets.
    pub(super) fn fill(self, scratch: &mut Scratch, mut sum: impl FnMut(&mut [[T::Acc; L]], bool, &mut Rows<T::Acc>)) {
        match self {
            Group::Put(y, add) => match T::as_acc_mut(y) {
                Some(y) => sum(y, add, &mut |_, _| ()),
                None => {
                    let room = scratch.room::<T::Acc>(y.len());
                    sum(room, false, &mut |_, _| ());
                    for (y, sum) in y.iter_mut().zip(room) {
                        Lane(*sum).put(y, add);
                    }
                }
            },
            Group::Through { how, shortcut, z, at } => {
                let mut from = 0;
                sum(scratch.room::<T::Acc>(how.sums.iter().product()), false, &mut |sums, rows| {
                    how.finish::<T>(sums, from..rows / how.side, shortcut, z, at);
                    from = rows / how.side;
                });
            }
        }
    }
}

impl<A: Real> How<A> {
    /// Writes the rows `rows` of z.
    fn finish<T: Element<Acc = A>>(
        &self,
        sums: &[[A; L]],
        rows: std::ops::Range<usize>,
        shortcut: &[[T; L]],
        z: &mut [[T; L]],
        at: &mut [[u8; L]],
    ) {
        let [planes, height, width] = self.sums;
        let [out_height, out_width] = [height, width].map(|size| size / self.side);
        for c in 0..planes {
            let read = (c * height + rows.start * self.side) * width..(c * height + rows.end * self.side) * width;
            let written = (c * out_height + rows.start) * out_width..(c * out_height + rows.end) * out_width;
            let (shortcut, at) = (shortcut.get(written.clone()), at.get_mut(written.clone()));
            let affine = self.channels.as_ref().map(|channels| channels[c]);
            run::<T>(&sums[read], shortcut, &mut z[written], at, affine, width, self.side, self.rectify);
        }
    }
}

simd! {
    /// Whole rows of one plane; x may have surplus columns, which belong to no window.
    fn run<T: Element>(
        x: &[[T::Acc; L]],
        shortcut: Option<&[[T; L]]>,
        z: &mut [[T; L]],
        at: Option<&mut [[u8; L]]>,
        affine: Option<Affine<T::Acc>>,
        width: usize,
        side: usize,
        rectify: bool,
    ) {
        match (side, affine) {
            (1, Some(affine)) => normalised::<T, V>(x, shortcut, z, affine, rectify),
            (1, None) => pooled::<T, V, 1>(x, z, at, width, rectify, |x| x),
            (2, Some(k)) => {
                let [mean, scale, b] = [k.mean, k.scale, k.b].map(V::splat);
                pooled::<T, V, 2>(x, z, at, width, rectify, |x| x.minus(mean).fma(scale, b));
            }
            (2, None) => pooled::<T, V, 2>(x, z, at, width, rectify, |x| x),
            (3, _) => pooled::<T, V, 3>(x, z, at, width, rectify, |x| x),
            _ => pooled::<T, V, 4>(x, z, at, width, rectify, |x| x),
        }
    }
}

/// z = affine(x) + shortcut, then perhaps ReLU.
#[inline(always)]
fn normalised<T: Element, V: Vector<T::Acc>>(
    x: &[[T::Acc; L]],
    shortcut: Option<&[[T; L]]>,
    z: &mut [[T; L]],
    k: Affine<T::Acc>,
    rectify: bool,
) {
    let ([mean, scale, b], zero) = ([k.mean, k.scale, k.b].map(V::splat), V::splat(T::Acc::ZERO));
    for (i, (x, z)) in x.iter().zip(z).enumerate() {
        let mut v = V::load(x).minus(mean).fma(scale, b);
        if let Some(shortcut) = shortcut {
            v = v.plus(load::<T, V>(&shortcut[i]));
        }
        if rectify {
            let mut positive = zero;
            v.challenge(&mut positive, &mut [NOBODY; L], 0);
            v = positive;
        }
        store(v, z);
    }
}

/// The largest f(x) of each window of S x S, and where it was, as `maxpool2d.rs` has it.
#[inline(always)]
fn pooled<T: Element, V: Vector<T::Acc>, const S: usize>(
    x: &[[T::Acc; L]],
    z: &mut [[T; L]],
    mut at: Option<&mut [[u8; L]]>,
    width: usize,
    rectify: bool,
    f: impl Fn(V) -> V,
) {
    let (least, nobody) = if rectify { (T::Acc::ZERO, NOBODY) } else { (T::Acc::NEG_INFINITY, 0) };
    let out_width = width / S;
    for (j, (x, z)) in x.chunks_exact(S * width).zip(z.chunks_exact_mut(out_width)).enumerate() {
        for (i, z) in z.iter_mut().enumerate() {
            let (mut best, mut places) = (V::splat(least), [nobody; L]);
            for place in 0..S * S {
                f(V::load(&x[place / S * width + S * i + place % S])).challenge(&mut best, &mut places, place as u8);
            }
            store(best, z);
            if let Some(at) = &mut at {
                at[j * out_width + i] = places;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Applied, Gradients, Tape, Var};
    use crate::ops::conv2d::Conv2d;
    use crate::tensor::Philox;
    use std::sync::Arc;

    /// Planes in, rows, columns; planes out, kernel, padding: by direct sums, by Winograd's algorithm, and on the matrix unit where there is one.
    const SHAPES: [([usize; 3], usize, usize, usize); 4] =
        [([1, 12, 13], 3, 5, 0), ([16, 9, 10], 17, 3, 1), ([33, 8, 8], 40, 3, 1), ([10, 12, 12], 20, 5, 0)];

    fn pool(side: usize, rectify: bool) -> MaxPool2d {
        MaxPool2d { kernel: [side; 2], stride: [side; 2], padding: [0; 2], rectify }
    }

    /// Ops behind a convolution, and how many inputs each has beside its output. Those without others can be one with it where backward follows, too.
    fn behind() -> Vec<(Arc<dyn Op>, usize)> {
        let eps = 1e-5;
        let mut ops: Vec<(Arc<dyn Op>, usize)> = vec![
            (Arc::new(BatchNormEval { eps }), 4),
            (Arc::new(NormRelu { eps, running: true, shortcut: false }), 4),
            (Arc::new(NormRelu { eps, running: true, shortcut: true }), 5),
            (Arc::new(NormReluPool { eps, running: true }), 4),
            (Arc::new(Relu { slope: 0.0 }), 0),
        ];
        for side in 2..=4 {
            ops.extend([false, true].map(|rectify| (Arc::new(pool(side, rectify)) as Arc<dyn Op>, 0)));
        }
        ops
    }

    /// Numbers of few digits, so that some are equal.
    fn draw(stream: u64, spec: Spec) -> Tensor {
        let rng = Philox::new(11);
        let values: Vec<f64> = (0..spec.shape.count() as u64).map(|i| (rng.normal(stream, i) * 8.0).round() / 8.0).collect();
        Tensor::from_values(spec, &values)
    }

    /// A convolution and `next`, at once or one after another: the output and, if backward follows, the gradients of x, w and b.
    fn results(
        shape: &([usize; 3], usize, usize, usize),
        n: usize,
        dtype: DType,
        (next, others): (Arc<dyn Op>, usize),
        learns: bool,
        at_once: bool,
    ) -> Vec<Vec<f64>> {
        let &([c, h, w], o, k, padding) = shape;
        let op: Arc<dyn Op> = Arc::new(Conv2d { stride: [1; 2], padding: [padding; 2] });
        let mut tape = if learns { Tape::new() } else { Tape::inference() };
        let row = |stream| draw(stream, Spec::rows([o], dtype.acc()));
        let specs = [Spec::lanes([n, c, h, w], dtype), Spec::rows([o, c, k, k], dtype), Spec::rows([o], dtype)];
        let inputs: Vec<Var> = (0..).zip(specs).map(|(i, spec)| tape.leaf(draw(i, spec))).collect();
        let between = op.output(&specs).unwrap();
        let var = Tensor::from_values(Spec::rows([o], dtype.acc()), &vec![0.7; o]);
        let rest: Vec<Var> = [row(3), row(4), row(5), var, draw(6, between)].into_iter().take(others).map(|t| tape.input(t)).collect();
        let label = Arc::from("");
        let applied = |op: &Arc<dyn Op>| -> Applied<'_> { (&label, op.clone()) };
        let z = if at_once {
            tape.apply_two(applied(&op), &inputs, applied(&next), &rest).unwrap()
        } else {
            let y = tape.apply_at(&label, op, &inputs).unwrap();
            tape.apply_at(&label, next, &[&[y], &rest[..]].concat()).unwrap()
        };
        let mut results = vec![tape.value(z).values()];
        if learns {
            tape.backward_from(z, draw(7, tape.spec(z)), &mut Gradients::default()).unwrap();
            results.extend(inputs.iter().map(|&x| tape.gradient(x).unwrap().values()));
        }
        results
    }

    /// Of numbers whose zeros have lost their sign: ReLU makes -0 of what is below, others 0.
    fn bits(all: &[Vec<f64>]) -> Vec<Vec<u64>> {
        all.iter().map(|x| x.iter().map(|x| (x + 0.0).to_bits()).collect()).collect()
    }

    #[test]
    fn it_is_its_ops_one_after_another() {
        for (i, shape) in SHAPES.iter().enumerate() {
            for next in behind() {
                for (dtype, n, learns) in
                    [(DType::F32, [1, 2, 17, 33][i], false), (DType::F64, 17, false), (DType::F32, 17, true), (DType::F64, 2, true)]
                {
                    let [ours, theirs] = [true, false].map(|at_once| results(shape, n, dtype, next.clone(), learns, at_once));
                    assert!(bits(&ours) == bits(&theirs), "{next:?} behind {shape:?}, {n} images of {dtype}, backward {learns}");
                }
            }
        }
    }

    #[test]
    fn in_half_precision_it_is_near_them() {
        for next in behind() {
            let [ours, exact] = [DType::Bf16, DType::F32].map(|dtype| results(&SHAPES[1], 17, dtype, next.clone(), false, true).remove(0));
            for (a, b) in ours.iter().zip(&exact) {
                assert!((a - b).abs() <= 0.01 * b.abs().max(1.0), "{next:?}: {a} and {b}");
            }
        }
    }

    #[test]
    fn it_is_taken_where_it_can_be() {
        let ([c, h, w], o, k, _) = SHAPES[0];
        let conv = Conv2d { stride: [1; 2], padding: [0; 2] };
        let inputs = [draw(0, Spec::lanes([2, c, h, w], DType::F32)), draw(1, Spec::rows([o, c, k, k], DType::F32))];
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        let y = conv.output(&[inputs[0].spec(), inputs[1].spec()]).unwrap();
        let taken = |next: &dyn Op, learns: bool| {
            let (row, shortcut) = (draw(2, Spec::rows([o], DType::F32)), draw(3, y));
            let rest = [&row, &row, &row, &row, &shortcut];
            let side = (next as &dyn Any).downcast_ref::<MaxPool2d>().map_or(1, |op| op.kernel[0]);
            let side = if next.name() == "norm_relu_pool" { 2 } else { side };
            let z = y.with_shape([2, o, y.shape[2] / side, y.shape[3] / side]);
            conv.forward_with(&inputs, next, &rest, z, learns).is_some()
        };
        for (next, others) in behind() {
            assert!(taken(next.as_ref(), false), "{next:?}");
            assert_eq!(taken(next.as_ref(), true), others == 0, "{next:?}");
        }
        let others: [&dyn Op; 5] = [
            &MaxPool2d { kernel: [3; 2], stride: [1; 2], padding: [1; 2], rectify: false },
            &pool(5, true),
            &Relu { slope: 0.01 },
            &NormRelu { eps: 1e-5, running: false, shortcut: false },
            &NormReluPool { eps: 1e-5, running: false },
        ];
        for next in others {
            assert!(!taken(next, false), "{next:?}");
        }
    }

    #[test]
    fn nan_is_passed_on() {
        let spec = Spec::lanes([1, 1, 4, 4], DType::F32);
        let mut pixels = vec![1.0; 16];
        pixels[5] = f64::NAN;
        let x = [Tensor::from_values(spec, &pixels), Tensor::from_values(Spec::rows([1, 1, 1, 1], DType::F32), &[1.0])];
        let x: Vec<&Tensor> = x.iter().collect();
        let conv = Conv2d { stride: [1; 2], padding: [0; 2] };
        for (next, side, place) in [(&pool(2, true) as &dyn Op, 2, 0), (&Relu { slope: 0.0 }, 1, 5)] {
            let (z, _) = conv.forward_with(&x, next, &[], spec.with_shape([1, 1, 4 / side, 4 / side]), false).unwrap();
            let places: Vec<usize> = z.values().iter().enumerate().filter(|(_, z)| z.is_nan()).map(|(i, _)| i).collect();
            assert_eq!(places, [place]);
        }
    }
}
