//! Whole networks: PyTorch's figures, step by step, and what holds for a step on any network.

#![allow(clippy::unwrap_used)]

use crate::golden;
use cugrad::autograd::{Tape, Var};
use cugrad::data::{Loader, synthetic};
use cugrad::device::{Device, memory};
use cugrad::models::{ALL, Known, Model, Options};
use cugrad::ops::cross_entropy::{CrossEntropy, Reduction};
use cugrad::ops::dropout;
use cugrad::optim::{self, Clock, LossScale, Optimizer, Rule};
use cugrad::tensor::{DType, Philox, Spec, Tensor};
use cugrad::train::Running;
use cugrad::train::step::{Setting, totals, train_step};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Compares numbers of one network with PyTorch's, and remembers the largest error.
struct Judge {
    what: String,
    bound: f64,
    worst: (f64, String),
}

impl Judge {
    /// Is `ours` within the bound times `scale` of `theirs`?
    fn near(&mut self, ours: f64, theirs: f64, scale: f64, what: &str) {
        let error = (ours - theirs).abs() / scale;
        assert!(error <= self.bound, "{}: {what} is {ours:?}, PyTorch's {theirs:?}: relative error {error:.1e}", self.what);
        if error > self.worst.0 {
            self.worst = (error, what.into());
        }
    }

    /// The same relative to `theirs`.
    fn like(&mut self, ours: f64, theirs: &Value, what: &str) {
        let theirs = theirs.as_f64().unwrap();
        self.near(ours, theirs, theirs.abs(), what);
    }

    /// Compares the first or last numbers of a tensor, relative to the typical size of its numbers.
    fn few(&mut self, ours: &[f64], theirs: &Value, rms: f64, what: &str) {
        let theirs = golden::floats(theirs);
        assert_eq!(ours.len(), theirs.len(), "{}: how many of {what}", self.what);
        for (ours, theirs) in ours.iter().zip(theirs) {
            self.near(*ours, theirs, rms, what);
        }
    }
}

fn sum_of_squares(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum()
}

/// A network of models.json with the fixture's weights, which has just those parameters in just that order.
fn model(name: &str, theirs: &Value, dtype: DType, device: Device) -> Model {
    let mut model = Model::build(name, &Options { dtype, device, dropout: false, ..Options::default() }).unwrap();
    fill(&mut model);
    let declared = |g: &Value| (g["name"].as_str().unwrap().to_string(), golden::floats(&g["shape"]));
    let theirs: Vec<_> = theirs["gradients"].as_array().unwrap().iter().map(declared).collect();
    let params = model.params.names().iter().zip(model.params.values());
    let ours: Vec<_> = params.map(|(n, w)| (n.clone(), w.shape().iter().map(|&d| d as f64).collect::<Vec<_>>())).collect();
    assert_eq!(ours, theirs, "{name}: names and shapes of the parameters");
    model
}

/// Gives every parameter its value by the fixtures' formula.
fn fill(model: &mut Model) {
    let count = model.params.len();
    for (p, (name, w)) in model.params.state_mut().take(count).enumerate() {
        let shape = w.shape();
        let values: Vec<f64> = match (shape.len(), name.ends_with("weight")) {
            (2.., _) => golden::values(p as u64, shape.count(), 1.0 / (shape.per_image() as f64).sqrt()),
            (_, true) => golden::values(p as u64, shape.count(), 0.1).iter().map(|w| 1.0 + w).collect(),
            (_, false) => golden::values(p as u64, shape.count(), 0.1),
        };
        w.copy_from(&Tensor::from_values(w.spec(), &values));
    }
}

/// The fixture's pictures and labels.
fn batch(theirs: &Value, dtype: DType, device: Device) -> (Tensor, Tensor) {
    let shape: Vec<usize> = golden::floats(&theirs["input"]).iter().map(|&d| d as usize).collect();
    let labels: Vec<i32> = (0..shape[0] as i32).map(|n| (7 * n + 3) % 10).collect();
    assert_eq!(golden::floats(&theirs["labels"]), labels.iter().map(|&l| f64::from(l)).collect::<Vec<_>>());
    let spec = Spec::lanes(&shape[..], dtype);
    (
        Tensor::from_values(spec.on(device), &golden::values(1000, spec.shape.count(), 1.0)),
        Tensor::from_values(Spec::rows([shape[0]], DType::I32).on(device), &labels),
    )
}

