//! Batch normalisation, in training and in evaluation.
//!
//! # Forward
//!
//! Each channel c of x `[N, C, H, W]` (or `[N, C]`) is brought to mean 0 and variance 1 over its m = N·H·W values, then scaled:
//!
//! ```text
//! mean = 1/m Σ x        var = 1/m Σ (x - mean)²        s = 1/√(var + eps)        x̂ = (x - mean)·s
//! y = w·x̂ + b
//! ```
//!
//! # Backward
//!
//! y is linear in w and b, so dw = Σ dy·x̂ and db = Σ dy. Every x_i of a channel moves every y_j of it, through the mean and the
//! variance too. Since Σ (x_j - mean) = 0, moving the mean does not change the variance, and
//!
//! ```text
//! ∂mean/∂x_i = 1/m        ∂var/∂x_i = 2(x_i - mean)/m        ∂s/∂x_i = -s³/2 · ∂var/∂x_i = -s²·x̂_i/m
//! ∂x̂_j/∂x_i = s·([i=j] - 1/m) + (x_j - mean)·∂s/∂x_i = s·([i=j] - 1/m - x̂_j·x̂_i/m)
//! dx_i = Σ_j w·dy_j·∂x̂_j/∂x_i = w·s·(dy_i - db/m - x̂_i·dw/m)
//! ```
//!
//! The gradient of x is dy with its mean and its component along x̂ taken out. In evaluation the statistics are constants, so
//! only dx = w·s·dy is left. x̂ is not stored but computed again from x.
//!
//! How mean and variance are computed without cancellation, piece by piece, is in `moments.rs`; the passes over the batch, which serve
//! `norm_relu.rs` and `norm_relu_pool.rs` too, are in `normalise.rs`.
//!
//! On a GPU a piece is 16 neighbouring pixels of 32 images, which one warp holds in registers, so x is read once for both sums. What is
//! summed over a piece goes to memory, and one block for each channel adds the pieces in f64.
//!
//! Cost per element: forward 8 FLOPs, reads x twice and writes y; backward 9 FLOPs, reads x and dy twice and writes dx: bound by
//! memory. Read next: `moments.rs` and `normalise.rs`, then `norm_relu.rs`.

use super::case::{BATCHES, Case, Draw, Input};
use super::moments::{PIECE, given};
use super::normalise::{Affine, Gate, backward_input, forward, sums};
use crate::autograd::op::mismatch;
use crate::autograd::{Needs, Node, Op, Saved, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::tensor::{Element, Layout, Spec, Stored, Tensor};

/// Normalises by the statistics of the batch. Inputs x `[N, C, ...]` in lanes, w `[C]` and b `[C]` in the type of sums.
///
/// Saves mean, 1/√(var + eps) and the unbiased variance M2/(m-1), each `[C]`: [`update_running`] reads the first and the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance; PyTorch's default is 1e-5.
    pub eps: f64,
}

/// Normalises by given statistics. Inputs x `[N, C, ...]` in lanes; w, b, running mean and running variance `[C]` in the type of
/// sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormEval {
    /// Added to the variance; PyTorch's default is 1e-5.
    pub eps: f64,
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batchnorm"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        let y = output(self.name(), x, 3, "takes an activation [N, C, ...], weight [C] and bias [C]")?;
        if per_channel(&y) < 2 {
            return Err(mismatch(self.name(), x, "needs more than one value per channel when training"));
        }
        Ok(y)
    }

    fn needs(&self) -> Needs {
        Needs { inputs: 7, output: false }
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        if let Device::Cuda(_) = y.device() {
            return crate::dispatch!(y.dtype(), T => cuda::forward::<T>(x, self.eps, y));
        }
        Ok(crate::dispatch!(y.dtype(), T => {
            let saved = given::<T>(x, self.eps);
            forward::<T>(x[0], None, &Affine::each(x[1], x[2], &saved[0], &saved[1]), false, y);
            saved
        }))
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        let by_m = by_m(&n.spec(0), false);
        crate::dispatch!(dy.dtype(), T => match dy.device() {
            Device::Cpu => backward::<T>(n, dy, dx, by_m, false),
            Device::Cuda(_) => cuda::backward::<T>(n, dy, dx, by_m)?,
        });
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        8 * x[0].shape.count() as u64
    }
}

