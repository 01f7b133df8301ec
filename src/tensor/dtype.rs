//! The types a tensor can hold.
//!
//! f32 is what networks train in, f64 is for checks, bf16 and f16 are for storage only: every sum is kept in the type's
//! [`Element::Acc`], which is f32 for them. u8 holds pictures and i32 labels. The [`dispatch!`](crate::dispatch!) macro is the one
//! place where a [`DType`] becomes a Rust type. Read next: `tensor/lane.rs`.

use crate::device::cuda::Number;
use crate::device::memory::Plain;
use crate::device::vector::Vectors;
use half::{bf16, f16};

/// A tensor's element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// 16-bit float with f32's range.
    Bf16,
    /// 16-bit IEEE float.
    F16,
    /// Unsigned byte: pictures.
    U8,
    /// 32-bit integer: labels and counters.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::Bf16 | DType::F16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::F64 => 8,
        }
    }

    /// The type in which sums over this type are kept.
    pub fn acc(self) -> DType {
        match self {
            DType::Bf16 | DType::F16 => DType::F32,
            other => other,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::U8 => "u8",
            DType::I32 => "i32",
        })
    }
}

/// A Rust type that a tensor can hold.
pub trait Stored: Plain + std::fmt::Debug + PartialEq {
    /// Its [`DType`].
    const DTYPE: DType;
    /// Exact, or rounded to the nearest value.
    fn from_f64(x: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
}

/// A float type that kernels read and write.
pub trait Element: Stored + Number<Sum = Self::Acc> {
    /// The type sums are kept in.
    type Acc: Real;
    /// Exact.
    fn up(self) -> Self::Acc;
    /// Rounded to the nearest, ties to even.
    fn down(a: Self::Acc) -> Self;
    /// The same slice, if this type is its own [`Element::Acc`].
    fn as_acc<const N: usize>(x: &[[Self; N]]) -> Option<&[[Self::Acc; N]]>;
    /// The same slice to be written, if this type is its own [`Element::Acc`].
    fn as_acc_mut<const N: usize>(x: &mut [[Self; N]]) -> Option<&mut [[Self::Acc; N]]>;
}

/// f32 or f64: what is computed with.
pub trait Real:
    Element<Acc = Self>
    + Vectors
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Minus infinity.
    const NEG_INFINITY: Self;
    /// `self * b + c`, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// e to the power of self.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// The same slice, if this type is f32: for what a CPU has for f32 alone.
    fn as_f32<const N: usize>(x: &[[Self; N]]) -> Option<&[[f32; N]]>;
    /// The same slice to be written, if this type is f32.
    fn as_f32_mut<const N: usize>(x: &mut [[Self; N]]) -> Option<&mut [[f32; N]]>;
}

macro_rules! stored {
    ($($t:ty, $d:ident, $from:expr, $to:expr;)*) => {$(
        impl Stored for $t {
            const DTYPE: DType = DType::$d;
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                $from(x)
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                $to(self)
            }
        }
    )*};
}

stored! {
    f32, F32, |x| x as f32, f64::from;
    f64, F64, |x| x, |x| x;
    bf16, Bf16, bf16::from_f64, bf16::to_f64;
    f16, F16, f16::from_f64, f16::to_f64;
    u8, U8, |x| x as u8, f64::from;
    i32, I32, |x| x as i32, f64::from;
}

macro_rules! real {
    ($($t:ident, $as_f32:expr, $as_f32_mut:expr;)*) => {$(
        impl Element for $t {
            type Acc = $t;
            #[inline(always)]
            fn up(self) -> $t {
                self
            }
            #[inline(always)]
            fn down(a: $t) -> $t {
                a
            }
            #[inline(always)]
            fn as_acc<const N: usize>(x: &[[$t; N]]) -> Option<&[[$t; N]]> {
                Some(x)
            }
            #[inline(always)]
            fn as_acc_mut<const N: usize>(x: &mut [[$t; N]]) -> Option<&mut [[$t; N]]> {
                Some(x)
            }
        }
        impl Real for $t {
            const ZERO: $t = 0.0;
            const ONE: $t = 1.0;
            const NEG_INFINITY: $t = $t::NEG_INFINITY;
            #[inline(always)]
            fn mul_add(self, b: $t, c: $t) -> $t {
                <$t>::mul_add(self, b, c)
            }
            #[inline(always)]
            fn sqrt(self) -> $t {
                <$t>::sqrt(self)
            }
            #[inline(always)]
            fn exp(self) -> $t {
                <$t>::exp(self)
            }
            #[inline(always)]
            fn ln(self) -> $t {
                <$t>::ln(self)
            }
            #[inline(always)]
            fn as_f32<const N: usize>(x: &[[$t; N]]) -> Option<&[[f32; N]]> {
                $as_f32(x)
            }
            #[inline(always)]
            fn as_f32_mut<const N: usize>(x: &mut [[$t; N]]) -> Option<&mut [[f32; N]]> {
                $as_f32_mut(x)
            }
        }
    )*};
}

