//! The tape: which ops ran, in which order, on which values.
//!
//! A [`Var`] is an index into the tape, so the order of insertion is a topological order and backward is one loop from the end.
//! Values that no backward will read are dropped as early as they can be. Not here: where parameters live (`nn/params.rs`).
//! Read next: `gradients.rs`; `check.rs`, which proves gradients right; then `ops/mod.rs`.

use super::gradients::Gradients;
use super::op::{Node, Op, Saved, Slot, add_assign};
use crate::error::{Error, Result};
use crate::tensor::{Layout, Spec, Tensor};
use std::fmt;
use std::sync::Arc;

/// A value on the tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Var(u32);

impl Var {
    fn i(self) -> usize {
        self.0 as usize
    }
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Given from outside; its gradient, if wanted, stays on the tape.
    Leaf,
    /// Parameter `i`; its gradient goes to slot i of the [`Gradients`].
    Param(usize),
    /// The output of an op.
    Op,
}

#[derive(Debug)]
struct Value {
    spec: Spec,
    tensor: Option<Tensor>,
    origin: Origin,
    /// Is a gradient wanted here?
    wanted: bool,
    /// Will some backward read the value?
    kept: bool,
    gradient: Option<Tensor>,
}

#[derive(Debug)]
struct Entry {
    op: Arc<dyn Op>,
    /// The layer's path, as in `layer1.0.conv1`.
    label: Arc<str>,
    inputs: Vec<Var>,
    output: Var,
    saved: Saved,
}

/// An op for a layer, whose path an error names.
pub type Applied<'a> = (&'a Arc<str>, Arc<dyn Op>);

/// The record of one run of a network.
#[derive(Debug, Default)]
pub struct Tape {
    values: Vec<Value>,
    entries: Vec<Entry>,
    recording: bool,
    /// Does it keep every value until it is dropped?
    holding: bool,
}

/// One line of the tape, for those who print, export or count it.
#[derive(Debug)]
pub struct Line<'a> {
    /// The layer's path; empty outside any layer.
    pub label: &'a str,
    /// The op.
    pub op: &'a dyn Op,
    /// The values it read.
    pub inputs: &'a [Var],
    /// Their specs.
    pub specs: Vec<Spec>,
    /// The value it wrote.
    pub output: Var,
    /// Its spec.
    pub spec: Spec,
    /// Bytes held now: the value, unless it was released, and what was kept beside it for backward.
    pub held: usize,
}

impl Tape {
    /// A tape that can run backward.
    pub fn new() -> Self {
        Self { recording: true, ..Self::default() }
    }

    /// A tape that can run backward and until then keeps every value, for those who look at them.
    pub fn holding() -> Self {
        Self { recording: true, holding: true, ..Self::default() }
    }

    /// A tape for inference: keeps nothing for backward.
    pub fn inference() -> Self {
        Self::default()
    }

    /// Puts a value on the tape whose gradient nobody wants: a batch of pictures, labels.
    pub fn input(&mut self, tensor: Tensor) -> Var {
        self.push(tensor.spec(), Some(tensor), Origin::Leaf, false)
    }

    /// Puts a value on the tape whose gradient [`Tape::gradient`] gives after backward.
    pub fn leaf(&mut self, tensor: Tensor) -> Var {
        self.push(tensor.spec(), Some(tensor), Origin::Leaf, self.recording)
    }

    /// Puts parameter number `i` on the tape; its gradient goes to slot i of the [`Gradients`].
    pub fn param(&mut self, i: usize, tensor: Tensor) -> Var {
        self.push(tensor.spec(), Some(tensor), Origin::Param(i), self.recording)
    }

    fn push(&mut self, spec: Spec, tensor: Option<Tensor>, origin: Origin, wanted: bool) -> Var {
        self.values.push(Value { spec, tensor, origin, wanted, kept: false, gradient: None });
        Var(self.values.len() as u32 - 1)
    }

    /// Runs an op outside any layer.
    pub fn apply(&mut self, op: impl Op + 'static, inputs: &[Var]) -> Result<Var> {
        self.apply_at(&Arc::from(""), Arc::new(op), inputs)
    }

    /// Runs an op for the layer `label`, whose path an error names.
    pub fn apply_at(&mut self, label: &Arc<str>, op: Arc<dyn Op>, inputs: &[Var]) -> Result<Var> {
        let spec = self.output(label, op.as_ref(), inputs)?;
        let x: Vec<&Tensor> = inputs.iter().map(|&v| self.value(v)).collect();
        let (y, saved) = match op.alias(x[0]) {
            Some(y) => (y, Saved::new()),
            None => {
                let mut y = Tensor::new(spec);
                let saved = if self.recording { op.forward(&x, &mut y) } else { op.infer(&x, &mut y) };
                (y, saved.map_err(|e| at(label, e))?)
            }
        };
        Ok(self.record(label, op, inputs, spec, Some(y), saved))
    }

