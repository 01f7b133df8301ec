//! Zip archives of stored files, which is what PyTorch's `.pth` files are: written so that `torch.load` can map them, read without
//! trust.
//!
//! Nothing is compressed here, and nothing but names and bytes is known. Format: PKWARE's APPNOTE 6.3. Read next: `pickle.rs`.

use crate::error::{Error, Result};
use flate2::Crc;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Every file begins at a multiple of so many bytes, as in archives that PyTorch writes.
const ALIGNMENT: usize = 64;

/// 1 January 1980, the first day the format knows: the same content always makes the same bytes.
const DAY: u16 = 1 << 5 | 1;

const LOCAL: u32 = 0x0403_4B50;
const CENTRAL: u32 = 0x0201_4B50;
const END: u32 = 0x0605_4B50;
const END_64: u32 = 0x0606_4B50;
const LOCATOR_64: u32 = 0x0706_4B50;

/// Lengths of the fixed parts.
const LOCAL_LENGTH: usize = 30;
const CENTRAL_LENGTH: usize = 46;
const END_LENGTH: usize = 22;

/// Where a file of an archive lies.
struct Placed<'a> {
    name: &'a str,
    data: &'a [u8],
    crc: u32,
    at: usize,
}

/// Writes an archive of these files, in this order.
pub fn write(files: &[(String, Vec<u8>)], out: &mut impl Write) -> io::Result<()> {
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "an archive of more than 4 GB is not written");
    let total: usize = files.iter().map(|(name, data)| 2 * name.len() + data.len() + 256).sum();
    if u32::try_from(total).is_err() || files.len() >= usize::from(u16::MAX) {
        return Err(too_large());
    }
    let mut placed: Vec<Placed> = Vec::new();
    let mut at = 0;
    for (name, data) in files {
        let mut crc = Crc::new();
        crc.update(data);
        let file = Placed { name, data, crc: crc.sum(), at };
        let begin = at + LOCAL_LENGTH + name.len() + 4;
        // An extra field of PyTorch's own kind, "FB", that holds nothing but what is missing to the next multiple.
        let padding = begin.next_multiple_of(ALIGNMENT) - begin;
        out.write_all(&LOCAL.to_le_bytes())?;
        out.write_all(&file.about(padding + 4))?;
        out.write_all(name.as_bytes())?;
        out.write_all(b"FB")?;
        out.write_all(&(padding as u16).to_le_bytes())?;
        out.write_all(&vec![b'Z'; padding])?;
        out.write_all(data)?;
        at = begin + padding + data.len();
        placed.push(file);
    }
    let directory = at;
    for file in &placed {
        out.write_all(&CENTRAL.to_le_bytes())?;
        out.write_all(&[0, 0])?; // made by
        out.write_all(&file.about(0))?;
        out.write_all(&[0; 10])?; // comment, disk, attributes
        out.write_all(&(file.at as u32).to_le_bytes())?;
        out.write_all(file.name.as_bytes())?;
        at += CENTRAL_LENGTH + file.name.len();
    }
    let count = (placed.len() as u16).to_le_bytes();
    out.write_all(&END.to_le_bytes())?;
    out.write_all(&[0; 4])?;
    out.write_all(&[count, count].concat())?;
    out.write_all(&((at - directory) as u32).to_le_bytes())?;
    out.write_all(&(directory as u32).to_le_bytes())?;
    out.write_all(&[0, 0])
}

impl Placed<'_> {
    /// What a local header and the directory both say: version, flags, method, time, checksum, sizes, lengths of name and extra field.
    fn about(&self, extra: usize) -> [u8; 26] {
        let size = (self.data.len() as u32).to_le_bytes();
        let mut about = [0; 26];
        about[..2].copy_from_slice(&10_u16.to_le_bytes());
        about[2..4].copy_from_slice(&(1_u16 << 11).to_le_bytes()); // names are UTF-8
        about[8..10].copy_from_slice(&DAY.to_le_bytes());
        about[10..14].copy_from_slice(&self.crc.to_le_bytes());
        about[14..18].copy_from_slice(&size);
        about[18..22].copy_from_slice(&size);
        about[22..24].copy_from_slice(&(self.name.len() as u16).to_le_bytes());
        about[24..26].copy_from_slice(&(extra as u16).to_le_bytes());
        about
    }
}

/// An archive whose directory has been read.
#[derive(Debug)]
pub struct Archive<'a> {
    bytes: &'a [u8],
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    method: u16,
    crc: u32,
    size: u64,
    at: u64,
}

