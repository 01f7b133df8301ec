//! One's own pictures as a data set: found by `folder.rs` or `list.rs`, split by `split.rs`, decoded by all threads, kept by `cache.rs`.
//!
//! What is remembered lies in `DATA/cache/NAME-KEY`, where the key is made from the path of the folder or list: one file of decoded pictures
//! for each shape, and a folder of lists for each seed. All of it can be removed at any time. Read next: `reshape.rs`, for one picture.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::cache::{self, Cache, Stamp};
use super::dataset::{Dataset, Normalization, Splits, shuffled};
use super::random::Stream;
use super::{Options, Source, folder, hex, list, reshape, split};
use crate::error::{Error, Result};

/// The most classes there can be: a label is a byte.
const CLASSES: usize = 256;
/// The most bytes of pixels that are taken into memory.
const MEMORY: usize = 16 << 30;
/// So many pictures are named when they are broken.
const NAMED: usize = 5;
/// Decoding more pictures than this is worth a line.
const MANY: usize = 2000;

/// A picture and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub path: PathBuf,
    pub class: u8,
}

/// The pictures of a folder or list.
#[derive(Debug)]
pub(super) struct Listing {
    /// What each class is called.
    pub classes: Vec<String>,
    /// To learn from; to be split if there is no test part.
    pub train: Vec<Picture>,
    /// To choose the best checkpoint by, if the folder says so.
    pub val: Vec<Picture>,
    /// To be judged on, if the folder or list says so.
    pub test: Option<Vec<Picture>>,
}

/// The classes of `what`, if they are not too many.
pub(super) fn check_classes(classes: Vec<String>, what: &Path) -> Result<Vec<String>> {
    match classes.len() {
        0..=CLASSES => Ok(classes),
        n => Err(Error::data(format!("{} has {n} classes, and no more than {CLASSES} can be told apart", what.display()))
            .hint("leave out some classes, or put several together")),
    }
}

/// Which pictures a source has, with full paths.
fn listed(source: &Source, log: &mut dyn FnMut(&str)) -> Result<Listing> {
    // A path that does not exist stays as it is, and is named in the error.
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
    match source {
        Source::Folder(dir) => folder::list(&real(dir), log),
        Source::List(train, test) => list::list(&real(train), test.as_deref().map(real).as_deref(), log),
        named => Err(Error::run(format!("{named} is neither a folder nor a list"))),
    }
}

/// Where what is known of a source is remembered, below the data directory.
fn memory(source: &Source, dir: &Path) -> PathBuf {
    let (Source::Folder(path) | Source::List(path, _)) = source else { return dir.join("cache") };
    let path = path.canonicalize().unwrap_or_else(|_| path.clone());
    let name = path.file_stem().map_or("pictures".into(), |name| name.to_string_lossy().into_owned());
    let key = hex(&Sha256::digest(path.to_string_lossy().as_bytes())[..6]);
    dir.join("cache").join(format!("{name}-{key}"))
}

/// Where the lists of a source and seed are kept.
pub fn lists(source: &Source, options: &Options) -> PathBuf {
    memory(source, &options.dir).join(format!("seed-{}", options.seed))
}

/// The pictures of a listing in the order of the images in memory: to learn from, to choose the best checkpoint by, to be judged on.
fn parts(source: &Source, listing: Listing, options: &Options, log: &mut dyn FnMut(&str)) -> Result<(Vec<String>, [Vec<Picture>; 3])> {
    let Listing { classes, train, val, test } = listing;
    let mixed = |part: Vec<Picture>, which: u64| -> Vec<Picture> {
        // By class, the first few images would be of one class.
        shuffled(part.len(), &mut Stream::new(&[options.seed, 3, which])).into_iter().map(|i| part[i as usize].clone()).collect()
    };
    let parts = match test {
        Some(test) => [mixed(train, 0), mixed(val, 2), mixed(test, 1)],
        None if options.judge_all => [Vec::new(), Vec::new(), mixed(train, 1)],
        None => {
            let (train, test) = split::kept(train, &classes, options.seed, &lists(source, options), log)?;
            [train, Vec::new(), test]
        }
    };
    Ok((classes, parts))
}

/// Writes the lists of a source's parts into a folder of the user's choice; gives how many pictures are in either.
pub fn write_lists(source: &Source, options: &Options, folder: &Path, log: &mut dyn FnMut(&str)) -> Result<(usize, usize)> {
    let (classes, [train, val, test]) = parts(source, listed(source, log)?, options, log)?;
    let both = ([train, val].concat(), test);
    split::write(&both, &classes, folder)?;
    Ok((both.0.len(), both.1.len()))
}

