//! Folders of real pictures, whole and broken, read twice.

use image::{GrayImage, Luma, Rgb, RgbImage};
use std::collections::BTreeMap;

use super::*;
use crate::data::load;

/// Pictures of one colour each: 12 red ones, 8 grey ones, in several formats and sizes.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for class in ["grey", "red"] {
        fs::create_dir_all(dir.path().join("set").join(class)).unwrap();
    }
    for i in 0..12u32 {
        let ending = ["png", "bmp", "jpg"][i as usize % 3];
        RgbImage::from_pixel(6 + i, 5, Rgb([200 + i as u8, 0, 0])).save(dir.path().join(format!("set/red/{i}.{ending}"))).unwrap();
    }
    for i in 0..8u8 {
        GrayImage::from_pixel(4, 4, Luma([10 * i])).save(dir.path().join(format!("set/grey/{i}.png"))).unwrap();
    }
    dir
}

fn options(dir: &tempfile::TempDir) -> Options {
    Options { dir: dir.path().join("data"), input: Some([3, 4, 4]), ..Options::default() }
}

fn source(dir: &tempfile::TempDir) -> Source {
    Source::Folder(dir.path().join("set"))
}

fn loaded(source: &Source, options: &Options) -> (Result<Splits>, Vec<String>) {
    let mut lines = Vec::new();
    let splits = load(source, options, &mut |line| lines.push(line.to_string()));
    (splits, lines)
}

#[test]
fn a_folder_becomes_a_data_set() {
    let dir = folder();
    let (splits, lines) = loaded(&source(&dir), &options(&dir));
    let splits = splits.unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (16, 4));
    for data in [&splits.train, &splits.test] {
        data.check().unwrap();
        assert_eq!((data.classes.as_slice(), data.image_len()), (["grey".to_string(), "red".to_string()].as_slice(), 48));
        for (i, &label) in data.labels.iter().enumerate() {
            let (r, g, b) = (data.image(i)[0], data.image(i)[16], data.image(i)[32]);
            if label == 0 { assert!(r == g && g == b) } else { assert!(r >= 197 && g < 6 && b < 6, "{r} {g} {b}") }
        }
    }
    assert_eq!(splits.normalization, Normalization::of(&splits.train));
    assert!(lines.len() == 1 && lines[0].contains("16 pictures to learn from and 4 to be judged on"), "{lines:?}");
    // The second time from what was remembered, without a word.
    let (again, lines) = loaded(&source(&dir), &options(&dir));
    assert!(again.unwrap() == splits && lines.is_empty(), "{lines:?}");
    // The lists themselves are data.
    let folder = lists(&source(&dir), &options(&dir));
    let both = Source::List(folder.join("train.txt"), Some(folder.join("val.txt")));
    let (listed, _) = loaded(&both, &options(&dir));
    let listed = listed.unwrap();
    let histogram = |data: &Dataset| {
        (0..data.len()).fold(BTreeMap::new(), |mut of, i| {
            *of.entry((data.image(i).to_vec(), data.labels[i])).or_insert(0) += 1;
            of
        })
    };
    assert!(histogram(&listed.train) == histogram(&splits.train) && histogram(&listed.test) == histogram(&splits.test));
}

#[test]
fn colour_size_limit_and_judging_are_as_asked_for() {
    let dir = folder();
    let with = |change: &dyn Fn(&mut Options)| {
        let mut options = options(&dir);
        change(&mut options);
        loaded(&source(&dir), &options).0.unwrap()
    };
    let shape = |data: &Dataset| [data.channels, data.height, data.width];
    assert_eq!(shape(&with(&|o| o.input = Some([1, 7, 9])).train), [1, 7, 9]);
    assert_eq!(shape(&with(&|o| o.size = Some([2, 3])).test), [3, 2, 3]);
    assert_eq!(shape(&with(&|o| (o.input, o.size) = (None, Some([5, 5]))).test)[1..], [5, 5]);
    let limited = with(&|o| o.limit = Some(2));
    assert_eq!((limited.train.len(), limited.test.len()), (2, 2));
    assert_eq!(limited.train.images, with(&|_| ()).train.images[..96]);
    let judged = with(&|o| o.judge_all = true);
    assert_eq!((judged.train.len(), judged.test.len()), (0, 20));
    assert_ne!(with(&|o| o.seed = 1).train, with(&|_| ()).train);
    let all = vec![Picture { path: "a".into(), class: 0 }; 2000];
    assert!(decoded(&all, [3, 4096, 4096], &dir.path().join("none"), &mut |_| ()).unwrap_err().message.contains("do not fit into 16 GB"));
}

