//! Batches alone: how many pictures a second are picked, augmented, normalised and laid out in lanes on the CPU.
//!
//! `cargo bench --bench loader` runs all, `cargo bench --bench loader -- elastic` one; `RAYON_NUM_THREADS=1` measures one core. The pictures are
//! generated digits, 28 x 28 and grey, in batches of 64. LeNet learns from some 50,000 a second on two cores: what is to be fed to it should
//! be made several times as fast.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cugrad::data::{Augment, Loader, synthetic};
use cugrad::device::{self, Device};
use cugrad::tensor::DType;
use std::time::Duration;

const BATCH: usize = 64;

fn batches(c: &mut Criterion) {
    if let Err(e) = device::start_threads(0) {
        eprintln!("{e}");
    }
    let splits = synthetic(4096, 1, 0);
    let mut group = c.benchmark_group("loader");
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(20);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for text in [
        "none",
        "shift:2,flip",
        "rotate:10,translate:0.07,scale:0.1",
        "shear:10",
        "elastic:34:4",
        "erase:0.5",
        "sharpen:1",
        "shift:2,flip,rotate:15,translate:0.1,scale:0.1,shear:10,elastic:34:4,erase:0.5,sharpen:1",
    ] {
        let (Ok(augment), Ok(loader)) =
            (text.parse::<Augment>(), Loader::new(&splits.train, &splits.normalization, [1, 28, 28], DType::F32, Device::Cpu))
        else {
            panic!("{text}: cannot be benched")
        };
        let mut step = 0;
        group.bench_function(text, |b| {
            b.iter(|| {
                step += 1;
                // Spread over the set, as in an epoch.
                let numbers: Vec<u32> = (0..BATCH).map(|i| ((step as usize * 977 + i * 61) % 4096) as u32).collect();
                loader.batch_to_learn(&numbers, augment, 1, step)
            });
        });
    }
}

criterion_group!(benches, batches);
criterion_main!(benches);
