//! Two-dimensional convolution (as in every framework: a cross-correlation, the kernel is not flipped).
//!
//! # Forward
//!
//! ```text
//! y[n,o,oh,ow] = b[o] + Σ_c Σ_kh Σ_kw w[o,c,kh,kw]·x[n, c, oh·sh + kh − ph, ow·sw + kw − pw]
//!
//! x [N,C,H,W]   w [O,C,KH,KW]   b [O]   y [N,O,OH,OW]   OH = ⌊(H + 2ph − KH)/sh⌋ + 1, OW alike; x is 0 outside
//! ```
//!
//! # Backward
//!
//! Each y is a sum of products, so ∂y/∂x is the weight it was multiplied with and ∂y/∂w the pixel. Summing dy·∂y/∂· over all y:
//!
//! ```text
//! dw[o,c,kh,kw] = Σ_n Σ_oh Σ_ow dy[n,o,oh,ow]·x[n, c, oh·sh + kh − ph, ow·sw + kw − pw]
//! db[o]         = Σ_n Σ_oh Σ_ow dy[n,o,oh,ow]
//! dx[n,c,h,w]   = Σ_o Σ_kh Σ_kw w[o,c,kh,kw]·dy[n,o,oh,ow]     over those with oh·sh + kh − ph = h and ow·sw + kw − pw = w
//! ```
//!
//! The condition in dx has a solution oh only for kh ≡ h + ph (mod sh). So the input rows fall into sh classes (and the columns
//! into sw), each with taps kh = k0, k0 + sh, ... of its own, and within a class
//!
//! ```text
//! h = r + j·sh,  k0 = (r + ph) mod sh,  kh = k0 + t·sh   gives   oh = j + (r + ph − k0)/sh − t
//! ```
//!
//! which is again a convolution with stride 1, over dy, with the taps in reverse order: forward and dx are one inner loop with
//! different grids (`correlate.rs`), and nothing is multiplied with the zeros that a stride would insert.
//!
//! Cost: 2·N·O·OH·OW·C·KH·KW FLOP for each of y, dx and dw. One pass reads x and writes y; the weights stay in cache.
//!
//! dw sums over pixels and images, so each task (on a GPU: each warp) sums a share of them for some of the weights, and the shares are
//! added in order. Where the kernel is 3x3 or 5x5 and the stride 1, all three may take fewer
//! multiplications (`winograd.rs`, `winograd/dw.rs`), and where the CPU has a matrix unit, faster ones (`amx.rs`).
//!
//! Read next: `correlate.rs`, `taps.rs` and `winograd.rs`, the loops, and `finish.rs`, what is done to the sums at once; then `maxpool2d.rs`.

use super::amx;
use super::case::{BATCHES, Case, Draw, Input};
use super::correlate::{self, Class, Grid, classes};
use super::finish::{End, Finish};
use super::taps::{self, planes};
use super::winograd::{self, Picture};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::tensor::{Element, Layout, Real, Spec, Stored, Tensor};
use std::borrow::Cow;

/// Convolution; inputs x `[N,C,H,W]`, w `[O,C,KH,KW]` and, if there is a bias, b `[O]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv2d {
    /// Step between windows, down and right; at least 1.
    pub stride: [usize; 2],
    /// Zeros around the picture: rows above and below, columns left and right.
    pub padding: [usize; 2],
}

/// All sizes of one convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dims {
    pub(super) n: usize,
    pub(super) c: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) o: usize,
    pub(super) kh: usize,
    pub(super) kw: usize,
    pub(super) sh: usize,
    pub(super) sw: usize,
    pub(super) ph: usize,
    pub(super) pw: usize,
    pub(super) oh: usize,
    pub(super) ow: usize,
}

