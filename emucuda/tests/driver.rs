//! cudarc's safe interface on the built library: what programs do, and what they do wrong. Graphs are in `graphs.rs`.

// In a test, to stop is to say so.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Device, control, grid, library, refused};
use cudarc::driver::sys::{self, CUresult as Code};
use cudarc::driver::{CudaContext, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::Ptx;
use std::ffi::{CString, c_void};

#[test]
fn there_are_many_devices_and_they_say_what_they_are() {
    library();
    assert_eq!(CudaContext::device_count().unwrap(), 64);
    let device = Device::fast();
    assert!(device.context.name().unwrap().contains("emucuda"));
    assert_eq!(device.context.compute_capability().unwrap(), (8, 0));
    let (free, total) = device.context.mem_get_info().unwrap();
    assert_eq!((free, total), (16 << 30, 16 << 30));
    assert_eq!(device.context.total_mem().unwrap(), total);
    assert_ne!(device.context.uuid().unwrap().bytes, Device::fast().context.uuid().unwrap().bytes);
    refused(CudaContext::new(64), Code::CUDA_ERROR_INVALID_DEVICE, &["no device 64", "there are 64"]);
}

#[test]
fn a_kernel_does_what_it_says_in_both_modes() {
    for device in [Device::fast(), Device::checked()] {
        let stream = &device.stream;
        let scale = device.kernel("scale");
        let numbers: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        let mut x = stream.clone_htod(&numbers).unwrap();
        // SAFETY: the arguments are the kernel's.
        unsafe { stream.launch_builder(&scale).arg(&mut x).arg(&0.5f32).arg(&1000i32).launch(grid(4, 256)) }.unwrap();
        let scaled = stream.clone_dtoh(&x).unwrap();
        assert!(scaled.iter().zip(&numbers).all(|(a, b)| *a == b * 0.5));
        stream.synchronize().unwrap();
        device.context.synchronize().unwrap();
        let counters = device.counters();
        assert!(counters.starts_with("{\"scale\":{\"launches\":1,"), "{counters}");
        control::<extern "C" fn(i32) -> u32>("emucuda_reset_counters")(device.ordinal as i32);
        assert_eq!(device.counters(), "{}");
    }
}

#[test]
fn memory_is_copied_filled_and_counted() {
    let device = Device::checked();
    let stream = &device.stream;
    let (before, _) = device.context.mem_get_info().unwrap();
    let a = stream.clone_htod(&[1u32, 2, 3, 4]).unwrap();
    let mut b = stream.alloc_zeros::<u32>(4).unwrap();
    let (after, _) = device.context.mem_get_info().unwrap();
    assert!(after < before);
    stream.memcpy_dtod(&a.slice(1..3), &mut b.slice_mut(2..4)).unwrap();
    assert_eq!(stream.clone_dtoh(&b).unwrap(), [0, 0, 2, 3]);
    drop((a, b));
    assert_eq!(device.context.mem_get_info().unwrap().0, before);
    // SAFETY: the address is that of 16 bytes, used by nobody else.
    unsafe {
        let x = result::malloc_sync(16).unwrap();
        sys::cuMemsetD32_v2(x, 0x0102_0304, 4).result().unwrap();
        sys::cuMemsetD16Async(x + 2, 0x0506, 3, stream.cu_stream()).result().unwrap();
        result::memset_d8_sync(x + 15, 9, 1).unwrap();
        let mut bytes = [0u8; 16];
        result::memcpy_dtoh_sync(&mut bytes, x).unwrap();
        assert_eq!(bytes, [4, 3, 6, 5, 6, 5, 6, 5, 4, 3, 2, 1, 4, 3, 2, 9]);
        refused(sys::cuMemsetD32_v2(x + 2, 0, 1).result(), Code::CUDA_ERROR_INVALID_VALUE, &["multiple of the 4 bytes"]);
        refused(result::memcpy_dtoh_sync(&mut bytes, x + 8), Code::CUDA_ERROR_INVALID_VALUE, &["cuMemcpyDtoH", "16 bytes"]);
        result::free_sync(x).unwrap();
        assert!(result::free_sync(x).is_err());
        assert!(result::memcpy_dtoh_sync(&mut bytes, x).is_err());
        result::free_sync(0).unwrap();
    }
    // A wrong copy is an error of its own: the device goes on.
    device.context.synchronize().unwrap();
}

#[test]
fn devices_copy_to_each_other() {
    let (one, two) = (Device::checked(), Device::checked());
    let x = one.stream.clone_htod(&[1i32, 2, 3]).unwrap();
    // SAFETY: the copy writes all of them.
    let (mut y, mut z) = unsafe { (two.stream.alloc::<i32>(3).unwrap(), one.stream.alloc::<i32>(3).unwrap()) };
    two.stream.memcpy_dtod(&x, &mut y).unwrap();
    assert_eq!(two.stream.clone_dtoh(&y).unwrap(), [1, 2, 3]);
    let context = one.context.cu_ctx();
    let ((to, _written), (from, _read)) = (DevicePtrMut::device_ptr_mut(&mut z, &one.stream), DevicePtr::device_ptr(&x, &one.stream));
    // SAFETY: both addresses are those of three numbers.
    unsafe { sys::cuMemcpyPeerAsync(to, context, from, context, 12, one.stream.cu_stream()) }.result().unwrap();
    let mut numbers = [0i32; 3];
    // SAFETY: as above.
    unsafe { result::memcpy_dtoh_sync(&mut numbers, to) }.unwrap();
    assert_eq!(numbers, [1, 2, 3]);
}

#[test]
fn memory_runs_out() {
    let device = Device::fast();
    control::<extern "C" fn(i32, u64) -> u32>("emucuda_capacity")(device.ordinal as i32, 1 << 20);
    let all = device.stream.alloc_zeros::<u8>(1 << 20).unwrap();
    let (free, total) = device.context.mem_get_info().unwrap();
    assert_eq!((free, total), (0, 1 << 20));
    refused(device.stream.alloc_zeros::<u8>(1), Code::CUDA_ERROR_OUT_OF_MEMORY, &["1 bytes asked for", "0 of 1048576"]);
    drop(all);
    device.stream.alloc_zeros::<u8>(1).unwrap();
}

#[test]
fn pools_have_settings_and_give_memory() {
    let device = Device::fast();
    // SAFETY: handles are those that the driver gave; memory is given back once.
    unsafe {
        let pool = result::device::get_default_mem_pool(device.context.cu_device()).unwrap();
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let mut value = u64::MAX;
        sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut value).cast()).result().unwrap();
        value = 0;
        sys::cuMemPoolGetAttribute(pool, threshold, (&raw mut value).cast()).result().unwrap();
        assert_eq!(value, u64::MAX);
        let x = result::malloc_async(device.stream.cu_stream(), 100).unwrap();
        let used = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
        sys::cuMemPoolGetAttribute(pool, used, (&raw mut value).cast()).result().unwrap();
        assert!(value >= 100);
        result::free_async(x, device.stream.cu_stream()).unwrap();
        sys::cuMemPoolTrimTo(pool, 0).result().unwrap();
    }
}

