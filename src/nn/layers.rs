//! The layers. Filled in as the ops arrive.

use super::Forward;
use crate::autograd::Var;
use crate::error::Result;

/// A part of a network.
pub trait Module: std::fmt::Debug + Send + Sync {
    /// Runs it on `x`.
    fn forward(&self, f: &mut Forward, x: Var) -> Result<Var>;
}
