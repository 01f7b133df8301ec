//! Every case of every op: its gradient against finite differences, and its lower precisions against f64.

use cugrad::autograd::check;
use cugrad::device::{Device, memory};
use cugrad::ops::{self, Case};
use cugrad::tensor::DType;
use rayon::prelude::*;

/// Runs over the case table and reports all failures at once.
fn each_case(test: impl Fn(&Case) -> Result<(), String> + Sync) {
    memory::poison();
    let cases = ops::cases();
    assert!(!cases.is_empty());
    let failures: Vec<String> =
        cases.par_iter().filter_map(|case| test(case).err().map(|e| format!("{} {}: {e}", case.op.name(), case.name))).collect();
    assert!(failures.is_empty(), "{} of {} cases failed:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn gradients_agree_with_finite_differences() {
    each_case(|case| {
        let worst = check::check(&case.op, &case.draw(DType::F64, 1), &case.wanted(), 2).map_err(|e| e.to_string())?;
        if worst.elements == 0 {
            return Err("nothing was compared".into());
        }
        if worst.agrees() { Ok(()) } else { Err(format!("{worst:?}")) }
    });
}

/// Bounds on max |error| / max |value|: a few roundings of the stored type.
fn parity(dtype: DType, bound: f64) {
    each_case(|case| {
        let error = check::parity(&case.op, &case.draw(dtype, 3), &case.wanted(), dtype, Device::Cpu, 4).map_err(|e| e.to_string())?;
        if error <= bound { Ok(()) } else { Err(format!("{dtype} differs by {error:.3e}")) }
    });
}

#[test]
fn f32_agrees_with_f64() {
    parity(DType::F32, 1e-5);
}

#[test]
fn bf16_agrees_with_f64() {
    parity(DType::Bf16, 2e-2);
}

#[test]
fn f16_agrees_with_f64() {
    parity(DType::F16, 3e-3);
}
