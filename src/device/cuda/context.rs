//! One GPU in use: its context, its one stream, its memory, its kernels.
//!
//! All work of a device goes through one stream, in order: so a buffer may be handed out again as soon as it is dropped, and a
//! captured step is the same as an eager one. A failure that nobody could be told at once (an allocation has no error to give) is
//! remembered and told by the next launch or copy. Read next: `launch.rs`.

use super::driver::{self, failed};
use super::emulator;
use super::image::{self, Function};
use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The most devices that can be used: GPUs, or emulated ones.
pub const DEVICES: usize = 64;

/// The compute capability of the oldest GPUs that the kernels run on: they use bf16 conversions.
const OLDEST: (i32, i32) = (8, 0);

static CONTEXTS: [OnceLock<std::result::Result<Context, Error>>; DEVICES] = [const { OnceLock::new() }; DEVICES];

/// A device that is open.
#[derive(Debug)]
pub struct Context {
    ordinal: usize,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Compute capability, as in (9, 0).
    capability: (i32, i32),
    functions: image::Table,
    /// The first failure that could not be told where it happened.
    failure: OnceLock<Error>,
    /// Is the stream capturing, and what went wrong in it first?
    capture: Mutex<Option<Result<()>>>,
}

/// The device with this number, opened when it is first asked for.
pub fn open(ordinal: usize) -> Result<&'static Context> {
    match CONTEXTS.get(ordinal) {
        Some(place) => place.get_or_init(|| Context::new(ordinal)).as_ref().map_err(Clone::clone),
        // Says that there is no driver, or not so many GPUs.
        None => Err(Context::new(ordinal).err().unwrap_or_else(|| Error::device(format!("only {DEVICES} devices can be used")))),
    }
}

impl Context {
    fn new(ordinal: usize) -> Result<Context> {
        let name = name(ordinal);
        let refuse = |why: String| Error::device(format!("{name} cannot be used: {why}"));
        let (count, _) = driver::probe().map_err(|why| refuse(why).hint("use --device cpu, or --device auto to take what works"))?;
        if ordinal >= count {
            let why = format!("there {} {count} GPU{}", if count == 1 { "is" } else { "are" }, if count == 1 { "" } else { "s" });
            let hides =
                if emulator::get().is_some() { "EMUCUDA_DEVICES says how many there are" } else { "CUDA_VISIBLE_DEVICES hides some" };
            return Err(refuse(why).hint(format!("they are counted from 0; {hides}")));
        }
        let told = |what: &'static str| move |e: DriverError| failed(&self::name(ordinal), what, e);
        let context = CudaContext::new(ordinal).map_err(told("opening the device"))?;
        // SAFETY: everything runs on one stream, so no work has to wait for another stream's events.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(told("creating a stream"))?;
        let capability = context.compute_capability().map_err(told("asking for the compute capability"))?;
        if capability < OLDEST {
            let ((major, minor), (a, b)) = (capability, OLDEST);
            let why = format!("its compute capability is {major}.{minor}; {a}.{b} or newer is needed");
            return Err(refuse(why).hint("use --device cpu, or --device auto to take what works"));
        }
        Ok(Self {
            ordinal,
            context,
            stream,
            capability,
            functions: image::Table::default(),
            failure: OnceLock::new(),
            capture: Mutex::new(None),
        })
    }

    /// `cuda:0`, or `emu:0` for an emulated device.
    pub fn name(&self) -> String {
        name(self.ordinal)
    }

    /// What the maker calls it.
    pub fn product(&self) -> String {
        self.context.name().unwrap_or_else(driver::describe)
    }

