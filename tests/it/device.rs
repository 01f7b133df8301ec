//! The device under test: an emulated GPU in checked mode, or the one that `CUGRAD_TEST_DEVICE` names (`cuda:0`).

use cugrad::device::Device;
use cugrad::device::cuda::context::DEVICES;
use cugrad::device::cuda::emulator;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by the test that uses the one real GPU, until its thread ends: another's launches would end up in its captures.
static TURN: Mutex<()> = Mutex::new(());

thread_local! {
    static MINE: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// A device of this test's own, so that tests run side by side; a real GPU they use one after the other.
pub fn open() -> Device {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    if let Ok(name) = std::env::var("CUGRAD_TEST_DEVICE") {
        MINE.with_borrow_mut(|mine| {
            mine.get_or_insert_with(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
        });
        return Device::open(&name).unwrap_or_else(|e| panic!("CUGRAD_TEST_DEVICE={name}: {e}")).0;
    }
    let ordinal = NEXT.fetch_add(1, Ordering::Relaxed) % DEVICES;
    let (device, _) = Device::open(&format!("emu:{ordinal}")).unwrap_or_else(|e| panic!("{e}"));
    emulator::load().and_then(|emulator| emulator.set_checked(ordinal, true)).unwrap_or_else(|e| panic!("{e}"));
    device
}
