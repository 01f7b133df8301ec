//! Decoded pictures of a folder or list, kept in one file, so that the next run reads them at the speed of the disk.
//!
//! A picture is known by its path, its size in bytes and the time of its last change: a changed one is decoded again. The file is
//!
//! ```text
//! "cugrad pictures 1\n"  channels  height  width  n      (all numbers are little-endian, u32 where nothing is said)
//! n times: length of the path, the path, bytes u64, seconds u64, nanoseconds
//! n images of channels*height*width bytes                CRC-32 of everything before
//! ```
//!
//! It holds nothing that cannot be made again: a file that is damaged is thrown away, and one that cannot be written is done without.
//! Read next: `pictures.rs`.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use byteorder::{LittleEndian, ReadBytesExt, WriteBytesExt};
use flate2::{Crc, CrcWriter};

use crate::disk::replace;
use crate::error::Result;

/// What the file starts with.
const MAGIC: &[u8] = b"cugrad pictures 1\n";

/// When a file was last changed, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    bytes: u64,
    seconds: u64,
    nanoseconds: u32,
}

impl Stamp {
    /// The stamp of a file; none where it cannot be told.
    pub fn of(path: &Path) -> Option<Stamp> {
        let about = fs::metadata(path).ok()?;
        let changed = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Stamp { bytes: about.len(), seconds: changed.as_secs(), nanoseconds: changed.subsec_nanos() })
    }
}

/// What the file holds.
#[derive(Debug, Default)]
pub(super) struct Cache {
    pixels: Vec<u8>,
    /// For each path: its stamp, and where its pixels begin.
    known: HashMap<PathBuf, (Stamp, usize)>,
}

impl Cache {
    /// Reads the file for images of a shape; empty when there is none, or not a whole one: then `log` is told.
    pub fn read(file: &Path, shape: [usize; 3], log: &mut dyn FnMut(&str)) -> Cache {
        let Ok(bytes) = fs::read(file) else { return Cache::default() };
        parse(bytes, shape).unwrap_or_else(|| {
            log(&format!("note: {} is damaged, and will be made again", file.display()));
            Cache::default()
        })
    }

    /// The pixels of a picture, if they are of the file as it is now.
    pub fn get(&self, path: &Path, stamp: Stamp, length: usize) -> Option<&[u8]> {
        let &(_, at) = self.known.get(path).filter(|(known, _)| *known == stamp)?;
        self.pixels.get(at..at + length)
    }
}

/// Writes the file anew with these images.
pub(super) fn write(file: &Path, shape: [usize; 3], images: &[(&Path, Stamp, &[u8])]) -> Result<()> {
    replace(file, |out| {
        let mut out = CrcWriter::new(out);
        out.write_all(MAGIC)?;
        for number in shape.into_iter().chain([images.len()]) {
            out.write_u32::<LittleEndian>(number as u32)?;
        }
        for (path, stamp, _) in images {
            // Paths that are not UTF-8 were refused long before.
            let path = path.to_string_lossy();
            out.write_u32::<LittleEndian>(path.len() as u32)?;
            out.write_all(path.as_bytes())?;
            out.write_u64::<LittleEndian>(stamp.bytes)?;
            out.write_u64::<LittleEndian>(stamp.seconds)?;
            out.write_u32::<LittleEndian>(stamp.nanoseconds)?;
        }
        images.iter().try_for_each(|(_, _, pixels)| out.write_all(pixels))?;
        let sum = out.crc().sum();
        out.write_u32::<LittleEndian>(sum)
    })
}

