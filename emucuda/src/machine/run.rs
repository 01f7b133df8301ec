//! The loop that runs a warp's instructions, from one barrier to the next.
//!
//! Lane-wise instructions run here by their handlers; what else there is lies with its family. Read next: `block.rs`.

use super::{
    block::Shared,
    families::{access, atomic, copies, matrix, vote},
    fault::FaultKind,
    instruction::{NONE, Operation},
    launch::Launch,
    warp::{Group, Outcome, Stop, Tallies, Waiting, Warp, trouble},
};

/// Runs a warp to its next barrier or its end. The error's program counter is left in `at`.
pub(crate) fn run<const CHECKED: bool>(warp: &mut Warp, shared: &mut Shared, launch: &Launch, at: &mut u32) -> Outcome<Stop> {
    let program = launch.program;
    let registers = warp.registers();
    let Some(mut group) = warp.next_group() else { return Ok(Stop::Exit) };
    let mut wait = warp.wait_pc();
    let mut tally = Tallies::default();
    let stop = loop {
        if group.pc >= wait {
            warp.groups.push(group);
            if let Some(next) = warp.next_group() {
                group = next;
            }
            wait = warp.wait_pc();
        }
        let pc = group.pc;
        *at = pc;
        let instruction = &program.code[pc as usize];
        tally.instructions += 1;
        let mut mask = group.mask;
        if instruction.guard != NONE {
            let bits = *registers.predicate(instruction.guard >> 1);
            mask &= if instruction.guard & 1 != 0 { !bits } else { bits };
            if mask == 0 {
                group.pc += 1;
                continue;
            }
        }
        if CHECKED && program.watch[pc as usize] != 0 {
            warp.watch(launch, pc, mask)?;
        }
        let operands = &program.operands[instruction.operands as usize..];
        // Lanes that must be here together, or the group parks; then `mask` is all of them.
        macro_rules! together {
            ($needed:expr, $what:expr, $kind:ident) => {
                let needed = $needed;
                if needed & !mask != 0 {
                    if group.mask != mask {
                        warp.groups.push(Group { pc: pc + 1, mask: group.mask & !mask });
                        group.mask = mask;
                    }
                    let met = warp.meet(&mut group, needed, $what, FaultKind::$kind, launch)?;
                    wait = warp.wait_pc();
                    if !met {
                        continue;
                    }
                    mask = group.mask;
                }
            };
        }
        match &instruction.operation {
            Operation::Lanes { run, flops } => {
                if CHECKED {
                    tally.flops += *flops as u64 * mask.count_ones() as u64;
                }
                // SAFETY: the decoder gave the instruction the operands that this handler reads, all within the warp's
                // registers, and chose the handler for this CPU.
                unsafe { run(registers, operands.as_ptr(), mask) }
            }
            Operation::Branch { target } => {
                if mask == group.mask {
                    group.pc = *target;
                    continue;
                }
                tally.divergent_branches += 1;
                warp.groups.push(Group { pc: *target, mask });
                warp.groups.push(Group { pc: pc + 1, mask: group.mask & !mask });
                if let Some(next) = warp.next_group() {
                    group = next;
                }
                wait = warp.wait_pc();
                continue;
            }
            Operation::BranchTable { targets } => {
                let index = *registers.word(operands[0]);
                let mut rest = mask;
                while rest != 0 {
                    let lane = rest.trailing_zeros();
                    let same = (0..32).filter(|l| mask >> l & 1 != 0 && index[*l] == index[lane as usize]).fold(0, |m, l| m | 1 << l);
                    let Some(target) = targets.get(index[lane as usize] as usize) else {
                        return trouble(lane, FaultKind::Unsupported, format!("branch table has no entry {}", index[lane as usize]));
                    };
                    warp.groups.push(Group { pc: *target, mask: same });
                    rest &= !same;
                }
                if group.mask != mask {
                    warp.groups.push(Group { pc: pc + 1, mask: group.mask & !mask });
                }
                tally.divergent_branches += 1;
                if let Some(next) = warp.next_group() {
                    group = next;
                }
                wait = warp.wait_pc();
                continue;
            }
            Operation::Exit => {
                warp.live &= !mask;
                group.mask &= !mask;
                if group.mask == 0 {
                    // A parked group goes on when those it waits for have exited.
                    let next = warp.next_group().or_else(|| warp.parked.pop());
                    let Some(next) = next else { break Stop::Exit };
                    group = next;
                    wait = warp.wait_pc();
                    continue;
                }
            }
            Operation::Trap => return trouble(mask.trailing_zeros(), FaultKind::Trap, "the kernel gave up (trap)".into()),
            Operation::Barrier { tally: kind, arrive_only } => {
                together!(warp.live, "barrier", Barrier);
                if CHECKED && warp.live != warp.exists {
                    let text = format!("barrier after other threads returned: lanes {mask:08x} are here of {:08x}", warp.exists);
                    return trouble(mask.trailing_zeros(), FaultKind::Barrier, text);
                }
                if *arrive_only {
                    return trouble(0, FaultKind::Unsupported, "bar.arrive is not supported".into());
                }
                let lane = mask.trailing_zeros() as usize;
                let predicate = if operands[1] == NONE { 0 } else { *registers.predicate(operands[1]) };
                warp.waiting = Some(Waiting {
                    id: registers.word(operands[2])[lane],
                    threads: (operands[3] != NONE).then(|| registers.word(operands[3])[lane]),
                    pc,
                    tally: *kind,
                    destination: operands[0],
                    predicate,
                    mask,
                });
                tally.barriers += 1;
                warp.groups.push(Group { pc: pc + 1, mask });
                break Stop::Barrier;
            }
            Operation::SyncWarp => {
                let named = registers.word(operands[0])[mask.trailing_zeros() as usize];
                together!(named & warp.live, "__syncwarp", Barrier);
                // A mask of some lanes counts as one of all: it may hide a race with the others, but accuses nobody wrongly.
                if CHECKED && mask != 0 {
                    shared.tick();
                    warp.warp_time = shared.clock;
                }
            }
            Operation::Shuffle(direction) => {
                let named = registers.word(operands[5])[mask.trailing_zeros() as usize];
                together!(named & warp.live, "shuffle", Shuffle);
                vote::shuffle(registers, operands, mask, warp.live, *direction)?;
            }
            Operation::Vote(question) => {
                let named = registers.word(operands[2])[mask.trailing_zeros() as usize];
                together!(named & warp.live, "vote", Shuffle);
                vote::vote(registers, operands, mask, warp.live, *question)?;
            }
            Operation::Match { all, wide } => {
                let named = registers.word(operands[3])[mask.trailing_zeros() as usize];
                together!(named & warp.live, "match", Shuffle);
                vote::matches(registers, operands, mask, warp.live, *all, *wide)?;
            }
            Operation::Reduce { change, number } => {
                let named = registers.word(operands[2])[mask.trailing_zeros() as usize];
                together!(named & warp.live, "redux", Shuffle);
                vote::reduce(registers, operands, mask, warp.live, *change, *number)?;
            }
            Operation::ActiveMask => registers.set_word(operands[0], &[mask; 32], mask),
            Operation::Load(kind) => access::load::<CHECKED>(warp, shared, launch, kind, operands, mask)?,
            Operation::Store(kind) => access::store::<CHECKED>(warp, shared, launch, kind, operands, mask)?,
            Operation::Atomic { access, change, number } => {
                atomic::atomic::<CHECKED>(warp, shared, launch, access, *change, *number, operands, mask)?;
            }
            Operation::LoadMatrix { address, count, transposed } => {
                together!(!0, "ldmatrix", Shuffle);
                debug_assert_eq!(mask, !0);
                matrix::load::<CHECKED>(warp, shared, launch, address, *count, *transposed, operands)?;
            }
            Operation::StoreMatrix { address, count, transposed } => {
                together!(!0, "stmatrix", Shuffle);
                debug_assert_eq!(mask, !0);
                matrix::store::<CHECKED>(warp, shared, launch, address, *count, *transposed, operands)?;
            }
            Operation::Multiply { element, depth, half_result } => {
                together!(!0, "mma", Shuffle);
                debug_assert_eq!(mask, !0);
                tally.flops += 2 * 16 * 8 * *depth as u64;
                matrix::multiply(registers, operands, *element, *depth as usize, *half_result);
            }
            Operation::CopyAsync { to, from, size } => {
                copies::issue::<CHECKED>(warp, shared, launch, to, from, *size as u64, operands, mask)?;
            }
            Operation::CommitCopies => warp.copies.commit(),
            Operation::WaitCopies { pending } => copies::wait::<CHECKED>(warp, shared, *pending as usize)?,
        }
        group.pc += 1;
    };
    warp.tally.instructions += tally.instructions;
    warp.tally.divergent_branches += tally.divergent_branches;
    warp.tally.barriers += tally.barriers;
    warp.tally.flops += tally.flops;
    Ok(stop)
}