/// A little-endian number at a place that need not be there.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(N)?)?;
    Some(part.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u64> {
    number::<2>(bytes, at)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u64> {
    number::<4>(bytes, at)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number::<8>(bytes, at)
}

fn damaged(why: impl std::fmt::Display) -> Error {
    Error::run(format!("the archive is damaged: {why}")).hint("copy or download the file again")
}

impl<'a> Archive<'a> {
    /// Reads the directory. Nothing in it is believed before it is seen to lie inside `bytes`.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let (count, directory) = end(bytes).ok_or_else(|| damaged("its end is missing; was it cut short?"))?;
        let mut files = BTreeMap::new();
        let mut at = directory;
        for i in 0..count {
            let (name, entry, next) = entry(bytes, at).ok_or_else(|| damaged(format!("entry {i} of its directory cannot be read")))?;
            if files.insert(name.clone(), entry).is_some() {
                return Err(damaged(format!("it has two files '{name}'")));
            }
            at = next;
        }
        Ok(Self { bytes, files })
    }

    /// The names of its files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The bytes of a file, if there is one of that name. Fails when they are not all there, compressed, or do not fit their checksum.
    pub fn get(&self, name: &str) -> Result<Option<&'a [u8]>> {
        let Some(&Entry { method, crc, size, at }) = self.files.get(name) else { return Ok(None) };
        if method != 0 {
            return Err(Error::run(format!("'{name}' in the archive is compressed")).hint("torch.save stores without compression"));
        }
        let data = (|| {
            let at = usize::try_from(at).ok()?;
            let lengths = (u32_at(self.bytes, at)? == u64::from(LOCAL))
                .then_some(())
                .and_then(|()| Some(u16_at(self.bytes, at + 26)? + u16_at(self.bytes, at + 28)?))?;
            let begin = at + LOCAL_LENGTH + lengths as usize;
            self.bytes.get(begin..begin.checked_add(usize::try_from(size).ok()?)?)
        })();
        let data = data.ok_or_else(|| damaged(format!("'{name}' is not all there")))?;
        let mut found = Crc::new();
        found.update(data);
        if found.sum() != crc {
            return Err(damaged(format!("'{name}' does not fit its checksum")));
        }
        Ok(Some(data))
    }
}

/// How many files the archive says it has, and where its directory begins.
fn end(bytes: &[u8]) -> Option<(u64, usize)> {
    // A comment of up to 65535 bytes may follow.
    let last = bytes.len().checked_sub(END_LENGTH)?;
    let at = (last.saturating_sub(usize::from(u16::MAX))..=last)
        .rev()
        .find(|&at| u32_at(bytes, at) == Some(END.into()) && u16_at(bytes, at + 20) == Some((last - at) as u64))?;
    let (mut count, mut directory) = (u16_at(bytes, at + 10)?, u32_at(bytes, at + 16)?);
    // Numbers that have no room stand in a longer record before this one.
    if count == u64::from(u16::MAX) || directory == u64::from(u32::MAX) {
        let locator = at.checked_sub(20).filter(|&at| u32_at(bytes, at) == Some(LOCATOR_64.into()))?;
        let long = usize::try_from(u64_at(bytes, locator + 8)?).ok().filter(|&at| u32_at(bytes, at) == Some(END_64.into()))?;
        count = u64_at(bytes, long.checked_add(32)?)?;
        directory = u64_at(bytes, long.checked_add(48)?)?;
    }
    Some((count, usize::try_from(directory).ok()?))
}

