//! Comparisons and choices: `setp`, `set`, `selp`, `slct`, `testp`.
//!
//! An ordered comparison with NaN is false, an unordered one (`ltu`) true. Combinations (`setp.lt.and`) and second
//! destinations are put together by `ptx::lower`. Read next: `../warp.rs`, which runs what these tables hold.

#![allow(clippy::neg_cmp_op_on_partial_ord)] // `!(a < b)` is what an unordered comparison means

use crate::machine::registers::forms;

forms! {
    "setp.eq.s16" | "setp.eq.u16" | "setp.eq.b16" => (a: u16, b: u16) -> bool { a == b }
    "setp.ne.s16" | "setp.ne.u16" | "setp.ne.b16" => (a: u16, b: u16) -> bool { a != b }
    "setp.lt.s16" => (a: i16, b: i16) -> bool { a < b }
    "setp.le.s16" => (a: i16, b: i16) -> bool { a <= b }
    "setp.gt.s16" => (a: i16, b: i16) -> bool { a > b }
    "setp.ge.s16" => (a: i16, b: i16) -> bool { a >= b }
    "setp.lt.u16" | "setp.lo.u16" => (a: u16, b: u16) -> bool { a < b }
    "setp.le.u16" | "setp.ls.u16" => (a: u16, b: u16) -> bool { a <= b }
    "setp.gt.u16" | "setp.hi.u16" => (a: u16, b: u16) -> bool { a > b }
    "setp.ge.u16" | "setp.hs.u16" => (a: u16, b: u16) -> bool { a >= b }
    "setp.eq.s32" | "setp.eq.u32" | "setp.eq.b32" => (a: u32, b: u32) -> bool { a == b }
    "setp.ne.s32" | "setp.ne.u32" | "setp.ne.b32" => (a: u32, b: u32) -> bool { a != b }
    "setp.lt.s32" => (a: i32, b: i32) -> bool { a < b }
    "setp.le.s32" => (a: i32, b: i32) -> bool { a <= b }
    "setp.gt.s32" => (a: i32, b: i32) -> bool { a > b }
    "setp.ge.s32" => (a: i32, b: i32) -> bool { a >= b }
    "setp.lt.u32" | "setp.lo.u32" => (a: u32, b: u32) -> bool { a < b }
    "setp.le.u32" | "setp.ls.u32" => (a: u32, b: u32) -> bool { a <= b }
    "setp.gt.u32" | "setp.hi.u32" => (a: u32, b: u32) -> bool { a > b }
    "setp.ge.u32" | "setp.hs.u32" => (a: u32, b: u32) -> bool { a >= b }
    "setp.eq.s64" | "setp.eq.u64" | "setp.eq.b64" => (a: u64, b: u64) -> bool { a == b }
    "setp.ne.s64" | "setp.ne.u64" | "setp.ne.b64" => (a: u64, b: u64) -> bool { a != b }
    "setp.lt.s64" => (a: i64, b: i64) -> bool { a < b }
    "setp.le.s64" => (a: i64, b: i64) -> bool { a <= b }
    "setp.gt.s64" => (a: i64, b: i64) -> bool { a > b }
    "setp.ge.s64" => (a: i64, b: i64) -> bool { a >= b }
    "setp.lt.u64" | "setp.lo.u64" => (a: u64, b: u64) -> bool { a < b }
    "setp.le.u64" | "setp.ls.u64" => (a: u64, b: u64) -> bool { a <= b }
    "setp.gt.u64" | "setp.hi.u64" => (a: u64, b: u64) -> bool { a > b }
    "setp.ge.u64" | "setp.hs.u64" => (a: u64, b: u64) -> bool { a >= b }

    "setp.eq.f32" => (a: f32, b: f32) -> bool { a == b }
    "setp.ne.f32" => (a: f32, b: f32) -> bool { (a < b) | (a > b) }
    "setp.lt.f32" => (a: f32, b: f32) -> bool { a < b }
    "setp.le.f32" => (a: f32, b: f32) -> bool { a <= b }
    "setp.gt.f32" => (a: f32, b: f32) -> bool { a > b }
    "setp.ge.f32" => (a: f32, b: f32) -> bool { a >= b }
    "setp.equ.f32" => (a: f32, b: f32) -> bool { !((a < b) | (a > b)) }
    "setp.neu.f32" => (a: f32, b: f32) -> bool { a != b }
    "setp.ltu.f32" => (a: f32, b: f32) -> bool { !(a >= b) }
    "setp.leu.f32" => (a: f32, b: f32) -> bool { !(a > b) }
    "setp.gtu.f32" => (a: f32, b: f32) -> bool { !(a <= b) }
    "setp.geu.f32" => (a: f32, b: f32) -> bool { !(a < b) }
    "setp.num.f32" => (a: f32, b: f32) -> bool { !(a.is_nan() | b.is_nan()) }
    "setp.nan.f32" => (a: f32, b: f32) -> bool { a.is_nan() | b.is_nan() }
    "setp.eq.f64" => (a: f64, b: f64) -> bool { a == b }
    "setp.ne.f64" => (a: f64, b: f64) -> bool { (a < b) | (a > b) }
    "setp.lt.f64" => (a: f64, b: f64) -> bool { a < b }
    "setp.le.f64" => (a: f64, b: f64) -> bool { a <= b }
    "setp.gt.f64" => (a: f64, b: f64) -> bool { a > b }
    "setp.ge.f64" => (a: f64, b: f64) -> bool { a >= b }
    "setp.equ.f64" => (a: f64, b: f64) -> bool { !((a < b) | (a > b)) }
    "setp.neu.f64" => (a: f64, b: f64) -> bool { a != b }
    "setp.ltu.f64" => (a: f64, b: f64) -> bool { !(a >= b) }
    "setp.leu.f64" => (a: f64, b: f64) -> bool { !(a > b) }
    "setp.gtu.f64" => (a: f64, b: f64) -> bool { !(a <= b) }
    "setp.geu.f64" => (a: f64, b: f64) -> bool { !(a < b) }
    "setp.num.f64" => (a: f64, b: f64) -> bool { !(a.is_nan() | b.is_nan()) }
    "setp.nan.f64" => (a: f64, b: f64) -> bool { a.is_nan() | b.is_nan() }

    "selp.b16" | "selp.u16" | "selp.s16" | "selp.f16" | "selp.bf16" => (a: u16, b: u16, p: bool) -> u16 { if p { a } else { b } }
    "selp.b32" | "selp.u32" | "selp.s32" | "selp.f32" => (a: u32, b: u32, p: bool) -> u32 { if p { a } else { b } }
    "selp.b64" | "selp.u64" | "selp.s64" | "selp.f64" => (a: u64, b: u64, p: bool) -> u64 { if p { a } else { b } }
    "slct.b32.s32" | "slct.u32.s32" | "slct.s32.s32" | "slct.f32.s32" => (a: u32, b: u32, c: i32) -> u32 { if c >= 0 { a } else { b } }
    "slct.b64.s32" | "slct.u64.s32" | "slct.s64.s32" | "slct.f64.s32" => (a: u64, b: u64, c: i32) -> u64 { if c >= 0 { a } else { b } }
    "slct.b32.f32" | "slct.u32.f32" | "slct.s32.f32" | "slct.f32.f32" => (a: u32, b: u32, c: f32) -> u32 { if c >= 0.0 { a } else { b } }

    // What `set` makes of a comparison.
    "mask.u32" | "mask.s32" | "mask.b32" => (p: bool) -> u32 { 0u32.wrapping_sub(p as u32) }
    "mask.f32" => (p: bool) -> f32 { p as u32 as f32 }

    "testp.finite.f32" => (a: f32) -> bool { a.is_finite() }
    "testp.infinite.f32" => (a: f32) -> bool { a.is_infinite() }
    "testp.number.f32" => (a: f32) -> bool { !a.is_nan() }
    "testp.notanumber.f32" => (a: f32) -> bool { a.is_nan() }
    "testp.normal.f32" => (a: f32) -> bool { a.is_normal() }
    "testp.subnormal.f32" => (a: f32) -> bool { a.is_subnormal() || a == 0.0 }
    "testp.finite.f64" => (a: f64) -> bool { a.is_finite() }
    "testp.infinite.f64" => (a: f64) -> bool { a.is_infinite() }
    "testp.number.f64" => (a: f64) -> bool { !a.is_nan() }
    "testp.notanumber.f64" => (a: f64) -> bool { a.is_nan() }
    "testp.normal.f64" => (a: f64) -> bool { a.is_normal() }
    "testp.subnormal.f64" => (a: f64) -> bool { a.is_subnormal() || a == 0.0 }
}

