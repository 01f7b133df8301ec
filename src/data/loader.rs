//! Batches: pictures picked by number, normalised, and laid out in lanes.
//!
//! A picture is bytes until here. Each byte goes through a table of 256 normalised values (one table a channel), straight into
//! its image's lane. Grey pictures feed a network that takes colour by repeating their one channel; pictures smaller than the
//! network's input are centred on black. Read next: `train/mod.rs`.

use super::{Dataset, Normalization};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{DType, Element, L, Spec, Tensor};
use rayon::prelude::*;

/// Makes batches of one data set for one network.
#[derive(Debug)]
pub struct Loader<'a> {
    data: &'a Dataset,
    /// For each input channel of the network: the normalised value of each byte.
    tables: Vec<[f64; 256]>,
    /// Channels, height, width that the network takes.
    input: [usize; 3],
    dtype: DType,
}

impl<'a> Loader<'a> {
    /// Batches of `data` for a network that takes `input` (channels, height, width) in `dtype`.
    pub fn new(data: &'a Dataset, normalization: &Normalization, input: [usize; 3], dtype: DType) -> Result<Self> {
        let [c, h, w] = input;
        if data.channels != c && data.channels != 1 || data.height > h || data.width > w {
            return Err(Error::data(format!(
                "{}: pictures of {}x{}x{} do not fit a network that takes {c}x{h}x{w}",
                data.name, data.channels, data.height, data.width
            ))
            .hint("choose another --model or --data"));
        }
        let table = |c: usize| {
            let c = c.min(data.channels - 1);
            let (mean, std) = (f64::from(normalization.mean[c]), f64::from(normalization.std[c]));
            std::array::from_fn(|v| (v as f64 / 255.0 - mean) / std)
        };
        Ok(Self { data, tables: (0..c).map(table).collect(), input, dtype })
    }

    /// The data set.
    pub fn data(&self) -> &Dataset {
        self.data
    }

    /// The pictures with these numbers, `[N,C,H,W]` in lanes, and their labels, `[N]` in i32.
    pub fn batch(&self, numbers: &[u32]) -> (Tensor, Tensor) {
        let [c, h, w] = self.input;
        let mut x = Tensor::new(Spec::lanes([numbers.len(), c, h, w], self.dtype));
        dispatch!(self.dtype, T => self.fill::<T>(numbers, x.lanes_mut()));
        let labels: Vec<i32> = numbers.iter().map(|&i| i32::from(self.data.labels[i as usize])).collect();
        (x, Tensor::from_values(Spec::rows([numbers.len()], DType::I32), &labels))
    }

    /// x [G][C][H][W] lanes; lanes without an image are black.
    fn fill<T: Element>(&self, numbers: &[u32], x: &mut [[T; L]]) {
        let [c, h, w] = self.input;
        let (dh, dw) = (self.data.height, self.data.width);
        let (top, left) = ((h - dh) / 2, (w - dw) / 2);
        let tables: Vec<[T; 256]> = self.tables.iter().map(|t| t.map(T::from_f64)).collect();
        x.par_chunks_mut(c * h * w).zip(numbers.par_chunks(L)).for_each(|(x, numbers)| {
            for (x, table) in x.chunks_mut(h * w).zip(&tables) {
                x.fill([table[0]; L]);
            }
            for (l, &i) in numbers.iter().enumerate() {
                let image = self.data.image(i as usize);
                for (ch, table) in tables.iter().enumerate() {
                    let plane = &image[ch.min(self.data.channels - 1) * dh * dw..][..dh * dw];
                    for (y, row) in plane.chunks_exact(dw).enumerate() {
                        let at = (ch * h + top + y) * w + left;
                        for (x, &byte) in x[at..at + dw].iter_mut().zip(row) {
                            x[l] = table[usize::from(byte)];
                        }
                    }
                }
            }
        });
    }
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
        let loader = Loader::new(&set, &norm, [1, 3, 2], DType::F64).unwrap();
        let numbers: Vec<u32> = (0..33).map(|i| (i * 7 % 40) as u32).collect();
        let (x, labels) = loader.batch(&numbers);
        let expected: Vec<f64> =
            numbers.iter().flat_map(|&i| set.image(i as usize)).map(|&b| (f64::from(b) / 255.0 - 0.25) / 0.5).collect();
        assert_eq!(x.values(), expected);
        assert_eq!(labels.values(), numbers.iter().map(|i| f64::from(i % 10)).collect::<Vec<_>>());
    }

    #[test]
    fn grey_is_repeated_and_small_is_centred() {
        let set = data(1, 2, 2, 1);
        let norm = Normalization { mean: vec![0.0], std: vec![1.0] };
        let (x, _) = Loader::new(&set, &norm, [3, 4, 4], DType::F64).unwrap().batch(&[0]);
        let x = x.values();
        assert_eq!(x[..16], x[16..32]);
        assert_eq!(x[5..7], [0.0, 37.0 / 255.0]);
        assert_eq!(x[9..11], [74.0 / 255.0, 111.0 / 255.0]);
        assert_eq!(x[..5], [0.0; 5]);
        assert!(Loader::new(&data(1, 5, 4, 1), &norm, [1, 4, 4], DType::F32).is_err());
        assert!(Loader::new(&data(3, 4, 4, 1), &norm, [1, 4, 4], DType::F32).is_err());
    }
}
