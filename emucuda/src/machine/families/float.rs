//! f32 and f64 arithmetic and functions. Not comparisons (`compare.rs`), not conversions (`convert.rs`).
//!
//! Approximations (`ex2.approx`, `sin.approx`, ...) are computed as exactly as the CPU can: a kernel's tolerances must
//! be those of the GPU. Sums and products rounded towards a side come from the exact error of the nearest result.
//! Read next: `half.rs`.

use crate::machine::registers::forms;

forms! {
    "add.f32" => (a: f32, b: f32) -> f32 { a + b }
    "sub.f32" => (a: f32, b: f32) -> f32 { a - b }
    "mul.f32" => (a: f32, b: f32) -> f32 { a * b }
    "fma.f32" | "mad.f32" => (a: f32, b: f32, c: f32) -> f32 { a.mul_add(b, c) }
    "add.f64" => (a: f64, b: f64) -> f64 { a + b }
    "sub.f64" => (a: f64, b: f64) -> f64 { a - b }
    "mul.f64" => (a: f64, b: f64) -> f64 { a * b }
    "fma.f64" | "mad.f64" => (a: f64, b: f64, c: f64) -> f64 { a.mul_add(b, c) }

    "add.rz.f32" => (a: f32, b: f32) -> f32 { directed(1.0, a, b, Side::Zero) }
    "add.rm.f32" => (a: f32, b: f32) -> f32 { directed(1.0, a, b, Side::Down) }
    "add.rp.f32" => (a: f32, b: f32) -> f32 { directed(1.0, a, b, Side::Up) }
    "sub.rz.f32" => (a: f32, b: f32) -> f32 { directed(1.0, a, -b, Side::Zero) }
    "sub.rm.f32" => (a: f32, b: f32) -> f32 { directed(1.0, a, -b, Side::Down) }
    "sub.rp.f32" => (a: f32, b: f32) -> f32 { directed(1.0, a, -b, Side::Up) }
    "mul.rz.f32" => (a: f32, b: f32) -> f32 { directed(a, b, -0.0, Side::Zero) }
    "mul.rm.f32" => (a: f32, b: f32) -> f32 { directed(a, b, -0.0, Side::Down) }
    "mul.rp.f32" => (a: f32, b: f32) -> f32 { directed(a, b, -0.0, Side::Up) }
    "fma.rz.f32" => (a: f32, b: f32, c: f32) -> f32 { directed(a, b, c, Side::Zero) }
    "fma.rm.f32" => (a: f32, b: f32, c: f32) -> f32 { directed(a, b, c, Side::Down) }
    "fma.rp.f32" => (a: f32, b: f32, c: f32) -> f32 { directed(a, b, c, Side::Up) }

    "div.f32" => (a: f32, b: f32) -> f32 { a / b }
    "div.f64" => (a: f64, b: f64) -> f64 { a / b }
    "rcp.f32" => (a: f32) -> f32 { 1.0 / a }
    "rcp.f64" => (a: f64) -> f64 { 1.0 / a }
    // These give the upper half of the number only; Newton steps follow.
    "rcp.approx.ftz.f64" => (a: f64) -> f64 { upper(1.0 / a) }
    "rsqrt.approx.ftz.f64" => (a: f64) -> f64 { upper(1.0 / a.sqrt()) }
    "sqrt.f32" => (a: f32) -> f32 { a.sqrt() }
    "sqrt.f64" => (a: f64) -> f64 { a.sqrt() }
    "rsqrt.f32" => (a: f32) -> f32 { 1.0 / a.sqrt() }
    "rsqrt.f64" => (a: f64) -> f64 { 1.0 / a.sqrt() }
    "ex2.f32" => (a: f32) -> f32 { a.exp2() }
    "lg2.f32" => (a: f32) -> f32 { a.log2() }
    "sin.f32" => (a: f32) -> f32 { a.sin() }
    "cos.f32" => (a: f32) -> f32 { a.cos() }
    "tanh.f32" => (a: f32) -> f32 { a.tanh() }

    "neg.f32" => (a: u32) -> u32 { a ^ 0x8000_0000 }
    "neg.f64" => (a: u64) -> u64 { a ^ 0x8000_0000_0000_0000 }
    "abs.f32" => (a: u32) -> u32 { a & 0x7fff_ffff }
    "abs.f64" => (a: u64) -> u64 { a & 0x7fff_ffff_ffff_ffff }
    "copysign.f32" => (a: u32, b: u32) -> u32 { a & 0x8000_0000 | b & 0x7fff_ffff }
    "copysign.f64" => (a: u64, b: u64) -> u64 { a & 0x8000_0000_0000_0000 | b & 0x7fff_ffff_ffff_ffff }
    // With one NaN: the other number. With `.NaN`: NaN. -0 is less than +0.
    "min.f32" => (a: f32, b: f32) -> f32 { if a.is_nan() { quiet(b) } else if b.is_nan() { a } else { lesser(a, b) } }
    "max.f32" => (a: f32, b: f32) -> f32 { if a.is_nan() { quiet(b) } else if b.is_nan() { a } else { -lesser(-a, -b) } }
    "min.NaN.f32" => (a: f32, b: f32) -> f32 { if a.is_nan() | b.is_nan() { NOT_A_NUMBER } else { lesser(a, b) } }
    "max.NaN.f32" => (a: f32, b: f32) -> f32 { if a.is_nan() | b.is_nan() { NOT_A_NUMBER } else { -lesser(-a, -b) } }
    "min.f64" => (a: f64, b: f64) -> f64 { if a.is_nan() { b } else if b.is_nan() { a } else { lesser64(a, b) } }
    "max.f64" => (a: f64, b: f64) -> f64 { if a.is_nan() { b } else if b.is_nan() { a } else { -lesser64(-a, -b) } }

    // What `ptx::lower` puts around an instruction with `.ftz` or `.sat`.
    "flush.f32" => (a: f32) -> f32 { if a.is_subnormal() { 0f32.copysign(a) } else { a } }
    "saturate.f32" => (a: f32) -> f32 { if a > 0.0 { a.min(1.0) } else { 0.0 } }
    "saturate.f64" => (a: f64) -> f64 { if a > 0.0 { a.min(1.0) } else { 0.0 } }
}

