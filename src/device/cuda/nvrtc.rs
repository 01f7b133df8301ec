//! NVIDIA's run-time compiler: finding it, and compiling one unit with it.
//!
//! This file is used twice: by the build, which compiles all kernels (`build/main.rs` includes it by path), and by the program,
//! which compiles for a GPU that the build did not know (`image.rs`). So it depends on nothing else of the crate. cudarc asks the
//! loader for NVRTC by its bare name only; a library that was loaded by its path before is what the loader then answers with.
//! Read next: `image.rs`.

use cudarc::nvrtc::{result, sys};
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

/// How every unit is compiled, beside its type and its target.
pub const OPTIONS: [&str; 2] = ["--std=c++17", "-default-device"];

/// The oldest version whose output is known to work: it compiles for all of today's GPUs' ancestors and reads C++17.
pub const OLDEST: (i32, i32) = (12, 0);

/// A file that may be NVRTC, and by which way it was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The shared library.
    pub file: PathBuf,
    /// For messages.
    pub how: String,
}

/// Every NVRTC on this machine, the preferred one first.
///
/// The order: `CUGRAD_NVRTC` (a file or a folder); `local`, the repository's `.cuda`; CUDA_HOME and its like; the Python
/// environment; the usual folders of toolkits and of distributions; what pip installed for this user.
pub fn candidates(local: Option<&Path>) -> Vec<Found> {
    let mut found = Vec::new();
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = variable("CUGRAD_NVRTC") {
        if path.is_dir() {
            for search in [scan, toolkit, wheels] {
                search(&path, "CUGRAD_NVRTC", &mut found);
            }
        } else {
            found.push(Found { file: path, how: "CUGRAD_NVRTC".into() });
        }
    }
    if let Some(path) = local {
        wheels(path, "the wheel in .cuda", &mut found);
    }
    for name in ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"] {
        if let Some(path) = variable(name) {
            toolkit(&path, name, &mut found);
        }
    }
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(path) = variable(name) {
            wheels(&path, name, &mut found);
            toolkit(&path, name, &mut found);
        }
    }
    let mut toolkits: Vec<PathBuf> = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"].map(PathBuf::from).into();
    let mut versions = entries(Path::new("/usr/local"));
    versions.retain(|p| name_of(p).starts_with("cuda-"));
    toolkits.extend(versions.into_iter().rev());
    for path in toolkits {
        toolkit(&path, "a toolkit's folder", &mut found);
    }
    for path in ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"] {
        scan(Path::new(path), "a package of the distribution", &mut found);
    }
    if let Some(home) = variable("HOME") {
        wheels(&home.join(".local"), "pip install --user", &mut found);
    }
    found
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What lies in a folder, in the order of names; nothing if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.sort();
    all
}

/// The version in a name like `libnvrtc.so.12`; 0 if it says none.
fn version_in(name: &str) -> Option<(u32, u32)> {
    let rest = name.strip_prefix("libnvrtc.so")?;
    if rest.is_empty() {
        return Some((0, 0));
    }
    let mut numbers = rest.strip_prefix('.')?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next().and_then(|s| s.parse().ok()).unwrap_or(0)))
}

/// The libraries in a folder, the newest first.
fn scan(folder: &Path, how: &str, found: &mut Vec<Found>) {
    let mut here: Vec<_> = entries(folder).into_iter().filter_map(|p| Some((version_in(&name_of(&p))?, p))).collect();
    here.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.extend(here.into_iter().map(|(_, file)| Found { file, how: how.into() }));
}

/// A toolkit: `lib64` and its like.
fn toolkit(root: &Path, how: &str, found: &mut Vec<Found>) {
    for folder in ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "lib/x86_64-linux-gnu"] {
        scan(&root.join(folder), how, found);
    }
}

/// A Python environment, or a folder that `pip install --target` filled: `nvidia/*/lib`.
fn wheels(prefix: &Path, how: &str, found: &mut Vec<Found>) {
    let mut sites = vec![prefix.to_path_buf()];
    for lib in ["lib", "lib64"] {
        for python in entries(&prefix.join(lib)).into_iter().filter(|p| name_of(p).starts_with("python3")) {
            sites.extend(["site-packages", "dist-packages"].map(|s| python.join(s)));
        }
    }
    for site in sites {
        for package in entries(&site.join("nvidia")).into_iter().rev() {
            scan(&package.join("lib"), how, found);
        }
    }
}

/// Makes cudarc find NVRTC, and says which one it is. `local` as for [`candidates`].
pub fn ensure(local: Option<&Path>) -> Result<String, String> {
    // SAFETY: only tries to load the library and looks whether that worked.
    let present = || unsafe { sys::is_culib_present() };
    if std::env::var_os("CUGRAD_NVRTC").is_none() && present() {
        return Ok("found by the loader".into());
    }
    let mut tried = Vec::new();
    for found in candidates(local) {
        // Some wheels do not say where their second library is, so it is loaded first.
        let beside = entries(found.file.parent().unwrap_or(Path::new("")));
        let builtins: Vec<_> = (beside.iter().filter(|p| name_of(p).starts_with("libnvrtc-builtins.so")))
            // SAFETY: a library of NVIDIA's without code that runs on loading.
            .filter_map(|p| unsafe { libloading::Library::new(p) }.ok())
            .collect();
        // SAFETY: as above.
        match unsafe { libloading::Library::new(&found.file) } {
            Ok(library) if present() => {
                // Both stay loaded: cudarc holds only the name.
                std::mem::forget((library, builtins));
                return Ok(format!("{} ({})", found.file.display(), found.how));
            }
            Ok(_) => tried.push(format!("{} has a name that is not looked for", found.file.display())),
            Err(e) => tried.push(format!("{}: {e}", found.file.display())),
        }
    }
    Err(if tried.is_empty() { "no libnvrtc.so found".into() } else { tried.join("; ") })
}