impl Conv2d {
    pub(super) fn dims(&self, x: &Spec, w: &Spec) -> Dims {
        let ([n, c, h, wd], [o, _, kh, kw]) = (x.shape.nchw(), w.shape.nchw());
        let ([sh, sw], [ph, pw]) = (self.stride, self.padding);
        let (oh, ow) = ((h + 2 * ph - kh) / sh + 1, (wd + 2 * pw - kw) / sw + 1);
        Dims { n, c, h, w: wd, o, kh, kw, sh, sw, ph, pw, oh, ow }
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        let rule = |rule: &str| Err(mismatch("conv2d", x, rule));
        let (&[x0, w], b) = match (x.first_chunk::<2>(), x.get(2)) {
            (Some(xw), b) if x.len() <= 3 && xw[0].layout == Layout::Lanes && xw.iter().all(|s| s.shape.len() == 4) => (xw, b),
            _ => return rule("takes x [N,C,H,W], w [O,C,KH,KW] and optionally b [O]"),
        };
        let ([_, c, h, wd], [o, wc, kh, kw]) = (x0.shape.nchw(), w.shape.nchw());
        if c != wc {
            let e = mismatch("conv2d", x, format!("x brings {c} channels and w expects {wc}"));
            return Err(e.hint(format!("build the layer with {c} input channels")));
        }
        if b.is_some_and(|b| b.shape[..] != [o]) {
            return rule("b must have one element for each output channel");
        }
        if self.stride.contains(&0) || kh == 0 || kw == 0 {
            return rule("stride and kernel must be at least 1");
        }
        if h + 2 * self.padding[0] < kh || wd + 2 * self.padding[1] < kw {
            return rule("the kernel is larger than the padded picture");
        }
        let d = self.dims(&x0, &w);
        Ok(x0.with_shape([d.n, d.o, d.oh, d.ow]))
    }

    fn needs(&self) -> Needs {
        Needs::INPUTS
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        let d = self.dims(&x[0].spec(), &x[1].spec());
        crate::dispatch!(y.dtype(), T => match y.device() {
            Device::Cpu => forward::<T>(&d, true, x, End::Put(y, false)),
            Device::Cuda(_) => cuda::forward::<T>(&d, x[0], x[1], x.get(2).copied(), y)?,
        });
        Ok(Saved::new())
    }

    fn infer(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        if y.device() != Device::Cpu {
            return self.forward(x, y);
        }
        let d = self.dims(&x[0].spec(), &x[1].spec());
        crate::dispatch!(y.dtype(), T => forward::<T>(&d, false, x, End::Put(y, false)));
        Ok(Saved::new())
    }

    fn forward_with(&self, x: &[&Tensor], next: &dyn Op, rest: &[&Tensor], z: Spec, learns: bool) -> Option<(Tensor, Saved)> {
        if z.device != Device::Cpu {
            return None;
        }
        let d = self.dims(&x[0].spec(), &x[1].spec());
        crate::dispatch!(z.dtype, T => {
            let finish = Finish::<T>::new(next, rest, [d.o, d.oh, d.ow], learns)?;
            let (mut y, mut places) = (Tensor::new(z), finish.places(z));
            forward::<T>(&d, learns, x, End::Through(&finish, &mut y, places.as_mut()));
            Some((y, places.into_iter().collect()))
        })
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        let d = self.dims(&n.spec(0), &n.spec(1));
        if dx[0].wanted() {
            crate::dispatch!(dy.dtype(), T => match dy.device() {
                Device::Cpu => backward_input::<T>(&d, n.x(1), dy, &mut dx[0]),
                Device::Cuda(_) => cuda::backward_input::<T>(&d, n.x(1), dy, &mut dx[0])?,
            });
        }
        if dx[1..].iter().any(Slot::wanted) {
            crate::dispatch!(dy.dtype(), T => match dy.device() {
                Device::Cpu => backward_weight::<T>(&d, n.x(0), dy, &mut dx[1..]),
                Device::Cuda(_) => cuda::backward_weight::<T>(&d, n.x(0), dy, &mut dx[1..])?,
            });
        }
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        let d = self.dims(&x[0], &x[1]);
        2 * (d.n * d.o * d.oh * d.ow * d.c * d.kh * d.kw) as u64
    }
}

