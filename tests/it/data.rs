//! One's own pictures, from the folder to the trained network and back, as the program's users meet it.

#![allow(clippy::unwrap_used)]

use crate::cli::{command, cugrad, read, said, same_runs};
use cugrad::data::{Options, Source, load, synthetic};
use image::{GrayImage, Rgb, RgbImage};
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};

const TRAIN: &str = "train --device cpu --offline --model net1 --schedule constant --limit 200 --epochs 1";

/// Generated digits as a folder of pictures: `pics/train` and `pics/test`, 200 each.
fn exported() -> TempDir {
    let dir = tempdir().unwrap();
    let said = cugrad(&dir, "data export --data synthetic --seed 4 --limit 200 --out pics");
    assert!(said.succeeds().out.contains("200 training and 200 test images in pics"), "{}", said.out);
    dir
}

/// Two classes of coloured squares of several sizes and kinds.
fn squares(dir: &Path, classes: [&str; 2], count: u32) {
    for (class, name) in classes.iter().enumerate() {
        fs::create_dir_all(dir.join(name)).unwrap();
        for i in 0..count {
            let colour = [[220, 30], [30, 200]][class].map(|v: u8| v + i as u8);
            let image = RgbImage::from_pixel(20 + i % 7, 30, Rgb([colour[0], colour[1], 90]));
            image.save(dir.join(name).join(format!("{i:02}.{}", ["png", "bmp", "jpg"][i as usize % 3]))).unwrap();
        }
    }
}

#[test]
fn augmented_pictures_are_shown_beside_the_images() {
    let dir = tempdir().unwrap();
    let show = "data show --data synthetic --limit 60 --first 3 --variants 2 --out";
    let width = |name: &str| image::open(dir.path().join(name)).unwrap().width();
    cugrad(&dir, &format!("{show} none.png --augment none")).succeeds();
    cugrad(&dir, &format!("{show} some.png --augment rotate:15,erase:0.5,elastic:34:4")).succeeds();
    let [none, some] = ["none.png", "some.png"].map(|name| fs::read(dir.path().join(name)).unwrap());
    assert!(none != some && width("none.png") > 300);
    cugrad(&dir, &format!("{show} some.png --augment turn:15")).fails(2, &["there is no augmentation 'turn:15'"]);
    cugrad(&dir, "data show --data synthetic --augment rotate:15 --variants 400 --out many.png").fails(2, &["not 4010"]);
}

#[test]
fn what_is_exported_is_read_back_byte_for_byte() {
    let dir = exported();
    let splits = synthetic(12_000, 2_000, 4);
    for (part, data) in [("train", &splits.train), ("test", &splits.test)] {
        for i in 0..200 {
            let path = dir.path().join(format!("pics/{part}/{}/{:05}.png", data.classes[data.labels[i] as usize], i + 1));
            assert_eq!(image::open(path).unwrap().to_luma8().as_raw(), data.image(i));
        }
    }
    let options = Options { dir: dir.path().join("data"), input: Some([1, 28, 28]), ..Options::default() };
    let again = load(&Source::Folder(dir.path().join("pics")), &options, &mut |line| panic!("{line}")).unwrap();
    let sorted = |data: &cugrad::data::Dataset| {
        let mut all: Vec<_> = (0..200).map(|i| (data.image(i).to_vec(), data.labels[i])).collect();
        all.sort();
        all
    };
    assert!(sorted(&again.train) == sorted(&splits.train) && sorted(&again.test) == sorted(&splits.test));
    assert_eq!(again.train.classes, splits.train.classes);
    cugrad(&dir, "data export --data synthetic --out pics").fails(2, &["pics is there already"]);
}

#[test]
fn a_folder_trains_resumes_and_is_judged() {
    let dir = exported();
    let line = format!("{TRAIN} --data folder:pics/train --epochs 2").replace("--epochs 1", "");
    cugrad(&dir, &format!("{line} --out straight")).succeeds();
    let config = read(&dir, "straight/config.toml");
    let place = dir.path().join("pics/train");
    assert!(config.contains(&format!("data = \"folder:{}\"", place.display())), "{config}");
    let first = cugrad(&dir, &format!("{TRAIN} --data folder:pics/train --out parts"));
    // The lists were made by the first run.
    assert!(!first.succeeds().err.contains("to learn from and"), "{}", first.err);
    // From another directory, and with the data directory of before.
    let at = dir.path().join("parts");
    said(command(&at, "train --device cpu --resume last.safetensors --epochs 2 --data-dir ../data")).succeeds();
    same_runs(&dir, "straight", "parts");

    let judged =
        |line: &str| cugrad(&dir, &format!("eval straight/last.safetensors --device cpu --json {line}")).succeeds().json()[0].clone();
    // One of five that nothing was learned from; and every picture of another folder.
    assert_eq!(judged("")["images"], 40);
    assert_eq!(judged("--data folder:pics/../pics/train")["images"], 40);
    assert_eq!(judged("--data folder:pics/test")["images"], 200);
    assert_eq!(judged("--data folder:pics")["images"], 200);
    assert_eq!(judged("--data synthetic --limit 50")["images"], 50);

    // The folder has moved, and another has taken its place.
    fs::rename(dir.path().join("pics"), dir.path().join("moved")).unwrap();
    cugrad(&dir, "train --device cpu --resume parts/last.safetensors --epochs 3").fails(4, &["pics/train: there is no such folder"]);
    cugrad(&dir, "train --device cpu --resume parts/last.safetensors --epochs 3 --data folder:moved/train").succeeds();
    cugrad(&dir, "train --device cpu --resume parts/last.safetensors --epochs 4 --data synthetic")
        .fails(2, &["only --epochs, --early-stop", "can change"]);
    fs::rename(dir.path().join("moved/train/7"), dir.path().join("moved/train/seven")).unwrap();
    let resumed = "train --device cpu --resume parts/last.safetensors --epochs 4 --data folder:moved/train";
    cugrad(&dir, resumed).fails(4, &["seven", "has learned 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"]);
    cugrad(&dir, "eval parts/last.safetensors --device cpu --data folder:moved/train").fails(4, &["has the class seven"]);
}

