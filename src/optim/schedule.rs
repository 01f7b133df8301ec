//! The learning rate of each step.
//!
//! A [`Schedule`] is a curve and its settings, as one word of the command line; a [`Scheduler`] is a curve stretched over one run.
//! With base rate r, epoch e = 0, 1, ... of E, step s = 0, 1, ... of S over the whole run:
//!
//! ```text
//! constant    r
//! step        r·γ^⌊e / size⌋
//! multistep   r·γ^(number of milestones <= e)
//! cosine      f + (r - f)·(1 + cos(π·e/E)) / 2              f: the floor. Loshchilov and Hutter 2017, "SGDR", without restarts
//! onecycle    from r/div up to r at s = p·S - 1, then down to r/div/final_div at s = S - 1, each by half a cosine
//!                                                           Smith and Topin 2018, "Super-convergence"
//! reduce-on-plateau   r·factor^(number of plateaus so far)  a plateau: more than `patience` epochs without a better metric
//! ```
//!
//! All of it as in PyTorch's `torch.optim.lr_scheduler` (`StepLR`, `MultiStepLR`, `CosineAnnealingLR` with `T_max` = E,
//! `OneCycleLR` with `total_steps` = S and `cos`, `ReduceLROnPlateau`): only one-cycle moves within an epoch.
//!
//! Read next: `models`, which has something to optimise.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Is a small metric good, or a large one?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Small is good: a loss.
    Min,
    /// Large is good: an accuracy.
    Max,
}

/// A curve of the learning rate; parsed from and printed as `name:setting:setting`, in configuration files too.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(try_from = "String", into = "String")]
pub enum Schedule {
    /// The base rate.
    Constant,
    /// Times `gamma` every `size` epochs.
    Step {
        /// Epochs between two cuts.
        size: u64,
        /// The factor of a cut.
        gamma: f64,
    },
    /// Times `gamma` at each milestone.
    MultiStep {
        /// The epochs, counted from 0, that begin with a cut.
        milestones: Vec<u64>,
        /// The factor of a cut.
        gamma: f64,
    },
    /// Half a cosine over all epochs.
    Cosine {
        /// Where it ends: PyTorch's `eta_min`.
        floor: f64,
    },
    /// Up, then far down, step by step. The base rate is the highest (`max_lr`).
    OneCycle {
        /// Which part of the run goes up: PyTorch's `pct_start`.
        up: f64,
        /// The first rate is the base rate over this: `div_factor`.
        div: f64,
        /// The last rate is the first over this: `final_div_factor`.
        final_div: f64,
    },
    /// Times `factor` when the metric has stood still for more than `patience` epochs: the loss of the validation images if small is
    /// good, their accuracy if large is.
    Plateau {
        /// Which metric is better, and by that which it is.
        mode: Mode,
        /// Epochs without improvement that are tolerated.
        patience: u64,
        /// The factor of a cut.
        factor: f64,
        /// How much better, in parts of the best metric, counts as better.
        threshold: f64,
    },
}

/// Name and syntax of every schedule.
const SYNTAX: [(&str, &str); 6] = [
    ("constant", "constant"),
    ("step", "step:SIZE:GAMMA, as in step:30:0.1 (the default)"),
    ("multistep", "multistep:EPOCH,EPOCH,...:GAMMA, as in multistep:20,30:0.1"),
    ("cosine", "cosine:FLOOR, as in cosine:0 (the default)"),
    ("onecycle", "onecycle:UP:DIV:FINAL_DIV, as in onecycle:0.3:25:10000 (the default)"),
    ("reduce-on-plateau", "reduce-on-plateau:MODE:PATIENCE:FACTOR:THRESHOLD, as in reduce-on-plateau:min:10:0.1:0.0001 (the default)"),
];

/// What is left of a schedule's text.
struct Parts<'a> {
    text: &'a str,
    syntax: &'static str,
    rest: std::str::Split<'a, char>,
}

