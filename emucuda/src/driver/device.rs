//! Devices: how many, and what they are like.
//!
//! An emulated device says that it is of compute capability 8.0, as the PTX that it runs is made for that. Read next: `memory.rs`.

use super::context::initialised;
use super::state::{self, device, exists};
use super::status::{Outcome, Status, answer, fail};
use super::{put, put_text};
use std::ffi::c_char;

/// The most threads of a block.
pub const MAX_THREADS: u32 = 1024;
/// The most threads of a block along x, y and z.
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// The most blocks along x, y and z.
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
/// Shared memory that a block may have without asking.
pub const SHARED: u32 = 48 << 10;
/// Shared memory that a block may have when it asks (`cuFuncSetAttribute`).
pub const SHARED_ON_REQUEST: u32 = 163 << 10;
/// Shared memory of a multiprocessor.
pub const SHARED_OF_MULTIPROCESSOR: u32 = 164 << 10;
/// Threads that a multiprocessor keeps at once.
pub const THREADS_OF_MULTIPROCESSOR: u32 = 2048;
/// Blocks that a multiprocessor keeps at once.
pub const BLOCKS_OF_MULTIPROCESSOR: u32 = 32;
/// Few, so that kernels whose grid goes by it stay cheap.
pub const MULTIPROCESSORS: u32 = 16;
/// The interface that this driver offers: CUDA 13.0.
const VERSION: i32 = 13_000;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut i32) -> Status {
    // SAFETY: the caller gives a place for a number.
    answer("cuDriverGetVersion", || unsafe { put(version, VERSION) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(handle: *mut i32, ordinal: i32) -> Status {
    answer("cuDeviceGet", || {
        initialised()?;
        exists(ordinal)?;
        // SAFETY: the caller gives a place for a number.
        unsafe { put(handle, ordinal) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut i32) -> Status {
    answer("cuDeviceGetCount", || {
        initialised()?;
        // SAFETY: the caller gives a place for a number.
        unsafe { put(count, state::count() as i32) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, size: i32, ordinal: i32) -> Status {
    answer("cuDeviceGetName", || {
        initialised()?;
        exists(ordinal)?;
        // SAFETY: the caller gives room for so many characters.
        unsafe { put_text(name, size.max(0) as usize, "emucuda (PTX interpreter)") }
    })
}

unsafe fn identity(place: *mut [u8; 16], ordinal: i32) -> Outcome {
    initialised()?;
    exists(ordinal)?;
    let mut bytes = *b"emucuda device \0";
    bytes[15] = ordinal as u8;
    // SAFETY: the caller gives room for 16 bytes.
    unsafe { put(place, bytes) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid(place: *mut [u8; 16], ordinal: i32) -> Status {
    // SAFETY: the caller gives room for 16 bytes.
    answer("cuDeviceGetUuid", || unsafe { identity(place, ordinal) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid_v2(place: *mut [u8; 16], ordinal: i32) -> Status {
    // SAFETY: the caller gives room for 16 bytes.
    answer("cuDeviceGetUuid", || unsafe { identity(place, ordinal) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, ordinal: i32) -> Status {
    answer("cuDeviceTotalMem", || {
        initialised()?;
        let (_, total) = device(ordinal)?.machine.memory();
        // SAFETY: the caller gives a place for a number.
        unsafe { put(bytes, total as usize) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceComputeCapability(major: *mut i32, minor: *mut i32, ordinal: i32) -> Status {
    answer("cuDeviceComputeCapability", || {
        exists(ordinal)?;
        // SAFETY: the caller gives places for two numbers.
        unsafe {
            put(major, 8)?;
            put(minor, 0)
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut i32, attribute: i32, ordinal: i32) -> Status {
    answer("cuDeviceGetAttribute", || {
        initialised()?;
        exists(ordinal)?;
        if !(1..=162).contains(&attribute) {
            return fail(Status::INVALID_VALUE, format!("there is no attribute {attribute}"));
        }
        // SAFETY: the caller gives a place for a number.
        unsafe { put(value, self::attribute(attribute, ordinal)) }
    })
}

/// The value of a `CUdevice_attribute`; 0 for what an emulated device has not.
fn attribute(attribute: i32, ordinal: i32) -> i32 {
    match attribute {
        1 => MAX_THREADS as i32,
        2..=4 => MAX_BLOCK[attribute as usize - 2] as i32,
        5..=7 => MAX_GRID[attribute as usize - 5] as i32,
        8 => SHARED as i32,
        // Constant memory.
        9 => 64 << 10,
        // Lanes of a warp.
        10 => 32,
        // The widest pitch of a copy.
        11 => i32::MAX,
        // Registers of a block and of a multiprocessor.
        12 | 82 => 65_536,
        // Clocks of cores and memory in kHz: some programs divide by them.
        13 | 36 => 1_000_000,
        // Alignment of textures.
        14 => 512,
        16 => MULTIPROCESSORS as i32,
        // PCI bus: makes devices tell apart.
        33 => ordinal,
        // Width of the memory's bus in bits, bytes of the L2 cache.
        37 => 1024,
        38 => 4 << 20,
        39 => THREADS_OF_MULTIPROCESSOR as i32,
        // Unified addressing, stream priorities.
        41 | 78 => 1,
        75 => 8,
        76 => 0,
        81 => SHARED_OF_MULTIPROCESSOR as i32,
        // How many times faster f32 is than f64.
        87 => 2,
        97 => SHARED_ON_REQUEST as i32,
        106 => BLOCKS_OF_MULTIPROCESSOR as i32,
        // Shared memory of a block that the system keeps for itself.
        111 => 1024,
        // Memory pools.
        115 => 1,
        _ => 0,
    }
}
