//! Why a UDF failed.

use std::fmt;
use std::time::Duration;

use regatta_remote::shorten;

/// What a UDF answers.
pub type UdfResult<T> = Result<T, UdfError>;

/// Why a UDF failed: a text, which ends with the chain of causes. Made from any [`std::error::Error`], so that `?` works.
///
/// It travels, and is kept: of a text longer than 64 KiB the beginning and the end stay, and how many bytes were between them.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UdfError {
    text: String,
    retry_after: Option<Duration>,
}

impl UdfError {
    /// An error with a text of the author's own.
    pub fn new(message: impl Into<String>) -> Self {
        Self { text: shorten(message), retry_after: None }
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
        self.text = format!("{place}: {}", self.text);
        self
    }
}

impl<E: std::error::Error> From<E> for UdfError {
    fn from(error: E) -> Self {
        let causes = std::iter::successors(error.source(), |e| e.source());
        Self::new(causes.fold(error.to_string(), |text, cause| format!("{text}; caused by: {cause}")))
    }
}

impl fmt::Display for UdfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for UdfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not load {0}")]
    struct Load(String, #[source] std::num::ParseIntError);

    #[test]
    fn an_error_of_any_length_travels_with_its_beginning_and_its_last_cause() {
        let load = |name: String| UdfError::from(Load(name, "x".parse::<i64>().unwrap_err()));
        let whole = "could not load w; caused by: invalid digit found in string";
        assert_eq!(load("w".to_owned()).to_string(), whole);
        let text = load("w".repeat(10 << 20)).within("row 3").to_string();
        assert!(text.len() <= regatta_remote::MAX_TEXT, "{}", text.len());
        assert!(
            text.starts_with("row 3: could not load www")
                && text.ends_with("www; caused by: invalid digit found in string")
        );
        assert!(text.contains(" bytes left out "));
    }
}
