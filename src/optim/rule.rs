//! Which rule an optimiser follows, by name and with its settings.
//!
//! The formulas are on the rules' own pages; here are their names, PyTorch's defaults and the ranges that settings may have. Read next:
//! `sgd.rs`.

use super::{Adam, Coefficients, RmsProp, Sgd};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How weights follow gradients.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Stochastic gradient descent, with momentum or without.
    Sgd(Sgd),
    /// Adam, and AdamW if decoupled.
    Adam(Adam),
    /// RMSprop.
    RmsProp(RmsProp),
}

/// Settings that differ from a rule's defaults; see the rules for what they mean.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Options {
    pub momentum: Option<f64>,
    pub dampening: Option<f64>,
    pub nesterov: Option<bool>,
    pub weight_decay: Option<f64>,
    pub betas: Option<[f64; 2]>,
    pub eps: Option<f64>,
    pub alpha: Option<f64>,
    pub centered: Option<bool>,
}

impl Options {
    /// The names of the options that are given.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("momentum", self.momentum.is_some()),
            ("dampening", self.dampening.is_some()),
            ("nesterov", self.nesterov.is_some()),
            ("weight_decay", self.weight_decay.is_some()),
            ("betas", self.betas.is_some()),
            ("eps", self.eps.is_some()),
            ("alpha", self.alpha.is_some()),
            ("centered", self.centered.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name)
    }
}

/// Moves a setting to its place, if it is given.
pub(super) fn take<T>(place: &mut T, option: &mut Option<T>) {
    if let Some(value) = option.take() {
        *place = value;
    }
}

impl Rule {
    /// What [`Rule::by_name`] knows.
    pub const NAMES: [&str; 4] = ["sgd", "adam", "adamw", "rmsprop"];

    /// A rule by its name, with PyTorch's defaults where `options` says nothing.
    ///
    /// Fails when there is no such rule, when it has no such option, and when a value is out of range.
    pub fn by_name(name: &str, options: &Options) -> Result<Rule> {
        let mut o = options.clone();
        let (rule, takes) = match name {
            "sgd" => (Rule::Sgd(Sgd::default().with(&mut o)), "momentum, dampening, nesterov, weight_decay"),
            "adam" => (Rule::Adam(Adam::default().with(&mut o)), "betas, eps, weight_decay"),
            "adamw" => (Rule::Adam(Adam::decoupled().with(&mut o)), "betas, eps, weight_decay"),
            "rmsprop" => (Rule::RmsProp(RmsProp::default().with(&mut o)), "alpha, eps, momentum, centered, weight_decay"),
            _ => {
                let names = Rule::NAMES.join(", ");
                return Err(Error::usage(format!("unknown optimizer '{name}'")).hint(format!("choose one of {names}")));
            }
        };
        if let Some(left) = o.given().next() {
            return Err(Error::usage(format!("{name} has no option {left}")).hint(format!("{name} takes {takes}")));
        }
        match rule.fault() {
            Some(fault) => Err(Error::usage(format!("{name}: {fault}"))),
            None => Ok(rule),
        }
    }

    /// The name that [`Rule::by_name`] knows it by.
    pub fn name(&self) -> &'static str {
        match self {
            Rule::Sgd(_) => "sgd",
            Rule::Adam(adam) if adam.decoupled => "adamw",
            Rule::Adam(_) => "adam",
            Rule::RmsProp(_) => "rmsprop",
        }
    }

    /// Sets the momentum where one is in use: that of SGD and RMSprop unless it is 0, Adam's first beta. One-cycle does this.
    pub fn set_momentum(&mut self, momentum: f64) {
        match self {
            Rule::Sgd(Sgd { momentum: place, .. }) | Rule::RmsProp(RmsProp { momentum: place, .. }) if *place == 0.0 => {}
            Rule::Sgd(Sgd { momentum: place, .. }) | Rule::RmsProp(RmsProp { momentum: place, .. }) => *place = momentum,
            Rule::Adam(adam) => adam.betas[0] = momentum,
        }
    }

    /// The moments it keeps of each parameter, by PyTorch's names.
    pub fn moments(&self) -> Vec<&'static str> {
        match self {
            Rule::Sgd(sgd) => sgd.moments(),
            Rule::Adam(_) => Adam::MOMENTS.to_vec(),
            Rule::RmsProp(rmsprop) => rmsprop.moments(),
        }
    }

    /// What its formula takes at step t = 1, 2, ... of a parameter.
    pub(super) fn coefficients(&self, t: u64, lr: f64) -> Coefficients {
        match self {
            Rule::Sgd(sgd) => sgd.coefficients(t, lr),
            Rule::Adam(adam) => adam.coefficients(t, lr),
            Rule::RmsProp(rmsprop) => rmsprop.coefficients(lr),
        }
    }

    /// What is wrong with the settings; the ranges are PyTorch's.
    fn fault(&self) -> Option<String> {
        let at_least_0 = |name: &str, x: f64| (!(0.0..f64::INFINITY).contains(&x)).then(|| format!("{name} must be at least 0, not {x}"));
        let below_1 = |name: &str, x: f64| (!(0.0..1.0).contains(&x)).then(|| format!("{name} must be at least 0 and below 1, not {x}"));
        match self {
            Rule::Sgd(sgd) => (at_least_0("momentum", sgd.momentum))
                .or_else(|| at_least_0("weight_decay", sgd.weight_decay))
                .or_else(|| (!sgd.dampening.is_finite()).then(|| format!("dampening must be a number, not {}", sgd.dampening)))
                .or_else(|| {
                    let fits = !sgd.nesterov || sgd.momentum > 0.0 && sgd.dampening == 0.0;
                    (!fits).then(|| "nesterov needs a momentum above 0 and no dampening".into())
                }),
            Rule::Adam(adam) => (below_1("the first of betas", adam.betas[0]))
                .or_else(|| below_1("the second of betas", adam.betas[1]))
                .or_else(|| at_least_0("eps", adam.eps))
                .or_else(|| at_least_0("weight_decay", adam.weight_decay)),
            Rule::RmsProp(rmsprop) => (below_1("alpha", rmsprop.alpha))
                .or_else(|| at_least_0("eps", rmsprop.eps))
                .or_else(|| at_least_0("momentum", rmsprop.momentum))
                .or_else(|| at_least_0("weight_decay", rmsprop.weight_decay)),
        }
    }
}
