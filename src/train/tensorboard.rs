//! TensorBoard event files: what `tensorboard --logdir runs` shows.
//!
//! A file is a row of records, each a length, its checksum, the bytes of one protobuf `Event`, and their checksum:
//!
//! ```text
//! u64 n | u32 mask(crc32c(n)) | n bytes | u32 mask(crc32c(bytes))        little-endian; mask(c) = rotate_right(c, 15) + 0xa282ead8
//! ```
//!
//! The first event says `brain.Event:2`. A run that goes on begins a file of its own with the event "session start at step s", at which
//! TensorBoard forgets what older files say of steps from s on: so no step is shown twice. Messages as in TensorFlow's `event.proto` and
//! `summary.proto`, as far as they are needed; the checksum is that of RFC 3720, appendix B.4. Not here: reading such files.
//! Read next: `rundir.rs`.

use super::disk::io_error;
use crate::error::Result;
use prost::Message;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session: Option<Session>,
}

#[derive(Clone, PartialEq, Message)]
struct Session {
    /// 1 is START.
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    scalar: Option<f32>,
    #[prost(message, optional, tag = "5")]
    histogram: Option<Histogram>,
}

/// Counts by value: bucket i holds what lies above limit i - 1 and up to limit i.
#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(double, tag = "1")]
    min: f64,
    #[prost(double, tag = "2")]
    max: f64,
    #[prost(double, tag = "3")]
    num: f64,
    #[prost(double, tag = "4")]
    sum: f64,
    #[prost(double, tag = "5")]
    sum_squares: f64,
    #[prost(double, repeated, tag = "6")]
    limits: Vec<f64>,
    #[prost(double, repeated, tag = "7")]
    counts: Vec<f64>,
}

/// Buckets of a histogram: as many as TensorBoard draws.
const BUCKETS: usize = 30;

impl Histogram {
    /// Of the numbers that are finite; none if there are none.
    fn of(values: &[f64]) -> Option<Histogram> {
        let finite = || values.iter().copied().filter(|x| x.is_finite());
        let (min, max) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), x| (min.min(x), max.max(x)));
        if min > max {
            return None;
        }
        // All equal: one bucket.
        let buckets = if min == max { 1 } else { BUCKETS };
        let width = (max - min) / buckets as f64;
        let mut counts = vec![0.0; buckets];
        for x in finite() {
            // Where the width is lost in rounding, 0/0 is NaN, which as a number is 0.
            counts[(((x - min) / width) as usize).min(buckets - 1)] += 1.0;
        }
        let limits = (1..=buckets).map(|i| if i == buckets { max } else { min + width * i as f64 }).collect();
        let (sum, sum_squares) = finite().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        Some(Histogram { min, max, num: counts.iter().sum(), sum, sum_squares, limits, counts })
    }
}

/// One event file, to be appended to. Each call writes one record at once, so `tensorboard` follows a run that is under way.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Begins a file `events.out.tfevents.<unix time>.<host>` in a directory. `from`: the run goes on, and its first step is that one.
    pub fn create(directory: &Path, from: Option<u64>) -> Result<Events> {
        let mut time = now() as u64;
        let host = host();
        loop {
            let path = directory.join(format!("events.out.tfevents.{time}.{host}"));
            match File::create_new(&path) {
                Ok(file) => {
                    let mut events = Events { path, file };
                    events.write(0, |event| event.file_version = Some("brain.Event:2".into()))?;
                    if let Some(step) = from {
                        events.write(step, |event| event.session = Some(Session { status: 1 }))?;
                    }
                    return Ok(events);
                }
                // Two runs in one second: TensorBoard reads files in the order of their names, so the later one gets the later second.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => time += 1,
                Err(e) => return Err(io_error("cannot write", &path, &e)),
            }
        }
    }

    /// Figures at a step, by name.
    pub fn scalars<'a>(&mut self, step: u64, figures: impl IntoIterator<Item = (&'a str, f64)>) -> Result<()> {
        let value = |(tag, x): (&str, f64)| Value { tag: tag.into(), scalar: Some(x as f32), histogram: None };
        let value = figures.into_iter().map(value).collect();
        self.write(step, |event| event.summary = Some(Summary { value }))
    }

    /// How numbers are spread at a step, by name. Those that are not finite are left out.
    pub fn histograms(&mut self, step: u64, arrays: impl IntoIterator<Item = (String, Vec<f64>)>) -> Result<()> {
        let value = |(tag, values): (String, Vec<f64>)| Value { tag, scalar: None, histogram: Histogram::of(&values) };
        let value: Vec<Value> = arrays.into_iter().map(value).filter(|v| v.histogram.is_some()).collect();
        self.write(step, |event| event.summary = Some(Summary { value }))
    }

    fn write(&mut self, step: u64, fill: impl FnOnce(&mut Event)) -> Result<()> {
        let mut event = Event { wall_time: now(), step: step as i64, ..Event::default() };
        fill(&mut event);
        let record = record(&event.encode_to_vec());
        self.file.write_all(&record).map_err(|e| io_error("cannot write", &self.path, &e))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The machine's name as far as it can be part of a file's.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
    let plain: String = name.trim().chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    if plain.is_empty() { "localhost".into() } else { plain }
}

/// A record of the file: the bytes with their length and both checksums.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mask = |crc: u32| crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    [&length[..], &mask(crc32c(&length)), bytes, &mask(crc32c(bytes))].concat()
}

/// The checksum of Castagnoli's polynomial, bits reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

/// The checksum of each single byte.
static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 3720, appendix B.4.
    #[test]
    fn checksums_are_those_of_the_standard() {
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        let expected = [(&[0; 32][..], 0x8a91_36aa), (&[0xff; 32], 0x62a8_ab43), (&up, 0x46dd_794e), (&down, 0x113f_db5c)];
        for (bytes, crc) in expected {
            assert_eq!(crc32c(bytes), crc, "{bytes:?}");
        }
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn histograms_count_everything_finite() {
        let h = Histogram::of(&[0.0, 1.0, 2.0, 3.0, f64::NAN, 3.0, f64::INFINITY]).unwrap();
        assert_eq!((h.min, h.max, h.num, h.sum, h.sum_squares), (0.0, 3.0, 5.0, 9.0, 23.0));
        assert_eq!((h.limits.len(), h.counts.len(), h.limits[BUCKETS - 1]), (BUCKETS, BUCKETS, 3.0));
        assert_eq!((h.counts[0], h.counts[10], h.counts[20], h.counts[29]), (1.0, 1.0, 1.0, 2.0));
        let h = Histogram::of(&[7.0; 4]).unwrap();
        assert_eq!((h.limits, h.counts), (vec![7.0], vec![4.0]));
        assert_eq!(Histogram::of(&[f64::NAN]), None);
        assert_eq!(Histogram::of(&[]), None);
        // Neighbours whose distance has no thirtieth part, and the ends of what there is.
        for values in [[1.0, 1.0 + f64::EPSILON], [0.0, f64::MIN_POSITIVE / 1e15], [f64::MIN, f64::MAX]] {
            assert_eq!(Histogram::of(&values).unwrap().num, 2.0, "{values:?}");
        }
    }

    #[test]
    fn two_files_of_one_second_follow_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let names: Vec<_> = (0..3).map(|_| Events::create(directory.path(), None).unwrap().path).collect();
        assert!(names.is_sorted() && names[0] != names[1] && names[1] != names[2], "{names:?}");
    }
}
