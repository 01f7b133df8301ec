//! A checkpoint: one safetensors file with everything a run needs to go on bit by bit, and the comparison of such a file to a model.
//!
//! The format is an 8-byte little-endian header length, a JSON header (name -> dtype, shape, place), then the tensors' bytes,
//! row-major and little-endian: PyTorch reads it with `safetensors.torch.load_file`. Model tensors carry PyTorch's names; what
//! belongs to the optimiser or the trainer begins with `optimizer.` or `trainer.`; counters and settings are strings in `meta`.
//! The same content always makes the same bytes. Which tensors a model has is not known here: see `nn/`.
//! Read next: `rundir.rs`, which says where checkpoints lie.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorInfo};
use serde_json::Value;

use super::disk::{io_error, replace};
use crate::error::{Error, Result};

/// The key of the header under which the strings of `meta` stand.
const META: &str = "__metadata__";

/// The longest header the format allows.
const HEADER_LIMIT: u64 = 100_000_000;

/// The numbers of one tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Weights, gradients, moments, statistics.
    F32(Vec<f32>),
    /// Sums and figures of the trainer.
    F64(Vec<f64>),
    /// Counters: `num_batches_tracked`, steps.
    I64(Vec<i64>),
}

impl Array {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Array::F32(values) => values.len(),
            Array::F64(values) => values.len(),
            Array::I64(values) => values.len(),
        }
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn dtype(&self) -> Dtype {
        match self {
            Array::F32(_) => Dtype::F32,
            Array::F64(_) => Dtype::F64,
            Array::I64(_) => Dtype::I64,
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Array::F32(values) => values.iter().try_for_each(|v| out.write_all(&v.to_le_bytes())),
            Array::F64(values) => values.iter().try_for_each(|v| out.write_all(&v.to_le_bytes())),
            Array::I64(values) => values.iter().try_for_each(|v| out.write_all(&v.to_le_bytes())),
        }
    }

    /// Half precision is widened, which is exact; `None` for a dtype we do not keep.
    fn from_bytes(dtype: Dtype, bytes: &[u8]) -> Option<Array> {
        match dtype {
            Dtype::F32 => Some(Array::F32(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())),
            Dtype::F16 => Some(Array::F32(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect())),
            Dtype::BF16 => Some(Array::F32(bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect())),
            Dtype::F64 => Some(Array::F64(bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect())),
            Dtype::I64 => Some(Array::I64(bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect())),
            _ => None,
        }
    }
}

