//! Several networks that judge together, and one that looks at a picture more than once.
//!
//! Each network gives every class a probability: the mean over its views of the picture, which are the picture itself and, for
//! [`Views::Shifts`], the same moved by one pixel in each of the eight directions (black comes in at the edge). Together they take the
//! class with the highest mean probability, or vote: then most votes win, and among equal numbers the higher mean probability. Not here:
//! training the members, which is done one by one. Read next: `cli/eval.rs`.

use super::checkpoint::Checkpoint;
use super::metrics::Running;
use super::step::evaluate;
use super::trained::Trained;
use super::trainer::EVAL_BATCH;
use crate::data::{Dataset, Loader};
use crate::device::Device;
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How a picture is looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Views {
    /// As it is.
    #[default]
    One,
    /// As it is, and moved by one pixel in each of eight directions.
    Shifts,
}

impl Views {
    /// Rows down and columns right of each view.
    fn moves(self) -> Vec<[isize; 2]> {
        match self {
            Views::One => vec![[0, 0]],
            Views::Shifts => [-1, 0, 1].iter().flat_map(|&dy| [-1, 0, 1].map(|dx| [dy, dx])).collect(),
        }
    }
}

impl FromStr for Views {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Views::One),
            "shift" => Ok(Views::Shifts),
            _ => Err(Error::usage(format!("unknown test-time augmentation '{text}'")).hint("use shift or none")),
        }
    }
}

impl fmt::Display for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Views::One => "none",
            Views::Shifts => "shift",
        })
    }
}

/// What is thought of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Opinion {
    /// The class that it is taken for.
    pub class: usize,
    /// The mean probability of each class.
    pub probabilities: Vec<f64>,
}

/// What is thought of the pictures of a data set.
#[derive(Debug)]
pub struct Judged {
    /// Losses (-log of the true class's mean probability) and hits.
    pub sums: Running,
    /// Share of hits of each member alone.
    pub members: Vec<f64>,
    /// One for each picture.
    pub opinions: Vec<Opinion>,
}

/// Networks that judge together; one is enough.
#[derive(Debug)]
pub struct Ensemble {
    /// The networks, at least one, all with the same classes and for pictures of one size.
    pub members: Vec<Trained>,
    /// Vote, instead of taking the mean of probabilities?
    pub vote: bool,
    /// How each picture is looked at.
    pub views: Views,
}

impl Ensemble {
    /// Loads the networks of these checkpoints, as `read` reads them, on `device`.
    pub fn load(
        paths: &[PathBuf],
        read: impl Fn(&Path) -> Result<Checkpoint>,
        vote: bool,
        views: Views,
        device: Device,
    ) -> Result<Ensemble> {
        let mut members: Vec<Trained> = Vec::new();
        for path in paths {
            let member = Trained::load(path, &read(path)?, device)?;
            let about = |m: &Trained| (m.classes.clone(), m.model.input[1..].to_vec(), m.normalization.mean.len());
            if let Some(first) = members.first().filter(|first| about(first) != about(&member)) {
                let say = |m: &Trained| {
                    let ([_, h, w], channels) = (m.model.input, m.normalization.mean.len());
                    format!("{channels}x{h}x{w} pictures of {}", m.classes.join(", "))
                };
                return Err(Error::usage(format!(
                    "{} knows {}, but {} knows {}: they cannot judge together",
                    paths[0].display(),
                    say(first),
                    path.display(),
                    say(&member)
                ))
                .hint("give checkpoints that were trained on the same kind of data"));
            }
            members.push(member);
        }
        match members.is_empty() {
            true => Err(Error::usage("there is no network to judge with").hint("give at least one checkpoint")),
            false => Ok(Ensemble { members, vote, views }),
        }
    }

