//! Pictures in folders: a subfolder for each class, with the pictures of that class in it at any depth.
//!
//! ```text
//! DIR/cat/1.png          one set, to be split          DIR/train/cat/1.png       two parts: train, and test
//! DIR/dog/a.jpg                                        DIR/test/dog/2.png        (or val, valid, validation; if both are there,
//!                                                                                 val is to choose the best checkpoint by)
//! ```
//!
//! Classes are numbered by their names, in the order of numbers if all are numbers, else of letters; or as `classes.txt` in the folder has
//! them, one a line. Nothing is decoded here. Read next: `list.rs`, the other way to say which pictures there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::pictures::{Listing, Picture, check_classes};
use crate::error::{Error, Result};

/// What a file that is taken for a picture is called at its end, in small letters.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "bmp"];
/// The names of the folder to be judged on, beside `train`: the first that is there. A second one is to choose the best checkpoint by.
const TEST: [&str; 4] = ["test", "val", "valid", "validation"];
/// How deep pictures may lie below their class's folder.
const DEEPEST: usize = 16;

/// Finds out which pictures a folder holds, in the order of their names.
pub(super) fn list(dir: &Path, log: &mut dyn FnMut(&str)) -> Result<Listing> {
    if !dir.is_dir() {
        let what = if dir.exists() { "is no folder" } else { "there is no such folder" };
        return Err(Error::data(format!("{}: {what}", dir.display())).hint(LAYOUT));
    }
    let (train, others) = (dir.join("train"), TEST.map(|name| dir.join(name)));
    let mut others = others.iter().filter(|other| other.is_dir());
    // A class may be called train: then there are pictures in it, and no folders.
    let parts = train.is_dir() && !entries(&train)?.folders.is_empty();
    let mut skipped = Skipped::default();
    let Some(test) = others.next().filter(|_| parts) else {
        let classes = ordered(dir, class_folders(dir)?, log);
        let train = part(dir, &classes, true, &mut skipped)?;
        skipped.tell(log);
        return Ok(Listing { classes: check_classes(classes, dir)?, train, val: Vec::new(), test: None });
    };
    let classes = ordered(dir, class_folders(&train)?, log);
    let judged = |folder: &Path, skipped: &mut Skipped| -> Result<Vec<Picture>> {
        let extra: Vec<String> = class_folders(folder)?.into_iter().filter(|name| !classes.contains(name)).collect();
        if extra.is_empty() {
            return part(folder, &classes, false, skipped);
        }
        let (folder, train) = (folder.display(), train.display());
        Err(Error::data(format!("{folder} has the class folder {}, which {train} has not", extra.join(", ")))
            .hint("every class must be learned before it is judged: give both folders the same subfolders"))
    };
    let test = judged(test, &mut skipped)?;
    let val = others.next().map_or(Ok(Vec::new()), |val| judged(val, &mut skipped))?;
    let train = part(&train, &classes, true, &mut skipped)?;
    skipped.tell(log);
    Ok(Listing { train, val, test: Some(test), classes: check_classes(classes, dir)? })
}

const LAYOUT: &str =
    "a folder is needed with one subfolder a class, as in DIR/cat/1.png and DIR/dog/2.png, or DIR/train/cat and DIR/test/cat";

/// What lies in a folder, by name, without what is hidden.
struct Entries {
    folders: Vec<String>,
    files: Vec<String>,
}

fn entries(dir: &Path) -> Result<Entries> {
    let failed = |e: std::io::Error| Error::data(format!("{}: cannot be read: {e}", dir.display())).hint("may you read the folder?");
    let mut found = Entries { folders: Vec::new(), files: Vec::new() };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().map_err(|name| {
            Error::data(format!("{}: the name of {name:?} is not UTF-8", dir.display()))
                .hint("give the file a name that can be written in a list")
        })?;
        if name.contains(['\n', '\r', '\t']) {
            return Err(Error::data(format!("{}: {name:?} has a line end or tabulator in its name", dir.display()))
                .hint("give the file a name that can be written in a list"));
        }
        if !name.starts_with('.') {
            let folder = entry.path().is_dir();
            if folder { found.folders.push(name) } else { found.files.push(name) }
        }
    }
    found.folders.sort();
    found.files.sort();
    Ok(found)
}

