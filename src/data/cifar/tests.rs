//! A tiny set in place of the large one, and CIFAR-10 itself where it is at hand.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::data::download::tests::{Answer, Server};
use crate::data::idx::tests::gzip;
use crate::data::{Source, hex, load};

const NAMES: [&str; 3] = ["data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"];

/// Two pictures of 2x2 in each of three files.
const TINY: Batches = Batches { name: "tiny", title: "Tiny", files: &NAMES, records: 2, side: 2, classes: &["a", "b"], ..CIFAR10 };

/// Labels 0 and 1, pixels counting up.
fn content(file: u8) -> Vec<u8> {
    let record = |i: u8| std::iter::once(i).chain((0..12).map(move |p| 100 * i + 30 * file + p));
    (0..2).flat_map(record).collect()
}

/// A tar archive of files, a folder first, as Python's `tarfile` writes it.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut entry = |name: &str, kind: u8, bytes: &[u8]| {
        let mut head = [0; BLOCK];
        head[..name.len()].copy_from_slice(name.as_bytes());
        head[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
        head[148..156].fill(b' ');
        head[156] = kind;
        let sum: u32 = head.iter().map(|&b| u32::from(b)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend(head);
        out.extend(bytes);
        out.resize(out.len().div_ceil(BLOCK) * BLOCK, 0);
    };
    entry("cifar-10-batches-bin/", b'5', &[]);
    files.iter().for_each(|(name, bytes)| entry(&format!("cifar-10-batches-bin/{name}"), b'0', bytes));
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

fn archive() -> Vec<u8> {
    tar(&[("readme.html", b"hello"), (NAMES[1], &content(1)), (NAMES[0], &content(0)), (NAMES[2], &content(2))])
}

/// The set with the hash of its archive, served for the time of a test.
fn tiny(answers: &[Answer]) -> (Batches<'static>, Server) {
    let bytes = gzip(&archive());
    let remote = Remote { size: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)).leak(), ..CIFAR10.archive };
    let server = Server::new(vec![(remote.name.into(), bytes)], answers);
    (Batches { mirrors: vec![&*server.url.clone().leak()].leak(), archive: remote, ..TINY }, server)
}

fn options(dir: &tempfile::TempDir, offline: bool) -> Options {
    Options { dir: dir.path().into(), offline, ..Options::default() }
}

#[test]
fn the_archive_is_downloaded_once_and_its_folder_is_read_too() {
    let (set, server) = tiny(&[Answer::Cut(100), Answer::Well]);
    let dir = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    let splits = set.load(&options(&dir, false), &mut |line| lines.push(line.to_string())).unwrap();
    assert_eq!((splits.train.labels.as_slice(), splits.test.labels.as_slice()), ([0, 1, 0, 1].as_slice(), [0, 1].as_slice()));
    assert_eq!((splits.train.image(2)[0], splits.test.image(1)[11]), (30, 171));
    assert_eq!((splits.train.channels, splits.train.height, splits.test.name.as_str()), (3, 2, "Tiny test"));
    assert_eq!(splits.normalization, Normalization::of(&splits.train));
    assert_eq!((lines.len(), server.requests.lock().unwrap().len()), (1, 2));
    assert_eq!(set.load(&options(&dir, true), &mut |line| panic!("{line}")).unwrap(), splits);

    for place in ["tiny/cifar-10-batches-bin", "tiny", "cifar-10-batches-bin", ""] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(place);
        fs::create_dir_all(&folder).unwrap();
        (0..3).for_each(|i| fs::write(folder.join(NAMES[i]), content(i as u8)).unwrap());
        assert_eq!(set.load(&options(&dir, true), &mut |line| panic!("{line}")).unwrap(), splits, "{place}");
    }
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    let (set, _server) = tiny(&[Answer::Missing]);
    let dir = tempfile::tempdir().unwrap();
    let error = |offline| set.load(&options(&dir, offline), &mut |_| ()).unwrap_err();
    let e = error(true);
    assert!(e.exit_code() == 4 && e.message.contains("offline") && e.hint.unwrap().contains(set.archive.sha256), "{}", e.message);
    assert!(error(false).message.contains("cifar-10-binary.tar.gz of Tiny could not be downloaded:\n  http"));
    fs::create_dir_all(dir.path().join("tiny")).unwrap();
    let path = dir.path().join("tiny/cifar-10-binary.tar.gz");
    fs::write(&path, "precious").unwrap();
    assert!(error(false).message.contains("this is not cifar-10-binary.tar.gz of Tiny: SHA-256 "));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::write(dir.path().join("tiny").join(NAMES[0]), content(0)).unwrap();
    assert!(error(true).message.contains("data_batch_2.bin: cannot be read"));
    fs::write(dir.path().join("tiny").join(NAMES[1]), &content(1)[1..]).unwrap();
    assert!(error(true).message.contains("has 25 bytes, but data_batch_2.bin of Tiny has 26"));
    let mut odd = content(1);
    odd[13] = 2;
    fs::write(dir.path().join("tiny").join(NAMES[1]), odd).unwrap();
    fs::write(dir.path().join("tiny").join(NAMES[2]), content(2)).unwrap();
    assert!(error(true).message.contains("the label of image 3 is 2"));
}

