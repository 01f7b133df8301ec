//! One emulated device: its memory, its checks, its launches. Not the driver's interface (contexts, streams), which lies above.
//!
//! Read next: `memory.rs`; then `registers.rs` and `warp.rs` for how kernels run.

pub(crate) mod block;
mod counters;
pub(crate) mod families;
mod fault;
pub(crate) mod instruction;
pub(crate) mod launch;
pub(crate) mod memory;
pub(crate) mod registers;
pub(crate) mod run;
pub(crate) mod shadow;
#[cfg(test)]
mod tests;
pub(crate) mod warp;

use std::collections::{BTreeMap, HashMap};

pub use counters::Counters;
pub use fault::{Fault, FaultKind};

use crate::{
    Module,
    ptx::{Kernel, Variable, builder::Fixed},
};
use launch::Launch;
use memory::{Memory, Piece};
use shadow::Shadow;

/// How much a machine checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// Bounds of allocations, alignment and barriers; blocks on all cores.
    #[default]
    Fast,
    /// All of that, never-written memory, races, shuffles, asynchronous copies; blocks in order; counters.
    Checked,
}

/// Bytes of shared memory that a block may have, as on a GPU of compute capability 8.0 and later.
pub const MOST_SHARED: u32 = 227 * 1024;

/// One emulated device.
pub struct Machine {
    mode: Mode,
    memory: Memory,
    /// Checked mode: who touched what, by allocation.
    shadows: Vec<Shadow>,
    clock: u64,
    counters: BTreeMap<String, Counters>,
    /// Where the variables of modules lie, by the module's number.
    variables: HashMap<u64, Vec<u64>>,
    /// Where a launch keeps its parameters, if a kernel takes their address.
    parameters: Option<u64>,
}

impl Machine {
    /// An empty device.
    pub fn new(mode: Mode) -> Machine {
        Machine {
            mode,
            memory: Memory::new(),
            shadows: Vec::new(),
            clock: 2,
            counters: BTreeMap::new(),
            variables: HashMap::new(),
            parameters: None,
        }
    }

    /// How much it checks.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// From the next launch on it checks so much. What memory holds when checks begin counts as written.
    pub fn set_mode(&mut self, mode: Mode) {
        if mode != self.mode {
            let shadow = |allocation: &memory::Allocation| {
                if !allocation.live {
                    return Shadow::default();
                }
                if allocation.pieces.is_empty() {
                    return Shadow::written(allocation.bytes);
                }
                let mut shadow = Shadow::new(allocation.bytes);
                for (offset, piece) in allocation.pieces.iter().filter(|(_, piece)| piece.live) {
                    shadow.set(*offset, piece.bytes, true);
                }
                shadow
            };
            self.shadows = match mode {
                Mode::Fast => Vec::new(),
                Mode::Checked => self.memory.allocations.iter().map(shadow).collect(),
            };
        }
        self.mode = mode;
    }

    /// Sets how many bytes all allocations together may have (16 GiB at first).
    pub fn set_capacity(&mut self, bytes: u64) {
        self.memory.capacity = bytes;
    }

    // ---- Memory

    /// A new allocation, 256-byte aligned; its content counts as never written. None: out of memory.
    pub fn allocate(&mut self, bytes: u64) -> Option<u64> {
        self.allocate_counted(bytes, true)
    }

    fn allocate_counted(&mut self, bytes: u64, counted: bool) -> Option<u64> {
        let index = self.memory.allocate(bytes, counted)?;
        if self.mode == Mode::Checked {
            self.shadows.push(Shadow::new(bytes));
        }
        Some(self.memory.allocations[index].base)
    }

