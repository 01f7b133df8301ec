//! The matrix unit's instructions, and those of AVX-512 that cut numbers into pieces.
//!
//! The unit has eight tiles: 0 to 3 hold sums, 4 to 6 the pieces of a, 7 one of b, each of whose pieces is multiplied with one, two or three of a's. A tile
//! of a serves up to four of b. The instructions are written out, as stable Rust has no functions for them; nothing that the compiler makes
//! by itself uses the unit's registers, and what one block loads is there in the next. Read first: `amx.rs`.

use super::{Out, PIECES, Side, Start, Step, Sums, Target, tiles_of};
use crate::device::vector::L;
use half::bf16;
use std::arch::asm;
use std::arch::x86_64::*;

/// Has the CPU the unit, and may this process use it?
pub fn is_lent() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    /// Linux gives the unit's registers to a process that asks for their part of its state.
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XTILEDATA: usize = 18;
    __cpuid_count(7, 0).edx & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE
        // SAFETY: a system call that reads and writes no memory of ours.
        && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) } == 0
}

/// What `ldtilecfg` reads: how large each of the eight tiles is.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

/// The tile of b.
const B: u8 = 7;

/// # Safety
/// The unit must be lent, and every tile that the steps and `out` name must lie in the slices.
/// P: pieces of each number, 1 to 3.
pub unsafe fn sums<const P: usize>(a: &Side, b: &Side, steps: &[Step], rows: usize, columns: usize, start: Start, out: &mut Out) {
    let [tiles, most] = tiles_of(rows);
    for i in 0..tiles {
        let rows = most.min(rows - i * most);
        if i == 0 || rows < most {
            configure(rows);
        }
        let blocks = columns.div_ceil(4);
        for block in 0..blocks {
            let (j, end) = (block * columns / blocks, (block + 1) * columns / blocks);
            // SAFETY: the caller's.
            unsafe {
                let at = Place {
                    // Without steps nothing is read there, wherever it is.
                    a: a.numbers.as_ptr().wrapping_add(i * a.tile),
                    b: b.numbers.as_ptr().wrapping_add(j * b.tile),
                    out: out.sums.as_mut_ptr().add(i * out.tiles[0] + j * out.tiles[1]),
                };
                match end - j {
                    1 => block_of::<1, P>(at, a, b, steps, i * most, start, out),
                    2 => block_of::<2, P>(at, a, b, steps, i * most, start, out),
                    3 => block_of::<3, P>(at, a, b, steps, i * most, start, out),
                    _ => block_of::<4, P>(at, a, b, steps, i * most, start, out),
                }
            }
        }
    }
    // SAFETY: the unit is lent.
    unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
}

/// Tiles of so many rows, but those of b, which have all.
fn configure(rows: usize) {
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], bytes_of_row: [0; 16], rows: [0; 16] };
    config.bytes_of_row[..8].fill(64);
    config.rows[..8].fill(rows as u8);
    config.rows[B as usize] = L as u8;
    // SAFETY: `sums` calls this where the unit is lent; `config` is one that it takes. Nothing that the compiler makes uses its registers.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, preserves_flags, readonly)) };
}

/// Where the tiles of a block begin.
#[derive(Clone, Copy)]
struct Place {
    a: *const [bf16; L],
    b: *const [bf16; L],
    out: *mut [f32; L],
}

/// N tiles of sums, of one tile of a, whose first row is `row`, and N of b for each step.
#[inline(always)]
unsafe fn block_of<const N: usize, const P: usize>(at: Place, a: &Side, b: &Side, steps: &[Step], row: usize, start: Start, out: &Out) {
    /// Does for tiles 0 to 3, as far as there are N.
    macro_rules! each {
        ($does:ident) => {
            $does!(0);
            if N > 1 {
                $does!(1);
            }
            if N > 2 {
                $does!(2);
            }
            if N > 3 {
                $does!(3);
            }
        };
    }
    let [bytes_a, bytes_b] = [a.row, b.row].map(|row| row * size_of::<[bf16; L]>());
    let bytes_out = out.row * size_of::<[f32; L]>();
    // SAFETY: the caller's of `sums`.
    unsafe {
        macro_rules! begin {
            ($j:literal) => {
                match start {
                    Start::Zeros => asm!(concat!("tilezero tmm", $j), options(nostack, preserves_flags, nomem)),
                    Start::Rows(rows) => load::<$j>(rows.as_ptr().add(row).cast(), size_of::<[f32; L]>()),
                    Start::There => load::<$j>(at.out.add($j * out.tiles[1]).cast(), bytes_out),
                }
            };
        }
        each!(begin);
        for step in steps {
            let [a0, b0] = [at.a.add(step.a as usize), at.b.add(step.b as usize)];
            load::<4>(a0, bytes_a);
            if P > 1 {
                load::<5>(a0.add(a.piece), bytes_a);
            }
            if P > 2 {
                load::<6>(a0.add(2 * a.piece), bytes_a);
            }
            macro_rules! multiply {
                ($j:literal) => {
                    let b0 = b0.add($j * b.tile);
                    load::<B>(b0, bytes_b);
                    product::<$j, 4>();
                    if P > 1 {
                        product::<$j, 5>();
                    }
                    if P > 2 {
                        product::<$j, 6>();
                    }
                    if P > 1 {
                        load::<B>(b0.add(b.piece), bytes_b);
                        product::<$j, 4>();
                    }
                    if P > 2 {
                        product::<$j, 5>();
                        load::<B>(b0.add(2 * b.piece), bytes_b);
                        product::<$j, 4>();
                    }
                };
            }
            each!(multiply);
        }
        macro_rules! end {
            ($j:literal) => {
                let to = at.out.add($j * out.tiles[1]);
                asm!(concat!("tilestored [{} + {}], tmm", $j), in(reg) to, in(reg) bytes_out, options(nostack, preserves_flags))
            };
        }
        each!(end);
    }
}