/// Named tensors with their shapes, and named strings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checkpoint {
    /// Name -> shape and numbers. A scalar has the shape `[]`.
    pub tensors: BTreeMap<String, (Vec<usize>, Array)>,
    /// Settings and counters as text. The key `format` is the file's own: always written as `pt`, left out on loading.
    pub meta: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Writes the file, replacing one that is there only after all of the new one is on the disk.
    ///
    /// Fails, leaving the old file as it was, when a shape does not fit its numbers or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let header = self.header().map_err(|e| named(path, e))?;
        replace(path, |out| self.write(&header, out))
    }

    /// Reads a file. Fails when it is missing, broken, no safetensors file, or holds a dtype other than F16, BF16, F32, F64
    /// and I64.
    ///
    /// No length in the file is believed before the file is seen to be that long.
    pub fn load(path: &Path) -> Result<Checkpoint> {
        let about = fs::metadata(path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::usage(format!("{}: no such checkpoint", path.display()))
                .hint("check the path; a run keeps last.safetensors and best.safetensors in its directory"),
            _ => io_error("cannot read", path, &e),
        })?;
        // Opening a named pipe would wait for a writer for ever.
        if !about.is_file() {
            return Err(Error::usage(format!("{}: not a file", path.display())).hint("give the .safetensors file itself"));
        }
        let file = File::open(path).map_err(|e| io_error("cannot read", path, &e))?;
        Self::read(&mut BufReader::new(file), about.len()).map_err(|e| named(path, e))
    }

    /// The numbers of an F32 tensor.
    pub fn f32(&self, name: &str) -> Result<&[f32]> {
        match self.array(name)? {
            Array::F32(values) => Ok(values),
            other => Err(wrong_dtype(name, other, Dtype::F32)),
        }
    }

    /// The numbers of an F64 tensor.
    pub fn f64(&self, name: &str) -> Result<&[f64]> {
        match self.array(name)? {
            Array::F64(values) => Ok(values),
            other => Err(wrong_dtype(name, other, Dtype::F64)),
        }
    }

    /// The numbers of an I64 tensor.
    pub fn i64(&self, name: &str) -> Result<&[i64]> {
        match self.array(name)? {
            Array::I64(values) => Ok(values),
            other => Err(wrong_dtype(name, other, Dtype::I64)),
        }
    }

    fn array(&self, name: &str) -> Result<&Array> {
        let found = self.tensors.get(name).map(|(_, array)| array);
        found.ok_or_else(|| Error::run(format!("the checkpoint has no tensor {name}{}", hint(name, self.tensors.keys()))))
    }

    /// Tensors in the order of the file: widest numbers first, so that every tensor lies on a multiple of its own width.
    fn in_file_order(&self) -> Vec<(&String, &Vec<usize>, &Array)> {
        let mut order: Vec<_> = self.tensors.iter().map(|(name, (shape, array))| (name, shape, array)).collect();
        order.sort_by_key(|(_, _, array)| std::cmp::Reverse(array.dtype()));
        order
    }

    /// The JSON header, padded with spaces to a multiple of 8 bytes.
    fn header(&self) -> Result<Vec<u8>> {
        let mut meta = self.meta.clone();
        meta.insert("format".into(), "pt".into());
        let json = |e: serde_json::Error| Error::run(format!("cannot write the header: {e}"));
        let mut header = BTreeMap::from([(META, serde_json::to_value(meta).map_err(json)?)]);
        let mut begin = 0;
        for (name, shape, array) in self.in_file_order() {
            let elements = shape.iter().try_fold(1_usize, |n, &side| n.checked_mul(side));
            if name == META || elements != Some(array.len()) {
                return Err(Error::run(format!("tensor {name} of shape {shape:?} with {} numbers cannot be saved", array.len())));
            }
            let end = begin + array.len() * array.dtype().bitsize() / 8;
            let info = TensorInfo { dtype: array.dtype(), shape: shape.clone(), data_offsets: (begin, end) };
            header.insert(name, serde_json::to_value(info).map_err(json)?);
            begin = end;
        }
        let mut text = serde_json::to_vec(&header).map_err(json)?;
        text.resize(text.len().next_multiple_of(8), b' ');
        if text.len() as u64 > HEADER_LIMIT {
            return Err(Error::run(format!("a header of {} bytes is longer than the {HEADER_LIMIT} the format allows", text.len())));
        }
        Ok(text)
    }

    fn write(&self, header: &[u8], out: &mut impl Write) -> io::Result<()> {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header)?;
        self.in_file_order().iter().try_for_each(|(_, _, array)| array.write(out))
    }

    /// Reads a file of `size` bytes.
    fn read(file: &mut impl Read, size: u64) -> Result<Checkpoint> {
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => foreign(format!("it has {size} bytes, a header needs more than 8")),
            _ => stopped(&e),
        })?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_LIMIT {
            return Err(foreign("it does not begin with the length of a header".into()));
        }
        let Some(data) = size.checked_sub(8 + length) else {
            return Err(truncated(format!("its header has {length} bytes, the file {size}")));
        };

        let header: BTreeMap<String, Value> =
            serde_json::from_slice(&bytes(file, length as usize)?).map_err(|e| foreign(format!("its header is not JSON: {e}")))?;
        let mut meta = BTreeMap::new();
        let mut infos = Vec::new();
        for (name, value) in header {
            if name == META {
                meta = serde_json::from_value(value).map_err(|e| foreign(format!("{META}: {e}")))?;
            } else {
                let info: TensorInfo = serde_json::from_value(value).map_err(|e| foreign(format!("tensor {name}: {e}")))?;
                infos.push((name, info));
            }
        }
        meta.remove("format");
        infos.sort_by_key(|(_, info)| info.data_offsets);

        let claimed = infos.last().map_or(0, |(_, info)| info.data_offsets.1 as u64);
        if claimed > data {
            return Err(truncated(format!("its tensors have {claimed} bytes, {data} are there")));
        }
        if claimed < data {
            return Err(foreign(format!("its tensors have {claimed} bytes, {data} are there")));
        }
        let mut tensors = BTreeMap::new();
        let mut place = 0;
        for (name, TensorInfo { dtype, shape, data_offsets: (begin, end) }) in infos {
            let bits = shape.iter().try_fold(dtype.bitsize(), |bits, &n| bits.checked_mul(n));
            if begin != place || bits.is_none() || end.checked_sub(begin).and_then(|n| n.checked_mul(8)) != bits {
                return Err(foreign(format!("tensor {name}: {dtype} {shape:?} does not fit its bytes {begin}..{end}")));
            }
            place = end;
            let array = Array::from_bytes(dtype, &bytes(file, end - begin)?).ok_or_else(|| {
                Error::run(format!("tensor {name} has the dtype {dtype}; F16, BF16, F32, F64 and I64 can be read"))
                    .hint("convert it where the file comes from, in PyTorch with .float(), and save it again")
            })?;
            tensors.insert(name, (shape, array));
        }
        Ok(Checkpoint { tensors, meta })
    }
}

