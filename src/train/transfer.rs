//! Transfer: a network that begins with another's weights, and parameters that keep theirs.
//!
//! What fits is taken by name and shape; the rest (the last layer, when there are other classes) keeps its first values and is told. The
//! other way to start from a checkpoint, going on with its run, is `trainer.rs`; it takes all or nothing. Read next: `distill.rs`.

use super::checkpoint::{Checkpoint, is_model};
use super::trained::restore;
use crate::error::{Error, Result};
use crate::models::Model;
use crate::nn::ParamId;
use std::fmt;
use std::path::Path;

/// What came over from a checkpoint, and what did not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transfer {
    /// Tensors that were taken.
    pub taken: Vec<String>,
    /// Tensors of another shape there: name, shape there, shape here. They keep their first values.
    pub misshaped: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Tensors that the checkpoint has not. They keep their first values.
    pub missing: Vec<String>,
    /// Tensors that only the checkpoint has.
    pub unused: Vec<String>,
}

impl Transfer {
    /// Puts every tensor of a checkpoint that has its name and shape in `model` (weights and running statistics) there.
    ///
    /// Fails when there is none: then it is another network's.
    pub fn start(model: &mut Model, saved: &Checkpoint, path: &Path) -> Result<Transfer> {
        let mut all = Transfer::default();
        for (name, tensor) in model.params.state_mut() {
            match saved.tensors.get(name) {
                None => all.missing.push(name.into()),
                Some((shape, array)) if **shape == tensor.shape()[..] => {
                    restore(tensor, array);
                    all.taken.push(name.into());
                }
                Some((shape, _)) => all.misshaped.push((name.into(), shape.clone(), tensor.shape().to_vec())),
            }
        }
        let known = |name: &String| model.params.state().any(|(known, _)| known == name);
        all.unused = saved.tensors.keys().filter(|name| is_model(name) && !known(name)).cloned().collect();
        if all.taken.is_empty() {
            return Err(Error::usage(format!("{}: nothing in it fits model '{}'\n{all}", path.display(), model.name))
                .hint("choose the --model that the checkpoint was trained with"));
        }
        model.params.refresh()?;
        Ok(all)
    }
}

/// One line of how many tensors were taken, and one for each that was not.
impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { taken, misshaped, missing, unused } = self;
        write!(f, "{} of {} tensors taken", taken.len(), taken.len() + misshaped.len() + missing.len())?;
        for (name, there, here) in misshaped {
            write!(f, "\n  {name} keeps its first values: the checkpoint has {there:?}, the model {here:?}")?;
        }
        for name in missing {
            write!(f, "\n  {name} keeps its first values: the checkpoint has none")?;
        }
        for name in unused {
            write!(f, "\n  {name} is not used: the model has none")?;
        }
        Ok(())
    }
}

/// Freezes the parameters of `model` whose names a pattern fits (`*` stands for any letters, `?` for one): they get no gradient and
/// keep every bit. Gives their names.
///
/// As in PyTorch with `requires_grad = False`: a frozen batch norm still normalises by its batch in training, and its running
/// statistics, which are no parameters, go on following the batches. Fails when a pattern fits no parameter, and when nothing is left to train.
pub fn freeze(model: &mut Model, patterns: &[String]) -> Result<Vec<String>> {
    let names = model.params.names().to_vec();
    if let Some(idle) = patterns.iter().find(|pattern| !names.iter().any(|name| fits(pattern, name))) {
        return Err(Error::usage(format!("--freeze '{idle}' fits no parameter of model '{}'", model.name))
            .hint(format!("its parameters: {}; 'conv1.*' fits all that begin with conv1.", names.join(", "))));
    }
    let mut frozen = Vec::new();
    for (i, name) in names.iter().enumerate() {
        if patterns.iter().any(|pattern| fits(pattern, name)) {
            model.params.freeze(ParamId(i));
            frozen.push(name.clone());
        }
    }
    if frozen.len() == names.len() {
        return Err(Error::usage("--freeze leaves nothing to train").hint("keep the last layer out of it, as in --freeze 'conv*'"));
    }
    Ok(frozen)
}

