//! The addresses of a request: how they are made, how they lie, and how many sectors and bank cycles they cost.
//!
//! Read next: `locate.rs`, which finds the bytes behind them.

use crate::machine::{
    block::Shared,
    instruction::Address,
    registers::{Class, LANES, Level, Registers},
};

/// The addresses of a request and how they lie.
pub(super) struct Survey {
    pub addresses: [u64; LANES],
    pub shape: Shape,
    pub lowest: u64,
    pub highest: u64,
    /// All bits of all addresses, for the alignment.
    pub bits: u64,
}

impl Survey {
    /// One address for all lanes.
    pub fn uniform(address: u64) -> Survey {
        Survey { addresses: [address; LANES], shape: Shape::Uniform, lowest: address, highest: address, bits: address }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// All 32 lanes, each one element after the lane before.
    Row,
    /// All lanes of the mask at the same address.
    Uniform,
    Scattered,
}

#[inline(always)]
fn survey_lanes(registers: Registers, address: &Address, base: u32, mask: u32, bytes: u64) -> Survey {
    let mut addresses = [address.offset as u64; LANES];
    match address.base {
        None => {}
        Some(Class::Double) => {
            let base = registers.double(base);
            for lane in 0..LANES {
                addresses[lane] = base[lane].wrapping_add(address.offset as u64);
            }
        }
        Some(_) => {
            let base = registers.word(base);
            for lane in 0..LANES {
                addresses[lane] = base[lane].wrapping_add(address.offset as u32) as u64;
            }
        }
    }
    let first = addresses[mask.trailing_zeros() as usize & 31];
    if mask == !0 {
        let mut wrong = 0;
        for lane in 0..LANES {
            wrong |= addresses[lane] ^ first.wrapping_add(lane as u64 * bytes);
        }
        if wrong == 0 {
            return Survey { addresses, shape: Shape::Row, lowest: first, highest: first.wrapping_add(31 * bytes), bits: first };
        }
    } else {
        for lane in 0..LANES {
            let keep = 0u64.wrapping_sub((mask >> lane & 1) as u64);
            addresses[lane] = addresses[lane] & keep | first & !keep;
        }
    }
    let (mut lowest, mut highest, mut bits) = (first, first, 0);
    for lane in 0..LANES {
        lowest = lowest.min(addresses[lane]);
        highest = highest.max(addresses[lane]);
        bits |= addresses[lane];
    }
    let shape = if lowest == highest { Shape::Uniform } else { Shape::Scattered };
    Survey { addresses, shape, lowest, highest, bits }
}

/// Reads the addresses of all lanes; lanes outside of the mask get that of the first lane in it.
pub(super) fn survey(registers: Registers, address: &Address, base: u32, mask: u32, bytes: u64) -> Survey {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
        fn avx2(registers: Registers, address: &Address, base: u32, mask: u32, bytes: u64) -> Survey {
            survey_lanes(registers, address, base, mask, bytes)
        }
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
        fn avx512(registers: Registers, address: &Address, base: u32, mask: u32, bytes: u64) -> Survey {
            survey_lanes(registers, address, base, mask, bytes)
        }
        match Level::best() {
            // SAFETY: this CPU has what the function needs.
            Level::Avx512 => return unsafe { avx512(registers, address, base, mask, bytes) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { avx2(registers, address, base, mask, bytes) },
            Level::Portable => {}
        }
    }
    survey_lanes(registers, address, base, mask, bytes)
}

/// Counts a request in global memory.
pub(super) fn count_sectors(shared: &mut Shared, survey: &Survey, mask: u32, bytes: u64) {
    let (sectors, ideal) = match survey.shape {
        Shape::Row => (((survey.lowest % 32) + 32 * bytes).div_ceil(32), bytes),
        Shape::Uniform => (1, 1),
        Shape::Scattered => {
            let elements = Distinct::new(survey, mask, bytes, bytes).count();
            (Distinct::new(survey, mask, bytes, 32).count(), (elements * bytes).div_ceil(32))
        }
    };
    let counters = &mut shared.counters;
    counters.global_requests += 1;
    counters.global_sectors += sectors;
    counters.ideal_sectors += ideal;
}

/// Counts a request in shared memory.
pub(super) fn count_banks(shared: &mut Shared, survey: &Survey, mask: u32, bytes: u64) {
    let (cycles, ideal) = match survey.shape {
        Shape::Row => (bytes.div_ceil(4), bytes.div_ceil(4)),
        Shape::Uniform => (1, 1),
        Shape::Scattered => {
            let words = Distinct::new(survey, mask, bytes, 4);
            (words.most_in_a_bank(), words.count().div_ceil(32))
        }
    };
    let counters = &mut shared.counters;
    counters.shared_requests += 1;
    counters.bank_cycles += cycles;
    counters.ideal_bank_cycles += ideal;
}

/// Which units (of 4 bytes, of 32, ...) a request touches. It lives on the stack for one request.
#[allow(clippy::large_enum_variant)]
enum Distinct {
    /// A bit for each unit, from a multiple of 64 units on: for requests that lie close together.
    Near([u64; Distinct::NEAR]),
    /// Their numbers, in order.
    Far(Vec<u64>),
}

impl Distinct {
    const NEAR: usize = 32;

    fn new(survey: &Survey, mask: u32, bytes: u64, unit: u64) -> Distinct {
        let shift = unit.trailing_zeros();
        let first = survey.lowest >> shift & !63;
        let per_lane = (bytes >> shift).max(1);
        if (survey.highest >> shift) + per_lane - first <= 64 * Distinct::NEAR as u64 {
            let mut bits = [0; Distinct::NEAR];
            // A lane's units lie in one word: they are a power of two, aligned to it. Lanes outside of the mask repeat another one's.
            let ones = (1 << per_lane) - 1;
            for address in &survey.addresses {
                let at = (address >> shift) - first;
                bits[at as usize / 64 % Distinct::NEAR] |= ones << (at % 64);
            }
            return Distinct::Near(bits);
        }
        let lanes = (0..LANES).filter(|lane| mask >> lane & 1 != 0);
        let units = lanes.flat_map(|lane| (0..per_lane).map(move |n| (survey.addresses[lane] >> shift) + n));
        let mut all: Vec<u64> = units.collect();
        all.sort_unstable();
        all.dedup();
        Distinct::Far(all)
    }

    fn count(&self) -> u64 {
        match self {
            Distinct::Near(bits) => bits.iter().map(|word| word.count_ones() as u64).sum(),
            Distinct::Far(all) => all.len() as u64,
        }
    }

    /// The most units that one of 32 banks holds.
    fn most_in_a_bank(&self) -> u64 {
        let mut banks = [0u8; 32];
        match self {
            Distinct::Near(bits) => {
                for word in bits.iter().filter(|word| **word != 0) {
                    for (bank, count) in banks.iter_mut().enumerate() {
                        *count += (word >> bank & 1) as u8 + (word >> (bank + 32) & 1) as u8;
                    }
                }
            }
            Distinct::Far(all) => all.iter().for_each(|unit| banks[(unit % 32) as usize] += 1),
        }
        banks.iter().copied().max().unwrap_or(0) as u64
    }
}
