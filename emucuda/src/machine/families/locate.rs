//! From the lanes' addresses to bytes on this machine, with all checks: alignment, bounds, and (checked) the shadow.
//!
//! Read next: `atomic.rs`.

use super::survey::{Shape, Survey, count_banks, count_sectors};
use crate::{
    machine::{
        block::Shared,
        fault::FaultKind,
        instruction::Space,
        launch::Launch,
        registers::LANES,
        shadow::{LINE, Now, Problem, Record, Shadow},
        warp::{Outcome, Warp, trouble},
    },
    ptx::lower::{LOCAL_WINDOW, SHARED_WINDOW},
};

/// What a request does with its bytes.
#[derive(Clone, Copy)]
pub(super) struct Use {
    pub bytes: u64,
    pub write: bool,
    pub atomic: bool,
    pub read_only: bool,
}

impl Use {
    pub fn read(bytes: u64) -> Use {
        Use { bytes, write: false, atomic: false, read_only: false }
    }

    pub fn write(bytes: u64) -> Use {
        Use { bytes, write: true, atomic: false, read_only: false }
    }

    fn name(&self) -> String {
        let what = if self.atomic {
            "atomic"
        } else if self.write {
            "write"
        } else {
            "read"
        };
        format!("{}-byte {what}", self.bytes)
    }
}

/// Where the bytes of the lanes lie on this machine. It lives on the stack for one instruction: boxing the pointers would cost more.
#[allow(clippy::large_enum_variant)]
pub(super) enum Found {
    /// One pointer: lane l's bytes begin `l * bytes` after it.
    Row(*mut u8),
    /// The same bytes for all lanes.
    Uniform(*mut u8),
    /// One pointer for each lane; a lane outside of the mask has that of a lane in it.
    Lanes([*mut u8; LANES]),
}

/// The moment of an access by a warp, in global or in shared memory.
pub(super) fn now(warp: &Warp, shared: &Shared, in_shared: bool) -> Now {
    Now {
        time: shared.clock,
        warp_time: warp.warp_time,
        barrier_time: warp.barrier_time,
        block_start: shared.block_start,
        start: if in_shared { shared.block_start } else { shared.launch_start },
        shared: in_shared,
        warp: warp.number,
    }
}

/// Checks a request and finds its bytes.
pub(super) fn locate<const CHECKED: bool>(
    warp: &mut Warp,
    shared: &mut Shared,
    launch: &Launch,
    space: Space,
    survey: &mut Survey,
    mask: u32,
    what: Use,
) -> Outcome<Found> {
    if survey.bits & (what.bytes - 1) != 0 && what.bytes.is_power_of_two() {
        let lane = first_lane(mask, |lane| survey.addresses[lane] & (what.bytes - 1) != 0);
        let text = format!("misaligned {} at {:#x}", what.name(), survey.addresses[lane as usize]);
        return trouble(lane, FaultKind::Misaligned, text);
    }
    match space {
        Space::Global => global::<CHECKED>(warp, shared, launch, survey, mask, what),
        Space::Shared => in_shared::<CHECKED>(warp, shared, survey, mask, what),
        Space::Local => local::<CHECKED>(warp, launch, survey, mask, what),
        Space::Generic => generic::<CHECKED>(warp, shared, launch, survey, mask, what),
    }
}

/// An address without a space: one space for all lanes, or (rarely) each lane for itself.
fn generic<const CHECKED: bool>(
    warp: &mut Warp,
    shared: &mut Shared,
    launch: &Launch,
    survey: &mut Survey,
    mask: u32,
    what: Use,
) -> Outcome<Found> {
    let space_of = |address: u64| match address {
        SHARED_WINDOW.. => (Space::Shared, SHARED_WINDOW),
        LOCAL_WINDOW.. => (Space::Local, LOCAL_WINDOW),
        _ => (Space::Global, 0),
    };
    let (space, window) = space_of(survey.lowest);
    if space_of(survey.highest).0 == space {
        survey.addresses.iter_mut().for_each(|address| *address -= window);
        survey.lowest -= window;
        survey.highest -= window;
        return locate::<CHECKED>(warp, shared, launch, space, survey, mask, what);
    }
    let mut found = [std::ptr::null_mut(); LANES];
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let (space, window) = space_of(survey.addresses[lane]);
        let address = survey.addresses[lane] - window;
        let mut one = Survey::uniform(address);
        found[lane] = match locate::<CHECKED>(warp, shared, launch, space, &mut one, 1 << lane, what)? {
            Found::Row(at) | Found::Uniform(at) => at,
            Found::Lanes(lanes) => lanes[lane],
        };
    }
    Ok(Found::Lanes(filled(found, mask)))
}