// ---- CPU

/// x: x [N,C,H,W], w [O,C,KH,KW] and, if there is one, b [O]; y [N,O,OH,OW] goes to the end. `learns`: does backward follow?
/// Where it does not, ways are taken whose errors come to some 1e-5 of y's root mean square.
fn forward<T: Element>(d: &Dims, learns: bool, x: &[&Tensor], end: End<T>) {
    let (x, w, b) = (x[0], super::sums::<T>(x[1].data()), x.get(2).map(|b| super::sums::<T>(b.data())));
    let picture = winograd::of_y(d).map(|p| if learns { p } else { p.for_inference() }).filter(Picture::pays);
    let (grid, unit) = (of_y(d), amx::unit::<T>().map(|unit| if learns { unit } else { unit.at_most(2) }));
    if let Some(unit) = unit.filter(|&unit| amx::correlate::pays(unit, &[grid], picture.as_ref())) {
        return amx::correlate::run::<T>(unit, &[(w, grid)], b.as_deref(), x, end);
    }
    if let Some(p) = picture {
        let u = winograd::weights(&p, |o, c, kh, kw| w[((o * d.c + c) * d.kh + kh) * d.kw + kw]);
        return winograd::run::<T>(&p, u.data(), b.as_deref(), x, end);
    }
    correlate::run::<T>(&[(w, grid)], b.as_deref(), x, end);
}

/// y as sums over windows of x.
pub(super) fn of_y(d: &Dims) -> Grid {
    Grid {
        planes: d.c,
        height: d.h,
        width: d.w,
        kh: d.kh,
        kw: d.kw,
        rows: d.oh,
        cols: d.ow,
        sy: d.sh,
        sx: d.sw,
        top: -(d.ph as isize),
        left: -(d.pw as isize),
        out_planes: d.o,
        out_plane: d.oh * d.ow,
        out_width: d.ow,
        out_row: 0,
        out_col: 0,
        out_sy: 1,
        out_sx: 1,
    }
}

/// w [O,C,KH,KW], dy [N,O,OH,OW], dx [N,C,H,W]
fn backward_input<T: Element>(d: &Dims, w: &Tensor, dy: &Tensor, dx: &mut Slot) {
    let (w, (dx, add)) = (super::sums::<T>(w.data()), dx.open());
    let end = End::Put(dx, add);
    let (picture, grids) = (winograd::of_dx(d).filter(Picture::pays), of_dx(d));
    let unit = amx::unit::<T>().filter(|&unit| amx::correlate::pays(unit, &grids, picture.as_ref()));
    if let Some(p) = picture.filter(|_| unit.is_none()) {
        let flipped = |c: usize, o: usize, kh: usize, kw: usize| w[((o * d.c + c + 1) * d.kh - kh) * d.kw - kw - 1];
        let u = winograd::weights(&p, flipped);
        return winograd::run::<T>(&p, u.data(), None, dy, end);
    }
    let parts: Vec<_> = grids.into_iter().map(|grid| (flipped(d, &w, &grid), grid)).collect();
    match unit {
        Some(unit) => amx::correlate::run::<T>(unit, &parts, None, dy, end),
        None => correlate::run::<T>(&parts, None, dy, end),
    }
}

/// dx as sums over windows of dy, class by class.
pub(super) fn of_dx(d: &Dims) -> Vec<Grid> {
    let (rows, cols) = (classes(d.h, d.kh, d.sh, d.ph), classes(d.w, d.kw, d.sw, d.pw));
    let grid = |y: &Class, x: &Class| Grid {
        planes: d.o,
        height: d.oh,
        width: d.ow,
        kh: if x.taps == 0 { 0 } else { y.taps },
        kw: if y.taps == 0 { 0 } else { x.taps },
        rows: y.count,
        cols: x.count,
        sy: 1,
        sx: 1,
        top: y.first,
        left: x.first,
        out_planes: d.c,
        out_plane: d.h * d.w,
        out_width: d.w,
        out_row: y.remainder,
        out_col: x.remainder,
        out_sy: d.sh,
        out_sx: d.sw,
    };
    rows.iter().flat_map(|y| cols.iter().map(move |x| grid(y, x))).collect()
}

