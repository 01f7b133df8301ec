//! The layers: each declares its parameters when it is built and puts its ops on the tape when it runs.
//!
//! The mathematics is on the ops' pages; here is only what PyTorch calls a module. Arguments are in PyTorch's order, first values
//! are PyTorch's defaults: weights and biases of convolutions and linear layers uniform in ±1/√fan_in (its
//! `kaiming_uniform_(a=√5)`), batch norms start as the identity. Read next: `models/mod.rs`.

use super::{BufferId, Builder, Forward, Init, ParamId};
use crate::autograd::{Op, Var};
use crate::error::{Error, Result};
use crate::ops;
use std::fmt::Debug;
use std::sync::Arc;

/// A part of a network.
pub trait Module: Debug + Send + Sync {
    /// Runs it on `x`.
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var>;

    /// Runs it on what a convolution makes of `x`, which nobody else will read.
    fn after(&self, conv: &Conv2d, f: &mut Forward, x: Var) -> Result<Var> {
        let y = conv.forward(f, x)?;
        let z = self.forward(f, y)?;
        if z != y {
            f.tape.release(y);
        }
        Ok(z)
    }

    /// Itself, if it is a convolution.
    fn convolution(&self) -> Option<&Conv2d> {
        None
    }
}

/// Modules one after the other.
#[derive(Debug, Default)]
pub struct Sequential(Vec<Box<dyn Module>>);

impl Sequential {
    /// No module: the identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a module.
    pub fn then(mut self, module: impl Module + 'static) -> Self {
        self.0.push(Box::new(module));
        self
    }
}

impl Module for Sequential {
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var> {
        let (mut y, mut left) = (x, &self.0[..]);
        while let [module, behind @ ..] = left {
            let next;
            (next, left) = match (module.convolution(), behind) {
                (Some(conv), [second, behind @ ..]) if second.convolution().is_none() => (second.after(conv, f, y)?, behind),
                _ => (module.forward(f, y)?, behind),
            };
            // Only what was made here: x may have other readers.
            if y != x && next != y {
                f.tape.release(y);
            }
            y = next;
        }
        Ok(y)
    }
}

/// Convolution with its weight `[out, in, k, k]` and, if wanted, bias.
#[derive(Debug)]
pub struct Conv2d {
    label: Arc<str>,
    weight: ParamId,
    bias: Option<ParamId>,
    op: ops::conv2d::Conv2d,
}

impl Conv2d {
    /// A square kernel, stride 1, no padding, with bias.
    pub fn new(b: &mut Builder, name: &str, channels_in: usize, channels_out: usize, kernel: usize) -> Self {
        Self::with(b, name, [channels_in, channels_out], kernel, 1, 0, true)
    }

    /// The same with stride, padding, and a choice about the bias; `channels` are in and out.
    pub fn with(b: &mut Builder, name: &str, channels: [usize; 2], kernel: usize, stride: usize, padding: usize, bias: bool) -> Self {
        let [channels_in, channels_out] = channels;
        let bound = Init::Uniform(1.0 / ((channels_in * kernel * kernel) as f64).sqrt());
        b.at(name, |b| Self {
            label: b.label(),
            weight: b.param("weight", [channels_out, channels_in, kernel, kernel], bound),
            bias: bias.then(|| b.param("bias", [channels_out], bound)),
            op: ops::conv2d::Conv2d { stride: [stride; 2], padding: [padding; 2] },
        })
    }
}

impl Conv2d {
    fn inputs(&self, f: &mut Forward, x: Var) -> Vec<Var> {
        let inputs = [Some(x), Some(f.param(self.weight)), self.bias.map(|b| f.param(b))];
        inputs.into_iter().flatten().collect()
    }

    /// Runs it on `x`, and at once the op behind it, which reads its output and `rest`.
    fn then(&self, f: &mut Forward, x: Var, label: &Arc<str>, op: impl Op + 'static, rest: &[Var]) -> Result<Var> {
        let inputs = self.inputs(f, x);
        f.tape.apply_two((&self.label, Arc::new(self.op)), &inputs, (label, Arc::new(op)), rest)
    }
}

