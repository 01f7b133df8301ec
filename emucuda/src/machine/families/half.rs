//! f16 and bf16 arithmetic: computed in f32 and rounded once, which is exact for sums, products and fused multiply-adds
//! up to what one rounding of an f32 to 16 bits can differ (a fused result is computed in f64). The `x2` forms do both halves.
//!
//! Read next: `convert.rs`.

use crate::machine::registers::forms;

/// f16 bits to f32, exactly.
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let magnitude = (half as u32 & 0x7fff) << 13;
    // The exponent's bias differs by 112: a product by 2^112 moves it, and makes normal numbers of subnormal ones.
    let number = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = half & 0x7c00 == 0x7c00;
    let bits = if special { magnitude | 0x7f80_0000 } else { number.to_bits() };
    f32::from_bits(bits | (half as u32 & 0x8000) << 16)
}

/// f32 to f16, to nearest even.
#[inline(always)]
pub(crate) fn f32_to_f16(number: f32) -> u16 {
    let sign = (number.to_bits() >> 16 & 0x8000) as u16;
    let bits = number.to_bits() & 0x7fff_ffff;
    // Adding 1/2 lets the CPU round a number below 2^-14 at the last place of a subnormal f16.
    let subnormal = (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let normal = bits.wrapping_add(0xc800_0fff).wrapping_add(bits >> 13 & 1) >> 13;
    let finite = if bits < 0x3880_0000 { subnormal } else { normal };
    let half = if bits > 0x7f80_0000 {
        0x7fff
    } else if bits >= 0x4780_0000 {
        0x7c00
    } else {
        finite as u16
    };
    if half == 0x7fff { half } else { half | sign }
}

/// bf16 bits to f32, exactly.
#[inline(always)]
pub(crate) fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits((half as u32) << 16)
}

/// f32 to bf16, to nearest even.
#[inline(always)]
pub(crate) fn f32_to_bf16(number: f32) -> u16 {
    let bits = number.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if number.is_nan() { 0x7fff } else { rounded }
}

/// An f64 to 16 bits through f32, to nearest even of the f64: the f32 is made odd where it is not exact.
#[inline(always)]
pub(super) fn odd(number: f64) -> f32 {
    let nearest = number as f32;
    if nearest as f64 == number || !number.is_finite() || !nearest.is_finite() {
        return nearest;
    }
    let towards_zero = if (nearest as f64).abs() > number.abs() { nearest.to_bits() - 1 } else { nearest.to_bits() };
    f32::from_bits(towards_zero | 1)
}

#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    odd(a as f64 * b as f64 + c as f64)
}

/// Applies a function of two numbers to both halves.
macro_rules! both {
    ($from:ident, $to:ident, |$($x:ident),*| $body:expr) => {{
        let low = { $( let $x = $from($x as u16); )* $to($body) };
        let high = { $( let $x = $from(($x >> 16) as u16); )* $to($body) };
        low as u32 | (high as u32) << 16
    }};
}

macro_rules! one {
    ($from:ident, $to:ident, |$($x:ident),*| $body:expr) => {{ $( let $x = $from($x); )* $to($body) }};
}

#[inline(always)]
fn minimum(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

#[inline(always)]
fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a > b || (a == b && a.is_sign_positive()) {
        a
    } else {
        b
    }
}

