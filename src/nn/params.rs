//! Parameters: their names, their values, and the gradients that go with them.
//!
//! All values lie side by side in one allocation, and so do all gradients: an optimiser, a checkpoint or a copy to another device
//! walks one block of memory. In half precision the values are f32 (the master weights) and the network computes with copies of them,
//! the working weights, in another arena. Names are PyTorch's (`layer1.0.conv1.weight`), layouts too, so that weights can be exchanged. Beside
//! them are buffers, which training changes but no gradient reaches: a batch norm's running statistics. Read next: `layers.rs`.

use crate::autograd::Gradients;
use crate::device::Device;
use crate::device::cuda::{Launch, kernels::optimizer as kernel};
use crate::error::Result;
use crate::tensor::{self, DType, Element, Philox, Shape, Spec, Tensor, rng};
use rayon::prelude::*;
use std::sync::Arc;

/// A parameter's number, in the order of declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamId(pub usize);

/// A buffer's number, in the order of declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferId(pub usize);

/// The first value of a parameter or buffer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Uniform in [-bound, bound].
    Uniform(f64),
}

#[derive(Debug, Clone)]
struct Declared {
    name: String,
    spec: Spec,
    init: Init,
    /// Does the network read a copy of it in half precision?
    works: bool,
}

/// Collects the parameters and buffers of a network while its layers are built.
#[derive(Debug)]
pub struct Builder {
    dtype: DType,
    device: Device,
    path: Vec<String>,
    params: Vec<Declared>,
    buffers: Vec<Declared>,
    dropouts: u32,
}

impl Builder {
    /// A builder for a network that computes in `dtype` on `device`.
    pub fn new(dtype: DType, device: Device) -> Self {
        Self { dtype, device, path: Vec::new(), params: Vec::new(), buffers: Vec::new(), dropouts: 0 }
    }

    /// Builds a part of the network under a name, which prefixes the names of its parameters.
    pub fn at<M>(&mut self, name: impl Into<String>, build: impl FnOnce(&mut Builder) -> M) -> M {
        self.path.push(name.into());
        let module = build(self);
        self.path.pop();
        module
    }

    /// The path of the part that is being built.
    pub fn label(&self) -> Arc<str> {
        Arc::from(self.path.join("."))
    }

