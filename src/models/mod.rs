//! Networks by name.
//!
//! Each is a function that builds its layers; [`ALL`] is the table of them. A [`Model`] is such a network with its numbers. Read
//! next: `lenet.rs` (small networks), `resnet.rs`, `vgg.rs`.

pub mod lenet;
pub mod resnet;
pub mod vgg;

use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Builder, Forward, Mode, Module, Params, Sequential};
use crate::tensor::{DType, L, Spec, Tensor, groups};
use rayon::prelude::*;
use resnet::Kind::{Basic, Bottleneck};
use std::ops::Range;

/// One line of the table of networks.
#[derive(Debug)]
pub struct Known {
    /// What `--model` calls it.
    pub name: &'static str,
    /// Its layers in a few words.
    pub about: &'static str,
    /// The pictures it takes: channels, height, width.
    pub input: [usize; 3],
    build: fn(&mut Builder, &Options) -> Sequential,
}

/// Every network.
pub const ALL: &[Known] = &[
    known("lenet", "two 5x5 convolutions (10, 20), three linear layers, leaky ReLU", GREY, |b, o| lenet::lenet(b, o, 0.01)),
    known("lenet-relu", "the same with ReLU", GREY, |b, o| lenet::lenet(b, o, 0.0)),
    known("lenet-bn3", "three convolutions (16, 32, 64) with batch norm, one linear layer", GREY, lenet::lenet_bn3),
    known("digit", "two convolutions (10, 20), two linear layers (500)", GREY, lenet::digit),
    known("rgb-cnn", "three 3x3 convolutions (32, 64, 64) on colour pictures, two linear layers", [3, 28, 28], lenet::rgb_cnn),
    known("mnist-cnn", "two 5x5 convolutions, two linear layers with nothing between them", GREY, lenet::mnist_cnn),
    known("mnist-cnn-fixed", "the same with batch norm, ReLU and dropout", GREY, lenet::mnist_cnn_fixed),
    known("improved", "four 3x3 convolutions (32, 32, 64, 64) with batch norm and dropout", GREY, lenet::improved),
    known("net1", "one convolution, one 4x4 max-pool, one linear layer", GREY, lenet::net1),
    known("simple3", "ten 3x3 convolutions (32 to 176) with batch norm, without padding or pooling, one linear layer", GREY, |b, o| {
        lenet::simple(b, o, 3, &[32, 48, 64, 80, 96, 112, 128, 144, 160, 176])
    }),
    known("simple5", "the same with five 5x5 convolutions (32 to 160)", GREY, |b, o| lenet::simple(b, o, 5, &[32, 64, 96, 128, 160])),
    known("simple7", "the same with four 7x7 convolutions (48 to 192)", GREY, |b, o| lenet::simple(b, o, 7, &[48, 96, 144, 192])),
    known("resnet8", "residual network, stages of 16, 32 and 64 channels, one block each", GREY, |b, o| resnet::small(b, o, &[1, 1, 1])),
    known("resnet18", "residual network for 32x32 colour pictures, stages of 64 to 512 channels", COLOUR, |b, o| {
        resnet::deep(b, o, Basic, [2, 2, 2, 2])
    }),
    known("resnet34", "the same with 3, 4, 6 and 3 blocks", COLOUR, |b, o| resnet::deep(b, o, Basic, [3, 4, 6, 3])),
    known("resnet50", "the same with bottlenecks, stages of 256 to 2048 channels", COLOUR, |b, o| {
        resnet::deep(b, o, Bottleneck, [3, 4, 6, 3])
    }),
    known("resnet101", "the same with 3, 4, 23 and 3 bottlenecks", COLOUR, |b, o| resnet::deep(b, o, Bottleneck, [3, 4, 23, 3])),
    known("resnet152", "the same with 3, 8, 36 and 3 bottlenecks", COLOUR, |b, o| resnet::deep(b, o, Bottleneck, [3, 8, 36, 3])),
    known("vgg11", "8 3x3 convolutions (64 to 512) with batch norm, three linear layers (512) with dropout", COLOUR, |b, o| {
        vgg::vgg(b, o, [1, 1, 2, 2, 2])
    }),
    known("vgg13", "the same with 10 convolutions", COLOUR, |b, o| vgg::vgg(b, o, [2, 2, 2, 2, 2])),
    known("vgg16", "the same with 13 convolutions", COLOUR, |b, o| vgg::vgg(b, o, [2, 2, 3, 3, 3])),
    known("vgg19", "the same with 16 convolutions", COLOUR, |b, o| vgg::vgg(b, o, [2, 2, 4, 4, 4])),
];

