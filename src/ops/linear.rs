//! Linear (fully connected) layer.
//!
//! # Forward
//!
//! ```text
//! y[n,f] = b[f] + Σ_k w[f,k]·x[n,k]          x [N,K]   w [F,K]   b [F]   y [N,F]
//! ```
//!
//! # Backward
//!
//! Let s be the loss and `dy[n,f] = ∂s/∂y[n,f]`. By the chain rule, summing over every y that a variable enters:
//!
//! ```text
//! dx[n,k] = Σ_f dy[n,f]·w[f,k]               x[n,k] enters y[n,f] for every f, with factor w[f,k]
//! dw[f,k] = Σ_n dy[n,f]·x[n,k]               w[f,k] enters y[n,f] for every n, with factor x[n,k]
//! db[f]   = Σ_n dy[n,f]
//! ```
//!
//! Cost: 2·N·F·K FLOP for each of the three sums. Each weight is read once for a block of groups, each x once for a pair of rows
//! of w; the weights dominate the bytes when N is small.
//!
//! On a GPU all three are the same product of matrices: a block owns 32 x 32 numbers of the result and walks along the inner dimension
//! in steps of 32, through tiles in shared memory. Where the first two have too few such blocks, their inner dimension is cut into
//! slices, which a second kernel adds in order. A tile serves 32 rows: w is read once for each group, x once for every 32 features.
//!
//! On the CPU the first two sums run over lane vectors, which carry the images: a task owns a few rows of the result for all
//! images. The third sums over images, so x and dy are first turned to image-major rows and the inner loop runs along k.
//!
//! Read next: `conv2d.rs`.

use super::case::{BATCHES, Case, Draw, Input};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::simd;
use crate::tensor::{Element, L, Lane, Layout, Real, Spec, Stored, Tensor, groups};
use rayon::prelude::*;

/// y = x·wᵀ + b; inputs x `[N,K]`, w `[F,K]` and, if there is a bias, b `[F]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Linear;

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        let rule = "takes x [N,K], w [F,K] and optionally b [F]";
        let (&[x0, w], b) = (x.first_chunk::<2>().ok_or_else(|| mismatch("linear", x, rule))?, x.get(2));
        if x.len() > 3 || x0.layout != Layout::Lanes || x0.shape.len() != 2 || w.shape.len() != 2 {
            return Err(mismatch("linear", x, rule));
        }
        let (k, f) = (x0.shape[1], w.shape[0]);
        if w.shape[1] != k {
            let e = mismatch("linear", x, format!("x brings {k} features and w expects {}", w.shape[1]));
            return Err(e.hint(format!("build the layer with {k} input features")));
        }
        if b.is_some_and(|b| b.shape[..] != [f]) {
            return Err(mismatch("linear", x, format!("b must be [{f}]")));
        }
        Ok(x0.with_shape([x0.shape[0], f]))
    }

    fn needs(&self) -> Needs {
        Needs::INPUTS
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        crate::dispatch!(y.dtype(), T => match y.device() {
            Device::Cpu => forward::<T>(x[0], x[1], x.get(2).copied(), y),
            Device::Cuda(_) => cuda::forward::<T>(x[0], x[1], x.get(2).copied(), y)?,
        });
        Ok(Saved::new())
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        if dx[0].wanted() {
            crate::dispatch!(dy.dtype(), T => match dy.device() {
                Device::Cpu => backward_input::<T>(n.x(1), dy, &mut dx[0]),
                Device::Cuda(_) => cuda::backward_input::<T>(n.x(1), dy, &mut dx[0])?,
            });
        }
        if dx[1..].iter().any(Slot::wanted) {
            crate::dispatch!(dy.dtype(), T => match dy.device() {
                Device::Cpu => backward_weight::<T>(n.x(0), dy, &mut dx[1..]),
                Device::Cuda(_) => cuda::backward_weight::<T>(n.x(0), dy, &mut dx[1..])?,
            });
        }
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        2 * (x[0].shape[0] * x[1].shape.count()) as u64
    }
}

// ---- CPU

/// Rows of the result that one task owns.
const ROWS: usize = 8;
/// Rows that are summed at once, and groups that are: ROWS_AT_ONCE · GROUPS_AT_ONCE lane vectors stay in registers.
const ROWS_AT_ONCE: usize = 2;
const GROUPS_AT_ONCE: usize = 3;

