//! What helps one who trains: every setting of the optimisers, log lines between epochs, stopping early, averaged weights, TensorBoard,
//! a look at gradients, words about what is wrong, and trials before a run.
//!
//! Every test runs the built binary, as those of `cli.rs` do.

#![allow(clippy::unwrap_used)]

use crate::cli::{QUICK, bits, cugrad, load, metrics, read, same_runs};
use cugrad::train::checkpoint::is_model;
use serde_json::Value;
use std::fs;
use std::process::Command;
use tempfile::{TempDir, tempdir};

/// The records of a run with this split.
fn records(dir: &TempDir, run: &str, split: &str) -> Vec<Value> {
    let text = read(dir, &format!("{run}/metrics.jsonl"));
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|record| record["split"] == split).collect()
}

fn number(record: &Value, key: &str) -> f64 {
    record[key].as_f64().unwrap_or_else(|| panic!("{key} of {record}"))
}

/// One flag alone moves the weights elsewhere; a flag that another optimiser has is refused by name.
#[test]
fn every_setting_of_an_optimiser_is_a_flag() {
    let dir = tempdir().unwrap();
    for (i, (optimizer, flags)) in [
        ("adam", &["--betas 0.8,0.99", "--eps 0.1", "--weight-decay 0.1"][..]),
        ("adamw", &["--betas 0.8,0.99", "--eps 0.1", "--weight-decay 0"][..]),
        ("sgd --momentum 0.9", &["--dampening 0.5", "--nesterov", "--weight-decay 0.1"][..]),
        ("rmsprop", &["--alpha 0.5", "--eps 0.1", "--centered", "--momentum 0.5", "--weight-decay 0.1"][..]),
    ]
    .into_iter()
    .enumerate()
    {
        let line = format!("{QUICK} --lr 0.01 --epochs 1 --optimizer {optimizer}");
        cugrad(&dir, &format!("{line} --out {i}")).succeeds();
        let plain = number(&records(&dir, &i.to_string(), "test")[0], "loss");
        for (j, flag) in flags.iter().enumerate() {
            let run = format!("{i}-{j}");
            cugrad(&dir, &format!("{line} {flag} --out {run}")).succeeds();
            assert_ne!(number(&records(&dir, &run, "test")[0], "loss"), plain, "{optimizer} {flag}");
            // The file that it leaves behind says it, too.
            cugrad(&dir, &format!("train --device cpu --config {run}/config.toml --out {run}-again")).succeeds();
            same_runs(&dir, &run, &format!("{run}-again"));
        }
    }
    for (flags, parts) in [
        ("--optimizer sgd --betas 0.9,0.99", &["sgd has no option betas"][..]),
        ("--optimizer sgd --alpha 0.9", &["sgd has no option alpha"]),
        ("--centered", &["adam has no option centered"]),
        ("--dampening 0.1", &["adam has no option dampening"]),
        ("--betas 0.9", &["two numbers", "0.9,0.999"]),
        ("--betas 0.9,1", &["the second of betas"]),
        ("--early-stop 0", &["--early-stop must be at least 1"]),
        ("--early-stop 3 --val-split 0", &["--early-stop needs validation images", "--val-split"]),
        ("--monitor f1", &["'f1'", "acc or loss"]),
        ("--log-every 0", &["--log-every must be at least 1"]),
    ] {
        cugrad(&dir, &format!("{QUICK} {flags}")).fails(2, parts);
    }
}

