//! PyTorch's `.pth` files: a zip archive with a pickle of the state dict, and one file for the numbers of each tensor.
//!
//! ```text
//! archive/data.pkl      the pickle: an OrderedDict of names and tensors, or a dict that has one among its values
//! archive/byteorder     little
//! archive/data/0 ...    the numbers, each file at a multiple of 64 bytes
//! archive/version       3
//! archive/cugrad.json   ours, which PyTorch does not look at: what the network is, so that the file is all that `eval` needs
//! ```
//!
//! What is written loads under `torch.load(weights_only=True)`. What is read may come from anywhere: the pickle is not executed, and no
//! length in the file is believed. Read next: `optimizer.rs`, the rest of a training checkpoint; `import.rs`.

use super::objects::{Id, Node, Pickle, View};
use super::pickle::{Pickler, Value};
use super::zip::{self, Archive};
use crate::error::{Error, Result};
use crate::train::{Array, Checkpoint};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Our file in the archive: the strings of [`Checkpoint::meta`].
const ABOUT: &str = "cugrad.json";

/// Where a dict that is not a state dict has one.
const STATE_DICTS: [&str; 3] = ["model_state_dict", "state_dict", "model"];

/// Writes a file whose pickle is `value`.
pub fn write(value: &Value, meta: &BTreeMap<String, String>, out: &mut impl Write) -> io::Result<()> {
    let (pickle, storages) = Pickler::pickle(value);
    let mut files = vec![("data.pkl".to_string(), pickle), ("byteorder".into(), b"little".to_vec())];
    files.extend(storages.into_iter().enumerate().map(|(i, bytes)| (format!("data/{i}"), bytes)));
    files.push(("version".into(), b"3\n".to_vec()));
    files.push((ABOUT.into(), serde_json::to_vec(meta)?));
    zip::write(&files.into_iter().map(|(name, bytes)| (format!("archive/{name}"), bytes)).collect::<Vec<_>>(), out)
}

/// Reads the state dict of a file: the value of `model_state_dict`, `state_dict` or `model`, or else the whole.
pub fn read(bytes: &[u8]) -> Result<Checkpoint> {
    let archive = Archive::open(bytes)?;
    let of = |file: &str| archive.names().find(|name| *name == file || name.strip_suffix(file).is_some_and(|folder| folder.ends_with('/')));
    let Some(name) = of("data.pkl") else {
        return Err(Error::run("the archive has no data.pkl, so torch.save did not write it"));
    };
    let folder = name.trim_end_matches("data.pkl").to_string();
    if of("constants.pkl").is_some() {
        return Err(Error::run("this is a TorchScript program, not a state dict")
            .hint("in PyTorch: torch.save(torch.jit.load(FILE).state_dict(), \"weights.pth\")"));
    }
    if archive.get(&format!("{folder}byteorder"))?.is_some_and(|order| order != b"little") {
        return Err(Error::run("its numbers are big-endian").hint("load and save it again on a little-endian machine"));
    }
    let pickle = Pickle::read(archive.get(name)?.unwrap_or_default())?;
    let mut numbers = Numbers { archive, folder, files: BTreeMap::new(), left: bytes.len() };
    let mut read = Checkpoint::default();
    for (name, id) in state_dict(&pickle)? {
        let at = |e: Error| Error { message: format!("{name}: {}", e.message), ..e };
        let Node::Tensor(view) = pickle.node(id) else {
            return Err(Error::run(format!("the state dict has {} under '{name}', not a tensor", pickle.kind(id))));
        };
        read.tensors.insert(name.into(), (view.shape.clone(), numbers.array(view).map_err(at)?));
    }
    if let Some(about) = numbers.archive.get(&format!("{}{ABOUT}", numbers.folder))? {
        read.meta = serde_json::from_slice(about).map_err(|e| Error::run(format!("its {ABOUT} cannot be read: {e}")))?;
    }
    Ok(read)
}

