//! From networks to checkpoints and back: what a trained network takes to be used again.
//!
//! Read next: `checkpoint.rs`, the file; `trainer.rs`, which adds what going on takes.

use super::checkpoint::{self, Array, Checkpoint};
use super::config::Config;
use crate::data::{Normalization, Splits};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::{Model, Options};
use crate::tensor::{DType, Spec, Tensor};
use serde::Serialize;
use std::path::Path;

/// A network with the names and numbers that using it takes: `eval` and `predict` read nothing else.
pub(super) fn describe(model: &Model, splits: &Splits, config: &Config) -> Result<Checkpoint> {
    let mut saved = Checkpoint::default();
    for (name, tensor) in model.params.state() {
        saved.tensors.insert(name.into(), keep(tensor)?);
    }
    let Normalization { mean, std } = &splits.normalization;
    for (key, value) in [
        ("cugrad", env!("CARGO_PKG_VERSION").to_string()),
        ("model", model.name.clone()),
        ("classes", json(&splits.train.classes)?),
        ("normalization", json(&(mean, std))?),
        ("config", json(config)?),
    ] {
        saved.meta.insert(key.into(), value);
    }
    Ok(saved)
}

pub(super) fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::run(format!("cannot write the training state: {e}")))
}

/// A tensor as a checkpoint holds it; counters become i64, as PyTorch's are.
pub(super) fn keep(t: &Tensor) -> Result<(Vec<usize>, Array)> {
    let t = t.fetch()?;
    let array = match t.dtype() {
        DType::F32 => Array::F32(t.data::<f32>().to_vec()),
        DType::I32 => Array::I64(t.data::<i32>().iter().map(|&x| i64::from(x)).collect()),
        _ => Array::F64(t.values()),
    };
    Ok((t.shape().to_vec(), array))
}

/// The way back; shapes agree already.
pub(super) fn restore(t: &mut Tensor, array: &Array) {
    let spec: Spec = t.spec();
    t.copy_from(&match array {
        Array::F32(values) => Tensor::from_values(spec, values),
        Array::F64(values) => Tensor::from_values(spec, values),
        Array::I64(values) => Tensor::from_values(spec, &values.iter().map(|&x| x as f64).collect::<Vec<_>>()),
    });
}

/// Puts a checkpoint's weights and buffers into a network; one error lists everything that does not fit.
pub fn load_model(model: &mut Model, saved: &Checkpoint) -> Result<()> {
    let expected: Vec<(String, Vec<usize>)> = model.params.state().map(|(name, t)| (name.into(), t.shape().to_vec())).collect();
    checkpoint::compare(&expected, saved, checkpoint::is_model).map_err(|mut e| {
        e.message = format!("the checkpoint does not fit model '{}': {}", model.name, e.message);
        e
    })?;
    for (name, tensor) in model.params.state_mut() {
        restore(tensor, &saved.tensors[name].1);
    }
    model.params.refresh()
}

/// What is kept under a key of a checkpoint.
fn read<T: serde::de::DeserializeOwned>(path: &Path, saved: &Checkpoint, key: &str) -> Result<T> {
    let text = saved
        .meta
        .get(key)
        .ok_or_else(|| Error::run(format!("{}: was not written by cugrad: it has no '{key}' in its metadata", path.display())))?;
    serde_json::from_str(text).map_err(|e| Error::run(format!("{}: its '{key}' cannot be read: {e}", path.display())))
}

/// What the classes of a checkpoint's network are called.
pub fn classes(path: &Path, saved: &Checkpoint) -> Result<Vec<String>> {
    read(path, saved, "classes")
}

/// A trained network and what it needs to be used.
#[derive(Debug)]
pub struct Trained {
    /// The network with its weights.
    pub model: Model,
    /// What each class is called.
    pub classes: Vec<String>,
    /// How its pictures were normalised.
    pub normalization: Normalization,
    /// How it was trained.
    pub config: Config,
}

impl Trained {
    /// Builds the network that a checkpoint describes, on `device`.
    pub fn load(path: &Path, saved: &Checkpoint, device: Device) -> Result<Trained> {
        Self::load_as(path, saved, None, device)
    }

    /// The same, to compute in another type than it was trained in.
    pub fn load_as(path: &Path, saved: &Checkpoint, dtype: Option<DType>, device: Device) -> Result<Trained> {
        let config: Config = read(path, saved, "config")?;
        let classes = classes(path, saved)?;
        let (mean, std): (Vec<f32>, Vec<f32>) = read(path, saved, "normalization")?;
        let dtype = dtype.map_or_else(|| config.dtype(), Ok)?;
        let choices = Options { classes: classes.len(), size: config.size()?, dtype, device, ..Options::default() };
        let mut model = Model::build(&config.model, &choices)?;
        load_model(&mut model, saved)?;
        if mean.len() != std.len() || ![1, model.input[0]].contains(&mean.len()) {
            return Err(Error::run(format!("{}: its 'normalization' does not fit model '{}'", path.display(), model.name)));
        }
        Ok(Trained { model, classes, normalization: Normalization { mean, std }, config })
    }
}
