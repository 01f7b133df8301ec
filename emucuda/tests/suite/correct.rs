//! Correct kernels: no mode may accuse them, and both give the right numbers.

use crate::bench::{Bench, File, Number};
use crate::{sources, with};
use emucuda::{Kernel, Mode};

/// Runs a kernel in both modes; what it returns must be the same, and is given back.
#[track_caller]
fn both<R: PartialEq + std::fmt::Debug>(file: &File, kernel: &str, run: impl Fn(&mut Bench, &Kernel) -> R) -> R {
    let kernel = file.kernel(kernel);
    let checked = run(&mut Bench::new(Mode::Checked), &kernel);
    let fast = run(&mut Bench::new(Mode::Fast), &kernel);
    assert_eq!(checked, fast);
    checked
}

/// Numbers that look random and are the same every time: 0 to 2^31.
fn noise(count: usize) -> impl Iterator<Item = u32> {
    let mut state = 12345u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 1
    })
    .skip(3)
    .take(count)
}

/// -10 to 10, in steps that f32 and f16 can hold.
fn floats(count: usize) -> Vec<f32> {
    noise(count).map(|n| (n >> 12) as i32 % 161 - 80).map(|n| n as f32 / 8.0).collect()
}

fn integers(count: usize, range: std::ops::Range<i32>) -> Vec<i32> {
    noise(count).map(|n| range.start + ((n >> 8) as i32) % (range.end - range.start)).collect()
}

#[track_caller]
fn near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (at, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "at {at}: {a} instead of {b}");
    }
}

mod blocks {
    use super::*;

    const FILE: File = sources!("correct_blocks");

