//! emucuda runs CUDA kernels without a GPU: the very PTX that NVRTC made of them, 32 lanes at a time.
//!
//! What it is not: a model of time. It says what a kernel computes, what it does wrong (`Mode::Checked`) and how many
//! memory sectors and bank cycles it asks for; it does not say how long a GPU would take.
//!
//! Read next: [`ptx`] (text to instructions), then [`machine`] (instructions to numbers), then `driver` (the C functions of
//! libcuda.so, by which programs get here).
#![warn(missing_docs)]

mod driver;
#[cfg(test)]
mod harness;
pub mod machine;
pub mod ptx;

pub use machine::{Counters, Fault, FaultKind, Machine, Mode};
pub use ptx::{Kernel, Module, Parameter, ParseError, Variable, parse};
