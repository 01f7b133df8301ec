//! Single operations: PyTorch's figures, the whole output and every gradient.

#![allow(clippy::unwrap_used)]

use crate::golden;
use cugrad::autograd::{Gradients, Tape, Var};
use cugrad::device::memory;
use cugrad::ops::avgpool2d::{AvgPool2d, GlobalAvgPool};
use cugrad::ops::batchnorm::{BatchNorm, BatchNormEval, update_running};
use cugrad::ops::conv2d::Conv2d;
use cugrad::ops::cross_entropy::{CrossEntropy, Reduction};
use cugrad::ops::kl_div::KlDiv;
use cugrad::ops::linear::Linear;
use cugrad::ops::maxpool2d::MaxPool2d;
use cugrad::ops::relu::Relu;
use cugrad::ops::softmax::Softmax;
use cugrad::tensor::{DType, Spec, Tensor};
use serde_json::Value;

/// Compares with PyTorch in one type, and remembers the largest error.
struct Judge {
    dtype: DType,
    bound: f64,
    /// Errors are relative to the largest number of a tensor, or to this if that is larger.
    floor: f64,
    worst: (f64, String),
}

impl Judge {
    fn all() -> [Judge; 2] {
        memory::poison();
        let judge = |dtype, bound, floor| Judge { dtype, bound, floor, worst: (0.0, "nothing".into()) };
        [judge(DType::F64, 1e-10, f64::MIN_POSITIVE), judge(DType::F32, 1e-5, 1.0)]
    }

    fn compare(&mut self, ours: &[f64], theirs: &Value, what: &str) {
        let theirs = golden::floats(theirs);
        assert_eq!(ours.len(), theirs.len(), "{what}: how many");
        let scale = theirs.iter().fold(self.floor, |m, b| m.max(b.abs()));
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            let error = (a - b).abs() / scale;
            assert!(error <= self.bound, "{what} in {}: element {i} is {a:?}, PyTorch's {b:?}: relative error {error:.1e}", self.dtype);
            if error > self.worst.0 {
                self.worst = (error, what.into());
            }
        }
    }

    fn report(&self) {
        println!("{}: largest error {:.1e}, {}", self.dtype, self.worst.0, self.worst.1);
    }

    fn lanes(&self, shape: &[usize], values: &[f64]) -> Tensor {
        Tensor::from_values(Spec::lanes(shape, self.dtype), values)
    }

    fn rows(&self, shape: &[usize], values: &[f64]) -> Tensor {
        Tensor::from_values(Spec::rows(shape, self.dtype), values)
    }
}

fn sizes(value: &Value) -> Vec<usize> {
    golden::floats(value).iter().map(|&d| d as usize).collect()
}

/// Both sides of a square, or of the rectangle that is given.
fn pair(value: &Value) -> [usize; 2] {
    let sizes = sizes(value);
    [sizes[0], *sizes.last().unwrap()]
}

/// Back-propagates the fixture's cotangent from `y`; gives the gradients of `wanted`.
fn gradients(tape: &mut Tape, y: Var, wanted: &[Var]) -> Vec<Vec<f64>> {
    let spec = tape.spec(y);
    let dy = Tensor::from_values(spec, &golden::values(5000, spec.shape.count(), 1.0));
    tape.backward_from(y, dy, &mut Gradients::default()).unwrap();
    wanted.iter().map(|&v| tape.gradient(v).unwrap().values()).collect()
}

/// An input of a case of ops.json.
fn input(judge: &Judge, spec: &Value) -> Tensor {
    let shape = sizes(&spec["shape"]);
    let mut values = golden::values(spec["p"].as_u64().unwrap(), shape.iter().product(), spec["scale"].as_f64().unwrap());
    if spec["tenths"].as_bool().unwrap() {
        values.iter_mut().for_each(|x| *x = (*x * 10.0).round_ties_even() / 10.0);
    }
    if spec["name"] == "x" { judge.lanes(&shape, &values) } else { judge.rows(&shape, &values) }
}

