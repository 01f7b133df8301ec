//! Functions that a program may ask for and that the emulator has no answer to.
//!
//! They are here because cudarc panics when a function is missing: a refusal can be handled. Read next: `control.rs`.

use super::status::{Status, answer, fail};

macro_rules! refused {
    ($($name:ident, $what:literal;)*) => {$(
        // It takes whatever the caller puts into the registers, and looks at none of it.
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> Status {
            answer(stringify!($name), || fail(Status::NOT_SUPPORTED, concat!("the emulator has no ", $what)))
        }
    )*};
}

refused! {
    cuMemAllocManaged, "managed memory";
    cuMemAdvise_v2, "managed memory";
    cuMemPrefetchAsync_v2, "managed memory";
    cuStreamAttachMemAsync, "managed memory";
    cuImportExternalMemory, "memory of other drivers";
    cuDestroyExternalMemory, "memory of other drivers";
    cuExternalMemoryGetMappedBuffer, "memory of other drivers";
    cuMemHostGetDevicePointer_v2, "memory of the host that kernels may use";
    cuLaunchCooperativeKernel, "launches whose blocks wait for each other";
    cuOccupancyMaxActiveClusters, "clusters of blocks";
    cuOccupancyMaxPotentialClusterSize, "clusters of blocks";
    cuGraphAddKernelNode_v2, "graphs made by hand; capture one";
    cuGraphAddMemcpyNode, "graphs made by hand; capture one";
    cuGraphAddMemsetNode, "graphs made by hand; capture one";
    cuStreamBeginCaptureToGraph, "captures into a graph that exists";
    cuCtxEnablePeerAccess, "kernels that use another device's memory";
    cuCtxDisablePeerAccess, "kernels that use another device's memory";
}

/// Profilers have nothing to see, but their marks do no harm.
#[unsafe(no_mangle)]
extern "C" fn cuProfilerStart() -> Status {
    Status::SUCCESS
}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn cuProfilerStop() -> Status {
    Status::SUCCESS
}
