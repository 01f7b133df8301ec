//! Files that are replaced whole or not at all, and what the file system's errors mean to a user.
//!
//! Checkpoints, metrics, lists and pictures are written through here, so a full disk or a kill leaves the file of before. What is
//! written is not known here. Read next: `train/checkpoint.rs`.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes a file beside `path` and puts it in that place when all of it is on the disk.
///
/// On any failure the file that was at `path` is untouched and nothing else is left behind. A link at `path` stays a link.
pub fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let failed = |e: io::Error| io_error("cannot write", path, &e);
    let target = match fs::metadata(path) {
        // Renaming over a device, as root over /dev/null, would delete it.
        Ok(about) if !about.is_file() => {
            return Err(Error::run(format!("cannot write {}: not a regular file", path.display())).hint("choose another path"));
        }
        Ok(_) => fs::canonicalize(path).map_err(failed)?,
        Err(_) => path.to_path_buf(),
    };
    let mut beside = target.clone().into_os_string();
    beside.push(format!(".tmp-{}", std::process::id()));
    let beside = Path::new(&beside);

    let attempt = || {
        // What a killed process of the same number left behind; `create_new` would otherwise refuse, and must not follow a link.
        match fs::remove_file(beside) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut out = BufWriter::with_capacity(1 << 16, File::create_new(beside)?);
        write(&mut out)?;
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        fs::rename(beside, &target)
    };
    attempt().map_err(|e| {
        // Best effort: it may never have come into being.
        let _ = fs::remove_file(beside);
        failed(e)
    })?;
    // The new name itself reaches the disk with the directory. Not every system lets a directory be opened: best effort as well.
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(directory) = File::open(parent) {
        let _ = directory.sync_all();
    }
    Ok(())
}

/// An error of the file system: what was being done, to which path, the cause, and what to do.
pub(crate) fn io_error(doing: &str, path: &Path, cause: &io::Error) -> Error {
    let error = Error::run(format!("{doing} {}: {cause}", path.display()));
    match cause.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            error.hint("make room on the disk or choose a directory on another with --out; a file that was there is still whole")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            error.hint("choose a directory you may write to with --out, or change its permissions")
        }
        ErrorKind::NotFound => error.hint("create the directory first, or check the path"),
        ErrorKind::NotADirectory => error.hint("a part of the path is a file; choose another path"),
        _ => error.hint("check the path and the disk, then try again"),
    }
}