/// Numbers over a temperature, by the one op that can scale: a linear layer with the diagonal matrix of 1/T.
fn over(judge: &Judge, tape: &mut Tape, x: Var, temperature: f64) -> Var {
    let c = tape.spec(x).shape[1];
    let diagonal: Vec<f64> = (0..c * c).map(|i| if i % (c + 1) == 0 { 1.0 / temperature } else { 0.0 }).collect();
    let w = tape.input(judge.rows(&[c, c], &diagonal));
    tape.apply(Linear, &[x, w]).unwrap()
}

/// Runs the op of a case on its inputs.
fn apply(judge: &Judge, tape: &mut Tape, case: &Value, v: &[Var]) -> Var {
    let attrs = &case["attrs"];
    let [kernel, stride, padding] = ["kernel", "stride", "padding"].map(|key| attrs.get(key).map_or([0; 2], pair));
    // Targets have the shape of the logits.
    let shape = tape.spec(v[0]).shape;
    let soft = |tape: &mut Tape, key: &str| tape.input(judge.lanes(&shape, &golden::floats(&case[key])));
    let y = match case["op"].as_str().unwrap() {
        "conv2d" => tape.apply(Conv2d { stride, padding }, v),
        "max_pool2d" => tape.apply(MaxPool2d { kernel, stride, padding, rectify: false }, v),
        "avg_pool2d" => tape.apply(AvgPool2d { kernel, stride, padding }, v),
        "linear" => tape.apply(Linear, v),
        "relu" => tape.apply(Relu { slope: 0.0 }, v),
        "leaky_relu" => tape.apply(Relu { slope: attrs["slope"].as_f64().unwrap() }, v),
        "softmax" => tape.apply(Softmax { log: false }, v),
        "log_softmax" => tape.apply(Softmax { log: true }, v),
        "cross_entropy" => {
            let target = match case.get("labels") {
                Some(labels) => tape.input(Tensor::from_values(Spec::rows([shape[0]], DType::I32), &golden::floats(labels))),
                None => soft(tape, "target"),
            };
            let reduction = if attrs["reduction"] == "sum" { Reduction::Sum } else { Reduction::Mean };
            let label_smoothing = attrs["label_smoothing"].as_f64().unwrap();
            tape.apply(CrossEntropy { reduction, label_smoothing }, &[v[0], target])
        }
        // Without an op of its own: it is the divergence from a distribution that is certain.
        "nll_loss" => {
            let labels = sizes(&case["labels"]);
            let certain: Vec<f64> = (0..shape.count()).map(|i| f64::from(labels[i / shape[1]] == i % shape[1])).collect();
            let target = tape.input(judge.lanes(&shape, &certain));
            tape.apply(KlDiv { log_target: false, scale: 1.0 }, &[v[0], target])
        }
        "kl_div" => {
            let target = soft(tape, "target");
            tape.apply(KlDiv { log_target: false, scale: 1.0 }, &[v[0], target])
        }
        "distillation" => {
            let t = attrs["temperature"].as_f64().unwrap();
            let teacher = soft(tape, "teacher");
            let [x, teacher] = [v[0], teacher].map(|logits| over(judge, tape, logits, t));
            let student = tape.apply(Softmax { log: true }, &[x]).unwrap();
            let teacher = tape.apply(Softmax { log: false }, &[teacher]).unwrap();
            tape.apply(KlDiv { log_target: false, scale: t * t }, &[student, teacher])
        }
        other => panic!("{other} is new"),
    };
    y.unwrap()
}

#[test]
fn operations_equal_pytorch() {
    let all = golden::load("ops.json", "ops");
    assert_eq!(all.as_array().unwrap().len(), 49);
    for mut judge in Judge::all() {
        for (i, case) in all.as_array().unwrap().iter().enumerate() {
            let what = format!("case {i}, {} {}", case["op"], case["attrs"]);
            let inputs = case["inputs"].as_array().unwrap();
            let mut tape = Tape::new();
            let v: Vec<Var> = inputs.iter().map(|spec| tape.leaf(input(&judge, spec))).collect();
            let y = apply(&judge, &mut tape, case, &v);
            assert_eq!(tape.spec(y).shape[..], sizes(&case["output"]["shape"]), "{what}");
            judge.compare(&tape.value(y).values(), &case["output"]["values"], &what);
            assert_eq!(case["gradients"].as_object().unwrap().len(), v.len(), "{what}");
            for (dx, input) in gradients(&mut tape, y, &v).iter().zip(inputs) {
                let name = input["name"].as_str().unwrap();
                judge.compare(dx, &case["gradients"][name], &format!("{what}: gradient of {name}"));
            }
        }
        judge.report();
    }
}

