//! Atomics: real ones, because in fast mode blocks run on several threads. Lanes take their turns in order.
//!
//! Read next: `vote.rs`.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::{
    half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16},
    locate::{self, Found, Use},
    survey::survey,
};
use crate::machine::{
    block::Shared,
    instruction::{Access, Change, NONE, Number},
    launch::Launch,
    registers::LANES,
    warp::{Outcome, Warp},
};

/// What memory holds afterwards: `value` is the instruction's, `other` what a compare-and-exchange writes.
pub(super) fn changed(change: Change, number: Number, size: u8, old: u64, value: u64, other: u64) -> u64 {
    let mask = if size == 8 { !0 } else { (1u64 << (8 * size)) - 1 };
    let sign = |x: u64| (x << (64 - 8 * size as u32)) as i64 >> (64 - 8 * size as u32);
    let result = match (change, number) {
        (Change::Exchange, _) => value,
        (Change::CompareExchange, _) => {
            if old == value {
                other
            } else {
                old
            }
        }
        (Change::And, _) => old & value,
        (Change::Or, _) => old | value,
        (Change::Xor, _) => old ^ value,
        (Change::Increment, _) => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        (Change::Decrement, _) => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
        (Change::Add, Number::Signed | Number::Unsigned) => old.wrapping_add(value),
        (Change::Min, Number::Unsigned) => old.min(value),
        (Change::Max, Number::Unsigned) => old.max(value),
        (Change::Min, Number::Signed) => sign(old).min(sign(value)) as u64,
        (Change::Max, Number::Signed) => sign(old).max(sign(value)) as u64,
        (_, Number::Float) if size == 8 => float(change, f64::from_bits(old), f64::from_bits(value)).to_bits(),
        (_, Number::Float) => {
            let (a, b) = (f32::from_bits(old as u32), f32::from_bits(value as u32));
            let result = if change == Change::Add { a + b } else { float(change, a as f64, b as f64) as f32 };
            result.to_bits() as u64
        }
        (_, Number::Half | Number::Bfloat) => {
            let one = |old: u16, value: u16| match number {
                Number::Half => f32_to_f16(float(change, f16_to_f32(old) as f64, f16_to_f32(value) as f64) as f32),
                _ => f32_to_bf16(float(change, bf16_to_f32(old) as f64, bf16_to_f32(value) as f64) as f32),
            };
            let low = one(old as u16, value as u16) as u64;
            if size == 2 { low } else { low | (one((old >> 16) as u16, (value >> 16) as u16) as u64) << 16 }
        }
    };
    result & mask
}

fn float(change: Change, a: f64, b: f64) -> f64 {
    match change {
        Change::Min => a.min(b),
        Change::Max => a.max(b),
        _ => a + b,
    }
}

/// Runs an atomic, or a reduction (which has no destination).
#[allow(clippy::too_many_arguments)]
pub(crate) fn atomic<const CHECKED: bool>(
    warp: &mut Warp,
    shared: &mut Shared,
    launch: &Launch,
    access: &Access,
    change: Change,
    number: Number,
    operands: &[u32],
    mask: u32,
) -> Outcome<()> {
    let registers = warp.registers();
    let (size, bytes) = (access.size, access.size as u64);
    let mut survey = survey(registers, &access.address, operands[1], mask, bytes);
    let what = Use { bytes, write: true, atomic: true, read_only: false };
    let found = locate::locate::<CHECKED>(warp, shared, launch, access.address.space, &mut survey, mask, what)?;
    let operand = |index: u32, lane: usize| -> u64 {
        match (index, access.wide) {
            (NONE, _) => 0,
            (_, true) => registers.double(index)[lane],
            // The register of a 16-bit number has upper bits that mean nothing.
            (_, false) if size == 2 => registers.word(index)[lane] as u16 as u64,
            (_, false) => registers.word(index)[lane] as u64,
        }
    };
    let mut before = [0u64; LANES];
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let (value, other) = (operand(operands[2], lane), operand(operands[3], lane));
        let change = |old: u64| changed(change, number, size, old, value, other);
        before[lane] = match &found {
            // SAFETY: `locate` found the lane's bytes inside of one allocation, aligned to their size; rows lie element after element.
            Found::Row(at) => unsafe { exchange(at.add(lane * size as usize), size, change) },
            // SAFETY: as above.
            Found::Uniform(at) => unsafe { exchange(*at, size, change) },
            // SAFETY: as above.
            Found::Lanes(lanes) => unsafe { exchange(lanes[lane], size, change) },
        };
    }
    if operands[0] != NONE {
        match access.wide {
            true => registers.set_double(operands[0], &before, mask),
            false => registers.set_word(operands[0], &before.map(|old| old as u32), mask),
        }
    }
    Ok(())
}

/// Replaces memory by a function of it, and gives what was there.
///
/// # Safety
/// `at` must hold `size` bytes, aligned to their size, that are only reached through raw pointers.
unsafe fn exchange(at: *mut u8, size: u8, change: impl Fn(u64) -> u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        match size {
            8 => {
                let word = AtomicU64::from_ptr(at.cast());
                word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(old))).unwrap_or_else(|old| old)
            }
            4 => {
                let word = AtomicU32::from_ptr(at.cast());
                let update = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(old as u64) as u32));
                update.unwrap_or_else(|old| old) as u64
            }
            _ => {
                let word = AtomicU16::from_ptr(at.cast());
                let update = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(old as u64) as u16));
                update.unwrap_or_else(|old| old) as u64
            }
        }
    }
}
