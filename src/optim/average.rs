//! The running average of the weights: exponential moving average, EMA.
//!
//! After step t = 0, 1, ... the average a of each weight w follows it:
//!
//! ```text
//! k = 1 - min(decay, (1 + t)/(10 + t))
//! a = a + k·(w - a)                        a begins as the first weights
//! ```
//!
//! The average of the last 1/(1 - decay) steps or so lies closer to the middle of the valley that the weights bounce about in, and judges
//! pictures better (Polyak and Juditsky 1992). The bound (1 + t)/(10 + t), TensorFlow's `num_updates`, lets an early average forget the
//! first weights quickly. On a GPU the k of the coming steps are laid down as a table like the optimiser's coefficients, and a kernel
//! inside the captured step takes them from there. Not here: batch norms' statistics, which must fit the averaged weights
//! (`train/averaged.rs`). Read next: `schedule.rs`.

use super::Clock;
use crate::device::Device;
use crate::device::cuda::{Launch, kernels::optimizer as kernel};
use crate::error::{Error, Result};
use crate::nn::Params;
use crate::tensor::{Element, Spec, Stored, Tensor, span, span_mut};
use rayon::prelude::*;

/// The averages of all parameters of a network.
#[derive(Debug)]
pub struct Average {
    decay: f64,
    /// Like the parameters' values.
    values: Vec<Tensor>,
    /// Steps followed so far.
    taken: u64,
    /// On a GPU: k of the coming steps.
    table: Option<Tensor>,
}

impl Average {
    /// Begins at the values that the parameters have now.
    pub fn new(decay: f64, params: &Params) -> Self {
        let specs: Vec<Spec> = params.values().iter().map(Tensor::spec).collect();
        let mut average = Self { decay, values: Tensor::arena(&specs), taken: 0, table: None };
        average.begin(params);
        average
    }

    /// Begins anew at the values that the parameters have now.
    pub fn begin(&mut self, params: &Params) {
        self.taken = 0;
        for (average, w) in self.values.iter_mut().zip(params.values()) {
            average.copy_from(w);
        }
    }

    /// How far the average goes towards the weights after `t` other steps.
    fn part(&self, t: u64) -> f64 {
        1.0 - self.decay.min((1 + t) as f64 / (10 + t) as f64)
    }

    /// Goes after the weights of a step that was taken. On a GPU the kernel sees whether it was.
    pub(super) fn follow(&mut self, params: &Params, clock: &Clock) -> Result<()> {
        let k = self.part(self.taken);
        let Some((dtype, device)) = self.values.first().map(|first| (first.dtype(), first.device())) else { return Ok(()) };
        crate::dispatch!(sums dtype, A => match device {
            Device::Cpu => {
                self.values.par_iter_mut().zip(params.values()).for_each(|(average, w)| {
                    let k = A::from_f64(k);
                    for (a, &w) in average.data_mut::<A>().iter_mut().zip(w.data::<A>()) {
                        *a = *a + k * (w - *a);
                    }
                });
                self.taken += 1;
            }
            Device::Cuda(_) => self.launch::<A>(device, params, clock)?,
        });
        Ok(())
    }

    fn launch<A: Element<Acc = A>>(&mut self, device: Device, params: &Params, clock: &Clock) -> Result<()> {
        let Some(table) = &self.table else { return Err(Error::run("the average has no plan for this step: Optimizer::plan comes first")) };
        let ((w, count), (average, _)) = (span::<A>(params.values()), span_mut::<A>(&mut self.values));
        let (health, _) = clock.verdict_there::<A>();
        kernel::average::<A>(Launch::each(device, count, 256), average, w, table.cuda(), clock.place.cuda(), health, count as i32)
    }

    /// On a GPU: writes down what the coming steps need; says whether it stays at its place in memory.
    pub(super) fn plan(&mut self, room: usize) -> bool {
        let Some(first) = self.values.first() else { return true };
        let spec = Spec::rows([room], first.dtype()).on(first.device());
        let parts: Vec<f64> = (0..room as u64).map(|i| self.part(self.taken + i)).collect();
        let parts = Tensor::from_values(spec, &parts);
        match &mut self.table {
            Some(table) if table.spec() == spec => table.copy_from(&parts),
            table => {
                *table = Some(parts);
                return false;
            }
        }
        true
    }

    /// On a GPU: counts the steps that were taken of the plan.
    pub(super) fn settle(&mut self, taken: u64) {
        self.taken += taken;
    }

    /// Gives the network the averages for values, and the values to be kept here; the next call gives them back. No number moves, so captured
    /// steps stay right if it is called twice between them.
    pub fn exchange(&mut self, params: &mut Params) -> Result<()> {
        params.exchange(&mut self.values)
    }

    /// The averages, in the order of the parameters (or the values, while they are exchanged).
    pub fn values(&self) -> &[Tensor] {
        &self.values
    }

    /// The same, to be overwritten.
    pub fn values_mut(&mut self) -> &mut [Tensor] {
        &mut self.values
    }

    /// Steps followed so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The same, to be overwritten when a run goes on.
    pub fn set_taken(&mut self, taken: u64) {
        self.taken = taken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Builder, Init};
    use crate::optim::LossScale;
    use crate::tensor::DType;

    /// By hand: with a decay of 0.2, k is 0.9 at first (the bound), then 0.8 (2/11 is less, so 9/11, then the decay).
    #[test]
    fn the_average_follows_at_its_rate() {
        let mut builder = Builder::new(DType::F64, Device::Cpu);
        builder.param("w", [2, 1], Init::Ones);
        let mut params = builder.build(0);
        let mut average = Average::new(0.2, &params);
        let clock = Clock::new(DType::F64, Device::Cpu, LossScale::default());
        let mut expected = 1.0;
        for (w, k) in [(3.0, 0.9), (5.0, 9.0 / 11.0), (-1.0, 0.8), (2.0, 0.8)] {
            let spec = params.values()[0].spec();
            params.state_mut().next().unwrap().1.copy_from(&Tensor::from_values(spec, &[w, w]));
            average.follow(&params, &clock).unwrap();
            expected += k * (w - expected);
            assert!((average.values()[0].values()[1] - expected).abs() < 1e-14, "{k}: {:?} {expected}", average.values()[0].values());
        }
        average.exchange(&mut params).unwrap();
        assert_eq!((average.values()[0].values()[0], average.taken()), (2.0, 4));
        assert!((params.values()[0].values()[0] - expected).abs() < 1e-14);
    }
}
