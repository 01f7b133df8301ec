//! What a call answers: a status, and for a failure a message that says more.
//!
//! A real driver has one fixed text for each status. Here `cuGetErrorString` tells what went wrong this time: the report of a
//! kernel's fault with its line, or which argument was refused and why. Read next: `state.rs`.

use super::put;
use crate::{Fault, FaultKind};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// A `CUresult`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

macro_rules! statuses {
    ($($name:ident = $code:literal, $meaning:literal;)*) => {
        impl Status {
            $(pub const $name: Status = Status($code);)*

            /// The driver's name for it and its usual meaning.
            fn describe(self) -> Option<(&'static CStr, &'static CStr)> {
                // The concatenations end in the one zero that a C text needs.
                let text = |s: &'static str| CStr::from_bytes_with_nul(s.as_bytes()).unwrap_or_default();
                match self.0 {
                    0 => Some((c"CUDA_SUCCESS", c"no error")),
                    $($code => Some((text(concat!("CUDA_ERROR_", stringify!($name), "\0")), text(concat!($meaning, "\0")))),)*
                    _ => None,
                }
            }
        }
    };
}

impl Status {
    pub const SUCCESS: Status = Status(0);
}

statuses! {
    INVALID_VALUE = 1, "invalid argument";
    OUT_OF_MEMORY = 2, "out of memory";
    NOT_INITIALIZED = 3, "initialization error";
    INVALID_DEVICE = 101, "invalid device ordinal";
    INVALID_CONTEXT = 201, "invalid device context";
    NO_BINARY_FOR_GPU = 209, "no kernel image is available for execution on the device";
    UNSUPPORTED_LIMIT = 215, "limit is not supported on this architecture";
    INVALID_PTX = 218, "a PTX JIT compilation failed";
    FILE_NOT_FOUND = 301, "file not found";
    INVALID_HANDLE = 400, "invalid resource handle";
    ILLEGAL_STATE = 401, "the operation cannot be performed in the present state";
    NOT_FOUND = 500, "named symbol not found";
    ILLEGAL_ADDRESS = 700, "an illegal memory access was encountered";
    LAUNCH_OUT_OF_RESOURCES = 701, "too many resources requested for launch";
    CONTEXT_IS_DESTROYED = 709, "context is destroyed";
    MISALIGNED_ADDRESS = 716, "misaligned address";
    LAUNCH_FAILED = 719, "unspecified launch failure";
    NOT_PERMITTED = 800, "operation not permitted";
    NOT_SUPPORTED = 801, "operation not supported";
    STREAM_CAPTURE_UNSUPPORTED = 900, "operation not permitted when stream is capturing";
    STREAM_CAPTURE_INVALIDATED = 901, "operation failed due to a previous error during capture";
    STREAM_CAPTURE_MERGE = 902, "operation would result in a merge of separate capture sequences";
    STREAM_CAPTURE_UNMATCHED = 903, "capture was not ended in the same stream as it began";
    STREAM_CAPTURE_UNJOINED = 904, "capturing stream has unjoined work";
    STREAM_CAPTURE_ISOLATION = 905, "dependency created on uncaptured work in another stream";
    STREAM_CAPTURE_IMPLICIT = 906, "operation would make the legacy stream depend on a capturing blocking stream";
    CAPTURED_EVENT = 907, "operation not permitted on an event last recorded in a capturing stream";
    STREAM_CAPTURE_WRONG_THREAD = 908, "attempt to terminate a thread-local capture sequence from another thread";
    GRAPH_EXEC_UPDATE_FAILURE = 910, "the graph update was not performed because it included changes which violated constraints";
    UNKNOWN = 999, "unknown error";
}

/// Why a call did not do what was asked.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: Status,
    pub message: String,
    /// The message is the report of a fault: it says itself where it happened, the name of the call would only be noise.
    pub reported: bool,
}

/// What a call comes to.
pub type Outcome<T = ()> = Result<T, Failure>;

/// A failure of the call itself.
pub fn fail<T>(status: Status, message: impl Into<String>) -> Outcome<T> {
    Err(Failure { status, message: message.into(), reported: false })
}

impl Failure {
    /// The failure that a kernel's fault is.
    pub fn of_launch(fault: Fault) -> Failure {
        let status = match fault.kind {
            FaultKind::OutOfBounds | FaultKind::Freed => Status::ILLEGAL_ADDRESS,
            FaultKind::Misaligned => Status::MISALIGNED_ADDRESS,
            FaultKind::Launch => Status::LAUNCH_OUT_OF_RESOURCES,
            FaultKind::Unsupported => Status::NOT_SUPPORTED,
            _ => Status::LAUNCH_FAILED,
        };
        Failure { status, message: fault.message, reported: true }
    }