    /// Runs an op, and at once the `next` on its output and `rest`, whose output it gives. Nobody else may read what lies between.
    pub fn apply_two(&mut self, op: Applied, inputs: &[Var], next: Applied, rest: &[Var]) -> Result<Var> {
        // The first value that is made.
        let next_inputs = [&[Var(self.values.len() as u32)], rest].concat();
        if !self.holding {
            let spec = self.output(op.0, op.1.as_ref(), inputs)?;
            let specs: Vec<Spec> = std::iter::once(spec).chain(rest.iter().map(|&v| self.spec(v))).collect();
            let next_spec = checked(next.0, next.1.as_ref(), &specs)?;
            let tensors = |inputs: &[Var]| inputs.iter().map(|&v| self.value(v)).collect::<Vec<_>>();
            if let Some((z, saved)) = op.1.forward_with(&tensors(inputs), next.1.as_ref(), &tensors(rest), next_spec, self.recording) {
                self.record(op.0, op.1, inputs, spec, None, Saved::new());
                return Ok(self.record(next.0, next.1, &next_inputs, next_spec, Some(z), saved));
            }
        }
        let between = self.apply_at(op.0, op.1, inputs)?;
        let z = self.apply_at(next.0, next.1, &next_inputs)?;
        self.release(between);
        Ok(z)
    }

    /// What an op will write.
    fn output(&self, label: &str, op: &dyn Op, inputs: &[Var]) -> Result<Spec> {
        checked(label, op, &inputs.iter().map(|&v| self.spec(v)).collect::<Vec<_>>())
    }

    /// Writes down that an op ran; y is None if nobody will read it.
    fn record(&mut self, label: &Arc<str>, op: Arc<dyn Op>, inputs: &[Var], spec: Spec, y: Option<Tensor>, saved: Saved) -> Var {
        let wanted = inputs.iter().any(|&v| self.values[v.i()].wanted);
        let output = self.push(spec, y, Origin::Op, wanted);
        if wanted {
            let needs = op.needs();
            for (i, &v) in inputs.iter().enumerate() {
                self.values[v.i()].kept |= needs.inputs >> i & 1 == 1;
            }
            self.values[output.i()].kept |= needs.output;
        }
        self.entries.push(Entry { op, label: label.clone(), inputs: inputs.to_vec(), output, saved });
        output
    }

    /// Says that forward will not read `v` again; its memory is freed now unless backward needs it.
    pub fn release(&mut self, v: Var) {
        let value = &mut self.values[v.i()];
        if !value.kept && !self.holding && value.origin == Origin::Op {
            value.tensor = None;
        }
    }

    /// The value of `v`.
    pub fn value(&self, v: Var) -> &Tensor {
        match &self.values[v.i()].tensor {
            Some(t) => t,
            None => panic!("value {} was released before its last reader", v.0),
        }
    }

    /// Is the value of `v` still in memory?
    pub fn is_held(&self, v: Var) -> bool {
        self.values[v.i()].tensor.is_some()
    }

    /// The shape, dtype and layout of `v`.
    pub fn spec(&self, v: Var) -> Spec {
        self.values[v.i()].spec
    }

    /// What the op that made `v` kept for backward: a batch norm's statistics, say.
    pub fn saved(&self, v: Var) -> &[Tensor] {
        self.entries.iter().rev().find(|e| e.output == v).map_or(&[], |e| &e.saved)
    }

    /// The gradient of a [`Tape::leaf`], after backward reached it.
    pub fn gradient(&self, v: Var) -> Option<&Tensor> {
        self.values[v.i()].gradient.as_ref()
    }

    /// Back-propagates from the scalar `loss`: every wanted gradient becomes d loss / d value.
    pub fn backward(&mut self, loss: Var, params: &mut Gradients) -> Result<()> {
        let spec = self.spec(loss);
        if spec.shape.count() != 1 {
            return Err(Error::run(format!("backward starts from a scalar loss, not from {spec}")));
        }
        self.backward_from(loss, Tensor::from_values(spec, &[1.0f64]), params)
    }