#[test]
fn archives_are_read_whole_or_not_at_all() {
    let bytes = archive();
    let error = |bytes: &[u8]| unpack(bytes, &NAMES, 26).unwrap_err();
    assert_eq!(unpack(bytes.as_slice(), &NAMES, 26).unwrap(), [content(0), content(1), content(2)]);
    assert!(error(&bytes[..bytes.len() - 2 * BLOCK - 502]).contains("ends within test_batch.bin"));
    assert!(error(&bytes[..700]).contains("damaged"));
    assert_eq!(error(&tar(&[(NAMES[0], &content(0))])), "the archive has no data_batch_2.bin");
    assert_eq!(error(&tar(&[(NAMES[0], &content(0)[1..])])), "its data_batch_1.bin has 25 bytes instead of 26");
    let mut sum = bytes.clone();
    sum[3] ^= 1;
    assert!(error(&sum).contains("wrong sum"));
}

proptest! {
    #[test]
    fn noise_never_panics(flips in prop::collection::vec((0usize..6000, any::<u8>()), 0..5), cut in 0usize..6000, repair: bool) {
        let mut bytes = archive();
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
            if repair {
                // With right sums, so that names and sizes are looked at.
                let block = at / BLOCK * BLOCK;
                bytes[block + 148..block + 156].fill(b' ');
                let sum: u32 = bytes[block..block + BLOCK].iter().map(|&b| u32::from(b)).sum();
                bytes[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        bytes.truncate(cut);
        if let Ok(files) = unpack(bytes.as_slice(), &NAMES, 26) {
            prop_assert!(files.iter().all(|file| file.len() == 26));
        }
    }
}

#[test]
fn the_readme_says_the_same() {
    let readme = include_str!("../../../data/README.md");
    let Remote { name, size, sha256 } = CIFAR10.archive;
    assert!(readme.contains(&format!("{name} | {size} | {sha256} |")) && CIFAR10.mirrors.iter().all(|mirror| readme.contains(mirror)));
    assert_eq!((CIFAR10.size(), CIFAR10.classes.len()), (30_730_000, 10));
    assert_eq!("cifar10".parse::<Source>().unwrap(), Source::Cifar10);
}

#[test]
fn cifar10_itself_is_read() {
    let there = std::env::var_os("CUGRAD_DATA").map(PathBuf::from).filter(|dir| CIFAR10.find(dir).is_some());
    let Some(dir) = there else {
        println!("skipped: CUGRAD_DATA names no folder that holds CIFAR-10");
        return;
    };
    let splits = load(&Source::Cifar10, &Options { dir, offline: true, ..Options::default() }, &mut |_| ()).unwrap();
    assert_eq!((splits.train.len(), splits.test.len(), splits.train.image_len()), (50_000, 10_000, 3072));
    assert_eq!(splits.train.labels[..5], [6, 9, 9, 4, 1]);
    for (mean, expected) in splits.normalization.mean.iter().zip([0.4914, 0.4822, 0.4465]) {
        assert!((mean - expected).abs() < 1e-4, "{:?}", splits.normalization);
    }
}
