//! `cugrad data stats`.
//!
//! Read next: `show.rs`.

use super::{Choice, print};
use crate::data::{Dataset, Normalization};
use crate::error::Result;
use clap::Args;
use serde_json::json;

/// Print counts of classes, and mean and standard deviation of the pixels.
#[derive(Debug, Args)]
pub(super) struct Stats {
    #[command(flatten)]
    choice: Choice,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Stats {
    pub fn run(self) -> Result<()> {
        let (name, splits) = self.choice.load()?;
        let data = &splits.train;
        let Normalization { mean, std } = Normalization::of(data);
        let (train, test) = (counts(data), counts(&splits.test));
        let classes = || data.classes.iter().zip(train.iter().zip(&test));
        if self.json {
            let classes: Vec<_> = classes().map(|(name, (train, test))| json!({"class": name, "train": train, "test": test})).collect();
            return print(json!({"data": name, "shape": [data.channels, data.height, data.width], "train": data.len(),
                "test": splits.test.len(), "mean": mean, "std": std, "classes": classes}));
        }
        let colour = if data.channels == 1 { "grey" } else { "in colour" };
        print(format_args!(
            "{name}: {} training and {} test images of {}x{}, {colour}",
            data.len(),
            splits.test.len(),
            data.height,
            data.width
        ))?;
        let numbers = |of: &[f32]| of.iter().map(|x| format!("{x:.4}")).collect::<Vec<_>>().join(", ");
        print(format_args!("mean {}  std {}  (training images, black 0 to white 1)\n", numbers(&mean), numbers(&std)))?;
        let width = data.classes.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
        print(format_args!("{:<width$} {:>9} {:>9}", "class", "train", "test"))?;
        classes().try_for_each(|(name, (train, test))| print(format_args!("{name:<width$} {train:>9} {test:>9}")))
    }
}

/// How many images there are of each class.
fn counts(data: &Dataset) -> Vec<usize> {
    let mut counts = vec![0; data.classes.len()];
    data.labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
    counts
}
