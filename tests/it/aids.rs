//! What helps one who trains: every setting of the optimisers, log lines between epochs, stopping early.
//!
//! Every test runs the built binary, as those of `cli.rs` do.

#![allow(clippy::unwrap_used)]

use crate::cli::{QUICK, cugrad, metrics, read, same_runs};
use serde_json::Value;
use std::fs;
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
    let best = crate::cli::load(&dir, "a/best.safetensors").meta["trainer"].clone();
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
