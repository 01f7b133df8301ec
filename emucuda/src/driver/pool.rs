//! Memory in the order of a stream, and the pools that it comes from.
//!
//! As everything runs at once, `cuMemAllocAsync` is `cuMemAlloc`: each request is an allocation of its own, so that reads beyond
//! its end are found, and a pool is only a set of settings. Read next: `module.rs`.

use super::context::current;
use super::state::{Handle, State, device, owner};
use super::status::{Failure, Outcome, Status, answer, fail};
use super::{put, stream};
use std::collections::BTreeMap;
use std::ffi::c_void;

/// Settings of a pool.
#[derive(Default)]
pub struct Pool {
    settings: BTreeMap<u32, u64>,
}

/// Memory of the device; its content counts as never written.
pub fn allocate(state: &mut State, bytes: usize) -> Outcome<u64> {
    if bytes == 0 {
        return fail(Status::INVALID_VALUE, "0 bytes asked for");
    }
    match state.machine.allocate(bytes as u64) {
        Some(address) => Ok(address),
        None => {
            let (free, total) = state.machine.memory();
            fail(Status::OUT_OF_MEMORY, format!("{bytes} bytes asked for; {free} of {total} are free"))
        }
    }
}

/// Gives it back; the null address is no memory and no mistake.
pub fn free(state: &mut State, address: u64) -> Outcome {
    if address == 0 {
        return Ok(());
    }
    let done = state.machine.free(address).map_err(Failure::of_memory);
    state.note(done)
}

/// The device that a stream belongs to, if the stream captures nothing.
fn outside_capture(stream: Handle, what: &str) -> Outcome<std::sync::MutexGuard<'static, State>> {
    let (state, stream) = stream::find_or_lost(stream)?;
    if state.streams.get(stream)?.capture.is_some() {
        return fail(Status::NOT_SUPPORTED, format!("the emulator captures no nodes that {what} memory"));
    }
    Ok(state)
}

unsafe fn allocate_in_order(address: *mut u64, bytes: usize, stream: Handle) -> Outcome {
    let mut state = outside_capture(stream, "take")?;
    state.check()?;
    let taken = allocate(&mut state, bytes)?;
    // SAFETY: the caller gives a place for an address.
    unsafe { put(address, taken) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Handle) -> Status {
    // SAFETY: the caller gives a place for an address.
    answer("cuMemAllocAsync", || unsafe { allocate_in_order(address, bytes, stream) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocFromPoolAsync(address: *mut u64, bytes: usize, pool: Handle, stream: Handle) -> Status {
    answer("cuMemAllocFromPoolAsync", || {
        owner(pool)?.pools.get(pool)?;
        // SAFETY: the caller gives a place for an address.
        unsafe { allocate_in_order(address, bytes, stream) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(address: u64, stream: Handle) -> Status {
    answer("cuMemFreeAsync", || {
        let mut state = outside_capture(stream, "give back")?;
        free(&mut state, address)?;
        state.check()
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut Handle, ordinal: i32) -> Status {
    answer("cuDeviceGetDefaultMemPool", || {
        let first = device(ordinal)?.pools.iter().map(|(handle, _)| handle).next();
        // SAFETY: the caller gives a place for a pool.
        unsafe { put(pool, first.unwrap_or(0)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetMemPool(pool: *mut Handle, ordinal: i32) -> Status {
    // SAFETY: the caller gives a place for a pool.
    answer("cuDeviceGetMemPool", || unsafe { put(pool, device(ordinal)?.pool) })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceSetMemPool(ordinal: i32, pool: Handle) -> Status {
    answer("cuDeviceSetMemPool", || {
        let mut state = device(ordinal)?;
        state.pools.get(pool)?;
        state.pool = pool;
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolCreate(pool: *mut Handle, _properties: *const c_void) -> Status {
    answer("cuMemPoolCreate", || {
        let mut state = current()?;
        let handle = state.new_handle();
        state.pools.insert(handle, Pool::default());
        // SAFETY: the caller gives a place for a pool.
        unsafe { put(pool, handle) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolDestroy(pool: Handle) -> Status {
    answer("cuMemPoolDestroy", || {
        let mut state = owner(pool)?;
        let first = state.pools.iter().map(|(handle, _)| handle).next().unwrap_or(0);
        if pool == first {
            return fail(Status::INVALID_VALUE, "the default pool stays");
        }
        state.pools.remove(pool)?;
        if state.pool == pool {
            state.pool = first;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolTrimTo(pool: Handle, _bytes_to_keep: usize) -> Status {
    // A pool keeps nothing that it could give back.
    answer("cuMemPoolTrimTo", || owner(pool)?.pools.get(pool).map(drop))
}

/// Attributes 1 to 3 are switches of 32 bits, 4 is a threshold, 5 to 8 are what is and was in use.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolGetAttribute(pool: Handle, attribute: u32, value: *mut c_void) -> Status {
    answer("cuMemPoolGetAttribute", || {
        let state = owner(pool)?;
        let setting = state.pools.get(pool)?.settings.get(&attribute).copied();
        let (free, total) = state.machine.memory();
        // SAFETY: the caller gives a place of the attribute's size.
        unsafe {
            match attribute {
                1..=3 => put(value.cast::<i32>(), setting.unwrap_or(1) as i32),
                4 => put(value.cast::<u64>(), setting.unwrap_or(0)),
                5 | 7 => put(value.cast::<u64>(), total - free),
                6 | 8 => put(value.cast::<u64>(), setting.unwrap_or(0).max(total - free)),
                _ => fail(Status::INVALID_VALUE, format!("a pool has no attribute {attribute}")),
            }
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolSetAttribute(pool: Handle, attribute: u32, value: *const c_void) -> Status {
    answer("cuMemPoolSetAttribute", || {
        if value.is_null() {
            return fail(Status::INVALID_VALUE, "the value is missing");
        }
        // SAFETY: the caller gives a value of the attribute's size.
        let value = unsafe {
            match attribute {
                1..=3 => u64::from(value.cast::<u32>().read_unaligned()),
                4 | 6 | 8 => value.cast::<u64>().read_unaligned(),
                _ => return fail(Status::INVALID_VALUE, format!("attribute {attribute} of a pool cannot be set")),
            }
        };
        owner(pool)?.pools.get_mut(pool)?.settings.insert(attribute, value);
        Ok(())
    })
}
