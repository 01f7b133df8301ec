//! IDX, the format of MNIST's files: a magic number, the sizes of the dimensions, then the bytes. Plain or gzip.
//!
//! ```text
//! labels  00 00 08 01  n                 n bytes             (all numbers are big-endian u32;
//! images  00 00 08 03  n  rows  columns  n*rows*columns bytes      08 means bytes, 01 and 03 count the dimensions)
//! ```
//!
//! A header is a claim, not a promise: memory grows with the bytes that really arrive, never with what the header says.
//! Which file is which, and whether it is the right one, is the matter of `source.rs`: read that next.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use byteorder::{BigEndian, ReadBytesExt};
use flate2::read::MultiGzDecoder;
use md5::{Digest, Md5};

use super::hex;
use crate::error::{Error, Result};

/// The most bytes an array may hold: four times the largest set in this format (EMNIST, by class).
const LARGEST: u64 = 1 << 31;

/// What every gzip file starts with, whatever its name.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// An array of bytes as an IDX file holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// The sizes of the dimensions: `[n]` for labels, `[n, rows, columns]` for images.
    pub dims: Vec<usize>,
    /// The bytes, row-major.
    pub data: Vec<u8>,
}

/// Reads the images of an IDX3 file, plain or gzip: `[n, rows, columns]`.
pub fn read_images(path: &Path) -> Result<Array> {
    read(path, 3)
}

/// Reads the labels of an IDX1 file, plain or gzip: `[n]`.
pub fn read_labels(path: &Path) -> Result<Array> {
    read(path, 1)
}

fn read(path: &Path, rank: u8) -> Result<Array> {
    let name = path.display();
    let file = File::open(path).map_err(|e| Error::data(format!("{name}: {e}")).hint("is the file there, and may you read it?"))?;
    parse(BufReader::new(file), rank, &name)
}

/// Reads an array of `rank` dimensions, plain or gzip, from anything; `name` stands in the errors.
pub fn parse(mut source: impl Read, rank: u8, name: &dyn Display) -> Result<Array> {
    let mut start = Vec::new();
    let failed = |e: std::io::Error, part: &str| broken(name, &describe(&e, part));
    source.by_ref().take(2).read_to_end(&mut start).map_err(|e| failed(e, "the magic number"))?;
    let whole = start.as_slice().chain(source);
    if start == GZIP { array(MultiGzDecoder::new(whole), rank, name) } else { array(whole, rank, name) }
}

fn array(mut source: impl Read, rank: u8, name: &dyn Display) -> Result<Array> {
    let failed = |e: std::io::Error, part: &str| broken(name, &describe(&e, part));
    let expected = magic(rank);
    let found = source.read_u32::<BigEndian>().map_err(|e| failed(e, "the magic number"))?;
    if found != expected {
        let what = |rank| if rank == 3 { "images" } else { "labels" };
        let error = format!("{name}: magic number {found:#010x}, expected {expected:#010x} ({})", what(rank));
        let other = if rank == 3 { 1 } else { 3 };
        return Err(Error::data(error).hint(if found == magic(other) {
            format!("this is a file of {}: were the names of images and labels swapped?", what(other))
        } else {
            "this is no IDX file of bytes (perhaps an error page saved under its name): delete it and fetch it again".into()
        }));
    }
    let dims = (0..rank).map(|_| source.read_u32::<BigEndian>().map(|d| d as usize)).collect::<std::io::Result<Vec<_>>>();
    let dims = dims.map_err(|e| failed(e, "the header"))?;
    let total = dims.iter().try_fold(1u64, |total, &d| total.checked_mul(d as u64)).filter(|&total| total <= LARGEST);
    let Some(total) = total.filter(|&total| total > 0) else {
        return Err(broken(name, &format!("the header claims {dims:?} bytes, but 1 to {LARGEST} are possible")));
    };

    let mut data = Vec::new();
    let arrived = source.by_ref().take(total).read_to_end(&mut data);
    let counts = |n: usize| format!("{n} of the {total} bytes that its header {dims:?} claims");
    arrived.map_err(|e| failed(e, &counts(data.len())))?;
    if (data.len() as u64) < total {
        return Err(broken(name, &format!("too short: it holds {}", counts(data.len()))));
    }
    // Asking for one byte more also makes gzip compare its checksum.
    match source.read(&mut [0]) {
        Ok(0) => Ok(Array { dims, data }),
        Ok(_) => Err(broken(name, &format!("more bytes follow the {total} that its header {dims:?} claims"))),
        Err(e) => Err(failed(e, "the end")),
    }
}

fn magic(rank: u8) -> u32 {
    0x0800 | u32::from(rank)
}

fn broken(name: &dyn Display, what: &str) -> Error {
    Error::data(format!("{name}: {what}")).hint("the file is damaged or incomplete: delete it and fetch it again")
}

fn describe(e: &std::io::Error, part: &str) -> String {
    match e.kind() {
        ErrorKind::UnexpectedEof => format!("too short: it ends within {part}"),
        _ => format!("cannot be read at {part}: {e}"),
    }
}

