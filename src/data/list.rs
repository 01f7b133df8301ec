//! List files: a picture's path and its label on each line, with a tabulator between them, or else blanks before the label.
//!
//! ```text
//! cats/1.png    cat            a path is relative to the folder of the list; a label may have blanks
//! photos/2 b.jpg dog           if a tabulator stands before it
//! ```
//!
//! Labels that are all whole numbers below 256 are numbers of classes, from 0 to the largest; any others are names, numbered in their
//! order. Nothing is decoded here. Read next: `split.rs`, which writes such lists.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::pictures::{Listing, Picture, check_classes};
use crate::error::{Error, Result};

/// The longest list that is read, in bytes: ten million pictures.
const LONGEST: u64 = 1 << 30;

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Its number, from 1.
    pub number: usize,
    /// The picture's path as it stands there.
    pub path: String,
    /// The label as it stands there.
    pub label: String,
}

/// Reads the lines of a list; blank ones mean nothing. `name` stands in the errors.
pub(super) fn parse(bytes: &[u8], name: &Path) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    // Some editors begin a file with a mark of its encoding.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let bad = |what: &str| {
            Error::data(format!("{}: line {}: {what}", name.display(), i + 1))
                .hint("each line is a path and a label, as in: cats/1.png cat (a tabulator between them if the label has blanks)")
        };
        let line = std::str::from_utf8(line).map_err(|_| bad("is not UTF-8"))?.trim();
        if line.is_empty() {
            continue;
        }
        let (path, label) = line.rsplit_once('\t').or_else(|| line.rsplit_once(char::is_whitespace)).unwrap_or((line, ""));
        let (path, label) = (path.trim(), label.trim());
        if label.is_empty() || path.is_empty() {
            return Err(bad(&format!("'{line}' has no label")));
        }
        if path.contains('\0') {
            return Err(bad("a path cannot have a zero byte"));
        }
        lines.push(Line { number: i + 1, path: path.into(), label: label.into() });
    }
    Ok(lines)
}

/// Reads a list file.
pub(super) fn read(file: &Path) -> Result<Vec<Line>> {
    let failed = |e: &dyn std::fmt::Display| {
        Error::data(format!("{}: {e}", file.display())).hint("a text file is needed with a path and a label on each line")
    };
    let size = fs::metadata(file).map_err(|e| failed(&e))?.len();
    if size > LONGEST {
        return Err(failed(&"is too long to be a list"));
    }
    parse(&fs::read(file).map_err(|e| failed(&e))?, file)
}

/// The text of a list file of these pictures.
pub(super) fn write(pictures: &[Picture], classes: &[String]) -> String {
    pictures.iter().fold(String::new(), |mut text, picture| {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{}\t{}", picture.path.display(), classes[usize::from(picture.class)]);
        text
    })
}

/// Finds out which pictures a list names, and perhaps a second one with those to be judged on.
pub(super) fn list(train: &Path, test: Option<&Path>, log: &mut dyn FnMut(&str)) -> Result<Listing> {
    let files: Vec<&Path> = [Some(train), test].into_iter().flatten().collect();
    let lists = files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?;
    for (file, lines) in files.iter().zip(&lists) {
        if lines.is_empty() {
            return Err(Error::data(format!("{}: names no pictures", file.display())).hint("each line is a path and a label"));
        }
    }
    let labels: BTreeSet<&str> = lists.iter().flatten().map(|line| line.label.as_str()).collect();
    let numbers: Option<Vec<u8>> = labels.iter().map(|label| label.parse().ok()).collect();
    let classes: Vec<String> = match numbers.and_then(|numbers| numbers.into_iter().max()) {
        Some(most) => (0..=most).map(|class| class.to_string()).collect(),
        None => labels.into_iter().map(String::from).collect(),
    };
    let classes = check_classes(classes, train)?;
    let place: HashMap<&str, u8> = classes.iter().enumerate().map(|(i, name)| (name.as_str(), i as u8)).collect();
    // A number may be written with zeros before it.
    let class = |label: &str| place.get(label).copied().or_else(|| label.parse().ok()).unwrap_or_default();
    let mut parts = Vec::new();
    for (file, lines) in files.iter().zip(lists) {
        parts.push(pictures(file, lines, &class, log)?);
    }
    let test = if parts.len() > 1 { parts.pop() } else { None };
    let train = parts.pop().unwrap_or_default();
    let known: BTreeSet<&PathBuf> = train.iter().map(|picture| &picture.path).collect();
    let both = test.iter().flatten().filter(|picture| known.contains(&picture.path)).count();
    if both > 0 {
        log(&format!("note: {both} pictures stand in both lists, and will be judged after they were learned from"));
    }
    Ok(Listing { classes, train, val: Vec::new(), test })
}

/// The pictures that lines name: all of them must be there, and each once.
fn pictures(file: &Path, lines: Vec<Line>, class: &dyn Fn(&str) -> u8, log: &mut dyn FnMut(&str)) -> Result<Vec<Picture>> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut seen: HashMap<PathBuf, (usize, u8)> = HashMap::new();
    let (mut pictures, mut missing, mut again) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let (path, class) = (folder.join(&line.path), class(&line.label));
        match seen.get(&path) {
            None => {}
            Some(&(_, before)) if before == class => {
                again += 1;
                continue;
            }
            Some((number, _)) => {
                let message = format!("{}: line {}: {} has another label in line {number}", file.display(), line.number, line.path);
                return Err(Error::data(message).hint("a picture can have one label only"));
            }
        }
        seen.insert(path.clone(), (line.number, class));
        if !path.is_file() {
            missing.push(format!("\n  line {}: {}", line.number, path.display()));
        }
        pictures.push(Picture { path, class });
    }
    if again > 0 {
        log(&format!("note: {}: {again} lines that repeat another are left out", file.display()));
    }
    if !missing.is_empty() {
        let (count, first) = (missing.len(), missing.iter().take(5).map(String::as_str).collect::<String>());
        let more = if count > 5 { "\n  ..." } else { "" };
        return Err(Error::data(format!("{}: {count} of {} pictures are not there:{first}{more}", file.display(), pictures.len()))
            .hint("paths are relative to the folder of the list"));
    }
    Ok(pictures)
}

#[cfg(test)]
mod tests;
