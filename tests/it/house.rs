//! The rules of the house, held against the sources: who may use whom, where `unsafe` may stand, how long a page may be.
//!
//! Each rule is a function from a file's path and text to its complaints, so that the second half of this page can show each of
//! them failing on a few made-up lines.

#![allow(clippy::unwrap_used)]

use cugrad::ops;
use std::path::Path;
use std::process::Command;

/// Modules in the order in which they build on each other: each may use itself and those before it.
const ORDER: [&str; 14] =
    ["error", "disk", "device", "tensor", "autograd", "ops", "nn", "optim", "models", "data", "train", "export", "plot", "cli"];

/// What stands at the root of the crate without being a module: macros, and the names of `error`.
const ROOT: [&str; 5] = ["simd", "dispatch", "Error", "Kind", "Result"];

/// Lines of a file without its tests.
const LONGEST: usize = 400;

/// Files of `src/ops` that are not the page of an op; those of folders below it are not either.
const NO_PAGE: [&str; 11] = [
    "mod.rs",
    "amx.rs",
    "case.rs",
    "correlate.rs",
    "finish.rs",
    "taps.rs",
    "tile.rs",
    "moments.rs",
    "window.rs",
    "normalise.rs",
    "winograd.rs",
];

/// One thing that is wrong.
type Complaints = Vec<String>;

/// The source with comments and the insides of text and character literals left out; line ends stay.
fn code(source: &str) -> String {
    let s: Vec<char> = source.chars().collect();
    let mut out = String::new();
    let mut i = 0;
    let at = |i: usize| s.get(i).copied().unwrap_or('\0');
    while i < s.len() {
        let from = i;
        let word_before = i > 0 && word(s[i - 1]);
        // r"..." and r#"..."#: how many # after the r, if it is one.
        let raw = (at(i) == 'r' && !word_before || at(i) == 'r' && at(i.wrapping_sub(1)) == 'b')
            .then(|| (i + 1..).take_while(|&j| at(j) == '#').count())
            .filter(|n| at(i + 1 + n) == '"');
        if at(i) == '/' && at(i + 1) == '/' {
            while i < s.len() && s[i] != '\n' {
                i += 1;
            }
        } else if at(i) == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= s.len() {
                    break;
                }
            }
        } else if let Some(n) = raw {
            let end: String = std::iter::once('"').chain((0..n).map(|_| '#')).collect();
            i += n + 2;
            while i < s.len() && !s[i..].iter().take(n + 1).copied().eq(end.chars()) {
                i += 1;
            }
            i += n + 1;
            out.push_str("\"\"");
        } else if at(i) == '"' {
            i += 1;
            while i < s.len() && s[i] != '"' {
                i += if s[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
            out.push_str("\"\"");
        } else if at(i) == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < s.len() && s[i] != '\'' {
                i += 1;
            }
            i += 1;
            out.push_str("' '");
        } else {
            out.push(s[i]);
            i += 1;
            continue;
        }
        out.extend(s[from..i.min(s.len())].iter().filter(|&&c| c == '\n'));
    }
    out
}

/// A source without the tests at its end; a file of nothing but tests is empty.
fn body<'a>(path: &str, source: &'a str) -> &'a str {
    if path.ends_with("/tests.rs") {
        return "";
    }
    let end = source.match_indices("\n#[cfg(test)]\n").map(|(i, _)| i + 1).find(|&i| {
        let next = source[i..].lines().nth(1).unwrap_or_default();
        next.ends_with("mod tests {") || next.ends_with("mod tests;")
    });
    &source[..end.unwrap_or(source.len())]
}

fn word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !word(c)).filter(|w| !w.is_empty())
}

/// The names that follow `crate::`, also in braces.
fn used(code: &str) -> Vec<String> {
    let dense: String = code.split_whitespace().collect();
    let mut names = Vec::new();
    for (i, found) in dense.match_indices("crate::") {
        let rest = &dense[i + found.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.extend(words(rest).next().map(String::from));
            continue;
        };
        let (mut depth, mut first) = (1, true);
        for (i, c) in list.char_indices() {
            if first && word(c) {
                names.extend(words(&list[i..]).next().map(String::from));
            }
            first = depth == 1 && c == ',';
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth == 0 {
                break;
            }
        }
    }
    names
}

