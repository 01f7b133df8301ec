//! Contexts: which device a thread means.
//!
//! A device's contexts share its memory and its streams; a real driver would keep them apart. When the last one of a device is
//! released, everything in it is gone, as with a real driver: memory, modules, and the error of a fault. Read next: `device.rs`.

use super::state::{self, Handle, State, device, owner};
use super::status::{Outcome, Status, answer, fail};
use super::{capture, put, put_if_wanted};
use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

/// A context of a device.
pub struct Context {
    primary: bool,
    /// How often it was retained.
    users: usize,
    flags: u32,
}

static INITIALISED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The contexts that this thread has pushed; the last one is current.
    static STACK: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

/// Refuses to work before `cuInit`.
pub fn initialised() -> Outcome {
    if INITIALISED.load(Ordering::Relaxed) { Ok(()) } else { fail(Status::NOT_INITIALIZED, "cuInit was not called") }
}

fn current_handle() -> Handle {
    STACK.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

/// The device of the calling thread's context, even if a fault has ended its use.
pub fn current_or_lost() -> Outcome<MutexGuard<'static, State>> {
    initialised()?;
    let handle = current_handle();
    if handle == 0 {
        return fail(Status::INVALID_CONTEXT, "this thread has no current context");
    }
    let state = owner(handle)?;
    if !state.contexts.contains(handle) {
        return fail(Status::CONTEXT_IS_DESTROYED, "the context of this thread was destroyed");
    }
    Ok(state)
}

/// The device of the calling thread's context.
pub fn current() -> Outcome<MutexGuard<'static, State>> {
    let state = current_or_lost()?;
    state.check()?;
    Ok(state)
}

