//! Data sets: found, downloaded, verified and read, or generated; and pictures from anywhere turned into their shape.
//!
//! This part of the crate ends at bytes in memory ([`Splits`]). Batches, normalising and augmenting happen on the device and live elsewhere.
//!
//! * [`dataset`]: a data set in memory, its checks, its statistics, the orders to read it in
//! * [`idx`], [`source`], [`download`]: MNIST's format, the sets known by name, and how their files travel
//! * [`mod@synthetic`]: digits drawn by the program, for machines without data or network
//! * [`augment`]: pictures moved and mirrored, so that no two epochs see the same
//! * [`picture`]: a PNG or JPEG of a digit, made to look like MNIST
//!
//! Read next: `dataset.rs`.

pub mod augment;
pub mod dataset;
pub mod download;
mod glyphs;
pub mod idx;
pub mod loader;
pub mod picture;
mod random;
pub mod source;
pub mod synthetic;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub use augment::Augment;
pub use dataset::{Dataset, Normalization, Splits, permutation, validation_split};
pub use loader::Loader;
pub use picture::read_digit;
pub use synthetic::synthetic;

use crate::error::{Error, Result};
use source::{FASHION, KMNIST, Known, MNIST};

/// Where the data come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// MNIST when it is there or can be downloaded, and generated digits when not.
    #[default]
    Auto,
    /// Handwritten digits.
    Mnist,
    /// Clothing.
    Fashion,
    /// Cursive Japanese characters.
    Kmnist,
    /// Generated digits.
    Synthetic,
}

/// Every source with its name on the command line.
const NAMES: [(Source, &str); 5] = [
    (Source::Auto, "auto"),
    (Source::Mnist, "mnist"),
    (Source::Fashion, "fashion"),
    (Source::Kmnist, "kmnist"),
    (Source::Synthetic, "synthetic"),
];

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        NAMES.iter().filter(|(source, _)| source == self).try_for_each(|(_, name)| f.pad(name))
    }
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        NAMES.iter().find(|(_, name)| *name == text).map(|&(source, _)| source).ok_or_else(|| {
            let names = NAMES.map(|(_, name)| name).join(", ");
            Error::usage(format!("there is no data set '{text}'")).hint(format!("choose one of {names}"))
        })
    }
}

/// How to come by the data.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory: where files are looked for and downloaded to.
    pub dir: PathBuf,
    /// Never use the network.
    pub offline: bool,
    /// The address of a folder that holds the set's files, asked before the known mirrors.
    pub mirror: Option<String>,
    /// The seed of generated digits.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { dir: PathBuf::from("data"), offline: false, mirror: None, seed: 0 }
    }
}

/// How many digits are generated: to learn from, and to be judged on.
const GENERATED: (usize, usize) = (12_000, 2_000);

/// Brings a data set into memory. `log` is given lines that a user should see.
///
/// Only [`Source::Auto`] ever gives something other than what was asked for, and says so. A file that is there but damaged is an
/// error for every source: it may be the only copy of something, so it is neither ignored nor overwritten.
pub fn load(source: Source, options: &Options, log: &mut dyn FnMut(&str)) -> Result<Splits> {
    let known = match source {
        Source::Auto | Source::Mnist => MNIST,
        Source::Fashion => FASHION,
        Source::Kmnist => KMNIST,
        Source::Synthetic => return Ok(generated(options)),
    };
    load_known(&known, source == Source::Auto, options, log)
}

fn generated(options: &Options) -> Splits {
    synthetic(GENERATED.0, GENERATED.1, options.seed)
}

/// Loads a known set; when it cannot be had at all, `fallback` says whether generated digits will do.
fn load_known(known: &Known, fallback: bool, options: &Options, log: &mut dyn FnMut(&str)) -> Result<Splits> {
    let dir = &options.dir;
    let missing = |found: [Option<PathBuf>; 4]| found.iter().any(Option::is_none);
    if missing(known.find(dir)) {
        let mirror = options.mirror.as_deref();
        let fetched = if options.offline { Err(known.missing(dir)) } else { known.fetch(dir, mirror, log) };
        match fetched {
            Err(e) if fallback => {
                // One line: the first says what is missing, the rest is for those who insist on it.
                let why = e.message.lines().next().unwrap_or_default().trim_end_matches(':').to_string();
                log(&format!("{why}: using built-in generated digits instead (--data {} to insist)", known.name));
                return Ok(generated(options));
            }
            fetched => fetched?,
        }
    }
    match known.find(dir) {
        [Some(a), Some(b), Some(c), Some(d)] => known.load(&[a, b, c, d]),
        _ => Err(known.missing(dir)),
    }
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