/// The mean over the whole picture is the pool whose window is the whole picture.
#[test]
fn the_global_average_equals_pytorchs_pool() {
    let all = golden::load("ops.json", "ops");
    let mut found = all.as_array().unwrap().iter().filter(|case| case["op"] == "avg_pool2d" && case["attrs"]["kernel"] == 7);
    let case = found.next().unwrap();
    for mut judge in Judge::all() {
        let mut tape = Tape::new();
        let x = tape.leaf(input(&judge, &case["inputs"][0]));
        let y = tape.apply(GlobalAvgPool, &[x]).unwrap();
        judge.compare(&tape.value(y).values(), &case["output"]["values"], "global average");
        judge.compare(&gradients(&mut tape, y, &[x])[0], &case["gradients"]["x"], "gradient of the global average");
    }
}

#[test]
fn batch_norms_equal_pytorch() {
    let all = golden::load("batchnorm.json", "batchnorm");
    assert_eq!(all.as_object().unwrap().len(), 2);
    for mut judge in Judge::all() {
        for (name, theirs) in all.as_object().unwrap() {
            let shape = sizes(&theirs["shape"]);
            let (count, channels) = (shape.iter().product(), shape[1]);
            let [eps, momentum] = ["eps", "momentum"].map(|key| theirs[key].as_f64().unwrap());
            let [weight, bias] = ["weight", "bias"].map(|key| judge.rows(&[channels], &golden::floats(&theirs[key])));
            let mut mean = judge.rows(&[channels], &vec![0.0; channels]);
            let mut var = judge.rows(&[channels], &vec![1.0; channels]);
            let mut batches = Tensor::zeros(Spec::rows([], DType::I32));
            let inputs = |judge: &Judge, tape: &mut Tape, step: u64| {
                let x = judge.lanes(&shape, &golden::values(4000 + step, count, 1.0));
                [x, weight.clone(), bias.clone()].map(|t| tape.leaf(t))
            };
            let compare_whole = |judge: &mut Judge, tape: &mut Tape, y: Var, v: &[Var], theirs: &Value, what: &str| {
                judge.compare(&tape.value(y).values(), &theirs["y"], what);
                for (dx, key) in gradients(tape, y, v).iter().zip(["dx", "dweight", "dbias"]) {
                    judge.compare(dx, &theirs[key], &format!("{what}: {key}"));
                }
            };

            let steps = theirs["steps"].as_array().unwrap();
            assert_eq!(steps.len(), 10);
            for (step, whole) in steps.iter().enumerate() {
                let what = format!("{name} step {step}");
                let mut tape = Tape::new();
                let v = inputs(&judge, &mut tape, step as u64);
                let y = tape.apply(BatchNorm { eps }, &v).unwrap();
                let values = tape.value(y).values();
                judge.compare(&values[..8], &whole["first"], &what);
                judge.compare(&[values.iter().sum()], &whole["sum"], &format!("{what}: sum"));
                update_running(tape.saved(y), momentum, &mut mean, &mut var, &mut batches).unwrap();
                judge.compare(&mean.values(), &whole["running_mean"], &format!("{what}: running mean"));
                judge.compare(&var.values(), &whole["running_var"], &format!("{what}: running variance"));
                if step == 0 {
                    compare_whole(&mut judge, &mut tape, y, &v, &theirs["first_step"], &what);
                }
            }
            assert_eq!(Some(batches.item()), theirs["num_batches_tracked"].as_f64());

            let mut tape = Tape::new();
            let v = inputs(&judge, &mut tape, 10);
            let statistics = [&mean, &var].map(|t| tape.input(t.clone()));
            let y = tape.apply(BatchNormEval { eps }, &[&v[..], &statistics].concat()).unwrap();
            compare_whole(&mut judge, &mut tape, y, &v, &theirs["eval"], &format!("{name} in evaluation"));
        }
        judge.report();
    }
}