simd! {
    /// out[g][f] = b[f] + Σ_k w[f·wf + k·wk]·x[g][k] for the rows f0, f0 + 1, ...
    ///
    /// x [G][K] lanes; out: for each row its G lane vectors; the strides (wf, wk) let the same sum serve w and its transpose.
    fn rows<T: Element>(x: &[[T; L]], w: &[T], strides: (usize, usize), b: Option<&[T]>, f0: usize, k: usize, out: &mut [&mut [Lane<T::Acc>]]) {
        let g = x.len() / k;
        let mut f = 0;
        while f < out.len() {
            let at_once = if f + ROWS_AT_ONCE <= out.len() { ROWS_AT_ONCE } else { 1 };
            let mut g0 = 0;
            while g0 < g {
                let groups_at_once = if g0 + GROUPS_AT_ONCE <= g { GROUPS_AT_ONCE } else { 1 };
                match (at_once, groups_at_once) {
                    (ROWS_AT_ONCE, GROUPS_AT_ONCE) => block::<T, ROWS_AT_ONCE, GROUPS_AT_ONCE>(x, w, strides, b, f0, f, g0, k, out),
                    (ROWS_AT_ONCE, _) => block::<T, ROWS_AT_ONCE, 1>(x, w, strides, b, f0, f, g0, k, out),
                    (_, GROUPS_AT_ONCE) => block::<T, 1, GROUPS_AT_ONCE>(x, w, strides, b, f0, f, g0, k, out),
                    _ => block::<T, 1, 1>(x, w, strides, b, f0, f, g0, k, out),
                }
                g0 += groups_at_once;
            }
            f += at_once;
        }
    }
}

/// F rows for G groups, all sums in registers.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn block<T: Element, const F: usize, const G: usize>(
    x: &[[T; L]],
    w: &[T],
    (wf, wk): (usize, usize),
    b: Option<&[T]>,
    f0: usize,
    f: usize,
    g0: usize,
    k: usize,
    out: &mut [&mut [Lane<T::Acc>]],
) {
    let mut acc = [[Lane::zero(); G]; F];
    for i in 0..F {
        acc[i] = [Lane::splat(b.map_or(T::Acc::ZERO, |b| b[f0 + f + i].up())); G];
    }
    let mut xs = [x; G];
    for j in 0..G {
        xs[j] = &x[(g0 + j) * k..][..k];
    }
    let mut ws = [w; F];
    for i in 0..F {
        ws[i] = &w[(f0 + f + i) * wf..][..(k - 1) * wk + 1];
    }
    for c in 0..k {
        for i in 0..F {
            let wi = ws[i][c * wk].up();
            for j in 0..G {
                acc[i][j] = Lane::load(&xs[j][c]).fma(wi, acc[i][j]);
            }
        }
    }
    for i in 0..F {
        for j in 0..G {
            out[f + i][g0 + j] = acc[i][j];
        }
    }
}

/// Runs [`rows`] over all `f` rows in parallel and puts the result, [f][G] lane vectors, into y [G][f].
fn product<T: Element>(x: &Tensor, w: &[T], strides: (usize, usize), b: Option<&[T]>, k: usize, y: &mut Tensor, add: bool) {
    let (g, f) = (groups(x.shape()[0]), y.shape()[1]);
    let mut columns = vec![Lane::zero(); f * g];
    let x = x.lanes::<T>();
    columns.par_chunks_mut(ROWS * g).enumerate().for_each(|(task, out)| {
        let mut out: Vec<&mut [Lane<T::Acc>]> = out.chunks_mut(g).collect();
        rows::<T>(x, w, strides, b, task * ROWS, k, &mut out);
    });
    for (g0, y) in y.lanes_mut::<T>().chunks_mut(f).enumerate() {
        for (i, y) in y.iter_mut().enumerate() {
            columns[i * g + g0].put(y, add);
        }
    }
}

/// x [G][K], w [F][K], b [F], y [G][F]
fn forward<T: Element>(x: &Tensor, w: &Tensor, b: Option<&Tensor>, y: &mut Tensor) {
    let k = x.shape()[1];
    product::<T>(x, w.data(), (k, 1), b.map(Tensor::data), k, y, false);
}

