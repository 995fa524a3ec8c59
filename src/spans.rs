//! Spans of authors' programs that have ended in this process, as far as they are remembered: noted while somebody looks.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use regatta_observe::{AuthorSpan, SpanPage, SpanRing, SpanValue};
use regatta_remote::catch;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber, callsite};
use tracing_subscriber::filter::{FilterFn, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::{LookupSpan, SpanRef};

use crate::engine::nanoseconds;
use crate::os;
use crate::whose::{Whose, is_of_replica, is_ours};

/// Bytes of all spans that are remembered.
const BYTES: usize = 1 << 20;
/// The longest that they are noted after somebody has looked.
const LONGEST: Duration = Duration::from_secs(3600);
/// Fields of a span that are noted.
const FIELDS: usize = 16;
/// Bytes of what a `Debug` says that are read: more than are kept, so that it is seen that some are cut off.
const BEGINNING: usize = 1 << 10;

static RING: LazyLock<Mutex<SpanRing>> = LazyLock::new(|| Mutex::new(SpanRing::new(BYTES)));
/// Whether spans are noted. While they are not, they cost as much as if there were no subscriber.
static NOTED: AtomicBool = AtomicBool::new(false);
/// Until when they are.
static UNTIL: Mutex<Option<Instant>> = Mutex::new(None);

fn ring() -> MutexGuard<'static, SpanRing> {
    RING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spans that have ended in this process after a number; and they are noted for so long from now. Says when [`look_away`] is due.
pub(crate) fn page(after: u64, bytes: usize, noted: Duration) -> (SpanPage, Duration) {
    let now = os::now();
    let mut until = UNTIL.lock().unwrap_or_else(PoisonError::into_inner);
    // Who looks for longer is not cut short by another.
    let end = (now + noted.min(LONGEST)).max(until.unwrap_or(now));
    *until = Some(end);
    note(true);
    drop(until);
    (ring().page(after, bytes), end.saturating_duration_since(now))
}

/// Ends what nobody has looked at for as long as was said.
pub(crate) fn look_away() {
    let until = UNTIL.lock().unwrap_or_else(PoisonError::into_inner);
    if until.is_none_or(|until| os::now() >= until) {
        note(false);
    }
}

/// Whether spans are noted now.
pub(crate) fn are_noted() -> bool {
    NOTED.load(Ordering::Relaxed)
}

/// Notes them from now on, or does not. In the process of replicas: as its worker does, which [takes them in](adopt).
pub(crate) fn note(noted: bool) {
    if NOTED.swap(noted, Ordering::Relaxed) != noted {
        callsite::rebuild_interest_cache();
    }
}

/// In the process of replicas: what has ended since the last time, and how many of those are forgotten.
pub(crate) fn take() -> (Vec<AuthorSpan>, u64) {
    ring().take()
}

/// Takes in what has ended in a process of replicas, and that it has forgotten some.
pub(crate) fn adopt(spans: Vec<AuthorSpan>, forgotten: u64) {
    let mut ring = ring();
    ring.miss(forgotten);
    spans.into_iter().for_each(|span| ring.push(span));
}

/// Notes spans that authors have around what they do in tasks and replicas.
pub(crate) struct Note;

/// What is noted: spans of information and worse that are not ours; and those of replicas, which say whose the others are.
pub(crate) fn noted_spans() -> FilterFn {
    fn is_noted(of: &Metadata<'_>) -> bool {
        is_of_replica(of) || (of.is_span() && *of.level() <= Level::INFO && !is_ours(of) && are_noted())
    }
    filter_fn(is_noted as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::INFO)
}

/// A span that has not ended.
struct Noted {
    /// All but how long it took.
    span: AuthorSpan,
    began: Instant,
}

/// A number that no other span has.
fn id() -> u64 {
    static FIRST: LazyLock<u64> = LazyLock::new(os::random);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // An odd step: all numbers come before one comes again.
    let step = COUNT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    FIRST.wrapping_add(step).max(1)
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Note {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if is_of_replica(attributes.metadata()) {
            return Whose::note(&span, attributes);
        }
        let Whose { query, stage, task, udf } = Whose::now(context.span_scope(id));
        // Of what runs for no query nobody asks.
        let Some(query) = query else { return };
        let query = format!("{query:016x}");
        // One of another query is in another trace.
        let of_it = |parent: SpanRef<'_, S>| {
            let of = parent.extensions().get::<Noted>().map(|noted| (noted.span.id, noted.span.query == query))?;
            of.1.then_some(of.0)
        };
        let parent = span.parent().and_then(of_it);
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let noted = AuthorSpan {
            id: self::id(),
            parent: parent.unwrap_or(0),
            name: attributes.metadata().name().to_owned(),
            target: attributes.metadata().target().to_owned(),
            from: nanoseconds(at),
            query,
            stage,
            task,
            udf,
            fields: fields.0,
            ..AuthorSpan::default()
        };
        span.extensions_mut().insert(Noted { span: noted, began: os::now() });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if span.extensions().get::<Noted>().is_none() {
            return;
        }
        // An author's `Debug` runs in this, which may ask for the span: it is not locked meanwhile.
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(noted) = span.extensions_mut().get_mut::<Noted>() {
            let mut all = Fields(std::mem::take(&mut noted.span.fields));
            fields.0.into_iter().for_each(|(name, value)| all.put(name, value));
            noted.span.fields = all.0;
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let noted = context.span(&id).and_then(|span| span.extensions_mut().remove::<Noted>());
        if let Some(Noted { span, began }) = noted {
            ring().push(AuthorSpan { took: nanoseconds(os::since(began)), ..span });
        }
    }
}

/// Fields of a span; the later of one name is what it says.
#[derive(Default)]
struct Fields(Vec<(String, SpanValue)>);

impl Fields {
    fn put(&mut self, name: String, value: SpanValue) {
        if let Some((_, before)) = self.0.iter_mut().find(|(other, _)| *other == name) {
            *before = value;
        } else if self.0.len() < FIELDS {
            self.0.push((name, value));
        }
    }

    fn record(&mut self, field: &Field, value: impl FnOnce() -> SpanValue) {
        if self.0.len() < FIELDS || self.0.iter().any(|(name, _)| name == field.name()) {
            self.put(field.name().to_owned(), value());
        }
    }
}

/// The beginning of what is written. Then whoever writes is told that it fails, so that one who has much to say ends.
struct Beginning(String);

impl Write for Beginning {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = BEGINNING.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.0.push_str(&text[..end]);
        Err(fmt::Error)
    }
}