/// Logits and their mean cross-entropy, in training or in evaluation mode.
fn forward(model: &mut Model, tape: &mut Tape, (x, labels): &(Tensor, Tensor), training: bool) -> (Var, Var) {
    let (x, labels) = (tape.input(x.clone()), tape.input(labels.clone()));
    let step = dropout::step(0, model.device);
    let logits = if training { model.train(tape, x, 0, step) } else { model.eval(tape, x) }.unwrap();
    let loss = tape.apply(CrossEntropy { reduction: Reduction::Mean, label_smoothing: 0.0 }, &[logits, labels]).unwrap();
    (logits, loss)
}

fn loss(model: &mut Model, batch: &(Tensor, Tensor), training: bool) -> f64 {
    let mut tape = Tape::inference();
    let (_, loss) = forward(model, &mut tape, batch, training);
    tape.value(loss).item()
}

/// The optimiser of models.json and its learning rate.
fn sgd(theirs: &Value, model: &Model) -> (Optimizer, f64) {
    let of = |key: &str| theirs["sgd"][key].as_f64();
    let options = optim::Options { momentum: of("momentum"), weight_decay: of("weight_decay"), ..optim::Options::default() };
    (Optimizer::new(Rule::by_name("sgd", &options).unwrap(), &model.params), of("lr").unwrap())
}

/// Compares all gradients of the last backward.
///
/// What a batch norm takes out again has gradient zero; there PyTorch's figures are rounding noise, and ours may be that too.
fn compare_gradients(model: &Model, theirs: &Value, noise: f64, judge: &mut Judge) {
    for (p, theirs) in theirs["gradients"].as_array().unwrap().iter().enumerate() {
        let name = &model.params.names()[p];
        let gradient = model.params.gradients.get(p).unwrap_or_else(|| panic!("{}: {name} has no gradient", judge.what)).values();
        let squares = theirs["sum_of_squares"].as_f64().unwrap();
        if squares < 1e-20 {
            assert!(name.ends_with("bias"));
            assert!(gradient.iter().all(|g| g.abs() <= noise), "{}: {name} should have no gradient but has {gradient:?}", judge.what);
            continue;
        }
        let (norm, n) = (squares.sqrt(), gradient.len());
        let of = |key: &str| theirs[key].as_f64().unwrap();
        let dot: f64 = gradient.iter().zip(golden::values(2000 + p as u64, n, 1.0)).map(|(g, v)| g * v).sum();
        // Where its numbers have one sign a sum is much larger than the norm, and so is what f32 can do about it.
        judge.near(gradient.iter().sum(), of("sum"), norm.max(of("sum").abs()), &format!("sum of the gradient of {name}"));
        judge.near(dot, of("dot"), norm.max(of("dot").abs()), &format!("projection of the gradient of {name}"));
        judge.near(sum_of_squares(&gradient), squares, squares, &format!("norm of the gradient of {name}"));
        let rms = (squares / n as f64).sqrt();
        judge.few(&gradient[..n.min(4)], &theirs["first"], rms, &format!("start of the gradient of {name}"));
        judge.few(&gradient[n - n.min(4)..], &theirs["last"], rms, &format!("end of the gradient of {name}"));
    }
}

