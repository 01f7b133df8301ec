//! `cugrad export`.
//!
//! Read next: `import.rs`.

use super::print;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::export::{Format, PICTURES, Proof, export, import, numbers};
use crate::tensor::DType;
use crate::train::Trained;
use clap::Args;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

/// Write a checkpoint for PyTorch or ONNX.
#[derive(Debug, Args)]
#[command(
    after_help = "The file is read back and its logits are compared with the network's.\n\nExamples:\n  cugrad export runs/20260101-120000-lenet/best.safetensors -o lenet.onnx\n  cugrad export best.safetensors -o weights.pth\n  cugrad export last.safetensors --training -o checkpoint.pth\n  cugrad export best.safetensors --format safetensors -o weights.safetensors"
)]
pub struct Export {
    /// A checkpoint, such as a run's best.safetensors
    checkpoint: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// safetensors, pth or onnx [default: by the ending of FILE]
    #[arg(long)]
    format: Option<String>,
    /// With pth: {epoch, model_state_dict, optimizer_state_dict} instead of the bare state dict
    #[arg(long)]
    training: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Export {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let format = self.format()?;
        // Exported weights in the place of a run's checkpoint would lose its optimiser.
        let same = |a: &PathBuf, b: &PathBuf| fs::canonicalize(a).is_ok_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b));
        if same(&self.checkpoint, &self.out) {
            return Err(Error::usage(format!("{} would be overwritten by its own export", self.out.display())).hint("choose another -o"));
        }
        let saved = import::read(&self.checkpoint)?;
        let mut trained = Trained::load_in(&self.checkpoint, &saved, Device::Cpu, Some(DType::F32))?;
        let proof = export(&mut trained, &saved, format, &self.out)?;
        self.tell(&trained, format, &proof)
    }

    fn format(&self) -> Result<Format> {
        let format = match &self.format {
            Some(name) => name.parse()?,
            None => self.out.extension().and_then(|ending| ending.to_str()).unwrap_or_default().parse().map_err(|_| {
                Error::usage(format!("the ending of {} names no format", self.out.display()))
                    .hint("end it in .safetensors, .pth or .onnx, or say --format")
            })?,
        };
        match (format, self.training) {
            (Format::Pth, true) => Ok(Format::PthCheckpoint),
            (_, true) => Err(Error::usage("--training goes with the format pth only")),
            (format, false) => Ok(format),
        }
    }

    fn tell(&self, trained: &Trained, format: Format, proof: &Proof) -> Result<()> {
        let Proof { bytes, difference, largest } = *proof;
        let name = &trained.model.name;
        let snippet = snippet(trained, format, &self.out.display().to_string());
        if self.json {
            let format = match format {
                Format::Safetensors => "safetensors",
                Format::Pth | Format::PthCheckpoint => "pth",
                Format::Onnx => "onnx",
            };
            return print(json!({"file": self.out, "format": format, "model": name, "bytes": bytes, "pictures": PICTURES,
                "max_difference": difference, "max_logit": largest, "python": snippet}));
        }
        print(format_args!("{name}: {} ({bytes} bytes)", self.out.display()))?;
        let again = if format == Format::Onnx { "read back and run by plain loops" } else { "read back into a fresh network" };
        print(format_args!("{again}: the logits of {PICTURES} pictures differ by at most {difference:.1e} (largest {largest:.2})\n"))?;
        print("in Python:\n")?;
        snippet.lines().try_for_each(|line| print(format_args!("    {line}").to_string().trim_end()))?;
        print("\nto look at it: open the file in Netron (https://netron.app)")
    }
}

/// How to use a file in Python.
fn snippet(trained: &Trained, format: Format, path: &str) -> String {
    let file = serde_json::Value::from(path);
    let [c, h, w] = trained.model.input;
    match format {
        Format::Safetensors => {
            format!(
                "from safetensors.torch import load_file\n\nmodel.load_state_dict(load_file({file}))  # a torch.nn.Module with these names"
            )
        }
        Format::Pth => format!("import torch\n\nmodel.load_state_dict(torch.load({file}))  # a torch.nn.Module with these names"),
        Format::PthCheckpoint => format!(
            "import torch\n\nsaved = torch.load({file})\nmodel.load_state_dict(saved[\"model_state_dict\"])  # a torch.nn.Module with these names\noptimizer.load_state_dict(saved[\"optimizer_state_dict\"])  # torch.optim.{}(model.parameters())\nfirst_epoch = saved[\"epoch\"]",
            match trained.config.optimizer.as_str() {
                "sgd" => "SGD",
                "adamw" => "AdamW",
                "rmsprop" => "RMSprop",
                _ => "Adam",
            }
        ),
        Format::Onnx => {
            // One number for all channels, or an array that goes along them.
            let shaped = |values: serde_json::Value| match values.as_array().map(Vec::as_slice) {
                Some([one]) => one.to_string(),
                _ => format!("np.float32({values}).reshape(-1, 1, 1)"),
            };
            let [mean, std] = [&trained.normalization.mean, &trained.normalization.std].map(|values| shaped(numbers(values)));
            format!(
                "import numpy as np, onnxruntime\n\n# pixels: uint8 [N, {c}, {h}, {w}]\nx = ((pixels / np.float32(255) - {mean}) / {std}).astype(np.float32)\nlogits = onnxruntime.InferenceSession({file}).run([\"logits\"], {{\"input\": x}})[0]"
            )
        }
    }
}