real! {
    f32, Some, Some;
    f64, |_| None, |_| None;
}

impl Element for bf16 {
    type Acc = f32;
    #[inline(always)]
    fn up(self) -> f32 {
        // Written out so that it becomes vector code: a bf16 is the upper half of an f32.
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn down(a: f32) -> bf16 {
        // Half of the last kept bit is added, or a little less where that bit is 0, and the rest cut off: nearest, ties to even.
        let bits = a.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
        let nan = bits >> 16 | 0x40;
        bf16::from_bits(if bits & 0x7FFF_FFFF > 0x7F80_0000 { nan } else { rounded } as u16)
    }
    #[inline(always)]
    fn as_acc<const N: usize>(_: &[[bf16; N]]) -> Option<&[[f32; N]]> {
        None
    }
    #[inline(always)]
    fn as_acc_mut<const N: usize>(_: &mut [[bf16; N]]) -> Option<&mut [[f32; N]]> {
        None
    }
}

impl Element for f16 {
    type Acc = f32;
    #[inline(always)]
    fn up(self) -> f32 {
        // Exponent and fraction moved to their places in an f32 are 2^112 too small, for subnormal numbers too.
        let bits = u32::from(self.to_bits());
        let (sign, magnitude) = ((bits & 0x8000) << 16, (bits & 0x7FFF) << 13);
        let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
        let special = magnitude | 0x7F80_0000;
        f32::from_bits(sign | if bits & 0x7FFF >= 0x7C00 { special } else { finite })
    }
    #[inline(always)]
    fn down(a: f32) -> f16 {
        let bits = a.to_bits();
        let (sign, bits) = (bits >> 16 & 0x8000, bits & 0x7FFF_FFFF);
        // As for bf16, with the exponent's bias changed from 127 to 15.
        let normal = bits.wrapping_add(0xFFF + (bits >> 13 & 1)).wrapping_sub(112 << 23) >> 13;
        // Below 2^-14 the last place is 2^-24, which is that of 0.5 in f32: adding 0.5 rounds to it.
        let subnormal = (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0x3F00_0000);
        let finite = if bits < 0x3880_0000 { subnormal } else { normal };
        let large = if bits > 0x7F80_0000 { 0x7E00 } else { 0x7C00 };
        f16::from_bits((sign | if bits >= 0x477F_F000 { large } else { finite }) as u16)
    }
    #[inline(always)]
    fn as_acc<const N: usize>(_: &[[f16; N]]) -> Option<&[[f32; N]]> {
        None
    }
    #[inline(always)]
    fn as_acc_mut<const N: usize>(_: &mut [[f16; N]]) -> Option<&mut [[f32; N]]> {
        None
    }
}

/// Runs an expression with a type name standing for the float type that a [`DType`] names.
///
/// `dispatch!(x.dtype(), T => forward::<T>(x, y))`; u8 and i32 are a mistake of the caller, since no kernel computes in them.
/// `dispatch!(sums dw.dtype(), A => ...)` is for what is kept in the type of sums: f32 or f64.
#[macro_export]
macro_rules! dispatch {
    (sums $dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::tensor::DType::F64 => {
                type $t = f64;
                $body
            }
            other => unreachable!("no sum is kept in {other}"),
        }
    };
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::tensor::DType::F64 => {
                type $t = f64;
                $body
            }
            $crate::tensor::DType::Bf16 => {
                type $t = half::bf16;
                $body
            }
            $crate::tensor::DType::F16 => {
                type $t = half::f16;
                $body
            }
            other => unreachable!("no kernel computes in {other}"),
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_types_widen_exactly() {
        for bits in 0..=u16::MAX {
            let (h, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            assert!(h.up() == h.to_f32() || h.is_nan() && h.up().is_nan(), "{bits:#x}");
            assert!(b.up() == b.to_f32() || b.is_nan() && b.up().is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn half_types_round_like_the_half_crate() {
        // All exponents and signs with fractions around every rounding boundary, and a sweep of everything else.
        let edges = (0..=u16::MAX).flat_map(|high| [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF].map(|low| u32::from(high) << 16 | low));
        let near = (0..=u16::MAX).flat_map(|h| [0xFFF, 0x1000, 0x1001].map(|low| (u32::from(h) << 13).wrapping_add(low)));
        for bits in edges.chain(near).chain((0..=u32::MAX).step_by(10_007)) {
            let x = f32::from_bits(bits);
            let (h, b) = (f16::down(x), bf16::down(x));
            assert!(h.to_bits() == f16::from_f32(x).to_bits() || x.is_nan() && h.is_nan(), "{x:e}: {h:?}");
            assert!(b.to_bits() == bf16::from_f32(x).to_bits() || x.is_nan() && b.is_nan(), "{x:e}: {b:?}");
        }
    }
}