/// A module uses only itself and those before it.
fn order(path: &str, source: &str) -> Complaints {
    let module = path.trim_start_matches("src/").split(['/', '.']).next().unwrap();
    if ["lib", "main"].contains(&module) {
        return Vec::new();
    }
    let place = |name: &str| ORDER.iter().position(|&m| m == name);
    let Some(own) = place(module) else { return vec![format!("{path}: module '{module}' has no place in the order")] };
    let wrong = |name: &String| place(name).is_none_or(|other| other > own) && !ROOT.contains(&name.as_str());
    used(&code(body(path, source))).iter().filter(|n| wrong(n)).map(|n| format!("{path}: {module} must not use crate::{n}")).collect()
}

/// `unsafe` stands only in `device`.
fn safety(path: &str, source: &str) -> Complaints {
    let found = !path.starts_with("src/device/") && words(&code(source)).any(|w| w == "unsafe");
    found.then(|| format!("{path}: unsafe outside src/device")).into_iter().collect()
}

/// There are no features to choose from: one crate, one behaviour.
fn features(path: &str, source: &str) -> Complaints {
    let code = code(source);
    let inside = |rest: &str| {
        let mut depth = 0;
        let open = rest.trim_start_matches(['!', '_']).trim_start_matches("attr");
        let end = open.find(|c: char| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth <= 0
        });
        words(&open[..end.unwrap_or(open.len())]).any(|w| w == "feature")
    };
    let found = code.match_indices("cfg").any(|(i, _)| inside(&code[i + 3..]));
    found.then(|| format!("{path}: asks for a cargo feature")).into_iter().collect()
}

/// A file says first what it is.
fn heading(path: &str, source: &str) -> Complaints {
    (!source.starts_with("//! ")).then(|| format!("{path}: does not open with //!")).into_iter().collect()
}

/// A page can be read in one go.
fn length(path: &str, source: &str) -> Complaints {
    let lines = body(path, source).lines().count();
    (lines > LONGEST).then(|| format!("{path}: has {lines} lines without its tests")).into_iter().collect()
}

/// Errors are values; panics on them are for tests.
fn panics(path: &str, source: &str) -> Complaints {
    let dense: String = code(body(path, source)).split_whitespace().collect();
    let found = [".unwrap()", ".expect("].into_iter().filter(|call| dense.contains(call));
    found.map(|call| format!("{path}: {call} outside tests")).collect()
}

/// A page of an op has cases, and the registry (`ops/mod.rs`) lists them.
fn registry(path: &str, source: &str, list: &str, known: &[&str]) -> Complaints {
    let page = path.rsplit('/').next().unwrap();
    if path.strip_prefix("src/ops/").is_none_or(|rest| rest.contains('/')) || NO_PAGE.contains(&page) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    if !code(source).contains("pub fn cases() -> Vec<Case>") {
        complaints.push(format!("{path}: has no cases()"));
    }
    if !code(list).contains(&format!("{}::cases()", page.trim_end_matches(".rs"))) {
        complaints.push(format!("{path}: its cases are not in the registry"));
    }
    let names: Vec<&str> = op_names(body(path, source));
    if names.is_empty() {
        complaints.push(format!("{path}: names no op"));
    }
    complaints.extend(names.iter().filter(|n| !known.contains(n)).map(|n| format!("{path}: no case tries '{n}'")));
    complaints
}

/// The texts in the bodies of `fn name`.
fn op_names(source: &str) -> Vec<&str> {
    let bodies = source.split("fn name(&self)").skip(1).map(|rest| rest.split("fn ").next().unwrap());
    bodies.flat_map(|body| body.split('"').skip(1).step_by(2)).collect()
}

/// Nobody else has the directories of the machine that a line was written on.
fn places(path: &str, source: &str) -> Complaints {
    let mut complaints = Vec::new();
    for folder in ["work", "root", "tmp"] {
        let needle = format!("/{folder}/");
        // `a/x/b` names a folder of a project or of the web.
        let alone = |before: &str| !before.ends_with(|c: char| word(c) || "./-~}".contains(c));
        if source.match_indices(&needle).any(|(i, _)| alone(&source[..i])) {
            complaints.push(format!("{path}: names {needle}"));
        }
    }
    complaints
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below a folder, as (path from the root of the project, text).
fn below(folder: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            files.extend(below(&path));
        } else if path.ends_with(".rs") {
            files.push((path, std::fs::read_to_string(entry.path()).unwrap()));
        }
    }
    files.sort();
    files
}

