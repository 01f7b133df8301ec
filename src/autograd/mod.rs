//! Reverse-mode differentiation: what an op is, and the tape that remembers which ones ran.
//!
//! Running the network writes a list of op objects in order; [`Tape::backward`] walks it from the end and asks each op to turn
//! the gradient of its output into gradients of its inputs. That is all of backprop. The mathematics of each op is on its own
//! page in `ops`; here is no arithmetic but the adding of two gradients. Read in this order: `op.rs`, `tape.rs`, `gradients.rs`,
//! `check.rs`.

pub mod check;
pub mod gradients;
pub mod op;
pub mod tape;

pub use gradients::Gradients;
pub use op::{Needs, Node, Op, Saved, Slot};
pub use tape::{Applied, Tape, Var};
