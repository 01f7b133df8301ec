//! Events: points in a stream that can be waited for and timed.
//!
//! Times are those of the machine that emulates; they say nothing about a GPU. Read next: `capture.rs`.

use super::context::current;
use super::state::{Handle, State, owner};
use super::status::{Outcome, Status, answer, fail};
use super::{capture, put, stream};
use std::collections::BTreeSet;
use std::time::Instant;

/// A flag: cannot be timed.
const DISABLE_TIMING: u32 = 2;

/// An event.
pub struct Event {
    flags: u32,
    point: Point,
}

/// What an event was last recorded as.
enum Point {
    Never,
    Reached(Instant),
    /// In a capture: what has to have run.
    Captured {
        capture: Handle,
        after: BTreeSet<usize>,
    },
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut Handle, flags: u32) -> Status {
    answer("cuEventCreate", || {
        let mut state = current()?;
        if flags > 7 {
            return fail(Status::INVALID_VALUE, format!("flags is {flags}; it may be a sum of 1, 2 and 4"));
        }
        let handle = state.new_handle();
        state.events.insert(handle, Event { flags, point: Point::Never });
        // SAFETY: the caller gives a place for an event.
        unsafe { put(event, handle) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: Handle) -> Status {
    answer("cuEventDestroy", || {
        let mut state = owner(event)?;
        state.events.remove(event)?;
        state.check()
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> Status {
    answer("cuEventRecord", || {
        let (mut state, stream) = stream::find(stream)?;
        let state = &mut *state;
        let point = match &state.streams.get(stream)?.capture {
            Some((capture, after)) => Point::Captured { capture: *capture, after: after.clone() },
            None => Point::Reached(Instant::now()),
        };
        if matches!(point, Point::Reached(_)) {
            capture::refuse_implicit(state, stream)?;
        }
        state.events.get_mut(event)?.point = point;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecordWithFlags(event: Handle, stream: Handle, _flags: u32) -> Status {
    cuEventRecord(event, stream)
}

/// Makes a stream wait for an event: nothing to do, unless the event was recorded in a capture, which the stream then joins.
pub fn wait(state: &mut State, stream: Handle, event: Handle) -> Outcome {
    let event = state.events.get(event)?;
    let (capture, after) = match &event.point {
        Point::Captured { capture, after } if state.captures.contains(*capture) => (*capture, after.clone()),
        Point::Captured { .. } => {
            return fail(Status::CAPTURED_EVENT, "the event was last recorded in a capture that has ended");
        }
        Point::Never | Point::Reached(_) => {
            let Some((capture, _)) = state.streams.get(stream)?.capture else { return Ok(()) };
            // A real driver lets an event that was never recorded pass.
            if matches!(event.point, Point::Never) {
                return Ok(());
            }
            let why = "a stream that captures cannot wait for an event from outside of the capture";
            capture::invalidate(state, capture, why);
            return fail(Status::STREAM_CAPTURE_ISOLATION, why);
        }
    };
    let stream = state.streams.get_mut(stream)?;
    match &mut stream.capture {
        Some((own, before)) if *own == capture => before.extend(after),
        Some(_) => return fail(Status::STREAM_CAPTURE_MERGE, "the event and the stream belong to different captures"),
        None => stream.capture = Some((capture, after)),
    }
    Ok(())
}

fn reached(event: Handle) -> Outcome {
    let state = owner(event)?;
    state.check()?;
    match state.events.get(event)?.point {
        Point::Captured { .. } => fail(Status::CAPTURED_EVENT, "the event was last recorded in a capture: it is never reached"),
        Point::Never | Point::Reached(_) => Ok(()),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: Handle) -> Status {
    answer("cuEventSynchronize", || reached(event))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: Handle) -> Status {
    answer("cuEventQuery", || reached(event))
}

fn time(event: Handle) -> Outcome<Instant> {
    let state = owner(event)?;
    state.check()?;
    let event = state.events.get(event)?;
    if event.flags & DISABLE_TIMING != 0 {
        return fail(Status::INVALID_HANDLE, "the event was created without timing (CU_EVENT_DISABLE_TIMING)");
    }
    match event.point {
        Point::Reached(time) => Ok(time),
        Point::Never => fail(Status::INVALID_HANDLE, "the event was never recorded"),
        Point::Captured { .. } => fail(Status::INVALID_HANDLE, "the event was last recorded in a capture: it has no time"),
    }
}

unsafe fn elapsed(milliseconds: *mut f32, start: Handle, end: Handle) -> Outcome {
    let (start, end) = (time(start)?, time(end)?);
    let seconds = end.saturating_duration_since(start).as_secs_f64() - start.saturating_duration_since(end).as_secs_f64();
    // SAFETY: the caller gives a place for a number.
    unsafe { put(milliseconds, (seconds * 1e3) as f32) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) -> Status {
    // SAFETY: the caller gives a place for a number.
    answer("cuEventElapsedTime", || unsafe { elapsed(milliseconds, start, end) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: Handle, end: Handle) -> Status {
    // SAFETY: the caller gives a place for a number.
    answer("cuEventElapsedTime", || unsafe { elapsed(milliseconds, start, end) })
}
