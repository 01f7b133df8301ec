//! What changes from step to step, on the device: where training stands, and the loss scale of half precision.
//!
//! A captured step is replayed with the same arguments each time, so nothing that changes may be one. It lies in device memory instead:
//! the step's number (dropout draws by it), the place in the epoch (the batch and the optimiser's coefficients follow from it), and,
//! for f16, the loss scale. The last kernel of a step moves it all on ([`Clock::advance`]); the host writes it when an epoch begins and
//! reads it when it must know. The CPU keeps the same account, in the same words.
//!
//! # A loss that is no number
//!
//! If the loss is infinite or NaN, training is halted: no step moves a weight or the clock any more, whatever is still replayed. So the
//! weights stay those that the failing step began with, and the host, when it looks, can run that step again and see where the first
//! such number came from ([`Clock::halted`]).
//!
//! # The loss scale
//!
//! Gradients of f16 activations fall below its smallest number, 6·10⁻⁸. So backward begins with a scale s instead of 1, and the
//! optimiser multiplies by 1/s. If a gradient overflows, the step is left out and s halved; after [`PATIENCE`] good steps s is
//! doubled (Micikevicius et al. 2018, "Mixed precision training"; the numbers are PyTorch's `GradScaler`'s). bf16 has the range of f32
//! and needs none.
//!
//! Read next: `mod.rs`, which reads it; `train/step.rs`, which puts a step together.

use crate::device::Device;
use crate::device::cuda::{Const, Launch, Mut, kernels::step as kernel};
use crate::error::Result;
use crate::tensor::{self, DType, Element, Spec, Stored, Tensor};
use serde::{Deserialize, Serialize};

/// Good steps in a row after which the scale is doubled.
pub const PATIENCE: i32 = 2000;

/// The loss scale and its history, as a checkpoint holds it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// What the loss is multiplied by.
    pub scale: f64,
    /// Good steps since it last changed.
    pub good: u64,
    /// Steps left out so far because a gradient overflowed.
    pub skipped: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { scale: 65_536.0, good: 0, skipped: 0 }
    }
}

/// Where training stands.
#[derive(Debug)]
pub struct Clock {
    /// The step's number: its low and its high word, as dropout takes it.
    pub step: Tensor,
    /// The number of the step in its epoch, the first image of its batch, how many steps of the epoch were taken (not left out), and whether
    /// training is halted.
    pub place: Tensor,
    scaler: Option<Scaler>,
}

#[derive(Debug)]
struct Scaler {
    /// Did a gradient of this step overflow; good steps since the scale changed; steps left out.
    health: Tensor,
    /// s and 1/s, in the type of sums.
    scale: Tensor,
}

impl Clock {
    /// A clock at step 0 for a network that computes in `dtype` on `device`; with a loss scale if that is f16.
    pub fn new(dtype: DType, device: Device, loss_scale: LossScale) -> Self {
        let words = |n: usize| Tensor::zeros(Spec::rows([n], DType::I32).on(device));
        let LossScale { scale, good, skipped } = loss_scale;
        let scaler = (dtype == DType::F16).then(|| Scaler {
            health: Tensor::from_values(words(3).spec(), &[0, good as i32, skipped as i32]),
            scale: Tensor::from_values(Spec::rows([2], dtype.acc()).on(device), &[scale, 1.0 / scale]),
        });
        Self { step: words(2), place: words(4), scaler }
    }

    /// Puts it to a step of the run, and to a place in the epoch: the step's number there and its first image. Steps taken are counted
    /// from 0 again.
    pub fn set(&mut self, step: u64, in_epoch: u64, first: usize) {
        let words = [step as u32 as i32, (step >> 32) as i32];
        self.step.copy_from(&Tensor::from_values(self.step.spec(), &words));
        self.place.copy_from(&Tensor::from_values(self.place.spec(), &[in_epoch as i32, first as i32, 0, 0]));
    }

    /// The step's number, on the CPU.
    pub fn number(&self) -> u64 {
        let words = self.step.data::<i32>();
        words[0] as u32 as u64 | (words[1] as u32 as u64) << 32
    }