/// Brings a folder or list into memory.
pub(super) fn load(source: &Source, options: &Options, log: &mut dyn FnMut(&str)) -> Result<Splits> {
    let (classes, mut parts) = parts(source, listed(source, log)?, options, log)?;
    if let Some(limit) = options.limit {
        parts.iter_mut().for_each(|part| part.truncate(limit));
    }
    let ends = [parts[0].len(), parts[0].len() + parts[1].len()];
    let all = parts.concat();
    let shape = shape(all.first(), options, log)?;
    let file = memory(source, &options.dir).join(format!("pictures-{}x{}x{}.cache", shape[0], shape[1], shape[2]));
    let (images, broken) = decoded(&all, shape, &file, log)?;
    if !broken.is_empty() {
        report(&broken, all.len(), options.skip_broken, log)?;
    }
    let good = |range: Range<usize>| range.filter(|i| broken.binary_search_by_key(i, |b| b.0).is_err()).collect::<Vec<usize>>();
    let length = shape.iter().product::<usize>();
    let part = |name: &str, range: Range<usize>| {
        let kept = good(range);
        Dataset {
            name: format!("{source} {name}"),
            images: kept.iter().flat_map(|&i| &images[i * length..][..length]).copied().collect(),
            labels: kept.iter().map(|&i| all[i].class).collect(),
            channels: shape[0],
            height: shape[1],
            width: shape[2],
            classes: classes.clone(),
        }
    };
    let (train, test) = (part("train", 0..ends[1]), part("test", ends[1]..all.len()));
    if train.is_empty() && !options.judge_all || test.is_empty() {
        return Err(Error::data(format!(
            "{source}: {} pictures to learn from and {} to be judged on are too few",
            train.len(),
            test.len()
        ))
        .hint("add pictures, mend the broken ones, or raise --limit"));
    }
    let unseen: Vec<&str> = (0..classes.len()).filter(|&c| !train.labels.contains(&(c as u8))).map(|c| classes[c].as_str()).collect();
    if !unseen.is_empty() && !train.is_empty() {
        log(&format!("note: nothing is learned of the classes {}: no picture of them is to learn from", unseen.join(", ")));
    }
    Ok(Splits { normalization: Normalization::of(&train), train, test, val: good(ends[0]..ends[1]).len() })
}

/// The shape that pictures are brought to: the network's, or without one that of the first picture; the size as asked for.
fn shape(first: Option<&Picture>, options: &Options, log: &mut dyn FnMut(&str)) -> Result<[usize; 3]> {
    let [c, h, w] = match (options.input, first) {
        (Some(input), _) => input,
        (None, Some(picture)) => {
            let own = reshape::own_shape(&picture.path)?;
            let (name, [c, h, w]) = (picture.path.display(), own);
            let colour = if c == 1 { "grey" } else { "in colour" };
            if options.size.is_none() {
                log(&format!("note: all pictures are brought to {h}x{w} {colour}, as {name} is (--image-size for another size)"));
            }
            own
        }
        (None, None) => return Err(Error::data("there are no pictures")),
    };
    let [h, w] = options.size.unwrap_or([h, w]);
    match h.max(w) {
        0..=reshape::LARGEST => Ok([c, h, w]),
        _ => Err(Error::data(format!("pictures of {h}x{w} are too large")).hint("bring them to another size with --image-size")),
    }
}

/// A picture's place among all, and why it cannot be read.
type Broken = (usize, Error);

/// Every picture in a shape, one after the other; those that cannot be read are black, and told of in rising order.
fn decoded(all: &[Picture], shape: [usize; 3], file: &Path, log: &mut dyn FnMut(&str)) -> Result<(Vec<u8>, Vec<Broken>)> {
    let length = shape.iter().product::<usize>();
    let Some(bytes) = length.checked_mul(all.len()).filter(|&bytes| bytes <= MEMORY) else {
        let [c, h, w] = shape;
        return Err(Error::data(format!("{} pictures of {c}x{h}x{w} do not fit into {} GB of memory", all.len(), MEMORY >> 30))
            .hint("choose a smaller --image-size, or use fewer pictures with --limit"));
    };
    let old = Cache::read(file, shape, log);
    let stamps: Vec<Option<Stamp>> = all.par_iter().map(|picture| Stamp::of(&picture.path)).collect();
    let known = |i: usize| old.get(&all[i].path, stamps[i]?, length);
    let new = (0..all.len()).filter(|&i| known(i).is_none()).count();
    if new > MANY {
        log(&format!("reading {new} pictures"));
    }
    let mut images = vec![0; bytes];
    let broken: Vec<Broken> = images
        .par_chunks_exact_mut(length.max(1))
        .enumerate()
        .filter_map(|(i, image)| match known(i) {
            Some(pixels) => {
                image.copy_from_slice(pixels);
                None
            }
            None => match reshape::read_picture(&all[i].path, shape) {
                Ok(pixels) => {
                    image.copy_from_slice(&pixels);
                    None
                }
                Err(e) => Some((i, e)),
            },
        })
        .collect();
    if new > broken.len() {
        let is_broken = |i: usize| broken.binary_search_by_key(&i, |b| b.0).is_ok();
        let pixels = |i: usize| &images[i * length..][..length];
        let kept: Vec<(&Path, Stamp, &[u8])> =
            (0..all.len()).filter(|&i| !is_broken(i)).filter_map(|i| Some((all[i].path.as_path(), stamps[i]?, pixels(i)))).collect();
        let made = file.parent().map_or(Ok(()), fs::create_dir_all).map_err(|e| Error::run(format!("{}: {e}", file.display())));
        if let Err(e) = made.and_then(|()| cache::write(file, shape, &kept)) {
            log(&format!("note: decoded pictures cannot be kept for the next run: {e}"));
        }
    }
    Ok((images, broken))
}

/// Names the broken pictures: in an error, or in a remark if they may be left out.
fn report(broken: &[Broken], all: usize, skip: bool, log: &mut dyn FnMut(&str)) -> Result<()> {
    let named = broken.iter().take(NAMED).map(|(_, e)| format!("\n  {}", e.message)).collect::<String>();
    let more = if broken.len() > NAMED { format!("\n  and {} more", broken.len() - NAMED) } else { String::new() };
    let count = broken.len();
    if skip {
        log(&format!("note: {count} of {all} pictures cannot be read and are left out:{named}{more}"));
        return Ok(());
    }
    Err(Error::data(format!("{count} of {all} pictures cannot be read:{named}{more}"))
        .hint("mend or remove them, or leave them out with --skip-broken"))
}

#[cfg(test)]
mod tests;