const GREY: [usize; 3] = [1, 28, 28];

const COLOUR: [usize; 3] = [3, 32, 32];

/// The part of running statistics that comes from each batch: PyTorch's momentum of batch norms.
pub const MOMENTUM: f64 = 0.1;

/// Groups of images that a thread takes through a network together: linear layers read their weights once for all.
const GROUPS: usize = 4;

/// The images 0 to n in shares of nearly the same number of groups, by n alone.
pub fn shares(n: usize) -> Vec<Range<usize>> {
    let groups = groups(n);
    let shares = groups.div_ceil(GROUPS);
    (0..shares).map(|i| i * groups / shares * L..n.min((i + 1) * groups / shares * L)).collect()
}

const fn known(name: &'static str, about: &'static str, input: [usize; 3], build: fn(&mut Builder, &Options) -> Sequential) -> Known {
    Known { name, about, input, build }
}

/// What can be chosen about a network beside its name.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many classes it tells apart.
    pub classes: usize,
    /// How many times as many channels and features as published it has between input and output; a name like `lenet@2` says it, too.
    pub width: f64,
    /// Height and width of the pictures, for a network that takes any.
    pub size: Option<[usize; 2]>,
    /// Type of activations and working weights; with a half type, parameters and statistics are kept in f32.
    pub dtype: DType,
    /// Where it computes.
    pub device: Device,
    /// Seed of the first weights.
    pub seed: u64,
    /// Leave the dropout layers in; without them a training step can be compared number by number.
    pub dropout: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { classes: 10, width: 1.0, size: None, dtype: DType::F32, device: Device::Cpu, seed: 0, dropout: true }
    }
}

/// A network with its numbers.
#[derive(Debug)]
pub struct Model {
    /// Its name, as given to [`Model::build`].
    pub name: String,
    /// The pictures it takes: channels, height, width.
    pub input: [usize; 3],
    /// How many classes it tells apart.
    pub classes: usize,
    /// Type of its activations.
    pub dtype: DType,
    /// Where it computes.
    pub device: Device,
    /// Weights and buffers.
    pub params: Params,
    /// Does no image meet another but in sums over the batch?
    separate: bool,
    root: Sequential,
}

impl Model {
    /// The pictures that a network takes, by its name: channels, height, width.
    ///
    /// Residual networks and VGGs end in a mean over all places, so they take any size; the others take one alone.
    pub fn input(name: &str, size: Option<[usize; 2]>) -> Result<[usize; 3]> {
        let (name, _) = width(name)?;
        let own = match name.strip_prefix("resnet:") {
            Some(blocks) => stages(name, blocks).map(|_| GREY)?,
            None => ALL.iter().find(|k| k.name == name).map(|k| k.input).ok_or_else(|| unknown(name))?,
        };
        let any = ["resnet", "vgg"].iter().any(|family| name.starts_with(family));
        Ok(size.filter(|_| any).map_or(own, |[h, w]| [own[0], h, w]))
    }

    /// Builds a network by name; `resnet:2,2,2` is a small residual network with so many blocks in each stage, `lenet@2` a LeNet of twice
    /// the width.
    pub fn build(name: &str, options: &Options) -> Result<Model> {
        let input = Self::input(name, options.size)?;
        let (b, root) = Self::declare(name, options)?;
        let Options { classes, dtype, device, seed, .. } = *options;
        Ok(Model { name: name.into(), input, classes, dtype, device, separate: b.is_separate(), params: b.build(seed), root })
    }

    /// How many parameters a network has, without making them.
    pub fn count(name: &str, options: &Options) -> Result<usize> {
        Ok(Self::declare(name, options)?.0.count())
    }

    /// Its layers, and what they declared.
    fn declare(name: &str, options: &Options) -> Result<(Builder, Sequential)> {
        let mut b = Builder::new(options.dtype, options.device);
        let (name, width) = width(name)?;
        let options = &Options { width: width * options.width, ..options.clone() };
        let root = match name.strip_prefix("resnet:") {
            Some(blocks) => resnet::small(&mut b, options, &stages(name, blocks)?),
            None => (ALL.iter().find(|k| k.name == name).ok_or_else(|| unknown(name))?.build)(&mut b, options),
        };
        Ok((b, root))
    }

