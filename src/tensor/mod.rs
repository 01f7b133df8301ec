//! Tensors: a shape, a dtype, a layout, a device, and a share of a buffer.
//!
//! A [`Tensor`] is cheap to clone; clones share the buffer, and who wants to write must be its only holder. There are no
//! gradients here (that is `autograd`), no arithmetic (that is `ops`) and no type parameters: a kernel asks for the numbers as
//! what they are with [`Tensor::lanes`] or [`Tensor::data`]. Read next: `tensor/shape.rs` for the lanes layout, then
//! `autograd/mod.rs`.

pub mod dtype;
pub mod lane;
pub mod rng;
pub mod shape;

pub use crate::device::vector::{L, Vector};
pub use dtype::{DType, Element, Real, Stored};
pub use lane::{Lane, load, put, store};
pub use rng::Philox;
pub use shape::{Layout, Shape, Spec, filled, groups};

use crate::device::Device;
use crate::device::cuda::{Const, Mut};
use crate::device::memory::Buffer;
use crate::error::Result;
use std::sync::Arc;

/// In an arena every tensor begins at a multiple of so many elements, whatever their type: so arenas for the same shapes agree in
/// where each tensor begins, and one kernel can walk several of them at once.
pub const ARENA_STEP: usize = 64;

/// A block of numbers with a shape.
#[derive(Debug, Clone)]
pub struct Tensor {
    spec: Spec,
    buffer: Arc<Buffer>,
}

impl Tensor {
    /// A tensor with unspecified content.
    pub fn new(spec: Spec) -> Self {
        Self { spec, buffer: Arc::new(Buffer::new(spec.device, spec.bytes())) }
    }

    /// A tensor of zeros.
    pub fn zeros(spec: Spec) -> Self {
        let mut t = Self::new(spec);
        // A device's failure is told by its next launch.
        let _ = t.buffer_mut().fill(0);
        t
    }

    /// Tensors that lie side by side in one allocation, on the device of the first: an arena. Contents are zero.
    pub fn arena(specs: &[Spec]) -> Vec<Tensor> {
        let sizes: Vec<usize> = specs.iter().map(|s| s.stored().next_multiple_of(ARENA_STEP) * s.dtype.bytes()).collect();
        let mut all = Buffer::new(specs.first().map_or(Device::Cpu, |s| s.device), sizes.iter().sum());
        let _ = all.fill(0);
        all.split(&sizes).into_iter().zip(specs).map(|(b, &spec)| Self { spec, buffer: Arc::new(b) }).collect()
    }

    /// A tensor with the given content, `values` in row-major order of the logical shape; empty lanes become zero.
    pub fn from_values<T: Stored>(spec: Spec, values: &[T]) -> Self {
        assert_eq!(values.len(), spec.shape.count(), "a tensor of shape {} cannot hold {} values", spec.shape, values.len());
        let mut t = Self::zeros(spec.on(Device::Cpu));
        match spec.dtype {
            DType::U8 => t.write::<u8, T>(values),
            DType::I32 => t.write::<i32, T>(values),
            float => crate::dispatch!(float, D => t.write::<D, T>(values)),
        }
        t.to(spec.device)
    }

    fn write<D: Stored, T: Stored>(&mut self, values: &[T]) {
        let spec = self.spec;
        let data = self.data_mut::<D>();
        for (i, v) in values.iter().enumerate() {
            data[position(&spec, i)] = D::from_f64(v.to_f64());
        }
    }

    /// All elements in row-major order of the logical shape. For a tensor on a GPU, [`Tensor::read`] can tell of a failure.
    pub fn values(&self) -> Vec<f64> {
        match self.read() {
            Ok(values) => values,
            Err(e) => panic!("{e}"),
        }
    }

