//! Files and what is wrong with them: written and read back, damaged, of another network, of another time.

use super::*;
use proptest::prelude::*;
use safetensors::{SafeTensors, serialize};
use tempfile::tempdir;

fn sample() -> Checkpoint {
    let tensors = [
        ("fc1.weight", vec![2, 3], Array::F32(vec![1.0, -0.0, f32::MIN_POSITIVE / 2.0, f32::INFINITY, 0.1, -3.5])),
        ("bn1.num_batches_tracked", vec![], Array::I64(vec![i64::MIN])),
        ("optimizer.exp_avg", vec![1], Array::F32(vec![0.25])),
        ("trainer.loss_sum", vec![], Array::F64(vec![0.1])),
        ("empty", vec![0, 7], Array::F32(vec![])),
    ];
    Checkpoint {
        tensors: tensors.map(|(name, shape, array)| (name.into(), (shape, array))).into(),
        meta: BTreeMap::from([("epoch".into(), "3".into()), ("name \"ü\"\n".into(), "".into())]),
    }
}

fn file_bytes(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut bytes = Vec::new();
    checkpoint.write(&checkpoint.header().unwrap(), &mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Result<Checkpoint> {
    Checkpoint::read(&mut &*bytes, bytes.len() as u64)
}

/// A file with the given header and `data` zero bytes.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_saved_file_loads_back_and_replaces_the_old_one() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("last.safetensors");
    Checkpoint::default().save(&path).unwrap();
    assert_eq!(Checkpoint::load(&path).unwrap(), Checkpoint::default());
    sample().save(&path).unwrap();
    assert_eq!(Checkpoint::load(&path).unwrap(), sample());
    assert_eq!(fs::read(&path).unwrap(), file_bytes(&sample()));
    assert_eq!(names(directory.path()), ["last.safetensors"]);
}

#[test]
fn bits_of_nan_and_signed_zero_survive() {
    let bits = [0x7fc0_0001_u32, 0xffa5_5aa5, 0x8000_0000, 1];
    let values = bits.iter().map(|&b| f32::from_bits(b)).collect();
    let checkpoint = Checkpoint { tensors: [("w".into(), (vec![4], Array::F32(values)))].into(), ..Default::default() };
    let back = read(&file_bytes(&checkpoint)).unwrap();
    assert_eq!(back.f32("w").unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>(), bits);
}

/// The safetensors crate, which PyTorch's package is made of, reads what we write, and we read what it writes.
#[test]
fn the_reference_implementation_agrees() {
    let bytes = file_bytes(&sample());
    let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header % 8, 0);
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.len(), sample().tensors.len());
    let counter = theirs.tensor("bn1.num_batches_tracked").unwrap();
    assert_eq!((counter.dtype(), counter.shape(), counter.data()), (Dtype::I64, [].as_slice(), i64::MIN.to_le_bytes().as_slice()));
    let weight = theirs.tensor("fc1.weight").unwrap();
    assert_eq!((weight.shape(), &weight.data()[16..20]), ([2, 3].as_slice(), 0.1_f32.to_le_bytes().as_slice()));
    assert_eq!(read(&serialize(theirs.iter(), Some(sample().meta.into_iter().collect())).unwrap()).unwrap(), sample());
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("last.safetensors");
    sample().save(&path).unwrap();
    let error = replace(&path, |out| {
        out.write_all(&[1; 100_000])?;
        Err(ErrorKind::StorageFull.into())
    })
    .unwrap_err();
    assert!(error.message.contains(&path.display().to_string()) && error.message.contains("no storage space"), "{error}");
    assert!(error.hint.unwrap().contains("make room"));
    assert_eq!(Checkpoint::load(&path).unwrap(), sample());
    assert_eq!(names(directory.path()), ["last.safetensors"]);
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "kept").unwrap();
    let cases = [(file.join("last.safetensors"), "path is a file"), (directory.path().join("no/last"), "create the directory")];
    for (path, advice) in cases {
        let error = sample().save(&path).unwrap_err();
        assert!(error.message.contains(&path.display().to_string()), "{error}");
        assert!(error.hint.as_ref().unwrap().contains(advice), "{error:?}");
    }
    assert!(sample().save(directory.path()).unwrap_err().message.contains("not a regular file"));
    assert_eq!((names(directory.path()), fs::read_to_string(&file).unwrap()), (vec!["file".to_string()], "kept".to_string()));
}

