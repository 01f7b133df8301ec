//! A look at a network's health at the end of an epoch, in words: units that are dead, gradients that vanish or explode, a loss that does
//! not leave that of guessing.
//!
//! Cheap enough to be always done: the gradient is that of the last step, and the units are looked at on a few pictures. Each finding
//! comes with its figures and what to do; none ends a run. Not here: a loss that is no number (`nonfinite.rs`), figures of each parameter
//! (`figures.rs`). Read next: `nonfinite.rs`.

use super::{nonfinite, norm};
use crate::autograd::Tape;
use crate::error::Result;
use crate::models::Model;
use crate::tensor::Tensor;
use crate::train::metrics::Running;

/// Pictures that units are looked at on.
pub const PICTURES: usize = 64;

/// From this share of a layer's units on it is worth saying that they are dead.
const MANY: f64 = 0.5;

/// A gradient shorter than this, or longer than that, does not train.
const NORMS: (f64, f64) = (1e-7, 1e4);

/// Between the first and the last layer's gradient there may be so many times.
const RATIO: f64 = 1e4;

/// Something found: a word for its kind, so that nobody is told the same every epoch, and a sentence.
pub type Finding = (String, String);

/// Units of ReLUs that are 0 for every picture of x `[N,C,H,W]` in evaluation: of a picture's channels all pixels, of a row its features.
pub fn dead_units(model: &Model, x: Tensor) -> Result<Vec<Finding>> {
    let mut tape = Tape::holding();
    let x = tape.input(x);
    model.eval(&mut tape, x)?;
    let mut findings = Vec::new();
    for line in tape.lines().filter(|line| line.op.rectifies()) {
        let shape = line.spec.shape;
        let (images, units) = (shape[0], shape[1]);
        let values = tape.value(line.output).read()?;
        let pixels = values.len() / (images * units).max(1);
        let dead = |u: &usize| (0..images).all(|n| values[(n * units + u) * pixels..][..pixels].iter().all(|&y| y == 0.0));
        let dead = (0..units).filter(dead).count();
        if dead as f64 >= MANY * units as f64 {
            let name = nonfinite::name(&tape, line.output);
            let sentence = format!(
                "{name}: {dead} of {units} units are 0 for each of {images} pictures and learn nothing (dead ReLUs); lower --lr, or take a \
                 network with batch norm or leaky ReLU"
            );
            findings.push((format!("dead {name}"), sentence));
        }
    }
    Ok(findings)
}

/// What the norms of the parameters' gradients at one step tell; of layers, only weights count.
pub fn gradients(model: &Model, norms: &[Option<f64>]) -> Option<Finding> {
    let whole = norm(norms);
    // In f16 a step may overflow and be left out.
    if !whole.is_finite() {
        return None;
    }
    if whole < NORMS.0 {
        return Some((
            "vanished".into(),
            format!("the whole gradient has vanished: its norm is {whole:.1e}; raise --lr, or look for dead ReLUs and constant inputs"),
        ));
    }
    if whole > NORMS.1 {
        return Some((
            "exploded".into(),
            format!("the whole gradient is exploding: its norm is {whole:.1e}; lower --lr, or try --clip-grad-norm 1"),
        ));
    }
    let params = model.params.names().iter().zip(model.params.values()).zip(norms);
    let weights: Vec<(&String, f64)> =
        params.filter(|((_, w), _)| w.shape().to_vec().len() > 1).filter_map(|((name, _), norm)| Some((name, (*norm)?))).collect();
    let (&(first, a), &(last, b)) = (weights.first()?, weights.last()?);
    if a * RATIO < b {
        return Some((
            "vanishing".into(),
            format!(
                "gradients vanish on their way back: norm {b:.1e} at {last}, {a:.1e} at {first}; take a network with batch norm or shortcuts"
            ),
        ));
    }
    (b * RATIO < a)
        .then(|| ("exploding".into(), format!("gradients grow on their way back: norm {b:.1e} at {last}, {a:.1e} at {first}; lower --lr")))
}

/// Whether an epoch has left the loss where guessing has it: at ln(classes), PyTorch's 2.3026 for ten.
pub fn guessing(train: &Running, classes: usize) -> Option<Finding> {
    let (guess, n) = ((classes as f64).ln(), classes as f64);
    // Too few images to tell from chance are not judged.
    let still = train.samples() >= 500 && train.loss() > 0.98 * guess && train.accuracy() < 1.5 / n;
    still.then(|| {
        let sentence = format!(
            "the loss, {:.4}, is still that of guessing among {classes} classes (ln {classes} = {guess:.4}): try another --lr (higher if the \
             loss does not move, lower if it jumps), and --overfit-batch",
            train.loss()
        );
        ("guessing".into(), sentence)
    })
}
