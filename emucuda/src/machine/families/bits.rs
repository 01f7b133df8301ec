//! Bits: logic, shifts, fields, permutations, moves and what packs or splits registers.
//!
//! Shift amounts beyond the width give zero (or the sign): PTX clamps them. Names that PTX does not have (`low.b64`,
//! `pack.b32`) are what `ptx::lower` makes of vector moves. Read next: `float.rs`.

use crate::machine::registers::forms;

forms! {
    "mov.b16" | "mov.u16" | "mov.s16" | "mov.f16" | "mov.bf16" => (a: u16) -> u16 { a }
    "mov.b32" | "mov.u32" | "mov.s32" | "mov.f32" | "mov.f16x2" | "mov.bf16x2" => (a: u32) -> u32 { a }
    "mov.b64" | "mov.u64" | "mov.s64" | "mov.f64" => (a: u64) -> u64 { a }
    "mov.pred" => (a: bool) -> bool { a }
    "pack.b32" => (a: u16, b: u16) -> u32 { a as u32 | (b as u32) << 16 }
    "pack.b64" => (a: u32, b: u32) -> u64 { a as u64 | (b as u64) << 32 }
    "pack4.b64" => (a: u16, b: u16, c: u16, d: u16) -> u64 { a as u64 | (b as u64) << 16 | (c as u64) << 32 | (d as u64) << 48 }
    "part0.b32" => (a: u32) -> u16 { a as u16 }
    "part1.b32" => (a: u32) -> u16 { (a >> 16) as u16 }
    "part0.b64" => (a: u64) -> u32 { a as u32 }
    "part1.b64" => (a: u64) -> u32 { (a >> 32) as u32 }
    "quarter0.b64" => (a: u64) -> u16 { a as u16 }
    "quarter1.b64" => (a: u64) -> u16 { (a >> 16) as u16 }
    "quarter2.b64" => (a: u64) -> u16 { (a >> 32) as u16 }
    "quarter3.b64" => (a: u64) -> u16 { (a >> 48) as u16 }

    "and.b16" => (a: u16, b: u16) -> u16 { a & b }
    "and.b32" => (a: u32, b: u32) -> u32 { a & b }
    "and.b64" => (a: u64, b: u64) -> u64 { a & b }
    "and.pred" => (a: bool, b: bool) -> bool { a & b }
    "or.b16" => (a: u16, b: u16) -> u16 { a | b }
    "or.b32" => (a: u32, b: u32) -> u32 { a | b }
    "or.b64" => (a: u64, b: u64) -> u64 { a | b }
    "or.pred" => (a: bool, b: bool) -> bool { a | b }
    "xor.b16" => (a: u16, b: u16) -> u16 { a ^ b }
    "xor.b32" => (a: u32, b: u32) -> u32 { a ^ b }
    "xor.b64" => (a: u64, b: u64) -> u64 { a ^ b }
    "xor.pred" => (a: bool, b: bool) -> bool { a ^ b }
    "not.b16" => (a: u16) -> u16 { !a }
    "not.b32" => (a: u32) -> u32 { !a }
    "not.b64" => (a: u64) -> u64 { !a }
    "not.pred" => (a: bool) -> bool { !a }
    "cnot.b32" => (a: u32) -> u32 { (a == 0) as u32 }
    // One bit of the table for every combination of three bits.
    "lop3.b32" => (a: u32, b: u32, c: u32, table: u32) -> u32 {
        let mut bits = 0;
        for row in 0..8 {
            let (x, y, z) = (if row & 4 != 0 { a } else { !a }, if row & 2 != 0 { b } else { !b }, if row & 1 != 0 { c } else { !c });
            bits |= x & y & z & 0u32.wrapping_sub(table >> row & 1);
        }
        bits
    }

    "shl.b16" => (a: u16, b: u32) -> u16 { if b > 15 { 0 } else { a << b } }
    "shl.b32" => (a: u32, b: u32) -> u32 { if b > 31 { 0 } else { a << (b & 31) } }
    "shl.b64" => (a: u64, b: u32) -> u64 { if b > 63 { 0 } else { a << (b & 63) } }
    "shr.u16" | "shr.b16" => (a: u16, b: u32) -> u16 { if b > 15 { 0 } else { a >> b } }
    "shr.s16" => (a: i16, b: u32) -> i16 { a >> b.min(15) }
    "shr.u32" | "shr.b32" => (a: u32, b: u32) -> u32 { if b > 31 { 0 } else { a >> (b & 31) } }
    "shr.s32" => (a: i32, b: u32) -> i32 { a >> b.min(31) }
    "shr.u64" | "shr.b64" => (a: u64, b: u32) -> u64 { if b > 63 { 0 } else { a >> (b & 63) } }
    "shr.s64" => (a: i64, b: u32) -> i64 { a >> b.min(63) }
    "shf.l.wrap.b32" => (a: u32, b: u32, c: u32) -> u32 { ((((b as u64) << 32 | a as u64) << (c & 31)) >> 32) as u32 }
    "shf.r.wrap.b32" => (a: u32, b: u32, c: u32) -> u32 { (((b as u64) << 32 | a as u64) >> (c & 31)) as u32 }
    "shf.l.clamp.b32" => (a: u32, b: u32, c: u32) -> u32 { ((((b as u64) << 32 | a as u64) << c.min(32)) >> 32) as u32 }
    "shf.r.clamp.b32" => (a: u32, b: u32, c: u32) -> u32 { (((b as u64) << 32 | a as u64) >> c.min(32)) as u32 }

    "popc.b32" => (a: u32) -> u32 { a.count_ones() }
    "popc.b64" => (a: u64) -> u32 { a.count_ones() }
    "clz.b32" => (a: u32) -> u32 { a.leading_zeros() }
    "clz.b64" => (a: u64) -> u32 { a.leading_zeros() }
    "brev.b32" => (a: u32) -> u32 { a.reverse_bits() }
    "brev.b64" => (a: u64) -> u64 { a.reverse_bits() }
    // The place of the highest bit that is not the sign, or all ones; `shiftamt` counts from the top instead.
    "bfind.u32" => (a: u32) -> u32 { 31u32.wrapping_sub(a.leading_zeros()) }
    "bfind.s32" => (a: u32) -> u32 { 31u32.wrapping_sub((if a as i32 >= 0 { a } else { !a }).leading_zeros()) }
    "bfind.u64" => (a: u64) -> u32 { 63u32.wrapping_sub(a.leading_zeros()) }
    "bfind.s64" => (a: u64) -> u32 { 63u32.wrapping_sub((if a as i64 >= 0 { a } else { !a }).leading_zeros()) }
    "bfind.shiftamt.u32" => (a: u32) -> u32 { if a == 0 { !0 } else { a.leading_zeros() } }
    "bfind.shiftamt.s32" => (a: u32) -> u32 { let x = if a as i32 >= 0 { a } else { !a }; if x == 0 { !0 } else { x.leading_zeros() } }
    "bfind.shiftamt.u64" => (a: u64) -> u32 { if a == 0 { !0 } else { a.leading_zeros() } }
    "bfe.u32" => (a: u32, b: u32, c: u32) -> u32 {
        let (at, length) = (b & 255, c & 255);
        if at > 31 { 0 } else { (((a as u64) >> at) & ((1u64 << length.min(32)) - 1)) as u32 }
    }
    "bfe.s32" => (a: u32, b: u32, c: u32) -> u32 { bit_field_signed(a as i32 as i64, b, c, 32) as u32 }
    "bfe.u64" => (a: u64, b: u32, c: u32) -> u64 {
        let (at, length) = (b & 255, c & 255);
        if at > 63 { 0 } else { (((a as u128) >> at) & ((1u128 << length.min(64)) - 1)) as u64 }
    }
    "bfe.s64" => (a: u64, b: u32, c: u32) -> u64 { bit_field_signed(a as i64, b, c, 64) as u64 }
    "bfi.b32" => (a: u32, b: u32, c: u32, d: u32) -> u32 {
        let (at, length) = ((c & 255).min(32), (d & 255).min(32));
        let mask = (((1u64 << length) - 1) << at) as u32;
        b & !mask | (((a as u64) << at) as u32) & mask
    }
    "bfi.b64" => (a: u64, b: u64, c: u32, d: u32) -> u64 {
        let (at, length) = ((c & 255).min(64), (d & 255).min(64));
        let mask = (((1u128 << length) - 1) << at) as u64;
        b & !mask | (((a as u128) << at) as u64) & mask
    }
    "bmsk.clamp.b32" => (a: u32, b: u32) -> u32 { if a > 31 { 0 } else { ((((1u64 << b.min(32)) - 1) << a) & 0xffff_ffff) as u32 } }
    // Four bytes chosen out of eight; the top bit of a choice repeats the byte's sign.
    "prmt.b32" => (a: u32, b: u32, c: u32) -> u32 {
        let bytes = (b as u64) << 32 | a as u64;
        let mut result = 0;
        for place in 0..4 {
            let choice = c >> (4 * place) & 15;
            let byte = (bytes >> (8 * (choice & 7))) as u8;
            let byte = if choice & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
            result |= (byte as u32) << (8 * place);
        }
        result
    }
}

