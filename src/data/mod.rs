//! Data sets.

pub mod dataset;
mod random;

pub use dataset::{Dataset, Normalization, Splits, permutation, validation_split};
