//! Distillation: a student comes to think as its teacher does, on every device, and a stopped run goes on the same.

#![allow(clippy::unwrap_used)]

use crate::cli::{QUICK, cugrad, load, read, same_runs};
use crate::{cuda, device};
use cugrad::data::{Loader, synthetic};
use cugrad::device::Device;
use cugrad::models::{Model, Options};
use cugrad::optim::{Clock, LossScale, Optimizer, Rule};
use cugrad::tensor::DType;
use cugrad::train::progress::Place;
use cugrad::train::step::{Setting, totals, train_step};
use cugrad::train::{Array, Config, RunDir, Running, Teacher, Trainer};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tempfile::{TempDir, tempdir};

/// A trained network's checkpoint.
fn teacher(dir: &TempDir, model: &str) -> PathBuf {
    let config = Config { model: model.into(), epochs: 1, lr: 5e-3, batch: 32, val_split: 0.0, ..Config::default() };
    let splits = synthetic(512, 8, 1);
    let mut run = RunDir::create(Some(dir.path().join("teacher")), "test").unwrap();
    let mut trainer = Trainer::new(config, &splits, Place::CPU).unwrap();
    trainer.run(&mut run, &mut cuda::Silent, &AtomicBool::new(false)).unwrap();
    run.last()
}

fn taught(path: &Path) -> Config {
    Config { teacher: Some(path.into()), ..cuda::config("lenet", "f32") }
}

/// With the teacher's share at 1 the labels play no part: given wrong ones, the student still comes to agree with its teacher.
#[test]
fn a_student_follows_its_teacher_against_the_labels() {
    let dir = tempdir().unwrap();
    let path = teacher(&dir, "net1");
    let mut splits = synthetic(320, 1, 4);
    for device in [Device::Cpu, device::open()] {
        let config = Config { distill_alpha: 1.0, ..taught(&path) };
        let teacher = Teacher::load(&path, &config, device).unwrap();
        let numbers: Vec<u32> = (0..if device == Device::Cpu { 320 } else { 64 }).collect();
        let opinion = {
            let loader = Loader::new(&splits.train, &teacher.normalization, [1, 28, 28], DType::F32, device).unwrap();
            let logits = teacher.model.logits(loader.batch(&numbers).unwrap().0).unwrap();
            cugrad::ops::cross_entropy::predictions(&logits.fetch().unwrap())
        };
        numbers.iter().zip(&opinion).for_each(|(&i, &p)| splits.train.labels[i as usize] = (p as u8 + 1) % 10);
        let mut student = Model::build("net1", &Options { device, seed: 5, ..Options::default() }).unwrap();
        let mut optimizer = Optimizer::new(Rule::by_name("adam", &Default::default()).unwrap(), &student.params);
        let (mut clock, mut sums) = (Clock::new(DType::F32, device, LossScale::default()), totals(&student));
        optimizer.plan(&student.params, 200, (0..200).map(|_| (1e-2, None)));
        let loader = Loader::new(&splits.train, &teacher.normalization, [1, 28, 28], DType::F32, device).unwrap();
        let mut losses = Vec::new();
        let mut before = Running::default();
        for _ in 0..if device == Device::Cpu { 200 } else { 12 } {
            let batch = loader.batch(&numbers).unwrap();
            let setting = Setting { lr: 1e-2, label_smoothing: 0.0, seed: 0 };
            train_step(&mut student, &mut optimizer, &mut clock, &mut sums, batch, &setting, Some(&teacher)).unwrap();
            let all = Running::read(&sums).unwrap();
            losses.push(all.since(&before).loss());
            before = all;
        }
        assert!(losses[losses.len() - 1] < losses[0] / 2.0, "{device}: {losses:?}");
        if device == Device::Cpu {
            let logits = student.logits(loader.batch(&numbers).unwrap().0).unwrap();
            let mine = cugrad::ops::cross_entropy::predictions(&logits);
            let agree = mine.iter().zip(&opinion).filter(|(a, b)| a == b).count();
            assert!(agree * 100 >= numbers.len() * 95, "{agree} of {} agree", numbers.len());
        }
    }
}

