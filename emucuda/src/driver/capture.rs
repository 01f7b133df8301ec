//! Capture: writing down what streams would do, instead of doing it.
//!
//! The rules are the driver's. What cannot be written down (waiting, taking memory, copying at once) is refused and spoils the
//! capture. Which threads that concerns goes by the capture's mode: 0 (global) all threads, 1 (thread-local) the one that began it,
//! 2 (relaxed) none; only waiting for the very stream or context is refused in all. One rule is wider on a GPU: there, a global
//! capture concerns all devices; here devices keep apart. Read next: `graph.rs`.

use super::graph::Node;
use super::operation::Operation;
use super::state::{Handle, State};
use super::status::{Outcome, Status, answer, fail};
use super::stream::{self, LEGACY};
use super::{put, put_if_wanted};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::Arc;
use std::thread::ThreadId;

const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

/// A capture that goes on.
pub struct Capture {
    mode: u32,
    thread: ThreadId,
    /// The stream in which it began.
    origin: Handle,
    nodes: Vec<Node>,
    /// Why nothing can come of it any more.
    spoilt: Option<String>,
}

thread_local! {
    /// What `cuThreadExchangeStreamCaptureMode` chose for this thread.
    static INTERACTION: Cell<u32> = const { Cell::new(GLOBAL) };
}

/// Writes an operation down.
pub fn append(state: &mut State, stream: Handle, operation: Operation) -> Outcome {
    let Some((handle, before)) = state.streams.get_mut(stream)?.capture.as_mut() else {
        return fail(Status::ILLEGAL_STATE, "the stream does not capture");
    };
    let capture = state.captures.get_mut(*handle)?;
    if let Some(why) = &capture.spoilt {
        return fail(Status::STREAM_CAPTURE_INVALIDATED, format!("the capture is spoilt: {why}"));
    }
    let after = std::mem::replace(before, BTreeSet::from([capture.nodes.len()]));
    capture.nodes.push(Node { operation, after: after.into_iter().collect(), handle: super::state::new_handle(state.ordinal) });
    Ok(())
}

/// Writes an annotation down, if the calling thread captures on this device. Gives it back if not.
pub fn append_of_thread(state: &mut State, operation: Operation) -> Option<Operation> {
    let here = std::thread::current().id();
    let origin = state.captures.iter().find(|(_, capture)| capture.thread == here).map(|(_, capture)| capture.origin);
    match origin {
        Some(origin) => {
            // A spoilt capture has no use for it.
            let _ = append(state, origin, operation);
            None
        }
        None => Some(operation),
    }
}

/// From now on nothing can come of this capture.
pub fn invalidate(state: &mut State, capture: Handle, why: &str) {
    if let Ok(capture) = state.captures.get_mut(capture) {
        capture.spoilt.get_or_insert_with(|| why.to_string());
    }
}

fn spoil(state: &mut State, concerned: impl Fn(&Capture) -> bool, why: &str) -> Outcome {
    let mut any = false;
    for (_, capture) in state.captures.iter_mut().filter(|(_, capture)| concerned(capture)) {
        capture.spoilt.get_or_insert_with(|| why.to_string());
        any = true;
    }
    if any { fail(Status::STREAM_CAPTURE_UNSUPPORTED, why) } else { Ok(()) }
}

/// Refuses what could disturb a capture that concerns this thread.
pub fn refuse_unsafe(state: &mut State, why: &str) -> Outcome {
    let (here, interaction) = (std::thread::current().id(), INTERACTION.get());
    let concerned = |capture: &Capture| match interaction {
        RELAXED => false,
        THREAD_LOCAL => capture.thread == here && capture.mode != RELAXED,
        _ => capture.mode == GLOBAL || capture.thread == here && capture.mode == THREAD_LOCAL,
    };
    spoil(state, concerned, why)
}

/// Refuses to wait for a context while any stream of it captures.
pub fn refuse_waiting(state: &mut State, why: &str) -> Outcome {
    spoil(state, |_| true, why)
}

/// Refuses to wait for a stream that captures.
pub fn refuse_waiting_for(state: &mut State, stream: Handle, why: &str) -> Outcome {
    match state.streams.get(stream)?.capture {
        Some((capture, _)) => {
            invalidate(state, capture, why);
            fail(Status::STREAM_CAPTURE_UNSUPPORTED, why)
        }
        None => Ok(()),
    }
}

