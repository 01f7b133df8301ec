//! The driver: is it there, does it work, and what its errors mean.
//!
//! cudarc panics when `libcuda.so.1` or one of its functions is missing, so everything is asked for first, in an order in which no
//! question can panic. Read next: `context.rs`.

use super::emulator;
use crate::error::Error;
use cudarc::driver::{DriverError, result, sys};
use std::ffi::CStr;

/// The oldest driver interface that is enough: CUDA 12.0.
const OLDEST: i32 = 12_000;

/// Functions by which a driver that is too old is known: cudarc panics at the call of one that is not there.
const NEEDED: [&str; 14] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuModuleLoadDataEx",
    "cuLaunchKernel",
    "cuStreamBeginCapture_v2",
    "cuGraphInstantiateWithFlags",
    "cuEventElapsedTime",
];

/// How many GPUs the driver sees, and the CUDA version it supports, as in 12040. The error says why there is none. Never panics.
pub fn probe() -> std::result::Result<(usize, i32), String> {
    // SAFETY: only tries to load the library and looks whether that worked.
    if !unsafe { sys::is_culib_present() } {
        return Err("no NVIDIA driver: libcuda.so.1 could not be loaded".into());
    }
    for name in NEEDED {
        // SAFETY: the library is there; the function is looked up, not called.
        if unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err() {
            return Err(format!("the NVIDIA driver is too old: it has no {name}"));
        }
    }
    let broken = |e: DriverError| format!("the NVIDIA driver does not work: {}", describe(e));
    let mut version = 0;
    // SAFETY: writes one number; may be called before cuInit.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(broken)?;
    if version < OLDEST {
        let dotted = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
        return Err(format!("the NVIDIA driver supports CUDA {} only; {} or newer is needed", dotted(version), dotted(OLDEST)));
    }
    let none = "the NVIDIA driver sees no GPU (is CUDA_VISIBLE_DEVICES set?)";
    match result::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(none.into()),
        done => done.map_err(broken)?,
    }
    match result::device::get_count().map_err(broken)? {
        count if count > 0 => Ok((count as usize, version)),
        _ => Err(none.into()),
    }
}

/// An error of the driver by name, number and meaning, as far as it knows them.
pub fn describe(e: DriverError) -> String {
    let mut texts = [std::ptr::null(), std::ptr::null()];
    // SAFETY: each call writes a pointer to a text that lives as long as the library, or leaves it null.
    let [name, meaning] = unsafe {
        let _ = sys::cuGetErrorName(e.0, &mut texts[0]);
        let _ = sys::cuGetErrorString(e.0, &mut texts[1]);
        texts.map(|text| if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() })
    };
    let name = if name.is_empty() { "an error unknown to it".to_string() } else { name };
    format!("{name} ({}){}{meaning}", e.0 as u32, if meaning.is_empty() { "" } else { ": " })
}

/// The error of something done on a device.
pub fn failed(device: &str, what: &str, e: DriverError) -> Error {
    use sys::CUresult as Code;
    let error = Error::device(format!("{device}: {what}: {}", describe(e)));
    match e.0 {
        Code::CUDA_ERROR_OUT_OF_MEMORY => error.hint("lower --batch, or free memory on the device"),
        Code::CUDA_ERROR_ILLEGAL_ADDRESS | Code::CUDA_ERROR_LAUNCH_FAILED | Code::CUDA_ERROR_MISALIGNED_ADDRESS => {
            error.hint(match emulator::get() {
                Some(_) => "the message names the line of the kernel; EMUCUDA_MODE=checked finds what the fast mode does not look for",
                None => "run the same with --device emu and EMUCUDA_MODE=checked to see the line of the kernel",
            })
        }
        Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED | Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED => {
            error.hint("a captured step must not allocate, copy from or to the host, or wait; --no-capture runs it eagerly")
        }
        Code::CUDA_ERROR_DEVICE_UNAVAILABLE => error.hint("another program holds the device"),
        Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => error.hint("restart the machine: its driver was updated"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn probing_never_panics() {
        let _ = super::probe();
    }
}
