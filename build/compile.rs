//! Compiling all units for all types and targets, with a cache by content and a report of registers and spills.
//!
//! Read next: `main.rs`.

use crate::nvrtc;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The types that tensors are stored in, in the order of `Number::INDEX`.
pub const TYPES: [&str; 4] = ["f32", "f64", "bf16", "f16"];

/// What is compiled for: every data-centre and desktop GPU from 8.0 on by a cubin, later ones by PTX.
const TARGETS: [&str; 5] = ["compute_80", "sm_80", "sm_90", "sm_100", "sm_120"];

/// The target of portable images: any GPU from 8.0 on, and the emulator.
pub const PORTABLE: &str = "compute_80";

/// One source.
#[derive(Debug)]
pub struct Unit {
    /// `relu` of `relu.cu`.
    pub stem: String,
    /// Its text.
    pub source: String,
}

/// A compiled unit for one type and one target.
#[derive(Debug)]
pub struct Image {
    /// The unit's number.
    pub unit: usize,
    /// The type's number in [`TYPES`].
    pub dtype: usize,
    /// As in `sm_90`.
    pub target: String,
    /// Where it lies.
    pub file: PathBuf,
}

/// The targets asked for: `CUGRAD_CUDA_ARCHS`, or all that this NVRTC can compile for.
fn targets() -> Vec<String> {
    let known = nvrtc::capabilities();
    let asked = std::env::var("CUGRAD_CUDA_ARCHS").ok();
    let asked: Vec<&str> = asked.as_deref().map_or(TARGETS.to_vec(), |list| list.split(',').map(str::trim).collect());
    let able = |target: &&str| {
        let number = target.rsplit('_').next().and_then(|n| n.trim_end_matches(char::is_alphabetic).parse().ok());
        let able = number.is_some_and(|n: i32| known.contains(&n));
        if !able {
            println!("cargo:warning=this NVRTC cannot compile kernels for {target}: skipped");
        }
        able
    };
    asked.into_iter().filter(able).map(String::from).collect()
}

/// Compiles everything that is not in the cache yet. The error is the compiler's word on each unit that failed.
///
/// Also gives the report: one line for each kernel, type and target, with its registers, shared memory and spills.
pub fn all(units: &[Unit], headers: &[(&str, &str)], cache: &Path) -> Result<(Vec<Image>, String), String> {
    let version = nvrtc::version()?;
    let mut images = Vec::new();
    for (unit, Unit { stem, source }) in units.iter().enumerate() {
        for (dtype, name) in TYPES.iter().enumerate() {
            let sources = nvrtc::digest_of_sources(source, headers, name);
            for target in targets() {
                // The 2 counts changes of what is done with images after compiling.
                let digest = nvrtc::digest([&*format!("2 {sources:x} {version:?}"), &*target]);
                let ending = if target.starts_with("sm_") { "cubin" } else { "ptx" };
                let file = cache.join(format!("{stem}.{name}.{target}.{digest:016x}.{ending}"));
                images.push(Image { unit, dtype, target, file });
            }
        }
    }
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        while let Some(image) = images.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !image.file.exists()
                && let Err(e) = compile(image, &units[image.unit], headers)
            {
                failures.lock().unwrap_or_else(|e| e.into_inner()).push(e);
            }
        }
    };
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1).clamp(1, 64);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(worker);
        }
    });
    let failures = failures.into_inner().unwrap_or_else(|e| e.into_inner());
    if !failures.is_empty() {
        // An assembler complains about each instruction: the first lines say enough.
        let short: Vec<String> = failures.iter().map(|f| f.lines().take(12).collect::<Vec<_>>().join("\n")).collect();
        return Err(short.join("\n"));
    }
    let mut report = String::new();
    for image in images.iter().filter(|i| i.target.starts_with("sm_")) {
        let log = std::fs::read_to_string(image.file.with_extension("txt")).map_err(|e| e.to_string())?;
        resources(&log, TYPES[image.dtype], &image.target, &mut report);
    }
    Ok((images, report))
}

fn compile(image: &Image, unit: &Unit, headers: &[(&str, &str)]) -> Result<(), String> {
    let compiled = nvrtc::compile(&format!("{}.cu", unit.stem), &unit.source, headers, TYPES[image.dtype], &image.target)?;
    for line in compiled.log.lines().filter(|l| l.contains("warning")) {
        println!("cargo:warning={line}");
    }
    write(&image.file.with_extension("txt"), compiled.log.as_bytes())?;
    write(&image.file, &compiled.image)
}

/// Writes beside and renames, so that a file that is there is whole.
pub fn write(file: &Path, data: &[u8]) -> Result<(), String> {
    let beside = file.with_extension(format!("{}-new", std::process::id()));
    let done = std::fs::write(&beside, data).and_then(|()| std::fs::rename(&beside, file));
    done.map_err(|e| format!("{}: {e}", file.display()))
}

/// What the assembler says of each kernel, a line each: `kernel type target registers shared spilled` (the last two in bytes).
fn resources(log: &str, dtype: &str, target: &str, report: &mut String) {
    let (mut kernel, mut spilled) = ("", 0);
    let before = |line: &str, what: &str| line.split(what).next().and_then(|l| l.rsplit([' ', ',']).next()?.parse::<u32>().ok());
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default();
        } else if line.contains("bytes spill stores") {
            spilled = before(line, " bytes spill stores").unwrap_or(0) + before(line, " bytes spill loads").unwrap_or(0);
        } else if line.contains("Used ") {
            let registers = before(line, " registers").unwrap_or(0);
            let shared = if line.contains(" bytes smem") { before(line, " bytes smem").unwrap_or(0) } else { 0 };
            // Writing to a string cannot fail.
            let _ = writeln!(report, "{kernel} {dtype} {target} {registers} {shared} {spilled}");
        }
    }
}