impl Op for BatchNormEval {
    fn name(&self) -> &'static str {
        "batchnorm_eval"
    }

    fn output(&self, x: &[Spec]) -> Result<Spec> {
        output(self.name(), x, 5, "takes an activation [N, C, ...], weight [C], bias [C], running mean [C] and running variance [C]")
    }

    fn needs(&self) -> Needs {
        Needs { inputs: 7, output: false }
    }

    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        if let Device::Cuda(_) = y.device() {
            return crate::dispatch!(y.dtype(), T => cuda::forward::<T>(x, self.eps, y));
        }
        Ok(crate::dispatch!(y.dtype(), T => {
            let saved = given::<T>(x, self.eps);
            forward::<T>(x[0], None, &Affine::each(x[1], x[2], &saved[0], &saved[1]), false, y);
            saved
        }))
    }

    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()> {
        crate::dispatch!(dy.dtype(), T => match dy.device() {
            Device::Cpu => backward::<T>(n, dy, dx, 0.0, false),
            Device::Cuda(_) => cuda::backward::<T>(n, dy, dx, 0.0)?,
        });
        Ok(())
    }

    fn flops(&self, x: &[Spec]) -> u64 {
        3 * x[0].shape.count() as u64
    }
}

/// The rule of all batch norms: one activation of at least two dimensions and, for each of the other inputs, one number per channel.
pub(super) fn output(op: &str, x: &[Spec], inputs: usize, rule: &str) -> Result<Spec> {
    match x {
        [x, rows @ ..]
            if x.layout == Layout::Lanes
                && x.shape.len() >= 2
                && rows.len() + 1 == inputs
                && rows.iter().all(|r| *r == Spec::rows([x.shape[1]], x.dtype.acc()).on(x.device)) =>
        {
            Ok(*x)
        }
        _ => Err(mismatch(op, x, rule)),
    }
}

/// m = N·H·W.
pub(super) fn per_channel(x: &Spec) -> usize {
    let [n, _, h, w] = x.shape.nchw();
    n * h * w
}

/// 1/m, or 0 where the statistics do not depend on x.
pub(super) fn by_m(x: &Spec, running: bool) -> f64 {
    if running { 0.0 } else { 1.0 / per_channel(x) as f64 }
}

/// Moves the running averages towards a batch's statistics, as PyTorch does: r = (1 - momentum)·r + momentum·statistic.
///
/// `saved` is what [`BatchNorm`] kept; `running_mean` and `running_var` (the unbiased one) are `[C]`; `batches`, i32 `[]`, counts.
pub fn update_running(
    saved: &[Tensor],
    momentum: f64,
    running_mean: &mut Tensor,
    running_var: &mut Tensor,
    batches: &mut Tensor,
) -> Result<()> {
    if let Device::Cuda(_) = batches.device() {
        running_mean.make_unique();
        running_var.make_unique();
        batches.make_unique();
        return crate::dispatch!(running_mean.dtype(), T => cuda::update_running::<T>(saved, momentum, running_mean, running_var, batches));
    }
    for (running, statistic) in [(running_mean, &saved[0]), (running_var, &saved[2])] {
        running.make_unique();
        crate::dispatch!(running.dtype(), T => {
            for (r, s) in running.data_mut::<T>().iter_mut().zip(statistic.values()) {
                *r = T::from_f64((1.0 - momentum) * r.to_f64() + momentum * s);
            }
        });
    }
    batches.make_unique();
    batches.data_mut::<i32>()[0] += 1;
    Ok(())
}

// ---- CPU

/// Both backward passes; `by_m` is 1/m in training and 0 in evaluation, where the statistics do not depend on x. `rectified`: dy passes
/// only where w·x̂ + b > 0.
pub(super) fn backward<T: Element>(n: &Node, dy: &Tensor, dx: &mut [Slot], by_m: f64, rectified: bool) {
    let [mean, inv_std] = [&n.saved[0], &n.saved[1]];
    let channels = Affine::each(n.x(1), n.x(2), mean, inv_std);
    let needed = by_m > 0.0 || dx[1].wanted() || dx[2].wanted();
    let gate = if rectified { Gate::Affine } else { Gate::Open };
    let sums = if needed { sums::<T>(n.x(0), dy, &channels, gate) } else { vec![[0.0; 2]; channels.len()] };
    from_sums::<T>(n, dy, dx, by_m, &channels, &sums, rectified);
}