    #[test]
    fn grid_stride() {
        let (x, y) = (floats(1000), floats(1000));
        let found = both(&FILE, "grid_stride", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.buffer(&y));
            bench.run(kernel, 3, 128, with![dy, dx, 3f32, 1000i32]).unwrap();
            bench.read::<f32>(dy, 1000).unwrap()
        });
        let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 3.0 * x + y).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn guarded_tail() {
        let x = floats(300);
        let found = both(&FILE, "guarded_tail", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(1200));
            bench.run(kernel, 3, 128, with![dy, dx, 300i32]).unwrap();
            bench.read::<f32>(dy, 300).unwrap()
        });
        let expected: Vec<f32> = (0..300).map(|i| x[i] + if i % 128 > 0 { x[i - 1] } else { 0.0 }).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn transpose() {
        let x = floats(50 * 70);
        let found = both(&FILE, "transpose", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(50 * 70 * 4));
            bench.launch(kernel, [3, 2, 1], [32, 8, 1], 0, with![dy, dx, 50i32, 70i32]).unwrap();
            bench.read::<f32>(dy, 50 * 70).unwrap()
        });
        assert!((0..50 * 70).all(|at| found[at] == x[at % 50 * 70 + at / 50]));
    }

    #[test]
    fn product() {
        let n = 37;
        let (a, b) = (floats(n * n), floats(n * n));
        let found = both(&FILE, "product", |bench, kernel| {
            let (da, db, dc) = (bench.buffer(&a), bench.buffer(&b), bench.empty(n * n * 4));
            bench.launch(kernel, [3, 3, 1], [16, 16, 1], 0, with![dc, da, db, n as i32]).unwrap();
            bench.read::<f32>(dc, n * n).unwrap()
        });
        let sum = |i: usize, j: usize| (0..n).map(|k| a[i * n + k] * b[k * n + j]).sum();
        near(&found, &(0..n * n).map(|at| sum(at / n, at % n)).collect::<Vec<f32>>(), 1e-5);
    }

    #[test]
    fn block_sum() {
        let x = floats(4 * 1000);
        let found = both(&FILE, "block_sum", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(16));
            bench.launch(kernel, [4, 1, 1], [256, 1, 1], 32, with![dy, dx, 1000i32]).unwrap();
            bench.read::<f32>(dy, 4).unwrap()
        });
        // Multiples of an eighth: the sums are exact, in any order.
        assert_eq!(found, x.chunks(1000).map(|row| row.iter().sum()).collect::<Vec<f32>>());
    }

    #[test]
    fn warps_leave() {
        let x = integers(11 * 32, -100..100);
        let found = both(&FILE, "warps_leave", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(44));
            bench.run(kernel, 2, 256, with![dy, dx, 11i32]).unwrap();
            bench.read::<i32>(dy, 11).unwrap()
        });
        assert_eq!(found, x.chunks(32).map(|row| row.iter().sum()).collect::<Vec<i32>>());
    }

    #[test]
    fn histogram() {
        let x = integers(5000, 0..1000);
        let found = both(&FILE, "histogram", |bench, kernel| {
            let (dx, counts) = (bench.buffer(&x), bench.zeros(64));
            bench.run(kernel, 8, 128, with![counts, dx, 5000i32]).unwrap();
            bench.read::<i32>(counts, 16).unwrap()
        });
        assert!((0..16).all(|class| found[class] == x.iter().filter(|x| **x & 15 == class as i32).count() as i32));
    }

    #[test]
    fn tile_twice() {
        let found = both(&FILE, "tile_twice", |bench, kernel| {
            let y = bench.empty(256);
            bench.run(kernel, 1, 64, with![y]).unwrap();
            bench.read::<i32>(y, 64).unwrap()
        });
        assert_eq!(found, (0..64).map(|t| 6 * (63 - t)).collect::<Vec<i32>>());
    }

    #[test]
    fn named_barriers() {
        let found = both(&FILE, "named_barriers", |bench, kernel| {
            let y = bench.empty(512);
            bench.run(kernel, 1, 128, with![y]).unwrap();
            bench.read::<i32>(y, 128).unwrap()
        });
        let partner = |t: i32| t / 64 * 64 + 63 - t % 64;
        assert_eq!(found, (0..128).map(|t| partner(t) * partner(t)).collect::<Vec<i32>>());
    }

    #[test]
    fn counting_barriers() {
        let x = integers(64, -50..50);
        let found = both(&FILE, "counting_barriers", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(256));
            bench.run(kernel, 1, 64, with![dy, dx]).unwrap();
            bench.read::<i32>(dy, 64).unwrap()
        });
        assert_eq!(found, [x.iter().filter(|x| **x > 0).count() as i32 * 100 + 10; 64]);
    }

    #[test]
    fn prefix_sum() {
        let x = integers(256, -9..10);
        let found = both(&FILE, "prefix_sum", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(1024));
            bench.run(kernel, 1, 256, with![dy, dx]).unwrap();
            bench.read::<i32>(dy, 256).unwrap()
        });
        assert!((0..256).all(|t| found[t] == x[..=t].iter().sum::<i32>()));
    }

    /// Launches follow one another: what one reads and the next one writes is no race.
    #[test]
    fn launches_are_ordered() {
        let found = both(&FILE, "guarded_tail", |bench, kernel| {
            let (a, b) = (bench.buffer(&[1f32; 256]), bench.empty(1024));
            for _ in 0..3 {
                bench.run(kernel, 2, 128, with![b, a, 256i32]).unwrap();
                bench.run(kernel, 2, 128, with![a, b, 256i32]).unwrap();
            }
            bench.read::<f32>(a, 8).unwrap()
        });
        assert_eq!(found, [1.0, 7.0, 22.0, 42.0, 57.0, 63.0, 64.0, 64.0]);
    }
}

mod warps {
    use super::*;

    const FILE: File = sources!("correct_warps");

    fn of_one_input<X: Number, Y: Number + PartialEq + std::fmt::Debug>(kernel: &str, x: &[X], threads: u32, count: usize) -> Vec<Y> {
        both(&FILE, kernel, |bench, kernel| {
            let (dx, dy) = (bench.buffer(x), bench.empty(count * size_of::<Y>()));
            bench.run(kernel, 1, threads, with![dy, dx]).unwrap();
            bench.read::<Y>(dy, count).unwrap()
        })
    }

    #[test]
    fn warp_sums() {
        let x = floats(64);
        let found: Vec<f32> = of_one_input("warp_sums", &x, 64, 64);
        assert!((0..64).all(|t| found[t] == x[t / 32 * 32..t / 32 * 32 + 32].iter().sum::<f32>()));
    }

