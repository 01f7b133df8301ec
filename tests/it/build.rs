//! The build with and without NVRTC: runs the very program that cargo ran, on a copy of the kernels, and looks at what it says and
//! writes.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The build's program: it lies in a folder beside the one with its output.
fn program() -> PathBuf {
    let builds = Path::new(env!("OUT_DIR")).ancestors().nth(2).unwrap();
    let mut all: Vec<PathBuf> = std::fs::read_dir(builds).unwrap().flatten().map(|e| e.path().join("build-script-main")).collect();
    all.retain(|p| p.is_file() && p.parent().is_some_and(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("cugrad-"))));
    // The newest, should others be left of older versions.
    all.into_iter().max_by_key(|p| p.metadata().and_then(|m| m.modified()).unwrap()).unwrap()
}

/// A place with the sources of the kernels in it, and nothing else that a build could find.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        for folder in ["kernels", "kernels/prebuilt"] {
            let to = place.0.path().join(folder);
            std::fs::create_dir_all(&to).unwrap();
            let from = from.join(folder.trim_start_matches("kernels").trim_start_matches('/'));
            for file in std::fs::read_dir(from).unwrap().flatten().filter(|f| f.path().is_file()) {
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
        std::fs::create_dir_all(place.0.path().join("a/b/c/d/out")).unwrap();
        place
    }

    fn build(&self, mode: &str, nvrtc: Option<&Path>) -> (Output, String) {
        let (root, out) = (self.0.path(), self.0.path().join("a/b/c/d/out"));
        let mut command = Command::new(program());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("CARGO_MANIFEST_DIR", root).env("OUT_DIR", &out).env("HOME", root).env("CUGRAD_KERNELS", mode);
        nvrtc.into_iter().for_each(|file| {
            command.env("CUGRAD_NVRTC", file);
        });
        let output = command.current_dir(root).output().unwrap();
        (output, std::fs::read_to_string(out.join("kernels.rs")).unwrap_or_default())
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A shared library with one function, made by rustc.
fn library(place: &Place, source: &str) -> PathBuf {
    let (from, to) = (place.0.path().join("fake.rs"), place.0.path().join("libnvrtc.so.99"));
    std::fs::write(&from, source).unwrap();
    let made = Command::new("rustc").args(["--edition=2024", "--crate-type=cdylib", "-o"]).arg(&to).arg(&from).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    to
}

#[test]
fn prebuilt_kernels_need_nothing() {
    let (output, tables) = Place::new().build("prebuilt", None);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("CUGRAD_KERNELS_BY=prebuilt PTX"));
    assert!(tables.contains("target: \"compute_80\"") && !tables.contains("target: \"sm_"));
}

#[test]
fn off_embeds_no_image() {
    let (output, tables) = Place::new().build("off", None);
    assert!(output.status.success(), "{}", said(&output));
    assert!(tables.contains("pub fn forward") && !tables.contains("target: \""));
}

/// Neither of these may fail a build: garbage, a library of something else, one that crashes, one that is too old.
#[test]
fn an_nvrtc_that_does_not_work_is_passed_over() {
    let fakes: [(&str, &str); 3] = [
        ("pub extern \"C\" fn other() {}", "CUGRAD_NVRTC"),
        ("#[unsafe(no_mangle)] pub extern \"C\" fn nvrtcVersion(_: *mut i32, _: *mut i32) -> i32 { std::process::abort() }", "signal"),
        (
            "#[unsafe(no_mangle)] pub unsafe extern \"C\" fn nvrtcVersion(a: *mut i32, b: *mut i32) -> i32 { unsafe { *a = 11; *b = 8; } 0 }",
            "NVRTC 11.8 is older than 12.0",
        ),
    ];
    let place = Place::new();
    let garbage = place.0.path().join("libnvrtc.so.12");
    std::fs::write(&garbage, "no library").unwrap();
    let check = |file: &Path, why: &str| {
        let (output, tables) = place.build("auto", Some(file));
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("NVRTC cannot be used") && said.contains(why), "{why}: {said}");
        assert!(tables.contains("target: \"compute_80\""));
        assert!(!place.build("require", Some(file)).0.status.success(), "{why}: a strict build must fail");
    };
    check(&garbage, "libnvrtc.so.12");
    for (source, why) in fakes {
        check(&library(&place, source), why);
    }
}

#[test]
fn stale_kernels_are_not_taken() {
    let place = Place::new();
    let source = place.0.path().join("kernels/relu.cu");
    let text = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, text.replace("v > 0", "v >= 0")).unwrap();
    let (output, tables) = place.build("prebuilt", None);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("not up to date: relu.f32.ptx") && said.contains("CUGRAD_KERNELS=update cargo build --release"), "{said}");
    assert!(!tables.contains("target: \""), "no image may be embedded");
}

#[test]
fn an_unknown_mode_is_an_error() {
    let (output, _) = Place::new().build("maybe", None);
    assert!(!output.status.success() && said(&output).contains("it must be auto, require, prebuilt, update or off"));
}

/// What is committed is what this build's compiler makes, if it is the pinned one.
#[test]
fn prebuilt_kernels_are_those_of_the_sources() {
    use cugrad::device::cuda::image::{COMPILER, kernels::UNITS};
    if COMPILER != "NVRTC 12.9" {
        println!("skipped: this build's kernels are by {COMPILER}");
        return;
    }
    let body = |text: &str| text.split_once(".target").map(|(_, rest)| rest.to_string()).unwrap();
    for unit in UNITS {
        for image in unit.images.iter().filter(|i| i.target == "compute_80") {
            let name = format!("{}.{}.ptx", unit.name, ["f32", "f64", "bf16", "f16"][image.dtype]);
            let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/prebuilt").join(&name);
            let committed = std::fs::read_to_string(&committed).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(body(&committed) == body(&String::from_utf8_lossy(image.data)), "{name} differs from what the build made");
        }
    }
}
