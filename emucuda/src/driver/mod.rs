//! The driver's interface: the C functions of libcuda.so, answered by emulated devices.
//!
//! It is not a whole driver. It has what cudarc's safe interface and its `result` module call, each function with the meaning
//! that NVIDIA documents; no textures, no managed memory, no sharing between processes. And it is synchronous: what is queued on
//! a stream has run when the call returns, so a program that forgets to wait is not found out.
//!
//! The shape of every function is the same: `answer("cuXyz", || { ... })`, in which a [`Failure`](status::Failure) becomes the
//! status that is returned, its message what `cuGetErrorString` says next on this thread, and a panic stays inside.
//!
//! Read in this order: `status.rs` (codes and messages), `state.rs` (what a device holds), `context.rs`, `device.rs`, `memory.rs`,
//! `pool.rs`, `module.rs`, `launch.rs`, `operation.rs` (what streams carry), `stream.rs`, `event.rs`, `capture.rs`, `graph.rs`,
//! `control.rs` (what no driver has: modes, counters, annotations).

// The names are the driver's own.
#![allow(non_snake_case)]

mod capture;
mod context;
mod control;
mod device;
mod event;
mod graph;
mod launch;
mod memory;
mod module;
mod occupancy;
mod operation;
mod pool;
mod refused;
mod state;
mod status;
mod stream;

use status::{Outcome, Status, fail};
use std::ffi::{CStr, c_char};

/// Writes a result to where the caller wants it.
///
/// # Safety
/// `place` is null, or may be written.
unsafe fn put<T>(place: *mut T, value: T) -> Outcome {
    if place.is_null() {
        return fail(Status::INVALID_VALUE, "there is no place for the answer: the pointer is null");
    }
    // SAFETY: not null, and the caller vouches for the rest; alignment is not taken for granted.
    unsafe { place.write_unaligned(value) };
    Ok(())
}

/// Writes a result to where the caller may want it.
///
/// # Safety
/// `place` is null, or may be written.
unsafe fn put_if_wanted<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: not null, and the caller vouches for the rest.
        unsafe { place.write_unaligned(value) };
    }
}

/// The text at a C string's address.
///
/// # Safety
/// `text` is null, or a text that ends in zero.
unsafe fn text(text: *const c_char) -> Outcome<String> {
    if text.is_null() {
        return fail(Status::INVALID_VALUE, "the text is missing: the pointer is null");
    }
    // SAFETY: not null, and the caller vouches that it ends in zero.
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// Writes a text and its final zero into room for `size` bytes, cut off if it must be.
///
/// # Safety
/// `place` is null, or has room for `size` bytes.
unsafe fn put_text(place: *mut c_char, size: usize, text: &str) -> Outcome {
    if place.is_null() || size == 0 {
        return fail(Status::INVALID_VALUE, "there is no room for the text");
    }
    let bytes = &text.as_bytes()[..text.len().min(size - 1)];
    // SAFETY: `bytes` and a zero fit into `size`.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), place.cast::<u8>(), bytes.len());
        place.add(bytes.len()).write(0);
    }
    Ok(())
}
