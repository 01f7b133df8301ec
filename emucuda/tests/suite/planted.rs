//! Bugs that must be found: with the right kind, the kernel's name and the line.

use crate::bench::{Bench, File};
use crate::{sources, with};
use emucuda::FaultKind::{self, *};
use emucuda::{Fault, Kernel, Mode};

/// What fast mode makes of a bug.
#[derive(Clone, Copy, PartialEq)]
enum Fast {
    /// It finds it, too.
    Finds,
    /// It may miss it, but comes to an end.
    May,
}
use Fast::*;

// A missing barrier shows in one of two ways. Warps run one after another up to the next barrier: where the first one reads what
// another one would have written, nothing is there yet, and that is the report (never written). If it holds something older, or the
// accesses come in the other order, the report is a race.

/// Runs a kernel in both modes. In checked mode the bug must be found, and at a line that is marked with it.
#[track_caller]
fn found(file: &File, kernel: &str, kind: FaultKind, fast: Fast, run: impl Fn(&mut Bench, &Kernel) -> Result<(), Fault>) {
    let decoded = file.kernel(kernel);
    let fault = run(&mut Bench::new(Mode::Checked), &decoded).expect_err("checked mode has missed it");
    assert_eq!(fault.kind, kind, "{fault}");
    assert!(fault.message.starts_with(&format!("{kernel} block (")), "{fault}");
    assert!(file.points_at_marked(kernel, &fault.message), "{fault}\nshould point at one of {:?}", file.marked(kernel));
    let outcome = run(&mut Bench::new(Mode::Fast), &decoded);
    if fast == Finds {
        assert_eq!(outcome.expect_err("fast mode has missed it").kind, kind);
    }
}

mod memory {
    use super::*;

    const FILE: File = sources!("planted_memory");

    #[test]
    fn no_guard() {
        found(&FILE, "no_guard", OutOfBounds, Finds, |bench, kernel| {
            let y = bench.empty(1000 * 4);
            bench.run(kernel, 4, 256, with![y, 1000i32])
        });
    }

    #[test]
    fn guard_off_by_one() {
        found(&FILE, "guard_off_by_one", OutOfBounds, Finds, |bench, kernel| {
            let (x, y) = (bench.zeros(400), bench.empty(400));
            bench.run(kernel, 1, 256, with![y, x, 100i32])
        });
    }

    #[test]
    fn grid_too_large() {
        found(&FILE, "row_per_block", OutOfBounds, Finds, |bench, kernel| {
            let y = bench.empty(8 * 50 * 4);
            bench.run(kernel, 9, 64, with![y, 50i32])
        });
    }

    #[test]
    fn grid_too_small() {
        let kernel = FILE.kernel("row_per_block");
        let mut bench = Bench::new(Mode::Checked);
        let y = bench.empty(8 * 50 * 4);
        bench.run(&kernel, 7, 64, with![y, 50i32]).unwrap();
        assert!(bench.read::<f32>(y, 7 * 50).is_ok());
        let fault = bench.read::<f32>(y, 8 * 50).unwrap_err();
        assert_eq!(fault.kind, Uninitialised, "{fault}");
        assert!(fault.message.contains("never written"), "{fault}");
    }

    #[test]
    fn before_the_start() {
        found(&FILE, "before_the_start", OutOfBounds, Finds, |bench, kernel| {
            // Another buffer lies before it: its numbers must not be taken for one's own.
            let _before = bench.zeros(400);
            let (x, y) = (bench.zeros(400), bench.empty(400));
            bench.run(kernel, 1, 128, with![y, x, 100i32])
        });
    }

    #[test]
    fn swapped_sizes() {
        found(&FILE, "swapped_sizes", OutOfBounds, Finds, |bench, kernel| {
            let (x, y) = (bench.zeros(20 * 30 * 4), bench.empty(20 * 30 * 4));
            bench.launch(kernel, [2, 2, 1], [16, 16, 1], 0, with![y, x, 20i32, 30i32])
        });
    }

    #[test]
    fn null_pointer() {
        found(&FILE, "null_pointer", OutOfBounds, Finds, |bench, kernel| {
            let y = bench.zeros(128);
            bench.run(kernel, 1, 32, with![y, 0u64])
        });
    }

