//! The data sets known by name: their files, sizes, hashes, mirrors and class names; how they are found, fetched and verified.
//!
//! Nothing is trusted by its name alone: four sets share the same file names. How bytes are read is in `idx.rs`, how they travel in
//! `download.rs`. Read next: `mod.rs`, which chooses among these and the generated digits.

use std::path::{Path, PathBuf};

use super::dataset::{Dataset, Normalization, Splits};
use super::download::{self, Remote};
use super::idx::{self, Array};
use crate::error::{Error, Result};

/// A data set of four IDX files: images and labels, to learn from and to be judged on.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What it is called on the command line, and its folder in the data directory.
    pub name: &'a str,
    /// What it is called in messages.
    pub title: &'a str,
    /// Its folder in torchvision's layout (`FOLDER/raw`).
    pub torchvision: &'a str,
    /// How many images there are to learn from.
    pub train: usize,
    /// How many images there are to be judged on.
    pub test: usize,
    /// Rows, and columns, of an image.
    pub side: usize,
    /// What each class is called.
    pub classes: &'a [&'a str],
    /// Folders on the web that hold the files, best first.
    pub mirrors: &'a [&'a str],
    /// Training images, training labels, test images, test labels.
    pub files: [Remote<'a>; 4],
    /// The MD5 of each file without compression, where known: recognises a file that somebody compressed anew.
    pub plain_md5: Option<[&'a str; 4]>,
}

const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// The four files by their sizes and hashes; the sets share the names.
const fn files(of: [(u64, &'static str); 4]) -> [Remote<'static>; 4] {
    [
        Remote { name: "train-images-idx3-ubyte.gz", size: of[0].0, sha256: of[0].1 },
        Remote { name: "train-labels-idx1-ubyte.gz", size: of[1].0, sha256: of[1].1 },
        Remote { name: "t10k-images-idx3-ubyte.gz", size: of[2].0, sha256: of[2].1 },
        Remote { name: "t10k-labels-idx1-ubyte.gz", size: of[3].0, sha256: of[3].1 },
    ]
}

/// Handwritten digits (LeCun, Cortes, Burges).
pub const MNIST: Known = Known {
    name: "mnist",
    title: "MNIST",
    torchvision: "MNIST",
    train: 60_000,
    test: 10_000,
    side: 28,
    classes: &DIGITS,
    mirrors: &["https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"],
    files: files([
        (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ]),
    plain_md5: Some([
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ]),
};

/// Pictures of clothing in MNIST's shape (Xiao, Rasul, Vollgraf).
pub const FASHION: Known = Known {
    name: "fashion",
    title: "Fashion-MNIST",
    torchvision: "FashionMNIST",
    classes: &["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    mirrors: &[
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    ],
    files: files([
        (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ]),
    plain_md5: None,
    ..MNIST
};

/// Cursive Japanese characters in MNIST's shape (Clanuwat and others).
pub const KMNIST: Known = Known {
    name: "kmnist",
    title: "KMNIST",
    torchvision: "KMNIST",
    classes: &["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"],
    mirrors: &["https://codh.rois.ac.jp/kmnist/dataset/kmnist"],
    files: files([
        (18_165_135, "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"),
        (29_497, "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"),
        (3_041_136, "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"),
        (5_120, "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"),
    ]),
    plain_md5: None,
    ..MNIST
};

impl Known<'_> {
    /// Where the four files are below `dir`, each with `None` when it is not there.
    ///
    /// Looked for in `DIR/<name>`, in torchvision's `DIR/<folder>/raw` and in `DIR` itself, with `.gz` and without, and with the dot
    /// that some archives write (`train-images.idx3-ubyte`).
    pub fn find(&self, dir: &Path) -> [Option<PathBuf>; 4] {
        let folders = [dir.join(self.name), dir.join(self.torchvision).join("raw"), dir.to_path_buf()];
        self.files.map(|file| {
            let plain = file.name.trim_end_matches(".gz");
            let dotted = plain.replace("-idx", ".idx");
            let names = [file.name.to_string(), plain.to_string(), format!("{dotted}.gz"), dotted];
            folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))).find(|path| path.is_file())
        })
    }

    /// Fetches into `DIR/<name>` those of the four files that are not to be found below `dir`.
    ///
    /// The mirror given is asked before the known ones. The error tells what each mirror answered, and how to do without them.
    pub fn fetch(&self, dir: &Path, mirror: Option<&str>, log: &mut dyn FnMut(&str)) -> Result<()> {
        let mirrors: Vec<&str> = mirror.into_iter().chain(self.mirrors.iter().copied()).collect();
        let folder = dir.join(self.name);
        for (file, found) in self.files.iter().zip(self.find(dir)) {
            if found.is_none() {
                log(&format!("downloading {} ({} bytes) to {}", file.name, file.size, folder.display()));
                download::fetch(file, &mirrors, &folder).map_err(|failures| {
                    let tried = failures.iter().map(|failure| format!("\n  {failure}")).collect::<String>();
                    Error::data(format!("{} of {} could not be downloaded:{tried}", file.name, self.title)).hint(self.by_hand(dir))
                })?;
            }
        }
        Ok(())
    }

    /// That files are missing, and how to bring them.
    pub fn missing(&self, dir: &Path) -> Error {
        let names = self.files.iter().zip(self.find(dir)).filter(|(_, found)| found.is_none()).map(|(file, _)| file.name);
        let names = names.collect::<Vec<_>>().join(", ");
        Error::data(format!("{} is not complete in {} and may not be downloaded (offline): {names} missing", self.title, dir.display()))
            .hint(self.by_hand(dir))
    }

    fn by_hand(&self, dir: &Path) -> String {
        let files = self.files.iter().map(|file| format!("\n  {}  {:>8}  {}", file.sha256, file.size, file.name)).collect::<String>();
        let folder = dir.join(self.name);
        format!(
            "put these files (SHA-256, bytes, name) into {}, name another folder with --data-dir, or another source with --mirror:{files}",
            folder.display()
        )
    }

    /// Reads and verifies the four files that [`Known::find`] found.
    pub fn load(&self, paths: &[PathBuf; 4]) -> Result<Splits> {
        let half = |first: usize, count: usize, what: &str| -> Result<Dataset> {
            let images = self.read(first, &paths[first], &[count, self.side, self.side])?;
            let labels = self.read(first + 1, &paths[first + 1], &[count])?;
            let data = Dataset {
                name: format!("{} {what}", self.title),
                images: images.data,
                labels: labels.data,
                channels: 1,
                height: self.side,
                width: self.side,
                classes: self.classes.iter().map(ToString::to_string).collect(),
            };
            data.check().map_err(|e| Error { message: format!("{}: {}", paths[first + 1].display(), e.message), ..e })?;
            Ok(data)
        };
        let (train, test) = (half(0, self.train, "train")?, half(2, self.test, "test")?);
        // MNIST's constants are what every published network used; for the others the data say it.
        let normalization = if self.name == MNIST.name { Normalization::mnist() } else { Normalization::of(&train) };
        Ok(Splits { train, test, normalization, val: 0 })
    }

    /// Reads the file of index `which`, and makes sure that it is what it should be.
    fn read(&self, which: usize, path: &Path, dims: &[usize]) -> Result<Array> {
        let file = &self.files[which];
        let wrong = |what: String| {
            Error::data(format!("{}: {what}", path.display()))
                .hint(format!("delete the file and it will be downloaded again, or put the right {} in its place", file.name))
        };
        let sha256 = download::sha256(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let array = if dims.len() == 3 { idx::read_images(path) } else { idx::read_labels(path) };
        let array = array.map_err(|e| Error { hint: wrong(String::new()).hint, ..e })?;
        if sha256 != file.sha256 {
            // Not the published bytes; it may still be the same content, unpacked or compressed anew.
            let md5 = array.md5();
            if let Some((title, name)) = identify(&sha256, &md5).filter(|&owner| owner != (self.title, file.name)) {
                return Err(wrong(format!("this is {name} of {title}, not {} of {}", file.name, self.title)));
            }
            if let Some(expected) = self.plain_md5.map(|md5s| md5s[which]).filter(|&expected| expected != md5) {
                let found = format!("SHA-256 {sha256}, expected {}; MD5 uncompressed {md5}, expected {expected}", file.sha256);
                return Err(wrong(format!("this is not {} of {}: {found}", file.name, self.title)));
            }
        }
        if array.dims != dims {
            return Err(wrong(format!("holds {:?} bytes, but {} of {} holds {dims:?}", array.dims, file.name, self.title)));
        }
        Ok(array)
    }
}

/// The title of the set and the name of the file that have one of these hashes.
fn identify(sha256: &str, md5: &str) -> Option<(&'static str, &'static str)> {
    [MNIST, FASHION, KMNIST].into_iter().find_map(|set| {
        let is = |i: &usize| set.files[*i].sha256 == sha256 || set.plain_md5.is_some_and(|md5s| md5s[*i] == md5);
        (0..4).find(is).map(|i| (set.title, set.files[i].name))
    })
}

#[cfg(test)]
pub(super) mod tests;