    /// Judges all pictures of a data set; its labels only go into the sums.
    pub fn judge(&mut self, data: &Dataset) -> Result<Judged> {
        let (n, c) = (data.len(), self.members[0].classes.len());
        let moves = self.views.moves();
        let mut each = Vec::new();
        let mut members = Vec::new();
        let mut plain = Running::default();
        for member in &mut self.members {
            let mut sums = vec![0.0; n * c];
            for &by in &moves {
                let data = if by == [0, 0] { Cow::Borrowed(data) } else { Cow::Owned(data.moved(by)) };
                let mut at = sums.chunks_exact_mut(c);
                plain = look(member, &data, |p| {
                    at.next().into_iter().flatten().zip(p).for_each(|(sum, p)| *sum += p / moves.len() as f64);
                })?;
            }
            members.push(share(&sums, c, &data.labels));
            each.push(sums);
        }
        let opinions: Vec<Opinion> = (0..n).map(|i| self.agree(each.iter().map(|sums| &sums[i * c..(i + 1) * c]))).collect();
        let mut sums = Running::default();
        for (opinion, &label) in opinions.iter().zip(&data.labels) {
            let p = opinion.probabilities.get(usize::from(label)).copied().unwrap_or(0.0);
            sums.add(-p.max(f64::MIN_POSITIVE).ln(), u64::from(opinion.class == usize::from(label)), 1);
        }
        // One network's own figures are those that its training run gave.
        let alone = self.members.len() * moves.len() == 1;
        Ok(Judged { sums: if alone { plain } else { sums }, members, opinions })
    }

    /// How it judges, in a few words behind a comma; nothing where there is nothing to say.
    pub fn how(&self) -> String {
        let together = match (self.members.len(), self.vote) {
            (1, _) => "",
            (_, true) => ", by votes",
            (_, false) => ", by mean probability",
        };
        format!("{together}{}", if self.views == Views::Shifts { ", nine views of each" } else { "" })
    }

    /// One opinion from the members' probabilities.
    fn agree<'a>(&self, each: impl Iterator<Item = &'a [f64]>) -> Opinion {
        let members = self.members.len() as f64;
        let mut probabilities = vec![0.0; self.members[0].classes.len()];
        let mut votes = vec![0u32; probabilities.len()];
        for p in each {
            votes[best(p.iter().copied())] += 1;
            probabilities.iter_mut().zip(p).for_each(|(mean, p)| *mean += p / members);
        }
        // A vote counts more than any probability can.
        let weight = |c: usize| if self.vote { 2.0 * f64::from(votes[c]) } else { 0.0 };
        let class = best(probabilities.iter().enumerate().map(|(c, p)| p + weight(c)));
        Opinion { class, probabilities }
    }
}

/// Shows a network all pictures of a data set; `visit` is given the probabilities of each in turn.
fn look(member: &mut Trained, data: &Dataset, mut visit: impl FnMut(&[f64])) -> Result<Running> {
    let model = &mut member.model;
    let loader = Loader::new(data, &member.normalization, model.input, model.dtype, model.device)?;
    let (classes, numbers): (usize, Vec<u32>) = (model.classes, (0..data.len() as u32).collect());
    evaluate(model, &loader, &numbers, EVAL_BATCH, |_, logits| {
        logits.read()?.chunks_exact(classes).for_each(|x| visit(&softmax(x)));
        Ok(())
    })
}

