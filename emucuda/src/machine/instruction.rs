//! What a decoded instruction is. Not how it runs. Read next: `warp.rs`.

use super::registers::{Class, Handler};

/// An absent operand.
pub(crate) const NONE: u32 = u32::MAX;

/// A decoded instruction. Its operands (rows of registers, numbers of predicates) are a run of the kernel's operand list.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub operation: Operation,
    /// Where its operands begin.
    pub operands: u32,
    /// Twice the number of the predicate that guards it, plus one if it is negated; or [`NONE`].
    pub guard: u32,
}

/// Where memory is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    Local,
    /// An address that tells its space by where it points to.
    Generic,
}

/// How an address is made: a register and an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub space: Space,
    /// The register's file; none: the offset is the address.
    pub base: Option<Class>,
    pub offset: i64,
}

/// A load or a store of one to four elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub address: Address,
    /// Bytes of an element.
    pub size: u8,
    pub count: u8,
    /// A load extends the sign.
    pub signed: bool,
    /// The registers are 64 bits wide.
    pub wide: bool,
    /// `ld.global.nc`: nobody may write this memory during the launch.
    pub read_only: bool,
}

/// What an atomic does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareExchange,
    Increment,
    Decrement,
}

/// What numbers an atomic or a reduction works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    Unsigned,
    Signed,
    Float,
    /// Two f16 or two bf16 (or one: then the element is 2 bytes).
    Half,
    Bfloat,
}

/// Where a shuffle reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What a vote asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Ballot,
    Any,
    All,
    Uniform,
}

/// What a barrier makes of the threads' predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tally {
    Nothing,
    Count,
    All,
    Any,
}

/// The number types of a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Bfloat,
    Half,
    Tf32,
}

/// What an instruction does; in comments, its operands.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// destination, sources...
    Lanes {
        run: Handler,
        flops: u8,
    },
    Branch {
        target: u32,
    },
    /// index
    BranchTable {
        targets: Box<[u32]>,
    },
    Exit,
    Trap,
    /// destination or none, predicate or none, barrier, threads or none
    Barrier {
        tally: Tally,
        arrive_only: bool,
    },
    /// mask
    SyncWarp,
    /// destination, predicate or none, value, lane, clamp, mask
    Shuffle(Direction),
    /// destination, predicate, mask
    Vote(Question),
    /// destination, predicate or none, value, mask
    Match {
        all: bool,
        wide: bool,
    },
    /// destination, value, mask
    Reduce {
        change: Change,
        number: Number,
    },
    /// destination
    ActiveMask,
    /// destinations..., base
    Load(Box<Access>),
    /// values..., base
    Store(Box<Access>),
    /// destination or none, base, value, other value or none
    Atomic {
        access: Box<Access>,
        change: Change,
        number: Number,
    },
    /// destinations..., base
    LoadMatrix {
        address: Box<Address>,
        count: u8,
        transposed: bool,
    },
    /// values..., base
    StoreMatrix {
        address: Box<Address>,
        count: u8,
        transposed: bool,
    },
    /// destinations (4, or 2 of f16), a (4 or 2), b (2 or 1), c (as destinations)
    Multiply {
        element: Element,
        depth: u8,
        half_result: bool,
    },
    /// base in shared memory, base in global memory, bytes to read or none
    CopyAsync {
        to: Box<Address>,
        from: Box<Address>,
        size: u8,
    },
    CommitCopies,
    WaitCopies {
        pending: u32,
    },
}
