//! One timer for all who wait for something of a link: most have it long before their deadline, and a timer each costs
//! more than what they wait for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::net::FOREVER;

/// The least time between two looks: each costs as much as there are who wait, and a peer says when its calls are over, also at
/// once and ever again.
const GRAIN: u64 = 10_000;

/// Rings when somebody may have waited until their deadline. Times are microseconds since it was made.
pub(crate) struct Alarm {
    made: Instant,
    /// When somebody looked last.
    looked: AtomicU64,
    /// The soonest deadline that was noted since the last look.
    noted: AtomicU64,
    /// When it rings.
    set: AtomicU64,
    sooner: Notify,
}

impl Alarm {
    pub(crate) fn new() -> Self {
        Self {
            made: Instant::now(),
            looked: AtomicU64::new(0),
            noted: AtomicU64::new(u64::MAX),
            set: AtomicU64::new(u64::MAX),
            sooner: Notify::new(),
        }
    }

    /// Somebody waits until then, and can be found by a look.
    pub(crate) fn note(&self, until: Instant) {
        let until = self.micros(until);
        if until < self.noted.load(Ordering::SeqCst) {
            self.noted.fetch_min(until, Ordering::SeqCst);
        }
        // Either this sees what was set, or who sets it sees what was noted.
        if until < self.set.load(Ordering::SeqCst) {
            self.sooner.notify_one();
        }
    }

    /// To be called before a look at all who wait: those who come during it are noted.
    pub(crate) fn look(&self) {
        self.looked.store(self.micros(Instant::now()), Ordering::SeqCst);
        self.noted.store(u64::MAX, Ordering::SeqCst);
    }

    /// Waits until a look is due again, which has found this as the soonest deadline.
    pub(crate) async fn ring(&self, found: Option<Instant>) {
        let found = found.map_or(u64::MAX, |found| self.micros(found));
        let least = self.looked.load(Ordering::SeqCst).saturating_add(GRAIN);
        loop {
            let due = found.min(self.noted.load(Ordering::SeqCst)).max(least);
            self.set.store(due, Ordering::SeqCst);
            if self.noted.load(Ordering::SeqCst).max(least) < due {
                continue;
            }
            tokio::select! {
                biased;
                () = self.sooner.notified() => (),
                () = sleep_until(self.made + Duration::from_micros(due).min(FOREVER)) => return,
            }
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        // Rounded up: what rings is never too early.
        let since = at.saturating_duration_since(self.made).as_nanos().div_ceil(1000);
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_rings_at_the_soonest_deadline_also_of_who_came_during_a_look() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (alarm, start) = (Arc::new(Alarm::new()), Instant::now());
            let rang = |found: Option<Duration>| {
                let alarm = Arc::clone(&alarm);
                tokio::spawn(async move {
                    alarm.ring(found.map(|found| start + found)).await;
                    start.elapsed().as_secs()
                })
            };
            alarm.look();
            alarm.note(start + at(7));
            assert_eq!(rang(Some(at(9))).await.unwrap(), 7);
            alarm.look();
            assert_eq!(rang(Some(at(9))).await.unwrap(), 9);
            // Who comes later and waits less is heard while it sleeps; who waits longer does not wake it.
            alarm.look();
            let ringing = rang(None);
            tokio::task::yield_now().await;
            for until in [20, 15, 30] {
                alarm.note(start + at(until));
                tokio::task::yield_now().await;
            }
            assert_eq!(ringing.await.unwrap(), 15);
            // A deadline that has passed already.
            alarm.look();
            alarm.note(start);
            assert_eq!(rang(Some(at(100))).await.unwrap(), 15);
        });
    }

    #[test]
    fn however_many_deadlines_pass_it_rings_a_hundred_times_a_second() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (alarm, start) = (Arc::new(Alarm::new()), Instant::now());
            let noting = tokio::spawn({
                let alarm = Arc::clone(&alarm);
                async move {
                    loop {
                        alarm.note(Instant::now());
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            });
            let mut rang = 0;
            while start.elapsed() < at(1) {
                alarm.look();
                alarm.ring(Some(Instant::now())).await;
                rang += 1;
            }
            noting.abort();
            assert!((90..=101).contains(&rang), "{rang}");
        });
    }
}
