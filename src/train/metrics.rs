//! What a run measures: loss and accuracy over samples, and the confusion matrix with everything that is read from it.
//!
//! Sums and counts go in, means come out, so figures never depend on how the samples were cut into batches. The definitions are
//! scikit-learn's (`precision_recall_fscore_support` with `labels=range(classes)` and `zero_division=0`). Not here: the loss itself
//! (an op), pictures of the matrix (`plot/`), writing figures to files (`rundir.rs`).
//! Read next: `rundir.rs`.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Loss and hits summed over samples.
///
/// A mean of batch means is wrong as soon as the last batch is smaller than the others; sums are right for any cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Running {
    loss: f64,
    hits: u64,
    samples: u64,
}

impl Running {
    /// Adds a batch: the SUM of its samples' losses (not their mean), how many were classified right, how many there were.
    pub fn add(&mut self, loss_sum: f64, hits: u64, samples: u64) {
        self.loss += loss_sum;
        self.hits += hits;
        self.samples += samples;
    }

    /// What `totals`, f64 `[3]` (summed loss, hits, images), has counted. Waits for its device.
    pub fn read(totals: &Tensor) -> Result<Running> {
        let counted = totals.read()?;
        Ok(Self { loss: counted[0], hits: counted[1] as u64, samples: counted[2] as u64 })
    }

    /// What was counted after `earlier` was.
    pub fn since(&self, earlier: &Running) -> Running {
        Self { loss: self.loss - earlier.loss, hits: self.hits - earlier.hits, samples: self.samples - earlier.samples }
    }

    /// Adds what another part of the run has summed.
    pub fn merge(&mut self, other: &Running) {
        self.add(other.loss, other.hits, other.samples);
    }

    /// Samples seen.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Mean loss per sample; NaN before the first sample, because there is no such mean.
    pub fn loss(&self) -> f64 {
        self.loss / self.samples as f64
    }

    /// Share of samples classified right, 0 to 1; NaN before the first sample.
    pub fn accuracy(&self) -> f64 {
        self.hits as f64 / self.samples as f64
    }
}

/// How often each true class was taken for each class: rows are truths, columns predictions.
///
/// Serialises as the plain matrix, a list of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Confusion {
    counts: Vec<Vec<u64>>,
}

impl Confusion {
    /// An empty matrix, `classes` x `classes`.
    pub fn new(classes: usize) -> Self {
        Self { counts: vec![vec![0; classes]; classes] }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.counts.len()
    }

    /// Counts one sample. Fails when either label is not one of the classes.
    pub fn add(&mut self, truth: usize, prediction: usize) -> Result<()> {
        let classes = self.classes();
        match self.counts.get_mut(truth).and_then(|row| row.get_mut(prediction)) {
            Some(count) => *count += 1,
            None => {
                return Err(Error::run(format!("label {truth} predicted as {prediction}, but there are {classes} classes"))
                    .hint("labels count from 0; check that the model and the data set have the same number of classes"));
            }
        }
        Ok(())
    }

    /// Adds the counts of another matrix. Fails when it has another number of classes.
    pub fn merge(&mut self, other: &Confusion) -> Result<()> {
        if self.classes() != other.classes() {
            return Err(Error::run(format!("cannot merge confusion matrices of {} and {} classes", self.classes(), other.classes())));
        }
        for (row, more) in self.counts.iter_mut().zip(&other.counts) {
            row.iter_mut().zip(more).for_each(|(count, extra)| *count += extra);
        }
        Ok(())
    }

    /// How often `truth` was taken for `prediction`; 0 for labels that are not classes.
    pub fn count(&self, truth: usize, prediction: usize) -> u64 {
        self.counts.get(truth).and_then(|row| row.get(prediction)).copied().unwrap_or(0)
    }

    /// Samples counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Share of samples on the diagonal, 0 to 1; 0 when nothing was counted.
    pub fn accuracy(&self) -> f64 {
        ratio((0..self.classes()).map(|c| self.count(c, c)).sum(), self.total())
    }

