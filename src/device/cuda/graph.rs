//! CUDA graphs: a step recorded once and replayed as one.
//!
//! While a stream captures, launches are written down instead of run. The addresses in them are fixed, so the memory of the step
//! must be its own: a [`PrivatePool`] that only the step's eager rehearsal, its capture and its replays use. Within a capture nothing may be
//! allocated, copied from or to the host, or waited for; that is refused. Read next: `event.rs`.

use super::context::{self, Context};
use super::driver::failed;
use crate::device::Device;
use crate::device::memory::PrivatePool;
use crate::error::{Error, Result};
use cudarc::driver::{CudaGraph, sys};

/// A recorded step, ready to be replayed. Its memory is its own.
pub struct Graph {
    graph: CudaGraph,
    context: &'static Context,
    // Dropped after the graph, which uses its memory.
    _pool: PrivatePool,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graph on {}", self.context.name())
    }
}

impl Graph {
    /// Records what `step` launches on `device`. `step` must have run eagerly inside `pool` before, so that the pool holds all the
    /// memory it asks for.
    pub fn capture(device: Device, pool: PrivatePool, step: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let context = device.context()?;
        context.bind()?;
        let told = |what: &'static str| move |e| failed(&context.name(), what, e);
        let stream = context.stream();
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(told("beginning a capture"))?;
        let inside = pool.enter();
        context.begin_capture();
        let done = step();
        // What could not be told inside the step came first, and is the cause of what could.
        let done = context.end_capture().and(done);
        drop(inside);
        // A capture must be ended even if it failed.
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(told("ending a capture"));
        done?;
        let graph = graph?.ok_or_else(|| Error::device(format!("{}: nothing was captured", context.name())))?;
        Ok(Graph { graph, context, _pool: pool })
    }

    /// Runs the recorded step once more.
    pub fn replay(&self) -> Result<()> {
        self.context.check()?;
        self.graph.launch().map_err(|e| failed(&self.context.name(), "replaying a captured step", e))
    }
}

impl Device {
    /// The open context of a CUDA device.
    pub fn context(self) -> Result<&'static Context> {
        match self {
            Device::Cuda(ordinal) => context::open(ordinal),
            Device::Cpu => Err(Error::device("the CPU runs no CUDA kernels")),
        }
    }
}
