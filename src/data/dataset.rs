//! A data set in memory: bytes and labels, their checks, the statistics to normalise with, and the orders to read them in.
//!
//! Nothing here knows where the bytes came from or where they go: batches are gathered on the device, from the whole set, by the
//! index lists made here. Read next: `source.rs` (where sets come from).

use super::random::Stream;
use crate::error::{Error, Result};

/// Images and their labels, all in memory as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// What it is called in messages, such as `MNIST train`.
    pub name: String,
    /// The pixels, `[N][channels][height][width]`, 0 black to 255 white.
    pub images: Vec<u8>,
    /// The class of each image, `[N]`, an index into `classes`.
    pub labels: Vec<u8>,
    /// Colour planes per image: 1 for grey.
    pub channels: usize,
    /// Rows per image.
    pub height: usize,
    /// Columns per image.
    pub width: usize,
    /// What each class is called.
    pub classes: Vec<String>,
}

impl Dataset {
    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes of one image: `channels * height * width`.
    pub fn image_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// The pixels of image `i`, `[channels][height][width]`; panics when there is no such image.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.images[i * self.image_len()..(i + 1) * self.image_len()]
    }

    /// The same images moved down and right by so many pixels (up and left if negative), black where nothing comes from.
    pub fn moved(&self, [down, right]: [isize; 2]) -> Dataset {
        let (h, w) = (self.height, self.width);
        let mut moved = Dataset { images: vec![0; self.images.len()], ..self.clone() };
        for (to, from) in moved.images.chunks_exact_mut(h * w).zip(self.images.chunks_exact(h * w)) {
            for y in 0..h {
                for x in 0..w {
                    let place = |at: usize, by: isize, size: usize| at.checked_add_signed(-by).filter(|&at| at < size);
                    if let (Some(row), Some(column)) = (place(y, down, h), place(x, right, w)) {
                        to[y * w + x] = from[row * w + column];
                    }
                }
            }
        }
        moved
    }

    /// Keeps the first `n` images; does nothing when there are no more than that.
    pub fn limit(&mut self, n: usize) {
        self.images.truncate(n.saturating_mul(self.image_len()));
        self.labels.truncate(n);
    }

    /// Makes sure that there is a whole image for every label, and a class for every label.
    pub fn check(&self) -> Result<()> {
        let Self { name, images, labels, classes, .. } = self;
        if images.len() != labels.len() * self.image_len() {
            return Err(Error::data(format!(
                "{name}: {} labels of {}x{}x{} images need {} bytes of pixels, but there are {}",
                labels.len(),
                self.channels,
                self.height,
                self.width,
                labels.len() * self.image_len(),
                images.len()
            ))
            .hint("images and labels must come from the same half of the same set: train with train, t10k with t10k"));
        }
        match labels.iter().position(|&label| usize::from(label) >= classes.len()) {
            Some(i) => Err(Error::data(format!(
                "{name}: the label of image {i} is {}, but there are {} classes (0 to {})",
                labels[i],
                classes.len(),
                classes.len().saturating_sub(1)
            ))
            .hint("the labels file is damaged or belongs to another data set: delete it and fetch it again")),
            None => Ok(()),
        }
    }
}

/// Mean and standard deviation of each channel, on the scale where black is 0 and white is 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalization {
    /// One mean per channel.
    pub mean: Vec<f32>,
    /// One standard deviation per channel, never zero.
    pub std: Vec<f32>,
}

impl Normalization {
    /// What everyone uses for MNIST: 0.1307 and 0.3081.
    pub fn mnist() -> Self {
        Self { mean: vec![0.1307], std: vec![0.3081] }
    }

    /// Computed from every pixel of a data set. A channel of one single value gets deviation 1, so that dividing by it is harmless.
    pub fn of(data: &Dataset) -> Self {
        let plane = data.height * data.width;
        let mut normalization = Self { mean: Vec::new(), std: Vec::new() };
        for c in 0..data.channels {
            // Counting the 256 values first makes the sums exact, whatever the number of pixels.
            let mut count = [0u64; 256];
            for image in data.images.chunks_exact(data.image_len()) {
                image[c * plane..(c + 1) * plane].iter().for_each(|&v| count[usize::from(v)] += 1);
            }
            let n = count.iter().sum::<u64>().max(1) as f64;
            let average = |f: &dyn Fn(f64) -> f64| (0..256).map(|v| count[v] as f64 * f(v as f64 / 255.0)).sum::<f64>() / n;
            let mean = average(&|x| x);
            let std = average(&|x| (x - mean) * (x - mean)).sqrt();
            normalization.mean.push(mean as f32);
            normalization.std.push(if std > 0.0 { std as f32 } else { 1.0 });
        }
        normalization
    }
}

/// What a run needs: images to learn from, images to be judged on, and how to normalise both.
#[derive(Debug, Clone, PartialEq)]
pub struct Splits {
    /// To learn from.
    pub train: Dataset,
    /// To be judged on.
    pub test: Dataset,
    /// Of the training images, and used for both.
    pub normalization: Normalization,
    /// So many of the last training images are not learned from, but set aside to choose the best checkpoint by; 0 where nobody has said
    /// which, and a share of all is taken.
    pub val: usize,
}

impl Splits {
    /// The training images to learn from and those to choose the best checkpoint by: `fraction` of all, if nobody has said which.
    pub fn parts(&self, fraction: f64, seed: u64) -> Result<(Vec<u32>, Vec<u32>)> {
        let n = self.train.len();
        match self.val {
            0 => validation_split(n, fraction, seed),
            val => {
                let all: Vec<u32> = (0..n as u32).collect();
                let (train, val) = all.split_at(n.saturating_sub(val));
                Ok((train.to_vec(), val.to_vec()))
            }
        }
    }