    /// The failure that a bad copy, fill or annotation is.
    pub fn of_memory(fault: Fault) -> Failure {
        let status = match fault.kind {
            FaultKind::Uninitialised => Status::LAUNCH_FAILED,
            _ => Status::INVALID_VALUE,
        };
        Failure { status, message: fault.message, reported: false }
    }

    /// Whether a real context would be lost: every later call gives the same error.
    pub fn is_sticky(&self) -> bool {
        self.reported && [Status::ILLEGAL_ADDRESS, Status::MISALIGNED_ADDRESS, Status::LAUNCH_FAILED].contains(&self.status)
    }
}

thread_local! {
    /// The last failure of this thread.
    static LAST: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

/// Runs the body of a C function: no panic leaves it, and its failure is kept for `cuGetErrorString`.
pub fn answer(call: &str, body: impl FnOnce() -> Outcome) -> Status {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        fail(Status::UNKNOWN, format!("the emulator itself failed: {}", text.unwrap_or("it does not say why")))
    });
    match outcome {
        Ok(()) => Status::SUCCESS,
        Err(mut failure) => {
            if !failure.reported {
                failure.message = format!("{call}: {}", failure.message);
            }
            let status = failure.status;
            // A thread that is ending has no place for it any more.
            let _ = LAST.try_with(|last| last.replace(Some(failure)));
            status
        }
    }
}

/// A C text that lives as long as the library, as callers of `cuGetErrorString` take for granted. Equal texts are kept once.
fn keep(message: &str) -> *const c_char {
    static KEPT: Mutex<BTreeSet<&'static CStr>> = Mutex::new(BTreeSet::new());
    let message = CString::new(message.replace('\0', "\u{fffd}")).unwrap_or_default();
    let mut kept = KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(known) = kept.get(message.as_c_str()) {
        return known.as_ptr();
    }
    let new: &'static CStr = Box::leak(message.into_boxed_c_str());
    kept.insert(new);
    new.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(status: Status, name: *mut *const c_char) -> Status {
    let found = status.describe();
    // SAFETY: the caller gives a place for a pointer.
    let written = unsafe { put(name, found.map_or(std::ptr::null(), |(name, _)| name.as_ptr())) };
    if found.is_some() && written.is_ok() { Status::SUCCESS } else { Status::INVALID_VALUE }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(status: Status, meaning: *mut *const c_char) -> Status {
    let last = LAST.try_with(|last| last.borrow().clone()).unwrap_or_default();
    let found = match last.filter(|last| last.status == status) {
        Some(last) => Some(keep(&last.message)),
        None => status.describe().map(|(_, meaning)| meaning.as_ptr()),
    };
    // SAFETY: the caller gives a place for a pointer.
    let written = unsafe { put(meaning, found.unwrap_or(std::ptr::null())) };
    if found.is_some() && written.is_ok() { Status::SUCCESS } else { Status::INVALID_VALUE }
}

/// A setting from the environment, if it is there and not empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;

    fn told(status: Status) -> String {
        let mut place = std::ptr::null();
        // SAFETY: a place for a pointer, which then points to a text that is never freed.
        unsafe {
            assert_eq!(cuGetErrorString(status, &mut place), Status::SUCCESS);
            text(place).unwrap()
        }
    }

    #[test]
    fn a_failure_says_what_happened_to_its_own_thread() {
        assert_eq!(answer("cuTry", || fail(Status::INVALID_VALUE, "seven is too many")), Status::INVALID_VALUE);
        assert_eq!(told(Status::INVALID_VALUE), "cuTry: seven is too many");
        assert_eq!(told(Status::OUT_OF_MEMORY), "out of memory");
        let elsewhere = std::thread::spawn(|| told(Status::INVALID_VALUE)).join().unwrap();
        assert_eq!(elsewhere, "invalid argument");
    }

    #[test]
    fn a_panic_becomes_a_status() {
        assert_eq!(answer("cuTry", || panic!("no such state")), Status::UNKNOWN);
        assert_eq!(told(Status::UNKNOWN), "cuTry: the emulator itself failed: no such state");
    }

    #[test]
    fn statuses_have_the_drivers_names() {
        let mut place = std::ptr::null();
        // SAFETY: a place for a pointer, which then points to a constant text.
        unsafe {
            assert_eq!(cuGetErrorName(Status(716), &mut place), Status::SUCCESS);
            assert_eq!(text(place).unwrap(), "CUDA_ERROR_MISALIGNED_ADDRESS");
            assert_eq!(cuGetErrorName(Status(12345), &mut place), Status::INVALID_VALUE);
        }
    }
}
