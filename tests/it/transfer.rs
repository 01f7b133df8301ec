//! Transfer: first weights from another network, and parameters that keep every bit of theirs, on every device.

#![allow(clippy::unwrap_used)]

use crate::cli::{QUICK, bits, cugrad, load, read, same_runs};
use crate::models::thorough;
use crate::{cuda, device};
use cugrad::autograd::Tape;
use cugrad::data::{Loader, synthetic};
use cugrad::device::Device;
use cugrad::models::{Model, Options};
use cugrad::nn::ParamId;
use cugrad::ops::cross_entropy::{CrossEntropy, Reduction};
use cugrad::tensor::{DType, Tensor};
use cugrad::train::transfer::freeze;
use cugrad::train::{Config, progress::Place};
use tempfile::tempdir;

/// The gradient of every parameter, with some of them frozen.
fn gradients(name: &str, frozen: impl Fn(usize) -> bool, device: Device) -> Vec<Option<Vec<f64>>> {
    let splits = synthetic(6, 1, 2);
    let mut model = Model::build(name, &Options { device, dropout: false, ..Options::default() }).unwrap();
    (0..model.params.len()).filter(|&i| frozen(i)).for_each(|i| model.params.freeze(ParamId(i)));
    let loader = Loader::new(&splits.train, &splits.normalization, model.input, DType::F32, device).unwrap();
    let (x, labels) = loader.batch(&[0, 1, 2, 3, 4, 5]).unwrap();
    let mut tape = Tape::new();
    let (x, labels) = (tape.input(x), tape.input(labels));
    let logits = model.train(&mut tape, x, 0, Tensor::zeros(cugrad::tensor::Spec::rows([2], DType::I32).on(device))).unwrap();
    let loss = tape.apply(CrossEntropy { reduction: Reduction::Mean, label_smoothing: 0.0 }, &[logits, labels]).unwrap();
    model.params.gradients.clear();
    tape.backward(loss, &mut model.params.gradients).unwrap();
    (0..model.params.len()).map(|i| model.params.gradients.get(i).map(|dw| dw.read().unwrap())).collect()
}

/// Frozen parameters have no gradient, and that of the others is the same to the last bit, whichever are frozen.
#[test]
fn freezing_changes_no_other_gradient() {
    for known in thorough().into_iter().filter(|known| !["resnet18", "vgg11"].contains(&known.name)) {
        for device in [Device::Cpu, device::open()] {
            if device != Device::Cpu && !["net1", "lenet-bn3", "resnet8"].contains(&known.name) {
                continue;
            }
            let all = gradients(known.name, |_| false, device);
            for pick in [|i| i % 2 == 0, |i| i % 2 == 1, |i| i < 6, |i| i % 3 == 1] {
                let some = gradients(known.name, pick, device);
                for (i, (a, b)) in all.iter().zip(&some).enumerate() {
                    assert!(if pick(i) { b.is_none() } else { a == b }, "{} on {device}: parameter {i}", known.name);
                }
            }
        }
    }
}

/// In a whole run with weight decay and momentum: frozen parameters keep their bits, the others move, captured steps equal eager ones.
#[test]
fn frozen_parameters_keep_their_bits_in_captured_steps_too() {
    let splits = synthetic(170, 4, 3);
    let frozen = ["conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "conv2.weight"];
    let patterns = vec!["conv1.*".into(), "bn1.*".into(), "conv2.w*".into()];
    let config = Config { optimizer: "adamw".into(), weight_decay: Some(0.1), freeze: patterns, ..cuda::config("lenet-bn3", "f32") };
    let first: Vec<(String, Vec<u64>)> = {
        let mut model = Model::build("lenet-bn3", &Options { seed: config.seed, ..Options::default() }).unwrap();
        assert_eq!(freeze(&mut model, &config.freeze).unwrap(), frozen);
        model.params.state().map(|(name, t)| (name.to_string(), t.values().iter().map(|x| x.to_bits()).collect())).collect()
    };
    let gpu = |capture, stop| cuda::train(&config, &splits, Place { device: device::open(), capture }, stop);
    let (captured, eager, resumed) = (gpu(true, None), gpu(false, None), gpu(true, Some(7)));
    assert_eq!(cuda::different(&captured, &eager), [""; 0], "captured and eager");
    assert_eq!(cuda::different(&captured, &resumed), [""; 0], "stopped and resumed");
    for (run, state) in [("captured", &captured), ("on the CPU", &cuda::train(&config, &splits, Place::CPU, None))] {
        for (name, before) in &first {
            let after = &state.iter().find(|(n, _)| n == name).unwrap().1;
            // The running statistics of a frozen batch norm are not parameters: they follow the batches.
            assert_eq!(before == after, frozen.contains(&name.as_str()), "{run}: {name}");
        }
    }
}

#[test]
fn a_network_begins_with_what_fits_of_anothers() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out a")).succeeds();
    let mut saved = load(&dir, "a/last.safetensors");
    // As if it had told seven classes apart.
    for name in ["fc.weight", "fc.bias"] {
        let (shape, array) = saved.tensors.get_mut(name).unwrap();
        let cugrad::train::Array::F32(values) = array else { panic!() };
        values.truncate(values.len() / 10 * 7);
        shape[0] = 7;
    }
    saved.save(&dir.path().join("seven.safetensors")).unwrap();
    // The network is that of the checkpoint: --model is left out.
    let line = QUICK.replace("--model net1", "--init-from seven.safetensors --freeze conv1.* --epochs 1 --out b");
    let said = cugrad(&dir, &line);
    said.succeeds();
    for part in ["2 of 4 tensors taken", "fc.weight keeps its first values: the checkpoint has [7, 360], the model [10, 360]", "fc.bias"] {
        assert!(said.err.contains(part), "{part} is not in {}", said.err);
    }
    let trained = load(&dir, "b/last.safetensors");
    let (before, after) = (bits(&saved), bits(&trained));
    for name in ["conv1.weight", "conv1.bias"] {
        assert!(before[name] == after[name], "{name}");
    }
    let config = read(&dir, "b/config.toml");
    assert!(config.contains("init-from = \"seven.safetensors\"") && config.contains("freeze = [\"conv1.*\"]"), "{config}");

    // A resumed run stays frozen, needs the file no more, and ends like one that never stopped.
    cugrad(&dir, &format!("{line} --epochs 2").replace("--epochs 1 --out b", "--out straight")).succeeds();
    std::fs::remove_file(dir.path().join("seven.safetensors")).unwrap();
    cugrad(&dir, "train --device cpu --resume b/last.safetensors --epochs 2").succeeds();
    same_runs(&dir, "straight", "b");
    cugrad(&dir, "train --device cpu --resume b/last.safetensors --epochs 3 --freeze fc.*").fails(2, &["keeps its choices"]);
}

#[test]
fn what_cannot_be_transferred_is_refused() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out a")).succeeds();
    let line = QUICK.replace("net1", "improved");
    cugrad(&dir, &format!("{line} --init-from a/last.safetensors --out b"))
        .fails(2, &["a/last.safetensors", "nothing in it fits", "--model"]);
    cugrad(&dir, &format!("{QUICK} --init-from none.safetensors --out b")).fails(2, &["none.safetensors"]);
    cugrad(&dir, &format!("{QUICK} --freeze conv1.*,conv7.* --out b")).fails(2, &["'conv7.*'", "conv1.weight", "fc.bias"]);
    cugrad(&dir, &format!("{QUICK} --freeze * --out b")).fails(2, &["nothing to train"]);
    assert!(!dir.path().join("b").exists());
}