/// Refuses work in the legacy stream while a stream captures that would have to wait for it.
pub fn refuse_implicit(state: &mut State, stream: Handle) -> Outcome {
    if stream != LEGACY {
        return Ok(());
    }
    let blocking = state.streams.iter().find(|(_, other)| other.is_blocking() && other.capture.is_some());
    let Some((capture, _)) = blocking.and_then(|(_, other)| other.capture.clone()) else { return Ok(()) };
    let why = "work in the legacy stream while a blocking stream captures";
    invalidate(state, capture, why);
    fail(Status::STREAM_CAPTURE_IMPLICIT, why)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) -> Status {
    answer("cuStreamBeginCapture", || {
        let (mut state, stream) = stream::find(stream)?;
        if stream == LEGACY {
            return fail(Status::STREAM_CAPTURE_UNSUPPORTED, "the legacy stream cannot capture");
        }
        if mode > RELAXED {
            return fail(Status::INVALID_VALUE, format!("there is no capture mode {mode}"));
        }
        let handle = state.new_handle();
        let entry = state.streams.get_mut(stream)?;
        if entry.capture.is_some() {
            return fail(Status::ILLEGAL_STATE, "the stream captures already");
        }
        entry.capture = Some((handle, BTreeSet::new()));
        let thread = std::thread::current().id();
        state.captures.insert(handle, Capture { mode, thread, origin: stream, nodes: Vec::new(), spoilt: None });
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> Status {
    answer("cuStreamEndCapture", || {
        // SAFETY: the caller gives a place for a graph.
        unsafe { put(graph, 0) }?;
        let (mut state, stream) = stream::find_or_lost(stream)?;
        let Some((handle, before)) = state.streams.get(stream)?.capture.clone() else {
            return fail(Status::ILLEGAL_STATE, "the stream does not capture");
        };
        let capture = state.captures.get(handle)?;
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            return fail(Status::STREAM_CAPTURE_WRONG_THREAD, "the capture was begun by another thread");
        }
        if capture.origin != stream {
            invalidate(&mut state, handle, "the capture was ended in another stream than the one it began in");
            return fail(Status::STREAM_CAPTURE_UNMATCHED, "the capture began in another stream");
        }
        // Whatever comes of it, the capture has ended, in all streams that took part.
        let capture = state.captures.remove(handle)?;
        for (_, stream) in state.streams.iter_mut().filter(|(_, s)| s.capture.as_ref().is_some_and(|(c, _)| *c == handle)) {
            stream.capture = None;
        }
        state.check()?;
        if let Some(why) = capture.spoilt {
            return fail(Status::STREAM_CAPTURE_INVALIDATED, format!("the capture was spoilt: {why}"));
        }
        if let Some(node) = unjoined(&capture.nodes, before) {
            let why = format!("operation {node} runs in a stream that the capturing stream does not wait for");
            return fail(Status::STREAM_CAPTURE_UNJOINED, why);
        }
        let new = state.new_handle();
        state.graphs.insert(new, Arc::new(capture.nodes));
        // SAFETY: the caller gives a place for a graph.
        unsafe { put(graph, new) }
    })
}

/// The first node that none of `last` comes after.
fn unjoined(nodes: &[Node], last: BTreeSet<usize>) -> Option<usize> {
    let mut joined = vec![false; nodes.len()];
    let mut open: Vec<usize> = last.into_iter().collect();
    while let Some(node) = open.pop() {
        if !std::mem::replace(&mut joined[node], true) {
            open.extend(&nodes[node].after);
        }
    }
    joined.iter().position(|joined| !joined)
}

/// A `CUstreamCaptureStatus` (0 none, 1 active, 2 invalidated) and the capture's number.
fn progress(stream: Handle) -> Outcome<(u32, u64)> {
    let (state, stream) = stream::find(stream)?;
    let Some((handle, _)) = state.streams.get(stream)?.capture else { return Ok((0, 0)) };
    let spoilt = state.captures.get(handle)?.spoilt.is_some();
    Ok((if spoilt { 2 } else { 1 }, handle))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, status: *mut u32) -> Status {
    // SAFETY: the caller gives a place for a status.
    answer("cuStreamIsCapturing", || unsafe { put(status, progress(stream)?.0) })
}

/// Version 2 of the question; its last three answers (the graph so far and where it grows) are not given.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamGetCaptureInfo_v2(
    stream: Handle,
    status: *mut u32,
    id: *mut u64,
    graph: *mut Handle,
    dependencies: *mut *const c_void,
    count: *mut usize,
) -> Status {
    answer("cuStreamGetCaptureInfo", || {
        let (now, number) = progress(stream)?;
        // SAFETY: the caller gives a place for a status, and may give others.
        unsafe {
            put(status, now)?;
            put_if_wanted(id, number);
            put_if_wanted(graph, 0);
            put_if_wanted(dependencies, std::ptr::null());
            put_if_wanted(count, 0);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamGetCaptureInfo_v3(
    stream: Handle,
    status: *mut u32,
    id: *mut u64,
    graph: *mut Handle,
    dependencies: *mut *const c_void,
    edges: *mut *const c_void,
    count: *mut usize,
) -> Status {
    // SAFETY: the caller may give a place for the edges, and gives the other places as the function wants them.
    unsafe {
        put_if_wanted(edges, std::ptr::null());
        cuStreamGetCaptureInfo_v2(stream, status, id, graph, dependencies, count)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) -> Status {
    answer("cuThreadExchangeStreamCaptureMode", || {
        if mode.is_null() {
            return fail(Status::INVALID_VALUE, "the mode is missing");
        }
        // SAFETY: not null, and the caller gives a mode there, to be replaced by the one before.
        unsafe {
            let new = mode.read();
            if new > RELAXED {
                return fail(Status::INVALID_VALUE, format!("there is no capture mode {new}"));
            }
            mode.write(INTERACTION.replace(new));
        }
        Ok(())
    })
}