/// dy [G][F], w [F][K], dx [G][K]: the same sum with w transposed.
fn backward_input<T: Element>(w: &Tensor, dy: &Tensor, dx: &mut Slot) {
    let [f, k, ..] = w.shape().nchw();
    let (dx, add) = dx.open();
    product::<T>(dy, w.data(), (1, k), None, f, dx, add);
}

/// x [G][K], dy [G][F], dw [F][K], db [F]
fn backward_weight<T: Element>(x: &Tensor, dy: &Tensor, dwb: &mut [Slot]) {
    let (n, k, f) = (x.shape()[0], x.shape()[1], dy.shape()[1]);
    let dy = image_major::<T>(dy);
    if let [_, db] = dwb
        && db.wanted()
    {
        let mut sums = vec![T::Acc::ZERO; f];
        for row in dy.chunks(f) {
            for (sum, &d) in sums.iter_mut().zip(row) {
                *sum = *sum + d;
            }
        }
        super::put(db, &sums);
    }
    if dwb[0].wanted() {
        let x = image_major::<T>(x);
        let mut dw = vec![T::Acc::ZERO; f * k];
        dw.par_chunks_mut(ROWS * k).enumerate().for_each(|(task, dw)| outer::<T>(&x, &dy, dw, task * ROWS, n, k, f));
        super::put(&mut dwb[0], &dw);
    }
}

simd! {
    /// dw[f][k] = Σ_n dy[n][f]·x[n][k] for the rows from f0 on. x [N][K], dy [N][F], dw [rows][K]
    fn outer<T: Element>(x: &[T::Acc], dy: &[T::Acc], dw: &mut [T::Acc], f0: usize, n: usize, k: usize, f: usize) {
        /// Columns k at once: four lane vectors of two rows stay in registers.
        const COLUMNS: usize = 3 * L;
        let mut f1 = 0;
        for pair in dw.chunks_mut(2 * k) {
            let (dw0, dw1) = pair.split_at_mut(k);
            let second = f0 + f1 + usize::from(!dw1.is_empty());
            let whole = k - k % COLUMNS;
            for k0 in (0..whole).step_by(COLUMNS) {
                let mut acc = [[T::Acc::ZERO; COLUMNS]; 2];
                for i in 0..n {
                    let (d0, d1) = (dy[i * f + f0 + f1], dy[i * f + second]);
                    let x = &x[i * k + k0..][..COLUMNS];
                    for j in 0..COLUMNS {
                        acc[0][j] = x[j].mul_add(d0, acc[0][j]);
                        acc[1][j] = x[j].mul_add(d1, acc[1][j]);
                    }
                }
                dw0[k0..][..COLUMNS].copy_from_slice(&acc[0]);
                if !dw1.is_empty() {
                    dw1[k0..][..COLUMNS].copy_from_slice(&acc[1]);
                }
            }
            for k0 in whole..k {
                let mut acc = [T::Acc::ZERO; 2];
                for i in 0..n {
                    acc[0] = x[i * k + k0].mul_add(dy[i * f + f0 + f1], acc[0]);
                    acc[1] = x[i * k + k0].mul_add(dy[i * f + second], acc[1]);
                }
                dw0[k0] = acc[0];
                if !dw1.is_empty() {
                    dw1[k0] = acc[1];
                }
            }
            f1 += 2;
        }
    }
}

/// x [G][K] lanes -> [N][K] rows; empty lanes are left out.
fn image_major<T: Element>(x: &Tensor) -> Vec<T::Acc> {
    let (n, k) = (x.shape()[0], x.shape().per_image());
    let x = x.lanes::<T>();
    let mut rows = vec![T::Acc::ZERO; n * k];
    rows.par_chunks_mut(L * k).enumerate().for_each(|(g, rows)| {
        for (l, row) in rows.chunks_mut(k).enumerate() {
            for (j, r) in row.iter_mut().enumerate() {
                *r = x[g * k + j][l].up();
            }
        }
    });
    rows
}

// ---- CUDA

mod cuda {
    use super::*;
    use crate::device::cuda::kernels::linear::{self as kernel, Dims};
    use crate::device::cuda::{Const, Launch, Mut};

    /// As in the kernel.
    const SIDE: usize = 32;
    const THREADS: usize = 64;
    /// Four blocks for each multiprocessor of a large GPU: two warps a block hide no latency alone.
    const BLOCKS: usize = 512;

