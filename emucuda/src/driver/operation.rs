//! What a stream carries: kernels, copies, fills.
//!
//! An operation either runs at once, or becomes a node of the graph that its stream captures. The same type serves both, so a
//! replayed graph does what the eager program did. Read next: `stream.rs`.

use super::capture;
use super::graph::Node;
use super::module::Function;
use super::state::{Handle, IN_HOST_FUNCTION, State};
use super::status::{Failure, Outcome};
use super::stream;
use std::ffi::c_void;
use std::sync::Arc;

/// An address in the program's own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAddress(usize);

impl HostAddress {
    pub fn new<T>(pointer: *const T) -> Self {
        Self(pointer as usize)
    }

    fn pointer(self) -> *mut u8 {
        self.0 as *mut u8
    }
}

/// A function of the program's that runs in the order of a stream.
pub type HostFunction = unsafe extern "C" fn(*mut c_void);

/// One thing to do on a device.
#[derive(Clone)]
pub enum Operation {
    Kernel { function: Arc<Function>, grid: [u32; 3], block: [u32; 3], shared: u32, arguments: Vec<u8> },
    ToDevice { to: u64, from: HostAddress, bytes: usize },
    ToHost { to: HostAddress, from: u64, bytes: usize },
    Copy { to: u64, from: u64, bytes: u64 },
    Fill { address: u64, pattern: Vec<u8>, count: u64 },
    Call { function: HostFunction, data: HostAddress },
    Graph(Arc<Vec<Node>>),
    Mark { address: u64, bytes: u64 },
    Release { address: u64 },
}

impl Operation {
    /// Its `CUgraphNodeType`.
    pub fn kind(&self) -> u32 {
        match self {
            Self::Kernel { .. } => 0,
            Self::ToDevice { .. } | Self::ToHost { .. } | Self::Copy { .. } => 1,
            Self::Fill { .. } => 2,
            Self::Call { .. } => 3,
            Self::Graph(_) => 4,
            // What no driver knows looks as if it did nothing.
            Self::Mark { .. } | Self::Release { .. } => 5,
        }
    }

    /// Does it, now.
    ///
    /// # Safety
    /// Addresses in the program's memory are valid for the bytes that they are used for, and host functions may be called.
    pub unsafe fn perform(&self, state: &mut State) -> Outcome {
        let machine = &mut state.machine;
        let done = match self {
            Self::Kernel { function, grid, block, shared, arguments } => {
                let launched = machine.launch(function.kernel(), *grid, *block, *shared, arguments);
                launched.map_err(Failure::of_launch)
            }
            Self::ToDevice { to, from, bytes } => {
                // SAFETY: the caller vouches for the program's memory.
                let data = unsafe { slice(*from, *bytes) };
                machine.write(*to, data).map_err(Failure::of_memory)
            }
            Self::ToHost { to, from, bytes } => {
                // SAFETY: the caller vouches for the program's memory.
                let data = unsafe { slice(*to, *bytes) };
                machine.read(*from, data).map_err(Failure::of_memory)
            }
            Self::Copy { to, from, bytes } => machine.copy(*to, *from, *bytes).map_err(Failure::of_memory),
            Self::Fill { address, pattern, count } => machine.fill(*address, pattern, *count).map_err(Failure::of_memory),
            Self::Call { function, data } => {
                IN_HOST_FUNCTION.set(true);
                // SAFETY: the caller vouches for the function, which was given together with this data.
                unsafe { function(data.pointer().cast()) };
                IN_HOST_FUNCTION.set(false);
                Ok(())
            }
            Self::Graph(nodes) => {
                for node in nodes.iter() {
                    // SAFETY: the caller vouches for what was captured.
                    unsafe { node.operation.perform(state) }?;
                }
                Ok(())
            }
            Self::Mark { address, bytes } => machine.mark(*address, *bytes).map_err(Failure::of_memory),
            Self::Release { address } => machine.release(*address).map_err(Failure::of_memory),
        };
        state.note(done)
    }
}

/// Bytes of the program's memory.
///
/// # Safety
/// They are there, and nobody else uses them meanwhile.
unsafe fn slice<'a>(address: HostAddress, bytes: usize) -> &'a mut [u8] {
    if bytes == 0 {
        return &mut [];
    }
    // SAFETY: the caller vouches for it; a C caller's bytes have no alignment to keep.
    unsafe { std::slice::from_raw_parts_mut(address.pointer(), bytes) }
}

/// Gives an operation to a stream: it runs now, or is written down.
///
/// # Safety
/// As for [`Operation::perform`], until the last graph with it is gone.
pub unsafe fn submit(stream: Handle, operation: Operation) -> Outcome {
    let (mut state, stream) = stream::find(stream)?;
    if state.streams.get(stream)?.capture.is_some() {
        return capture::append(&mut state, stream, operation);
    }
    capture::refuse_implicit(&mut state, stream)?;
    // SAFETY: the caller vouches for it.
    unsafe { operation.perform(&mut state) }
}

/// Does an operation that waits for everything, as a synchronous copy does.
///
/// # Safety
/// As for [`Operation::perform`].
pub unsafe fn perform_now(operation: Operation, what: &str) -> Outcome {
    let mut state = super::context::current()?;
    capture::refuse_unsafe(&mut state, what)?;
    capture::refuse_implicit(&mut state, stream::LEGACY)?;
    // SAFETY: the caller vouches for it.
    unsafe { operation.perform(&mut state) }
}
