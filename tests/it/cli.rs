//! The program as its users meet it: exit codes, messages, what a run leaves behind, and what survives an interruption.
//!
//! Every test runs the built binary in a directory of its own, without a network and on the CPU.

#![allow(clippy::unwrap_used)]

use cugrad::data::synthetic;
use cugrad::models::{ALL, Model, Options};
use cugrad::train::checkpoint::is_model;
use cugrad::train::{Array, Checkpoint};
use image::imageops::{FilterType, resize};
use image::{GrayImage, ImageBuffer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::{TempDir, tempdir};

/// A run of a few hundredths of a second.
pub const QUICK: &str = "train --device cpu --offline --data synthetic --limit 256 --model net1 --schedule constant";

/// What the program said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Ended with this code, and all of these are in what it said on stderr.
    #[track_caller]
    pub fn fails(&self, code: i32, with: &[&str]) -> &Said {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        with.iter().for_each(|part| assert!(self.err.contains(part), "'{part}' is not in:\n{}", self.err));
        assert!(!self.err.contains("panicked") && !self.err.contains("RUST_BACKTRACE"), "{}", self.err);
        self
    }

    #[track_caller]
    pub fn succeeds(&self) -> &Said {
        self.fails(0, &[])
    }

    /// Its lines of output as JSON; fails when one is something else.
    #[track_caller]
    pub fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
    }
}

/// The program in a directory, its arguments in one line.
pub fn command(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cugrad"));
    command.current_dir(dir).args(line.split_whitespace()).env("RAYON_NUM_THREADS", "2").stdin(Stdio::null());
    command
}

pub fn said(mut command: Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

pub fn cugrad(dir: &TempDir, line: &str) -> Said {
    said(command(dir.path(), line))
}

/// Starts it and goes on, its output in pipes.
pub fn start(dir: &TempDir, line: &str) -> Child {
    command(dir.path(), line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for something to become true.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "a minute has passed and still not: {what}");
        sleep(Duration::from_millis(2));
    }
}

pub fn load(dir: &TempDir, path: &str) -> Checkpoint {
    Checkpoint::load(&dir.path().join(path)).unwrap()
}

pub fn read(dir: &TempDir, path: &str) -> String {
    fs::read_to_string(dir.path().join(path)).unwrap()
}

/// Every tensor of a checkpoint, bit by bit.
pub fn bits(saved: &Checkpoint) -> BTreeMap<&str, (&[usize], Vec<u64>)> {
    let words = |array: &Array| match array {
        Array::F32(values) => values.iter().map(|v| v.to_bits().into()).collect(),
        Array::F64(values) => values.iter().map(|v| v.to_bits()).collect(),
        Array::I64(values) => values.iter().map(|&v| v as u64).collect(),
    };
    saved.tensors.iter().map(|(name, (shape, array))| (name.as_str(), (shape.as_slice(), words(array)))).collect()
}

/// The metrics but for their last two columns, which are times.
pub fn metrics(dir: &TempDir, run: &str) -> Vec<String> {
    let csv = read(dir, &format!("{run}/metrics.csv"));
    let rows: Vec<String> = csv.lines().map(|line| line.rsplitn(3, ',').last().unwrap().to_string()).collect();
    let unique: BTreeSet<&String> = rows.iter().collect();
    assert_eq!(unique.len(), rows.len(), "{csv}");
    assert_eq!(read(dir, &format!("{run}/metrics.jsonl")).lines().count() + 1, rows.len());
    rows
}

/// Two runs of which one was stopped and resumed left the same behind.
#[track_caller]
pub fn same_runs(dir: &TempDir, a: &str, b: &str) {
    for file in ["last", "best"] {
        let [a, b] = [a, b].map(|run| load(dir, &format!("{run}/{file}.safetensors")));
        assert!(bits(&a) == bits(&b), "{file} differs");
    }
    assert_eq!(metrics(dir, a), metrics(dir, b));
    // Where the data lie may change.
    let [a, b] = [a, b].map(|run| read(dir, &format!("{run}/config.toml")));
    assert!(a.lines().filter(|l| !l.starts_with("data-dir")).eq(b.lines().filter(|l| !l.starts_with("data-dir"))), "{a}{b}");
}

