//! What the lanes of a warp tell each other: shuffles, votes, matches, reductions.
//!
//! The warp has already waited for the lanes that the mask names. Read next: `matrix.rs`.

use super::atomic::changed;
use crate::machine::{
    fault::FaultKind,
    instruction::{Change, Direction, NONE, Number, Question},
    registers::{LANES, Registers},
    warp::{Outcome, trouble},
};

/// Every lane must name itself, only lanes that are here, and none that has exited.
fn check_mask(named: &[u32; LANES], mask: u32, live: u32, what: &str) -> Outcome<()> {
    for lane in (0..LANES as u32).filter(|lane| mask >> lane & 1 != 0) {
        let names = named[lane as usize];
        if names >> lane & 1 == 0 {
            let text = format!("{what} mask {names:08x} lacks the calling lane {lane}");
            return trouble(lane, FaultKind::Shuffle, text);
        }
        if names & !live != 0 {
            let text = format!("{what} mask {names:08x} names lanes that returned or do not exist (there are {live:08x})");
            return trouble(lane, FaultKind::Shuffle, text);
        }
        if names & !mask != 0 {
            let text = format!("{what} mask {names:08x}: only lanes {mask:08x} are here");
            return trouble(lane, FaultKind::Shuffle, text);
        }
    }
    Ok(())
}

/// Every lane reads another lane's value.
pub(crate) fn shuffle(registers: Registers, operands: &[u32], mask: u32, live: u32, direction: Direction) -> Outcome<()> {
    let [value, by, clamp, named] = [2, 3, 4, 5].map(|at| *registers.word(operands[at]));
    check_mask(&named, mask, live, "shuffle")?;
    let mut result = [0; LANES];
    let mut inside = 0;
    for lane in 0..LANES as u32 {
        // Warps may be cut into segments; `limit` is the last (or, upwards, the first) lane of this lane's segment.
        let (segment, bound) = (clamp[lane as usize] >> 8 & 31, clamp[lane as usize] & 31);
        let limit = lane & segment | bound & !segment;
        let by = by[lane as usize] & 31;
        let (source, ok) = match direction {
            Direction::Up => (lane.wrapping_sub(by), lane as i32 - by as i32 >= limit as i32),
            Direction::Down => (lane + by, lane + by <= limit),
            Direction::Butterfly => (lane ^ by, lane ^ by <= limit),
            Direction::Index => {
                let source = lane & segment | by & !segment;
                (source, source <= limit)
            }
        };
        let source = if ok { source } else { lane };
        if mask >> lane & 1 != 0 && mask >> source & 1 == 0 {
            return trouble(lane, FaultKind::Shuffle, format!("shuffle: lane {lane} reads lane {source}, which takes no part"));
        }
        result[lane as usize] = value[source as usize];
        inside |= (ok as u32) << lane;
    }
    registers.set_word(operands[0], &result, mask);
    if operands[1] != NONE {
        registers.set_predicate(operands[1], inside, mask);
    }
    Ok(())
}

/// All lanes ask one question about a predicate.
pub(crate) fn vote(registers: Registers, operands: &[u32], mask: u32, live: u32, question: Question) -> Outcome<()> {
    check_mask(registers.word(operands[2]), mask, live, "vote")?;
    let yes = *registers.predicate(operands[1]) & mask;
    let all = |answer: bool| if answer { !0 } else { 0 };
    match question {
        Question::Ballot => registers.set_word(operands[0], &[yes; LANES], mask),
        Question::Any => registers.set_predicate(operands[0], all(yes != 0), mask),
        Question::All => registers.set_predicate(operands[0], all(yes == mask), mask),
        Question::Uniform => registers.set_predicate(operands[0], all(yes == mask || yes == 0), mask),
    }
    Ok(())
}

/// Which lanes have the same value; or whether all have.
pub(crate) fn matches(registers: Registers, operands: &[u32], mask: u32, live: u32, all: bool, wide: bool) -> Outcome<()> {
    check_mask(registers.word(operands[3]), mask, live, "match")?;
    let value = |lane: usize| match wide {
        true => registers.double(operands[2])[lane],
        false => registers.word(operands[2])[lane] as u64,
    };
    let lanes = || (0..LANES).filter(|lane| mask >> lane & 1 != 0);
    let equal = |lane: usize| lanes().filter(|other| value(*other) == value(lane)).fold(0u32, |bits, other| bits | 1 << other);
    let mut result = [0; LANES];
    let mut agreed = 0;
    for lane in lanes() {
        let same = equal(lane);
        result[lane] = if all && same != mask { 0 } else { same };
        agreed |= ((same == mask) as u32) << lane;
    }
    registers.set_word(operands[0], &result, mask);
    if operands[1] != NONE {
        registers.set_predicate(operands[1], agreed, mask);
    }
    Ok(())
}

