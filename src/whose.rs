//! Of which task and which replica it is what a thread says and does: for what is remembered of logs, and of authors' spans.

use std::cell::Cell;
use std::fmt;

use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::Attributes;
use tracing_subscriber::registry::{LookupSpan, Scope, SpanRef};

use crate::sched::{Attempt, StepId, TaskId};

thread_local! {
    /// The attempt that runs on this thread. Not a span: one for each task would cost more than all else that is noted of it.
    static TASK: Cell<Option<(TaskId, Attempt)>> = const { Cell::new(None) };
}

/// Until it is dropped, what happens on this thread is of this attempt.
pub(crate) struct InTask;

impl InTask {
    pub(crate) fn enter(task: TaskId, attempt: Attempt) -> Self {
        TASK.set(Some((task, attempt)));
        Self
    }
}

impl Drop for InTask {
    fn drop(&mut self) {
        TASK.set(None);
    }
}

/// The name of the span of what a replica does for a step: of the highest level, so that it is there wherever a warning is heard,
/// for workers leave out less.
const REPLICA: &str = "replica";

/// That span: of this UDF and replica, for a step of a query, and the task that calls and which attempt.
pub(crate) fn replica(udf: &str, rank: usize, of: Option<StepId>, by: Option<(u32, u32)>) -> tracing::Span {
    let (query, stage) = of.map(|step| (format!("{:016x}", step.query.0), step.stage.0)).unzip();
    let (task, attempt) = by.unzip();
    tracing::error_span!(REPLICA, udf, query, stage, task, attempt, rank)
}

/// Whether a span is such a one.
pub(crate) fn is_of_replica(of: &tracing::Metadata<'_>) -> bool {
    of.is_span() && of.name() == REPLICA && is_ours(of)
}

/// Whether it is of this crate and not of an author's.
pub(crate) fn is_ours(of: &tracing::Metadata<'_>) -> bool {
    let krate =
        |ours: &str| of.target().strip_prefix(ours).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    ["regatta", "regatta_remote"].into_iter().any(krate)
}

/// As far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Whose {
    pub(crate) query: Option<u64>,
    pub(crate) stage: Option<u32>,
    /// And which attempt.
    pub(crate) task: Option<(u32, u32)>,
    pub(crate) udf: Option<(String, u32)>,
}

impl Whose {
    /// Of what happens now, in these spans.
    pub(crate) fn now<'a, S: Subscriber + for<'b> LookupSpan<'b>>(spans: Option<Scope<'a, S>>) -> Self {
        let mut whose = Self::default();
        if let Some((task, attempt)) = TASK.get() {
            whose.query = Some(task.query.0);
            (whose.stage, whose.task) = (Some(task.stage.0), Some((task.index, attempt.0)));
        }
        // The innermost first.
        for span in spans.into_iter().flatten() {
            if let Some(of) = span.extensions().get::<Self>() {
                whose.query = whose.query.or(of.query);
                whose.stage = whose.stage.or(of.stage);
                whose.task = whose.task.or(of.task);
                whose.udf = whose.udf.or_else(|| of.udf.clone());
            }
        }
        whose
    }

    /// Keeps with the span of a replica what its fields say.
    pub(crate) fn note<'a, S: LookupSpan<'a>>(span: &SpanRef<'a, S>, attributes: &Attributes<'_>) {
        if is_of_replica(attributes.metadata()) && span.extensions().get::<Self>().is_none() {
            let mut of = Named::default();
            attributes.record(&mut of);
            span.extensions_mut().insert(of.whose());
        }
    }
}

/// What fields say that something is of.
#[derive(Default)]
pub(crate) struct Named {
    query: Option<u64>,
    stage: Option<u32>,
    task: Option<u32>,
    attempt: Option<u32>,
    udf: Option<String>,
    rank: Option<u32>,
}

impl Named {
    pub(crate) fn whose(self) -> Whose {
        let Self { query, stage, task, attempt, udf, rank } = self;
        let udf = udf.map(|udf| (udf, rank.unwrap_or(0)));
        Whose { query, stage, task: task.map(|task| (task, attempt.unwrap_or(1))), udf }
    }
}

impl Visit for Named {
    fn record_u64(&mut self, field: &Field, value: u64) {
        let small = u32::try_from(value).ok();
        match field.name() {
            "stage" => self.stage = small,
            "task" => self.task = small,
            "attempt" => self.attempt = small,
            "rank" => self.rank = small,
            _ => (),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "query" => self.query = u64::from_str_radix(value, 16).ok(),
            "udf" => self.udf = Some(value.to_owned()),
            _ => (),
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
