//! `cugrad eval`.
//!
//! Read next: `predict.rs`.

use super::findings::{Findings, Miss, in_words, mistakes};
use super::pictures::PictureArgs;
use super::{DataArgs, print, remark};
use crate::device::Device;
use crate::error::Result;
use crate::export::import;
use crate::train::{Confusion, Ensemble, Judged, Views};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Judge a network, or several together, on the test images.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cugrad eval runs/20260101-120000-lenet/best.safetensors\n  cugrad eval last.safetensors --data fashion --json\n  cugrad eval best.safetensors --out findings --errors 100\n  cugrad eval runs/a/last.safetensors runs/b/last.safetensors runs/c/last.safetensors --vote"
)]
pub struct Eval {
    /// Checkpoints, such as a run's best.safetensors; several judge together, by the mean of their probabilities
    #[arg(required = true, value_name = "CHECKPOINT")]
    checkpoints: Vec<PathBuf>,
    #[command(flatten)]
    together: Together,
    /// Data set [default: the one it was trained on]
    #[arg(long)]
    data: Option<String>,
    #[command(flatten)]
    data_args: DataArgs,
    /// Where to compute: auto, cpu, cuda:N or emu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Use only the first N test images
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Write the report (text, JSON), the confusion matrix (picture) and images taken for something else to a directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// With --out, write at most so many wrong images
    #[arg(long, value_name = "N", default_value_t = 25)]
    errors: usize,
    #[command(flatten)]
    pictures: PictureArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How networks judge: together, and from how many views.
#[derive(Debug, Args)]
pub struct Together {
    /// Several networks vote (ties go to the class with the higher mean probability)
    #[arg(long)]
    vote: bool,
    /// Test-time augmentation: shift looks at each picture nine times, as it is and moved by one pixel in eight directions; or none
    #[arg(long, default_value_t = Views::One)]
    tta: Views,
}

impl Together {
    /// Loads the networks of these checkpoints.
    pub fn load(&self, checkpoints: &[PathBuf], device: Device) -> Result<Ensemble> {
        Ensemble::load(checkpoints, import::read, self.vote, self.tta, device)
    }
}

impl Eval {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let (device, why) = Device::open(&self.device)?;
        why.into_iter().for_each(remark);
        let mut ensemble = self.together.load(&self.checkpoints, device)?;
        let (classes, config) = (ensemble.members[0].classes.clone(), ensemble.members[0].config.clone());
        let (data, splits) = self.data_args.load_for(&config, &classes, self.data.as_deref(), self.limit)?;
        let Judged { sums, members, opinions } = ensemble.judge(&splits.test)?;
        let mut confusion = Confusion::new(classes.len());
        opinions.iter().zip(&splits.test.labels).try_for_each(|(o, &truth)| confusion.add(truth.into(), o.class))?;
        let report = confusion.report(&classes)?;
        let names: Vec<&str> = ensemble.members.iter().map(|m| m.model.name.as_str()).collect();
        let mut said = json!({"data": data, "images": sums.samples(), "accuracy": sums.accuracy(), "loss": sums.loss(), "report": report,
            "confusion": confusion, "mistakes": mistakes(&confusion, &classes), "tta": ensemble.views.to_string()});
        match (&self.checkpoints[..], &names[..]) {
            ([checkpoint], [name]) => (said["checkpoint"], said["model"]) = (json!(checkpoint), json!(name)),
            (checkpoints, names) => {
                (said["checkpoints"], said["models"], said["vote"]) = (json!(checkpoints), json!(names), json!(ensemble.vote));
                said["members"] = json!(members);
            }
        }
        let mut text = format!("{} on {data}, {} test images{}\n", names.join(" + "), sums.samples(), ensemble.how());
        if members.len() > 1 {
            for (path, accuracy) in self.checkpoints.iter().zip(members) {
                text += &format!("  {:.2}%  {}\n", 100.0 * accuracy, path.display());
            }
        }
        text += &format!("accuracy {:.2}%  mean loss {:.4}\n\n{report}\n", 100.0 * sums.accuracy(), sums.loss());
        text += &format!("confusion matrix (rows: truth, columns: prediction)\n{}\n", confusion.table(&classes)?);
        for line in in_words(&confusion, &classes, 10) {
            text += &format!("{line}\n");
        }
        print(if self.json { said.to_string() } else { text.trim_end().to_string() })?;
        let Some(dir) = &self.out else { return Ok(()) };
        let misses: Vec<Miss> = (opinions.iter().zip(&splits.test.labels).enumerate())
            .map(|(image, (o, &truth))| Miss { image, truth: truth.into(), prediction: o.class, probability: o.probabilities[o.class] })
            .filter(|miss| miss.truth != miss.prediction)
            .collect();
        let findings = Findings { data: &splits.test, classes: &classes, confusion: &confusion, report: &said, misses: &misses };
        let lines = findings.save(dir, self.errors, &text, &self.pictures)?;
        if !self.json {
            print("")?;
            lines.iter().try_for_each(print)?;
        }
        remark(format_args!("report, confusion matrix and wrong images: {}", dir.display()));
        Ok(())
    }
}