/// The rest of it, after the sums Σ d·(x - mean) and Σ d.
pub(super) fn from_sums<T: Element>(
    n: &Node,
    dy: &Tensor,
    dx: &mut [Slot],
    by_m: f64,
    channels: &[Affine<T::Acc>],
    sums: &[[f64; 2]],
    rectified: bool,
) {
    let factors = factors::<T>(n, dx, by_m, sums);
    if dx[0].wanted() {
        backward_input::<T>(n.x(0), dy, &mut dx[0], channels, &factors, rectified);
    }
}

/// Writes dw and db; gives `[a, k, q]` of each channel: dx = a·d + k·(x - mean) + q.
pub(super) fn factors<T: Element>(n: &Node, dx: &mut [Slot], by_m: f64, sums: &[[f64; 2]]) -> Vec<[T::Acc; 3]> {
    let (w, inv_std) = (n.x(1).values(), n.saved[1].values());
    let (dw, db): (Vec<f64>, Vec<f64>) = sums.iter().zip(&inv_std).map(|([dw, db], inv_std)| (inv_std * dw, *db)).unzip();
    super::put(&mut dx[1], &dw);
    super::put(&mut dx[2], &db);
    let factors = |i: usize| {
        let a = w[i] * inv_std[i];
        [a, -a * inv_std[i] * dw[i] * by_m, -a * db[i] * by_m].map(T::Acc::from_f64)
    };
    (0..w.len()).map(factors).collect()
}

// ---- CUDA

pub(super) mod cuda {
    use super::*;
    use crate::device::cuda::Launch;
    use crate::device::cuda::kernels::batchnorm::{self as kernel, Planes};
    use crate::ops::gradient;

    /// As in the kernels: the pixels of a piece, and how x is cut into pieces.
    const PIECE: usize = 16;
    fn planes(x: &Spec) -> Planes {
        let ([n, c, h, w], groups) = (x.shape.nchw(), x.groups());
        let [n, groups, c, plane, pieces] = [n, groups, c, h * w, (h * w).div_ceil(PIECE)].map(|d| d as i32);
        Planes { n, groups, c, plane, pieces }
    }

    /// One warp a piece.
    fn each_piece(x: &Spec) -> Launch {
        Launch::warps(x.device, x.groups() * x.shape[1] * x.shape.nchw()[2..].iter().product::<usize>().div_ceil(PIECE), 8)
    }

    /// Two numbers for each piece, by channel.
    fn pieces<T: Element>(x: &Spec) -> [Tensor; 2] {
        let d = planes(x);
        let spec = Spec::rows([(d.c * d.groups * d.pieces) as usize], T::Acc::DTYPE).on(x.device);
        [Tensor::new(spec), Tensor::new(spec)]
    }

    /// The inputs x of a batch norm, y like the first; gives what the op saves.
    pub fn forward<T: Element>(x: &[&Tensor], eps: f64, y: &mut Tensor) -> Result<Saved> {
        let (saved, d) = (given::<T>(x, eps)?, planes(&x[0].spec()));
        let [w, b, mean, inv_std] = [x[1], x[2], &saved[0], &saved[1]].map(Tensor::cuda);
        kernel::forward::<T>(each_piece(&x[0].spec()), x[0].cuda(), w, b, mean, inv_std, y.cuda_mut(), d)?;
        Ok(saved)
    }

    /// As on the CPU.
    pub fn given<T: Element>(x: &[&Tensor], eps: f64) -> Result<Saved> {
        let (spec, c, d) = (x[0].spec(), x[0].shape()[1], planes(&x[0].spec()));
        let row = || Tensor::new(Spec::rows([c], T::Acc::DTYPE).on(spec.device));
        let mut inv_std = row();
        if let [_, _, _, mean, var] = x {
            kernel::inv_std::<T>(Launch::each(spec.device, c, 128), var.cuda(), inv_std.cuda_mut(), eps, c as i32)?;
            return Ok(vec![(*mean).clone(), inv_std]);
        }
        let ([mut means, mut m2], mut mean, mut var) = (pieces::<T>(&spec), row(), row());
        kernel::pieces::<T>(each_piece(&spec), x[0].cuda(), means.cuda_mut(), m2.cuda_mut(), d)?;
        let channels = Launch::new(spec.device, [c, 1, 1], [128, 1, 1]);
        kernel::statistics::<T>(channels, means.cuda(), m2.cuda(), mean.cuda_mut(), inv_std.cuda_mut(), var.cuda_mut(), eps, d)?;
        Ok(vec![mean, inv_std, var])
    }