/// One number out of those of all lanes.
pub(crate) fn reduce(registers: Registers, operands: &[u32], mask: u32, live: u32, change: Change, number: Number) -> Outcome<()> {
    check_mask(registers.word(operands[2]), mask, live, "redux")?;
    let values = *registers.word(operands[1]);
    let lanes = (0..LANES).filter(|lane| mask >> lane & 1 != 0).map(|lane| values[lane] as u64);
    let result = lanes.reduce(|all, value| changed(change, number, 4, all, value, 0)).unwrap_or(0);
    registers.set_word(operands[0], &[result as u32; LANES], mask);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{
        FaultKind,
        harness::{fault, run},
    };

    fn lanes(threads: u32, body: &str) -> Vec<u32> {
        run(threads, "", &format!("{body}\nst.global.u32 [%out], %r4;"), &[]).iter().map(|words| words[0]).collect()
    }

    #[test]
    fn shuffles_read_where_they_should() {
        let expect = |mode: &str, source: fn(u32) -> u32| {
            let got = lanes(32, &format!("shfl.sync.{mode}, 0xffffffff;\nmov.b32 %r4, %r4;"));
            assert_eq!(got, (0..32).map(source).collect::<Vec<_>>(), "{mode}");
        };
        expect("bfly.b32 %r4, %lane, 5, 31", |lane| lane ^ 5);
        expect("up.b32 %r4, %lane, 3, 0", |lane| if lane < 3 { lane } else { lane - 3 });
        expect("down.b32 %r4, %lane, 3, 31", |lane| if lane > 28 { lane } else { lane + 3 });
        expect("idx.b32 %r4, %lane, 7, 31", |_| 7);
        // Segments of 8 lanes.
        expect("idx.b32 %r4, %lane, 2, 0x181f", |lane| lane / 8 * 8 + 2);
        expect("down.b32 %r4, %lane, 1, 0x181f", |lane| if lane % 8 == 7 { lane } else { lane + 1 });
        expect("up.b32 %r4, %lane, 1, 0x1800", |lane| if lane % 8 == 0 { lane } else { lane - 1 });
        let inside = lanes(32, "shfl.sync.down.b32 %r5|%p1, %lane, 1, 31, 0xffffffff;\nselp.b32 %r4, 1, 0, %p1;");
        assert_eq!((inside[30], inside[31]), (1, 0));
    }

    #[test]
    fn votes_count_and_agree() {
        let odd = "and.b32 %r1, %lane, 1;\nsetp.eq.u32 %p1, %r1, 1;\n";
        assert_eq!(lanes(32, &format!("{odd}vote.sync.ballot.b32 %r4, %p1, 0xffffffff;"))[3], 0xaaaa_aaaa);
        assert_eq!(lanes(32, &format!("{odd}vote.sync.any.pred %p2, %p1, 0xffffffff;\nselp.b32 %r4, 1, 0, %p2;"))[0], 1);
        assert_eq!(lanes(32, &format!("{odd}vote.sync.all.pred %p2, !%p1, 0xffffffff;\nselp.b32 %r4, 1, 0, %p2;"))[0], 0);
        assert_eq!(lanes(32, "shr.u32 %r1, %lane, 3;\nmatch.any.sync.b32 %r4, %r1, 0xffffffff;")[9], 0xff00);
        assert_eq!(lanes(32, "match.all.sync.b32 %r4|%p1, 7, 0xffffffff;")[0], !0);
        assert_eq!(lanes(32, "redux.sync.add.s32 %r4, %lane, 0xffffffff;")[0], 31 * 16);
        assert_eq!(lanes(32, "neg.s32 %r1, %lane;\nredux.sync.min.s32 %r4, %r1, 0xffffffff;")[0], -31i32 as u32);
        assert_eq!(lanes(20, "activemask.b32 %r4;")[0], 0xf_ffff);
    }

    #[test]
    fn wrong_masks_are_reported() {
        let report = fault(32, "", "shfl.sync.bfly.b32 %r4, %lane, 1, 31, 0xffff;");
        assert_eq!(report.kind, FaultKind::Shuffle, "{report}");
        assert!(report.message.contains("k block (0,0,0) thread 16 at test.cu:7"), "{report}");
        let few = fault(16, "", "shfl.sync.bfly.b32 %r4, %lane, 1, 31, 0xffffffff;");
        assert!(few.message.contains("returned or do not exist"), "{few}");
        let divergent =
            fault(32, "", "setp.lt.u32 %p1, %lane, 16;\n@%p1 bra L;\nret;\nL:\nshfl.sync.bfly.b32 %r4, %lane, 1, 31, 0xffffffff;");
        assert_eq!(divergent.kind, FaultKind::Shuffle, "{divergent}");
    }
}