    #[test]
    fn partial_masks() {
        let x = integers(109, -50..50);
        let found = both(&FILE, "partial_masks", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(16));
            bench.run(kernel, 2, 64, with![dy, dx, 109i32]).unwrap();
            bench.read::<i32>(dy, 4).unwrap()
        });
        assert_eq!(found, x.chunks(32).map(|row| row.iter().sum()).collect::<Vec<i32>>());
    }

    #[test]
    fn syncwarp_exchange() {
        let found = both(&FILE, "syncwarp_exchange", |bench, kernel| {
            let y = bench.empty(256);
            bench.run(kernel, 1, 64, with![y]).unwrap();
            bench.read::<i32>(y, 64).unwrap()
        });
        assert!((0..64).all(|t| found[t as usize] == 3 * (t / 32 * 32 + 31 - t % 32)));
    }

    #[test]
    fn tree() {
        let x = floats(32);
        let found: Vec<f32> = of_one_input("tree", &x, 32, 1);
        assert_eq!(found, [x.iter().sum::<f32>()]);
    }

    #[test]
    fn divergent_loops() {
        let x = integers(64, 1..200);
        let steps =
            |v: &i32| std::iter::successors(Some(*v), |v| (*v != 1).then(|| if v % 2 == 1 { 3 * v + 1 } else { v / 2 })).count() - 1;
        let found: Vec<i32> = of_one_input("divergent_loops", &x, 64, 64);
        assert_eq!(found, x.iter().map(|v| steps(v) as i32).collect::<Vec<i32>>());
    }

    #[test]
    fn nested_branches() {
        let x = integers(32, 0..40);
        let branch = |v: i32| match v % 2 {
            1 => v * if v % 3 != 0 { 10 } else { 20 } + 1,
            _ => (v + 6) / 7 * 7,
        };
        let above = x.iter().filter(|v| branch(**v) > 50).count() as i32;
        let found: Vec<i32> = of_one_input("nested_branches", &x, 32, 32);
        assert_eq!(found, x.iter().map(|v| branch(*v) + above).collect::<Vec<i32>>());
    }

    #[test]
    fn switches() {
        let x = integers(64, -1..10);
        let square = |v: i32| v * v - 3;
        let choose = |v: i32| match v {
            0 => (11, 0),
            1 => (701, 0),
            2 => (square(v), 1),
            3 => ((v * 77).count_ones() as i32, 0),
            4 | 5 => (v + 1000, 0),
            6 => (v.leading_zeros() as i32, 0),
            7 => (square(square(v)), 2),
            _ => (-v, 0),
        };
        let found = both(&FILE, "switches", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.buffer(&[700i32; 65]));
            bench.run(kernel, 1, 64, with![dy, dx]).unwrap();
            bench.read::<i32>(dy, 64).unwrap()
        });
        assert_eq!(found, x.iter().map(|v| choose(*v)).map(|(r, found)| r * 10 + found).collect::<Vec<i32>>());
    }

    #[test]
    fn matches() {
        let x = integers(32, 0..7);
        let found: Vec<u32> = of_one_input("matches", &x, 32, 64);
        let same = |key: i32| x.iter().enumerate().filter(|(_, other)| **other == key).map(|(lane, _)| 1u32 << lane).sum::<u32>();
        let total = x.iter().sum::<i32>() * 1000 + x.iter().max().unwrap();
        assert!((0..32).all(|t| found[t] == same(x[t]) && found[32 + t] == total as u32));
    }

    #[test]
    fn compaction() {
        let x = integers(64, -20..20);
        let kept: Vec<i32> = x.iter().copied().filter(|v| *v > 0).collect();
        let kernel = FILE.kernel("compaction");
        for mode in [Mode::Checked, Mode::Fast] {
            let mut bench = Bench::new(mode);
            let (dx, dy, count) = (bench.buffer(&x), bench.empty(256), bench.zeros(4));
            bench.run(&kernel, 1, 64, with![dy, count, dx]).unwrap();
            assert_eq!(bench.read::<i32>(count, 1).unwrap(), [kept.len() as i32]);
            // The warps may come in any order.
            let (mut found, mut kept) = (bench.read::<i32>(dy, kept.len()).unwrap(), kept.clone());
            found.sort();
            kept.sort();
            assert_eq!(found, kept);
        }
    }
}

mod memory {
    use super::*;

    const FILE: File = sources!("correct_memory");

