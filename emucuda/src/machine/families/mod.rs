//! The instruction families: lane-wise tables first, then what warps do together and with memory.
//!
//! Read next: `integer.rs`.

pub(crate) mod access;
pub(crate) mod atomic;
pub(crate) mod bits;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod copies;
pub(crate) mod float;
pub(crate) mod half;
pub(crate) mod integer;
mod locate;
pub(crate) mod matrix;
mod survey;
pub(crate) mod vote;

use super::registers::Form;

/// The lane-wise form of this name.
pub(crate) fn form(name: &str) -> Option<Form> {
    integer::form(name)
        .or_else(|| bits::form(name))
        .or_else(|| float::form(name))
        .or_else(|| half::form(name))
        .or_else(|| convert::form(name))
        .or_else(|| compare::form(name))
}
