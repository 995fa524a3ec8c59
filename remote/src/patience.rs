//! How long a stream may be without progress, and how slow. Pure.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// Longest time without progress on a stream.
pub(crate) const STALL: Duration = Duration::from_secs(30);
/// Bytes in a second that are progress: less uses patience up.
const PACE: u64 = 4 << 10;

/// What is left of the time that one waits for the other side of a stream. Each byte earns some of it back, so that one
/// byte now and then is not enough.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    left: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { left: STALL }
    }

    pub(crate) fn left(&self) -> Duration {
        self.left
    }

    /// So long the other side was waited for.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// So many bytes have come or gone.
    pub(crate) fn moved(&mut self, bytes: usize) {
        let earned = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / PACE);
        self.left = self.left.saturating_add(earned).min(STALL);
    }

    /// Waits for the other side; `None` if patience is used up first.
    pub(crate) async fn wait<T>(&mut self, other_side: impl Future<Output = T>) -> Option<T> {
        let mut other_side = pin!(other_side);
        if let Some(output) = at_once(other_side.as_mut()).await {
            return Some(output);
        }
        let started = Instant::now();
        let output = timeout(self.left, other_side).await.ok();
        self.waited(started.elapsed());
        output
    }
}

/// What a future gives without waiting: most do, and then cost neither a timer nor a look at the clock.
pub(crate) async fn at_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_now_and_then_is_no_progress_and_a_slow_stream_is() {
        let second = Duration::from_secs(1);
        let mut dripping = Patience::new();
        let ended = (1..100).find(|_| {
            dripping.waited(second);
            let over = dripping.left().is_zero();
            dripping.moved(1);
            over
        });
        assert_eq!(ended, Some(31));
        let mut slow = Patience::new();
        for _ in 0..10_000 {
            slow.waited(second);
            slow.moved(PACE as usize);
        }
        assert!(slow.left() >= STALL - second && slow.left() <= STALL);
        // However much has gone, the next stop is no longer than any other.
        slow.moved(usize::MAX);
        assert_eq!(slow.left(), STALL);
    }
}