    #[test]
    fn bytes() {
        let x: Vec<u8> = noise(1000).map(|n| (n >> 9) as u8).collect();
        let found = both(&FILE, "bytes", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(1000));
            bench.run(kernel, 8, 128, with![dy, dx, 1000i32]).unwrap();
            bench.read::<u8>(dy, 1000).unwrap()
        });
        assert!(found.iter().zip(&x).all(|(y, x)| *y == 255 - x));
    }

    #[test]
    fn halves() {
        // With their f16 and bf16: exact, rounded to even, too large, too small, a half of the last place.
        let table = [
            (1.0f32, 0x3c00, 0x3f80),
            (-2.5, 0xc100, 0xc020),
            (0.1, 0x2e66, 0x3dcd),
            (65504.0, 0x7bff, 0x4780),
            (65520.0, 0x7c00, 0x4780),
            (6e-8, 0x0001, 0x3381),
            (1.0 + 1.0 / 2048.0, 0x3c00, 0x3f80),
            (1.0 + 3.0 / 2048.0, 0x3c02, 0x3f80),
            (257.0 / 256.0, 0x3c04, 0x3f80),
            (259.0 / 256.0, 0x3c0c, 0x3f82),
        ];
        let x: Vec<f32> = table.iter().map(|row| row.0).collect();
        let found = both(&FILE, "halves", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(4 * table.len()));
            bench.run(kernel, 1, 128, with![dy, dx, table.len() as i32]).unwrap();
            bench.read::<u16>(dy, 2 * table.len()).unwrap()
        });
        let expected: Vec<u16> = table.iter().flat_map(|row| [row.1, row.2]).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn vectors() {
        let x = floats(512);
        let found = both(&FILE, "vectors", |bench, kernel| {
            let (dx, dy, dz) = (bench.buffer(&x), bench.empty(2048), bench.empty(1024));
            bench.run(kernel, 2, 64, with![dy, dx, dz]).unwrap();
            (bench.read::<f32>(dy, 512).unwrap(), bench.read::<i32>(dz, 256).unwrap())
        });
        assert!((0..512).all(|at| found.0[at] == x[at / 4 * 4 + 3 - at % 4]));
        assert!((0..128).all(|i| found.1[2 * i] == x[4 * i] as i32 && found.1[2 * i + 1] == i as i32));
    }

    #[test]
    fn in_place() {
        let x = floats(200);
        let found = both(&FILE, "in_place", |bench, kernel| {
            let dx = bench.buffer(&x);
            bench.run(kernel, 2, 128, with![dx, 200i32]).unwrap();
            bench.read::<f32>(dx, 200).unwrap()
        });
        assert_eq!(found, x.iter().map(|x| x * x + 1.0).collect::<Vec<f32>>());
    }

    #[test]
    fn local_array() {
        let x = integers(64 * 20, 0..1000);
        let found = both(&FILE, "local_array", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(256));
            bench.run(kernel, 1, 64, with![dy, dx]).unwrap();
            bench.read::<i32>(dy, 64).unwrap()
        });
        for t in 0..64 {
            let mut counts = [0i32; 8];
            (0..20).for_each(|k| counts[(x[t * 20 + k] & 7) as usize] += k as i32);
            let expected = (0..8).fold(0i32, |r, k| r.wrapping_mul(31).wrapping_add(counts[(k * 3 + t) & 7]));
            assert_eq!(found[t], expected);
        }
    }

    #[test]
    fn blur() {
        let (height, width) = (13, 21);
        let x = floats(height * width);
        let found = both(&FILE, "blur", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(height * width * 4));
            bench.launch(kernel, [3, 2, 1], [8, 8, 1], 0, with![dy, dx, height as i32, width as i32]).unwrap();
            bench.read::<f32>(dy, height * width).unwrap()
        });
        let at = |i: isize, j: isize| {
            let inside = (0..height as isize).contains(&i) && (0..width as isize).contains(&j);
            if inside { x[i as usize * width + j as usize] } else { 0.0 }
        };
        for i in 0..height as isize {
            for j in 0..width as isize {
                let row = |p: isize| at(i + p, j - 1) + 2.0 * at(i + p, j) + at(i + p, j + 1);
                assert_eq!(found[i as usize * width + j as usize], (row(-1) + 2.0 * row(0) + row(1)) / 16.0);
            }
        }
    }

    #[test]
    fn largest() {
        let x: Vec<f32> = floats(700).iter().map(|x| x + 20.0).collect();
        let found = both(&FILE, "largest", |bench, kernel| {
            let (dx, most) = (bench.buffer(&x), bench.zeros(4));
            bench.run(kernel, 3, 64, with![most, dx, 700i32]).unwrap();
            bench.read::<f32>(most, 1).unwrap()
        });
        assert_eq!(found[0], x.iter().copied().fold(0.0, f32::max));
    }

    #[test]
    fn atomics() {
        let found = both(&FILE, "atomics", |bench, kernel| {
            let (y, z) = (bench.buffer(&[0i32, 0, 0, 0, -1, 0, 0, 0]), bench.zeros(16));
            bench.run(kernel, 2, 64, with![y, z]).unwrap();
            (bench.read::<i32>(y, 8).unwrap(), bench.read::<u64>(z, 2).unwrap())
        });
        assert_eq!(found.0, [8128, -8128, -5, 127, !255, 0xffff, 0, 8]);
        assert_eq!(found.1, [8128 << 32, 127 << 33]);
    }

    #[test]
    fn structure() {
        let found = both(&FILE, "structure", |bench, kernel| {
            let y = bench.empty(48);
            // rows, columns, skip, flag and seven bytes of nothing, scale.
            let fields = [with![2i32, 3i32].concat(), with![1i64 << 40, 1u64, 0.5f64].concat()].concat();
            let shape: [Vec<u8>; 2] = [with![y].concat(), fields];
            bench.run(kernel, 1, 64, shape).unwrap();
            bench.read::<f64>(y, 6).unwrap()
        });
        assert_eq!(found, (0..6).map(|t| 0.5 * t as f64 + (1i64 << 40) as f64).collect::<Vec<f64>>());
    }

    #[test]
    fn generic() {
        let x = integers(64, 0..100);
        let found = both(&FILE, "generic", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(256));
            bench.run(kernel, 1, 64, with![dy, dx]).unwrap();
            bench.read::<i32>(dy, 64).unwrap()
        });
        assert!((0..64).all(|t| found[t] == if x[t] % 2 == 1 { -x[63 - t] } else { x[63 - t] }));
    }
}

