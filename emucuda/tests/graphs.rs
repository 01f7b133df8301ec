//! Stream capture and graphs, through cudarc on the built library.

// In a test, to stop is to say so.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Device, grid, refused};
use cudarc::driver::sys::{self, CUresult as Code, CUstreamCaptureMode as Mode};
use cudarc::driver::{DevicePtr, DriverError, PushKernelArg, result};

/// How often the numbers of a buffer were counted up.
fn counts(device: &Device, x: &cudarc::driver::CudaSlice<i32>) -> i32 {
    let all = device.stream.clone_dtoh(x).unwrap();
    assert!(all.iter().all(|one| *one == all[0]));
    all[0]
}

/// cudarc's own events would stand in the way of a capture.
fn without_events(device: Device) -> Device {
    // SAFETY: the tests below use one stream, or order streams themselves.
    unsafe { device.context.disable_event_tracking() };
    device
}

fn begin(device: &Device) {
    device.stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
}

fn end(device: &Device) -> Result<Option<cudarc::driver::CudaGraph>, DriverError> {
    device.stream.end_capture(sys::CUgraphInstantiate_flags(0))
}

#[test]
fn a_captured_step_runs_when_it_is_launched() {
    let device = without_events(Device::checked());
    let stream = &device.stream;
    let kernel = device.kernel("count_up");
    let mut x = stream.clone_htod(&[5i32; 100]).unwrap();
    begin(&device);
    assert_eq!(stream.capture_status().unwrap(), sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    stream.memset_zeros(&mut x).unwrap();
    for n in [100i32; 3] {
        // SAFETY: the arguments are the kernel's. The count is copied now: it does not live until the replay.
        unsafe { stream.launch_builder(&kernel).arg(&mut x).arg(&n).launch(grid(1, 128)) }.unwrap();
    }
    let graph = end(&device).unwrap().unwrap();
    assert_eq!(counts(&device, &x), 5);
    for _ in 0..2 {
        graph.upload().unwrap();
        graph.launch().unwrap();
        assert_eq!(counts(&device, &x), 3);
    }
    let mut count = 0;
    // SAFETY: the graph lives, and the places are there.
    unsafe {
        sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut count).result().unwrap();
        let mut nodes = vec![std::ptr::null_mut(); count];
        sys::cuGraphGetNodes(graph.cu_graph(), nodes.as_mut_ptr(), &mut count).result().unwrap();
        let mut kinds = vec![sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY; count];
        for (node, kind) in nodes.iter().zip(&mut kinds) {
            sys::cuGraphNodeGetType(*node, kind).result().unwrap();
        }
        use sys::CUgraphNodeType::{CU_GRAPH_NODE_TYPE_KERNEL as Kernel, CU_GRAPH_NODE_TYPE_MEMSET as Memset};
        assert_eq!(kinds, [Memset, Kernel, Kernel, Kernel]);
    }
}

#[test]
fn what_cannot_be_captured_spoils_the_capture() {
    let device = without_events(Device::fast());
    let stream = &device.stream;
    let kept = stream.alloc_zeros::<u8>(4).unwrap();
    let (address, _guard) = DevicePtr::device_ptr(&kept, stream);
    let mut host = [0u8; 4];
    type Attempt<'a> = Box<dyn FnMut() -> Result<(), DriverError> + 'a>;
    // SAFETY: the address is that of four bytes.
    let mut tries: Vec<(&str, Attempt)> = unsafe {
        vec![
            ("cuMemAlloc", Box::new(|| result::malloc_sync(100).map(drop))),
            ("cuMemFree", Box::new(|| result::free_sync(address))),
            ("cuMemcpyDtoH", Box::new(|| result::memcpy_dtoh_sync(&mut host, address))),
            ("cuMemcpyHtoD", Box::new(|| result::memcpy_htod_sync(address, &[1u8; 4]))),
            ("cuStreamSynchronize", Box::new(|| stream.synchronize())),
            ("cuCtxSynchronize", Box::new(|| device.context.synchronize())),
        ]
    };
    for (call, attempt) in &mut tries {
        begin(&device);
        refused(attempt(), Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, &[call]);
        assert_eq!(stream.capture_status().unwrap(), sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
        refused(end(&device).map(drop), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, &["spoilt"]);
        // And it is over.
        stream.synchronize().unwrap();
    }
    drop(tries);
    // A capture of this thread's alone leaves the others in peace; in relaxed mode it leaves this one, too.
    begin(&device);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            device.context.bind_to_thread().unwrap();
            // SAFETY: given back at once.
            unsafe { result::malloc_sync(100).and_then(|x| result::free_sync(x)) }
        });
        other.join().unwrap().unwrap();
    });
    assert!(end(&device).unwrap().is_some());
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    // SAFETY: given back at once.
    unsafe { result::malloc_sync(100).and_then(|x| result::free_sync(x)) }.unwrap();
    assert!(end(&device).unwrap().is_some());
    refused(end(&device).map(drop), Code::CUDA_ERROR_ILLEGAL_STATE, &["does not capture"]);
}

