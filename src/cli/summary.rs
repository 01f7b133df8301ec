//! `cugrad summary`.
//!
//! The table is read off the tape of one forward pass, so it shows what really runs.

use super::print;
use crate::autograd::Tape;
use crate::error::Result;
use crate::models::{ALL, Model, Options};
use crate::tensor::{DType, Spec, Tensor};
use clap::Args;
use serde_json::json;

/// Print a network's layers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cugrad summary\n  cugrad summary --model resnet:2,2,2 --batch 128")]
pub struct Summary {
    /// Network [default: list all]
    #[arg(long)]
    model: Option<String>,
    /// Images in the batch
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Summary {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match &self.model {
            Some(name) => self.one(name),
            None => self.all(),
        }
    }

    fn all(&self) -> Result<()> {
        if !self.json {
            print(format_args!("{:<16} {:<9} {:>11}  layers", "model", "input", "parameters"))?;
        }
        for known in ALL {
            let [c, h, w] = known.input;
            let parameters = Model::count(known.name, &Options::default())?;
            if self.json {
                print(json!({"model": known.name, "input": known.input, "parameters": parameters, "layers": known.about}))?;
            } else {
                print(format_args!("{:<16} {:<9} {parameters:>11}  {}", known.name, format!("{c}x{h}x{w}"), known.about))?;
            }
        }
        Ok(())
    }

    fn one(&self, name: &str) -> Result<()> {
        let model = Model::build(name, &Options::default())?;
        let (n, [c, h, w]) = (self.batch as usize, model.input);
        let mut tape = Tape::inference();
        let x = tape.input(Tensor::zeros(Spec::lanes([n, c, h, w], DType::F32)));
        model.eval(&mut tape, x)?;
        let names = model.params.names().iter().zip(model.params.values());
        let counts: Vec<(&str, usize)> = names.map(|(name, v)| (name.as_str(), v.shape().count())).collect();
        let count = |label: &str| -> usize {
            let own = |name: &str| !label.is_empty() && name.rsplit_once('.').is_some_and(|(layer, _)| layer == label);
            counts.iter().filter(|(name, _)| own(name)).map(|(_, count)| count).sum()
        };
        let mut layers = Vec::new();
        let (mut flops, mut bytes) = (0, 0);
        for line in tape.lines() {
            flops += line.op.flops(&line.specs);
            bytes += line.spec.bytes();
            layers.push(json!({"layer": line.label, "op": line.op.name(), "shape": line.spec.shape.to_vec(),
                "parameters": count(line.label), "flops": line.op.flops(&line.specs), "bytes": line.spec.bytes()}));
        }
        let parameters = model.params.count();
        if self.json {
            return print(json!({"model": name, "input": [n, c, h, w], "layers": layers, "parameters": parameters,
                "parameter_bytes": 4 * parameters, "forward_flops": flops, "activation_bytes": bytes}));
        }
        print(format_args!("{name} on {c}x{h}x{w}, batch {n}\n"))?;
        print(format_args!("{:<22} {:<16} {:<18} {:>11} {:>14} {:>13}", "layer", "op", "output", "parameters", "FLOP", "bytes"))?;
        for l in &layers {
            let text = |key: &str| l[key].as_str().unwrap_or_default().to_string();
            let number = |key: &str| thousands(l[key].as_u64().unwrap_or_default());
            let shape = l["shape"].to_string();
            print(format_args!(
                "{:<22} {:<16} {shape:<18} {:>11} {:>14} {:>13}",
                text("layer"),
                text("op"),
                number("parameters"),
                number("flops"),
                number("bytes")
            ))?;
        }
        print(format_args!("\nparameters {} ({} bytes)", thousands(parameters as u64), thousands(4 * parameters as u64)))?;
        print(format_args!(
            "forward {} FLOP, outputs {} bytes (lanes are filled up to 16 images)",
            thousands(flops),
            thousands(bytes as u64)
        ))
    }
}

/// 1234567 as 1 234 567.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap_or_default()).collect();
    groups.join(" ")
}