    /// Both backward passes; `by_m` as on the CPU. In evaluation dx needs no sums, but w and b do.
    pub fn backward<T: Element>(n: &Node, dy: &Tensor, dx: &mut [Slot], by_m: f64) -> Result<()> {
        let (x, spec) = (n.x(0), n.spec(0));
        let (d, at, [mean, inv_std]) = (planes(&spec), each_piece(&spec), [&n.saved[0], &n.saved[1]]);
        let [mut dws, mut dbs] = pieces::<T>(&spec);
        kernel::backward_pieces::<T>(at, x.cuda(), dy.cuda(), mean.cuda(), dws.cuda_mut(), dbs.cuda_mut(), d)?;
        let mut factors = Tensor::new(Spec::rows([spec.shape[1], 3], T::Acc::DTYPE).on(spec.device));
        let [dx, dw, db, ..] = dx else { unreachable!("`output` counted them") };
        let ((dw, add_weight), (db, add_bias)) = (gradient::<T>(dw), gradient::<T>(db));
        let channels = Launch::new(spec.device, [spec.shape[1], 1, 1], [128, 1, 1]);
        let (dws, dbs, all) = (dws.cuda(), dbs.cuda(), d.groups * d.pieces);
        let (w, f) = (n.x(1).cuda(), factors.cuda_mut());
        kernel::backward_weight::<T>(channels, dws, dbs, w, inv_std.cuda(), dw, db, f, by_m, all, add_weight, add_bias)?;
        if !dx.wanted() {
            return Ok(());
        }
        let (dx, add) = dx.open();
        kernel::backward_input::<T>(at, x.cuda(), dy.cuda(), mean.cuda(), factors.cuda(), dx.cuda_mut(), d, add.into())
    }

    /// All `[C]` but `batches`, one number.
    pub fn update_running<T: Element>(
        saved: &[Tensor],
        momentum: f64,
        mean: &mut Tensor,
        var: &mut Tensor,
        batches: &mut Tensor,
    ) -> Result<()> {
        let c = mean.shape()[0];
        let (at, [from_mean, from_var]) = (Launch::each(mean.device(), c, 128), [saved[0].cuda(), saved[2].cuda()]);
        kernel::update_running::<T>(at, from_mean, from_var, mean.cuda_mut(), var.cuda_mut(), batches.cuda_mut(), momentum, c as i32)
    }
}