/// The steps between two log lines make up the epoch: weighted by their images, the means give the epoch's, whose last batch is smaller.
#[test]
fn log_lines_add_up_to_the_epoch() {
    let dir = tempdir().unwrap();
    // 243 images in batches of 50: four of them and 43.
    let said = cugrad(&dir, &format!("{QUICK} --epochs 2 --batch 50 --log-every 2 --out a"));
    assert_eq!(said.succeeds().out.lines().filter(|line| line.contains("step ")).count(), 6, "{}", said.out);
    assert!(said.out.contains("epoch   2/2  step 5/5  loss "), "{}", said.out);
    let (steps, epochs) = (records(&dir, "a", "step"), records(&dir, "a", "train"));
    assert_eq!(steps.iter().map(|r| r["step"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4, 5, 7, 9, 10]);
    for (steps, epoch) in steps.chunks(3).zip(&epochs) {
        for key in ["loss", "acc"] {
            let sum: f64 = steps.iter().zip([100.0, 100.0, 43.0]).map(|(r, images)| images * number(r, key)).sum();
            assert!((sum / 243.0 - number(epoch, key)).abs() < 1e-12, "{key} of {epoch}");
        }
        assert!(steps.iter().all(|r| number(r, "grad_norm") > 0.0 && r["epoch"] == epoch["epoch"]));
        assert_eq!(steps[2]["grad_norm"], epoch["grad_norm"]);
    }
    assert!(records(&dir, "a", "val").iter().all(|r| r["grad_norm"].is_null()));
    let keys: Vec<String> = steps[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["step", "epoch", "split", "loss", "acc", "lr", "grad_norm", "time_s", "samples_per_s"]);
    let events = cugrad(&dir, &format!("{QUICK} --epochs 1 --log-every 2 --out b --json")).succeeds().json();
    let kinds: Vec<&Value> = events.iter().map(|event| &event["event"]).collect();
    assert_eq!(kinds, ["step", "step", "epoch", "done"]);
}

#[test]
fn a_run_without_progress_stops_early() {
    let dir = tempdir().unwrap();
    // Nothing moves, so the first validation stays the best.
    let line = format!("{QUICK} --lr 0 --epochs 9 --early-stop 2");
    let said = cugrad(&dir, &format!("{line} --out a"));
    let parts = ["stopped early after epoch 3", "no better validation for 2 epochs", "the best, accuracy ", "epoch 1: a/best.safetensors"];
    said.fails(0, &parts);
    assert_eq!(records(&dir, "a", "train").len(), 3);
    assert!(said.out.contains("test accuracy"), "{}", said.out);
    // It does not begin again, unless it may.
    cugrad(&dir, "train --device cpu --resume a/last.safetensors").fails(0, &["stopped early after epoch 3"]);
    assert_eq!(records(&dir, "a", "train").len(), 3);
    cugrad(&dir, "train --device cpu --resume a/last.safetensors --early-stop 4").fails(0, &["stopped early after epoch 5"]);
    assert_eq!((records(&dir, "a", "train").len(), metrics(&dir, "a").len()), (5, 1 + 5 * 2 + 1));
    cugrad(&dir, &format!("{line} --monitor loss --out b")).fails(0, &["the best, loss 2."]);
    // One that gets better goes on.
    let said = cugrad(&dir, &format!("{QUICK} --epochs 3 --early-stop 1 --monitor loss --out c"));
    assert!(!said.succeeds().err.contains("stopped early"), "{}", said.err);
}

/// By loss another epoch can be the best than by accuracy.
#[test]
fn the_best_checkpoint_follows_the_monitor() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 6 --lr 0.01 --monitor loss --out a")).succeeds();
    let val = records(&dir, "a", "val");
    let least = val.iter().min_by(|a, b| number(a, "loss").total_cmp(&number(b, "loss"))).unwrap();
    let best = load(&dir, "a/best.safetensors").meta["trainer"].clone();
    let best: Value = serde_json::from_str(&best).unwrap();
    assert_eq!(best["best"], serde_json::json!([least["loss"], least["epoch"]]));
}

#[test]
fn log_lines_resume() {
    let dir = tempdir().unwrap();
    let schedule = "reduce-on-plateau:max:0:0.5";
    let line = format!("{QUICK} --batch 50 --log-every 2 --monitor loss").replace("constant", schedule);
    cugrad(&dir, &format!("{line} --epochs 2 --out straight")).succeeds();
    cugrad(&dir, &format!("{line} --epochs 1 --out parts")).succeeds();
    cugrad(&dir, "train --device cpu --resume parts/last.safetensors --epochs 2").succeeds();
    same_runs(&dir, "straight", "parts");
}

#[test]
fn a_wrong_value_in_a_file_is_blamed_on_the_file() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("run.toml"), "schedule = \"cosin\"\n").unwrap();
    cugrad(&dir, "train --config run.toml").fails(2, &["run.toml: unknown schedule 'cosin'"]);
    fs::write(dir.path().join("run.toml"), "lr = 0.1\n").unwrap();
    let said = cugrad(&dir, "train --config run.toml --lr=-1");
    assert!(!said.fails(2, &["--lr must be"]).err.contains("run.toml"), "{}", said.err);
}

