//! Where numbers live and who computes with them.
//!
//! [`Device`] names a place; [`memory`] hands out and takes back its buffers; [`simd`] picks the widest vector instructions the
//! CPU has; `cuda` asks whether an NVIDIA driver is there. This is the lowest module of the crate: it knows nothing of shapes or
//! gradients, and it is the only one with `unsafe` in it. Read next: `tensor/mod.rs`.

pub mod cuda;
pub mod memory;
pub mod simd;

use crate::error::{Error, Result};

/// A place where tensors live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// The host's processor: lane kernels on a rayon pool.
    Cpu,
}

impl Device {
    /// The device a user asked for: `cpu`, `auto`, `cuda` or `cuda:N`.
    ///
    /// Returns the device and, for `auto`, one line that says what was taken and why. An explicit `cuda` never falls back.
    pub fn open(name: &str) -> Result<(Device, Option<String>)> {
        let cuda = |ordinal: &str| match ordinal.parse::<usize>() {
            Ok(ordinal) => Err(cuda::refuse(ordinal)),
            Err(_) => Err(unknown(name)),
        };
        match name {
            "cpu" => Ok((Device::Cpu, None)),
            "auto" => Ok((Device::Cpu, Some(format!("device: cpu ({})", cuda::refuse(0).message)))),
            "cuda" => cuda("0"),
            _ => cuda(name.strip_prefix("cuda:").unwrap_or("?")),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
        }
    }
}

fn unknown(name: &str) -> Error {
    Error::usage(format!("unknown device '{name}'")).hint("use cpu, auto or cuda:N")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(Device::open("cpu").unwrap().0, Device::Cpu);
        assert!(Device::open("auto").unwrap().1.unwrap().starts_with("device: cpu"));
        for (name, code) in [("cuda:0", 3), ("cuda", 3), ("cuda:x", 2), ("tpu", 2), ("cuda:-1", 2), ("", 2)] {
            assert_eq!(Device::open(name).unwrap_err().exit_code(), code, "{name}");
        }
    }
}