/// What they are tried on.
pub fn cases() -> Vec<Case> {
    let eps = 1e-5;
    let train = |name: String, shape: &[usize]| {
        let row = || Input::sums([shape[1]], Draw::Normal);
        Case::new(BatchNorm { eps }, name, vec![Input::lanes(shape, Draw::Normal), row(), row()])
    };
    let eval = |name: String, shape: &[usize]| {
        let row = |draw| Input::sums([shape[1]], draw);
        let statistics = [row(Draw::Normal).fixed(), row(Draw::Positive).fixed()];
        let parameters = [row(Draw::Normal), row(Draw::Normal)];
        let x = [Input::lanes(shape, Draw::Normal)];
        Case::new(BatchNormEval { eps }, name, [&x[..], &parameters, &statistics].concat())
    };
    let mut cases = vec![
        train("n17 c1".into(), &[17, 1, 2, 2]),
        train("n2 two pieces".into(), &[2, 1, 1, PIECE + 3]),
        eval("n17 c1".into(), &[17, 1, 2, 2]),
    ];
    for n in BATCHES {
        cases.push(train(format!("n{n}"), &[n, 3, 4, 3]));
        cases.push(eval(format!("n{n}"), &[n, 3, 4, 3]));
        cases.push(eval(format!("n{n} features"), &[n, 5]));
        if n > 1 {
            cases.push(train(format!("n{n} features"), &[n, 5]));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Gradients, Tape};
    use crate::tensor::{DType, Philox};
    use approx::assert_relative_eq;

    fn lanes(shape: &[usize], values: &[f64]) -> Tensor {
        Tensor::from_values(Spec::lanes(shape, DType::F32), values)
    }

    fn rows(values: &[f64]) -> Tensor {
        Tensor::from_values(Spec::rows([values.len()], DType::F32), values)
    }

    #[test]
    fn by_hand() {
        // 1, 2, 3, 6: mean 3, biased variance 14/4, unbiased 14/3.
        let x = lanes(&[2, 1, 1, 2], &[1.0, 2.0, 3.0, 6.0]);
        let mut y = Tensor::new(x.spec());
        let saved = BatchNorm { eps: 0.5 }.forward(&[&x, &rows(&[2.0]), &rows(&[1.0])], &mut y).unwrap();
        assert_eq!(y.values(), [-1.0, 0.0, 1.0, 4.0]); // std = √(3.5 + 0.5) = 2
        assert_eq!(saved[1].item(), 0.5);
        let (mut mean, mut var) = (rows(&[0.0]), rows(&[1.0]));
        let mut batches = Tensor::zeros(Spec::rows([], DType::I32));
        update_running(&saved, 0.1, &mut mean, &mut var, &mut batches).unwrap();
        assert_relative_eq!(mean.item(), 0.3, epsilon = 1e-7);
        assert_relative_eq!(var.item(), 0.9 + 1.4 / 3.0, epsilon = 1e-7);
        assert_eq!(batches.item(), 1.0);
    }

    #[test]
    fn one_value_per_channel_is_an_error() {
        let [x, row] = [Spec::lanes([1, 5], DType::F32), Spec::rows([5], DType::F32)];
        let message = BatchNorm { eps: 1e-5 }.output(&[x, row, row]).unwrap_err().message;
        assert_eq!(message, "batchnorm: needs more than one value per channel when training; got f32 [1, 5], f32 [5], f32 [5]");
        assert!(BatchNorm { eps: 1e-5 }.output(&[x, row, Spec::rows([4], DType::F32)]).is_err());
        assert!(BatchNormEval { eps: 1e-5 }.output(&[x, row, row, row, row]).is_ok());
    }

    #[test]
    fn a_large_mean_does_no_harm() {
        let rng = Philox::new(5);
        let shape = [20, 1, 17, 31];
        let values: Vec<f64> = (0..20 * 17 * 31).map(|i| f64::from((1000.0 + rng.normal(0, i)) as f32)).collect();
        let m = values.len() as f64;
        let mean = values.iter().sum::<f64>() / m;
        let var = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / m;
        let x = lanes(&shape, &values);
        let mut y = Tensor::new(x.spec());
        let saved = BatchNorm { eps: 1e-5 }.forward(&[&x, &rows(&[1.0]), &rows(&[0.0])], &mut y).unwrap();
        assert_relative_eq!(saved[0].item(), mean, max_relative = 1e-7);
        assert_relative_eq!(saved[1].item(), 1.0 / (var + 1e-5).sqrt(), max_relative = 1e-6);
        assert_relative_eq!(saved[2].item(), var * m / (m - 1.0), max_relative = 1e-6);
        for (y, x) in y.values().iter().zip(&values) {
            // Half a unit in the last place of the mean as f32 is 3e-5.
            assert_relative_eq!(*y, (x - mean) / (var + 1e-5).sqrt(), epsilon = 4e-5);
        }
    }

    #[test]
    fn gradients_of_parameters_are_not_rounded_to_half_precision() {
        let half = |t: Tensor| t.to_dtype(DType::Bf16);
        let mut gradients = Gradients::new(vec![rows(&[f64::NAN]), rows(&[f64::NAN])]);
        for times in [1.0, 2.0] {
            let mut tape = Tape::new();
            let x = tape.input(half(lanes(&[2, 1], &[1.0, 3.0])));
            let w = tape.param(0, rows(&[1.0]));
            let b = tape.param(1, rows(&[0.0]));
            let y = tape.apply(BatchNorm { eps: 0.0 }, &[x, w, b]).unwrap();
            tape.backward_from(y, half(lanes(&[2, 1], &[1.0, 256.0])), &mut gradients).unwrap();
            assert_eq!(gradients.get(0).map(Tensor::item), Some(255.0 * times));
            assert_eq!(gradients.get(1).map(Tensor::item), Some(257.0 * times)); // 257 is no bf16
        }
    }
}
