//! Results that stay on the workers.

use std::sync::Arc;

use polars::prelude::LazyFrame;

use crate::error::Error;
use crate::frame::Run;
use crate::plan::scan_held;

/// A result that stays in the partitions, and on the workers, where it was made, until this is dropped.
///
/// A worker that holds some of it does not retire. What is lost with a worker is made again from the query, at once and no more
/// than that; queries that read it wait meanwhile. It is made from what that query reads: another `Persisted` must still be there.
///
/// ```
/// use regatta::{polars::prelude::*, prelude::*};
///
/// let session = Session::native()?;
/// let squares = df!["x" => [1i64, 2, 3]].unwrap().lazy().select([col("x") * col("x")]).persist_on(&session)?;
/// assert_eq!(squares.lazy().select([col("x").sum()]).collect_on(&session)?.column("x").unwrap().i64().unwrap().get(0), Some(14));
/// # Ok::<(), regatta::Error>(())
/// ```
#[derive(Debug)]
pub struct Persisted {
    /// Holds the partitions.
    run: Run,
    partitions: usize,
}

impl Persisted {
    pub(crate) fn new(mut run: Run) -> Result<Self, Error> {
        let partitions = run.left()?;
        Ok(Self { run, partitions })
    }

    /// A query over the rows, for this session alone. It fails once this is dropped.
    pub fn lazy(&self) -> LazyFrame {
        scan_held(Arc::clone(self.run.schema()), self.run.query(), self.partitions)
    }
}
