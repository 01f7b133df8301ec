//! Matrix products of a warp (`mma.sync`) and the loads and stores that bring their tiles (`ldmatrix`, `stmatrix`).
//!
//! A 16 x depth times a depth x 8 tile. Lane l holds, with g = l / 4 and t = l % 4: of the result, rows g and g + 8, columns
//! 2t and 2t + 1; of a 16-bit operand, neighbouring pairs along the depth from 2t on. Products are summed in f32, in the order
//! of the depth, then added to c: a GPU may sum in another order. Read next: `copies.rs`.

use super::{
    half::{bf16_to_f32, f16_to_f32, f32_to_f16},
    locate::{self, Found, Use},
    survey::survey,
};
use crate::machine::{
    block::Shared,
    instruction::{Address, Element},
    launch::Launch,
    registers::{LANES, Registers},
    warp::{Outcome, Warp},
};

/// d = a b + c
pub(crate) fn multiply(registers: Registers, operands: &[u32], element: Element, depth: usize, half_result: bool) {
    let results = if half_result { 2 } else { 4 };
    let per_register = if element == Element::Tf32 { 1 } else { 2 };
    let b_count = depth / 4 / per_register;
    let (a_at, b_at, c_at) = (results, results + 2 * b_count, results + 3 * b_count);
    let number = |bits: u32, part: usize| match element {
        Element::Tf32 => f32::from_bits(bits & 0xffff_e000),
        Element::Bfloat => bf16_to_f32((bits >> (16 * part)) as u16),
        Element::Half => f16_to_f32((bits >> (16 * part)) as u16),
    };
    let mut a = [[0f32; 16]; 16];
    let mut b = [[0f32; 8]; 16];
    for lane in 0..LANES {
        let (g, t) = (lane / 4, lane % 4);
        for part in 0..per_register {
            for index in 0..2 * b_count {
                let (row, column) = (g + index % 2 * 8, index / 2 * 4 * per_register + t * per_register + part);
                a[row][column] = number(registers.word(operands[a_at + index])[lane], part);
            }
            for index in 0..b_count {
                b[index * 4 * per_register + t * per_register + part][g] = number(registers.word(operands[b_at + index])[lane], part);
            }
        }
    }
    let mut product = [[0f32; 8]; 16];
    for (row, sums) in product.iter_mut().enumerate() {
        for k in 0..depth {
            for column in 0..8 {
                sums[column] = a[row][k].mul_add(b[k][column], sums[column]);
            }
        }
    }
    for index in 0..results {
        let c = *registers.word(operands[c_at + index]);
        let mut d = [0; LANES];
        for lane in 0..LANES {
            let (g, t) = (lane / 4, lane % 4);
            d[lane] = if half_result {
                let row = &product[g + index * 8];
                let low = f32_to_f16(f16_to_f32(c[lane] as u16) + row[2 * t]);
                let high = f32_to_f16(f16_to_f32((c[lane] >> 16) as u16) + row[2 * t + 1]);
                low as u32 | (high as u32) << 16
            } else {
                (f32::from_bits(c[lane]) + product[g + index / 2 * 8][2 * t + index % 2]).to_bits()
            };
        }
        registers.set_word(operands[index], &d, !0);
    }
}

/// The 16-byte rows of `count` 8 x 8 matrices of 16-bit elements: lane l brings the address of row l % 8 of matrix l / 8.
fn rows<const CHECKED: bool>(
    warp: &mut Warp,
    shared: &mut Shared,
    launch: &Launch,
    address: &Address,
    base: u32,
    count: u8,
    write: bool,
) -> Outcome<[*mut u8; LANES]> {
    let mask = if count == 4 { !0 } else { (1u32 << (8 * count)) - 1 };
    let mut survey = survey(warp.registers(), address, base, mask, 16);
    let what = if write { Use::write(16) } else { Use::read(16) };
    Ok(match locate::locate::<CHECKED>(warp, shared, launch, address.space, &mut survey, mask, what)? {
        // SAFETY: in a row, lane l's 16 bytes lie 16 l bytes on.
        Found::Row(at) => std::array::from_fn(|lane| unsafe { at.add(16 * lane) }),
        Found::Uniform(at) => [at; LANES],
        Found::Lanes(lanes) => lanes,
    })
}

/// `ldmatrix`: lane l gets elements 2 (l % 4) and the next of row l / 4 (transposed: of column l / 4).
pub(crate) fn load<const CHECKED: bool>(
    warp: &mut Warp,
    shared: &mut Shared,
    launch: &Launch,
    address: &Address,
    count: u8,
    transposed: bool,
    operands: &[u32],
) -> Outcome<()> {
    let rows = rows::<CHECKED>(warp, shared, launch, address, operands[count as usize], count, false)?;
    let registers = warp.registers();
    for matrix in 0..count as usize {
        // SAFETY: `rows` found 16 bytes for each of these lanes.
        let tile: [[u16; 8]; 8] = std::array::from_fn(|row| unsafe { rows[matrix * 8 + row].cast::<[u16; 8]>().read_unaligned() });
        let value = std::array::from_fn(|lane| {
            let (row, column) = (lane / 4, lane % 4 * 2);
            let (low, high) =
                if transposed { (tile[column][row], tile[column + 1][row]) } else { (tile[row][column], tile[row][column + 1]) };
            low as u32 | (high as u32) << 16
        });
        registers.set_word(operands[matrix], &value, !0);
    }
    Ok(())
}

/// `stmatrix`: the way back.
pub(crate) fn store<const CHECKED: bool>(
    warp: &mut Warp,
    shared: &mut Shared,
    launch: &Launch,
    address: &Address,
    count: u8,
    transposed: bool,
    operands: &[u32],
) -> Outcome<()> {
    let rows = rows::<CHECKED>(warp, shared, launch, address, operands[count as usize], count, true)?;
    let registers = warp.registers();
    for matrix in 0..count as usize {
        let value = registers.word(operands[matrix]);
        let mut tile = [[0u16; 8]; 8];
        for lane in 0..LANES {
            for part in 0..2 {
                let (row, column) = (lane / 4, lane % 4 * 2 + part);
                let element = (value[lane] >> (16 * part)) as u16;
                if transposed {
                    tile[column][row] = element;
                } else {
                    tile[row][column] = element;
                }
            }
        }
        for (row, elements) in tile.iter().enumerate() {
            // SAFETY: `rows` found 16 bytes for each of these lanes.
            unsafe { rows[matrix * 8 + row].cast::<[u16; 8]>().write_unaligned(*elements) };
        }
    }
    Ok(())
}
