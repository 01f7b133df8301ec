//! The emulator in the driver's place: loads `libemucuda.so`, and tells it what the pool does.
//!
//! The emulator is a shared library that calls itself `libcuda.so`. Loaded before cudarc asks for the driver, it is what cudarc
//! gets; nothing else in the crate knows the difference. The exception is memory: the pool keeps freed blocks for itself, so the
//! emulator is told which bytes of a block are in use, or it could not report a read beyond a buffer's end or after its release.
//! Read next: `emucuda/README.md`.

use crate::error::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, c_char};
use std::path::PathBuf;
use std::sync::OnceLock;

/// What the emulator offers beside the driver's functions.
pub struct Emulator {
    functions: Library,
    mark: extern "C" fn(i32, u64, u64) -> i32,
    release: extern "C" fn(i32, u64) -> i32,
}

static EMULATOR: OnceLock<std::result::Result<Emulator, String>> = OnceLock::new();

/// The file's name, beside the program or in `deps`.
const FILE: &str = "libemucuda.so";

/// Puts the emulator in the driver's place, for the whole program. Must come before any use of CUDA.
pub fn load() -> Result<&'static Emulator> {
    let loaded = EMULATOR.get_or_init(|| {
        let file = &find()?;
        // SAFETY: our own library; it runs no code when it is loaded, and its functions have these types.
        let loaded = unsafe {
            Library::new(file).and_then(|library| {
                let (mark, release) = (*library.get(b"emucuda_mark")?, *library.get(b"emucuda_release")?);
                Ok(Emulator { functions: library, mark, release })
            })
        };
        loaded.map_err(|e| format!("the emulator {} cannot be loaded: {e}", file.display()))
    });
    loaded.as_ref().map_err(|e| {
        Error::device(e.clone()).hint("run cugrad from its repository (cargo run --release), or name the library in CUGRAD_EMULATOR")
    })
}

/// Where the emulator is, or where it was looked for.
pub fn find() -> std::result::Result<PathBuf, String> {
    let folder = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_path_buf())).unwrap_or_default();
    let places = match std::env::var_os("CUGRAD_EMULATOR").filter(|file| !file.is_empty()) {
        Some(file) => vec![file.into()],
        // Cargo builds it into `deps`; beside the program lies what somebody put there.
        None => vec![folder.join("deps").join(FILE), folder.join(FILE)],
    };
    let missing = || {
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        format!("the emulator is not at {}", places.join(" nor at "))
    };
    places.iter().find(|p| p.is_file()).cloned().ok_or_else(missing)
}

/// The emulator, if it has taken the driver's place.
pub fn get() -> Option<&'static Emulator> {
    EMULATOR.get()?.as_ref().ok()
}

impl Emulator {
    /// The pool hands out `bytes` bytes at `address`: content unknown, nothing behind them.
    pub fn mark(&self, ordinal: usize, address: u64, bytes: usize) {
        (self.mark)(ordinal as i32, address, bytes as u64);
    }

    /// The pool has the piece at `address` back: nobody may touch it.
    pub fn release(&self, ordinal: usize, address: u64) {
        (self.release)(ordinal as i32, address);
    }

    /// Chooses between checking every access and running fast.
    pub fn set_checked(&self, ordinal: usize, checked: bool) -> Result<()> {
        // SAFETY: the function has this type.
        let set = unsafe { self.functions.get::<extern "C" fn(i32, i32)>(b"emucuda_mode") }.map_err(lacks)?;
        set(ordinal as i32, i32::from(checked));
        Ok(())
    }

    /// What was counted since the last reset, as JSON: by kernel, launches, warp instructions, sectors, bank cycles and so on.
    pub fn counters(&self, ordinal: usize) -> Result<String> {
        self.text(b"emucuda_counters", ordinal)
    }

    /// The message of the first fault of the device; empty if there was none.
    pub fn fault(&self, ordinal: usize) -> Result<String> {
        self.text(b"emucuda_fault", ordinal)
    }

    /// Counts from zero again.
    pub fn reset_counters(&self, ordinal: usize) -> Result<()> {
        // SAFETY: the function has this type.
        let reset = unsafe { self.functions.get::<extern "C" fn(i32)>(b"emucuda_reset_counters") }.map_err(lacks)?;
        reset(ordinal as i32);
        Ok(())
    }

    fn text(&self, function: &[u8], ordinal: usize) -> Result<String> {
        // SAFETY: these functions have this type; the text stays valid until this thread asks again, and is copied before.
        unsafe {
            let ask = self.functions.get::<extern "C" fn(i32) -> *const c_char>(function).map_err(lacks)?;
            Ok(CStr::from_ptr(ask(ordinal as i32)).to_string_lossy().into_owned())
        }
    }
}

fn lacks(e: libloading::Error) -> Error {
    Error::device(format!("the emulator is of another version: {e}")).hint("build both anew: cargo build --release")
}
