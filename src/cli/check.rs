//! `cugrad check`.
//!
//! Read next: `doctor.rs`.

use super::{print, remark};
use crate::autograd::check::{TOLERANCE, check, parity};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::{self, Case};
use crate::tensor::DType;
use clap::Args;
use rayon::prelude::*;
use serde_json::json;

/// The largest distance between f32 and f64, relative to the largest value: a few roundings of sums of this length.
const PARITY: f64 = 1e-5;

/// Check every op's gradient against finite differences.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cugrad check --op conv2d")]
pub struct Check {
    /// Only the cases of this op
    #[arg(long)]
    op: Option<String>,
    /// Where to compute: auto, cpu, cuda:N or emu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Seed of the inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object a case
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let (device, why) = Device::open(&self.device)?;
        why.into_iter().for_each(remark);
        let all = ops::cases();
        let cases: Vec<&Case> = all.iter().filter(|c| self.op.as_deref().is_none_or(|op| c.op.name() == op)).collect();
        if cases.is_empty() {
            let mut names: Vec<&str> = Vec::new();
            all.iter().map(|c| c.op.name()).for_each(|name| {
                if !names.contains(&name) {
                    names.push(name)
                }
            });
            return Err(
                Error::usage(format!("there is no op '{}'", self.op.unwrap_or_default())).hint(format!("ops: {}", names.join(", ")))
            );
        }
        if !self.json {
            print(format_args!("{:<14} {:<40} {:>8} {:>10} {:>10}  verdict", "op", "case", "elements", "gradient", "f32 parity"))?;
        }
        let results: Vec<_> = cases
            .par_iter()
            .map(|case| {
                let (wanted, seed) = (case.wanted(), self.seed + 1);
                let inputs: Vec<_> = case.draw(DType::F64, self.seed).iter().map(|x| x.to(device)).collect();
                let worst = check(&case.op, &inputs, &wanted, seed)?;
                let inputs = case.draw(DType::F32, self.seed);
                Ok((worst, parity(&case.op, &inputs, &wanted, DType::F32, device, seed)?))
            })
            .collect::<Result<_>>()?;
        let mut failed = 0;
        for (case, (worst, parity)) in cases.iter().zip(results) {
            let (op, name) = (case.op.name(), &case.name);
            let fine = worst.agrees() && parity <= PARITY;
            failed += usize::from(!fine);
            if self.json {
                print(json!({"op": op, "case": name, "elements": worst.elements, "gradient_error": worst.error,
                    "f32_parity": parity, "ok": fine}))?;
                continue;
            }
            let verdict = if fine { "ok" } else { "FAILED" };
            print(format_args!("{op:<14} {name:<40} {:>8} {:>10.1e} {parity:>10.1e}  {verdict}", worst.elements, worst.error))?;
            if !worst.agrees() {
                let w = &worst;
                print(format_args!("    input {} element {}: analytic {} numeric {}", w.input, w.index, w.analytic, w.numeric))?;
            }
        }
        if failed > 0 {
            return Err(Error::check(format!(
                "{failed} of {} cases failed (gradient bound {TOLERANCE:e}, parity bound {PARITY:e})",
                cases.len()
            )));
        }
        if !self.json {
            print(format_args!("{} cases, all gradients agree within {TOLERANCE:e}", cases.len()))?;
        }
        Ok(())
    }
}
