//! A launch: what all its blocks share, and who runs them.
//!
//! Checked: one thread, blocks in order. Fast: the calling thread begins, and if the grid takes long, threads on the other
//! cores help it (atomics are real ones). Read next: `warp.rs`.

use std::{
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Counters, Mode, block::Block, fault::Fault, memory::Memory, shadow::Shadow};
use crate::ptx::allocate::Program;

/// Helpers are called after this long: starting threads takes about a tenth of it.
const PATIENCE: Duration = Duration::from_micros(400);

/// What all blocks of a launch share.
pub(crate) struct Launch<'a> {
    pub name: &'a str,
    pub program: &'a Program,
    pub memory: &'a Memory,
    pub mode: Mode,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    pub dynamic_at: u32,
    pub dynamic_bytes: u32,
    pub arguments: &'a [u8],
    pub parameter_address: u64,
    /// Addresses of the module's variables.
    pub variables: &'a [u64],
}

/// How many cores there are; asking takes longer than a small launch.
fn cores() -> u64 {
    static CORES: OnceLock<u64> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, |n| n.get()) as u64)
}

impl Launch<'_> {
    fn blocks(&self) -> u64 {
        self.grid.iter().map(|n| *n as u64).product()
    }

    fn block_at(&self, number: u64) -> [u32; 3] {
        let [width, height, _] = self.grid.map(|n| n as u64);
        [(number % width) as u32, (number / width % height) as u32, (number / (width * height)) as u32]
    }

    /// Runs all blocks. Gives back the shadows of global memory, the clock and the counters.
    pub fn run(&self, global: Vec<Shadow>, clock: u64) -> (Result<Counters, Fault>, Vec<Shadow>, u64) {
        let mut block = Block::new(self, global, clock);
        let outcome = match self.mode {
            Mode::Checked => (0..self.blocks()).try_for_each(|number| block.run(self, self.block_at(number))),
            Mode::Fast => return (self.run_fast(block), Vec::new(), clock),
        };
        let (counters, global, clock) = block.finish();
        (outcome.map(|()| counters), global, clock)
    }

    fn run_fast(&self, mut block: Block) -> Result<Counters, Fault> {
        let (count, start) = (self.blocks(), Instant::now());
        let mut number = 0;
        while number < count && start.elapsed() < PATIENCE {
            block.run(self, self.block_at(number))?;
            number += 1;
        }
        let cores = cores();
        let helpers = cores.min(count - number).saturating_sub(1);
        if helpers == 0 {
            (number..count).try_for_each(|number| block.run(self, self.block_at(number)))?;
            return Ok(block.finish().0);
        }
        let next = AtomicU64::new(number);
        let failed = AtomicBool::new(false);
        // The fault of the first block that has one, as if blocks ran in order.
        let first_fault: Mutex<Option<(u64, Fault)>> = Mutex::new(None);
        let work = |mut block: Block| {
            while !failed.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                if let Err(fault) = block.run(self, self.block_at(number)) {
                    failed.store(true, Ordering::Relaxed);
                    let mut first = first_fault.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    if first.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
                        *first = Some((number, fault));
                    }
                }
            }
            block.finish().0
        };
        let mut counters = std::thread::scope(|scope| {
            let work = &work;
            let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(move || work(Block::new(self, Vec::new(), 0)))).collect();
            let mut counters = work(block);
            for helper in helpers {
                match helper.join() {
                    Ok(helped) => counters.add(&helped),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            counters
        });
        counters.launches = 0;
        match first_fault.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some((_, fault)) => Err(fault),
            None => Ok(counters),
        }
    }
}
