//! How fast a stage goes, and when it may be done.

use std::collections::VecDeque;

/// How long a bucket is, in nanoseconds.
const BUCKET: u64 = 5_000_000_000;
/// Buckets that are kept: two minutes.
const KEPT: usize = 24;
/// Fewer of them are no grounds.
const FEWEST: usize = 3;
/// The last half minute.
const RECENT: usize = 6;
/// Of all tasks, so many must be done: one of so many.
const DONE: u32 = 20;

/// Tasks and rows of the last two minutes, in buckets of five seconds.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// The bucket that comes after the last of these.
    next: u64,
    /// The newest last; the last one is not over.
    of: VecDeque<(u32, u64)>,
}

/// When a stage may be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Estimate {
    /// Within so many nanoseconds, from and to.
    Left(u64, u64),
    /// There are no grounds for one: why.
    None(String),
}

/// Where a stage stands, for an estimate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) tasks: Option<u32>,
    pub(super) changed: bool,
    pub(super) done: u32,
    /// Tasks that run now, where each takes its turn.
    pub(super) running: u32,
    /// How long a quick, a middling and a slow task takes.
    pub(super) each: (u64, u64, u64),
    pub(super) pending: u32,
}

impl Rates {
    fn go_to(&mut self, now: u64) {
        let bucket = now / BUCKET;
        if self.of.is_empty() {
            self.next = bucket;
        }
        while self.next <= bucket {
            if bucket - self.next > KEPT as u64 {
                self.of.clear();
                self.next = bucket;
            }
            self.of.push_back((0, 0));
            self.next += 1;
            if self.of.len() > KEPT + 1 {
                self.of.pop_front();
            }
        }
    }

    pub(super) fn add(&mut self, rows: u64, now: u64) {
        self.go_to(now);
        if let Some((tasks, all)) = self.of.back_mut() {
            *tasks += 1;
            *all = all.saturating_add(rows);
        }
    }

    /// Buckets that are over, with those since the last end, which are empty.
    fn whole(&self, now: u64) -> Vec<(u32, u64)> {
        let since = (now / BUCKET + 1).saturating_sub(self.next).min(KEPT as u64) as usize;
        let mut all: Vec<_> = self.of.iter().copied().chain(std::iter::repeat_n((0, 0), since)).collect();
        all.pop();
        // What came first may have begun in the middle of its bucket.
        if all.len() > FEWEST && all.len() < KEPT {
            all.remove(0);
        }
        let first = all.len().saturating_sub(KEPT);
        all.split_off(first)
    }

    /// Rows a second, over the last half minute.
    pub(super) fn rows_per_second(&self, now: u64) -> Option<f64> {
        let whole = self.whole(now);
        let recent = &whole[whole.len().saturating_sub(RECENT)..];
        let rows = recent.iter().fold(0_u64, |all, (_, rows)| all.saturating_add(*rows));
        (!recent.is_empty()).then(|| rows as f64 / (recent.len() as f64 * 5.0))
    }

    pub(super) fn estimate(&self, at: Standing, now: u64) -> Estimate {
        let Standing { tasks, changed, done, running, each: (quick, usual, slow), pending } = at;
        let none = |why: &str| Estimate::None(why.to_owned());
        let Some(tasks) = tasks else { return none("how many tasks there are is not known yet") };
        if changed {
            return none("the number of tasks has changed");
        }
        if done < 2 * running.max(1) || done < tasks.div_ceil(DONE) {
            return Estimate::None(format!("{done} of {tasks} tasks done"));
        }
        let buckets = self.whole(now);
        if buckets.len() < FEWEST {
            return none("it has not run for long");
        }
        let mean = |of: &[(u32, u64)]| {
            of.iter().map(|(tasks, _)| f64::from(*tasks)).sum::<f64>() / of.len().max(1) as f64 / (BUCKET as f64)
        };
        let (all, recent) = (mean(&buckets), mean(&buckets[buckets.len().saturating_sub(RECENT)..]));
        if recent <= 0.0 {
            return none("nothing has ended for half a minute");
        }
        if recent < all / 2.0 {
            return none("it has become slower");
        }
        if recent > all * 2.0 {
            return none("it has become faster");
        }
        // How far the mean of so few ends may be off, and how far the two rates differ.
        let ends: u32 = buckets.iter().map(|(tasks, _)| *tasks).sum();
        let spread = slow.saturating_sub(quick) as f64 / usual.max(1) as f64;
        let off = 1.3 * (1.0 + spread) / f64::from(ends.max(1)).sqrt() + 0.08;
        let (least, most) = (all.min(recent) / (1.0 + off), all.max(recent) * (1.0 + off));
        // What runs is, in the mean, half done; and the last one that starts ends alone.
        let (pending, running) = (f64::from(pending), f64::from(running));
        let low = (pending + 0.3 * running) / most;
        let high = ((pending + 0.7 * running) / least).max(0.5 * usual as f64) + slow as f64 * 1.5;
        Estimate::Left(low as u64, high as u64)
    }
}