    /// Which classes are taken for which, most frequent first (then by label): (truth, prediction, count) off the diagonal, no zeros.
    pub fn mistakes(&self) -> Vec<(usize, usize, u64)> {
        let cells = self.counts.iter().enumerate().flat_map(|(t, row)| row.iter().enumerate().map(move |(p, &count)| (t, p, count)));
        let mut mistakes: Vec<_> = cells.filter(|&(t, p, count)| t != p && count > 0).collect();
        mistakes.sort_by_key(|&(t, p, count)| (std::cmp::Reverse(count), t, p));
        mistakes
    }

    /// Precision, recall and F1 of every class and their averages. Needs one name per class.
    ///
    /// A class that never occurs counts as 0 in the macro average, as it does in scikit-learn when all labels are given.
    pub fn report(&self, names: &[impl AsRef<str>]) -> Result<Report> {
        self.check_names(names)?;
        let class = |c: usize| {
            let hits = self.count(c, c);
            let support: u64 = self.counts[c].iter().sum();
            let predicted: u64 = self.counts.iter().map(|row| row[c]).sum();
            let scores = Scores {
                precision: ratio(hits, predicted),
                recall: ratio(hits, support),
                // The harmonic mean of the two, 2pr / (p + r), written in counts: defined as soon as the class occurs anywhere.
                f1: ratio(2 * hits, support + predicted),
                support,
            };
            ClassScores { name: names[c].as_ref().to_string(), scores }
        };
        let classes: Vec<ClassScores> = (0..self.classes()).map(class).collect();
        Ok(Report {
            accuracy: self.accuracy(),
            macro_avg: average(&classes, |_| 1),
            weighted_avg: average(&classes, |scores| scores.support),
            classes,
        })
    }

    /// The matrix as text: one row per true class, one column per predicted class, right-aligned. Needs one name per class.
    ///
    /// Names of more than five letters stay in front of their rows and the columns carry the class numbers, so that ten classes
    /// fit a terminal.
    pub fn table(&self, names: &[impl AsRef<str>]) -> Result<String> {
        self.check_names(names)?;
        let short = names.iter().all(|name| width(name.as_ref()) <= 5);
        let head = |c: usize| if short { names[c].as_ref().to_string() } else { c.to_string() };
        let label = |c: usize| if short { head(c) } else { format!("{} ({c})", names[c].as_ref()) };
        let corner = "true \\ predicted";

        let left = (0..self.classes()).map(|c| width(&label(c))).chain([width(corner)]).max().unwrap_or(0);
        let digits = self.counts.iter().flatten().max().map_or(1, |largest| largest.to_string().len());
        let column = (0..self.classes()).map(|c| width(&head(c))).chain([digits]).max().unwrap_or(0) + 1;

        let mut text = format!("{corner:>left$}");
        (0..self.classes()).for_each(|c| text += &format!("{:>column$}", head(c)));
        text.push('\n');
        for (c, row) in self.counts.iter().enumerate() {
            text += &format!("{:>left$}", label(c));
            row.iter().for_each(|count| text += &format!("{count:>column$}"));
            text.push('\n');
        }
        Ok(text)
    }

    fn check_names(&self, names: &[impl AsRef<str>]) -> Result<()> {
        if names.len() == self.classes() {
            return Ok(());
        }
        Err(Error::run(format!("{} class names for {} classes", names.len(), self.classes())))
    }
}

/// Precision, recall and F1, each 0 to 1, and the number of true samples they speak of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// Of the samples predicted to be of the class, the share that is; 0 when none was predicted.
    pub precision: f64,
    /// Of the samples of the class, the share predicted to be; 0 when there is none.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Samples of the class.
    pub support: u64,
}

/// The scores of one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassScores {
    /// The class.
    pub name: String,
    /// Its scores, beside the name in JSON.
    #[serde(flatten)]
    pub scores: Scores,
}

