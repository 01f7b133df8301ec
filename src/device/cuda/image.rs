//! The compiled kernels inside the program, and which of them a GPU gets.
//!
//! `build/main.rs` wrote the tables and launchers that are included here. A unit is loaded when one of its kernels is first used:
//! the cubin made for this GPU, else PTX, which the driver compiles; and when the build had neither, the unit is compiled now, if
//! NVRTC is on this machine, and kept in a folder for the next time. Read next: `launch.rs`, which the launchers call.

use super::context::Context;
use super::driver::describe;
use super::{emulator, nvrtc};
use crate::error::{Error, Result};
use cudarc::driver::{result, sys};
use std::ffi::{CStr, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A kernel's entry in the table.
#[derive(Debug)]
pub struct Kernel {
    /// Its name in the image.
    pub name: &'static CStr,
    /// The most threads of a block.
    pub threads: u32,
}

/// A unit compiled for a type and a target.
#[derive(Debug)]
pub struct Image {
    /// [`INDEX`](super::launch::Number::INDEX) of the type.
    pub dtype: usize,
    /// As in `sm_90`, or `compute_80` for PTX.
    pub target: &'static str,
    /// A cubin, or the text of PTX.
    pub data: &'static [u8],
}

/// One `.cu` file.
#[derive(Debug)]
pub struct Unit {
    /// Its name without the ending.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
    /// Its entry points.
    pub kernels: &'static [Kernel],
    /// What it was compiled to.
    pub images: &'static [Image],
}

/// Bytes as the driver wants them.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

/// Launchers and tables, made by the build from the sources in `kernels/`.
#[allow(missing_docs)]
#[allow(unused_imports)]
pub mod kernels {
    use super::super::launch::{Const, Launch, Mut, Number, Pass, argument};
    use super::{Aligned, Image, Kernel, Unit};
    use crate::error::Result;
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// Which compiler made the images: `NVRTC 12.9`, `prebuilt PTX`, or `none`.
pub const COMPILER: &str = env!("CUGRAD_KERNELS_BY");

/// What the assembler said of each kernel, a line each: kernel, type, target, registers, bytes of shared memory, bytes spilled.
pub const REPORT: &str = include_str!(concat!(env!("OUT_DIR"), "/kernel-report.txt"));

/// The types by `Number::INDEX`, as the kernels call them.
const TYPES: [&str; 4] = ["f32", "f64", "bf16", "f16"];

/// A kernel that can be launched.
#[derive(Debug, Clone, Copy)]
pub struct Function(pub(super) sys::CUfunction);
// SAFETY: a handle; the driver's functions that take it may be called from any thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// The kernels that one device has loaded, by unit and type.
#[derive(Debug)]
pub struct Table(Vec<OnceLock<Result<Vec<Function>>>>);

impl Default for Table {
    fn default() -> Self {
        Self((0..kernels::UNITS.len() * TYPES.len()).map(|_| OnceLock::new()).collect())
    }
}

impl Table {
    /// A kernel of a unit, loaded if it was not yet.
    pub fn get(&self, context: &Context, unit: usize, dtype: usize, kernel: usize) -> Result<Function> {
        let loaded = self.0[unit * TYPES.len() + dtype].get_or_init(|| load(context, &kernels::UNITS[unit], dtype));
        loaded.as_ref().map(|functions| functions[kernel]).map_err(Clone::clone)
    }
}

/// How well an image suits a GPU of this compute capability: `None` if it does not run there, else more is better.
fn suits(target: &str, (major, minor): (i32, i32)) -> Option<i32> {
    let (kind, number) = target.split_once('_')?;
    let number: i32 = number.parse().ok()?;
    match kind {
        // A cubin runs on its own generation, from its own member of it on.
        "sm" if emulator::get().is_none() && number / 10 == major && number % 10 <= minor => Some(1000 + number),
        "compute" if number <= major * 10 + minor => Some(number),
        _ => None,
    }
}

/// Loads a unit: the best image that the driver takes, or one compiled now.
fn load(context: &Context, unit: &Unit, dtype: usize) -> Result<Vec<Function>> {
    let mut images: Vec<(i32, &Image)> = (unit.images.iter().filter(|i| i.dtype == dtype))
        .filter_map(|image| Some((suits(image.target, context.capability())?, image)))
        .collect();
    images.sort_by_key(|(value, _)| std::cmp::Reverse(*value));
    let mut refused = Vec::new();
    for (_, image) in images {
        match module(context, image.target, image.data) {
            Ok(module) => return functions(context, unit, module),
            Err(e) => refused.push(format!("{}: {e}", image.target)),
        }
    }
    let compiled = compile(context, unit, TYPES[dtype]);
    match compiled.and_then(|(target, data)| module(context, &target, &data)) {
        Ok(module) => functions(context, unit, module),
        Err(e) => {
            refused.push(e);
            let (major, minor) = context.capability();
            let message = format!(
                "{}: no kernels of '{}' in {} for compute capability {major}.{minor}:\n  {}",
                context.name(),
                unit.name,
                TYPES[dtype],
                refused.join("\n  ")
            );
            if message.contains("CUDA_ERROR_OUT_OF_MEMORY") {
                return Err(Error::device(message).hint("lower --batch, or free memory on the device"));
            }
            Err(Error::device(message)
                .hint("python3 -m pip install --target .cuda nvidia-cuda-nvrtc-cu12==12.9.86, in cugrad's repository, and build again"))
        }
    }
}

/// Gives an image to the driver; the error holds what its compiler said.
fn module(context: &Context, target: &str, data: &[u8]) -> std::result::Result<sys::CUmodule, String> {
    context.bind().map_err(|e| e.message)?;
    let text: Vec<u8>;
    let data = if target.starts_with("sm_") {
        data
    } else {
        // PTX is a text that ends in zero.
        text = [data, &[0]].concat();
        &text
    };
    let mut log = vec![0u8; 8192];
    let mut options = [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
    let mut module = std::ptr::null_mut();
    // SAFETY: the image is whole and stays in place during the call; the log has the size that is said.
    let done = unsafe { sys::cuModuleLoadDataEx(&mut module, data.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
    let said = String::from_utf8_lossy(&log).trim_matches(['\0', '\n']).replace('\n', "; ");
    done.result().map(|()| module).map_err(|e| format!("{} {said}", describe(e)))
}

fn functions(context: &Context, unit: &Unit, module: sys::CUmodule) -> Result<Vec<Function>> {
    let find = |kernel: &Kernel| {
        // SAFETY: the module was just loaded and is never unloaded.
        let found = unsafe { result::module::get_function(module, kernel.name.to_owned()) };
        found.map(Function).map_err(|e| super::driver::failed(&context.name(), &format!("finding the kernel {:?}", kernel.name), e))
    };
    unit.kernels.iter().map(find).collect()
}

/// Where kernels compiled at run time are kept.
fn cache() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache"))).map(|folder| folder.join("cugrad"))
}

/// Compiles a unit for this very GPU. Gives its target and the image.
fn compile(context: &Context, unit: &Unit, dtype: &str) -> std::result::Result<(String, Vec<u8>), String> {
    let how = nvrtc::ensure(Some(Path::new(".cuda"))).map_err(|e| format!("NVRTC, to compile it now, cannot be used: {e}"))?;
    let version = nvrtc::version()?;
    if version < nvrtc::OLDEST {
        return Err(format!("NVRTC {}.{} ({how}) is too old", version.0, version.1));
    }
    let (major, minor) = context.capability();
    let number = nvrtc::capabilities().into_iter().filter(|n| n / 10 == major && n % 10 <= minor).max();
    let number = number.ok_or_else(|| format!("NVRTC {}.{} ({how}) does not know {major}.{minor}", version.0, version.1))?;
    let target = if emulator::get().is_some() { format!("compute_{number}") } else { format!("sm_{number}") };
    let sources = nvrtc::digest_of_sources(unit.source, kernels::HEADERS, dtype);
    let digest = nvrtc::digest([&*format!("{sources:x} {version:?}"), &*target]);
    let file = cache().map(|folder| folder.join(format!("{}.{dtype}.{target}.{digest:016x}", unit.name)));
    if let Some(data) = file.as_ref().and_then(|file| std::fs::read(file).ok()) {
        return Ok((target, data));
    }
    let data = nvrtc::compile(&format!("{}.cu", unit.name), unit.source, kernels::HEADERS, dtype, &target)?.image;
    if let Some(file) = file {
        // The cache only saves time: without it everything works.
        let beside = file.with_extension(std::process::id().to_string());
        let folder = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        let _ = folder.and_then(|()| std::fs::write(&beside, &data)).and_then(|()| std::fs::rename(&beside, &file));
    }
    Ok((target, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_gets_the_image_made_for_it() {
        let best = |capability| {
            let targets = ["compute_80", "sm_80", "sm_90", "sm_100", "sm_120"];
            targets.into_iter().max_by_key(|t| suits(t, capability)).filter(|t| suits(t, capability).is_some())
        };
        for (capability, target) in [((8, 0), "sm_80"), ((8, 9), "sm_80"), ((9, 0), "sm_90"), ((10, 3), "sm_100"), ((12, 1), "sm_120")] {
            assert_eq!(best(capability), Some(target));
        }
        assert_eq!(best((13, 0)), Some("compute_80"));
        assert_eq!(best((7, 5)), None);
    }
}
