//! Convolutions of the shapes of networks on a GPU: every tile, every way of sharing a sum among warps, more weights than there is
//! room for at once; and what they ask of the memory.

use crate::device;
use cugrad::autograd::check;
use cugrad::device::cuda::emulator;
use cugrad::device::{Device, memory};
use cugrad::ops::Case;
use cugrad::ops::case::{Draw, Input};
use cugrad::ops::conv2d::Conv2d;
use cugrad::tensor::DType;

/// x, output channels, kernel, stride, padding.
type Shape = ([usize; 4], usize, [usize; 2], usize, usize);

const SHAPES: [Shape; 12] = [
    // LeNet
    ([33, 1, 28, 28], 10, [5, 5], 1, 0),
    ([32, 10, 12, 12], 20, [5, 5], 1, 0),
    // ResNet-8, with fewer channels where the kernels do the same
    ([33, 1, 28, 28], 16, [3, 3], 1, 1),
    ([32, 16, 14, 14], 32, [3, 3], 2, 1),
    ([32, 16, 14, 14], 32, [1, 1], 2, 0),
    ([34, 16, 7, 7], 16, [3, 3], 1, 1),
    // More taps than fit into shared memory: 64·9 for 8 outputs; then of one plane alone
    ([1, 64, 7, 7], 16, [3, 3], 1, 1),
    ([1, 2, 36, 35], 8, [34, 33], 1, 0),
    // The other tile, strides of 5x5, no square
    ([2, 8, 9, 8], 8, [3, 3], 1, 1),
    ([33, 4, 14, 15], 8, [5, 5], 2, 2),
    ([2, 5, 9, 8], 9, [2, 3], 2, 1),
    ([2, 3, 11, 16], 6, [5, 5], 3, 2),
];

fn case((x, o, k, stride, padding): Shape) -> Case {
    let op = Conv2d { stride: [stride; 2], padding: [padding; 2] };
    let inputs = vec![Input::lanes(x, Draw::Normal), Input::rows([o, x[1], k[0], k[1]], Draw::Normal), Input::rows([o], Draw::Normal)];
    Case::new(op, format!("{x:?} -> {o}, k{k:?} s{stride} p{padding}"), inputs)
}

fn error(case: &Case, dtype: DType, device: Device) -> f64 {
    check::parity(&case.op, &case.draw(dtype, 3), &case.wanted(), dtype, device, 4).unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

fn shapes_agree(dtype: DType, bound: f64) {
    memory::poison();
    let device = device::open();
    for case in SHAPES.map(case) {
        let error = error(&case, dtype, device);
        assert!(error <= bound, "{}: differs by {error:.3e} in {dtype}", case.name);
    }
}

#[test]
fn shapes_of_networks_agree_with_the_cpu_in_f64() {
    shapes_agree(DType::F64, 1e-12);
}

#[test]
fn shapes_of_networks_agree_with_the_cpu_in_f32() {
    shapes_agree(DType::F32, 1e-5);
}

/// Every warp's request for x, y, dx or dy is four whole sectors. What is a little more are weights and partial sums, which do not
/// begin at a sector's edge.
#[test]
fn requests_are_whole_sectors_and_banks_do_not_clash() {
    let device = device::open();
    let Device::Cuda(ordinal) = device else { panic!("not a GPU: {device}") };
    if std::env::var("CUGRAD_TEST_DEVICE").is_ok() {
        return;
    }
    let emulator = emulator::load().unwrap();
    for case in SHAPES.map(case) {
        emulator.reset_counters(ordinal).unwrap();
        error(&case, DType::F32, device);
        let counters: serde_json::Value = serde_json::from_str(&emulator.counters(ordinal).unwrap()).unwrap();
        for (kernel, counted) in counters.as_object().unwrap() {
            let of = |name: &str| counted[name].as_u64().unwrap();
            assert_eq!(of("bank_cycles"), of("ideal_bank_cycles"), "{kernel}, {}", case.name);
            assert!(of("global_sectors") <= of("ideal_sectors") * 9 / 8, "{kernel}, {}: {counted}", case.name);
        }
    }
}
