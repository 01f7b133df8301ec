//! Reads weights from wherever they come: safetensors with or without cugrad's own metadata, and PyTorch's `.pth`.
//!
//! What comes out is a [`Checkpoint`] of named arrays; whether they fit a network is asked by [`crate::train::trained::load_model`],
//! which lists everything that does not. The kind of file is told by its first bytes, not by its name. Read next: `onnx/mod.rs`.

use super::pth;
use crate::disk::io_error;
use crate::error::{Error, Result};
use crate::train::Checkpoint;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// Larger `.pth` files are refused: they are read whole.
const LARGEST: u64 = 4 << 30;

/// What wrappers put before every name: `nn.DataParallel`, `torch.compile`.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// Reads a file of either kind. Half precision is widened to f32; a prefix that a wrapper put before every name is taken off.
pub fn read(path: &Path) -> Result<Checkpoint> {
    // Everything about paths and safetensors is said there.
    let mut start = Vec::new();
    if fs::metadata(path).is_ok_and(|about| about.is_file()) {
        let file = File::open(path).map_err(|e| io_error("cannot read", path, &e))?;
        file.take(512).read_to_end(&mut start).map_err(|e| io_error("cannot read", path, &e))?;
    }
    let named = |e: Error| Error { message: format!("{}: {}", path.display(), e.message), ..e };
    let mut read = match foreign(&start) {
        Some(e) => return Err(named(e)),
        None if start.starts_with(b"PK\x03\x04") => {
            let size = fs::metadata(path).map_or(u64::MAX, |about| about.len());
            if size > LARGEST {
                return Err(named(Error::run(format!("{size} bytes are more than a network here can have"))));
            }
            pth::read(&fs::read(path).map_err(|e| io_error("cannot read", path, &e))?).map_err(named)?
        }
        None => Checkpoint::load(path)?,
    };
    for wrapper in WRAPPERS {
        if !read.tensors.is_empty() && read.tensors.keys().all(|name| name.starts_with(wrapper)) {
            read.tensors = read.tensors.into_iter().map(|(name, tensor)| (name[wrapper.len()..].into(), tensor)).collect();
        }
    }
    Ok(read)
}

/// What a file is that cannot be read, if its beginning is known.
fn foreign(start: &[u8]) -> Option<Error> {
    let again = "load it with a newer PyTorch and save it again: torch.save(torch.load(FILE), \"new.pth\")";
    let is = |what: &str, hint: &str| Some(Error::run(format!("this is {what}")).hint(hint));
    // A safetensors file begins with a length of 8 bytes, which may look like anything but has zeros at its end.
    if start.get(4..8).is_none_or(|high| high == [0; 4]) {
        return None;
    }
    match start {
        // The magic number of torch/serialization.py, as a pickled integer.
        [0x80, 2, 0x8a, 10, 0x6c, 0xfc, ..] => is("a .pth file in PyTorch's format from before 1.6, a bare pickle", again),
        [0x80, 2..=5, ..] => is("a bare pickle, not what torch.save writes", "save a state dict with torch.save"),
        [b'\x89', b'H', b'D', b'F', ..] => is("an HDF5 file (Keras?)", "weights are read from .pth and .safetensors files"),
        [8, _, 0x12, ..] => is("an ONNX file", "weights are read from .pth and .safetensors files"),
        _ if start.get(257..262) == Some(b"ustar") => is("a tar archive, perhaps PyTorch's format from before 0.1.10", again),
        _ => None,
    }
}