/// Compares the running statistics after one step in training mode.
fn compare_running(model: &Model, theirs: &Value, judge: &mut Judge) {
    let buffers: Vec<(&str, &Tensor)> = model.params.state().skip(model.params.len()).collect();
    let theirs = theirs["running"].as_array().unwrap();
    assert_eq!(buffers.len(), 3 * theirs.len(), "{}: buffers", judge.what);
    for theirs in theirs {
        let layer = theirs["name"].as_str().unwrap();
        let buffer = |name: &str| buffers.iter().find(|(n, _)| *n == format!("{layer}.{name}")).unwrap().1;
        for (name, theirs) in [("running_mean", &theirs["mean"]), ("running_var", &theirs["var"])] {
            let ours = buffer(name).values();
            let norm = sum_of_squares(&ours).sqrt();
            judge.near(ours.iter().sum(), theirs["sum"].as_f64().unwrap(), norm, &format!("sum of {layer}.{name}"));
            let rms = norm / (ours.len() as f64).sqrt();
            judge.few(&ours[..ours.len().min(4)], &theirs["first"], rms, &format!("start of {layer}.{name}"));
        }
        assert_eq!(buffer("num_batches_tracked").item(), 1.0);
    }
}

/// Everything that models.json says about one network.
pub fn compare(name: &str, theirs: &Value, dtype: DType, device: Device) {
    memory::poison();
    let (bound, noise) = if dtype == DType::F64 { (1e-9, 1e-9) } else { (1e-4, 1e-5) };
    let mut judge = Judge { what: format!("{name} in {dtype} on {device}"), bound, worst: (0.0, "nothing".into()) };
    let batch = batch(theirs, dtype, device);

    let mut net = model(name, theirs, dtype, device);
    let (mut optimizer, lr) = sgd(theirs, &net);
    let clock = Clock::new(dtype, device, LossScale::default());
    optimizer.plan(&net.params, 1, std::iter::once((lr, None)));
    let mut tape = Tape::new();
    let (logits, first) = forward(&mut net, &mut tape, &batch, true);
    judge.like(tape.value(first).item(), &theirs["loss"], "loss");
    let all = golden::floats(&theirs["logits"]);
    judge.few(&tape.value(logits).values(), &theirs["logits"], (sum_of_squares(&all) / all.len() as f64).sqrt(), "logits");
    tape.backward(first, &mut net.params.gradients).unwrap();
    drop(tape);
    compare_gradients(&net, theirs, noise, &mut judge);
    compare_running(&net, theirs, &mut judge);

    optimizer.take_step(&mut net.params, &clock, lr).unwrap();
    judge.like(loss(&mut net, &batch, true), &theirs["loss_after_step"], "loss after a step");
    judge.like(loss(&mut net, &batch, false), &theirs["eval_loss_after_step"], "loss in evaluation");

    if let Some(losses) = theirs.get("losses") {
        let mut net = model(name, theirs, dtype, device);
        let (mut optimizer, lr) = sgd(theirs, &net);
        let losses = losses.as_array().unwrap();
        let (mut clock, mut totals, mut before) = (Clock::new(dtype, device, LossScale::default()), totals(&net), Running::default());
        optimizer.plan(&net.params, losses.len(), std::iter::repeat_n((lr, None), losses.len()));
        for (step, theirs) in losses.iter().enumerate() {
            let setting = Setting { lr, label_smoothing: 0.0, seed: 0 };
            let (x, labels) = batch.clone();
            train_step(&mut net, &mut optimizer, &mut clock, &mut totals, (x, labels), &setting, None).unwrap();
            let all = Running::read(&totals).unwrap();
            judge.like(all.since(&before).loss(), theirs, &format!("loss of step {step}"));
            before = all;
        }
    }
    println!("{}: largest error {:.1e}, {}", judge.what, judge.worst.0, judge.worst.1);
}

/// The networks that go through every test: all but the deep ones, whose layers are the same and more.
pub fn thorough() -> Vec<&'static Known> {
    let deep = golden::load("deep.json", "deep");
    ALL.iter().filter(|known| deep.get(known.name).is_none()).collect()
}

/// All networks of models.json but the largest.
fn compare_small(dtype: DType) {
    let all = golden::load("models.json", "models");
    let known = thorough();
    assert_eq!(all.as_object().unwrap().len(), known.len());
    for known in known.iter().filter(|known| !["resnet18", "vgg11"].contains(&known.name)) {
        compare(known.name, &all[known.name], dtype, Device::Cpu);
    }
}

#[test]
fn networks_equal_pytorch_in_f64() {
    compare_small(DType::F64);
}

#[test]
fn networks_equal_pytorch_in_f32() {
    compare_small(DType::F32);
}

