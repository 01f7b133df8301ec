//! What is told of a run: how far it has come, what an epoch or some steps of it came to; and where it computes.
//!
//! Nothing is done here: `trainer.rs` fills these in, an [`Observer`] shows them. Read next: `trainer.rs`.

use super::metrics::Running;
use super::watch::Figures;
use crate::device::Device;
use crate::optim::LossScale;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How far a run has come: all of its state that is not a tensor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs finished.
    pub epoch: u64,
    /// Steps taken in all.
    pub step: u64,
    /// Steps taken in the epoch under way.
    pub step_in_epoch: u64,
    /// Sums over the epoch under way.
    pub sums: Running,
    /// Sums over its steps that no log line has told of yet.
    #[serde(default)]
    pub untold: Running,
    /// The best validation so far, an accuracy or a loss (`Config::monitor`), and its epoch.
    pub best: Option<(f64, u64)>,
    /// Seconds spent in training steps so far, over all resumptions; validation and saving not counted.
    pub seconds: f64,
    /// The loss scale of f16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
}

/// Where and how a run computes: what its result depends on only by rounding.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The device.
    pub device: Device,
    /// On a GPU: capture steps as CUDA graphs. The bits are the same without.
    pub capture: bool,
}

impl Place {
    /// The CPU.
    pub const CPU: Place = Place { device: Device::Cpu, capture: false };
}

/// How many steps are taken between two looks at a device, which cost a wait.
#[derive(Debug)]
pub(super) struct Stretch {
    /// As many as are taken now, if there is nothing to be looked at earlier.
    pub length: usize,
    longest: usize,
}

impl Stretch {
    pub fn new(device: Device) -> Self {
        Self { length: 1, longest: if device == Device::Cpu { 1 } else { 1024 } }
    }

    /// Doubles while stretches take less than a tenth of a second, so that a run still reacts at once.
    pub fn adapt(&mut self, took: Duration) {
        if took < Duration::from_millis(50) {
            self.length = (2 * self.length).min(self.longest);
        }
    }
}

/// The end of an epoch, for those who print it.
#[derive(Debug, Clone, Copy)]
pub struct Epoch {
    /// Its number, from 1.
    pub epoch: u64,
    /// Sums over the training images as they were learned from.
    pub train: Running,
    /// Sums over the validation images, if there are any.
    pub val: Option<Running>,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Training images per second.
    pub samples_per_s: f64,
    /// Is this the best checkpoint so far?
    pub best: bool,
}

/// Some steps of an epoch, for those who print them.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// The epoch's number, from 1.
    pub epoch: u64,
    /// The last of the steps, by its number in the epoch, from 1; and how many the epoch has.
    pub step: (u64, u64),
    /// Sums over the images of these steps.
    pub sums: Running,
    /// Learning rate of the last step.
    pub lr: f64,
    /// The norm of the whole gradient at the last step; NaN if a number of it is not finite.
    pub grad_norm: f64,
}

/// Is told what happens in a run.
pub trait Observer {
    /// A run begins, or goes on: steps in each epoch, and where it stands.
    fn begin(&mut self, steps_per_epoch: u64, progress: &Progress);
    /// A step is done.
    fn step(&mut self, progress: &Progress, lr: f64);
    /// As many steps are done as are to be reported together.
    fn log(&mut self, _log: &Log) {}
    /// What `--watch` saw of each parameter in an epoch, in the mean.
    fn watch(&mut self, _figures: &[Figures]) {}
    /// Something is to be said in words.
    fn remark(&mut self, _line: &str) {}
    /// An epoch is done and saved.
    fn epoch(&mut self, epoch: &Epoch);
}