#[test]
fn captured_steps_with_a_teacher_equal_eager_steps() {
    let dir = tempdir().unwrap();
    let path = teacher(&dir, "lenet-bn3");
    let splits = synthetic(170, 4, 3);
    for precision in ["f32", "f16"] {
        let config = Config { precision: precision.into(), ..taught(&path) };
        let run = |place, stop| cuda::train(&config, &splits, place, stop);
        let gpu = |capture| Place { device: device::open(), capture };
        let (captured, eager, resumed) = (run(gpu(true), None), run(gpu(false), None), run(gpu(true), Some(7)));
        assert_eq!(cuda::different(&captured, &eager), [""; 0], "{precision}: captured and eager");
        assert_eq!(cuda::different(&captured, &resumed), [""; 0], "{precision}: stopped and resumed");
        let alone = cuda::train(&Config { teacher: None, ..config.clone() }, &splits, gpu(true), None);
        assert!(!cuda::different(&captured, &alone).is_empty(), "{precision}: the teacher changed nothing");
    }
}

#[test]
fn distill_is_train_with_a_teacher() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out teacher")).succeeds();
    let line = QUICK.replace("train ", "distill --teacher teacher/last.safetensors --temperature 2 ");
    cugrad(&dir, &format!("{line} --epochs 2 --out a")).succeeds();
    cugrad(&dir, &format!("{line} --epochs 1 --out b").replace("distill", "train")).succeeds();
    cugrad(&dir, "train --device cpu --resume b/last.safetensors --epochs 2").succeeds();
    same_runs(&dir, "a", "b");
    let config = read(&dir, "a/config.toml");
    for part in ["teacher = \"teacher/last.safetensors\"", "temperature = 2.0", "distill-alpha = 0.9"] {
        assert!(config.contains(part), "{part} is not in {config}");
    }
    // The teacher is as it was; its student can be used without it.
    assert_eq!(load(&dir, "teacher/last.safetensors").meta["model"], "net1");
    std::fs::remove_dir_all(dir.path().join("teacher")).unwrap();
    cugrad(&dir, "eval a/last.safetensors --device cpu --limit 64").succeeds();
    cugrad(&dir, "train --device cpu --resume a/last.safetensors --epochs 3").fails(2, &["teacher/last.safetensors"]);
}

/// The loss that is no number is looked for in the run's own loss: that of the labels alone would be one.
#[test]
fn a_teacher_that_gives_no_number_is_named() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out teacher")).succeeds();
    let mut saved = load(&dir, "teacher/last.safetensors");
    saved.tensors.insert("fc.bias".into(), (vec![10], Array::F32([f32::NAN; 10].into())));
    saved.save(&dir.path().join("teacher/last.safetensors")).unwrap();
    let said = cugrad(&dir, &format!("{QUICK} --teacher teacher/last.safetensors"));
    said.fails(1, &["the loss became NaN at step 0: the teacher's logits hold NaN"]);
}

#[test]
fn teachers_that_do_not_fit_are_refused() {
    let dir = tempdir().unwrap();
    cugrad(&dir, &format!("{QUICK} --epochs 1 --out teacher")).succeeds();
    cugrad(&dir, &QUICK.replace("train", "distill")).fails(2, &["needs a teacher", "--teacher"]);
    let line = QUICK.replace("net1", "rgb-cnn");
    cugrad(&dir, &format!("{line} --teacher teacher/last.safetensors")).fails(2, &["net1 takes [1, 28, 28]", "rgb-cnn takes [3, 28, 28]"]);
    for (flags, part) in [("--temperature 0", "--temperature"), ("--distill-alpha 1.5", "--distill-alpha must be from 0 to 1")] {
        cugrad(&dir, &format!("{QUICK} --teacher teacher/last.safetensors {flags}")).fails(2, &[part]);
    }
}
