//! Buffers and the pool they come from.
//!
//! A [`Buffer`] is the only owner of a range of 64-byte blocks, on the host or on a GPU. One allocation can be
//! [split](Buffer::split) into several buffers that lie side by side (that is what a parameter arena is). A dropped allocation goes
//! back to the pool's free list of its size class and stays there, so a training step that asks for the same sizes again allocates
//! nothing and touches no new page. On a GPU a buffer may be handed out again while kernels that use it still run: what its next
//! owner does comes after them in the stream. Not here: shapes and dtypes. Read next: `tensor/mod.rs`.

use super::Device;
use super::cuda::{Const, Context, Mut, emulator};
use crate::error::Result;
use std::alloc::{Layout, alloc, alloc_zeroed, handle_alloc_error};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
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

/// Where a range of memory begins.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    Host(NonNull<u8>),
    Gpu(u64),
}

// SAFETY: a number; what it points to is reached only through `Buffer`s, whose ranges never overlap and which follow Rust's
// borrowing rules.
unsafe impl Send for Start {}
// SAFETY: as above.
unsafe impl Sync for Start {}

/// Whose memory it is: that of everybody (0), or of one [`PrivatePool`].
type Home = u32;

/// One allocation; goes back to the pool when the last buffer cut from it is dropped.
struct Allocation {
    start: Start,
    device: Device,
    blocks: usize,
    home: Home,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if let (Device::Cuda(ordinal), Start::Gpu(address), Some(emulator)) = (self.device, self.start, emulator::get()) {
            emulator.release(ordinal, address);
        }
        let mut pool = pool();
        pool.in_use -= self.blocks * BLOCK;
        // Address 0 is an allocation that failed. A private pool that is gone leaves its memory to everybody.
        if self.start != Start::Gpu(0) {
            let home = if pool.private.contains(&self.home) { self.home } else { 0 };
            pool.free.entry((self.device, home, self.blocks)).or_default().push(self.start);
        }
    }
}

#[derive(Default)]
struct Pool {
    /// By device, owner and size in blocks.
    free: HashMap<(Device, Home, usize), Vec<Start>>,
    /// The private pools that there are.
    private: HashSet<Home>,
    in_use: usize,
    peak: usize,
    allocations: usize,
}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);
static POISON: AtomicBool = AtomicBool::new(false);
static NEXT_HOME: AtomicU32 = AtomicU32::new(1);

thread_local! {
    /// Where this thread takes memory from.
    static HOME: Cell<Home> = const { Cell::new(0) };
}

fn pool() -> std::sync::MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

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

/// What the pool has given out so far, on all devices.
pub fn usage() -> Usage {
    let pool = pool();
    Usage { in_use: pool.in_use, peak: pool.peak, allocations: pool.allocations }
}

/// From now on, fill every buffer handed out with NaN, so that a kernel that leaves an output unwritten shows. For tests. The
/// emulator needs no such help: it knows which bytes were written.
pub fn poison() {
    POISON.store(true, Ordering::Relaxed);
}

/// Rounds a count of blocks up to its size class: eight classes to each power of two, so at most an eighth is wasted.
fn class(blocks: usize) -> usize {
    let step = (blocks.next_power_of_two() / 16).max(1);
    blocks.div_ceil(step) * step
}

impl Pool {
    fn take(&mut self, device: Device, home: Home, blocks: usize) -> Start {
        self.in_use += blocks * BLOCK;
        self.peak = self.peak.max(self.in_use);
        if let Some(start) = self.free.get_mut(&(device, home, blocks)).and_then(Vec::pop) {
            return start;
        }
        self.allocations += 1;
        match device {
            Device::Cpu => Start::Host(take_from_host(blocks)),
            // A device that does not open says so at each launch.
            Device::Cuda(_) => Start::Gpu(device.context().map_or(0, |gpu| self.take_from(gpu, device, blocks * BLOCK))),
        }
    }

