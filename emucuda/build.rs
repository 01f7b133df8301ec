//! Names the shared library as the driver's: a program that has loaded it finds it when it asks for libcuda.so.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