    /// All elements in row-major order of the logical shape, fetched from where they are.
    pub fn read(&self) -> Result<Vec<f64>> {
        fn read<D: Stored>(t: &Tensor) -> Vec<f64> {
            let data = t.data::<D>();
            (0..t.spec.shape.count()).map(|i| data[position(&t.spec, i)].to_f64()).collect()
        }
        let here = self.fetch()?;
        Ok(match self.spec.dtype {
            DType::U8 => read::<u8>(&here),
            DType::I32 => read::<i32>(&here),
            float => crate::dispatch!(float, D => read::<D>(&here)),
        })
    }

    /// The first element: the value of a scalar.
    pub fn item(&self) -> f64 {
        self.values()[0]
    }

    /// The same numbers on the CPU.
    pub fn fetch(&self) -> Result<Tensor> {
        if self.device() == Device::Cpu {
            return Ok(self.clone());
        }
        let mut bytes = vec![0; self.spec.bytes()];
        self.buffer.read(&mut bytes)?;
        let mut here = Tensor::new(self.spec.on(Device::Cpu));
        relay(&self.spec, &bytes, &here.spec(), here.buffer_mut().view_mut());
        Ok(here)
    }

    /// The same numbers on another device; itself if it is there already.
    pub fn to(&self, device: Device) -> Tensor {
        if device == self.device() {
            return self.clone();
        }
        // The source's failure, and the copy's, are told by the next launch.
        let Ok(here) = self.fetch() else { return Tensor::new(self.spec.on(device)) };
        let mut there = Tensor::new(self.spec.on(device));
        let mut bytes = vec![0; there.spec.bytes()];
        relay(&here.spec, here.buffer.view(), &there.spec, &mut bytes);
        let _ = there.buffer_mut().write(&bytes);
        there
    }

    /// The same numbers in another dtype.
    pub fn to_dtype(&self, dtype: DType) -> Tensor {
        if dtype == self.spec.dtype { self.clone() } else { Self::from_values(Spec { dtype, ..self.spec }, &self.values()) }
    }

    /// Shape, dtype, layout and device.
    pub fn spec(&self) -> Spec {
        self.spec
    }

    /// The logical shape.
    pub fn shape(&self) -> Shape {
        self.spec.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.spec.dtype
    }

    /// Where the numbers live.
    pub fn device(&self) -> Device {
        self.spec.device
    }

    /// The stored elements, in the order of memory.
    pub fn data<T: Stored>(&self) -> &[T] {
        self.expect::<T>();
        &self.buffer.view()[..self.spec.stored()]
    }

    /// The stored elements, to be written.
    pub fn data_mut<T: Stored>(&mut self) -> &mut [T] {
        self.expect::<T>();
        let stored = self.spec.stored();
        &mut self.buffer_mut().view_mut()[..stored]
    }