#[test]
fn a_table_of_another_version_is_left_alone() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out a")).succeeds();
    let old = "step,epoch,split,loss,acc,lr,time_s,img_per_s\n4,1,train,2.0,0.1,0.1,1,1\n";
    fs::write(dir.path().join("a/metrics.csv"), old).unwrap();
    cugrad(&dir, "train --device cpu --resume a/last.safetensors --epochs 2").fails(2, &["metrics.csv", "other columns", "--out"]);
    assert_eq!(read(&dir, "a/metrics.csv"), old);
}

/// The event files of a run, in their order.
fn events(dir: &TempDir, run: &str) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(dir.path().join(run)).unwrap().map(|f| f.unwrap().path());
    let mut files: Vec<_> = files.filter(|f| f.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents.")).collect();
    files.sort();
    files
}

/// Reads a run's event files as TensorBoard does.
const READER: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
run = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'histograms': 0}).Reload()
tags = run.Tags()
print(json.dumps({
    'scalars': {t: [(e.step, e.value) for e in run.Scalars(t)] for t in tags['scalars']},
    'histograms': {t: [(e.step, e.histogram_value.num, e.histogram_value.min, e.histogram_value.max, sum(e.histogram_value.bucket),
                        e.histogram_value.sum) for e in run.Histograms(t)] for t in tags['histograms']}}))
";

/// A run of two epochs, and a third after it was resumed from the end of the first: as TensorBoard shows it.
#[test]
fn tensorboard_reads_the_event_files() {
    let python = std::env::var("CUGRAD_PYTHON").unwrap_or("python3".into());
    let has = Command::new(&python).args(["-c", "import tensorboard"]).output().is_ok_and(|o| o.status.success());
    let dir = tempdir().unwrap();
    let line = format!("{QUICK} --log-every 2 --watch 3");
    cugrad(&dir, &format!("{line} --epochs 1 --out a")).succeeds();
    fs::copy(dir.path().join("a/last.safetensors"), dir.path().join("first.safetensors")).unwrap();
    cugrad(&dir, "train --device cpu --resume a/last.safetensors --epochs 2").succeeds();
    // As if the second had been killed before it could save.
    fs::rename(dir.path().join("first.safetensors"), dir.path().join("a/last.safetensors")).unwrap();
    cugrad(&dir, "train --device cpu --resume a/last.safetensors --epochs 3").succeeds();
    assert_eq!(events(&dir, "a").len(), 3);
    if !has {
        println!("skipped: {python} has no tensorboard; name one that has in CUGRAD_PYTHON");
        return;
    }
    let read = Command::new(&python).args(["-c", READER]).arg(dir.path().join("a")).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let read: Value = serde_json::from_slice(&read.stdout).unwrap();
    for split in ["train", "val", "step"] {
        let records = records(&dir, "a", split);
        for key in ["loss", "acc"] {
            let shown = read["scalars"][format!("{key}/{split}")].as_array().unwrap();
            assert_eq!(shown.len(), records.len(), "{key}/{split}: {shown:?}");
            for (shown, record) in shown.iter().zip(&records) {
                assert_eq!((&shown[0], shown[1].as_f64().unwrap() as f32), (&record["step"], number(record, key) as f32), "{key}/{split}");
            }
        }
    }
    for tag in ["lr/train", "grad_norm/train", "grad_norm/conv1.weight", "update_ratio/conv1.weight", "loss/test"] {
        assert!(!read["scalars"][tag].as_array().unwrap_or_else(|| panic!("no {tag}")).is_empty());
    }
    let last = load(&dir, "a/last.safetensors");
    for (name, (_, _)) in last.tensors.iter().filter(|(name, _)| is_model(name)) {
        let shown = read["histograms"][format!("weights/{name}")].as_array().unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(shown.iter().map(|s| s[0].as_u64().unwrap()).collect::<Vec<_>>(), [4, 8, 12], "{name}");
        let values = last.f32(name).unwrap();
        let [num, min, max, counted, sum] = [1, 2, 3, 4, 5].map(|i| shown[2][i].as_f64().unwrap());
        let (least, most) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), &x| (a.min(x), b.max(x)));
        assert_eq!((num, counted, min as f32, max as f32), (values.len() as f64, values.len() as f64, least, most), "{name}");
        assert!((sum - values.iter().map(|&x| f64::from(x)).sum::<f64>()).abs() < 1e-9, "{name}");
    }
}

