//! Tells the program what it was built with, so that a run's record and a benchmark can say so.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().ok().and_then(|o| String::from_utf8(o.stdout).ok());
    println!("cargo:rustc-env=CUGRAD_RUSTC={}", version.as_deref().unwrap_or("rustc, version unknown").trim());
    println!("cargo:rustc-env=CUGRAD_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    println!("cargo:rustc-env=CUGRAD_PROFILE={}", std::env::var("PROFILE").unwrap_or_default());
}
