//! Optimisers: from gradients to better weights.
//!
//! A [`Rule`] is a formula and its settings, with PyTorch's names and defaults; an [`Optimizer`] is a rule and what it remembers
//! of each parameter. One step cuts all parameters into short stretches and runs the rule over them in parallel; a rule sees
//! slices and nothing else, acts on each element by itself, and so gives the same bits on any number of threads. Not here: the
//! learning rate of each step (`schedule.rs`), gradients (`autograd`).
//!
//! On a GPU one launch moves a run of neighbouring parameters that have taken equally many steps, which as a rule are all of them. What
//! a rule reads of a step, its `Coefficients`, is written to the device for many steps ahead ([`Optimizer::plan`]), so that a captured
//! step can be replayed. Read in this order: `rule.rs`, `sgd.rs`, `adam.rs`, `rmsprop.rs`, `clip.rs`,
//! `average.rs`, `schedule.rs`, `clock.rs`.

mod adam;
mod average;
mod clip;
pub mod clock;
mod rmsprop;
mod rule;
pub mod schedule;
mod sgd;

pub use adam::Adam;
pub use average::Average;
pub use clip::{Clip, Limit};
pub use clock::{Clock, LossScale};
pub use rmsprop::RmsProp;
pub use rule::{Options, Rule};
pub use schedule::{Mode, Schedule, Scheduler};
pub use sgd::Sgd;

use crate::device::Device;
use crate::device::cuda::{Const, Launch, Mut};
use crate::error::{Error, Result};
use crate::nn::{ParamId, Params};
use crate::tensor::{Element, Spec, Tensor, span, span_mut};
use rayon::prelude::*;
use rule::take;

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
    /// On a GPU: for each number of steps that some parameter had taken when the plan was made, that number and the coefficients of
    /// the coming steps, `[steps, 8]`.
    plans: Vec<(u64, Tensor)>,
    /// On a GPU: which parameters the planned steps move.
    moved: Vec<bool>,
    clip: Option<Clip>,
    average: Option<Average>,
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
    /// What the rule reads of this step.
    k: Coefficients,
}

/// The numbers that a rule's formula takes at one step of one parameter; what each means, the rule says.
pub(crate) type Coefficients = [f64; 8];