/// The names and values of the state dict.
fn state_dict(pickle: &Pickle) -> Result<BTreeMap<&str, Id>> {
    let has_tensors = |id: Id| pickle.items(id).any(|(_, value)| matches!(pickle.node(value), Node::Tensor(_)));
    let root: BTreeMap<&str, Id> = pickle.items(pickle.root).collect();
    for key in STATE_DICTS {
        if let Some(&id) = root.get(key).filter(|&&id| has_tensors(id)) {
            return Ok(pickle.items(id).collect());
        }
    }
    if has_tensors(pickle.root) {
        return Ok(root);
    }
    let found = match pickle.node(pickle.root) {
        Node::Dict(_) => {
            let keys: Vec<String> = root.iter().take(12).map(|(key, &id)| format!("{key} ({})", pickle.kind(id))).collect();
            format!("a dict of {}", if keys.is_empty() { "nothing".into() } else { keys.join(", ") })
        }
        _ => pickle.kind(pickle.root),
    };
    Err(Error::run(format!("it holds no state dict but {found}"))
        .hint("in PyTorch: torch.save(model.state_dict(), \"weights.pth\"), or the same under the key model_state_dict or state_dict"))
}

/// The files beside the pickle, each read once.
struct Numbers<'a> {
    archive: Archive<'a>,
    folder: String,
    files: BTreeMap<String, &'a [u8]>,
    /// How many numbers may still be read: many tensors may share a storage, but not to make much out of little.
    left: usize,
}

impl Numbers<'_> {
    /// The numbers of a tensor in row-major order.
    fn array(&mut self, view: &View) -> Result<Array> {
        let View { storage, offset, shape, stride } = view;
        let bytes = match self.files.get(&storage.key) {
            Some(bytes) => bytes,
            None => {
                let file = format!("{}data/{}", self.folder, storage.key);
                let bytes = self.archive.get(&file)?.ok_or_else(|| Error::run(format!("the archive has no {file}")))?;
                self.files.entry(storage.key.clone()).or_insert(bytes)
            }
        };
        let places = |width: usize| {
            let there = bytes.len() / width;
            let count = shape.iter().try_fold(1_usize, |n, &side| n.checked_mul(side));
            let last =
                || shape.iter().zip(stride).try_fold(*offset, |at, (&n, &step)| at.checked_add(n.saturating_sub(1).checked_mul(step)?));
            match count {
                Some(0) => Ok(Vec::new()),
                Some(count) if count <= there.min(self.left) && last().is_some_and(|last| last < there) => {
                    Ok(places(*offset, shape, stride))
                }
                _ => Err(Error::run(format!("a tensor {shape:?} (strides {stride:?}, offset {offset}) does not fit its {there} numbers"))
                    .hint("the file is damaged, or the tensor was expanded: call .contiguous() before it is saved")),
            }
        };
        fn pick<const N: usize, T>(bytes: &[u8], places: &[usize], of: impl Fn([u8; N]) -> T) -> Vec<T> {
            let numbers = bytes.as_chunks().0;
            places.iter().map(|&at| of(numbers[at])).collect()
        }
        let array = match storage.class.as_str() {
            "FloatStorage" => Array::F32(pick(bytes, &places(4)?, f32::from_le_bytes)),
            "HalfStorage" => Array::F32(pick(bytes, &places(2)?, |b| f16::from_le_bytes(b).to_f32())),
            "BFloat16Storage" => Array::F32(pick(bytes, &places(2)?, |b| bf16::from_le_bytes(b).to_f32())),
            "DoubleStorage" => Array::F64(pick(bytes, &places(8)?, f64::from_le_bytes)),
            "LongStorage" => Array::I64(pick(bytes, &places(8)?, i64::from_le_bytes)),
            "IntStorage" => Array::I64(pick(bytes, &places(4)?, |b| i32::from_le_bytes(b).into())),
            other => {
                return Err(Error::run(format!("a {other} cannot be read; float, double, half, bfloat16, long and int can"))
                    .hint("convert it in PyTorch with .float() and save it again"));
            }
        };
        self.left -= array.len();
        Ok(array)
    }
}

/// Where each element of a strided tensor is, in row-major order.
fn places(offset: usize, shape: &[usize], stride: &[usize]) -> Vec<usize> {
    let mut places = vec![offset];
    for (&n, &step) in shape.iter().zip(stride) {
        places = places.iter().flat_map(|&at| (0..n).map(move |i| at + i * step)).collect();
    }
    places
}
