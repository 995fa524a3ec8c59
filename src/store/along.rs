//! Rows that are in no store: few of them go along with what is said of them, and those of this process are handed over.

use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};

/// Where the rows of an output are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) enum Rows {
    /// In the store of who made it.
    #[default]
    Kept,
    #[serde(skip)]
    Here(DataFrame),
}
