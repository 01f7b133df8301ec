//! What no driver has: modes, counters, reports, and annotations of a pool that lies above the driver.
//!
//! A program finds these functions with `dlsym`, as it finds the driver's. All take the ordinal of a device and work without a
//! context. `README.md` shows how to use them.

use super::capture;
use super::operation::Operation;
use super::state::device;
use super::status::{Outcome, Status, answer};
use crate::{Counters, Mode};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::fmt::Write;

thread_local! {
    /// The last text that this thread was given.
    static TEXT: RefCell<CString> = RefCell::default();
}

/// A text that is valid until the calling thread asks for another one.
fn give(text: String) -> *const c_char {
    let text = CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
    TEXT.with_borrow_mut(|place| {
        *place = text;
        place.as_ptr()
    })
}

/// Chooses whether the device checks every access (1) or runs fast (0).
#[unsafe(no_mangle)]
extern "C" fn emucuda_mode(ordinal: i32, checked: i32) -> Status {
    answer("emucuda_mode", || {
        device(ordinal)?.machine.set_mode(if checked != 0 { Mode::Checked } else { Mode::Fast });
        Ok(())
    })
}

/// Does an annotation in the order of the program: at once, or each time the graph runs that this thread captures.
fn annotate(ordinal: i32, operation: Operation) -> Outcome {
    let mut state = device(ordinal)?;
    match capture::append_of_thread(&mut state, operation) {
        // SAFETY: no memory of the program takes part.
        Some(operation) => unsafe { operation.perform(&mut state) },
        None => Ok(()),
    }
}

/// A pool hands out this piece of an allocation: only these bytes are valid, and their content counts as never written.
#[unsafe(no_mangle)]
extern "C" fn emucuda_mark(ordinal: i32, address: u64, bytes: u64) -> Status {
    answer("emucuda_mark", || annotate(ordinal, Operation::Mark { address, bytes }))
}

/// A pool has the piece at this address back: nobody may touch it until it is marked again.
#[unsafe(no_mangle)]
extern "C" fn emucuda_release(ordinal: i32, address: u64) -> Status {
    answer("emucuda_release", || annotate(ordinal, Operation::Release { address }))
}

/// How many bytes all allocations together may have, from the next one on.
#[unsafe(no_mangle)]
extern "C" fn emucuda_capacity(ordinal: i32, bytes: u64) -> Status {
    answer("emucuda_capacity", || {
        device(ordinal)?.machine.set_capacity(bytes);
        Ok(())
    })
}

/// What the kernels of the device asked for since the last reset: JSON, an object by kernel name.
#[unsafe(no_mangle)]
extern "C" fn emucuda_counters(ordinal: i32) -> *const c_char {
    let mut text = String::from("{}");
    answer("emucuda_counters", || {
        text = json(device(ordinal)?.machine.counters());
        Ok(())
    });
    give(text)
}

fn json(counters: &BTreeMap<String, Counters>) -> String {
    let mut text = String::from("{");
    for (at, (kernel, c)) in counters.iter().enumerate() {
        let fields = [
            ("launches", c.launches),
            ("warp_instructions", c.warp_instructions),
            ("divergent_branches", c.divergent_branches),
            ("barriers", c.barriers),
            ("global_requests", c.global_requests),
            ("global_sectors", c.global_sectors),
            ("ideal_sectors", c.ideal_sectors),
            ("shared_requests", c.shared_requests),
            ("bank_cycles", c.bank_cycles),
            ("ideal_bank_cycles", c.ideal_bank_cycles),
            ("flops", c.flops),
        ];
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        // A name in PTX has letters, digits, _ and $ only: nothing to escape. Writing to a text cannot fail.
        let _ = write!(text, "{}\"{kernel}\":{{{}}}", if at == 0 { "" } else { "," }, fields.join(","));
    }
    text + "}"
}

/// Counts from zero again.
#[unsafe(no_mangle)]
extern "C" fn emucuda_reset_counters(ordinal: i32) -> Status {
    answer("emucuda_reset_counters", || {
        device(ordinal)?.machine.reset_counters();
        Ok(())
    })
}

/// The report of the first fault since the last reset; empty if there was none.
#[unsafe(no_mangle)]
extern "C" fn emucuda_fault(ordinal: i32) -> *const c_char {
    let mut text = String::new();
    answer("emucuda_fault", || {
        text.clone_from(&device(ordinal)?.report);
        Ok(())
    });
    give(text)
}

/// Empty memory, no fault, no counts; mode, streams and modules stay, captures are given up.
#[unsafe(no_mangle)]
extern "C" fn emucuda_reset(ordinal: i32) -> Status {
    answer("emucuda_reset", || {
        device(ordinal)?.reset();
        Ok(())
    })
}

/// The version of this library.
#[unsafe(no_mangle)]
extern "C" fn emucuda_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_an_object_by_kernel() {
        let counters =
            BTreeMap::from([("a".to_string(), Counters::default()), ("b".to_string(), Counters { launches: 2, ..Default::default() })]);
        let text = json(&counters);
        assert!(
            text.starts_with("{\"a\":{\"launches\":0,") && text.contains("},\"b\":{\"launches\":2,") && text.ends_with("\"flops\":0}}")
        );
    }
}
