//! Who touched what, and when: finds races and reads of memory that was never written.
//!
//! In checked mode blocks run in order, so one clock tells all. It ticks at every barrier, `__syncwarp` and block: an access
//! is ordered after another one of its warp if a tick of its warp lies between them, after one of another warp if a barrier
//! does, after one of another block never (within a launch). A record holds the time and the threads. Memory is watched in
//! lines of 64 bytes. A line that whole warps touch in the common way (neighbouring lanes, neighbouring elements) has one
//! record for all its bytes; any other access gives it cells of 4 bytes, or of 2 or 1 if need be. Two readers are remembered:
//! enough to find a conflict with any later writer. Read next: `families/access.rs`, which asks.

use super::fault::FaultKind;

/// Bytes of a line.
pub(crate) const LINE: u64 = 64;

/// time:48 | warp:5 | lane:5 | shift:3 | atomic:1 | read only:1 | many:1
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Record(u64);

/// The shift of a record whose bytes all belong to one lane.
const SINGLE: u64 = 7;
const ATOMIC: u64 = 4;
const READ_ONLY: u64 = 2;
const MANY: u64 = 1;

impl Record {
    /// Written by the host before any launch that follows.
    pub const HOST: Record = Record(1 << 16 | SINGLE << 3);

    /// One lane.
    #[inline(always)]
    pub fn single(time: u64, warp: u32, lane: u32) -> Record {
        Record(time << 16 | (warp as u64) << 11 | (lane as u64) << 6 | SINGLE << 3)
    }

    /// Lanes from this one on, each with `1 << shift` neighbouring bytes of the line.
    #[inline(always)]
    pub fn pattern(time: u64, warp: u32, lane: u32, shift: u32) -> Record {
        Record(time << 16 | (warp as u64) << 11 | (lane as u64) << 6 | (shift as u64) << 3)
    }

    #[inline(always)]
    pub fn flags(self, atomic: bool, read_only: bool, many: bool) -> Record {
        Record(self.0 | (atomic as u64) << 2 | (read_only as u64) << 1 | many as u64)
    }

    #[inline(always)]
    fn time(self) -> u64 {
        self.0 >> 16
    }

    #[inline(always)]
    fn warp(self) -> u32 {
        (self.0 >> 11) as u32 & 31
    }

    #[inline(always)]
    fn lane(self) -> u32 {
        (self.0 >> 6) as u32 & 31
    }

    #[inline(always)]
    fn shift(self) -> u64 {
        self.0 >> 3 & 7
    }

    /// The record of the byte at this offset of the line.
    fn at(self, offset: u64) -> Record {
        if self.shift() == SINGLE {
            return self;
        }
        let lane = self.lane() as u64 + (offset >> self.shift());
        Record(self.0 & !(31 << 6) & !(7 << 3) | (lane & 31) << 6 | SINGLE << 3)
    }

    /// The finest granularity at which its bytes belong to different lanes.
    fn granularity(self) -> u32 {
        if self.time() <= 1 || self.shift() == SINGLE { 2 } else { (self.shift() as u32).min(2) }
    }

    /// The thread in its block.
    pub fn thread(self) -> u32 {
        self.warp() * 32 + self.lane()
    }
}

/// Where on the clock an access happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub time: u64,
    /// The last time its warp was in step, and the last barrier it passed.
    pub warp_time: u64,
    pub barrier_time: u64,
    pub block_start: u64,
    /// Of the launch; in shared memory, of the block.
    pub start: u64,
    pub shared: bool,
    pub warp: u32,
}

/// What an access found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// A read of what nobody wrote.
    Blank,
    /// An unordered access of this thread before.
    Race { thread: u32, other_block: bool, wrote: bool, many: bool },
    /// A write to memory that the launch reads as read-only.
    ReadOnly { thread: u32 },
}

impl Problem {
    pub fn describe(self, write: bool) -> (FaultKind, String) {
        let what = if write { "write" } else { "read" };
        match self {
            Problem::Blank => (FaultKind::Uninitialised, "reads memory that was never written".to_string()),
            Problem::Race { thread, other_block, wrote, many } => {
                let before = if wrote { "write" } else { "read" };
                let block = if other_block { " of another block" } else { "" };
                let many = if many { ", by several threads at once," } else { "" };
                let text = format!("data race: {what}{many} after a {before} by thread {thread}{block} with no barrier between them");
                (FaultKind::Race, text)
            }
            Problem::ReadOnly { thread } => {
                let text = format!("writes memory that thread {thread} reads as read-only (const __restrict__) in this launch");
                (FaultKind::ReadOnly, text)
            }
        }
    }
}