#[test]
fn large_networks_equal_pytorch() {
    let all = golden::load("models.json", "models");
    for name in ["resnet18", "vgg11"] {
        for dtype in [DType::F64, DType::F32] {
            compare(name, &all[name], dtype, Device::Cpu);
        }
    }
}

/// Everything that deep.json says about one network.
fn compare_deep(name: &str, theirs: &Value) {
    memory::poison();
    let mut judge = Judge { what: name.into(), bound: 1e-10, worst: (0.0, "nothing".into()) };
    let batch = batch(theirs, DType::F64, Device::Cpu);
    let [_, _, h, w] = batch.0.shape()[..] else { panic!("{name}: the batch is no batch of pictures") };
    let options = Options { dtype: DType::F64, dropout: false, size: Some([h, w]), ..Options::default() };
    let mut net = Model::build(name, &options).unwrap();
    let mut names = String::new();
    for (name, w) in net.params.names().iter().zip(net.params.values()) {
        names += &format!("{name} {:?}\n", w.shape().to_vec());
    }
    let hash: String = Sha256::digest(&names).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, theirs["names"].as_str().unwrap(), "{name}: not PyTorch's names and shapes:\n{names}");
    let counts = [net.params.count(), Model::count(name, &options).unwrap()];
    assert_eq!(counts.map(|n| n as u64), [theirs["parameters"].as_u64().unwrap(); 2], "{name}: parameters");
    fill(&mut net);

    let mut tape = if theirs.get("gradients").is_some() { Tape::new() } else { Tape::inference() };
    let (logits, loss) = forward(&mut net, &mut tape, &batch, true);
    judge.like(tape.value(loss).item(), &theirs["loss"], "loss");
    let rms = |all: &Value| (sum_of_squares(&golden::floats(all)) / golden::floats(all).len() as f64).sqrt();
    judge.few(&tape.value(logits).values(), &theirs["logits"], rms(&theirs["logits"]), "logits");
    if let Some(gradients) = theirs.get("gradients") {
        tape.backward(loss, &mut net.params.gradients).unwrap();
        for (p, theirs) in gradients.as_array().unwrap().iter().enumerate() {
            let (name, dw) = (&net.params.names()[p], net.params.gradients.get(p).unwrap().values());
            let [norm, dot] = golden::floats(theirs)[..] else { panic!("{theirs}") };
            let ours = sum_of_squares(&dw).sqrt();
            // The bias before a batch norm.
            if norm < 1e-10 {
                assert!(name.ends_with("bias") && ours < 1e-9, "{name}: {ours:e}");
                continue;
            }
            judge.near(ours, norm, norm, &format!("norm of the gradient of {name}"));
            let projection: f64 = dw.iter().zip(golden::values(2000 + p as u64, dw.len(), 1.0)).map(|(g, v)| g * v).sum();
            judge.near(projection, dot, norm, &format!("projection of the gradient of {name}"));
        }
    }
    drop(tape);
    let mut tape = Tape::inference();
    let (logits, _) = forward(&mut net, &mut tape, &batch, false);
    judge.few(&tape.value(logits).values(), &theirs["eval_logits"], rms(&theirs["eval_logits"]), "logits in evaluation");
    println!("{}: largest error {:.1e}, {}", judge.what, judge.worst.0, judge.worst.1);
}

#[test]
fn deep_networks_equal_pytorch() {
    let all = golden::load("deep.json", "deep");
    for (name, theirs) in all.as_object().unwrap() {
        compare_deep(name, theirs);
    }
}

