//! Graphs: what was captured, run as often as one likes.
//!
//! The nodes run in the order in which they were captured, which respects every dependency between them. Read next: `control.rs`.

use super::operation::{Operation, submit};
use super::state::{Handle, owner};
use super::status::{Outcome, Status, answer, fail};
use super::{context, put, stream};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// One step of a graph.
#[derive(Clone)]
pub struct Node {
    pub operation: Operation,
    /// The nodes that have to run before.
    pub after: Vec<usize>,
    pub handle: Handle,
}

/// Flags of instantiation: free on launch, upload, for launches by the device, keep priorities.
const KNOWN_FLAGS: u64 = 1 | 2 | 4 | 8;
/// For launches by the device, which excludes freeing on launch.
const DEVICE_LAUNCH: u64 = 4;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphCreate(graph: *mut Handle, flags: u32) -> Status {
    answer("cuGraphCreate", || {
        if flags != 0 {
            return fail(Status::INVALID_VALUE, format!("flags is {flags}; it must be 0"));
        }
        let mut state = context::current()?;
        let handle = state.new_handle();
        state.graphs.insert(handle, Arc::default());
        // SAFETY: the caller gives a place for a graph.
        unsafe { put(graph, handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphClone(clone: *mut Handle, graph: Handle) -> Status {
    answer("cuGraphClone", || {
        let mut state = owner(graph)?;
        let nodes = state.graphs.get(graph)?.clone();
        let handle = state.new_handle();
        state.graphs.insert(handle, nodes);
        // SAFETY: the caller gives a place for a graph.
        unsafe { put(clone, handle) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: Handle) -> Status {
    answer("cuGraphDestroy", || {
        let mut state = owner(graph)?;
        state.graphs.remove(graph)?;
        state.check()
    })
}

unsafe fn instantiate(executable: *mut Handle, graph: Handle, flags: u64) -> Outcome {
    let mut state = owner(graph)?;
    state.check()?;
    if flags & !KNOWN_FLAGS != 0 || flags & DEVICE_LAUNCH != 0 && flags & 1 != 0 {
        return fail(Status::INVALID_VALUE, format!("the flags {flags:#x} are unknown or exclude each other"));
    }
    let nodes = state.graphs.get(graph)?.clone();
    let handle = state.new_handle();
    state.executables.insert(handle, nodes);
    // SAFETY: the caller gives a place for an executable graph.
    unsafe { put(executable, handle) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(executable: *mut Handle, graph: Handle, flags: u64) -> Status {
    // SAFETY: the caller gives a place for an executable graph.
    answer("cuGraphInstantiateWithFlags", || unsafe { instantiate(executable, graph, flags) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiate_v2(
    executable: *mut Handle,
    graph: Handle,
    _error: *mut Handle,
    _log: *mut c_char,
    _size: usize,
) -> Status {
    // SAFETY: the caller gives a place for an executable graph.
    answer("cuGraphInstantiate", || unsafe { instantiate(executable, graph, 0) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithParams(executable: *mut Handle, graph: Handle, parameters: *mut c_void) -> Status {
    answer("cuGraphInstantiateWithParams", || {
        if parameters.is_null() {
            return fail(Status::INVALID_VALUE, "the parameters are missing");
        }
        // SAFETY: the caller gives the parameters, whose first member is the flags, of 64 bits.
        unsafe { instantiate(executable, graph, parameters.cast::<u64>().read()) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(executable: Handle) -> Status {
    answer("cuGraphExecDestroy", || {
        let mut state = owner(executable)?;
        state.executables.remove(executable)?;
        state.check()
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(executable: Handle, stream: Handle) -> Status {
    answer("cuGraphLaunch", || {
        let nodes = owner(executable)?.executables.get(executable)?.clone();
        let (state, _) = stream::find(stream)?;
        if !state.owns(executable) {
            return fail(Status::INVALID_VALUE, "the graph and the stream belong to different devices");
        }
        drop(state);
        // SAFETY: whoever captured vouched for the program's memory that the graph uses.
        unsafe { submit(stream, Operation::Graph(nodes)) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(executable: Handle, stream: Handle) -> Status {
    answer("cuGraphUpload", || {
        owner(executable)?.executables.get(executable)?;
        // It lies where it is needed already.
        stream::find(stream).map(drop)
    })
}

/// Without `nodes` it tells how many there are; with it, it writes as many as fit.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) -> Status {
    answer("cuGraphGetNodes", || {
        let state = owner(graph)?;
        let all = state.graphs.get(graph)?;
        if count.is_null() {
            return fail(Status::INVALID_VALUE, "there is no place for the count");
        }
        // SAFETY: the caller gives the count of the places in `nodes`, if there are any.
        unsafe {
            if nodes.is_null() {
                return put(count, all.len());
            }
            let room = count.read();
            for at in 0..room {
                put(nodes.add(at), all.get(at).map_or(0, |node| node.handle))?;
            }
            put(count, room.min(all.len()))
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphNodeGetType(node: Handle, kind: *mut u32) -> Status {
    answer("cuGraphNodeGetType", || {
        let state = owner(node)?;
        let graphs = state.graphs.iter().map(|(_, nodes)| nodes);
        let found = graphs.flat_map(|nodes| nodes.iter()).find(|other| other.handle == node);
        match found {
            // SAFETY: the caller gives a place for a type.
            Some(node) => unsafe { put(kind, node.operation.kind()) },
            None => fail(Status::INVALID_HANDLE, format!("{node:#x} is no node of a graph")),
        }
    })
}

/// Takes over addresses, arguments and sizes from a graph of the same shape.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecUpdate_v2(executable: Handle, graph: Handle, result: *mut Update) -> Status {
    answer("cuGraphExecUpdate", || {
        let mut state = owner(executable)?;
        let new = state.graphs.get(graph)?.clone();
        let old = state.executables.get(executable)?.clone();
        let differ = |test: fn(&Node, &Node) -> bool| old.iter().zip(new.iter()).any(|(a, b)| test(a, b));
        // A `CUgraphExecUpdateResult`.
        let (code, why) = if old.len() != new.len() || differ(|a, b| a.after != b.after) {
            (2, "the graphs have different shapes")
        } else if differ(|a, b| a.operation.kind() != b.operation.kind()) {
            (3, "a node does something else")
        } else if differ(|a, b| kernel_of(a) != kernel_of(b)) {
            (4, "a node runs another kernel")
        } else {
            (0, "")
        };
        // SAFETY: the caller gives a place for the result.
        unsafe { put(result, Update { code, node: 0, from: 0 }) }?;
        if code != 0 {
            return fail(Status::GRAPH_EXEC_UPDATE_FAILURE, why);
        }
        *state.executables.get_mut(executable)? = new;
        Ok(())
    })
}

/// A `CUgraphExecUpdateResultInfo`.
#[repr(C)]
struct Update {
    code: u32,
    node: Handle,
    from: Handle,
}

fn kernel_of(node: &Node) -> Option<Handle> {
    match &node.operation {
        Operation::Kernel { function, .. } => Some(function.handle),
        _ => None,
    }
}