#[test]
fn without_arguments_it_explains_itself() {
    let dir = tempdir().unwrap();
    cugrad(&dir, "").fails(2, &["Usage: cugrad", "train", "eval", "predict", "check", "summary"]);
    assert!(cugrad(&dir, "--version").succeeds().out.starts_with("cugrad "));
    for command in ["train", "eval", "predict", "check", "summary"] {
        assert!(cugrad(&dir, &format!("{command} --help")).succeeds().out.contains("Example"), "{command}");
    }
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let dir = tempdir().unwrap();
    let models: Vec<&str> = ALL.iter().map(|known| known.name).chain(["'nope'", "resnet:1,1,1"]).collect();
    // With the data set left out, so that a name is seen to be wrong before data are fetched for it.
    cugrad(&dir, "train --device cpu --offline --model nope").fails(2, &models);
    cugrad(&dir, "train --device cpu --offline --model resnet:0").fails(2, &["'resnet:0'", "resnet:2,2,2"]);
    cugrad(&dir, "summary --model nope").fails(2, &models);
    cugrad(&dir, "train --data nope").fails(2, &["'nope'", "auto", "mnist", "fashion", "kmnist", "synthetic"]);
    cugrad(&dir, &format!("{QUICK} --optimizer nope")).fails(2, &["'nope'", "sgd", "adam", "adamw", "rmsprop"]);
    let schedules = ["'nope'", "constant", "step", "multistep", "cosine", "onecycle", "reduce-on-plateau"];
    cugrad(&dir, "train --offline --data synthetic --schedule nope").fails(2, &schedules);
    cugrad(&dir, "train --device nope").fails(2, &["'nope'", "cpu", "auto", "cuda:N"]);
    let ops = cugrad(&dir, "check --op nope");
    let list = ops.fails(2, &["'nope'", "relu", "conv2d", "cross_entropy"]).err.split("ops: ").nth(1).unwrap().trim();
    let unique: BTreeSet<&str> = list.split(", ").collect();
    assert_eq!(unique.len(), list.split(", ").count(), "{list}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind");
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let dir = tempdir().unwrap();
    for (flags, part) in [
        ("--epochs 0", "--epochs must be at least 1"),
        ("--batch 0", "--batch must be at least 1"),
        ("--lr=-1", "--lr must be at least 0"),
        ("--lr nan", "--lr must be"),
        ("--val-split 1", "--val-split must be"),
        ("--label-smoothing 1", "--label-smoothing must be"),
        ("--epochs many", "'many'"),
        ("--optimizer sgd --nesterov", "nesterov needs a momentum"),
        ("--momentum 0.9", "adam has no option momentum"),
        ("--no-such-flag", "--no-such-flag"),
    ] {
        cugrad(&dir, &format!("{QUICK} {flags}")).fails(2, &[part]);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind");
}

#[test]
fn a_device_that_is_not_there_is_never_replaced() {
    let dir = tempdir().unwrap();
    // No machine has a thousand GPUs.
    let said = cugrad(&dir, &QUICK.replace("cpu", "cuda:999"));
    assert_eq!(said.fails(3, &["error: cuda:999 cannot be used", "--device cpu"]).err.matches("error").count(), 1);
    for line in ["check --op relu", "eval x.safetensors", "predict --checkpoint x.safetensors x.png"] {
        cugrad(&dir, &format!("{line} --device cuda:999")).fails(3, &["cuda:999"]);
    }
}

#[test]
fn missing_data_are_named() {
    let dir = tempdir().unwrap();
    let line = "train --device cpu --offline --model net1";
    let said = cugrad(&dir, &format!("{line} --data mnist"));
    said.fails(4, &["MNIST", "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "data/mnist", "--data-dir", "--mirror"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind");
    // Without a wish, generated digits do, and the program says so.
    let said = cugrad(&dir, &format!("{line} --limit 64 --epochs 1 --out a"));
    assert!(said.succeeds().err.contains("generated digits") && read(&dir, "a/config.toml").contains("data = \"synthetic\""));
}

#[test]
fn damaged_data_are_left_alone() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("elsewhere/mnist");
    fs::create_dir_all(&folder).unwrap();
    let names = ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"];
    names.iter().for_each(|name| fs::write(folder.join(name), "precious").unwrap());
    for data in ["mnist", "auto"] {
        let said = cugrad(&dir, &format!("train --device cpu --offline --data-dir elsewhere --data {data}"));
        said.fails(4, &["train-images-idx3-ubyte.gz", "help: "]);
        names.iter().for_each(|name| assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), "precious"));
    }
}

