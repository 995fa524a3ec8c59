//! How a command ends that has not done what it was to do.

use std::fmt;

use regatta_observe::{Refusal, line};

/// Why a command has failed, for people, and for scripts by its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It could not be done: exit code 1.
    Failed(String),
    /// Something that it needs was not said: exit code 2.
    Usage(String),
    /// The head cannot be reached: exit code 3.
    Unreachable(String),
    /// The head does not let this in, or not do it: exit code 4.
    Refused(String),
}

impl Failure {
    /// What a program ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Refused(_) => 4,
        }
    }

    pub(crate) fn refused(why: String) -> Self {
        Self::Refused(why)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) | Self::Usage(why) => f.write_str(&line(why)),
            Self::Unreachable(why) => write!(f, "cannot reach the head: {}", line(why)),
            Self::Refused(why) => write!(f, "refused: {}", line(why)),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Version { .. } | Refusal::TooMuch(_) => Self::Refused(refusal.to_string()),
            refusal => Self::Failed(refusal.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
