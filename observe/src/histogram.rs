//! How values are spread, in 128 buckets, and how such spreads add up.

use serde::{Deserialize, Serialize};

/// Four buckets a doubling, from 1; the last one holds all that is larger than 32 doublings. The buckets are those of
/// OpenTelemetry's exponential histogram of scale 2, so that merging loses nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Sparse", into = "Sparse")]
pub struct Histogram {
    /// As far as the largest value goes.
    counts: Vec<u64>,
    count: u64,
    sum: u64,
    least: u64,
    most: u64,
}

/// As it travels and is stored: buckets that hold something, by number.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Sparse {
    sum: u64,
    least: u64,
    most: u64,
    buckets: Vec<(u8, u64)>,
}

/// Buckets.
const BUCKETS: usize = 128;
/// Where the buckets of a doubling begin: powers of two to 0, 1/4, 1/2 and 3/4, as 64-bit fractions of 2.
const BOUNDS: [u64; 4] = [1 << 63, 0x9837_f051_8db8_a96f, 0xb504_f333_f9de_6484, 0xd744_fcca_d69d_6af4];

/// The bucket of a value: above its lower bound, up to its upper one.
fn bucket(value: u64) -> usize {
    if value <= 1 {
        return 0;
    }
    let zeros = value.leading_zeros();
    let mantissa = value << zeros;
    let above = BOUNDS.iter().filter(|bound| mantissa > **bound).count();
    (4 * (63 - zeros as usize) + above - 1).min(BUCKETS - 1)
}

/// The largest value that a bucket takes.
fn upper(bucket: usize) -> u64 {
    if bucket + 1 >= BUCKETS { u64::MAX } else { ((bucket + 1) as f64 / 4.0).exp2() as u64 }
}

impl Histogram {
    /// Takes in a value.
    pub fn add(&mut self, value: u64) {
        let bucket = bucket(value);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.least = if self.count == 0 { value } else { self.least.min(value) };
        self.most = self.most.max(value);
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.saturating_add(value);
    }

    /// Takes out a value that does not count any more. The least and the most stay those of all that have been in it.
    pub fn take_out(&mut self, value: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value)).filter(|count| **count > 0) {
            *count -= 1;
            self.count -= 1;
            self.sum = self.sum.saturating_sub(value);
            while self.counts.last() == Some(&0) {
                self.counts.pop();
            }
        }
    }

    /// Takes in what another holds.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, more)| *mine = mine.saturating_add(*more));
        self.least = if self.count == 0 { other.least } else { self.least.min(other.least) };
        self.most = self.most.max(other.most);
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// How many values it holds.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What they add up to.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The least value, exactly; 0 if there is none.
    pub fn least(&self) -> u64 {
        self.least
    }

    /// The greatest value, exactly; 0 if there is none.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// The value below which so large a part of all values lies, from 0 to 1, at most a fifth too large; 0 if there is none.
    pub fn quantile(&self, part: f64) -> u64 {
        let rank = ((self.count as f64 * part).ceil() as u64).max(1);
        let mut seen = 0_u64;
        let holds = self.counts.iter().position(|count| {
            seen = seen.saturating_add(*count);
            seen >= rank
        });
        holds.map_or(0, |bucket| upper(bucket).clamp(self.least, self.most))
    }

    /// How many values are at most two to this power, of 0 to 31.
    pub fn at_most(&self, power: u32) -> u64 {
        let buckets = (4 * power as usize).max(1).min(self.counts.len());
        self.counts[..buckets].iter().fold(0, |all, count| all.saturating_add(*count))
    }

    /// How many values each bucket holds, as far as the largest goes: those of OpenTelemetry's exponential histogram of scale 2, from
    /// that which begins above 1; it holds 0 and 1, too.
    pub fn buckets(&self) -> &[u64] {
        &self.counts
    }

    /// Bytes that it takes beside itself.
    pub(crate) fn bytes(&self) -> usize {
        self.counts.capacity() * size_of::<u64>()
    }
}

impl From<Sparse> for Histogram {
    fn from(Sparse { sum, least, most, buckets }: Sparse) -> Self {
        let mut counts = Vec::new();
        for (bucket, count) in &buckets {
            let bucket = usize::from(*bucket).min(BUCKETS - 1);
            if counts.len() <= bucket {
                counts.resize(bucket + 1, 0_u64);
            }
            counts[bucket] = counts[bucket].saturating_add(*count);
        }
        let count = counts.iter().fold(0_u64, |all, count| all.saturating_add(*count));
        // It may come from a file or a peer.
        Self { counts, count, sum, least: least.min(most), most }
    }
}

impl From<Histogram> for Sparse {
    fn from(Histogram { counts, sum, least, most, .. }: Histogram) -> Self {
        let holding = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Self { sum, least, most, buckets: holding.map(|(bucket, count)| (bucket as u8, *count)).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_bucket_whose_bounds_hold_it() {
        let around = (0..40).flat_map(|power| [(1_u64 << power) - 1, 1 << power, (1 << power) + 1, 3 << power]);
        for value in around.chain([u64::MAX]) {
            let at = bucket(value);
            assert!(value <= upper(at), "{value} is above bucket {at}");
            assert!(at == 0 || at == BUCKETS - 1 || value > upper(at - 1), "{value} is below bucket {at}");
        }
    }

    #[test]
    fn merged_and_taken_out_it_is_as_if_added_one_by_one() {
        let mut random = crate::testing::Random(7);
        let values: Vec<u64> = (0..2000).map(|_| random.below(1 << (1 + random.0 % 31))).collect();
        let (mut whole, mut left, mut right) = <(Histogram, Histogram, Histogram)>::default();
        for (index, value) in values.iter().enumerate() {
            whole.add(*value);
            if index % 3 == 0 { left.add(*value) } else { right.add(*value) }
        }
        left.merge(&right);
        assert_eq!(left, whole);
        let mut sorted = values.clone();
        sorted.sort_unstable();
        for part in [0.25, 0.5, 0.75, 0.99, 1.0] {
            let exact = sorted[((values.len() as f64 * part).ceil() as usize).max(1) - 1] as f64;
            let said = whole.quantile(part) as f64;
            assert!(said >= exact && said <= exact * 1.2 + 1.0, "{part}: {said} for {exact}");
        }
        values.iter().for_each(|value| whole.take_out(*value));
        assert_eq!((whole.count(), whole.sum(), whole.quantile(0.5)), (0, 0, 0));
    }

    #[test]
    fn values_up_to_a_power_of_two_are_counted_exactly() {
        let mut histogram = Histogram::default();
        let values = [0, 1, 2, 3, 4, 5, 7, 8, 9, 1023, 1024, 1025, 1 << 31];
        values.into_iter().for_each(|value| histogram.add(value));
        for power in 0..32 {
            let exact = values.iter().filter(|value| **value <= 1 << power).count() as u64;
            assert_eq!(histogram.at_most(power), exact, "{power}");
        }
    }

    #[test]
    fn it_is_stored_sparsely_and_read_whatever_it_says() {
        let mut histogram = Histogram::default();
        [3, 3, 1 << 50].into_iter().for_each(|value| histogram.add(value));
        let text = serde_json::to_string(&histogram).unwrap();
        assert_eq!(text, r#"{"sum":1125899906842630,"least":3,"most":1125899906842624,"buckets":[[6,2],[127,1]]}"#);
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), histogram);
        let hostile =
            r#"{"sum":1,"least":9,"most":2,"buckets":[[255,18446744073709551615],[255,18446744073709551615]]}"#;
        assert_eq!(serde_json::from_str::<Histogram>(hostile).unwrap().quantile(0.5), 2);
    }
}
