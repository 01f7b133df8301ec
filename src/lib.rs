//! cugrad: a tensor and autograd engine, small enough to read.

pub mod data;
pub mod error;
pub mod train;

pub use error::{Error, Kind, Result};
