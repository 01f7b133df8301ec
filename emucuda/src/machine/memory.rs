//! Global memory: allocations, the pieces a caching pool makes of them, and where an address lies.
//!
//! Addresses are never used twice, so a freed allocation is known for ever. Not who touched what: that is `shadow.rs`
//! (read it next).

use std::collections::BTreeMap;

use super::fault::{Fault, FaultKind};

/// The first address. Below it, and between allocations, nothing is ever mapped.
pub(crate) const FIRST: u64 = 0x7_0000_0000;
/// Allocations begin at multiples of this, with one page between them that belongs to nobody.
const PAGE: u64 = 1 << 16;
/// Fresh memory up to this size is filled with NaN, so that a forgotten write shows in the numbers; beyond, it costs too much.
const POISONED: u64 = 64 << 20;

/// Part of an allocation, as a pool on top of the driver hands it out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub bytes: u64,
    pub live: bool,
}

/// One allocation. Its bytes are reached through a raw pointer, because blocks on several threads share them as a GPU's do.
pub(crate) struct Allocation {
    pub base: u64,
    pub bytes: u64,
    pub live: bool,
    data: *mut u8,
    words: Vec<u128>,
    /// Pieces by their offset; empty: all of it is valid.
    pub pieces: BTreeMap<u64, Piece>,
}

// SAFETY: the pointer leads into `words`, which the allocation owns; who may write when is the kernels' business, as on a GPU.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// The byte at this offset, which must lie inside.
    pub fn at(&self, offset: u64) -> *mut u8 {
        debug_assert!(self.live && offset <= self.bytes);
        // SAFETY: the caller keeps the offset inside of the allocation.
        unsafe { self.data.add(offset as usize) }
    }

    /// What is wrong with bytes that were never written: they lie outside of every piece, in a released one, or nothing but that.
    pub fn piece_problem(&self, offset: u64, bytes: u64) -> Option<(FaultKind, String)> {
        if self.pieces.is_empty() {
            return None;
        }
        match self.pieces.range(..=offset).next_back() {
            Some((start, piece)) if offset < start + piece.bytes.max(1) && !piece.live => {
                Some((FaultKind::Freed, format!("{} bytes into a buffer of {} bytes that was given back", offset - start, piece.bytes)))
            }
            Some((start, piece)) if offset + bytes > start + piece.bytes => {
                Some((FaultKind::OutOfBounds, format!("{} bytes into a buffer of {} bytes", offset - start, piece.bytes)))
            }
            Some(_) => None,
            None => Some((FaultKind::OutOfBounds, format!("{offset} bytes into memory that no buffer holds"))),
        }
    }
}

/// All allocations of a device.
pub(crate) struct Memory {
    pub allocations: Vec<Allocation>,
    pages: Vec<u32>,
    top: u64,
    pub capacity: u64,
    pub used: u64,
}

impl Memory {
    pub fn new() -> Memory {
        Memory { allocations: Vec::new(), pages: Vec::new(), top: FIRST, capacity: 16 << 30, used: 0 }
    }

    /// A new allocation, unless memory is full. `counted`: it belongs to the program, not to the machine itself.
    pub fn allocate(&mut self, bytes: u64, counted: bool) -> Option<usize> {
        if counted {
            if self.used.checked_add(bytes)? > self.capacity {
                return None;
            }
            self.used += bytes;
        }
        let length = (bytes / 16 + 2) as usize;
        let mut words = vec![if bytes <= POISONED { !0u128 } else { 0 }; length];
        let data = words.as_mut_ptr().cast();
        let index = self.allocations.len();
        let base = self.top;
        let pages = bytes.div_ceil(PAGE).max(1);
        self.pages.resize(((base - FIRST) / PAGE) as usize, 0);
        self.pages.extend((0..pages).map(|_| index as u32 + 1));
        self.top += (pages + 1) * PAGE;
        self.allocations.push(Allocation { base, bytes, live: true, data, words, pieces: BTreeMap::new() });
        Some(index)
    }

    pub fn free(&mut self, address: u64) -> Result<usize, Fault> {
        let found = self.find(address).filter(|index| self.allocations[*index].base == address);
        let Some(index) = found else {
            return Err(Fault::new(FaultKind::OutOfBounds, format!("free of {address:#x}, where no allocation begins")));
        };
        let allocation = &mut self.allocations[index];
        if !allocation.live {
            return Err(Fault::new(FaultKind::Freed, format!("free of {address:#x}, which was freed before")));
        }
        allocation.live = false;
        allocation.words = Vec::new();
        allocation.data = std::ptr::null_mut();
        self.used = self.used.saturating_sub(allocation.bytes);
        Ok(index)
    }

    /// The allocation whose pages hold this address.
    #[inline(always)]
    pub fn find(&self, address: u64) -> Option<usize> {
        let page = self.pages.get((address.wrapping_sub(FIRST) / PAGE) as usize)?;
        (*page as usize).checked_sub(1)
    }

    /// The allocation that holds all these bytes.
    #[inline(always)]
    pub fn hold(&self, address: u64, bytes: u64) -> Option<usize> {
        let index = self.find(address)?;
        let allocation = &self.allocations[index];
        let offset = address - allocation.base;
        (allocation.live && bytes <= allocation.bytes && offset <= allocation.bytes - bytes).then_some(index)
    }

    /// Why bytes cannot be touched.
    pub fn complaint(&self, address: u64, bytes: u64, what: &str) -> (FaultKind, String) {
        let below = self.allocations.partition_point(|allocation| allocation.base <= address).checked_sub(1);
        match below.map(|index| &self.allocations[index]) {
            Some(a) if !a.live && address < a.base + a.bytes.max(1) => {
                let text = format!("{what} {} bytes into a buffer of {} bytes that was freed", address - a.base, a.bytes);
                (FaultKind::Freed, text)
            }
            Some(a) if address - a.base <= a.bytes + (1 << 32) => {
                let (offset, size) = (address - a.base, a.bytes);
                (FaultKind::OutOfBounds, format!("out of bounds: {what} {offset} bytes into a buffer of {size} bytes"))
            }
            _ if address < 1 << 16 => (FaultKind::OutOfBounds, format!("out of bounds: {what} at {address:#x} (a null pointer?)")),
            _ => (FaultKind::OutOfBounds, format!("out of bounds: {what} at {address:#x}, where nothing lies ({bytes} bytes)")),
        }
    }

    /// The allocation that holds these bytes, for a copy by the host.
    pub fn host(&self, address: u64, bytes: u64, what: &str) -> Result<usize, Fault> {
        self.hold(address, bytes).ok_or_else(|| {
            let (kind, text) = self.complaint(address, bytes, &format!("{bytes}-byte {what}"));
            Fault::new(kind, text)
        })
    }
}