mod arithmetic {
    use super::*;

    const FILE: File = sources!("correct_arithmetic");

    #[test]
    fn integers_of_64_bits() {
        let a: Vec<i64> = noise(64).map(|n| (n as i64 - (1 << 30)) << (n % 30)).collect();
        let b: Vec<i64> = noise(128).skip(64).map(|n| ((n >> 3) as i64 - (1 << 27)) | 1).collect();
        let found = both(&FILE, "integers", |bench, kernel| {
            let (da, db, dy) = (bench.buffer(&a), bench.buffer(&b), bench.empty(64 * 64));
            bench.run(kernel, 1, 64, with![dy, da, db]).unwrap();
            bench.read::<i64>(dy, 512).unwrap()
        });
        for t in 0..64 {
            let (x, z) = (a[t], b[t]);
            let expected = [
                x / z,
                x % z,
                (x as i32).wrapping_div(z as i32) as i64,
                (x as u32 / z as u32) as i64,
                (x as u64 / z as u64) as i64,
                ((x as i128 * z as i128) >> 64) as i64,
                x << (z & 63),
                x.count_ones() as i64 + x.leading_zeros() as i64 * 100 + (x as u32).reverse_bits() as i64 * 10000,
            ];
            assert_eq!(found[8 * t..8 * t + 8], expected, "{x} and {z}");
        }
    }

