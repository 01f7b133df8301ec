//! Is there an NVIDIA driver, and what does it say? Asked through cudarc, without ever panicking.
//!
//! cudarc panics when `libcuda.so.1` is missing, so its presence is probed first. The kernels themselves are not here yet: this
//! page only explains, in one clear message, why `cuda:N` cannot be used. Read next: `device/mod.rs`, which calls it.

use crate::error::Error;
use cudarc::driver::sys;

/// The error for a request of `cuda:ordinal`: names what is missing on this machine.
pub fn refuse(ordinal: usize) -> Error {
    // SAFETY: only tries to load the library and looks at the result; no driver function is called.
    let present = unsafe { sys::is_culib_present() };
    let what = if present { "this build of cugrad has no CUDA kernels" } else { "no NVIDIA driver: libcuda.so.1 could not be loaded" };
    Error::device(format!("cuda:{ordinal} cannot be used: {what}")).hint("use --device cpu, or --device auto to take what works")
}