/// In f64, whatever the network computes in: in half precision two classes would often be equally likely.
fn softmax(x: &[f64]) -> Vec<f64> {
    let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = x.iter().map(|x| (x - most).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

/// The place of the largest number, the first among equals.
fn best(x: impl Iterator<Item = f64>) -> usize {
    x.enumerate().fold((0, f64::NEG_INFINITY), |best, (i, x)| if x > best.1 { (i, x) } else { best }).0
}

/// The share of pictures whose most likely class is the label.
fn share(probabilities: &[f64], classes: usize, labels: &[u8]) -> f64 {
    let right = probabilities.chunks_exact(classes).zip(labels).filter(|(p, label)| best(p.iter().copied()) == usize::from(**label));
    right.count() as f64 / labels.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synthetic;
    use crate::models::{Model, Options};
    use crate::train::Config;

    fn ensemble(members: u64, vote: bool, views: Views) -> Ensemble {
        let splits = synthetic(1, 1, 0);
        let member = |seed| Trained {
            model: Model::build("net1", &Options { seed, ..Options::default() }).unwrap(),
            classes: splits.train.classes.clone(),
            normalization: splits.normalization.clone(),
            config: Config::default(),
        };
        Ensemble { members: (0..members).map(member).collect(), vote, views }
    }

    fn agree(vote: bool, each: &[[f64; 10]]) -> usize {
        ensemble(each.len() as u64, vote, Views::One).agree(each.iter().map(|p| &p[..])).class
    }

    fn likely(of: &[(usize, f64)]) -> [f64; 10] {
        let mut p = [0.0; 10];
        of.iter().for_each(|&(c, x)| p[c] = x);
        p
    }

    #[test]
    fn votes_and_means() {
        // Two are slightly for 3, one is sure of 7.
        let each = [likely(&[(3, 0.5), (7, 0.4)]), likely(&[(3, 0.5), (7, 0.4)]), likely(&[(7, 1.0)])];
        assert_eq!(agree(false, &each), 7);
        assert_eq!(agree(true, &each), 3);
        // A tie of votes goes to the higher mean probability, not to the first class.
        let each = [likely(&[(3, 0.5), (7, 0.3)]), likely(&[(7, 0.9), (3, 0.1)])];
        assert_eq!((agree(true, &each), agree(false, &each)), (7, 7));
        let each = [likely(&[(3, 0.9), (7, 0.1)]), likely(&[(7, 0.5), (3, 0.4)])];
        assert_eq!(agree(true, &each), 3);
    }

    /// One network's judgement is the softmax of its logits, and its sums are those of `evaluate`.
    #[test]
    fn one_network_judges_as_it_does_alone() {
        let data = synthetic(1, 300, 3).test;
        let mut alone = ensemble(1, false, Views::One);
        let judged = alone.judge(&data).unwrap();
        assert_eq!((judged.opinions.len(), judged.sums.samples()), (300, 300));
        let mut loss = 0.0;
        for (opinion, &label) in judged.opinions.iter().zip(&data.labels) {
            assert!((opinion.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            loss -= opinion.probabilities[usize::from(label)].ln() / 300.0;
        }
        assert!((loss - judged.sums.loss()).abs() < 1e-5, "{loss} {}", judged.sums.loss());
        let right = judged.opinions.iter().zip(&data.labels).filter(|(o, l)| o.class == usize::from(**l)).count();
        assert_eq!(right as f64 / 300.0, judged.sums.accuracy());
        assert_eq!(judged.members, [judged.sums.accuracy()]);
        // Three times the same network thinks the same, whichever way they agree.
        for vote in [false, true] {
            let mut three = ensemble(3, vote, Views::One);
            three.members.iter_mut().for_each(|m| m.model = Model::build("net1", &Options::default()).unwrap());
            let all = three.judge(&data).unwrap();
            assert!(all.opinions.iter().zip(&judged.opinions).all(|(a, b)| a.class == b.class));
            assert!((all.sums.loss() - loss).abs() < 1e-12);
        }
    }

    /// Nine views of a picture, one of which is itself: their mean, by hand.
    #[test]
    fn views_are_averaged() {
        let data = synthetic(1, 4, 3).test;
        let judged = ensemble(1, false, Views::Shifts).judge(&data).unwrap();
        let mut mean = [0.0; 10];
        for dy in -1..=1 {
            for dx in -1..=1 {
                let p = ensemble(1, false, Views::One).judge(&data.moved([dy, dx])).unwrap().opinions.swap_remove(2).probabilities;
                mean.iter_mut().zip(p).for_each(|(mean, p)| *mean += p / 9.0);
            }
        }
        let off = mean.iter().zip(&judged.opinions[2].probabilities).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 1e-12, "{off}");
    }

    #[test]
    fn words_of_the_command_line() {
        for views in [Views::One, Views::Shifts] {
            assert_eq!(views.to_string().parse::<Views>().unwrap(), views);
        }
        assert_eq!("flip".parse::<Views>().unwrap_err().exit_code(), 2);
        assert_eq!(Views::Shifts.moves().len(), 9);
    }
}