/// The NaN that the hardware makes.
const NOT_A_NUMBER: f32 = f32::from_bits(0x7fff_ffff);

#[inline(always)]
fn quiet(a: f32) -> f32 {
    if a.is_nan() { NOT_A_NUMBER } else { a }
}

#[inline(always)]
fn lesser(a: f32, b: f32) -> f32 {
    if a < b || (a == b && a.is_sign_negative()) { a } else { b }
}

#[inline(always)]
fn lesser64(a: f64, b: f64) -> f64 {
    if a < b || (a == b && a.is_sign_negative()) { a } else { b }
}

#[inline(always)]
fn upper(a: f64) -> f64 {
    f64::from_bits(a.to_bits() & 0xffff_ffff_0000_0000)
}

/// The side that a result is rounded to.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Side {
    Zero,
    Down,
    Up,
}

/// a * b + c rounded to a side. The product is exact in f64; the sum's error is known exactly, and tells on which side of the
/// nearest f32 the true value lies.
pub(super) fn directed(a: f32, b: f32, c: f32, side: Side) -> f32 {
    let (product, c) = (a as f64 * b as f64, c as f64);
    let sum = product + c;
    if !sum.is_finite() {
        return sum as f32;
    }
    let shifted = sum - product;
    let error = (product - (sum - shifted)) + (c - shifted);
    to_side(sum, error, side)
}

/// sum + error, rounded to a side; the error is less than half a last place of the sum.
pub(super) fn to_side(sum: f64, error: f64, side: Side) -> f32 {
    let nearest = sum as f32;
    let (above, below) = {
        let wide = nearest as f64;
        (wide > sum || (wide == sum && error < 0.0), wide < sum || (wide == sum && error > 0.0))
    };
    match side {
        Side::Down if above => nearest.next_down(),
        Side::Up if below => nearest.next_up(),
        Side::Zero if above && nearest > 0.0 => nearest.next_down(),
        Side::Zero if below && nearest < 0.0 => nearest.next_up(),
        _ => nearest,
    }
}

#[cfg(test)]
mod tests {
    use crate::harness::{double, float};

    fn wide(instruction: &str, sources: &[f64]) -> f64 {
        let bits: Vec<u64> = sources.iter().map(|x| x.to_bits()).collect();
        f64::from_bits(double(instruction, &bits))
    }

