//! `cugrad train --dry-run` and `--overfit-batch`: what a network does before it is trained, and nothing left behind.
//!
//! Read next: `train/trial.rs`, where it is done.

use super::print;
use crate::error::Result;
use crate::tensor::Spec;
use crate::train::Trainer;
use crate::train::trial::{BY_HEART, DryRun, Layer, Overfit};
use serde_json::json;

/// Takes one step and judges one batch, and shows all of it.
pub fn dry_run(trainer: &mut Trainer, json: bool) -> Result<()> {
    let classes = trainer.model.classes;
    let DryRun { layers, train, val, grad_norm, peak } = trainer.dry_run()?;
    let guess = (classes as f64).ln();
    if json {
        let layer = |l: &Layer| {
            let shapes = |specs: &[Spec]| specs.iter().map(|s| s.shape.to_vec()).collect::<Vec<_>>();
            json!({"layer": l.label, "op": l.op, "inputs": shapes(&l.inputs), "parameters": shapes(&l.parameters),
                "output": l.output.shape.to_vec()})
        };
        let layers: Vec<_> = layers.iter().map(layer).collect();
        return print(json!({"event": "dry-run", "layers": layers, "loss": train.loss(), "guess": guess, "grad_norm": grad_norm,
            "val_loss": val.loss(), "peak_bytes": peak}));
    }
    print(format_args!("{:<22} {:<15} {:<18} {:<22} output", "layer", "op", "input", "parameters"))?;
    for l in &layers {
        let shapes = |specs: &[Spec]| specs.iter().map(|s| s.shape.to_string()).collect::<Vec<_>>().join(" ");
        let (inputs, parameters) = (shapes(&l.inputs), shapes(&l.parameters));
        print(format_args!("{:<22} {:<15} {inputs:<18} {parameters:<22} {}", l.label, l.op, l.output.shape))?;
    }
    let loss = train.loss();
    let verdict = if (loss - guess).abs() < 0.25 * guess { "near" } else { "far from" };
    print(format_args!("first loss {loss:.4}, {verdict} that of guessing among {classes} classes, ln {classes} = {guess:.4}"))?;
    print(format_args!("gradient: norm {grad_norm:.3e}"))?;
    print(format_args!("after one step: loss {:.4}, accuracy {:.2}% on {} images", val.loss(), 100.0 * val.accuracy(), val.samples()))?;
    print(format_args!("memory of tensors: {:.1} MB at most", peak as f64 / 1e6))?;
    print("dry run ok: nothing was left behind")
}

/// Learns one batch by heart, and shows how.
pub fn overfit(trainer: &mut Trainer, most: u64, json: bool) -> Result<()> {
    let Overfit { images, steps, losses } = trainer.overfit(most)?;
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    if json {
        return print(json!({"event": "overfit-batch", "images": images, "steps": steps, "first_loss": first, "loss": last}));
    }
    let every = (losses.len() / 8).max(1);
    for (step, loss) in losses.iter().enumerate().filter(|(step, _)| step % every == 0) {
        print(format_args!("step {step:>5}  loss {loss:.4}"))?;
    }
    print(format_args!("ok: after {steps} steps {images} images are known by heart, with a loss of {last:.4}, below {BY_HEART}"))
}
