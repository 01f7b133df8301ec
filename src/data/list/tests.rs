//! Good lists, bad lists, and noise.

use proptest::prelude::*;

use super::*;

/// A folder of empty files and lists: nothing is decoded here.
fn folder(pictures: &[&str], lists: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (file, text) in pictures.iter().map(|&file| (file, "")).chain(lists.iter().copied()) {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn listed(text: &str) -> (Result<Listing>, Vec<String>, tempfile::TempDir) {
    let dir = folder(&["a.png", "b c.png", "d/e.png"], &[("l.txt", text)]);
    let mut lines = Vec::new();
    let listing = list(&dir.path().join("l.txt"), None, &mut |line| lines.push(line.to_string()));
    (listing, lines, dir)
}

fn found(listing: &Listing) -> Vec<(String, u8)> {
    let name = |picture: &Picture| picture.path.file_name().unwrap().to_str().unwrap().to_string();
    listing.train.iter().map(|picture| (name(picture), picture.class)).collect()
}

fn pairs(of: [(&str, u8); 3]) -> Vec<(String, u8)> {
    of.map(|(name, class)| (name.to_string(), class)).to_vec()
}

#[test]
fn labels_are_names_or_numbers() {
    let listing = listed("a.png dog\nb c.png cat\n\nd/e.png\tbig cat\n").0.unwrap();
    assert_eq!(listing.classes, ["big cat", "cat", "dog"]);
    assert_eq!(found(&listing), pairs([("a.png", 2), ("b c.png", 1), ("e.png", 0)]));
    // As other editors write it.
    let listing = listed("\u{feff}a.png   2\r\nb c.png 00\r\nd/e.png 1  \r\n").0.unwrap();
    assert_eq!(listing.classes, ["0", "1", "2"]);
    assert_eq!(found(&listing), pairs([("a.png", 2), ("b c.png", 0), ("e.png", 1)]));
    // Years are names.
    assert_eq!(listed("a.png 1999\nb c.png 2000\n").0.unwrap().classes, ["1999", "2000"]);
    let text = write(&listing.train, &listing.classes);
    assert!(text.lines().nth(1).unwrap().ends_with("b c.png\t0"), "{text}");
    assert_eq!(parse(text.as_bytes(), Path::new("x")).unwrap().len(), 3);
}

#[test]
fn two_lists_have_the_same_classes() {
    let dir = folder(&["a.png", "b.png"], &[("sub/t.txt", "../a.png dog"), ("v.txt", "b.png cat\na.png dog")]);
    let mut lines = Vec::new();
    let mut log = |line: &str| lines.push(line.to_string());
    let listing = list(&dir.path().join("sub/t.txt"), Some(&dir.path().join("v.txt")), &mut log).unwrap();
    assert_eq!(listing.classes, ["cat", "dog"]);
    assert_eq!((listing.train[0].class, listing.test.unwrap()[0].class), (1, 0));
}

#[test]
fn errors_name_the_line() {
    let error = |text: &str| {
        let (listing, _, dir) = listed(text);
        let e = listing.unwrap_err();
        assert!(e.exit_code() == 4 && e.hint.is_some());
        e.message.replace(&format!("{}/", dir.path().display()), "")
    };
    assert_eq!(error("a.png cat\nb.png\n"), "l.txt: line 2: 'b.png' has no label");
    assert_eq!(error("a.png cat\n\n\tdog\n"), "l.txt: line 3: 'dog' has no label");
    assert_eq!(error("a.png cat\na.png dog\n"), "l.txt: line 2: a.png has another label in line 1");
    assert_eq!(error("a.png cat\nx.png dog\n"), "l.txt: 1 of 2 pictures are not there:\n  line 2: x.png");
    assert_eq!(error("\n\n"), "l.txt: names no pictures");
    assert!(error("d 1\n").contains("line 1: d"), "a folder is no picture");
    let e = parse(b"a.png 1\n\xff\xfe 2\n", Path::new("l.txt")).unwrap_err();
    assert_eq!(e.message, "l.txt: line 2: is not UTF-8");
    assert!(parse(b"a\0.png 1", Path::new("l.txt")).is_err());
    let many: String = (0..257).map(|i| format!("{i}.png name{i}\n")).collect();
    assert!(error(&many).contains("257 classes"));
    assert!(list(Path::new("no/such.txt"), None, &mut |_| ()).unwrap_err().message.starts_with("no/such.txt: "));
}

#[test]
fn what_stands_there_twice_counts_once() {
    let (listing, lines, _dir) = listed("a.png cat\nb c.png dog\na.png cat\n");
    assert_eq!(listing.unwrap().train.len(), 2);
    assert!(lines[0].contains("1 lines that repeat"), "{lines:?}");
}

proptest! {
    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(lines) = parse(&bytes, Path::new("x")) {
            prop_assert!(lines.iter().all(|line| !line.path.is_empty() && !line.label.is_empty()));
        }
    }

    #[test]
    fn text_never_panics(text in "[a-c\\t\\n\\r .\\u{feff}é0-9]{0,80}") {
        if let Ok(lines) = parse(text.as_bytes(), Path::new("x")) {
            prop_assert!(lines.windows(2).all(|pair| pair[0].number < pair[1].number));
        }
    }
}
