//! Batches of another size, rows in order.

use futures_util::stream::{BoxStream, StreamExt, unfold};
use polars::prelude::DataFrame;

use crate::error::{PolarsFailure, TaskFailure};

type Batches<'a> = BoxStream<'a, Result<DataFrame, TaskFailure>>;

/// Cuts and joins batches so that each has at most `rows` rows, and at least 0.8 of them but for the last. Nearly full
/// ones go on as they are: nothing is cut for the sake of the last few rows.
pub(super) fn regroup(batches: Batches<'_>, rows: Option<usize>) -> Batches<'_> {
    let Some(rows) = rows else { return batches };
    let state = Some((batches, Group { rows: rows.max(1), held: None, rest: None }));
    unfold(state, |state| async move {
        let (mut batches, mut group) = state?;
        loop {
            if let Some(full) = group.next().transpose() {
                return Some((full, Some((batches, group))));
            }
            match batches.next().await {
                Some(Ok(batch)) => group.rest = Some(batch),
                Some(Err(error)) => return Some((Err(error), None)),
                None => return group.held.take().map(|last| (Ok(last), None)),
            }
        }
    })
    .boxed()
}

struct Group {
    rows: usize,
    /// Rows that are too few to go on alone.
    held: Option<DataFrame>,
    /// What is left of the batch that came last.
    rest: Option<DataFrame>,
}

impl Group {
    /// The next batch that is full enough, if what is here yields one.
    fn next(&mut self) -> Result<Option<DataFrame>, TaskFailure> {
        while let Some(rest) = self.rest.take() {
            let height = self.held.as_ref().map_or(0, DataFrame::height);
            let take = (self.rows - height).min(rest.height());
            if take < rest.height() {
                self.rest = Some(rest.slice(take as i64, rest.height() - take));
            }
            let taken = rest.head(Some(take));
            let grown = match self.held.take() {
                Some(mut held) => {
                    held.vstack_mut_owned(taken).map_err(PolarsFailure::from)?;
                    held
                }
                None => taken,
            };
            if grown.height() * 5 >= self.rows * 4 {
                return Ok(Some(grown));
            }
            self.held = (grown.height() > 0).then_some(grown);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::stream::{TryStreamExt, iter};
    use polars::prelude::*;

    use super::*;

    #[test]
    fn batches_are_nearly_full_and_rows_stay_in_order() {
        let heights = [3i64, 0, 900, 1, 1, 1, 79, 20, 5, 250, 0, 17];
        for rows in [1, 2, 7, 100, 1000, 5000] {
            let mut from = 0;
            let batches = heights.iter().map(|height| {
                let ids: Vec<_> = (from..from + height).collect();
                from += height;
                Ok(df!["id" => ids].unwrap())
            });
            let batches: Vec<_> = batches.collect();
            let regrouped = regroup(iter(batches).boxed(), Some(rows)).try_collect::<Vec<_>>();
            let regrouped = regrouped.now_or_never().unwrap().unwrap();
            let (last, full) = regrouped.split_last().unwrap();
            assert!(full.iter().all(|b| b.height() <= rows && b.height() * 5 >= rows * 4), "{rows}: {full:?}");
            assert!((1..=rows).contains(&last.height()), "{rows}: {last:?}");
            let whole = regrouped.into_iter().reduce(|a, b| a.vstack(&b).unwrap()).unwrap();
            let ids: Vec<_> = whole.column("id").unwrap().i64().unwrap().iter().flatten().collect();
            assert_eq!(ids, (0..from).collect::<Vec<_>>());
        }
    }
}