/// The classification report: prints as scikit-learn's `classification_report(digits=4)`, serialises for `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Every class, in the order of the labels.
    pub classes: Vec<ClassScores>,
    /// Share of all samples classified right.
    pub accuracy: f64,
    /// Every class counts the same.
    pub macro_avg: Scores,
    /// Every class counts as often as it occurs.
    pub weighted_avg: Scores,
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.classes.iter().map(|class| width(&class.name)).chain(["weighted avg".len()]).max().unwrap_or(0);
        let line = |f: &mut fmt::Formatter<'_>, name: &str, s: &Scores| {
            writeln!(f, "{name:>left$}  {:>9.4} {:>9.4} {:>9.4} {:>9}", s.precision, s.recall, s.f1, s.support)
        };
        writeln!(f, "{:>left$}  {:>9} {:>9} {:>9} {:>9}\n", "", "precision", "recall", "f1-score", "support")?;
        for class in &self.classes {
            line(f, &class.name, &class.scores)?;
        }
        writeln!(f, "\n{:>left$}  {:>9} {:>9} {:>9.4} {:>9}", "accuracy", "", "", self.accuracy, self.macro_avg.support)?;
        line(f, "macro avg", &self.macro_avg)?;
        line(f, "weighted avg", &self.weighted_avg)
    }
}

/// The mean of the classes' scores under the given weights; all 0 when the weights sum to 0.
fn average(classes: &[ClassScores], weight: impl Fn(&Scores) -> u64) -> Scores {
    let total: u64 = classes.iter().map(|class| weight(&class.scores)).sum();
    let mean = |score: fn(&Scores) -> f64| {
        let sum: f64 = classes.iter().map(|class| score(&class.scores) * weight(&class.scores) as f64).sum();
        sum / total.max(1) as f64
    };
    Scores {
        precision: mean(|s| s.precision),
        recall: mean(|s| s.recall),
        f1: mean(|s| s.f1),
        support: classes.iter().map(|class| class.scores.support).sum(),
    }
}

/// a / b, and 0 for 0 / 0.
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b.max(1) as f64
}