#[test]
fn a_run_leaves_everything_behind() {
    let dir = tempdir().unwrap();
    let said = cugrad(&dir, &format!("{QUICK} --epochs 2 --out a/b"));
    assert!(said.succeeds().out.contains("test accuracy") && said.out.contains("checkpoint: a/b/last.safetensors"), "{}", said.out);
    assert_eq!(said.out.lines().filter(|line| line.starts_with("epoch")).count(), 2);
    let mut files: Vec<_> = fs::read_dir(dir.path().join("a/b")).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert!(files.remove(2).starts_with("events.out.tfevents."));
    assert_eq!(files, ["best.safetensors", "config.toml", "last.safetensors", "metrics.csv", "metrics.jsonl", "plots"]);
    assert_eq!(metrics(&dir, "a/b").len(), 1 + 2 * 2 + 1);
    let splits: Vec<String> =
        read(&dir, "a/b/metrics.jsonl").lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["split"].to_string()).collect();
    assert_eq!(splits, ["\"train\"", "\"val\"", "\"train\"", "\"val\"", "\"test\""]);
    // Without --out, a directory with the time in its name.
    cugrad(&dir, &format!("{QUICK} --epochs 1")).succeeds();
    let run = fs::read_dir(dir.path().join("runs")).unwrap().next().unwrap().unwrap();
    assert!(run.file_name().to_str().unwrap().ends_with("-net1") && run.path().join("last.safetensors").exists());
}

#[test]
fn events_are_lines_of_json() {
    let dir = tempdir().unwrap();
    let said = cugrad(&dir, &format!("{QUICK} --epochs 2 --out a --json").replace("--device cpu", "--device auto"));
    let events = said.succeeds().json();
    let kinds: Vec<&Value> = events.iter().map(|event| &event["event"]).collect();
    assert_eq!(kinds, ["epoch", "epoch", "done"]);
    let keys = ["model", "data", "epochs", "test_acc", "test_loss", "samples_per_s", "seconds", "seed", "checkpoint"];
    keys.iter().for_each(|key| assert!(!events[2][key].is_null(), "{key} is missing: {}", events[2]));
    assert_eq!((&events[2]["model"], &events[2]["data"], &events[2]["epochs"]), (&"net1".into(), &"synthetic".into(), &2.into()));
    assert!(said.err.contains("device:") && said.err.contains("training net1") && said.err.contains("run directory: a"), "{}", said.err);
}

/// A batch may be larger than the data: what counts are images, not steps times the size of a batch.
#[test]
fn speed_counts_images() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --batch 60000 --out a")).succeeds();
    let last = std::fs::read_to_string(dir.path().join("a/metrics.jsonl")).unwrap().lines().last().unwrap().to_string();
    let test: Value = serde_json::from_str(&last).unwrap();
    let (rate, seconds) = (test["samples_per_s"].as_f64().unwrap(), test["time_s"].as_f64().unwrap());
    assert!((rate * seconds - 243.0).abs() < 0.5, "{rate} img/s for {seconds} s");
}

#[test]
fn a_used_directory_is_not_written_to() {
    let dir = tempdir().unwrap();
    let line = format!("{QUICK} --epochs 1");
    for run in ["a", "b"] {
        cugrad(&dir, &format!("{line} --out {run}")).succeeds();
    }
    let all = |run: &str| {
        let files = fs::read_dir(dir.path().join(run)).unwrap().map(|f| f.unwrap().path()).filter(|path| path.is_file());
        files.map(|path| (fs::read(&path).unwrap(), path)).collect::<BTreeSet<_>>()
    };
    let before = all("a");
    cugrad(&dir, &format!("{line} --out a")).fails(2, &["a holds a run already", "--out", "--resume"]);
    assert_eq!(all("a"), before);
    // Nor is it the place for another run to go on in.
    cugrad(&dir, "train --device cpu --resume b/last.safetensors --epochs 2 --out a").fails(2, &["a holds a run already"]);
    assert_eq!(all("a"), before);
    // A run that was stopped in its first epoch has a checkpoint and no records yet.
    fs::write(dir.path().join("a/metrics.jsonl"), "").unwrap();
    cugrad(&dir, &format!("{line} --out a")).fails(2, &["a holds a run already"]);
    assert!(load(&dir, "a/last.safetensors") == load(&dir, "a/best.safetensors"));
    // An empty one is.
    cugrad(&dir, "train --device cpu --resume b/last.safetensors --epochs 2 --out c").succeeds();
    assert_eq!(metrics(&dir, "b").len(), 4);
}

