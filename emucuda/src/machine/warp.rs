//! A warp: its registers, its groups of lanes, what they wait for.
//!
//! Lanes that are at the same instruction form a group. The group with the lowest program counter runs first, and groups that
//! meet there become one: that is how lanes come together again after a branch. What lanes must do together (barrier,
//! shuffle, matrix product) parks a group until its partners arrive; if none is left to run, that is a fault.
//! Read next: `run.rs`.

use super::{
    Mode,
    families::copies,
    fault::FaultKind,
    instruction::Tally,
    launch::Launch,
    registers::{Registers, Row},
};

/// What went wrong in which lane; the block makes a `Fault` of it.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub lane: u32,
    pub kind: FaultKind,
    pub text: String,
}

pub(crate) type Outcome<T> = Result<T, Box<Trouble>>;

/// An error in one lane.
#[cold]
pub(crate) fn trouble<T>(lane: u32, kind: FaultKind, text: String) -> Outcome<T> {
    Err(Box::new(Trouble { lane, kind, text }))
}

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    Exit,
    Barrier,
}

/// A barrier that a warp waits in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub id: u32,
    /// Threads to wait for; none: all of the block.
    pub threads: Option<u32>,
    pub pc: u32,
    pub tally: Tally,
    pub destination: u32,
    pub predicate: u32,
    pub mask: u32,
}

/// Lanes at the same instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
}

/// The state of one warp.
pub(crate) struct Warp {
    pub number: u32,
    /// Lanes that exist, and those that have not exited.
    pub exists: u32,
    pub live: u32,
    rows: Vec<Row>,
    predicates: Vec<u32>,
    pub groups: Vec<Group>,
    pub parked: Vec<Group>,
    pub waiting: Option<Waiting>,
    /// For each watched register, the lanes that have written it.
    written: Vec<u32>,
    /// Local memory, lane after lane, and (checked) which bytes of it were written.
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    pub copies: copies::Copies,
    /// The clock when the lanes were last in step, and at the last barrier.
    pub warp_time: u64,
    pub barrier_time: u64,
    pub tally: Tallies,
}

/// What a warp counts while it runs.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tallies {
    pub instructions: u64,
    pub divergent_branches: u64,
    pub barriers: u64,
    pub flops: u64,
}

impl Warp {
    pub fn new(number: u32, launch: &Launch) -> Warp {
        let program = launch.program;
        let threads = launch.threads - number * 32;
        let exists = if threads >= 32 { !0 } else { (1 << threads) - 1 };
        let checked = launch.mode == Mode::Checked;
        let local = 32 * program.local_bytes as usize;
        Warp {
            number,
            exists,
            live: exists,
            rows: vec![Row([0; 32]); program.rows as usize + 2],
            predicates: vec![0; program.predicates as usize + 1],
            groups: Vec::new(),
            parked: Vec::new(),
            waiting: None,
            written: vec![0; program.watched as usize],
            local: vec![0xff; local],
            local_written: vec![false; if checked { local } else { 0 }],
            copies: copies::Copies::default(),
            warp_time: 0,
            barrier_time: 0,
            tally: Tallies::default(),
        }
    }

    /// Back to the first instruction, for the next block.
    pub fn restart(&mut self, time: u64) {
        self.live = self.exists;
        self.groups.clear();
        self.parked.clear();
        self.groups.push(Group { pc: 0, mask: self.exists });
        self.waiting = None;
        self.written.fill(0);
        self.local_written.fill(false);
        self.copies.clear();
        self.warp_time = time;
        self.barrier_time = time;
    }

    pub fn registers(&mut self) -> Registers {
        Registers { rows: self.rows.as_mut_ptr(), predicates: self.predicates.as_mut_ptr() }
    }

    /// Takes the group with the lowest program counter, with all others that are there too.
    pub fn next_group(&mut self) -> Option<Group> {
        let lowest = self.groups.iter().map(|group| group.pc).min()?;
        let mut mask = 0;
        self.groups.retain(|group| {
            if group.pc == lowest {
                mask |= group.mask;
            }
            group.pc != lowest
        });
        Some(Group { pc: lowest, mask })
    }

    /// The lowest program counter among the groups that wait for their turn.
    pub fn wait_pc(&self) -> u32 {
        self.groups.iter().map(|group| group.pc).min().unwrap_or(u32::MAX)
    }

    /// Adds the lanes that are parked here.
    fn unpark(&mut self, pc: u32) -> u32 {
        let mut mask = 0;
        self.parked.retain(|group| {
            if group.pc == pc {
                mask |= group.mask;
            }
            group.pc != pc
        });
        mask
    }

    /// The lanes of `needed` must be here together with those of `here`; if some are missing, this group waits and another
    /// one runs. True: all are here.
    pub fn meet(&mut self, group: &mut Group, needed: u32, what: &str, kind: FaultKind, launch: &Launch) -> Outcome<bool> {
        if needed & !group.mask == 0 {
            return Ok(true);
        }
        group.mask |= self.unpark(group.pc);
        if needed & !group.mask == 0 {
            return Ok(true);
        }
        match self.next_group() {
            Some(next) => {
                self.parked.push(*group);
                *group = next;
                Ok(false)
            }
            None => {
                let program = launch.program;
                let place = |pc: u32| &program.place_table[program.places[pc as usize] as usize];
                let elsewhere: Vec<String> =
                    self.parked.iter().map(|g| format!("; lanes {:08x} wait at {}", g.mask, place(g.pc))).collect();
                let text = format!(
                    "divergent {what}: lanes {:08x} are here, {needed:08x} must be (not exited: {:08x}{})",
                    group.mask,
                    self.live,
                    elsewhere.concat()
                );
                trouble(group.mask.trailing_zeros(), kind, text)
            }
        }
    }

    /// Reads of registers that were never written.
    pub fn watch(&mut self, launch: &Launch, pc: u32, mask: u32) -> Outcome<()> {
        let watch = &launch.program.watches[launch.program.watch[pc as usize] as usize];
        for register in &watch.reads {
            let blank = mask & !self.written[*register as usize];
            if blank != 0 {
                return trouble(blank.trailing_zeros(), FaultKind::Uninitialised, "reads a variable that was never set".into());
            }
        }
        for register in &watch.writes {
            self.written[*register as usize] |= mask;
        }
        Ok(())
    }
}
