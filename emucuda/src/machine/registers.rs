//! Register rows and the forms of lane-wise instructions: what one lane computes, turned into code over 32 lanes.
//!
//! A register of a warp is a row: 32 words of 4 bytes, one for each lane; a 64-bit register takes two rows. A predicate
//! is one u32 with a bit for each lane. The `forms!` macro makes a family of instructions from a table of PTX names and
//! what one lane does; every entry is compiled three times (any CPU, AVX2, AVX-512) and chosen when a text is parsed.
//! Read next: `families/integer.rs`, the first such table.

use std::sync::OnceLock;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// 32 lanes of 4 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Row(pub [u32; LANES]);

/// The register file of one warp. Instructions index it without checks: the decoder only makes indices that exist.
#[derive(Clone, Copy)]
pub(crate) struct Registers {
    pub rows: *mut Row,
    pub predicates: *mut u32,
}

impl Registers {
    /// The row of a 32-bit register.
    #[inline(always)]
    pub fn word<'a>(self, index: u32) -> &'a mut [u32; LANES] {
        // SAFETY: the decoder made the index, so the row exists; callers hold at most one reference to a row at a time.
        unsafe { &mut (*self.rows.add(index as usize)).0 }
    }

    /// The two rows of a 64-bit register.
    #[inline(always)]
    pub fn double<'a>(self, index: u32) -> &'a mut [u64; LANES] {
        // SAFETY: as above; the decoder gave it two neighbouring rows, and rows are aligned to 64 bytes.
        unsafe { &mut *self.rows.add(index as usize).cast::<[u64; LANES]>() }
    }

    /// The bits of a predicate.
    #[inline(always)]
    pub fn predicate<'a>(self, index: u32) -> &'a mut u32 {
        // SAFETY: the decoder made the index.
        unsafe { &mut *self.predicates.add(index as usize) }
    }

    /// Writes the lanes of `mask` of a 32-bit register.
    #[inline(always)]
    pub fn set_word(self, index: u32, value: &[u32; LANES], mask: u32) {
        <u32 as Lane>::store(self, index, value, mask);
    }

    /// Writes the lanes of `mask` of a 64-bit register.
    #[inline(always)]
    pub fn set_double(self, index: u32, value: &[u64; LANES], mask: u32) {
        <u64 as Lane>::store(self, index, value, mask);
    }

    /// Writes the lanes of `mask` of a predicate.
    #[inline(always)]
    pub fn set_predicate(self, index: u32, value: u32, mask: u32) {
        <bool as Lane>::store(self, index, &value, mask);
    }
}

/// Which register file an operand lies in. Registers of 8 and 16 bits are words whose upper bits mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    Word,
    Double,
    Predicate,
}

/// A type that a lane can compute with: how 32 of them lie in the registers.
pub(crate) trait Lane: Copy {
    const CLASS: Class;
    type Lanes;
    fn load(registers: Registers, index: u32) -> Self::Lanes;
    fn none() -> Self::Lanes;
    fn at(lanes: &Self::Lanes, lane: usize) -> Self;
    fn set(lanes: &mut Self::Lanes, lane: usize, value: Self);
    fn store(registers: Registers, index: u32, lanes: &Self::Lanes, mask: u32);
}

macro_rules! lane_type {
    ($type:ty, $class:ident, $word:ty, $rows:ident, $from:expr, $to:expr) => {
        impl Lane for $type {
            const CLASS: Class = Class::$class;
            type Lanes = [$word; LANES];
            #[inline(always)]
            fn load(registers: Registers, index: u32) -> Self::Lanes {
                *registers.$rows(index)
            }
            #[inline(always)]
            fn none() -> Self::Lanes {
                [0; LANES]
            }
            #[inline(always)]
            fn at(lanes: &Self::Lanes, lane: usize) -> Self {
                const FROM: fn($word) -> $type = $from;
                FROM(lanes[lane])
            }
            #[inline(always)]
            fn set(lanes: &mut Self::Lanes, lane: usize, value: Self) {
                const TO: fn($type) -> $word = $to;
                lanes[lane] = TO(value);
            }
            #[inline(always)]
            fn store(registers: Registers, index: u32, lanes: &Self::Lanes, mask: u32) {
                let row = registers.$rows(index);
                if mask == !0 {
                    *row = *lanes;
                } else {
                    for lane in 0..LANES {
                        let chosen = (0 as $word).wrapping_sub((mask >> lane & 1) as $word);
                        row[lane] = row[lane] & !chosen | lanes[lane] & chosen;
                    }
                }
            }
        }
    };
}

lane_type!(u16, Word, u32, word, |x| x as u16, |x| x as u32);
lane_type!(i16, Word, u32, word, |x| x as i16, |x| x as u16 as u32);
lane_type!(u32, Word, u32, word, |x| x, |x| x);
lane_type!(i32, Word, u32, word, |x| x as i32, |x| x as u32);
lane_type!(f32, Word, u32, word, f32::from_bits, f32::to_bits);
lane_type!(u64, Double, u64, double, |x| x, |x| x);
lane_type!(i64, Double, u64, double, |x| x as i64, |x| x as u64);
lane_type!(f64, Double, u64, double, f64::from_bits, f64::to_bits);