#[test]
fn memory_of_the_host_is_given_back_once() {
    let device = Device::fast();
    device.context.bind_to_thread().unwrap();
    // SAFETY: 4096 bytes are asked for and used; they are given back once.
    unsafe {
        let host = result::malloc_host(4096, 0).unwrap();
        std::slice::from_raw_parts_mut(host.cast::<u8>(), 4096).fill(1);
        result::free_host(host).unwrap();
        refused(result::free_host(host), Code::CUDA_ERROR_INVALID_VALUE, &["was given back"]);
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Dims {
    rows: i32,
    columns: i32,
    factor: f32,
}
// SAFETY: the same layout as the kernel's structure.
unsafe impl DeviceRepr for Dims {}

#[test]
fn arguments_of_every_size_arrive() {
    let device = Device::checked();
    let stream = &device.stream;
    let kernel = device.kernel_of(include_str!("kernels/arguments.ptx"), "arguments");
    let mut x = stream.alloc_zeros::<f64>(6).unwrap();
    let dims = Dims { rows: 3, columns: -4, factor: 0.25 };
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&mut x).arg(&dims).arg(&200u8).arg(&(1u64 << 40)).arg(&-5i16);
    // SAFETY: the arguments are the kernel's.
    unsafe { launch.launch(grid(1, 32)) }.unwrap();
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [3.0, -4.0, 0.25, 200.0, (1u64 << 40) as f64, -5.0]);
}

