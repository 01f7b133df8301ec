//! `cugrad data mosaic`: a number written with digits of a data set, and read by a network.
//!
//! Read next: `cli/predict.rs`, for pictures of one's own.

use super::{Choice, Part, print, remark};
use crate::autograd::Tape;
use crate::data::{Dataset, Loader, permutation};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::softmax::Softmax;
use crate::plot::{self, Picture};
use crate::train::{Checkpoint, Trained};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// The most digits of a number.
const LONGEST: usize = 100;

/// Write a number with digits of a data set.
#[derive(Debug, Args)]
pub(super) struct Mosaic {
    /// The number, such as 2024013325
    number: String,
    #[command(flatten)]
    choice: Choice,
    /// Digits to learn from, or to be judged on
    #[arg(long, value_enum, default_value = "test")]
    part: Part,
    /// Pixels of the picture for each of a digit, in both directions
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    scale: u16,
    /// The picture to write [default: NUMBER.png]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A checkpoint whose network is to read the number
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// Where the network computes: auto, cpu, cuda:N or emu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a network takes a digit for.
struct Reading {
    class: String,
    probability: f64,
}

impl Mosaic {
    pub fn run(self) -> Result<()> {
        let digits: Vec<char> = self.number.chars().collect();
        if !(1..=LONGEST).contains(&digits.len()) || !digits.iter().all(char::is_ascii_digit) {
            return Err(Error::usage(format!("'{}' is no number of 1 to {LONGEST} digits", self.number)).hint("write it as 2024013325"));
        }
        let out = self.out.clone().unwrap_or_else(|| format!("{}.png", self.number).into());
        plot::check_name(&out)?;
        if out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("svg")) {
            return Err(Error::usage("a mosaic is a PNG file").hint("end --out with .png"));
        }
        let trained = self.checkpoint.as_ref().map(|path| -> Result<Trained> {
            let (device, why) = Device::open(&self.device)?;
            why.into_iter().for_each(remark);
            Trained::load(path, &Checkpoint::load(path)?, device)
        });
        let mut trained = trained.transpose()?;
        let (_, splits) = match &trained {
            Some(Trained { config, classes, .. }) => {
                // Data that nobody named are those that the network was trained on.
                let name = (self.choice.data != "auto").then_some(self.choice.data.as_str());
                self.choice.data_args.load_for(config, classes, name, self.choice.limit)?
            }
            None => self.choice.load()?,
        };
        let data = self.part.of(&splits);
        let numbers = chosen(data, &digits, self.choice.seed)?;
        mosaic(data, &numbers, self.scale.into()).save(&out)?;
        let readings = trained.as_mut().map(|trained| read(trained, data, &numbers)).transpose()?;
        self.tell(&digits, &numbers, readings.as_deref(), &out)
    }

    fn tell(&self, digits: &[char], numbers: &[u32], readings: Option<&[Reading]>, out: &std::path::Path) -> Result<()> {
        let right = |digit: &char, reading: &Reading| reading.class == digit.to_string();
        if self.json {
            let digits: Vec<_> = digits.iter().zip(numbers).map(|(digit, i)| json!({"digit": digit.to_string(), "image": i})).collect();
            let readings =
                readings.map(|all| all.iter().map(|r| json!({"class": r.class, "probability": r.probability})).collect::<Vec<_>>());
            return print(json!({"number": self.number, "picture": out, "digits": digits, "predictions": readings}));
        }
        print(out.display())?;
        let Some(readings) = readings else { return Ok(()) };
        for ((digit, i), reading) in digits.iter().zip(numbers).zip(readings) {
            let Reading { class, probability } = reading;
            let mark = if right(digit, reading) { "" } else { "  wrong" };
            print(format_args!("{digit} (image {i}): {class}  {:.2}%{mark}", 100.0 * probability))?;
        }
        let count = digits.iter().zip(readings).filter(|(digit, reading)| right(digit, reading)).count();
        let text: Vec<&str> = readings.iter().map(|reading| reading.class.as_str()).collect();
        print(format_args!("read as {}: {count} of {} right", text.concat(), digits.len()))
    }
}

/// The number of an image for each digit: any one of its class, by the seed and the digit's place.
fn chosen(data: &Dataset, digits: &[char], seed: u64) -> Result<Vec<u32>> {
    let one = |(place, digit): (usize, &char)| -> Result<u32> {
        let class = data.classes.iter().position(|name| *name == digit.to_string());
        let images: Vec<u32> = (0..data.len() as u32).filter(|&i| Some(usize::from(data.labels[i as usize])) == class).collect();
        let first = permutation(images.len(), seed, place as u64).first().map(|&i| images[i as usize]);
        first.ok_or_else(|| {
            Error::data(format!("{} has no image of the class {digit}", data.name))
                .hint("choose --data with the classes 0 to 9, such as mnist")
        })
    };
    digits.iter().enumerate().map(one).collect()
}

/// Images side by side, every pixel `scale` times as large.
fn mosaic(data: &Dataset, numbers: &[u32], scale: usize) -> Picture {
    let Dataset { channels, height, width, .. } = *data;
    let rows = height * scale;
    let columns = numbers.len() * width * scale;
    let byte = |c: usize, y: usize, x: usize| {
        let image = data.image(numbers[x / (width * scale)] as usize);
        image[(c * height + y / scale) * width + x / scale % width]
    };
    let places = (0..channels).flat_map(|c| (0..rows).flat_map(move |y| (0..columns).map(move |x| (c, y, x))));
    let bytes: Vec<u8> = places.map(|(c, y, x)| byte(c, y, x)).collect();
    Picture::planes(channels, rows, columns, &bytes)
}

/// What the network takes each image for.
fn read(trained: &mut Trained, data: &Dataset, numbers: &[u32]) -> Result<Vec<Reading>> {
    let Trained { model, classes, normalization, .. } = trained;
    let loader = Loader::new(data, normalization, model.input, model.dtype, model.device)?;
    let mut tape = Tape::inference();
    let logits = tape.input(model.logits(loader.batch(numbers)?.0)?);
    let p = tape.apply(Softmax { log: false }, &[logits])?;
    let p = tape.value(p).read()?;
    let best = |p: &[f64]| (0..p.len()).fold(0, |best, c| if p[c] > p[best] { c } else { best });
    Ok(p.chunks_exact(classes.len()).map(|p| Reading { class: classes[best(p)].clone(), probability: p[best(p)] }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synthetic;

    #[test]
    fn digits_stand_in_their_places() {
        let data = synthetic(200, 0, 1).train;
        let digits = ['2', '0', '7', '0'];
        let numbers = chosen(&data, &digits, 5).unwrap();
        let labels: Vec<u8> = numbers.iter().map(|&i| data.labels[i as usize]).collect();
        assert_eq!(labels, [2, 0, 7, 0]);
        assert_eq!(chosen(&data, &digits, 5).unwrap(), numbers);
        assert_ne!(chosen(&data, &digits, 6).unwrap(), numbers);
        let picture = mosaic(&data, &numbers, 3);
        assert_eq!((picture.width, picture.height), (4 * 84, 84));
        for (place, &i) in numbers.iter().enumerate() {
            for (x, y) in [(0, 0), (14, 14), (27, 9), (13, 20)] {
                let expected = data.image(i as usize)[y * 28 + x];
                assert_eq!(picture.pixel(place * 84 + 3 * x + 1, 3 * y + 2), [expected; 3]);
            }
        }
        let few = synthetic(5, 0, 1).train;
        assert!(chosen(&few, &['7'], 0).unwrap_err().message.contains("no image of the class 7"));
    }
}
