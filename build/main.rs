//! The build: compiles the CUDA kernels, and tells the program what it was built with.
//!
//! NVRTC, NVIDIA's run-time compiler, needs neither a GPU nor a driver. When it is on this machine, every unit in `kernels/` becomes
//! cubins and PTX inside the program. When it is not, the PTX in `kernels/prebuilt/` is taken, provided that it was made from these
//! very sources. `CUGRAD_KERNELS` chooses:
//!
//! * `auto` (the default): NVRTC if it works, else the prebuilt PTX; never fails for want of NVRTC.
//! * `require`: NVRTC must be there, no kernel may spill registers, and the prebuilt PTX must be up to date.
//! * `prebuilt`: the prebuilt PTX, whatever is there.
//! * `update`: as `require`, and writes the prebuilt PTX anew.
//! * `off`: no image at all; kernels are compiled when they are first used, by an NVRTC that is there then.
//!
//! `CUGRAD_NVRTC` names the NVRTC to take (a file or a folder), `CUGRAD_CUDA_ARCHS` the targets (as in `sm_90,compute_80`).
//! Read next: `signature.rs`, `compile.rs`, `src/device/cuda/nvrtc.rs`.

mod compile;
#[path = "../src/device/cuda/nvrtc.rs"]
#[allow(dead_code)]
mod nvrtc;
mod signature;

use compile::{Image, PORTABLE, TYPES, Unit};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How to bring the prebuilt PTX up to date.
const UPDATE: &str = "CUGRAD_KERNELS=update cargo build --release";

/// Set in the copy of this program that runs with the chosen NVRTC on its path; its value says which.
const CHOSEN: &str = "CUGRAD_NVRTC_CHOSEN";

/// Asks such a copy only to try NVRTC out.
const TRIAL: &str = "--trial";

fn main() {
    if std::env::args().any(|a| a == TRIAL) {
        if let Err(e) = usable() {
            eprintln!("{e}");
            std::process::exit(1);
        }
        return;
    }
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (root, out) = (PathBuf::from(variable("CARGO_MANIFEST_DIR")), PathBuf::from(variable("OUT_DIR")));
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=src/device/cuda/nvrtc.rs");
    // A missing path would run the build each time.
    if root.join(".cuda").exists() {
        println!("cargo:rerun-if-changed=.cuda");
    }
    for name in ["CUGRAD_NVRTC", "CUGRAD_KERNELS", "CUGRAD_CUDA_ARCHS", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    if let Err(e) = run(&root, &out) {
        for line in e.lines() {
            println!("cargo:warning={line}");
        }
        panic!("{e}");
    }
    about();
}

/// What a run's record and a benchmark say about this build.
fn about() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().ok().and_then(|o| String::from_utf8(o.stdout).ok());
    println!("cargo:rustc-env=CUGRAD_RUSTC={}", version.as_deref().unwrap_or("rustc, version unknown").trim());
    println!("cargo:rustc-env=CUGRAD_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    println!("cargo:rustc-env=CUGRAD_PROFILE={}", std::env::var("PROFILE").unwrap_or_default());
}

fn run(root: &Path, out: &Path) -> Result<(), String> {
    let mode = std::env::var("CUGRAD_KERNELS").unwrap_or_else(|_| "auto".into());
    if !["auto", "require", "prebuilt", "update", "off"].contains(&&*mode) {
        return Err(format!("CUGRAD_KERNELS is '{mode}': it must be auto, require, prebuilt, update or off"));
    }
    let (units, headers) = sources(&root.join("kernels"))?;
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, text)| (&**name, &**text)).collect();
    let strict = mode == "require" || mode == "update";
    let (mut images, mut report, mut compiler) = (Vec::new(), String::new(), "none".to_string());
    let compiles = mode == "auto" || strict;
    if compiles {
        match find(root, out) {
            Ok(found) => {
                // Beside the profiles' folders, so that all profiles share it.
                let cache = out.ancestors().nth(4).unwrap_or(out).join("kernel-cache");
                std::fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
                match compile::all(&units, &headers, &cache) {
                    Ok(done) => ((images, report), compiler) = (done, found),
                    // A version that nobody has tried may stumble over something; the kernels of the pinned one are at hand.
                    Err(e) if !strict && prebuilt(root, &units, &headers).is_ok() => {
                        println!(
                            "cargo:warning={found} cannot compile the kernels, taking kernels/prebuilt: {}",
                            e.lines().next().unwrap_or("")
                        );
                    }
                    Err(e) => return Err(e),
                }
            }
            Err(e) if strict => return Err(format!("CUGRAD_KERNELS={mode}, but NVRTC cannot be used: {e}")),
            Err(e) => println!("cargo:warning=NVRTC cannot be used ({e}): taking the kernels from kernels/prebuilt"),
        }
    }
    if mode == "update" {
        update(root, &units, &headers, &images)?;
    }
    if strict {
        let spills: Vec<&str> = report.lines().filter(|l| !l.ends_with(" 0")).collect();
        if !spills.is_empty() {
            return Err(format!("kernels spill registers (kernel, type, target, registers, shared, spilled):\n{}", spills.join("\n")));
        }
        prebuilt(root, &units, &headers)?;
    } else if images.is_empty() && mode != "off" {
        compiler = "prebuilt PTX".into();
        images = prebuilt(root, &units, &headers).unwrap_or_else(|e| {
            println!("cargo:warning={e}; kernels are compiled when they are first used, if NVRTC is there then");
            Vec::new()
        });
    }
    std::fs::write(out.join("kernel-report.txt"), &report).map_err(|e| e.to_string())?;
    println!("cargo:rustc-env=CUGRAD_KERNELS_BY={compiler}");
    let text = generate(root, &units, &headers, &images)?;
    std::fs::write(out.join("kernels.rs"), text).map_err(|e| e.to_string())
}

