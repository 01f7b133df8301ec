//! Which pictures of a folder or list are learned from and which are judged: four of five and one of five, by chance, and then for good.
//!
//! The choice is a function of the seed and the names, and is also kept, as `total.txt`, `train.txt` and `val.txt` (`list.rs`), so that it
//! stays when pictures are added or taken away: what was learned from once is never judged later. The order in the lists is the order of the
//! images in memory. Read next: `cache.rs`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::dataset::shuffled;
use super::list;
use super::pictures::Picture;
use super::random::Stream;
use crate::disk::replace;
use crate::error::{Error, Result};

/// The lists that a split is kept in: all pictures, those to learn from, those to be judged on.
pub const FILES: [&str; 3] = ["total.txt", "train.txt", "val.txt"];

/// Two parts of the pictures: to learn from, and to be judged on.
pub(super) type Parts = (Vec<Picture>, Vec<Picture>);

/// Splits pictures as the lists in `folder` say, by the seed where they say nothing, and writes the lists if that changed anything.
///
/// A folder that cannot be written to costs a remark: the choice is the same next time as long as the pictures are.
pub(super) fn kept(pictures: Vec<Picture>, classes: &[String], seed: u64, folder: &Path, log: &mut dyn FnMut(&str)) -> Result<Parts> {
    let known = FILES[1..].iter().any(|name| folder.join(name).exists());
    let old = if known { [read(&folder.join(FILES[1]))?, read(&folder.join(FILES[2]))?] } else { Default::default() };
    let (count, listed) = (pictures.len(), old[0].len() + old[1].len());
    let (parts, new) = divided(pictures, &old, seed, folder)?;
    let gone = listed + new - count;
    if known && new + gone > 0 {
        log(&format!("note: {new} pictures are new and {gone} are gone; the others stay as {} has them", folder.display()));
    }
    if new + gone > 0 {
        match write(&parts, classes, folder) {
            Ok(()) => log(&format!("{} pictures to learn from and {} to be judged on: {}", parts.0.len(), parts.1.len(), folder.display())),
            Err(e) => log(&format!("note: which pictures are to be judged on cannot be kept: {e}")),
        }
    }
    Ok(parts)
}

/// Writes the three lists into `folder`, which is made if need be.
pub(super) fn write(parts: &Parts, classes: &[String], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::run(format!("cannot make {}: {e}", folder.display())).hint("choose another folder"))?;
    let (train, val) = (list::write(&parts.0, classes), list::write(&parts.1, classes));
    for (name, text) in FILES.iter().zip([&format!("{train}{val}"), &train, &val]) {
        replace(&folder.join(name), |out| std::io::Write::write_all(out, text.as_bytes()))?;
    }
    Ok(())
}

/// The paths in a list that was written by [`write`].
fn read(file: &Path) -> Result<Vec<PathBuf>> {
    let lines = list::read(file).map_err(|e| {
        let (name, folder) = (file.display(), file.parent().unwrap_or(file).display());
        Error { hint: Some(format!("{name} keeps which pictures are learned from: mend it, or remove {folder} to choose anew")), ..e }
    })?;
    Ok(lines.into_iter().map(|line| PathBuf::from(line.path)).collect())
}

