//! Shares: the rows of some partitions, dealt to tasks anew, in order.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Rows of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) partition: usize,
    pub(crate) rows: Range<u64>,
}

/// Which rows are dealt, and which others a task sees beside its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deal {
    /// Not all of them, but so many from there on; a negative number counts from their end.
    pub(crate) slice: Option<(i64, u64)>,
    /// So many rows before its own.
    pub(crate) before: u64,
    /// And so many after them.
    pub(crate) after: u64,
}

/// Where the rows are of which a task's share is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Own {
    /// The number of the share; none of who reads all rows.
    pub(crate) part: Option<u64>,
    /// The number of the first row that the task reads, of all that are dealt.
    pub(crate) first: u64,
    /// Those of the rows it reads that are its own, and not beside them.
    pub(crate) rows: Range<u64>,
}

impl Own {
    /// That of who reads all rows.
    pub(crate) const ALL: Self = Self { part: None, first: 0, rows: 0..u64::MAX };
}

impl Deal {
    /// The rows that are dealt of so many.
    fn dealt(self, rows: u64) -> Range<u64> {
        let Some((offset, len)) = self.slice else { return 0..rows };
        let at = |row: i128| row.clamp(0, i128::from(rows)) as u64;
        let from = if offset < 0 { i128::from(rows) + i128::from(offset) } else { i128::from(offset) };
        at(from)..at(from + i128::from(len))
    }
}

/// What the `part`-th of `of` equal shares is of partitions that hold so many rows each. Together the shares are all rows that are
/// dealt, once and in order; their sizes differ by one row at most.
pub(crate) fn share(part: usize, of: usize, deal: Deal, partitions: &[u64]) -> (Vec<Rows>, Own) {
    let dealt = deal.dealt(partitions.iter().sum());
    let border = |part: usize| {
        let (rows, of) = (u128::from(dealt.end - dealt.start), of.max(1) as u128);
        dealt.start + (rows * part as u128 / of) as u64
    };
    let own = border(part)..border(part + 1);
    let (from, to) = match own.is_empty() {
        // Nothing stands beside nothing.
        true => (own.start, own.end),
        false => {
            (own.start.saturating_sub(deal.before).max(dealt.start), own.end.saturating_add(deal.after).min(dealt.end))
        }
    };
    let mut before = 0;
    let mut share = Vec::new();
    for (partition, rows) in partitions.iter().enumerate() {
        let within = from.max(before)..to.min(before + rows);
        if within.start < within.end {
            share.push(Rows { partition, rows: within.start - before..within.end - before });
        }
        before += rows;
    }
    (share, Own { part: Some(part as u64), first: from - dealt.start, rows: own.start - from..own.end - from })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITIONS: [&[u64]; 7] =
        [&[], &[0, 0], &[1], &[400], &[3, 0, 5, 1], &[10, 10, 10, 10, 10, 10, 10], &[1, 1, 1, 0, 1]];

    /// Rows by their numbers of all.
    fn numbers(rows: Vec<Rows>, partitions: &[u64]) -> Vec<u64> {
        let before = |partition: usize| partitions[..partition].iter().sum::<u64>();
        rows.into_iter().flat_map(|r| r.rows.map(move |row| before(r.partition) + row)).collect()
    }

    #[test]
    fn shares_are_all_rows_once_in_order_and_equal_whatever_stands_beside_them() {
        for partitions in PARTITIONS {
            let all: Vec<u64> = (0..partitions.iter().sum()).collect();
            let slices =
                [None, Some((0, 4)), Some((2, 1000)), Some((-5, 3)), Some((-1000, 998)), Some((50, 7)), Some((-3, 0))];
            for (slice, (before, after)) in
                slices.into_iter().flat_map(|s| [(0, 0), (1, 0), (0, 2), (7, 9)].map(|b| (s, b)))
            {
                let dealt: Vec<u64> = match slice {
                    None => all.clone(),
                    Some((offset, len)) => {
                        let from = if offset < 0 { all.len() as i64 + offset } else { offset };
                        all.iter().copied().filter(|row| (from..from + len as i64).contains(&(*row as i64))).collect()
                    }
                };
                for of in [1, 2, 3, 7, 100] {
                    let mut owned = Vec::new();
                    for part in 0..of {
                        let (rows, own) = share(part, of, Deal { slice, before, after }, partitions);
                        let read = numbers(rows, partitions);
                        let mine = &read[own.rows.start as usize..own.rows.end as usize];
                        let said =
                            format!("{partitions:?}: share {part} of {of} of {slice:?} with {before} and {after}");
                        assert!(mine.len().abs_diff(dealt.len() / of) <= 1, "{said} has {mine:?}");
                        let beside = |own: &[u64]| {
                            let (Some(first), Some(last)) = (own.first(), own.last()) else { return Vec::new() };
                            let near = |row: &u64| *row + before >= *first && *row <= *last + after;
                            dealt.iter().copied().filter(near).collect()
                        };
                        assert_eq!(read, beside(mine), "{said}");
                        let first = read.first().and_then(|first| dealt.iter().position(|row| row == first));
                        assert!(first.is_none_or(|first| first as u64 == own.first), "{said}: {own:?}");
                        owned.extend_from_slice(mine);
                    }
                    assert_eq!(owned, dealt, "{partitions:?}: {slice:?} in {of} shares");
                }
            }
        }
    }
}
