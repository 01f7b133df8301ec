//! Modules: PTX that was loaded, its kernels and its variables.
//!
//! Only PTX: a cubin is code for one GPU's processor, which nothing here can run, so it is refused as a GPU refuses the cubin of
//! another, and a program then takes its PTX. Read next: `launch.rs`.

use super::context::current;
use super::device::SHARED_ON_REQUEST;
use super::state::{Handle, owner};
use super::status::{Outcome, Status, answer, fail};
use super::{capture, put, put_if_wanted, put_text, text};
use crate::{Kernel, Module};
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A kernel of a module that is loaded on a device.
pub struct Function {
    pub handle: Handle,
    module_handle: Handle,
    module: Arc<Module>,
    /// Its place in the module.
    index: usize,
    name: CString,
    /// The most dynamic shared memory that a launch may ask for.
    pub dynamic_shared: AtomicU32,
}

impl Function {
    /// The kernel itself.
    pub fn kernel(&self) -> &Kernel {
        &self.module.kernels[self.index]
    }
}

/// The text of an image, if it is PTX.
///
/// # Safety
/// `image` is null, a cubin, or a text that ends in zero.
unsafe fn ptx(image: *const c_void) -> Outcome<String> {
    if image.is_null() {
        return fail(Status::INVALID_VALUE, "the image is missing");
    }
    // SAFETY: every image has four bytes: a text that is shorter ends before the comparison fails.
    let starts_with = |magic: &[u8]| magic.iter().enumerate().all(|(at, byte)| unsafe { *image.cast::<u8>().add(at) } == *byte);
    if starts_with(b"\x7fELF") {
        return fail(Status::NO_BINARY_FOR_GPU, "a cubin runs on its own GPU only; the emulator runs PTX");
    }
    if starts_with(b"\x50\xed\x55\xba") {
        return fail(Status::NO_BINARY_FOR_GPU, "the emulator takes PTX by itself, not in a fat binary");
    }
    // SAFETY: neither a cubin nor a fat binary, so a text that ends in zero.
    Ok(unsafe { CStr::from_ptr(image.cast()) }.to_string_lossy().into_owned())
}

