//! Results that stay on the workers.

use std::sync::Arc;

use polars::prelude::LazyFrame;

use crate::actors::Piece;
use crate::error::{ClusterError, Error};
use crate::frame::Run;
use crate::plan::scan_held;
use crate::store::Ticket;

/// A result that stays in the partitions, and on the workers, where it was made, until this is dropped.
///
/// A worker that holds some of it does not retire. What a lost worker held is lost: queries that need it fail and say so, and
/// persisting again makes it anew.
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
    names: Vec<String>,
}

impl Persisted {
    pub(crate) fn new(mut run: Run) -> Result<Self, Error> {
        let held = run.held()?.into_iter();
        let names = held.map(|(place, output)| Piece { place, ticket: Ticket::Partition(output.id) }.name());
        let names = names.collect::<Result<_, _>>().map_err(|e| ClusterError::network("name the partitions", e))?;
        Ok(Self { run, names })
    }

    /// A query over the rows, for this session alone. It fails once this is dropped.
    pub fn lazy(&self) -> LazyFrame {
        scan_held(Arc::clone(self.run.schema()), &self.names)
    }
}