forms! {
    "add.f16" => (a: u16, b: u16) -> u16 { one!(f16_to_f32, f32_to_f16, |a, b| a + b) }
    "sub.f16" => (a: u16, b: u16) -> u16 { one!(f16_to_f32, f32_to_f16, |a, b| a - b) }
    "mul.f16" => (a: u16, b: u16) -> u16 { one!(f16_to_f32, f32_to_f16, |a, b| a * b) }
    "fma.f16" => (a: u16, b: u16, c: u16) -> u16 { one!(f16_to_f32, f32_to_f16, |a, b, c| fused(a, b, c)) }
    "min.f16" => (a: u16, b: u16) -> u16 { one!(f16_to_f32, f32_to_f16, |a, b| minimum(a, b)) }
    "max.f16" => (a: u16, b: u16) -> u16 { one!(f16_to_f32, f32_to_f16, |a, b| maximum(a, b)) }
    "neg.f16" | "neg.bf16" => (a: u16) -> u16 { a ^ 0x8000 }
    "abs.f16" | "abs.bf16" => (a: u16) -> u16 { a & 0x7fff }
    "ex2.f16" => (a: u16) -> u16 { one!(f16_to_f32, f32_to_f16, |a| a.exp2()) }
    "tanh.f16" => (a: u16) -> u16 { one!(f16_to_f32, f32_to_f16, |a| a.tanh()) }
    "add.f16x2" => (a: u32, b: u32) -> u32 { both!(f16_to_f32, f32_to_f16, |a, b| a + b) }
    "sub.f16x2" => (a: u32, b: u32) -> u32 { both!(f16_to_f32, f32_to_f16, |a, b| a - b) }
    "mul.f16x2" => (a: u32, b: u32) -> u32 { both!(f16_to_f32, f32_to_f16, |a, b| a * b) }
    "fma.f16x2" => (a: u32, b: u32, c: u32) -> u32 { both!(f16_to_f32, f32_to_f16, |a, b, c| fused(a, b, c)) }
    "min.f16x2" => (a: u32, b: u32) -> u32 { both!(f16_to_f32, f32_to_f16, |a, b| minimum(a, b)) }
    "max.f16x2" => (a: u32, b: u32) -> u32 { both!(f16_to_f32, f32_to_f16, |a, b| maximum(a, b)) }
    "neg.f16x2" | "neg.bf16x2" => (a: u32) -> u32 { a ^ 0x8000_8000 }
    "abs.f16x2" | "abs.bf16x2" => (a: u32) -> u32 { a & 0x7fff_7fff }
    "add.bf16" => (a: u16, b: u16) -> u16 { one!(bf16_to_f32, f32_to_bf16, |a, b| a + b) }
    "sub.bf16" => (a: u16, b: u16) -> u16 { one!(bf16_to_f32, f32_to_bf16, |a, b| a - b) }
    "mul.bf16" => (a: u16, b: u16) -> u16 { one!(bf16_to_f32, f32_to_bf16, |a, b| a * b) }
    "fma.bf16" => (a: u16, b: u16, c: u16) -> u16 { one!(bf16_to_f32, f32_to_bf16, |a, b, c| fused(a, b, c)) }
    "min.bf16" => (a: u16, b: u16) -> u16 { one!(bf16_to_f32, f32_to_bf16, |a, b| minimum(a, b)) }
    "max.bf16" => (a: u16, b: u16) -> u16 { one!(bf16_to_f32, f32_to_bf16, |a, b| maximum(a, b)) }
    "ex2.bf16" => (a: u16) -> u16 { one!(bf16_to_f32, f32_to_bf16, |a| a.exp2()) }
    "tanh.bf16" => (a: u16) -> u16 { one!(bf16_to_f32, f32_to_bf16, |a| a.tanh()) }
    "add.bf16x2" => (a: u32, b: u32) -> u32 { both!(bf16_to_f32, f32_to_bf16, |a, b| a + b) }
    "sub.bf16x2" => (a: u32, b: u32) -> u32 { both!(bf16_to_f32, f32_to_bf16, |a, b| a - b) }
    "mul.bf16x2" => (a: u32, b: u32) -> u32 { both!(bf16_to_f32, f32_to_bf16, |a, b| a * b) }
    "fma.bf16x2" => (a: u32, b: u32, c: u32) -> u32 { both!(bf16_to_f32, f32_to_bf16, |a, b, c| fused(a, b, c)) }
    "min.bf16x2" => (a: u32, b: u32) -> u32 { both!(bf16_to_f32, f32_to_bf16, |a, b| minimum(a, b)) }
    "max.bf16x2" => (a: u32, b: u32) -> u32 { both!(bf16_to_f32, f32_to_bf16, |a, b| maximum(a, b)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::word;

    #[test]
    fn every_half_survives_the_way_through_f32() {
        for half in 0..=u16::MAX {
            let number = f16_to_f32(half);
            if number.is_nan() {
                assert!(half & 0x7c00 == 0x7c00 && half & 0x3ff != 0);
                assert_eq!(f32_to_f16(number), 0x7fff);
            } else {
                assert_eq!(f32_to_f16(number), half, "{number}");
            }
            let number = bf16_to_f32(half);
            assert!(number.is_nan() || f32_to_bf16(number) == half);
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        assert_eq!(f32_to_f16(1.0 + 1.0 / 2048.0), 0x3c00);
        assert_eq!(f32_to_f16(1.0 + 3.0 / 2048.0), 0x3c02);
        assert_eq!(f32_to_f16(65519.0), 0x7bff);
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(-1e9), 0xfc00);
        assert_eq!(f32_to_f16(2f32.powi(-25)), 0);
        assert_eq!(f32_to_f16(2f32.powi(-25) * 1.5), 1);
        assert_eq!(f32_to_f16(2f32.powi(-24) * 1023.5), 0x400);
        assert_eq!(f32_to_bf16(1.0 + 1.0 / 256.0), 0x3f80);
        assert_eq!(f32_to_bf16(1.0 + 3.0 / 256.0), 0x3f82);
        assert_eq!(f32_to_bf16(f32::MAX), 0x7f80);
        assert_eq!(f32_to_bf16(f32::NAN), 0x7fff);
        // A double rounding would give 1 + 1/1024.
        assert_eq!(f32_to_f16(odd(1.0 + 1.0 / 2048.0 + 1e-14)), 0x3c01);
    }

    #[test]
    fn arithmetic_on_both_halves() {
        let pair = |low: f32, high: f32| f32_to_f16(low) as u32 | (f32_to_f16(high) as u32) << 16;
        assert_eq!(word("add.rn.f16x2 %r4, %r1, %r2", &[pair(1.5, -2.0), pair(0.25, 5.0)]), pair(1.75, 3.0));
        assert_eq!(word("fma.rn.f16x2 %r4, %r1, %r2, %r3", &[pair(2.0, 3.0), pair(4.0, 5.0), pair(1.0, -1.0)]), pair(9.0, 14.0));
        let pair = |low: f32, high: f32| f32_to_bf16(low) as u32 | (f32_to_bf16(high) as u32) << 16;
        assert_eq!(word("fma.rn.bf16x2 %r4, %r1, %r2, %r3", &[pair(2.0, 3.0), pair(4.0, 5.0), pair(1.0, -1.0)]), pair(9.0, 14.0));
        assert_eq!(word("max.bf16x2 %r4, %r1, %r2", &[pair(2.0, f32::NAN), pair(-1.0, 5.0)]), pair(2.0, 5.0));
        assert_eq!(word("mov.b32 {%h1, %h2}, %r1;\nmul.f16 %h3, %h1, %h2;\nmov.b32 %r4, {%h3, %h3}", &[0x4000_4200]), 0x4600_4600);
    }
}
