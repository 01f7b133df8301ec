//! Integer arithmetic: sums, products, quotients, carries. Not bits (`bits.rs`), not comparisons (`compare.rs`).
//!
//! A quotient by zero is all ones, its remainder the dividend: what the hardware does. Names that PTX does not have
//! (`add.carry.u32`) are what `ptx::lower` makes of the `.cc` forms. Read next: `bits.rs`.

use crate::machine::registers::forms;

forms! {
    "add.s16" | "add.u16" => (a: u16, b: u16) -> u16 { a.wrapping_add(b) }
    "add.s32" | "add.u32" => (a: u32, b: u32) -> u32 { a.wrapping_add(b) }
    "add.s64" | "add.u64" => (a: u64, b: u64) -> u64 { a.wrapping_add(b) }
    "add.sat.s32" => (a: i32, b: i32) -> i32 { a.saturating_add(b) }
    "sub.s16" | "sub.u16" => (a: u16, b: u16) -> u16 { a.wrapping_sub(b) }
    "sub.s32" | "sub.u32" => (a: u32, b: u32) -> u32 { a.wrapping_sub(b) }
    "sub.s64" | "sub.u64" => (a: u64, b: u64) -> u64 { a.wrapping_sub(b) }
    "sub.sat.s32" => (a: i32, b: i32) -> i32 { a.saturating_sub(b) }
    "mul.lo.s16" | "mul.lo.u16" => (a: u16, b: u16) -> u16 { a.wrapping_mul(b) }
    "mul.lo.s32" | "mul.lo.u32" => (a: u32, b: u32) -> u32 { a.wrapping_mul(b) }
    "mul.lo.s64" | "mul.lo.u64" => (a: u64, b: u64) -> u64 { a.wrapping_mul(b) }
    "mul.hi.s16" => (a: i16, b: i16) -> i16 { ((a as i32 * b as i32) >> 16) as i16 }
    "mul.hi.u16" => (a: u16, b: u16) -> u16 { ((a as u32 * b as u32) >> 16) as u16 }
    "mul.hi.s32" => (a: i32, b: i32) -> i32 { ((a as i64 * b as i64) >> 32) as i32 }
    "mul.hi.u32" => (a: u32, b: u32) -> u32 { ((a as u64 * b as u64) >> 32) as u32 }
    "mul.hi.s64" => (a: i64, b: i64) -> i64 { ((a as i128 * b as i128) >> 64) as i64 }
    "mul.hi.u64" => (a: u64, b: u64) -> u64 { ((a as u128 * b as u128) >> 64) as u64 }
    "mul.wide.s16" => (a: i16, b: i16) -> i32 { a as i32 * b as i32 }
    "mul.wide.u16" => (a: u16, b: u16) -> u32 { a as u32 * b as u32 }
    "mul.wide.s32" => (a: i32, b: i32) -> i64 { a as i64 * b as i64 }
    "mul.wide.u32" => (a: u32, b: u32) -> u64 { a as u64 * b as u64 }
    "mul24.lo.s32" => (a: i32, b: i32) -> i32 { (a << 8 >> 8).wrapping_mul(b << 8 >> 8) }
    "mul24.lo.u32" => (a: u32, b: u32) -> u32 { (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff) }
    "mad.lo.s16" | "mad.lo.u16" => (a: u16, b: u16, c: u16) -> u16 { a.wrapping_mul(b).wrapping_add(c) }
    "mad.lo.s32" | "mad.lo.u32" => (a: u32, b: u32, c: u32) -> u32 { a.wrapping_mul(b).wrapping_add(c) }
    "mad.lo.s64" | "mad.lo.u64" => (a: u64, b: u64, c: u64) -> u64 { a.wrapping_mul(b).wrapping_add(c) }
    "mad.hi.s32" => (a: i32, b: i32, c: i32) -> i32 { (((a as i64 * b as i64) >> 32) as i32).wrapping_add(c) }
    "mad.hi.u32" => (a: u32, b: u32, c: u32) -> u32 { (((a as u64 * b as u64) >> 32) as u32).wrapping_add(c) }
    "mad.hi.s64" => (a: i64, b: i64, c: i64) -> i64 { (((a as i128 * b as i128) >> 64) as i64).wrapping_add(c) }
    "mad.hi.u64" => (a: u64, b: u64, c: u64) -> u64 { (((a as u128 * b as u128) >> 64) as u64).wrapping_add(c) }
    "mad.wide.s16" => (a: i16, b: i16, c: i32) -> i32 { (a as i32 * b as i32).wrapping_add(c) }
    "mad.wide.u16" => (a: u16, b: u16, c: u32) -> u32 { (a as u32 * b as u32).wrapping_add(c) }
    "mad.wide.s32" => (a: i32, b: i32, c: i64) -> i64 { (a as i64 * b as i64).wrapping_add(c) }
    "mad.wide.u32" => (a: u32, b: u32, c: u64) -> u64 { (a as u64 * b as u64).wrapping_add(c) }

    "div.s16" => (a: i16, b: i16) -> i16 { if b == 0 { -1 } else { a.wrapping_div(b) } }
    "div.u16" => (a: u16, b: u16) -> u16 { a.checked_div(b).unwrap_or(!0) }
    "div.s32" => (a: i32, b: i32) -> i32 { if b == 0 { -1 } else { a.wrapping_div(b) } }
    "div.u32" => (a: u32, b: u32) -> u32 { a.checked_div(b).unwrap_or(!0) }
    "div.s64" => (a: i64, b: i64) -> i64 { if b == 0 { -1 } else { a.wrapping_div(b) } }
    "div.u64" => (a: u64, b: u64) -> u64 { a.checked_div(b).unwrap_or(!0) }
    "rem.s16" => (a: i16, b: i16) -> i16 { if b == 0 { a } else { a.wrapping_rem(b) } }
    "rem.u16" => (a: u16, b: u16) -> u16 { a.checked_rem(b).unwrap_or(a) }
    "rem.s32" => (a: i32, b: i32) -> i32 { if b == 0 { a } else { a.wrapping_rem(b) } }
    "rem.u32" => (a: u32, b: u32) -> u32 { a.checked_rem(b).unwrap_or(a) }
    "rem.s64" => (a: i64, b: i64) -> i64 { if b == 0 { a } else { a.wrapping_rem(b) } }
    "rem.u64" => (a: u64, b: u64) -> u64 { a.checked_rem(b).unwrap_or(a) }

    "min.s16" => (a: i16, b: i16) -> i16 { a.min(b) }
    "min.u16" => (a: u16, b: u16) -> u16 { a.min(b) }
    "min.s32" => (a: i32, b: i32) -> i32 { a.min(b) }
    "min.u32" => (a: u32, b: u32) -> u32 { a.min(b) }
    "min.s64" => (a: i64, b: i64) -> i64 { a.min(b) }
    "min.u64" => (a: u64, b: u64) -> u64 { a.min(b) }
    "max.s16" => (a: i16, b: i16) -> i16 { a.max(b) }
    "max.u16" => (a: u16, b: u16) -> u16 { a.max(b) }
    "max.s32" => (a: i32, b: i32) -> i32 { a.max(b) }
    "max.u32" => (a: u32, b: u32) -> u32 { a.max(b) }
    "max.s64" => (a: i64, b: i64) -> i64 { a.max(b) }
    "max.u64" => (a: u64, b: u64) -> u64 { a.max(b) }
    "neg.s16" => (a: u16) -> u16 { a.wrapping_neg() }
    "neg.s32" => (a: u32) -> u32 { a.wrapping_neg() }
    "neg.s64" => (a: u64) -> u64 { a.wrapping_neg() }
    "abs.s16" => (a: i16) -> i16 { a.wrapping_abs() }
    "abs.s32" => (a: i32) -> i32 { a.wrapping_abs() }
    "abs.s64" => (a: i64) -> i64 { a.wrapping_abs() }
    "sad.s32" => (a: i32, b: i32, c: u32) -> u32 { a.abs_diff(b).wrapping_add(c) }
    "sad.u32" => (a: u32, b: u32, c: u32) -> u32 { a.abs_diff(b).wrapping_add(c) }

    // The carry out of a + b + carry, and the borrow out of a - b - borrow. A flag is a predicate here.
    "add.carry.u32" => (a: u32, b: u32, carry: bool) -> bool { a as u64 + b as u64 + carry as u64 > u32::MAX as u64 }
    "add.carry.u64" => (a: u64, b: u64, carry: bool) -> bool { a as u128 + b as u128 + carry as u128 > u64::MAX as u128 }
    "add.with.u32" => (a: u32, b: u32, carry: bool) -> u32 { a.wrapping_add(b).wrapping_add(carry as u32) }
    "add.with.u64" => (a: u64, b: u64, carry: bool) -> u64 { a.wrapping_add(b).wrapping_add(carry as u64) }
    "sub.carry.u32" => (a: u32, b: u32, borrow: bool) -> bool { (a as u64) < b as u64 + borrow as u64 }
    "sub.carry.u64" => (a: u64, b: u64, borrow: bool) -> bool { (a as u128) < b as u128 + borrow as u128 }
    "sub.with.u32" => (a: u32, b: u32, borrow: bool) -> u32 { a.wrapping_sub(b).wrapping_sub(borrow as u32) }
    "sub.with.u64" => (a: u64, b: u64, borrow: bool) -> u64 { a.wrapping_sub(b).wrapping_sub(borrow as u64) }

    // dp4a: a dot product of four bytes.
    "dp4a.s32.s32" => (a: u32, b: u32, c: i32) -> i32 {
        let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
        (0..4).fold(c, |sum, i| sum.wrapping_add(x[i] as i8 as i32 * y[i] as i8 as i32))
    }
    "dp4a.u32.u32" => (a: u32, b: u32, c: u32) -> u32 {
        let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
        (0..4).fold(c, |sum, i| sum.wrapping_add(x[i] as u32 * y[i] as u32))
    }
}

