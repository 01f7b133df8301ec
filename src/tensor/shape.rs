//! Shapes, layouts and their combination with a dtype and a device: everything about a tensor but its numbers.
//!
//! Read next: `tensor/mod.rs`.

use super::dtype::DType;
use crate::device::Device;
use crate::device::vector::L;
use crate::error::{Error, Result};

/// Up to four dimensions, outermost first: `[N, C, H, W]`, `[N, F]`, `[O, I, KH, KW]`, `[]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; 4],
    rank: usize,
}

impl Shape {
    /// A shape of at most four dimensions.
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= 4, "a shape has at most four dimensions, not {dims:?}");
        let mut all = [1; 4];
        all[..dims.len()].copy_from_slice(dims);
        Self { dims: all, rank: dims.len() }
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.dims.iter().product()
    }

    /// The number of elements that belong to one image: the product of all but the first dimension.
    pub fn per_image(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// `[N, C, H, W]`; a shape `[N, F]` is `[N, F, 1, 1]`.
    pub fn nchw(&self) -> [usize; 4] {
        self.dims
    }
}

impl std::ops::Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Self::new(dims)
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Self::new(&dims)
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", &self[..])
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", &self[..])
    }
}

/// How a tensor's elements lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Row-major, the last dimension innermost: parameters, their gradients, labels, scalars, pictures.
    Rows,
    /// Activations `[N, ...]`: groups of L images, and in a group the images innermost, so `[N, C, H, W]` lies as
    /// `[ceil(N/L)][C][H][W][L]`. The last group may have lanes that belong to no image: values there are finite but meaningless,
    /// gradients there are zero.
    Lanes,
}

/// Everything about a tensor but its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spec {
    /// The logical shape.
    pub shape: Shape,
    /// The element type.
    pub dtype: DType,
    /// The order in memory.
    pub layout: Layout,
    /// Where the numbers live.
    pub device: Device,
}

impl Spec {
    /// Activations `[N, ...]` in lanes, on the CPU.
    pub fn lanes(shape: impl Into<Shape>, dtype: DType) -> Self {
        Self { shape: shape.into(), dtype, layout: Layout::Lanes, device: Device::Cpu }
    }

    /// Plain row-major numbers, on the CPU.
    pub fn rows(shape: impl Into<Shape>, dtype: DType) -> Self {
        Self { shape: shape.into(), dtype, layout: Layout::Rows, device: Device::Cpu }
    }

    /// The same on another device.
    pub fn on(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// The same with another shape.
    pub fn with_shape(self, shape: impl Into<Shape>) -> Self {
        Self { shape: shape.into(), ..self }
    }

    /// G: how many groups of lanes the images fill on its device.
    pub fn groups(&self) -> usize {
        self.shape[0].div_ceil(self.device.lanes())
    }

    /// Elements in memory, those of empty lanes too.
    pub fn stored(&self) -> usize {
        match self.layout {
            Layout::Rows => self.shape.count(),
            Layout::Lanes => self.groups() * self.device.lanes() * self.shape.per_image(),
        }
    }

    /// On a GPU, an error if the elements are more than kernels can count.
    pub fn check_size(&self) -> Result<()> {
        // Less a block, so that no thread's number overflows.
        if self.device == Device::Cpu || self.stored() <= i32::MAX as usize - 1024 {
            return Ok(());
        }
        Err(Error::run(format!("{self} has more elements than a kernel can count (2^31)")).hint("lower --batch"))
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.stored() * self.dtype.bytes()
    }
}

impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.dtype, self.shape)
    }
}

/// How many groups of L lanes `n` images fill on the CPU.
pub fn groups(n: usize) -> usize {
    n.div_ceil(L)
}

/// How many lanes of group `g` hold one of `n` images on the CPU.
pub fn filled(n: usize, g: usize) -> usize {
    n.saturating_sub(g * L).min(L)
}