    #[test]
    fn freed_buffer() {
        found(&FILE, "copy", Freed, Finds, |bench, kernel| {
            let (x, y) = (bench.zeros(400), bench.empty(400));
            bench.machine.free(x).unwrap();
            bench.run(kernel, 1, 128, with![y, x, 100i32])
        });
    }

    #[test]
    fn piece_that_the_pool_has_back() {
        found(&FILE, "copy", Freed, May, |bench, kernel| {
            let (pool, y) = (bench.zeros(4096), bench.empty(400));
            bench.machine.mark(pool + 1024, 400).unwrap();
            bench.machine.fill(pool + 1024, &[0], 400).unwrap();
            bench.machine.release(pool + 1024).unwrap();
            bench.run(kernel, 1, 128, with![y, pool + 1024, 100i32])
        });
    }

    #[test]
    fn beyond_the_piece_of_the_pool() {
        found(&FILE, "copy", OutOfBounds, May, |bench, kernel| {
            let (pool, y) = (bench.empty(4096), bench.empty(404));
            bench.machine.mark(pool + 1024, 400).unwrap();
            bench.machine.fill(pool + 1024, &[0], 400).unwrap();
            bench.run(kernel, 1, 128, with![y, pool + 1024, 101i32])
        });
        // And the same where it writes, to a piece that was larger before.
        found(&FILE, "copy", OutOfBounds, May, |bench, kernel| {
            let (x, pool) = (bench.zeros(404), bench.empty(4096));
            bench.machine.mark(pool, 1000).unwrap();
            bench.machine.fill(pool, &[0], 1000).unwrap();
            bench.machine.release(pool).unwrap();
            bench.machine.mark(pool, 400).unwrap();
            bench.run(kernel, 1, 128, with![pool, x, 101i32])
        });
    }

    #[test]
    fn piece_that_was_handed_out_again() {
        found(&FILE, "copy", Uninitialised, May, |bench, kernel| {
            let (pool, y) = (bench.zeros(4096), bench.empty(400));
            bench.machine.mark(pool, 400).unwrap();
            bench.machine.fill(pool, &[0], 400).unwrap();
            bench.machine.release(pool).unwrap();
            bench.machine.mark(pool, 400).unwrap();
            bench.run(kernel, 1, 128, with![y, pool, 100i32])
        });
    }

    #[test]
    fn input_never_written() {
        found(&FILE, "copy", Uninitialised, May, |bench, kernel| {
            let (x, y) = (bench.empty(400), bench.empty(400));
            bench.run(kernel, 1, 128, with![y, x, 100i32])
        });
    }

    #[test]
    fn input_written_in_part() {
        found(&FILE, "copy", Uninitialised, May, |bench, kernel| {
            let (x, y) = (bench.empty(400), bench.empty(400));
            bench.machine.fill(x, &[0], 399).unwrap();
            bench.run(kernel, 1, 128, with![y, x, 100i32])
        });
    }

    #[test]
    fn sum_never_set_to_zero() {
        found(&FILE, "accumulate", Uninitialised, May, |bench, kernel| {
            let (sum, x) = (bench.empty(128), bench.zeros(128));
            bench.run(kernel, 1, 32, with![sum, x])
        });
    }

    #[test]
    fn misaligned_vector() {
        found(&FILE, "four_at_once", Misaligned, Finds, |bench, kernel| {
            let (x, y) = (bench.zeros(32 * 6 * 4), bench.empty(128));
            bench.run(kernel, 1, 32, with![y, x, 6i32])
        });
    }

    #[test]
    fn misaligned_cast() {
        found(&FILE, "cast_of_bytes", Misaligned, Finds, |bench, kernel| {
            let (x, y) = (bench.zeros(128), bench.empty(128));
            bench.run(kernel, 1, 32, with![y, x])
        });
    }

    #[test]
    fn wider_type() {
        found(&FILE, "wider_type", OutOfBounds, Finds, |bench, kernel| {
            let x = bench.empty(128);
            bench.run(kernel, 1, 32, with![x])
        });
    }

    #[test]
    fn in_place_against_restrict() {
        let run = |bench: &mut Bench, kernel: &Kernel| {
            let x = bench.zeros(400);
            bench.run(kernel, 1, 128, with![x, x, 100i32])
        };
        let fault = run(&mut Bench::new(Mode::Checked), &FILE.kernel("smooth")).unwrap_err();
        // It is both: whichever is seen first.
        assert!([ReadOnly, Race].contains(&fault.kind), "{fault}");
        found(&FILE, "smooth", fault.kind, May, run);
    }

