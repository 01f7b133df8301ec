//! Conversions (`cvt`) between all number types, with their rounding.
//!
//! A float out of an integer's range becomes its nearest end. NaN becomes 0, or the lowest bit pattern with the top bit where
//! a 64-bit type takes part: the rule of PTX. Read next: `compare.rs`.

use super::{
    float::{Side, to_side},
    half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16},
};
use crate::machine::registers::forms;

/// A float that was made whole, as an integer; NaN becomes the second number.
macro_rules! whole {
    ($number:expr, $type:ty, $nan:expr) => {{
        let number = $number;
        if number.is_nan() { $nan } else { number as $type }
    }};
}

forms! {
    // Integers: the source is cut to its type, then extended by its sign, then cut to the destination.
    "cvt.u16.u8" | "cvt.s16.u8" => (a: u16) -> u16 { a & 0xff }
    "cvt.u32.u8" | "cvt.s32.u8" => (a: u32) -> u32 { a & 0xff }
    "cvt.u64.u8" | "cvt.s64.u8" => (a: u32) -> u64 { a as u8 as u64 }
    "cvt.u16.s8" | "cvt.s16.s8" => (a: u16) -> i16 { a as i8 as i16 }
    "cvt.u32.s8" | "cvt.s32.s8" => (a: u32) -> i32 { a as i8 as i32 }
    "cvt.u64.s8" | "cvt.s64.s8" => (a: u32) -> i64 { a as i8 as i64 }
    "cvt.u8.u16" | "cvt.u8.s16" | "cvt.u8.u32" | "cvt.u8.s32" | "cvt.u8.u8" => (a: u32) -> u32 { a & 0xff }
    "cvt.s8.u16" | "cvt.s8.s16" | "cvt.s8.u32" | "cvt.s8.s32" | "cvt.s8.s8" => (a: u32) -> i32 { a as i8 as i32 }
    "cvt.u8.u64" | "cvt.u8.s64" => (a: u64) -> u32 { a as u8 as u32 }
    "cvt.s8.u64" | "cvt.s8.s64" => (a: u64) -> i32 { a as i8 as i32 }
    "cvt.u16.u16" | "cvt.u16.s16" | "cvt.s16.u16" | "cvt.s16.s16" => (a: u16) -> u16 { a }
    "cvt.u16.u32" | "cvt.u16.s32" | "cvt.s16.u32" | "cvt.s16.s32" => (a: u32) -> u16 { a as u16 }
    "cvt.u16.u64" | "cvt.u16.s64" | "cvt.s16.u64" | "cvt.s16.s64" => (a: u64) -> u16 { a as u16 }
    "cvt.u32.u16" | "cvt.s32.u16" => (a: u16) -> u32 { a as u32 }
    "cvt.u32.s16" | "cvt.s32.s16" => (a: i16) -> i32 { a as i32 }
    "cvt.u32.u32" | "cvt.u32.s32" | "cvt.s32.u32" | "cvt.s32.s32" => (a: u32) -> u32 { a }
    "cvt.u32.u64" | "cvt.u32.s64" | "cvt.s32.u64" | "cvt.s32.s64" => (a: u64) -> u32 { a as u32 }
    "cvt.u64.u16" | "cvt.s64.u16" => (a: u16) -> u64 { a as u64 }
    "cvt.u64.s16" | "cvt.s64.s16" => (a: i16) -> i64 { a as i64 }
    "cvt.u64.u32" | "cvt.s64.u32" => (a: u32) -> u64 { a as u64 }
    "cvt.u64.s32" | "cvt.s64.s32" => (a: i32) -> i64 { a as i64 }
    "cvt.u64.u64" | "cvt.u64.s64" | "cvt.s64.u64" | "cvt.s64.s64" => (a: u64) -> u64 { a }
    "cvt.sat.u8.s32" => (a: i32) -> i32 { a.clamp(0, 255) }
    "cvt.sat.u8.u32" => (a: u32) -> u32 { a.min(255) }
    "cvt.sat.s8.s32" => (a: i32) -> i32 { a.clamp(-128, 127) }
    "cvt.sat.u16.s32" => (a: i32) -> i32 { a.clamp(0, 65535) }
    "cvt.sat.s16.s32" => (a: i32) -> i32 { a.clamp(-32768, 32767) }
    "cvt.sat.u32.s32" => (a: i32) -> i32 { a.max(0) }
    "cvt.sat.s32.s64" => (a: i64) -> i32 { a.clamp(i32::MIN as i64, i32::MAX as i64) as i32 }

    // Integers to floats.
    "cvt.f32.u8" => (a: u32) -> f32 { a as u8 as f32 }
    "cvt.f32.s8" => (a: u32) -> f32 { a as i8 as f32 }
    "cvt.f32.u16" => (a: u16) -> f32 { a as f32 }
    "cvt.f32.s16" => (a: i16) -> f32 { a as f32 }
    "cvt.f32.u32" => (a: u32) -> f32 { a as f32 }
    "cvt.f32.s32" => (a: i32) -> f32 { a as f32 }
    "cvt.f32.u64" => (a: u64) -> f32 { a as f32 }
    "cvt.f32.s64" => (a: i64) -> f32 { a as f32 }
    "cvt.rz.f32.u32" => (a: u32) -> f32 { to_side(a as f64, 0.0, Side::Zero) }
    "cvt.rz.f32.s32" => (a: i32) -> f32 { to_side(a as f64, 0.0, Side::Zero) }
    "cvt.f64.u8" => (a: u32) -> f64 { a as u8 as f64 }
    "cvt.f64.s8" => (a: u32) -> f64 { a as i8 as f64 }
    "cvt.f64.u16" => (a: u16) -> f64 { a as f64 }
    "cvt.f64.s16" => (a: i16) -> f64 { a as f64 }
    "cvt.f64.u32" => (a: u32) -> f64 { a as f64 }
    "cvt.f64.s32" => (a: i32) -> f64 { a as f64 }
    "cvt.f64.u64" => (a: u64) -> f64 { a as f64 }
    "cvt.f64.s64" => (a: i64) -> f64 { a as f64 }
    "cvt.f16.u16" => (a: u16) -> u16 { f32_to_f16(a as f32) }
    "cvt.f16.s16" => (a: i16) -> u16 { f32_to_f16(a as f32) }
    "cvt.f16.u32" => (a: u32) -> u16 { f32_to_f16(a as f32) }
    "cvt.f16.s32" => (a: i32) -> u16 { f32_to_f16(a as f32) }
    "cvt.bf16.s32" => (a: i32) -> u16 { f32_to_bf16(a as f32) }
    "cvt.bf16.u32" => (a: u32) -> u16 { f32_to_bf16(a as f32) }

    // Floats to integers.
    "cvt.rzi.s32.f32" => (a: f32) -> i32 { a as i32 }
    "cvt.rni.s32.f32" => (a: f32) -> i32 { a.round_ties_even() as i32 }
    "cvt.rmi.s32.f32" => (a: f32) -> i32 { a.floor() as i32 }
    "cvt.rpi.s32.f32" => (a: f32) -> i32 { a.ceil() as i32 }
    "cvt.rzi.u32.f32" => (a: f32) -> u32 { a as u32 }
    "cvt.rni.u32.f32" => (a: f32) -> u32 { a.round_ties_even() as u32 }
    "cvt.rmi.u32.f32" => (a: f32) -> u32 { a.floor() as u32 }
    "cvt.rpi.u32.f32" => (a: f32) -> u32 { a.ceil() as u32 }
    "cvt.rzi.s64.f32" => (a: f32) -> i64 { whole!(a, i64, i64::MIN) }
    "cvt.rni.s64.f32" => (a: f32) -> i64 { whole!(a.round_ties_even(), i64, i64::MIN) }
    "cvt.rzi.u64.f32" => (a: f32) -> u64 { whole!(a, u64, 1 << 63) }
    "cvt.rni.u64.f32" => (a: f32) -> u64 { whole!(a.round_ties_even(), u64, 1 << 63) }
    "cvt.rzi.s16.f32" => (a: f32) -> i16 { a as i16 }
    "cvt.rni.s16.f32" => (a: f32) -> i16 { a.round_ties_even() as i16 }
    "cvt.rzi.u16.f32" => (a: f32) -> u16 { a as u16 }
    "cvt.rni.u16.f32" => (a: f32) -> u16 { a.round_ties_even() as u16 }
    "cvt.rzi.u8.f32" => (a: f32) -> u32 { a as u8 as u32 }
    "cvt.rni.u8.f32" => (a: f32) -> u32 { a.round_ties_even() as u8 as u32 }
    "cvt.rzi.s8.f32" => (a: f32) -> i32 { a as i8 as i32 }
    "cvt.rzi.s32.f64" => (a: f64) -> i32 { whole!(a, i32, i32::MIN) }
    "cvt.rni.s32.f64" => (a: f64) -> i32 { whole!(a.round_ties_even(), i32, i32::MIN) }
    "cvt.rmi.s32.f64" => (a: f64) -> i32 { whole!(a.floor(), i32, i32::MIN) }
    "cvt.rpi.s32.f64" => (a: f64) -> i32 { whole!(a.ceil(), i32, i32::MIN) }
    "cvt.rzi.u32.f64" => (a: f64) -> u32 { whole!(a, u32, 1 << 31) }
    "cvt.rni.u32.f64" => (a: f64) -> u32 { whole!(a.round_ties_even(), u32, 1 << 31) }
    "cvt.rzi.s64.f64" => (a: f64) -> i64 { whole!(a, i64, i64::MIN) }
    "cvt.rni.s64.f64" => (a: f64) -> i64 { whole!(a.round_ties_even(), i64, i64::MIN) }
    "cvt.rmi.s64.f64" => (a: f64) -> i64 { whole!(a.floor(), i64, i64::MIN) }
    "cvt.rpi.s64.f64" => (a: f64) -> i64 { whole!(a.ceil(), i64, i64::MIN) }
    "cvt.rzi.u64.f64" => (a: f64) -> u64 { whole!(a, u64, 1 << 63) }
    "cvt.rni.u64.f64" => (a: f64) -> u64 { whole!(a.round_ties_even(), u64, 1 << 63) }
    "cvt.rzi.u8.f64" => (a: f64) -> u32 { a as u8 as u32 }
    "cvt.rzi.s32.f16" => (a: u16) -> i32 { f16_to_f32(a) as i32 }
    "cvt.rni.s32.f16" => (a: u16) -> i32 { f16_to_f32(a).round_ties_even() as i32 }
    "cvt.rzi.u32.f16" => (a: u16) -> u32 { f16_to_f32(a) as u32 }
    "cvt.rzi.s16.f16" => (a: u16) -> i16 { f16_to_f32(a) as i16 }

    // Floats to floats.
    "cvt.f32.f32" => (a: f32) -> f32 { a }
    "cvt.rzi.f32.f32" => (a: f32) -> f32 { a.trunc() }
    "cvt.rni.f32.f32" => (a: f32) -> f32 { a.round_ties_even() }
    "cvt.rmi.f32.f32" => (a: f32) -> f32 { a.floor() }
    "cvt.rpi.f32.f32" => (a: f32) -> f32 { a.ceil() }
    "cvt.f64.f64" => (a: f64) -> f64 { a }
    "cvt.rzi.f64.f64" => (a: f64) -> f64 { a.trunc() }
    "cvt.rni.f64.f64" => (a: f64) -> f64 { a.round_ties_even() }
    "cvt.rmi.f64.f64" => (a: f64) -> f64 { a.floor() }
    "cvt.rpi.f64.f64" => (a: f64) -> f64 { a.ceil() }
    "cvt.f32.f64" => (a: f64) -> f32 { a as f32 }
    "cvt.rz.f32.f64" => (a: f64) -> f32 { if a.is_finite() { to_side(a, 0.0, Side::Zero) } else { a as f32 } }
    "cvt.rm.f32.f64" => (a: f64) -> f32 { if a.is_finite() { to_side(a, 0.0, Side::Down) } else { a as f32 } }
    "cvt.rp.f32.f64" => (a: f64) -> f32 { if a.is_finite() { to_side(a, 0.0, Side::Up) } else { a as f32 } }
    "cvt.f64.f32" => (a: f32) -> f64 { a as f64 }
    "cvt.f32.f16" => (a: u16) -> f32 { f16_to_f32(a) }
    "cvt.f32.bf16" => (a: u16) -> f32 { bf16_to_f32(a) }
    "cvt.f64.f16" => (a: u16) -> f64 { f16_to_f32(a) as f64 }
    "cvt.f64.bf16" => (a: u16) -> f64 { bf16_to_f32(a) as f64 }
    "cvt.f16.f32" => (a: f32) -> u16 { f32_to_f16(a) }
    "cvt.f16.f64" => (a: f64) -> u16 { f32_to_f16(super::half::odd(a)) }
    "cvt.bf16.f32" => (a: f32) -> u16 { f32_to_bf16(a) }
    "cvt.bf16.f64" => (a: f64) -> u16 { f32_to_bf16(super::half::odd(a)) }
    "cvt.bf16.f16" => (a: u16) -> u16 { f32_to_bf16(f16_to_f32(a)) }
    "cvt.f16.bf16" => (a: u16) -> u16 { f32_to_f16(bf16_to_f32(a)) }
    "cvt.rz.bf16.f32" => (a: f32) -> u16 { if a.is_nan() { 0x7fff } else { (a.to_bits() >> 16) as u16 } }
    // The first source goes to the upper half.
    "cvt.f16x2.f32" => (a: f32, b: f32) -> u32 { (f32_to_f16(a) as u32) << 16 | f32_to_f16(b) as u32 }
    "cvt.bf16x2.f32" => (a: f32, b: f32) -> u32 { (f32_to_bf16(a) as u32) << 16 | f32_to_bf16(b) as u32 }
    // tf32 keeps 10 bits of the mantissa; ties go away from zero.
    "cvt.rna.tf32.f32" => (a: f32) -> u32 { if a.is_nan() { 0x7fff_ffff } else { a.to_bits().wrapping_add(0x1000) & 0xffff_e000 } }
    "cvt.tf32.f32" => (a: f32) -> u32 {
        if a.is_nan() { 0x7fff_ffff } else { a.to_bits().wrapping_add(0xfff + (a.to_bits() >> 13 & 1)) & 0xffff_e000 }
    }
}

