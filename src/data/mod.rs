//! Data sets.

pub mod dataset;
pub mod idx;
mod random;

pub use dataset::{Dataset, Normalization, Splits, permutation, validation_split};

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