/// Refuses to work without a context, or after a fault.
pub fn check_current() -> Outcome {
    current().map(drop)
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: u32) -> Status {
    answer("cuInit", || {
        if flags != 0 {
            return fail(Status::INVALID_VALUE, format!("flags is {flags}; it must be 0"));
        }
        state::Settings::read()?;
        INITIALISED.store(true, Ordering::Relaxed);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut Handle, ordinal: i32) -> Status {
    answer("cuDevicePrimaryCtxRetain", || {
        initialised()?;
        let mut state = device(ordinal)?;
        let known = state.contexts.iter_mut().find(|(_, context)| context.primary);
        let handle = match known {
            Some((handle, context)) => {
                context.users += 1;
                handle
            }
            None => {
                let handle = state.new_handle();
                state.contexts.insert(handle, Context { primary: true, users: 1, flags: 0 });
                handle
            }
        };
        // SAFETY: the caller gives a place for a context.
        unsafe { put(context, handle) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(ordinal: i32) -> Status {
    answer("cuDevicePrimaryCtxRelease", || {
        initialised()?;
        let mut state = device(ordinal)?;
        let Some((handle, context)) = state.contexts.iter_mut().find(|(_, context)| context.primary) else {
            return fail(Status::INVALID_CONTEXT, "the primary context is not in use");
        };
        context.users -= 1;
        if context.users == 0 { destroy(&mut state, handle) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease(ordinal: i32) -> Status {
    cuDevicePrimaryCtxRelease_v2(ordinal)
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxReset_v2(ordinal: i32) -> Status {
    answer("cuDevicePrimaryCtxReset", || {
        initialised()?;
        device(ordinal)?.clear();
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxGetState(ordinal: i32, flags: *mut u32, active: *mut i32) -> Status {
    answer("cuDevicePrimaryCtxGetState", || {
        initialised()?;
        let state = device(ordinal)?;
        let known = state.contexts.iter().find(|(_, context)| context.primary);
        // SAFETY: the caller gives places for two numbers.
        unsafe {
            put(flags, known.map_or(0, |(_, context)| context.flags))?;
            put(active, i32::from(known.is_some()))
        }
    })
}

fn destroy(state: &mut State, handle: Handle) -> Outcome {
    state.contexts.remove(handle)?;
    if state.contexts.is_empty() {
        state.clear();
    }
    Ok(())
}

/// A context beside the primary one, made current.
unsafe fn create(context: *mut Handle, flags: u32, ordinal: i32) -> Outcome {
    initialised()?;
    let mut state = device(ordinal)?;
    let handle = state.new_handle();
    // SAFETY: the caller gives a place for a context.
    unsafe { put(context, handle) }?;
    state.contexts.insert(handle, Context { primary: false, users: 1, flags });
    STACK.with_borrow_mut(|stack| stack.push(handle));
    Ok(())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxCreate_v2(context: *mut Handle, flags: u32, ordinal: i32) -> Status {
    // SAFETY: the caller gives a place for a context.
    answer("cuCtxCreate", || unsafe { create(context, flags, ordinal) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxCreate_v3(context: *mut Handle, _affinity: *mut c_void, _count: i32, flags: u32, ordinal: i32) -> Status {
    // SAFETY: the caller gives a place for a context.
    answer("cuCtxCreate", || unsafe { create(context, flags, ordinal) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxCreate_v4(context: *mut Handle, parameters: *mut c_void, flags: u32, ordinal: i32) -> Status {
    answer("cuCtxCreate", || {
        if !parameters.is_null() {
            return fail(Status::NOT_SUPPORTED, "the emulator shares no context with graphics");
        }
        // SAFETY: the caller gives a place for a context.
        unsafe { create(context, flags, ordinal) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDestroy_v2(context: Handle) -> Status {
    answer("cuCtxDestroy", || {
        let mut state = owner(context)?;
        if state.contexts.get(context)?.primary {
            return fail(Status::INVALID_CONTEXT, "a primary context is released, not destroyed");
        }
        STACK.with_borrow_mut(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        destroy(&mut state, context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: Handle) -> Status {
    answer("cuCtxSetCurrent", || {
        initialised()?;
        if context != 0 {
            owner(context)?.contexts.get(context)?;
        }
        STACK.with_borrow_mut(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(context: *mut Handle) -> Status {
    answer("cuCtxGetCurrent", || {
        initialised()?;
        // SAFETY: the caller gives a place for a context.
        unsafe { put(context, current_handle()) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> Status {
    answer("cuCtxPushCurrent", || {
        owner(context)?.contexts.get(context)?;
        STACK.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut Handle) -> Status {
    answer("cuCtxPopCurrent", || {
        let Some(top) = STACK.with_borrow_mut(Vec::pop) else {
            return fail(Status::INVALID_CONTEXT, "this thread has no current context");
        };
        // SAFETY: the caller may give a place for a context.
        unsafe { put_if_wanted(context, top) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetDevice(ordinal: *mut i32) -> Status {
    answer("cuCtxGetDevice", || {
        let state = current_or_lost()?;
        // SAFETY: the caller gives a place for a number.
        unsafe { put(ordinal, state.ordinal as i32) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> Status {
    answer("cuCtxSynchronize", || {
        let mut state = current()?;
        capture::refuse_waiting(&mut state, "a context whose stream captures cannot be waited for")
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(flags: u32) -> Status {
    answer("cuCtxSetFlags", || {
        let mut state = current()?;
        // How a thread waits means nothing here, as there is nothing to wait for; the flags are only kept.
        state.contexts.get_mut(current_handle())?.flags = flags;
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetFlags(flags: *mut u32) -> Status {
    answer("cuCtxGetFlags", || {
        let state = current()?;
        // SAFETY: the caller gives a place for a number.
        unsafe { put(flags, state.contexts.get(current_handle())?.flags) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetApiVersion(_context: Handle, version: *mut u32) -> Status {
    // SAFETY: the caller gives a place for a number.
    answer("cuCtxGetApiVersion", || unsafe { put(version, 3020) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetLimit(value: *mut usize, limit: u32) -> Status {
    answer("cuCtxGetLimit", || {
        check_current()?;
        let bytes = match limit {
            0 => 1024,
            1 => 1 << 20,
            2 => 8 << 20,
            5 => 128,
            6 => 0,
            _ => return fail(Status::UNSUPPORTED_LIMIT, format!("there is no limit {limit}")),
        };
        // SAFETY: the caller gives a place for a number.
        unsafe { put(value, bytes) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetLimit(limit: u32, _value: usize) -> Status {
    answer("cuCtxSetLimit", || {
        check_current()?;
        // Stacks and buffers grow as they must here.
        if limit <= 6 { Ok(()) } else { fail(Status::UNSUPPORTED_LIMIT, format!("there is no limit {limit}")) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCacheConfig(preference: *mut u32) -> Status {
    // SAFETY: the caller gives a place for a number.
    answer("cuCtxGetCacheConfig", || unsafe { put(preference, 0) })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCacheConfig(_preference: u32) -> Status {
    answer("cuCtxSetCacheConfig", check_current)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) -> Status {
    answer("cuCtxGetStreamPriorityRange", || {
        check_current()?;
        // SAFETY: the caller may give places for numbers.
        unsafe {
            put_if_wanted(least, 0);
            put_if_wanted(greatest, -5);
        }
        Ok(())
    })
}