#[test]
fn colour_and_size_are_those_of_the_network() {
    let dir = tempdir().unwrap();
    squares(&dir.path().join("squares"), ["red", "green"], 20);
    for (model, extra) in [("rgb-cnn", ""), ("net1", ""), ("net1", "--image-size 20x24")] {
        let out = format!("{model}{}", extra.len());
        let said =
            cugrad(&dir, &format!("train --device cpu --model {model} --data folder:squares --epochs 4 --batch 8 --out {out} {extra}"));
        assert!(said.succeeds().err.contains("(32 images)"), "{}", said.err);
        let eval = cugrad(&dir, &format!("eval {out}/last.safetensors --device cpu --json")).succeeds().json();
        assert_eq!(eval[0]["images"], 8);
    }
    // A picture in the colours that the network has learned, without being made a digit first.
    let said = cugrad(&dir, "predict --checkpoint rgb-cnn0/last.safetensors --device cpu squares/red/01.bmp squares/green/02.jpg --json");
    let classes: Vec<_> = said.succeeds().json().iter().map(|line| line["class"].as_str().unwrap().to_string()).collect();
    assert_eq!(classes, ["red", "green"]);
    assert!(read(&dir, "net118/config.toml").contains("image-size = \"20x24\""));
    // A residual network takes any size.
    cugrad(&dir, "train --device cpu --model resnet8 --data folder:squares --image-size 33x40 --epochs 1 --batch 8 --out any").succeeds();
    let said = cugrad(&dir, "eval any/last.safetensors --device cpu --json");
    assert_eq!(said.succeeds().json()[0]["images"], 8);
    cugrad(&dir, "train --device cpu --model net1 --data folder:squares --image-size 30")
        .fails(4, &["do not fit a network that takes 1x28x28"]);
    cugrad(&dir, "train --device cpu --model net1 --data folder:squares --image-size 0").fails(2, &["'0' is no size of pictures"]);
}

#[test]
fn what_is_wrong_with_pictures_is_said() {
    let dir = tempdir().unwrap();
    let set = dir.path().join("set");
    let train = |data: &str| cugrad(&dir, &format!("train --device cpu --offline --model net1 --epochs 1 --data {data}"));
    train("folder:set").fails(4, &["set: there is no such folder", "help: "]);
    fs::create_dir(&set).unwrap();
    train("folder:set").fails(4, &["set has no class folders", "DIR/cat/1.png"]);
    squares(&set, ["a", "b"], 10);
    fs::create_dir(set.join("c")).unwrap();
    train("folder:set").fails(4, &["the class folder", "set/c has no pictures"]);
    fs::remove_dir(set.join("c")).unwrap();
    fs::write(set.join("b/03.png"), "no picture").unwrap();
    train("folder:set").fails(4, &["1 of 20 pictures cannot be read", "set/b/03.png", "--skip-broken"]);
    assert!(!dir.path().join("runs").exists());
    let said = train("folder:set --skip-broken --out a");
    assert!(
        said.succeeds().err.contains("1 of 20 pictures cannot be read and are left out:\n") && said.err.contains("b/03.png"),
        "{}",
        said.err
    );
    // The run knows it.
    cugrad(&dir, "train --device cpu --resume a/last.safetensors --epochs 2").succeeds();

    fs::write(dir.path().join("l.txt"), "set/a/00.png a\nset/a/01.bmp\n").unwrap();
    train("list:l.txt").fails(4, &["l.txt: line 2: 'set/a/01.bmp' has no label"]);
    fs::write(dir.path().join("l.txt"), "set/a/00.png a\nset/none.png b\n").unwrap();
    train("list:l.txt").fails(4, &["1 of 2 pictures are not there", "line 2: ", "set/none.png"]);
    train("list:none.txt").fails(4, &["none.txt: "]);
    train("list:").fails(2, &["folder:DIR, list:FILE"]);
}