    /// Numbers the labels as `classes` does, which must have every class that has an image: what a network has learned.
    pub fn renumber(&mut self, classes: &[String]) -> Result<()> {
        for data in [&mut self.train, &mut self.test] {
            let numbers: Vec<Option<usize>> = data.classes.iter().map(|name| classes.iter().position(|class| class == name)).collect();
            if let Some(&label) = data.labels.iter().find(|&&label| numbers[usize::from(label)].is_none()) {
                let (name, known) = (&data.classes[usize::from(label)], classes.join(", "));
                return Err(Error::data(format!("{} has the class {name}, but the network has learned {known}", data.name))
                    .hint("give it data with the classes that it was trained on, by the same names"));
            }
            data.labels.iter_mut().for_each(|label| *label = numbers[usize::from(*label)].unwrap_or_default() as u8);
            data.classes = classes.to_vec();
        }
        Ok(())
    }
}

/// The numbers 0..n in the order in which an epoch reads them: a pure function of the seed and the epoch, every order equally likely.
pub fn permutation(n: usize, seed: u64, epoch: u64) -> Vec<u32> {
    shuffled(n, &mut Stream::new(&[seed, epoch]))
}

/// Splits 0..n by chance into a training part and a validation part of `fraction` (rounded), each in rising order.
///
/// The same for the same seed, whatever the epoch, so nothing leaks from one part to the other between runs.
pub fn validation_split(n: usize, fraction: f64, seed: u64) -> Result<(Vec<u32>, Vec<u32>)> {
    if !(0.0..1.0).contains(&fraction) {
        return Err(Error::usage(format!("the validation part must be at least 0 and less than 1, not {fraction}"))
            .hint("0.1 keeps a tenth of the training images for validation"));
    }
    // A third key keeps this draw apart from that of every epoch.
    let mut validation = shuffled(n, &mut Stream::new(&[seed, 0, 1]));
    let mut train = validation.split_off((n as f64 * fraction).round() as usize);
    train.sort_unstable();
    validation.sort_unstable();
    Ok((train, validation))
}

/// Fisher and Yates: each place, from the last down, takes one of those not yet placed.
pub(super) fn shuffled(n: usize, stream: &mut Stream) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        order.swap(i, stream.below(i as u32 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_by_two(labels: &[u8]) -> Dataset {
        let images = (0..labels.len() * 8).map(|i| (i * 5) as u8).collect();
        let classes = vec!["cat".into(), "dog".into(), "owl".into()];
        Dataset { name: "pets".into(), images, labels: labels.to_vec(), channels: 2, height: 2, width: 2, classes }
    }

    #[test]
    fn images_are_found_and_limited() {
        let mut data = two_by_two(&[0, 1, 2]);
        assert_eq!((data.len(), data.image_len()), (3, 8));
        assert_eq!(data.image(1), [40, 45, 50, 55, 60, 65, 70, 75]);
        data.limit(7);
        assert_eq!(data.len(), 3);
        data.limit(usize::MAX);
        data.limit(2);
        assert_eq!((data.len(), data.images.len()), (2, 16));
        data.check().unwrap();
    }

    #[test]
    fn check_names_the_set_the_image_the_label_and_the_classes() {
        let message = two_by_two(&[0, 1, 2, 9, 8]).check().unwrap_err().message;
        assert_eq!(message, "pets: the label of image 3 is 9, but there are 3 classes (0 to 2)");
        let mut short = two_by_two(&[0, 1]);
        short.images.pop();
        assert!(short.check().unwrap_err().message.contains("need 16 bytes of pixels, but there are 15"));
    }

    #[test]
    fn normalization_is_per_channel_and_never_divides_by_zero() {
        let mut data = two_by_two(&[0]);
        data.images = vec![0, 255, 0, 255, 51, 51, 51, 51];
        let n = Normalization::of(&data);
        assert_eq!((n.mean, n.std), (vec![0.5, 0.2], vec![0.5, 1.0]));
        data.limit(0);
        assert_eq!(Normalization::of(&data), Normalization { mean: vec![0.0; 2], std: vec![1.0; 2] });
    }

    #[test]
    fn a_permutation_is_complete_and_depends_on_seed_and_epoch_alone() {
        let order = permutation(1000, 3, 5);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
        assert_eq!(order, permutation(1000, 3, 5));
        assert_ne!(order, permutation(1000, 3, 6));
        assert_ne!(order, permutation(1000, 4, 5));
        assert!(permutation(0, 1, 1).is_empty());
    }

    #[test]
    fn every_order_is_equally_likely() {
        let mut seen = std::collections::BTreeMap::new();
        (0..24_000).for_each(|epoch| *seen.entry(permutation(4, 1, epoch)).or_insert(0i32) += 1);
        assert_eq!(seen.len(), 24);
        assert!(seen.values().all(|n| (n - 1000).abs() < 150), "{seen:?}");
    }

    #[test]
    fn the_validation_split_shares_nothing() {
        let (train, validation) = validation_split(101, 0.2, 9).unwrap();
        assert_eq!((train.len(), validation.len()), (81, 20));
        let mut all = [train.clone(), validation].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..101));
        assert_eq!(validation_split(101, 0.2, 9).unwrap().0, train);
        assert_ne!(validation_split(101, 0.2, 8).unwrap().0, train);
        assert!(validation_split(5, 0.0, 0).unwrap().1.is_empty());
        for fraction in [1.0, -0.1, f64::NAN] {
            assert_eq!(validation_split(5, fraction, 0).unwrap_err().exit_code(), 2);
        }
    }
}