    /// Memory of a GPU. Before it gives up, what rests in the general free lists goes back to the driver.
    fn take_from(&mut self, gpu: &Context, device: Device, bytes: usize) -> u64 {
        gpu.allocate(bytes, || {
            for (_, list) in self.free.iter_mut().filter(|((d, home, _), _)| *d == device && *home == 0) {
                for start in list.drain(..) {
                    if let Start::Gpu(address) = start {
                        gpu.free(address);
                    }
                }
            }
        })
    }
}

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Large allocations lie in huge pages where the system has them: with small ones, a pass over a batch waits for the page table.
fn take_from_host(blocks: usize) -> NonNull<u8> {
    // A size that overflows cannot be allocated either; `Layout` refuses it and so do we, as Vec does.
    let bytes = blocks.saturating_mul(BLOCK);
    let huge = bytes >= HUGE;
    let layout = if huge { Layout::from_size_align(bytes, HUGE).map(|l| l.pad_to_align()) } else { Layout::from_size_align(bytes, BLOCK) };
    let Ok(layout) = layout else { panic!("a buffer of {blocks} blocks is larger than the address space") };
    if !huge {
        // SAFETY: the layout's size is not zero (a class is at least one block).
        return NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
    }
    // SAFETY: as above.
    let start = NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
    #[cfg(target_os = "linux")]
    // SAFETY: the range is ours and consists of whole pages; the call is advice and changes no content.
    unsafe {
        libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE);
    }
    // SAFETY: the range is ours.
    unsafe { start.write_bytes(0, layout.size()) };
    start
}

/// Memory for one purpose: what is taken inside it comes back to it, and nobody else is given it. A captured step needs that, as
/// its addresses are fixed.
#[derive(Debug)]
pub struct PrivatePool(Home);

impl PrivatePool {
    /// An empty one.
    pub fn new() -> Self {
        let home = NEXT_HOME.fetch_add(1, Ordering::Relaxed);
        pool().private.insert(home);
        Self(home)
    }

    /// While the result lives, this thread takes memory from here.
    pub fn enter(&self) -> Inside {
        Inside(HOME.replace(self.0))
    }
}

impl Default for PrivatePool {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PrivatePool {
    fn drop(&mut self) {
        let mut pool = pool();
        pool.private.remove(&self.0);
        let mine: Vec<_> = pool.free.keys().filter(|(_, home, _)| *home == self.0).copied().collect();
        for (device, home, blocks) in mine {
            let list = pool.free.remove(&(device, home, blocks)).unwrap_or_default();
            pool.free.entry((device, 0, blocks)).or_default().extend(list);
        }
    }
}

/// See [`PrivatePool::enter`].
#[derive(Debug)]
pub struct Inside(Home);

impl Drop for Inside {
    fn drop(&mut self) {
        HOME.set(self.0);
    }
}

/// The only owner of a range of memory, aligned to [`BLOCK`] bytes. Its first content is unspecified.
pub struct Buffer {
    allocation: Arc<Allocation>,
    offset: usize,
    bytes: usize,
}

impl Buffer {
    /// A buffer of `bytes` bytes with unspecified content. A GPU without memory left says so at the next launch or copy.
    pub fn new(device: Device, bytes: usize) -> Self {
        let (blocks, home) = (class(bytes.div_ceil(BLOCK).max(1)), HOME.get());
        let start = pool().take(device, home, blocks);
        let mut buffer = Self { allocation: Arc::new(Allocation { start, device, blocks, home }), offset: 0, bytes };
        match (device, start, emulator::get()) {
            (Device::Cuda(ordinal), Start::Gpu(address), Some(emulator)) => emulator.mark(ordinal, address, bytes),
            _ if POISON.load(Ordering::Relaxed) => {
                // A device's failure is told by its next launch.
                let _ = buffer.fill(0xFF);
            }
            _ => {}
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

    /// Where it is.
    pub fn device(&self) -> Device {
        self.allocation.device
    }

    /// Where it begins and ends: equal places are the same byte of the same allocation.
    pub fn ends(&self) -> [(usize, usize); 2] {
        let allocation = Arc::as_ptr(&self.allocation).addr();
        [(allocation, self.offset), (allocation, self.offset + self.bytes)]
    }

    /// The content as numbers; a remainder that fills no whole number is left out. On the host only.
    pub fn view<T: Plain>(&self) -> &[T] {
        // SAFETY: the range lies in the allocation (by `new` and `split`), is initialised (allocated zeroed), aligned for T (blocks
        // of 64 bytes, T aligned to at most that), any bits are a T, and `&self` keeps writers of this range away.
        unsafe { std::slice::from_raw_parts(self.host().cast(), self.bytes / size_of::<T>()) }
    }

    /// The content as numbers, to be written. On the host only.
    pub fn view_mut<T: Plain>(&mut self) -> &mut [T] {
        // SAFETY: as in `view`; no other buffer covers this range, and `&mut self` keeps other users of this one away.
        unsafe { std::slice::from_raw_parts_mut(self.host().cast(), self.bytes / size_of::<T>()) }
    }

    /// The content for a kernel. On a GPU only.
    pub fn cuda<T: Plain>(&self) -> Const<'_, T> {
        Const::new(self.address())
    }

    /// The content for a kernel that writes it. On a GPU only.
    pub fn cuda_mut<T: Plain>(&mut self) -> Mut<'_, T> {
        Mut::new(self.address())
    }

