//! Launching kernels.
//!
//! A real driver checks the shape of a launch and knows how many bytes each argument has; so does this. Read next:
//! `operation.rs`.

use super::device::{MAX_BLOCK, MAX_GRID, MAX_THREADS};
use super::module::{Function, function};
use super::operation::{Operation, submit};
use super::state::Handle;
use super::status::{Outcome, Status, answer, fail};
use std::ffi::c_void;
use std::sync::atomic::Ordering;

/// Shape of a launch.
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
}

/// Keys of the list `extra`, the other way to give arguments: all of them in one piece of memory.
const EXTRA_END: usize = 0;
const EXTRA_BUFFER: usize = 1;
const EXTRA_SIZE: usize = 2;

/// The bytes of all arguments, each at its offset.
///
/// # Safety
/// `each` is null or has a pointer to each parameter's value; `extra` is null or a list that ends in its end.
unsafe fn arguments(function: &Function, each: *const *const c_void, extra: *const *mut c_void) -> Outcome<Vec<u8>> {
    let kernel = function.kernel();
    let mut bytes = vec![0; kernel.parameter_bytes];
    if !each.is_null() {
        for (at, parameter) in kernel.parameters.iter().enumerate() {
            // SAFETY: the caller gives as many pointers as the kernel has parameters.
            let value = unsafe { each.add(at).read() }.cast::<u8>();
            if value.is_null() {
                return fail(Status::INVALID_VALUE, format!("{}: the pointer to argument {at} is null", kernel.name));
            }
            // SAFETY: the value has the parameter's size.
            let value = unsafe { std::slice::from_raw_parts(value, parameter.size) };
            bytes[parameter.offset..parameter.offset + parameter.size].copy_from_slice(value);
        }
        return Ok(bytes);
    }
    if extra.is_null() {
        let count = kernel.parameters.len();
        return if count == 0 { Ok(bytes) } else { fail(Status::INVALID_VALUE, format!("{}: {count} arguments are missing", kernel.name)) };
    }
    let (mut buffer, mut size, mut at) = (std::ptr::null::<u8>(), 0, 0);
    loop {
        // SAFETY: the list goes on until its end.
        let (key, value) = unsafe { (extra.add(at).read() as usize, extra.add(at + 1)) };
        match key {
            EXTRA_END => break,
            // SAFETY: a key other than the end has a value.
            EXTRA_BUFFER => buffer = unsafe { value.read() }.cast(),
            // SAFETY: the value of this key points to a number.
            EXTRA_SIZE => size = unsafe { value.read().cast::<usize>().read() },
            _ => return fail(Status::INVALID_VALUE, format!("{}: unknown key {key} in the list of arguments", kernel.name)),
        }
        at += 2;
    }
    if buffer.is_null() || size > bytes.len() {
        let why = format!("{}: {size} bytes of arguments; the kernel takes {}", kernel.name, bytes.len());
        return fail(Status::INVALID_VALUE, why);
    }
    // SAFETY: the caller gives so many bytes.
    bytes[..size].copy_from_slice(unsafe { std::slice::from_raw_parts(buffer, size) });
    Ok(bytes)
}

fn check(function: &Function, shape: &Shape) -> Outcome {
    let Shape { grid, block, shared } = *shape;
    let kernel = function.kernel();
    let refuse = |status, why: String| fail(status, format!("{}: {why}", kernel.name));
    for axis in 0..3 {
        if grid[axis] == 0 || grid[axis] > MAX_GRID[axis] {
            return refuse(Status::INVALID_VALUE, format!("grid {grid:?}: each size must be 1 to {MAX_GRID:?}"));
        }
        if block[axis] == 0 || block[axis] > MAX_BLOCK[axis] {
            return refuse(Status::INVALID_VALUE, format!("block {block:?}: each size must be 1 to {MAX_BLOCK:?}"));
        }
    }
    // Each factor is at most 1024, so this fits.
    let threads: u32 = block.iter().product();
    if threads > MAX_THREADS {
        return refuse(Status::INVALID_VALUE, format!("block {block:?} has {threads} threads; at most {MAX_THREADS} are possible"));
    }
    if threads > kernel.max_threads {
        let why = format!("block {block:?} has {threads} threads; the kernel is compiled for at most {}", kernel.max_threads);
        return refuse(Status::LAUNCH_OUT_OF_RESOURCES, why);
    }
    let most = function.dynamic_shared.load(Ordering::Relaxed);
    if shared > most {
        let why = format!("{shared} bytes of dynamic shared memory; {most} are allowed (cuFuncSetAttribute can allow more)");
        return refuse(Status::INVALID_VALUE, why);
    }
    Ok(())
}

/// # Safety
/// As for [`arguments`].
unsafe fn launch(handle: Handle, shape: Shape, stream: Handle, each: *const *const c_void, extra: *const *mut c_void) -> Outcome {
    let function = function(handle)?;
    check(&function, &shape)?;
    // SAFETY: the caller vouches for the arguments.
    let arguments = unsafe { arguments(&function, each, extra) }?;
    if !super::stream::find(stream)?.0.owns(handle) {
        return fail(Status::INVALID_HANDLE, "the kernel and the stream belong to different devices");
    }
    let Shape { grid, block, shared } = shape;
    // SAFETY: no memory of the program takes part.
    unsafe { submit(stream, Operation::Kernel { function, grid, block, shared, arguments }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    stream: Handle,
    each: *const *const c_void,
    extra: *const *mut c_void,
) -> Status {
    let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared };
    // SAFETY: the caller vouches for the arguments.
    answer("cuLaunchKernel", || unsafe { launch(function, shape, stream, each, extra) })
}

/// A `CUlaunchConfig`.
#[repr(C)]
struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Handle,
    attributes: *const c_void,
    count: u32,
}

/// Attributes (priorities, programmatic order, clusters) change no result and are left out of account.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernelEx(
    config: *const Config,
    function: Handle,
    each: *const *const c_void,
    extra: *const *mut c_void,
) -> Status {
    answer("cuLaunchKernelEx", || {
        if config.is_null() {
            return fail(Status::INVALID_VALUE, "the configuration is missing");
        }
        // SAFETY: not null, and the caller gives a configuration.
        let config = unsafe { config.read() };
        let _ = (config.attributes, config.count);
        let shape = Shape { grid: config.grid, block: config.block, shared: config.shared };
        // SAFETY: the caller vouches for the arguments.
        unsafe { launch(function, shape, config.stream, each, extra) }
    })
}
