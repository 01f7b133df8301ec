//! Directories of runs: their names, what stands in them, what a second run finds.

use super::*;
use std::time::Duration;
use tempfile::tempdir;

fn record(step: u64, split: &str) -> Record<'_> {
    Record { step, epoch: 1, split, loss: 0.25, acc: 0.5, lr: 1e-3, grad_norm: None, time_s: 2.0, samples_per_s: 1000.5 }
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

fn out(directory: &Path) -> RunDir {
    RunDir::create(Some(directory.to_path_buf()), "unused").unwrap()
}

#[test]
fn stamps_are_utc_dates() {
    let at = |seconds| stamp(UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(0), "19700101-000000");
    assert_eq!(at(951_782_399), "20000228-235959");
    assert_eq!(at(951_782_400), "20000229-000000");
    assert_eq!(at(1_709_251_199), "20240229-235959");
    assert_eq!(at(1_735_689_599), "20241231-235959");
    assert_eq!(at(1_234_567_890), "20090213-233130");
    assert_eq!(at(4_107_542_400), "21000301-000000"); // 2100 has no leap day
    assert_eq!(stamp(UNIX_EPOCH - Duration::from_secs(1)), "19700101-000000");
}

#[test]
fn new_directories_take_the_next_free_number() {
    let parent = tempdir().unwrap();
    let runs = parent.path().join("runs");
    let names: Vec<_> = (0..3).map(|_| fresh_in(&runs, "20240229-120000", "lenet/mnist").unwrap()).collect();
    let expected = ["20240229-120000-lenet-mnist", "20240229-120000-lenet-mnist-2", "20240229-120000-lenet-mnist-3"];
    assert_eq!(names, expected.map(|name| runs.join(name)));
}

#[test]
fn a_given_directory_is_created_with_its_parents() {
    let parent = tempdir().unwrap();
    let run = out(&parent.path().join("a/b"));
    assert_eq!(run.path(), parent.path().join("a/b"));
    assert_eq!(run.last(), parent.path().join("a/b/last.safetensors"));
    assert_eq!(run.best(), parent.path().join("a/b/best.safetensors"));
    assert_eq!(read(run.metrics_csv()), HEADER);
    assert_eq!(read(run.metrics_jsonl()), "");
}

#[test]
fn a_file_or_a_path_through_one_is_refused() {
    let parent = tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "kept").unwrap();
    let error = RunDir::create(Some(file.clone()), "x").unwrap_err();
    assert_eq!((error.message, error.kind), (format!("{} is not a directory", file.display()), crate::Kind::Usage));
    let error = RunDir::create(Some(file.join("run")), "x").unwrap_err();
    assert!(error.message.contains(&file.join("run").display().to_string()), "{error}");
    assert!(error.hint.unwrap().contains("is a file"));
    assert!(fresh_in(&file, "t", "x").is_err());
    assert_eq!(read(file), "kept");
}

/// As root permissions do not hold, so a directory stands where the file should be.
#[test]
fn metrics_that_cannot_be_opened_are_named() {
    let parent = tempdir().unwrap();
    fs::create_dir(parent.path().join("metrics.csv")).unwrap();
    let error = RunDir::create(Some(parent.path().into()), "x").unwrap_err();
    assert!(error.message.contains("metrics.csv"), "{error}");
}

#[test]
fn records_are_written_as_they_come() {
    let parent = tempdir().unwrap();
    let mut run = out(parent.path());
    assert!(!run.has_records().unwrap());
    run.append(&Record { grad_norm: Some(1.5), ..record(10, "train") }).unwrap();
    run.append(&Record { loss: f64::NAN, lr: f64::INFINITY, ..record(20, "a,\"b\"") }).unwrap();
    assert!(run.has_records().unwrap());
    let jsonl = r#"{"step":10,"epoch":1,"split":"train","loss":0.25,"acc":0.5,"lr":0.001,"grad_norm":1.5,"time_s":2.0,"samples_per_s":1000.5}
{"step":20,"epoch":1,"split":"a,\"b\"","loss":null,"acc":0.5,"lr":null,"grad_norm":null,"time_s":2.0,"samples_per_s":1000.5}
"#;
    assert_eq!(read(run.metrics_jsonl()), jsonl);
    assert_eq!(read(run.metrics_csv()), format!("{HEADER}10,1,train,0.25,0.5,0.001,1.5,2,1000.5\n20,1,\"a,\"\"b\"\"\",,0.5,,,2,1000.5\n"));
}

#[test]
fn a_second_run_appends_under_the_same_header() {
    let parent = tempdir().unwrap();
    out(parent.path()).append(&record(1, "train")).unwrap();
    let mut second = out(parent.path());
    assert!(second.has_records().unwrap());
    second.append(&record(2, "train")).unwrap();
    let csv = read(second.metrics_csv());
    assert_eq!((csv.matches("step").count(), csv.lines().count()), (1, 3));
    assert_eq!(read(second.metrics_jsonl()).lines().count(), 2);
}

#[test]
fn a_resumed_run_has_no_duplicates() {
    let parent = tempdir().unwrap();
    let mut run = out(parent.path());
    (1..=4).for_each(|step| run.append(&record(step * 10, "train")).unwrap());
    run.append(&record(20, "test")).unwrap();
    // The last write of a killed run, torn.
    write(&mut run.jsonl, Path::new("x"), "{\"step\":15,\"ep").unwrap();
    write(&mut run.csv, Path::new("x"), "15,1,train,0.2").unwrap();
    drop(run);

    let mut run = out(parent.path());
    run.truncate_after(20).unwrap();
    run.append(&record(30, "val")).unwrap();
    let csv = read(run.metrics_csv());
    let steps: Vec<&str> = csv.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(steps, ["step", "10", "20", "30"]);
    let jsonl = read(run.metrics_jsonl());
    let steps: Vec<_> = jsonl.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].clone()).collect();
    assert_eq!(steps, [10, 20, 30]);
    assert_eq!(csv.lines().last().unwrap(), record(30, "val").csv().trim_end());

    run.clear_records().unwrap();
    assert!(!run.has_records().unwrap());
    assert_eq!(read(run.metrics_csv()), HEADER);
    run.append(&record(1, "train")).unwrap();
    assert_eq!(read(run.metrics_jsonl()).lines().count(), 1);
}

#[test]
fn the_configuration_reads_back() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Config {
        optim: Optim,
        seed: u64,
        out: Option<String>,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Optim {
        lr: f64,
    }
    let parent = tempdir().unwrap();
    let run = out(parent.path());
    let config = Config { optim: Optim { lr: 0.1 }, seed: 7, out: None };
    run.write_config(&config).unwrap();
    run.write_config(&config).unwrap();
    assert_eq!(toml::from_str::<Config>(&read(run.config())).unwrap(), config);
    let error = run.write_config(&5).unwrap_err();
    assert!(error.message.contains("config.toml"), "{error}");
    assert_eq!(toml::from_str::<Config>(&read(run.config())).unwrap(), config);
}
