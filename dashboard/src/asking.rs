//! How a source is asked: not too often, and for what.

use std::time::Duration;

use regatta_observe::Refusal;

/// A source is not kept busy: after an answer it is left alone for so many times as long as that took, or as this.
const TIMES: u32 = 50;
const ALONE: Duration = Duration::from_secs(10);

/// When to ask again after an answer that took so long.
pub(crate) fn pause(took: Duration, least: Duration) -> Duration {
    (took * TIMES).min(ALONE).max(least)
}

/// It has answered what nobody asked.
pub(crate) fn unexpected() -> Refusal {
    Refusal::Failed("the head has answered something else".to_owned())
}
