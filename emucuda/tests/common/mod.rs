//! The library under test in the driver's place, for tests that go through cudarc.

// Each test program uses a part of it.
#![allow(dead_code)]

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, sys};
use cudarc::nvrtc::Ptx;
use libloading::Library;
use std::ffi::{CStr, c_char};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Loads the library before cudarc looks for a driver, and keeps it loaded.
pub fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder: PathBuf = std::env::current_exe().unwrap().parent().unwrap().into();
        // SAFETY: our own library, which runs no code when it is loaded.
        unsafe { Library::new(folder.join("libemucuda.so")) }.unwrap()
    })
}

/// The shape of a launch along one axis.
pub fn grid(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

/// An emulated device for the calling test alone.
pub struct Device {
    pub ordinal: usize,
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
}

impl Device {
    pub fn checked() -> Device {
        Self::open(1)
    }

    pub fn fast() -> Device {
        Self::open(0)
    }

    fn open(checked: i32) -> Device {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let ordinal = NEXT.fetch_add(1, Ordering::Relaxed);
        assert_eq!(control::<extern "C" fn(i32, i32) -> u32>("emucuda_mode")(ordinal as i32, checked), 0);
        let context = CudaContext::new(ordinal).unwrap();
        let stream = context.new_stream().unwrap();
        Device { ordinal, context, stream }
    }

    /// A kernel of `driver.cu`.
    pub fn kernel(&self, name: &str) -> CudaFunction {
        self.kernel_of(include_str!("../kernels/driver.ptx"), name)
    }

    pub fn kernel_of(&self, ptx: &str, name: &str) -> CudaFunction {
        self.context.load_module(Ptx::from_src(ptx)).unwrap().load_function(name).unwrap()
    }

    /// The first fault's report.
    pub fn fault(&self) -> String {
        text("emucuda_fault", self.ordinal)
    }

    pub fn counters(&self) -> String {
        text("emucuda_counters", self.ordinal)
    }

    pub fn reset(&self) {
        assert_eq!(control::<extern "C" fn(i32) -> u32>("emucuda_reset")(self.ordinal as i32), 0);
    }

    pub fn mark(&self, address: u64, bytes: u64) -> u32 {
        control::<extern "C" fn(i32, u64, u64) -> u32>("emucuda_mark")(self.ordinal as i32, address, bytes)
    }

    pub fn release(&self, address: u64) -> u32 {
        control::<extern "C" fn(i32, u64) -> u32>("emucuda_release")(self.ordinal as i32, address)
    }
}

/// One of the functions that no driver has.
pub fn control<F: Copy>(name: &str) -> F {
    // SAFETY: callers name the function's true type.
    unsafe { *library().get::<F>(name.as_bytes()).unwrap() }
}

fn text(name: &str, ordinal: usize) -> String {
    let ask = control::<extern "C" fn(i32) -> *const c_char>(name);
    // SAFETY: the text is valid until this thread asks again.
    unsafe { CStr::from_ptr(ask(ordinal as i32)) }.to_string_lossy().into_owned()
}

/// Asserts that a call failed with this status and a message that has all these parts.
#[track_caller]
pub fn refused<T>(done: Result<T, DriverError>, status: sys::CUresult, parts: &[&str]) {
    let Err(error) = done else { panic!("expected {status:?}, but it worked") };
    let message = error.error_string().unwrap().to_string_lossy().into_owned();
    assert_eq!(error.0, status, "{message}");
    for part in parts {
        assert!(message.contains(part), "'{part}' is missing in: {message}");
    }
}
