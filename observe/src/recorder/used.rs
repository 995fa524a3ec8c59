//! What workers used while a query ran.

use std::collections::BTreeMap;

use crate::Sample;

/// Of each worker that was heard of meanwhile.
#[derive(Debug, Default)]
pub(super) struct Used(BTreeMap<u32, Since>);

#[derive(Debug)]
struct Since {
    /// The most that its process had had before.
    before: u64,
    sample: Sample,
}

/// Bytes of one, about.
const SINCE: usize = 64;

impl Used {
    /// A worker says what it uses. `last`: what it said before.
    pub(super) fn heard(&mut self, worker: u32, last: Sample, sample: Sample) {
        let since = self.0.entry(worker).or_insert(Since { before: last.peak, sample: Sample { peak: 0, ..last } });
        // A process says the most that it ever had: if that is more than before, it had it since.
        let had = if sample.peak > since.before { sample.peak } else { sample.memory };
        since.sample = Sample { peak: since.sample.peak.max(had), ..sample };
    }

    /// What it used at last, and at most. `now`: what it says, where it was not heard meanwhile.
    pub(super) fn of(&self, worker: u32, now: Sample) -> Sample {
        self.0.get(&worker).map_or(Sample { peak: now.memory, ..now }, |since| since.sample)
    }

    /// The query ends. `now`: what the worker has said last.
    pub(super) fn ends(&mut self, worker: u32, now: Sample) {
        let sample = self.of(worker, now);
        self.0.entry(worker).or_insert(Since { before: now.peak, sample });
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.len() * SINCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_of_a_process_is_a_querys_only_if_it_came_to_it_since_that_began() {
        let sample = |memory, peak| Sample { cpu: 0, memory, peak };
        let mut used = Used::default();
        assert_eq!(used.of(1, sample(5, 900)), sample(5, 5), "what was not heard of");
        used.heard(1, sample(5, 900), sample(7, 900));
        used.heard(1, sample(7, 900), sample(6, 900));
        assert_eq!(used.of(1, sample(0, 900)), sample(6, 7), "what it had before is another's");
        used.heard(1, sample(6, 900), sample(8, 1000));
        used.heard(1, sample(8, 1000), sample(9, 1000));
        assert_eq!(used.of(1, sample(0, 0)), sample(9, 1000), "between two looks it had more");
        used.ends(1, sample(1, 2000));
        used.ends(2, sample(3, 2000));
        assert_eq!((used.of(1, sample(4, 3000)), used.of(2, sample(4, 3000))), (sample(9, 1000), sample(3, 3)));
    }
}
