//! The worked example of `README.md`: a kernel with a race, its report, and the kernel without it.
//!
//! `cargo run -p emucuda --example neighbours`

use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // Before the first use of CUDA: from now on, this is the driver.
    let program = std::env::current_exe()?;
    let folder = program.ancestors().nth(2).ok_or("the program lies in no folder")?;
    // SAFETY: the library runs no code when it is loaded.
    let emulator = unsafe { libloading::Library::new(folder.join("deps/libemucuda.so")) }?;
    // SAFETY: the function has this type.
    unsafe { emulator.get::<extern "C" fn(i32, i32) -> u32>(b"emucuda_mode") }?(0, 1);
    std::mem::forget(emulator);

    // Nothing below knows of the emulator.
    let numbers = [1.0f32; 100];
    match run("neighbours", &numbers) {
        Ok(_) => println!("neighbours: nothing found"),
        Err(error) => println!("neighbours: {error}"),
    }
    let sums = run("neighbours_cured", &numbers)?;
    println!("neighbours_cured: {:?} ...", &sums[..4]);
    Ok(())
}

fn run(kernel: &str, numbers: &[f32]) -> Result<Vec<f32>, DriverError> {
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let module = context.load_module(Ptx::from_src(include_str!("../tests/kernels/neighbours.ptx")))?;
    let kernel = module.load_function(kernel)?;
    let x = stream.clone_htod(numbers)?;
    let mut y = stream.alloc_zeros::<f32>(numbers.len())?;
    let shape = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are the kernel's.
    unsafe { stream.launch_builder(&kernel).arg(&mut y).arg(&x).arg(&(numbers.len() as i32)).launch(shape) }?;
    stream.clone_dtoh(&y)
}
