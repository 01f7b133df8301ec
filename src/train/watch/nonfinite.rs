//! Where a loss that is no number came from: the step that failed is run again, op by op, and its first output that is infinite or NaN
//! is named.
//!
//! The weights are still those that the step began with, as such a loss halts training (`optim/clock.rs`). Read next: `health.rs`, which
//! warns before it comes to this.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::models::Model;
use crate::tensor::Tensor;
use crate::train::distill::Teacher;
use crate::train::step::{Setting, forward};

/// Runs the step on its batch again, x `[N,C,H,W]` and labels `[N]`, with the run's own loss; says in a sentence what was the first to be not
/// finite.
pub fn find(model: &mut Model, step: Tensor, (x, labels): (Tensor, Tensor), s: &Setting, teacher: Option<&Teacher>) -> Result<String> {
    if let Some(what) = fault(&x)? {
        return Ok(format!("the pictures hold {what}"));
    }
    let names = model.params.names().iter().zip(model.params.values());
    for (name, w) in names {
        if let Some(what) = fault(w)? {
            return Ok(format!("{name} held {what} already: the step before moved it there, its gradient having overflowed"));
        }
    }
    // The tape knows the teacher's logits only as numbers.
    if let Some(teacher) = teacher
        && let Some(what) = fault(&teacher.model.logits(x.clone())?)?
    {
        return Ok(format!("the teacher's logits hold {what}"));
    }
    let mut tape = Tape::holding();
    forward(model, &mut tape, (x, labels), step, s, teacher)?;
    for line in tape.lines() {
        if let Some(what) = fault(tape.value(line.output))? {
            let mut largest = 0.0f64;
            for &v in line.inputs {
                largest = tape.value(v).read()?.iter().fold(largest, |m, x| m.max(x.abs()));
            }
            return Ok(format!("{} gave {what}, from inputs of up to {largest:.1e}", name(&tape, line.output)));
        }
    }
    Ok("run again, no op gives such a number: it is a sum of losses that overflows".into())
}

/// How a value of a tape is called by people: its layer and op, or the op and the last layer before it.
pub fn name(tape: &Tape, v: Var) -> String {
    let lines: Vec<_> = tape.lines().collect();
    let made = |v: Var| lines.iter().find(|line| line.output == v);
    let Some(own) = made(v) else { return "the input".into() };
    let mut line = own;
    while line.label.is_empty() {
        match line.inputs.first().and_then(|&x| made(x)) {
            Some(before) => line = before,
            None => return own.op.name().into(),
        }
    }
    if std::ptr::eq(line, own) { format!("{} ({})", own.label, own.op.name()) } else { format!("{} after {}", own.op.name(), line.label) }
}

/// How many numbers of a tensor are not finite, and what the first of them is.
fn fault(t: &Tensor) -> Result<Option<String>> {
    let values = t.read()?;
    let bad = values.iter().filter(|x| !x.is_finite()).count();
    let first = values.iter().find(|x| !x.is_finite());
    Ok(first.map(|first| format!("{first} ({bad} of {} numbers are not finite)", values.len())))
}
