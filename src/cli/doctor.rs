//! `cugrad doctor`: what this machine has, what will work on it, and why the rest will not.
//!
//! Everything is asked, nothing is assumed, and nothing fails: a missing driver is an answer. Read next: `device/cuda/driver.rs`.

use super::print;
use crate::device::cuda::image::{self, kernels};
use crate::device::cuda::{context, driver, emulator, nvrtc};
use crate::device::simd;
use crate::error::Result;
use clap::Args;
use serde_json::{Value, json};
use std::path::Path;

/// Say what this machine has and what will work on it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cugrad doctor\n  cugrad doctor --kernels | sort -k4 -n\n  cugrad doctor --json")]
pub struct Doctor {
    /// Print what the assembler said of each kernel: name, type, target, registers, bytes of shared memory, bytes spilled
    #[arg(long)]
    kernels: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        if self.kernels {
            if self.json {
                let words = image::REPORT.lines().map(|line| line.split(' ').collect::<Vec<_>>());
                return print(Value::from_iter(words.map(|w| {
                    json!({"kernel": w[0], "type": w[1], "target": w[2], "registers": w[3].parse::<u32>().ok(),
                        "shared_bytes": w[4].parse::<u32>().ok(), "spilled_bytes": w[5].parse::<u32>().ok()})
                })));
            }
            return match image::REPORT {
                "" => print("this build assembled no kernels: it took the prebuilt PTX (see `cugrad doctor`)"),
                report => print(report.trim_end()),
            };
        }
        let cpu = json!({
            "model": model_name(),
            "threads": std::thread::available_parallelism().map_or(1, |n| n.get()),
            "simd": format!("{:?}", simd::level()).to_lowercase(),
        });
        let ((driver, gpus), emulator) = (gpus(), emulator());
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "built_by": env!("CUGRAD_RUSTC"),
            "cpu": cpu,
            "kernels": images(),
            "nvrtc": run_time_compiler(),
            "driver": driver,
            "gpus": gpus,
            "emulator": emulator,
            "devices": devices(&driver, &gpus, &emulator),
        });
        if self.json { print(report) } else { text(&report) }
    }
}

/// The processor's name, where the system tells it.
fn model_name() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = told.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    line.map_or(std::env::consts::ARCH, |(_, name)| name.trim()).to_string()
}

/// The kernels inside this program.
fn images() -> Value {
    let all = || kernels::UNITS.iter().flat_map(|unit| unit.images);
    let mut targets: Vec<&str> = all().map(|i| i.target).collect();
    targets.sort_unstable();
    targets.dedup();
    json!({
        "compiled_by": image::COMPILER,
        "units": kernels::UNITS.len(),
        "kernels": kernels::UNITS.iter().map(|u| u.kernels.len()).sum::<usize>(),
        "targets": targets,
        "images": all().count(),
        "bytes": all().map(|i| i.data.len()).sum::<usize>(),
    })
}

/// NVRTC, for a GPU that the build did not know.
fn run_time_compiler() -> Value {
    match nvrtc::ensure(Some(Path::new(".cuda"))).and_then(|how| Ok((how, nvrtc::version()?))) {
        Ok((how, (major, minor))) => json!({"version": format!("{major}.{minor}"), "found": how}),
        Err(e) => json!({"missing": e}),
    }
}

/// The driver, and each GPU that it sees.
fn gpus() -> (Value, Vec<Value>) {
    match driver::probe() {
        Err(why) => (json!({"missing": why}), Vec::new()),
        Ok((count, version)) => {
            let gpu = |ordinal| match context::open(ordinal).and_then(|gpu| Ok((gpu, gpu.memory()?))) {
                Ok((gpu, (free, total))) => {
                    let (major, minor) = gpu.capability();
                    json!({"device": gpu.name(), "name": gpu.product(), "compute_capability": format!("{major}.{minor}"),
                        "multiprocessors": gpu.multiprocessors(), "bytes_free": free, "bytes": total})
                }
                Err(e) => json!({"device": context::name(ordinal), "unusable": e.message}),
            };
            let cuda = format!("{}.{}", version / 1000, version % 1000 / 10);
            (json!({"cuda": cuda}), (0..count.min(context::DEVICES)).map(gpu).collect())
        }
    }
}

/// Whether the emulator is at hand and works. Another process tries it: here it would take the driver's place.
fn emulator() -> Value {
    let tried = emulator::find().and_then(|file| {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut check = std::process::Command::new(program);
        let done = check.args(["check", "--op", "relu", "--device", "emu", "--json"]).output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&done.stderr);
        let why = said.lines().next().unwrap_or("it ended without a word").trim_start_matches("error: ");
        if done.status.success() { Ok(file) } else { Err(why.to_string()) }
    });
    match tried {
        Ok(file) => json!({"found": file}),
        Err(e) => json!({"missing": e}),
    }
}

/// What each `--device` will do.
fn devices(driver: &Value, gpus: &[Value], emulator: &Value) -> Value {
    let unusable = gpus.first().and_then(|gpu| gpu["unusable"].as_str());
    let cuda = driver["missing"].as_str().or(unusable).map_or("works".to_string(), |why| format!("no: {why}"));
    let emu = emulator["missing"].as_str().map_or("works: interprets the kernels, slowly".to_string(), |why| format!("no: {why}"));
    let auto = if cuda == "works" { "cuda:0" } else { "cpu" };
    json!({"cpu": "works", "cuda:0": cuda, "emu": emu, "auto": format!("takes {auto}")})
}

/// The report for people.
fn text(r: &Value) -> Result<()> {
    let line = |what: &str, said: String| print(format_args!("{what:<10} {said}"));
    let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    let or_missing = |v: &Value, there: String| v["missing"].as_str().map_or(there, String::from);
    line("cugrad", format!("{}, built by {}", word(&r["version"]), word(&r["built_by"])))?;
    line("cpu", format!("{}, {} threads, {}", word(&r["cpu"]["model"]), r["cpu"]["threads"], word(&r["cpu"]["simd"])))?;
    let k = &r["kernels"];
    let targets: Vec<String> = k["targets"].as_array().into_iter().flatten().map(word).collect();
    let size = k["bytes"].as_f64().unwrap_or(0.0) / 1e6;
    line(
        "kernels",
        format!("{} in {} units, by {}, for {} ({size:.1} MB)", k["kernels"], k["units"], word(&k["compiled_by"]), targets.join(" ")),
    )?;
    line("nvrtc", or_missing(&r["nvrtc"], format!("{}, {}", word(&r["nvrtc"]["version"]), word(&r["nvrtc"]["found"]))))?;
    line("driver", or_missing(&r["driver"], format!("supports CUDA {}", word(&r["driver"]["cuda"]))))?;
    for gpu in r["gpus"].as_array().into_iter().flatten() {
        let gb = |key: &str| gpu[key].as_f64().unwrap_or(0.0) / 1e9;
        let about = format!(
            "{}, compute capability {}, {} multiprocessors, {:.1} of {:.1} GB free",
            word(&gpu["name"]),
            word(&gpu["compute_capability"]),
            gpu["multiprocessors"],
            gb("bytes_free"),
            gb("bytes")
        );
        line(&word(&gpu["device"]), gpu["unusable"].as_str().map_or(about, String::from))?;
    }
    line("emulator", or_missing(&r["emulator"], word(&r["emulator"]["found"])))?;
    for (device, said) in r["devices"].as_object().into_iter().flatten() {
        print(format_args!("  --device {device:<7} {}", word(said)))?;
    }
    Ok(())
}
