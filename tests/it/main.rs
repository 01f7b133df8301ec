//! The integration tests, in one binary so that they link once. Each file is one property of the whole.

mod cli;
mod golden;
mod gradients;
mod house;
mod lanes;
mod models;
mod ops;
mod optim;
mod tape;
