//! Pictures as users meet them: what `train` leaves, `plot`, `look`.

#![allow(clippy::unwrap_used)]

use crate::cli::{QUICK, cugrad, read};
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};

fn size(dir: &TempDir, path: &str) -> (u32, u32) {
    let picture = image::open(dir.path().join(path)).unwrap();
    (picture.width(), picture.height())
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn runs_leave_their_history_and_can_be_drawn_over_each_other() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 2 --out a")).succeeds();
    cugrad(&dir, &format!("{QUICK} --epochs 3 --seed 1 --val-split 0 --out b")).succeeds();
    assert_eq!(names(&dir.path().join("a/plots")), ["history.png", "history.svg"]);
    let svg = read(&dir, "a/plots/history.svg");
    assert!(
        [">a<", ">loss<", ">training<", ">validation<", ">validation accuracy<", ">epoch<"].iter().all(|part| svg.contains(part)),
        "{svg}"
    );
    assert!(read(&dir, "b/plots/history.svg").contains(">training accuracy<"));

    let said = cugrad(&dir, "plot a b --labels first,<2nd> --metric loss,val-acc,lr --log -o both.svg");
    assert_eq!(said.succeeds().out, "drawn: both.svg\n");
    let svg = read(&dir, "both.svg");
    assert!(["first (validation)", "first (training)", "&lt;2nd&gt; (training)", "learning rate"].iter().all(|p| svg.contains(p)), "{svg}");
    cugrad(&dir, "plot a --metric loss --dpi 300").succeeds();
    assert_eq!(size(&dir, "a/plots/history.png"), (3000, 1800));
    cugrad(&dir, "plot a b").succeeds();
    assert!(size(&dir, "runs.png").0 > 1000);

    cugrad(&dir, "plot").fails(2, &["RUNS"]);
    cugrad(&dir, "plot none").fails(2, &["cannot read none", "help: "]);
    cugrad(&dir, "plot a --metric what").fails(2, &["unknown metric 'what'", "val-acc"]);
    cugrad(&dir, "plot a b --labels one").fails(2, &["1 labels for 2 runs"]);
    cugrad(&dir, "plot a -o a.jpg").fails(2, &["a.jpg", ".png or .svg"]);
    cugrad(&dir, "plot a --dpi 1e9").fails(2, &["20 to 1200"]);
    cugrad(&dir, "plot a --font a/metrics.csv").fails(2, &["a/metrics.csv: not a font", "help: "]);
    fs::write(dir.path().join("file"), "kept").unwrap();
    cugrad(&dir, "plot a -o file/x.png").fails(1, &["cannot create file"]);
    assert_eq!(read(&dir, "file"), "kept");
}

#[test]
fn functions_are_drawn_with_their_derivatives() {
    let dir = tempdir().unwrap();
    cugrad(&dir, "plot --function relu").succeeds();
    assert!(size(&dir, "relu.png").0 > 1000);
    cugrad(&dir, "plot --function leaky-relu:0.1 -o leaky.svg").succeeds();
    assert!(read(&dir, "leaky.svg").contains("max(x, 0.1·x)") && read(&dir, "leaky.svg").contains("dy/dx"));
    for name in ["what", "leaky-relu:2", "leaky-relu:x", "relu:1"] {
        cugrad(&dir, &format!("plot --function {name}")).fails(2, &[&format!("unknown function '{name}'"), "leaky-relu"]);
    }
}