impl Parts<'_> {
    fn fault(&self, what: impl fmt::Display) -> Error {
        Error::usage(format!("schedule '{}': {what}", self.text)).hint(format!("write {}", self.syntax))
    }

    /// The next part, which must be `what`; the default where the text has ended.
    fn next<T: FromStr>(&mut self, what: &str, default: T, fits: impl Fn(&T) -> bool) -> Result<T> {
        let Some(part) = self.rest.next() else { return Ok(default) };
        part.parse().ok().filter(fits).ok_or_else(|| self.fault(format!("'{part}' is not {what}")))
    }

    fn gamma(&mut self) -> Result<f64> {
        self.next("a factor from 0 to 1", 0.1, |x| (0.0..=1.0).contains(x))
    }

    fn milestones(&mut self) -> Result<Vec<u64>> {
        let Some(list) = self.rest.next() else { return Err(self.fault("the milestones are missing")) };
        let epoch = |part: &str| part.trim().parse().map_err(|_| self.fault(format!("'{part}' is not the number of an epoch")));
        list.split(',').map(epoch).collect()
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut rest = text.split(':');
        let name = rest.next().unwrap_or_default();
        let Some(&(_, syntax)) = SYNTAX.iter().find(|(known, _)| *known == name) else {
            let names = SYNTAX.map(|(name, _)| name).join(", ");
            return Err(Error::usage(format!("unknown schedule '{name}'")).hint(format!("choose one of {names}")));
        };
        let mut parts = Parts { text, syntax, rest };
        let positive = |x: &f64| *x > 0.0 && x.is_finite();
        let schedule = match name {
            "step" => Schedule::Step { size: parts.next("a number of epochs, at least 1", 30, |&n| n >= 1)?, gamma: parts.gamma()? },
            "multistep" => Schedule::MultiStep { milestones: parts.milestones()?, gamma: parts.gamma()? },
            "cosine" => Schedule::Cosine { floor: parts.next("a learning rate", 0.0, |x| (0.0..f64::INFINITY).contains(x))? },
            "onecycle" => Schedule::OneCycle {
                up: parts.next("a part of the run, from 0 to 1", 0.3, |x| (0.0..=1.0).contains(x))?,
                div: parts.next("a divisor above 0", 25.0, positive)?,
                final_div: parts.next("a divisor above 0", 1e4, positive)?,
            },
            "reduce-on-plateau" => Schedule::Plateau {
                mode: parts.next("min or max", Mode::Min, |_| true)?,
                patience: parts.next("a number of epochs", 10, |_| true)?,
                factor: parts.next("a factor below 1", 0.1, |x| (0.0..1.0).contains(x))?,
                threshold: parts.next("a threshold from 0 to 1", 1e-4, |x| (0.0..=1.0).contains(x))?,
            },
            _ => Schedule::Constant,
        };
        match parts.rest.next() {
            Some(part) => Err(parts.fault(format!("'{part}' is too much"))),
            None => Ok(schedule),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Constant => write!(f, "constant"),
            Schedule::Step { size, gamma } => write!(f, "step:{size}:{gamma}"),
            Schedule::MultiStep { milestones, gamma } => {
                let milestones: Vec<String> = milestones.iter().map(u64::to_string).collect();
                write!(f, "multistep:{}:{gamma}", milestones.join(","))
            }
            Schedule::Cosine { floor } => write!(f, "cosine:{floor}"),
            Schedule::OneCycle { up, div, final_div } => write!(f, "onecycle:{up}:{div}:{final_div}"),
            Schedule::Plateau { mode, patience, factor, threshold } => {
                write!(f, "reduce-on-plateau:{mode}:{patience}:{factor}:{threshold}")
            }
        }
    }
}

impl TryFrom<String> for Schedule {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> String {
        schedule.to_string()
    }
}

impl FromStr for Mode {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "min" => Ok(Mode::Min),
            "max" => Ok(Mode::Max),
            _ => Err(Error::usage(format!("unknown mode '{text}'")).hint("choose min or max")),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Min => "min",
            Mode::Max => "max",
        })
    }
}

