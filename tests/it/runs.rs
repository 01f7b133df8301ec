//! Commands that make several runs, or a special one: sweep, presets, reproduce, lr-find.

#![allow(clippy::unwrap_used)]

use crate::cli::{QUICK, cugrad, read, start, until};
use serde_json::Value;
use std::fs;
use tempfile::{TempDir, tempdir};

/// Where a run that was made again would show: when its checkpoint was written.
fn written(dir: &TempDir, run: &str) -> std::time::SystemTime {
    fs::metadata(dir.path().join(run).join("last.safetensors")).unwrap().modified().unwrap()
}

#[test]
fn a_sweep_makes_every_combination_once() {
    let dir = tempdir().unwrap();
    let flags = QUICK.strip_prefix("train ").unwrap();
    let line = format!("sweep --grid lr=0.002,0.05 {flags} --optimizer sgd --momentum 0.5 --grid nesterov=false,true --epochs 1 --out s");
    let said = cugrad(&dir, &line);
    let rows: Vec<&str> = said.succeeds().out.lines().collect();
    assert!(
        rows[0].starts_with("lr") && rows[0].contains("nesterov") && rows[0].ends_with("test acc  test loss  val acc  seconds"),
        "{}",
        said.out
    );
    let order: Vec<Vec<&str>> = rows[1..5].iter().map(|row| row.split_whitespace().take(2).collect()).collect();
    assert_eq!(order, [["0.002", "false"], ["0.002", "true"], ["0.05", "false"], ["0.05", "true"]]);
    assert!(said.out.contains("best by validation: lr=") && !said.out.contains("epoch "), "{}", said.out);
    let config = read(&dir, "s/lr=0.05,nesterov=true/config.toml");
    assert!(config.contains("lr = 0.05") && config.contains("nesterov = true") && config.contains("momentum = 0.5"), "{config}");
    let csv = read(&dir, "s/sweep.csv");
    assert_eq!(csv.lines().next().unwrap(), "lr,nesterov,test_acc,test_loss,val_acc,seconds");
    assert_eq!(csv.lines().count(), 5);
    let json: Value = serde_json::from_str(&read(&dir, "s/sweep.json")).unwrap();
    assert_eq!((&json["grid"][1], &json["runs"][3]["choices"]["lr"]), (&"nesterov".into(), &"0.05".into()));
    let row: Value = read(&dir, "s/lr=0.05,nesterov=true/metrics.jsonl").lines().last().map(|l| serde_json::from_str(l).unwrap()).unwrap();
    assert_eq!(json["runs"][3]["test_acc"], row["acc"]);
    assert!(image::open(dir.path().join("s/sweep.png")).unwrap().width() > 600);

    // Given again, nothing is made again; with one run gone, that one is.
    let before = written(&dir, "s/lr=0.05,nesterov=true");
    fs::remove_dir_all(dir.path().join("s/lr=0.002,nesterov=false")).unwrap();
    let again = cugrad(&dir, &format!("{line} --json"));
    assert_eq!(again.succeeds().err.matches("finished before").count(), 3);
    assert_eq!(written(&dir, "s/lr=0.05,nesterov=true"), before);
    assert_eq!(again.json()[0]["runs"][0]["test_acc"], json["runs"][0]["test_acc"]);
    // Other choices in the same place are not taken for these.
    cugrad(&dir, &line.replace("--epochs 1", "--epochs 2")).fails(2, &["holds a run with other choices", "--out"]);
}

/// Interrupted in its second run, a sweep goes on there and comes to what it would have come to.
#[cfg(unix)]
#[test]
fn an_interrupted_sweep_goes_on() {
    let dir = tempdir().unwrap();
    let flags = QUICK.strip_prefix("train ").unwrap().replace("256", "2000");
    let line = |out: &str| format!("sweep --grid seed=1,2,3 {flags} --epochs 40 --out {out} --json");
    let child = start(&dir, &line("a"));
    until("the second run has a checkpoint", || dir.path().join("a/seed=2/last.safetensors").exists());
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!dir.path().join("a/seed=3").exists());
    let [again, straight] = [line("a"), line("b")].map(|line| cugrad(&dir, &line));
    assert!(
        again.succeeds().err.contains("1 of 3, seed=1: finished before") && again.err.contains("2 of 3, seed=2: goes on"),
        "{}",
        again.err
    );
    let figures = |said: &crate::cli::Said| -> Vec<[Value; 2]> {
        said.json()[0]["runs"].as_array().unwrap().iter().map(|run| [run["test_acc"].clone(), run["test_loss"].clone()]).collect()
    };
    assert_eq!(figures(&again), figures(straight.succeeds()));
}

#[test]
fn grids_that_make_no_sense_are_refused_before_anything_runs() {
    let dir = tempdir().unwrap();
    let flags = QUICK.strip_prefix("train ").unwrap();
    for (grid, code, parts) in [
        ("--grid lr", 2, vec!["--grid lr", "there is no '='"]),
        ("--grid speed=1,2", 2, vec!["train has no flag --speed"]),
        ("--grid nesterov=yes", 2, vec!["'yes' is no value of --nesterov"]),
        ("--grid lr=0.1,fast", 2, vec!["fast"]),
        ("--grid lr=0.1,-1", 2, vec!["--lr must be at least 0"]),
        ("--grid model=net1,lenet", 2, vec!["--model"]),
        ("--grid lr=0.1,0.1", 2, vec!["two runs"]),
        ("--grid out=a,b", 2, vec!["--out is no choice"]),
        ("", 2, vec!["--grid"]),
    ] {
        cugrad(&dir, &format!("sweep {grid} {flags} --epochs 1 --out s")).fails(code, &parts);
    }
    assert!(!dir.path().join("s").exists());
}