    #[test]
    fn arithmetic() {
        assert_eq!(float("add.f32 %f4, %f1, %f2", &[1.5, 2.25]), 3.75);
        assert_eq!(float("sub.rn.f32 %f4, %f1, %f2", &[1.5, 2.25]), -0.75);
        let fused = float("fma.rn.f32 %f4, %f1, %f2, %f3", &[1.0 + f32::EPSILON, 1.0 - f32::EPSILON, -1.0]);
        assert_eq!(fused, -f32::EPSILON * f32::EPSILON);
        assert_eq!(float("div.rn.f32 %f4, %f1, %f2", &[1.0, 0.0]), f32::INFINITY);
        assert_eq!(float("div.full.f32 %f4, %f1, %f2", &[1.0, 4.0]), 0.25);
        assert!(float("sqrt.rn.f32 %f4, %f1", &[-1.0]).is_nan());
        assert_eq!(float("rsqrt.approx.f32 %f4, %f1", &[16.0]), 0.25);
        assert_eq!(float("ex2.approx.f32 %f4, %f1", &[3.0]), 8.0);
        assert_eq!(float("lg2.approx.f32 %f4, %f1", &[8.0]), 3.0);
        assert_eq!(wide("fma.rn.f64 %x4, %x1, %x2, %x3", &[3.0, 4.0, 5.0]), 17.0);
        assert_eq!(wide("div.rn.f64 %x4, %x1, %x2", &[1.0, 3.0]), 1.0 / 3.0);
        assert_eq!(wide("sqrt.rn.f64 %x4, %x1", &[2.0]), 2f64.sqrt());
        assert_eq!(wide("rcp.approx.ftz.f64 %x4, %x1", &[3.0]).to_bits() & 0xffff_ffff, 0);
    }

    #[test]
    fn signs() {
        assert_eq!(float("neg.f32 %f4, %f1", &[0.0]).to_bits(), 0x8000_0000);
        assert_eq!(float("abs.f32 %f4, %f1", &[-3.0]), 3.0);
        assert_eq!(float("copysign.f32 %f4, %f1, %f2", &[-1.0, 7.0]), -7.0);
        assert_eq!(wide("neg.f64 %x4, %x1", &[2.0]), -2.0);
    }

    #[test]
    fn least_and_greatest_pass_nan_by() {
        assert_eq!(float("min.f32 %f4, %f1, %f2", &[f32::NAN, 2.0]), 2.0);
        assert_eq!(float("max.f32 %f4, %f1, %f2", &[2.0, f32::NAN]), 2.0);
        assert_eq!(float("max.f32 %f4, %f1, %f2", &[f32::NAN, f32::NAN]).to_bits(), 0x7fff_ffff);
        assert!(float("max.NaN.f32 %f4, %f1, %f2", &[2.0, f32::NAN]).is_nan());
        assert_eq!(float("min.f32 %f4, %f1, %f2", &[0.0, -0.0]).to_bits(), 0x8000_0000);
        assert_eq!(float("max.f32 %f4, %f1, %f2", &[-0.0, 0.0]).to_bits(), 0);
        assert_eq!(wide("max.f64 %x4, %x1, %x2", &[f64::NAN, 1.0]), 1.0);
    }

    #[test]
    fn results_are_rounded_to_a_side() {
        let third = 1.0 + f32::EPSILON;
        assert_eq!(float("add.rz.f32 %f4, %f1, %f2", &[1.0, f32::EPSILON * 0.75]), 1.0);
        assert_eq!(float("add.rp.f32 %f4, %f1, %f2", &[1.0, 1e-20]), third);
        assert_eq!(float("add.rm.f32 %f4, %f1, %f2", &[1.0, -1e-20]), 1.0f32.next_down());
        assert_eq!(float("add.rz.f32 %f4, %f1, %f2", &[-1.0, 1e-20]), (-1.0f32).next_up());
        assert_eq!(float("fma.rm.f32 %f4, %f1, %f2, %f3", &[3.0, 5.0, 1.0]), 16.0);
        assert_eq!(float("mul.rp.f32 %f4, %f1, %f2", &[0.1, 0.1]), {
            let (exact, nearest) = (0.1f32 as f64 * 0.1f32 as f64, 0.1f32 * 0.1f32);
            if (nearest as f64) < exact { nearest.next_up() } else { nearest }
        });
    }

    #[test]
    fn flushes_and_saturates() {
        let tiny = f32::MIN_POSITIVE / 2.0;
        assert_eq!(float("add.ftz.f32 %f4, %f1, %f2", &[tiny, 0.0]), 0.0);
        assert_eq!(float("add.f32 %f4, %f1, %f2", &[tiny, 0.0]), tiny);
        assert_eq!(float("mul.ftz.f32 %f4, %f1, %f2", &[f32::MIN_POSITIVE, 0.5]), 0.0);
        assert_eq!(float("add.sat.f32 %f4, %f1, %f2", &[1.0, 0.5]), 1.0);
        assert_eq!(float("cvt.sat.f32.f32 %f4, %f1", &[-2.0]), 0.0);
        assert_eq!(float("cvt.sat.f32.f32 %f4, %f1", &[f32::NAN]), 0.0);
    }
}
