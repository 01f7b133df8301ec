//! Data sets.

pub mod dataset;
mod glyphs;
pub mod idx;
pub mod picture;
mod random;
pub mod synthetic;

pub use dataset::{Dataset, Normalization, Splits, permutation, validation_split};
pub use picture::read_digit;
pub use synthetic::synthetic;

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