    /// Does no image meet another but in sums over the batch, and are training and evaluation one? So it is without batch norm and dropout.
    pub fn separate(&self) -> bool {
        self.separate
    }

    /// Runs the network on pictures x `[N,C,H,W]` in training mode; gives the logits `[N,classes]`.
    ///
    /// `seed` and `step` ([`crate::ops::dropout::step`]) number the random draws of dropout.
    pub fn train(&mut self, tape: &mut Tape, x: Var, seed: u64, step: Tensor) -> Result<Var> {
        let params = Mode::Training(&mut self.params);
        self.root.forward(&mut Forward { tape, params, seed, momentum: MOMENTUM, step: Some(step) }, x)
    }

    /// The same without dropout, and with `momentum` for the part of running statistics that comes from this batch.
    pub fn train_plain(&mut self, tape: &mut Tape, x: Var, momentum: f64) -> Result<Var> {
        let params = Mode::Training(&mut self.params);
        self.root.forward(&mut Forward { tape, params, seed: 0, momentum, step: None }, x)
    }

    /// Runs the network in evaluation mode.
    pub fn eval(&self, tape: &mut Tape, x: Var) -> Result<Var> {
        let params = Mode::Evaluation(&self.params);
        self.root.forward(&mut Forward { tape, params, seed: 0, momentum: 0.0, step: None }, x)
    }

    /// The logits of a batch, without a record for backward.
    ///
    /// No image depends on another. So on the CPU each thread takes some groups through the whole network, and finds what a layer wrote in its
    /// caches; a GPU takes all of them at once.
    pub fn logits(&self, x: Tensor) -> Result<Tensor> {
        let shares = shares(x.shape()[0]);
        if x.device() != Device::Cpu || shares.len() < 2 {
            return self.logits_at_once(x);
        }
        let parts: Vec<Tensor> = shares.into_par_iter().map(|images| self.logits_at_once(x.images(images))).collect::<Result<_>>()?;
        let mut y = Tensor::new(Spec::lanes([x.shape()[0], self.classes], x.dtype()));
        crate::dispatch!(x.dtype(), T => {
            let mut rest = y.lanes_mut::<T>();
            for part in &parts {
                let here;
                (here, rest) = rest.split_at_mut(part.lanes::<T>().len());
                here.copy_from_slice(part.lanes::<T>());
            }
        });
        Ok(y)
    }

    fn logits_at_once(&self, x: Tensor) -> Result<Tensor> {
        let mut tape = Tape::inference();
        let x = tape.input(x);
        let y = self.eval(&mut tape, x)?;
        Ok(tape.value(y).clone())
    }
}

fn unknown(name: &str) -> Error {
    let names: Vec<&str> = ALL.iter().map(|k| k.name).collect();
    Error::usage(format!("unknown model '{name}'"))
        .hint(format!("use one of {}, or resnet:1,1,1 with your numbers of blocks; @2 behind it doubles its width", names.join(", ")))
}

/// A name without its width, and that width.
fn width(name: &str) -> Result<(&str, f64)> {
    let Some((plain, width)) = name.split_once('@') else { return Ok((name, 1.0)) };
    match width.parse() {
        Ok(width) if (0.01..=100.0).contains(&width) => Ok((plain, width)),
        _ => Err(Error::usage(format!("cannot read the width of '{name}'"))
            .hint("write a number from 0.01 to 100 behind the @, as in lenet@0.5")),
    }
}

fn stages(name: &str, blocks: &str) -> Result<Vec<usize>> {
    let parsed: std::result::Result<Vec<usize>, _> = blocks.split(',').map(str::trim).map(str::parse).collect();
    match parsed {
        Ok(blocks) if (1..=4).contains(&blocks.len()) && blocks.iter().all(|b| (1..=100).contains(b)) => Ok(blocks),
        _ => {
            Err(Error::usage(format!("cannot read the blocks of '{name}'"))
                .hint("write one to four numbers from 1 to 100, as in resnet:2,2,2"))
        }
    }
}

impl Options {
    /// So many channels or features, in this width.
    fn wide(&self, count: usize) -> usize {
        ((count as f64 * self.width).round() as usize).max(1)
    }

    /// The probability to drop, unless dropout is off.
    fn drop(&self, p: f64) -> f64 {
        if self.dropout { p } else { 0.0 }
    }
}
