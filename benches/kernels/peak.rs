//! Time on any device, and the peak that other kernels are measured by.
//!
//! Read next: `../kernels.rs`.

use cugrad::device::Device;
use cugrad::device::cuda::{Event, Launch, kernels::peak as kernel};
use cugrad::error::Result;
use cugrad::simd;
use cugrad::tensor::{DType, Element, L, Lane, Spec, Stored, Tensor};
use rayon::prelude::*;
use std::time::{Duration, Instant};

/// The best that a device can do.
#[derive(Debug, Clone, Copy)]
pub struct Peak {
    /// Fused multiply-adds on numbers in registers, each of two operations.
    pub gflops: f64,
    /// Bytes read and bytes written, together, by a copy too large for any cache.
    pub gbs: f64,
}

/// Bytes of the buffer that is copied.
const COPIED: usize = 256 << 20;

/// So long is tried, and the best attempt counts: what else a machine does, or another on the same processor, slows short attempts all
/// alike.
const TRIED: Duration = Duration::from_secs(1);

/// How long the device takes for `run`: on the CPU by the clock, on a GPU from its stream's end before it to that after it.
pub fn time(device: Device, run: impl FnOnce() -> Result<()>) -> Result<Duration> {
    if device == Device::Cpu {
        let began = Instant::now();
        run()?;
        return Ok(began.elapsed());
    }
    let context = device.context()?;
    let before = Event::now(context)?;
    run()?;
    Event::now(context)?.since(&before)
}

impl Peak {
    /// Measures a device, with numbers of type f32 or f64.
    pub fn measure(device: Device, dtype: DType) -> Result<Peak> {
        match (device, dtype) {
            (Device::Cpu, DType::F64) => Ok(cpu::<f64>()),
            (Device::Cpu, _) => Ok(cpu::<f32>()),
            (_, DType::F64) => cuda::<f64>(device),
            _ => cuda::<f32>(device),
        }
    }
}

/// Seconds of the fastest attempt.
fn best(mut attempt: impl FnMut() -> Result<Duration>) -> Result<f64> {
    let (began, mut best) = (Instant::now(), Duration::MAX);
    while began.elapsed() < TRIED {
        best = best.min(attempt()?);
    }
    Ok(best.as_secs_f64())
}

// ---- CPU

/// `CHAINS` chains of r = a·r + b, each of one lane vector.
#[inline(always)]
fn chains<T: Element, const CHAINS: usize>(x: &mut [[T; L]], rounds: usize) {
    let (a, b) = (Lane::splat(T::Acc::from_f64(0.5)), Lane::splat(T::Acc::from_f64(1.0)));
    let mut r: [Lane<T::Acc>; CHAINS] = std::array::from_fn(|j| Lane::load(&x[j]));
    for _ in 0..rounds {
        for r in &mut r {
            *r = r.fma_lane(a, b);
        }
    }
    for (r, x) in r.into_iter().zip(x) {
        r.store(x);
    }
}

simd! {
    fn four<T: Element>(x: &mut [[T; L]], rounds: usize) {
        chains::<T, 4>(x, rounds);
    }
}
simd! {
    fn six<T: Element>(x: &mut [[T; L]], rounds: usize) {
        chains::<T, 6>(x, rounds);
    }
}
simd! {
    fn twelve<T: Element>(x: &mut [[T; L]], rounds: usize) {
        chains::<T, 12>(x, rounds);
    }
}

/// How many chains fill the pipes without leaving the registers depends on the CPU, so the best of three counts.
fn cpu<T: Element>() -> Peak {
    const ROUNDS: usize = 1 << 20;
    let threads = rayon::current_num_threads();
    let gflops = |chains: usize, run: fn(&mut [[T; L]], usize)| {
        let mut x = vec![[T::from_f64(1.0); L]; 12 * threads];
        let seconds = best(|| {
            time(Device::Cpu, || {
                x.par_chunks_mut(12).for_each(|x| run(x, ROUNDS));
                Ok(())
            })
        });
        (2 * L * chains * ROUNDS * threads) as f64 / seconds.unwrap_or(f64::INFINITY) / 1e9
    };
    let gflops = gflops(4, four::<T>).max(gflops(6, six::<T>)).max(gflops(12, twelve::<T>));
    let (x, mut y) = (vec![1u8; COPIED], vec![0u8; COPIED]);
    let part = COPIED / threads / 64 * 64;
    let copy = || {
        time(Device::Cpu, || {
            y.par_chunks_mut(part).zip(x.par_chunks(part)).for_each(|(y, x)| y.copy_from_slice(x));
            Ok(())
        })
    };
    Peak { gflops, gbs: 2.0 * COPIED as f64 / best(copy).unwrap_or(f64::INFINITY) / 1e9 }
}

// ---- CUDA

fn cuda<A: Element<Acc = A>>(device: Device) -> Result<Peak> {
    const ROUNDS: i32 = 4096;
    // As many blocks as run at once on all multiprocessors, a few times over.
    let threads = device.context()?.multiprocessors() * 8 * 256 * 4;
    let mut y = Tensor::new(Spec::rows([threads], A::DTYPE).on(device));
    let (a, b) = (A::from_f64(0.5), A::from_f64(1.0));
    let at = Launch::each(device, threads, 256);
    let multiply = best(|| time(device, || kernel::multiply::<A>(at, y.cuda_mut(), a, b, ROUNDS)))?;
    let x = Tensor::zeros(Spec::rows([COPIED / 4], DType::I32).on(device));
    let mut y = Tensor::new(x.spec());
    let quads = COPIED / 16;
    let copy = best(|| time(device, || kernel::copy::<A>(Launch::each(device, quads, 256), x.cuda(), y.cuda_mut(), quads as i32)))?;
    let flops = 32.0 * f64::from(ROUNDS) * threads as f64;
    Ok(Peak { gflops: flops / multiply / 1e9, gbs: 2.0 * COPIED as f64 / copy / 1e9 })
}