fn global<const CHECKED: bool>(
    warp: &mut Warp,
    shared: &mut Shared,
    launch: &Launch,
    survey: &Survey,
    mask: u32,
    what: Use,
) -> Outcome<Found> {
    let memory = launch.memory;
    if CHECKED {
        count_sectors(shared, survey, mask, what.bytes);
    }
    let span = survey.highest.wrapping_sub(survey.lowest).wrapping_add(what.bytes);
    if let Some(index) = memory.hold(survey.lowest, span) {
        let allocation = &memory.allocations[index];
        let offset = survey.lowest - allocation.base;
        if CHECKED {
            let now = now(warp, shared, false);
            let check = check(&mut shared.global[index], survey, allocation.base, mask, what, &now, |offset, bytes| {
                allocation.piece_problem(offset, bytes)
            });
            if let Err((lane, kind, text)) = check {
                return trouble(
                    lane,
                    kind,
                    located(kind, text, &what, survey.addresses[lane as usize] - allocation.base, allocation.bytes),
                );
            }
        }
        return Ok(match survey.shape {
            Shape::Row => Found::Row(allocation.at(offset)),
            Shape::Uniform => Found::Uniform(allocation.at(offset)),
            Shape::Scattered => Found::Lanes(survey.addresses.map(|address| allocation.at(address - allocation.base))),
        });
    }
    // Several allocations, or an error.
    let mut found = [std::ptr::null_mut(); LANES];
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let address = survey.addresses[lane];
        let Some(index) = memory.hold(address, what.bytes) else {
            let (kind, text) = memory.complaint(address, what.bytes, &what.name());
            return trouble(lane as u32, kind, text);
        };
        let allocation = &memory.allocations[index];
        if CHECKED {
            let now = now(warp, shared, false);
            let one = Survey::uniform(address);
            let check = check(&mut shared.global[index], &one, allocation.base, 1 << lane, what, &now, |offset, bytes| {
                allocation.piece_problem(offset, bytes)
            });
            if let Err((lane, kind, text)) = check {
                return trouble(lane, kind, located(kind, text, &what, address - allocation.base, allocation.bytes));
            }
        }
        found[lane] = allocation.at(address - allocation.base);
    }
    Ok(Found::Lanes(filled(found, mask)))
}

/// A complaint with where it happened: a piece's own words already say so.
fn located(kind: FaultKind, text: String, what: &Use, offset: u64, size: u64) -> String {
    match kind {
        FaultKind::OutOfBounds => format!("out of bounds: {} {text}", what.name()),
        FaultKind::Freed => format!("{} {text}", what.name()),
        _ => format!("{text}: {} {offset} bytes into a buffer of {size} bytes", what.name()),
    }
}

fn in_shared<const CHECKED: bool>(warp: &mut Warp, shared: &mut Shared, survey: &Survey, mask: u32, what: Use) -> Outcome<Found> {
    let outside = |address: u64| address > shared.size || address + what.bytes > shared.ends[address as usize / 4] as u64;
    // Arrays lie between gaps: if the first and the last byte lie in the same array, all others do.
    let same = survey.highest < shared.size
        && shared.ends[survey.lowest as usize / 4] == shared.ends[survey.highest as usize / 4]
        && !outside(survey.highest);
    if !same && let Some(lane) = (0..LANES).find(|lane| mask >> lane & 1 != 0 && outside(survey.addresses[*lane])) {
        let text = format!("out of bounds: {} at shared memory + {}", what.name(), survey.addresses[lane]);
        return trouble(lane as u32, FaultKind::OutOfBounds, text);
    }
    if CHECKED {
        count_banks(shared, survey, mask, what.bytes);
        if shared.flying > 0 {
            let flying = |lane: usize| {
                let at = survey.addresses[lane] as usize;
                shared.in_flight[at..at + what.bytes as usize].contains(&true)
            };
            if let Some(lane) = (0..LANES).find(|lane| mask >> lane & 1 != 0 && flying(*lane)) {
                let text = format!(
                    "cp.async is still in flight here (no wait_group): {} at shared memory + {}",
                    what.name(),
                    survey.addresses[lane]
                );
                return trouble(lane as u32, FaultKind::AsyncCopy, text);
            }
        }
        let now = now(warp, shared, true);
        if let Err((lane, kind, text)) = check(&mut shared.shadow, survey, 0, mask, what, &now, |_, _| None) {
            let text = format!("{text}: {} at shared memory + {}", what.name(), survey.addresses[lane as usize]);
            return trouble(lane, kind, text);
        }
    }
    let base = shared.at(0);
    // SAFETY: all addresses were just found to lie within shared memory.
    let at = |address: u64| unsafe { base.add(address as usize) };
    Ok(match survey.shape {
        Shape::Row => Found::Row(at(survey.lowest)),
        Shape::Uniform => Found::Uniform(at(survey.lowest)),
        Shape::Scattered => Found::Lanes(survey.addresses.map(at)),
    })
}

