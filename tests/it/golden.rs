//! The golden fixtures: what PyTorch computed, and the formula that its inputs came from.
//!
//! `tests/golden/README.md` says what the files hold and `tests/golden/record.py` which stream of the formula is what.

#![allow(clippy::unwrap_used)]

use serde_json::Value;

/// Element `i` of stream `p`, in [-1, 1).
pub fn frac(p: u64, i: u64) -> f64 {
    const MASK: u64 = 0xFFFF_FFFF;
    let mut h = i.wrapping_mul(2_654_435_761).wrapping_add((p + 1) * 40503 + 12345) & MASK;
    h ^= h >> 15;
    h = (h * 2_246_822_519) & MASK;
    h ^= h >> 13;
    h as f64 / 4_294_967_296.0 * 2.0 - 1.0
}

/// The first `count` elements of stream `p`, times `scale`.
pub fn values(p: u64, count: usize, scale: f64) -> Vec<f64> {
    (0..count as u64).map(|i| scale * frac(p, i)).collect()
}

/// What a file holds under `key`, after a check that its inputs came from our formula.
pub fn load(file: &str, key: &str) -> Value {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut all: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for p in [0, 1000] {
        // The parser may be off in the last bit.
        close(&values(p, 4, 1.0), &floats(&all["formula"][p.to_string()]), 4.0 * f64::EPSILON, &format!("{file}: formula"));
    }
    all[key].take()
}

/// All numbers in a list of lists of any depth, in order.
pub fn floats(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(list) => list.iter().flat_map(floats).collect(),
        number => vec![number.as_f64().unwrap_or_else(|| panic!("{number} is not a number"))],
    }
}

/// Every number within `tolerance` times itself.
pub fn close(ours: &[f64], theirs: &[f64], tolerance: f64, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}: how many");
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let error = (a - b).abs() / b.abs().max(f64::MIN_POSITIVE);
        assert!(error <= tolerance, "{what}: element {i} is {a:?}, PyTorch's {b:?}: relative error {error:.1e}");
    }
}