/// The weights of one class of dx: of w [O,C,KH,KW] those taps that reach it, in reverse order.
pub(super) fn flipped<A: Real>(d: &Dims, w: &[A], class: &Grid) -> Cow<'static, [A]> {
    let (k0, u0) = ((class.out_row + d.ph) % d.sh, (class.out_col + d.pw) % d.sw);
    let mut flipped = Vec::with_capacity(d.c * d.o * class.kh * class.kw);
    for (c, o) in (0..d.c).flat_map(|c| (0..d.o).map(move |o| (c, o))) {
        for (t, u) in (0..class.kh).rev().flat_map(|t| (0..class.kw).rev().map(move |u| (t, u))) {
            flipped.push(w[((o * d.c + c) * d.kh + k0 + t * d.sh) * d.kw + u0 + u * d.sw]);
        }
    }
    flipped.into()
}

/// x [N,C,H,W], dy [N,O,OH,OW], dw [O,C,KH,KW], db [O]
fn backward_weight<T: Element>(d: &Dims, x: &Tensor, dy: &Tensor, dwb: &mut [Slot]) {
    let [dw, db @ ..] = dwb else { return };
    if dw.wanted() {
        let picture = winograd::of_y(d).map(Picture::large).filter(winograd::dw::pays);
        let unit = amx::unit::<T>().filter(|&unit| amx::weights::pays(unit, d, picture.is_some()));
        let sums = match (unit, picture) {
            (Some(unit), _) => amx::weights::run::<T>(unit, d, x, dy),
            (None, Some(p)) => winograd::dw::run::<T>(&p, x, dy),
            (None, None) => taps::weights::<T>(d, x, dy),
        };
        super::put(dw, &sums);
    }
    if let [db] = db
        && db.wanted()
    {
        super::put(db, &planes::<T>(dy.lanes(), d.o, d.oh * d.ow));
    }
}

// ---- CUDA

mod cuda {
    use super::*;
    use crate::device::cuda::kernels::conv2d::{self as kernel, Dims as Sizes};
    use crate::device::cuda::{Launch, Mut};
    use crate::ops::correlate::cuda::{Picture, correlate};

    /// x [N,C,H,W], w [O,C,KH,KW], b [O], y [N,O,OH,OW]
    pub fn forward<T: Element>(d: &Dims, x: &Tensor, w: &Tensor, b: Option<&Tensor>, y: &mut Tensor) -> Result<()> {
        correlate::<T>(d, Picture::Output, x, w, b, y, false)
    }

    /// w [O,C,KH,KW], dy [N,O,OH,OW], dx [N,C,H,W]
    pub fn backward_input<T: Element>(d: &Dims, w: &Tensor, dy: &Tensor, dx: &mut Slot) -> Result<()> {
        let (dx, add) = dx.open();
        correlate::<T>(d, Picture::Input, dy, w, None, dx, add)
    }

    /// The warps that a large GPU should have at least, and the pixels that are worth a warp.
    const WARPS: usize = 2048;
    const PIXELS: usize = 16;

