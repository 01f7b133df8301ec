//! Exports as other programs see them, weights from other programs, and the commands `export` and `import`.
//!
//! What needs PyTorch, onnx and onnxruntime runs when `CUGRAD_PYTHON` names a Python that has them, or `python3` does; else those tests
//! say that they were skipped. CI makes such a Python.

#![allow(clippy::unwrap_used)]

use crate::models::thorough;
use cugrad::data::Normalization;
use cugrad::export::{Format, export, import};
use cugrad::models::{Model, Options};
use cugrad::tensor::{DType, Philox, Spec, Tensor};
use cugrad::train::trained::{describe, load_model};
use cugrad::train::{Array, Checkpoint, Config, Trained};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::{TempDir, tempdir};

/// A Python with what the scripts import, if there is one.
fn python() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let named = std::env::var("CUGRAD_PYTHON").ok();
        let python = named.clone().unwrap_or("python3".into());
        let script = "import torch, onnx, onnxruntime, safetensors, numpy";
        let works = Command::new(&python).args(["-c", script]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        assert!(works || named.is_none(), "CUGRAD_PYTHON={python} cannot '{script}'");
        works.then_some(python)
    });
    if found.is_none() {
        println!("skipped: no Python with torch, onnx, onnxruntime and safetensors; set CUGRAD_PYTHON to one");
    }
    found.as_deref()
}

/// Runs one of tests/python/ on a directory; what it printed if it succeeded.
#[track_caller]
fn script(python: &str, name: &str, dir: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name);
    let mut command = Command::new(python);
    // The sources stay as they are, and two cores are shared with the other tests.
    command.arg(script).arg(dir).env("PYTHONDONTWRITEBYTECODE", "1").env("OMP_NUM_THREADS", "2");
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned());
    assert!(status.success(), "{name}:\n{out}{err}");
    out
}

