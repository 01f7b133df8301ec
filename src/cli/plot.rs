//! `cugrad plot`: the history of runs, and functions with their derivatives.
//!
//! Read next: `look.rs`, which draws what is inside a network.

use super::print;
use crate::autograd::{Gradients, Tape};
use crate::error::{Error, Result};
use crate::ops::relu::Relu;
use crate::plot::history::{History, Metric};
use crate::plot::{Axis, DPI, Figure, Fonts, Lines, Series, check_name, colour};
use crate::tensor::{DType, Spec, Tensor};
use clap::Args;
use std::path::PathBuf;

/// Draw the history of one run, of several runs over each other, or a function.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cugrad plot runs/20260101-120000-lenet\n  cugrad plot runs/wd-1e-4 runs/wd-1e-3 runs/wd-1e-2 --labels 1e-4,1e-3,1e-2 --metric val-acc -o decay.svg\n  cugrad plot runs/20260101-120000-lenet --metric loss --dpi 300 -o loss.png\n  cugrad plot --function leaky-relu:0.1 -o leaky.png"
)]
pub struct Plot {
    /// Run directories
    #[arg(required_unless_present = "function", conflicts_with = "function")]
    runs: Vec<PathBuf>,
    /// Where to draw to, .png or .svg [default: plots/history.png in the run, runs.png for several, <function>.png]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A pane each, separated by commas: loss, acc (training dashed, validation), val-loss, val-acc, lr, speed
    /// [default: loss,val-acc for one run, val-loss,val-acc for several]
    #[arg(long)]
    metric: Option<String>,
    /// What to call the runs, separated by commas [default: their directories]
    #[arg(long)]
    labels: Option<String>,
    /// Losses and rates on a logarithmic axis
    #[arg(long)]
    log: bool,
    /// A function and its derivative, as the engine computes them: relu, leaky-relu or leaky-relu:SLOPE
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Dots per inch of a .png
    #[arg(long, default_value_t = DPI, value_parser = dpi)]
    dpi: f32,
    /// A font (.ttf, .otf) for writing that the built-in one lacks
    #[arg(long, value_name = "FILE")]
    font: Option<PathBuf>,
}

fn dpi(text: &str) -> std::result::Result<f32, String> {
    match text.parse() {
        Ok(dpi) if (20.0..=1200.0).contains(&dpi) => Ok(dpi),
        _ => Err("must be a number from 20 to 1200".into()),
    }
}

impl Plot {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        self.out.as_deref().map_or(Ok(()), check_name)?;
        let fonts = Fonts::open(self.font.as_deref())?;
        let (figure, default) = match &self.function {
            Some(name) => (function(name)?, PathBuf::from(format!("{}.png", name.replace(':', "-")))),
            None => self.history()?,
        };
        let out = self.out.unwrap_or(default);
        figure.save_with(&out, &fonts, self.dpi)?;
        print(format_args!("drawn: {}", out.display()))
    }

    fn history(&self) -> Result<(Figure, PathBuf)> {
        let mut runs: Vec<History> = self.runs.iter().map(|run| History::read(run)).collect::<Result<_>>()?;
        if let Some(labels) = &self.labels {
            let labels: Vec<&str> = labels.split(',').map(str::trim).collect();
            if labels.len() != runs.len() {
                return Err(Error::usage(format!("{} labels for {} runs", labels.len(), runs.len())).hint("give --labels one name a run"));
            }
            runs.iter_mut().zip(labels).for_each(|(run, label)| run.name = label.into());
        }
        let (chosen, default) = match &self.runs[..] {
            [run] => ("loss,val-acc", run.join("plots/history.png")),
            _ => ("val-loss,val-acc", PathBuf::from("runs.png")),
        };
        let default = if self.runs.len() == 1 && !self.runs[0].is_dir() { PathBuf::from("history.png") } else { default };
        let metrics: Vec<Metric> = self.metric.as_deref().unwrap_or(chosen).split(',').map(str::parse).collect::<Result<_>>()?;
        let mut figure = Figure::new(if runs.len() == 1 { runs[0].name.clone() } else { String::new() }).columns(metrics.len().min(2));
        for metric in &metrics {
            let pane = metric.pane(&runs, self.log);
            figure = figure.with(if metrics.len() == 1 { pane.size(976.0, 540.0) } else { pane });
        }
        Ok((figure, default))
    }
}

/// The function between -5 and 5 and its derivative by the tape's backward, whose gradient at the output is one everywhere.
fn function(name: &str) -> Result<Figure> {
    let unknown =
        || Error::usage(format!("unknown function '{name}'")).hint("use relu, leaky-relu or leaky-relu:SLOPE, as in leaky-relu:0.1");
    let slope = match name.split_once(':') {
        None if name == "relu" => 0.0,
        None if name == "leaky-relu" => 0.01,
        Some(("leaky-relu", slope)) => slope.parse().ok().filter(|s| (0.0..1.0).contains(s)).ok_or_else(unknown)?,
        _ => return Err(unknown()),
    };
    let points: Vec<f64> = (-1000..=1000).map(|i| f64::from(i) / 200.0).collect();
    let spec = Spec::lanes([1, points.len()], DType::F64);
    let mut tape = Tape::new();
    let x = tape.leaf(Tensor::from_values(spec, &points));
    let y = tape.apply(Relu { slope }, &[x])?;
    let values = tape.value(y).read()?;
    tape.backward_from(y, Tensor::from_values(spec, &vec![1.0; points.len()]), &mut Gradients::default())?;
    let slopes = tape.gradient(x).map_or_else(|| Ok(vec![f64::NAN; points.len()]), Tensor::read)?;
    // Where the derivative jumps, the line is broken.
    let mut derivative: Vec<(f64, f64)> = Vec::new();
    for (&x, &d) in points.iter().zip(&slopes) {
        if derivative.last().is_some_and(|&(_, before)| (d - before).abs() > 0.1) {
            derivative.push((x, f64::NAN));
        }
        derivative.push((x, d));
    }
    let title = if slope == 0.0 { "ReLU: max(x, 0)".into() } else { format!("leaky ReLU: max(x, {slope}·x)") };
    let pane = |title: &str, y: &str| Lines::new(title, Axis::new("x"), Axis::new(y)).size(520.0, 400.0);
    let line = |points| Series::new("", points).plain();
    Ok(Figure::new(title)
        .with(pane("function", "y").with(line(points.iter().copied().zip(values).collect())))
        .with(pane("derivative", "dy/dx").with(line(derivative).colour(colour::SERIES[1]))))
}
