//! A block: its warps, its shared memory, its barriers. Blocks are independent; `launch.rs` (read it next) hands them out.

use super::{
    Counters, Mode,
    fault::{Fault, FaultKind},
    instruction::{NONE, Tally},
    launch::Launch,
    registers::Class,
    run,
    shadow::Shadow,
    warp::{Stop, Trouble, Waiting, Warp},
};
use crate::ptx::builder::{Fixed, Special};

/// What the warps of a block share while they run.
pub(crate) struct Shared {
    pub bytes: Vec<u128>,
    pub size: u64,
    /// For every 4 bytes of shared memory, the end of the array they belong to (0: none).
    pub ends: Vec<u32>,
    /// Checked mode: who touched shared memory, and global memory by allocation.
    pub shadow: Shadow,
    pub global: Vec<Shadow>,
    pub clock: u64,
    pub launch_start: u64,
    pub block_start: u64,
    /// Bytes of shared memory that an asynchronous copy still fills.
    pub in_flight: Vec<bool>,
    pub flying: u64,
    pub counters: Counters,
}

impl Shared {
    pub fn tick(&mut self) {
        self.clock += 1;
    }

    /// The byte at this offset of shared memory, which must lie inside.
    pub fn at(&mut self, offset: u64) -> *mut u8 {
        debug_assert!(offset <= self.size);
        // SAFETY: the caller keeps the offset inside of shared memory.
        unsafe { self.bytes.as_mut_ptr().cast::<u8>().add(offset as usize) }
    }
}

/// One block after the other runs on it.
pub(crate) struct Block {
    warps: Vec<Warp>,
    pub shared: Shared,
}

impl Block {
    pub fn new(launch: &Launch, global: Vec<Shadow>, clock: u64) -> Block {
        let program = launch.program;
        let size = (launch.dynamic_at + launch.dynamic_bytes) as u64;
        let checked = launch.mode == Mode::Checked;
        let mut ends = vec![0; size.div_ceil(4) as usize + 1];
        let dynamic = (launch.dynamic_at, launch.dynamic_at + launch.dynamic_bytes);
        for (start, end) in program.shared.iter().chain([&dynamic]) {
            ends[*start as usize / 4..end.div_ceil(4) as usize].fill(*end);
        }
        let warps = (0..launch.threads.div_ceil(32)).map(|number| Warp::new(number, launch)).collect();
        let shared = Shared {
            bytes: vec![!0; size.div_ceil(16) as usize + 1],
            size,
            ends,
            shadow: if checked { Shadow::new(size + 64) } else { Shadow::default() },
            global,
            clock,
            launch_start: clock,
            block_start: clock,
            in_flight: vec![false; if checked { size as usize } else { 0 }],
            flying: 0,
            counters: Counters::default(),
        };
        let mut block = Block { warps, shared };
        for warp in &mut block.warps {
            for (number, class, fixed) in &program.fixed {
                fill(warp, launch, [0; 3], *number, *class, *fixed);
            }
        }
        block
    }

    /// Runs one block of the grid.
    pub fn run(&mut self, launch: &Launch, block: [u32; 3]) -> Result<(), Fault> {
        let shared = &mut self.shared;
        shared.tick();
        shared.block_start = shared.clock;
        shared.bytes.fill(!0);
        if shared.flying > 0 {
            shared.in_flight.fill(false);
            shared.flying = 0;
        }
        for warp in &mut self.warps {
            warp.restart(shared.clock);
            for (number, class, fixed) in launch.program.fixed.iter().filter(|f| matches!(f.2, Fixed::Special(Special::Block(_)))) {
                fill(warp, launch, block, *number, *class, *fixed);
            }
        }
        loop {
            let mut running = false;
            for warp in &mut self.warps {
                if warp.live == 0 || warp.waiting.is_some() {
                    continue;
                }
                running = true;
                let mut pc = 0;
                let outcome = match launch.mode {
                    Mode::Checked => run::run::<true>(warp, &mut self.shared, launch, &mut pc),
                    Mode::Fast => run::run::<false>(warp, &mut self.shared, launch, &mut pc),
                };
                match outcome {
                    Ok(Stop::Exit) => warp.live = 0,
                    Ok(Stop::Barrier) => {}
                    Err(trouble) => return Err(fault(launch, block, warp.number, pc, *trouble)),
                }
            }
            if !running && self.warps.iter().all(|warp| warp.waiting.is_none()) {
                break;
            }
            self.release(launch, block)?;
        }
        Ok(())
    }

