//! Control flow of a decoded body: which registers may be read before they are written, and how long each is needed.
//!
//! Both are the classic data-flow analyses over basic blocks, per thread. A register that is written on every way to its
//! reads needs no check at run time, and in compiled code that is nearly every one. Read next: `allocate.rs`.

use super::builder::Draft;
use crate::machine::instruction::{NONE, Operation};

/// A set of small numbers.
#[derive(Clone, PartialEq)]
pub(crate) struct Set(Vec<u64>);

impl Set {
    pub fn empty(size: usize) -> Set {
        Set(vec![0; size.div_ceil(64)])
    }

    fn full(size: usize) -> Set {
        Set(vec![!0; size.div_ceil(64)])
    }

    pub fn insert(&mut self, at: u32) {
        self.0[at as usize / 64] |= 1 << (at % 64);
    }

    pub fn contains(&self, at: u32) -> bool {
        self.0[at as usize / 64] >> (at % 64) & 1 != 0
    }

    pub fn each(&self, mut visit: impl FnMut(u32)) {
        for (word, bits) in self.0.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                visit(word as u32 * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }
}

/// Instructions that run one after the other.
pub(crate) struct Block {
    pub start: usize,
    pub end: usize,
    next: Vec<usize>,
}

/// The blocks of a body whose branches name instructions.
pub(crate) fn blocks(code: &[Draft]) -> Vec<Block> {
    let mut starts = vec![false; code.len() + 1];
    starts[0] = true;
    for (at, draft) in code.iter().enumerate() {
        match &draft.operation {
            Operation::Branch { target } => starts[*target as usize] = true,
            Operation::BranchTable { targets } => targets.iter().for_each(|target| starts[*target as usize] = true),
            Operation::Exit | Operation::Trap => {}
            _ => continue,
        }
        starts[at + 1] = true;
    }
    let firsts: Vec<usize> = (0..code.len()).filter(|at| starts[*at]).collect();
    let block_of = |at: usize| firsts.partition_point(|first| *first <= at) - 1;
    let block = |(index, start): (usize, &usize)| {
        let end = firsts.get(index + 1).copied().unwrap_or(code.len());
        let last = &code[end - 1];
        let mut next = Vec::new();
        match &last.operation {
            Operation::Branch { target } => next.push(block_of(*target as usize)),
            Operation::BranchTable { targets } => next.extend(targets.iter().map(|target| block_of(*target as usize))),
            _ => {}
        }
        let falls = !matches!(last.operation, Operation::Branch { .. } | Operation::BranchTable { .. } | Operation::Exit | Operation::Trap);
        if (falls || last.guard.is_some()) && end < code.len() {
            next.push(index + 1);
        }
        Block { start: *start, end, next }
    };
    firsts.iter().enumerate().map(block).collect()
}

/// Visits what a draft reads: sources, then the guard.
pub(crate) fn reads(draft: &Draft, mut visit: impl FnMut(u32)) {
    for operand in draft.operands.iter().filter(|operand| !operand.defines && operand.register != NONE) {
        visit(operand.register);
    }
    if let Some((guard, _)) = draft.guard {
        visit(guard);
    }
}

/// Visits what a draft writes.
pub(crate) fn writes(draft: &Draft, mut visit: impl FnMut(u32)) {
    for operand in draft.operands.iter().filter(|operand| operand.defines && operand.register != NONE) {
        visit(operand.register);
    }
}

/// For each block, the registers that every way to its start has written.
pub(crate) fn assigned(code: &[Draft], blocks: &[Block], size: usize, at_entry: &Set) -> Vec<Set> {
    let mut written: Vec<Set> = blocks.iter().map(|_| Set::empty(size)).collect();
    for (block, set) in blocks.iter().zip(&mut written) {
        for draft in code[block.start..block.end].iter().filter(|draft| draft.guard.is_none()) {
            writes(draft, |register| set.insert(register));
        }
    }
    let mut at_start: Vec<Set> = blocks.iter().map(|_| Set::full(size)).collect();
    at_start[0] = at_entry.clone();
    let mut changed = true;
    while changed {
        changed = false;
        for (index, block) in blocks.iter().enumerate() {
            for next in &block.next {
                for word in 0..at_entry.0.len() {
                    let met = at_start[*next].0[word] & (at_start[index].0[word] | written[index].0[word]);
                    changed |= met != at_start[*next].0[word];
                    at_start[*next].0[word] = met;
                }
            }
        }
    }
    at_start
}

/// For each block, the registers needed at its start and at its end.
pub(crate) fn live(code: &[Draft], blocks: &[Block], size: usize) -> (Vec<Set>, Vec<Set>) {
    let mut needed: Vec<Set> = blocks.iter().map(|_| Set::empty(size)).collect();
    let mut killed = needed.clone();
    for (index, block) in blocks.iter().enumerate() {
        for draft in &code[block.start..block.end] {
            let (needed, killed) = (&mut needed[index], &mut killed[index]);
            reads(draft, |register| {
                if !killed.contains(register) {
                    needed.insert(register);
                }
            });
            if draft.guard.is_none() {
                writes(draft, |register| killed.insert(register));
            }
        }
    }
    let (mut at_start, mut at_end) = (needed.clone(), vec![Set::empty(size); blocks.len()]);
    let mut changed = true;
    while changed {
        changed = false;
        for (index, block) in blocks.iter().enumerate().rev() {
            for word in 0..size.div_ceil(64) {
                let end = block.next.iter().fold(0, |all, next| all | at_start[*next].0[word]);
                let start = needed[index].0[word] | end & !killed[index].0[word];
                changed |= start != at_start[index].0[word];
                at_end[index].0[word] = end;
                at_start[index].0[word] = start;
            }
        }
    }
    (at_start, at_end)
}