    #[test]
    fn index_out_of_range() {
        found(&FILE, "gather", OutOfBounds, Finds, |bench, kernel| {
            let (x, y) = (bench.zeros(400), bench.empty(128));
            let mut index: Vec<i32> = (0..32).collect();
            index[17] = -3;
            let index = bench.buffer(&index);
            bench.run(kernel, 1, 32, with![y, x, index])
        });
    }
}

mod shared {
    use super::*;

    const FILE: File = sources!("planted_shared");

    #[test]
    fn past_the_array() {
        found(&FILE, "past_the_array", OutOfBounds, Finds, |bench, kernel| {
            let y = bench.empty(1024);
            bench.run(kernel, 1, 256, with![y])
        });
    }

    #[test]
    fn dynamic_memory_too_small() {
        found(&FILE, "dynamic_too_small", OutOfBounds, Finds, |bench, kernel| {
            let y = bench.empty(1024);
            bench.launch(kernel, [1; 3], [256, 1, 1], 512, with![y])
        });
    }

    #[test]
    fn dynamic_memory_forgotten() {
        found(&FILE, "dynamic_too_small", OutOfBounds, Finds, |bench, kernel| {
            let y = bench.empty(1024);
            bench.run(kernel, 1, 256, with![y])
        });
    }

    #[test]
    fn tail_of_the_tile() {
        found(&FILE, "tail_of_the_tile", Uninitialised, May, |bench, kernel| {
            let (x, y) = (bench.zeros(200), bench.empty(256));
            bench.run(kernel, 1, 64, with![y, x, 50i32])
        });
    }

    #[test]
    fn half_of_the_threads() {
        found(&FILE, "wrong_block", Uninitialised, May, |bench, kernel| {
            let (x, y) = (bench.zeros(1024), bench.empty(1024));
            bench.run(kernel, 1, 128, with![y, x])
        });
    }

    #[test]
    fn block_of_another_shape() {
        found(&FILE, "wrong_shape", Race, May, |bench, kernel| {
            let (x, y) = (bench.zeros(1024), bench.empty(1024));
            bench.launch(kernel, [1; 3], [32, 8, 1], 0, with![y, x])
        });
    }

    #[test]
    fn no_sync_after_load() {
        found(&FILE, "no_sync_after_load", Uninitialised, May, |bench, kernel| {
            let (x, y) = (bench.zeros(1024), bench.empty(1024));
            bench.run(kernel, 1, 256, with![y, x])
        });
    }

    #[test]
    fn no_sync_at_the_end() {
        found(&FILE, "no_sync_at_the_end", Race, May, |bench, kernel| {
            let (a, x, y) = (bench.zeros(64 * 128 * 4), bench.zeros(512), bench.empty(256));
            bench.run(kernel, 1, 64, with![y, a, x, 128i32])
        });
    }

    #[test]
    fn no_sync_before_second_stage() {
        found(&FILE, "no_sync_before_second_stage", Uninitialised, May, |bench, kernel| {
            let (x, y) = (bench.zeros(512), bench.empty(4));
            bench.run(kernel, 1, 128, with![y, x])
        });
    }

    #[test]
    fn all_write_one_place() {
        found(&FILE, "all_write_one_place", Race, May, |bench, kernel| {
            let y = bench.empty(256);
            bench.run(kernel, 1, 64, with![y])
        });
    }

    #[test]
    fn histogram_without_atomics() {
        found(&FILE, "shared_histogram", Race, May, |bench, kernel| {
            let (x, y) = (bench.zeros(256), bench.empty(32));
            bench.run(kernel, 1, 64, with![y, x])
        });
    }

    #[test]
    fn local_array_not_set() {
        found(&FILE, "local_not_set", Uninitialised, May, |bench, kernel| {
            let (x, y) = (bench.zeros(128), bench.empty(128));
            bench.run(kernel, 1, 32, with![y, x, 5i32])
        });
    }