#[cfg(test)]
mod tests {
    use crate::harness::{double, float, word};

    fn of_float(instruction: &str, x: f32) -> u32 {
        word(&format!("mov.b32 %f1, %r1;\n{instruction}"), &[x.to_bits()])
    }

    #[test]
    fn integers_are_cut_and_extended() {
        assert_eq!(word("cvt.u16.u32 %h1, %r1;\ncvt.s32.s16 %r4, %h1", &[0x1_8000]), 0xffff_8000);
        assert_eq!(word("cvt.u16.u32 %h1, %r1;\ncvt.u32.u16 %r4, %h1", &[0x1_8000]), 0x8000);
        assert_eq!(word("cvt.s32.s8 %r4, %r1", &[0x180]), 0xffff_ff80);
        assert_eq!(word("cvt.u32.u8 %r4, %r1", &[0x180]), 0x80);
        assert_eq!(word("cvt.sat.u8.s32 %r4, %r1", &[300]), 255);
        assert_eq!(double("cvt.u32.u64 %r1, %d1;\ncvt.s64.s32 %d4, %r1", &[0x8000_0000]), 0xffff_ffff_8000_0000);
        assert_eq!(double("cvt.u32.u64 %r1, %d1;\ncvt.u64.u32 %d4, %r1", &[0x1_8000_0000]), 0x8000_0000);
    }

