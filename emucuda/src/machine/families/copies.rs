//! Asynchronous copies from global to shared memory (`cp.async`): the worst moment for each of their effects.
//!
//! The source is read at once. The destination holds NaN until the copying thread waits for the copy's group; only then do
//! the bytes appear, written by that thread at that time: so a missing wait and a missing barrier after it are both found.
//! Read next: `../shadow.rs`.

use std::collections::VecDeque;

use super::{
    locate::{self, Found, Use},
    survey::survey,
};
use crate::machine::{
    block::Shared,
    instruction::{Address, NONE, Space},
    launch::Launch,
    registers::LANES,
    shadow::Record,
    warp::{Outcome, Warp, trouble},
};

/// One lane's copy.
#[derive(Clone, Copy)]
struct Copy {
    lane: u32,
    to: u64,
    bytes: u64,
    data: [u8; 16],
}

/// The copies of a warp that are under way: committed groups, oldest first, and those not yet committed.
#[derive(Default)]
pub(crate) struct Copies {
    groups: VecDeque<Vec<Copy>>,
    open: Vec<Copy>,
}

impl Copies {
    pub fn clear(&mut self) {
        self.groups.clear();
        self.open.clear();
    }

    pub fn commit(&mut self) {
        let group = std::mem::take(&mut self.open);
        self.groups.push_back(group);
    }
}

/// Starts the copies of all lanes of the mask. Operands: destination, source, bytes to read (the rest becomes zero).
#[allow(clippy::too_many_arguments)]
pub(crate) fn issue<const CHECKED: bool>(
    warp: &mut Warp,
    shared: &mut Shared,
    launch: &Launch,
    to: &Address,
    from: &Address,
    size: u64,
    operands: &[u32],
    mask: u32,
) -> Outcome<()> {
    let registers = warp.registers();
    let bytes = if operands[2] == NONE { [size as u32; LANES] } else { *registers.word(operands[2]) };
    let reading = (0..LANES).filter(|lane| mask >> lane & 1 != 0 && bytes[*lane] > 0).fold(0u32, |bits, lane| bits | 1 << lane);
    let mut sources = None;
    if reading != 0 {
        let mut survey = survey(registers, from, operands[1], reading, size);
        sources = Some(locate::locate::<CHECKED>(warp, shared, launch, Space::Global, &mut survey, reading, Use::read(size))?);
    }
    let mut survey = survey(registers, to, operands[0], mask, size);
    let targets = locate::locate::<CHECKED>(warp, shared, launch, Space::Shared, &mut survey, mask, Use::write(size))?;
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let mut data = [0; 16];
        if let Some(found) = &sources
            && reading >> lane & 1 != 0
        {
            let count = (bytes[lane] as usize).min(size as usize);
            // SAFETY: `locate` found `size` bytes for this lane.
            unsafe { std::ptr::copy_nonoverlapping(pointer(found, lane, size), data.as_mut_ptr(), count) };
        }
        // SAFETY: as above.
        unsafe { pointer(&targets, lane, size).write_bytes(0xff, size as usize) };
        let to = survey.addresses[lane];
        if CHECKED {
            shared.in_flight[to as usize..(to + size) as usize].fill(true);
            shared.flying += 1;
        }
        warp.copies.open.push(Copy { lane: lane as u32, to, bytes: size, data });
    }
    Ok(())
}

/// # Safety
/// `found` must hold `size` bytes for this lane.
unsafe fn pointer(found: &Found, lane: usize, size: u64) -> *mut u8 {
    match found {
        // SAFETY: the caller's promise.
        Found::Row(at) => unsafe { at.add(lane * size as usize) },
        Found::Uniform(at) => *at,
        Found::Lanes(lanes) => lanes[lane],
    }
}

/// Waits until at most `pending` groups are under way.
pub(crate) fn wait<const CHECKED: bool>(warp: &mut Warp, shared: &mut Shared, pending: usize) -> Outcome<()> {
    while warp.copies.groups.len() > pending {
        for copy in warp.copies.groups.pop_front().unwrap_or_default() {
            // SAFETY: `issue` found these bytes inside of shared memory.
            unsafe { std::ptr::copy_nonoverlapping(copy.data.as_ptr(), shared.at(copy.to), copy.bytes as usize) };
            if CHECKED {
                shared.in_flight[copy.to as usize..(copy.to + copy.bytes) as usize].fill(false);
                shared.flying -= 1;
                let now = locate::now(warp, shared, true);
                let me = Record::single(now.time, now.warp, copy.lane);
                if let Err(problem) = shared.shadow.touch(copy.to, copy.bytes, me, true, &now) {
                    let (kind, text) = problem.describe(true);
                    return trouble(copy.lane, kind, format!("the end of a cp.async {text}"));
                }
            }
        }
    }
    Ok(())
}