    #[test]
    fn shared_memory_not_zeroed() {
        found(&FILE, "shared_not_zeroed", Uninitialised, May, |bench, kernel| {
            let (x, y) = (bench.zeros(256), bench.empty(32));
            bench.run(kernel, 1, 64, with![y, x])
        });
    }
}

mod barriers {
    use super::*;

    const FILE: File = sources!("planted_barriers");

    #[test]
    fn early_return() {
        for n in [100i32, 32] {
            found(&FILE, "early_return", Barrier, May, |bench, kernel| {
                let (x, y) = (bench.zeros(512), bench.empty(512));
                bench.run(kernel, 1, 128, with![y, x, n])
            });
        }
    }

    fn alone(kernel: &str, threads: u32, fast: Fast) {
        found(&FILE, kernel, Barrier, fast, |bench, kernel| {
            let y = bench.empty(256);
            bench.run(kernel, 1, threads, with![y])
        });
    }

    #[test]
    fn half_a_warp() {
        alone("half_a_warp", 64, May);
    }

    #[test]
    fn one_warp_only() {
        alone("one_warp_only", 64, May);
    }

    #[test]
    fn uneven_loop() {
        alone("uneven_loop", 64, May);
    }

    #[test]
    fn two_places() {
        alone("two_places", 32, Finds);
    }

    #[test]
    fn named_barrier_short() {
        alone("named_barrier_short", 64, Finds);
    }
}

mod warps {
    use super::*;

    const FILE: File = sources!("planted_warps");

    #[test]
    fn mask_too_small() {
        found(&FILE, "mask_too_small", Shuffle, Finds, |bench, kernel| {
            let y = bench.empty(128);
            bench.run(kernel, 1, 32, with![y])
        });
    }

    fn in_branch(kernel: &str) {
        found(&FILE, kernel, Shuffle, Finds, |bench, kernel| {
            let x: Vec<i32> = (0..32).map(|t| if t % 3 == 0 { -t } else { t }).collect();
            let (x, y) = (bench.buffer(&x), bench.empty(128));
            bench.run(kernel, 1, 32, with![y, x])
        });
    }

    #[test]
    fn shuffle_in_branch() {
        in_branch("shuffle_in_branch");
    }

    #[test]
    fn vote_in_branch() {
        in_branch("vote_in_branch");
    }

    #[test]
    fn shuffle_after_return() {
        found(&FILE, "shuffle_after_return", Shuffle, Finds, |bench, kernel| {
            let y = bench.empty(128);
            bench.run(kernel, 1, 32, with![y, 20i32])
        });
    }

    #[test]
    fn reads_an_absent_lane() {
        found(&FILE, "reads_an_absent_lane", Shuffle, Finds, |bench, kernel| {
            let y = bench.empty(128);
            bench.run(kernel, 1, 32, with![y, 20i32])
        });
    }

    fn alone(kernel: &str, threads: u32, kind: FaultKind) {
        found(&FILE, kernel, kind, May, |bench, kernel| {
            let y = bench.empty(256);
            bench.run(kernel, 1, threads, with![y])
        });
    }

    #[test]
    fn no_syncwarp() {
        alone("no_syncwarp", 32, Race);
    }

    #[test]
    fn syncwarp_for_a_block() {
        alone("syncwarp_for_a_block", 64, Uninitialised);
    }

    #[test]
    fn shuffle_is_no_fence() {
        alone("shuffle_is_no_fence", 32, Race);
    }

    #[test]
    fn tree_without_sync() {
        found(&FILE, "tree_without_sync", Race, May, |bench, kernel| {
            let (x, y) = (bench.zeros(128), bench.empty(4));
            bench.run(kernel, 1, 32, with![y, x])
        });
    }
}

mod races {
    use super::*;

    const FILE: File = sources!("planted_races");

    #[test]
    fn histogram() {
        // Within one block, and between blocks that have one thread each.
        for (blocks, threads) in [(1, 128), (128, 1)] {
            found(&FILE, "histogram", Race, May, |bench, kernel| {
                let (counts, x) = (bench.zeros(64), bench.zeros(512));
                bench.run(kernel, blocks, threads, with![counts, x])
            });
        }
    }

    #[test]
    fn blocks_share_a_place() {
        found(&FILE, "blocks_share_a_place", Race, May, |bench, kernel| {
            let (x, y) = (bench.zeros(512), bench.empty(4));
            bench.run(kernel, 4, 32, with![y, x])
        });
    }

