//! Why a UDF failed.

use std::fmt;
use std::time::Duration;

/// What a UDF answers.
pub type UdfResult<T> = Result<T, UdfError>;

/// Why a UDF failed: a text and the chain of causes. Made from any [`std::error::Error`], so that `?` works.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UdfError {
    message: String,
    causes: Vec<String>,
    retry_after: Option<Duration>,
}

impl UdfError {
    /// An error with a text of the author's own.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), retry_after: None }
    }

    /// Asks that the batch is not tried again before `delay` is over, as a server does that is busy. At most 60 s; means
    /// nothing without [`Pool::max_retries`](super::Pool::max_retries).
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    pub(super) fn delay(&self) -> Option<Duration> {
        self.retry_after
    }

    /// A call that outlasted its [`Pool::timeout`](super::Pool::timeout); `then`: what became of it.
    pub(crate) fn timed_out(limit: Duration, then: &str) -> Self {
        Self::new(format!(
            "the call ran longer than its timeout of {} s; {then}. Raise .timeout(..), or find what the call waits for",
            limit.as_secs_f64()
        ))
    }

    /// The same error, with where it happened in front.
    pub(crate) fn within(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl<E: std::error::Error> From<E> for UdfError {
    fn from(error: E) -> Self {
        let causes = std::iter::successors(error.source(), |e| e.source()).map(ToString::to_string).collect();
        Self { message: error.to_string(), causes, retry_after: None }
    }
}

impl fmt::Display for UdfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, "; caused by: {cause}"))
    }
}

impl fmt::Debug for UdfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
