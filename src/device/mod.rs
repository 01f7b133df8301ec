//! Where numbers live and who computes with them.
//!
//! [`Device`] names a place; [`memory`] hands out and takes back its buffers; [`simd`] picks the widest vector instructions the
//! CPU has, [`vector`] computes with them, [`amx`] with the matrix unit that some have; [`cuda`] is everything about NVIDIA GPUs. This is the lowest module of the crate: it knows nothing of shapes or
//! gradients, and it is the only one with `unsafe` in it. Read next: `memory.rs`, `cuda/mod.rs`, `tensor/mod.rs`.

pub mod amx;
pub mod cuda;
pub mod memory;
pub mod simd;
pub mod vector;

use crate::error::{Error, Result};
use std::sync::LazyLock;

/// Makes the calling thread one of the `count` that compute (0: RAYON_NUM_THREADS, or as many as there are cores).
///
/// A program calls it once, before its first kernel. Without it the caller sleeps during each kernel while others compute, and waking
/// them costs more than a small kernel: LeNet trains a quarter slower, or half where the system wakes two of them on one core.
pub fn start_threads(count: usize) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count).use_current_thread();
    pool.build_global().map_err(|e| Error::run(format!("cannot start threads: {e}")))
}

/// Bytes of a core's second-level cache, as Linux tells them; half a megabyte where nobody does.
///
/// What fills it is cut to its size, so nothing whose bits would change with that may ask.
pub fn second_level_cache() -> usize {
    static BYTES: LazyLock<usize> = LazyLock::new(|| {
        let told = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").unwrap_or_default();
        told.trim().strip_suffix('K').and_then(|kilobytes| kilobytes.parse::<usize>().ok()).unwrap_or(512) << 10
    });
    *BYTES
}

/// A place where tensors live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// The host's processor: lane kernels on a rayon pool.
    Cpu,
    /// The GPU with this number; or an emulated one, after the emulator has taken the driver's place.
    Cuda(usize),
}

impl Device {
    /// The device a user asked for: `cpu`, `auto`, `cuda`, `cuda:N`, `emu` or `emu:N`.
    ///
    /// Returns the device and, for `auto`, one line that says what was taken and why. An explicit `cuda` never falls back.
    pub fn open(name: &str) -> Result<(Device, Option<String>)> {
        let ordinal = |text: &str| text.parse::<usize>().map_err(|_| unknown(name));
        let open = |ordinal: usize| cuda::context::open(ordinal);
        let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
        match kind {
            "cpu" if kind == name => Ok((Device::Cpu, None)),
            "auto" if kind == name => Ok(match open(0) {
                Ok(gpu) => (Device::Cuda(0), Some(format!("device: {} ({})", gpu.name(), gpu.product()))),
                Err(e) => (Device::Cpu, Some(format!("device: cpu ({})", e.message))),
            }),
            "cuda" => {
                let ordinal = ordinal(number)?;
                open(ordinal)?;
                Ok((Device::Cuda(ordinal), None))
            }
            "emu" => {
                let ordinal = ordinal(number)?;
                cuda::emulator::load()?;
                open(ordinal)?;
                Ok((Device::Cuda(ordinal), None))
            }
            _ => Err(unknown(name)),
        }
    }

    /// L: how many images lie side by side. On the CPU one AVX-512 register or two AVX2 registers of f32, on a GPU one warp.
    pub fn lanes(self) -> usize {
        match self {
            Device::Cpu => 16,
            Device::Cuda(_) => 32,
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => f.write_str(&cuda::context::name(*ordinal)),
        }
    }
}

fn unknown(name: &str) -> Error {
    Error::usage(format!("unknown device '{name}'")).hint("use cpu, auto, cuda:N or emu (the emulator)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(Device::open("cpu").unwrap().0, Device::Cpu);
        for name in ["cuda:x", "tpu", "cuda:-1", "", "cpu:0", "auto:1", "emu:y"] {
            assert_eq!(Device::open(name).unwrap_err().exit_code(), 2, "{name}");
        }
        assert_eq!(Device::open("cuda:4711").unwrap_err().exit_code(), 3);
    }
}