    /// How one of the two sums is cut, and where its slices go before they are added.
    fn cut<T: Element>(y: Spec, inner: usize) -> (Dims, Launch, Option<Tensor>) {
        let (groups, rows) = (y.groups(), y.shape.per_image());
        let blocks = groups * rows.div_ceil(SIDE);
        // A slice is worth its second pass over the result only if it is long.
        let slices = (BLOCKS / blocks.max(1)).min(inner.div_ceil(4 * SIDE)).max(1);
        let d = Dims { groups: groups as i32, rows: rows as i32, inner: inner as i32, slices: slices as i32 };
        let partial = Spec::rows([slices, y.stored()], T::Acc::DTYPE).on(y.device);
        (d, Launch::new(y.device, [rows.div_ceil(SIDE), groups, slices], [THREADS, 1, 1]), (slices > 1).then(|| Tensor::new(partial)))
    }

    /// x [G][K], w [F][K], b [F], y [G][F]
    pub fn forward<T: Element>(x: &Tensor, w: &Tensor, b: Option<&Tensor>, y: &mut Tensor) -> Result<()> {
        let (d, at, mut partial) = cut::<T>(y.spec(), x.shape()[1]);
        let b = b.map_or(Const::null(), Tensor::cuda);
        let slices = partial.as_mut().map_or(Mut::null(), Tensor::cuda_mut);
        kernel::forward::<T>(at, x.cuda(), w.cuda(), b, y.cuda_mut(), slices, d)?;
        partial.map_or(Ok(()), |partial| total::<T>(&partial, b, y, d, false))
    }

    /// dy [G][F], w [F][K], dx [G][K]
    pub fn backward_input<T: Element>(w: &Tensor, dy: &Tensor, dx: &mut Slot) -> Result<()> {
        let (dx, add) = dx.open();
        let (d, at, mut partial) = cut::<T>(dx.spec(), dy.shape()[1]);
        let slices = partial.as_mut().map_or(Mut::null(), Tensor::cuda_mut);
        kernel::backward_input::<T>(at, dy.cuda(), w.cuda(), dx.cuda_mut(), slices, d, add.into())?;
        partial.map_or(Ok(()), |partial| total::<T>(&partial, Const::null(), dx, d, add))
    }

    fn total<T: Element>(partial: &Tensor, b: Const<T>, y: &mut Tensor, d: Dims, add: bool) -> Result<()> {
        let at = Launch::each(y.device(), y.spec().stored(), 256);
        kernel::total::<T>(at, partial.cuda(), b, y.cuda_mut(), d, add.into())
    }

    /// x [G][K], dy [G][F], dw [F][K], db [F]
    pub fn backward_weight<T: Element>(x: &Tensor, dy: &Tensor, dwb: &mut [Slot]) -> Result<()> {
        let (groups, k, f) = (x.spec().groups(), x.shape()[1], dy.shape()[1]);
        let at = Launch::new(dy.device(), [k.div_ceil(SIDE), f.div_ceil(SIDE), 1], [THREADS, 1, 1]);
        let mut gradients = dwb.iter_mut().map(crate::ops::gradient::<T>);
        let ((dw, add_weight), (db, add_bias)) =
            (gradients.next().unwrap_or((Mut::null(), 0)), gradients.next().unwrap_or((Mut::null(), 0)));
        kernel::backward_weight::<T>(at, x.cuda(), dy.cuda(), dw, db, groups as i32, k as i32, f as i32, add_weight, add_bias)
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |n: usize, k: usize, f: usize, bias: bool| {
        let mut inputs = vec![Input::lanes([n, k], Draw::Normal), Input::rows([f, k], Draw::Normal)];
        if bias {
            inputs.push(Input::rows([f], Draw::Normal));
        }
        cases.push(Case::new(Linear, format!("{k}->{f}{} n{n}", if bias { "" } else { " no bias" }), inputs));
    };
    for n in BATCHES {
        case(n, 7, 3, true);
    }
    case(50, 5, 10, true);
    case(2, 1, 1, false);
    case(3, 49, 9, false);
    // On a GPU, an inner dimension of two slices, in either direction.
    case(2, 129, 2, true);
    case(2, 2, 129, true);
    cases
}