#[test]
fn dynamic_shared_memory_must_be_allowed() {
    let device = Device::checked();
    let stream = &device.stream;
    let turn = device.kernel("turn");
    let mut x = stream.clone_htod(&(0..512).collect::<Vec<i32>>()).unwrap();
    let with = |bytes| LaunchConfig { grid_dim: (2, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: bytes };
    // SAFETY: the arguments are the kernel's.
    unsafe { stream.launch_builder(&turn).arg(&mut x).launch(with(1024)) }.unwrap();
    let turned = stream.clone_dtoh(&x).unwrap();
    assert_eq!((turned[0], turned[255], turned[256], turned[511]), (255, 0, 511, 256));
    // SAFETY: as above.
    let done = unsafe { stream.launch_builder(&turn).arg(&mut x).launch(with(50_000)) };
    refused(done, Code::CUDA_ERROR_INVALID_VALUE, &["turn", "50000 bytes", "49152 are allowed"]);
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    turn.set_attribute(attribute, 50_000).unwrap();
    // SAFETY: as above.
    unsafe { stream.launch_builder(&turn).arg(&mut x).launch(with(50_000)) }.unwrap();
    refused(turn.set_attribute(attribute, 1 << 20), Code::CUDA_ERROR_INVALID_VALUE, &["166912 are left"]);
    assert_eq!(turn.get_attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK).unwrap(), 256);
    assert_eq!(turn.occupancy_max_active_blocks_per_multiprocessor(256, 0, None).unwrap(), 8);
    extern "C" fn none(_: i32) -> usize {
        0
    }
    assert_eq!(turn.occupancy_max_potential_block_size(none, 0, 0, None).unwrap(), (16 * 8, 256));
}

#[test]
fn a_launch_of_the_wrong_shape_is_refused_and_does_no_harm() {
    let device = Device::checked();
    let stream = &device.stream;
    let kernel = device.kernel("count_up");
    let mut x = stream.alloc_zeros::<i32>(8).unwrap();
    for (shape, status, part) in [
        (grid(0, 32), Code::CUDA_ERROR_INVALID_VALUE, "grid [0, 1, 1]"),
        (grid(1, 0), Code::CUDA_ERROR_INVALID_VALUE, "block [0, 1, 1]"),
        (grid(1, 2048), Code::CUDA_ERROR_INVALID_VALUE, "block [2048, 1, 1]"),
        (grid(1, 512), Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "compiled for at most 256"),
    ] {
        // SAFETY: the arguments are the kernel's.
        let done = unsafe { stream.launch_builder(&kernel).arg(&mut x).arg(&8i32).launch(shape) };
        refused(done, status, &["count_up", part]);
    }
    // SAFETY: as above.
    unsafe { stream.launch_builder(&kernel).arg(&mut x).arg(&8i32).launch(grid(1, 32)) }.unwrap();
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [1; 8]);
}

#[test]
fn a_fault_is_reported_with_its_line_and_lasts() {
    for device in [Device::checked(), Device::fast()] {
        let stream = &device.stream;
        let kernel = device.kernel("fill_unguarded");
        let mut x = stream.alloc_zeros::<i32>(100).unwrap();
        // SAFETY: the arguments are the kernel's; it goes beyond the end, which the emulator finds.
        let done = unsafe { stream.launch_builder(&kernel).arg(&mut x).arg(&1i32).launch(grid(1, 128)) };
        let parts = ["fill_unguarded", "block (0,0,0)", "out of bounds", "4-byte write"];
        refused(done, Code::CUDA_ERROR_ILLEGAL_ADDRESS, &parts);
        assert!(device.fault().contains("driver.cu:15"), "{}", device.fault());
        // As on a GPU, nothing works any more, and all say why.
        refused(device.context.synchronize(), Code::CUDA_ERROR_ILLEGAL_ADDRESS, &["fill_unguarded"]);
        refused(stream.synchronize(), Code::CUDA_ERROR_ILLEGAL_ADDRESS, &["fill_unguarded"]);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| refused(stream.synchronize(), Code::CUDA_ERROR_ILLEGAL_ADDRESS, &["fill_unguarded"]));
            other.join().unwrap();
        });
        std::mem::forget(x);
        device.reset();
        assert_eq!(device.fault(), "");
        // Modules and streams are as before.
        let mut x = stream.alloc_zeros::<i32>(128).unwrap();
        // SAFETY: as above, and now it stays inside.
        unsafe { stream.launch_builder(&kernel).arg(&mut x).arg(&1i32).launch(grid(1, 128)) }.unwrap();
        assert_eq!(stream.clone_dtoh(&x).unwrap(), [1; 128]);
    }
}

#[test]
fn misaligned_access_has_its_own_code() {
    let device = Device::checked();
    let stream = &device.stream;
    let kernel = device.kernel("copy_by_four");
    let from = stream.alloc_zeros::<f32>(132).unwrap();
    let mut to = stream.alloc_zeros::<f32>(128).unwrap();
    let shifted = from.slice(1..129);
    // SAFETY: the arguments are the kernel's.
    let done = unsafe { stream.launch_builder(&kernel).arg(&mut to).arg(&shifted).launch(grid(1, 32)) };
    refused(done, Code::CUDA_ERROR_MISALIGNED_ADDRESS, &["copy_by_four", "misaligned"]);
}

