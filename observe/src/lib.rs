//! What a Regatta query does: one model, and everything that is shown of it.
//!
//! A [`Recorder`] folds what the scheduler [sees](Seen) into figures. From it come a [`Profile`] of a query, during its run and
//! after it, and its [`Progress`]. How a query will be run is an [`Explain`]. Profiles and plans have several [`forms`]; what is wrong
//! with a query its [`findings`] say. All of this is pure: no clock, no thread, no network. Who looks at a cluster from outside
//! [asks](Ask) its head and is [answered](Answer); feature `window` has the messages for that.

#![warn(missing_docs)]

mod explain;
mod findings;
pub mod forms;
mod guide;
mod histogram;
mod ids;
mod instruments;
mod logs;
mod metrics;
pub mod otlp;
mod profile;
mod progress;
mod recorder;
mod ring;
mod seen;
mod spans;
pub mod text;
mod totals;
mod view;
#[cfg(feature = "window")]
pub mod window;

pub use explain::{Explain, Node, NodeKind, Reads, StagePlan, UdfPlan};
pub use findings::{RULES, Rule, findings};
pub use guide::guide;
pub use histogram::Histogram;
pub use ids::{QueryId, StageId, StepId, TaskId, WorkerId};
pub use instruments::{Figure, INSTRUMENTS, Instrument, InstrumentKind, Measured, Point, prometheus};
pub use logs::{LogFilter, LogLevel, LogLine, LogPage, LogRing};
pub use metrics::{Metric, Metrics, MetricsByUdf};
pub use profile::{
    Dropped, EdgeFigures, ErrorRecord, Finding, Outcome, PoolFigures, Profile, QueryFigures, QueryState, Severity,
    StageFigures, StageState, Strips, TaskRecord, VERSION, WaitFigures, WorkerFigures,
};
pub use progress::{Block, Lines, PoolProgress, Progress, Room, Shown, StageProgress};
pub use recorder::{Limits, Recorder, StageStands, Stands};
pub use seen::{Calls, End, EngineNode, Fetched, Gone, Replica, Sample, Seen, Spent, Submitted};
pub use spans::{AuthorSpan, SpanPage, SpanRing, SpanValue};
pub use text::line;
pub use totals::{Attempts, Totals, UdfTotals};
pub use view::{
    Answer, Answering, Ask, ClusterView, Fleet, JobLog, JobRow, JobState, LogsView, Order, PoolRow, QueryRow,
    QueryView, Refusal, SpansView, Table, TokenRole, VIEW, Why, WorkerRow,
};

#[cfg(test)]
mod testing;
