//! What becomes of a call that failed: it runs again, after a delay, or the policy has the last word. Of a function on Rust values
//! only the rows that failed do, and the others are kept.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use polars::prelude::{Column, DataFrame, DataType, IdxCa, IdxSize, PolarsResult};
use serde::{Deserialize, Serialize};

use super::registry::conform;
use super::thread::Reply;
use super::{Metrics, PoolOptions, Report, UdfError, UdfResult};
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
    /// The task that calls, and which attempt: for people.
    pub(super) by: Option<(u32, u32)>,
    /// A replica has died with this batch: no other runs beside it, so that a second death is its own doing.
    pub(super) alone: bool,
    /// A row-wise function goes on after rows that fail, and says which they are: whoever calls has them tried again.
    pub(super) says_rows: bool,
}

impl Call {
    /// The only attempt of a call that may take as long as it wants.
    pub(crate) const ONCE: Self = Self {
        attempt: 1,
        on_error: OnError::Raise,
        timeout: None,
        of: None,
        by: None,
        alone: false,
        says_rows: false,
    };
}

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Rows of a batch for which a row-wise function has failed: what stands there in its column is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailedRows {
    /// Ascending, at least one.
    pub(super) rows: Vec<IdxSize>,
    /// Of the first, with the longest delay that any asks for.
    pub(super) error: UdfError,
}

/// The attempts of one call.
#[derive(Debug)]
pub(crate) struct Retry<'a> {
    options: &'a PoolOptions,
    of: Option<StepId>,
    by: Option<(u32, u32)>,
    attempt: u32,
    delay: Duration,
    /// What attempts have made that some rows have failed in.
    kept: Option<Kept>,
}

/// A column of all rows, and those of them that it lacks.
#[derive(Debug)]
struct Kept {
    column: Column,
    metrics: Metrics,
    lacks: Vec<IdxSize>,
}

impl Kept {
    /// The column, with what another attempt has made of the rows that it lacks.
    fn filled(&self, made: Column) -> UdfResult<Column> {
        let height = self.column.len();
        let mut from: Vec<IdxSize> = (0..height as IdxSize).collect();
        for (at, row) in self.lacks.iter().enumerate() {
            from[*row as usize] = (height + at) as IdxSize;
        }
        let mut both = self.column.clone();
        both.append_owned(made)?;
        Ok(both.take(&IdxCa::from_vec("".into(), from))?)
    }
}

impl<'a> Retry<'a> {
    pub(crate) fn new(options: &'a PoolOptions, of: Option<StepId>, by: Option<(u32, u32)>) -> Self {
        Self { options, of, by, attempt: 1, delay: FIRST_DELAY, kept: None }
    }

    /// The attempt that is to run now.
    pub(crate) fn call(&self) -> Call {
        let last = self.attempt > self.options.max_retries;
        let on_error = if last { self.options.on_error } else { OnError::Raise };
        let says_rows = self.options.max_retries > 0;
        let Self { of, by, attempt, .. } = *self;
        Call { attempt, on_error, timeout: self.options.timeout, of, by, alone: false, says_rows }
    }

    /// The rows of a batch that the attempt is to run with.
    ///
    /// # Errors
    /// They are not those of the batch that was answered.
    pub(crate) fn rows(&self, all: &DataFrame) -> PolarsResult<DataFrame> {
        match &self.kept {
            None => Ok(all.clone()),
            Some(kept) => all.take(&IdxCa::from_vec("".into(), kept.lacks.clone())),
        }
    }

