//! Several networks, and several views of a picture, on the command line.

#![allow(clippy::unwrap_used)]

use crate::cli::{QUICK, cugrad, load};
use image::GrayImage;
use tempfile::{TempDir, tempdir};

/// Three networks a, b and c that have learned a little.
fn three(dir: &TempDir) {
    for (seed, out) in ["a", "b", "c"].iter().enumerate() {
        cugrad(dir, &format!("{QUICK} --epochs 1 --seed {seed} --out {out}").replace("256", "512")).succeeds();
    }
    // Generated data follow the seed: that of all must be the same, so that they can be judged together.
    for out in ["b", "c"] {
        let mut saved = load(dir, &format!("{out}/last.safetensors"));
        let config = saved.meta["config"].replace("\"seed\":1", "\"seed\":0").replace("\"seed\":2", "\"seed\":0");
        saved.meta.insert("config".into(), config);
        saved.save(&dir.path().join(format!("{out}/last.safetensors"))).unwrap();
    }
}

const ALL: &str = "a/last.safetensors b/last.safetensors c/last.safetensors";

#[test]
fn several_networks_judge_together() {
    let dir = tempdir().unwrap();
    three(&dir);
    let one = cugrad(&dir, "eval a/last.safetensors --device cpu --json").succeeds().json().swap_remove(0);
    assert_eq!((&one["checkpoint"], &one["model"], &one["tta"]), (&"a/last.safetensors".into(), &"net1".into(), &"none".into()));
    let judge = |flags: &str| cugrad(&dir, &format!("eval {ALL} --device cpu --json {flags}")).succeeds().json().swap_remove(0);
    let (mean, votes, views) = (judge(""), judge("--vote"), judge("--tta shift"));
    assert_eq!((mean["checkpoints"].as_array().unwrap().len(), &mean["vote"], &votes["vote"]), (3, &false.into(), &true.into()));
    assert_eq!(mean["members"][0], one["accuracy"]);
    assert_ne!(mean["confusion"], votes["confusion"]);
    assert_ne!(mean["confusion"], views["confusion"]);
    let members: Vec<f64> = mean["members"].as_array().unwrap().iter().map(|m| m.as_f64().unwrap()).collect();
    let worst = members.iter().copied().fold(1.0, f64::min);
    assert!(mean["accuracy"].as_f64().unwrap() > worst, "{mean}");
    // Mean probability means the same loss, whoever wins the vote.
    assert_eq!(mean["loss"], votes["loss"]);
    let text = cugrad(&dir, &format!("eval {ALL} --device cpu --vote --tta shift"));
    for part in ["net1 + net1 + net1 on synthetic, 2000 test images, by votes, nine views of each", "b/last.safetensors", "accuracy"] {
        assert!(text.succeeds().out.contains(part), "{part} is not in {}", text.out);
    }
}

#[test]
fn pictures_are_predicted_together() {
    let dir = tempdir().unwrap();
    three(&dir);
    GrayImage::from_fn(40, 40, |x, y| image::Luma([if (18..22).contains(&x) && (8..32).contains(&y) { 255 } else { 0 }]))
        .save(dir.path().join("one.png"))
        .unwrap();
    let ask = |flags: &str| cugrad(&dir, &format!("predict one.png --device cpu --json {flags}")).succeeds().json().swap_remove(0);
    let all = "--checkpoint a/last.safetensors --checkpoint b/last.safetensors --checkpoint c/last.safetensors";
    let p = |answer: &serde_json::Value, class: &str| answer["probabilities"][class].as_f64().unwrap();
    let each: Vec<_> = ["a", "b", "c"].map(|run| ask(&format!("--checkpoint {run}/last.safetensors"))).to_vec();
    let together = ask(all);
    for class in ["0", "1", "7"] {
        let mean = each.iter().map(|answer| p(answer, class)).sum::<f64>() / 3.0;
        assert!((p(&together, class) - mean).abs() < 1e-9, "{class}: {together} {each:?}");
    }
    assert_ne!(p(&ask(&format!("{all} --tta shift")), "1"), p(&together, "1"));
    ask(&format!("{all} --vote"));
}

#[test]
fn networks_that_do_not_fit_together_are_refused() {
    let dir = tempdir().unwrap();
    three(&dir);
    let mut saved = load(&dir, "b/last.safetensors");
    saved.meta.insert("classes".into(), "[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\",\"i\",\"j\"]".into());
    saved.save(&dir.path().join("letters.safetensors")).unwrap();
    cugrad(&dir, "eval a/last.safetensors letters.safetensors --device cpu").fails(2, &["letters.safetensors", "cannot judge together"]);
    cugrad(&dir, "eval a/last.safetensors none.safetensors --device cpu").fails(2, &["none.safetensors"]);
    cugrad(&dir, "eval a/last.safetensors --tta flip").fails(2, &["unknown test-time augmentation 'flip'"]);
    cugrad(&dir, "eval").fails(2, &["CHECKPOINT"]);
    cugrad(&dir, "predict x.png").fails(2, &["--checkpoint"]);
}