/// Holds a rule against every file of `src` and reports all complaints at once.
fn hold(rule: impl Fn(&str, &str) -> Complaints) {
    let files = below("src");
    assert!(files.len() > 40, "only {} sources found", files.len());
    let complaints: Complaints = files.iter().flat_map(|(path, source)| rule(path, source)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn modules_use_only_those_before_them() {
    hold(order);
}

#[test]
fn unsafe_stands_only_in_device() {
    hold(safety);
}

#[test]
fn there_are_no_features() {
    hold(features);
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.lines().all(|line| line.trim() != "[features]"));
}

#[test]
fn files_say_what_they_are() {
    hold(heading);
}

#[test]
fn pages_are_short() {
    hold(length);
}

#[test]
fn errors_do_not_panic() {
    hold(panics);
}

#[test]
fn every_op_is_tried() {
    let cases = ops::cases();
    let known: Vec<&str> = cases.iter().map(|case| case.op.name()).collect();
    let list = std::fs::read_to_string(root().join("src/ops/mod.rs")).unwrap();
    hold(|path, source| registry(path, source, &list, &known));
}

#[test]
fn nothing_names_a_place_on_one_machine() {
    // Without git (a copy from a package) there is still the code.
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let files = match listed {
        Ok(listed) if listed.status.success() => {
            let names = String::from_utf8(listed.stdout).unwrap();
            let names = names.split('\0').filter(|name| !name.is_empty()).map(String::from);
            names.filter_map(|name| std::fs::read_to_string(root().join(&name)).ok().map(|text| (name, text))).collect()
        }
        _ => [below("src"), below("tests")].concat(),
    };
    assert!(files.len() > 40, "only {} files found", files.len());
    let complaints: Complaints = files.iter().flat_map(|(path, text)| places(path, text)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

mod each_rule_can_fail {
    use super::*;

    const TESTS: &str = "\n#[cfg(test)]\nmod tests {\n    use crate::cli;\n    fn f() { x.unwrap(); }\n}\n";

    #[test]
    fn only_code_is_code() {
        let source = "a // b\n/* c /* d */ e\n */ f \"g \\\" // h\" i r#\"j \" k\"# l '\"' m '\\'' n<'o> \"p\nq\" r b\"s\" br\"t\\\" for u";
        let words: Vec<&str> = words(Box::leak(code(source).into_boxed_str())).collect();
        assert_eq!(words, ["a", "f", "i", "l", "m", "n", "o", "r", "b", "b", "for", "u"]);
        assert_eq!(code(source).lines().count(), source.lines().count());
        assert_eq!(code("/// unsafe\nfn r#type() {}"), "\nfn r#type() {}");
    }

    #[test]
    fn tests_are_no_body() {
        let source = format!("//! x\nfn f() {{}}\n{TESTS}");
        assert_eq!(body("src/a.rs", &source), "//! x\nfn f() {}\n\n");
        assert_eq!(body("src/a/tests.rs", &source), "");
        let kept = "//! x\n#[cfg(test)]\nfn only_here() {}\nfn f() {}\n";
        assert_eq!(body("src/a.rs", kept), kept);
        assert_eq!(body("src/a.rs", "//! x\n#[cfg(test)]\npub(super) mod tests;\n"), "//! x\n");
    }

    #[test]
    fn names_behind_crate() {
        let source = "use crate::{error::{Error, Result}, tensor::{self, DType}, cli}; fn f() -> crate :: nn::Params { $crate::optim::x }";
        assert_eq!(used(source), ["error", "tensor", "cli", "nn", "optim"]);
        assert_eq!(used("use crate::simd; pub(crate) fn f() {}"), ["simd"]);
    }

    #[test]
    fn order_of_modules() {
        let complaint = |path, source| order(path, source).concat();
        assert_eq!(complaint("src/ops/relu.rs", "use crate::nn::Params;"), "src/ops/relu.rs: ops must not use crate::nn");
        assert_eq!(complaint("src/nn/layers.rs", "fn f(x: crate::optim::Rule) {}"), "src/nn/layers.rs: nn must not use crate::optim");
        assert_eq!(complaint("src/error.rs", "use crate::{device::Device};"), "src/error.rs: error must not use crate::device");
        assert_eq!(complaint("src/train/a.rs", "use crate::what;"), "src/train/a.rs: train must not use crate::what");
        assert_eq!(complaint("src/new/mod.rs", ""), "src/new/mod.rs: module 'new' has no place in the order");
        for fine in ["use crate::{Result, error::Error};", "use crate::ops::add;", "crate::dispatch!(x)", "// crate::cli", TESTS] {
            assert_eq!(complaint("src/ops/relu.rs", fine), "", "{fine}");
        }
        assert_eq!(complaint("src/optim/sgd.rs", "use crate::nn::Params;"), "");
        assert_eq!(complaint("src/lib.rs", "pub use crate::cli::main;"), "");
    }

    #[test]
    fn unsafe_code() {
        for bad in ["fn f() { unsafe { g() } }", "unsafe impl Send for X {}", "#[cfg(test)]\nmod tests {\n unsafe fn f() {}\n}"] {
            assert_eq!(safety("src/tensor/mod.rs", bad).len(), 1, "{bad}");
            assert!(safety("src/device/cuda.rs", bad).is_empty());
        }
        for fine in ["// unsafe", "//! `unsafe`", "let s = \"unsafe\";", "fn unsafely() {}", "#![deny(unsafe_op_in_unsafe_fn)]"] {
            assert!(safety("src/tensor/mod.rs", fine).is_empty(), "{fine}");
        }
    }

    #[test]
    fn cargo_features() {
        let bad = [
            "#[cfg(feature = \"x\")]",
            "#[cfg(any(unix, not(feature=\"x\")))]",
            "#[cfg_attr(feature = \"a\", b)]",
            "if cfg!(feature = \"a\") {}",
        ];
        for bad in bad {
            assert_eq!(features("src/a.rs", bad).len(), 1, "{bad}");
        }
        let fine = [
            "#[cfg(target_feature = \"fma\")]",
            "#[target_feature(enable = \"avx2\")]",
            "// #[cfg(feature = \"x\")]",
            "#[cfg(test)] fn f(feature: u8) {}",
        ];
        for fine in fine {
            assert!(features("src/a.rs", fine).is_empty(), "{fine}");
        }
    }

    #[test]
    fn headings() {
        assert!(heading("src/a.rs", "//! What it is.\n").is_empty());
        for bad in ["", "use std::fs;\n//! late\n", "// no\n", "/// no\n"] {
            assert_eq!(heading("src/a.rs", bad).len(), 1, "{bad:?}");
        }
    }

    #[test]
    fn lengths() {
        let lines = |n: usize| "x\n".repeat(n);
        assert!(length("src/a.rs", &(lines(LONGEST - 1) + TESTS + &lines(100))).is_empty());
        assert_eq!(length("src/a.rs", &lines(LONGEST + 1)), [format!("src/a.rs: has {} lines without its tests", LONGEST + 1)]);
    }

    #[test]
    fn panicking_calls() {
        for bad in ["x.unwrap();", "x\n    .expect(\"y\");", "x.unwrap ()"] {
            assert_eq!(panics("src/a.rs", bad).len(), 1, "{bad}");
        }
        for fine in ["x.unwrap_or_default()", "// .unwrap()", "\".expect(\"", "x.unwrap_or_else(f)", TESTS] {
            assert!(panics("src/a.rs", fine).is_empty(), "{fine}");
        }
    }

    #[test]
    fn pages_of_ops() {
        let page =
            "pub fn cases() -> Vec<Case> {}\nfn name(&self) -> &'static str {\n if self.a { \"a\" } else { \"b\" }\n}\nfn f() { \"c\" }";
        let complaint = |source, list, known: &[&str]| registry("src/ops/a.rs", source, list, known).join("; ");
        assert_eq!(op_names(page), ["a", "b"]);
        assert_eq!(complaint(page, "[a::cases()]", &["a", "b"]), "");
        assert_eq!(complaint(page, "[a::cases()]", &["b"]), "src/ops/a.rs: no case tries 'a'");
        assert_eq!(complaint(page, "// a::cases()", &["a", "b"]), "src/ops/a.rs: its cases are not in the registry");
        assert_eq!(complaint("fn name(&self) { \"a\" }", "a::cases()", &["a"]), "src/ops/a.rs: has no cases()");
        assert_eq!(complaint("pub fn cases() -> Vec<Case> {}", "a::cases()", &["a"]), "src/ops/a.rs: names no op");
        assert!(registry("src/ops/window.rs", "", "", &[]).is_empty() && registry("src/nn/mod.rs", "", "", &[]).is_empty());
    }

    #[test]
    fn names_of_places() {
        for folder in ["work", "root", "tmp"] {
            for before in ["", "\"", "cd ", "(", "="] {
                assert_eq!(places("a.md", &format!("x\n{before}/{folder}/y")).len(), 1, "{before}{folder}");
            }
            for before in ["https://example.org", "a", "..", "~", "${TMPDIR}"] {
                assert!(places("a.md", &format!("{before}/{folder}/y")).is_empty(), "{before}{folder}");
            }
        }
        assert!(places("a.md", "/workshop/ and /temp/").is_empty());
    }
}