    /// Gives an allocation back.
    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        let index = self.memory.free(address)?;
        if let Some(shadow) = self.shadows.get_mut(index) {
            *shadow = Shadow::default();
        }
        Ok(())
    }

    /// Free and total bytes.
    pub fn memory(&self) -> (u64, u64) {
        (self.memory.capacity.saturating_sub(self.memory.used), self.memory.capacity)
    }

    /// For a caching pool on top of the driver: from now on only `[address, address + bytes)` of this piece is valid, and its
    /// content counts as never written.
    pub fn mark(&mut self, address: u64, bytes: u64) -> Result<(), Fault> {
        let index = self.memory.host(address, bytes, "mark")?;
        let allocation = &mut self.memory.allocations[index];
        let offset = address - allocation.base;
        let overlapping: Vec<u64> = allocation
            .pieces
            .range(..offset + bytes.max(1))
            .rev()
            .take_while(|(start, piece)| *start + piece.bytes.max(1) > offset)
            .map(|(start, _)| *start)
            .collect();
        let mut end = offset + bytes;
        for start in overlapping {
            if let Some(piece) = allocation.pieces.remove(&start) {
                end = end.max(start + piece.bytes);
            }
        }
        allocation.pieces.insert(offset, Piece { bytes, live: true });
        self.forget(index, offset, end - offset);
        Ok(())
    }

    /// Makes every access to a marked piece a report, until it is marked again.
    pub fn release(&mut self, address: u64) -> Result<(), Fault> {
        let index = self.memory.host(address, 0, "release")?;
        let allocation = &mut self.memory.allocations[index];
        let offset = address - allocation.base;
        let Some(piece) = allocation.pieces.get_mut(&offset).filter(|piece| piece.live) else {
            return Err(Fault::new(FaultKind::Freed, format!("release of {address:#x}, where no marked piece begins")));
        };
        piece.live = false;
        let bytes = piece.bytes;
        self.forget(index, offset, bytes);
        Ok(())
    }

    /// Nothing of these bytes is written any more.
    fn forget(&mut self, index: usize, offset: u64, bytes: u64) {
        if let Some(shadow) = self.shadows.get_mut(index) {
            shadow.set(offset, bytes, false);
        }
    }

    /// The allocation of a host's copy and the offset in it. Checked: its bytes must lie in a live piece.
    fn host(&self, address: u64, bytes: u64, what: &str) -> Result<(usize, u64), Fault> {
        let index = self.memory.host(address, bytes, what)?;
        let allocation = &self.memory.allocations[index];
        let offset = address - allocation.base;
        if self.mode == Mode::Checked
            && let Some((kind, text)) = allocation.piece_problem(offset, bytes)
        {
            return Err(Fault::new(kind, format!("{bytes}-byte {what} {text}")));
        }
        Ok((index, offset))
    }

    /// Copies from the host.
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Fault> {
        self.fill(address, data, 1)
    }

    /// Copies to the host. Checked: never-written bytes are a fault.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Fault> {
        if data.is_empty() {
            return Ok(());
        }
        let bytes = data.len() as u64;
        let (index, offset) = self.host(address, bytes, "copy to the host")?;
        if let Some(blank) = self.shadows.get(index).and_then(|shadow| shadow.first_blank(offset, bytes)) {
            let text = format!("copy of {bytes} bytes to the host: byte {} was never written", blank - offset);
            return Err(Fault::new(FaultKind::Uninitialised, text));
        }
        // SAFETY: `host` found these bytes inside of the allocation; no kernel runs, for the machine is borrowed.
        unsafe { std::ptr::copy_nonoverlapping(self.memory.allocations[index].at(offset), data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    /// Writes a pattern `count` times.
    pub fn fill(&mut self, address: u64, pattern: &[u8], count: u64) -> Result<(), Fault> {
        let bytes = (pattern.len() as u64).saturating_mul(count);
        if bytes == 0 {
            return Ok(());
        }
        let (index, offset) = self.host(address, bytes, "copy or fill by the host")?;
        let at = self.memory.allocations[index].at(offset);
        // SAFETY: `host` found these bytes inside of the allocation, and the machine is borrowed for us alone.
        let target = unsafe { std::slice::from_raw_parts_mut(at, bytes as usize) };
        match pattern {
            [byte] => target.fill(*byte),
            _ => target.chunks_exact_mut(pattern.len()).for_each(|chunk| chunk.copy_from_slice(pattern)),
        }
        if let Some(shadow) = self.shadows.get_mut(index) {
            shadow.set(offset, bytes, true);
        }
        Ok(())
    }

    /// Copies within the device; never-written bytes stay so.
    pub fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), Fault> {
        if bytes == 0 {
            return Ok(());
        }
        let (source, start) = self.host(from, bytes, "copy on the device (source)")?;
        let (target, at) = self.host(to, bytes, "copy on the device")?;
        let allocations = &self.memory.allocations;
        // SAFETY: `host` found both ranges; they may overlap, which `copy` allows.
        unsafe { std::ptr::copy(allocations[source].at(start), allocations[target].at(at), bytes as usize) };
        if self.mode == Mode::Checked {
            let mut at = at;
            for (length, written) in self.shadows[source].runs(start, bytes) {
                self.shadows[target].set(at, length, written);
                at += length;
            }
        }
        Ok(())
    }

    /// Address and size of a `.global` or `.const` variable of a module on this machine (placed at the first question or launch).
    pub fn variable(&mut self, module: &Module, name: &str) -> Option<(u64, u64)> {
        let index = module.variables.iter().position(|variable| variable.name == name)?;
        self.place_variables(module.id, &module.variables)?;
        Some((self.variables[&module.id][index], module.variables[index].bytes))
    }

    /// Places the variables of a module. None: out of memory.
    fn place_variables(&mut self, module: u64, variables: &[Variable]) -> Option<()> {
        if self.variables.contains_key(&module) {
            return Some(());
        }
        let addresses = variables.iter().map(|v| self.allocate_counted(v.bytes, false)).collect::<Option<Vec<u64>>>()?;
        for (variable, address) in variables.iter().zip(&addresses) {
            let mut content = variable.content.clone();
            for (at, target) in &variable.addresses {
                content[*at as usize..*at as usize + 8].copy_from_slice(&addresses[*target].to_le_bytes());
            }
            self.write(*address, &content).ok()?;
        }
        self.variables.insert(module, addresses);
        Some(())
    }

    // ---- Launches

    /// Runs a kernel to its end, or to its first fault.
    pub fn launch(&mut self, kernel: &Kernel, grid: [u32; 3], block: [u32; 3], dynamic_shared: u32, arguments: &[u8]) -> Result<(), Fault> {
        let threads: u64 = block.iter().map(|n| *n as u64).product();
        let refuse = |text: String| Err(Fault::new(FaultKind::Launch, format!("{}: {text}", kernel.name)));
        if threads == 0 || threads > kernel.max_threads.min(1024) as u64 || block[2] > 64 {
            return refuse(format!("blocks of {block:?} threads, but it is compiled for at most {}", kernel.max_threads));
        }
        if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
            return refuse(format!("a grid of {grid:?} blocks"));
        }
        if arguments.len() != kernel.parameter_bytes {
            return refuse(format!("{} bytes of arguments, but it takes {}", arguments.len(), kernel.parameter_bytes));
        }
        if kernel.shared_bytes.saturating_add(dynamic_shared) > MOST_SHARED {
            return refuse(format!("{} bytes of shared memory", kernel.shared_bytes as u64 + dynamic_shared as u64));
        }
        let program = &kernel.program;
        if self.place_variables(kernel.module_id, &kernel.variables).is_none() {
            return refuse("no memory for its variables".into());
        }
        let mut parameter_address = 0;
        if program.fixed.iter().any(|fixed| matches!(fixed.2, Fixed::ParameterAddress(_))) {
            let Some(address) = self.parameters.or_else(|| self.allocate_counted(1 << 15, false)) else {
                return refuse("no memory for its parameters".into());
            };
            self.parameters = Some(address);
            self.write(address, arguments)?;
            parameter_address = address;
        }
        let launch = Launch {
            name: &kernel.name,
            program,
            memory: &self.memory,
            mode: self.mode,
            grid,
            block,
            threads: threads as u32,
            dynamic_at: program.shared_end.next_multiple_of(128),
            dynamic_bytes: dynamic_shared,
            arguments,
            parameter_address,
            variables: &self.variables[&kernel.module_id],
        };
        self.clock += 1;
        let (outcome, shadows, clock) = launch.run(std::mem::take(&mut self.shadows), self.clock);
        self.shadows = shadows;
        self.clock = clock + 1;
        let counters = outcome?;
        let total = self.counters.entry(kernel.name.clone()).or_default();
        total.launches += 1;
        total.add(&counters);
        Ok(())
    }

    /// What each kernel asked for since the last reset, by its name.
    pub fn counters(&self) -> &BTreeMap<String, Counters> {
        &self.counters
    }

    /// Forgets all counters.
    pub fn reset_counters(&mut self) {
        self.counters.clear();
    }
}
