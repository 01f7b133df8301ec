//! `cugrad lr-find`: the learning-rate range test, as a table, JSON and a picture.
//!
//! The test itself is `train/trainer/range_test.rs`. Read next: `sweep.rs`.

use super::print;
use super::train::Train;
use crate::error::{Error, Result};
use crate::plot::{self, Axis, Figure, Fonts, Lines, Series};
use crate::train::trainer::range_test::{Point, Suggestion, rates, suggest};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Find a learning rate: one short run whose rate grows until the loss explodes.
#[derive(Debug, Args)]
#[command(
    after_help = "Two rates are suggested: the one where the smoothed loss falls fastest, and a tenth of the one where it is least. The first suits a constant rate or a cosine's start, and either the maximum of a one-cycle (Smith 2017).\n\nExamples:\n  cugrad lr-find --model resnet8\n  cugrad lr-find --optimizer sgd --momentum 0.9 --plot lr.png"
)]
pub struct LrFind {
    /// The first rate
    #[arg(long, default_value_t = 1e-5)]
    from: f64,
    /// The last rate
    #[arg(long, default_value_t = 10.0)]
    to: f64,
    /// Steps from the first to the last
    #[arg(long, value_name = "N", default_value_t = 300)]
    steps: usize,
    /// Draw loss over rate into a file, PNG or SVG by its name
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    train: Train,
}

impl LrFind {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let Self { from, to, steps, .. } = self;
        if !(from > 0.0 && from < to && to.is_finite() && (10..=1_000_000).contains(&steps)) {
            return Err(Error::usage(format!("{steps} steps from {from} to {to} are no range test"))
                .hint("--from must be above 0 and below --to, --steps from 10 to 1000000"));
        }
        self.plot.as_deref().map_or(Ok(()), plot::check_name)?;
        let (config, points) = self.train.range_test(&rates(from, to, steps))?;
        let Suggestion { steepest, min_tenth } = suggest(&points)?;
        if let Some(path) = &self.plot {
            draw(path, &points, steepest, min_tenth, &format!("{} on {}, {}", config.model, config.data, config.optimizer))?;
        }
        if self.train.json {
            return print(json!({"model": config.model, "data": config.data, "optimizer": config.optimizer, "batch": config.batch,
                "points": points, "suggestion": {"steepest": steepest, "min_tenth": min_tenth}}));
        }
        let mut rows = vec![["lr", "loss", "smoothed"].map(String::from).to_vec()];
        // About twenty rows, the last step among them.
        let every = points.len().div_ceil(20);
        for p in points.iter().rev().step_by(every).collect::<Vec<_>>().into_iter().rev() {
            rows.push(vec![format!("{:.2e}", p.lr), format!("{:.4}", p.loss), format!("{:.4}", p.smoothed)]);
        }
        print(super::columns(&rows))?;
        print(format_args!("steepest descent at lr {steepest:.2e}, a tenth of the minimum's at {min_tenth:.2e}"))?;
        print(format_args!("suggestion: --lr {steepest:.1e}"))
    }
}

fn draw(path: &Path, points: &[Point], steepest: f64, min_tenth: f64, title: &str) -> Result<()> {
    // Explosions would press everything else flat.
    let top = points.first().map_or(1.0, |p| 1.3 * p.smoothed);
    let line = |value: fn(&Point) -> f64| points.iter().map(|p| (p.lr, value(p))).filter(|(_, loss)| *loss <= top).collect::<Vec<_>>();
    let mark = |lr: f64| vec![(lr, 0.0), (lr, top)];
    let chart = Lines::new(title, Axis::new("learning rate").log(true), Axis::new("loss"))
        .with(Series::new("loss of a batch", line(|p| p.loss)).plain().colour([190, 190, 190]))
        .with(Series::new("smoothed", line(|p| p.smoothed)).plain())
        .with(Series::new(format!("steepest: {steepest:.1e}"), mark(steepest)).plain().dashed())
        .with(Series::new(format!("minimum / 10: {min_tenth:.1e}"), mark(min_tenth)).plain().dashed());
    Figure::new("Learning-rate range test").with(chart).save(path, &Fonts::default())
}
