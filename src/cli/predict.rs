//! `cugrad predict`.
//!
//! Read next: `check.rs`.

use super::eval::Together;
use super::{print, remark};
use crate::data::{Dataset, Source, read_digit, read_picture};
use crate::device::Device;
use crate::error::Result;
use crate::train::Opinion;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Say which digit a picture shows.
#[derive(Debug, Args)]
#[command(
    after_help = "Pictures may have any size, colour and polarity: they are brought to MNIST's form first, or for a network that was trained on a folder, a list or CIFAR-10 to the size and colours that it takes.\n\nExample:\n  cugrad predict --checkpoint runs/20260101-120000-lenet/best.safetensors seven.png photo.jpg"
)]
pub struct Predict {
    /// A checkpoint, such as a run's best.safetensors; given several times, the networks judge together
    #[arg(long, required = true, value_name = "CHECKPOINT")]
    checkpoint: Vec<PathBuf>,
    #[command(flatten)]
    together: Together,
    /// PNG, JPEG or BMP files
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Where to compute: auto, cpu, cuda:N or emu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print one JSON object a picture
    #[arg(long)]
    json: bool,
}

impl Predict {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let (device, why) = Device::open(&self.device)?;
        why.into_iter().for_each(remark);
        let mut ensemble = self.together.load(&self.checkpoint, device)?;
        let first = &ensemble.members[0];
        // The network repeats a grey picture for its channels if it was trained on grey ones.
        let (channels, [_, height, width], classes) = (first.normalization.mean.len(), first.model.input, first.classes.clone());
        // What was trained on pictures as they are sees this one as it is; the others see white signs on black.
        let digits = first.config.data.parse::<Source>()?.is_white_on_black();
        let size = first.config.size()?.filter(|_| !digits);
        let [height, width] = size.unwrap_or([height, width]);
        let mut data = Dataset { name: "pictures".into(), images: Vec::new(), labels: Vec::new(), channels, height, width, classes };
        for path in &self.images {
            data.images.extend(match digits {
                true => read_digit(path, height, width, channels)?,
                false => read_picture(path, [channels, height, width])?,
            });
            data.labels.push(0);
        }
        let judged = ensemble.judge(&data)?;
        for (path, Opinion { class, probabilities: p }) in self.images.iter().zip(judged.opinions) {
            let mut order: Vec<usize> = (0..p.len()).collect();
            // What most voted for need not be the most likely.
            order.sort_by(|&a, &b| (b == class).cmp(&(a == class)).then(p[b].total_cmp(&p[a])));
            let name = |c: usize| data.classes[c].as_str();
            if self.json {
                let all: serde_json::Map<_, _> = (0..p.len()).map(|c| (name(c).to_string(), p[c].into())).collect();
                print(json!({"image": path, "class": name(order[0]), "probability": p[order[0]], "probabilities": all}))?;
            } else {
                let next: Vec<String> = order[1..].iter().take(2).map(|&c| format!("{} {:.1}%", name(c), 100.0 * p[c])).collect();
                let (path, best) = (path.display(), order[0]);
                print(format_args!("{path}: {}  {:.2}%  (next {})", name(best), 100.0 * p[best], next.join(", ")))?;
            }
        }
        Ok(())
    }
}
