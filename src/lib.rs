//! cugrad: a tensor and autograd engine, small enough to read.
//!
//! The modules in the order in which they build on each other, which is a good order to read them in: [`device`] (memory and
//! SIMD), [`tensor`], [`autograd`], [`ops`], then `nn`, `optim`, `models`, [`data`], `train`, `export`, [`plot`] and `cli`.
//! A module uses only those before it.

pub mod autograd;
pub mod cli;
pub mod data;
pub mod device;
pub mod disk;
pub mod error;
pub mod export;
pub mod models;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod plot;
pub mod tensor;
pub mod train;

pub use error::{Error, Kind, Result};