    /// The stored elements for a kernel, in the order of memory.
    pub fn cuda<T: Stored>(&self) -> Const<'_, T> {
        self.expect::<T>();
        self.buffer.cuda()
    }

    /// The stored elements for a kernel that writes them.
    pub fn cuda_mut<T: Stored>(&mut self) -> Mut<'_, T> {
        self.expect::<T>();
        self.buffer_mut().cuda_mut()
    }

    /// The stored elements as lane vectors: element `[g][c][h][w]` of a tensor in lanes.
    pub fn lanes<T: Stored>(&self) -> &[[T; L]] {
        assert_eq!(self.spec.layout, Layout::Lanes, "{} is not in lanes", self.spec);
        self.data().as_chunks().0
    }

    /// The stored elements as lane vectors, to be written.
    pub fn lanes_mut<T: Stored>(&mut self) -> &mut [[T; L]] {
        assert_eq!(self.spec.layout, Layout::Lanes, "{} is not in lanes", self.spec);
        self.data_mut().as_chunks_mut().0
    }

    /// The same numbers under another shape; a tensor in lanes keeps its first dimension. Shares the buffer.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.count(), self.spec.shape.count(), "{} has not as many elements as {shape}", self.spec.shape);
        if self.spec.layout == Layout::Lanes {
            assert_eq!(shape[0], self.spec.shape[0], "a tensor in lanes keeps its images");
        }
        Tensor { spec: self.spec.with_shape(shape), buffer: self.buffer.clone() }
    }

    /// A copy of some images, on the CPU. In lanes they begin with a group.
    pub fn images(&self, images: std::ops::Range<usize>) -> Tensor {
        let mut dims = self.spec.shape;
        dims = Shape::new(&[&[images.len()], &dims[1..]].concat());
        let mut out = Tensor::new(self.spec.with_shape(dims));
        assert!(self.spec.layout == Layout::Rows || images.start.is_multiple_of(L), "image {} does not begin a group", images.start);
        let (from, count) = (images.start * dims.per_image(), out.spec.stored());
        fn copy<T: Stored>(from: &Tensor, at: usize, to: &mut Tensor, count: usize) {
            to.data_mut::<T>().copy_from_slice(&from.data::<T>()[at..][..count]);
        }
        match self.dtype() {
            DType::U8 => copy::<u8>(self, from, &mut out, count),
            DType::I32 => copy::<i32>(self, from, &mut out, count),
            float => crate::dispatch!(float, T => copy::<T>(self, from, &mut out, count)),
        }
        out
    }

    /// The same memory under another spec, of as many stored elements: a tensor in lanes as the plain row of numbers that it is in
    /// memory, empty lanes included. Shares the buffer.
    pub fn view_as(&self, spec: Spec) -> Tensor {
        assert_eq!(
            (self.spec.stored(), self.dtype(), self.device()),
            (spec.stored(), spec.dtype, spec.device),
            "{} does not lie in memory as {spec} does",
            self.spec
        );
        Tensor { spec, buffer: self.buffer.clone() }
    }

    /// Copies the content of a tensor of the same spec.
    pub fn copy_from(&mut self, other: &Tensor) {
        assert_eq!(self.spec, other.spec, "only like can be copied to like");
        let bytes = self.spec.bytes();
        // A device's failure is told by its next launch.
        let _ = self.buffer_mut().copy_from(&other.buffer, bytes);
    }

    /// Makes this the only holder of its numbers, copying them if they are shared.
    pub fn make_unique(&mut self) {
        if Arc::get_mut(&mut self.buffer).is_none() {
            let mut own = Tensor::new(self.spec);
            own.copy_from(self);
            *self = own;
        }
    }

    fn buffer_mut(&mut self) -> &mut Buffer {
        match Arc::get_mut(&mut self.buffer) {
            Some(buffer) => buffer,
            None => panic!("{} is shared and cannot be written", self.spec),
        }
    }

    fn expect<T: Stored>(&self) {
        assert_eq!(T::DTYPE, self.spec.dtype, "{} asked for as {}", self.spec, T::DTYPE);
    }
}

/// Neighbours of an arena as one run of numbers for a kernel: where it begins, and how many elements it has, padding included.
pub fn span<'a, T: Stored>(tensors: impl IntoIterator<Item = &'a Tensor>) -> (Const<'a, T>, usize) {
    let (mut first, mut end, mut bytes) = (None, None, 0);
    for t in tensors {
        t.expect::<T>();
        end = Some(follow(end, &t.buffer));
        bytes += t.buffer.bytes();
        first.get_or_insert(t.buffer.cuda());
    }
    (first.unwrap_or(Const::null()), bytes / size_of::<T>())
}

/// The same to be written.
pub fn span_mut<'a, T: Stored>(tensors: impl IntoIterator<Item = &'a mut Tensor>) -> (Mut<'a, T>, usize) {
    let (mut first, mut end, mut bytes) = (None, None, 0);
    for t in tensors {
        t.expect::<T>();
        let buffer = t.buffer_mut();
        end = Some(follow(end, buffer));
        bytes += buffer.bytes();
        first.get_or_insert(buffer.cuda_mut());
    }
    (first.unwrap_or(Mut::null()), bytes / size_of::<T>())
}

