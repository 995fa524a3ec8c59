//! One attempt of a task: all that it needs, and what it leaves.

use std::sync::Arc;

use super::Pools;
use super::program::Program;
use super::source::Waits;
use super::spending::Spending;
use crate::plan::{Own, Split};
use crate::sched::{Output, PartitionId, Sizes};
use crate::store::{Reading, Rows, Store};
use crate::udf::CallingTask;

/// Everything that one attempt of a task needs.
pub(crate) struct TaskRun {
    pub(crate) program: Arc<Program>,
    pub(crate) split: Split,
    /// What it reads of what others have left: what [`Program::reads`] names, in that order.
    pub(crate) inputs: Vec<Reading>,
    /// Which rows of these are its own, where it reads a share.
    pub(crate) own: Option<Own>,
    pub(crate) output: PartitionId,
    pub(crate) leave: Leave,
    pub(crate) store: Arc<Store>,
    pub(crate) pools: Arc<dyn Pools>,
    /// What UDFs are told of the task, and where they report.
    pub(crate) calling: CallingTask,
    pub(crate) waits: Waits,
    pub(crate) spending: Arc<Spending>,
}

impl TaskRun {
    /// Where it is told what each node of the engine does, if that is wanted.
    pub(super) fn meter(&self) -> Option<Arc<Spending>> {
        self.program.metered.then(|| Arc::clone(&self.spending))
    }
}

/// Where the rows of a task go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Into the store.
    InStore,
    /// To the driver, which is elsewhere: if they are few, along with what is said of them; else into the store.
    ToDriver,
    /// To the driver, which is in this process: as they are.
    Here,
}

/// What a task has left.
pub(crate) struct Left {
    pub(crate) output: Output,
    pub(crate) rows: Rows,
    /// Its bytes in each section, where they were scattered.
    pub(crate) sections: Sizes,
}

impl Left {
    /// What is not in sections.
    pub(super) fn whole(output: Output, rows: Rows) -> Self {
        Self { output, rows, sections: Sizes::default() }
    }
}