/// Loads PTX into the current context.
unsafe fn load(place: *mut Handle, ptx: &str) -> Outcome {
    let mut state = current()?;
    capture::refuse_unsafe(&mut state, "a module cannot be loaded during a capture")?;
    let module = match crate::parse(ptx) {
        Ok(module) => Arc::new(module),
        Err(error) => return fail(Status::INVALID_PTX, error.message),
    };
    let handle = state.new_handle();
    state.modules.insert(handle, module);
    // SAFETY: the caller gives a place for a module.
    unsafe { put(place, handle) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> Status {
    // SAFETY: the caller gives an image and a place for a module.
    answer("cuModuleLoadData", || unsafe { load(module, &ptx(image)?) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadFatBinary(module: *mut Handle, image: *const c_void) -> Status {
    // SAFETY: the caller gives an image and a place for a module.
    answer("cuModuleLoadFatBinary", || unsafe { load(module, &ptx(image)?) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoad(module: *mut Handle, file: *const c_char) -> Status {
    answer("cuModuleLoad", || {
        // SAFETY: the caller gives the name of a file.
        let file = unsafe { text(file) }?;
        let mut image = match std::fs::read(&file) {
            Ok(image) => image,
            Err(error) => return fail(Status::FILE_NOT_FOUND, format!("{file}: {error}")),
        };
        image.extend([0; 4]);
        // SAFETY: the image ends in zero; the caller gives a place for a module.
        unsafe { load(module, &ptx(image.as_ptr().cast())?) }
    })
}

/// Options of loading that mean something here: where to write what was wrong.
const ERROR_LOG: u32 = 5;
const ERROR_LOG_SIZE: u32 = 6;
const INFO_LOG_SIZE: u32 = 4;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const c_void,
    count: u32,
    options: *const u32,
    values: *mut *mut c_void,
) -> Status {
    answer("cuModuleLoadDataEx", || {
        // SAFETY: the caller gives an image and a place for a module.
        let loaded = unsafe { ptx(image).and_then(|ptx| load(module, &ptx)) };
        let message = loaded.as_ref().err().map_or("", |failure| &failure.message);
        let (mut log, mut size) = (std::ptr::null_mut::<c_char>(), None);
        if !options.is_null() && !values.is_null() {
            for at in 0..count as usize {
                // SAFETY: the caller gives so many options and values.
                let (option, value) = unsafe { (options.add(at).read(), values.add(at)) };
                match option {
                    // SAFETY: as above.
                    ERROR_LOG => log = unsafe { value.read() }.cast(),
                    ERROR_LOG_SIZE => size = Some(value),
                    // SAFETY: as above; the size is given back as what was written: nothing.
                    INFO_LOG_SIZE => unsafe { value.write(std::ptr::null_mut()) },
                    _ => {}
                }
            }
        }
        if let Some(size) = size {
            // SAFETY: the value of this option is the room in the log, and on return what was written to it.
            unsafe {
                let room = value_as_u32(size.read()) as usize;
                if !log.is_null() && room > 0 {
                    put_text(log, room, message)?;
                }
                size.write(std::ptr::without_provenance_mut(message.len().min(room.saturating_sub(1))));
            }
        }
        loaded
    })
}

/// An option's value is a number of 32 bits in the place of an address.
fn value_as_u32(value: *mut c_void) -> u32 {
    value as usize as u32
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: Handle) -> Status {
    answer("cuModuleUnload", || {
        let mut state = owner(module)?;
        state.modules.remove(module)?;
        let functions: Vec<Handle> =
            state.functions.iter().filter(|(_, function)| function.module_handle == module).map(|(handle, _)| handle).collect();
        for function in functions {
            state.functions.remove(function)?;
        }
        state.check()
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(place: *mut Handle, module: Handle, name: *const c_char) -> Status {
    answer("cuModuleGetFunction", || {
        // SAFETY: the caller gives a name.
        let name = unsafe { text(name) }?;
        let mut state = owner(module)?;
        state.check()?;
        let loaded = state.modules.get(module)?.clone();
        let Some(index) = loaded.kernels.iter().position(|kernel| kernel.name == name) else {
            let known: Vec<&str> = loaded.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
            return fail(Status::NOT_FOUND, format!("no kernel '{name}' among {}", known.join(", ")));
        };
        let known = state.functions.iter().find(|(_, function)| function.module_handle == module && function.index == index);
        let handle = match known {
            Some((handle, _)) => handle,
            None => {
                let handle = state.new_handle();
                let default = super::device::SHARED.saturating_sub(loaded.kernels[index].shared_bytes);
                let dynamic_shared = AtomicU32::new(default);
                let name = CString::new(name).unwrap_or_default();
                let function = Function { handle, module_handle: module, module: loaded, index, name, dynamic_shared };
                state.functions.insert(handle, Arc::new(function));
                handle
            }
        };
        // SAFETY: the caller gives a place for a function.
        unsafe { put(place, handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: Handle, name: *const c_char) -> Status {
    answer("cuModuleGetGlobal", || {
        // SAFETY: the caller gives a name.
        let name = unsafe { text(name) }?;
        let mut state = owner(module)?;
        state.check()?;
        let loaded = state.modules.get(module)?.clone();
        let Some((found, size)) = state.machine.variable(&loaded, &name) else {
            return fail(Status::NOT_FOUND, format!("no variable '{name}'"));
        };
        // SAFETY: the caller may give places for two numbers.
        unsafe {
            put_if_wanted(address, found);
            put_if_wanted(bytes, size as usize);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetLoadingMode(mode: *mut u32) -> Status {
    // Eager: there is nothing to save by loading late.
    // SAFETY: the caller gives a place for a mode.
    answer("cuModuleGetLoadingMode", || unsafe { put(mode, 1) })
}

// ---- Functions

/// The function of a handle.
pub fn function(handle: Handle) -> Outcome<Arc<Function>> {
    let state = owner(handle)?;
    state.check()?;
    state.functions.get(handle).cloned()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetName(place: *mut *const c_char, function: Handle) -> Status {
    answer("cuFuncGetName", || {
        let function = self::function(function)?;
        // SAFETY: the caller gives a place for a text, which lives as long as the function's module.
        unsafe { put(place, function.name.as_ptr()) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetModule(place: *mut Handle, function: Handle) -> Status {
    // SAFETY: the caller gives a place for a module.
    answer("cuFuncGetModule", || unsafe { put(place, self::function(function)?.module_handle) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetAttribute(value: *mut i32, attribute: i32, function: Handle) -> Status {
    answer("cuFuncGetAttribute", || {
        let function = self::function(function)?;
        let kernel = function.kernel();
        let found = match attribute {
            0 => kernel.max_threads,
            1 => kernel.shared_bytes,
            3 => kernel.local_bytes,
            // The version of PTX and of the processor that it is for.
            5 | 6 => 80,
            8 => function.dynamic_shared.load(Ordering::Relaxed),
            // Registers are given out by the assembler, which has no part in this.
            2 | 4 | 7 | 9..=17 => 0,
            _ => return fail(Status::INVALID_VALUE, format!("a function has no attribute {attribute}")),
        };
        // SAFETY: the caller gives a place for a number.
        unsafe { put(value, found as i32) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: Handle, attribute: i32, value: i32) -> Status {
    answer("cuFuncSetAttribute", || {
        let function = self::function(function)?;
        match attribute {
            8 => {
                let most = SHARED_ON_REQUEST.saturating_sub(function.kernel().shared_bytes);
                let Some(bytes) = u32::try_from(value).ok().filter(|bytes| *bytes <= most) else {
                    let why = format!("{value} bytes of dynamic shared memory; at most {most} are left for them");
                    return fail(Status::INVALID_VALUE, why);
                };
                function.dynamic_shared.store(bytes, Ordering::Relaxed);
                Ok(())
            }
            // How the cache is divided, and clusters, which compute capability 8.0 has not: without effect.
            9..=17 => Ok(()),
            _ => fail(Status::INVALID_VALUE, format!("attribute {attribute} of a function cannot be set")),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetCacheConfig(function: Handle, _preference: u32) -> Status {
    answer("cuFuncSetCacheConfig", || self::function(function).map(drop))
}