fn is_picture(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.contains(&&*ending.to_lowercase()))
}

/// The names of the class folders, in order.
fn class_folders(dir: &Path) -> Result<Vec<String>> {
    let Entries { mut folders, files } = entries(dir)?;
    if folders.is_empty() {
        let loose = files.iter().filter(|name| is_picture(name)).count();
        let what = if loose > 0 { format!("{loose} pictures, but no class folders") } else { "no class folders".into() };
        return Err(Error::data(format!("{} has {what}", dir.display())).hint(LAYOUT));
    }
    if let Ok(numbers) = folders.iter().map(|name| name.parse::<u64>()).collect::<std::result::Result<Vec<_>, _>>() {
        let mut both: Vec<(u64, String)> = numbers.into_iter().zip(folders).collect();
        both.sort();
        folders = both.into_iter().map(|(_, name)| name).collect();
    }
    Ok(folders)
}

/// The class folders in the order of `classes.txt`, if it names just these.
fn ordered(dir: &Path, folders: Vec<String>, log: &mut dyn FnMut(&str)) -> Vec<String> {
    let Ok(text) = fs::read_to_string(dir.join("classes.txt")) else { return folders };
    let listed: Vec<String> = text.lines().map(|line| line.trim_end().to_string()).filter(|line| !line.is_empty()).collect();
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    if listed.len() == folders.len() && set(&listed) == set(&folders) {
        return listed;
    }
    log(&format!("note: {} does not name just the class folders, and is left aside", dir.join("classes.txt").display()));
    folders
}

/// Files that are not taken for pictures.
#[derive(Default)]
struct Skipped {
    count: usize,
    first: Option<PathBuf>,
}

impl Skipped {
    fn tell(&self, log: &mut dyn FnMut(&str)) {
        if let Some(first) = &self.first {
            let (n, first) = (self.count, first.display());
            log(&format!("note: {n} files that are not called .png, .jpg, .jpeg or .bmp are left out; the first is {first}"));
        }
    }
}

/// The pictures of every class; `full` insists on some of each.
fn part(dir: &Path, classes: &[String], full: bool, skipped: &mut Skipped) -> Result<Vec<Picture>> {
    let mut pictures = Vec::new();
    for (class, name) in classes.iter().enumerate() {
        let (folder, before) = (dir.join(name), pictures.len());
        if folder.is_dir() {
            // More classes than a byte can count are refused with all of them known.
            collect(&folder, class.min(255) as u8, 0, &mut pictures, skipped)?;
        }
        if full && pictures.len() == before {
            return Err(Error::data(format!("the class folder {} has no pictures", folder.display()))
                .hint("put PNG, JPEG or BMP files into it, or remove the folder"));
        }
    }
    if pictures.is_empty() {
        return Err(Error::data(format!("{} has no pictures", dir.display())).hint(LAYOUT));
    }
    Ok(pictures)
}