#[test]
fn a_place_that_is_no_directory_is_refused() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("file"), "kept").unwrap();
    cugrad(&dir, &format!("{QUICK} --out file")).fails(2, &["file is not a directory"]);
    cugrad(&dir, &format!("{QUICK} --out file/run")).fails(1, &["cannot create file/run", "is a file"]);
    assert_eq!(read(&dir, "file"), "kept");
}

#[test]
fn a_configuration_can_be_read_and_overridden() {
    let dir = tempdir().unwrap();
    let text = "model = \"net1\"\ndata = \"synthetic\"\nepochs = 1\nlimit = 128\nlr = 0.25\nval-split = 0.25\nseed = 7\n";
    fs::write(dir.path().join("run.toml"), text).unwrap();
    let said = cugrad(&dir, "train --device cpu --config run.toml --lr 0.5 --limit 256 --out a --json");
    assert_eq!(said.succeeds().json().last().unwrap()["seed"], 7);
    let config = read(&dir, "a/config.toml");
    let kept = ["model = \"net1\"", "epochs = 1", "lr = 0.5", "limit = 256", "val-split = 0.25", "seed = 7", "batch = 64"];
    kept.iter().for_each(|line| assert!(config.lines().any(|l| l == *line), "{line} is not in\n{config}"));
    // What a run leaves behind repeats it.
    cugrad(&dir, "train --device cpu --config a/config.toml --out b").succeeds();
    same_runs(&dir, "a", "b");

    fs::write(dir.path().join("bad.toml"), "epochs = 1\nlearning-rate = 1\n").unwrap();
    cugrad(&dir, "train --config bad.toml").fails(2, &["bad.toml", "line 2", "`learning-rate`", "`val-split`"]);
    fs::write(dir.path().join("bad.toml"), "lr = \"fast\"").unwrap();
    cugrad(&dir, "train --config bad.toml").fails(2, &["bad.toml", "line 1", "fast"]);
    cugrad(&dir, "train --config none.toml").fails(2, &["none.toml", "help: "]);
    cugrad(&dir, "train --config run.toml --resume a/last.safetensors").fails(2, &["cannot go together"]);
}

/// Three epochs in one go and in three parts end in the same bits. `choices` name the model and the schedule.
fn resume(choices: &str) {
    let dir = tempdir().unwrap();
    let line = format!("train --device cpu --offline --data synthetic --limit 256 {choices}");
    cugrad(&dir, &format!("{line} --out straight --epochs 3")).succeeds();
    cugrad(&dir, &format!("{line} --out parts --epochs 1")).succeeds();
    cugrad(&dir, "train --device cpu --resume parts/last.safetensors --epochs 2").succeeds();
    // From within the directory, too.
    said(command(&dir.path().join("parts"), "train --device cpu --resume last.safetensors --epochs 3")).succeeds();
    same_runs(&dir, "straight", "parts");
    // There is nothing left to do, and doing it changes nothing.
    cugrad(&dir, "train --device cpu --resume parts/last.safetensors").succeeds();
    same_runs(&dir, "straight", "parts");
}

#[test]
fn adam_resumes() {
    resume("--model net1 --schedule constant");
}

#[test]
fn sgd_with_momentum_and_plateau_resume() {
    resume("--model net1 --optimizer sgd --momentum 0.9 --nesterov --schedule reduce-on-plateau:max:0:0.5 --lr 0.05");
}

#[test]
fn rmsprop_and_batch_norm_resume() {
    resume("--model lenet-bn3 --optimizer rmsprop --momentum 0.5 --schedule step:1:0.5");
}

#[test]
fn dropout_resumes() {
    resume("--model mnist-cnn-fixed --optimizer adamw --weight-decay 0.1 --label-smoothing 0.1 --seed 3 --schedule constant");
}

