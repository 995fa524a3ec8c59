//! Which attempts of tasks are kept one by one.

use crate::{Outcome, TaskRecord};

/// Failed ones.
const FAILED: usize = 100;
/// The slowest of a stage.
const SLOWEST: usize = 32;
/// Every so many-th.
const SAMPLED: usize = 4096;

/// Failed ones, and every k-th: k doubles when there are too many. No random numbers: the same events leave the same records.
#[derive(Debug)]
pub(super) struct Records {
    failed: Vec<TaskRecord>,
    sampled: Vec<TaskRecord>,
    every: u64,
    seen: u64,
    pub(super) dropped: u64,
}

impl Default for Records {
    fn default() -> Self {
        Self { failed: Vec::new(), sampled: Vec::new(), every: 1, seen: 0, dropped: 0 }
    }
}

impl Records {
    pub(super) fn add(&mut self, record: TaskRecord) {
        if record.outcome == Outcome::Failed && self.failed.len() < FAILED {
            return self.failed.push(record);
        }
        let is_kept = self.seen.is_multiple_of(self.every);
        self.seen += 1;
        if !is_kept {
            self.dropped += 1;
            return;
        }
        self.sampled.push(record);
        if self.sampled.len() > SAMPLED {
            self.thin();
        }
    }

    /// Keeps half of them.
    pub(super) fn thin(&mut self) {
        let before = self.sampled.len();
        let mut index = 0;
        self.sampled.retain(|_| {
            index += 1;
            index % 2 == 1
        });
        self.sampled.shrink_to_fit();
        self.dropped += (before - self.sampled.len()) as u64;
        self.every = self.every.saturating_mul(2);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &TaskRecord> {
        self.failed.iter().chain(&self.sampled)
    }

    pub(super) fn sampled(&self) -> usize {
        self.sampled.len()
    }

    pub(super) fn bytes(&self) -> usize {
        (self.failed.capacity() + self.sampled.capacity()) * size_of::<TaskRecord>()
    }
}

/// The slowest attempts of a stage, which has none of them among its others.
#[derive(Debug, Default)]
pub(super) struct Slowest {
    of: Vec<TaskRecord>,
    /// What one must have taken to be among them, once they are so many.
    least: u64,
}

impl Slowest {
    /// Whether it is one of them.
    pub(super) fn add(&mut self, record: TaskRecord) {
        if self.of.len() < SLOWEST {
            self.of.push(record);
        } else if record.ran > self.least {
            let quickest = self.of.iter_mut().min_by_key(|one| one.ran);
            quickest.into_iter().for_each(|one| *one = record);
        } else {
            return;
        }
        if self.of.len() == SLOWEST {
            self.least = self.of.iter().map(|one| one.ran).min().unwrap_or(0);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &TaskRecord> {
        self.of.iter()
    }

    pub(super) fn bytes(&self) -> usize {
        self.of.capacity() * size_of::<TaskRecord>()
    }
}
