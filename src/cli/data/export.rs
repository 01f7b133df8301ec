//! `cugrad data export`: a data set as a folder of pictures, which `--data folder:DIR` reads back byte for byte.
//!
//! Read next: `mosaic.rs`.

use super::{Choice, print};
use crate::data::Dataset;
use crate::disk::replace;
use crate::error::{Error, Result};
use crate::plot::Picture;
use clap::Args;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Write every image as a PNG file.
#[derive(Debug, Args)]
pub(super) struct Export {
    #[command(flatten)]
    choice: Choice,
    /// The folder to write, new or empty: DIR/train/CLASS/00001.png and DIR/test/CLASS/00001.png, by the images' numbers from 1
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Export {
    pub fn run(self) -> Result<()> {
        let out = &self.out;
        if out.exists() && fs::read_dir(out).map_or(true, |mut entries| entries.next().is_some()) {
            return Err(Error::usage(format!("{} is there already and not an empty folder", out.display())).hint("choose another --out"));
        }
        let (_, splits) = self.choice.load()?;
        let names = folders(&splits.train.classes);
        write(&splits.train, &out.join("train"), &names)?;
        write(&splits.test, &out.join("test"), &names)?;
        // The order of the classes, which is not always that of their names.
        let text = names.iter().map(|name| format!("{name}\n")).collect::<String>();
        replace(&out.join("classes.txt"), |file| file.write_all(text.as_bytes()))?;
        let (train, test) = (splits.train.len(), splits.test.len());
        print(format_args!("{train} training and {test} test images in {}: read them with --data folder:{0}", out.display()))
    }
}

/// Every image of a part in the folder of its class.
fn write(data: &Dataset, dir: &Path, names: &[String]) -> Result<()> {
    for name in names {
        let folder = dir.join(name);
        fs::create_dir_all(&folder)
            .map_err(|e| Error::run(format!("cannot make {}: {e}", folder.display())).hint("choose another --out"))?;
    }
    (0..data.len()).into_par_iter().try_for_each(|i| {
        let path = dir.join(&names[usize::from(data.labels[i])]).join(format!("{:05}.png", i + 1));
        let png = Picture::planes(data.channels, data.height, data.width, data.image(i)).png()?;
        // Not through `replace`: the folder was empty, and syncing each of thousands of files would take minutes.
        fs::write(&path, png).map_err(|e| Error::run(format!("cannot write {}: {e}", path.display())).hint("make room on the disk"))
    })
}

/// A folder's name for each class: what cannot stand in one becomes an underscore, and names that then agree get numbers.
fn folders(classes: &[String]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let name = |class: &String| {
        let odd = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
        let plain = class.replace(odd, "_").trim_matches([' ', '.']).to_string();
        let plain = if plain.is_empty() { "_".to_string() } else { plain };
        // A file system may take capitals for small letters.
        let free =
            (0..).map(|n| if n == 0 { plain.clone() } else { format!("{plain}_{n}") }).find(|name| taken.insert(name.to_lowercase()));
        free.unwrap_or(plain)
    };
    classes.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_names_become_folder_names() {
        let classes = ["T-shirt/top", "Ankle boot", "a:b", "a?b", "A_B", "..", "", "7"].map(String::from);
        assert_eq!(folders(&classes), ["T-shirt_top", "Ankle boot", "a_b", "a_b_1", "A_B_2", "_", "__1", "7"]);
    }
}