    #[test]
    fn doubles() {
        let x: Vec<f64> = noise(64).map(|n| n as f64 / (1u32 << 28) as f64 + 0.01).collect();
        let found = both(&FILE, "doubles", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(64 * 32));
            bench.run(kernel, 1, 64, with![dy, dx]).unwrap();
            bench.read::<f64>(dy, 256).unwrap()
        });
        for (t, v) in x.iter().enumerate() {
            let expected = [v.sqrt(), 1.0 / v, (-v).exp(), v.mul_add(*v, -v.ln())];
            for (a, b) in found[4 * t..].iter().zip(expected) {
                assert!((a - b).abs() <= 4.0 * f64::EPSILON * b.abs().max(1.0), "{v}: {a} instead of {b}");
            }
        }
    }

    #[test]
    fn floats_and_their_functions() {
        let x = floats(64);
        let found = both(&FILE, "floats", |bench, kernel| {
            let (dx, dy) = (bench.buffer(&x), bench.empty(64 * 32));
            bench.run(kernel, 1, 64, with![dy, dx]).unwrap();
            bench.read::<f32>(dy, 512).unwrap()
        });
        let expected = x.iter().flat_map(|v| {
            [
                v.exp(),
                (v.abs() + 1.0).ln(),
                v.tanh(),
                1.0 / (v.abs() + 0.5).sqrt(),
                v / 3.7,
                v.sin(),
                (v.abs() + 0.1).powf(1.5),
                v.max(0.25) + v.min(-0.5) + 2f32.copysign(*v) + (v * 3.0).round_ties_even() + v.floor(),
            ]
        });
        near(&found, &expected.collect::<Vec<f32>>(), 1e-6);
    }
}

mod tensor {
    use super::*;

    const FILE: File = sources!("correct_tensor");

    #[test]
    fn pipeline() {
        for n in [256, 1000, 700] {
            let x = floats(n);
            let found = both(&FILE, "pipeline", |bench, kernel| {
                let (dx, dy) = (bench.buffer(&x), bench.empty(256));
                bench.run(kernel, 1, 64, with![dy, dx, n as i32]).unwrap();
                bench.read::<f32>(dy, 64).unwrap()
            });
            let sum = |t: usize| x.iter().skip(63 - t).step_by(64).sum::<f32>();
            assert_eq!(found, (0..64).map(sum).collect::<Vec<f32>>());
        }
    }

    fn product(a: &[f32], b: impl Fn(usize, usize) -> f32, depth: usize) -> Vec<f32> {
        (0..128).map(|at| (0..depth).map(|k| a[at / 8 * depth + k] * b(k, at % 8)).sum()).collect()
    }

    /// Bits of bf16: the numbers of [`floats`] have few enough digits.
    fn bf16(numbers: &[f32]) -> Vec<u16> {
        numbers.iter().map(|number| (number.to_bits() >> 16) as u16).collect()
    }

    /// Bits of f16, for numbers that are normal and exact in it, and zero.
    fn f16(numbers: &[f32]) -> Vec<u16> {
        let pack = |bits: u32| (bits >> 16 & 0x8000 | (bits >> 13 & 0x3ffff).wrapping_sub(112 << 10) & 0x7fff) as u16;
        numbers.iter().map(|number| if *number == 0.0 { 0 } else { pack(number.to_bits()) }).collect()
    }

    #[test]
    fn multiply_bf16() {
        let (a, b) = (floats(256), floats(400)[256..384].to_vec());
        let found = both(&FILE, "multiply_bf16", |bench, kernel| {
            let (da, db, dc) = (bench.buffer(&bf16(&a)), bench.buffer(&bf16(&b)), bench.empty(512));
            bench.run(kernel, 1, 32, with![dc, da, db]).unwrap();
            bench.read::<f32>(dc, 128).unwrap()
        });
        assert_eq!(found, product(&a, |k, n| b[n * 16 + k], 16));
    }

    #[test]
    fn multiply_f16() {
        let (a, b) = (floats(256), floats(400)[256..384].to_vec());
        let found = both(&FILE, "multiply_f16", |bench, kernel| {
            let (da, db, dc) = (bench.buffer(&f16(&a)), bench.buffer(&f16(&b)), bench.empty(512));
            bench.run(kernel, 1, 32, with![dc, da, db]).unwrap();
            bench.read::<f32>(dc, 128).unwrap()
        });
        assert_eq!(found, product(&a, |k, n| b[k * 8 + n], 16));
    }

    #[test]
    fn multiply_tf32() {
        let (a, b) = (floats(128), floats(200)[128..192].to_vec());
        let found = both(&FILE, "multiply_tf32", |bench, kernel| {
            let (da, db, dc) = (bench.buffer(&a), bench.buffer(&b), bench.empty(512));
            bench.run(kernel, 1, 32, with![dc, da, db]).unwrap();
            bench.read::<f32>(dc, 128).unwrap()
        });
        assert_eq!(found, product(&a, |k, n| b[k * 8 + n], 8));
    }
}
