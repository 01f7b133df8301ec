//! Loads and stores: the copy itself, between registers and the bytes that `locate.rs` found.
//!
//! Two shapes have fast ways: neighbouring lanes on neighbouring elements (one copy of a whole row), and all lanes on the same
//! element. Everything else goes lane by lane. Read next: `locate.rs`.

use super::{
    locate::{Found, Use, locate},
    survey::survey,
};
use crate::machine::{
    block::Shared,
    instruction::Access,
    launch::Launch,
    registers::LANES,
    warp::{Outcome, Warp},
};

/// Runs a load.
pub(crate) fn load<const CHECKED: bool>(
    warp: &mut Warp,
    shared: &mut Shared,
    launch: &Launch,
    access: &Access,
    operands: &[u32],
    mask: u32,
) -> Outcome<()> {
    let registers = warp.registers();
    let (size, count) = (access.size as usize, access.count as usize);
    let bytes = (size * count) as u64;
    let mut survey = survey(registers, &access.address, operands[count], mask, bytes);
    let what = Use { read_only: access.read_only, ..Use::read(bytes) };
    let found = locate::<CHECKED>(warp, shared, launch, access.address.space, &mut survey, mask, what)?;
    for element in 0..count {
        let destination = operands[element];
        // SAFETY: `locate` found all bytes of all lanes inside of one allocation each; lanes outside of the mask have the pointer of
        // a lane in it.
        unsafe {
            match (&found, access.wide) {
                (Found::Row(at), false) if count == 1 && size == 4 => {
                    registers.set_word(destination, &at.cast::<[u32; LANES]>().read_unaligned(), mask);
                }
                (Found::Row(at), true) if count == 1 => {
                    registers.set_double(destination, &at.cast::<[u64; LANES]>().read_unaligned(), mask);
                }
                (Found::Row(at), false) if count == 1 && size == 2 => {
                    let halves = at.cast::<[u16; LANES]>().read_unaligned();
                    let words = if access.signed { halves.map(|half| half as i16 as u32) } else { halves.map(|half| half as u32) };
                    registers.set_word(destination, &words, mask);
                }
                (Found::Row(at), true) => {
                    let value = std::array::from_fn(|lane| at.add(lane * bytes as usize + element * 8).cast::<u64>().read_unaligned());
                    registers.set_double(destination, &value, mask);
                }
                (Found::Row(at), false) => {
                    let value = std::array::from_fn(|lane| word(at.add(lane * bytes as usize + element * size), access));
                    registers.set_word(destination, &value, mask);
                }
                (Found::Uniform(at), true) => {
                    registers.set_double(destination, &[at.add(element * 8).cast::<u64>().read_unaligned(); LANES], mask)
                }
                (Found::Uniform(at), false) => registers.set_word(destination, &[word(at.add(element * size), access); LANES], mask),
                (Found::Lanes(lanes), true) => {
                    let value = std::array::from_fn(|lane| lanes[lane].add(element * 8).cast::<u64>().read_unaligned());
                    registers.set_double(destination, &value, mask);
                }
                (Found::Lanes(lanes), false) if size == 4 => {
                    let value = std::array::from_fn(|lane| lanes[lane].add(element * 4).cast::<u32>().read_unaligned());
                    registers.set_word(destination, &value, mask);
                }
                (Found::Lanes(lanes), false) => {
                    let value = std::array::from_fn(|lane| word(lanes[lane].add(element * size), access));
                    registers.set_word(destination, &value, mask);
                }
            }
        }
    }
    Ok(())
}

/// One element of up to 4 bytes.
#[inline(always)]
unsafe fn word(at: *mut u8, access: &Access) -> u32 {
    // SAFETY: the caller found the element's bytes.
    unsafe {
        match (access.size, access.signed) {
            (4, _) => at.cast::<u32>().read_unaligned(),
            (2, false) => at.cast::<u16>().read_unaligned() as u32,
            (2, true) => at.cast::<i16>().read_unaligned() as u32,
            (_, false) => at.read() as u32,
            (_, true) => at.cast::<i8>().read() as u32,
        }
    }
}

/// Runs a store. Of several lanes that write the same bytes, the last one wins.
pub(crate) fn store<const CHECKED: bool>(
    warp: &mut Warp,
    shared: &mut Shared,
    launch: &Launch,
    access: &Access,
    operands: &[u32],
    mask: u32,
) -> Outcome<()> {
    let registers = warp.registers();
    let (size, count) = (access.size as usize, access.count as usize);
    let bytes = (size * count) as u64;
    let mut survey = survey(registers, &access.address, operands[count], mask, bytes);
    let found = locate::<CHECKED>(warp, shared, launch, access.address.space, &mut survey, mask, Use::write(bytes))?;
    for element in 0..count {
        let source = operands[element];
        // SAFETY: as in `load`; nothing is written for lanes outside of the mask.
        unsafe {
            match &found {
                Found::Row(at) if count == 1 && access.wide => at.cast::<[u64; LANES]>().write_unaligned(*registers.double(source)),
                Found::Row(at) if count == 1 && size == 4 => at.cast::<[u32; LANES]>().write_unaligned(*registers.word(source)),
                Found::Row(at) if count == 1 && size == 2 => {
                    at.cast::<[u16; LANES]>().write_unaligned(registers.word(source).map(|word| word as u16));
                }
                _ => {
                    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
                        let at = match &found {
                            Found::Row(at) => at.add(lane * bytes as usize),
                            Found::Uniform(at) => *at,
                            Found::Lanes(lanes) => lanes[lane],
                        };
                        let at = at.add(element * size);
                        match size {
                            8 => at.cast::<u64>().write_unaligned(registers.double(source)[lane]),
                            4 => at.cast::<u32>().write_unaligned(registers.word(source)[lane]),
                            2 => at.cast::<u16>().write_unaligned(registers.word(source)[lane] as u16),
                            _ => at.write(registers.word(source)[lane] as u8),
                        }
                    }
                }
            }
        }
    }
    Ok(())
}