/// The field of a signed number: bits beyond its end repeat its sign.
#[inline(always)]
fn bit_field_signed(a: i64, at: u32, length: u32, width: u32) -> i64 {
    let (at, length) = (at & 255, length & 255);
    if length == 0 {
        return 0;
    }
    let shifted = a >> at.min(width - 1);
    if at + length >= width { shifted } else { shifted << (64 - length) >> (64 - length) }
}

#[cfg(test)]
mod tests {
    use crate::harness::{double, word};

    #[test]
    fn shifts_beyond_the_width_are_clamped() {
        assert_eq!(word("shl.b32 %r4, %r1, %r2", &[1, 31]), 1 << 31);
        assert_eq!(word("shl.b32 %r4, %r1, %r2", &[1, 32]), 0);
        assert_eq!(word("shr.u32 %r4, %r1, %r2", &[!0, 33]), 0);
        assert_eq!(word("shr.s32 %r4, %r1, %r2", &[1 << 31, 99]), !0);
        assert_eq!(double("mov.b64 {%r1, %r2}, %d2;\nshl.b64 %d4, %d1, %r1", &[3, 64]), 0);
        assert_eq!(double("mov.b64 {%r1, %r2}, %d2;\nshr.s64 %d4, %d1, %r1", &[1 << 63, 63]), !0);
        assert_eq!(word("shf.l.wrap.b32 %r4, %r1, %r2, %r3", &[0x8000_0000, 1, 33]), 3);
        assert_eq!(word("shf.r.clamp.b32 %r4, %r1, %r2, %r3", &[5, 9, 40]), 9);
        assert_eq!(word("shf.r.wrap.b32 %r4, %r1, %r2, %r3", &[0, 1, 1]), 1 << 31);
    }