/// Makes sure that a buffer begins at `end`, where the one before it ends; gives its own end.
fn follow(end: Option<(usize, usize)>, buffer: &Buffer) -> (usize, usize) {
    let [begin, own_end] = buffer.ends();
    assert!(end.is_none_or(|end| end == begin), "an arena's tensors are not given in its order");
    own_end
}

/// Copies stored elements from the order of one spec to that of another, which may have other lanes; empty lanes become zero.
fn relay(from: &Spec, x: &[u8], to: &Spec, y: &mut [u8]) {
    let size = from.dtype.bytes();
    if from.layout == Layout::Rows {
        y[..from.bytes()].copy_from_slice(&x[..from.bytes()]);
        return;
    }
    y.fill(0);
    for i in 0..from.shape.count() {
        y[position(to, i) * size..][..size].copy_from_slice(&x[position(from, i) * size..][..size]);
    }
}

/// Where element `i` of the logical row-major order lies in memory.
fn position(spec: &Spec, i: usize) -> usize {
    match spec.layout {
        Layout::Rows => i,
        Layout::Lanes => {
            let per_image = spec.shape.per_image();
            let (n, j, lanes) = (i / per_image, i % per_image, spec.device.lanes());
            (n / lanes * per_image + j) * lanes + n % lanes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_images_are_copied() {
        for dtype in [DType::F32, DType::I32, DType::U8] {
            let values: Vec<f64> = (0..37 * 3).map(f64::from).collect();
            let lanes = Tensor::from_values(Spec::lanes([37, 3], dtype), &values);
            assert_eq!((lanes.images(0..16).values(), lanes.images(16..37).values()), (values[..48].to_vec(), values[48..].to_vec()));
            assert_eq!(lanes.images(32..37).spec(), Spec::lanes([5, 3], dtype));
            let rows = Tensor::from_values(Spec::rows([37, 3], dtype), &values);
            assert_eq!(rows.images(5..7).values(), values[15..21]);
        }
    }

    #[test]
    #[should_panic(expected = "image 5 does not begin a group")]
    fn images_in_lanes_begin_with_a_group() {
        Tensor::zeros(Spec::lanes([37, 3], DType::F32)).images(5..7);
    }

    #[test]
    fn lanes_go_there_and_back_and_leave_zeros() {
        for n in [1, 2, 16, 17, 33] {
            for dtype in [DType::F32, DType::F64, DType::Bf16, DType::F16, DType::I32] {
                let values: Vec<f64> = (0..n * 6).map(|i| f64::from(i as i32 % 100)).collect();
                let t = Tensor::from_values(Spec::lanes([n, 3, 2, 1], dtype), &values);
                assert_eq!(t.values(), values);
                assert_eq!(t.spec().stored(), groups(n) * 6 * L);
                assert_eq!(t.reshape([n, 6]).values(), values);
                assert_eq!(
                    t.to_dtype(DType::F64).data::<f64>().iter().filter(|&&x| x != 0.0).count(),
                    values.iter().filter(|&&x| x != 0.0).count()
                );
            }
        }
    }

    #[test]
    fn the_layout_is_group_then_element_then_image() {
        let t = Tensor::from_values(Spec::lanes([18, 2], DType::F32), &(0..36).map(|i| i as f32).collect::<Vec<_>>());
        assert_eq!(t.lanes::<f32>()[1][3], 7.0); // element 1 of image 3
        assert_eq!(t.lanes::<f32>()[2][1], 34.0); // element 0 of image 17
    }

    #[test]
    fn clones_share_until_they_part() {
        let mut a = Tensor::from_values(Spec::rows([3], DType::F32), &[1f32, 2.0, 3.0]);
        let b = a.clone();
        a.make_unique();
        a.data_mut::<f32>()[0] = 9.0;
        assert_eq!(b.values(), [1.0, 2.0, 3.0]);
        assert_eq!(a.values(), [9.0, 2.0, 3.0]);
    }
}
