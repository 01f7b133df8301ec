//! Memory of a device: taking it, giving it back, copying and filling. And memory of the host that is meant for copies.
//!
//! Read next: `pool.rs`.

use super::context::{check_current, current, current_or_lost};
use super::operation::{HostAddress, Operation, perform_now, submit};
use super::state::{Handle, owner};
use super::status::{Failure, Outcome, Status, answer, fail};
use super::{capture, put, put_if_wanted};
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Mutex;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Status {
    answer("cuMemAlloc", || {
        let mut state = current()?;
        capture::refuse_unsafe(&mut state, "memory cannot be taken during a capture")?;
        let taken = super::pool::allocate(&mut state, bytes)?;
        // SAFETY: the caller gives a place for an address.
        unsafe { put(address, taken) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> Status {
    answer("cuMemFree", || {
        let mut state = current_or_lost()?;
        capture::refuse_unsafe(&mut state, "memory cannot be given back during a capture")?;
        super::pool::free(&mut state, address)?;
        state.check()
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Status {
    answer("cuMemGetInfo", || {
        let (bytes_free, bytes_total) = current()?.machine.memory();
        // SAFETY: the caller may give places for two numbers.
        unsafe {
            put_if_wanted(free, bytes_free as usize);
            put_if_wanted(total, bytes_total as usize);
        }
        Ok(())
    })
}

// ---- Copies

fn check_host(pointer: *const c_void, bytes: usize) -> Outcome<HostAddress> {
    if pointer.is_null() && bytes > 0 {
        return fail(Status::INVALID_VALUE, format!("{bytes} bytes at a null pointer of the host"));
    }
    if isize::try_from(bytes).is_err() {
        return fail(Status::INVALID_VALUE, format!("{bytes} bytes are more than any memory has"));
    }
    Ok(HostAddress::new(pointer))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> Status {
    answer("cuMemcpyHtoD", || {
        let operation = Operation::ToDevice { to, from: check_host(from, bytes)?, bytes };
        // SAFETY: the caller vouches for its memory.
        unsafe { perform_now(operation, "a synchronous copy cannot be captured") }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) -> Status {
    answer("cuMemcpyHtoDAsync", || {
        let operation = Operation::ToDevice { to, from: check_host(from, bytes)?, bytes };
        // SAFETY: the caller vouches for its memory.
        unsafe { submit(stream, operation) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> Status {
    answer("cuMemcpyDtoH", || {
        let operation = Operation::ToHost { to: check_host(to, bytes)?, from, bytes };
        // SAFETY: the caller vouches for its memory.
        unsafe { perform_now(operation, "a synchronous copy cannot be captured") }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Handle) -> Status {
    answer("cuMemcpyDtoHAsync", || {
        let operation = Operation::ToHost { to: check_host(to, bytes)?, from, bytes };
        // SAFETY: the caller vouches for its memory.
        unsafe { submit(stream, operation) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Status {
    // SAFETY: no memory of the program takes part.
    answer("cuMemcpyDtoD", || unsafe {
        perform_now(Operation::Copy { to, from, bytes: bytes as u64 }, "a synchronous copy cannot be captured")
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> Status {
    // SAFETY: no memory of the program takes part.
    answer("cuMemcpyDtoDAsync", || unsafe { submit(stream, Operation::Copy { to, from, bytes: bytes as u64 }) })
}

/// Between two devices, by way of the host: no two devices are ever locked at once.
fn copy_across(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) -> Outcome {
    let mut source = owner(from_context)?;
    source.check()?;
    if source.owns(to_context) {
        let done = source.machine.copy(to, from, bytes as u64).map_err(Failure::of_memory);
        return source.note(done);
    }
    let mut data = vec![0; bytes];
    let done = source.machine.read(from, &mut data).map_err(Failure::of_memory);
    source.note(done)?;
    drop(source);
    let mut target = owner(to_context)?;
    target.check()?;
    let done = target.machine.write(to, &data).map_err(Failure::of_memory);
    target.note(done)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeer(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) -> Status {
    answer("cuMemcpyPeer", || {
        let mut state = current()?;
        capture::refuse_unsafe(&mut state, "a synchronous copy cannot be captured")?;
        drop(state);
        copy_across(to, to_context, from, from_context, bytes)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeerAsync(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle) -> Status {
    answer("cuMemcpyPeerAsync", || {
        let (state, stream) = super::stream::find(stream)?;
        if state.streams.get(stream)?.capture.is_some() {
            return fail(Status::NOT_SUPPORTED, "the emulator does not capture copies between devices");
        }
        drop(state);
        copy_across(to, to_context, from, from_context, bytes)
    })
}

// ---- Fills

/// A fill of `count` numbers, which must lie at a multiple of their size.
fn filling(address: u64, pattern: &[u8], count: usize) -> Outcome<Operation> {
    if !address.is_multiple_of(pattern.len() as u64) {
        return fail(Status::INVALID_VALUE, format!("{address:#x} is no multiple of the {} bytes of a number", pattern.len()));
    }
    Ok(Operation::Fill { address, pattern: pattern.to_vec(), count: count as u64 })
}

macro_rules! fills {
    ($($now:ident, $queued:ident, $number:ty;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $now(address: u64, value: $number, count: usize) -> Status {
            // SAFETY: no memory of the program takes part.
            answer(stringify!($now), || unsafe {
                perform_now(filling(address, &value.to_ne_bytes(), count)?, "a synchronous fill cannot be captured")
            })
        }

        #[unsafe(no_mangle)]
        extern "C" fn $queued(address: u64, value: $number, count: usize, stream: Handle) -> Status {
            // SAFETY: no memory of the program takes part.
            answer(stringify!($queued), || unsafe { submit(stream, filling(address, &value.to_ne_bytes(), count)?) })
        }
    )*};
}

fills! {
    cuMemsetD8_v2, cuMemsetD8Async, u8;
    cuMemsetD16_v2, cuMemsetD16Async, u16;
    cuMemsetD32_v2, cuMemsetD32Async, u32;
}

// ---- Memory of the host

/// What `cuMemHostAlloc` gave out, by address: how large.
static HOST: Mutex<BTreeMap<usize, Layout>> = Mutex::new(BTreeMap::new());

unsafe fn allocate_host(place: *mut *mut c_void, bytes: usize) -> Outcome {
    check_current()?;
    let layout = Layout::from_size_align(bytes, 4096);
    let Some(layout) = layout.ok().filter(|layout| layout.size() > 0) else {
        return fail(Status::INVALID_VALUE, format!("{bytes} bytes cannot be had"));
    };
    // SAFETY: the layout is not empty.
    let memory = unsafe { std::alloc::alloc_zeroed(layout) };
    if memory.is_null() {
        return fail(Status::OUT_OF_MEMORY, format!("the host has no {bytes} bytes left"));
    }
    HOST.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(memory as usize, layout);
    // SAFETY: the caller gives a place for an address.
    unsafe { put(place, memory.cast()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(place: *mut *mut c_void, bytes: usize, _flags: u32) -> Status {
    // SAFETY: the caller gives a place for an address.
    answer("cuMemHostAlloc", || unsafe { allocate_host(place, bytes) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocHost_v2(place: *mut *mut c_void, bytes: usize) -> Status {
    // SAFETY: the caller gives a place for an address.
    answer("cuMemAllocHost", || unsafe { allocate_host(place, bytes) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeHost(memory: *mut c_void) -> Status {
    answer("cuMemFreeHost", || {
        let known = HOST.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&(memory as usize));
        let Some(layout) = known else {
            return fail(Status::INVALID_VALUE, format!("{memory:?} was not taken with cuMemHostAlloc, or was given back"));
        };
        // SAFETY: taken with this layout, and no longer in the table, so given back once.
        unsafe { std::alloc::dealloc(memory.cast(), layout) };
        Ok(())
    })
}

/// Registering makes copies fast on a GPU; here all memory of the host is alike.
#[unsafe(no_mangle)]
extern "C" fn cuMemHostRegister_v2(_memory: *mut c_void, _bytes: usize, _flags: u32) -> Status {
    answer("cuMemHostRegister", check_current)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostUnregister(_memory: *mut c_void) -> Status {
    answer("cuMemHostUnregister", check_current)
}