#[test]
fn lists_are_written_and_read() {
    let dir = tempdir().unwrap();
    squares(&dir.path().join("set"), ["big cat", "dog"], 20);
    let said = cugrad(&dir, "data split --data folder:set --out lists --json");
    let json = &said.succeeds().json()[0];
    assert_eq!((&json["train"], &json["val"], &json["folder"]), (&32.into(), &8.into(), &"lists".into()));
    assert_eq!([read(&dir, "lists/train.txt"), read(&dir, "lists/val.txt")].concat(), read(&dir, "lists/total.txt"));
    cugrad(&dir, "data split --data folder:set --out lists").fails(2, &["--out has a total.txt already"]);
    cugrad(&dir, "data split --data mnist").fails(2, &["'mnist' has its own"]);
    let again = cugrad(&dir, "data split --data folder:set");
    assert!(again.succeeds().out.contains("32 pictures to learn from, 8 to be judged on"), "{}", again.out);
    let line = "train --device cpu --model rgb-cnn --epochs 1 --batch 8 --data";
    assert!(cugrad(&dir, &format!("{line} list:lists/train.txt,lists/val.txt --out a")).succeeds().err.contains("(32 images)"));
    assert!(cugrad(&dir, &format!("{line} list:lists/total.txt --out b")).succeeds().err.contains("(32 images)"));
    let json = cugrad(&dir, "eval a/last.safetensors --device cpu --json").succeeds().json();
    assert_eq!((&json[0]["images"], json[0]["report"].to_string().contains("big cat")), (&8.into(), true));
}

#[test]
fn statistics_and_pictures_of_data_sets() {
    let dir = tempdir().unwrap();
    let said = cugrad(&dir, "data stats --data synthetic --limit 100");
    assert!(said.succeeds().out.starts_with("synthetic: 100 training and 100 test images of 28x28, grey\nmean 0.1"), "{}", said.out);
    assert!(said.out.contains("\nclass     train      test\n0            10        10\n"), "{}", said.out);
    let json = &cugrad(&dir, "data stats --data synthetic --limit 100 --image-size 14 --json").succeeds().json()[0];
    assert_eq!((&json["shape"], &json["classes"][9]["test"]), (&serde_json::json!([1, 14, 14]), &10.into()));
    for (flags, file) in [("--per-class 3", "samples.png"), ("--first 7 --part test --out a/b.svg", "a/b.svg")] {
        let said = cugrad(&dir, &format!("data show --data synthetic {flags}"));
        assert_eq!(said.succeeds().out.trim(), file);
        assert!(fs::metadata(dir.path().join(file)).unwrap().len() > 2000);
    }
    cugrad(&dir, "data show --data synthetic --out a.gif").fails(2, &[".png or .svg"]);
    cugrad(&dir, "data show --data synthetic --first 100000").fails(2, &["1 to 2000 pictures"]);
    cugrad(&dir, "data download synthetic").fails(2, &["nothing to download"]);
    cugrad(&dir, "data download cifar10 --offline").fails(4, &["CIFAR-10", "cifar-10-binary.tar.gz", "c4a38c50"]);
    cugrad(&dir, "data download mnist --offline").fails(4, &["MNIST", "train-images-idx3-ubyte.gz"]);
}

#[test]
fn a_number_is_written_and_read() {
    let dir = tempdir().unwrap();
    let written = cugrad(&dir, "data mosaic 2024013325 --data synthetic --scale 1 --json");
    let json = &written.succeeds().json()[0];
    let picture = image::open(dir.path().join("2024013325.png")).unwrap().to_luma8();
    assert_eq!(picture.dimensions(), (280, 28));
    let data = synthetic(12_000, 2_000, 0).test;
    for place in 0..10 {
        let i = json["digits"][place]["image"].as_u64().unwrap() as usize;
        assert_eq!(data.labels[i].to_string(), json["digits"][place]["digit"].as_str().unwrap());
        let part = image::imageops::crop_imm(&picture, 28 * place as u32, 0, 28, 28).to_image();
        assert_eq!(part, GrayImage::from_raw(28, 28, data.image(i).to_vec()).unwrap());
    }
    assert!(json["predictions"].is_null());
    cugrad(&dir, "train --device cpu --data synthetic --limit 2000 --epochs 1 --out a").succeeds();
    let said = cugrad(&dir, "data mosaic 31 --checkpoint a/last.safetensors --device cpu --out n.png");
    assert!(said.succeeds().out.contains("\nread as ") && said.out.contains(" of 2 right"), "{}", said.out);
    cugrad(&dir, "data mosaic 12a --data synthetic").fails(2, &["'12a' is no number"]);
    cugrad(&dir, "data mosaic 12 --data synthetic --out x.svg").fails(2, &["PNG"]);
    squares(&dir.path().join("set"), ["a", "b"], 5);
    cugrad(&dir, "data mosaic 12 --data folder:set").fails(4, &["no image of the class 1"]);
}
