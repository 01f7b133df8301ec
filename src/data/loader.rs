//! Batches: pictures picked by number, normalised, and laid out in lanes.
//!
//! A picture is bytes until here. Each byte goes through a table of 256 normalised values (one table a channel), straight into
//! its image's lane. Grey pictures feed a network that takes colour by repeating their one channel; pictures smaller than the
//! network's input are centred on black. Pictures that are augmented by more than whole pixels are no bytes any more: their levels are
//! multiplied and added to instead (`augment/resample.rs`).
//!
//! On a GPU all pictures, labels and tables are uploaded once, and a kernel makes the batches: which images it takes stands in device
//! memory, so that a captured step takes others each time it is replayed. Read next: `train/mod.rs`.

use super::augment::resample::{Resample, Target};
use super::augment::{Augment, Move};
use super::{Dataset, Normalization};
use crate::device::Device;
use crate::device::cuda::kernels::batch::{self as kernel, Pictures};
use crate::device::cuda::{Const, Launch};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{DType, Element, L, Spec, Stored, Tensor};
use rayon::prelude::*;

/// Makes batches of one data set for one network.
#[derive(Debug)]
pub struct Loader<'a> {
    data: &'a Dataset,
    /// For each input channel of the network: the normalised value of each byte.
    tables: Vec<[f64; 256]>,
    /// The same for any level v, 0 black to 255 white: v · gain + offset.
    lines: Vec<[f64; 2]>,
    /// Channels, height, width that the network takes.
    input: [usize; 3],
    dtype: DType,
    device: Device,
    resident: Option<Resident>,
}

/// A data set on a GPU.
#[derive(Debug)]
struct Resident {
    /// u8 `[images, channels, height, width]`
    images: Tensor,
    /// i32 `[images]`
    labels: Tensor,
    /// `[channels, 256]` in the type of sums.
    tables: Tensor,
    /// `[channels, 2]` in the type of sums.
    lines: Tensor,
}

impl<'a> Loader<'a> {
    /// Batches of `data` for a network that takes `input` (channels, height, width) in `dtype` on `device`.
    pub fn new(data: &'a Dataset, normalization: &Normalization, input: [usize; 3], dtype: DType, device: Device) -> Result<Self> {
        let [c, h, w] = input;
        if data.channels != c && data.channels != 1 || data.height > h || data.width > w {
            return Err(Error::data(format!(
                "{}: pictures of {}x{}x{} do not fit a network that takes {c}x{h}x{w}",
                data.name, data.channels, data.height, data.width
            ))
            .hint("choose another --model or --data"));
        }
        let of = |c: usize| {
            let c = c.min(data.channels - 1);
            (f64::from(normalization.mean[c]), f64::from(normalization.std[c]))
        };
        let table = |(mean, std): (f64, f64)| std::array::from_fn(|v| (v as f64 / 255.0 - mean) / std);
        let tables: Vec<[f64; 256]> = (0..c).map(of).map(table).collect();
        let lines: Vec<[f64; 2]> = (0..c).map(of).map(|(mean, std)| [1.0 / (255.0 * std), -mean / std]).collect();
        let resident = (device != Device::Cpu).then(|| {
            let mut images = Tensor::new(Spec::rows([data.len(), data.channels, data.height, data.width], DType::U8));
            images.data_mut::<u8>().copy_from_slice(&data.images);
            let labels = Tensor::from_values(Spec::rows([data.len()], DType::I32).on(device), &data.labels);
            let tables = Tensor::from_values(Spec::rows([c, 256], dtype.acc()).on(device), tables.as_flattened());
            let lines = Tensor::from_values(Spec::rows([c, 2], dtype.acc()).on(device), lines.as_flattened());
            Resident { images: images.to(device), labels, tables, lines }
        });
        Ok(Self { data, tables, lines, input, dtype, device, resident })
    }

    /// The data set.
    pub fn data(&self) -> &Dataset {
        self.data
    }

    /// Numbers of images as [`Loader::gather`] takes them, i32 `[N]`.
    pub fn numbers(&self, numbers: &[u32]) -> Tensor {
        let numbers: Vec<i32> = numbers.iter().map(|&i| i as i32).collect();
        Tensor::from_values(Spec::rows([numbers.len()], DType::I32).on(self.device), &numbers)
    }