/// The content of a file for images of a shape; none if it is for another or damaged.
fn parse(bytes: Vec<u8>, shape: [usize; 3]) -> Option<Cache> {
    let (whole, sum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let mut crc = Crc::new();
    crc.update(whole);
    if sum != crc.sum().to_le_bytes() {
        return None;
    }
    let mut rest = whole.strip_prefix(MAGIC)?;
    let number = |rest: &mut &[u8]| rest.read_u32::<LittleEndian>().ok().map(|n| n as usize);
    for side in shape {
        (number(&mut rest)? == side).then_some(())?;
    }
    let (n, length) = (number(&mut rest)?, shape.iter().product::<usize>());
    let mut known = HashMap::new();
    for i in 0..n {
        let size = number(&mut rest)?;
        let (path, after) = rest.split_at_checked(size)?;
        let path = PathBuf::from(std::str::from_utf8(path).ok()?);
        rest = after;
        let (bytes, seconds) = (rest.read_u64::<LittleEndian>().ok()?, rest.read_u64::<LittleEndian>().ok()?);
        let nanoseconds = rest.read_u32::<LittleEndian>().ok()?;
        known.insert(path, (Stamp { bytes, seconds, nanoseconds }, i * length));
    }
    (Some(rest.len()) == n.checked_mul(length)).then(|| Cache { pixels: rest.to_vec(), known })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: [usize; 3] = [1, 2, 3];

    fn stamp(bytes: u64) -> Stamp {
        Stamp { bytes, seconds: 1_000_000_007, nanoseconds: 5 }
    }

    fn file() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pictures");
        write(&file, SHAPE, &[(Path::new("/a b.png"), stamp(7), &[1, 2, 3, 4, 5, 6]), (Path::new("é"), stamp(8), &[9; 6])]).unwrap();
        let bytes = fs::read(&file).unwrap();
        (dir, file, bytes)
    }

    #[test]
    fn what_was_written_is_read() {
        let (_dir, file, _) = file();
        let cache = Cache::read(&file, SHAPE, &mut |line| panic!("{line}"));
        assert_eq!(cache.get(Path::new("/a b.png"), stamp(7), 6), Some([1, 2, 3, 4, 5, 6].as_slice()));
        assert_eq!(cache.get(Path::new("é"), stamp(8), 6), Some([9; 6].as_slice()));
        assert_eq!(cache.get(Path::new("é"), stamp(7), 6), None);
        assert_eq!(cache.get(Path::new("c"), stamp(7), 6), None);
        assert!(Cache::read(Path::new("no/such"), SHAPE, &mut |line| panic!("{line}")).known.is_empty());
    }

    #[test]
    fn a_changed_picture_has_another_stamp() {
        let (_dir, file, bytes) = file();
        let before = Stamp::of(&file).unwrap();
        assert_eq!(Stamp::of(&file), Some(before));
        let later = fs::metadata(&file).unwrap().modified().unwrap() + std::time::Duration::from_millis(10);
        fs::File::options().append(true).open(&file).unwrap().set_modified(later).unwrap();
        assert_ne!(Stamp::of(&file), Some(before));
        fs::write(&file, &bytes[1..]).unwrap();
        assert_ne!(Stamp::of(&file).unwrap().bytes, before.bytes);
        assert_eq!(Stamp::of(Path::new("no/such")), None);
    }

    #[test]
    fn another_shape_and_damage_are_noticed() {
        let (_dir, file, bytes) = file();
        let read = |shape| {
            let mut lines = Vec::new();
            let cache = Cache::read(&file, shape, &mut |line| lines.push(line.to_string()));
            (cache.known.len(), lines.len())
        };
        assert_eq!(read(SHAPE), (2, 0));
        assert_eq!(read([1, 3, 2]), (0, 1));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(&file, damaged).unwrap();
            assert_eq!(read(SHAPE), (0, 1), "byte {at}");
            fs::write(&file, &bytes[..at]).unwrap();
            assert_eq!(read(SHAPE).0, 0, "cut at {at}");
        }
    }

    proptest! {
        /// With a right sum at the end, so that the numbers inside are looked at.
        #[test]
        fn noise_never_panics(flips in prop::collection::vec((0usize..200, any::<u8>()), 1..6), cut in 0usize..200) {
            let (_dir, _, mut bytes) = file();
            bytes.truncate(bytes.len() - 4);
            for (at, value) in flips {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(cut.max(10));
            let mut crc = Crc::new();
            crc.update(&bytes);
            bytes.extend(crc.sum().to_le_bytes());
            if let Some(cache) = parse(bytes, SHAPE) {
                prop_assert!(cache.known.values().all(|&(_, at)| at + 6 <= cache.pixels.len()));
            }
        }
    }
}