    /// How many steps were taken since [`Clock::set`], and the loss scale. Waits for the device.
    pub fn read(&self) -> Result<(u64, Option<LossScale>)> {
        let taken = self.place.read()?[2] as u64;
        let loss_scale = match &self.scaler {
            None => None,
            Some(Scaler { health, scale }) => {
                let health = health.read()?;
                Some(LossScale { scale: scale.read()?[0], good: health[1] as u64, skipped: health[2] as u64 })
            }
        };
        Ok((taken, loss_scale))
    }

    /// The step in its epoch whose loss was not finite, if training is halted. Waits for the device.
    pub fn halted(&self) -> Result<Option<u64>> {
        let place = self.place.read()?;
        Ok((place[3] != 0.0).then_some(place[0] as u64))
    }

    /// The gradient that backward begins with, a scalar in the type of sums like the loss: 1, or the loss scale. A loss that is not finite
    /// halts training.
    pub fn seed(&mut self, loss: &Tensor) -> Result<Tensor> {
        let spec = loss.spec();
        if spec.device == Device::Cpu {
            if !loss.item().is_finite() {
                self.place.data_mut::<i32>()[3] = 1;
            }
            return Ok(Tensor::from_values(spec, &[self.scaler.as_ref().map_or(1.0, |s| s.scale.item())]));
        }
        let mut dy = Tensor::new(spec);
        let at = Launch::each(spec.device, 1, 1);
        crate::dispatch!(sums spec.dtype, A => {
            let scale = self.scaler.as_ref().map_or(Const::null(), |s| s.scale.cuda());
            kernel::seed::<A>(at, dy.cuda_mut(), scale, loss.cuda(), self.place.cuda_mut())?;
        });
        Ok(dy)
    }

    /// Looks whether a gradient overflowed, if there is a loss scale. `gradients` are runs of neighbours of an arena.
    pub fn check(&mut self, gradients: &[Vec<&Tensor>]) -> Result<()> {
        let Some(Scaler { health, .. }) = &mut self.scaler else { return Ok(()) };
        if health.device() == Device::Cpu {
            let finite = |dw: &&Tensor| crate::dispatch!(sums dw.dtype(), A => dw.data::<A>().iter().all(|x| x.to_f64().is_finite()));
            health.data_mut::<i32>()[0] = i32::from(!gradients.iter().flatten().all(finite));
            return Ok(());
        }
        for run in gradients {
            crate::dispatch!(sums run[0].dtype(), A => {
                let (dw, count) = tensor::span::<A>(run.iter().copied());
                kernel::check::<A>(Launch::each(health.device(), count, 256), dw, health.cuda_mut(), count as i32)?;
            });
        }
        Ok(())
    }

    /// Is the step to be left out, and what are gradients to be multiplied by? On the CPU.
    pub(super) fn verdict(&self) -> (bool, f64) {
        let halted = self.place.data::<i32>()[3] != 0;
        self.scaler.as_ref().map_or((halted, 1.0), |s| (halted || s.health.data::<i32>()[0] != 0, s.scale.values()[1]))
    }

    /// The same for a kernel: where the flag and the scale lie; null without a loss scale.
    pub(super) fn verdict_there<A: Stored>(&self) -> (Const<'_, i32>, Const<'_, A>) {
        self.scaler.as_ref().map_or((Const::null(), Const::null()), |s| (s.health.cuda(), s.scale.cuda()))
    }