#[test]
fn networks_can_be_looked_into() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{} --epochs 1 --out a", QUICK.replace("net1", "lenet-bn3"))).succeeds();
    let said = cugrad(&dir, "look a/best.safetensors --offline --image 3 --layer conv1,bn2,fc");
    assert!(said.succeeds().out.starts_with("image 3 (") && said.out.contains("taken for "), "{}", said.out);
    let drawn = ["features-bn2.png", "features-conv1.png", "features-fc.png", "filters.png", "history.png", "history.svg", "saliency.png"];
    assert_eq!(names(&dir.path().join("a/plots")), drawn);
    // A picture of one's own, as SVG, elsewhere.
    image::GrayImage::from_fn(60, 60, |x, y| [if x.abs_diff(30) < 4 && y.abs_diff(30) < 20 { 0 } else { 255 }].into())
        .save(dir.path().join("one.png"))
        .unwrap();
    cugrad(&dir, "look a/best.safetensors --picture one.png --class 1 --maps 4 --out in/side --format svg").succeeds();
    assert_eq!(names(&dir.path().join("in/side")), ["features-conv1.svg", "filters.svg", "saliency.svg"]);
    assert!(read(&dir, "in/side/features-conv1.svg").contains("the first 4 of 16 maps of 28×28"));
    assert!(
        read(&dir, "in/side/saliency.svg").contains("one.png: what &apos;1&apos;")
            || read(&dir, "in/side/saliency.svg").contains("one.png: what '1'")
    );

    cugrad(&dir, "look a/best.safetensors --offline --layer conv9").fails(2, &["unknown layer 'conv9'", "conv3 (64x7x7)"]);
    cugrad(&dir, "look a/best.safetensors --offline --image 99999").fails(2, &["there is no image 99999", "--image 0 to"]);
    cugrad(&dir, "look a/best.safetensors --offline --class x").fails(2, &["unknown class 'x'"]);
    cugrad(&dir, "look a/best.safetensors --picture none.png").fails(4, &["none.png"]);
    // Every network can be looked into, residual ones and those in half precision too.
    cugrad(&dir, &format!("{} --precision bf16 --epochs 1 --out r", QUICK.replace("net1", "resnet8"))).succeeds();
    cugrad(&dir, "look r/best.safetensors --offline --layer layer1.0.conv1 --out r").succeeds();
    assert!(size(&dir, "r/saliency.png").0 > 1000);
}

#[test]
fn judgements_leave_what_they_found() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out a")).succeeds();
    // What looks like an earlier judgement's goes; what does not stays.
    fs::create_dir(dir.path().join("found")).unwrap();
    for name in ["error_77_true_1_pred_2.png", "error_x_true_1_pred_2.png", "errors.svg", "mine.png"] {
        fs::write(dir.path().join("found").join(name), "old").unwrap();
    }
    let said = cugrad(&dir, "eval a/best.safetensors --device cpu --offline --out found --errors 3");
    let wrong: Vec<&str> = said.succeeds().out.lines().filter(|line| line.contains(" taken for ") && !line.starts_with("error_")).collect();
    assert!(!wrong.is_empty() && wrong.len() <= 10 && wrong[0].ends_with(" times"), "{}", said.out);
    let errors: Vec<&str> = said.out.lines().filter(|line| line.starts_with("error_")).collect();
    assert_eq!(errors.len(), 3);

    let report: serde_json::Value = serde_json::from_str(&read(&dir, "found/report.json")).unwrap();
    let (accuracy, images) = (report["accuracy"].as_f64().unwrap(), report["images"].as_u64().unwrap());
    let misses = images - (accuracy * images as f64).round() as u64;
    assert_eq!(report["mistakes"].as_array().unwrap().iter().map(|m| m["count"].as_u64().unwrap()).sum::<u64>(), misses);
    assert!(read(&dir, "found/report.txt").contains("precision") && read(&dir, "found/report.txt").contains(wrong[0]));
    let csv = read(&dir, "found/errors.csv");
    assert_eq!(csv.lines().count() as u64, misses + 1);

    // The pixels are those of the data.
    let test = cugrad::data::synthetic(20_000, 2_000, 0).test;
    for (n, line) in csv.lines().skip(1).take(3).enumerate() {
        let columns: Vec<&str> = line.split(',').collect();
        let (image, truth, prediction) = (columns[1].parse::<usize>().unwrap(), columns[2].trim_matches('"'), columns[3].trim_matches('"'));
        assert_eq!(columns[5], format!("error_{}_true_{truth}_pred_{prediction}.png", n + 1));
        assert!(errors[n].starts_with(columns[5]) && errors[n].contains(&format!("image {image}, {truth} taken for {prediction}")));
        assert_eq!(test.labels[image].to_string(), truth);
        let pixels = image::open(dir.path().join("found").join(columns[5])).unwrap();
        assert_eq!(pixels.to_luma8().as_raw(), test.image(image), "{line}");
    }
    let all = names(&dir.path().join("found"));
    assert_eq!(all.iter().filter(|name| name.starts_with("error_")).count(), 4, "{all:?}");
    let others: Vec<&str> = all.iter().map(String::as_str).filter(|name| !name.starts_with("error_")).collect();
    assert_eq!(others, ["confusion.png", "errors.csv", "errors.png", "mine.png", "report.json", "report.txt"]);
    assert!(all.contains(&"error_x_true_1_pred_2.png".into()) && size(&dir, "found/confusion.png").0 > 1000);

    cugrad(&dir, "eval a/best.safetensors --device cpu --offline --limit 50 --out found --errors 0 --format svg").succeeds();
    assert!(
        read(&dir, "found/confusion.svg").contains(">predicted class<") && !names(&dir.path().join("found")).contains(&"errors.png".into())
    );
}

