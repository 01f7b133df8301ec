//! The network with averaged weights: what is validated, tested and kept as the best when a run has `--ema`.
//!
//! The weights' average is `optim/average.rs`. A batch norm's running statistics belong to the weights that they were taken with, so
//! averaged weights get statistics of their own: means over batches of training images, in the order of training but neither augmented
//! nor thinned by dropout. Values and statistics lie here while training goes on, and change places with the network's when it is judged;
//! nothing is copied, so a captured step finds everything where it was. Read next: `trainer.rs`.

use super::checkpoint::Checkpoint;
use super::trained::{keep, restore};
use super::trainer::EVAL_BATCH;
use crate::autograd::Tape;
use crate::data::Loader;
use crate::error::{Error, Result};
use crate::models::Model;
use crate::optim::{Average, Optimizer};
use crate::tensor::{DType, Tensor};

/// Batches that the statistics are means over, if there are so many.
const BATCHES: usize = 16;

/// In a checkpoint of such a run the network is the averaged one; what training goes on with has this before its name.
const RAW: &str = "trainer.raw.";

/// How many steps the average has followed, in a checkpoint.
const TAKEN: &str = "ema-steps";

/// Statistics of the averaged network (while it trains), or of the one that trains (while the averaged one is judged).
#[derive(Debug)]
pub(super) struct Averaged {
    buffers: Vec<Tensor>,
    /// Is the averaged network in the network's place?
    shown: bool,
}

impl Averaged {
    /// For a network whose weights `optimizer` averages.
    pub fn new(model: &Model) -> Self {
        let copy = |t: &Tensor| {
            let mut own = Tensor::new(t.spec());
            own.copy_from(t);
            own
        };
        Self { buffers: model.params.buffers().iter().map(copy).collect(), shown: false }
    }

    /// Changes places: the network becomes the averaged one, or again the one that trains.
    pub fn exchange(&mut self, model: &mut Model, optimizer: &mut Optimizer) -> Result<()> {
        average(optimizer)?.exchange(&mut model.params)?;
        self.shown = !self.shown;
        model.params.exchange_buffers(&mut self.buffers);
        Ok(())
    }

    /// Takes statistics for the averaged network, which is in the network's place, from training images in this order.
    pub fn estimate(&mut self, model: &mut Model, loader: &Loader, order: &[u32]) -> Result<()> {
        if self.buffers.is_empty() {
            return Ok(());
        }
        // One image alone has no variance.
        for (k, numbers) in order.chunks(EVAL_BATCH).take(BATCHES).filter(|numbers| numbers.len() > 1).enumerate() {
            let mut tape = Tape::inference();
            let x = tape.input(loader.batch(numbers)?.0);
            model.train_plain(&mut tape, x, 1.0 / (k + 1) as f64)?;
        }
        // Counters of batches tell of training.
        for (own, trained) in model.params.all_buffers_mut().iter_mut().zip(&self.buffers) {
            if own.dtype() == DType::I32 {
                own.copy_from(trained);
            }
        }
        Ok(())
    }

    /// Makes a checkpoint of the network that trains one of the averaged network, which keeps the other under names of its own.
    pub fn add_to(&self, saved: &mut Checkpoint, model: &Model, optimizer: &Optimizer) -> Result<()> {
        let Some(average) = optimizer.average() else { return Ok(()) };
        let other = average.values().iter().chain(&self.buffers);
        for ((name, own), other) in model.params.state().zip(other) {
            let (averaged, raw) = if self.shown { (own, other) } else { (other, own) };
            saved.tensors.insert(name.into(), keep(averaged)?);
            saved.tensors.insert(format!("{RAW}{name}"), keep(raw)?);
        }
        saved.meta.insert(TAKEN.into(), average.taken().to_string());
        Ok(())
    }

    /// The way back. The averaged network of the checkpoint was put in the network's place already.
    pub fn resume(&mut self, saved: &Checkpoint, model: &mut Model, optimizer: &mut Optimizer) -> Result<()> {
        let damaged =
            || Error::run(format!("the checkpoint has no '{TAKEN}' or a damaged one")).hint("resume from a run's last.safetensors");
        let taken = saved.meta.get(TAKEN).and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
        average(optimizer)?.set_taken(taken);
        let expected: Vec<(String, Vec<usize>)> =
            model.params.state().map(|(name, t)| (format!("{RAW}{name}"), t.shape().to_vec())).collect();
        super::checkpoint::compare(&expected, saved, |name| name.starts_with(RAW))?;
        // The averages of the checkpoint are in the network; they change places with what it trains with, which is then filled in.
        self.exchange(model, optimizer)?;
        for (name, tensor) in model.params.state_mut() {
            restore(tensor, &saved.tensors[&format!("{RAW}{name}")].1);
        }
        self.shown = false;
        model.params.refresh()
    }
}

fn average(optimizer: &mut Optimizer) -> Result<&mut Average> {
    optimizer.average_mut().ok_or_else(|| Error::run("the optimiser keeps no average of the weights"))
}
