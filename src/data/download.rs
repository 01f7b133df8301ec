//! Downloads one file: from the first mirror that has it, resuming what was begun, and trusting nothing but the SHA-256.
//!
//! Bytes go to `FILE.part`; only when size and hash are right does it become `FILE`, so a file under its own name is whole.
//! Which files there are, and from where, is written in `source.rs`; read that next.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use ureq::{Agent, http::header};

use super::hex;

/// A file to fetch: what it is called and what proves it whole.
#[derive(Debug, Clone, Copy)]
pub struct Remote<'a> {
    /// The file's name, on the mirrors and here.
    pub name: &'a str,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: &'a str,
}

/// How often one mirror is asked for one file; each further time takes up where the last one stopped.
const ATTEMPTS: usize = 4;

/// Fetches `remote` into `folder` from the first of `mirrors` (addresses of folders) that delivers it whole.
///
/// When none does, the error says of each mirror what went wrong. What arrived whole so far stays, for the next time.
pub fn fetch(remote: &Remote, mirrors: &[&str], folder: &Path) -> Result<(), Vec<String>> {
    let part = folder.join(format!("{}.part", remote.name));
    let mut failures = Vec::new();
    for mirror in mirrors {
        let url = format!("{}/{}", mirror.trim_end_matches('/'), remote.name);
        let fetched = fs::create_dir_all(folder).map_err(|e| format!("cannot make {}: {e}", folder.display()));
        match fetched.and_then(|()| from_mirror(&url, remote, &part)) {
            Ok(()) => match fs::rename(&part, folder.join(remote.name)) {
                Ok(()) => return Ok(()),
                Err(e) => failures.push(format!("{url}: arrived, but {} cannot be renamed: {e}", part.display())),
            },
            Err(why) => failures.push(format!("{url}: {why}")),
        }
    }
    Err(failures)
}

/// Leaves the whole file in `part`, or says why not.
fn from_mirror(url: &str, remote: &Remote, part: &Path) -> Result<(), String> {
    let mut failure = String::new();
    for _ in 0..ATTEMPTS {
        let before = size_of(part);
        if before < remote.size {
            match transfer(url, remote, part) {
                Ok(()) => {}
                // As long as more bytes come, it is worth asking for the rest.
                Err(Stop::Cut(why)) if size_of(part) > before => {
                    failure = why;
                    continue;
                }
                Err(Stop::Cut(why) | Stop::Refused(why)) => return Err(why),
            }
        }
        match verify(part, remote) {
            Ok(()) => return Ok(()),
            Err(why) => {
                fs::remove_file(part).map_err(|e| format!("{why}; cannot remove {}: {e}", part.display()))?;
                failure = why;
                // A wrong beginning may be left from another time or mirror: then this one deserves a fresh start.
                if before == 0 {
                    break;
                }
            }
        }
    }
    Err(failure)
}

/// Why a transfer ended early.
enum Stop {
    /// It began, and broke.
    Cut(String),
    /// There is nothing to be had.
    Refused(String),
}

/// Appends to `part` what the server has beyond it; a server that cannot resume sends everything, and `part` starts over.
fn transfer(url: &str, remote: &Remote, part: &Path) -> Result<(), Stop> {
    let refused = |e: &dyn std::fmt::Display| Stop::Refused(e.to_string());
    let mut have = size_of(part);
    let mut request = agent().get(url);
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    let response = request.call().map_err(|e| refused(&e))?;
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    match response.status().as_u16() {
        200 => have = 0,
        // A server may send another range than the one asked for.
        206 if text(header::CONTENT_RANGE).starts_with(&format!("bytes {have}-")) => {}
        206 => return Err(Stop::Refused(format!("sent the range '{}' when asked for bytes {have}-", text(header::CONTENT_RANGE)))),
        // "Range not satisfiable": our beginning is longer than the server's file. The hash will throw it away.
        416 => return Ok(()),
        status => return Err(Stop::Refused(format!("the server answered {status}"))),
    }
    let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(|e| refused(&e))?;
    file.set_len(have).map_err(|e| refused(&e))?;

    let bar = ProgressBar::new(remote.size).with_position(have).with_message(remote.name.to_string());
    bar.set_style(style());
    // One byte more than expected shows that there are too many, without storing them all.
    let body = response.into_body().into_reader().take(remote.size - have + 1);
    let copied = io::copy(&mut bar.wrap_read(body), &mut file).and_then(|_| file.flush());
    bar.finish_and_clear();
    let arrived = size_of(part);
    copied.map_err(|e| Stop::Cut(format!("stopped after {arrived} of {} bytes: {e}", remote.size)))?;
    if arrived < remote.size { Err(Stop::Cut(format!("ended after {arrived} of {} bytes", remote.size))) } else { Ok(()) }
}

/// Whether the file has the right size and hash.
fn verify(path: &Path, remote: &Remote) -> Result<(), String> {
    let size = size_of(path);
    if size > remote.size {
        return Err(format!("sent more than the expected {} bytes", remote.size));
    }
    let found = sha256(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    if found != remote.sha256 {
        return Err(format!("sent a wrong file ({size} bytes): SHA-256 {found}, expected {}", remote.sha256));
    }
    Ok(())
}

/// The SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    let mut bytes = vec![0; 1 << 16];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&bytes[..n]),
        }
    }
}

fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |data| data.len())
}

fn agent() -> Agent {
    // No limit on the whole transfer, for lines may be slow; but silence must end, and sooner where nobody opens.
    let (silence, door) = (Some(Duration::from_secs(30)), Some(Duration::from_secs(10)));
    Agent::config_builder()
        .timeout_resolve(door)
        .timeout_connect(door)
        .timeout_recv_response(silence)
        .timeout_per_read(silence)
        .http_status_as_error(false)
        // The file itself is gzip, and must arrive as it is.
        .accept_encoding("identity")
        .user_agent(concat!("cugrad/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

/// How progress looks; indicatif shows it on stderr, and only where that is a terminal.
fn style() -> ProgressStyle {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
pub(super) mod tests;
