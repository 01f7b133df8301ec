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
//! Cost: 2·N·F·K FLOP for each of the three sums. Each weight is read from the first-level cache once for each group (AVX-512: four
//! groups), each x once for five or six rows of w; the weights dominate the bytes when N is small.
//!
//! On a GPU all three are the same product of matrices: a block owns 32 x 32 numbers of the result and walks along the inner dimension
//! in steps of 32, through tiles in shared memory. Where the first two have too few such blocks, their inner dimension is cut into
//! slices, which a second kernel adds in order. A tile serves 32 rows: w is read once for each group, x once for every 32 features.
//!
//! On the CPU the first two sums run over lane vectors, which carry the images: a task owns a few rows of the result for all
//! images. The third sums over images, so x and dy are first turned to blocks of all images and the inner loop runs along k. Large layers
//! take a matrix unit, if the CPU has one (`amx/linear.rs`).
//!
//! Read next: `conv2d.rs`.

use super::amx;
use super::case::{BATCHES, Case, Draw, Input};
use super::correlate::Scratch;
use super::taps::planes;
use super::tile::{Strides, Tap, dot, strip};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
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

/// Rows of the result that one task owns: whole lines of cache in w's columns, and so many that x is read seldom.
const ROWS: usize = 2 * L;

/// Panels of so many columns that are copied from the rows of a transposed w together.
const PANELS: usize = 4;

/// Products of a sum that are added up at a time: so few that what they read stays in the first-level cache for all rows of a task.
const TAPS: usize = 128;

/// [`strip`], in stretches of its taps.
#[allow(clippy::too_many_arguments)]
fn in_stretches<A: Real>(
    x: &[[A; L]],
    w: &[A],
    b: Option<&[A]>,
    taps: &[Tap],
    out: &mut [[A; L]],
    counts: [usize; 2],
    strides: &Strides,
    add: bool,
) {
    for (i, taps) in taps.chunks(TAPS).enumerate() {
        strip::<A>(x, w, b.filter(|_| i == 0), taps, out, counts, strides, add || i > 0);
    }
}

/// y[g][f] (+)= b[f] + Σ_k x[g][k]·w[f][k], or with w[k][f] if `transposed`.
fn product<T: Element>(x: &Tensor, w: &Tensor, transposed: bool, b: Option<&Tensor>, y: &mut Tensor, add: bool) {
    let unit = amx::unit::<T>().filter(|_| amx::linear::pays(x, x.shape()[1], y.shape()[1], false));
    let (w, b) = (super::sums::<T>(w.data()), b.map(|b| super::sums::<T>(b.data())));
    let (g, f) = (groups(x.shape()[0]), y.shape()[1]);
    // [f][g]: what a task writes lies together.
    let columns = match unit {
        Some(unit) if transposed => amx::linear::backward_input::<T>(unit, x, &w),
        Some(unit) => amx::linear::forward::<T>(unit, x, &w, b.as_deref()),
        None => columns::<T>(x, &w, transposed, b.as_deref(), f),
    };
    let columns = columns.lanes::<T::Acc>();
    y.lanes_mut::<T>().par_chunks_mut(f).enumerate().for_each(|(g0, y)| {
        for (i, y) in y.iter_mut().enumerate() {
            Lane(columns[i * g + g0]).put(y, add);
        }
    });
}

/// y[f][g] = b[f] + Σ_k x[g][k]·w[f][k], or with w[k][f] if `transposed`.
///
/// Groups take the place of a tile's pixels, and the inner dimension that of its taps.
fn columns<T: Element>(x: &Tensor, w: &[T::Acc], transposed: bool, b: Option<&[T::Acc]>, f: usize) -> Tensor {
    let (g, k) = (groups(x.shape()[0]), x.shape()[1]);
    let mut scratch = Scratch::default();
    let x = scratch.sums::<T>(x.lanes::<T>());
    let mut columns = Tensor::new(Spec::lanes([L, f * g], T::Acc::DTYPE));
    let of_task = if transposed { PANELS * ROWS } else { ROWS };
    let tasks = columns.lanes_mut::<T::Acc>().par_chunks_mut(of_task * g).enumerate();
    tasks.for_each_init(Scratch::default, |room, (task, out)| {
        let f0 = task * of_task;
        let panels = transposed.then(|| {
            let room = room.room::<T::Acc>(k * of_task / L).as_flattened_mut();
            in_panels(&w[f0..], f, out.len() / g, room)
        });
        for (i, out) in out.chunks_mut(ROWS * g).enumerate() {
            let f0 = f0 + i * ROWS;
            let b = b.map(|b| &b[f0..]);
            let (w, wf, wk) = match panels {
                Some(panels) => (&panels[i * k * ROWS..], 1, ROWS),
                None => (&w[f0 * k..], k, 1),
            };
            let (taps, strides) = (dot(k, 1, wk), Strides { x: k, w: wf, out: [g, 1] });
            in_stretches::<T::Acc>(x, w, b, &taps, out, [out.len() / g, g], &strides, false);
        }
    });
    columns
}

