//! Networks for other programs, and weights from them: safetensors, PyTorch's `.pth`, ONNX.
//!
//! An export proves itself: the file is read back from the disk, run on a few pictures, and its logits are compared with the
//! network's. safetensors and `.pth` are loaded into a fresh network for that; an ONNX graph is run by `onnx/run.rs`, which shares no code
//! with the engine. Not here: the command line (`cli/export.rs`, `cli/import.rs`). Read next: `zip.rs`, `pickle.rs`, `objects.rs`, `unpickle.rs`,
//! `pth.rs`, `optimizer.rs`, then `import.rs` and `onnx/mod.rs`.

pub mod import;
pub mod objects;
pub mod onnx;
pub mod optimizer;
pub mod pickle;
pub mod pth;
pub mod unpickle;
pub mod zip;

use crate::device::Device;
use crate::disk::{io_error, replace};
use crate::error::{Error, Result};
use crate::models::{Model, Options};
use crate::tensor::{DType, Philox, Spec, Tensor};
use crate::train::checkpoint::is_model;
use crate::train::progress::Progress;
use crate::train::trained::{describe, load_model};
use crate::train::{Checkpoint, Trained};
use pickle::Value;
use prost::Message;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

/// How many pictures a file is tried on.
pub const PICTURES: usize = 4;

/// By how much logits may differ, as a part of the largest of them: what f32 loses over the layers of the deepest network, ten times.
const TOLERANCE: f64 = 1e-4;

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Named tensors: safetensors.
    Safetensors,
    /// PyTorch's own: a state dict.
    Pth,
    /// PyTorch's own: `{epoch, model_state_dict, optimizer_state_dict}`.
    PthCheckpoint,
    /// A graph with its weights.
    Onnx,
}

impl FromStr for Format {
    type Err = Error;

    /// `safetensors`, `pth` (or `pt`), `onnx`: names of formats, which are the endings of their files too.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "safetensors" => Ok(Format::Safetensors),
            "pth" | "pt" => Ok(Format::Pth),
            "onnx" => Ok(Format::Onnx),
            _ => Err(Error::usage(format!("unknown format '{name}'")).hint("use safetensors, pth or onnx")),
        }
    }
}

/// What the comparison of a file with its network gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proof {
    /// Bytes of the file.
    pub bytes: u64,
    /// The largest difference between two logits.
    pub difference: f64,
    /// The largest logit.
    pub largest: f64,
}

/// Writes a network to a file, reads the file back, and compares what both compute.
///
/// `trained` computes in f32 on the CPU; `saved` is the checkpoint that it came from, which an optimiser's state is taken from.
/// Fails when the file cannot be written, and with a check's error when the file does not compute what the network does.
pub fn export(trained: &mut Trained, saved: &Checkpoint, format: Format, path: &Path) -> Result<Proof> {
    match format {
        Format::Safetensors => weights(trained)?.save(path)?,
        Format::Pth | Format::PthCheckpoint => {
            let weights = weights(trained)?;
            let value = match format {
                Format::Pth => state_dict(&weights, &trained.model),
                _ => training(&weights, trained, saved)?,
            };
            replace(path, |out| pth::write(&value, &weights.meta, out))?;
        }
        Format::Onnx => {
            let about = about(trained);
            let graph = onnx::export(&trained.model, &about)?;
            replace(path, |out| out.write_all(&graph.encode_to_vec()))?;
        }
    }
    prove(&trained.model, format, path)
}

/// The weights and what using them takes, without the state of training.
fn weights(trained: &Trained) -> Result<Checkpoint> {
    let mut weights = describe(&trained.model, &trained.classes, &trained.normalization, &trained.config)?;
    weights.tensors.retain(|name, _| is_model(name));
    Ok(weights)
}

/// What an ONNX file says about itself, beside its graph.
fn about(trained: &Trained) -> Vec<(&'static str, String)> {
    let json = |value: serde_json::Value| value.to_string();
    let [c, h, w] = trained.model.input;
    vec![
        ("model", trained.model.name.clone()),
        ("classes", json(trained.classes.clone().into())),
        ("mean", json(numbers(&trained.normalization.mean))),
        ("std", json(numbers(&trained.normalization.std))),
        ("input", format!("float32 [N, {c}, {h}, {w}]: (pixel / 255 - mean) / std")),
        ("output", format!("float32 [N, {}]: logits; softmax of them gives probabilities", trained.classes.len())),
    ]
}