    /// Back-propagates from `root` with a given gradient `dy` there (its empty lanes zero). The tape is spent afterwards.
    pub fn backward_from(&mut self, root: Var, dy: Tensor, params: &mut Gradients) -> Result<()> {
        for (i, value) in self.values.iter_mut().enumerate() {
            if value.origin == Origin::Op && !value.kept && i != root.i() {
                value.tensor = None;
            }
        }
        self.values[root.i()].gradient = Some(dy);
        for mut entry in std::mem::take(&mut self.entries).into_iter().rev() {
            // No gradient here: nothing behind the loss depends on it, or nobody before it wants one.
            let Some(dy) = self.values[entry.output.i()].gradient.take() else { continue };
            if !self.values[entry.output.i()].wanted {
                continue;
            }
            let needs = entry.op.needs();
            let node = Node {
                x: (entry.inputs.iter().enumerate())
                    .map(|(i, &v)| if needs.inputs >> i & 1 == 1 { self.values[v.i()].tensor.clone() } else { None })
                    .collect(),
                y: if needs.output { self.values[entry.output.i()].tensor.clone() } else { None },
                specs: entry.inputs.iter().map(|&v| self.spec(v)).collect(),
                saved: std::mem::take(&mut entry.saved),
            };
            let mut slots: Vec<Slot> = entry.inputs.iter().map(|&v| self.open(v, params)).collect();
            entry.op.backward(&node, &dy, &mut slots)?;
            for (&v, slot) in entry.inputs.iter().zip(slots) {
                self.close(v, slot, params)?;
            }
            if entry.output != root {
                self.values[entry.output.i()].tensor = None;
            }
        }
        Ok(())
    }

    /// Takes the gradient of `v` out to where an op can write to it.
    fn open(&mut self, v: Var, params: &mut Gradients) -> Slot {
        let value = &mut self.values[v.i()];
        match value.origin {
            Origin::Param(i) if value.wanted => {
                let tensor = params.tensors[i].take();
                let spec = tensor.as_ref().map_or(value.spec, Tensor::spec);
                // An op that reads one parameter twice gets a fresh tensor the second time; `close` adds the two.
                Slot { spec, written: tensor.is_some() && params.written[i], tensor, wanted: true }
            }
            _ => {
                let tensor = value.gradient.take();
                Slot { spec: gradient_spec(value.spec), written: tensor.is_some(), tensor, wanted: value.wanted }
            }
        }
    }

    /// Puts a gradient back.
    fn close(&mut self, v: Var, slot: Slot, params: &mut Gradients) -> Result<()> {
        let value = &mut self.values[v.i()];
        let place = match value.origin {
            Origin::Param(i) if value.wanted => {
                params.written[i] |= slot.written;
                &mut params.tensors[i]
            }
            _ => &mut value.gradient,
        };
        match (place.as_mut(), slot.tensor) {
            (Some(first), Some(second)) if slot.written => {
                first.make_unique();
                add_assign(first, &second)?;
            }
            (None, Some(tensor)) => *place = Some(tensor),
            _ => {}
        }
        Ok(())
    }

    /// The lines of the tape, in the order of execution.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.entries.iter().map(|e| Line {
            label: &e.label,
            op: e.op.as_ref(),
            inputs: &e.inputs,
            specs: e.inputs.iter().map(|&v| self.spec(v)).collect(),
            output: e.output,
            spec: self.spec(e.output),
            held: e.saved.iter().chain(&self.values[e.output.i()].tensor).map(|t| t.spec().bytes()).sum(),
        })
    }
}

/// What an op will write, or an error that names its layer.
fn checked(label: &str, op: &dyn Op, specs: &[Spec]) -> Result<Spec> {
    op.output(specs).and_then(|spec| spec.check_size().map(|()| spec)).map_err(|e| at(label, e))
}

fn at(label: &str, mut e: Error) -> Error {
    if !label.is_empty() {
        e.message = format!("{label}: {}", e.message);
    }
    e
}

/// The spec of the gradient of a value: that of a parameter is a sum over the batch and stays in the type of sums.
fn gradient_spec(spec: Spec) -> Spec {
    match spec.layout {
        Layout::Lanes => spec,
        Layout::Rows => Spec { dtype: spec.dtype.acc(), ..spec },
    }
}

impl fmt::Display for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl fmt::Display for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>5}  {:<14} {:<22} {:<18} {:<20} {:>12}", "value", "op", "layer", "inputs", "output", "bytes held")?;
        for line in self.lines() {
            let inputs: Vec<String> = line.inputs.iter().map(Var::to_string).collect();
            let output = line.spec.to_string();
            let var = line.output.to_string();
            writeln!(f, "{var:>5}  {:<14} {:<22} {:<18} {output:<20} {:>12}", line.op.name(), line.label, inputs.join(" "), line.held)?;
        }
        Ok(())
    }
}