impl Module for Conv2d {
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var> {
        let inputs = self.inputs(f, x);
        f.apply(&self.label, self.op, &inputs)
    }

    fn convolution(&self) -> Option<&Conv2d> {
        Some(self)
    }
}

/// Fully connected layer with its weight `[out, in]` and bias.
#[derive(Debug)]
pub struct Linear {
    label: Arc<str>,
    weight: ParamId,
    bias: ParamId,
}

impl Linear {
    /// From `features_in` to `features_out`.
    pub fn new(b: &mut Builder, name: &str, features_in: usize, features_out: usize) -> Self {
        let bound = Init::Uniform(1.0 / (features_in as f64).sqrt());
        b.at(name, |b| Self {
            label: b.label(),
            weight: b.param("weight", [features_out, features_in], bound),
            bias: b.param("bias", [features_out], bound),
        })
    }
}

impl Module for Linear {
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var> {
        let inputs = [x, f.param(self.weight), f.param(self.bias)];
        f.apply(&self.label, ops::linear::Linear, &inputs)
    }
}

/// Batch normalisation of channels or features, with PyTorch's eps 1e-5.
#[derive(Debug)]
pub struct BatchNorm {
    label: Arc<str>,
    weight: ParamId,
    bias: ParamId,
    running_mean: BufferId,
    running_var: BufferId,
    batches: BufferId,
    follows: Follows,
}

/// What a batch norm does in one op with itself.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Follows {
    Nothing,
    Relu,
    ReluPool,
}

impl BatchNorm {
    const EPS: f64 = 1e-5;

    /// For `[N, channels]` and `[N, channels, H, W]` alike.
    pub fn new(b: &mut Builder, name: &str, channels: usize) -> Self {
        b.at(name, |b| Self {
            label: b.label(),
            weight: b.sum_param("weight", [channels], Init::Ones),
            bias: b.sum_param("bias", [channels], Init::Zeros),
            running_mean: b.buffer("running_mean", [channels], false, Init::Zeros),
            running_var: b.buffer("running_var", [channels], false, Init::Ones),
            batches: b.buffer("num_batches_tracked", [], true, Init::Zeros),
            follows: Follows::Nothing,
        })
    }

    /// The same with ReLU behind it, in one op.
    pub fn relu(self) -> Self {
        Self { follows: Follows::Relu, ..self }
    }

    /// The same with ReLU behind it, and the maximum over 2x2 windows side by side, in one op.
    pub fn relu_pool(self) -> Self {
        Self { follows: Follows::ReluPool, ..self }
    }

    /// Runs it on `x`, or on what a convolution makes of it; with ReLU, a `shortcut` is added before that.
    pub fn with(&self, conv: Option<&Conv2d>, f: &mut Forward, x: Var, shortcut: Option<Var>) -> Result<Var> {
        let (eps, mut rest) = (Self::EPS, vec![f.param(self.weight), f.param(self.bias)]);
        let training = f.params.training().is_some();
        if !training {
            rest.extend([self.running_mean, self.running_var].map(|id| f.tape.input(f.params.buffer(id).clone())));
        }
        rest.extend(shortcut);
        let y = match (self.follows, training) {
            (Follows::Relu, _) => {
                let op = ops::norm_relu::NormRelu { eps, running: !training, shortcut: shortcut.is_some() };
                self.apply(conv, f, x, op, &rest)?
            }
            (Follows::ReluPool, _) => self.apply(conv, f, x, ops::norm_relu_pool::NormReluPool { eps, running: !training }, &rest)?,
            (Follows::Nothing, true) => self.apply(conv, f, x, ops::batchnorm::BatchNorm { eps }, &rest)?,
            (Follows::Nothing, false) => self.apply(conv, f, x, ops::batchnorm::BatchNormEval { eps }, &rest)?,
        };
        if let Some(params) = f.params.training() {
            let ids = [self.running_mean, self.running_var, self.batches];
            let [mean, var, batches] = params.buffers_mut(ids).ok_or_else(|| Error::run("a batch norm's buffers are not distinct"))?;
            ops::batchnorm::update_running(f.tape.saved(y), f.momentum, mean, var, batches)?;
        }
        Ok(y)
    }

