//! `cugrad look`: what is inside a trained network, for one picture: feature maps, the first layer's filters, and saliency.
//!
//! Everything is read off the tape: a feature map is the value that a layer left there, and saliency is one run of backward from a logit
//! to the input (Simonyan, Vedaldi, Zisserman 2013, <https://arxiv.org/abs/1312.6034>). Read next: `check.rs`.

use super::pictures::{PictureArgs, read_pictures, safe};
use super::{DataArgs, print};
use crate::autograd::{Tape, Var};
use crate::data::{Dataset, Loader};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::Model;
use crate::nn::ParamId;
use crate::ops::softmax::Softmax;
use crate::plot::{Figure, Grid, Map, Picture};
use crate::tensor::Tensor;
use crate::train::{Checkpoint, Trained};
use clap::Args;
use std::path::{Path, PathBuf};

/// Draw what is inside a network: feature maps of its layers, its first filters, and which pixels a decision depends on.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cugrad look runs/20260101-120000-lenet/best.safetensors --image 7\n  cugrad look best.safetensors --picture seven.png --layer conv1,conv2 --out inside"
)]
pub struct Look {
    /// A checkpoint, such as a run's best.safetensors
    checkpoint: PathBuf,
    /// Number of a test image, from 0
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "picture")]
    image: usize,
    /// Look at a picture of one's own: PNG, JPEG or BMP
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Layers whose maps are drawn, separated by commas; a wrong name lists them [default: the first convolution]
    #[arg(long)]
    layer: Option<String>,
    /// Class whose logit saliency starts from [default: the most probable one]
    #[arg(long)]
    class: Option<String>,
    /// Draw at most so many maps or filters of a layer
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    maps: u32,
    /// Directory for the pictures [default: plots beside the checkpoint]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Data set [default: the one it was trained on]
    #[arg(long)]
    data: Option<String>,
    #[command(flatten)]
    data_args: DataArgs,
    #[command(flatten)]
    pictures: PictureArgs,
}

impl Look {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let fonts = self.pictures.fonts()?;
        let saved = Checkpoint::load(&self.checkpoint)?;
        // One picture is not worth a GPU.
        let Trained { mut model, classes, normalization, config } = Trained::load(&self.checkpoint, &saved, Device::Cpu)?;
        let (data, i, name) = match &self.picture {
            Some(path) => {
                (read_pictures(std::slice::from_ref(path), &config, &normalization, model.input, &classes)?, 0, path.display().to_string())
            }
            None => {
                let (_, splits) = self.data_args.load_for(&config, &classes, self.data.as_deref(), None)?;
                let (test, i) = (splits.test, self.image);
                if i >= test.len() {
                    return Err(Error::usage(format!("there is no image {i} in {}", test.name))
                        .hint(format!("use --image 0 to {}", test.len() - 1)));
                }
                let name = format!("image {i} ({})", classes[usize::from(test.labels[i])]);
                (test, i, name)
            }
        };
        let (x, _) = Loader::new(&data, &normalization, model.input, model.dtype, Device::Cpu)?.batch(&[i as u32])?;
        let mut tape = Tape::holding();
        let x = tape.leaf(x);
        let logits = model.eval(&mut tape, x)?;
        let p = probabilities(tape.value(logits))?;
        let best = (0..p.len()).max_by(|&a, &b| p[a].total_cmp(&p[b])).unwrap_or(0);
        let class = match &self.class {
            None => best,
            Some(name) => classes
                .iter()
                .position(|c| c == name)
                .ok_or_else(|| Error::usage(format!("unknown class '{name}'")).hint(format!("use one of {}", classes.join(", "))))?,
        };
        let layers = layers(&tape);
        let chosen = choose(&layers, self.layer.as_deref(), &tape)?;
        print(format_args!("{name}: taken for {} ({:.2}%)", classes[best], 100.0 * p[best]))?;

        let beside = self.checkpoint.parent().unwrap_or(Path::new("")).join("plots");
        let out = self.out.as_deref().unwrap_or(&beside);
        let most = self.maps as usize;
        let draw = |stem: &str, pane: Grid| {
            let path = self.pictures.path(out, stem);
            Figure::new("").with(pane).save(&path, &fonts)?;
            print(format_args!("drawn: {}", path.display()))
        };
        for (layer, v) in chosen {
            draw(&format!("features-{}", safe(&layer)), features(&layer, &name, tape.value(v), most)?)?;
        }
        if let Some(filters) = filters(&model, most)? {
            draw("filters", filters)?;
        }
        let picture = on_black(&data, i, model.input);
        let important = saliency(&mut tape, &mut model, x, logits, class)?;
        let title = format!("{name}: what '{}' ({:.2}%) depends on", classes[class], 100.0 * p[class]);
        draw("saliency", overlay(title, picture, &important))
    }
}

fn probabilities(logits: &Tensor) -> Result<Vec<f64>> {
    let mut tape = Tape::inference();
    let logits = tape.input(logits.clone());
    let p = tape.apply(Softmax { log: false }, &[logits])?;
    tape.value(p).read()
}

