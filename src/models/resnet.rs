//! Residual networks (He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016).
//!
//! A block computes relu(f(x) + shortcut(x)), so that its gradient always has a way past f. Read next: `vgg.rs`.

use super::Options;
use crate::autograd::Var;
use crate::error::Result;
use crate::nn::layers::{BatchNorm, Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool2d, Module, Sequential};
use crate::nn::{Builder, Forward};

/// Convolutions with batch norm, and a shortcut around them.
#[derive(Debug)]
struct Block {
    body: Sequential,
    /// The last convolution.
    last: Conv2d,
    /// Its batch norm, to which the shortcut is added.
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

/// A bottleneck's outputs have so many times the channels of its 3x3 convolution.
const EXPANSION: usize = 4;

impl Block {
    /// Two 3x3 convolutions, the first with the stride.
    fn basic(b: &mut Builder, name: &str, [from, to]: [usize; 2], stride: usize, kind: Shortcut) -> Self {
        b.at(name, |b| {
            let body =
                Sequential::new().then(Conv2d::with(b, "conv1", [from, to], 3, stride, 1, false)).then(BatchNorm::new(b, "bn1", to).relu());
            let last = Conv2d::with(b, "conv2", [to, to], 3, 1, 1, false);
            let end = BatchNorm::new(b, "bn2", to).relu();
            Self { body, last, end, shortcut: kind.build(b, [from, to], stride) }
        })
    }

    /// A bottleneck: 1x1 down to a quarter of the channels `to`, 3x3 with the stride, 1x1 up to them.
    ///
    /// The paper has the stride on the first convolution; here, as in torchvision, it stands where it skips no pixel of x.
    fn bottleneck(b: &mut Builder, name: &str, [from, to]: [usize; 2], stride: usize, kind: Shortcut) -> Self {
        let narrow = to / EXPANSION;
        b.at(name, |b| {
            let body = Sequential::new()
                .then(Conv2d::with(b, "conv1", [from, narrow], 1, 1, 0, false))
                .then(BatchNorm::new(b, "bn1", narrow).relu())
                .then(Conv2d::with(b, "conv2", [narrow, narrow], 3, stride, 1, false))
                .then(BatchNorm::new(b, "bn2", narrow).relu());
            let last = Conv2d::with(b, "conv3", [narrow, to], 1, 1, 0, false);
            let end = BatchNorm::new(b, "bn3", to).relu();
            Self { body, last, end, shortcut: kind.build(b, [from, to], stride) }
        })
    }
}

impl Shortcut {
    /// The convolution and its batch norm, where the block changes the shape.
    fn build(self, b: &mut Builder, [from, to]: [usize; 2], stride: usize) -> Option<Sequential> {
        let Shortcut { kernel, bias } = self;
        (stride != 1 || from != to).then(|| {
            b.at("shortcut", |b| {
                Sequential::new().then(Conv2d::with(b, "0", [from, to], kernel, stride, kernel / 2, bias)).then(BatchNorm::new(b, "1", to))
            })
        })
    }
}

impl Module for Block {
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var> {
        let y = self.body.forward(f, x)?;
        let skip = match &self.shortcut {
            Some(shortcut) => shortcut.forward(f, x)?,
            None => x,
        };
        let out = self.end.with(Some(&self.last), f, y, Some(skip))?;
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
        .then(Conv2d::with(b, "conv1", [1, o.wide(16)], 3, 1, 1, true)) // 16x28x28
        .then(BatchNorm::new(b, "bn1", o.wide(16)).relu())
        .then(MaxPool2d::with(3, 1, 1));
    let mut channels = o.wide(16);
    for (stage, &count) in blocks.iter().enumerate() {
        let to = o.wide(16 << stage);
        for block in 0..count {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let kind = Shortcut { kernel: 3, bias: true };
            net = net.then(Block::basic(b, &format!("layer{}.{block}", stage + 1), [channels, to], stride, kind));
            channels = to;
        }
    }
    net.then(GlobalAvgPool).then(Flatten).then(Linear::new(b, "fc", channels, o.classes))
}

/// How a deep residual network is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Blocks of two 3x3 convolutions: ResNet-18 and -34.
    Basic,
    /// Bottlenecks, whose outputs have four times the channels: ResNet-50, -101 and -152.
    Bottleneck,
}

/// The deep networks of the paper with so many blocks in each stage, in their form for 3x32x32 pictures; `[2, 2, 2, 2]` of the basic kind is
/// ResNet-18.
///
/// The stem is one 3x3 convolution without pooling, where for 224x224 pictures a 7x7 convolution with stride 2 and a max-pool stand; and
/// torchvision's `downsample` is called `shortcut`. Otherwise layers, names and their order are torchvision's.
pub fn deep(b: &mut Builder, o: &Options, kind: Kind, blocks: [usize; 4]) -> Sequential {
    let mut net = Sequential::new()
        .then(Conv2d::with(b, "conv1", [3, o.wide(64)], 3, 1, 1, false)) // 64x32x32
        .then(BatchNorm::new(b, "bn1", o.wide(64)).relu());
    let mut channels = o.wide(64);
    for (stage, count) in blocks.into_iter().enumerate() {
        let to = o.wide(64 << stage) * if kind == Kind::Bottleneck { EXPANSION } else { 1 };
        for block in 0..count {
            let name = format!("layer{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let shortcut = Shortcut { kernel: 1, bias: false };
            net = net.then(match kind {
                Kind::Basic => Block::basic(b, &name, [channels, to], stride, shortcut),
                Kind::Bottleneck => Block::bottleneck(b, &name, [channels, to], stride, shortcut),
            });
            channels = to;
        }
    }
    net.then(GlobalAvgPool).then(Flatten).then(Linear::new(b, "fc", channels, o.classes))
}
