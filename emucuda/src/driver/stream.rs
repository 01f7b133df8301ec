//! Streams: queues that are always empty, as work is done when it is queued; and captures, which are not.
//!
//! Read next: `event.rs`.

use super::context::{current, current_or_lost};
use super::operation::{HostAddress, HostFunction, Operation, submit};
use super::state::{Handle, State, Table, owner};
use super::status::{Outcome, Status, answer, fail};
use super::{capture, put};
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::MutexGuard;

/// The stream that every stream without `NON_BLOCKING` waits for.
pub const LEGACY: Handle = 0;
/// The other name of the legacy stream.
const LEGACY_BY_NAME: Handle = 1;
/// The default stream that a thread has for itself; here all threads share it.
const PER_THREAD: Handle = 2;
/// A flag: does not wait for the legacy stream.
const NON_BLOCKING: u32 = 1;

/// A stream.
pub struct Stream {
    pub flags: u32,
    priority: i32,
    /// The capture that it takes part in, and what in it the next operation has to wait for.
    pub capture: Option<(Handle, BTreeSet<usize>)>,
}

impl Stream {
    /// Whether it waits for the legacy stream and the other way round.
    pub fn is_blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }
}

pub fn insert_defaults(streams: &mut Table<Stream>) {
    for handle in [LEGACY, PER_THREAD] {
        streams.insert(handle, Stream { flags: 0, priority: 0, capture: None });
    }
}

/// A stream's device and the stream's entry there, even if a fault has ended the device's use.
pub fn find_or_lost(stream: Handle) -> Outcome<(MutexGuard<'static, State>, Handle)> {
    let (state, stream) = match stream {
        LEGACY | LEGACY_BY_NAME => (current_or_lost()?, LEGACY),
        PER_THREAD => (current_or_lost()?, PER_THREAD),
        _ => (owner(stream)?, stream),
    };
    state.streams.get(stream)?;
    Ok((state, stream))
}

/// A stream's device and the stream's entry there.
pub fn find(stream: Handle) -> Outcome<(MutexGuard<'static, State>, Handle)> {
    let found = find_or_lost(stream)?;
    found.0.check()?;
    Ok(found)
}

unsafe fn create(place: *mut Handle, flags: u32, priority: i32) -> Outcome {
    let mut state = current()?;
    if flags > NON_BLOCKING {
        return fail(Status::INVALID_VALUE, format!("flags is {flags}; it may be 0 or 1 (non-blocking)"));
    }
    let handle = state.new_handle();
    state.streams.insert(handle, Stream { flags, priority: priority.clamp(-5, 0), capture: None });
    // SAFETY: the caller gives a place for a stream.
    unsafe { put(place, handle) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut Handle, flags: u32) -> Status {
    // SAFETY: the caller gives a place for a stream.
    answer("cuStreamCreate", || unsafe { create(stream, flags, 0) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreateWithPriority(stream: *mut Handle, flags: u32, priority: i32) -> Status {
    // SAFETY: the caller gives a place for a stream.
    answer("cuStreamCreateWithPriority", || unsafe { create(stream, flags, priority) })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: Handle) -> Status {
    answer("cuStreamDestroy", || {
        if stream <= PER_THREAD {
            return fail(Status::INVALID_HANDLE, "a default stream cannot be destroyed");
        }
        let mut state = owner(stream)?;
        if let Some((capture, _)) = state.streams.remove(stream)?.capture {
            capture::invalidate(&mut state, capture, "a stream of the capture was destroyed");
        }
        state.check()
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: Handle) -> Status {
    answer("cuStreamSynchronize", || {
        let (mut state, stream) = find(stream)?;
        capture::refuse_waiting_for(&mut state, stream, "a stream that captures cannot be waited for")
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: Handle) -> Status {
    answer("cuStreamQuery", || {
        let (mut state, stream) = find(stream)?;
        capture::refuse_waiting_for(&mut state, stream, "a stream that captures cannot be asked whether it is done")
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamGetFlags(stream: Handle, flags: *mut u32) -> Status {
    answer("cuStreamGetFlags", || {
        let (state, stream) = find(stream)?;
        // SAFETY: the caller gives a place for a number.
        unsafe { put(flags, state.streams.get(stream)?.flags) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamGetPriority(stream: Handle, priority: *mut i32) -> Status {
    answer("cuStreamGetPriority", || {
        let (state, stream) = find(stream)?;
        // SAFETY: the caller gives a place for a number.
        unsafe { put(priority, state.streams.get(stream)?.priority) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamGetId(stream: Handle, id: *mut u64) -> Status {
    answer("cuStreamGetId", || {
        let (_state, stream) = find(stream)?;
        // SAFETY: the caller gives a place for a number.
        unsafe { put(id, stream) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamGetDevice(stream: Handle, ordinal: *mut i32) -> Status {
    answer("cuStreamGetDevice", || {
        let (state, _) = find(stream)?;
        // SAFETY: the caller gives a place for a number.
        unsafe { put(ordinal, state.ordinal as i32) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamGetCtx(stream: Handle, context: *mut Handle) -> Status {
    answer("cuStreamGetCtx", || {
        let (state, _) = find(stream)?;
        let first = state.contexts.iter().map(|(handle, _)| handle).next();
        // SAFETY: the caller gives a place for a context.
        unsafe { put(context, first.unwrap_or(0)) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: u32) -> Status {
    answer("cuStreamWaitEvent", || {
        let (mut state, stream) = find(stream)?;
        if !state.owns(event) {
            // An event of another device: whatever it stands for has run.
            if state.streams.get(stream)?.capture.is_some() {
                return fail(Status::STREAM_CAPTURE_ISOLATION, "the event belongs to another device");
            }
            drop(state);
            return owner(event)?.events.get(event).map(drop);
        }
        super::event::wait(&mut state, stream, event)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchHostFunc(stream: Handle, function: Option<HostFunction>, data: *mut c_void) -> Status {
    answer("cuLaunchHostFunc", || {
        let Some(function) = function else {
            return fail(Status::INVALID_VALUE, "the function is missing");
        };
        // SAFETY: the caller vouches for its function and data.
        unsafe { submit(stream, Operation::Call { function, data: HostAddress::new(data) }) }
    })
}
