//! The passes of a batch norm over a batch, alone or together with what follows it: the sum with a shortcut, and ReLU.
//!
//! This is not an op. `batchnorm.rs` derives the formulas and `norm_relu.rs` what changes when ReLU follows. Each pass reads
//! every tensor once; they are bound by memory, so a pass that is saved is time that is saved.
//!
//! Forward and dx have nothing to do with lanes and run along memory; sums are kept lane by lane, as the last group may not be full. Read
//! next: `batchnorm.rs`, below `// ---- CPU`.

use super::moments::{PIECE, planes_per_task};
use crate::autograd::Slot;
use crate::simd;
use crate::tensor::{Element, L, Lane, Real, Tensor, Vector, filled, load, store};
use rayon::prelude::*;

/// x -> (x - mean)·scale + b, of one channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Affine<A> {
    pub(super) mean: A,
    pub(super) scale: A,
    pub(super) b: A,
}

impl<A: Real> Affine<A> {
    /// One for each channel; all inputs `[C]`.
    pub(super) fn each(w: &Tensor, b: &Tensor, mean: &Tensor, inv_std: &Tensor) -> Vec<Affine<A>> {
        let [w, b, mean, inv_std] = [w, b, mean, inv_std].map(Tensor::values);
        let one = |i: usize| [mean[i], w[i] * inv_std[i], b[i]].map(A::from_f64);
        (0..w.len()).map(one).map(|[mean, scale, b]| Affine { mean, scale, b }).collect()
    }

    #[inline(always)]
    fn of(self, x: A) -> A {
        (x - self.mean).mul_add(self.scale, self.b)
    }
}

/// max(x, 0), and NaN for NaN.
#[inline(always)]
fn relu<A: Real>(x: A) -> A {
    if x <= A::ZERO { A::ZERO } else { x }
}

/// y = affine(x) + skip, then perhaps ReLU; x, skip, y `[N, C, H, W]` in lanes.
pub(super) fn forward<T: Element>(x: &Tensor, skip: Option<&Tensor>, channels: &[Affine<T::Acc>], rectify: bool, y: &mut Tensor) {
    simd! {
        fn run<T: Element>(x: &[T], skip: Option<&[T]>, y: &mut [T], k: Affine<T::Acc>, rectify: bool) {
            match (skip, rectify) {
                (None, false) => x.iter().zip(y).for_each(|(x, y)| *y = T::down(k.of(x.up()))),
                (None, true) => x.iter().zip(y).for_each(|(x, y)| *y = T::down(relu(k.of(x.up())))),
                (Some(skip), false) => {
                    x.iter().zip(skip).zip(y).for_each(|((x, s), y)| *y = T::down(k.of(x.up()) + s.up()));
                }
                (Some(skip), true) => {
                    x.iter().zip(skip).zip(y).for_each(|((x, s), y)| *y = T::down(relu(k.of(x.up()) + s.up())));
                }
            }
        }
    }
    let plane = plane(x);
    let skip = skip.map(Tensor::lanes::<T>);
    let y = y.lanes_mut::<T>().par_chunks_mut(plane);
    x.lanes::<T>().par_chunks(plane).zip(y).with_min_len(planes_per_task(plane)).enumerate().for_each(|(i, (x, y))| {
        let skip = skip.map(|skip| skip[i * plane..][..plane].as_flattened());
        run::<T>(x.as_flattened(), skip, y.as_flattened_mut(), channels[i % channels.len()], rectify);
    });
}

/// Where dy passes; elsewhere it is stopped and counts as 0.
pub(super) enum Gate<'a> {
    /// Everywhere.
    Open,
    /// Where affine(x) > 0: behind a ReLU.
    Affine,
    /// Where y > 0: behind a sum and a ReLU. What passes is written to the second tensor.
    Output(&'a Tensor, &'a mut Tensor),
}

