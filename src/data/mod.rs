//! Data sets: found, downloaded, verified and read, or generated; and pictures from anywhere turned into their shape.
//!
//! This part of the crate ends at bytes in memory ([`Splits`]). Batches, normalising and augmenting happen on the device and live elsewhere.
//!
//! * [`dataset`]: a data set in memory, its checks, its statistics, the orders to read it in
//! * [`idx`], [`source`], [`download`]: MNIST's format, the sets known by name, and how their files travel; [`cifar`]: CIFAR-10
//! * [`mod@synthetic`]: digits drawn by the program, for machines without data or network
//! * [`augment`]: pictures moved, turned, bent and mirrored, so that no two epochs see the same
//! * [`picture`]: a photo or drawing of a digit, made to look like MNIST
//! * [`reshape`]: any picture in the size and colours that a network takes
//! * `pictures`, `folder`, `list`, `split`, `cache`: one's own pictures, from a folder or a list file
//!
//! Read next: `dataset.rs`.

pub mod augment;
mod cache;
pub mod cifar;
pub mod dataset;
pub mod download;
mod folder;
mod glyphs;
pub mod idx;
mod list;
pub mod loader;
pub mod picture;
mod pictures;
mod random;
pub mod reshape;
pub mod source;
mod split;
pub mod synthetic;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use augment::Augment;
pub use dataset::{Dataset, Normalization, Splits, permutation, validation_split};
pub use loader::{Loader, preview};
pub use picture::read_digit;
pub use pictures::{lists, write_lists};
pub use reshape::read_picture;
pub use split::FILES as LIST_FILES;
pub use synthetic::synthetic;

use crate::error::{Error, Result};
use cifar::CIFAR10;
use source::{FASHION, KMNIST, Known, MNIST};

/// Where the data come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
    /// Colour pictures of animals and vehicles.
    Cifar10,
    /// Generated digits.
    Synthetic,
    /// A folder with a subfolder of pictures for each class.
    Folder(PathBuf),
    /// A file with a picture's path and its label on each line; perhaps a second one with the pictures to be judged on.
    List(PathBuf, Option<PathBuf>),
}

/// Every source that needs no path, with its name on the command line.
const NAMES: [(Source, &str); 6] = [
    (Source::Auto, "auto"),
    (Source::Mnist, "mnist"),
    (Source::Fashion, "fashion"),
    (Source::Kmnist, "kmnist"),
    (Source::Cifar10, "cifar10"),
    (Source::Synthetic, "synthetic"),
];

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Source::Folder(dir) => write!(f, "folder:{}", dir.display()),
            Source::List(file, None) => write!(f, "list:{}", file.display()),
            Source::List(train, Some(test)) => write!(f, "list:{},{}", train.display(), test.display()),
            named => NAMES.iter().filter(|(source, _)| source == named).try_for_each(|(_, name)| f.pad(name)),
        }
    }
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            let names: Vec<&str> = NAMES.iter().map(|(_, name)| *name).collect();
            Error::usage(format!("there is no data set '{text}'"))
                .hint(format!("choose one of {}, or folder:DIR, list:FILE, list:TRAIN,TEST", names.join(", ")))
        };
        let path = |text: &str| if text.is_empty() { Err(unknown()) } else { Ok(PathBuf::from(text)) };
        match text.split_once(':') {
            Some(("folder", dir)) => path(dir).map(Source::Folder),
            Some(("list", files)) => match files.split_once(',') {
                Some((train, test)) => Ok(Source::List(path(train)?, Some(path(test)?))),
                None => Ok(Source::List(path(files)?, None)),
            },
            _ => NAMES.iter().find(|(_, name)| *name == text).map(|(source, _)| source.clone()).ok_or_else(unknown),
        }
    }
}

impl Source {
    /// The same with paths that mean the same from every directory, as a configuration must keep it.
    pub fn absolute(self) -> Source {
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        match self {
            Source::Folder(dir) => Source::Folder(absolute(dir)),
            Source::List(train, test) => Source::List(absolute(train), test.map(absolute)),
            named => named,
        }
    }

