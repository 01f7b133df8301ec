//! How the time of a training step on the CPU grows with the batch, the network's width, the picture's side and the number of threads.
//!
//! `cargo bench --bench scaling -- --out docs/scaling` measures, prints a table in Markdown with the fits T = L + work/R, and draws
//! one picture for each question. What it measures is that of `compare/worker.rs`: forward, loss, backward and SGD with momentum on
//! a batch of random pictures. All points of a series are measured in turns, several times over, so that a machine that becomes slow for a
//! while does not bend a curve. Read next: `compare/worker.rs`; `docs/scaling.md`, which has a run's results.

#[path = "compare/worker.rs"]
mod worker;

use clap::Parser;
use cugrad::autograd::Tape;
use cugrad::error::{Error, Result};
use cugrad::models::{Model, Options};
use cugrad::plot::{Axis, Figure, Fonts, Lines, Series};
use cugrad::tensor::{DType, L, Spec, Tensor};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use worker::Worker;

/// Measures how training steps scale.
#[derive(Parser)]
struct Args {
    /// Directory for the pictures and the table [default: print the table alone]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Times that each point is measured; the median counts
    #[arg(long, default_value = "7")]
    windows: NonZeroUsize,
    /// Seconds of each
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
    /// Cargo says this to every benchmark.
    #[arg(long = "bench", hide = true)]
    _bench: bool,
}

/// One setting.
#[derive(Debug, Clone)]
struct Point {
    model: String,
    batch: usize,
    size: usize,
    threads: usize,
    /// What stands on the horizontal axis.
    x: f64,
    /// Work of a step: images, with the empty lanes, or GFLOP forward.
    work: f64,
    /// Median seconds of a step.
    seconds: f64,
}

/// Points that belong together.
struct Curve {
    name: String,
    points: Vec<Point>,
}

/// A question, and its curves.
struct Question {
    file: &'static str,
    title: &'static str,
    axis: &'static str,
    /// What the work in T = L + work/R is counted in, and R's unit.
    unit: &'static str,
    curves: Vec<Curve>,
}

const SIDE: usize = 28;

fn questions() -> Result<Vec<Question>> {
    let point = |model: &str, batch: usize, size: usize, threads: usize, x: f64| -> Result<Point> {
        // Images go in groups of L, and the thread with the most groups takes the longest: what is computed is as if all had as many.
        let work = (batch.div_ceil(L).div_ceil(threads) * threads * L) as f64;
        Ok(Point { model: model.into(), batch, size, threads, x, work, seconds: 0.0 })
    };
    let curve = |name: String, points: Vec<Result<Point>>| -> Result<Curve> {
        Ok(Curve { name, points: points.into_iter().collect::<Result<_>>()? })
    };
    let batches = || (0..=10).map(|i| 1usize << i);
    let threads = |n: usize| format!("{n} thread{}", if n == 1 { "" } else { "s" });
    let mut batch = Vec::new();
    for model in ["lenet", "resnet8"] {
        for n in [1, 2] {
            let points = batches().map(|b| point(model, b, SIDE, n, b as f64)).collect();
            batch.push(curve(format!("{model}, {}", threads(n)), points)?);
        }
    }
    let mut width = Vec::new();
    let mut size = Vec::new();
    for n in [1, 2] {
        for model in ["lenet", "resnet8"] {
            let points = [0.5, 1.0, 2.0, 4.0].map(|w| point(&format!("{model}@{w}"), 128, SIDE, n, w)).into();
            width.push(counted(curve(format!("{model}, {}", threads(n)), points)?)?);
        }
        let points = [14, 28, 56, 112].map(|s| point("resnet8", 64, s, n, s as f64)).into();
        size.push(counted(curve(format!("resnet8, {}", threads(n)), points)?)?);
    }
    Ok(vec![
        Question { file: "batch", title: "Batch size", axis: "images of a step", unit: "images", curves: batch },
        Question { file: "width", title: "Width, at batch 128", axis: "width (1: as published)", unit: "GFLOP", curves: width },
        Question { file: "size", title: "Size of the pictures, at batch 64", axis: "pixels of a side", unit: "GFLOP", curves: size },
    ])
}

/// The curve with work in GFLOP of the forward pass instead of images.
fn counted(mut curve: Curve) -> Result<Curve> {
    for p in &mut curve.points {
        let model = model(p)?;
        let mut tape = Tape::inference();
        let [c, h, w] = model.input;
        let x = tape.input(Tensor::zeros(Spec::lanes([1, c, h, w], DType::F32)));
        model.eval(&mut tape, x)?;
        let flops: u64 = tape.lines().map(|line| line.op.flops(&line.specs)).sum();
        p.work *= flops as f64 * 1e-9;
    }
    Ok(curve)
}

fn options(p: &Point) -> Options {
    Options { size: (p.size != SIDE).then_some([p.size; 2]), ..Options::default() }
}

fn model(p: &Point) -> Result<Model> {
    Model::build(&p.model, &options(p))
}

