//! What `README.md` says of the emulator's limits, and its worked example, are true.

use crate::bench::{Bench, File};
use crate::{sources, with};
use emucuda::{FaultKind, Mode};

const FILE: File = sources!("limits");
const README: &str = include_str!("../../README.md");

#[test]
fn order_by_a_fence_is_not_understood() {
    let kernel = FILE.kernel("last_block_sums");
    let run = |bench: &mut Bench| {
        let (x, parts, finished, y) = (bench.buffer(&[1f32; 128]), bench.empty(16), bench.zeros(4), bench.empty(4));
        bench.run(&kernel, 4, 32, with![y, parts, finished, x])?;
        bench.read::<f32>(y, 1)
    };
    let fault = run(&mut Bench::new(Mode::Checked)).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Race);
    assert!(FILE.points_at_marked("last_block_sums", &fault.message), "{fault}");
    assert_eq!(run(&mut Bench::new(Mode::Fast)).unwrap(), [128.0]);
}

#[test]
fn an_index_past_a_row_is_not_seen() {
    let kernel = FILE.kernel("past_the_row");
    let mut bench = Bench::new(Mode::Checked);
    let y = bench.empty(128);
    bench.run(&kernel, 1, 32, with![y]).unwrap();
    assert_eq!(bench.read::<i32>(y, 32).unwrap(), [2; 32]);
}

#[test]
fn swapped_buffers_are_not_seen() {
    let kernel = FILE.kernel("difference");
    let mut bench = Bench::new(Mode::Checked);
    let (a, b, y) = (bench.buffer(&[3f32; 32]), bench.buffer(&[1f32; 32]), bench.empty(128));
    bench.run(&kernel, 1, 32, with![y, b, a]).unwrap();
    assert_eq!(bench.read::<f32>(y, 32).unwrap(), [-2.0; 32]);
}

#[test]
fn the_worked_example_is_true() {
    let file = sources!("neighbours");
    let kernel = file.source.split("\n\n").nth(1).unwrap();
    assert!(README.contains(kernel), "README.md shows another kernel than neighbours.cu");
    let run = |name: &str| {
        let mut bench = Bench::new(Mode::Checked);
        let (x, y) = (bench.buffer(&[1f32; 100]), bench.empty(400));
        bench.run(&file.kernel(name), 1, 128, with![y, x, 100i32])?;
        bench.read::<f32>(y, 100)
    };
    let report = run("neighbours").unwrap_err().message;
    assert!(README.contains(&report), "README.md shows another report than: {report}");
    assert_eq!(run("neighbours_cured").unwrap()[..3], [1.0, 2.0, 2.0]);
}
