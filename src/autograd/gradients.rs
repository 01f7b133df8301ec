//! Where backward puts the gradients of parameters.
//!
//! A tape lives for one step, the arena of gradients for a whole run. Which of them the last backward reached is remembered, so that the first
//! contribution to each writes and nothing has to be zeroed. Read next: `check.rs`.

use crate::tensor::{Stored, Tensor};
use rayon::prelude::*;

/// Numbers that a thread adds up at a time.
const PIECE: usize = 1 << 14;

/// The gradients of parameters: an arena that outlives the tapes that write to it.
#[derive(Debug, Default)]
pub struct Gradients {
    /// Taken out while an op writes it.
    pub(super) tensors: Vec<Option<Tensor>>,
    pub(super) written: Vec<bool>,
}

impl Gradients {
    /// Takes the tensors that the gradients go to, one for each parameter.
    pub fn new(tensors: Vec<Tensor>) -> Self {
        Self { written: vec![false; tensors.len()], tensors: tensors.into_iter().map(Some).collect() }
    }

    /// Others of the same specs, which no backward has reached.
    pub fn like(&self) -> Self {
        let like = |dw: &Option<Tensor>| dw.as_ref().map(|dw| Tensor::new(dw.spec()));
        Self { tensors: self.tensors.iter().map(like).collect(), written: vec![false; self.written.len()] }
    }

    /// Adds those of others, one after the other, on the CPU. The same parameters must have been reached.
    pub fn add(&mut self, others: &[Gradients]) {
        for (i, dw) in self.tensors.iter_mut().enumerate() {
            let (Some(dw), true) = (dw, self.written[i]) else { continue };
            crate::dispatch!(sums dw.dtype(), A => {
                dw.data_mut::<A>().par_chunks_mut(PIECE).enumerate().for_each(|(piece, dw)| {
                    for other in others.iter().filter_map(|other| other.get(i)) {
                        for (dw, &other) in dw.iter_mut().zip(&other.data::<A>()[piece * PIECE..]) {
                            *dw += other;
                        }
                    }
                });
            });
        }
    }

    /// The gradient of parameter `i`, if the last backward reached it.
    pub fn get(&self, i: usize) -> Option<&Tensor> {
        self.tensors[i].as_ref().filter(|_| self.written[i])
    }

    /// How many parameters there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Are there no parameters?
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Multiplies every gradient, on the CPU.
    pub fn multiply(&mut self, by: f64) {
        for dw in self.tensors.iter_mut().zip(&self.written).filter(|(_, written)| **written).filter_map(|(dw, _)| dw.as_mut()) {
            crate::dispatch!(sums dw.dtype(), A => {
                for x in dw.data_mut::<A>() {
                    *x = A::from_f64(x.to_f64() * by);
                }
            });
        }
    }

    /// The gradients that the last backward reached, in runs of neighbours.
    pub fn runs(&self) -> Vec<Vec<&Tensor>> {
        let mut runs = vec![Vec::new()];
        for i in 0..self.len() {
            match (self.get(i), runs.last_mut()) {
                (Some(dw), Some(run)) => run.push(dw),
                _ => runs.push(Vec::new()),
            }
        }
        runs.retain(|run| !run.is_empty());
        runs
    }

    /// The same to be written.
    pub fn runs_mut(&mut self) -> Vec<Vec<&mut Tensor>> {
        let mut runs = vec![Vec::new()];
        for (dw, &written) in self.tensors.iter_mut().zip(&self.written) {
            match (dw.as_mut().filter(|_| written), runs.last_mut()) {
                (Some(dw), Some(run)) => run.push(dw),
                _ => runs.push(Vec::new()),
            }
        }
        runs.retain(|run| !run.is_empty());
        runs
    }

    /// The next backward writes instead of adding: PyTorch's `zero_grad`, without touching memory.
    pub fn clear(&mut self) {
        self.written.fill(false);
    }
}