    /// Its compute capability, as in (9, 0).
    pub fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// Bytes of memory: free ones, and all.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.bind()?;
        result::mem_get_info().map_err(|e| failed(&self.name(), "asking for free memory", e))
    }

    /// How many multiprocessors it has.
    pub fn multiprocessors(&self) -> usize {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        self.context.attribute(attribute).map_or(1, |n| n.max(1) as usize)
    }

    /// The error of the first failure that could not be told at once.
    pub fn check(&self) -> Result<()> {
        self.failure.get().map_or(Ok(()), |e| Err(e.clone()))
    }

    /// Waits until everything asked for is done.
    pub fn synchronize(&self) -> Result<()> {
        self.check()?;
        self.stream.synchronize().map_err(|e| failed(&self.name(), "waiting for the device", e))
    }

    pub(super) fn bind(&self) -> Result<()> {
        self.check()?;
        self.context.bind_to_thread().map_err(|e| failed(&self.name(), "choosing the device", e))
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    pub(super) fn function(&self, unit: usize, dtype: usize, kernel: usize) -> Result<Function> {
        self.functions.get(self, unit, dtype, kernel)
    }

    /// Keeps a failure for those who ask later, and gives its error. Only the first one is kept: the others follow from it.
    fn remember(&self, what: &str, e: DriverError) -> Error {
        self.keep(failed(&self.name(), what, e))
    }

    /// What goes wrong in a capture spoils that capture, not the device.
    fn keep(&self, error: Error) -> Error {
        match &mut *self.capturing() {
            Some(capture) if capture.is_ok() => *capture = Err(error.clone()),
            Some(_) => {}
            None => {
                self.failure.get_or_init(|| error.clone());
            }
        }
        error
    }

    fn capturing(&self) -> MutexGuard<'_, Option<Result<()>>> {
        self.capture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the stream captures.
    pub(super) fn begin_capture(&self) {
        *self.capturing() = Some(Ok(()));
    }

    /// The capture is over; gives what went wrong in it.
    pub(super) fn end_capture(&self) -> Result<()> {
        self.capturing().take().unwrap_or(Ok(()))
    }

    /// A copy between host and device in a capture would be repeated by each replay, with memory of the host that is gone by then.
    fn refuse_in_capture(&self) -> Result<()> {
        if self.capturing().is_none() {
            return Ok(());
        }
        let error = Error::device(format!("{}: a captured step must not copy from or to the host", self.name()));
        Err(self.keep(error.hint("--no-capture runs steps eagerly")))
    }

    /// Memory from the driver. When there is none, `make_room` gets a chance; if that does not help, the failure is remembered and
    /// the address is 0, which no kernel will be launched with.
    pub(in crate::device) fn allocate(&self, bytes: usize, make_room: impl FnOnce()) -> u64 {
        // SAFETY: the memory is given back with `free`, once, if at all.
        let take = || self.context.bind_to_thread().and_then(|()| unsafe { result::malloc_sync(bytes) });
        let taken = take().or_else(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                make_room();
                take()
            }
            _ => Err(e),
        });
        taken.unwrap_or_else(|e| {
            self.remember(&format!("taking {bytes} bytes of memory"), e);
            0
        })
    }

    /// Gives memory from [`Context::allocate`] back to the driver.
    pub(in crate::device) fn free(&self, address: u64) {
        // SAFETY: the pool gives each address back once, when nobody uses it any more.
        let done = self.context.bind_to_thread().and_then(|()| unsafe { result::free_sync(address) });
        if let Err(e) = done {
            self.remember("giving memory back", e);
        }
    }

    /// Copies bytes to the device. The caller owns the range.
    pub(in crate::device) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.refuse_in_capture()?;
        self.bind()?;
        // SAFETY: the range belongs to the caller's buffer; the driver has taken the bytes when this returns, as they lie in
        // ordinary memory.
        let done = unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) };
        done.map_err(|e| self.remember(&format!("copying {} bytes to the device", bytes.len()), e))
    }

    /// Waits for everything asked for, and copies bytes from the device.
    pub(in crate::device) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.refuse_in_capture()?;
        self.bind()?;
        let (count, stream) = (bytes.len(), self.stream.cu_stream());
        // SAFETY: the range belongs to a buffer that the caller borrows; the bytes are there after the synchronisation.
        let done = unsafe { result::memcpy_dtoh_async(bytes, address, stream).and_then(|()| result::stream::synchronize(stream)) };
        done.map_err(|e| self.remember(&format!("copying {count} bytes from the device"), e))
    }

    /// Copies bytes within the device, in the order of the stream.
    pub(in crate::device) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: both ranges belong to the callers' buffers and do not overlap.
        let done = unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) };
        done.map_err(|e| self.remember(&format!("copying {bytes} bytes on the device"), e))
    }

    /// Sets every byte of a range, in the order of the stream.
    pub(in crate::device) fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the range belongs to the caller's buffer.
        let done = unsafe { result::memset_d8_async(address, byte, bytes, self.stream.cu_stream()) };
        done.map_err(|e| self.remember(&format!("setting {bytes} bytes on the device"), e))
    }
}

/// `cuda:0`, or `emu:0` when the emulator is in the driver's place.
pub fn name(ordinal: usize) -> String {
    format!("{}:{ordinal}", if emulator::get().is_some() { "emu" } else { "cuda" })
}