/// A run of neighbouring parameters on a GPU and all that belongs to it, padding included.
struct Run<'a, A> {
    at: Launch,
    w: Mut<'a, A>,
    dw: Const<'a, A>,
    /// The rule's moments in its order; null behind them.
    m: [Mut<'a, A>; MOMENTS],
    /// Coefficients, a row for each of the coming steps.
    table: Const<'a, A>,
    /// Where the clock stands.
    place: Const<'a, i32>,
    /// Whether the step is left out, and the loss scale; null without one.
    health: Const<'a, i32>,
    scale: Const<'a, A>,
    count: i32,
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
        Self { moved: vec![false; states.len()], plans: Vec::new(), rule, states, clip: None, average: None }
    }

    /// The same, keeping a running average of the weights as well.
    pub fn with_average(self, decay: f64, params: &Params) -> Self {
        Self { average: Some(Average::new(decay, params)), ..self }
    }

    /// The same, holding gradients to a limit in [`Optimizer::take_step`].
    pub fn with_clip(self, limit: Limit, params: &Params) -> Self {
        Self { clip: Some(Clip::new(limit, params)), ..self }
    }

    /// What the last step multiplied the gradients by to hold their norm to its limit: 1 if it did not. Waits for the device.
    pub fn clipped(&self) -> Result<f64> {
        self.clip.as_ref().map_or(Ok(1.0), Clip::factor)
    }

    /// The running average of the weights, if there is one.
    pub fn average(&self) -> Option<&Average> {
        self.average.as_ref()
    }

    /// The same, to be changed.
    pub fn average_mut(&mut self) -> Option<&mut Average> {
        self.average.as_mut()
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
            let k = self.rule.coefficients(state.steps, lr);
            let mut moments = state.moments.iter_mut();
            let mut m: [_; MOMENTS] =
                std::array::from_fn(|_| moments.next().map(Tensor::data_mut::<T::Acc>).unwrap_or_default().chunks_mut(CHUNK));
            for (w, dw) in w.data_mut::<T>().chunks_mut(CHUNK).zip(dw.data::<T>().chunks(CHUNK)) {
                let m = m.each_mut().map(|chunks| chunks.next().unwrap_or_default());
                work.push(Stretch { w, dw, m, k });
            }
        }
        let rule = &self.rule;
        work.into_par_iter().for_each(|stretch| match rule {
            Rule::Sgd(sgd) => sgd.update(stretch),
            Rule::Adam(adam) => adam.update(stretch),
            Rule::RmsProp(rmsprop) => rmsprop.update(stretch),
        });
    }

    /// One step of a training run, on the device where the parameters are, which looks at the clock whether it is to be left out.
    /// Gradients are clipped first, afterwards the working weights and the average follow. On a GPU the learning rate is the plan's, on the CPU it is `lr`.
    pub fn take_step(&mut self, params: &mut Params, clock: &Clock, lr: f64) -> Result<()> {
        let Some((dtype, device)) = params.values().first().map(|first| (first.dtype(), first.device())) else { return Ok(()) };
        if let Device::Cuda(_) = device {
            if let Some(clip) = &mut self.clip {
                clip.apply(&mut params.gradients, clock)?;
            }
            crate::dispatch!(sums dtype, A => self.launch::<A>(params, clock)?);
            if let Some(average) = &mut self.average {
                average.follow(params, clock)?;
            }
            return params.refresh();
        }
        let (left_out, unscale) = clock.verdict();
        if left_out {
            return Ok(());
        }
        if unscale != 1.0 {
            params.gradients.multiply(unscale);
        }
        if let Some(clip) = &mut self.clip {
            clip.apply(&mut params.gradients, clock)?;
        }
        self.step(params, lr);
        if let Some(average) = &mut self.average {
            average.follow(params, clock)?;
        }
        params.refresh()
    }

    fn launch<A: Element<Acc = A>>(&mut self, params: &mut Params, clock: &Clock) -> Result<()> {
        let mut updates: Vec<(usize, &mut Tensor, &Tensor)> = params.updates().collect();
        let steps: Vec<u64> = self.states.iter().map(|s| s.steps).collect();
        let (health, scale) = clock.verdict_there::<A>();
        for run in updates.chunk_by_mut(|a, b| a.0 + 1 == b.0 && steps[a.0] == steps[b.0]) {
            let (first, device) = (run[0].0, run[0].1.device());
            let Some((_, table)) = self.plans.iter().find(|(taken, _)| *taken == steps[first]) else {
                return Err(Error::run("the optimiser has no plan for this step: Optimizer::plan comes first"));
            };
            self.moved[first..first + run.len()].fill(true);
            let mut moments: [Vec<&mut Tensor>; MOMENTS] = Default::default();
            for state in &mut self.states[first..first + run.len()] {
                for (place, moment) in moments.iter_mut().zip(&mut state.moments) {
                    place.push(moment);
                }
            }
            let (ws, dws): (Vec<&mut Tensor>, Vec<&Tensor>) = run.iter_mut().map(|(_, w, dw)| (&mut **w, *dw)).unzip();
            let ((w, count), (dw, _)) = (span_mut::<A>(ws), span::<A>(dws));
            let m = moments.map(|moment| span_mut::<A>(moment).0);
            let (at, table, place) = (Launch::each(device, count, 256), table.cuda(), clock.place.cuda());
            let run = Run { at, w, dw, m, table, place, health, scale, count: count as i32 };
            match &self.rule {
                Rule::Sgd(sgd) => sgd.launch(run)?,
                Rule::Adam(adam) => adam.launch(run)?,
                Rule::RmsProp(rmsprop) => rmsprop.launch(run)?,
            }
        }
        Ok(())
    }

    /// On a GPU: writes down what the coming steps need. `steps` gives learning rate and, if it changes, momentum of each; there is room
    /// for `room` of them, which should stay the same from plan to plan, as then the plan stays at its place in memory.
    ///
    /// Says whether captured steps go on being right: not if the plan has moved.
    pub fn plan(&mut self, params: &Params, room: usize, steps: impl Iterator<Item = (f64, Option<f64>)> + Clone) -> bool {
        let Some(first) = params.values().first() else { return true };
        let spec = Spec::rows([room, 8], first.dtype().acc()).on(first.device());
        // Those of frozen parameters stay at 0 and are nobody's plan.
        let moving = self.states.iter().enumerate().filter(|(i, _)| !params.is_frozen(ParamId(*i)));
        let mut counts: Vec<u64> = moving.map(|(_, s)| s.steps).collect();
        counts.sort_unstable();
        counts.dedup();
        let old = std::mem::take(&mut self.plans);
        // With several counts, which table is whose may change as some parameters move and others do not.
        let average_stays = self.average.as_mut().is_none_or(|average| average.plan(room));
        let stays = old.len() == 1 && counts.len() == 1 && old.iter().all(|(_, table)| table.spec() == spec);
        let mut old = old.into_iter().map(|(_, table)| table).filter(|_| stays);
        for taken in counts {
            let row = |(i, (lr, momentum)): (usize, (f64, Option<f64>))| {
                let mut rule = self.rule.clone();
                momentum.into_iter().for_each(|momentum| rule.set_momentum(momentum));
                rule.coefficients(taken + 1 + i as u64, lr)
            };
            let mut rows: Vec<f64> = steps.clone().enumerate().flat_map(row).collect();
            rows.resize(8 * room, 0.0);
            let mut table = old.next().unwrap_or_else(|| Tensor::new(spec));
            table.copy_from(&Tensor::from_values(spec, &rows));
            self.plans.push((taken, table));
        }
        stays && average_stays
    }

    /// On a GPU: counts the steps that were taken of the plan; what comes next needs a new one.
    pub fn settle(&mut self, taken: u64) {
        for (state, moved) in self.states.iter_mut().zip(&self.moved) {
            state.steps += if *moved { taken } else { 0 };
        }
        if let Some(average) = &mut self.average {
            average.settle(taken);
        }
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
