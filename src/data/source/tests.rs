//! A tiny set in place of the large ones, and MNIST itself where it is at hand.

use std::fs;

use super::*;
use crate::data::download::tests::{Answer, Server};
use crate::data::idx::tests::{file, gzip};
use crate::data::{Options, Source, hex, load, load_known};
use sha2::{Digest, Sha256};

/// Three images of 2x2 to learn from, two to be judged on.
const TINY: Known = Known { name: "tiny", title: "Tiny", torchvision: "TINY", train: 3, test: 2, side: 2, classes: &["a", "b"], ..FASHION };

fn plain() -> [Vec<u8>; 4] {
    let pixels: Vec<u8> = (0..20).map(|i| i * 12).collect();
    [file(&[3, 2, 2], &pixels[..12]), file(&[3], &[0, 1, 0]), file(&[2, 2, 2], &pixels[12..]), file(&[2], &[1, 0])]
}

/// The set with the hashes of its gzip files, served by one server per list of answers, for the time of a test.
fn tiny(servers: &[&[Answer]]) -> (Known<'static>, Vec<Server>) {
    let gz = plain().map(|bytes| gzip(&bytes));
    let names = MNIST.files.map(|file| file.name);
    let served: Vec<(String, Vec<u8>)> = names.iter().map(ToString::to_string).zip(gz.clone()).collect();
    let servers: Vec<Server> = servers.iter().map(|answers| Server::new(served.clone(), answers)).collect();
    let urls: Vec<&'static str> = servers.iter().map(|server| &*server.url.clone().leak()).collect();
    let remote = |i: usize| Remote { name: names[i], size: gz[i].len() as u64, sha256: hex(&Sha256::digest(&gz[i])).leak() };
    (Known { mirrors: urls.leak(), files: [0, 1, 2, 3].map(remote), ..TINY }, servers)
}

fn options(dir: &Path) -> Options {
    Options { dir: dir.to_path_buf(), ..Options::default() }
}

fn write(folder: &Path, names: [&str; 4], files: &[Vec<u8>; 4]) {
    fs::create_dir_all(folder).unwrap();
    names.iter().zip(files).for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
}

fn silent(_: &str) {}

const README: &str = include_str!("../../../data/README.md");
const PLAIN: [&str; 4] = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

#[test]
fn a_set_is_downloaded_once_and_then_found() {
    let (known, servers) = tiny(&[&[Answer::Well]]);
    let dir = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    let splits = load_known(&known, false, &options(dir.path()), &mut |line| lines.push(line.to_string())).unwrap();
    assert_eq!((splits.train.len(), splits.test.labels.as_slice()), (3, [1, 0].as_slice()));
    assert_eq!((splits.train.image(1), splits.train.name.as_str()), ([48, 60, 72, 84].as_slice(), "Tiny train"));
    assert_eq!(splits.normalization, Normalization::of(&splits.train));
    assert_eq!(lines.len(), 4);
    let offline = Options { offline: true, ..options(dir.path()) };
    assert_eq!(load_known(&known, false, &offline, &mut silent).unwrap(), splits);
    assert_eq!(servers[0].requests.lock().unwrap().len(), 4);
}

#[test]
fn files_placed_by_hand_are_found_in_every_layout() {
    let (known, _) = tiny(&[]);
    let dotted = PLAIN.map(|name| name.replace("-idx", ".idx"));
    for folder in ["", "tiny", "TINY/raw"] {
        for names in [PLAIN, [0, 1, 2, 3].map(|i| dotted[i].as_str()), known.files.map(|file| file.name)] {
            let dir = tempfile::tempdir().unwrap();
            write(&dir.path().join(folder), names, &plain());
            let offline = Options { offline: true, ..options(dir.path()) };
            assert_eq!(load_known(&known, false, &offline, &mut silent).unwrap().train.labels, [0, 1, 0], "{folder} {names:?}");
        }
    }
}

#[test]
fn a_mirror_given_is_asked_first_and_failures_tell_how_to_do_without() {
    let (known, servers) = tiny(&[&[Answer::Missing], &[Answer::Well]]);
    let other = Known { mirrors: &known.mirrors[..1], ..known };
    let dir = tempfile::tempdir().unwrap();
    let e = load_known(&other, false, &options(dir.path()), &mut silent).unwrap_err();
    assert_eq!(e.exit_code(), 4);
    assert!(e.message.contains("train-images-idx3-ubyte.gz of Tiny could not be downloaded:\n  http://127.0.0.1:"), "{}", e.message);
    assert!(e.message.contains("the server answered 404"));
    let hint = e.hint.unwrap();
    assert!(hint.contains(&dir.path().join("tiny").display().to_string()) && hint.contains("--mirror"), "{hint}");
    assert!(known.files.iter().all(|file| hint.contains(file.sha256) && hint.contains(file.name)), "{hint}");

    let mirror = Options { mirror: Some(servers[1].url.clone()), ..options(dir.path()) };
    load_known(&other, false, &mirror, &mut silent).unwrap();
    assert_eq!(servers[0].requests.lock().unwrap().len(), 1);
}

