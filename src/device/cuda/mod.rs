//! NVIDIA GPUs, through cudarc and the driver; or the emulator in the driver's place.
//!
//! Read in this order: `driver.rs` (is one there?), `context.rs` (a device in use), `image.rs` (the kernels), `launch.rs`,
//! `graph.rs` (a whole step as one), `emulator.rs`, `nvrtc.rs`.

pub mod context;
pub mod driver;
pub mod emulator;
pub mod event;
pub mod graph;
pub mod image;
pub mod launch;
pub mod nvrtc;

pub use context::Context;
pub use event::Event;
pub use graph::Graph;
pub use image::kernels;
pub use launch::{Const, Launch, Mut, Number};