    #[test]
    fn fields_are_cut_and_put_in() {
        assert_eq!(word("bfe.u32 %r4, %r1, 4, 8", &[0xabcd]), 0xbc);
        assert_eq!(word("bfe.s32 %r4, %r1, 4, 8", &[0xabcd]), 0xffff_ffbc);
        assert_eq!(word("bfe.u32 %r4, %r1, 40, 8", &[!0]), 0);
        assert_eq!(word("bfe.s32 %r4, %r1, 28, 8", &[0x8000_0000]), 0xffff_fff8);
        assert_eq!(word("bfe.u32 %r4, %r1, 0, 32", &[0x1234]), 0x1234);
        assert_eq!(word("bfi.b32 %r4, %r1, %r2, 8, 8", &[0xff, 0x1111_1111]), 0x1111_ff11);
        assert_eq!(word("bfi.b32 %r4, %r1, %r2, 32, 8", &[0xff, 7]), 7);
        assert_eq!(double("bfi.b64 %d4, %d1, %d2, 32, 32", &[5, 6]), 5 << 32 | 6);
    }

    #[test]
    fn bits_are_counted_found_and_turned() {
        assert_eq!(word("popc.b32 %r4, %r1", &[0xf0f0]), 8);
        assert_eq!(word("clz.b32 %r4, %r1", &[0]), 32);
        assert_eq!(word("brev.b32 %r4, %r1", &[1]), 1 << 31);
        assert_eq!(word("bfind.u32 %r4, %r1", &[0x100]), 8);
        assert_eq!(word("bfind.u32 %r4, %r1", &[0]), !0);
        assert_eq!(word("bfind.s32 %r4, %r1", &[!0x10]), 4);
        assert_eq!(word("bfind.shiftamt.u32 %r4, %r1", &[0x100]), 23);
        assert_eq!(word("lop3.b32 %r4, %r1, %r2, %r3, 0x96", &[0b1100, 0b1010, 0b0110]), 0);
        assert_eq!(word("lop3.b32 %r4, %r1, %r2, %r3, 0xe8", &[0b1100, 0b1010, 0b0110]), 0b1110);
        assert_eq!(word("prmt.b32 %r4, %r1, %r2, 0x7150", &[0x4433_2211, 0x8877_6655]), 0x8822_6611);
        assert_eq!(word("prmt.b32 %r4, %r1, %r2, 0xb", &[0x8033_2211, 0]) & 0xff, 0xff);
        assert_eq!(word("not.b32 %r4, %r1", &[5]), !5);
    }

    #[test]
    fn vectors_are_packed_and_split() {
        assert_eq!(word("mov.b32 {%h1, %h2}, %r1;\nmov.b32 %r4, {%h2, %h1}", &[0x1234_5678]), 0x5678_1234);
        assert_eq!(double("mov.b64 {%r1, %r2}, %d1;\nmov.b64 %d4, {%r2, %r1}", &[0x1_0000_0002]), 0x2_0000_0001);
        assert_eq!(double("mov.b64 {%h1, %h2, %h3, %h4}, %d1;\nmov.b64 %d4, {%h4, %h3, %h2, %h1}", &[0x1_0002_0003]), 0x3_0002_0001_0000);
        // Upper bits of a 16-bit register do not leak.
        assert_eq!(word("mov.b32 {%h1, %h2}, %r1;\nnot.b16 %h1, %h1;\nshr.u16 %h1, %h1, 8;\ncvt.u32.u16 %r4, %h1", &[0]), 0xff);
    }
}
