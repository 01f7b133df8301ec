//! What a kernel, or a copy, did wrong. Read next: `machine`.

/// What went wrong, as a program can ask; the message has the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside of what is allocated (or marked).
    OutOfBounds,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// An access to memory that was given back.
    Freed,
    /// A read of what was never written.
    Uninitialised,
    /// Two accesses without an order between them, one of them a write.
    Race,
    /// A barrier that not all threads reach.
    Barrier,
    /// A shuffle, vote or match whose mask and lanes disagree.
    Shuffle,
    /// A touch of memory that an asynchronous copy still fills.
    AsyncCopy,
    /// A launch with the wrong shape or arguments.
    Launch,
    /// Something this machine does not know how to run.
    Unsupported,
    /// The kernel itself gave up (`trap`, a failed `assert`).
    Trap,
    /// A write to memory that the same launch reads as read-only (`ld.global.nc`).
    ReadOnly,
}

/// What went wrong, where and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub kind: FaultKind,
    /// Kernel, block, thread, file:line and what happened.
    pub message: String,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Fault {
        Fault { kind, message: message.into() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
