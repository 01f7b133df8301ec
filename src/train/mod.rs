//! Training: steps, runs, what they measure, and what they leave on disk.
//!
//! [`step`] is one update and one evaluation; [`engine`] runs steps on a device; [`trainer`] repeats them and can stop and go on, [`progress`] is what it tells;
//! [`config`] says what a run is, [`presets`] are named choices; [`transfer`] begins with another network's weights, [`distill`] imitates it;
//! [`watch`] looks at what it does, [`trial`] tries it before; [`history`] reads a run's figures back,
//! [`ensemble`] lets several networks judge;
//! [`metrics`], [`checkpoint`], [`tensorboard`] and [`rundir`] know no tensors: they take numbers, names and paths. Read in that order, then
//! `cli/mod.rs`.

mod averaged;
pub mod checkpoint;
pub mod config;
pub mod distill;
pub mod engine;
pub mod ensemble;
pub mod history;
pub mod metrics;
pub mod presets;
pub mod progress;
pub mod rundir;
mod shares;
pub mod step;
pub mod tensorboard;
pub mod trained;
pub mod trainer;
pub mod transfer;
pub mod trial;
pub mod watch;

pub use crate::disk;
pub use checkpoint::{Array, Checkpoint};
pub use config::Config;
pub use distill::Teacher;
pub use ensemble::{Ensemble, Judged, Opinion, Views};
pub use metrics::{Confusion, Report, Running};
pub use presets::Preset;
pub use progress::Observer;
pub use rundir::{Record, RunDir};
pub use trained::Trained;
pub use trainer::Trainer;
pub use transfer::Transfer;
