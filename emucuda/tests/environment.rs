//! What the environment says: in a program of its own, as it is read once.

// In a test, to stop is to say so.
#![allow(clippy::unwrap_used)]

mod common;

use common::library;
use cudarc::driver::{CudaContext, sys};

#[test]
fn the_environment_chooses_mode_number_and_size_of_devices() {
    // SAFETY: nothing else runs in this program yet.
    unsafe {
        std::env::set_var("EMUCUDA_MODE", "strict");
        std::env::set_var("EMUCUDA_DEVICES", "2");
        std::env::set_var("EMUCUDA_MEMORY", "1048576");
    }
    library();
    let wrong = CudaContext::new(0);
    common::refused(wrong, sys::CUresult::CUDA_ERROR_INVALID_VALUE, &["EMUCUDA_MODE is 'strict'", "'checked'"]);
    // SAFETY: as above.
    unsafe { std::env::set_var("EMUCUDA_MODE", "checked") };
    // The devices themselves are made at the first look at one.
    assert_eq!(CudaContext::device_count().unwrap(), 2);
    let context = CudaContext::new(1).unwrap();
    assert_eq!(context.total_mem().unwrap(), 1 << 20);
    let stream = context.default_stream();
    // SAFETY: that its content is unknown is what this is about.
    let x = unsafe { stream.alloc::<u8>(8) }.unwrap();
    common::refused(stream.clone_dtoh(&x), sys::CUresult::CUDA_ERROR_LAUNCH_FAILED, &["never written"]);
}