    #[test]
    fn floats_become_integers_at_the_ends_of_their_range() {
        assert_eq!(of_float("cvt.rzi.s32.f32 %r4, %f1", -2.7), -2i32 as u32);
        assert_eq!(of_float("cvt.rni.s32.f32 %r4, %f1", 2.5), 2);
        assert_eq!(of_float("cvt.rmi.s32.f32 %r4, %f1", -2.1), -3i32 as u32);
        assert_eq!(of_float("cvt.rpi.s32.f32 %r4, %f1", 2.1), 3);
        assert_eq!(of_float("cvt.rzi.s32.f32 %r4, %f1", 1e20), i32::MAX as u32);
        assert_eq!(of_float("cvt.rzi.s32.f32 %r4, %f1", f32::NAN), 0);
        assert_eq!(of_float("cvt.rzi.u32.f32 %r4, %f1", -5.0), 0);
        assert_eq!(of_float("cvt.rzi.s64.f32 %d4, %f1;\nmov.b64 {%r5, %r4}, %d4", f32::NAN), 0x8000_0000);
        assert_eq!(double("cvt.rzi.s64.f64 %d4, %x1", &[(-3e9f64).to_bits()]), -3_000_000_000i64 as u64);
    }

    #[test]
    fn numbers_round_on_their_way() {
        assert_eq!(word("cvt.rn.f32.s32 %f1, %r1;\nmov.b32 %r4, %f1", &[0x0100_0001]), 16777216f32.to_bits());
        assert_eq!(word("cvt.rz.f32.u32 %f1, %r1;\nmov.b32 %r4, %f1", &[0xffff_ffff]), 4294967040f32.to_bits());
        assert_eq!(word("cvt.rn.f32.u32 %f1, %r1;\nmov.b32 %r4, %f1", &[0xffff_ffff]), 4294967296f32.to_bits());
        assert_eq!(double("cvt.rn.f32.f64 %f1, %x1;\ncvt.f64.f32 %x4, %f1", &[0.1f64.to_bits()]), (0.1f32 as f64).to_bits());
        assert_eq!(float("cvt.rni.f32.f32 %f4, %f1", &[-0.5]).to_bits(), 0x8000_0000);
        assert_eq!(float("cvt.rzi.f32.f32 %f4, %f1", &[-1.5]), -1.0);
        assert_eq!(float("cvt.rn.f16.f32 %h1, %f1;\ncvt.f32.f16 %f4, %h1", &[0.1]), 0.099975586);
        assert_eq!(float("cvt.rn.bf16.f32 %h1, %f1;\ncvt.f32.bf16 %f4, %h1", &[0.1]), 0.100097656);
        assert_eq!(of_float("mov.f32 %f2, 0f40000000;\ncvt.rn.bf16x2.f32 %r4, %f1, %f2", 1.0), 0x3f80_4000);
        assert_eq!(of_float("mov.f32 %f2, 0f40000000;\ncvt.rn.f16x2.f32 %r4, %f1, %f2", 1.0), 0x3c00_4000);
        assert_eq!(of_float("cvt.rna.tf32.f32 %r4, %f1", f32::from_bits(0x3f80_1000)), 0x3f80_2000);
    }
}
