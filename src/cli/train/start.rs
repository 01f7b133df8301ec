//! What a run begins with: device, data, teacher, and the network with its first weights or those of a checkpoint.
//!
//! Read next: `run.rs`.

use super::Train;
use crate::cli::data_args::same_classes;
use crate::cli::remark;
use crate::data::{Source, Splits};
use crate::device::Device;
use crate::error::Result;
use crate::export::import;
use crate::train::progress::Place;
use crate::train::trained::classes;
use crate::train::{Checkpoint, Config, Teacher, Trainer, Transfer};
use std::path::PathBuf;

/// A checkpoint to go on from, and where it lies.
pub(super) type Saved = (PathBuf, Checkpoint);

/// What a run begins with.
pub(super) struct Start {
    pub config: Config,
    splits: Splits,
    teacher: Option<Teacher>,
    place: Place,
}

impl Start {
    /// The run, ready to go; once.
    pub fn trainer(&mut self, saved: Option<&Saved>) -> Result<Trainer<'_>> {
        let mut trainer = Trainer::new(self.config.clone(), &self.splits, self.place)?;
        self.teacher.take().map_or(Ok(()), |teacher| trainer.teach(teacher))?;
        match (saved, &self.config.init_from) {
            (Some((path, saved)), _) => {
                trainer.resume(saved, path)?;
                same_classes(&self.splits.train.classes, &classes(path, saved)?, path)?;
            }
            (None, Some(path)) => {
                let transfer = Transfer::start(&mut trainer.model, &import::read(path)?, path)?;
                remark(format_args!("first weights from {}: {transfer}", path.display()));
            }
            (None, None) => {}
        }
        Ok(trainer)
    }
}

impl Train {
    /// Everything that a run begins with.
    pub(super) fn start(&self, saved: Option<&Saved>) -> Result<Start> {
        let (device, why) = Device::open(&self.device)?;
        why.into_iter().for_each(remark);
        let place = Place { device, capture: !self.no_capture };
        let mut config = self.choose(saved)?;
        config.check().map_err(|e| self.blame(e))?;
        let (data, mut splits) = self.data_args.load(&config)?;
        config.data = data;

        let source: Source = config.data.parse()?;
        if config.augment()?.flip && source.is_white_on_black() && source != Source::Fashion {
            remark("note: --augment flip mirrors half of the pictures, and a mirrored digit or letter is another sign");
        }
        let teacher = match &config.teacher {
            Some(path) => {
                let teacher = Teacher::load(path, &config, device)?;
                same_classes(&splits.train.classes, &teacher.classes, path)?;
                Some(teacher)
            }
            None => None,
        };
        // Both are shown the same pictures.
        splits.normalization = teacher.as_ref().map_or(splits.normalization, |teacher| teacher.normalization.clone());
        Ok(Start { config, splits, teacher, place })
    }
}
