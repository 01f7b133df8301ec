//! `cugrad eval`.
//!
//! Read next: `predict.rs`.

use super::{DataArgs, print, remark};
use crate::data::Loader;
use crate::device::Device;
use crate::error::Result;
use crate::export::import;
use crate::ops::cross_entropy;
use crate::train::step::evaluate;
use crate::train::trainer::EVAL_BATCH;
use crate::train::{Confusion, Trained};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Judge a checkpoint on the test images.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cugrad eval runs/20260101-120000-lenet/best.safetensors\n  cugrad eval last.safetensors --data fashion --json"
)]
pub struct Eval {
    /// A checkpoint, such as a run's best.safetensors
    checkpoint: PathBuf,
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
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Eval {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let (device, why) = Device::open(&self.device)?;
        why.into_iter().for_each(remark);
        let saved = import::read(&self.checkpoint)?;
        let Trained { mut model, classes, normalization, config } = Trained::load(&self.checkpoint, &saved, device)?;
        let (data, splits) = self.data_args.load_for(&config, &classes, self.data.as_deref(), self.limit)?;
        let loader = Loader::new(&splits.test, &normalization, model.input, model.dtype, device)?;
        let numbers: Vec<u32> = (0..splits.test.len() as u32).collect();
        let mut confusion = Confusion::new(classes.len());
        let sums = evaluate(&mut model, &loader, &numbers, EVAL_BATCH, |labels, logits| {
            let (truths, predictions) = (labels.fetch()?, cross_entropy::predictions(&logits.fetch()?));
            truths.data::<i32>().iter().zip(predictions).try_for_each(|(&t, p)| confusion.add(t as usize, p as usize))
        })?;
        let report = confusion.report(&classes)?;
        if self.json {
            return print(json!({"checkpoint": self.checkpoint, "model": model.name, "data": data, "images": sums.samples(),
                "accuracy": sums.accuracy(), "loss": sums.loss(), "report": report, "confusion": confusion}));
        }
        print(format_args!("{} on {data}, {} test images", model.name, sums.samples()))?;
        print(format_args!("accuracy {:.2}%  mean loss {:.4}\n", 100.0 * sums.accuracy(), sums.loss()))?;
        print(&report)?;
        print("confusion matrix (rows: truth, columns: prediction)")?;
        print(confusion.table(&classes)?)
    }
}