/// A header: its name and its text.
type Header = (String, String);

/// The units and the headers, in the order of names.
fn sources(folder: &Path) -> Result<(Vec<Unit>, Vec<Header>), String> {
    let (mut units, mut headers) = (Vec::new(), Vec::new());
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?.flatten().map(|e| e.path()).collect();
    files.sort();
    for file in files {
        let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let read = || std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()));
        match file.extension().and_then(|e| e.to_str()) {
            Some("cu") => units.push(Unit { stem, source: read()? }),
            Some("cuh") => headers.push((format!("{stem}.cuh"), read()?)),
            _ => {}
        }
    }
    Ok((units, headers))
}

/// Makes NVRTC available to this process, and says which one.
///
/// The loader reads its path only when a program starts. So this program runs itself again with a folder first on that path in which
/// `libnvrtc.so` is the chosen library: then it is exactly that one, whatever its name, and should it crash, only a copy of this
/// program does. A first copy tries the library out, a second does all the work, and this one ends with its exit code.
fn find(root: &Path, out: &Path) -> Result<String, String> {
    if std::env::var_os(CHOSEN).is_some() {
        return usable();
    }
    let mut tried = Vec::new();
    for found in nvrtc::candidates(Some(&root.join(".cuda"))) {
        let chosen = format!("{} ({})", found.file.display(), found.how);
        let path = match links(&found.file, &out.join("nvrtc")) {
            Ok(path) => path,
            Err(e) => {
                tried.push(format!("{chosen}: {e}"));
                continue;
            }
        };
        let copy = || {
            let mut copy = Command::new(std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()));
            copy.env("LD_LIBRARY_PATH", &path).env(CHOSEN, &chosen).env_remove("CUGRAD_NVRTC");
            copy
        };
        let trial = copy().arg(TRIAL).output().map_err(|e| e.to_string())?;
        if !trial.status.success() {
            let why = String::from_utf8_lossy(&trial.stderr);
            let why = why.lines().next().filter(|_| trial.status.code().is_some()).map_or(trial.status.to_string(), String::from);
            tried.push(format!("{chosen}: {why}"));
            continue;
        }
        match copy().status().map_err(|e| e.to_string())?.code() {
            Some(code) => std::process::exit(code),
            None => tried.push(format!("{chosen}: crashed while it compiled the kernels")),
        }
    }
    // Perhaps the loader knows one that lies nowhere we looked.
    nvrtc::ensure(None).and_then(|_| usable()).map_err(|e| if tried.is_empty() { e } else { tried.join("; ") })
}

/// The version of the NVRTC at hand, if it compiles anything.
fn usable() -> Result<String, String> {
    nvrtc::ensure(None)?;
    let (version, oldest) = (nvrtc::version()?, nvrtc::OLDEST);
    if version < oldest {
        return Err(format!("NVRTC {}.{} is older than {}.{}", version.0, version.1, oldest.0, oldest.1));
    }
    nvrtc::compile("trial.cu", "extern \"C\" __global__ void trial() {}", &[], "f32", PORTABLE)?;
    Ok(format!("NVRTC {}.{}", version.0, version.1))
}

/// A folder in which `libnvrtc.so` and its second library are links to the chosen ones; gives the loader's path with it first.
fn links(library: &Path, folder: &Path) -> Result<std::ffi::OsString, String> {
    let real = std::fs::canonicalize(library).map_err(|e| e.to_string())?;
    // It may not be there yet.
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, folder.join(name)).map_err(|e| e.to_string());
    link(&real, "libnvrtc.so")?;
    for beside in std::fs::read_dir(real.parent().unwrap_or(Path::new("/"))).into_iter().flatten().flatten() {
        let name = beside.file_name().to_string_lossy().into_owned();
        if name.starts_with("libnvrtc-builtins.so") {
            link(&beside.path(), &name)?;
        }
    }
    let mut path = folder.as_os_str().to_owned();
    if let Some(rest) = std::env::var_os("LD_LIBRARY_PATH").filter(|p| !p.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    Ok(path)
}