    fn apply(&self, conv: Option<&Conv2d>, f: &mut Forward, x: Var, op: impl Op + 'static, rest: &[Var]) -> Result<Var> {
        match conv {
            Some(conv) => conv.then(f, x, &self.label, op, rest),
            None => f.apply(&self.label, op, &[&[x], rest].concat()),
        }
    }
}

impl Module for BatchNorm {
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var> {
        self.with(None, f, x, None)
    }

    fn after(&self, conv: &Conv2d, f: &mut Forward, x: Var) -> Result<Var> {
        self.with(Some(conv), f, x, None)
    }
}

/// ReLU, or leaky ReLU.
#[derive(Debug)]
pub struct Relu {
    slope: f64,
}

impl Relu {
    /// max(x, 0)
    pub fn new() -> Self {
        Self { slope: 0.0 }
    }

    /// max(x, slope·x); PyTorch's default slope is 0.01.
    pub fn leaky(slope: f64) -> Self {
        Self { slope }
    }
}

impl Default for Relu {
    fn default() -> Self {
        Self::new()
    }
}

impl Module for Relu {
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var> {
        f.tape.apply(ops::relu::Relu { slope: self.slope }, &[x])
    }

    fn after(&self, conv: &Conv2d, f: &mut Forward, x: Var) -> Result<Var> {
        conv.then(f, x, &Arc::from(""), ops::relu::Relu { slope: self.slope }, &[])
    }
}

/// Maximum over windows.
#[derive(Debug)]
pub struct MaxPool2d(ops::maxpool2d::MaxPool2d);

impl MaxPool2d {
    /// Square windows side by side.
    pub fn new(kernel: usize) -> Self {
        Self::with(kernel, kernel, 0)
    }

    /// The same with stride and padding.
    pub fn with(kernel: usize, stride: usize, padding: usize) -> Self {
        Self(ops::maxpool2d::MaxPool2d { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], rectify: false })
    }

    /// The same with ReLU behind it, in one op.
    pub fn relu(self) -> Self {
        Self(ops::maxpool2d::MaxPool2d { rectify: true, ..self.0 })
    }
}

impl Module for MaxPool2d {
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var> {
        f.tape.apply(self.0, &[x])
    }

    fn after(&self, conv: &Conv2d, f: &mut Forward, x: Var) -> Result<Var> {
        conv.then(f, x, &Arc::from(""), self.0, &[])
    }
}

/// Mean over each channel's whole picture: `[N,C,H,W]` to `[N,C,1,1]`.
#[derive(Debug)]
pub struct GlobalAvgPool;

impl Module for GlobalAvgPool {
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var> {
        f.tape.apply(ops::avgpool2d::GlobalAvgPool, &[x])
    }
}

/// `[N,C,H,W]` to `[N,C·H·W]`.
#[derive(Debug)]
pub struct Flatten;

impl Module for Flatten {
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var> {
        f.tape.apply(ops::flatten::Flatten, &[x])
    }
}

/// In training, zeroes elements (or whole channels) with probability p and scales the rest; in evaluation nothing.
#[derive(Debug)]
pub struct Dropout {
    p: f64,
    channels: bool,
    layer: u32,
}

impl Dropout {
    /// Drops single elements.
    pub fn new(b: &mut Builder, p: f64) -> Self {
        Self { p, channels: false, layer: b.random_layer() }
    }

    /// Drops whole channels of an image (PyTorch's Dropout2d).
    pub fn channels(b: &mut Builder, p: f64) -> Self {
        Self { p, channels: true, layer: b.random_layer() }
    }
}

impl Module for Dropout {
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var> {
        let Some(step) = f.step.clone().filter(|_| self.p > 0.0) else { return Ok(x) };
        let step = f.tape.input(step);
        f.tape.apply(ops::dropout::Dropout { p: self.p, seed: f.seed, layer: self.layer, channels: self.channels }, &[x, step])
    }
}