fn collect(dir: &Path, class: u8, depth: usize, pictures: &mut Vec<Picture>, skipped: &mut Skipped) -> Result<()> {
    let Entries { folders, files } = entries(dir)?;
    for name in files {
        let path = dir.join(&name);
        if is_picture(&name) {
            pictures.push(Picture { path, class });
        } else {
            skipped.count += 1;
            skipped.first.get_or_insert(path);
        }
    }
    for name in folders {
        let path = dir.join(name);
        // A link to a folder above would never end.
        if !path.is_symlink() && depth < DEEPEST {
            collect(&path, class, depth + 1, pictures, skipped)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Empty files: nothing is decoded here.
    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if file.ends_with("classes.txt") { "dog\ncat\n" } else { "" }).unwrap();
        }
        dir
    }

    fn listed(files: &[&str]) -> (Result<Listing>, Vec<String>, tempfile::TempDir) {
        let dir = tree(files);
        let mut lines = Vec::new();
        let listing = list(dir.path(), &mut |line| lines.push(line.to_string()));
        (listing, lines, dir)
    }

    fn paths(dir: &tempfile::TempDir, pictures: &[Picture]) -> Vec<(String, u8)> {
        let name = |p: &Picture| p.path.strip_prefix(dir.path()).unwrap().to_str().unwrap().replace('\\', "/");
        pictures.iter().map(|p| (name(p), p.class)).collect()
    }

    #[test]
    fn classes_are_subfolders_and_pictures_lie_at_any_depth() {
        let files =
            ["dog/b.PNG", "cat/x/y/c.jpeg", "cat/a.bmp", "dog/a.jpg", "dog/notes.txt", "dog/.hidden.png", "readme.md", ".git/x.png"];
        let (listing, lines, dir) = listed(&files);
        let listing = listing.unwrap();
        assert_eq!(listing.classes, ["cat", "dog"]);
        let expected = [("cat/a.bmp", 0), ("cat/x/y/c.jpeg", 0), ("dog/a.jpg", 1), ("dog/b.PNG", 1)];
        assert_eq!(paths(&dir, &listing.train), expected.map(|(path, class)| (path.to_string(), class)));
        assert!(listing.test.is_none());
        assert!(lines.len() == 1 && lines[0].contains("1 files") && lines[0].contains("notes.txt"), "{lines:?}");
    }

    #[test]
    fn numbers_count_and_classes_txt_decides() {
        assert_eq!(listed(&["10/a.png", "9/a.png", "1/a.png"]).0.unwrap().classes, ["1", "9", "10"]);
        assert_eq!(listed(&["10/a.png", "9/a.png", "x/a.png"]).0.unwrap().classes, ["10", "9", "x"]);
        assert_eq!(listed(&["cat/a.png", "dog/a.png", "classes.txt"]).0.unwrap().classes, ["dog", "cat"]);
        let (listing, lines, _dir) = listed(&["cat/a.png", "eel/a.png", "classes.txt"]);
        assert_eq!(listing.unwrap().classes, ["cat", "eel"]);
        assert!(lines[0].contains("classes.txt"), "{lines:?}");
    }

    #[test]
    fn parts_are_found() {
        let (listing, lines, dir) = listed(&["train/cat/1.png", "train/dog/2.png", "val/dog/3.png", "test/cat/4.png"]);
        let listing = listing.unwrap();
        assert_eq!(paths(&dir, &listing.val), [("val/dog/3.png".to_string(), 1)]);
        assert_eq!(paths(&dir, &listing.train), [("train/cat/1.png".to_string(), 0), ("train/dog/2.png".to_string(), 1)]);
        assert_eq!(paths(&dir, &listing.test.unwrap()), [("test/cat/4.png".to_string(), 0)]);
        assert!(lines.is_empty());
        let listing = listed(&["train/cat/1.png", "val/cat/3.png"]).0.unwrap();
        assert_eq!((listing.test.unwrap().len(), listing.val.len()), (1, 0));
        // A means of transport is no part.
        let listing = listed(&["train/1.png", "test/2.png"]).0.unwrap();
        assert_eq!((listing.classes.len(), listing.test.is_none()), (2, true));
    }

    #[test]
    fn errors_name_the_folder() {
        let error = |files: &[&str]| {
            let e = listed(files).0.unwrap_err();
            assert!(e.exit_code() == 4 && e.hint.is_some());
            e.message
        };
        assert!(error(&[]).ends_with("has no class folders"));
        assert!(error(&["1.png", "2.png"]).ends_with("has 2 pictures, but no class folders"));
        assert!(error(&["cat/1.png", "dog/readme"]).contains("dog has no pictures"));
        let message = error(&["train/cat/1.png", "test/cat/2.png", "test/eel/2.png"]);
        assert!(message.contains("test has the class folder eel"), "{message}");
        assert!(error(&["train/cat/1.png", "test/cat/x"]).ends_with("test has no pictures"));
        let many: Vec<String> = (0..257).map(|i| format!("{i}/a.png")).collect();
        assert!(error(&many.iter().map(String::as_str).collect::<Vec<_>>()).contains("257 classes"));
        let e = list(Path::new("no/such"), &mut |_| ()).unwrap_err();
        assert!(e.message.starts_with("no/such: there is no such folder"), "{}", e.message);
    }

    #[cfg(unix)]
    #[test]
    fn links_to_folders_above_end() {
        let dir = tree(&["cat/1.png", "dog/1.png"]);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("cat/up")).unwrap();
        assert_eq!(list(dir.path(), &mut |_| ()).unwrap().train.len(), 2);
    }
}
