//! Shares: the rows of some partitions, dealt to tasks anew, in order.

use std::ops::Range;

/// Rows of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) partition: usize,
    pub(crate) rows: Range<u64>,
}

/// The `part`-th of `of` equal shares of partitions that hold so many rows each. Together the shares are all rows, once
/// and in order; their sizes differ by one row at most.
pub(crate) fn share(part: usize, of: usize, partitions: &[u64]) -> Vec<Rows> {
    let total: u64 = partitions.iter().sum();
    let border = |part: usize| (u128::from(total) * part as u128 / of.max(1) as u128) as u64;
    let (from, to) = (border(part), border(part + 1));
    let mut before = 0;
    let mut share = Vec::new();
    for (partition, rows) in partitions.iter().enumerate() {
        let within = from.max(before)..to.min(before + rows);
        if within.start < within.end {
            share.push(Rows { partition, rows: within.start - before..within.end - before });
        }
        before += rows;
    }
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_all_rows_once_in_order_and_equal() {
        for partitions in [vec![], vec![0, 0], vec![1], vec![400], vec![3, 0, 5, 1], vec![10, 10, 10, 10, 10, 10, 10]] {
            let total: u64 = partitions.iter().sum();
            for of in [1, 2, 3, 7, 100] {
                let mut seen = Vec::new();
                for part in 0..of {
                    let share = share(part, of, &partitions);
                    let rows: u64 = share.iter().map(|rows| rows.rows.end - rows.rows.start).sum();
                    assert!(rows.abs_diff(total / of as u64) <= 1, "{partitions:?}: share {part} of {of} has {rows}");
                    seen.extend(share.into_iter().flat_map(|r| r.rows.map(move |row| (r.partition, row))));
                }
                let all = partitions.iter().enumerate().flat_map(|(p, rows)| (0..*rows).map(move |row| (p, row)));
                assert!(seen.into_iter().eq(all), "{partitions:?} in {of} shares");
            }
        }
    }
}