#[cfg(test)]
mod tests {
    use crate::harness::word;

    /// What a comparison of two f32 gives.
    fn compare(relation: &str, a: f32, b: f32) -> bool {
        let code = format!("mov.b32 %f1, %r1;\nmov.b32 %f2, %r2;\nsetp.{relation}.f32 %p1, %f1, %f2;\nselp.b32 %r4, 1, 0, %p1");
        word(&code, &[a.to_bits(), b.to_bits()]) == 1
    }

    #[test]
    fn nan_is_ordered_with_nothing() {
        for relation in ["eq", "ne", "lt", "le", "gt", "ge", "num"] {
            assert!(!compare(relation, f32::NAN, 1.0), "{relation}");
        }
        for relation in ["equ", "neu", "ltu", "leu", "gtu", "geu", "nan"] {
            assert!(compare(relation, f32::NAN, 1.0), "{relation}");
        }
        assert!(compare("lt", 1.0, 2.0) && !compare("geu", 1.0, 2.0) && compare("eq", 0.0, -0.0) && compare("ne", 1.0, 2.0));
    }

    #[test]
    fn integers_know_signs_and_widths() {
        let integer = |name: &str| word(&format!("setp.{name} %p1, %r1, %r2;\nselp.b32 %r4, 1, 0, %p1"), &[!0, 1]);
        assert_eq!((integer("lt.s32"), integer("lt.u32"), integer("hi.u32"), integer("ne.b32")), (1, 0, 1, 1));
        let half = "cvt.u16.u32 %h1, %r1;\nsetp.eq.s16 %p1, %h1, -1;\nselp.b32 %r4, 1, 0, %p1";
        assert_eq!((word(half, &[0xffff]), word(half, &[0x7fff])), (1, 0));
    }

    #[test]
    fn results_combine_and_have_an_opposite() {
        let code = "setp.eq.s32 %p1, %r2, 1;\nsetp.lt.and.s32 %p2|%p3, %r1, 10, %p1;\nselp.b32 %r5, 1, 0, %p2;\nselp.b32 %r6, 2, 0, %p3;\nor.b32 %r4, %r5, %r6";
        assert_eq!((word(code, &[5, 1]), word(code, &[50, 1]), word(code, &[5, 0])), (1, 2, 0));
        let negated = "setp.eq.s32 %p1, %r2, 1;\nsetp.lt.or.s32 %p2, %r1, 10, !%p1;\nselp.b32 %r4, 1, 0, %p2";
        assert_eq!((word(negated, &[50, 1]), word(negated, &[50, 0])), (0, 1));
        assert_eq!(word("set.lt.u32.s32 %r4, %r1, %r2", &[1, 2]), !0);
        assert_eq!(word("slct.b32.s32 %r4, %r1, %r2, %r3", &[7, 8, !0]), 8);
        assert_eq!(word("mov.b32 %f1, %r1;\ntestp.infinite.f32 %p1, %f1;\nselp.b32 %r4, 1, 0, %p1", &[f32::INFINITY.to_bits()]), 1);
    }
}