/// The version of the library in use.
pub fn version() -> Result<(i32, i32), String> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes to the two numbers; callers made sure with `ensure` that the library is there.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result().map_err(|e| format!("NVRTC does not say its version: {e:?}"))?;
    Ok((major, minor))
}

/// The compute capabilities it can compile for, as in 90.
pub fn capabilities() -> Vec<i32> {
    let mut count = 0;
    // SAFETY: writes a number, and then as many numbers as it said, into room for them.
    unsafe {
        if sys::nvrtcGetNumSupportedArchs(&mut count).result().is_err() {
            return Vec::new();
        }
        let mut all = vec![0; count.max(0) as usize];
        if sys::nvrtcGetSupportedArchs(all.as_mut_ptr()).result().is_err() {
            return Vec::new();
        }
        all
    }
}

/// What compiling gives: an image, and what the compiler and the assembler said.
#[derive(Debug)]
pub struct Compiled {
    /// A cubin for a target `sm_NN`, the text of PTX for `compute_NN`.
    pub image: Vec<u8>,
    /// With registers and spills of each kernel, for a cubin.
    pub log: String,
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by nvrtcCreateProgram and destroyed once.
        let _ = unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

/// Compiles one unit for one type and one target.
///
/// `name` is the file's name, for messages; `headers` are (name, text), handed over in memory: no include folder, no file access.
/// PTX carries the lines of the source, for the emulator's reports.
pub fn compile(name: &str, source: &str, headers: &[(&str, &str)], dtype: &str, target: &str) -> Result<Compiled, String> {
    let text = |s: &str| CString::new(s).map_err(|_| format!("{name}: contains a zero byte"));
    let (source, title) = (text(source)?, text(name)?);
    let names: Vec<CString> = headers.iter().map(|h| text(h.0)).collect::<Result<_, _>>()?;
    let texts: Vec<CString> = headers.iter().map(|h| text(h.1)).collect::<Result<_, _>>()?;
    let names: Vec<_> = names.iter().map(|s| s.as_ptr()).collect();
    let texts: Vec<_> = texts.iter().map(|s| s.as_ptr()).collect();
    let fail = |what: &str, e: &dyn std::fmt::Debug, log: &str| format!("{name} [{dtype}, {target}]: {what}: {e:?}\n{log}");
    let mut program = Program(std::ptr::null_mut());
    // SAFETY: all strings end in zero and outlive the call.
    unsafe {
        let (count, texts, names) = (headers.len() as i32, texts.as_ptr(), names.as_ptr());
        sys::nvrtcCreateProgram(&mut program.0, source.as_ptr(), title.as_ptr(), count, texts, names).result()
    }
    .map_err(|e| fail("cannot be read", &e, ""))?;
    let cubin = target.starts_with("sm_");
    let mut options: Vec<String> = OPTIONS.map(String::from).into();
    options.extend([format!("-DTYPE={dtype}"), format!("--gpu-architecture={target}")]);
    options.push(if cubin { "--ptxas-options=-v" } else { "-lineinfo" }.into());
    // SAFETY: the program was created above.
    let done = unsafe { result::compile_program(program.0, &options) };
    // SAFETY: as above; the log ends in zero.
    let log = unsafe { result::get_program_log(program.0).map(|log| CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned()) }
        .unwrap_or_default();
    done.map_err(|e| fail("does not compile", &e, &log))?;
    let mut size = 0;
    // SAFETY: writes a size, and then so many bytes into room for them.
    let image = unsafe {
        let ask = if cubin { sys::nvrtcGetCUBINSize } else { sys::nvrtcGetPTXSize };
        ask(program.0, &mut size).result().map_err(|e| fail("gave no image", &e, &log))?;
        let mut image = vec![0u8; size];
        let get = if cubin { sys::nvrtcGetCUBIN } else { sys::nvrtcGetPTX };
        get(program.0, image.as_mut_ptr().cast()).result().map_err(|e| fail("gave no image", &e, &log))?;
        image
    };
    if cubin {
        return Ok(Compiled { image, log });
    }
    let ptx = String::from_utf8_lossy(&image);
    Ok(Compiled { image: without_folders(ptx.trim_end_matches('\0')).into_bytes(), log })
}

/// PTX whose `.file` lines name files only: NVRTC puts the folder it ran in before them, which is nobody's business.
fn without_folders(ptx: &str) -> String {
    let line = |line: &str| match line.strip_prefix("\t.file").or(line.strip_prefix(".file")).and_then(|_| line.split_once('"')) {
        Some((head, path)) => format!("{head}\"{}\n", path.rsplit('/').next().unwrap_or(path)),
        None => format!("{line}\n"),
    };
    ptx.lines().map(line).collect()
}

/// A name for what is compiled: the same text, options, type, target and version give the same name (FNV-1a, 64 bits).
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        // The zero keeps "ab", "c" and "a", "bc" apart.
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// The name of what a unit's image depends on, whatever the target.
pub fn digest_of_sources(source: &str, headers: &[(&str, &str)], dtype: &str) -> u64 {
    let headers = headers.iter().flat_map(|h| [h.0, h.1]);
    digest(OPTIONS.into_iter().chain([source, dtype]).chain(headers))
}
