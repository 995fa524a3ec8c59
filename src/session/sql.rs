//! Polars' SQL over the tables of a session.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use polars::prelude::{IntoLazy, LazyFrame};
use polars::sql::SQLContext;

use super::{Session, on_planner_thread};
use crate::error::{Error, PlanError};

/// The tables of a session.
#[derive(Default)]
pub(super) struct Tables(Mutex<SQLContext>);

/// How the names of tables begin that say what queries did.
const OURS: &str = "regatta_";
/// Costs nothing and changes nothing.
const SUCCESS: &str = "SHOW TABLES";

impl Tables {
    fn context(&self) -> MutexGuard<'_, SQLContext> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Makes a LazyFrame a table of [`sql`](Self::sql), in place of any other of that name.
    pub fn register(&self, name: &str, table: LazyFrame) {
        self.inner.tables.context().register(name, table);
    }

    /// A query in Polars' SQL, over registered tables and over files by `read_parquet('...')`, `read_csv`, `read_ipc` and
    /// `read_json` (one value per line). Like any LazyFrame it runs when it is collected or submitted.
    ///
    /// What queries did is there as tables, too: `regatta_queries`, `_stages`, `_tasks`, `_pools`, `_edges`, `_waits`, `_nodes`,
    /// `_workers`, `_findings` and `_errors` are the frames of [`observe`](Self::observe) as it is now. A table of such a
    /// name that was [registered](Self::register) stands before ours.
    ///
    /// `CREATE TABLE ... AS`, `DROP TABLE` and their like change this session's tables, never a file. Write `JOIN ... ON`, not
    /// commas with `IN (SELECT ...)`: Polars turns those into a cross join.
    ///
    /// ```
    /// use regatta::{polars::prelude::*, prelude::*};
    ///
    /// let session = Session::native()?;
    /// session.register("boats", df!["name" => ["Ayu", "Bora"], "knots" => [7.5, 9.0]].unwrap().lazy());
    /// let fast = session.sql("SELECT name FROM boats WHERE knots > 8")?.collect_on(&session)?;
    /// assert_eq!(fast.column("name").unwrap().str().unwrap().get(0), Some("Bora"));
    /// # Ok::<(), regatta::Error>(())
    /// ```
    ///
    /// # Errors
    /// What Polars' SQL does not know, a table or column that is not there.
    pub fn sql(&self, query: &str) -> Result<LazyFrame, Error> {
        let (session, query) = (self.clone(), query.to_owned());
        let is_asked = query.to_ascii_lowercase().contains(OURS);
        let ours = if is_asked { self.observe()?.tables()? } else { Vec::new() };
        let planned = on_planner_thread(move || {
            let mut context = session.inner.tables.context();
            let theirs = context.get_tables();
            let ours: Vec<_> = ours.into_iter().filter(|(name, _)| !theirs.iter().any(|table| table == name)).collect();
            for (name, table) in &ours {
                context.register(name, table.clone().lazy());
            }
            // Polars keeps what a statement has named that failed, until one succeeds.
            let planned = context.execute(SUCCESS).and_then(|_| context.execute(&query)).map_err(PlanError::polars);
            // They are as they were: the next statement has them anew.
            ours.iter().for_each(|(name, _)| context.unregister(name));
            planned
        });
        Ok(planned?)
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tables").field(&self.context().get_tables()).finish()
    }
}
