//! Names for columns of ours: none that a column of the user's has.

use std::collections::BTreeSet;

use polars::prelude::PlSmallStr;

const PREFIX: &str = "__regatta_";

/// Gives names, each once.
pub(crate) struct Names {
    /// Those of the user's columns that could be ours.
    taken: BTreeSet<PlSmallStr>,
    given: usize,
}

impl Names {
    /// For columns that stand beside these.
    pub(crate) fn beside<'a>(columns: impl IntoIterator<Item = &'a PlSmallStr>) -> Self {
        let taken = columns.into_iter().filter(|name| name.starts_with(PREFIX)).cloned().collect();
        Self { taken, given: 0 }
    }

    pub(crate) fn fresh(&mut self, what: &str) -> PlSmallStr {
        loop {
            self.given += 1;
            let name: PlSmallStr = format!("{PREFIX}{what}_{}", self.given).into();
            if !self.taken.contains(&name) {
                return name;
            }
        }
    }
}