/// Tile T, its rows so many bytes apart.
#[inline(always)]
unsafe fn load<const T: u8>(at: *const [bf16; L], row: usize) {
    // SAFETY: the caller's of `sums`.
    unsafe { asm!("tileloadd tmm{}, [{} + {}]", const T, in(reg) at, in(reg) row, options(nostack, preserves_flags, readonly)) }
}

/// Tile J += tile A · tile B.
#[inline(always)]
unsafe fn product<const J: u8, const A: u8>() {
    // SAFETY: the caller's of `sums`.
    unsafe { asm!("tdpbf16ps tmm{}, tmm{}, tmm{}", const J, const A, const B, options(nostack, preserves_flags, nomem)) }
}

/// The pieces of x, each in the upper halves of 16 places: the number rounded to bf16, what is left rounded, and what is left then.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn cut(x: __m512) -> [__m512i; PIECES] {
    let rounded = |x: __m512| {
        let half = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
        _mm512_and_si512(half, _mm512_set1_epi32(0xFFFF_0000_u32 as i32))
    };
    let x0 = rounded(x);
    let rest = _mm512_sub_ps(x, _mm512_castsi512_ps(x0));
    let x1 = rounded(rest);
    [x0, x1, _mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(x1)))]
}

/// Up to 16 numbers, and zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn some(x: &[f32]) -> __m512 {
    let there = ((1u32 << x.len().min(L)) - 1) as __mmask16;
    // SAFETY: only numbers that are there are read.
    unsafe { _mm512_maskz_loadu_ps(there, x.as_ptr()) }
}

#[target_feature(enable = "avx512f,avx512bw")]
pub fn half_rows(x: &[f32], pieces: usize, at: Target) {
    for (i, x) in x.chunks(L).enumerate() {
        for (p, piece) in cut(some(x)).into_iter().enumerate().take(pieces) {
            let to = &mut at.to[i * at.stride + p * at.piece];
            let upper = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(piece));
            // SAFETY: an array of 16 numbers of 2 bytes.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), upper) };
        }
    }
}

#[target_feature(enable = "avx512f")]
pub fn fetch(x: &[f32]) {
    for x in x.chunks(L) {
        _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().cast());
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
pub fn rows(x: &[f32], pieces: usize, at: Target) {
    // The upper halves of all places of two vectors.
    let mut upper = [0u16; 2 * L];
    for i in 0..2 * L {
        upper[i] = 2 * i as u16 + 1;
    }
    // SAFETY: an array of 32 numbers of 2 bytes.
    let upper = unsafe { _mm512_loadu_si512(upper.as_ptr().cast()) };
    for (i, x) in x.chunks(2 * L).enumerate() {
        let (first, second) = x.split_at(x.len().min(L));
        let (first, second) = (cut(some(first)), cut(some(second)));
        for p in 0..pieces {
            let to = &mut at.to[i * at.stride + p * at.piece..][..2];
            let row = _mm512_permutex2var_epi16(first[p], upper, second[p]);
            // SAFETY: two arrays of 16 numbers of 2 bytes.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), row) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
pub fn pairs(x0: &[[f32; L]], x1: &[[f32; L]], step: usize, pieces: usize, at: Target) {
    // SAFETY: an array of 16 numbers.
    let load = |x: &[f32; L]| cut(unsafe { _mm512_loadu_ps(x.as_ptr()) });
    for (i, x0) in x0.iter().step_by(step).enumerate() {
        let (x0, x1) = (load(x0), x1.get(i * step).map_or([_mm512_setzero_si512(); PIECES], load));
        for p in 0..pieces {
            let to = &mut at.to[i * at.stride + p * at.piece..][..2];
            let both = _mm512_mask_blend_epi16(0x5555_5555, x1[p], _mm512_srli_epi32::<16>(x0[p]));
            // SAFETY: two arrays of 16 numbers of 2 bytes.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), both) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
pub fn turn(x: &[[f32; L]], step: usize, out: &mut Sums) {
    let mut rows = [_mm512_setzero_ps(); L];
    for (row, x) in rows.iter_mut().zip(x.iter().step_by(step)) {
        // SAFETY: an array of 16 numbers.
        *row = unsafe { _mm512_loadu_ps(x.as_ptr()) };
    }
    // Blocks of 1x1, 2x2, 4x4 and 8x8 numbers change places about the diagonal.
    let mut one = rows;
    for i in (0..L).step_by(2) {
        (one[i], one[i + 1]) = (_mm512_unpacklo_ps(rows[i], rows[i + 1]), _mm512_unpackhi_ps(rows[i], rows[i + 1]));
    }
    let mut two = one;
    for i in (0..L).step_by(4) {
        for j in 0..2 {
            let [a, b] = [one[i + j], one[i + j + 2]].map(|x| _mm512_castps_pd(x));
            two[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            two[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    let mut four = two;
    for i in (0..L).step_by(8) {
        for j in 0..4 {
            four[i + j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(two[i + j], two[i + j + 4]);
            four[i + j + 4] = _mm512_shuffle_f32x4::<0b11_01_11_01>(two[i + j], two[i + j + 4]);
        }
    }
    for j in 0..8 {
        let (low, high) = (four[j], four[j + 8]);
        for (i, row) in [(j, _mm512_shuffle_f32x4::<0b10_00_10_00>(low, high)), (j + 8, _mm512_shuffle_f32x4::<0b11_01_11_01>(low, high))] {
            // SAFETY: an array of 16 numbers.
            unsafe { _mm512_storeu_ps(out[i].as_mut_ptr(), row) };
        }
    }
}
