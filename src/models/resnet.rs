//! Residual networks (He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016).
//!
//! A block computes relu(f(x) + shortcut(x)), so that its gradient always has a way past f. Read next: `data/mod.rs`.

use super::Options;
use crate::autograd::Var;
use crate::error::Result;
use crate::nn::layers::{BatchNorm, Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool2d, Module, Sequential};
use crate::nn::{Builder, Forward};

/// Two 3x3 convolutions with batch norm, and a shortcut around them.
#[derive(Debug)]
struct BasicBlock {
    body: Sequential,
    /// The last batch norm, to which the shortcut is added.
    end: BatchNorm,
    /// Where the shape changes; the identity elsewhere.
    shortcut: Option<Sequential>,
}

/// The convolution of a shortcut: size of its kernel (padded so that only the stride shrinks) and whether it has a bias.
#[derive(Debug, Clone, Copy)]
struct Shortcut {
    kernel: usize,
    bias: bool,
}

impl BasicBlock {
    fn new(b: &mut Builder, name: &str, [from, to]: [usize; 2], stride: usize, kind: Shortcut) -> Self {
        b.at(name, |b| {
            let body = Sequential::new()
                .then(Conv2d::with(b, "conv1", [from, to], 3, stride, 1, false))
                .then(BatchNorm::new(b, "bn1", to).relu())
                .then(Conv2d::with(b, "conv2", [to, to], 3, 1, 1, false));
            let end = BatchNorm::new(b, "bn2", to).relu();
            let shortcut = (stride != 1 || from != to).then(|| {
                b.at("shortcut", |b| {
                    Sequential::new()
                        .then(Conv2d::with(b, "0", [from, to], kind.kernel, stride, kind.kernel / 2, kind.bias))
                        .then(BatchNorm::new(b, "1", to))
                })
            });
            Self { body, end, shortcut }
        })
    }
}

impl Module for BasicBlock {
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var> {
        let y = self.body.forward(f, x)?;
        let skip = match &self.shortcut {
            Some(shortcut) => shortcut.forward(f, x)?,
            None => x,
        };
        let out = self.end.with(f, y, Some(skip))?;
        f.tape.release(y);
        if skip != x {
            f.tape.release(skip);
        }
        Ok(out)
    }
}

/// Stages of 16, 32, 64, ... channels with so many blocks each, on 1x28x28; `[1, 1, 1]` is ResNet-8.
///
/// Its shortcuts are 3x3 convolutions with bias and its stem ends in a 3x3 max-pool, unlike the paper's: so was the network that
/// its figures are compared with.
pub fn small(b: &mut Builder, o: &Options, blocks: &[usize]) -> Sequential {
    let mut net = Sequential::new()
        .then(Conv2d::with(b, "conv1", [1, 16], 3, 1, 1, true)) // 16x28x28
        .then(BatchNorm::new(b, "bn1", 16).relu())
        .then(MaxPool2d::with(3, 1, 1));
    let mut channels = 16;
    for (stage, &count) in blocks.iter().enumerate() {
        let to = 16 << stage;
        for block in 0..count {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let kind = Shortcut { kernel: 3, bias: true };
            net = net.then(BasicBlock::new(b, &format!("layer{}.{block}", stage + 1), [channels, to], stride, kind));
            channels = to;
        }
    }
    net.then(GlobalAvgPool).then(Flatten).then(Linear::new(b, "fc", channels, o.classes))
}

/// ResNet-18 in its form for 3x32x32 pictures: a 3x3 stem without pooling, 1x1 shortcuts.
pub fn resnet18(b: &mut Builder, o: &Options) -> Sequential {
    let mut net = Sequential::new()
        .then(Conv2d::with(b, "conv1", [3, 64], 3, 1, 1, false)) // 64x32x32
        .then(BatchNorm::new(b, "bn1", 64).relu());
    let mut channels = 64;
    for stage in 0..4 {
        let to = 64 << stage;
        for block in 0..2 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let kind = Shortcut { kernel: 1, bias: false };
            net = net.then(BasicBlock::new(b, &format!("layer{}.{block}", stage + 1), [channels, to], stride, kind));
            channels = to;
        }
    }
    net.then(GlobalAvgPool).then(Flatten).then(Linear::new(b, "fc", channels, o.classes))
}