impl Now {
    /// Is the access of `me` unordered after the one of this record?
    #[inline(always)]
    fn unordered(&self, before: Record, me: Record) -> bool {
        let time = before.time();
        if time < self.start {
            return false;
        }
        if time < self.block_start {
            return true;
        }
        if before.warp() != self.warp {
            return time >= self.barrier_time;
        }
        // The same lanes, or a step of the warp between them.
        const THREADS: u64 = 31 << 6 | 7 << 3 | MANY;
        time >= self.warp_time && ((before.0 ^ me.0) & THREADS != 0 || before.0 & MANY != 0)
    }

    /// The race of `me` after `before`; of several threads, the first that is not the one that touches the same byte now.
    fn race(&self, before: Record, me: Record, wrote: bool) -> Problem {
        let other = |offset: &u64| before.warp() != self.warp || before.at(*offset).lane() != me.at(*offset).lane();
        let thread = before.at((0..LINE).find(other).unwrap_or(0)).thread();
        Problem::Race { thread, other_block: before.time() < self.block_start, wrote, many: me.0 & MANY != 0 }
    }

    /// Checks an access against one writer and two readers, and records it. True: nobody wrote here before.
    #[inline(always)]
    fn touch(&self, cell: &mut [u64; 3], me: Record, write: bool) -> Result<bool, Problem> {
        let [writer, first, second] = cell.map(Record);
        let atomic = me.0 & ATOMIC != 0;
        if self.unordered(writer, me) && !(atomic && writer.0 & ATOMIC != 0) {
            return Err(self.race(writer, me, true));
        }
        let blank = writer.time() == 0 || (self.shared && writer.time() < self.start);
        if blank && (!write || atomic) {
            return Err(Problem::Blank);
        }
        if write {
            for reader in [first, second] {
                if self.unordered(reader, me) {
                    return Err(if reader.0 & READ_ONLY != 0 {
                        Problem::ReadOnly { thread: reader.thread() }
                    } else {
                        self.race(reader, me, false)
                    });
                }
                if reader.0 & READ_ONLY != 0 && reader.time() >= self.start {
                    return Err(Problem::ReadOnly { thread: reader.thread() });
                }
            }
            *cell = [me.0, 0, 0];
        } else if first != me {
            if self.unordered(first, me) {
                cell[2] = me.0;
            } else {
                cell[1] = me.0;
            }
        }
        Ok(blank)
    }
}

/// The cells of a line: 16 of 4 bytes, 32 of 2, or 64 of 1.
#[derive(Clone)]
struct Cells {
    shift: u32,
    cells: Vec<[u64; 3]>,
}

/// The shadow of one allocation, or of a block's shared memory. A line is a writer, two readers, and the number of its cells (0:
/// none); plain numbers, because a table of zeros then costs nothing until it is touched.
#[derive(Clone, Default)]
pub(crate) struct Shadow {
    lines: Vec<[u64; 4]>,
    cells: Vec<Cells>,
    free: Vec<u64>,
}

impl Shadow {
    /// Nothing of these bytes is written.
    pub fn new(bytes: u64) -> Shadow {
        Shadow { lines: vec![[0; 4]; bytes.div_ceil(LINE) as usize], cells: Vec::new(), free: Vec::new() }
    }

    /// All of them were written by the host.
    pub fn written(bytes: u64) -> Shadow {
        let mut shadow = Shadow::new(bytes);
        shadow.lines.fill([Record::HOST.0, 0, 0, 0]);
        shadow
    }

    /// A whole line touched by neighbouring lanes, all bytes of it. True: nobody wrote here before.
    #[inline(always)]
    pub fn touch_line(&mut self, line: usize, me: Record, write: bool, now: &Now) -> Result<bool, Problem> {
        let entry = &mut self.lines[line];
        if entry[3] == 0 {
            let mut cell = [entry[0], entry[1], entry[2]];
            let blank = now.touch(&mut cell, me, write)?;
            entry[..3].copy_from_slice(&cell);
            return Ok(blank);
        }
        self.touch_split_line(line, me, write, now)
    }

    fn touch_split_line(&mut self, line: usize, me: Record, write: bool, now: &Now) -> Result<bool, Problem> {
        let index = self.lines[line][3];
        if self.cells[index as usize - 1].shift > me.granularity() {
            self.split(line, me.granularity());
        }
        let cells = &mut self.cells[index as usize - 1];
        let mut blank = false;
        for (at, cell) in cells.cells.iter_mut().enumerate() {
            blank |= now.touch(cell, me.at((at as u64) << cells.shift), write)?;
        }
        if write {
            self.join(line, me);
        }
        Ok(blank)
    }

