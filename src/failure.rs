//! What a failure needs: time, or a person. The exit code tells systemd which.

use std::fmt;
use std::process::ExitCode;

use blat_target::message::{Mend, Refusal};

/// `EX_TEMPFAIL` of sysexits: trying again later mends it.
pub const EXIT_LATER: u8 = 75;
/// `EX_CONFIG` of sysexits: it stays as it is until a person mends it.
pub const EXIT_PERSON: u8 = 78;

/// A failure that ended a piece of work, with what mends it.
#[derive(Debug)]
pub struct Failure {
    pub mend: Mend,
    pub cause: anyhow::Error,
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure that trying again later mends.
    pub fn later(cause: impl Into<anyhow::Error>) -> Self {
        Self { mend: Mend::Later, cause: cause.into() }
    }

    /// A failure that only a person mends.
    pub fn person(cause: impl Into<anyhow::Error>) -> Self {
        Self { mend: Mend::Person, cause: cause.into() }
    }

    /// The exit code of a program that ends with this failure.
    pub fn exit_code(&self) -> u8 {
        match self.mend {
            Mend::Later => EXIT_LATER,
            Mend::Person => EXIT_PERSON,
        }
    }

    /// The same failure, saying what was attempted.
    pub fn context(self, attempt: impl fmt::Display + Send + Sync + 'static) -> Self {
        Self { cause: self.cause.context(attempt), ..self }
    }
}

/// The chain of causes in one line, each once.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.cause)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { mend: refusal.mend, cause: anyhow::Error::msg(refusal.reason) }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { mend: failure.mend, reason: failure.to_string() }
    }
}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        failure.exit_code().into()
    }
}

/// Says, of any error, what mends it and what was attempted.
pub trait Needs<T> {
    /// Time mends it.
    fn later(self, attempt: impl fmt::Display + Send + Sync + 'static) -> Result<T>;
    /// A person mends it.
    fn person(self, attempt: impl fmt::Display + Send + Sync + 'static) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> Needs<T> for std::result::Result<T, E> {
    fn later(self, attempt: impl fmt::Display + Send + Sync + 'static) -> Result<T> {
        self.map_err(|why| Failure::later(why.into().context(attempt)))
    }

    fn person(self, attempt: impl fmt::Display + Send + Sync + 'static) -> Result<T> {
        self.map_err(|why| Failure::person(why.into().context(attempt)))
    }
}