/// What an author's `Debug` says. One that panics does so because somebody looks: then that is all that comes of it.
fn said(value: &dyn fmt::Debug) -> SpanValue {
    let mut said = Beginning(String::new());
    match catch(|| write!(said, "{value:?}")) {
        Ok(_) => SpanValue::text(&said.0),
        Err(panic) => SpanValue::text(&format!("its Debug panicked: {panic}")),
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.record(field, || SpanValue::float(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, || SpanValue::Int(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let number = || i64::try_from(value).map_or_else(|_| SpanValue::text(&value.to_string()), SpanValue::Int);
        self.record(field, number);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, || SpanValue::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, || SpanValue::text(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, || said(value));
    }
}

#[cfg(test)]
mod tests {
    use regatta_observe::{QueryId, StageId, StepId, TaskId};
    use tracing::field::Empty;
    use tracing::info_span;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::sched::Attempt;
    use crate::whose::{InTask, replica};

    /// What `does` leaves of spans of queries with this number, in its own thread. Other tests of this process may note some, too.
    fn noted(query: u64, does: impl FnOnce()) -> Vec<AuthorSpan> {
        let subscriber = tracing_subscriber::registry().with(Note.with_filter(noted_spans()));
        let (before, _) = page(0, 0, Duration::from_secs(60));
        tracing::subscriber::with_default(subscriber, does);
        let (after, _) = page(before.next, BYTES, Duration::from_secs(60));
        let query = format!("{query:016x}");
        after.spans.into_iter().filter(|span| span.query == query).collect()
    }

    #[test]
    fn authors_spans_are_of_their_replica_or_task_and_of_the_span_that_they_are_in() {
        let spans = noted(0xb7, || {
            info_span!(target: "model", "of nothing").in_scope(|| ());
            let step = StepId { query: QueryId(0xb7), stage: StageId(1), step: 0 };
            replica("demo::Embed", 4, Some(step), Some((6, 2))).in_scope(|| {
                let outer =
                    info_span!(target: "model", "embed", docs = 7_u64, share = 0.5, done = Empty, why = ?Some("x"));
                outer.in_scope(|| info_span!(target: "model", "tokenize", fast = true).in_scope(|| ()));
                outer.record("done", "all of it");
                tracing::debug_span!(target: "model", "too much").in_scope(|| ());
                info_span!("ours").in_scope(|| ());
            });
        });
        let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["tokenize", "embed"], "in the order of their ends");
        let [inner, outer] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!((inner.parent, outer.parent, inner.id != outer.id), (outer.id, 0, true));
        assert!(outer.took >= inner.took && outer.from <= inner.from && outer.from > 0);
        for span in [inner, outer] {
            assert_eq!((span.stage, span.task, span.target.as_str()), (Some(1), Some((6, 2)), "model"));
            assert_eq!(span.udf, Some(("demo::Embed".to_owned(), 4)));
        }
        let fields = [
            ("docs", SpanValue::Int(7)),
            ("share", SpanValue::Float(0.5)),
            ("why", SpanValue::text("Some(\"x\")")),
            ("done", SpanValue::text("all of it")),
        ];
        assert_eq!(outer.fields, fields.map(|(name, value)| (name.to_owned(), value)));
        let task = TaskId { query: QueryId(0xa7), stage: StageId(2), index: 5 };
        let spans = noted(0xa7, || {
            let _in = InTask::enter(task, Attempt(3));
            info_span!(target: "model", "in a task").in_scope(|| ());
        });
        assert_eq!((spans.len(), spans[0].stage, spans[0].task), (1, Some(2), Some((5, 3))));
    }

    /// A `Debug` that does something else.
    struct Does(fn(&mut fmt::Formatter<'_>) -> fmt::Result);

    impl fmt::Debug for Does {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0(f)
        }
    }

    #[test]
    fn whatever_a_debug_does_its_program_goes_on_and_what_is_no_number_of_json_is_a_text() {
        let logs = Does(|f| {
            info_span!(target: "model", "in it").in_scope(|| tracing::warn!("from a Debug"));
            f.write_str("logs")
        });
        let panics = Does(|_| panic!("boat"));
        let talks = Does(|f| {
            for n in 0..u64::MAX {
                write!(f, "{n}, ")?;
            }
            Ok(())
        });
        let spans = noted(0xc7, || {
            let subscriber = tracing_subscriber::registry()
                .with(crate::logs::Remember.with_filter(crate::logs::remembered()))
                .with(Note.with_filter(noted_spans()));
            tracing::subscriber::with_default(subscriber, || {
                let step = StepId { query: QueryId(0xc7), stage: StageId(1), step: 0 };
                replica("demo::Embed", 4, Some(step), None).in_scope(|| {
                    let span = info_span!(target: "model", "all", logs = Empty, panics = Empty, new = ?panics, nan = f64::NAN, talks = ?talks);
                    let _in = span.enter();
                    span.record("logs", tracing::field::debug(&logs));
                    span.record("panics", tracing::field::debug(&panics));
                });
            });
        });
        let all = spans.iter().find(|span| span.name == "all").unwrap();
        let said = |name: &str| match all.fields.iter().find(|(field, _)| field == name) {
            Some((_, SpanValue::Text(text))) => text.as_str(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!((said("logs"), said("nan")), ("logs", "NaN"));
        assert!(said("talks").starts_with("0, 1, 2, ") && said("talks").ends_with(" ..."), "{}", said("talks"));
        for name in ["panics", "new"] {
            assert!(said(name).starts_with("its Debug panicked: boat"), "{}", said(name));
        }
        assert!(spans.iter().any(|span| span.name == "in it" && span.parent == all.id));
    }

    #[test]
    fn a_span_of_another_query_is_not_above() {
        let of = |query| {
            let step = StepId { query: QueryId(query), stage: StageId(1), step: 0 };
            replica("demo::Embed", 4, Some(step), None)
        };
        let spans = noted(0xd8, || {
            let other = of(0xd7).in_scope(|| info_span!(target: "model", "other"));
            let task = TaskId { query: QueryId(0xd8), stage: StageId(2), index: 5 };
            let _in = InTask::enter(task, Attempt(1));
            info_span!(target: "model", parent: &other, "below").in_scope(|| ());
        });
        assert_eq!(spans.iter().map(|span| (span.name.as_str(), span.parent)).collect::<Vec<_>>(), [("below", 0)]);
    }
}