    #[test]
    fn chain_of_blocks() {
        found(&FILE, "chain_of_blocks", Race, May, |bench, kernel| {
            let y = bench.zeros(512);
            bench.run(kernel, 4, 32, with![y])
        });
    }

    #[test]
    fn atomic_and_plain() {
        found(&FILE, "atomic_and_plain", Race, May, |bench, kernel| {
            let (sum, y) = (bench.zeros(4), bench.empty(512));
            bench.run(kernel, 2, 64, with![sum, y])
        });
    }

    #[test]
    fn overlapping_tiles() {
        found(&FILE, "overlapping_tiles", Race, May, |bench, kernel| {
            let y = bench.empty(512);
            bench.run(kernel, 4, 32, with![y])
        });
    }

    #[test]
    fn exchange_in_global() {
        found(&FILE, "exchange_in_global", Race, May, |bench, kernel| {
            let (y, z) = (bench.zeros(256), bench.empty(256));
            bench.run(kernel, 1, 64, with![y, z])
        });
    }

    #[test]
    fn same_byte() {
        found(&FILE, "same_byte", Race, May, |bench, kernel| {
            let y = bench.empty(16);
            bench.run(kernel, 1, 32, with![y])
        });
    }
}

mod asynchronous {
    use super::*;

    const FILE: File = sources!("planted_async");

    #[test]
    fn no_wait() {
        found(&FILE, "no_wait", AsyncCopy, May, |bench, kernel| {
            let (x, y) = (bench.zeros(512), bench.empty(128));
            bench.run(kernel, 1, 32, with![y, x])
        });
    }

    #[test]
    fn waits_for_too_few() {
        found(&FILE, "waits_for_too_few", AsyncCopy, May, |bench, kernel| {
            let (x, y) = (bench.zeros(1024), bench.empty(128));
            bench.run(kernel, 1, 32, with![y, x])
        });
    }

    #[test]
    fn no_barrier_after_wait() {
        found(&FILE, "no_barrier_after_wait", Uninitialised, May, |bench, kernel| {
            let (x, y) = (bench.zeros(1024), bench.empty(256));
            bench.run(kernel, 1, 64, with![y, x])
        });
    }

    #[test]
    fn overwrites_the_tile() {
        found(&FILE, "overwrites_the_tile", Race, May, |bench, kernel| {
            let (x, y) = (bench.zeros(4096), bench.empty(256));
            bench.run(kernel, 1, 64, with![y, x, 4i32])
        });
    }

    #[test]
    fn misaligned_copy() {
        found(&FILE, "misaligned_copy", Misaligned, Finds, |bench, kernel| {
            let (x, y) = (bench.zeros(512), bench.empty(64));
            bench.run(kernel, 1, 16, with![y, x])
        });
    }
}

mod launches {
    use super::*;

    #[track_caller]
    fn refused(run: impl Fn(&mut Bench) -> Result<(), Fault>, part: &str) {
        for mode in [Mode::Checked, Mode::Fast] {
            let fault = run(&mut Bench::new(mode)).expect_err("the launch was not refused");
            assert_eq!(fault.kind, Launch, "{fault}");
            assert!(fault.message.contains(part), "{fault}");
        }
    }

    #[test]
    fn more_threads_than_compiled_for() {
        let kernel = sources!("planted_memory").kernel("copy");
        refused(|bench| bench.run(&kernel, 1, 512, with![0u64, 0u64, 0i32]), "at most 256");
    }

    #[test]
    fn empty_grid() {
        let kernel = sources!("planted_memory").kernel("copy");
        refused(|bench| bench.run(&kernel, 0, 32, with![0u64, 0u64, 0i32]), "grid");
    }

    #[test]
    fn arguments_missing() {
        let kernel = sources!("planted_memory").kernel("copy");
        refused(|bench| bench.machine.launch(&kernel, [1; 3], [32, 1, 1], 0, &[0; 16]), "16 bytes of arguments");
    }

    #[test]
    fn more_shared_memory_than_there_is() {
        let kernel = sources!("planted_shared").kernel("dynamic_too_small");
        refused(|bench| bench.launch(&kernel, [1; 3], [32, 1, 1], 1 << 20, with![0u64]), "shared memory");
    }
}
