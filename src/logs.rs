//! The log of this process, as far as it is remembered: what `regatta logs` shows.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use regatta_observe::{LogFilter, LogLevel, LogLine, LogPage, LogRing};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterFn, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::sched::{Attempt, TaskId};

/// Bytes of all lines that are remembered.
const BYTES: usize = 1 << 20;

static RING: LazyLock<Mutex<LogRing>> = LazyLock::new(|| Mutex::new(LogRing::new(BYTES)));

thread_local! {
    /// The attempt that runs on this thread. Not a span: one for each task would cost more than all else that is noted of it.
    static TASK: Cell<Option<(TaskId, Attempt)>> = const { Cell::new(None) };
}

/// Lines of this process after a number.
pub(crate) fn page(after: u64, filter: &LogFilter, lines: usize, bytes: usize) -> LogPage {
    ring().page(after, filter, lines, bytes)
}

fn ring() -> MutexGuard<'static, LogRing> {
    RING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until it is dropped, what is logged on this thread is of this attempt.
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

/// Remembers what is said, with what it is of.
pub(crate) struct Remember;

/// What is remembered: information and worse, and of spans those of replicas, which are of the highest level.
pub(crate) fn remembered() -> FilterFn {
    fn is_remembered(of: &Metadata<'_>) -> bool {
        if of.is_span() { *of.level() == Level::ERROR } else { *of.level() <= Level::INFO }
    }
    filter_fn(is_remembered as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::INFO)
}

/// What a span says that a line is of.
#[derive(Default)]
struct Of {
    query: Option<u64>,
    stage: Option<u32>,
    udf: Option<String>,
    rank: Option<u32>,
}

impl Visit for Of {
    fn record_u64(&mut self, field: &Field, value: u64) {
        let small = u32::try_from(value).ok();
        match field.name() {
            "stage" => self.stage = small,
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

/// What an event says: its message, then its other fields.
#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Nothing fails that writes into a text.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Remember {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut of = Of::default();
        attributes.record(&mut of);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(of);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        // What is said of a replica from outside of it names its UDF.
        let (mut said, mut own) = (Said::default(), Of::default());
        event.record(&mut said);
        event.record(&mut own);
        let level = match *event.metadata().level() {
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            _ => LogLevel::Info,
        };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut line = LogLine {
            at_ms: u64::try_from(at.as_millis()).unwrap_or(0),
            level,
            target: event.metadata().target().to_owned(),
            udf: own.udf.map(|udf| (udf, own.rank.unwrap_or(0))),
            text: format!("{}{}", said.message, said.fields),
            ..LogLine::default()
        };
        let mut query = None;
        if let Some((task, attempt)) = TASK.get() {
            (query, line.stage, line.task) = (Some(task.query.0), Some(task.stage.0), Some((task.index, attempt.0)));
        }
        // The innermost first.
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(of) = span.extensions().get::<Of>() {
                query = query.or(of.query);
                line.stage = line.stage.or(of.stage);
                line.udf = line.udf.or_else(|| Some((of.udf.clone()?, of.rank.unwrap_or(0))));
            }
        }
        line.query = query.map(|query| format!("{query:016x}"));
        ring().push(line);
    }
}

#[cfg(test)]
mod tests {
    use regatta_observe::{QueryId, StageId};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn lines_are_of_the_task_and_the_replica_that_say_them() {
        let subscriber = tracing_subscriber::registry().with(Remember.with_filter(remembered()));
        tracing::subscriber::with_default(subscriber, || {
            let before = page(0, &LogFilter::default(), 1, 1 << 20).next;
            tracing::info!(answer = 42, name = "x", "of nothing");
            tracing::debug!("nobody wants to know");
            let task = TaskId { query: QueryId(0xa7), stage: StageId(2), index: 5 };
            {
                let _in = InTask::enter(task, Attempt(3));
                tracing::warn!("of a task");
            }
            let query = Some(format!("{:016x}", 0xb7));
            let span = tracing::error_span!("replica", udf = "demo::Embed", query, stage = 1_u32, rank = 4_u32);
            span.in_scope(|| tracing::error!(target: "model", "of a replica"));
            tracing::warn!(udf = "demo::Slow", rank = 2_u32, "a replica hangs");
            tracing::info!("of nothing again");
            let page = page(before, &LogFilter::default(), 100, 1 << 20);
            // Other tests of this process may say something, too.
            let of = |text: &str| page.lines.iter().find(|line| line.text.starts_with(text)).unwrap().clone();
            let plain = of("of nothing answer");
            assert_eq!((plain.text.as_str(), plain.query, plain.udf), ("of nothing answer=42 name=x", None, None));
            assert_eq!((plain.level, plain.target.as_str()), (LogLevel::Info, module_path!()));
            assert!(page.lines.iter().all(|line| line.text != "nobody wants to know"));
            let task = of("of a task");
            assert_eq!(
                (task.query.as_deref(), task.stage, task.task),
                (Some("00000000000000a7"), Some(2), Some((5, 3)))
            );
            let replica = of("of a replica");
            assert_eq!((replica.query.as_deref(), replica.stage), (Some("00000000000000b7"), Some(1)));
            assert_eq!((replica.udf, replica.target.as_str()), (Some(("demo::Embed".to_owned(), 4)), "model"));
            assert_eq!(of("a replica hangs").udf, Some(("demo::Slow".to_owned(), 2)));
            assert_eq!(of("of nothing again").query, None);
        });
    }
}
