//! Training: the figures of a run, its checkpoints and its directory.
//!
//! What a run measures is in [`metrics`].
//! Read next: `metrics.rs`.

pub mod metrics;

pub use metrics::{Confusion, Report, Running};