/// f32 numbers as JSON with as few digits as name them.
pub fn numbers(values: &[f32]) -> serde_json::Value {
    values.iter().map(|v| v.to_string().parse::<f64>().unwrap_or_default()).collect()
}

/// The state dict in PyTorch's order: layer by layer, a layer's parameters before its buffers.
fn state_dict(weights: &Checkpoint, model: &Model) -> Value {
    let names: Vec<&str> = model.params.state().map(|(name, _)| name).collect();
    let layer = |name: &str| name.rsplit_once('.').map_or(String::new(), |(layer, _)| layer.into());
    let layers: Vec<String> = names.iter().map(|name| layer(name)).collect();
    let mut order = names.clone();
    order.sort_by_key(|name| layers.iter().position(|l| *l == layer(name)));
    let items = order.iter().filter_map(|&name| {
        let (shape, array) = weights.tensors.get(name)?;
        Some((name.to_string(), Value::Tensor(shape.clone(), array.clone())))
    });
    Value::Ordered(items.collect())
}

/// What PyTorch users save to go on training.
fn training(weights: &Checkpoint, trained: &Trained, saved: &Checkpoint) -> Result<Value> {
    let progress = saved.meta.get("trainer").and_then(|text| serde_json::from_str::<Progress>(text).ok());
    let progress = progress.ok_or_else(|| {
        Error::usage("the checkpoint holds no state of training").hint("export a run's last.safetensors, or leave --training out")
    })?;
    Ok(Value::dict([
        ("epoch", Value::Int(progress.epoch as i64)),
        ("model_state_dict", state_dict(weights, &trained.model)),
        ("optimizer_state_dict", optimizer::state_dict(&trained.model, saved, &trained.config)?),
    ]))
}

/// Reads a file back and compares its logits with the network's.
fn prove(model: &Model, format: Format, path: &Path) -> Result<Proof> {
    let (dims, pictures) = pictures(model.input);
    let ours = logits(model, &dims, &pictures)?;
    let theirs = match format {
        Format::Onnx => {
            let bytes = fs::read(path).map_err(|e| io_error("cannot read", path, &e))?;
            let y = onnx::run::run(&onnx::run::decode(&bytes)?, onnx::run::Array::new(dims, pictures)?)?;
            y.data.iter().map(|&v| v.into()).collect()
        }
        _ => {
            // Another seed, so that a weight which is not loaded shows.
            let [_, h, w] = model.input;
            let options = Options { classes: model.classes, size: Some([h, w]), seed: 0x5EED, ..Options::default() };
            let mut fresh = Model::build(&model.name, &options)?;
            load_model(&mut fresh, &import::read(path)?)?;
            logits(&fresh, &dims, &pictures)?
        }
    };
    let largest = ours.iter().fold(0.0, |max: f64, y| max.max(y.abs()));
    let difference =
        ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, |max: f64, d| if d > max || d.is_nan() { d } else { max });
    let bytes = fs::metadata(path).map_err(|e| io_error("cannot read", path, &e))?.len();
    // A network whose weights are not finite cannot be compared, and is of no use to anybody.
    if ours.len() != theirs.len() || difference.is_nan() || difference > TOLERANCE * largest.max(1.0) {
        return Err(Error::check(format!(
            "{}: the file was written, but its logits differ from the network's by {difference:.1e} (largest {largest:.3})",
            path.display()
        ))
        .hint("do not use the file; if the checkpoint's weights are finite, this is a bug in cugrad"));
    }
    Ok(Proof { bytes, difference, largest })
}

/// Pictures to try a network on: the shape, and normal numbers, which is what normalised pictures are like.
fn pictures([c, h, w]: [usize; 3]) -> (Vec<usize>, Vec<f32>) {
    let rng = Philox::new(0);
    let count = PICTURES * c * h * w;
    (vec![PICTURES, c, h, w], (0..count).map(|i| rng.normal(0, i as u64) as f32).collect())
}

fn logits(model: &Model, dims: &[usize], pictures: &[f32]) -> Result<Vec<f64>> {
    model.logits(Tensor::from_values(Spec::lanes(dims, DType::F32).on(Device::Cpu), pictures))?.read()
}

#[cfg(test)]
mod tests;
