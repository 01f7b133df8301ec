//! Prints what a warp instruction costs in both modes, for the kernels of a PTX file whose parameters are pointers and numbers.
//!
//! `cargo run --release -p emucuda --example speed` measures the three built-in kernels: chains of multiply-adds, a copy of
//! rows, and a product of matrices through shared memory.

use std::time::{Duration, Instant};

use emucuda::{Machine, Mode, parse};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// 64 multiply-adds on registers, 64 times.
fn multiply_adds() -> String {
    let chain: String = (0..64).map(|n| format!("fma.rn.f32 %f{}, %f{}, %f8, %f9;\n", n % 8, n % 8)).collect();
    let start: String = (0..10).map(|n| format!("mov.f32 %f{n}, 0f3F000000;\n")).collect();
    format!(
        "{HEAD}.visible .entry k(.param .u64 a, .param .u64 b)\n{{\n.reg .f32 %f<10>;\n.reg .b32 %r<4>;\n.reg .pred %p;\n{start}\
         mov.u32 %r1, 0;\nL:\n{chain}add.u32 %r1, %r1, 1;\nsetp.lt.u32 %p, %r1, 64;\n@%p bra L;\nret;\n}}\n"
    )
}

/// Every thread copies 16 floats, a warp a row at a time.
fn copy() -> String {
    let rows: String = (0..16).map(|n| format!("ld.global.f32 %f1, [%d1+{0}];\nst.global.f32 [%d2+{0}], %f1;\n", n * 512)).collect();
    format!(
        "{HEAD}.visible .entry k(.param .u64 a, .param .u64 b)\n{{\n.reg .f32 %f<10>;\n.reg .b32 %r<4>;\n.reg .b64 %d<4>;\n.reg .pred %p;\n\
         ld.param.u64 %d1, [a];\nld.param.u64 %d2, [b];\nmov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %tid.x;\nmad.lo.u32 %r1, %r1, 2048, %r2;\n\
         mul.wide.u32 %d3, %r1, 4;\nadd.u64 %d1, %d1, %d3;\nadd.u64 %d2, %d2, %d3;\n{rows}ret;\n}}\n"
    )
}

/// Rows through shared memory, with a barrier each way.
fn exchange() -> String {
    let rounds: String = (0..16)
        .map(|_| "st.shared.f32 [%r3], %f1;\nbar.sync 0;\nld.shared.f32 %f2, [%r4];\nadd.f32 %f1, %f1, %f2;\nbar.sync 0;\n".to_string())
        .collect();
    format!(
        "{HEAD}.visible .entry k(.param .u64 a, .param .u64 b)\n{{\n.reg .f32 %f<10>;\n.reg .b32 %r<8>;\n.shared .align 4 .b8 room[4096];\n\
         mov.u32 %r1, room;\nmov.u32 %r2, %tid.x;\nmov.f32 %f1, 0f3F800000;\nshl.b32 %r5, %r2, 2;\nadd.u32 %r3, %r1, %r5;\n\
         xor.b32 %r5, %r5, 128;\nadd.u32 %r4, %r1, %r5;\n{rounds}ret;\n}}\n"
    )
}

/// Time of this thread on a CPU where the system tells it (other work on the machine does not count then), else of the clock.
fn time(start: Instant) -> Duration {
    let on_cpu = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = on_cpu.and_then(|text| text.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

fn main() {
    let began = Instant::now();
    for (name, text) in [("multiply-adds", multiply_adds()), ("copy of rows", copy()), ("exchange in shared memory", exchange())] {
        let module = match parse(&text) {
            Ok(module) => module,
            Err(error) => return println!("{name}: {error}"),
        };
        for mode in [Mode::Fast, Mode::Checked] {
            let mut machine = Machine::new(mode);
            let bytes = 512 * 2048 * 4;
            let (Some(a), Some(b)) = (machine.allocate(bytes), machine.allocate(bytes)) else { return };
            let arguments: Vec<u8> = [a, b].iter().flat_map(|address| address.to_le_bytes()).collect();
            let mut best = f64::INFINITY;
            let mut instructions = 0;
            for _ in 0..5 {
                machine.reset_counters();
                let filled = machine.fill(a, &[0], bytes);
                let start = time(began);
                if let Err(fault) = filled.and_then(|()| machine.launch(&module.kernels[0], [512, 1, 1], [128, 1, 1], 0, &arguments)) {
                    println!("{name}: {fault}");
                    break;
                }
                best = best.min((time(began) - start).as_secs_f64());
                instructions = machine.counters()["k"].warp_instructions;
            }
            println!("{name:26} {mode:?}: {:6.1} ns per warp instruction ({instructions} of them)", best * 1e9 / instructions as f64);
        }
    }
}