impl Lane for bool {
    const CLASS: Class = Class::Predicate;
    type Lanes = u32;
    #[inline(always)]
    fn load(registers: Registers, index: u32) -> u32 {
        *registers.predicate(index)
    }
    #[inline(always)]
    fn none() -> u32 {
        0
    }
    #[inline(always)]
    fn at(lanes: &u32, lane: usize) -> bool {
        lanes >> lane & 1 != 0
    }
    #[inline(always)]
    fn set(lanes: &mut u32, lane: usize, value: bool) {
        *lanes |= (value as u32) << lane;
    }
    #[inline(always)]
    fn store(registers: Registers, index: u32, lanes: &u32, mask: u32) {
        let bits = registers.predicate(index);
        *bits = *bits & !mask | lanes & mask;
    }
}

/// Runs one instruction in all lanes of a mask. Operands: the destination's index, then the sources'.
pub(crate) type Handler = unsafe fn(Registers, *const u32, u32);

/// One handler for each kind of CPU.
#[derive(Clone, Copy)]
pub(crate) struct Handlers {
    pub portable: Handler,
    pub avx2: Handler,
    pub avx512: Handler,
}

/// A lane-wise instruction: its code and the register files of its operands.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    pub handlers: Handlers,
    pub result: Class,
    pub arguments: &'static [Class],
}

/// The kinds of CPU that handlers are compiled for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    Portable,
    Avx2,
    Avx512,
}

impl Level {
    /// The best one for this CPU.
    pub fn best() -> Level {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            {
                let avx2 = is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("bmi1")
                    && is_x86_feature_detected!("bmi2")
                    && is_x86_feature_detected!("lzcnt")
                    && is_x86_feature_detected!("popcnt");
                let avx512 = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl");
                match (avx2, avx512) {
                    (true, true) => return Level::Avx512,
                    (true, false) => return Level::Avx2,
                    _ => {}
                }
            }
            Level::Portable
        })
    }
}

impl Handlers {
    /// The one for this CPU.
    pub fn best(self) -> Handler {
        match Level::best() {
            Level::Portable => self.portable,
            Level::Avx2 => self.avx2,
            Level::Avx512 => self.avx512,
        }
    }
}

/// Compiles a body for every kind of CPU: `body` must be a function `unsafe fn(Registers, *const u32, u32)` marked inline(always).
macro_rules! for_every_cpu {
    ($body:ident) => {{
        unsafe fn portable(registers: $crate::machine::registers::Registers, operands: *const u32, mask: u32) {
            // SAFETY: the caller's promise, passed on.
            unsafe { $body(registers, operands, mask) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        unsafe fn avx2(registers: $crate::machine::registers::Registers, operands: *const u32, mask: u32) {
            // SAFETY: the caller's promise, passed on; this CPU has AVX2.
            unsafe { $body(registers, operands, mask) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn avx512(registers: $crate::machine::registers::Registers, operands: *const u32, mask: u32) {
            // SAFETY: the caller's promise, passed on; this CPU has AVX-512.
            unsafe { $body(registers, operands, mask) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        use {portable as avx2, portable as avx512};
        $crate::machine::registers::Handlers { portable, avx2, avx512 }
    }};
}

/// A family of lane-wise instructions: PTX names (without what does not change the numbers here, see `ptx::lower`) and
/// what one lane computes. Makes `fn form(name: &str) -> Option<Form>`.
macro_rules! forms {
    ($( $($name:literal)|+ => ($($argument:ident: $type:ty),*) -> $result:ty $body:block )*) => {
        /// The form of this name, if it belongs to this family.
        pub(crate) fn form(name: &str) -> Option<$crate::machine::registers::Form> {
            use $crate::machine::registers::{Form, Lane, LANES, Registers};
            match name {
                $( $($name)|+ => {
                    #[inline(always)]
                    #[allow(clippy::redundant_closure_call, unused_assignments, unused_mut, unused_variables)]
                    unsafe fn lanes(registers: Registers, operands: *const u32, mask: u32) {
                        let mut next = 0;
                        $(
                            next += 1;
                            // SAFETY: the decoder gives every form as many operands as it has arguments, and one more.
                            let $argument = <$type as Lane>::load(registers, unsafe { *operands.add(next) });
                        )*
                        let mut result = <$result as Lane>::none();
                        for lane in 0..LANES {
                            $( let $argument = <$type as Lane>::at(&$argument, lane); )*
                            <$result as Lane>::set(&mut result, lane, $body);
                        }
                        // SAFETY: as above.
                        <$result as Lane>::store(registers, unsafe { *operands }, &result, mask);
                    }
                    Some(Form {
                        handlers: $crate::machine::registers::for_every_cpu!(lanes),
                        result: <$result as Lane>::CLASS,
                        arguments: &[$(<$type as Lane>::CLASS),*],
                    })
                } )*
                _ => None,
            }
        }
    };
}

pub(crate) use {for_every_cpu, forms};