/// Every value that an op left on the tape, by the name of its layer, or its op's with a number.
fn layers(tape: &Tape) -> Vec<(String, Var)> {
    let mut layers: Vec<(String, Var)> = Vec::new();
    for line in tape.lines() {
        let numbered = |n: usize| if line.label.is_empty() { format!("{}{n}", line.op.name()) } else { format!("{}#{n}", line.label) };
        let taken = |name: &String| layers.iter().any(|(other, _)| other == name);
        let plain = (!line.label.is_empty()).then(|| line.label.to_string()).filter(|name| !taken(name));
        let name = plain.or_else(|| (1..).map(numbered).find(|name| !taken(name)));
        layers.extend(name.map(|name| (name, line.output)));
    }
    layers
}

/// The layers that are asked for, or the first one with maps.
fn choose(layers: &[(String, Var)], wanted: Option<&str>, tape: &Tape) -> Result<Vec<(String, Var)>> {
    let Some(wanted) = wanted else {
        return Ok(layers.iter().find(|(_, v)| tape.spec(*v).shape.len() == 4).cloned().into_iter().collect());
    };
    let find = |name: &str| {
        layers.iter().find(|(layer, _)| layer == name).cloned().ok_or_else(|| {
            let size = |v: Var| tape.spec(v).shape[1..].iter().map(usize::to_string).collect::<Vec<_>>().join("x");
            let all: Vec<String> = layers.iter().map(|(layer, v)| format!("{layer} ({})", size(*v))).collect();
            Error::usage(format!("unknown layer '{name}'")).hint(format!("use one of {}", all.join(", ")))
        })
    };
    wanted.split(',').map(str::trim).map(find).collect()
}

/// As many columns as make rows full and the grid about twice as wide as high.
fn columns(n: usize) -> usize {
    let ideal = (2.0 * n as f64).sqrt();
    let full = (1..=n).filter(|c| n.is_multiple_of(*c) && (0.6 * ideal..=1.6 * ideal).contains(&(*c as f64)));
    full.min_by(|&a, &b| (a as f64 - ideal).abs().total_cmp(&(b as f64 - ideal).abs())).unwrap_or(ideal.ceil() as usize)
}

/// The least and the greatest number.
fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)))
}

fn count(n: usize, most: usize, what: &str) -> String {
    if n > most { format!("the first {most} of {n} {what}s") } else { format!("{n} {what}{}", if n == 1 { "" } else { "s" }) }
}

/// The maps of a layer's value, `[1,C,H,W]`, each from its least to its greatest number; of a value `[1,F]` one picture.
fn features(layer: &str, name: &str, value: &Tensor, most: usize) -> Result<Grid> {
    let (values, shape) = (value.read()?, value.shape());
    let maps = shape.len() == 4 && shape[2] * shape[3] > 1;
    if !maps {
        let width = (values.len() as f64).sqrt().ceil().max(10.0).min(values.len() as f64) as usize;
        let (low, high) = range(&values);
        let mut grid = Grid::new(format!("{layer} on {name}"));
        grid.side = 420.0;
        let caption = format!("{} features in rows of {width}, {low:.2} to {high:.2}", values.len());
        grid.push(Picture::mapped(values.len().div_ceil(width), width, &values, (low, high), Map::Viridis), caption);
        return Ok(grid);
    }
    let (c, h, w) = (shape[1], shape[2], shape[3]);
    let mut grid = Grid::new(format!("{layer} on {name}: {} of {h}×{w}", count(c, most, "map")));
    for (i, map) in values.chunks_exact(h * w).take(most).enumerate() {
        let (low, high) = range(map);
        grid.push(Picture::mapped(h, w, map, (low, high), Map::Viridis), format!("{i}: {low:.1} to {high:.1}"));
    }
    grid.columns = Some(columns(grid.cells.len()));
    grid.side = 100.0;
    Ok(grid)
}

/// The first convolution's weight `[O,C,K,K]`: in red, green and blue, or blue for negative and red for positive.
fn filters(model: &Model, most: usize) -> Result<Option<Grid>> {
    let first = model.params.names().iter().enumerate().map(|(i, name)| (name, model.params.value(ParamId(i))));
    let Some((name, weight)) = first.into_iter().find(|(_, w)| w.shape().len() == 4) else { return Ok(None) };
    let (values, shape) = (weight.read()?, weight.shape());
    let (o, c, h, w) = (shape[0], shape[1], shape[2], shape[3]);
    // One scale for all, so that weak filters look weak.
    let most_extreme = values.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    let how = if c == 3 { "colour is the weight, grey is zero" } else { "red positive, blue negative" };
    let mut grid = Grid::new(format!("{name}: {} of {h}×{w} ({how})", count(o, most, "filter")));
    for (i, filter) in values.chunks_exact(c * h * w).take(most).enumerate() {
        let picture = match c {
            3 => {
                let bytes: Vec<u8> = filter.iter().map(|v| (127.5 + 127.5 * v / most_extreme.max(1e-30)).round() as u8).collect();
                Picture::planes(3, h, w, &bytes)
            }
            _ => Picture::mapped(h, w, filter, (-most_extreme, most_extreme), Map::Signed),
        };
        grid.push(picture, i.to_string());
    }
    grid.columns = Some(columns(grid.cells.len()));
    grid.side = 80.0;
    Ok(Some(grid))
}

