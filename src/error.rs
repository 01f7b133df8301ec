//! The one error type of the crate.
//!
//! An error says what was wrong and where (`message`), what to do about it (`hint`), and belongs to one [`Kind`], which alone
//! decides the exit code of the program. It is not a hierarchy of enums: callers never match on causes, people read them.
//! Read next: `cli/mod.rs`, which prints errors and exits.

/// What sort of thing went wrong; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A run failed: shapes that do not fit, a file that cannot be written, a loss that became NaN.
    Run,
    /// The command line or a configuration file asks for something that does not exist.
    Usage,
    /// The device asked for cannot be used.
    Device,
    /// A data set, picture or download is missing or broken.
    Data,
    /// A check found a disagreement.
    Check,
    /// Stopped by Ctrl-C, after what was reached had been saved.
    Interrupted,
}

/// An error: what was wrong and where, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Decides the exit code.
    pub kind: Kind,
    /// What was wrong, and where.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// A run failed (exit code 1).
    pub fn run(message: impl Into<String>) -> Self {
        Self::new(Kind::Run, message)
    }

    /// Wrong usage (exit code 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The device cannot be used (exit code 3).
    pub fn device(message: impl Into<String>) -> Self {
        Self::new(Kind::Device, message)
    }

    /// Data are missing or broken (exit code 4).
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(Kind::Data, message)
    }

    /// A check failed (exit code 5).
    pub fn check(message: impl Into<String>) -> Self {
        Self::new(Kind::Check, message)
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code of the program: 1 failed, 2 usage, 3 device, 4 data, 5 check failed, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Run => 1,
            Kind::Usage => 2,
            Kind::Device => 3,
            Kind::Data => 4,
            Kind::Check => 5,
            Kind::Interrupted => 130,
        }
    }
}