/// The directory's entry at a place: name, what it says, and where the next begins.
fn entry(bytes: &[u8], at: usize) -> Option<(String, Entry, usize)> {
    if u32_at(bytes, at)? != u64::from(CENTRAL) {
        return None;
    }
    let [name, extra, comment] = [28, 30, 32].map(|place| u16_at(bytes, at.checked_add(place)?));
    let (name, extra, comment) = (name? as usize, extra? as usize, comment? as usize);
    let begin = at.checked_add(CENTRAL_LENGTH)?;
    let text = std::str::from_utf8(bytes.get(begin..begin + name)?).ok()?;
    let (mut size, mut place) = (u32_at(bytes, at + 24)?, u32_at(bytes, at + 42)?);
    // In the extra fields, number 1 holds those of size, compressed size and place that had no room, in this order.
    let mut field = begin + name;
    let end = field + extra;
    while let (Some(kind), Some(length)) = (u16_at(bytes, field), u16_at(bytes, field + 2)) {
        if field >= end {
            break;
        }
        if kind == 1 {
            let mut here = field + 4;
            for (short, wanted) in [(u32_at(bytes, at + 24)?, 0), (u32_at(bytes, at + 20)?, 1), (place, 2)] {
                if short == u64::from(u32::MAX) {
                    let long = u64_at(bytes, here)?;
                    match wanted {
                        0 => size = long,
                        2 => place = long,
                        _ => {}
                    }
                    here += 8;
                }
            }
        }
        field += 4 + length as usize;
    }
    // Encrypted files have bit 0 of the flags set: their bytes are read as of a method nobody knows.
    let method = if u16_at(bytes, at + 8)? & 1 == 1 { u16::MAX } else { u16_at(bytes, at + 10)? as u16 };
    let entry = Entry { method, crc: u32_at(bytes, at + 16)? as u32, size, at: place };
    Some((text.into(), entry, end.checked_add(comment)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let files: Vec<(String, Vec<u8>)> = files.iter().map(|(name, data)| (name.to_string(), data.to_vec())).collect();
        let mut bytes = Vec::new();
        write(&files, &mut bytes).unwrap();
        bytes
    }

    fn sample() -> Vec<u8> {
        archive(&[("a/data.pkl", b"pickle"), ("a/data/0", &[7; 100]), ("a/empty", b""), ("a/ü", b"x")])
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
        let archive = Archive::open(bytes)?;
        let names: Vec<String> = archive.names().map(String::from).collect();
        names.into_iter().map(|name| Ok((name.clone(), archive.get(&name)?.unwrap().to_vec()))).collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = sample();
        let files = read_all(&bytes).unwrap();
        let lengths: Vec<(&str, usize)> = files.iter().map(|(name, data)| (name.as_str(), data.len())).collect();
        assert_eq!(lengths, [("a/data.pkl", 6), ("a/data/0", 100), ("a/empty", 0), ("a/ü", 1)]);
        assert_eq!(files[1].1, [7; 100]);
        assert!(Archive::open(&bytes).unwrap().get("b").unwrap().is_none());
        let place = bytes.windows(100).position(|w| w == [7; 100]).unwrap();
        assert_eq!(place % ALIGNMENT, 0);
        // A comment may follow.
        let mut commented = bytes.clone();
        let length = commented.len();
        commented[length - 2] = 3;
        commented.extend(b"abc");
        assert_eq!(read_all(&commented).unwrap(), files);
    }

    /// As PyTorch writes them: the long end record, and sizes in the extra field where the short ones have no room.
    #[test]
    fn long_records_are_read() {
        let short = archive(&[("a", b"0123456789")]);
        let directory = short.len() - END_LENGTH - CENTRAL_LENGTH - 1;
        let mut bytes = short[..directory + CENTRAL_LENGTH + 1].to_vec();
        bytes[directory + 20..directory + 28].fill(0xFF);
        bytes[directory + 42..directory + 46].fill(0xFF);
        bytes[directory + 30] = 28;
        bytes.extend([1, 0, 24, 0]);
        [10_u64, 10, 0].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        let long = bytes.len() as u64;
        bytes.extend(END_64.to_le_bytes());
        bytes.extend([0; 28]);
        [1, 75, directory as u64].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes.extend(LOCATOR_64.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(long.to_le_bytes());
        bytes.extend([0; 4]);
        let mut end = short[short.len() - END_LENGTH..].to_vec();
        end[8..20].fill(0xFF);
        bytes.extend(end);
        assert_eq!(read_all(&bytes).unwrap(), [("a".to_string(), b"0123456789".to_vec())]);
    }

    #[test]
    fn damage_is_told() {
        let good = sample();
        let said = |bytes: &[u8]| read_all(bytes).unwrap_err().message;
        assert!(said(&[]).contains("its end is missing"));
        assert!(said(&good[..good.len() - 1]).contains("its end is missing"));
        let mut flipped = good.clone();
        flipped[good.windows(100).position(|w| w == [7; 100]).unwrap()] = 8;
        assert!(said(&flipped).contains("'a/data/0' does not fit its checksum"));
        let mut compressed = good.clone();
        let directory = good.windows(4).position(|w| w == CENTRAL.to_le_bytes()).unwrap();
        compressed[directory + 10] = 8;
        assert!(said(&compressed).contains("'a/data.pkl' in the archive is compressed"));
        let twice = archive(&[("x", b"1"), ("x", b"2")]);
        assert!(said(&twice).contains("two files 'x'"));
        let mut longer = good.clone();
        longer[directory + 24] = 0xFF;
        longer[directory + 27] = 0xEF;
        assert!(said(&longer).contains("not all there"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read_all(&bytes);
        }

        #[test]
        fn mutated_archives_are_read_or_refused(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8), cut in any::<proptest::sample::Index>()) {
            let mut bytes = sample();
            for (at, to) in changes {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            let _ = read_all(&bytes);
            let _ = read_all(&bytes[..cut.index(bytes.len())]);
        }
    }
}