/// The parts of before without what is gone, and what is new split by chance; how many are new.
fn divided(pictures: Vec<Picture>, old: &[Vec<PathBuf>; 2], seed: u64, folder: &Path) -> Result<(Parts, usize)> {
    let learned: HashSet<&PathBuf> = old[0].iter().collect();
    if let Some(path) = old[1].iter().find(|path| learned.contains(path)) {
        return Err(Error::data(format!("{}: {} is in {} and {}", folder.display(), path.display(), FILES[1], FILES[2]))
            .hint("what is learned from cannot be judged on: take it out of one of the lists"));
    }
    let mut left: HashMap<PathBuf, Picture> = pictures.iter().map(|picture| (picture.path.clone(), picture.clone())).collect();
    let mut part = |paths: &[PathBuf]| paths.iter().filter_map(|path| left.remove(path)).collect::<Vec<Picture>>();
    let (mut train, mut val) = (part(&old[0]), part(&old[1]));
    // In the order of their names, not of the map.
    let fresh: Vec<&Picture> = pictures.iter().filter(|picture| left.contains_key(&picture.path)).collect();
    let order = shuffled(fresh.len(), &mut Stream::new(&[seed, 2, (train.len() + val.len()) as u64]));
    // Of a few that are new, some must go to either side if it is empty.
    let (least, most) = (usize::from(train.is_empty()), fresh.len().saturating_sub(usize::from(val.is_empty())));
    let learned = (fresh.len() * 4 / 5).max(least).min(most);
    for (i, place) in order.into_iter().enumerate() {
        let picture = fresh[place as usize].clone();
        if i < learned { train.push(picture) } else { val.push(picture) }
    }
    if train.is_empty() || val.is_empty() {
        let n = pictures.len();
        return Err(Error::data(format!("{n} pictures are too few to learn from some and be judged on others")).hint("add pictures"));
    }
    Ok(((train, val), fresh.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn pictures(names: impl IntoIterator<Item = usize>) -> Vec<Picture> {
        names.into_iter().map(|i| Picture { path: PathBuf::from(format!("/p/{i:03}.png")), class: (i % 2) as u8 }).collect()
    }

    fn classes() -> Vec<String> {
        vec!["big cat".into(), "dog".into()]
    }

    fn split(of: Vec<Picture>, seed: u64, folder: &Path) -> (Parts, Vec<String>) {
        let mut lines = Vec::new();
        (kept(of, &classes(), seed, folder, &mut |line| lines.push(line.to_string())).unwrap(), lines)
    }

    fn set(part: &[Picture]) -> BTreeSet<PathBuf> {
        part.iter().map(|picture| picture.path.clone()).collect()
    }

    #[test]
    fn four_of_five_are_learned_from_and_the_lists_say_which() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/seed-1");
        let ((train, val), lines) = split(pictures(0..103), 1, &folder);
        assert_eq!((train.len(), val.len(), lines.len()), (82, 21, 1));
        let all: Vec<Picture> = train.iter().chain(&val).cloned().collect();
        assert!(set(&all).len() == 103 && train != pictures(0..82), "nothing was shuffled");
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(text("total.txt"), text("train.txt") + &text("val.txt"));
        assert_eq!(text("val.txt"), list::write(&val, &classes()));
        // The next run finds the same and says nothing, and so does one that lost the lists.
        let (again, lines) = split(pictures(0..103), 1, &folder);
        assert!(again == (train.clone(), val.clone()) && lines.is_empty());
        assert_eq!(split(pictures(0..103), 1, &dir.path().join("b")).0, again);
        assert_ne!(split(pictures(0..103), 2, &dir.path().join("c")).0, again);
    }

    #[test]
    fn nothing_changes_sides_when_pictures_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let ((train, val), _) = split(pictures(0..50), 3, dir.path());
        let ((more, judged), lines) = split(pictures(10..90), 3, dir.path());
        assert!(lines[0].contains("40 pictures are new and 10 are gone"), "{lines:?}");
        assert!(set(&more).is_disjoint(&set(&val)) && set(&judged).is_disjoint(&set(&train)));
        assert_eq!((more.len() + judged.len(), set(&judged).difference(&set(&val)).count()), (80, 8));
        assert_eq!(split(pictures(10..90), 3, dir.path()), ((more, judged), Vec::new()));
    }

    #[test]
    fn too_few_and_damaged_lists_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let error = |of: Vec<Picture>| kept(of, &classes(), 0, dir.path(), &mut |_| ()).unwrap_err();
        assert!(error(pictures(0..1)).message.contains("1 pictures are too few"));
        assert_eq!(split(pictures(0..2), 0, &dir.path().join("two")).0.0.len(), 1);
        split(pictures(0..9), 0, dir.path());
        let train = fs::read_to_string(dir.path().join("train.txt")).unwrap();
        fs::write(dir.path().join("val.txt"), &train).unwrap();
        assert!(error(pictures(0..9)).message.contains("is in train.txt and val.txt"));
        fs::write(dir.path().join("val.txt"), "/p/1.png\n").unwrap();
        let e = error(pictures(0..9));
        assert!(e.message.contains("val.txt: line 1") && e.hint.unwrap().contains("remove"), "{}", e.message);
        fs::remove_file(dir.path().join("val.txt")).unwrap();
        assert!(error(pictures(0..9)).message.contains("val.txt: "));
    }

    #[test]
    fn a_place_that_cannot_be_written_to_costs_a_remark() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let (parts, lines) = split(pictures(0..10), 0, &dir.path().join("file/seed-0"));
        assert_eq!((parts.0.len(), lines.len()), (8, 1));
        assert!(lines[0].contains("cannot be kept"), "{lines:?}");
    }
}