/// Median seconds of a step in `windows` windows of each point, one point after the other.
fn measure(points: &mut [&mut Point], args: &Args, threads: usize) -> Result<()> {
    let time = Duration::try_from_secs_f64(args.seconds).map_err(|e| Error::usage(format!("--seconds {}: {e}", args.seconds)))?;
    let mut seconds = vec![Vec::new(); points.len()];
    // The pool's threads are this thread and others: as in the program itself.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
    let _pool = pool.map_err(|e| Error::run(format!("cannot start {threads} threads: {e}")))?;
    let workers = points.iter().map(|p| Worker::new(&p.model, &options(p), p.batch, false));
    let mut workers = workers.collect::<Result<Vec<Worker>>>()?;
    for _ in 0..args.windows.get() {
        for (worker, seconds) in workers.iter_mut().zip(&mut seconds) {
            let window = worker.window(time)?;
            seconds.push(window.seconds / window.steps as f64);
        }
    }
    for (p, mut seconds) in points.iter_mut().zip(seconds) {
        seconds.sort_by(f64::total_cmp);
        p.seconds = seconds[seconds.len() / 2];
    }
    Ok(())
}

/// L and R of T = L + work/R with the least sum of squared relative errors, and the largest relative error.
fn fit(points: &[Point]) -> [f64; 3] {
    // Minimise Σ (l·a + w·b − 1)² with a = 1/T, b = work/T over l and w: two normal equations.
    let (mut aa, mut ab, mut bb, mut a1, mut b1) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for p in points {
        let (a, b) = (1.0 / p.seconds, p.work / p.seconds);
        (aa, ab, bb, a1, b1) = (aa + a * a, ab + a * b, bb + b * b, a1 + a, b1 + b);
    }
    let det = aa * bb - ab * ab;
    let (latency, slope) = ((a1 * bb - b1 * ab) / det, (b1 * aa - a1 * ab) / det);
    let error = |p: &Point| ((latency + slope * p.work) / p.seconds - 1.0).abs();
    [latency, 1.0 / slope, points.iter().map(error).fold(0.0, f64::max)]
}

fn table(q: &Question) -> String {
    let mut text = format!("## {}\n\n| {} |", q.title, q.axis);
    for curve in &q.curves {
        text += &format!(" {}, img/s |", curve.name);
    }
    text += &format!("\n|{}\n", " --- |".repeat(q.curves.len() + 1));
    let mut rows: Vec<f64> = q.curves.iter().flat_map(|c| c.points.iter().map(|p| p.x)).collect();
    rows.sort_by(f64::total_cmp);
    rows.dedup();
    for x in rows {
        text += &format!("| {x} |");
        for curve in &q.curves {
            let speed = curve.points.iter().find(|p| p.x == x).map(|p| p.batch as f64 / p.seconds);
            text += &speed.map_or(" |".into(), |s| format!(" {s:.0} |"));
        }
        text += "\n";
    }
    text += &format!("\n| T = L + {}/R | L, ms | R, {}/s | largest error |\n| --- | --- | --- | --- |\n", q.unit, q.unit);
    for curve in &q.curves {
        let [latency, rate, error] = fit(&curve.points);
        text += &format!("| {} | {:.2} | {rate:.0} | {:.0} % |\n", curve.name, 1e3 * latency, 100.0 * error);
    }
    text
}

fn draw(q: &Question, directory: &Path) -> Result<()> {
    let log = |label: &str| Axis::new(label).log(true);
    let mut speed = Lines::new("images per second", log(q.axis), log("images per second"));
    for curve in &q.curves {
        speed = speed.with(Series::new(curve.name.clone(), curve.points.iter().map(|p| (p.x, p.batch as f64 / p.seconds)).collect()));
    }
    let mut time = Lines::new("milliseconds a step, and T = L + work/R dashed", log(q.axis), log("milliseconds"));
    for (i, curve) in q.curves.iter().enumerate() {
        let [latency, rate, _] = fit(&curve.points);
        let colour = cugrad::plot::colour::SERIES[i];
        time = time.with(Series::new(curve.name.clone(), curve.points.iter().map(|p| (p.x, 1e3 * p.seconds)).collect()).colour(colour));
        let fitted = curve.points.iter().map(|p| (p.x, 1e3 * (latency + p.work / rate))).collect();
        time = time.with(Series::new("", fitted).colour(colour).dashed().plain());
    }
    let figure = Figure::new(q.title).with(speed).with(time).columns(2);
    figure.save(&directory.join(q.file).with_extension("svg"), &Fonts::open(None)?)
}

fn run(args: &Args) -> Result<()> {
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).map_err(|e| Error::run(format!("cannot make {}: {e}", out.display())))?;
    }
    let mut text = String::new();
    for mut q in questions()? {
        for threads in [1, 2] {
            let points = q.curves.iter_mut().flat_map(|c| &mut c.points).filter(|p| p.threads == threads);
            let mut points: Vec<&mut Point> = points.collect();
            // A pool belongs to the thread that it was made in.
            std::thread::scope(|scope| {
                scope.spawn(|| measure(&mut points, args, threads)).join().unwrap_or_else(|e| std::panic::resume_unwind(e))
            })?;
        }
        println!("{}", table(&q));
        text += &(table(&q) + "\n");
        if let Some(out) = &args.out {
            draw(&q, out)?;
            let file = out.join("table.md");
            std::fs::write(&file, &text).map_err(|e| Error::run(format!("cannot write {}: {e}", file.display())))?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    // Plain `cargo bench`, perhaps with a filter for the kernels, runs this too: it takes minutes, and so waits to be asked.
    let given: Vec<String> = std::env::args().skip(1).collect();
    if given.iter().all(|argument| argument == "--bench" || !argument.starts_with("--")) {
        println!("scaling: nothing to do without an option; `cargo bench --bench scaling -- --windows 7` measures");
        return ExitCode::SUCCESS;
    }
    worker::exit(run(&Args::parse()))
}