/// What a plateau schedule has seen: all that a checkpoint holds of a [`Scheduler`], whose rest is settings.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Watch {
    /// The best metric so far.
    pub best: Option<f64>,
    /// Epochs since then or since the last cut, whichever is later.
    pub bad: u64,
    /// How often the rate was cut.
    pub cuts: u32,
}

/// A schedule at work in one run.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Scheduler {
    schedule: Schedule,
    base_lr: f64,
    epochs: u64,
    steps_per_epoch: u64,
    /// The only part that changes.
    pub watch: Watch,
}

/// A cut of the rate by less than this is not made: PyTorch's `eps`.
const LEAST_CUT: f64 = 1e-8;

impl Scheduler {
    /// A schedule stretched over a run of `epochs` epochs of `steps_per_epoch` steps.
    pub fn new(schedule: Schedule, base_lr: f64, epochs: u64, steps_per_epoch: u64) -> Self {
        Self { schedule, base_lr, epochs, steps_per_epoch, watch: Watch::default() }
    }

    /// The schedule.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The learning rate of step `step`, counted from 0 over the whole run. Steps after the end have the last rate.
    pub fn lr(&self, step: u64) -> f64 {
        let base = self.base_lr;
        let epoch = step / self.steps_per_epoch.max(1);
        match &self.schedule {
            Schedule::Constant => base,
            Schedule::Step { size, gamma } => base * gamma.powf((epoch / size) as f64),
            Schedule::MultiStep { milestones, gamma } => {
                base * gamma.powf(milestones.iter().filter(|&&milestone| milestone <= epoch).count() as f64)
            }
            Schedule::Cosine { floor } => half_cosine(base, *floor, epoch as f64 / self.epochs.max(1) as f64),
            Schedule::OneCycle { div, final_div, .. } => self.cycle(step, base / div, base, base / div / final_div),
            Schedule::Plateau { factor, .. } => self.after_cuts(*factor),
        }
    }

    /// The momentum of step `step`, if the schedule sets it: one-cycle goes down from 0.95 to 0.85 where the rate goes up.
    pub fn momentum(&self, step: u64) -> Option<f64> {
        matches!(self.schedule, Schedule::OneCycle { .. }).then(|| self.cycle(step, 0.95, 0.85, 0.95))
    }

    /// Tells a plateau schedule how good the epoch was; others need not know. A NaN is never better.
    pub fn epoch_end(&mut self, metric: f64) {
        let Schedule::Plateau { mode, patience, factor, threshold } = self.schedule else { return };
        let better = match (mode, self.watch.best) {
            (Mode::Min, best) => metric < best.unwrap_or(f64::INFINITY) * (1.0 - threshold),
            (Mode::Max, best) => metric > best.unwrap_or(f64::NEG_INFINITY) * (1.0 + threshold),
        };
        if better {
            self.watch.best = Some(metric);
            self.watch.bad = 0;
        } else {
            self.watch.bad += 1;
        }
        if self.watch.bad > patience {
            let lr = self.after_cuts(factor);
            self.watch.cuts += u32::from(lr - lr * factor > LEAST_CUT);
            self.watch.bad = 0;
        }
    }

    fn after_cuts(&self, factor: f64) -> f64 {
        (0..self.watch.cuts).fold(self.base_lr, |lr, _| lr * factor)
    }

    /// One-cycle: from `first` by half a cosine to `top`, and by another to `last`.
    fn cycle(&self, step: u64, first: f64, top: f64, last: f64) -> f64 {
        let Schedule::OneCycle { up, .. } = self.schedule else { return top };
        let steps = (self.epochs * self.steps_per_epoch) as f64;
        let (s, turn, end) = (step as f64, up * steps - 1.0, steps - 1.0);
        if s <= turn && turn > 0.0 {
            half_cosine(first, top, s / turn)
        } else if s < end {
            half_cosine(top, last, (s - turn) / (end - turn))
        } else {
            last
        }
    }
}

/// From `start` at part = 0 to `end` at part = 1; no further.
fn half_cosine(start: f64, end: f64, part: f64) -> f64 {
    end + (start - end) / 2.0 * (1.0 + (std::f64::consts::PI * part.min(1.0)).cos())
}
