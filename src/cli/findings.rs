//! What `cugrad eval --out` leaves behind: the report as text and JSON, the confusion matrix as a picture, and the images that were
//! taken for something else, with their pixels as they are in the data.
//!
//! Read next: `predict.rs`.

use super::pictures::{PictureArgs, safe};
use crate::data::Dataset;
use crate::disk::replace;
use crate::error::{Error, Result};
use crate::plot::{Cell, Figure, Fonts, Grid, Heat, Map, Picture, colour};
use crate::train::Confusion;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// More pictures than this on one sheet can hardly be looked at.
const SHEET: usize = 100;

/// One image that was taken for something else.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Miss {
    /// Its number in the data, from 0.
    pub image: usize,
    /// Its class.
    pub truth: usize,
    /// What it was taken for.
    pub prediction: usize,
    /// The probability that the network gave that.
    pub probability: f64,
}

/// Everything that a judgement found.
pub struct Findings<'a> {
    /// The images that it judged.
    pub data: &'a Dataset,
    /// What each class is called.
    pub classes: &'a [String],
    /// How often each class was taken for each.
    pub confusion: &'a Confusion,
    /// All of it for programs.
    pub report: &'a Value,
    /// All that were taken for something else, in the order of the data.
    pub misses: &'a [Miss],
}

/// `3 taken for 8: 5 times`, the most frequent first, at most `most` of them.
pub fn in_words(confusion: &Confusion, classes: &[String], most: usize) -> Vec<String> {
    let times = |n: u64| if n == 1 { "once".into() } else { format!("{n} times") };
    let line = |(t, p, n): (usize, usize, u64)| format!("{} taken for {}: {}", classes[t], classes[p], times(n));
    confusion.mistakes().into_iter().take(most).map(line).collect()
}

/// The same for JSON.
pub fn mistakes(confusion: &Confusion, classes: &[String]) -> Vec<Value> {
    let all = confusion.mistakes().into_iter();
    all.map(|(t, p, n)| json!({"true": classes[t], "predicted": classes[p], "count": n})).collect()
}

impl Findings<'_> {
    /// Writes everything to a directory and gives a line for each image that was written, `most` at most; `text` is what is printed.
    ///
    /// Pictures of wrong images of an earlier judgement there are removed: they would be taken for this one's.
    pub fn save(&self, dir: &Path, most: usize, text: &str, how: &PictureArgs) -> Result<Vec<String>> {
        let fonts = how.fonts()?;
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::run(format!("cannot create {}: {e}", dir.display())).hint("choose another --out"))?;
        write(&dir.join("report.txt"), text)?;
        write(&dir.join("report.json"), &format!("{:#}\n", self.report))?;
        Figure::new("").with(self.heat()).save(&how.path(dir, "confusion"), &fonts)?;
        self.clear(dir)?;
        let (mut table, mut lines) = (String::from("n,image,true,predicted,probability,file\n"), Vec::new());
        for (n, miss) in self.misses.iter().enumerate() {
            let (truth, prediction) = (&self.classes[miss.truth], &self.classes[miss.prediction]);
            let mut file = String::new();
            if n < most {
                file = format!("error_{}_true_{}_pred_{}.png", n + 1, safe(truth), safe(prediction));
                self.picture(miss).save(&dir.join(&file))?;
                lines.push(format!("{file}: image {}, {truth} taken for {prediction} ({:.1}%)", miss.image, 100.0 * miss.probability));
            }
            let [truth, prediction] = [truth, prediction].map(|name| format!("\"{}\"", name.replace('"', "\"\"")));
            table += &format!("{},{},{truth},{prediction},{:.6},{file}\n", n + 1, miss.image, miss.probability);
        }
        write(&dir.join("errors.csv"), &table)?;
        if most > 0 && !self.misses.is_empty() {
            Figure::new("").with(self.sheet(most, &fonts)).save(&how.path(dir, "errors"), &fonts)?;
        }
        Ok(lines)
    }

    fn picture(&self, miss: &Miss) -> Picture {
        Picture::planes(self.data.channels, self.data.height, self.data.width, self.data.image(miss.image))
    }

    /// Removes the pictures that an earlier judgement has left, and nothing else.
    fn clear(&self, dir: &Path) -> Result<()> {
        let failed = |path: &Path, e| Error::run(format!("cannot clear {}: {e}", path.display())).hint("choose another --out");
        for entry in std::fs::read_dir(dir).map_err(|e| failed(dir, e))? {
            let path: PathBuf = entry.map_err(|e| failed(dir, e))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let numbered =
                name.strip_prefix("error_").and_then(|rest| rest.split_once("_true_")).filter(|(n, _)| n.parse::<usize>().is_ok());
            let ours = numbered.is_some_and(|(_, rest)| rest.contains("_pred_") && rest.ends_with(".png"));
            if ours || ["errors.png", "errors.svg"].contains(&name.as_str()) {
                std::fs::remove_file(&path).map_err(|e| failed(&path, e))?;
            }
        }
        Ok(())
    }

    /// Shades are cube roots of shares, so that five in a thousand can be told from none.
    fn heat(&self) -> Heat {
        let n = self.classes.len();
        let row = |t: usize| (0..n).map(move |p| self.confusion.count(t, p));
        let share = |t: usize| {
            let total = row(t).sum::<u64>().max(1);
            row(t).map(|count| (count as f64 / total as f64).cbrt()).collect()
        };
        let marks = [0.0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0f64];
        Heat {
            title: format!("confusion matrix: {:.2}% of {} right", 100.0 * self.confusion.accuracy(), self.confusion.total()),
            labels: ["predicted class", "true class"].map(String::from),
            names: [self.classes.to_vec(), self.classes.to_vec()],
            shades: (0..n).map(share).collect(),
            texts: (0..n).map(|t| row(t).map(|count| count.to_string()).collect()).collect(),
            map: Map::Blues,
            bar: Some(("share of the true class".into(), marks.map(|s| (s.cbrt(), format!("{}%", 100.0 * s))).to_vec())),
        }
    }

    fn sheet(&self, most: usize, fonts: &Fonts) -> Grid {
        let shown = self.misses.len().min(most).min(SHEET);
        let (wrong, all) = (self.misses.len(), self.data.len());
        let of = if shown < wrong {
            format!("the first {shown} of {wrong} taken for something else, of {all}")
        } else {
            format!("{wrong} of {all} taken for something else")
        };
        let mut grid = Grid::new(of);
        for miss in &self.misses[..shown] {
            let (truth, prediction) = (&self.classes[miss.truth], &self.classes[miss.prediction]);
            let caption = format!("{truth} → {prediction}  {:.0}%", 100.0 * miss.probability);
            grid.cells.push(Cell { picture: self.picture(miss), caption, colour: colour::WRONG });
        }
        let widest = grid.cells.iter().map(|cell| fonts.width(&cell.caption, 12.0)).fold(0.0, f32::max);
        grid.side = widest.clamp(90.0, 170.0);
        grid
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    replace(path, |out| out.write_all(text.as_bytes()))
}