    /// An attempt has been answered: the reply for all rows, unless some failed.
    ///
    /// # Errors
    /// Why they failed. What the others came to is kept. Or the column is none of this dtype.
    pub(crate) fn answered(&mut self, reply: Reply, dtype: &DataType) -> UdfResult<Reply> {
        let Reply { column, report: Report { mut metrics, failed } } = reply;
        let column = conform(column, dtype)?;
        let (column, before) = match self.kept.take() {
            None => (column, None),
            Some(kept) => {
                let column = kept.filled(column)?;
                let of_this = std::mem::replace(&mut metrics, kept.metrics);
                metrics.merge(&of_this);
                (column, Some(kept.lacks))
            }
        };
        let Some(FailedRows { rows, error }) = failed else {
            return Ok(Reply { column, report: Report { metrics, failed: None } });
        };
        let number = |row: IdxSize| match &before {
            None => ((row as usize) < column.len()).then_some(row),
            Some(before) => before.get(row as usize).copied(),
        };
        let lacks = rows.into_iter().map(number).collect::<Option<Vec<_>>>();
        let lacks = lacks.ok_or_else(|| UdfError::new("rows are said to have failed that are not in the batch"))?;
        let first = lacks.first().copied().unwrap_or_default();
        let error = error.within(row_of(first as usize, column.len()));
        self.kept = Some(Kept { column, metrics, lacks });
        Err(error)
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

    /// The last attempt has failed: what the policy makes of the batch, or of the rows that it lacks.
    pub(crate) fn settle(self, udf: &str, error: UdfError, rows: usize, dtype: &DataType) -> UdfResult<Reply> {
        let failures = self.kept.as_ref().map_or(rows, |kept| kept.lacks.len());
        match self.options.on_error {
            OnError::Raise if self.attempt > 1 => {
                return Err(error.within(format!("the last of {} tries", self.attempt)));
            }
            OnError::Raise => return Err(error),
            OnError::Log => {
                let attempts = self.attempt;
                tracing::warn!(udf, rows, failures, attempts, %error, "rows that failed to the last become null");
            }
            OnError::Null => (),
        }
        let (column, metrics) = match self.kept {
            Some(kept) => (kept.column, kept.metrics),
            None => (Column::full_null("".into(), rows, dtype), Metrics::default()),
        };
        Ok(Reply { column, report: Report { metrics, failed: None } })
    }
}

/// Where in a batch a row-wise function has failed.
pub(super) fn row_of(row: usize, height: usize) -> String {
    format!("row {row} of a batch of {height}")
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
                "a batch of {rows} rows has ended {} replicas and is not tried again; its first row is {first}. Of the last one: {why}",
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
        let mut retry = Retry::new(&options, None, None);
        let error = UdfError::new("no");
        let mut nominal = 0.1f64;
        for attempt in 1..=12 {
            assert_eq!(retry.call(), Call { attempt, says_rows: true, ..Call::ONCE });
            let delay = retry.failed(&error).unwrap().as_secs_f64() / nominal;
            assert!((0.749..=1.251).contains(&delay), "attempt {attempt}: {delay} of {nominal} s");
            nominal = (nominal * 2.0).min(60.0);
        }
        assert_eq!(retry.call(), Call { attempt: 13, on_error: OnError::Null, says_rows: true, ..Call::ONCE });
        assert_eq!(retry.failed(&error), None);
    }