/// Letters as `format!` counts them when it pads.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    fn counted(classes: usize, truth: &[usize], prediction: &[usize]) -> Confusion {
        let mut confusion = Confusion::new(classes);
        truth.iter().zip(prediction).for_each(|(&t, &p)| confusion.add(t, p).unwrap());
        confusion
    }

    /// The example of scikit-learn's own documentation of `classification_report`, printed there with two decimals.
    #[test]
    fn report_is_laid_out_like_scikit_learn() {
        let confusion = counted(3, &[0, 1, 2, 2, 2], &[0, 0, 2, 2, 1]);
        let expected = "              precision    recall  f1-score   support

     class 0     0.5000    1.0000    0.6667         1
     class 1     0.0000    0.0000    0.0000         1
     class 2     1.0000    0.6667    0.8000         3

    accuracy                         0.6000         5
   macro avg     0.5000    0.5556    0.4889         5
weighted avg     0.7000    0.6000    0.6133         5
";
        assert_eq!(confusion.report(&["class 0", "class 1", "class 2"]).unwrap().to_string(), expected);
    }

    /// Worked by hand: truth a: 3 right, 1 as b; truth b: 2 as a, 4 right; c never occurs and is never predicted.
    #[test]
    fn scores_match_hand_computation() {
        let confusion = counted(3, &[0, 0, 0, 0, 1, 1, 1, 1, 1, 1], &[0, 0, 0, 1, 0, 0, 1, 1, 1, 1]);
        assert_eq!((confusion.count(0, 1), confusion.count(1, 0), confusion.total()), (1, 2, 10));
        assert_eq!(confusion.mistakes(), [(1, 0, 2), (0, 1, 1)]);
        let report = confusion.report(&["a", "b", "c"]).unwrap();
        let [a, b, c] = [0, 1, 2].map(|i| report.classes[i].scores);
        assert_relative_eq!(a.precision, 3.0 / 5.0);
        assert_relative_eq!(a.recall, 3.0 / 4.0);
        assert_relative_eq!(a.f1, 2.0 * 0.6 * 0.75 / (0.6 + 0.75));
        assert_relative_eq!(b.precision, 4.0 / 5.0);
        assert_relative_eq!(b.recall, 4.0 / 6.0);
        assert_eq!((c.precision, c.recall, c.f1, c.support), (0.0, 0.0, 0.0, 0));
        assert_relative_eq!(report.accuracy, 0.7);
        assert_relative_eq!(report.macro_avg.precision, (0.6 + 0.8 + 0.0) / 3.0);
        assert_relative_eq!(report.weighted_avg.recall, 0.4 * 0.75 + 0.6 * 4.0 / 6.0);
        assert_relative_eq!(report.weighted_avg.recall, report.accuracy);
        assert_eq!(report.macro_avg.support, 10);
    }

    #[test]
    fn nothing_counted_gives_zeros_not_nan() {
        let report = Confusion::new(2).report(&["a", "b"]).unwrap();
        assert_eq!((report.accuracy, report.macro_avg.f1, report.weighted_avg.f1), (0.0, 0.0, 0.0));
        assert_eq!(Confusion::new(0).report(&[] as &[&str]).unwrap().macro_avg.f1, 0.0);
    }

    #[test]
    fn merge_equals_counting_together() {
        let mut first = counted(3, &[0, 1], &[0, 2]);
        first.merge(&counted(3, &[2, 1], &[2, 2])).unwrap();
        assert_eq!(first, counted(3, &[0, 1, 2, 1], &[0, 2, 2, 2]));
        assert!(first.merge(&Confusion::new(2)).is_err());
    }

    #[test]
    fn wrong_labels_and_names_are_errors() {
        let mut confusion = Confusion::new(10);
        assert_eq!(confusion.add(10, 3).unwrap_err().message, "label 10 predicted as 3, but there are 10 classes");
        assert!(confusion.add(3, 10).is_err());
        assert_eq!(confusion.total(), 0);
        assert_eq!(confusion.report(&["a"]).unwrap_err().message, "1 class names for 10 classes");
        assert!(confusion.table(&["a"]).is_err());
    }

    #[test]
    fn table_aligns_ten_classes_of_five_digits() {
        let mut confusion = Confusion::new(10);
        confusion.counts[9][9] = 12345;
        confusion.counts[4][9] = 7;
        let digits: Vec<String> = (0..10).map(|c| c.to_string()).collect();
        let table = confusion.table(&digits).unwrap();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 11);
        assert_eq!(lines[0], "true \\ predicted     0     1     2     3     4     5     6     7     8     9");
        assert_eq!(lines[10], "               9     0     0     0     0     0     0     0     0     0 12345");
        assert!(lines.iter().all(|line| line.len() == lines[0].len() && line.len() <= 80));
    }

    #[test]
    fn table_numbers_the_columns_of_long_names() {
        let table = counted(2, &[0, 1, 1], &[0, 0, 1]).table(&["T-shirt/top", "Schläppchen"]).unwrap();
        assert_eq!(table, "true \\ predicted 0 1\n T-shirt/top (0) 1 0\n Schläppchen (1) 1 1\n");
    }

    #[test]
    fn json_has_stable_keys() {
        let confusion = counted(2, &[0, 1], &[0, 0]);
        let report = serde_json::to_value(confusion.report(&["a", "b"]).unwrap()).unwrap();
        assert_eq!(report["classes"][0], serde_json::json!({"name": "a", "precision": 0.5, "recall": 1.0, "f1": 2.0 / 3.0, "support": 1}));
        assert_eq!(report["accuracy"], 0.5);
        assert_eq!(report["weighted_avg"]["recall"], 0.5);
        assert_eq!(report["macro_avg"]["precision"], 0.25);
        assert_eq!(serde_json::to_string(&confusion).unwrap(), "[[1,0],[1,0]]");
    }

    /// Batches of 3 and 1: the mean of the batch means would be 2.5, the mean over samples is 1.75.
    #[test]
    fn running_weighs_samples_not_batches() {
        let mut running = Running::default();
        assert!(running.loss().is_nan() && running.accuracy().is_nan());
        running.add(3.0, 3, 3);
        let mut last = Running::default();
        last.add(4.0, 0, 1);
        running.merge(&last);
        assert_eq!((running.loss(), running.accuracy(), running.samples()), (1.75, 0.75, 4));
    }
}