#[test]
fn resuming_is_refused_when_it_would_be_another_run() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out a")).succeeds();
    let resume = "train --device cpu --resume a/last.safetensors";
    for flags in ["--lr 1", "--model lenet", "--seed 4", "--batch 32", "--optimizer sgd", "--data mnist"] {
        cugrad(&dir, &format!("{resume} --epochs 2 {flags}")).fails(2, &["keeps its choices", "--epochs"]);
    }
    cugrad(&dir, "train --device cpu --resume a/none.safetensors").fails(2, &["a/none.safetensors", "last.safetensors"]);
    cugrad(&dir, "train --device cpu --resume a/config.toml").fails(1, &["a/config.toml", "not a safetensors file"]);
    let mut saved = load(&dir, "a/last.safetensors");
    saved.meta.remove("trainer");
    saved.save(&dir.path().join("a/weights.safetensors")).unwrap();
    cugrad(&dir, "train --device cpu --resume a/weights.safetensors --epochs 2").fails(1, &["cannot be resumed from"]);
    saved.meta.clear();
    saved.save(&dir.path().join("a/weights.safetensors")).unwrap();
    cugrad(&dir, "train --device cpu --resume a/weights.safetensors").fails(1, &["not a checkpoint of cugrad"]);
    assert_eq!(metrics(&dir, "a").len(), 4);
}

#[test]
fn a_loss_that_explodes_ends_the_run() {
    let dir = tempdir().unwrap();
    let said = cugrad(&dir, &format!("{QUICK} --optimizer sgd --lr 1e5 --epochs 3 --out a"));
    said.fails(1, &["the loss became", "at step ", " gave ", "numbers are not finite", "--lr"]);
    assert!(!said.out.contains("best") && !dir.path().join("a/best.safetensors").exists(), "{}", said.out);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for (model, images) in [("lenet", 200), ("mnist-cnn-fixed", 200), ("resnet8", 40)] {
        let dir = tempdir().unwrap();
        for threads in ["1", "2", "5"] {
            let line = format!("train --device cpu --offline --data synthetic --limit {images} --model {model} --epochs 1");
            let mut run = command(dir.path(), &format!("{line} --out {threads}"));
            run.env("RAYON_NUM_THREADS", threads);
            said(run).succeeds();
        }
        same_runs(&dir, "1", "2");
        same_runs(&dir, "1", "5");
    }
}