/// x, dy `[N, C, H, W]` in lanes -> Σ d·(x - mean) and Σ d for each channel, where d is what passes of dy.
pub(super) fn sums<T: Element>(x: &Tensor, dy: &Tensor, channels: &[Affine<T::Acc>], gate: Gate) -> Vec<[f64; 2]> {
    simd! {
        fn open<T: Element>(x: &[[T; L]], dy: &[[T; L]], k: Affine<T::Acc>) -> [[T::Acc; L]; 2] {
            let (mean, mut sums) = (V::splat(k.mean), [V::splat(T::Acc::ZERO); 2]);
            for (x, dy) in x.iter().zip(dy) {
                let d: V = load(dy);
                sums = [load::<T, V>(x).minus(mean).fma(d, sums[0]), sums[1].plus(d)];
            }
            both(sums)
        }
    }
    simd! {
        fn affine<T: Element>(x: &[[T; L]], dy: &[[T; L]], k: Affine<T::Acc>) -> [[T::Acc; L]; 2] {
            let [mean, scale, b] = [V::splat(k.mean), V::splat(k.scale), V::splat(k.b)];
            let mut sums = [V::splat(T::Acc::ZERO); 2];
            for (x, dy) in x.iter().zip(dy) {
                let x = load::<T, V>(x).minus(mean);
                let d = x.fma(scale, b).gate(load(dy));
                sums = [x.fma(d, sums[0]), sums[1].plus(d)];
            }
            both(sums)
        }
    }
    simd! {
        fn output<T: Element>(x: &[[T; L]], dy: &[[T; L]], y: &[[T; L]], d: &mut [[T; L]], k: Affine<T::Acc>) -> [[T::Acc; L]; 2] {
            let (mean, mut sums) = (V::splat(k.mean), [V::splat(T::Acc::ZERO); 2]);
            for (((x, dy), y), to) in x.iter().zip(dy).zip(y).zip(d) {
                let d = load::<T, V>(y).gate(load(dy));
                store(d, to);
                sums = [load::<T, V>(x).minus(mean).fma(d, sums[0]), sums[1].plus(d)];
            }
            both(sums)
        }
    }
    let (plane, [images, c, ..]) = (plane(x), x.shape().nchw());
    let pairs = x.lanes::<T>().par_chunks(plane).zip(dy.lanes::<T>().par_chunks(plane)).with_min_len(planes_per_task(plane));
    let planes: Vec<[f64; 2]> = match gate {
        Gate::Output(y, d) => {
            let (y, d) = (y.lanes::<T>().par_chunks(plane), d.lanes_mut::<T>().par_chunks_mut(plane));
            let planes = pairs.zip(y).zip(d).enumerate().map(|(i, (((x, dy), y), d))| {
                let pieces = x.chunks(PIECE).zip(dy.chunks(PIECE)).zip(y.chunks(PIECE)).zip(d.chunks_mut(PIECE));
                total(filled(images, i / c), pieces.map(|(((x, dy), y), d)| output::<T>(x, dy, y, d, channels[i % c])))
            });
            planes.collect()
        }
        gate => {
            let run = if let Gate::Affine = gate { affine::<T> } else { open::<T> };
            let planes = pairs.enumerate().map(|(i, (x, dy))| {
                let pieces = x.chunks(PIECE).zip(dy.chunks(PIECE));
                total(filled(images, i / c), pieces.map(|(x, dy)| run(x, dy, channels[i % c])))
            });
            planes.collect()
        }
    };
    of_channels(&planes, c)
}

/// Two sums over a plane with `n` lanes filled: one piece at a time, the pieces together in f64.
pub(super) fn total<A: Real>(n: usize, pieces: impl Iterator<Item = [[A; L]; 2]>) -> [f64; 2] {
    pieces.map(|piece| piece.map(|sum| Lane(sum).sum(n).to_f64())).fold([0.0; 2], plus)
}

/// Two sums of each of c channels, from those of their planes, groups first.
pub(super) fn of_channels(planes: &[[f64; 2]], c: usize) -> Vec<[f64; 2]> {
    (0..c).map(|i| planes[i..].iter().step_by(c).copied().fold([0.0; 2], plus)).collect()
}

fn plus(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0] + b[0], a[1] + b[1]]
}

#[inline(always)]
fn both<A: Real, V: Vector<A>>(sums: [V; 2]) -> [[A; L]; 2] {
    let mut out = [[A::ZERO; L]; 2];
    for i in 0..2 {
        sums[i].store(&mut out[i]);
    }
    out
}

/// x, dy, dx `[N, C, H, W]` in lanes: dx (+)= a·d + k·(x - mean) + q with `[a, k, q]` of each channel, where d is dy, or what passes of it
/// where affine(x) > 0.
pub(super) fn backward_input<T: Element>(
    x: &Tensor,
    dy: &Tensor,
    dx: &mut Slot,
    channels: &[Affine<T::Acc>],
    factors: &[[T::Acc; 3]],
    rectified: bool,
) {
    simd! {
        fn run<T: Element>(x: &[T], dy: &[T], dx: &mut [T], s: Affine<T::Acc>, factors: [T::Acc; 3], rectified: bool, add: bool) {
            let [a, k, q] = factors;
            let all = x.iter().zip(dy).zip(dx);
            let d = |x: T::Acc, dy: T::Acc| a.mul_add(dy, k.mul_add(x - s.mean, q));
            let gated = |x: T::Acc, dy: T::Acc| d(x, if s.of(x) > T::Acc::ZERO { dy } else { T::Acc::ZERO });
            match (rectified, add) {
                (false, false) => all.for_each(|((x, dy), dx)| *dx = T::down(d(x.up(), dy.up()))),
                (false, true) => all.for_each(|((x, dy), dx)| *dx = T::down(dx.up() + d(x.up(), dy.up()))),
                (true, false) => all.for_each(|((x, dy), dx)| *dx = T::down(gated(x.up(), dy.up()))),
                (true, true) => all.for_each(|((x, dy), dx)| *dx = T::down(dx.up() + gated(x.up(), dy.up()))),
            }
        }
    }
    let (plane, [images, c, ..]) = (plane(x), x.shape().nchw());
    let (dx, add) = dx.open();
    let dx = dx.lanes_mut::<T>().par_chunks_mut(plane);
    let dy = dy.lanes::<T>().par_chunks(plane);
    let planes = x.lanes::<T>().par_chunks(plane).zip(dy).zip(dx).with_min_len(planes_per_task(plane)).enumerate();
    planes.for_each(|(i, ((x, dy), dx))| {
        let (s, f) = (channels[i % c], factors[i % c]);
        run::<T>(x.as_flattened(), dy.as_flattened(), dx.as_flattened_mut(), s, f, rectified, add);
        // q would reach the empty lanes.
        let n = filled(images, i / c);
        if n < L {
            dx.iter_mut().for_each(|dx| dx[n..].fill(T::down(T::Acc::ZERO)));
        }
    });
}

/// Lane vectors of one channel and group.
fn plane(x: &Tensor) -> usize {
    let [.., h, w] = x.shape().nchw();
    (h * w).max(1)
}
