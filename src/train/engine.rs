//! Steps on a device: one after the other on the CPU, captured and replayed on a GPU.
//!
//! On a GPU everything that a step needs lies there: the pictures, the order of the epoch, the learning rates, the account of losses.
//! Two full batches run eagerly, then the same function is captured as a CUDA graph, and from then on a step is one launch. The host reads a
//! few numbers after a stretch of steps ([`Engine::read`]). A batch of another size (the last of an epoch) runs eagerly: that gives
//! the same bits, as a graph only repeats what was launched. Read next: `trainer.rs`.

use super::distill::Teacher;
use super::metrics::Running;
use super::step::{Setting, totals, train_step};
use super::watch::{self, nonfinite};
use crate::data::{Augment, Loader};
use crate::device::Device;
use crate::device::cuda::Graph;
use crate::device::memory::PrivatePool;
use crate::error::Result;
use crate::models::Model;
use crate::optim::{Clock, LossScale, Optimizer};
use crate::tensor::Tensor;
use std::ops::Range;

/// Eager steps before a capture: the first loads kernels and takes memory, the second shows that the memory is enough.
const REHEARSALS: u32 = 2;

/// What runs the steps of a training run.
#[derive(Debug)]
pub struct Engine<'a> {
    loader: Loader<'a>,
    clock: Clock,
    totals: Tensor,
    /// What of `totals` has been read.
    read: Running,
    /// The numbers of the epoch's images in their order: on the host, and on a GPU.
    order: (Vec<u32>, Option<Tensor>),
    augment: Augment,
    /// May steps be captured?
    capture: bool,
    stage: Stage,
}

/// How far a GPU's step is from being captured; the batch is that of full steps.
#[derive(Debug)]
enum Stage {
    Rehearsal { done: u32, pool: PrivatePool },
    Captured(Graph),
}

impl Stage {
    fn new() -> Self {
        Stage::Rehearsal { done: 0, pool: PrivatePool::new() }
    }
}

impl<'a> Engine<'a> {
    /// For a network and the data that it learns from, augmented. `capture` is for a GPU.
    pub fn new(model: &Model, loader: Loader<'a>, augment: Augment, loss_scale: LossScale, capture: bool) -> Self {
        let clock = Clock::new(model.dtype, model.device, loss_scale);
        let capture = capture && model.device != Device::Cpu;
        let (totals, read) = (totals(model), Running::default());
        Self { loader, clock, totals, read, order: (Vec::new(), None), augment, capture, stage: Stage::new() }
    }

    /// The data that it learns from.
    pub fn loader(&self) -> &Loader<'a> {
        &self.loader
    }

    /// Begins, or goes on with, an epoch: its images in their order, the step's number in the run and in the epoch, the first image of
    /// the next batch, and the learning rate and momentum of the coming steps, `steps` in the whole epoch.
    pub fn begin(
        &mut self,
        model: &Model,
        optimizer: &mut Optimizer,
        order: Vec<u32>,
        (step, in_epoch, first): (u64, u64, usize),
        steps: usize,
        rates: impl Iterator<Item = (f64, Option<f64>)> + Clone,
    ) {
        self.clock.set(step, in_epoch, first);
        if model.device != Device::Cpu {
            let there = self.loader.numbers(&order);
            match &mut self.order.1 {
                // A captured step reads the order where it was.
                Some(place) if place.spec() == there.spec() => place.copy_from(&there),
                place => {
                    *place = Some(there);
                    self.stage = Stage::new();
                }
            }
            if !optimizer.plan(&model.params, steps, rates) {
                self.stage = Stage::new();
            }
        }
        self.order.0 = order;
    }

    /// One step on the images `range` of the order; `full`: it has as many as most steps have. The teacher, if there is one, is the same
    /// in all steps.
    pub fn step(
        &mut self,
        model: &mut Model,
        optimizer: &mut Optimizer,
        range: Range<usize>,
        full: bool,
        s: &Setting,
        teacher: Option<&Teacher>,
    ) -> Result<()> {
        let Self { loader, clock, totals, order, augment, capture, stage, .. } = self;
        let n = range.len();
        let Some(there) = &order.1 else {
            let batch = loader.batch_to_learn(&order.0[range], *augment, s.seed, clock.number());
            return train_step(model, optimizer, clock, totals, batch, s, teacher);
        };
        let device = model.device;
        let mut eager = || {
            let batch = loader.gather(there, &clock.place, n, Some((*augment, s.seed, &clock.step)))?;
            train_step(model, optimizer, clock, totals, batch, s, teacher)
        };
        if !*capture || !full {
            return eager();
        }
        match stage {
            Stage::Rehearsal { done, pool } if *done < REHEARSALS => {
                *done += 1;
                let _inside = pool.enter();
                eager()
            }
            Stage::Rehearsal { pool, .. } => {
                let graph = Graph::capture(device, std::mem::take(pool), &mut eager)?;
                graph.replay()?;
                *stage = Stage::Captured(graph);
                Ok(())
            }
            Stage::Captured(graph) => graph.replay(),
        }
    }

    /// What the steps since the last call counted. Waits for the device.
    pub fn read(&mut self) -> Result<Running> {
        let all = Running::read(&self.totals)?;
        let new = all.since(&self.read);
        self.read = all;
        Ok(new)
    }

    /// The norm of the gradient at the last step, before it was clipped. Waits for the device.
    pub fn grad_norm(&self, model: &Model, optimizer: &Optimizer) -> Result<f64> {
        Ok(watch::norm(&watch::gradients(&model.params, self.scale(model, optimizer)?)?))
    }

    /// What the gradients of the last step are still multiplied by: what clipped their norm, and f16's loss scale, which the CPU's optimiser takes
    /// out and a GPU's does not.
    pub fn scale(&self, model: &Model, optimizer: &Optimizer) -> Result<f64> {
        let clipped = optimizer.clipped()?;
        if model.device == Device::Cpu {
            return Ok(clipped);
        }
        // A scale without a good step behind it has just changed. If it was halved, the gradient is not finite and has no norm anyway.
        Ok(clipped * self.clock.read()?.1.map_or(1.0, |s| if s.good == 0 { s.scale / 2.0 } else { s.scale }))
    }

    /// After a loss that is no number, which halts training: the step in the epoch, whose `steps` these are, and where it came from.
    pub fn autopsy(
        &self,
        model: &mut Model,
        steps: &[Range<usize>],
        s: &Setting,
        teacher: Option<&Teacher>,
    ) -> Result<Option<(u64, String)>> {
        let Some((at, range)) = self.clock.halted()?.and_then(|at| Some((at, steps.get(at as usize)?.clone()))) else { return Ok(None) };
        let Self { loader, clock, order, augment, .. } = self;
        let batch = match &order.1 {
            None => loader.batch_to_learn(&order.0[range], *augment, s.seed, clock.number()),
            Some(there) => loader.gather(there, &clock.place, range.len(), Some((*augment, s.seed, &clock.step)))?,
        };
        Ok(Some((at, nonfinite::find(model, clock.step.clone(), batch, s, teacher)?)))
    }

    /// Lets the optimiser count the steps that were taken, so that its state can be saved; gives the loss scale. [`Engine::begin`] comes
    /// next if there are steps left.
    pub fn settle(&mut self, model: &Model, optimizer: &mut Optimizer) -> Result<Option<LossScale>> {
        let (taken, loss_scale) = self.clock.read()?;
        if model.device != Device::Cpu {
            optimizer.settle(taken);
        }
        Ok(loss_scale)
    }
}
