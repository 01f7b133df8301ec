//! What launches asked for: instructions, memory sectors, bank cycles. Not time. Read next: `families/access.rs`, which counts.

/// What the launches of one kernel asked for so far. Memory and floating-point counters move in checked mode only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Launches that ended without a fault.
    pub launches: u64,
    /// Instructions, each counted once for the lanes of a warp that ran it together.
    pub warp_instructions: u64,
    /// Branches at which the lanes of a warp parted.
    pub divergent_branches: u64,
    /// Barriers, each counted once for a warp.
    pub barriers: u64,
    /// Loads, stores, atomics and asynchronous copies of a warp in global memory.
    pub global_requests: u64,
    /// Distinct 32-byte sectors over all those requests.
    pub global_sectors: u64,
    /// The sectors those bytes would fill if they lay side by side.
    pub ideal_sectors: u64,
    /// Loads, stores and atomics of a warp in shared memory.
    pub shared_requests: u64,
    /// Cycles those requests take with 32 banks of 4 bytes: the most distinct words that one bank has to give.
    pub bank_cycles: u64,
    /// The cycles those bytes would take without any bank conflict.
    pub ideal_bank_cycles: u64,
    /// Floating-point operations: 1 for an addition or a multiplication, 2 for a fused multiply-add, by lane; mma by its shape.
    pub flops: u64,
}

impl Counters {
    pub(crate) fn add(&mut self, other: &Counters) {
        self.launches += other.launches;
        self.warp_instructions += other.warp_instructions;
        self.divergent_branches += other.divergent_branches;
        self.barriers += other.barriers;
        self.global_requests += other.global_requests;
        self.global_sectors += other.global_sectors;
        self.ideal_sectors += other.ideal_sectors;
        self.shared_requests += other.shared_requests;
        self.bank_cycles += other.bank_cycles;
        self.ideal_bank_cycles += other.ideal_bank_cycles;
        self.flops += other.flops;
    }
}