    /// On a GPU, the `n` pictures whose numbers stand in `order` from `place[1]` on, and their labels. To learn from, the pictures are
    /// augmented by the draws of `seed` and `step` (low and high word).
    pub fn gather(&self, order: &Tensor, place: &Tensor, n: usize, draws: Option<(Augment, u64, &Tensor)>) -> Result<(Tensor, Tensor)> {
        let Some(Resident { images, labels, tables, lines }) = &self.resident else {
            return Err(Error::device("only a data set on a GPU can be gathered from"));
        };
        let [c, h, w] = self.input;
        let (dc, dh, dw) = (self.data.channels, self.data.height, self.data.width);
        let [top, left] = [(h - dh) / 2, (w - dw) / 2];
        let x = Spec::lanes([n, c, h, w], self.dtype).on(self.device);
        x.check_size()?;
        let mut x = Tensor::new(x);
        let mut t = Tensor::new(Spec::rows([n], DType::I32).on(self.device));
        let (augment, seed, step) = draws.map_or((Augment::default(), 0, Const::null()), |(a, seed, step)| (a, seed, step.cuda()));
        let at = Launch::new(self.device, [(h * w).div_ceil(32), c, x.spec().groups()], [32, 8, 1]);
        let [c, h, w, dc, dh, dw, top, left, shift] = [c, h, w, dc, dh, dw, top, left, augment.shift].map(|d| d as i32);
        let d = Pictures { c, h, w, dc, dh, dw, top, left, shift, flip: augment.flip.into(), seed };
        let (images, labels, order, place) = (images.cuda(), labels.cuda(), order.cuda(), place.cuda());
        let ranges = augment.ranges([self.data.height, self.data.width]);
        dispatch!(self.dtype, T => match augment.keeps_bytes() {
            true => kernel::gather::<T>(at, images, labels, order, place, step, tables.cuda(), x.cuda_mut(), t.cuda_mut(), d, n as i32)?,
            false => {
                kernel::resample::<T>(at, images, labels, order, place, step, lines.cuda(), x.cuda_mut(), t.cuda_mut(), d, ranges, n as i32)?
            }
        });
        Ok((x, t))
    }

    /// The pictures with these numbers, `[N,C,H,W]` in lanes, and their labels, `[N]` in i32.
    pub fn batch(&self, numbers: &[u32]) -> Result<(Tensor, Tensor)> {
        if self.resident.is_some() {
            let place = Tensor::zeros(Spec::rows([3], DType::I32).on(self.device));
            return self.gather(&self.numbers(numbers), &place, numbers.len(), None);
        }
        Ok(self.gather_here(numbers, &|_| None))
    }

    /// On the CPU, the same to learn from: augmented by the draws of `seed` and `step`.
    pub fn batch_to_learn(&self, numbers: &[u32], augment: Augment, seed: u64, step: u64) -> (Tensor, Tensor) {
        if augment.keeps_bytes() {
            return self.gather_here(numbers, &|i| (!augment.is_none()).then(|| augment.draw(seed, step, i)));
        }
        let resample = Resample::new(augment, [self.data.height, self.data.width], seed, step);
        let mut x = self.empty(numbers.len());
        dispatch!(self.dtype, T => self.fill_between::<T>(numbers, &resample, x.lanes_mut()));
        (x, self.labels(numbers))
    }

    fn gather_here(&self, numbers: &[u32], moves: &(dyn Fn(usize) -> Option<Move> + Sync)) -> (Tensor, Tensor) {
        let mut x = self.empty(numbers.len());
        dispatch!(self.dtype, T => self.fill::<T>(numbers, moves, x.lanes_mut()));
        (x, self.labels(numbers))
    }

    /// A batch of `n` to be written, on the CPU.
    fn empty(&self, n: usize) -> Tensor {
        let [c, h, w] = self.input;
        Tensor::new(Spec::lanes([n, c, h, w], self.dtype))
    }

    fn labels(&self, numbers: &[u32]) -> Tensor {
        let labels: Vec<i32> = numbers.iter().map(|&i| i32::from(self.data.labels[i as usize])).collect();
        Tensor::from_values(Spec::rows([numbers.len()], DType::I32), &labels)
    }

    /// x [G][C][H][W] lanes; lanes without an image are black.
    fn fill<T: Element>(&self, numbers: &[u32], moves: &(dyn Fn(usize) -> Option<Move> + Sync), x: &mut [[T; L]]) {
        let [c, h, w] = self.input;
        let (dh, dw) = (self.data.height, self.data.width);
        let (top, left) = ((h - dh) / 2, (w - dw) / 2);
        let tables: Vec<[T; 256]> = self.tables.iter().map(|t| t.map(T::from_f64)).collect();
        x.par_chunks_mut(c * h * w).zip(numbers.par_chunks(L)).enumerate().for_each(|(g, (x, numbers))| {
            for (x, table) in x.chunks_mut(h * w).zip(&tables) {
                x.fill([table[0]; L]);
            }
            for (l, &i) in numbers.iter().enumerate() {
                let (image, moved) = (self.data.image(i as usize), moves(g * L + l));
                for (ch, table) in tables.iter().enumerate() {
                    let plane = &image[ch.min(self.data.channels - 1) * dh * dw..][..dh * dw];
                    for (y, row) in plane.chunks_exact(dw).enumerate() {
                        let at = (ch * h + top + y) * w + left;
                        let Some(moved) = moved else {
                            for (x, &byte) in x[at..at + dw].iter_mut().zip(row) {
                                x[l] = table[usize::from(byte)];
                            }
                            continue;
                        };
                        for (col, x) in x[at..at + dw].iter_mut().enumerate() {
                            let byte = moved.source(y, col, dh, dw).map_or(0, |(row, col)| plane[row * dw + col]);
                            x[l] = table[usize::from(byte)];
                        }
                    }
                }
            }
        });
    }

