//! Kernels with planted bugs, each of which must be found, and correct ones, none of which may be accused.
//!
//! The kernels are in `../kernels`, each `.cu` with the PTX that NVRTC made of it; `../make_ptx.rs` makes it anew.

// In a test, to stop is to say so.
#![allow(clippy::unwrap_used)]

mod bench;
mod correct;
mod limits;
mod planted;