#[test]
fn presets_are_choices_that_flags_override() {
    let dir = tempdir().unwrap();
    let help = cugrad(&dir, "train --help");
    for part in ["fast99", "best", "ensemble", "99%"] {
        assert!(help.succeeds().out.contains(part), "{part} is not in the help");
    }
    cugrad(&dir, "train --preset slow").fails(2, &["slow", "fast99"]);
    let line = "train --preset fast99 --data synthetic --limit 256 --device cpu --offline";
    cugrad(&dir, &format!("{line} --epochs 1 --out a")).succeeds();
    let config = read(&dir, "a/config.toml");
    assert!(
        config.contains("schedule = \"onecycle\"") && config.contains("epochs = 1") && config.contains("data = \"synthetic\""),
        "{config}"
    );
    cugrad(&dir, &format!("{line} --config a/config.toml")).fails(2, &["--preset cannot go with"]);
    cugrad(&dir, "train --preset fast99 --resume a/last.safetensors").fails(2, &["--preset cannot go with"]);
}

/// Members are trained in turn and judge together; given again, nothing is trained again.
#[test]
fn the_ensemble_preset_trains_several() {
    let dir = tempdir().unwrap();
    let line = "train --preset ensemble --model net1 --data synthetic --limit 200 --device cpu --offline --epochs 1 --seed 3 --out e";
    let said = cugrad(&dir, line);
    assert!(said.succeeds().out.contains("together: test accuracy") && said.out.contains("e/seed-7"), "{}", said.out);
    let again = cugrad(&dir, &format!("{line} --json"));
    assert_eq!(again.succeeds().err.matches("finished before").count(), 5);
    let done = again.json().swap_remove(0);
    assert_eq!(done["members"].as_array().unwrap().len(), 5);
    let together = cugrad(
        &dir,
        "eval e/seed-3/last.safetensors e/seed-4/last.safetensors e/seed-5/last.safetensors e/seed-6/last.safetensors e/seed-7/last.safetensors --limit 200 --device cpu --json",
    );
    assert_eq!(together.succeeds().json()[0]["accuracy"], done["test_acc"]);
}

#[test]
fn reference_experiments_are_made_and_compared() {
    let dir = tempdir().unwrap();
    let line = "reproduce net1 rgb-cnn --quick --data synthetic --limit 64 --device cpu --offline";
    let said = cugrad(&dir, line);
    let lines: Vec<&str> = said.succeeds().out.lines().collect();
    assert!(lines[0].starts_with("experiment") && lines[1].starts_with("net1") && lines[1].contains("98.45%"), "{}", said.out);
    assert!(lines.len() == 3 && lines[2].starts_with("rgb-cnn"), "{}", said.out);
    let again = cugrad(&dir, &format!("{line} --json"));
    assert_eq!(again.succeeds().err.matches("finished before").count(), 2);
    let rows = &again.json()[0]["rows"];
    let (theirs, ours) = (rows[0]["reference_acc"].as_f64().unwrap(), rows[0]["test_acc"].as_f64().unwrap());
    assert!((rows[0]["difference"].as_f64().unwrap() - (ours - theirs)).abs() < 1e-12 && rows[1]["difference"].is_null());
    assert!(read(&dir, "runs/reproduce/net1-1-epochs-seed-0/config.toml").contains("momentum = 0.5"));
    assert_eq!(read(&dir, "runs/reproduce/reproduce.txt").trim_end(), said.out.trim_end());
    cugrad(&dir, "reproduce net9").fails(2, &["'net9'", "net1-wd1e-4"]);
}

#[test]
fn a_learning_rate_is_found() {
    let dir = tempdir().unwrap();
    let flags = QUICK.strip_prefix("train ").unwrap().replace("256", "2000");
    let said = cugrad(&dir, &format!("lr-find {flags} --steps 200 --plot lr.png --json"));
    let found = said.succeeds().json().swap_remove(0);
    let points = found["points"].as_array().unwrap();
    let at = |i: usize| points[i]["lr"].as_f64().unwrap();
    assert!((at(0) - 1e-5).abs() < 1e-12 && points.len() <= 200);
    let factor = 1e6f64.powf(1.0 / 199.0);
    assert!((1..points.len()).all(|i| (at(i) / at(i - 1) / factor - 1.0).abs() < 1e-9));
    // The loss begins at guessing, and Adam on this network likes something between these.
    assert!((points[0]["loss"].as_f64().unwrap() - 10f64.ln()).abs() < 0.5);
    for key in ["steepest", "min_tenth"] {
        let lr = found["suggestion"][key].as_f64().unwrap();
        assert!((2e-4..0.3).contains(&lr), "{key} {lr}");
    }
    assert!(image::open(dir.path().join("lr.png")).is_ok());
    let text = cugrad(&dir, &format!("lr-find {flags} --steps 200"));
    assert!(text.succeeds().out.contains("suggestion: --lr") && text.out.lines().count() < 30, "{}", text.out);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a range test leaves no run behind");
    for (flags, part) in [
        ("--from 1 --to 0.1", "no range test"),
        ("--steps 3", "no range test"),
        ("--plot lr.gif", ".png or .svg"),
        ("--resume x.safetensors", "resumes none"),
    ] {
        cugrad(&dir, &format!("lr-find --offline --data synthetic --limit 64 {flags}")).fails(2, &[part]);
    }
    // Where nothing can be learned, nothing is suggested.
    cugrad(&dir, &format!("lr-find {flags} --optimizer sgd --from 1e3 --to 1e5")).fails(1, &["did not fall", "--from"]);
}
