//! The integration tests, in one binary so that they link once. Each file is one property of the whole.

mod aids;
mod build;
mod cli;
mod clip;
mod conv;
mod cuda;
mod data;
mod device;
mod distill;
mod ensemble;
mod export;
mod golden;
mod gradients;
mod house;
mod kernels;
mod lanes;
mod models;
mod ops;
mod optim;
mod plot;
mod runs;
mod steps;
mod tape;
mod transfer;