/// The program: exit code, stdout, stderr.
fn cugrad(dir: &TempDir, line: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cugrad"));
    command.current_dir(dir.path()).args(line.split_whitespace()).env("RAYON_NUM_THREADS", "2").stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn succeeds(dir: &TempDir, line: &str) -> String {
    let (code, out, err) = cugrad(dir, line);
    assert_eq!(code, Some(0), "{line}:\n{out}{err}");
    out
}

#[track_caller]
fn fails(dir: &TempDir, line: &str, code: i32, parts: &[&str]) {
    let (found, out, err) = cugrad(dir, line);
    assert_eq!(found, Some(code), "{line}:\n{out}{err}");
    parts.iter().for_each(|part| assert!(err.contains(part), "{line}: '{part}' is not in:\n{err}"));
    assert!(!err.contains("panicked"), "{err}");
}

/// A network all of whose numbers are drawn.
fn drawn(name: &str) -> Trained {
    let mut model = Model::build(name, &Options::default()).unwrap();
    let rng = Philox::new(11);
    for (i, (name, t)) in model.params.state_mut().enumerate() {
        let spec = t.spec();
        let of = |k: usize| rng.normal(i as u64, k as u64);
        let value = |k: usize| match name.rsplit('.').next().unwrap() {
            "running_var" => 0.5 + of(k).abs(),
            "num_batches_tracked" => 3.0,
            "weight" if spec.shape.len() > 1 => of(k) / (spec.shape.per_image() as f64).sqrt(),
            "weight" => 1.0 + 0.1 * of(k),
            _ => 0.1 * of(k),
        };
        t.copy_from(&Tensor::from_values(spec, &(0..spec.shape.count()).map(value).collect::<Vec<_>>()));
    }
    let config = Config { model: name.into(), data: "mnist".into(), ..Config::default() };
    Trained { model, classes: (0..10).map(|k| k.to_string()).collect(), normalization: Normalization::mnist(), config }
}

/// The checkpoint of a network.
fn saved(trained: &Trained) -> Checkpoint {
    describe(&trained.model, &trained.classes, &trained.normalization, &trained.config).unwrap()
}

fn logits(model: &mut Model, x: &[f32], dims: &[usize]) -> Vec<f32> {
    let y = model.logits(Tensor::from_values(Spec::lanes(dims, DType::F32), x)).unwrap();
    y.values().iter().map(|&v| v as f32).collect()
}

/// onnx's checker and onnxruntime, torch with `weights_only` and strict names, safetensors: every network.
#[test]
fn other_programs_compute_the_same() {
    let Some(python) = python() else { return };
    let dir = tempdir().unwrap();
    let rng = Philox::new(12);
    for known in thorough() {
        let mut trained = drawn(known.name);
        let checkpoint = saved(&trained);
        for (format, ending) in [(Format::Onnx, "onnx"), (Format::Pth, "pth"), (Format::Safetensors, "safetensors")] {
            export(&mut trained, &checkpoint, format, &dir.path().join(format!("{}.{ending}", known.name))).unwrap();
        }
        let [c, h, w] = known.input;
        let dims = vec![5, c, h, w];
        let x: Vec<f32> = (0..5 * c * h * w).map(|i| rng.normal(0, i as u64) as f32).collect();
        let y = logits(&mut trained.model, &x, &dims);
        let tensors = [("x".to_string(), (dims, Array::F32(x))), ("y".into(), (vec![5, 10], Array::F32(y)))];
        let expected = Checkpoint { tensors: tensors.into(), ..Default::default() };
        expected.save(&dir.path().join(format!("{}.expected", known.name))).unwrap();
    }
    // What training leaves behind, for every optimiser.
    for (rule, class, flags, arguments, moments) in [
        ("sgd", "SGD", "", json!({"lr": 0.01, "momentum": 0.0, "nesterov": false}), json!([])),
        (
            "sgd",
            "SGD",
            "--momentum 0.9 --nesterov --weight-decay 0.001",
            json!({"momentum": 0.9, "nesterov": true, "weight_decay": 0.001}),
            json!(["momentum_buffer"]),
        ),
        ("adam", "Adam", "", json!({"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8}), json!(["step", "exp_avg", "exp_avg_sq"])),
        (
            "adamw",
            "AdamW",
            "--weight-decay 0.1",
            json!({"weight_decay": 0.1, "decoupled_weight_decay": true}),
            json!(["step", "exp_avg", "exp_avg_sq"]),
        ),
        (
            "rmsprop",
            "RMSprop",
            "--momentum 0.5",
            json!({"alpha": 0.99, "momentum": 0.5, "centered": false}),
            json!(["step", "square_avg", "momentum_buffer"]),
        ),
    ] {
        let name = format!("{rule}{}", flags.len());
        let line = format!(
            "train --device cpu --offline --data synthetic --limit 128 --val-split 0 --model improved --batch 32 --epochs 2 --lr 0.01 --optimizer {rule} {flags} --out {name}"
        );
        succeeds(&dir, &line);
        succeeds(&dir, &format!("export {name}/last.safetensors --training -o {name}.pth"));
        let about = json!({"class": class, "arguments": arguments, "epoch": 2, "steps": 8, "moments": moments});
        fs::write(dir.path().join(format!("{name}.json")), about.to_string()).unwrap();
    }
    let said = script(python, "read_exports.py", dir.path());
    assert_eq!(said.lines().count(), thorough().len() + 5, "{said}");
    println!("{said}");
}

/// Files that PyTorch and safetensors wrote: every network, and every odd way of saving one.
#[test]
fn weights_from_pytorch_are_read() {
    let Some(python) = python() else { return };
    let dir = tempdir().unwrap();
    script(python, "write_weights.py", dir.path());
    let list = |file: &str| -> Vec<Vec<String>> { serde_json::from_str(&fs::read_to_string(dir.path().join(file)).unwrap()).unwrap() };
    let index = list("INDEX.json");
    assert!(index.len() >= 3 * thorough().len() + 10, "{}", index.len());
    for line in index {
        let [file, name, expected] = line.as_slice() else { panic!("{line:?}") };
        let expected = Checkpoint::load(&dir.path().join(expected)).unwrap();
        let read = import::read(&dir.path().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let mut model = Model::build(name, &Options { seed: 9, ..Options::default() }).unwrap();
        load_model(&mut model, &read).unwrap_or_else(|e| panic!("{file}: {e}"));
        let ours = logits(&mut model, expected.f32("x").unwrap(), &expected.tensors["x"].0);
        let theirs = expected.f32("y").unwrap();
        let largest = theirs.iter().fold(1.0, |max: f32, y| max.max(y.abs()));
        let error = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= 2e-5 * largest && ours.len() == theirs.len(), "{file}: the logits differ by {error:e} of {largest}");
    }
    for line in list("BAD.json") {
        let [file, part] = line.as_slice() else { panic!("{line:?}") };
        fails(&dir, &format!("import {file} --model lenet -o out.safetensors"), 1, &[file, part]);
        assert!(!dir.path().join("out.safetensors").exists());
    }
}

#[test]
fn a_checkpoint_goes_out_and_comes_back() {
    let dir = tempdir().unwrap();
    succeeds(&dir, "train --device cpu --offline --data synthetic --limit 256 --model mnist-cnn-fixed --epochs 1 --out run");
    let judged = |file: &str| {
        let said: Value = serde_json::from_str(&succeeds(&dir, &format!("eval {file} --limit 200 --json --device cpu --offline"))).unwrap();
        (said["accuracy"].clone(), said["loss"].clone(), said["images"].clone())
    };
    let first = judged("run/last.safetensors");
    for (name, flags, parts) in [
        ("a.pth", "", ["torch.load(\"a.pth\")", "load_state_dict"]),
        ("b.pt", "--training", ["optimizer_state_dict", "torch.optim.Adam"]),
        ("c.safetensors", "", ["load_file(\"c.safetensors\")", "safetensors.torch"]),
        ("d.bin", "--format pth", ["torch.load(\"d.bin\")", "load_state_dict"]),
        ("e.onnx", "", ["onnxruntime.InferenceSession(\"e.onnx\")", "\"input\": x"]),
    ] {
        let said = succeeds(&dir, &format!("export run/last.safetensors {flags} -o {name}"));
        parts
            .iter()
            .chain(&["mnist-cnn-fixed", "differ by at most", "netron.app"])
            .for_each(|part| assert!(said.contains(part), "{part}: {said}"));
        if name != "e.onnx" {
            // The exports know what they are.
            assert_eq!(judged(name), first, "{name}");
        }
    }
    let said: Value = serde_json::from_str(&succeeds(&dir, "export run/best.safetensors -o f.onnx --json")).unwrap();
    assert!(said["max_difference"].as_f64().unwrap() < 1e-4 && said["format"] == "onnx", "{said}");
    // An export can be exported, but has no training to go on with.
    succeeds(&dir, "export a.pth -o g.safetensors");
    fails(&dir, "export a.pth --training -o h.pth", 2, &["no state of training", "last.safetensors"]);
    // Without what cugrad knows of it, it must be said.
    let mut bare = import::read(&dir.path().join("a.pth")).unwrap();
    bare.meta.clear();
    bare.save(&dir.path().join("bare.safetensors")).unwrap();
    fails(&dir, "eval bare.safetensors --device cpu", 1, &["was not written by cugrad", "cugrad import"]);
    let said = succeeds(&dir, "import bare.safetensors --model mnist-cnn-fixed --data synthetic -o again.safetensors");
    assert!(said.contains("13 tensors"), "{said}");
    assert_eq!(judged("again.safetensors"), first);
}

#[test]
fn imports_are_told_what_does_not_fit() {
    let dir = tempdir().unwrap();
    let mut weights = saved(&drawn("lenet"));
    weights.meta.clear();
    for (old, new) in [("conv1.weight", "c1.weight"), ("conv1.bias", "c1.bias"), ("fc3.bias", "last")] {
        let tensor = weights.tensors.remove(old).unwrap();
        weights.tensors.insert(new.into(), tensor);
    }
    weights.save(&dir.path().join("w.safetensors")).unwrap();
    let import = "import w.safetensors --model lenet -o out.safetensors";
    fails(
        &dir,
        import,
        1,
        &["w.safetensors", "3 missing, 3 unexpected", "missing conv1.weight [10, 1, 5, 5]", "unexpected last [10]", "--rename"],
    );
    fails(&dir, &format!("{import} --rename c1"), 2, &["FROM=TO"]);
    fails(&dir, &format!("{import} --rename c2=conv2"), 2, &["no tensor is called 'c2'", "c1.weight"]);
    fails(&dir, &format!("{import} --rename c1=conv2"), 2, &["'conv2.bias' already"]);
    fails(&dir, &format!("{import} --mean 0.5"), 2, &["--std"]);
    fails(&dir, &format!("{import} --mean 0.5 --std 0"), 2, &["above 0"]);
    fails(&dir, &format!("{import} --rename c1=conv1 --rename last=fc3.bias --mean 0.5,0.5 --std 1,1"), 2, &["2 means"]);
    fails(
        &dir,
        &format!("{import} --rename c1=conv1 --rename last=fc3.bias --classes a,b"),
        1,
        &["fc3.weight: the checkpoint has [10, 32], the model [2, 32]"],
    );
    assert!(!dir.path().join("out.safetensors").exists());
    succeeds(&dir, &format!("{import} --rename c1=conv1 --rename last=fc3.bias --mean 0.5 --std 0.25 --classes a,b,c,d,e,f,g,h,i,j"));
    let made = Checkpoint::load(&dir.path().join("out.safetensors")).unwrap();
    assert_eq!(made.tensors, saved(&drawn("lenet")).tensors);
    assert_eq!((made.meta["normalization"].as_str(), made.meta["classes"].len()), ("[[0.5],[0.25]]", 41));
    fails(&dir, "import w.safetensors --model nope -o out.safetensors", 2, &["unknown model 'nope'"]);
    fails(&dir, "import no.pth --model lenet -o out.safetensors", 2, &["no.pth: no such checkpoint"]);
}

#[test]
fn exports_lose_nothing() {
    let dir = tempdir().unwrap();
    saved(&drawn("net1")).save(&dir.path().join("x.safetensors")).unwrap();
    let before = fs::read(dir.path().join("x.safetensors")).unwrap();
    fails(&dir, "export x.safetensors -o ./x.safetensors", 2, &["would be overwritten"]);
    fails(&dir, "export x.safetensors -o y.bin", 2, &["y.bin names no format", "--format"]);
    fails(&dir, "export x.safetensors -o y --format tflite", 2, &["'tflite'", "onnx"]);
    fails(&dir, "export x.safetensors -o y.onnx --training", 2, &["pth only"]);
    fails(&dir, "export x.safetensors -o no/y.onnx", 1, &["no/y.onnx", "directory"]);
    fails(&dir, "export no.safetensors -o y.onnx", 2, &["no such checkpoint"]);
    fs::write(dir.path().join("broken.safetensors"), &before[..before.len() / 2]).unwrap();
    fails(&dir, "export broken.safetensors -o y.onnx", 1, &["broken.safetensors", "cut short"]);
    // Weights that are not numbers cannot be checked, and the program says so.
    let mut bad = saved(&drawn("net1"));
    bad.tensors.insert("fc.bias".into(), (vec![10], Array::F32(vec![f32::NAN; 10])));
    bad.save(&dir.path().join("nan.safetensors")).unwrap();
    fails(&dir, "export nan.safetensors -o nan.onnx", 5, &["nan.onnx", "differ"]);
    assert_eq!(fs::read(dir.path().join("x.safetensors")).unwrap(), before);
    assert!(!dir.path().join("y.onnx").exists());
}
