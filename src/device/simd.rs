//! Which vector instructions this CPU has, and how a kernel is compiled for each of them.
//!
//! A kernel is plain safe Rust over arrays of 16 numbers. The [`simd!`](crate::simd!) macro compiles its body three times, for
//! AVX-512, for AVX2 with FMA, and for the target's baseline, and picks one at run time. All three round alike (every
//! multiply-add is fused), so they give the same bits. Not here: the vectors themselves. Read next: `vector.rs`.

#[cfg(target_arch = "x86_64")]
use super::amx;
use std::sync::OnceLock;

/// A set of vector instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the compilation target guarantees.
    Portable,
    /// 8 floats an instruction, fused multiply-add.
    Avx2,
    /// 16 floats an instruction.
    Avx512,
    /// The same, and a matrix unit for the products of f32 (`amx.rs`), whose bits are others.
    Amx,
}

/// The level in use: the best this CPU has, or a lower one named by `CUGRAD_SIMD` (`portable`, `avx2`, `avx512`).
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let best = detect();
        let asked = match std::env::var("CUGRAD_SIMD").as_deref() {
            Ok("portable") => Level::Portable,
            Ok("avx2") => Level::Avx2,
            Ok("avx512") => Level::Avx512,
            _ => Level::Amx,
        };
        best.min(asked)
    })
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")) {
        Level::Portable
    } else if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
    {
        if amx::is_lent() { Level::Amx } else { Level::Avx512 }
    } else {
        Level::Avx2
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

/// Compiles a function for every [`Level`] and calls the one for this CPU.
///
/// AVX-512 is for f32, the type that networks train in: the others would only make the program larger. The function has one type
/// parameter, a [`Number`](crate::device::cuda::Number); in its body `V` is the [`Vector`](crate::device::vector::Vector) of the
/// type that sums over it are kept in. What the body calls must be `#[inline(always)]`, or it is compiled for the baseline.
#[macro_export]
macro_rules! simd {
    ($(#[$attr:meta])* $vis:vis fn $name:ident<$t:ident: $bound:path>($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$attr])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name<$t: $bound>($($arg: $type),*) $(-> $ret)? {
            type Sum<T> = <T as $crate::device::cuda::Number>::Sum;
            #[inline(always)]
            #[allow(clippy::too_many_arguments, clippy::extra_unused_type_parameters)]
            fn body<$t: $bound, V: $crate::device::vector::Vector<Sum<$t>>>($($arg: $type),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")]
                #[allow(clippy::too_many_arguments)]
                fn avx512<$t: $bound>($($arg: $type),*) $(-> $ret)? {
                    body::<$t, <Sum<$t> as $crate::device::vector::Vectors>::Avx512>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,f16c")]
                #[allow(clippy::too_many_arguments)]
                fn avx2<$t: $bound>($($arg: $type),*) $(-> $ret)? {
                    body::<$t, <Sum<$t> as $crate::device::vector::Vectors>::Avx2>($($arg),*)
                }
                match $crate::device::simd::level() {
                    // SAFETY: `level` gives Avx512 and Amx only on a CPU that has these instructions.
                    $crate::device::simd::Level::Avx512 | $crate::device::simd::Level::Amx if const { size_of::<$t>() == 4 } => return unsafe { avx512::<$t>($($arg),*) },
                    $crate::device::simd::Level::Portable => {}
                    // SAFETY: likewise for Avx2, and a CPU with AVX-512 has AVX2 too.
                    _ => return unsafe { avx2::<$t>($($arg),*) },
                }
            }
            body::<$t, <Sum<$t> as $crate::device::vector::Vectors>::Portable>($($arg),*)
        }
    };
}