#[test]
fn gradients_and_updates_are_watched() {
    let dir = tempdir().unwrap();
    // Four steps an epoch: the second and the fourth are looked at.
    let line = format!("{QUICK} --optimizer sgd --lr 0.1 --watch 2");
    let said = cugrad(&dir, &format!("{line} --epochs 2 --out straight"));
    assert_eq!(said.succeeds().out.matches("parameter ").count(), 2, "{}", said.out);
    assert!(said.out.lines().any(|l| l.starts_with("conv1.weight ") && l.split_whitespace().count() == 4), "{}", said.out);
    let seen = |run: &str| -> Vec<Value> {
        read(&dir, &format!("{run}/watch.jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = seen("straight");
    let steps: Vec<u64> = all.iter().map(|f| f["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [2, 4, 6, 8].iter().flat_map(|&s| [s; 4]).collect::<Vec<_>>());
    assert_eq!((&all[0]["param"], &all[0]["epoch"], &all[15]["epoch"]), (&"conv1.weight".into(), &1.into(), &2.into()));
    // Plain gradient descent moves a weight by lr times its gradient.
    for f in &all {
        let [grad, weight, update] = ["grad_norm", "weight_norm", "update_ratio"].map(|key| number(f, key));
        assert!((update * weight - 0.1 * grad).abs() <= 1e-5 * grad && grad > 0.0, "{f}");
    }
    // The whole gradient of the last step is that of its parts.
    for (figures, record) in [(&all[4..8], 0), (&all[12..], 1)] {
        let whole = figures.iter().map(|f| number(f, "grad_norm").powi(2)).sum::<f64>().sqrt();
        assert!((whole - number(&records(&dir, "straight", "train")[record], "grad_norm")).abs() < 1e-12);
    }
    cugrad(&dir, &format!("{line} --epochs 1 --out parts")).succeeds();
    cugrad(&dir, "train --device cpu --resume parts/last.safetensors --epochs 2").succeeds();
    assert_eq!(seen("parts"), all);
    same_runs(&dir, "straight", "parts");
    // To look changes nothing.
    cugrad(&dir, &format!("{} --epochs 2 --out blind", line.replace("--watch 2", ""))).succeeds();
    assert!(bits(&load(&dir, "blind/last.safetensors")) == bits(&load(&dir, "straight/last.safetensors")));
}

/// Validated, tested and kept are the averaged weights; training goes on with its own, to the same bits.
#[test]
fn averaged_weights_are_judged_and_resume() {
    let dir = tempdir().unwrap();
    let line = QUICK.replace("net1", "lenet-bn3");
    cugrad(&dir, &format!("{line} --epochs 2 --out plain")).succeeds();
    cugrad(&dir, &format!("{line} --epochs 2 --ema 0.5 --out straight")).succeeds();
    let (plain, ema) = (load(&dir, "plain/last.safetensors"), load(&dir, "straight/last.safetensors"));
    for (name, (_, values)) in plain.tensors.iter().filter(|(name, _)| is_model(name)) {
        assert_eq!(&ema.tensors[&format!("trainer.raw.{name}")].1, values, "{name}");
        assert_eq!(&ema.tensors[name].1 == values, name.ends_with("num_batches_tracked"), "{name}");
    }
    assert_ne!(records(&dir, "plain", "val")[1]["loss"], records(&dir, "straight", "val")[1]["loss"]);
    assert_eq!(records(&dir, "plain", "train")[1]["loss"], records(&dir, "straight", "train")[1]["loss"]);
    // What is kept is what was tested.
    let eval = cugrad(&dir, "eval straight/last.safetensors --device cpu --offline --limit 256 --json").succeeds().json();
    assert_eq!(eval[0]["accuracy"], records(&dir, "straight", "test")[0]["acc"]);
    cugrad(&dir, &format!("{line} --epochs 1 --ema 0.5 --out parts")).succeeds();
    cugrad(&dir, "train --device cpu --resume parts/last.safetensors --epochs 2").succeeds();
    same_runs(&dir, "straight", "parts");
    cugrad(&dir, &format!("{line} --ema 1")).fails(2, &["--ema must be at least 0 and below 1"]);
    let mut broken = ema.clone();
    broken.tensors.remove("trainer.raw.conv1.weight");
    broken.save(&dir.path().join("broken")).unwrap();
    cugrad(&dir, "train --device cpu --resume broken --epochs 3 --out c").fails(1, &["missing trainer.raw.conv1.weight"]);
    broken = ema.clone();
    broken.meta.remove("ema-steps");
    broken.save(&dir.path().join("broken")).unwrap();
    cugrad(&dir, "train --device cpu --resume broken --epochs 3 --out c").fails(1, &["'ema-steps'"]);
}

#[test]
fn what_is_wrong_is_said_in_words() {
    let dir = tempdir().unwrap();
    let more = QUICK.replace("256", "1000");
    // A step far too long leaves ReLUs on their flat side.
    let said =
        cugrad(&dir, "train --device cpu --offline --data synthetic --limit 1000 --model lenet-relu --optimizer sgd --lr 8 --epochs 2");
    assert!(said.err.contains("dead ReLUs") || said.err.contains(" gave "), "{}", said.err);
    let said = cugrad(&dir, &format!("{more} --lr 1e-9 --epochs 2"));
    said.fails(0, &["note: the loss, 2.", "guessing among 10 classes (ln 10 = 2.3026)"]);
    assert_eq!(said.err.matches("guessing").count(), 1, "said twice: {}", said.err);
    let said = cugrad(&dir, &format!("{more} --lr 0.01 --epochs 2"));
    assert!(!said.succeeds().err.contains("note:"), "{}", said.err);
}

#[test]
fn a_dry_run_shows_everything_and_leaves_nothing() {
    let dir = tempdir().unwrap();
    let line = "train --device cpu --offline --data synthetic --limit 256 --dry-run";
    let said = cugrad(&dir, line);
    for part in
        ["conv1", "conv2d", "[64, 1, 28, 28]", "[10, 1, 5, 5] [10]", "cross_entropy", "near that of guessing", "ln 10 = 2.3026", "MB"]
    {
        assert!(said.succeeds().out.contains(part), "'{part}' is not in\n{}", said.out);
    }
    let json = cugrad(&dir, &format!("{line} --json --model resnet8")).succeeds().json();
    let layers = json[0]["layers"].as_array().unwrap();
    assert_eq!((json.len(), &layers[0]["output"]), (1, &serde_json::json!([64, 16, 28, 28])));
    assert!(number(&json[0], "peak_bytes") > 1e6 && number(&json[0], "loss") > 0.0, "{}", json[0]);
    cugrad(&dir, &format!("{line} --out a")).fails(2, &["--dry-run", "--out"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind");
}

#[test]
fn one_batch_is_learned_by_heart() {
    let dir = tempdir().unwrap();
    let line = "train --device cpu --offline --data synthetic --limit 256 --batch 16";
    let said = cugrad(&dir, &format!("{line} --overfit-batch --model mnist-cnn-fixed"));
    assert!(said.succeeds().out.contains("ok: after ") && said.out.contains("16 images are known by heart"), "{}", said.out);
    let json = cugrad(&dir, &format!("{line} --overfit-batch 300 --json")).succeeds().json();
    assert!(number(&json[0], "loss") < 0.01 && number(&json[0], "first_loss") > 1.0, "{}", json[0]);
    cugrad(&dir, &format!("{line} --overfit-batch 20 --lr 1e-7"))
        .fails(1, &["not learned by heart", "after 20 steps", "ten times as large"]);
    cugrad(&dir, &format!("{line} --overfit-batch 5")).fails(1, &["not learned by heart", "give more steps"]);
    cugrad(&dir, &format!("{line} --overfit-batch --optimizer sgd --lr 1e5")).fails(1, &["the loss became", " gave ", "lower --lr"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind");
}

/// A run remembers where its data lay; a directory that is no longer there is forgotten.
#[test]
fn a_resumed_run_looks_for_its_data_where_they_were() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --data-dir elsewhere --out a")).succeeds();
    let mut saved = load(&dir, "a/last.safetensors");
    saved.meta.insert("config".into(), saved.meta["config"].replace("synthetic", "mnist"));
    saved.save(&dir.path().join("a/last.safetensors")).unwrap();
    let lines = ["train --device cpu --offline --epochs 2 --resume a/last.safetensors", "eval a/last.safetensors --device cpu --offline"];
    for line in lines {
        cugrad(&dir, line).fails(4, &["elsewhere", "train-images-idx3-ubyte.gz"]);
        cugrad(&dir, &format!("{line} --data-dir other")).fails(4, &["other"]);
    }
    fs::remove_dir(dir.path().join("elsewhere")).unwrap();
    for line in lines {
        assert!(!cugrad(&dir, line).fails(4, &["data"]).err.contains("elsewhere"));
    }
}
