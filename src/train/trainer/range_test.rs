//! The learning-rate range test: how the loss falls, and at last explodes, while the rate grows from step to step.
//!
//! Smith 2017, "Cyclical learning rates for training neural networks": one short run in which step i has the rate lo·(hi/lo)^(i/(n-1)).
//! Read from it is where the smoothed loss falls fastest, and a tenth of the rate where it was least, which is what many take as the
//! maximum of a schedule. The losses are smoothed as s = β·s + (1 - β)·loss with β = 0.95, divided by 1 - βⁱ so that the beginning is
//! not drawn to 0. Read next: `cli/lr_find.rs`.

use super::{Trainer, cut};
use crate::data::permutation;
use crate::error::{Error, Result};
use crate::optim::LossScale;
use crate::train::engine::Engine;
use crate::train::step::Setting;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};

/// β of the smoothing.
const SMOOTHING: f64 = 0.95;

/// The test ends where the smoothed loss is so many times its least.
const EXPLODED: f64 = 4.0;

/// One step of the test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Its learning rate.
    pub lr: f64,
    /// The mean loss of its batch, before the step.
    pub loss: f64,
    /// The losses so far, smoothed.
    pub smoothed: f64,
}

/// What the test suggests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Suggestion {
    /// Where the smoothed loss falls fastest over the logarithm of the rate.
    pub steepest: f64,
    /// A tenth of the rate at which the smoothed loss was least.
    pub min_tenth: f64,
}

/// `n` rates from `lo` to `hi`, each the same factor above the one before.
pub fn rates(lo: f64, hi: f64, n: usize) -> Vec<f64> {
    (0..n).map(|i| lo * (hi / lo).powf(i as f64 / (n - 1).max(1) as f64)).collect()
}

impl Trainer<'_> {
    /// Takes steps with these rates, one after the other, until the loss explodes or `stop` is set. The network is spoilt afterwards.
    pub fn range_test(&mut self, rates: &[f64], stop: &AtomicBool) -> Result<Vec<Point>> {
        let scale = LossScale::default();
        let mut engine = Engine::new(&self.model, self.loader()?, self.config.augment()?, scale, self.place.capture);
        let steps = cut(self.train.len(), self.config.batch);
        let (seed, label_smoothing) = (self.config.seed, self.config.label_smoothing);
        let mut points: Vec<Point> = Vec::new();
        let (mut smoothed, mut least, mut skipped) = (0.0, f64::INFINITY, 0);
        let mut order: Vec<u32> = Vec::new();
        for step in 0.. {
            let Some(&lr) = rates.get(points.len()).filter(|_| !stop.load(Ordering::Relaxed)) else { break };
            let (epoch, in_epoch) = (step / steps.len(), step % steps.len());
            if in_epoch == 0 {
                order = permutation(self.train.len(), seed, epoch as u64).iter().map(|&i| self.train[i as usize]).collect();
            }
            let range = steps[in_epoch].clone();
            let (place, full) = ((step as u64, in_epoch as u64, range.start), range.len() == self.config.batch);
            engine.begin(&self.model, &mut self.optimizer, order.clone(), place, steps.len(), std::iter::once((lr, None)));
            let setting = Setting { lr, label_smoothing, seed };
            engine.step(&mut self.model, &mut self.optimizer, range, full, &setting, self.teacher.as_ref())?;
            let loss = engine.read()?.loss();
            let left_out = engine.settle(&self.model, &mut self.optimizer)?.map_or(0, |scale| scale.skipped);
            if !loss.is_finite() {
                break;
            }
            // A step that f16's loss scale left out is made again with the next batch.
            if std::mem::replace(&mut skipped, left_out) < left_out {
                continue;
            }
            smoothed = SMOOTHING * smoothed + (1.0 - SMOOTHING) * loss;
            let now = smoothed / (1.0 - SMOOTHING.powi(points.len() as i32 + 1));
            points.push(Point { lr, loss, smoothed: now });
            least = now.min(least);
            if now > EXPLODED * least {
                break;
            }
        }
        Ok(points)
    }
}

/// What these points suggest. Fails when the loss never fell.
pub fn suggest(points: &[Point]) -> Result<Suggestion> {
    let lowest = (0..points.len()).min_by(|&a, &b| points[a].smoothed.total_cmp(&points[b].smoothed)).unwrap_or(0);
    // A slope over some points: between two it is mostly noise, and so are the first, which are hardly smoothed.
    let reach = (points.len() / 20).max(1);
    let slope = |i: usize| {
        let (a, b) = (&points[i - reach], &points[i + reach]);
        (b.smoothed - a.smoothed) / (b.lr / a.lr).ln()
    };
    let inside = (2 * reach..(lowest + 1).min(points.len().saturating_sub(reach))).filter(|&i| slope(i) < 0.0);
    match inside.min_by(|&a, &b| slope(a).total_cmp(&slope(b))) {
        Some(at) => Ok(Suggestion { steepest: points[at].lr, min_tenth: points[lowest].lr / 10.0 }),
        None => Err(Error::run(format!("the loss did not fall in the {} steps before it exploded", points.len()))
            .hint("start lower with --from, or take more --steps")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(loss: impl Fn(f64) -> f64) -> Vec<Point> {
        rates(1e-5, 1.0, 200).into_iter().map(|lr| Point { lr, loss: 0.0, smoothed: loss(lr.log10()) }).collect()
    }

    #[test]
    fn rates_grow_by_one_factor() {
        let rates = rates(1e-4, 1e-1, 4);
        [1e-4, 1e-3, 1e-2, 1e-1].iter().zip(&rates).for_each(|(want, rate)| assert!((rate / want - 1.0).abs() < 1e-12, "{rates:?}"));
        assert_eq!(super::rates(0.5, 1.0, 1), [0.5]);
    }

    /// A sigmoid falls fastest in its middle, and the parabola is least at its bottom.
    #[test]
    fn the_steepest_descent_and_the_minimum_are_found() {
        let fall = curve(|x| if x < -1.0 { 2.3 / (1.0 + (3.0 * (x + 2.5)).exp()) } else { 10.0 * (x + 1.0) });
        let s = suggest(&fall).unwrap();
        assert!((s.steepest.log10() + 2.5).abs() < 0.1 && (s.min_tenth.log10() + 2.0).abs() < 0.1, "{s:?}");
    }

    #[test]
    fn a_loss_that_only_rises_suggests_nothing() {
        assert!(suggest(&curve(|x| x)).is_err());
        assert!(suggest(&[]).is_err());
        assert!(suggest(&curve(|x| -x)[..2]).is_err());
    }
}