/// Every multiply-add is fused, by an instruction or by the C library, so narrower vectors give the same bits.
#[test]
fn the_width_of_vectors_changes_no_bit() {
    for (model, images) in [("lenet", 100), ("mnist-cnn-fixed", 100), ("resnet8", 20)] {
        let dir = tempdir().unwrap();
        for level in ["portable", "avx2", "avx512"] {
            let line = format!("train --device cpu --offline --data synthetic --limit {images} --model {model} --epochs 1");
            let mut run = command(dir.path(), &format!("{line} --out {level}"));
            run.env("CUGRAD_SIMD", level);
            said(run).succeeds();
        }
        same_runs(&dir, "portable", "avx2");
        same_runs(&dir, "portable", "avx512");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_where_it_was() {
    let dir = tempdir().unwrap();
    let line = "train --device cpu --offline --data synthetic --limit 8000 --model net1 --optimizer sgd --momentum 0.9 --schedule onecycle --epochs 3";
    for attempt in 0..5 {
        let run = format!("run{attempt}");
        let mut child = start(&dir, &format!("{line} --out {run}"));
        let mut first = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        assert!(first.starts_with("epoch   1/3"), "{first}");
        assert!(Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        // On a busy machine the run may have been faster than the signal.
        if output.status.success() {
            continue;
        }
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{err}");
        assert!(err.contains("interrupted in epoch") && err.contains(&format!("--resume {run}/last.safetensors")), "{err}");
        let trainer: Value = serde_json::from_str(&load(&dir, &format!("{run}/last.safetensors")).meta["trainer"]).unwrap();
        assert!(trainer["step"].as_u64().unwrap() > 100, "{trainer}");
        cugrad(&dir, &format!("train --device cpu --resume {run}/last.safetensors")).succeeds();
        cugrad(&dir, &format!("{line} --out straight")).succeeds();
        same_runs(&dir, "straight", &run);
        return;
    }
    panic!("five runs ended before the signal came");
}

#[test]
fn a_killed_run_can_be_resumed() {
    let dir = tempdir().unwrap();
    let mut line = format!("{QUICK} --epochs 100000 --out killed");
    let last = dir.path().join("killed/last.safetensors");
    for milliseconds in [0, 7, 20, 31, 45, 58] {
        let before = fs::metadata(&last).and_then(|m| m.modified()).ok();
        let mut child = start(&dir, &line);
        until("a checkpoint", || fs::metadata(&last).and_then(|m| m.modified()).ok() != before);
        sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        ["last", "best"].iter().for_each(|name| drop(load(&dir, &format!("killed/{name}.safetensors"))));
        line = "train --device cpu --resume killed/last.safetensors".into();
    }
    let trainer: Value = serde_json::from_str(&load(&dir, "killed/last.safetensors").meta["trainer"]).unwrap();
    let epochs = trainer["epoch"].as_u64().unwrap() + 1;
    cugrad(&dir, &format!("{line} --epochs {epochs}")).succeeds();
    cugrad(&dir, &format!("{QUICK} --epochs {epochs} --out straight")).succeeds();
    same_runs(&dir, "straight", "killed");
}

#[cfg(unix)]
#[test]
fn a_full_disk_costs_no_checkpoint() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out a")).succeeds();
    let before = load(&dir, "a/last.safetensors");
    let size = fs::metadata(dir.path().join("a/last.safetensors")).unwrap().len();
    // Blocks of 512 bytes or of 1024, as the shell pleases: too few for a checkpoint, enough for the metrics.
    let blocks = size / 1024 - 10;
    let limited = format!(
        "trap '' XFSZ; ulimit -f {}; exec '{}' train --device cpu --resume a/last.safetensors --epochs 2",
        blocks,
        env!("CARGO_BIN_EXE_cugrad")
    );
    let mut shell = Command::new("sh");
    shell.current_dir(dir.path()).args(["-c", &limited]);
    said(shell).fails(1, &["cannot write a/", "make room on the disk"]);
    assert!(load(&dir, "a/last.safetensors") == before && load(&dir, "a/best.safetensors") == before);
    assert!(fs::read_dir(dir.path().join("a")).unwrap().all(|f| !f.unwrap().file_name().to_str().unwrap().contains("tmp")));
    // With room again, it goes on as if nothing had happened.
    cugrad(&dir, "train --device cpu --resume a/last.safetensors --epochs 2").succeeds();
    cugrad(&dir, &format!("{QUICK} --epochs 2 --out straight")).succeeds();
    same_runs(&dir, "straight", "a");
}

#[test]
fn a_reader_that_leaves_stops_nothing() {
    let dir = tempdir().unwrap();
    // As with `| head -1`.
    let mut child = start(&dir, &format!("{QUICK} --epochs 20 --out a"));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(metrics(&dir, "a").len(), 1 + 20 * 2 + 1);
    // As with `2>&1 | head -1`.
    let mut child = start(&dir, &format!("{QUICK} --epochs 2 --out b").replace("--device cpu", "--device auto"));
    drop(child.stderr.take());
    assert!(child.wait_with_output().unwrap().status.success());
    let mut child = start(&dir, "summary --model nope");
    drop((child.stderr.take(), child.stdout.take()));
    assert_eq!(child.wait().unwrap().code(), Some(2));
    for line in ["summary", "check --op relu", "eval a/last.safetensors --device cpu --limit 20"] {
        let mut child = start(&dir, line);
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{line}");
    }
}

#[test]
fn eval_reports() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out a")).succeeds();
    let said = cugrad(&dir, "eval a/best.safetensors --device cpu --offline");
    for part in [
        "net1 on synthetic, 2000 test images",
        "accuracy ",
        "mean loss",
        "precision",
        "recall",
        "f1-score",
        "macro avg",
        "confusion matrix",
    ] {
        assert!(said.succeeds().out.contains(part), "'{part}' is not in\n{}", said.out);
    }
    let json = cugrad(&dir, "eval a/best.safetensors --device cpu --offline --limit 200 --json").succeeds().json();
    assert_eq!((json.len(), &json[0]["images"], &json[0]["data"]), (1, &200.into(), &"synthetic".into()));
    let (confusion, accuracy) = (json[0]["confusion"].as_array().unwrap(), json[0]["accuracy"].as_f64().unwrap());
    let counts = |i: usize| confusion[i].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect::<Vec<_>>();
    let (total, hits): (u64, u64) = ((0..10).flat_map(counts).sum(), (0..10).map(|i| counts(i)[i]).sum());
    assert_eq!((total, hits as f64 / 200.0), (200, accuracy));
    cugrad(&dir, "eval a/best.safetensors --device cpu --offline --data mnist").fails(4, &["MNIST"]);
}

#[test]
fn eval_lists_everything_that_does_not_fit() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out a")).succeeds();
    let mut saved = load(&dir, "a/last.safetensors");
    let config = saved.meta["config"].replace("\"net1\"", "\"lenet\"");
    saved.meta.insert("config".into(), config);
    saved.save(&dir.path().join("b.safetensors")).unwrap();
    let said = cugrad(&dir, "eval b.safetensors --device cpu --offline");
    said.fails(1, &["does not fit model 'lenet'", "help: "]);

    let model = Model::build("lenet", &Options::default()).unwrap();
    let wanted: BTreeMap<&str, Vec<usize>> = model.params.state().map(|(name, t)| (name, t.shape().to_vec())).collect();
    let mut expected: Vec<String> = Vec::new();
    for (name, shape) in &wanted {
        match saved.tensors.get(*name) {
            None => expected.push(format!("missing {name} {shape:?}")),
            Some((other, _)) if other != shape => expected.push(format!("shape {name}: the checkpoint has {other:?}, the model {shape:?}")),
            Some(_) => {}
        }
    }
    let extra = saved.tensors.iter().filter(|(name, _)| is_model(name) && !wanted.contains_key(name.as_str()));
    expected.extend(extra.map(|(name, (shape, _))| format!("unexpected {name} {shape:?}")));
    assert!(expected.len() >= 8, "{expected:?}");
    let listed: Vec<&str> =
        said.err.lines().filter(|line| ["  missing", "  unexpected", "  shape"].iter().any(|s| line.starts_with(s))).collect();
    assert_eq!(listed.len(), expected.len(), "{}", said.err);
    expected.iter().for_each(|line| assert!(said.err.contains(line), "'{line}' is not in\n{}", said.err));
}