    /// Some bytes of a line touched by one lane. True: nobody wrote here before.
    #[inline(always)]
    pub fn touch(&mut self, offset: u64, bytes: u64, me: Record, write: bool, now: &Now) -> Result<bool, Problem> {
        let line = (offset / LINE) as usize;
        let shift = ((offset | bytes).trailing_zeros()).min(2);
        let index = self.lines[line][3];
        if index == 0 || self.cells[index as usize - 1].shift > shift {
            self.split(line, shift);
        }
        let cells = &mut self.cells[self.lines[line][3] as usize - 1];
        let first = ((offset % LINE) >> cells.shift) as usize;
        let count = (bytes >> cells.shift) as usize;
        let mut blank = false;
        for cell in &mut cells.cells[first..first + count] {
            blank |= now.touch(cell, me, write)?;
        }
        Ok(blank)
    }

    /// Gives a line cells at least this fine.
    #[cold]
    fn split(&mut self, line: usize, shift: u32) {
        let [writer, first, second, index] = self.lines[line];
        if index == 0 {
            let records = [writer, first, second].map(Record);
            let shift = records.iter().filter(|r| r.time() > 1).fold(shift, |shift, r| shift.min(r.granularity()));
            let cells = (0..LINE >> shift).map(|at| records.map(|record| record.at(at << shift).0)).collect();
            let cells = Cells { shift, cells };
            let index = match self.free.pop() {
                Some(index) => {
                    self.cells[index as usize - 1] = cells;
                    index
                }
                None => {
                    self.cells.push(cells);
                    self.cells.len() as u64
                }
            };
            self.lines[line][3] = index;
        } else {
            let cells = &mut self.cells[index as usize - 1];
            let each = 1 << (cells.shift - shift);
            cells.cells = cells.cells.iter().flat_map(|cell| std::iter::repeat_n(*cell, each)).collect();
            cells.shift = shift;
        }
    }

    /// One record for all bytes of a line again.
    fn join(&mut self, line: usize, writer: Record) {
        let index = std::mem::take(&mut self.lines[line][3]);
        if index != 0 {
            self.free.push(index);
        }
        self.lines[line] = [writer.0, 0, 0, 0];
    }

    /// Sets the record of a range: written by the host, or (`None`) never written.
    pub fn set(&mut self, offset: u64, bytes: u64, written: bool) {
        let record = if written { Record::HOST } else { Record::default() };
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            let line = (at / LINE) as usize;
            let stop = end.min((line as u64 + 1) * LINE);
            if stop - at == LINE {
                self.join(line, record);
            } else {
                let shift = (at | stop).trailing_zeros().min(2);
                let index = self.lines[line][3];
                if index == 0 || self.cells[index as usize - 1].shift > shift {
                    self.split(line, shift);
                }
                let cells = &mut self.cells[self.lines[line][3] as usize - 1];
                let (first, last) = ((at % LINE) >> cells.shift, (at % LINE + stop - at) >> cells.shift);
                cells.cells[first as usize..last as usize].fill([record.0, 0, 0]);
            }
            at = stop;
        }
    }

    /// The first byte of a range that was never written.
    pub fn first_blank(&self, offset: u64, bytes: u64) -> Option<u64> {
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            let line = (at / LINE) as usize;
            let stop = end.min((line as u64 + 1) * LINE);
            let [writer, _, _, index] = self.lines[line];
            if index == 0 {
                if writer == 0 {
                    return Some(at);
                }
            } else {
                let cells = &self.cells[index as usize - 1];
                let blank = (at..stop).find(|byte| cells.cells[((byte % LINE) >> cells.shift) as usize][0] >> 16 == 0);
                if blank.is_some() {
                    return blank;
                }
            }
            at = stop;
        }
        None
    }

    /// Runs of bytes that were written, or not, one after the other.
    pub fn runs(&self, offset: u64, bytes: u64) -> Vec<(u64, bool)> {
        let mut runs: Vec<(u64, bool)> = Vec::new();
        let mut add = |bytes: u64, written: bool| match runs.last_mut() {
            Some(last) if last.1 == written => last.0 += bytes,
            _ => runs.push((bytes, written)),
        };
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            let line = (at / LINE) as usize;
            let stop = end.min((line as u64 + 1) * LINE);
            match self.lines[line] {
                [writer, _, _, 0] => add(stop - at, writer != 0),
                _ => (at..stop).for_each(|byte| add(1, self.first_blank(byte, 1).is_none())),
            }
            at = stop;
        }
        runs
    }
}
