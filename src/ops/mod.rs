//! The ops: one page each, mathematics first, then the code of each device.
//!
//! Adding an op is: a page here with its `cases()`, and one line in [`cases`] below. Gradient checks, precision parity and the
//! table of `cugrad check` follow from the cases without another edit. Read first: `relu.rs` (the shortest), then `linear.rs`,
//! then `conv2d.rs`.

pub mod batchnorm;
pub mod case;
pub mod cross_entropy;
pub mod kl_div;
pub mod relu;
pub mod softmax;

pub use case::Case;

/// Every case of every op.
pub fn cases() -> Vec<Case> {
    [relu::cases(), batchnorm::cases(), softmax::cases(), cross_entropy::cases(), kl_div::cases()].concat()
}
