//! How busy workers were over time, in so many bins, whatever the time.

use std::collections::BTreeMap;

use crate::Strips;

/// Bins of a worker.
const BINS: usize = 512;
/// Bins of all workers of a query. With more workers each has fewer.
const ALL: usize = 16 * 1024;
/// The shortest bin, in nanoseconds.
const SHORTEST: u64 = 1_000_000;

/// Sums are exact; what doubles is the width of a bin.
#[derive(Debug)]
pub(super) struct Busy {
    bin: u64,
    bins: usize,
    of: BTreeMap<u32, Vec<u64>>,
}

impl Default for Busy {
    fn default() -> Self {
        Self { bin: SHORTEST, bins: BINS, of: BTreeMap::new() }
    }
}

impl Busy {
    /// Something ran on this worker from then until then.
    pub(super) fn add(&mut self, worker: u32, from: u64, to: u64) {
        while to > self.bin * self.bins as u64 {
            self.bin *= 2;
            self.of.values_mut().for_each(merge_pairs);
        }
        let workers = self.of.len();
        let strip = self.of.entry(worker).or_default();
        if strip.is_empty() && (workers + 1) * self.bins > ALL && self.bins > 1 {
            self.bins /= 2;
            self.bin *= 2;
            self.of.values_mut().for_each(merge_pairs);
            return self.add(worker, from, to);
        }
        let (mut at, mut index) = (from, (from / self.bin) as usize);
        while at < to {
            let end = ((index as u64 + 1) * self.bin).min(to);
            if strip.len() <= index {
                strip.resize(index + 1, 0);
            }
            strip[index] += end - at;
            (at, index) = (end, index + 1);
        }
    }

    pub(super) fn strips(&self) -> Strips {
        Strips { bin: self.bin, workers: self.of.iter().map(|(worker, strip)| (*worker, strip.clone())).collect() }
    }

    /// Drops all of it; what comes later is wrong without it.
    pub(super) fn clear(&mut self) {
        self.of = BTreeMap::new();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.of.values().map(|strip| 64 + strip.capacity() * size_of::<u64>()).sum()
    }
}

fn merge_pairs(strip: &mut Vec<u64>) {
    *strip = strip.chunks(2).map(|pair| pair.iter().sum()).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn bins_hold_all_time_and_stay_few_however_long_and_however_many_workers() {
        let (mut busy, mut random, mut all) = (Busy::default(), Random(3), 0);
        for round in 0..5000 {
            let from = random.below(1 << (20 + round % 28));
            let to = from + random.below(1 << 34);
            all += to - from;
            busy.add(random.below(700) as u32, from, to);
        }
        let strips = busy.strips();
        assert_eq!(strips.workers.iter().flat_map(|(_, strip)| strip).sum::<u64>(), all);
        assert!(strips.workers.iter().map(|(_, strip)| strip.len()).sum::<usize>() <= ALL);
    }
}
