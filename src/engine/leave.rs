//! What becomes of the rows that a task leaves.

use std::sync::Arc;

use polars::prelude::*;

use super::attempt::{Leave, Left, TaskRun};
use super::scatter::Sections;
use crate::error::{PolarsFailure, TaskFailure};
use crate::sched::{Output, PartitionId};
use crate::store::{Form, Rows, size};

/// Takes what a task leaves. Dropped before [`seal`](Self::seal), it leaves nothing.
pub(super) enum Leaving {
    InStore(Sections),
    ToDriver(Sections),
    Here(Gathered),
}

/// Rows that stay as they are.
pub(super) struct Gathered {
    id: PartitionId,
    form: Arc<Form>,
    rows: DataFrame,
}

impl Leaving {
    pub(super) fn new(task: &TaskRun) -> Self {
        let form = &task.program.form;
        match task.leave {
            Leave::InStore => Self::InStore(Sections::new(task)),
            Leave::ToDriver => Self::ToDriver(Sections::new(task)),
            Leave::Here => {
                let rows = DataFrame::empty_with_schema(form.schema());
                Self::Here(Gathered { id: task.output, form: Arc::clone(form), rows })
            }
        }
    }

    pub(super) fn write(&mut self, batch: DataFrame) -> Result<(), TaskFailure> {
        match self {
            Self::InStore(sections) | Self::ToDriver(sections) => sections.write(batch),
            Self::Here(gathered) => gathered.write(batch),
        }
    }

    /// Completes it.
    pub(super) fn seal(self) -> Result<Left, TaskFailure> {
        match self {
            Self::InStore(sections) => sections.seal(),
            Self::ToDriver(sections) => sections.seal_along(),
            Self::Here(Gathered { id, rows, .. }) => {
                let output = Output { id, rows: rows.height() as u64, bytes: size(&rows) as u64 };
                Ok(Left::whole(output, Rows::Here(rows)))
            }
        }
    }
}

impl Gathered {
    fn write(&mut self, batch: DataFrame) -> Result<(), TaskFailure> {
        self.form.check(&batch).map_err(PolarsFailure::from)?;
        match self.rows.height() {
            0 => self.rows = batch,
            _ => drop(self.rows.vstack_mut_owned(batch).map_err(PolarsFailure::from)?),
        }
        Ok(())
    }
}
