//! The choices of a run: from the checkpoint to resume, from `--config` or from a preset, else the defaults in `train/config.rs`; flags override
//! them.
//!
//! Read next: `start.rs`.

use super::Train;
use super::start::Saved;
use crate::data::Source;
use crate::error::{Error, Result};
use crate::export::import;
use crate::train::{Config, Preset};

impl Train {
    /// Names the configuration file in an error that is there without the flags, too.
    pub(super) fn blame(&self, e: Error) -> Error {
        match &self.config {
            Some(path) if Config::read(path).and_then(|c| c.check()).is_err_and(|own| own.message == e.message) => {
                Error { message: format!("{}: {}", path.display(), e.message), ..e }
            }
            _ => e,
        }
    }

    /// The run's choices: from the checkpoint to resume, else from the file, else the defaults; then the flags.
    pub(super) fn choose(&self, saved: Option<&Saved>) -> Result<Config> {
        let before = self.without_flags(saved)?;
        let mut config = before.clone();
        self.set(&mut config);
        match saved.is_some() && !may_become(&before, &config) {
            true => Err(Error::usage(
                "a resumed run keeps its choices; only --epochs, --early-stop, --log-every and --watch can change, and where a folder or list lies",
            )
            .hint("leave out the other flags, or start a new run")),
            false => Ok(config),
        }
    }

    /// What the flags override.
    fn without_flags(&self, saved: Option<&Saved>) -> Result<Config> {
        let preset = self.preset.as_deref().map(Preset::by_name).transpose()?;
        let mut config = match (saved, &self.config) {
            _ if preset.is_some() && (saved.is_some() || self.config.is_some()) => {
                return Err(Error::usage("--preset cannot go with --resume or --config: all of them are sets of choices"));
            }
            (Some(_), Some(_)) => {
                return Err(Error::usage("--resume and --config cannot go together: a checkpoint knows its configuration"));
            }
            (Some((path, saved)), None) => {
                let text = saved
                    .meta
                    .get("config")
                    .ok_or_else(|| Error::run(format!("{}: not a checkpoint of cugrad: it has no configuration", path.display())))?;
                serde_json::from_str(text).map_err(|e| Error::run(format!("{}: its configuration cannot be read: {e}", path.display())))?
            }
            (None, Some(path)) => Config::read(path)?,
            (None, None) => preset.map_or_else(Config::default, Preset::config),
        };
        // A network that begins with a checkpoint's weights is of its kind, if nothing else is said.
        if let (None, None, None, Some(path)) = (saved, &self.config, &self.model, &self.others.init_from) {
            config.model = import::read(path)?.meta.remove("model").unwrap_or(config.model);
        }
        Ok(config)
    }

    /// Puts the flags that were given into the choices.
    fn set(&self, config: &mut Config) {
        fn set<T: Clone>(to: &mut T, flag: &Option<T>) {
            if let Some(value) = flag {
                *to = value.clone();
            }
        }
        // A path must mean the same wherever the run goes on; what is no source is refused later.
        let absolute = |data: &String| data.parse().map_or(data.clone(), |source: Source| source.absolute().to_string());
        set(&mut config.model, &self.model);
        set(&mut config.data, &self.data.as_ref().map(absolute));
        self.data_args.set(config);
        set(&mut config.epochs, &self.epochs);
        set(&mut config.batch, &self.batch);
        set(&mut config.optimizer, &self.optimizer);
        set(&mut config.lr, &self.lr);
        set(&mut config.momentum, &self.momentum.map(Some));
        set(&mut config.weight_decay, &self.weight_decay.map(Some));
        set(&mut config.schedule, &self.schedule);
        set(&mut config.label_smoothing, &self.label_smoothing);
        set(&mut config.augment, &self.augment);
        set(&mut config.precision, &self.precision);
        set(&mut config.seed, &self.seed);
        set(&mut config.limit, &self.limit.map(Some));
        set(&mut config.val_split, &self.val_split);
        self.others.set(config);
        config.nesterov |= self.nesterov;
        self.recipe.set(config);
    }
}

/// May a run that was begun with the one go on with the other? What may change is what no step depends on, and another place of the same
/// pictures.
fn may_become(before: &Config, now: &Config) -> bool {
    let own = |data: &str| data.parse().is_ok_and(|source: Source| source.is_own());
    let data = if own(&now.data) && own(&before.data) { &before.data } else { &now.data }.clone();
    let Config { epochs, early_stop, log_every, watch, .. } = *before;
    let data_dir = before.data_dir.clone();
    Config { epochs, early_stop, log_every, watch, data, data_dir, ..now.clone() } == *before
}