#[cfg(test)]
mod tests {
    use crate::harness::{double, word};

    #[test]
    fn sums_and_products_wrap() {
        assert_eq!(word("add.s32 %r4, %r1, %r2", &[!0, 2]), 1);
        assert_eq!(word("sub.s32 %r4, %r1, %r2", &[1, 2]), !0);
        assert_eq!(word("add.sat.s32 %r4, %r1, %r2", &[i32::MAX as u32, 2]), i32::MAX as u32);
        assert_eq!(word("mul.lo.s32 %r4, %r1, %r2", &[0x10001, 0x10001]), 0x20001);
        assert_eq!(word("mul.hi.s32 %r4, %r1, %r2", &[-2i32 as u32, 3]), !0);
        assert_eq!(word("mul.hi.u32 %r4, %r1, %r2", &[-2i32 as u32, 3]), 2);
        assert_eq!(word("mad.lo.s32 %r4, %r1, %r2, %r3", &[7, 6, 5]), 47);
        assert_eq!(double("add.s64 %d4, %d1, %d2", &[u32::MAX as u64, 1]), 1 << 32);
        assert_eq!(double("mul.hi.u64 %d4, %d1, %d2", &[1 << 63, 6]), 3);
        assert_eq!(double("mul.lo.s64 %d4, %d1, %d2", &[!0, 5]), -5i64 as u64);
        assert_eq!(double("cvt.u32.u64 %r1, %d1;\nmad.wide.s32 %d4, %r1, %r1, %d2", &[-3i64 as u64, 1]), 10);
        assert_eq!(double("cvt.u32.u64 %r1, %d1;\nmul.wide.u32 %d4, %r1, 2", &[u32::MAX as u64]), 2 * u32::MAX as u64);
    }