    /// Declares a parameter that the network reads in the type that it computes in: the weight of a convolution.
    pub fn param(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> ParamId {
        self.declare_param(name, shape.into(), init, true)
    }

    /// Declares a parameter that the network reads in the type that sums are kept in: the weight of a batch norm.
    pub fn sum_param(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> ParamId {
        self.declare_param(name, shape.into(), init, false)
    }

    fn declare_param(&mut self, name: &str, shape: Shape, init: Init, works: bool) -> ParamId {
        let spec = Spec::rows(shape, self.dtype.acc());
        let works = works && spec.dtype != self.dtype;
        let declared = Declared { works, ..self.declare(name, spec, init) };
        self.params.push(declared);
        ParamId(self.params.len() - 1)
    }

    /// Declares a buffer in the type that sums are kept in, or in i32.
    pub fn buffer(&mut self, name: &str, shape: impl Into<Shape>, counter: bool, init: Init) -> BufferId {
        let dtype = if counter { DType::I32 } else { self.dtype.acc() };
        let declared = self.declare(name, Spec::rows(shape, dtype), init);
        self.buffers.push(declared);
        BufferId(self.buffers.len() - 1)
    }

    /// A number for a layer that draws random numbers, so that no two draw the same.
    pub fn random_layer(&mut self) -> u32 {
        self.dropouts += 1;
        self.dropouts
    }

    /// Were neither running statistics nor random layers declared: does no image of a batch meet another?
    pub fn is_separate(&self) -> bool {
        self.buffers.is_empty() && self.dropouts == 0
    }

    /// How many numbers all parameters declared so far have.
    pub fn count(&self) -> usize {
        self.params.iter().map(|declared| declared.spec.shape.count()).sum()
    }

    fn declare(&self, name: &str, spec: Spec, init: Init) -> Declared {
        let path: Vec<&str> = self.path.iter().map(String::as_str).chain([name]).collect();
        Declared { name: path.join("."), spec: spec.on(self.device), init, works: false }
    }

    /// Allocates everything and draws the first values, a function of the seed and the order of declaration.
    pub fn build(self, seed: u64) -> Params {
        let rng = Philox::new(seed);
        let specs: Vec<Spec> = self.params.iter().map(|p| p.spec).collect();
        let mut values = Tensor::arena(&specs);
        for (i, (value, p)) in values.iter_mut().zip(&self.params).enumerate() {
            fill(value, p.init, &rng, i as u64);
        }
        let mut buffers: Vec<Tensor> = self.buffers.iter().map(|b| Tensor::zeros(b.spec)).collect();
        for (buffer, b) in buffers.iter_mut().zip(&self.buffers) {
            fill(buffer, b.init, &rng, u64::MAX);
        }
        let half: Vec<Spec> = specs.iter().map(|&spec| Spec { dtype: self.dtype, ..spec }).collect();
        let mut params = Params {
            gradients: Gradients::new(Tensor::arena(&specs)),
            working: if self.dtype == self.dtype.acc() { Vec::new() } else { Tensor::arena(&half) },
            works: self.params.iter().map(|p| p.works).collect(),
            names: self.params.into_iter().map(|p| p.name).collect(),
            values,
            buffer_names: self.buffers.into_iter().map(|b| b.name).collect(),
            buffers,
            frozen: vec![false; specs.len()],
        };
        // On a GPU that fails, the next launch says so.
        let _ = params.refresh();
        params
    }
}

fn fill(t: &mut Tensor, init: Init, rng: &Philox, stream: u64) {
    let spec = t.spec();
    let values: Vec<f64> = (0..spec.shape.count() as u64)
        .map(|i| match init {
            Init::Zeros => 0.0,
            Init::Ones => 1.0,
            Init::Uniform(bound) => bound * (2.0 * f64::from(rng::unit(rng.word(stream, i))) - 1.0),
        })
        .collect();
    t.copy_from(&Tensor::from_values(spec, &values));
}

/// The numbers of a network.
#[derive(Debug)]
pub struct Params {
    names: Vec<String>,
    values: Vec<Tensor>,
    /// In half precision, the values rounded to it; empty otherwise.
    working: Vec<Tensor>,
    /// Which parameters the network reads from `working`.
    works: Vec<bool>,
    buffer_names: Vec<String>,
    buffers: Vec<Tensor>,
    /// Which parameters no gradient is computed for.
    frozen: Vec<bool>,
    /// The gradients of the last backward, in the order of the parameters.
    pub gradients: Gradients,
}

impl Params {
    /// How many parameters (tensors) there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// How many numbers all parameters hold together.
    pub fn count(&self) -> usize {
        self.values.iter().map(|v| v.shape().count()).sum()
    }

    /// Parameter names, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A parameter's value.
    pub fn value(&self, id: ParamId) -> &Tensor {
        &self.values[id.0]
    }

    /// What the network reads of a parameter: its value, or its working copy.
    pub fn working(&self, id: ParamId) -> &Tensor {
        if self.works[id.0] { &self.working[id.0] } else { &self.values[id.0] }
    }

    /// Says that a parameter keeps its value: PyTorch's `requires_grad = False`. No gradient is computed for it, so no optimiser moves it,
    /// by weight decay neither. A batch norm's running statistics are buffers and go on following the batches of training.
    pub fn freeze(&mut self, id: ParamId) {
        self.frozen[id.0] = true;
    }

    /// Does a parameter keep its value?
    pub fn is_frozen(&self, id: ParamId) -> bool {
        self.frozen[id.0]
    }

    /// Makes the working copies follow the values, after these have changed.
    pub fn refresh(&mut self) -> Result<()> {
        if let Some(first) = self.working.first() {
            crate::dispatch!(first.dtype(), T => self.round::<T>()?);
        }
        Ok(())
    }

    fn round<T: Element>(&mut self) -> Result<()> {
        match self.working[0].device() {
            Device::Cpu => self.working.par_iter_mut().zip(&self.values).for_each(|(half, value)| {
                for (half, value) in half.data_mut::<T>().iter_mut().zip(value.data::<T::Acc>()) {
                    *half = T::down(*value);
                }
            }),
            device @ Device::Cuda(_) => {
                let (working, count) = tensor::span_mut::<T>(&mut self.working);
                let (values, _) = tensor::span::<T::Acc>(&self.values);
                kernel::round::<T>(Launch::each(device, count, 256), values, working, count as i32)?;
            }
        }
        Ok(())
    }

    /// All parameter values, in order.
    pub fn values(&self) -> &[Tensor] {
        &self.values
    }

    /// What an optimiser needs: every parameter that has a gradient, as (number, value, gradient).
    pub fn updates(&mut self) -> impl Iterator<Item = (usize, &mut Tensor, &Tensor)> {
        let Self { values, gradients, .. } = self;
        values.iter_mut().enumerate().filter_map(|(i, value)| Some((i, value, gradients.get(i)?)))
    }

    /// A buffer's value.
    pub fn buffer(&self, id: BufferId) -> &Tensor {
        &self.buffers[id.0]
    }

    /// Several buffers, to be changed together.
    pub fn buffers_mut<const N: usize>(&mut self, ids: [BufferId; N]) -> Option<[&mut Tensor; N]> {
        self.buffers.get_disjoint_mut(ids.map(|id| id.0)).ok()
    }

    /// All buffers, in order.
    pub fn buffers(&self) -> &[Tensor] {
        &self.buffers
    }

    /// All buffers, to be overwritten.
    pub fn all_buffers_mut(&mut self) -> &mut [Tensor] {
        &mut self.buffers
    }

    /// Exchanges the values for others like them, in one arena as well; no number moves. Working copies follow.
    pub fn exchange(&mut self, values: &mut Vec<Tensor>) -> Result<()> {
        std::mem::swap(&mut self.values, values);
        self.refresh()
    }

    /// Exchanges the buffers for others like them; no number moves.
    pub fn exchange_buffers(&mut self, buffers: &mut Vec<Tensor>) {
        std::mem::swap(&mut self.buffers, buffers);
    }

    /// Everything that a checkpoint holds of the network: parameters, then buffers, with their names.
    pub fn state(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let params = self.names.iter().zip(&self.values);
        params.chain(self.buffer_names.iter().zip(&self.buffers)).map(|(name, value)| (name.as_str(), value))
    }

    /// The same, to be overwritten.
    pub fn state_mut(&mut self) -> impl Iterator<Item = (&str, &mut Tensor)> {
        let params = self.names.iter().zip(&mut self.values);
        params.chain(self.buffer_names.iter().zip(&mut self.buffers)).map(|(name, value)| (name.as_str(), value))
    }
}