/// A network that has learned nothing is about as good as one that holds all ten classes equally likely.
///
/// Not quite: its logits differ a little, most where the last layer reads what a batch norm made large (lenet-bn3: 0.45 above). Logits that come
/// out of a batch norm have variance 1; were they normal, the loss would be ½ above.
#[test]
fn first_losses_are_those_of_guessing() {
    let splits = synthetic(30, 1, 1);
    let numbers: Vec<u32> = (0..30).collect();
    let mut far = Vec::new();
    for known in ALL {
        let mut model = Model::build(known.name, &Options::default()).unwrap();
        let loader = Loader::new(&splits.train, &splits.normalization, model.input, DType::F32, Device::Cpu).unwrap();
        let loss = loss(&mut model, &loader.batch(&numbers).unwrap(), true);
        println!("{}: first loss {loss:.3}", known.name);
        let above = if known.name.starts_with("simple") { 0.5 } else { 0.0 };
        let near = (loss - 10f64.ln() - above).abs() <= 0.5;
        if !near {
            far.push((known.name, loss));
        }
    }
    assert!(far.is_empty(), "{far:?}");
}

/// Trains on generated digits, a batch of `n` a step; `after` sees the network after each step.
fn train(name: &str, n: u32, steps: u32, mut after: impl FnMut(&Model)) {
    let splits = synthetic((n * steps) as usize, 1, 2);
    let mut model = Model::build(name, &Options::default()).unwrap();
    let options = optim::Options { momentum: Some(0.9), weight_decay: Some(1e-4), ..optim::Options::default() };
    let mut optimizer = Optimizer::new(Rule::by_name("sgd", &options).unwrap(), &model.params);
    let loader = Loader::new(&splits.train, &splits.normalization, model.input, DType::F32, Device::Cpu).unwrap();
    let (mut clock, mut totals) = (Clock::new(DType::F32, Device::Cpu, LossScale::default()), totals(&model));
    for step in 0..steps {
        let (x, labels) = loader.batch(&(n * step..n * (step + 1)).collect::<Vec<_>>()).unwrap();
        let setting = Setting { lr: 0.05, label_smoothing: 0.0, seed: 3 };
        train_step(&mut model, &mut optimizer, &mut clock, &mut totals, (x, labels), &setting, None).unwrap();
        after(&model);
    }
}

fn on_threads(threads: usize, run: impl FnOnce() + Send) {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    // The third has dropout; 100 images go through LeNet in shares.
    for (name, n) in [("lenet", 33), ("lenet", 100), ("resnet8", 33), ("mnist-cnn-fixed", 33)] {
        let run = |threads: usize| {
            let mut state: Vec<u64> = Vec::new();
            on_threads(threads, || {
                train(name, n, 3, |model| state = model.params.state().flat_map(|(_, t)| t.values()).map(f64::to_bits).collect());
            });
            state
        };
        let one = run(1);
        for threads in [2, 5] {
            let many = run(threads);
            let differ = one.iter().zip(&many).filter(|(a, b)| a != b).count();
            assert_eq!((one.len(), differ), (many.len(), 0), "{name}: numbers that differ between 1 and {threads} threads");
        }
    }
}

/// The counter is one for the whole process, so this runs in a process of its own; on one thread, because how many rooms of scratch
/// are in use at once depends on how the threads share the work.
#[test]
fn a_steady_step_allocates_nothing() {
    const ALONE: &str = "CUGRAD_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", "models::a_steady_step_allocates_nothing", "--nocapture"]).env(ALONE, "1").output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    for (name, n) in [("lenet", 32), ("lenet", 100), ("resnet8", 32)] {
        let mut allocations = Vec::new();
        on_threads(1, || train(name, n, 8, |_| allocations.push(memory::usage().allocations)));
        assert!(allocations[2..].iter().all(|&a| a == allocations[2]), "{name}: allocations after each step: {allocations:?}");
    }
}

#[test]
fn shares_of_a_batch_have_the_logits_of_the_whole() {
    for name in ["lenet", "resnet8"] {
        let (model, rng) = (Model::build(name, &Options::default()).unwrap(), Philox::new(8));
        let pictures: Vec<f64> = (0..100 * 784).map(|i| rng.normal(0, i)).collect();
        let x = Tensor::from_values(Spec::lanes([100, 1, 28, 28], DType::F32), &pictures);
        let mut tape = Tape::inference();
        let at_once = tape.input(x.clone());
        let at_once = model.eval(&mut tape, at_once).unwrap();
        assert_eq!(model.logits(x).unwrap().values(), tape.value(at_once).values(), "{name}");
    }
}