    /// The same for pictures that are sampled between their pixels.
    fn fill_between<T: Element>(&self, numbers: &[u32], resample: &Resample, x: &mut [[T; L]]) {
        let [c, h, w] = self.input;
        let Dataset { channels, height, width, .. } = *self.data;
        let plane = height * width;
        let corner = (h - height) / 2 * w + (w - width) / 2;
        let lines: Vec<[T::Acc; 2]> = self.lines.iter().map(|line| line.map(T::Acc::from_f64)).collect();
        x.par_chunks_mut(c * h * w).zip(numbers.par_chunks(L)).enumerate().for_each_init(
            || resample.scratch(),
            |scratch, (g, (x, numbers))| {
                if numbers.len() < L || plane < h * w {
                    for (x, [_, offset]) in x.chunks_mut(h * w).zip(&lines) {
                        x.fill([T::down(*offset); L]);
                    }
                }
                for (lane, &i) in numbers.iter().enumerate() {
                    let drawn = resample.place(g * L + lane, scratch);
                    for (ch, &[gain, offset]) in lines.iter().enumerate() {
                        // Grey is laid out once for all channels.
                        if ch < channels {
                            resample.lay_out(&self.data.image(i as usize)[ch * plane..][..plane], &drawn, scratch);
                        }
                        let to = Target { first: ch * h * w + corner, stride: w, lane, gain, offset };
                        resample.write(&drawn, scratch, to, x);
                    }
                }
            },
        );
    }
}

/// Images of a data set as they would be learned from, `[channels][height][width]` bytes each: those with these numbers, augmented by the draws of
/// `seed` and `step`.
pub fn preview(data: &Dataset, numbers: &[u32], augment: Augment, seed: u64, step: u64) -> Result<Vec<Vec<u8>>> {
    let plain = Normalization { mean: vec![0.0; data.channels], std: vec![1.0; data.channels] };
    let loader = Loader::new(data, &plain, [data.channels, data.height, data.width], DType::F32, Device::Cpu)?;
    let (x, _) = loader.batch_to_learn(numbers, augment, seed, step);
    let bytes: Vec<u8> = x.values().iter().map(|v| (v * 255.0).round() as u8).collect();
    Ok(bytes.chunks(data.image_len()).map(<[u8]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(channels: usize, height: usize, width: usize, n: usize) -> Dataset {
        Dataset {
            name: "test".into(),
            images: (0..n * channels * height * width).map(|i| (i * 37 % 251) as u8).collect(),
            labels: (0..n).map(|i| (i % 10) as u8).collect(),
            channels,
            height,
            width,
            classes: (0..10).map(|c| c.to_string()).collect(),
        }
    }

    #[test]
    fn pictures_land_in_their_lanes() {
        let set = data(1, 3, 2, 40);
        let norm = Normalization { mean: vec![0.25], std: vec![0.5] };
        let loader = Loader::new(&set, &norm, [1, 3, 2], DType::F64, Device::Cpu).unwrap();
        let numbers: Vec<u32> = (0..33).map(|i| (i * 7 % 40) as u32).collect();
        let (x, labels) = loader.batch(&numbers).unwrap();
        let expected: Vec<f64> =
            numbers.iter().flat_map(|&i| set.image(i as usize)).map(|&b| (f64::from(b) / 255.0 - 0.25) / 0.5).collect();
        assert_eq!(x.values(), expected);
        assert_eq!(labels.values(), numbers.iter().map(|i| f64::from(i % 10)).collect::<Vec<_>>());
    }

    #[test]
    fn a_preview_is_bytes_again() {
        let set = data(3, 4, 5, 9);
        let all = |augment: &str| preview(&set, &[8, 0, 3], augment.parse().unwrap(), 1, 2).unwrap();
        assert_eq!(all("none"), [8, 0, 3].map(|i| set.image(i).to_vec()));
        assert_eq!(all("erase:0.001"), all("none"));
        let erased = all("erase:1");
        assert!(erased != all("none") && erased.iter().all(|image| image.len() == 60 && image.contains(&0)));
    }

    #[test]
    fn grey_is_repeated_and_small_is_centred() {
        let set = data(1, 2, 2, 1);
        let norm = Normalization { mean: vec![0.0], std: vec![1.0] };
        let (x, _) = Loader::new(&set, &norm, [3, 4, 4], DType::F64, Device::Cpu).unwrap().batch(&[0]).unwrap();
        let x = x.values();
        assert_eq!(x[..16], x[16..32]);
        assert_eq!(x[5..7], [0.0, 37.0 / 255.0]);
        assert_eq!(x[9..11], [74.0 / 255.0, 111.0 / 255.0]);
        assert_eq!(x[..5], [0.0; 5]);
        assert!(Loader::new(&data(1, 5, 4, 1), &norm, [1, 4, 4], DType::F32, Device::Cpu).is_err());
        assert!(Loader::new(&data(3, 4, 4, 1), &norm, [1, 4, 4], DType::F32, Device::Cpu).is_err());
    }
}