    #[test]
    fn only_rows_that_failed_are_tried_again_and_what_the_others_came_to_is_kept() {
        let options = PoolOptions { max_retries: 2, on_error: OnError::Null, ..PoolOptions::default() };
        let all = polars::prelude::df!["n" => [0i64, 1, 2, 3, 4, 5]].unwrap();
        let mut retry = Retry::new(&options, None, None);
        // Tens of the rows; those in `refused` fail.
        let attempt = |retry: &mut Retry<'_>, wants: &[i64], refused: &[i64]| {
            let rows = retry.rows(&all).unwrap();
            let n: Vec<i64> = rows.column("n").unwrap().i64().unwrap().iter().flatten().collect();
            assert_eq!(n, wants, "the rows that run");
            let tens = n.iter().map(|n| (!refused.contains(n)).then_some(n * 10)).collect::<Vec<_>>();
            let failed = (0..).zip(&tens).filter(|(_, ten)| ten.is_none()).map(|(row, _)| row).collect::<Vec<_>>();
            let error = UdfError::new("refused").retry_after(Duration::from_secs(7));
            let failed = (!failed.is_empty()).then_some(FailedRows { rows: failed, error });
            let mut metrics = Metrics::default();
            metrics.add("calls", super::super::Metric::Counter(n.len() as u64));
            retry.answered(
                Reply { column: Column::new("".into(), tens), report: Report { metrics, failed } },
                &DataType::Int64,
            )
        };
        let column = |reply: &Reply| Vec::from(reply.column.i64().unwrap());
        let error = attempt(&mut retry, &[0, 1, 2, 3, 4, 5], &[1, 3, 5]).unwrap_err();
        assert_eq!(error.to_string(), "row 1 of a batch of 6: refused");
        assert_eq!(retry.failed(&error), Some(Duration::from_secs(7)));
        let error = attempt(&mut retry, &[1, 3, 5], &[3]).unwrap_err();
        assert_eq!(error.to_string(), "row 3 of a batch of 6: refused", "its number is that in the batch");
        assert!(retry.failed(&error).is_some());
        // The attempt that brings the last row, or the policy.
        let mut other = Retry { kept: None, ..Retry::new(&options, None, None) };
        attempt(&mut other, &[0, 1, 2, 3, 4, 5], &[4]).unwrap_err();
        let whole = attempt(&mut other, &[4], &[]).unwrap();
        assert_eq!(column(&whole), [0, 10, 20, 30, 40, 50].map(Some));
        assert_eq!(whole.report.metrics.counter("calls"), 7, "of all attempts");
        let error = attempt(&mut retry, &[3], &[3]).unwrap_err();
        assert_eq!(retry.failed(&error), None);
        let settled = retry.settle("it", error, 6, &DataType::Int64).unwrap();
        assert_eq!(column(&settled), [Some(0), Some(10), Some(20), None, Some(40), Some(50)]);
        // A batch that fails as a whole after some rows have succeeded costs those nothing.
        let mut whole = Retry::new(&options, None, None);
        attempt(&mut whole, &[0, 1, 2, 3, 4, 5], &[2]).unwrap_err();
        let settled = whole.settle("it", UdfError::new("it panicked"), 6, &DataType::Int64).unwrap();
        assert_eq!(column(&settled), [Some(0), Some(10), None, Some(30), Some(40), Some(50)]);
    }

    #[test]
    fn an_error_after_retries_says_how_many_tries_there_were() {
        let said = |max_retries: u32| {
            let options = PoolOptions { max_retries, ..PoolOptions::default() };
            let (mut retry, refused) = (Retry::new(&options, None, None), || UdfError::new("refused"));
            while retry.failed(&refused()).is_some() {}
            retry.settle("it", refused(), 6, &DataType::Int64).unwrap_err().to_string()
        };
        assert_eq!((said(0).as_str(), said(2).as_str()), ("refused", "the last of 3 tries: refused"));
    }

    #[test]
    fn a_row_that_is_not_in_the_batch_is_an_error() {
        let options = PoolOptions { max_retries: 2, ..PoolOptions::default() };
        let all = polars::prelude::df!["n" => [0i64, 1]].unwrap();
        let reply = |rows: Vec<IdxSize>| Reply {
            column: Column::new("".into(), [None::<i64>, None]),
            report: Report {
                failed: Some(FailedRows { rows, error: UdfError::new("no") }),
                metrics: Metrics::default(),
            },
        };
        let mut retry = Retry::new(&options, None, None);
        assert!(retry.answered(reply(vec![7]), &DataType::Int64).unwrap_err().to_string().contains("not in the batch"));
        assert_eq!(retry.rows(&all).unwrap().height(), 2);
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
        let mut retry = Retry::new(&options, None, None);
        let busy = |seconds| UdfError::new("busy").retry_after(Duration::from_secs(seconds));
        assert_eq!(retry.failed(&busy(7)), Some(Duration::from_secs(7)));
        assert_eq!(retry.failed(&busy(3600)), Some(Duration::from_secs(60)));
        assert_eq!(retry.failed(&busy(1)), None);
    }
}
