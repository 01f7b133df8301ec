//! Makes the PTX beside the kernels of the tests anew, after a change to one of them:
//! `LD_LIBRARY_PATH=.cuda/nvidia/cuda_nvrtc/lib cargo test -p emucuda --test make_ptx -- --ignored` (without the variable where a
//! CUDA toolkit is installed). In a program of its own, as the others are compiled with the PTX inside.

// In a test, to stop is to say so.
#![allow(clippy::unwrap_used)]

use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use std::path::Path;

/// PTX without the folder that it was made in: files by their bare names.
fn portable(ptx: &str) -> String {
    let bare = |line: &str| match line.split_once('"').filter(|_| line.trim_start().starts_with(".file")) {
        Some((before, path)) => format!("{before}\"{}\n", path.rsplit('/').next().unwrap_or(path)),
        None => format!("{line}\n"),
    };
    ptx.lines().map(bare).collect()
}

#[test]
#[ignore = "needs NVRTC, and writes files"]
fn make_ptx() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "cu") {
            continue;
        }
        let options = CompileOptions {
            name: Some(file.file_name().unwrap().to_string_lossy().into_owned()),
            arch: Some("compute_80"),
            options: ["--std=c++17", "-default-device", "-lineinfo"].map(String::from).into(),
            ..Default::default()
        };
        let source = std::fs::read_to_string(&file).unwrap();
        let ptx = compile_ptx_with_opts(source, options).unwrap_or_else(|e| panic!("{}: {e:?}", file.display()));
        std::fs::write(file.with_extension("ptx"), portable(&ptx.to_src())).unwrap();
    }
}
