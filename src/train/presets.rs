//! Named sets of choices: what a run is to be good at, and how that is done here.
//!
//! A preset takes the place of the defaults; flags override it. Why the choices are what they are stands beside each; what they
//! reach is in the README. Read next: `config.rs`.

use super::config::Config;
use crate::error::{Error, Result};

/// One named set of choices.
#[derive(Debug)]
pub struct Preset {
    /// What `--preset` calls it.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// The networks that are trained, with seeds that count on, and judge together; none where it is one, that of the choices.
    pub members: &'static [&'static str],
    choices: fn() -> Config,
}

/// Every preset.
pub const ALL: &[Preset] = &[
    Preset {
        name: "fast99",
        about: "MNIST to 99% in as little time as possible: LeNet, 2 epochs, one-cycle",
        members: &[],
        choices: fast99,
    },
    Preset {
        name: "best",
        about: "the best single network: lenet-bn3@2, moved pictures, 20 epochs, one-cycle",
        members: &[],
        choices: best,
    },
    Preset {
        name: "ensemble",
        about: "five networks of four kinds that judge together by mean probability: simple3, 5 and 7 at half their width, improved twice",
        members: &["simple3@0.5", "improved", "simple5@0.5", "simple7@0.5", "improved"],
        choices: ensemble,
    },
];

impl Preset {
    /// A preset by its name.
    pub fn by_name(name: &str) -> Result<&'static Preset> {
        ALL.iter().find(|preset| preset.name == name).ok_or_else(|| {
            let names = ALL.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ");
            Error::usage(format!("unknown preset '{name}'")).hint(format!("choose one of {names}"))
        })
    }

    /// Its choices.
    pub fn config(&self) -> Config {
        (self.choices)()
    }
}

/// One-cycle (Smith and Topin 2018, "Super-convergence") bears a rate five times the default's and needs few epochs to come down from it.
/// All images are learned from: there is no checkpoint to choose.
fn fast99() -> Config {
    Config {
        model: "lenet".into(),
        data: "mnist".into(),
        epochs: 2,
        batch: 64,
        lr: 8e-3,
        schedule: "onecycle".into(),
        val_split: 0.0,
        ..Config::default()
    }
}

/// A small network with batch norm sees each picture at another place each time: on MNIST moved pictures are worth more than depth. Twice
/// the width is worth more than twice the epochs: with seed 0, 99.61% in 20 and 99.60% in 40 epochs at width 1, 99.65% in 20 at width 2.
fn best() -> Config {
    Config {
        model: "lenet-bn3@2".into(),
        data: "mnist".into(),
        epochs: 20,
        batch: 128,
        optimizer: "adamw".into(),
        lr: 4e-3,
        weight_decay: Some(0.05),
        schedule: "onecycle".into(),
        label_smoothing: 0.05,
        augment: "rotate:10,translate:0.08,scale:0.1".into(),
        ema: Some(0.999),
        val_split: 0.0,
        ..Config::default()
    }
}

/// Networks of one recipe and form err on the same digits: five of `best` judged no better together than one. So these differ in kernels and
/// in depth, and learn from hard labels, whose probabilities say more when they are added up. A second `improved`, the best of them alone,
/// is worth more than a `lenet-bn3@2`, which needs more than 12 epochs.
fn ensemble() -> Config {
    Config {
        epochs: 12,
        lr: 3e-3,
        weight_decay: Some(0.02),
        label_smoothing: 0.0,
        augment: "rotate:15,translate:0.1,scale:0.1".into(),
        ..best()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_can_be_run() {
        for preset in ALL {
            preset.config().check().unwrap();
            assert_eq!(Preset::by_name(preset.name).unwrap().about, preset.about);
        }
        let error = Preset::by_name("slow").unwrap_err();
        assert!(error.hint.unwrap().contains("fast99, best, ensemble"));
    }
}
