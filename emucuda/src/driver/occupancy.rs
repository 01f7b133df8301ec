//! How many blocks of a kernel would fit on a multiprocessor: what threads and shared memory allow.
//!
//! Registers are not known here, so a GPU may have room for fewer. Read next: `operation.rs`.

use super::device::{
    BLOCKS_OF_MULTIPROCESSOR, MAX_THREADS, MULTIPROCESSORS, SHARED_OF_MULTIPROCESSOR, SHARED_ON_REQUEST, THREADS_OF_MULTIPROCESSOR,
};
use super::module::{Function, function};
use super::put;
use super::state::Handle;
use super::status::{Outcome, Status, answer, fail};

/// Shared memory that the system takes from each block.
const SHARED_FOR_SYSTEM: u64 = 1024;

/// Says how much dynamic shared memory a block of so many threads wants.
type SharedBySize = unsafe extern "C" fn(i32) -> usize;

fn blocks(function: &Function, threads: u32, dynamic: u64) -> u32 {
    let kernel = function.kernel();
    let shared = u64::from(kernel.shared_bytes) + dynamic;
    if threads == 0 || threads > kernel.max_threads.min(MAX_THREADS) || shared > u64::from(SHARED_ON_REQUEST) {
        return 0;
    }
    let by_threads = THREADS_OF_MULTIPROCESSOR / threads.next_multiple_of(32);
    let by_shared = u64::from(SHARED_OF_MULTIPROCESSOR) / (shared + SHARED_FOR_SYSTEM);
    by_threads.min(BLOCKS_OF_MULTIPROCESSOR).min(by_shared as u32)
}

unsafe fn most_blocks(count: *mut i32, handle: Handle, threads: i32, dynamic: usize) -> Outcome {
    let function = function(handle)?;
    if threads <= 0 {
        return fail(Status::INVALID_VALUE, format!("a block of {threads} threads"));
    }
    // SAFETY: the caller gives a place for a number.
    unsafe { put(count, blocks(&function, threads as u32, dynamic as u64) as i32) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    count: *mut i32,
    function: Handle,
    threads: i32,
    dynamic: usize,
) -> Status {
    // SAFETY: the caller gives a place for a number.
    answer("cuOccupancyMaxActiveBlocksPerMultiprocessor", || unsafe { most_blocks(count, function, threads, dynamic) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    count: *mut i32,
    function: Handle,
    threads: i32,
    dynamic: usize,
    _flags: u32,
) -> Status {
    // SAFETY: the caller gives a place for a number.
    answer("cuOccupancyMaxActiveBlocksPerMultiprocessor", || unsafe { most_blocks(count, function, threads, dynamic) })
}

/// The size of block that keeps most threads busy; among equals the largest.
unsafe fn best_block(
    grid: *mut i32,
    block: *mut i32,
    handle: Handle,
    by_size: Option<SharedBySize>,
    dynamic: usize,
    limit: i32,
) -> Outcome {
    let function = function(handle)?;
    let most = function.kernel().max_threads.min(MAX_THREADS).min(if limit > 0 { limit as u32 } else { MAX_THREADS });
    let (mut best, mut best_threads, mut best_blocks) = (0, 0, 0);
    for threads in (1..=most.div_ceil(32)).map(|warps| (warps * 32).min(most)) {
        // SAFETY: the caller gives a function that may be called with any size of block.
        let dynamic = by_size.map_or(dynamic, |by_size| unsafe { by_size(threads as i32) });
        let blocks = blocks(&function, threads, dynamic as u64);
        if blocks * threads >= best && blocks > 0 {
            (best, best_threads, best_blocks) = (blocks * threads, threads, blocks);
        }
    }
    // SAFETY: the caller gives places for two numbers.
    unsafe {
        put(grid, (best_blocks * MULTIPROCESSORS) as i32)?;
        put(block, best_threads as i32)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: *mut i32,
    block: *mut i32,
    function: Handle,
    by_size: Option<SharedBySize>,
    dynamic: usize,
    limit: i32,
) -> Status {
    // SAFETY: the caller gives places for two numbers, and vouches for its function.
    answer("cuOccupancyMaxPotentialBlockSize", || unsafe { best_block(grid, block, function, by_size, dynamic, limit) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: *mut i32,
    block: *mut i32,
    function: Handle,
    by_size: Option<SharedBySize>,
    dynamic: usize,
    limit: i32,
    _flags: u32,
) -> Status {
    // SAFETY: the caller gives places for two numbers, and vouches for its function.
    answer("cuOccupancyMaxPotentialBlockSize", || unsafe { best_block(grid, block, function, by_size, dynamic, limit) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: *mut usize, function: Handle, blocks: i32, threads: i32) -> Status {
    answer("cuOccupancyAvailableDynamicSMemPerBlock", || {
        let function = self::function(function)?;
        if blocks <= 0 || threads <= 0 || blocks * threads > THREADS_OF_MULTIPROCESSOR as i32 {
            return fail(Status::INVALID_VALUE, format!("{blocks} blocks of {threads} threads do not fit on a multiprocessor"));
        }
        let each = u64::from(SHARED_OF_MULTIPROCESSOR) / blocks as u64;
        let used = SHARED_FOR_SYSTEM + u64::from(function.kernel().shared_bytes);
        let free = each.saturating_sub(used).min(u64::from(SHARED_ON_REQUEST));
        // SAFETY: the caller gives a place for a number.
        unsafe { put(bytes, free as usize) }
    })
}