/// |d logit / d x|, the greatest over the channels: `[H·W]`.
fn saliency(tape: &mut Tape, model: &mut Model, x: Var, logits: Var, class: usize) -> Result<Vec<f64>> {
    let spec = tape.spec(logits);
    let one: Vec<f64> = (0..spec.shape.count()).map(|c| if c == class { 1.0 } else { 0.0 }).collect();
    tape.backward_from(logits, Tensor::from_values(spec, &one), &mut model.params.gradients)?;
    let gradient = tape.gradient(x).ok_or_else(|| Error::run("the logits do not depend on the input"))?.read()?;
    let [c, h, w] = model.input;
    let at = |i: usize| (0..c).map(|c| gradient[c * h * w + i].abs()).fold(0.0, f64::max);
    Ok((0..h * w).map(at).collect())
}

/// An image in the middle of black, as the network gets it.
fn on_black(data: &Dataset, i: usize, [_, h, w]: [usize; 3]) -> Picture {
    let small = Picture::planes(data.channels, data.height, data.width, data.image(i));
    let (top, left) = ((h - data.height) / 2, (w - data.width) / 2);
    let mut rgb = vec![0; 3 * h * w];
    for (y, row) in small.rgb.chunks_exact(3 * data.width).enumerate() {
        rgb[3 * ((top + y) * w + left)..][..row.len()].copy_from_slice(row);
    }
    Picture { width: w, height: h, rgb }
}

/// The picture, what is important, and one over the other.
fn overlay(title: String, picture: Picture, important: &[f64]) -> Grid {
    let (w, h) = (picture.width, picture.height);
    let high = important.iter().copied().fold(0.0, f64::max).max(1e-30);
    let map = Picture::mapped(h, w, important, (0.0, high), Map::Hot);
    let mix = |(i, p): (usize, &[u8])| {
        let s = important[i] / high;
        let grey = 0.45 * p.iter().map(|&v| f64::from(v)).sum::<f64>() / 3.0;
        [grey + (255.0 - grey) * s, grey * (1.0 - s), grey * (1.0 - s)].map(|v| v.round() as u8)
    };
    let both = Picture { width: w, height: h, rgb: picture.rgb.chunks_exact(3).enumerate().flat_map(mix).collect() };
    let mut grid = Grid::new(title);
    grid.columns = Some(3);
    grid.side = 240.0;
    grid.push(picture, "input");
    grid.push(map, "|∂ logit / ∂ input|");
    grid.push(both, "both");
    grid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Options;
    use crate::tensor::{DType, Spec};

    #[test]
    fn grids_have_full_rows() {
        assert_eq!([1, 5, 10, 16, 20, 32, 64, 6].map(columns), [1, 5, 5, 4, 5, 8, 8, 3]);
    }

    #[test]
    fn every_layer_has_a_name_of_its_own() {
        let model = Model::build("lenet", &Options::default()).unwrap();
        let mut tape = Tape::holding();
        let x = tape.leaf(Tensor::zeros(Spec::lanes([1, 1, 28, 28], DType::F32)));
        model.eval(&mut tape, x).unwrap();
        let layers = layers(&tape);
        let names: std::collections::BTreeSet<&str> = layers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), layers.len());
        assert!(["conv1", "conv2", "fc3"].iter().all(|name| names.contains(name)), "{names:?}");
        assert!(layers.iter().all(|(_, v)| tape.is_held(*v)), "a value is gone");
        assert_eq!(choose(&layers, None, &tape).unwrap()[0].0, "conv1");
        let error = choose(&layers, Some("conv1, conv9"), &tape).unwrap_err();
        assert!(error.message.contains("'conv9'") && error.hint.unwrap().contains("conv2 (20x8x8)"));
    }

    /// Against the change of the logit when one pixel is changed a little, in f64.
    #[test]
    fn saliency_is_the_slope_of_the_logit() {
        let options = Options { dtype: DType::F64, ..Options::default() };
        let mut model = Model::build("lenet", &options).unwrap();
        let spec = Spec::lanes([1, 1, 28, 28], DType::F64);
        let pixels: Vec<f64> = (0..784).map(|i| (f64::from(i) * 0.37).sin()).collect();
        let mut tape = Tape::holding();
        let x = tape.leaf(Tensor::from_values(spec, &pixels));
        let logits = model.eval(&mut tape, x).unwrap();
        let important = saliency(&mut tape, &mut model, x, logits, 3).unwrap();
        let logit = |i: usize, by: f64| {
            let mut moved = pixels.clone();
            moved[i] += by;
            model.logits(Tensor::from_values(spec, &moved)).unwrap().values()[3]
        };
        for i in [0, 100, 391, 406, 783] {
            let slope = ((logit(i, 1e-6) - logit(i, -1e-6)) / 2e-6).abs();
            assert!((slope - important[i]).abs() <= 1e-6 * slope.max(1e-3), "pixel {i}: {slope} and {}", important[i]);
        }
        assert!(important.iter().any(|&s| s > 0.0));
    }
}
