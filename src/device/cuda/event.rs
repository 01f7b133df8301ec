//! Time as a device sees it: between two points of its stream.
//!
//! Read next: `benches/kernels.rs`, which measures kernels with it.

use super::context::Context;
use super::driver::failed;
use crate::error::{Error, Result};
use cudarc::driver::{CudaEvent, sys};
use std::time::Duration;

/// A point in a device's stream.
#[derive(Debug)]
pub struct Event {
    event: CudaEvent,
    context: &'static Context,
}

impl Event {
    /// The point behind everything that was asked for until now.
    pub fn now(context: &'static Context) -> Result<Event> {
        let told = |e| failed(&context.name(), "recording an event", e);
        context.bind()?;
        let event = context.stream().record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(told)?;
        Ok(Event { event, context })
    }

    /// Waits for this point, and says how long after `earlier` the device reached it.
    pub fn since(&self, earlier: &Event) -> Result<Duration> {
        let told = |e| failed(&self.context.name(), "measuring time", e);
        self.event.synchronize().map_err(told)?;
        let mut milliseconds = 0.0;
        // cudarc asks for the newest form of this function, which drivers before CUDA 12.8 lack.
        // SAFETY: the function has this type and writes one number; both events were recorded with timing.
        let done = unsafe {
            type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
            let elapsed = sys::culib().get::<Elapsed>(b"cuEventElapsedTime\0");
            let elapsed = elapsed.map_err(|e| Error::device(format!("{}: the driver cannot measure time: {e}", self.context.name())))?;
            elapsed(&mut milliseconds, earlier.event.cu_event(), self.event.cu_event())
        };
        done.result().map_err(told)?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds) / 1e3))
    }
}
