//! Optimisers: from gradients to better weights.
//!
//! A [`Rule`] is a formula and its settings, with PyTorch's names and defaults; an [`Optimizer`] is a rule and what it remembers
//! of each parameter. One step cuts all parameters into short stretches and runs the rule over them in parallel; a rule sees
//! slices and nothing else, acts on each element by itself, and so gives the same bits on any number of threads. Not here: the
//! learning rate of each step (`schedule.rs`), gradients (`autograd`). Read in this order: `sgd.rs`, `adam.rs`, `rmsprop.rs`,
//! `schedule.rs`.

mod adam;
mod rmsprop;
pub mod schedule;
mod sgd;

pub use adam::Adam;
pub use rmsprop::RmsProp;
pub use schedule::{Mode, Schedule, Scheduler};
pub use sgd::Sgd;

use crate::error::{Error, Result};
use crate::nn::Params;
use crate::tensor::{Element, Spec, Tensor};
use rayon::prelude::*;
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
fn take<T>(place: &mut T, option: &mut Option<T>) {
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
    fn moments(&self) -> Vec<&'static str> {
        match self {
            Rule::Sgd(sgd) => sgd.moments(),
            Rule::Adam(_) => Adam::MOMENTS.to_vec(),
            Rule::RmsProp(rmsprop) => rmsprop.moments(),
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

/// What is remembered of one parameter.
#[derive(Debug)]
struct State {
    name: String,
    /// How many steps it has taken. Not all parameters need to have taken as many: one that got no gradient at first begins later.
    steps: u64,
    /// One tensor for each of the rule's moments, like the parameter but in the type that sums are kept in.
    moments: Vec<Tensor>,
}

/// A rule at work on the parameters of one network.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    states: Vec<State>,
}

/// The elements that one task updates: 64 KB of f32 for each of w, dw and the moments.
const CHUNK: usize = 1 << 14;

/// The most moments that a rule keeps.
const MOMENTS: usize = 3;

/// A piece of one parameter and of all that belongs to it, element by element.
struct Stretch<'a, T: Element> {
    /// The weights.
    w: &'a mut [T],
    /// Their gradient.
    dw: &'a [T],
    /// The rule's moments in its order; empty slices behind them.
    m: [&'a mut [T::Acc]; MOMENTS],
    /// The number of this step of this parameter, from 1.
    t: u64,
}

impl Optimizer {
    /// An optimiser that remembers nothing yet. Each moment of all parameters is one allocation.
    pub fn new(rule: Rule, params: &Params) -> Self {
        let names = params.names().iter();
        let mut states: Vec<State> = names.map(|name| State { name: name.clone(), steps: 0, moments: Vec::new() }).collect();
        let acc = |w: &Tensor| Spec { dtype: w.dtype().acc(), ..w.spec() };
        let specs: Vec<Spec> = params.values().iter().map(acc).collect();
        for _ in rule.moments() {
            for (state, moment) in states.iter_mut().zip(Tensor::arena(&specs)) {
                state.moments.push(moment);
            }
        }
        Self { rule, states }
    }

    /// The rule and its settings.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// See [`Rule::set_momentum`].
    pub fn set_momentum(&mut self, momentum: f64) {
        self.rule.set_momentum(momentum);
    }

    /// Moves every parameter that has a gradient; the others, and what is remembered of them, stay as they are.
    ///
    /// `params` must be those that the optimiser was made for. They are written in place: drop the tape first, it shares them.
    pub fn step(&mut self, params: &mut Params, lr: f64) {
        assert_eq!(params.len(), self.states.len(), "the optimiser was made for other parameters");
        if let Some(w) = params.values().first() {
            crate::dispatch!(w.dtype(), T => self.run::<T>(params, lr));
        }
    }

    fn run<T: Element>(&mut self, params: &mut Params, lr: f64) {
        let mut states = self.states.iter_mut().enumerate();
        let mut work: Vec<Stretch<T>> = Vec::new();
        for (i, w, dw) in params.updates() {
            let Some((_, state)) = states.find(|(j, _)| *j == i) else { break };
            state.steps += 1;
            let mut moments = state.moments.iter_mut();
            let mut m: [_; MOMENTS] =
                std::array::from_fn(|_| moments.next().map(Tensor::data_mut::<T::Acc>).unwrap_or_default().chunks_mut(CHUNK));
            for (w, dw) in w.data_mut::<T>().chunks_mut(CHUNK).zip(dw.data::<T>().chunks(CHUNK)) {
                let m = m.each_mut().map(|chunks| chunks.next().unwrap_or_default());
                work.push(Stretch { w, dw, m, t: state.steps });
            }
        }
        let rule = &self.rule;
        work.into_par_iter().for_each(|stretch| match rule {
            Rule::Sgd(sgd) => sgd.update(stretch, lr),
            Rule::Adam(adam) => adam.update(stretch, lr),
            Rule::RmsProp(rmsprop) => rmsprop.update(stretch, lr),
        });
    }

    /// Everything that a checkpoint holds of it but the [`steps`](Self::steps): the moments, as `optimizer.exp_avg.fc1.weight`.
    pub fn state(&self) -> Vec<(String, &Tensor)> {
        let name = |moment: &str, state: &State| format!("optimizer.{moment}.{}", state.name);
        let moments = self.rule.moments().into_iter().enumerate();
        moments.flat_map(|(k, moment)| self.states.iter().map(move |s| (name(moment, s), &s.moments[k]))).collect()
    }

    /// The same tensors under the same names, to be overwritten.
    pub fn state_mut(&mut self) -> Vec<(String, &mut Tensor)> {
        let names = self.rule.moments();
        let all = self.states.iter_mut().flat_map(|s| s.moments.iter_mut().zip(&names).map(|(m, name)| (*name, &*s.name, m)));
        all.map(|(moment, param, m)| (format!("optimizer.{moment}.{param}"), m)).collect()
    }

    /// How many steps each parameter has taken, in the order of the parameters: `optimizer.step` of a checkpoint.
    pub fn steps(&self) -> impl Iterator<Item = u64> {
        self.states.iter().map(|s| s.steps)
    }

    /// The same, to be overwritten.
    pub fn steps_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        self.states.iter_mut().map(|s| &mut s.steps)
    }
}