#[test]
fn changed_pictures_are_read_again_and_a_damaged_cache_is_made_again() {
    let dir = folder();
    let before = loaded(&source(&dir), &options(&dir)).0.unwrap();
    let red = dir.path().join("set/red/0.png");
    RgbImage::from_pixel(40, 40, Rgb([255, 255, 255])).save(&red).unwrap();
    let after = loaded(&source(&dir), &options(&dir)).0.unwrap();
    let white = |splits: &Splits| splits.train.images.iter().chain(&splits.test.images).filter(|&&v| v == 255).count();
    assert_eq!((white(&before), white(&after)), (0, 48));
    let file = memory(&source(&dir), &options(&dir).dir).join("pictures-3x4x4.cache");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 8;
    fs::write(&file, &bytes).unwrap();
    let (again, lines) = loaded(&source(&dir), &options(&dir));
    assert!(again.unwrap() == after && lines.len() == 1 && lines[0].contains("damaged"), "{lines:?}");
    assert!(loaded(&source(&dir), &options(&dir)).1.is_empty());
    // What is in the cache is really used: the picture is changed behind its back, with the same stamp.
    let stamp = fs::metadata(&red).unwrap().modified().unwrap();
    let length = fs::metadata(&red).unwrap().len() as usize;
    fs::write(&red, vec![0; length]).unwrap();
    fs::File::options().append(true).open(&red).unwrap().set_modified(stamp).unwrap();
    assert!(loaded(&source(&dir), &options(&dir)).0.unwrap() == after);
}

#[test]
fn broken_pictures_are_named_and_may_be_skipped() {
    let dir = folder();
    for name in ["red/0.png", "red/2.jpg", "grey/4.png"] {
        fs::write(dir.path().join("set").join(name), "no picture").unwrap();
    }
    let e = loaded(&source(&dir), &options(&dir)).0.unwrap_err();
    assert_eq!(e.exit_code(), 4);
    assert!(e.message.starts_with("3 of 20 pictures cannot be read:\n  "), "{}", e.message);
    assert!(["0.png", "2.jpg", "4.png"].iter().all(|name| e.message.contains(name)) && e.hint.unwrap().contains("--skip-broken"));
    let skip = Options { skip_broken: true, ..options(&dir) };
    let (splits, lines) = loaded(&source(&dir), &skip);
    let splits = splits.unwrap();
    assert_eq!(splits.train.len() + splits.test.len(), 17);
    assert!(lines.last().unwrap().contains("3 of 20 pictures cannot be read and are left out"), "{lines:?}");
    // From the cache, too, and again with a word.
    let (again, lines) = loaded(&source(&dir), &skip);
    assert!(again.unwrap() == splits && lines.len() == 1);
    for i in 0..12 {
        let ending = ["png", "bmp", "jpg"][i % 3];
        fs::write(dir.path().join(format!("set/red/{i}.{ending}")), "").unwrap();
    }
    let e = loaded(&source(&dir), &options(&dir)).0.unwrap_err();
    assert!(e.message.contains("13 of 20") && e.message.contains("and 8 more"), "{}", e.message);
    let (_, lines) = loaded(&source(&dir), &skip);
    assert!(lines.iter().any(|line| line.contains("nothing is learned of the classes red")), "{lines:?}");
}

#[test]
fn a_validation_folder_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    for (part, count) in [("train", 10), ("val", 4), ("test", 3)] {
        for class in ["a", "b"] {
            let folder = dir.path().join("set").join(part).join(class);
            fs::create_dir_all(&folder).unwrap();
            for i in 0..count {
                let grey = match part {
                    "train" => 10,
                    "val" => 20,
                    _ => 30,
                };
                GrayImage::from_pixel(2, 2, Luma([grey])).save(folder.join(format!("{i}.png"))).unwrap();
            }
        }
    }
    let options = Options { input: Some([1, 2, 2]), ..options(&dir) };
    let splits = loaded(&source(&dir), &options).0.unwrap();
    assert_eq!((splits.train.len(), splits.test.len(), splits.val), (28, 6, 8));
    let (train, val) = splits.parts(0.05, 0).unwrap();
    assert!(train.iter().all(|&i| splits.train.image(i as usize)[0] == 10) && train.len() == 20);
    assert!(val.iter().all(|&i| splits.train.image(i as usize)[0] == 20) && val.len() == 8);
    // A limit holds for each part, and a broken picture is missing from its own.
    fs::write(dir.path().join("set/val/a/0.png"), "").unwrap();
    let splits = loaded(&source(&dir), &Options { skip_broken: true, ..options.clone() }).0.unwrap();
    assert_eq!((splits.train.len(), splits.val), (27, 7));
    let splits = loaded(&source(&dir), &Options { limit: Some(5), skip_broken: true, ..options }).0.unwrap();
    assert!(splits.train.len() - splits.val == 5 && splits.val >= 4 && splits.test.len() == 5);
}

#[test]
fn a_data_directory_that_cannot_be_written_to_costs_two_remarks() {
    let dir = folder();
    fs::write(dir.path().join("data"), "").unwrap();
    let (splits, lines) = loaded(&source(&dir), &options(&dir));
    assert_eq!((splits.unwrap().train.len(), lines.len()), (16, 2), "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("cannot be kept")), "{lines:?}");
}

#[test]
fn sources_are_written_as_they_are_read() {
    for text in ["folder:a/b c", "list:a.txt", "list:a.txt,b/c.txt"] {
        assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
    }
    for bad in ["folder:", "list:", "list:a,", "list:,a", "Folder:a", "nope:a"] {
        assert_eq!(bad.parse::<Source>().unwrap_err().exit_code(), 2, "{bad}");
    }
    let dir = folder();
    let same = |a: &Path, b: &Path| Source::Folder(a.into()).same(&Source::Folder(b.into()));
    assert!(same(&dir.path().join("set"), &dir.path().join("set/../set/.")) && !same(dir.path(), &dir.path().join("set")));
    assert!(Source::Folder("a".into()).absolute().to_string().len() > "folder:a".len());
}