    /// On to the next step: `batch` images further.
    pub fn advance(&mut self, batch: usize) -> Result<()> {
        fn there<A: Element<Acc = A>>(clock: &mut Clock, batch: usize) -> Result<()> {
            let (health, scale) = match &mut clock.scaler {
                None => (Mut::null(), Mut::null()),
                Some(Scaler { health, scale }) => (health.cuda_mut(), scale.cuda_mut::<A>()),
            };
            let at = Launch::each(clock.place.device(), 1, 1);
            kernel::advance::<A>(at, clock.step.cuda_mut(), clock.place.cuda_mut(), health, scale, batch as i32, PATIENCE)
        }
        if self.place.device() != Device::Cpu {
            let dtype = self.scaler.as_ref().map_or(DType::F32, |s| s.scale.dtype());
            return crate::dispatch!(sums dtype, A => there::<A>(self, batch));
        }
        if self.place.data::<i32>()[3] != 0 {
            return Ok(());
        }
        let overflow = self.verdict().0;
        let step = self.step.data_mut::<i32>();
        step[0] = step[0].wrapping_add(1);
        step[1] = step[1].wrapping_add(i32::from(step[0] == 0));
        let place = self.place.data_mut::<i32>();
        place[0] += 1;
        place[1] += batch as i32;
        place[2] += i32::from(!overflow);
        if let Some(Scaler { health, scale }) = &mut self.scaler {
            let health = health.data_mut::<i32>();
            let mut s = scale.values()[0];
            let mut good = if overflow { 0 } else { health[1] + 1 };
            if overflow {
                s *= 0.5;
                health[2] += 1;
            } else if good == PATIENCE {
                // What the type of sums cannot hold would stay infinite.
                s *= if ((s * 2.0) as f32).is_finite() { 2.0 } else { 1.0 };
                good = 0;
            }
            (health[0], health[1]) = (0, good);
            *scale = Tensor::from_values(scale.spec(), &[s, 1.0 / s]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PyTorch's GradScaler does it: halved after an overflow, doubled after a number of good steps.
    #[test]
    fn the_loss_scale_follows_overflows() {
        let mut clock = Clock::new(DType::F16, Device::Cpu, LossScale { good: PATIENCE as u64 - 2, ..LossScale::default() });
        let gradient = |x: f32| [Tensor::from_values(Spec::rows([2], DType::F32), &[1.0, x])];
        let mut step = |x: f32| {
            clock.check(&[gradient(x).iter().collect()]).unwrap();
            let left_out = clock.verdict().0;
            clock.advance(8).unwrap();
            let (taken, scale) = clock.read().unwrap();
            let LossScale { scale, skipped, .. } = scale.unwrap();
            (left_out, taken, scale, skipped)
        };
        assert_eq!(step(1.0), (false, 1, 65536.0, 0));
        assert_eq!(step(2.0), (false, 2, 131072.0, 0));
        assert_eq!(step(f32::INFINITY), (true, 2, 65536.0, 1));
        assert_eq!(step(f32::NAN), (true, 2, 32768.0, 2));
        assert_eq!(step(3.0), (false, 3, 32768.0, 2));
    }

    /// Nothing moves after a loss that is no number, until the host puts the clock somewhere else.
    #[test]
    fn a_loss_that_is_no_number_halts_the_clock() {
        let loss = |x: f32| Tensor::from_values(Spec::rows([1], DType::F32), &[x]);
        let mut clock = Clock::new(DType::F32, Device::Cpu, LossScale::default());
        clock.set(41, 7, 70);
        for (x, halted) in [(2.0, None), (f32::NAN, Some(8)), (1.0, Some(8))] {
            clock.seed(&loss(x)).unwrap();
            assert_eq!((clock.halted().unwrap(), clock.verdict().0), (halted, halted.is_some()));
            clock.advance(10).unwrap();
        }
        assert_eq!((clock.number(), clock.place.values()), (42, vec![8.0, 80.0, 1.0, 1.0]));
        clock.set(0, 0, 0);
        assert_eq!(clock.halted().unwrap(), None);
        clock.seed(&loss(f32::INFINITY)).unwrap();
        assert_eq!(clock.halted().unwrap(), Some(0));
    }

    #[test]
    fn time_goes_on_in_two_words() {
        let mut clock = Clock::new(DType::F32, Device::Cpu, LossScale::default());
        clock.set((1 << 32) - 1, 7, 70);
        clock.advance(10).unwrap();
        assert_eq!(clock.step.values(), [0.0, 1.0]);
        assert_eq!(clock.place.values(), [8.0, 80.0, 1.0, 0.0]);
    }
}
