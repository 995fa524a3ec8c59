//! What becomes of a call that failed: it runs again, after a delay, or the policy has the last word.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use polars::prelude::{Column, DataFrame, DataType};
use serde::{Deserialize, Serialize};

use super::thread::Reply;
use super::{Metrics, PoolOptions, UdfError, UdfResult};
use crate::sched::StepId;

/// What becomes of rows for which a UDF fails, after the last retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnError {
    /// The query fails.
    #[default]
    Raise,
    /// The rows are null, and a warning says so in the log of the process that saw it.
    Log,
    /// The rows are null.
    Null,
}

/// What one attempt of a call is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Call {
    /// From 1.
    pub(super) attempt: u32,
    /// What a row-wise function does with rows that fail: `Raise` while there are retries left.
    pub(super) on_error: OnError,
    /// How long it may run.
    pub(crate) timeout: Option<Duration>,
    /// Whose it is; `None` where Polars evaluates the call itself: the replica is the caller's own.
    pub(super) of: Option<StepId>,
    /// A replica has died with this batch: no other runs beside it, so that a second death is its own doing.
    pub(super) alone: bool,
}

impl Call {
    /// The only attempt of a call that may take as long as it wants.
    pub(crate) const ONCE: Self = Self { attempt: 1, on_error: OnError::Raise, timeout: None, of: None, alone: false };
}

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// The attempts of one call.
#[derive(Debug)]
pub(crate) struct Retry<'a> {
    options: &'a PoolOptions,
    of: Option<StepId>,
    attempt: u32,
    delay: Duration,
}

impl<'a> Retry<'a> {
    pub(crate) fn new(options: &'a PoolOptions, of: Option<StepId>) -> Self {
        Self { options, of, attempt: 1, delay: FIRST_DELAY }
    }

    /// The attempt that is to run now.
    pub(crate) fn call(&self) -> Call {
        let last = self.attempt > self.options.max_retries;
        let on_error = if last { self.options.on_error } else { OnError::Raise };
        Call { attempt: self.attempt, on_error, timeout: self.options.timeout, of: self.of, alone: false }
    }

    /// The attempt has failed: how long to wait before the next one; `None` if that was the last.
    pub(crate) fn failed(&mut self, error: &UdfError) -> Option<Duration> {
        if self.attempt > self.options.max_retries {
            return None;
        }
        let asked_for = error.delay().unwrap_or_default().min(LONGEST_DELAY);
        let delay = jittered(self.delay).max(asked_for);
        self.attempt += 1;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        Some(delay)
    }

    /// The last attempt has failed: what the policy makes of the batch.
    pub(crate) fn settle(&self, udf: &str, error: UdfError, rows: usize, dtype: &DataType) -> UdfResult<Reply> {
        match self.options.on_error {
            OnError::Raise => return Err(error),
            OnError::Log => tracing::warn!(udf, rows, attempts = self.attempt, %error, "a failed batch becomes nulls"),
            OnError::Null => (),
        }
        Ok(Reply { column: Column::full_null("".into(), rows, dtype), metrics: Metrics::default() })
    }
}

/// Deaths of replicas that ran the same batch.
#[derive(Debug, Default)]
pub(crate) struct Deaths(usize);

/// So many, and the batch is what kills them.
const DEADLY: usize = 2;

impl Deaths {
    /// The call, as it is made after such deaths.
    pub(crate) fn before(&self, call: Call) -> Call {
        Call { alone: self.0 > 0, ..call }
    }

    /// A replica has died with this batch, which is no failure of the UDF: the batch goes to another replica, unless it has
    /// killed enough of them. Then the error names it.
    pub(crate) fn another(&mut self, why: &str, inputs: &DataFrame) -> Option<UdfError> {
        self.0 += 1;
        (self.0 >= DEADLY).then(|| {
            let (rows, first) = (inputs.height(), first_row(inputs));
            UdfError::new(format!(
                "a batch of {rows} rows has ended {} replicas and is not tried again; its first row is {first}. The last one {why}",
                self.0
            ))
        })
    }
}

/// The longest first row that an error shows.
const SHOWN: usize = 200;

fn first_row(inputs: &DataFrame) -> String {
    let value = |column: &Column| {
        format!("{}: {}", column.name(), column.get(0).map_or_else(|_| "-".to_owned(), |v| v.to_string()))
    };
    let row = inputs.columns().iter().map(value).collect::<Vec<_>>().join(", ");
    match row.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{{{}...}}", &row[..end]),
        None => format!("{{{row}}}"),
    }
}

// 75 to 125 percent, so that batches that failed together do not come back together.
fn jittered(delay: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1001;
    delay.mul_f64(0.75 + random as f64 / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_a_minute_with_jitter_and_attempts_are_counted() {
        let options = PoolOptions { max_retries: 12, on_error: OnError::Null, ..PoolOptions::default() };
        let mut retry = Retry::new(&options, None);
        let error = UdfError::new("no");
        let mut nominal = 0.1f64;
        for attempt in 1..=12 {
            assert_eq!(retry.call(), Call { attempt, ..Call::ONCE });
            let delay = retry.failed(&error).unwrap().as_secs_f64() / nominal;
            assert!((0.749..=1.251).contains(&delay), "attempt {attempt}: {delay} of {nominal} s");
            nominal = (nominal * 2.0).min(60.0);
        }
        assert_eq!(retry.call(), Call { attempt: 13, on_error: OnError::Null, ..Call::ONCE });
        assert_eq!(retry.failed(&error), None);
    }

    #[test]
    fn the_second_death_with_a_batch_names_the_batch() {
        let inputs = polars::prelude::df!["file" => ["a.png", "b.png"], "n" => [7, 8]].unwrap();
        let mut deaths = Deaths::default();
        assert_eq!(deaths.another("was killed", &inputs), None);
        let text = deaths.another("was killed", &inputs).unwrap().to_string();
        for part in ["a batch of 2 rows", "2 replicas", "file: \"a.png\", n: 7", "was killed"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
        let long = polars::prelude::df!["text" => ["é".repeat(1000)]].unwrap();
        assert!(first_row(&long).chars().count() < SHOWN + 10);
    }

    #[test]
    fn jitter_spreads() {
        let delays: std::collections::BTreeSet<_> = (0..50).map(|_| jittered(Duration::from_secs(1))).collect();
        assert!(delays.len() > 10, "{delays:?}");
    }

    #[test]
    fn an_error_may_ask_for_a_longer_delay_up_to_a_minute() {
        let options = PoolOptions { max_retries: 2, ..PoolOptions::default() };
        let mut retry = Retry::new(&options, None);
        let busy = |seconds| UdfError::new("busy").retry_after(Duration::from_secs(seconds));
        assert_eq!(retry.failed(&busy(7)), Some(Duration::from_secs(7)));
        assert_eq!(retry.failed(&busy(3600)), Some(Duration::from_secs(60)));
        assert_eq!(retry.failed(&busy(1)), None);
    }
}