/// Does a pattern fit the whole of a name? Where a star's part goes wrong it takes one letter more and the rest is tried again: only the
/// last star ever needs to, as what an earlier one took could only have been less.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Behind the last star, and the first letter that it has not taken.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                star = Some((p, n));
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((behind, taken)) = star else { return false };
                star = Some((behind, taken + 1));
                (p, n) = (behind, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Options;
    use crate::train::Array;
    use proptest::prelude::*;

    fn model(name: &str, classes: usize, seed: u64) -> Model {
        Model::build(name, &Options { classes, seed, ..Options::default() }).unwrap()
    }

    fn saved(model: &Model) -> Checkpoint {
        let mut saved = Checkpoint::default();
        for (name, t) in model.params.state() {
            let values = t.values().iter().map(|&x| x as f32).collect();
            saved.tensors.insert(name.into(), (t.shape().to_vec(), Array::F32(values)));
        }
        saved
    }

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, yes, no) in [
            ("conv1.*", "conv1.weight", "conv10.weight"),
            ("*", "fc.bias", ""),
            ("*bn*.weight", "layer1.0.bn2.weight", "layer1.0.conv2.weight"),
            ("fc", "fc", "fc.weight"),
            ("fc?.bias", "fc3.bias", "fc.bias"),
            ("*a*ab", "aab", "aaba"),
        ] {
            assert!(fits(pattern, yes), "{pattern} {yes}");
            assert!(no.is_empty() || !fits(pattern, no), "{pattern} {no}");
        }
        assert!(!fits("", "fc") && fits("", ""));
    }

    proptest! {
        /// Against the definition, which is slow.
        #[test]
        fn patterns_are_what_their_definition_says(pattern in "[ab*?]{0,6}", name in "[ab]{0,7}") {
            fn slow(p: &[u8], n: &[u8]) -> bool {
                match (p, n) {
                    ([], n) => n.is_empty(),
                    ([b'*', p @ ..], n) => (0..=n.len()).any(|i| slow(p, &n[i..])),
                    ([_, ..], []) => false,
                    ([c, p @ ..], [d, n @ ..]) => (*c == b'?' || c == d) && slow(p, n),
                }
            }
            prop_assert_eq!(fits(&pattern, &name), slow(pattern.as_bytes(), name.as_bytes()));
        }
    }

    #[test]
    fn what_fits_is_taken_and_the_rest_is_named() {
        let from = model("net1", 7, 1);
        let mut to = model("net1", 10, 2);
        let before = to.params.values()[2].values();
        let mut saved = saved(&from);
        let tensor = saved.tensors.remove("conv1.bias").unwrap();
        saved.tensors.insert("other".into(), tensor);
        let transfer = Transfer::start(&mut to, &saved, Path::new("x")).unwrap();
        assert_eq!(transfer.taken, ["conv1.weight"]);
        assert_eq!(transfer.missing, ["conv1.bias"]);
        assert_eq!(transfer.unused, ["other"]);
        assert_eq!(transfer.misshaped[0], ("fc.weight".into(), vec![7, 360], vec![10, 360]));
        assert_eq!(to.params.values()[0].values(), from.params.values()[0].values());
        assert_eq!(to.params.values()[2].values(), before);
        let text = transfer.to_string();
        assert!(text.starts_with("1 of 4 tensors taken\n") && text.contains("fc.weight") && text.contains("[7, 360]"), "{text}");
    }

    #[test]
    fn another_networks_weights_are_refused() {
        let error = Transfer::start(&mut model("net1", 10, 2), &saved(&model("improved", 10, 1)), Path::new("some/file")).unwrap_err();
        assert!(error.message.contains("some/file") && error.message.contains("net1"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn patterns_that_do_nothing_or_too_much_are_errors() {
        let mut net = model("net1", 10, 0);
        let patterns = |p: &[&str]| p.iter().map(|p| p.to_string()).collect::<Vec<_>>();
        let error = freeze(&mut net, &patterns(&["conv1.*", "conv2.*"])).unwrap_err();
        assert!(error.message.contains("conv2.*") && error.hint.unwrap().contains("conv1.weight, conv1.bias, fc.weight"));
        assert_eq!(freeze(&mut net, &patterns(&["conv1.w*", "*.bias"])).unwrap(), ["conv1.weight", "conv1.bias", "fc.bias"]);
        assert!(freeze(&mut net, &patterns(&["*"])).unwrap_err().message.contains("nothing to train"));
    }
}