    /// x [N,C,H,W], dy [N,O,OH,OW], dw [O,C,KH,KW], db [O]. One warp a tile of weights and slice of the rows of all groups.
    pub fn backward_weight<T: Element>(d: &Dims, x: &Tensor, dy: &Tensor, dwb: &mut [Slot]) -> Result<()> {
        // A tile: output channels, and either all taps of one c or 8 of (c, kh, kw); in f64 it is smaller.
        let narrow = size_of::<T::Acc>() / 4;
        let (outputs, inner) = match [d.kh, d.kw, d.sw] {
            [3, 3, 1 | 2] => (8 / narrow, d.c),
            [5, 5, 1 | 2] => (4 / narrow / narrow, d.c),
            _ => (8 / narrow, (d.c * d.kh * d.kw).div_ceil(8)),
        };
        let (groups, weights, tiles) = (x.spec().groups(), d.o * d.c * d.kh * d.kw, d.o.div_ceil(outputs) * inner);
        let rows = groups * d.oh;
        let slices = WARPS.div_ceil(tiles).min(rows * d.ow / PIXELS).min(rows).max(1);
        let warps = inner.min(4);
        let at = Launch::new(dy.device(), [slices, d.o.div_ceil(outputs), inner.div_ceil(warps)], [32, warps, 1]);
        let with_db = i32::from(dwb.get(1).is_some_and(Slot::wanted));
        let sizes = Sizes {
            groups: groups as i32,
            c: d.c as i32,
            h: d.h as i32,
            w: d.w as i32,
            o: d.o as i32,
            kh: d.kh as i32,
            kw: d.kw as i32,
            sh: d.sh as i32,
            sw: d.sw as i32,
            ph: d.ph as i32,
            pw: d.pw as i32,
            oh: d.oh as i32,
            ow: d.ow as i32,
            slices: slices as i32,
        };
        let mut partial = Tensor::new(Spec::rows([slices, weights + d.o], T::Acc::DTYPE).on(dy.device()));
        match [d.kh, d.kw, d.sw] {
            [3, 3, 1 | 2] => kernel::backward_weight_3x3::<T>(at, x.cuda(), dy.cuda(), partial.cuda_mut(), sizes, with_db)?,
            [5, 5, 1 | 2] => kernel::backward_weight_5x5::<T>(at, x.cuda(), dy.cuda(), partial.cuda_mut(), sizes, with_db)?,
            _ => kernel::backward_weight_any::<T>(at, x.cuda(), dy.cuda(), partial.cuda_mut(), sizes, with_db)?,
        }
        let mut gradients = dwb.iter_mut().map(crate::ops::gradient::<T>);
        let ((dw, add_w), (db, add_b)) = (gradients.next().unwrap_or((Mut::null(), 0)), gradients.next().unwrap_or((Mut::null(), 0)));
        let at = Launch::each(dy.device(), weights + d.o, 128);
        kernel::sum_slices::<T>(at, partial.cuda(), dw, db, slices as i32, weights as i32, d.o as i32, add_w, add_b)
    }
}