#[test]
fn eval_says_what_is_wrong_with_a_file() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out a")).succeeds();
    let whole = fs::read(dir.path().join("a/last.safetensors")).unwrap();
    fs::write(dir.path().join("text"), "This is a text of some length, and no checkpoint.").unwrap();
    fs::write(dir.path().join("empty"), "").unwrap();
    fs::write(dir.path().join("cut"), &whole[..whole.len() / 2]).unwrap();
    for (name, code, part) in [
        ("text", 1, "not a safetensors file"),
        ("empty", 1, "not a safetensors file"),
        ("cut", 1, "cut short"),
        ("a", 2, "not a file"),
        ("none", 2, "no such checkpoint"),
    ] {
        cugrad(&dir, &format!("eval {name} --device cpu")).fails(code, &[&format!("{name}: "), part, "help: "]);
    }
    for (key, value, part) in [
        ("normalization", "[[],[]]", "its 'normalization' does not fit"),
        ("normalization", "[[0.0,0.0],[1.0,1.0]]", "its 'normalization' does not fit"),
        ("normalization", "no", "its 'normalization' cannot be read"),
        ("classes", "[\"a\",\"b\"]", "does not fit model 'net1'"),
        ("config", "{\"model\": \"nope\"}", "unknown model 'nope'"),
    ] {
        let mut saved = load(&dir, "a/last.safetensors");
        saved.meta.insert(key.into(), value.into());
        saved.save(&dir.path().join("odd")).unwrap();
        let said = cugrad(&dir, "eval odd --device cpu");
        assert_ne!(said.code, Some(101), "{}", said.err);
        assert!(said.code != Some(0) && said.err.contains(part), "{}", said.err);
    }
}

