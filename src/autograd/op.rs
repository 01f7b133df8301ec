//! What an op is: a shape rule, a forward, and a backward.
//!
//! An op y = f(x_0, x_1, ...) never forms its Jacobian. Given dy, the gradient of the loss with respect to y, its backward gives
//! dx_i = J_i^T dy for those inputs that somebody wants. Read next: `tape.rs`; then any page of `ops`, `relu.rs` first.

use crate::error::{Error, Result};
use crate::tensor::{Spec, Tensor};
use std::any::Any;
use std::fmt::Debug;

/// Small tensors that forward keeps for backward: a batch's mean, the winners of a max-pool.
pub type Saved = Vec<Tensor>;

/// What an op's backward reads. The tape frees the rest early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Bit i: input i.
    pub inputs: u32,
    /// The output.
    pub output: bool,
}

impl Needs {
    /// Neither inputs nor output.
    pub const NOTHING: Needs = Needs { inputs: 0, output: false };
    /// The output only.
    pub const OUTPUT: Needs = Needs { inputs: 0, output: true };
    /// The first input only.
    pub const INPUT: Needs = Needs { inputs: 1, output: false };
    /// The first two inputs: x and w.
    pub const INPUTS: Needs = Needs { inputs: 3, output: false };
}

/// A differentiable function of tensors. Who must know which one it is and how it is set (an export) can downcast it: `Any`.
pub trait Op: Any + Debug + Send + Sync {
    /// Its name in messages, tables and pictures.
    fn name(&self) -> &'static str;

    /// The spec of the output; the error names the op, the shapes it got and the rule they break.
    fn output(&self, x: &[Spec]) -> Result<Spec>;

    /// What backward reads.
    fn needs(&self) -> Needs;

    /// Computes y from x. `y` has the spec that [`Op::output`] gave and unspecified content; all of it is written.
    fn forward(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved>;

    /// The same where no backward follows: a way may be taken whose rounding is too much for gradients, and what only backward reads need not be
    /// kept. (A layer may still read the rest by [`Tape::saved`](super::Tape::saved): a batch norm's statistics.)
    fn infer(&self, x: &[&Tensor], y: &mut Tensor) -> Result<Saved> {
        self.forward(x, y)
    }

    /// Computes this op and the `next` behind it in one go, without a tensor for what lies between: the output z, and what `next` keeps for
    /// backward; None if there is no such way. `rest`: what `next` reads beside this op's output; `learns`: does backward follow?
    fn forward_with(&self, _x: &[&Tensor], _next: &dyn Op, _rest: &[&Tensor], _z: Spec, _learns: bool) -> Option<(Tensor, Saved)> {
        None
    }

    /// Turns dy into the gradients of the inputs: for each slot that is wanted, the first contribution writes and later ones add.
    ///
    /// Empty lanes of dy are zero, and those of every dx are left zero.
    fn backward(&self, n: &Node, dy: &Tensor, dx: &mut [Slot]) -> Result<()>;

    /// The output as another view of the first input, for an op that moves no number.
    fn alias(&self, _x: &Tensor) -> Option<Tensor> {
        None
    }

    /// Is it, or does it end in, a ReLU? Units of its output that are always 0 learn nothing (`train/watch/health.rs`).
    fn rectifies(&self) -> bool {
        false
    }

    /// Floating-point operations of one forward (a multiply-add is two; padded taps count).
    fn flops(&self, x: &[Spec]) -> u64 {
        let _ = x;
        0
    }
}

/// What an op's backward gets to see of its forward.
#[derive(Debug)]
pub struct Node {
    pub(super) x: Vec<Option<Tensor>>,
    pub(super) y: Option<Tensor>,
    pub(super) specs: Vec<Spec>,
    /// What forward kept.
    pub saved: Saved,
}

impl Node {
    /// Input `i`; the op's [`Op::needs`] must have asked for it.
    pub fn x(&self, i: usize) -> &Tensor {
        match &self.x[i] {
            Some(x) => x,
            None => panic!("backward reads input {i}, which `needs` did not ask for"),
        }
    }

    /// The output; the op's [`Op::needs`] must have asked for it.
    pub fn y(&self) -> &Tensor {
        match &self.y {
            Some(y) => y,
            None => panic!("backward reads the output, which `needs` did not ask for"),
        }
    }

    /// The spec of input `i`.
    pub fn spec(&self, i: usize) -> Spec {
        self.specs[i]
    }

    /// How many inputs there were.
    pub fn inputs(&self) -> usize {
        self.specs.len()
    }
}

/// The place where the gradient of one input goes.
#[derive(Debug)]
pub struct Slot {
    pub(super) spec: Spec,
    pub(super) tensor: Option<Tensor>,
    pub(super) written: bool,
    pub(super) wanted: bool,
}

impl Slot {
    /// Does anybody want this gradient? If not, it need not be computed.
    pub fn wanted(&self) -> bool {
        self.wanted
    }

    /// The tensor to write to, and whether to add to what is there instead.
    ///
    /// All of it must be written by the caller.
    pub fn open(&mut self) -> (&mut Tensor, bool) {
        let spec = self.spec;
        let add = std::mem::replace(&mut self.written, true);
        let tensor = self.tensor.get_or_insert_with(|| Tensor::new(spec));
        tensor.make_unique();
        (tensor, add)
    }

    /// Contributes a whole tensor, without a copy if it is the first.
    pub fn give(&mut self, dx: &Tensor) -> Result<()> {
        if !self.written && self.tensor.is_none() {
            self.tensor = Some(dx.clone());
            self.written = true;
            return Ok(());
        }
        let (tensor, add) = self.open();
        if add {
            return add_assign(tensor, dx);
        }
        tensor.copy_from(dx);
        Ok(())
    }
}

/// `a += b`.
pub(super) fn add_assign(a: &mut Tensor, b: &Tensor) -> Result<()> {
    use crate::device::Device;
    use crate::device::cuda::{Launch, kernels::add};
    use crate::tensor::Element;
    use rayon::prelude::*;
    fn cpu<T: Element>(a: &mut Tensor, b: &Tensor) {
        const CHUNK: usize = 1 << 14;
        a.data_mut::<T>().par_chunks_mut(CHUNK).zip(b.data::<T>().par_chunks(CHUNK)).for_each(|(a, b)| {
            for (a, &b) in a.iter_mut().zip(b) {
                *a = T::down(a.up() + b.up());
            }
        });
    }
    fn cuda<T: Element>(a: &mut Tensor, b: &Tensor) -> Result<()> {
        let count = a.spec().stored();
        add::accumulate::<T>(Launch::each(a.device(), count, 256), a.cuda_mut(), b.cuda(), count as i32)
    }
    assert_eq!(a.spec(), b.spec(), "gradients of one tensor have one spec");
    match a.device() {
        Device::Cpu => crate::dispatch!(a.dtype(), T => cpu::<T>(a, b)),
        Device::Cuda(_) => crate::dispatch!(a.dtype(), T => cuda::<T>(a, b)?),
    }
    Ok(())
}

/// The error of an op that got inputs of the wrong shape: names the op, every input's spec, and the rule.
pub fn mismatch(op: &str, x: &[Spec], rule: impl std::fmt::Display) -> Error {
    let got: Vec<String> = x.iter().map(Spec::to_string).collect();
    Error::run(format!("{op}: {rule}; got {}", got.join(", ")))
}