    #[test]
    fn quotients_round_to_zero_and_never_trap() {
        assert_eq!(word("div.s32 %r4, %r1, %r2", &[-7i32 as u32, 2]), -3i32 as u32);
        assert_eq!(word("rem.s32 %r4, %r1, %r2", &[-7i32 as u32, 2]), -1i32 as u32);
        assert_eq!(word("div.u32 %r4, %r1, %r2", &[-7i32 as u32, 2]), 0x7fff_fffc);
        assert_eq!(word("div.u32 %r4, %r1, %r2", &[7, 0]), !0);
        assert_eq!(word("rem.u32 %r4, %r1, %r2", &[7, 0]), 7);
        assert_eq!(word("div.s32 %r4, %r1, %r2", &[i32::MIN as u32, !0]), i32::MIN as u32);
        assert_eq!(double("div.s64 %d4, %d1, %d2", &[-9i64 as u64, 4]), -2i64 as u64);
        assert_eq!(double("rem.u64 %d4, %d1, %d2", &[1 << 40, 1000]), (1u64 << 40) % 1000);
    }

    #[test]
    fn least_and_greatest_know_signs() {
        assert_eq!(word("min.s32 %r4, %r1, %r2", &[!0, 1]), !0);
        assert_eq!(word("min.u32 %r4, %r1, %r2", &[!0, 1]), 1);
        assert_eq!(word("max.s32 %r4, %r1, %r2", &[!0, 1]), 1);
        assert_eq!(word("abs.s32 %r4, %r1", &[-5i32 as u32]), 5);
        assert_eq!(word("neg.s32 %r4, %r1", &[5]), -5i32 as u32);
        assert_eq!(double("max.s64 %d4, %d1, %d2", &[!0, 1]), 1);
    }

    #[test]
    fn carries_run_through_a_chain() {
        let chain = "add.cc.u32 %r5, %r1, %r2;\naddc.cc.u32 %r6, 0xffffffff, 0;\naddc.u32 %r4, 0, 0";
        assert_eq!(word(chain, &[!0, 1]), 1);
        assert_eq!(word(chain, &[1, 1]), 0);
        assert_eq!(word("sub.cc.u32 %r5, %r1, %r2;\nsubc.u32 %r4, 0, 0", &[1, 2]), !0);
        assert_eq!(word("mad.lo.cc.u32 %r5, %r1, %r2, 1;\nmadc.hi.u32 %r4, %r1, %r2, 0", &[!0, !0]), 0xffff_fffe);
    }
}