    /// Copies the first bytes from the host.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= self.bytes, "{} bytes do not fit into {self:?}", bytes.len());
        match self.allocation.start {
            Start::Host(_) => self.view_mut()[..bytes.len()].copy_from_slice(bytes),
            Start::Gpu(_) => self.context()?.write(self.address(), bytes)?,
        }
        Ok(())
    }

    /// Copies the first bytes to the host, after everything that was asked of the device before.
    pub fn read(&self, bytes: &mut [u8]) -> Result<()> {
        assert!(bytes.len() <= self.bytes, "{self:?} has no {} bytes", bytes.len());
        match self.allocation.start {
            Start::Host(_) => bytes.copy_from_slice(&self.view()[..bytes.len()]),
            Start::Gpu(_) => self.context()?.read(self.address(), bytes)?,
        }
        Ok(())
    }

    /// Copies the first `bytes` bytes of another buffer on the same device.
    pub fn copy_from(&mut self, other: &Buffer, bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes && bytes <= other.bytes && self.device() == other.device(), "{other:?} does not fit into {self:?}");
        match self.allocation.start {
            Start::Host(_) => self.view_mut::<u8>()[..bytes].copy_from_slice(&other.view()[..bytes]),
            Start::Gpu(_) => self.context()?.copy(self.address(), other.address(), bytes)?,
        }
        Ok(())
    }

    /// Sets every byte.
    pub fn fill(&mut self, byte: u8) -> Result<()> {
        match self.allocation.start {
            Start::Host(_) => self.view_mut::<u8>().fill(byte),
            Start::Gpu(_) => self.context()?.fill(self.address(), byte, self.bytes)?,
        }
        Ok(())
    }

    fn context(&self) -> Result<&'static Context> {
        self.allocation.device.context()
    }

    fn host(&self) -> *mut u8 {
        match self.allocation.start {
            // SAFETY: the offset is inside the allocation.
            Start::Host(start) => unsafe { start.as_ptr().add(self.offset) },
            Start::Gpu(_) => panic!("{self:?} is not on the host"),
        }
    }

    fn address(&self) -> u64 {
        match self.allocation.start {
            Start::Gpu(start) => start + self.offset as u64,
            Start::Host(_) => panic!("{self:?} is not on a GPU"),
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes on {} at {:?} + {})", self.bytes, self.allocation.device, self.allocation.start, self.offset)
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
        let mut parts = Buffer::new(Device::Cpu, 256).split(&[64, 128, 64]);
        for (i, part) in parts.iter_mut().enumerate() {
            part.view_mut::<u8>().fill(i as u8);
        }
        let all: Vec<u8> = parts.iter().flat_map(|p| p.view::<u8>().to_vec()).collect();
        assert_eq!(all, [vec![0; 64], vec![1; 128], vec![2; 64]].concat());
        assert_eq!(parts[0].host().wrapping_add(64), parts[1].host());
    }

    #[test]
    fn memory_is_used_again() {
        let bytes = 123 * BLOCK * 1000;
        let first = Buffer::new(Device::Cpu, bytes).host() as usize;
        assert_eq!(Buffer::new(Device::Cpu, bytes).host() as usize, first);
    }
}
