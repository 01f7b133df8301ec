//! What a run looks at on its way, beside the loss.
//!
//! [`figures`] measures each parameter's gradient and update, [`health`] says in words what is wrong, [`nonfinite`] finds the op that a loss
//! which is no number came from; `looks` does these at their times in a run. None of it is part of a captured step, and a run has the same bits
//! without it. Not here: what is shown of it (`cli/progress.rs`). Read in that order, then `trial.rs`.

pub mod figures;
pub mod health;
pub(super) mod looks;
pub mod nonfinite;

pub use figures::{Figures, Watch, gradients, norm};
