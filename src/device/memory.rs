//! Buffers and the pool they come from.
//!
//! A [`Buffer`] is the only owner of a range of 64-byte blocks. One allocation can be [split](Buffer::split) into several buffers
//! that lie side by side (that is what a parameter arena is). A dropped allocation goes back to the pool's free list of its size
//! class and stays there, so a training step that asks for the same sizes again allocates nothing and touches no new page.
//! Not here: shapes and dtypes. Read next: `tensor/mod.rs`.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Bytes of one block: a cache line, and the alignment of every buffer.
pub const BLOCK: usize = 64;

/// Plain numbers: any bits are a valid value and there is no padding, so bytes may be viewed as them.
///
/// # Safety
/// Implement it only for types without padding and invalid bit patterns, aligned to at most [`BLOCK`].
pub unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: primitive numbers, and half's two transparent wrappers of u16.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}
// SAFETY: as above.
unsafe impl Plain for half::bf16 {}
// SAFETY: as above.
unsafe impl Plain for half::f16 {}

/// One allocation; goes back to the pool when the last buffer cut from it is dropped.
struct Allocation {
    start: NonNull<u8>,
    blocks: usize,
}

// SAFETY: the memory is reached only through `Buffer`s, whose ranges never overlap and which follow Rust's borrowing rules.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Drop for Allocation {
    fn drop(&mut self) {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        pool.in_use -= self.blocks * BLOCK;
        pool.free.entry(self.blocks).or_default().push(Free(self.start));
    }
}

/// An allocation at rest.
struct Free(NonNull<u8>);
// SAFETY: nobody else holds this pointer while it lies in the free list.
unsafe impl Send for Free {}

#[derive(Default)]
struct Pool {
    free: HashMap<usize, Vec<Free>>,
    in_use: usize,
    peak: usize,
    allocations: usize,
}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);
static POISON: AtomicBool = AtomicBool::new(false);

/// What the pool has given out.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Bytes held by live buffers.
    pub in_use: usize,
    /// The most that was ever in use, in bytes.
    pub peak: usize,
    /// How often memory was asked from the system: constant in steady state, once every thread has had its scratch space.
    pub allocations: usize,
}

/// What the pool has given out so far.
pub fn usage() -> Usage {
    let pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    Usage { in_use: pool.in_use, peak: pool.peak, allocations: pool.allocations }
}

/// From now on, fill every buffer handed out with NaN, so that a kernel that leaves an output unwritten shows. For tests.
pub fn poison() {
    POISON.store(true, Ordering::Relaxed);
}

/// Rounds a count of blocks up to its size class: eight classes to each power of two, so at most an eighth is wasted.
fn class(blocks: usize) -> usize {
    let step = (blocks.next_power_of_two() / 16).max(1);
    blocks.div_ceil(step) * step
}

impl Pool {
    fn take(&mut self, blocks: usize) -> NonNull<u8> {
        self.in_use += blocks * BLOCK;
        self.peak = self.peak.max(self.in_use);
        if let Some(Free(start)) = self.free.get_mut(&blocks).and_then(Vec::pop) {
            return start;
        }
        self.allocations += 1;
        // A size that overflows cannot be allocated either; `Layout` refuses it and so do we, as Vec does.
        let Ok(layout) = Layout::from_size_align(blocks.saturating_mul(BLOCK), BLOCK) else {
            panic!("a buffer of {blocks} blocks is larger than the address space")
        };
        // SAFETY: the layout's size is not zero (a class is at least one block).
        NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
    }
}

/// The only owner of a range of memory, aligned to [`BLOCK`] bytes. Its first content is unspecified.
pub struct Buffer {
    allocation: Arc<Allocation>,
    offset: usize,
    bytes: usize,
}

impl Buffer {
    /// A buffer of `bytes` bytes with unspecified content.
    pub fn new(bytes: usize) -> Self {
        let blocks = class(bytes.div_ceil(BLOCK).max(1));
        let start = POOL.lock().unwrap_or_else(PoisonError::into_inner).take(blocks);
        let mut buffer = Self { allocation: Arc::new(Allocation { start, blocks }), offset: 0, bytes };
        if POISON.load(Ordering::Relaxed) {
            buffer.view_mut::<u8>().fill(0xFF);
        }
        buffer
    }

    /// Cuts the buffer into neighbours of the given sizes in bytes, each a multiple of [`BLOCK`].
    pub fn split(self, sizes: &[usize]) -> Vec<Buffer> {
        let mut offset = self.offset;
        let parts = sizes
            .iter()
            .map(|&bytes| {
                assert!(bytes.is_multiple_of(BLOCK), "a part of {bytes} bytes is not a whole number of blocks");
                let part = Buffer { allocation: self.allocation.clone(), offset, bytes };
                offset += bytes;
                part
            })
            .collect();
        assert!(offset <= self.offset + self.bytes, "the parts are larger than the buffer");
        parts
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The content as numbers; a remainder that fills no whole number is left out.
    pub fn view<T: Plain>(&self) -> &[T] {
        // SAFETY: the range lies in the allocation (by `new` and `split`), is initialised (allocated zeroed), aligned for T (blocks
        // of 64 bytes, T aligned to at most that), any bits are a T, and `&self` keeps writers of this range away.
        unsafe { std::slice::from_raw_parts(self.start().cast(), self.bytes / size_of::<T>()) }
    }

    /// The content as numbers, to be written.
    pub fn view_mut<T: Plain>(&mut self) -> &mut [T] {
        // SAFETY: as in `view`; no other buffer covers this range, and `&mut self` keeps other users of this one away.
        unsafe { std::slice::from_raw_parts_mut(self.start().cast(), self.bytes / size_of::<T>()) }
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: the offset is inside the allocation.
        unsafe { self.allocation.start.as_ptr().add(self.offset) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes at {:p})", self.bytes, self.start())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_at_most_an_eighth() {
        for blocks in 1..5000 {
            let class = class(blocks);
            assert!(class >= blocks && class - blocks <= blocks / 8, "{blocks} -> {class}");
        }
    }

    #[test]
    fn parts_are_neighbours_and_do_not_overlap() {
        let mut parts = Buffer::new(256).split(&[64, 128, 64]);
        for (i, part) in parts.iter_mut().enumerate() {
            part.view_mut::<u8>().fill(i as u8);
        }
        let all: Vec<u8> = parts.iter().flat_map(|p| p.view::<u8>().to_vec()).collect();
        assert_eq!(all, [vec![0; 64], vec![1; 128], vec![2; 64]].concat());
        assert_eq!(parts[0].start().wrapping_add(64), parts[1].start());
    }

    #[test]
    fn memory_is_used_again() {
        let bytes = 123 * BLOCK * 1000;
        let first = Buffer::new(bytes).start() as usize;
        assert_eq!(Buffer::new(bytes).start() as usize, first);
    }
}
