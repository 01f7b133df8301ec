//! Training: steps, runs, what they measure, and what they leave on disk.
//!
//! [`step`] is one update and one evaluation; [`engine`] runs steps on a device; [`trainer`] repeats them and can stop and go on; [`config`] says what a run is;
//! [`transfer`] begins with another network's weights, [`distill`] imitates it;
//! [`presets`] are named choices, [`history`] reads a run's figures back, [`ensemble`] lets several networks judge;
//! [`metrics`], [`checkpoint`] and [`rundir`] know no tensors: they take numbers, names and paths. Read in that order, then
//! `cli/mod.rs`.

pub mod checkpoint;
pub mod config;
pub mod distill;
pub mod engine;
pub mod ensemble;
pub mod history;
pub mod metrics;
pub mod presets;
pub mod rundir;
pub mod step;
pub mod trained;
pub mod trainer;
pub mod transfer;

pub use crate::disk;
pub use checkpoint::{Array, Checkpoint};
pub use config::Config;
pub use distill::Teacher;
pub use ensemble::{Ensemble, Judged, Opinion, Views};
pub use metrics::{Confusion, Report, Running};
pub use presets::Preset;
pub use rundir::{Record, RunDir};
pub use trained::Trained;
pub use trainer::{Observer, Trainer};
pub use transfer::Transfer;