fn local<const CHECKED: bool>(warp: &mut Warp, launch: &Launch, survey: &Survey, mask: u32, what: Use) -> Outcome<Found> {
    let size = launch.program.local_bytes as u64;
    let mut found = [std::ptr::null_mut(); LANES];
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let address = survey.addresses[lane];
        if address.saturating_add(what.bytes) > size {
            let text = format!("out of bounds: {} at local memory + {address}", what.name());
            return trouble(lane as u32, FaultKind::OutOfBounds, text);
        }
        let at = lane * size as usize + address as usize;
        if CHECKED {
            let written = &mut warp.local_written[at..at + what.bytes as usize];
            if what.write {
                written.fill(true);
            } else if written.contains(&false) {
                let text = format!("reads a local array where it was never written: {} at local memory + {address}", what.name());
                return trouble(lane as u32, FaultKind::Uninitialised, text);
            }
        }
        found[lane] = warp.local[at..].as_mut_ptr();
    }
    Ok(Found::Lanes(filled(found, mask)))
}

/// Gives lanes outside of the mask a pointer of a lane in it.
fn filled(mut found: [*mut u8; LANES], mask: u32) -> [*mut u8; LANES] {
    let first = found[mask.trailing_zeros() as usize % LANES];
    (0..LANES).filter(|lane| mask >> lane & 1 == 0).for_each(|lane| found[lane] = first);
    found
}

type Check = Result<(), (u32, FaultKind, String)>;

/// Asks the shadow about every lane's bytes. `piece` says what is wrong with bytes that nobody wrote before.
fn check(
    shadow: &mut Shadow,
    survey: &Survey,
    base: u64,
    mask: u32,
    what: Use,
    now: &Now,
    piece: impl Fn(u64, u64) -> Option<(FaultKind, String)>,
) -> Check {
    let fail = |lane: u32, problem: Problem| -> (u32, FaultKind, String) {
        let offset = survey.addresses[lane as usize & 31] - base;
        let of_piece = if problem == Problem::Blank { piece(offset, what.bytes) } else { None };
        let (kind, text) = of_piece.unwrap_or_else(|| problem.describe(what.write));
        (lane, kind, text)
    };
    let whole = mask == !0;
    // Lanes that read the same bytes as lanes before them: a period of 16, 8, ... lanes counts once, as readers that are many.
    let mut width = LANES;
    if whole && !what.write && survey.shape == Shape::Scattered {
        while width > 1 && survey.addresses[..width / 2] == survey.addresses[width / 2..width] {
            width /= 2;
        }
    }
    let repeated = width < LANES;
    let per_line = (LINE / what.bytes) as usize;
    let mut lane = 0;
    while lane < width {
        if mask >> lane & 1 == 0 {
            lane += 1;
            continue;
        }
        let address = survey.addresses[lane];
        let offset = address - base;
        // A line that neighbouring lanes touch from end to end.
        let line_full = |addresses: &[u64]| addresses.iter().enumerate().all(|(n, a)| *a == address + n as u64 * what.bytes);
        let neighbours = lane..lane + per_line;
        if whole
            && offset.is_multiple_of(LINE)
            && neighbours.end <= width
            && (survey.shape == Shape::Row || line_full(&survey.addresses[neighbours.clone()]))
        {
            let me = Record::pattern(now.time, now.warp, lane as u32, what.bytes.trailing_zeros());
            let me = me.flags(what.atomic, what.read_only, repeated);
            let touched = shadow.touch_line((offset / LINE) as usize, me, what.write, now);
            let blank = touched.map_err(|problem| fail(lane as u32, problem))?;
            if blank && let Some((kind, text)) = piece(offset, LINE) {
                return Err((lane as u32, kind, text));
            }
            lane = neighbours.end;
            continue;
        }
        let first = lane as u32;
        lane += 1;
        let mut many = repeated;
        if !what.write {
            while lane < width && mask >> lane & 1 != 0 && survey.addresses[lane] == address {
                lane += 1;
                many = true;
            }
        }
        let me = Record::single(now.time, now.warp, first).flags(what.atomic, what.read_only, many);
        let blank = shadow.touch(offset, what.bytes, me, what.write, now).map_err(|problem| fail(first, problem))?;
        if blank && let Some((kind, text)) = piece(offset, what.bytes) {
            return Err((first, kind, text));
        }
    }
    Ok(())
}

fn first_lane(mask: u32, wanted: impl Fn(usize) -> bool) -> u32 {
    (0..LANES).find(|lane| mask >> lane & 1 != 0 && wanted(*lane)).unwrap_or(0) as u32
}
