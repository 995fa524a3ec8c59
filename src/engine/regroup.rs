//! Batches of another size, rows in order.

use futures_util::stream::{BoxStream, StreamExt, unfold};
use polars::prelude::DataFrame;

use crate::error::{PolarsFailure, TaskFailure};

type Batches<'a> = BoxStream<'a, Result<DataFrame, TaskFailure>>;

/// Batches of at most `rows` rows, and of at least 0.8 of them but for the last. Nearly full ones go on as they are: nothing is
/// cut for the sake of the last few rows.
pub(super) fn nearly_full(batches: Batches<'_>, rows: Option<usize>) -> Batches<'_> {
    let Some(rows) = rows else { return batches };
    regroup(batches, ((rows * 4).div_ceil(5), rows))
}

/// Cuts and joins batches so that each has no more rows than the most, and no fewer than the least but for the last.
pub(super) fn regroup(batches: Batches<'_>, (least, most): (usize, usize)) -> Batches<'_> {
    let state = Some((batches, Group { least, most: most.max(1), held: None, rest: None }));
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
    least: usize,
    most: usize,
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
            let take = (self.most - height).min(rest.height());
            let taken = match take < rest.height() {
                true => {
                    self.rest = Some(rest.slice(take as i64, rest.height() - take));
                    rest.head(Some(take))
                }
                false => rest,
            };
            let grown = match self.held.take() {
                Some(mut held) => {
                    held.vstack_mut_owned(taken).map_err(PolarsFailure::from)?;
                    held
                }
                None => taken,
            };
            if grown.height() >= self.least.max(1) {
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

    const HEIGHTS: [i64; 12] = [3, 0, 900, 1, 1, 1, 79, 20, 5, 250, 0, 17];

    /// What a regrouping makes of batches of these heights: heights too, once all rows are found in order.
    fn regrouped(by: impl Fn(Batches<'static>) -> Batches<'static>) -> (Vec<usize>, usize) {
        let mut from = 0;
        let batches = HEIGHTS.iter().map(|height| {
            let ids: Vec<_> = (from..from + height).collect();
            from += height;
            Ok(df!["id" => ids].unwrap())
        });
        let batches: Vec<_> = batches.collect();
        let batches = by(iter(batches).boxed()).try_collect::<Vec<_>>().now_or_never().unwrap().unwrap();
        let mut heights: Vec<_> = batches.iter().map(DataFrame::height).collect();
        let whole = batches.into_iter().reduce(|a, b| a.vstack(&b).unwrap()).unwrap();
        let ids: Vec<_> = whole.column("id").unwrap().i64().unwrap().iter().flatten().collect();
        assert_eq!(ids, (0..from).collect::<Vec<_>>());
        let last = heights.pop().unwrap();
        (heights, last)
    }

    #[test]
    fn batches_are_nearly_full_and_rows_stay_in_order() {
        for rows in [1, 2, 7, 100, 1000, 5000] {
            let (full, last) = regrouped(|batches| nearly_full(batches, Some(rows)));
            assert!(full.iter().all(|height| *height <= rows && height * 5 >= rows * 4), "{rows}: {full:?}");
            assert!((1..=rows).contains(&last), "{rows}: {last}");
        }
    }

    #[test]
    fn batches_have_as_many_rows_as_was_asked_for_and_rows_stay_in_order() {
        for (least, most) in [(1, 1), (7, 7), (1, 100), (100, 100), (64, 256), (5000, 5000)] {
            let (full, last) = regrouped(|batches| regroup(batches, (least, most)));
            assert!(full.iter().all(|height| (least..=most).contains(height)), "{least} to {most}: {full:?}");
            assert!((1..=most).contains(&last), "{least} to {most}: {last}");
        }
        assert_eq!(
            regrouped(|batches| regroup(batches, (1, 1000))).0.len(),
            9,
            "none is joined without need, or empty"
        );
    }
}