#[test]
fn a_left_over_temporary_is_no_obstacle() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("last.safetensors");
    fs::write(directory.path().join(format!("last.safetensors.tmp-{}", std::process::id())), "left over").unwrap();
    sample().save(&path).unwrap();
    assert_eq!(names(directory.path()), ["last.safetensors"]);
}

#[test]
fn shapes_that_do_not_fit_are_not_saved() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("last.safetensors");
    let mut checkpoint = sample();
    checkpoint.tensors.insert("w".into(), (vec![3], Array::F32(vec![1.0])));
    let error = checkpoint.save(&path).unwrap_err();
    assert!(error.message.contains("tensor w of shape [3] with 1 numbers"), "{error}");
    assert!(names(directory.path()).is_empty());
}

#[test]
fn broken_files_say_how() {
    let good = file_bytes(&sample());
    let tensor = |info: &str, data| with_header(&format!("{{\"w\":{info}}}"), data);
    let cases: [(Vec<u8>, &str); 14] = [
        (vec![], "not a safetensors file: it has 0 bytes"),
        (vec![1, 2, 3], "not a safetensors file: it has 3 bytes"),
        (b"PK\x03\x04\0\0\x08\x08archive".to_vec(), "not a safetensors file: it does not begin with"),
        (u64::MAX.to_le_bytes().to_vec(), "not a safetensors file: it does not begin with"),
        (99_999_999_u64.to_le_bytes().to_vec(), "cut short: its header has 99999999 bytes, the file 8"),
        (good[..40].to_vec(), "cut short: its header"),
        (good[..good.len() - 1].to_vec(), "cut short: its tensors"),
        ([&good[..], &[0]].concat(), "not a safetensors file: its tensors have"),
        (with_header("{\"w\": oops}", 0), "its header is not JSON"),
        (with_header("{\"__metadata__\":{\"a\":1}}", 0), "__metadata__: invalid type"),
        (tensor("{\"dtype\":\"U32\",\"shape\":[1],\"data_offsets\":[0,4]}", 4), "tensor w has the dtype U32"),
        (tensor("{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}", 4), "tensor w: unknown variant `F31`"),
        (tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}", 4), "tensor w: F32 [2] does not fit its bytes 0..4"),
        (tensor("{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}", 4), "does not fit"),
    ];
    let directory = tempdir().unwrap();
    let path = directory.path().join("broken.safetensors");
    for (bytes, expected) in cases {
        fs::write(&path, &bytes).unwrap();
        let error = Checkpoint::load(&path).unwrap_err();
        assert!(error.message.starts_with(&path.display().to_string()) && error.message.contains(expected), "{error} / {expected}");
        assert!(error.hint.is_some());
    }
    let missing = directory.path().join("missing");
    assert_eq!(Checkpoint::load(&missing).unwrap_err().message, format!("{}: no such checkpoint", missing.display()));
    assert!(Checkpoint::load(directory.path()).unwrap_err().message.ends_with("not a file"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
    }

    /// Past the length, straight into the JSON and what follows it.
    #[test]
    fn any_header_is_read_or_refused(begin in any::<u64>(), end in any::<u64>(), n in any::<u64>(), m in 0..9_u64, data in 0..40_usize) {
        for dtype in ["F32", "F4", "U8", "I64"] {
            let header = format!("{{\"a\":{{\"dtype\":\"{dtype}\",\"shape\":[{n},{m}],\"data_offsets\":[{begin},{end}]}}}}");
            prop_assert!(read(&with_header(&header, data)).is_err());
        }
    }

    #[test]
    fn every_truncation_is_refused(at in any::<proptest::sample::Index>()) {
        let good = file_bytes(&sample());
        prop_assert!(read(&good[..at.index(good.len())]).is_err());
    }

    /// What a flipped bit leaves readable holds no more numbers than the file has bytes for.
    #[test]
    fn flipped_bits_never_panic(flips in proptest::collection::vec((any::<proptest::sample::Index>(), 0..8_u8), 1..6)) {
        let mut bytes = file_bytes(&sample());
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Ok(read) = read(&bytes) {
            prop_assert!(read.tensors.values().map(|(_, array)| array.len() * 4).sum::<usize>() <= bytes.len());
        }
    }

    #[test]
    fn any_numbers_survive(shape in proptest::collection::vec(0..4_usize, 0..4), seed in any::<u32>(), name in "[^_].*", key in ".*", text in ".*") {
        let n = shape.iter().product::<usize>() as u32;
        let floats = (0..n).map(|i| f32::from_bits(seed.wrapping_mul(i) >> 2)).collect();
        let checkpoint = Checkpoint {
            tensors: [(name, (shape.clone(), Array::F32(floats))), ("_i".into(), (shape, Array::I64((0..n as i64).collect())))].into(),
            meta: [(key, text)].into(),
        };
        let mut expected = checkpoint.clone();
        expected.meta.remove("format");
        prop_assert_eq!(read(&file_bytes(&checkpoint)).unwrap(), expected);
    }
}

fn expected(tensors: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    tensors.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect()
}

#[test]
fn a_fitting_checkpoint_compares_equal_whatever_the_trainer_keeps() {
    let model = expected(&[("fc1.weight", &[2, 3]), ("empty", &[0, 7]), ("bn1.num_batches_tracked", &[])]);
    compare(&model, &sample(), is_model).unwrap();
    compare(&expected(&[("optimizer.exp_avg", &[1])]), &sample(), |name| name.starts_with("optimizer.")).unwrap();
}

#[test]
fn all_differences_stand_in_one_error() {
    let zeros = |name: &str, shape: &[usize]| (name.to_string(), (shape.to_vec(), Array::F32(vec![0.0; shape.iter().product()])));
    let tensors = [zeros("fc1.wieght", &[2, 3]), zeros("module.fc2.bias", &[3]), zeros("head", &[1]), zeros("fc3.bias", &[10])];
    let found = Checkpoint { tensors: tensors.into(), ..Default::default() };
    let model = expected(&[("fc3.bias", &[7]), ("fc2.bias", &[3]), ("fc1.weight", &[2, 3])]);
    let error = compare(&model, &found, is_model).unwrap_err();
    let message = "the checkpoint does not fit the model: tensors 2 missing, 3 unexpected, 1 of another shape
  missing fc2.bias [3]
  missing fc1.weight [2, 3]
  unexpected fc1.wieght [2, 3]: did you mean fc1.weight?
  unexpected head [1]
  unexpected module.fc2.bias [3]: did you mean fc2.bias?
  shape fc3.bias: the checkpoint has [10], the model [7]";
    assert_eq!(error.message, message);
    assert!(error.hint.is_some());
}

#[test]
fn one_tensor_is_asked_for_by_name_and_dtype() {
    let checkpoint = sample();
    assert_eq!(checkpoint.i64("bn1.num_batches_tracked").unwrap(), [i64::MIN]);
    assert_eq!(checkpoint.f64("trainer.loss_sum").unwrap(), [0.1]);
    assert_eq!(checkpoint.f32("fc1.weigth").unwrap_err().message, "the checkpoint has no tensor fc1.weigth: did you mean fc1.weight?");
    assert_eq!(checkpoint.f32("trainer.loss_sum").unwrap_err().message, "the checkpoint's tensor trainer.loss_sum is F64, not F32");
}

#[test]
fn half_precision_is_widened() {
    let header =
        "{\"b\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,2]},\"h\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[2,4]}}";
    let mut bytes = with_header(header, 0);
    bytes.extend([bf16::from_f32(-1.5).to_le_bytes(), f16::from_f32(0.25).to_le_bytes()].concat());
    let saved = read(&bytes).unwrap();
    assert_eq!((saved.f32("b").unwrap(), saved.f32("h").unwrap()), ([-1.5].as_slice(), [0.25].as_slice()));
}

#[test]
fn edit_distances() {
    for (a, b, n) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("weight", "wieght", 2), ("a", "a", 0)] {
        assert_eq!((edits(a, b), edits(b, a)), (n, n), "{a} {b}");
    }
}