#[test]
fn offline_is_an_error_and_only_auto_falls_back() {
    let (known, _) = tiny(&[]);
    let dir = tempfile::tempdir().unwrap();
    let offline = Options { offline: true, seed: 3, ..options(dir.path()) };
    let e = load_known(&known, false, &offline, &mut silent).unwrap_err();
    assert!(e.message.contains("offline") && e.message.contains("t10k-labels-idx1-ubyte.gz"), "{}", e.message);
    let mut lines = Vec::new();
    let splits = load_known(&known, true, &offline, &mut |line| lines.push(line.to_string())).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (12_000, 2_000));
    assert!(lines.len() == 1 && lines[0].contains("generated digits") && !lines[0].contains('\n'), "{lines:?}");
    // The same through the front door.
    assert_eq!(load(&Source::Auto, &offline, &mut silent).unwrap(), splits);
    assert_eq!(load(&Source::Synthetic, &offline, &mut silent).unwrap(), splits);
    assert!(load(&Source::Mnist, &offline, &mut silent).is_err());
}

#[test]
fn auto_falls_back_when_no_mirror_answers() {
    let (known, _) = tiny(&[&[Answer::Missing]]);
    let dir = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    load_known(&known, true, &options(dir.path()), &mut |line| lines.push(line.to_string())).unwrap();
    assert!(lines[1].starts_with("train-images-idx3-ubyte.gz of Tiny could not be downloaded: using built-in"), "{lines:?}");
}

#[test]
fn a_damaged_file_is_an_error_even_for_auto_and_stays() {
    let (known, servers) = tiny(&[&[Answer::Well]]);
    let dir = tempfile::tempdir().unwrap();
    load_known(&known, true, &options(dir.path()), &mut silent).unwrap();
    let path = dir.path().join("tiny").join(known.files[1].name);
    let whole = fs::read(&path).unwrap();
    let cut = &whole[..whole.len() - 3];
    fs::write(&path, cut).unwrap();
    let e = load_known(&known, true, &options(dir.path()), &mut silent).unwrap_err();
    assert!(e.message.contains("train-labels-idx1-ubyte.gz") && e.hint.unwrap().contains("delete"), "{}", e.message);
    assert_eq!(fs::read(&path).unwrap(), cut);
    assert_eq!(servers[0].requests.lock().unwrap().len(), 4);
}

#[test]
fn wrong_counts_labels_and_hashes_are_told_apart() {
    let (known, _) = tiny(&[]);
    let dir = tempfile::tempdir().unwrap();
    let error = |known: &Known, which: usize, bytes: Vec<u8>| {
        let mut files = plain();
        files[which] = bytes;
        write(dir.path(), PLAIN, &files);
        load_known(known, true, &options(dir.path()), &mut silent).unwrap_err().message
    };
    let message = error(&known, 0, file(&[3, 1, 4], &[0; 12]));
    assert!(message.contains("holds [3, 1, 4] bytes") && message.contains("holds [3, 2, 2]"), "{message}");
    let message = error(&known, 3, file(&[2], &[0, 2]));
    assert!(message.contains("t10k-labels-idx1-ubyte: Tiny test: the label of image 1 is 2, but there are 2 classes"), "{message}");
    let strict = Known { plain_md5: MNIST.plain_md5, ..known };
    let message = error(&strict, 1, file(&[3], &[0, 0, 0]));
    assert!(message.contains("this is not train-images-idx3-ubyte.gz of Tiny: SHA-256 "), "{message}");
}

#[test]
fn the_tables_are_well_formed_and_the_readme_says_the_same() {
    for set in [MNIST, FASHION, KMNIST] {
        assert!(set.files.iter().all(|file| file.sha256.len() == 64 && file.name.ends_with(".gz")));
        assert!(set.files.iter().all(|file| README.contains(&format!("{} | {} | {} |", file.name, file.size, file.sha256))));
        assert!(set.mirrors.iter().all(|mirror| README.contains(mirror)));
        assert!(set.classes.len() == 10 && set.mirrors.iter().all(|mirror| mirror.starts_with("https://")));
    }
    for name in ["auto", "mnist", "fashion", "kmnist", "cifar10", "synthetic"] {
        assert_eq!(name.parse::<Source>().unwrap().to_string(), name);
    }
    let e = "cifar".parse::<Source>().unwrap_err();
    assert_eq!(
        (e.exit_code(), e.hint.as_deref()),
        (2, Some("choose one of auto, mnist, fashion, kmnist, cifar10, synthetic, or folder:DIR, list:FILE, list:TRAIN,TEST"))
    );
}

#[test]
fn mnist_itself_is_read_and_recognised() {
    let Some(data) = std::env::var_os("CUGRAD_DATA") else {
        println!("skipped: CUGRAD_DATA names no folder that holds mnist/");
        return;
    };
    let offline = Options { offline: true, ..options(Path::new(&data)) };
    let splits = load(&Source::Mnist, &offline, &mut silent).unwrap();
    assert_eq!((splits.train.len(), splits.test.len(), splits.train.image_len()), (60_000, 10_000, 784));
    assert_eq!(splits.train.labels[..10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]);
    let computed = Normalization::of(&splits.train);
    assert!((computed.mean[0] - 0.1307).abs() < 5e-5 && (computed.std[0] - 0.3081).abs() < 5e-5, "{computed:?}");

    let paths = MNIST.find(Path::new(&data)).map(Option::unwrap);
    for (path, md5) in paths.iter().zip(MNIST.plain_md5.unwrap()) {
        let array = if path.display().to_string().contains("idx3") { idx::read_images(path) } else { idx::read_labels(path) };
        assert_eq!(array.unwrap().md5(), md5);
    }
    // The same files under another set's roof are recognised for what they are.
    let e = FASHION.load(&paths).unwrap_err();
    assert!(
        e.message.contains("this is train-images-idx3-ubyte.gz of MNIST, not train-images-idx3-ubyte.gz of Fashion-MNIST"),
        "{}",
        e.message
    );
}