#[test]
fn never_written_memory_may_not_be_copied_to_the_host() {
    let device = Device::checked();
    // SAFETY: that its content is unknown is what this is about.
    let x = unsafe { device.stream.alloc::<f32>(10) }.unwrap();
    refused(device.stream.clone_dtoh(&x), Code::CUDA_ERROR_LAUNCH_FAILED, &["never written"]);
    assert!(device.fault().contains("never written"));
    // It was a copy, not a kernel: the device goes on.
    device.context.synchronize().unwrap();
}

#[test]
fn modules_come_from_ptx_only() {
    let device = Device::fast();
    let load = |text: &str| device.context.load_module(Ptx::from_src(text)).map(drop);
    refused(load("\x7fELF and so on"), Code::CUDA_ERROR_NO_BINARY_FOR_GPU, &["cubin"]);
    let text = include_str!("kernels/driver.ptx");
    let wrong = text.replacen("mul.f32", "mul.f31", 1);
    assert_ne!(text, wrong);
    refused(load(&wrong), Code::CUDA_ERROR_INVALID_PTX, &["mul.f31"]);
    let module = device.context.load_module(Ptx::from_src(text)).unwrap();
    refused(module.load_function("scales"), Code::CUDA_ERROR_NOT_FOUND, &["'scales'", "count_up"]);
    // What was wrong is written to the log as well.
    let image = CString::new(wrong).unwrap();
    let mut log = [0u8; 256];
    let mut options = [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
    let mut handle = std::ptr::null_mut();
    // SAFETY: the image ends in zero, and the log has the size that is said.
    let done = unsafe { sys::cuModuleLoadDataEx(&mut handle, image.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
    assert_eq!(done, Code::CUDA_ERROR_INVALID_PTX);
    assert!(String::from_utf8_lossy(&log).contains("mul.f31"));
    assert!(values[1] as usize > 10 && (values[1] as usize) < log.len());
}

#[test]
fn variables_of_a_module_can_be_set() {
    let device = Device::checked();
    let stream = &device.stream;
    device.context.bind_to_thread().unwrap();
    let image = CString::new(include_str!("kernels/variables.ptx")).unwrap();
    // SAFETY: the image ends in zero.
    let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.unwrap();
    let look_up = device.kernel_of(include_str!("kernels/variables.ptx"), "look_up");
    let mut x = stream.alloc_zeros::<i32>(32).unwrap();
    // SAFETY: the arguments are the kernel's.
    unsafe { stream.launch_builder(&look_up).arg(&mut x).launch(grid(1, 32)) }.unwrap();
    assert_eq!(stream.clone_dtoh(&x).unwrap()[..5], [8, 9, 10, 11, 8]);
    // SAFETY: the module was loaded; the variable has four bytes.
    unsafe {
        let function = result::module::get_function(module, CString::new("look_up").unwrap()).unwrap();
        let (offset, bytes) = result::module::get_global(module, CString::new("offset").unwrap()).unwrap();
        assert_eq!(bytes, 4);
        result::memcpy_htod_sync(offset, &[100i32]).unwrap();
        let (address, _guard) = DevicePtr::device_ptr(&x, stream);
        let mut argument: [*mut c_void; 1] = [(&raw const address).cast_mut().cast()];
        result::launch_kernel(function, (1, 1, 1), (32, 1, 1), 0, stream.cu_stream(), &mut argument).unwrap();
        let missing = result::module::get_global(module, CString::new("offsets").unwrap());
        refused(missing, Code::CUDA_ERROR_NOT_FOUND, &["'offsets'"]);
    }
    assert_eq!(stream.clone_dtoh(&x).unwrap()[..5], [101, 102, 103, 104, 101]);
}

#[test]
fn events_order_streams_and_measure_time() {
    let device = Device::fast();
    let (one, two) = (&device.stream, device.context.new_stream().unwrap());
    let kernel = device.kernel("count_up");
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let start = one.record_event(timed).unwrap();
    let mut x = one.alloc_zeros::<i32>(1 << 16).unwrap();
    // SAFETY: the arguments are the kernel's.
    unsafe { one.launch_builder(&kernel).arg(&mut x).arg(&(1i32 << 16)).launch(grid(256, 256)) }.unwrap();
    two.join(one).unwrap();
    let end = two.record_event(timed).unwrap();
    end.synchronize().unwrap();
    assert!(end.is_complete());
    let forth = start.elapsed_ms(&end).unwrap();
    assert!(forth > 0.0 && forth < 10_000.0, "{forth}");
    assert_eq!(end.elapsed_ms(&start).unwrap(), -forth);
    let untimed = one.record_event(None).unwrap();
    refused(start.elapsed_ms(&untimed), Code::CUDA_ERROR_INVALID_HANDLE, &["without timing"]);
    let never = device.context.new_event(timed).unwrap();
    refused(start.elapsed_ms(&never), Code::CUDA_ERROR_INVALID_HANDLE, &["never recorded"]);
}

#[test]
fn handles_that_are_gone_are_errors() {
    let device = Device::fast();
    // SAFETY: that they are checked and not followed is what this is about.
    unsafe {
        let gone = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        result::stream::destroy(gone).unwrap();
        refused(result::stream::synchronize(gone), Code::CUDA_ERROR_INVALID_HANDLE, &["no stream of this device"]);
        refused(result::stream::synchronize(0x1234_5678 as _), Code::CUDA_ERROR_INVALID_HANDLE, &["no handle of this driver"]);
        refused(result::event::destroy(device.stream.cu_stream().cast()), Code::CUDA_ERROR_INVALID_HANDLE, &["no event"]);
    }
}

#[test]
fn functions_of_the_host_run_in_order() {
    unsafe extern "C" fn note(data: *mut c_void) {
        // SAFETY: the test gives the address of a number that lives on.
        unsafe { *data.cast::<i32>() += 1 };
        // Calls to the driver are refused rather than waited for.
        // SAFETY: no arguments.
        assert_eq!(unsafe { sys::cuCtxSynchronize() }, Code::CUDA_ERROR_NOT_PERMITTED);
    }
    let device = Device::fast();
    let mut number = 0;
    // SAFETY: the number lives until the end of the test.
    unsafe { sys::cuLaunchHostFunc(device.stream.cu_stream(), Some(note), (&raw mut number).cast()) }.result().unwrap();
    assert_eq!(number, 1);
}

#[test]
fn what_is_in_a_context_goes_with_it() {
    let device = Device::fast();
    let kernel = device.kernel("fill_unguarded");
    let mut x = device.stream.alloc_zeros::<i32>(1).unwrap();
    // SAFETY: the arguments are the kernel's.
    let done = unsafe { device.stream.launch_builder(&kernel).arg(&mut x).arg(&1i32).launch(grid(1, 128)) };
    refused(done, Code::CUDA_ERROR_ILLEGAL_ADDRESS, &[]);
    drop((x, kernel));
    let Device { ordinal, context, stream } = device;
    drop((context, stream));
    let context = CudaContext::new(ordinal).unwrap();
    assert_eq!(context.mem_get_info().unwrap().0, 16 << 30);
    assert_eq!(context.default_stream().clone_dtoh(&context.default_stream().alloc_zeros::<i32>(2).unwrap()).unwrap(), [0, 0]);
}

#[test]
fn threads_use_devices_side_by_side() {
    let devices: Vec<Device> = (0..4).map(|_| Device::fast()).collect();
    std::thread::scope(|scope| {
        for device in &devices {
            scope.spawn(move || {
                let kernel = device.kernel("count_up");
                let mut x = device.stream.alloc_zeros::<i32>(300).unwrap();
                for _ in 0..20 {
                    // SAFETY: the arguments are the kernel's.
                    unsafe { device.stream.launch_builder(&kernel).arg(&mut x).arg(&300i32).launch(grid(2, 256)) }.unwrap();
                }
                assert_eq!(device.stream.clone_dtoh(&x).unwrap(), [20; 300]);
            });
        }
    });
}

#[test]
fn a_pool_above_the_driver_can_say_what_is_in_use() {
    let device = Device::checked();
    let stream = &device.stream;
    let kernel = device.kernel("count_up");
    // SAFETY: the content is never read before it is written, or the emulator says so.
    let block = unsafe { stream.alloc::<i32>(256) }.unwrap();
    let (address, _guard) = DevicePtr::device_ptr(&block, stream);
    let launch = |at: u64, n: i32| {
        // SAFETY: the arguments are the kernel's.
        unsafe { stream.launch_builder(&kernel).arg(&at).arg(&n).launch(grid(1, 256)) }
    };
    assert_eq!(device.mark(address, 40), 0);
    // SAFETY: the address is that of the block.
    unsafe { result::memset_d8_async(address, 0, 40, stream.cu_stream()) }.unwrap();
    launch(address, 10).unwrap();
    assert_eq!(device.release(address), 0);
    assert_eq!(device.mark(address, 40), 0);
    // Handed out again: what was written before counts for nothing.
    refused(launch(address, 10), Code::CUDA_ERROR_LAUNCH_FAILED, &["never written"]);
}