/// Some columns of w `[K][F]`, of which `w` begins with the first, as panels `[PANELS][K][ROWS]`; what lies beyond them is left as it was.
///
/// A column of w would fall into few sets of the cache, and one panel's piece of a row is too short for the memory to see what comes next.
fn in_panels<'a, A: Real>(w: &[A], f: usize, columns: usize, panels: &'a mut [A]) -> &'a [A] {
    let of_panel = panels.len() / PANELS;
    for (row, w) in w.chunks(f).enumerate() {
        for (panel, w) in panels.chunks_mut(of_panel).zip(w[..columns.min(w.len())].chunks(ROWS)) {
            let to = &mut panel[row * ROWS..][..ROWS];
            match w.first_chunk::<ROWS>() {
                Some(w) => to.copy_from_slice(w),
                None => to[..w.len()].copy_from_slice(w),
            }
        }
    }
    panels
}

/// x [G][K], w [F][K], b [F], y [G][F]
fn forward<T: Element>(x: &Tensor, w: &Tensor, b: Option<&Tensor>, y: &mut Tensor) {
    product::<T>(x, w, false, b, y, false);
}

/// dy [G][F], w [F][K], dx [G][K]: the same sum with w transposed.
fn backward_input<T: Element>(w: &Tensor, dy: &Tensor, dx: &mut Slot) {
    let (dx, add) = dx.open();
    product::<T>(dy, w, true, None, dx, add);
}

/// x [G][K], dy [G][F], dw [F][K], db [F]
fn backward_weight<T: Element>(x: &Tensor, dy: &Tensor, dwb: &mut [Slot]) {
    if let [_, db] = dwb
        && db.wanted()
    {
        super::put(db, &planes::<T>(dy.lanes(), dy.shape()[1], 1));
    }
    if !dwb[0].wanted() {
        return;
    }
    let unit = amx::unit::<T>().filter(|_| amx::linear::pays(x, x.shape()[1], dy.shape()[1], true));
    let (dw, add) = dwb[0].open();
    match unit {
        Some(unit) => amx::linear::backward_weight::<T>(unit, x, dy, dw.data_mut(), add),
        None => weights::<T>(x, dy, dw.data_mut(), add),
    }
}

/// dw[f][k] (+)= Σ_n dy[n][f]·x[n][k]
///
/// Sixteen k take the place of a tile's pixel, and the images that of its taps.
fn weights<T: Element>(x: &Tensor, dy: &Tensor, dw: &mut [T::Acc], add: bool) {
    let (n, k) = (x.shape()[0], x.shape()[1]);
    let (x, dy) = (by_images::<T, L>(x), by_images::<T, ROWS>(dy));
    let (x, dy, blocks) = (x.data::<T::Acc>().as_chunks::<L>().0, dy.data::<T::Acc>(), k.div_ceil(L));
    let (taps, strides) = (dot(n, 1, ROWS), Strides { x: n, w: 1, out: [blocks, 1] });
    dw.par_chunks_mut(ROWS * k).enumerate().for_each_init(Scratch::default, |scratch, (task, dw)| {
        let (dy, counts) = (&dy[task * n * ROWS..][..n * ROWS], [dw.len() / k, blocks]);
        if k.is_multiple_of(L) {
            return in_stretches::<T::Acc>(x, dy, None, &taps, dw.as_chunks_mut::<L>().0, counts, &strides, add);
        }
        let rows = scratch.room::<T::Acc>(counts[0] * blocks);
        in_stretches::<T::Acc>(x, dy, None, &taps, rows, counts, &strides, false);
        for (dw, row) in dw.chunks_mut(k).zip(rows.chunks(blocks)) {
            for (dw, &sum) in dw.iter_mut().zip(row.as_flattened()) {
                *dw = if add { *dw + sum } else { sum };
            }
        }
    });
}

/// x [G][K] lanes -> [K/B][N][B], filled up with zeros; empty lanes are left out. All that a tile reads of one block lies together: rows as
/// long as K would be a page each.
fn by_images<T: Element, const B: usize>(x: &Tensor) -> Tensor {
    let (n, k) = (x.shape()[0], x.shape().per_image());
    let x = x.lanes::<T>();
    let mut blocks = Tensor::new(Spec::rows([k.div_ceil(B), n, B], T::Acc::DTYPE));
    blocks.data_mut::<T::Acc>().par_chunks_mut(n * B).enumerate().for_each(|(block, rows)| {
        for (g, rows) in rows.chunks_mut(L * B).enumerate() {
            let x = &x[g * k + block * B..g * k + k.min((block + 1) * B)];
            for (l, row) in rows.chunks_exact_mut(B).enumerate() {
                row.iter_mut().zip(x).for_each(|(r, x)| *r = x[l].up());
                row[x.len()..].fill(T::Acc::ZERO);
            }
        }
    });
    blocks
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
