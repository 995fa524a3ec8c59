//! The log of this process, as far as it is remembered: what `regatta logs` shows.

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

use crate::whose::{Named, Whose, is_of_replica};

/// Bytes of all lines that are remembered.
const BYTES: usize = 1 << 20;

static RING: LazyLock<Mutex<LogRing>> = LazyLock::new(|| Mutex::new(LogRing::new(BYTES)));

/// Lines of this process after a number.
pub(crate) fn page(after: u64, filter: &LogFilter, lines: usize, bytes: usize) -> LogPage {
    ring().page(after, filter, lines, bytes)
}

fn ring() -> MutexGuard<'static, LogRing> {
    RING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers what is said, with what it is of.
pub(crate) struct Remember;

/// What is remembered: information and worse, and of spans those of replicas.
pub(crate) fn remembered() -> FilterFn {
    fn is_remembered(of: &Metadata<'_>) -> bool {
        if of.is_span() { is_of_replica(of) } else { *of.level() <= Level::INFO }
    }
    filter_fn(is_remembered as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::INFO)
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
        if let Some(span) = context.span(id) {
            Whose::note(&span, attributes);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        // What is said of a replica from outside of it names its UDF.
        let (mut said, mut own) = (Said::default(), Named::default());
        event.record(&mut said);
        event.record(&mut own);
        let level = match *event.metadata().level() {
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            _ => LogLevel::Info,
        };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Whose { query, stage, task, udf } = Whose::now(context.event_scope(event));
        let line = LogLine {
            at_ms: u64::try_from(at.as_millis()).unwrap_or(0),
            level,
            target: event.metadata().target().to_owned(),
            query: query.map(|query| format!("{query:016x}")),
            stage,
            task,
            udf: own.whose().udf.or(udf),
            text: format!("{}{}", said.message, said.fields),
            ..LogLine::default()
        };
        ring().push(line);
    }
}

#[cfg(test)]
mod tests {
    use regatta_observe::{QueryId, StageId, StepId};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::sched::{Attempt, TaskId};
    use crate::whose::{InTask, replica};

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
            let step = StepId { query: QueryId(0xb7), stage: StageId(1), step: 0 };
            replica("demo::Embed", 4, Some(step), Some((6, 2)))
                .in_scope(|| tracing::error!(target: "model", "of a replica"));
            let authors = tracing::error_span!(target: "model", "replica", query = "00000000000000c7", stage = 9_u32);
            authors.in_scope(|| tracing::warn!("in a span of an author's"));
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
            assert_eq!((replica.task, of("in a span of an author's").query), (Some((6, 2)), None));
            assert_eq!((replica.udf, replica.target.as_str()), (Some(("demo::Embed".to_owned(), 4)), "model"));
            assert_eq!(of("a replica hangs").udf, Some(("demo::Slow".to_owned(), 2)));
            assert_eq!(of("of nothing again").query, None);
        });
    }
}
