//! The figures of a run, read back from its `metrics.jsonl`.
//!
//! A line that a killed run left unfinished, and any other that is no record, is passed over, as it is when a run is resumed. Writing
//! them is `rundir.rs`, drawing them `plot/history.rs`. Read next: `cli/runs.rs`, which asks whether a run is finished.

use crate::disk::io_error;
use crate::error::Result;
use serde::Deserialize;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// What was measured at one time of a run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Row {
    /// Epochs finished or under way.
    pub epoch: u64,
    /// `train`, `val`, `test`, `step`.
    pub split: String,
    /// Mean loss per sample; none if it was not finite.
    pub loss: Option<f64>,
    /// Share classified right, 0 to 1.
    pub acc: Option<f64>,
    /// Learning rate of the last step.
    pub lr: Option<f64>,
    /// Seconds of training so far.
    pub time_s: Option<f64>,
    /// Images per second.
    pub samples_per_s: Option<f64>,
}

/// All rows of the run in a directory, in order; none if there is no such run.
pub fn read(run: &Path) -> Result<Vec<Row>> {
    let path = run.join("metrics.jsonl");
    match fs::read(&path) {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(io_error("cannot read", &path, &e)),
    }
}

/// The rows in the bytes of such a file.
pub fn parse(bytes: &[u8]) -> Vec<Row> {
    String::from_utf8_lossy(bytes).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_lines_are_read_and_others_passed_over() {
        let text =
            "{\"step\":1,\"epoch\":1,\"split\":\"val\",\"loss\":null,\"acc\":0.5,\"lr\":0.1,\"time_s\":2.0}\nnonsense\n{\"epoch\":2,\"spl";
        let row = Row { epoch: 1, split: "val".into(), loss: None, acc: Some(0.5), lr: Some(0.1), time_s: Some(2.0), samples_per_s: None };
        assert_eq!(parse(text.as_bytes()), [row]);
        assert_eq!(read(Path::new("/none/such")).unwrap(), []);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }
    }
}