/// Two epochs take lenet to about 98.5 %; a network that has learned nothing has 10 %.
#[test]
fn lenet_learns_digits_and_reads_pictures() {
    let dir = tempdir().unwrap();
    let said = cugrad(&dir, "train --device cpu --offline --data synthetic --epochs 2 --out a --json");
    let done = said.succeeds().json().pop().unwrap();
    assert!(done["test_acc"].as_f64().unwrap() > 0.95, "{done}");

    // Digits that it has never seen: as MNIST has them, dark on light, and larger.
    let digits = synthetic(1, 20, 99).test;
    let mut names = Vec::new();
    for (i, label) in digits.labels.iter().enumerate() {
        let picture: GrayImage = ImageBuffer::from_raw(28, 28, digits.image(i).to_vec()).unwrap();
        let mut paper = picture.clone();
        image::imageops::invert(&mut paper);
        let large = resize(&paper, 150, 150, FilterType::Triangle);
        for (how, picture) in [("plain", picture), ("paper", paper), ("large", large)] {
            names.push((format!("{how}-{i}.png"), how, label.to_string()));
            picture.save(dir.path().join(&names.last().unwrap().0)).unwrap();
        }
    }
    let files: Vec<&str> = names.iter().map(|(file, _, _)| file.as_str()).collect();
    let said = cugrad(&dir, &format!("predict --checkpoint a/best.safetensors --device cpu --json {}", files.join(" ")));
    let answers = said.succeeds().json();
    assert_eq!(answers.len(), names.len());
    for how in ["plain", "paper", "large"] {
        let right = answers.iter().zip(&names).filter(|(answer, (_, h, label))| *h == how && answer["class"] == **label).count();
        assert!(right >= 17, "{how}: {right} of 20 right");
    }
    for (answer, (file, _, _)) in answers.iter().zip(&names) {
        let sum: f64 = answer["probabilities"].as_object().unwrap().values().map(|p| p.as_f64().unwrap()).sum();
        assert!(answer["image"] == **file && (sum - 1.0).abs() < 1e-5, "{answer}");
    }
    let said = cugrad(&dir, "predict --checkpoint a/best.safetensors --device cpu plain-3.png");
    assert!(said.succeeds().out.starts_with("plain-3.png: 3 ") && said.out.contains("next"), "{}", said.out);
}

#[test]
fn pictures_that_cannot_be_read_are_named() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out a")).succeeds();
    GrayImage::from_fn(60, 60, |x, y| [if x.abs_diff(30) < 4 && y.abs_diff(30) < 20 { 0 } else { 255 }].into())
        .save(dir.path().join("one.png"))
        .unwrap();
    let whole = fs::read(dir.path().join("one.png")).unwrap();
    fs::write(dir.path().join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(dir.path().join("text.png"), "no picture").unwrap();
    GrayImage::from_pixel(28, 28, [255].into()).save(dir.path().join("blank.png")).unwrap();
    let line = "predict --checkpoint a/last.safetensors --device cpu";
    cugrad(&dir, &format!("{line} one.png")).succeeds();
    for name in ["cut.png", "text.png", "blank.png", "none.png"] {
        let said = cugrad(&dir, &format!("{line} one.png {name}"));
        assert_eq!(said.fails(4, &[&format!("error: {name}: "), "help: "]).out, "");
    }
    cugrad(&dir, "predict one.png").fails(2, &["--checkpoint"]);
}

#[test]
fn check_prints_a_table() {
    let dir = tempdir().unwrap();
    let said = cugrad(&dir, "check --op relu --device cpu");
    assert!(said.succeeds().out.contains("verdict") && said.out.contains("all gradients agree"), "{}", said.out);
    assert!(said.out.lines().filter(|line| line.starts_with("relu ") && line.ends_with("ok")).count() >= 4);
    let rows = cugrad(&dir, "check --op linear --device cpu --json").succeeds().json();
    assert!(!rows.is_empty() && rows.iter().all(|row| row["op"] == "linear" && row["ok"] == true && row["gradient_error"].is_number()));
}

#[test]
fn summary_counts() {
    let dir = tempdir().unwrap();
    let said = cugrad(&dir, "summary");
    ALL.iter().for_each(|known| assert!(said.succeeds().out.contains(known.name), "{}", known.name));
    assert_eq!(cugrad(&dir, "summary --json").succeeds().json().len(), ALL.len());
    let said = cugrad(&dir, "summary --model resnet:2,2,2");
    assert!(said.succeeds().out.contains("layer3.1.conv2") && said.out.contains("parameters 195 562"), "{}", said.out);
    let json = cugrad(&dir, "summary --model lenet --batch 3 --json").succeeds().json();
    let layers = json[0]["layers"].as_array().unwrap();
    let sum = |key: &str| layers.iter().map(|layer| layer[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("parameters"), sum("flops")), (50_826, json[0]["forward_flops"].as_u64().unwrap()));
    assert_eq!((&json[0]["parameters"], &json[0]["input"]), (&50_826.into(), &serde_json::json!([3, 1, 28, 28])));
    cugrad(&dir, "summary --batch 0").fails(2, &["--batch"]);
}