impl Array {
    /// The MD5, in hexadecimal, of the plain IDX file of this array: the same however the file was compressed.
    pub fn md5(&self) -> String {
        let mut hash = Md5::new();
        hash.update(magic(self.dims.len() as u8).to_be_bytes());
        self.dims.iter().for_each(|&d| hash.update((d as u32).to_be_bytes()));
        hash.update(&self.data);
        hex(&hash.finalize())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    /// A plain IDX file.
    pub fn file(dims: &[u32], data: &[u8]) -> Vec<u8> {
        let header = std::iter::once(magic(dims.len() as u8)).chain(dims.iter().copied());
        header.flat_map(u32::to_be_bytes).chain(data.iter().copied()).collect()
    }

    pub fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    }

    fn error(bytes: &[u8], rank: u8) -> String {
        parse(bytes, rank, &"x.idx").unwrap_err().message
    }

    #[test]
    fn plain_and_gzip_read_the_same() {
        let images = file(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
        let array = parse(images.as_slice(), 3, &"x").unwrap();
        assert_eq!((array.dims.as_slice(), array.data.as_slice()), ([2, 1, 3].as_slice(), [1, 2, 3, 4, 5, 6].as_slice()));
        assert_eq!(parse(gzip(&images).as_slice(), 3, &"x").unwrap(), array);
        assert_eq!(array.md5(), hex(&Md5::digest(&images)));
        assert_eq!(parse(file(&[2], &[7, 9]).as_slice(), 1, &"x").unwrap().data, [7, 9]);
    }

    #[test]
    fn errors_say_what_was_expected_and_what_was_found() {
        let labels = file(&[3], &[1, 2, 3]);
        assert_eq!(error(&labels, 3), "x.idx: magic number 0x00000801, expected 0x00000803 (images)");
        assert!(parse(labels.as_slice(), 3, &"x").unwrap_err().hint.unwrap().contains("swapped"));
        assert!(error(b"<!DOCTYPE html>", 1).contains("magic number 0x3c21444f"));
        assert_eq!(error(&labels[..9], 1), "x.idx: too short: it holds 1 of the 3 bytes that its header [3] claims");
        assert!(error(&[&labels[..], &[0]].concat(), 1).contains("more bytes follow the 3"));
        assert!(error(&gzip(&[&labels[..], &[0]].concat()), 1).contains("more bytes follow the 3"));
        assert!(error(&labels[..6], 1).contains("ends within the header"));
        assert!(error(&[], 1).contains("ends within the magic number"));
        assert!(error(&file(&[0, 28, 28], &[]), 3).contains("claims [0, 28, 28]"));
        let missing = read_images(Path::new("/no/such/file")).unwrap_err();
        assert!(missing.message.starts_with("/no/such/file: ") && missing.exit_code() == 4);
    }

    #[test]
    fn huge_claims_are_refused_without_believing_them() {
        assert!(error(&file(&[u32::MAX, u32::MAX, u32::MAX], &[1]), 3).contains("claims"));
        assert!(error(&file(&[u32::MAX], &[1]), 1).contains("claims"));
        // Within the bound, but not there: the memory asked for is that of what arrived.
        assert!(error(&file(&[1 << 31], &[1, 2]), 1).contains("holds 2 of the 2147483648 bytes"));
    }

    #[test]
    fn a_damaged_gzip_is_noticed() {
        let mut bytes = gzip(&file(&[500], &(0..500).map(|i| (i * i) as u8).collect::<Vec<_>>()));
        let checksum = bytes.len() - 8;
        bytes[checksum] ^= 1;
        assert!(error(&bytes, 1).contains("cannot be read at the end"), "{}", error(&bytes, 1));
        assert!(error(&bytes[..bytes.len() - 20], 1).contains("ends within"));
    }

    proptest! {
        #[test]
        fn a_cut_file_is_an_error(n in 1usize..300, cut in 0.0..1.0, zip: bool) {
            let plain = file(&[n as u32], &vec![5; n]);
            let bytes = if zip { gzip(&plain) } else { plain };
            let cut = (bytes.len() as f64 * cut) as usize;
            prop_assert!(parse(&bytes[..cut], 1, &"x").is_err());
        }

        #[test]
        fn a_changed_byte_never_panics(at in 0usize..1000, bit in 0u8..8, zip: bool) {
            let plain = file(&[3, 4, 5], &(0..60).collect::<Vec<u8>>());
            let mut bytes = if zip { gzip(&plain) } else { plain };
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(array) = parse(bytes.as_slice(), 3, &"x") {
                prop_assert_eq!(array.data.len(), array.dims.iter().product::<usize>());
                // Gzip vouches for its content; what may change unnoticed is only its own header.
                prop_assert!(!zip || array.data == plain_data());
            }
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), start in 0usize..4) {
            let starts: [&[u8]; 4] = [&[], &GZIP, &[0, 0, 8, 1], &[0, 0, 8, 3]];
            bytes.splice(0..0, starts[start].iter().copied());
            for rank in [1, 3] {
                if let Ok(array) = parse(bytes.as_slice(), rank, &"x") {
                    prop_assert_eq!(array.data.len(), array.dims.iter().product::<usize>());
                }
            }
        }
    }

    fn plain_data() -> Vec<u8> {
        (0..60).collect()
    }
}