/// Where the prebuilt PTX of a unit lies, and the line that ties it to its sources.
fn prebuilt_file(root: &Path, unit: &Unit, headers: &[(&str, &str)], dtype: &str) -> (PathBuf, String) {
    let file = root.join(format!("kernels/prebuilt/{}.{dtype}.ptx", unit.stem));
    (file, format!("// made from sources {:016x}", nvrtc::digest_of_sources(&unit.source, headers, dtype)))
}

/// The prebuilt PTX as images, if all of it was made from these sources.
fn prebuilt(root: &Path, units: &[Unit], headers: &[(&str, &str)]) -> Result<Vec<Image>, String> {
    let (mut images, mut stale) = (Vec::new(), Vec::new());
    for (i, unit) in units.iter().enumerate() {
        for (dtype, name) in TYPES.iter().enumerate() {
            let (file, tie) = prebuilt_file(root, unit, headers, name);
            match std::fs::read_to_string(&file) {
                Ok(text) if text.lines().next() == Some(&tie) => images.push(Image { unit: i, dtype, target: PORTABLE.into(), file }),
                Ok(_) => stale.push(format!("{}.{name}.ptx", unit.stem)),
                Err(_) => stale.push(format!("{}.{name}.ptx (missing)", unit.stem)),
            }
        }
    }
    if stale.is_empty() {
        return Ok(images);
    }
    let more = if stale.len() > 4 { format!(" and {} more", stale.len() - 4) } else { String::new() };
    stale.truncate(4);
    Err(format!("kernels/prebuilt is not up to date: {}{more}; bring it up to date with: {UPDATE}", stale.join(", ")))
}

/// Writes the prebuilt PTX. Its version is lowered, so that any driver from CUDA 12.0 on takes it: no kernel needs a newer one.
fn update(root: &Path, units: &[Unit], headers: &[(&str, &str)], images: &[Image]) -> Result<(), String> {
    let folder = root.join("kernels/prebuilt");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for image in images.iter().filter(|i| i.target == PORTABLE) {
        let text = std::fs::read_to_string(&image.file).map_err(|e| format!("{}: {e}", image.file.display()))?;
        let (file, tie) = prebuilt_file(root, &units[image.unit], headers, TYPES[image.dtype]);
        // The comments at the top name the compiler's build; they only make differences.
        let body = text.find("\n.version ").map_or(&*text, |at| &text[at + 1..]);
        let body = body.split_once('\n').map_or(body, |(_, rest)| rest);
        compile::write(&file, format!("{tie}\n.version 8.0\n{body}").as_bytes())?;
    }
    Ok(())
}

/// The tables and launchers that `src/device/cuda/image.rs` includes.
fn generate(root: &Path, units: &[Unit], headers: &[(&str, &str)], images: &[Image]) -> Result<String, String> {
    let mut out = String::new();
    let mut write = |text: String| out.write_str(&text).map_err(|e| e.to_string());
    write("/// What units include: name and text.\npub static HEADERS: &[(&str, &str)] = &[".into())?;
    for (name, _) in headers {
        write(format!("({name:?}, include_str!({:?})),\n", root.join("kernels").join(name)))?;
    }
    write("];\n/// Every unit.\npub static UNITS: &[Unit] = &[".into())?;
    for (i, Unit { stem, source }) in units.iter().enumerate() {
        let kernels = signature::kernels(&format!("{stem}.cu"), source)?;
        let kernels: Vec<String> = kernels.iter().map(|k| format!("Kernel {{ name: c{:?}, threads: {} }}", k.name, k.threads)).collect();
        let source = root.join("kernels").join(format!("{stem}.cu"));
        write(format!("Unit {{ name: {stem:?}, source: include_str!({source:?}), kernels: &[{}], images: &[", kernels.join(", ")))?;
        for image in images.iter().filter(|image| image.unit == i) {
            let Image { dtype, target, file, .. } = image;
            write(format!("Image {{ dtype: {dtype}, target: {target:?}, data: &Aligned(*include_bytes!({file:?})).0 }},\n"))?;
        }
        write("] },\n".into())?;
    }
    write("];\n".into())?;
    let texts: Vec<&str> = units.iter().map(|u| &*u.source).collect();
    for (name, text) in headers {
        write(signature::shared(name, text, &texts)?)?;
    }
    for (i, Unit { stem, source }) in units.iter().enumerate() {
        write(signature::launchers(i, stem, source, headers)?)?;
    }
    Ok(out)
}
