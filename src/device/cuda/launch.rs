//! Launching a kernel: what is passed, and how an error names what was tried.
//!
//! The typed launchers that the build makes (`image.rs`, module `kernels`) are the only callers. A [`Const`] or [`Mut`] is a
//! buffer's address together with the type of its numbers and, for the borrow checker, the borrow of the buffer. Read next:
//! `graph.rs`.

use super::driver::failed;
use super::image::kernels::UNITS;
use crate::device::Device;
use crate::device::memory::Plain;
use crate::device::vector::Vectors;
use crate::error::{Error, Result};
use cudarc::driver::result;
use std::ffi::c_void;
use std::marker::PhantomData;

/// A type that kernels are compiled for.
pub trait Number: Plain {
    /// The type that sums over it are kept in.
    type Sum: Plain + Pass + Vectors;
    /// Its number in the tables of images.
    const INDEX: usize;
    /// Its name in the sources of kernels.
    const NAME: &'static str;
}

macro_rules! numbers {
    ($($t:ty, $sum:ty, $index:literal, $name:literal;)*) => {$(
        impl Number for $t {
            type Sum = $sum;
            const INDEX: usize = $index;
            const NAME: &'static str = $name;
        }
    )*};
}

numbers! {
    f32, f32, 0, "f32";
    f64, f64, 1, "f64";
    half::bf16, f32, 2, "bf16";
    half::f16, f32, 3, "f16";
}

/// What a kernel takes by value: the same bytes in Rust and in CUDA.
///
/// # Safety
/// Implement it only for types whose layout is that of the kernel's parameter.
pub unsafe trait Pass: Copy {}
// SAFETY: the same type in both languages.
unsafe impl Pass for i32 {}
// SAFETY: as above.
unsafe impl Pass for u32 {}
// SAFETY: as above.
unsafe impl Pass for u64 {}
// SAFETY: as above.
unsafe impl Pass for f32 {}
// SAFETY: as above.
unsafe impl Pass for f64 {}

/// Numbers on a device, to be read by a kernel.
#[derive(Debug)]
#[repr(transparent)]
pub struct Const<'a, T> {
    address: u64,
    borrow: PhantomData<&'a T>,
}

/// Numbers on a device, to be written by a kernel.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mut<'a, T> {
    address: u64,
    borrow: PhantomData<&'a mut T>,
}

impl<T> Clone for Const<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Const<'_, T> {}

impl<T> Const<'_, T> {
    /// Nothing: a bias that is not there.
    pub fn null() -> Self {
        Self { address: 0, borrow: PhantomData }
    }

    pub(in crate::device) fn new(address: u64) -> Self {
        Self { address, borrow: PhantomData }
    }
}

impl<T> Mut<'_, T> {
    /// Nothing: a gradient that nobody wants.
    pub fn null() -> Self {
        Self { address: 0, borrow: PhantomData }
    }

    pub(in crate::device) fn new(address: u64) -> Self {
        Self { address, borrow: PhantomData }
    }
}

/// A pointer to an argument, as the driver wants it. The argument must live until the launch.
pub(super) fn argument<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// Where a kernel runs, and on how many threads.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    device: Device,
    grid: [usize; 3],
    block: [usize; 3],
}

impl Launch {
    /// `grid` blocks of `block` threads, each in x, y, z. A grid without a block does nothing.
    pub fn new(device: Device, grid: [usize; 3], block: [usize; 3]) -> Self {
        Self { device, grid, block }
    }

    /// One thread an element, `threads` a block.
    pub fn each(device: Device, elements: usize, threads: usize) -> Self {
        Self::new(device, [elements.div_ceil(threads), 1, 1], [threads, 1, 1])
    }

    /// One warp an item, `warps` a block: blocks of (32, warps) threads.
    pub fn warps(device: Device, items: usize, warps: usize) -> Self {
        Self::new(device, [items.div_ceil(warps), 1, 1], [32, warps, 1])
    }

    /// Launches a kernel of the tables with the given arguments, which the generated launchers give in its order and types.
    pub(super) fn run<T: Number>(self, unit: usize, kernel: usize, arguments: &mut [*mut c_void]) -> Result<()> {
        let Self { device, grid, block } = self;
        let known = &UNITS[unit].kernels[kernel];
        let shape = || format!("kernel {} ({}), grid {grid:?}, block {block:?}", known.name.to_string_lossy(), T::NAME);
        if grid.contains(&0) {
            return Ok(());
        }
        let threads: usize = block.iter().product();
        if threads == 0 || threads > known.threads as usize {
            return Err(Error::device(format!("{}: a block may have 1 to {} threads", shape(), known.threads)));
        }
        if grid[0] > i32::MAX as usize || grid[1] > 65_535 || grid[2] > 65_535 {
            return Err(Error::device(format!("{}: the grid is too large", shape())).hint("lower --batch"));
        }
        let context = device.context()?;
        let function = context.function(unit, T::INDEX, kernel)?;
        context.bind()?;
        let small = |all: [usize; 3]| (all[0] as u32, all[1] as u32, all[2] as u32);
        // SAFETY: the arguments have the kernel's types, as rustc checked the launcher's; pointers among them belong to buffers that
        // live until the work queued behind this launch no longer needs them, as memory is handed out again in stream order.
        let done = unsafe { result::launch_kernel(function.0, small(grid), small(block), 0, context.stream().cu_stream(), arguments) };
        done.map_err(|e| failed(&context.name(), &shape(), e))
    }
}