    /// Whether both are the same data, however their paths are written.
    pub fn same(&self, other: &Source) -> bool {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
        match (self, other) {
            (Source::Folder(a), Source::Folder(b)) => real(a) == real(b),
            (Source::List(a, c), Source::List(b, d)) => real(a) == real(b) && c.as_deref().map(real) == d.as_deref().map(real),
            (a, b) => a == b,
        }
    }

    /// One's own pictures, which lie somewhere.
    pub fn is_own(&self) -> bool {
        matches!(self, Source::Folder(_) | Source::List(..))
    }

    /// Signs and shapes, white on black; else pictures of anything, which are used as they are.
    pub fn is_white_on_black(&self) -> bool {
        !self.is_own() && *self != Source::Cifar10
    }
}

/// How to come by the data.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory: where files are looked for, downloaded to, and remembered.
    pub dir: PathBuf,
    /// Never use the network.
    pub offline: bool,
    /// The address of a folder that holds the set's files, asked before the known mirrors.
    pub mirror: Option<String>,
    /// The seed of generated digits, and of which pictures of a folder or list are to be judged on.
    pub seed: u64,
    /// The pictures that the network takes (channels, height, width), if they are for one.
    pub input: Option<[usize; 3]>,
    /// The size to bring all pictures to: height, width.
    pub size: Option<[usize; 2]>,
    /// Leave out pictures that cannot be read, instead of failing.
    pub skip_broken: bool,
    /// Use only the first so many images of each part.
    pub limit: Option<usize>,
    /// Judge all of a folder or list that does not say itself which pictures are to be learned from.
    pub judge_all: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("data"),
            offline: false,
            mirror: None,
            seed: 0,
            input: None,
            size: None,
            skip_broken: false,
            limit: None,
            judge_all: false,
        }
    }
}

/// How many digits are generated: to learn from, and to be judged on.
const GENERATED: (usize, usize) = (12_000, 2_000);

/// Brings a data set into memory. `log` is given lines that a user should see.
///
/// Only [`Source::Auto`] ever gives something other than what was asked for, and says so. A file that is there but damaged is an
/// error for every source: it may be the only copy of something, so it is neither ignored nor overwritten.
pub fn load(source: &Source, options: &Options, log: &mut dyn FnMut(&str)) -> Result<Splits> {
    let known = match source {
        Source::Auto | Source::Mnist => MNIST,
        Source::Fashion => FASHION,
        Source::Kmnist => KMNIST,
        Source::Cifar10 => return fitted(CIFAR10.load(options, log)?, options, log),
        Source::Synthetic => return fitted(generated(options), options, log),
        Source::Folder(_) | Source::List(..) => return pictures::load(source, options, log),
    };
    let splits = load_known(&known, *source == Source::Auto, options, log)?;
    fitted(splits, options, log)
}

fn generated(options: &Options) -> Splits {
    synthetic(GENERATED.0, GENERATED.1, options.seed)
}

/// Images in the size asked for, and never larger or more colourful than the network takes; cut to the limit.
fn fitted(mut splits: Splits, options: &Options, log: &mut dyn FnMut(&str)) -> Result<Splits> {
    let own = [splits.train.channels, splits.train.height, splits.train.width];
    let [c, h, w] = options.input.unwrap_or(own);
    let fits = own[1] <= h && own[2] <= w;
    let size = options.size.unwrap_or(if fits { [own[1], own[2]] } else { [h, w] });
    let shape = [own[0].min(c), size[0], size[1]];
    if let Some(limit) = options.limit {
        splits.train.limit(limit);
        splits.test.limit(limit);
    }
    if shape != own {
        let words = |[c, h, w]: [usize; 3]| format!("{h}x{w} {}", if c == 1 { "grey" } else { "in colour" });
        log(&format!("note: {}: pictures of {} are brought to {}", splits.train.name, words(own), words(shape)));
        let (train, test) = (splits.train.reshaped(shape), splits.test.reshaped(shape));
        splits = Splits { normalization: Normalization::of(&train), train, test, ..splits };
    }
    Ok(splits)
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