    /// Lets warps go on whose barriers are full. All warps have exited or wait when it is called.
    fn release(&mut self, launch: &Launch, block: [u32; 3]) -> Result<(), Fault> {
        let waiting: Vec<(usize, Waiting)> =
            self.warps.iter().enumerate().filter_map(|(index, warp)| warp.waiting.map(|waiting| (index, waiting))).collect();
        let Some((first_warp, first)) = waiting.first().copied() else { return Ok(()) };
        let mut released = false;
        for id in 0..16 {
            let here: Vec<&(usize, Waiting)> = waiting.iter().filter(|(_, waiting)| waiting.id == id).collect();
            let Some((index, leader)) = here.first().copied() else { continue };
            let barrier_fault = |pc: u32, text: String| {
                let lane = leader.mask.trailing_zeros();
                Err(fault(launch, block, *index as u32, pc, Trouble { lane, kind: FaultKind::Barrier, text }))
            };
            match leader.threads {
                Some(threads) if here.len() as u32 * 32 < threads => continue,
                Some(_) => {}
                None => {
                    if let Some((_, other)) = here.iter().find(|(_, other)| other.pc != leader.pc) {
                        let place = &launch.program.place_table[launch.program.places[other.pc as usize] as usize];
                        return barrier_fault(leader.pc, format!("divergent barrier: other warps wait in another one at {place}"));
                    }
                    let alive = self.warps.iter().filter(|warp| warp.live != 0).count();
                    if here.len() != alive {
                        continue;
                    }
                    if alive != self.warps.len() && launch.mode == Mode::Checked {
                        let text = format!("divergent barrier: {alive} of {} warps wait here, the others returned", self.warps.len());
                        return barrier_fault(leader.pc, text);
                    }
                }
            }
            self.shared.tick();
            let count: u32 = here.iter().map(|(_, w)| (w.predicate & w.mask).count_ones()).sum();
            let all = here.iter().all(|(_, w)| w.predicate & w.mask == w.mask);
            for (index, waiting) in here {
                let warp = &mut self.warps[*index];
                warp.waiting = None;
                warp.warp_time = self.shared.clock;
                warp.barrier_time = self.shared.clock;
                let registers = warp.registers();
                match waiting.tally {
                    Tally::Nothing => {}
                    _ if waiting.destination == NONE => {}
                    Tally::Count => registers.set_word(waiting.destination, &[count; 32], waiting.mask),
                    Tally::All => registers.set_predicate(waiting.destination, if all { !0 } else { 0 }, waiting.mask),
                    Tally::Any => registers.set_predicate(waiting.destination, if count > 0 { !0 } else { 0 }, waiting.mask),
                }
            }
            released = true;
        }
        if released {
            return Ok(());
        }
        let text = format!("divergent barrier: {} warps wait here in barrier {}, and others in another one", waiting.len(), first.id);
        let trouble = Trouble { lane: first.mask.trailing_zeros(), kind: FaultKind::Barrier, text };
        Err(fault(launch, block, first_warp as u32, first.pc, trouble))
    }

    /// Adds what the warps counted to the block's counters.
    pub fn finish(mut self) -> (Counters, Vec<Shadow>, u64) {
        let counters = &mut self.shared.counters;
        for warp in &self.warps {
            counters.warp_instructions += warp.tally.instructions;
            counters.divergent_branches += warp.tally.divergent_branches;
            counters.barriers += warp.tally.barriers;
            counters.flops += warp.tally.flops;
        }
        (*counters, self.shared.global, self.shared.clock)
    }
}

/// The full report of what went wrong.
fn fault(launch: &Launch, block: [u32; 3], warp: u32, pc: u32, trouble: Trouble) -> Fault {
    let place = &launch.program.place_table[launch.program.places[pc as usize] as usize];
    let [x, y, z] = block;
    let thread = warp * 32 + trouble.lane.min(31);
    Fault::new(trouble.kind, format!("{} block ({x},{y},{z}) thread {thread} at {place}: {}", launch.name, trouble.text))
}

/// Puts the value of a fixed register into a warp.
fn fill(warp: &mut Warp, launch: &Launch, block: [u32; 3], number: u32, class: Class, fixed: Fixed) {
    let index = warp.number;
    let of_lane = |lane: u32| -> u64 {
        let thread = index * 32 + lane;
        let [width, height, _] = launch.block;
        (match fixed {
            Fixed::Bits(bits) => return bits,
            Fixed::Parameter { offset, size, signed } => {
                let mut bytes = [0; 8];
                let (offset, size) = (offset as usize, size as usize);
                bytes[..size].copy_from_slice(&launch.arguments[offset..offset + size]);
                if signed && bytes[size - 1] & 0x80 != 0 {
                    bytes[size..].fill(0xff);
                }
                return u64::from_le_bytes(bytes);
            }
            Fixed::ParameterAddress(offset) => return launch.parameter_address + offset as u64,
            Fixed::Variable { index, offset } => return launch.variables[index as usize].wrapping_add_signed(offset),
            Fixed::DynamicShared => launch.dynamic_at,
            Fixed::Special(special) => match special {
                Special::Thread(0) => thread % width,
                Special::Thread(1) => thread / width % height,
                Special::Thread(_) => thread / (width * height),
                Special::BlockSize(axis) => launch.block[axis as usize],
                Special::Block(axis) => block[axis as usize],
                Special::Grid(axis) => launch.grid[axis as usize],
                Special::Lane => lane,
                Special::Warp => index,
                Special::Warps => launch.threads.div_ceil(32),
                Special::LanesEqual => 1 << lane,
                Special::LanesLess => (1 << lane) - 1,
                Special::LanesLessEqual => (2u64 << lane).wrapping_sub(1) as u32,
                Special::LanesGreater => !((2u64 << lane).wrapping_sub(1) as u32),
                Special::LanesGreaterEqual => !((1 << lane) - 1),
                Special::DynamicSharedBytes => launch.dynamic_bytes,
                Special::Zero => 0,
            },
        }) as u64
    };
    let varies =
        matches!(fixed, Fixed::Special(special) if !matches!(special, Special::Block(_) | Special::Grid(_) | Special::BlockSize(_)));
    let first = of_lane(0);
    let values: [u64; 32] = if varies { std::array::from_fn(|lane| of_lane(lane as u32)) } else { [first; 32] };
    let registers = warp.registers();
    match class {
        Class::Word => registers.set_word(number, &values.map(|value| value as u32), !0),
        Class::Double => registers.set_double(number, &values, !0),
        Class::Predicate => registers.set_predicate(number, if values[0] != 0 { !0 } else { 0 }, !0),
    }
}
