//! VGG networks (Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015): 3x3 convolutions
//! one after the other, with batch norm, in five blocks that a max-pool ends.
//!
//! Parameters have the names of torchvision's `vgg11_bn` and its like: `features.0.weight`, `classifier.6.bias`. What differs from
//! torchvision's is made for small pictures:
//!
//! * the input is 3x32x32, or any other size (`Options::size`): a max-pool that would leave nothing is left out, which for 28x28 is the last;
//! * the mean over all places stands in place of torchvision's over 7x7 windows, so the first linear layer reads 512 numbers, not 25088;
//! * the two hidden linear layers are 512 wide, not 4096, so VGG-16 has 15 million parameters and not 138;
//! * first values are PyTorch's defaults of the layers, as in all networks here, not torchvision's normal draws.
//!
//! Read next: `data/mod.rs`.

use super::Options;
use crate::nn::Builder;
use crate::nn::layers::{BatchNorm, Conv2d, Dropout, Flatten, GlobalAvgPool, Linear, Relu, Sequential};

/// Channels of the five blocks.
const CHANNELS: [usize; 5] = [64, 128, 256, 512, 512];

/// Width of the hidden linear layers.
const HIDDEN: usize = 512;

/// The pictures that it takes if nothing else is said: height, width.
pub const SIZE: [usize; 2] = [32, 32];

/// A VGG with so many convolutions in each block: `[1, 1, 2, 2, 2]` is VGG-11, which counts the three linear layers.
pub fn vgg(b: &mut Builder, o: &Options, blocks: [usize; 5]) -> Sequential {
    let mut net = Sequential::new();
    let [mut h, mut w] = o.size.unwrap_or(SIZE);
    // Positions in torchvision's list of layers: a convolution, its batch norm and its ReLU, and the pools, present or not.
    let (mut at, mut from) = (0, 3);
    for (count, to) in blocks.into_iter().zip(CHANNELS) {
        let (to, pooled) = (o.wide(to), h >= 2 && w >= 2);
        for i in 1..=count {
            let conv = Conv2d::with(b, &format!("features.{at}"), [from, to], 3, 1, 1, true);
            let norm = BatchNorm::new(b, &format!("features.{}", at + 1), to);
            net = net.then(conv).then(if i == count && pooled { norm.relu_pool() } else { norm.relu() });
            (at, from) = (at + 3, to);
        }
        if pooled {
            (h, w) = (h / 2, w / 2);
        }
        at += 1;
    }
    net.then(GlobalAvgPool)
        .then(Flatten)
        .then(Linear::new(b, "classifier.0", from, o.wide(HIDDEN)))
        .then(Relu::new())
        .then(Dropout::new(b, o.drop(0.5)))
        .then(Linear::new(b, "classifier.3", o.wide(HIDDEN), o.wide(HIDDEN)))
        .then(Relu::new())
        .then(Dropout::new(b, o.drop(0.5)))
        .then(Linear::new(b, "classifier.6", o.wide(HIDDEN), o.classes))
}