/// As it is after Ctrl-C in the first epoch.
#[test]
fn a_run_without_an_epoch_has_nothing_to_draw() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("r")).unwrap();
    ["metrics.jsonl", "last.safetensors"].iter().for_each(|file| fs::write(dir.path().join("r").join(file), "").unwrap());
    let parts = ["r/metrics.jsonl: no epoch of this run is finished yet", "cugrad train --resume r/last.safetensors"];
    cugrad(&dir, "plot r").fails(1, &parts);
    assert_eq!(names(&dir.path().join("r")), ["last.safetensors", "metrics.jsonl"]);
}

#[test]
fn predictions_are_drawn() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out a")).succeeds();
    fs::create_dir(dir.path().join("b")).unwrap();
    for path in ["one.png", "b/one.png"] {
        image::GrayImage::from_fn(60, 60, |x, y| [if x.abs_diff(30) < 4 && y.abs_diff(30) < 20 { 0 } else { 255 }].into())
            .save(dir.path().join(path))
            .unwrap();
    }
    let line = "predict --checkpoint a/best.safetensors --device cpu one.png";
    cugrad(&dir, &format!("{line} b/one.png --out drawn")).succeeds();
    assert_eq!(names(&dir.path().join("drawn")), ["one-2-prediction.png", "one-prediction.png"]);
    cugrad(&dir, &format!("{line} --out one.svg --json")).succeeds();
    let svg = read(&dir, "one.svg");
    assert!(svg.contains(">one.png: ") && svg.contains(">probability<") && svg.contains("as the network sees it"), "{svg}");
    cugrad(&dir, &format!("{line} --out a/metrics.csv")).fails(1, &["cannot create a/metrics.csv"]);
    // One file for several pictures is a mistake; unless it is a directory of that name.
    for (out, part) in [("two.png", "--out two.png is one file, but 2 pictures"), ("two.JPG", "give --out a directory")] {
        cugrad(&dir, &format!("{line} b/one.png --out {out}")).fails(2, &[part]);
        assert!(!dir.path().join(out).exists());
    }
    cugrad(&dir, &format!("{line} --out one.jpg")).fails(2, &["one.jpg", ".png"]);
    fs::create_dir(dir.path().join("odd.png")).unwrap();
    cugrad(&dir, &format!("{line} b/one.png --out odd.png")).succeeds();
    assert_eq!(names(&dir.path().join("odd.png")), ["one-2-prediction.png", "one-prediction.png"]);
}