/// What it is tried on.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |x: [usize; 4], o: usize, k: [usize; 2], stride: [usize; 2], padding: [usize; 2], bias: bool| {
        let mut inputs = vec![Input::lanes(x, Draw::Normal), Input::rows([o, x[1], k[0], k[1]], Draw::Normal)];
        if bias {
            inputs.push(Input::rows([o], Draw::Normal));
        }
        let name = format!("{}->{o} {}x{} k{k:?} s{stride:?} p{padding:?} n{}", x[1], x[2], x[3], x[0]);
        cases.push(Case::new(Conv2d { stride, padding }, name.replace(", ", "x"), inputs));
    };
    for n in BATCHES {
        case([n, 2, 5, 4], 3, [3, 3], [1, 1], [1, 1], true);
        case([n, 1, 5, 7], 2, [3, 3], [2, 2], [1, 1], false);
    }
    case([2, 3, 7, 9], 5, [5, 5], [1, 1], [0, 0], true);
    case([1, 2, 6, 6], 2, [5, 5], [1, 1], [2, 2], true);
    case([2, 3, 4, 4], 4, [1, 1], [1, 1], [0, 0], true);
    case([2, 3, 5, 5], 2, [1, 1], [2, 2], [0, 0], false);
    case([2, 2, 6, 7], 3, [2, 3], [1, 2], [0, 1], true);
    case([2, 1, 8, 9], 1, [3, 2], [3, 2], [2, 1], true);
    case([1, 2, 9, 10], 2, [2, 2], [3, 4], [0, 1], true);
    case([1, 1, 3, 3], 1, [3, 3], [1, 1], [0, 0], true);
    case([2, 2, 4, 13], 3, [4, 4], [2, 2], [1, 2], true);
    case([1, 1, 2, 2], 2, [3, 3], [2, 2], [2, 2], true);
    case([1, 1, 1, 30], 2, [1, 7], [1, 1], [0, 3], true);
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Gradients, Tape, Var};
    use crate::tensor::{DType, Philox};

    /// A convolution whose weight gradient is Winograd's: 17 images of 16x4x4 to 16 planes.
    const SHAPES: [[usize; 4]; 2] = [[17, 16, 4, 4], [16, 16, 3, 3]];

    /// Of x garbage fills the empty lanes, of dy zeros.
    fn draw(stream: u64, dtype: DType, garbage: bool) -> Tensor {
        let rng = Philox::new(4);
        let [shape, _] = SHAPES;
        let full = Spec::lanes([if garbage { 32 } else { shape[0] }, shape[1], shape[2], shape[3]], dtype);
        let values: Vec<f64> = (0..full.shape.count() as u64).map(|i| rng.normal(stream, i)).collect();
        Tensor::from_values(full, &values).view_as(Spec::lanes(shape, dtype))
    }

    fn ways_agree<T: Element>(bound: f64) {
        let (op, [x, w]) = (Conv2d { stride: [1; 2], padding: [1; 2] }, SHAPES);
        let d = op.dims(&Spec::lanes(x, T::DTYPE), &Spec::rows(w, T::DTYPE));
        let p = winograd::of_y(&d).map(Picture::large).filter(winograd::dw::pays).unwrap();
        let (x, dy) = (draw(0, T::DTYPE, true), draw(1, T::DTYPE, false));
        let (winograd, direct) = (winograd::dw::run::<T>(&p, &x, &dy), taps::weights::<T>(&d, &x, &dy));
        let rms = (direct.iter().map(|dw| dw.to_f64() * dw.to_f64()).sum::<f64>() / direct.len() as f64).sqrt();
        for (a, b) in winograd.iter().zip(&direct) {
            assert!((a.to_f64() - b.to_f64()).abs() < bound * rms, "{}: {a:?} and {b:?}", T::DTYPE);
        }
        let (sums, dy) = (planes::<T>(dy.lanes(), d.o, d.oh * d.ow), dy.values());
        for (o, db) in sums.iter().enumerate() {
            let sum: f64 = dy.chunks(16).skip(o).step_by(16).flatten().sum();
            assert!((db.to_f64() - sum).abs() < bound * rms, "{}: {db:?} and {sum}", T::DTYPE);
        }
    }

    #[test]
    fn both_ways_give_one_weight_gradient() {
        ways_agree::<f64>(1e-12);
        ways_agree::<f32>(1e-4);
        ways_agree::<half::bf16>(1e-4);
        ways_agree::<half::f16>(1e-4);
    }

    #[test]
    fn a_second_contribution_is_added() {
        let op = Conv2d { stride: [1; 2], padding: [1; 2] };
        let rng = Philox::new(6);
        let w: Vec<f64> = (0..16 * 16 * 9).map(|i| rng.normal(0, i)).collect();
        let gradient = |times: usize| {
            let mut tape = Tape::new();
            let (x, w) = (tape.input(draw(0, DType::F64, true)), tape.leaf(Tensor::from_values(Spec::rows(SHAPES[1], DType::F64), &w)));
            let ys: Vec<Var> = (0..times).map(|_| tape.apply(op, &[x, w]).unwrap()).collect();
            let y = ys[1..].iter().fold(ys[0], |sum, &y| tape.apply(crate::ops::add::Add, &[sum, y]).unwrap());
            tape.backward_from(y, draw(1, DType::F64, false), &mut Gradients::default()).unwrap();
            tape.gradient(w).unwrap().values()
        };
        let twice: Vec<f64> = gradient(1).iter().map(|dw| 2.0 * dw).collect();
        assert_eq!(gradient(2), twice);
    }
}
