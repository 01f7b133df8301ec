//! The tape itself: what it frees and when, what it prints, how gradients meet.

use cugrad::autograd::{Gradients, Tape, Var};
use cugrad::error::Result;
use cugrad::ops::add::Add;
use cugrad::ops::batchnorm::BatchNorm;
use cugrad::ops::relu::Relu;
use cugrad::tensor::{DType, Spec, Tensor};

const RELU: Relu = Relu { slope: 0.0 };

fn x() -> Tensor {
    Tensor::from_values(Spec::lanes([2, 3], DType::F64), &[1.0f64, -2.0, 3.0, -4.0, 5.0, -6.0])
}

/// A batch norm, whose backward reads its input, then a ReLU, whose backward reads its output.
fn norm_relu(tape: &mut Tape, x: Var) -> Result<[Var; 2]> {
    let row = |v: f64| Tensor::from_values(Spec::rows([3], DType::F64), &[v; 3]);
    let (w, b) = (tape.leaf(row(1.0)), tape.leaf(row(0.0)));
    let normed = tape.apply(BatchNorm { eps: 1e-5 }, &[x, w, b])?;
    Ok([normed, tape.apply(RELU, &[normed])?])
}

#[test]
fn values_are_freed_when_no_backward_reads_them() {
    let mut tape = Tape::new();
    let x = tape.leaf(x());
    let doubled = tape.apply(Add, &[x, x]).unwrap();
    let [normed, y] = norm_relu(&mut tape, doubled).unwrap();
    for v in [doubled, normed, y] {
        tape.release(v);
    }
    assert!(tape.is_held(doubled), "batch norm's backward reads its input");
    assert!(!tape.is_held(normed), "nobody reads the input of a ReLU");
    assert!(tape.is_held(y), "its backward reads its output");
    let spec = tape.spec(y);
    tape.backward_from(y, Tensor::zeros(spec), &mut Gradients::default()).unwrap();
    assert!(!tape.is_held(doubled) && tape.is_held(x), "backward frees as it goes, but never a leaf");
}

#[test]
fn inference_keeps_nothing() {
    let mut tape = Tape::inference();
    let x = tape.leaf(x());
    let y = tape.apply(RELU, &[x]).unwrap();
    tape.release(y);
    assert!(!tape.is_held(y));
}

#[test]
fn gradients_of_several_uses_add_up() {
    let mut tape = Tape::new();
    let x = tape.leaf(x());
    let a = tape.apply(RELU, &[x]).unwrap();
    let b = tape.apply(Add, &[a, x]).unwrap();
    let y = tape.apply(Add, &[b, b]).unwrap();
    let spec = tape.spec(y);
    tape.backward_from(y, Tensor::from_values(spec, &[1.0f64; 6]), &mut Gradients::default()).unwrap();
    assert_eq!(tape.gradient(x).unwrap().values(), [4.0, 2.0, 4.0, 2.0, 4.0, 2.0]);
}

#[test]
fn backward_starts_from_a_scalar() {
    let mut tape = Tape::new();
    let x = tape.leaf(x());
    let y = tape.apply(RELU, &[x]).unwrap();
    let error = tape.backward(y, &mut Gradients::default()).unwrap_err();
    assert!(error.message.contains("scalar loss, not from f64 [2, 3]"), "{error}");
}

#[test]
fn it_prints_itself() {
    let mut tape = Tape::new();
    let x = tape.leaf(x());
    let [normed, _] = norm_relu(&mut tape, x).unwrap();
    tape.release(normed);
    let text = tape.to_string();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["value", "op", "layer", "inputs", "output", "bytes", "held"]);
    // Released, but mean, inverse deviation and variance of three features are kept.
    assert_eq!(lines[1], ["%3", "batchnorm", "%0", "%1", "%2", "f64", "[2,", "3]", "72"]);
    assert_eq!(lines[2], ["%4", "relu", "%3", "f64", "[2,", "3]", "384"]);
    assert_eq!(lines.len(), 3);
}
