//! Training: the figures of a run, its checkpoints and its directory.
//!
//! What a run measures is in [`metrics`], what it needs to go on after a stop in [`checkpoint`], where it keeps both in [`rundir`].
//! None of these knows a tensor or a device: they take numbers, names and paths, and are tested without a model.
//! Read next: `metrics.rs`.

pub mod checkpoint;
pub mod metrics;
pub mod rundir;

pub use checkpoint::{Array, Checkpoint};
pub use metrics::{Confusion, Report, Running};
pub use rundir::{Record, RunDir};