/// Whether a tensor belongs to the model, not to the optimiser or the trainer.
pub fn is_model(name: &str) -> bool {
    !name.starts_with("optimizer.") && !name.starts_with("trainer.")
}

/// Holds the tensors of a checkpoint that `part` picks (usually [`is_model`]) against the names and shapes expected.
///
/// Fails with one error that lists all that is missing, all that is unexpected and all that has another shape.
pub fn compare(expected: &[(String, Vec<usize>)], found: &Checkpoint, part: impl Fn(&str) -> bool) -> Result<()> {
    let wanted: BTreeMap<&String, &Vec<usize>> = expected.iter().map(|(name, shape)| (name, shape)).collect();
    let there: BTreeMap<&String, &Vec<usize>> =
        found.tensors.iter().filter(|(name, _)| part(name)).map(|(name, (shape, _))| (name, shape)).collect();

    // In the order of the model, which is the order people know.
    let missing: Vec<_> = expected.iter().filter(|(name, _)| !there.contains_key(name)).collect();
    let unexpected: Vec<_> = there.iter().filter(|(name, _)| !wanted.contains_key(*name)).collect();
    let misshaped: Vec<_> =
        expected.iter().filter_map(|(name, shape)| there.get(name).filter(|&&s| s != shape).map(|s| (name, shape, s))).collect();
    if missing.is_empty() && unexpected.is_empty() && misshaped.is_empty() {
        return Ok(());
    }

    let counts = [(missing.len(), "missing"), (unexpected.len(), "unexpected"), (misshaped.len(), "of another shape")];
    let counts: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let mut message = format!("the checkpoint does not fit the model: tensors {}", counts.join(", "));
    // Writing to a String cannot fail.
    for (name, shape) in &missing {
        let _ = write!(message, "\n  missing {name} {shape:?}");
    }
    for (name, shape) in &unexpected {
        let _ = write!(message, "\n  unexpected {name} {shape:?}{}", hint(name, missing.iter().map(|(name, _)| name)));
    }
    for (name, shape, there) in &misshaped {
        let _ = write!(message, "\n  shape {name}: the checkpoint has {there:?}, the model {shape:?}");
    }
    Err(Error::run(message).hint("give the model, its classes and its channels as they were when the checkpoint was written"))
}

/// ": did you mean X?" for the candidate nearest to a name, or nothing when none is near.
fn hint<'a>(name: &str, candidates: impl Iterator<Item = &'a String>) -> String {
    let limit = 2.max(name.chars().count() / 4);
    // A wrapper's prefix, as in "module.fc1.weight", is no spelling mistake but the commonest of all differences.
    let wraps = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|prefix| prefix.ends_with('.'));
    let distance = |other: &str| if wraps(name, other) || wraps(other, name) { 0 } else { edits(name, other) };
    let nearest = candidates.map(|other| (distance(other), other)).min().filter(|(distance, _)| *distance <= limit);
    nearest.map_or(String::new(), |(_, other)| format!(": did you mean {other}?"))
}

/// Levenshtein's distance: letters to insert, remove or change, by dynamic programming over one row.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Reads exactly `n` bytes, `n` being no more than the file holds.
fn bytes(file: &mut impl Read, n: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; n];
    file.read_exact(&mut bytes).map_err(|e| stopped(&e))?;
    Ok(bytes)
}

fn stopped(cause: &io::Error) -> Error {
    Error::run(format!("reading stopped: {cause}")).hint("check the disk, then try again")
}

fn truncated(why: String) -> Error {
    Error::run(format!("the file is cut short: {why}")).hint("copy or download it again, or use another checkpoint of the run")
}

fn foreign(why: String) -> Error {
    Error::run(format!("not a safetensors file: {why}"))
        .hint("it is of another format or damaged; a PyTorch .pth file is made a checkpoint with: cugrad import")
}

fn wrong_dtype(name: &str, found: &Array, expected: Dtype) -> Error {
    Error::run(format!("the checkpoint's tensor {name} is {}, not {expected}", found.dtype()))
}

fn named(path: &Path, error: Error) -> Error {
    Error { message: format!("{}: {}", path.display(), error.message), ..error }
}

#[cfg(test)]
mod tests;