#[test]
fn a_capture_spreads_over_streams_that_wait() {
    let device = without_events(Device::fast());
    let (one, two) = (&device.stream, device.context.new_stream().unwrap());
    let kernel = device.kernel("count_up");
    let mut x = one.alloc_zeros::<i32>(10).unwrap();
    let mut count_in = |stream: &cudarc::driver::CudaStream| {
        // SAFETY: the arguments are the kernel's.
        unsafe { stream.launch_builder(&kernel).arg(&mut x).arg(&10i32).launch(grid(1, 32)) }.unwrap();
    };
    begin(&device);
    count_in(one);
    two.join(one).unwrap();
    count_in(&two);
    one.join(&two).unwrap();
    count_in(one);
    let graph = end(&device).unwrap().unwrap();
    // The other stream is free again.
    count_in(&two);
    graph.launch().unwrap();
    // Work that nobody waits for would be lost.
    begin(&device);
    two.join(one).unwrap();
    count_in(&two);
    refused(end(&device).map(drop), Code::CUDA_ERROR_STREAM_CAPTURE_UNJOINED, &["does not wait for"]);
    assert_eq!(counts(&device, &x), 4);
    // What happened outside is no part of a capture.
    let outside = two.record_event(None).unwrap();
    begin(&device);
    refused(one.wait(&outside), Code::CUDA_ERROR_STREAM_CAPTURE_ISOLATION, &[]);
    assert!(end(&device).is_err());
}

#[test]
fn a_graph_takes_over_new_arguments() {
    let device = without_events(Device::fast());
    let stream = &device.stream;
    let kernel = device.kernel("count_up");
    let other = device.kernel("scale");
    let (mut x, mut y) = (stream.alloc_zeros::<i32>(4).unwrap(), stream.alloc_zeros::<i32>(4).unwrap());
    let captured = |x: &mut cudarc::driver::CudaSlice<i32>| {
        begin(&device);
        // SAFETY: the arguments are the kernel's.
        unsafe { stream.launch_builder(&kernel).arg(x).arg(&4i32).launch(grid(1, 32)) }.unwrap();
        end(&device).unwrap().unwrap()
    };
    let (graph, new) = (captured(&mut x), captured(&mut y));
    // SAFETY: both graphs live; the place for the result is there.
    let update = |with: sys::CUgraph| unsafe {
        let mut result: sys::CUgraphExecUpdateResultInfo = std::mem::zeroed();
        sys::cuGraphExecUpdate_v2(graph.cu_graph_exec(), with, &mut result).result()
    };
    update(new.cu_graph()).unwrap();
    graph.launch().unwrap();
    assert_eq!((counts(&device, &x), counts(&device, &y)), (0, 1));
    begin(&device);
    // SAFETY: the kernel is not run.
    unsafe { stream.launch_builder(&other).arg(&mut x).arg(&1f32).arg(&4i32).launch(grid(1, 32)) }.unwrap();
    let different = end(&device).unwrap().unwrap();
    refused(update(different.cu_graph()), Code::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, &["another kernel"]);
}

#[test]
fn annotations_are_part_of_a_capture() {
    let device = without_events(Device::checked());
    let stream = &device.stream;
    let kernel = device.kernel("count_up");
    let mut x = stream.alloc_zeros::<i32>(64).unwrap();
    let (address, _) = {
        let (address, guard) = DevicePtr::device_ptr(&x, stream);
        (address, drop(guard))
    };
    begin(&device);
    assert_eq!(device.mark(address, 256), 0);
    // SAFETY: the arguments are the kernel's.
    unsafe { stream.launch_builder(&kernel).arg(&mut x).arg(&64i32).launch(grid(1, 64)) }.unwrap();
    let graph = end(&device).unwrap().unwrap();
    // Not marked yet: the zeros are there.
    assert_eq!(counts(&device, &x), 0);
    // Marked by the replay: the kernel reads what nobody wrote.
    refused(graph.launch(), Code::CUDA_ERROR_LAUNCH_FAILED, &["count_up", "never written"]);
}
