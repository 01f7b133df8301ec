//! `cugrad predict`.
//!
//! Read next: `check.rs`.

use super::eval::Together;
use super::pictures::{PictureArgs, prediction, read_pictures, safe};
use super::{print, remark};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::plot::{Picture, check_name};
use crate::train::Opinion;
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Endings that say that a path is a file and no directory.
const FILES: [&str; 9] = ["png", "svg", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "pdf"];

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
    /// Draw each picture beside the probabilities, as <picture>-prediction.png in a directory; of one picture, also to a FILE.png or FILE.svg
    #[arg(long, value_name = "DIR|FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    pictures: PictureArgs,
    /// Print one JSON object a picture
    #[arg(long)]
    json: bool,
}

impl Predict {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        self.out.as_deref().map_or(Ok(()), |out| self.check(out))?;
        let (device, why) = Device::open(&self.device)?;
        why.into_iter().for_each(remark);
        let mut ensemble = self.together.load(&self.checkpoint, device)?;
        let first = &ensemble.members[0];
        let data = read_pictures(&self.images, &first.config, &first.normalization, first.model.input, &first.classes)?;
        let drawn = self.out.as_ref().map(|out| self.names(out));
        let fonts = self.pictures.fonts()?;
        let judged = ensemble.judge(&data)?;
        for (i, (path, Opinion { class, probabilities: p })) in self.images.iter().zip(judged.opinions).enumerate() {
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
            if let Some(out) = drawn.as_ref().and_then(|names| names.get(i)) {
                let title = format!("{}: {} ({:.2}%)", path.display(), name(class), 100.0 * p[class]);
                let input = Picture::planes(data.channels, data.height, data.width, data.image(i));
                prediction(title, input, class, &data.classes, &p).save(out, &fonts)?;
                remark(format_args!("drawn: {}", out.display()));
            }
        }
        Ok(())
    }

    /// Refuses an `--out` that is meant as a file, but that no picture can be drawn to, or that several would be.
    fn check(&self, out: &Path) -> Result<()> {
        let ending = out.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if out.is_dir() || !FILES.contains(&ending.as_str()) {
            return Ok(());
        }
        if self.images.len() > 1 {
            return Err(Error::usage(format!("--out {} is one file, but {} pictures are to be drawn", out.display(), self.images.len()))
                .hint("give --out a directory, or one picture at a time"));
        }
        check_name(out)
    }

    /// Where each picture is drawn to. Pictures of one name from several directories get numbers.
    fn names(&self, out: &Path) -> Vec<PathBuf> {
        if self.images.len() == 1 && !out.is_dir() && check_name(out).is_ok() {
            return vec![out.to_path_buf()];
        }
        let mut taken = BTreeSet::new();
        let name = |image: &PathBuf| {
            let stem = safe(&image.file_stem().unwrap_or_default().to_string_lossy());
            let numbered = |n: usize| if n == 1 { format!("{stem}-prediction") } else { format!("{stem}-{n}-prediction") };
            // Of as many names as there are pictures, one is free.
            let free = (1..=self.images.len()).map(numbered).find(|name| taken.insert(name.clone()));
            self.pictures.path(out, &free.unwrap_or(stem))
        };
        self.images.iter().map(name).collect()
    }
}
