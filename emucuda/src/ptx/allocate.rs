//! Virtual registers to rows: a linear scan over live ranges, so that a warp's registers stay in the CPU's cache.
//!
//! PTX names a new register for every value (thousands in an unrolled kernel); a few hundred rows hold them. Registers that
//! a launch fills in keep their rows. The result is a `Program`. Read next: `machine::warp`, which runs it.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    Place,
    builder::{Builder, Draft, Fixed},
    flow::{self, Set},
};
use crate::machine::{
    instruction::{Instruction, NONE, Operation},
    registers::Class,
};

/// A kernel's code, ready to run.
#[derive(Debug)]
pub(crate) struct Program {
    pub code: Vec<Instruction>,
    pub operands: Vec<u32>,
    /// For each instruction, its place and its entry in `watches` (0: nothing to watch).
    pub places: Vec<u32>,
    pub watch: Vec<u32>,
    pub place_table: Vec<Place>,
    pub watches: Vec<Watch>,
    pub watched: u32,
    /// Rows and predicates that a launch fills in.
    pub fixed: Vec<(u32, Class, Fixed)>,
    pub rows: u32,
    pub predicates: u32,
    /// Start and end of every static shared array, and where dynamic shared memory may begin.
    pub shared: Vec<(u32, u32)>,
    pub shared_end: u32,
    pub local_bytes: u32,
}

/// Registers of an instruction that some way to it may not have written: numbers of watched registers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    pub reads: Vec<u32>,
    pub writes: Vec<u32>,
}

/// Finishes a decoded body.
pub(crate) fn program(mut b: Builder) -> Result<Program, String> {
    b.guard = None;
    b.push(Operation::Exit, &[], &[]); // a label may lie at the very end
    resolve_labels(&mut b)?;
    let mut code = std::mem::take(&mut b.code);
    let size = b.classes.len();
    let blocks = flow::blocks(&code);
    let mut at_entry = Set::empty(size);
    b.fixed.iter().for_each(|(register, _)| at_entry.insert(*register));

    let (watch, watches, watched) = watched(&code, &blocks, size, &at_entry);
    let (numbers, rows, predicates) = rows(&b, &code, &blocks, &at_entry);

    let mut program = Program {
        code: Vec::with_capacity(code.len()),
        operands: Vec::new(),
        places: code.iter().map(|draft| draft.place).collect(),
        watch,
        place_table: b.places,
        watches,
        watched,
        fixed: b.fixed.iter().map(|(r, value)| (numbers[*r as usize], b.classes[*r as usize], *value)).collect(),
        rows,
        predicates,
        shared: b.shared,
        shared_end: b.shared_end,
        local_bytes: b.local_bytes.next_multiple_of(16),
    };
    for draft in code.drain(..) {
        let operands = program.operands.len() as u32;
        let number = |register: u32| if register == NONE { NONE } else { numbers[register as usize] };
        program.operands.extend(draft.operands.iter().map(|operand| number(operand.register)));
        let guard = draft.guard.map_or(NONE, |(register, negated)| number(register) << 1 | negated as u32);
        program.code.push(Instruction { operation: draft.operation, operands, guard });
    }
    Ok(program)
}

