//! For unit tests: runs a few lines of PTX on one warp and gives what each lane stored.

use crate::{Fault, FaultKind, Machine, Mode, parse};

/// A kernel around these lines. Before them: `%in` points at this lane's 8 input words, `%out` at its 8 output words, `%tid` is the
/// lane; registers `%r<32>`, `%h<16>`, `%f<16>`, `%d<16>` (64-bit), `%x<16>` (f64), `%p<8>`.
pub(crate) fn kernel(declarations: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.file 1 \"/some/where/test.cu\"\n{declarations}\n\
         .visible .entry k(.param .u64 k_in, .param .u64 k_out)\n.maxntid 1024, 1, 1\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<16>;\n.reg .b32 %r<32>;\n.reg .b32 %lane;\n.reg .f32 %f<16>;\n.reg .b64 %d<16>;\n.reg .f64 %x<16>;\n\
         .reg .b64 %in, %out, %step;\n.reg .b32 %number;\n.loc 1 7 0\nld.param.u64 %in, [k_in];\nld.param.u64 %out, [k_out];\n\
         mov.u32 %lane, %tid.x;\nmul.wide.u32 %step, %lane, 32;\nadd.s64 %in, %in, %step;\nadd.s64 %out, %out, %step;\n{body}\nret;\n}}\n"
    )
}

/// Runs the lines on `threads` lanes in this mode; every lane has the same input words.
pub(crate) fn try_run(mode: Mode, threads: u32, declarations: &str, body: &str, input: &[u32]) -> Result<Vec<[u32; 8]>, Fault> {
    let module = parse(&kernel(declarations, body)).map_err(|error| Fault::new(FaultKind::Unsupported, error.message))?;
    let mut machine = Machine::new(mode);
    let bytes = 32 * threads as u64;
    let (source, target) = (machine.allocate(bytes).unwrap(), machine.allocate(bytes).unwrap());
    let mut words = input.to_vec();
    words.resize(8, 0);
    let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    machine.fill(source, &words, threads as u64)?;
    machine.fill(target, &[0], bytes)?;
    let arguments: Vec<u8> = [source, target].iter().flat_map(|address| address.to_le_bytes()).collect();
    machine.launch(module.kernel("k").unwrap(), [1; 3], [threads, 1, 1], 0, &arguments)?;
    let mut out = vec![0; bytes as usize];
    machine.read(target, &mut out)?;
    let words: Vec<u32> = out.chunks(4).map(|chunk| u32::from_le_bytes(chunk.try_into().unwrap())).collect();
    Ok(words.chunks(8).map(|chunk| chunk.try_into().unwrap()).collect())
}

/// Runs the lines in both modes, which must agree.
pub(crate) fn run(threads: u32, declarations: &str, body: &str, input: &[u32]) -> Vec<[u32; 8]> {
    let checked = try_run(Mode::Checked, threads, declarations, body, input).unwrap();
    let fast = try_run(Mode::Fast, threads, declarations, body, input).unwrap();
    assert_eq!(checked, fast);
    checked
}

/// The fault that checked mode finds.
pub(crate) fn fault(threads: u32, declarations: &str, body: &str) -> Fault {
    try_run(Mode::Checked, threads, declarations, body, &[]).unwrap_err()
}

/// One instruction on 32-bit operands, in the form `add.s32 %r4, %r1, %r2` (sources %r1, %r2, %r3).
pub(crate) fn word(instruction: &str, sources: &[u32]) -> u32 {
    let loads: String = (0..sources.len()).map(|n| format!("ld.global.u32 %r{}, [%in+{}];\n", n + 1, 4 * n)).collect();
    run(32, "", &format!("{loads}{instruction};\nst.global.u32 [%out], %r4;"), sources)[0][0]
}

/// The same on f32.
pub(crate) fn float(instruction: &str, sources: &[f32]) -> f32 {
    let bits: Vec<u32> = sources.iter().map(|x| x.to_bits()).collect();
    let loads: String = (0..sources.len()).map(|n| format!("ld.global.f32 %f{}, [%in+{}];\n", n + 1, 4 * n)).collect();
    f32::from_bits(run(32, "", &format!("{loads}{instruction};\nst.global.f32 [%out], %f4;"), &bits)[0][0])
}

/// One instruction on 64-bit operands (sources %d1..%d3, result %d4, or %x for f64: both are loaded).
pub(crate) fn double(instruction: &str, sources: &[u64]) -> u64 {
    let bits: Vec<u32> = sources.iter().flat_map(|x| [*x as u32, (*x >> 32) as u32]).collect();
    let loads: String =
        (0..sources.len()).map(|n| format!("ld.global.u64 %d{0}, [%in+{1}];\nld.global.f64 %x{0}, [%in+{1}];\n", n + 1, 8 * n)).collect();
    let store = if instruction.contains("%x4") { "f64 [%out], %x4" } else { "u64 [%out], %d4" };
    let out = run(32, "", &format!("{loads}{instruction};\nst.global.{store};"), &bits)[0];
    out[0] as u64 | (out[1] as u64) << 32
}