fn resolve_labels(b: &mut Builder) -> Result<(), String> {
    let places = std::mem::take(&mut b.label_places);
    let place = |label: u32| places[label as usize].ok_or_else(|| "a branch to a label that is not there".to_string());
    for draft in &mut b.code {
        match &mut draft.operation {
            Operation::Branch { target } => *target = place(*target)?,
            Operation::BranchTable { targets } => {
                for target in targets.iter_mut() {
                    *target = place(*target)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// What must be watched at run time: registers that some way to a read may not have written.
fn watched(code: &[Draft], blocks: &[flow::Block], size: usize, at_entry: &Set) -> (Vec<u32>, Vec<Watch>, u32) {
    let mut numbers = vec![NONE; size];
    let mut count = 0;
    let mut risky: Vec<(usize, u32)> = Vec::new();
    let at_start = flow::assigned(code, blocks, size, at_entry);
    for (block, mut assigned) in blocks.iter().zip(at_start) {
        for at in block.start..block.end {
            flow::reads(&code[at], |register| {
                if !assigned.contains(register) {
                    if numbers[register as usize] == NONE {
                        numbers[register as usize] = count;
                        count += 1;
                    }
                    risky.push((at, numbers[register as usize]));
                }
            });
            if code[at].guard.is_none() {
                flow::writes(&code[at], |register| assigned.insert(register));
            }
        }
    }
    let mut watch = vec![0; code.len()];
    let mut watches = vec![Watch::default()];
    let mut entry = |at: usize, watches: &mut Vec<Watch>| {
        if watch[at] == 0 {
            watch[at] = watches.len() as u32;
            watches.push(Watch::default());
        }
        watch[at] as usize
    };
    for (at, number) in risky {
        let index = entry(at, &mut watches);
        watches[index].reads.push(number);
    }
    for (at, draft) in code.iter().enumerate() {
        flow::writes(draft, |register| {
            if numbers[register as usize] != NONE {
                let index = entry(at, &mut watches);
                watches[index].writes.push(numbers[register as usize]);
            }
        });
    }
    (watch, watches, count)
}

/// The row or predicate number of every virtual register, and how many of both there are.
fn rows(b: &Builder, code: &[Draft], blocks: &[flow::Block], fixed: &Set) -> (Vec<u32>, u32, u32) {
    let size = b.classes.len();
    let mut ranges = vec![(u32::MAX, 0u32); size];
    let mut extend = |register: u32, position: u32| {
        let range = &mut ranges[register as usize];
        *range = (range.0.min(position), range.1.max(position));
    };
    for (at, draft) in code.iter().enumerate() {
        // A lane-wise instruction reads everything before it writes, so its result may take a source's row. Others may not.
        let at = at as u32;
        let (read, write) = if matches!(draft.operation, Operation::Lanes { .. }) { (2 * at, 2 * at + 1) } else { (2 * at + 1, 2 * at) };
        flow::reads(draft, |register| extend(register, read));
        flow::writes(draft, |register| extend(register, write));
    }
    let (at_start, at_end) = flow::live(code, blocks, size);
    for (index, block) in blocks.iter().enumerate() {
        at_start[index].each(|register| extend(register, 2 * block.start as u32));
        at_end[index].each(|register| extend(register, 2 * block.end as u32));
    }
    let mut order: Vec<u32> = (0..size as u32).filter(|r| ranges[*r as usize].0 != u32::MAX && !fixed.contains(*r)).collect();
    order.sort_by_key(|register| ranges[*register as usize].0);

    let mut numbers = vec![0; size];
    let mut pools = [Pool::default(), Pool::default()];
    let mut predicates = 0;
    for register in order {
        let range = ranges[register as usize];
        numbers[register as usize] = match b.classes[register as usize] {
            Class::Double => pools[0].take(range),
            Class::Word => pools[1].take(range),
            Class::Predicate => {
                predicates += 1;
                predicates - 1
            }
        };
    }
    for (register, _) in &b.fixed {
        numbers[*register as usize] = match b.classes[*register as usize] {
            Class::Double => pools[0].keep(),
            Class::Word => pools[1].keep(),
            Class::Predicate => {
                predicates += 1;
                predicates - 1
            }
        };
    }
    // 64-bit registers lie first, two rows each.
    let doubles = pools[0].count;
    for (register, class) in b.classes.iter().enumerate() {
        match class {
            Class::Double => numbers[register] *= 2,
            Class::Word => numbers[register] += 2 * doubles,
            Class::Predicate => {}
        }
    }
    (numbers, 2 * doubles + pools[1].count, predicates)
}

/// Rows of one kind: who holds them until when, and which are free.
#[derive(Default)]
struct Pool {
    held: BinaryHeap<Reverse<(u32, u32)>>,
    free: BinaryHeap<Reverse<u32>>,
    count: u32,
}

impl Pool {
    fn take(&mut self, (start, end): (u32, u32)) -> u32 {
        while let Some(Reverse((until, row))) = self.held.peek().copied()
            && until < start
        {
            self.held.pop();
            self.free.push(Reverse(row));
        }
        let row = self.free.pop().map_or_else(|| self.keep(), |Reverse(row)| row);
        self.held.push(Reverse((end, row)));
        row
    }

    /// A row of its own.
    fn keep(&mut self) -> u32 {
        self.count += 1;
        self.count - 1
    }
}
