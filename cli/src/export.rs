//! Sends what a cluster does to a collector: figures every so often, each query as spans when it has ended, and below those the spans
//! that authors have around what they do in UDFs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use regatta_observe::{AuthorSpan, Measured, Profile, QueryRow, QueryState, line, otlp};

use crate::Failure;
use crate::asking::{cluster, profile, spans, totals, workers};
use crate::client::Client;
use crate::collector::{Collector, NotTaken};
use crate::out::Out;

/// Queries that are looked at, each time.
const QUERIES: u32 = 256;
/// How often it is said that a collector does not take what it is sent, or that spans are missed.
const SAID: Duration = Duration::from_secs(60);
/// How much longer than until the next look workers note spans: for a look that is late.
const LATE: Duration = Duration::from_secs(60);
/// Bytes of spans that wait for the end of their query; more are sent before it.
const HELD: usize = 16 << 20;
/// Spans that are sent at once, and bytes of them: collectors take no bodies of any length.
const AT_ONCE: usize = 1000;
const BYTES_AT_ONCE: usize = 1 << 20;
/// Pages of spans that are asked for, each time.
const PAGES: usize = 64;
/// Bytes of spans that are asked for at once, and for how many more each second. A head gives whoever looks little more than twice as
/// much, for figures and queries, too.
const BURST: f64 = (1 << 20) as f64;
const EACH_SECOND: f64 = (128 << 10) as f64;

/// Sends, until the process ends; or once, with what is known of queries that have ended.
///
/// # Errors
/// The head has refused; a collector did not take what was to be sent once.
pub(crate) fn run(
    client: &Client,
    to: &Collector,
    every: Duration,
    once: bool,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let noted = every.saturating_add(LATE).as_secs();
    let (sent, spans) = (BTreeSet::new(), Spans::default());
    let mut exporter = Exporter { client, to, noted, once, sent, refused: None, spans };
    let mut aside = Aside::default();
    if !once {
        // What has ended before is history.
        exporter.sent = queries(client)?.1.into_iter().collect();
        exporter.look_at_spans()?;
        exporter.spans.held.clear();
        (exporter.spans.bytes, exporter.spans.missed) = (0, 0);
    }
    loop {
        let began = Instant::now();
        match exporter.send() {
            Ok(queries) if once => {
                let of = if queries == 1 { "query that has" } else { "queries that have" };
                return out.text(&format!("sent all figures and {queries} {of} ended\n"));
            }
            Ok(_) => (),
            // It may be back in a minute; queries are remembered until then.
            Err(Failure::Failed(why)) if !once => drop(aside.say(&why)),
            Err(failure) => return Err(failure),
        }
        thread::sleep(every.saturating_sub(began.elapsed()));
    }
}

struct Exporter<'a> {
    client: &'a Client,
    to: &'a Collector,
    /// For how many seconds workers note spans from now.
    noted: u64,
    once: bool,
    /// Queries that were sent.
    sent: BTreeSet<String>,
    /// Why the collector has refused something for good.
    refused: Option<Failure>,
    spans: Spans,
}

/// Spans of authors' programs: those of a query wait for its end, when it is known what is above them.
#[derive(Default)]
struct Spans {
    /// By worker, how far they are known.
    after: BTreeMap<u32, u64>,
    held: BTreeMap<String, Vec<AuthorSpan>>,
    bytes: usize,
    /// Queries with spans here that the head has not named, the last time.
    unknown: BTreeSet<String>,
    /// Spans that were forgotten before they could be sent.
    missed: u64,
    aside: Aside,
    allowance: Allowance,
}

/// How many bytes of spans may be asked for: less than none after an answer that was larger.
struct Allowance {
    bytes: f64,
    since: Instant,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { bytes: BURST, since: Instant::now() }
    }
}

impl Allowance {
    /// How long until more may be asked for.
    fn due(&mut self, now: Instant) -> Duration {
        let more = now.saturating_duration_since(self.since).as_secs_f64() * EACH_SECOND;
        (self.bytes, self.since) = ((self.bytes + more).min(BURST), now);
        Duration::from_secs_f64((-self.bytes / EACH_SECOND).max(0.0))
    }

    fn take(&mut self, bytes: usize) {
        self.bytes -= bytes as f64;
    }
}

/// Says what is wrong, though not each time.
#[derive(Default)]
struct Aside(Option<Instant>);

impl Aside {
    /// Whether it was said.
    fn say(&mut self, what: &str) -> bool {
        let says = self.0.is_none_or(|told| told.elapsed() >= SAID);
        if says {
            self.0 = Some(Instant::now());
            let _ = writeln!(std::io::stderr(), "regatta: {}", line(what));
        }
        says
    }
}

/// The numbers of queries that run, and of those that have ended and are remembered.
fn queries(client: &Client) -> Result<(Vec<String>, Vec<String>), Failure> {
    let rows = cluster(client, QUERIES, 0, 0)?.queries;
    let (running, ended): (Vec<QueryRow>, _) = rows.into_iter().partition(|row| row.state == QueryState::Running);
    let ids = |rows: Vec<QueryRow>| rows.into_iter().map(|row| row.id).collect();
    Ok((ids(running), ids(ended)))
}

impl Exporter<'_> {
    /// Sends all figures, the queries that have ended and were not sent yet, and spans of authors: says how many queries.
    ///
    /// # Errors
    /// The collector does not take it now; or not some of it and never: then all else was sent.
    fn send(&mut self) -> Result<usize, Failure> {
        // In this order: of a query that has ended all spans are there. And first, for workers note spans while they are looked at,
        // also where the collector takes nothing.
        let (running, ended) = queries(self.client)?;
        self.look_at_spans()?;
        let mut view = cluster(self.client, 0, 0, 0)?;
        view.workers = workers(self.client)?;
        let measured = Measured { cluster: view, totals: totals(self.client)? };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.post("/v1/metrics", &otlp::metrics(&measured, u64::try_from(now.as_millis()).unwrap_or(0)))?;
        let mut count = 0;
        for query in ended.iter().filter(|query| !self.sent.contains(*query)).cloned().collect::<Vec<_>>() {
            match profile(self.client, &query) {
                Ok(profile) => {
                    self.post("/v1/traces", &otlp::trace(&profile))?;
                    self.sent.insert(query.clone());
                    self.send_spans(&query, Some(&profile))?;
                }
                Err(Failure::Failed(_)) => continue, // it was forgotten meanwhile
                Err(failure) => return Err(failure),
            }
            count += 1;
        }
        // Of those that the head has forgotten nothing is asked again.
        self.sent.retain(|query| ended.contains(query));
        // What has come after its query's end waits for nothing, nor does what there is no room for. A query that is not known has just
        // begun, or is forgotten: the next time it is clear which.
        let too_much = self.spans.bytes > HELD;
        let is_new = |query: &String| !ended.contains(query) && !self.spans.unknown.contains(query);
        let waits = |query: &String| !too_much && (running.contains(query) || is_new(query));
        for query in self.spans.held.keys().filter(|query| !waits(query)).cloned().collect::<Vec<_>>() {
            let profile = ended.contains(&query).then(|| profile(self.client, &query).ok()).flatten();
            self.send_spans(&query, profile.as_ref())?;
        }
        self.spans.unknown = self.spans.held.keys().filter(|query| !running.contains(query)).cloned().collect();
        let Spans { missed, aside, .. } = &mut self.spans;
        let why = "a worker remembers the last megabyte: make fewer, or ask more often, by --every";
        if *missed > 0 && aside.say(&format!("{missed} spans of UDFs were forgotten before they were sent: {why}")) {
            *missed = 0;
        }
        self.refused.take().map_or(Ok(count), Err)
    }

    /// Sends this; or it is refused for good.
    fn post(&mut self, path: &str, body: &str) -> Result<(), Failure> {
        match self.to.post(path, body) {
            Err(why @ NotTaken::Ever(_)) => self.refused = Some(self.refused.take().unwrap_or_else(|| why.into())),
            taken => taken?,
        }
        Ok(())
    }

    /// Takes in the spans of authors that have ended on workers since the last time.
    fn look_at_spans(&mut self) -> Result<(), Failure> {
        for _ in 0..PAGES {
            let due = self.spans.allowance.due(Instant::now());
            // The rest is asked for the next time, if there is one.
            if !due.is_zero() && !self.once {
                break;
            }
            thread::sleep(due);
            let after = self.spans.after.iter().map(|(worker, number)| (*worker, *number)).collect();
            let view = match spans(self.client, after, self.noted) {
                Ok(view) => view,
                // As a head of an earlier version says.
                Err(Failure::Failed(why)) => {
                    self.spans.aside.say(&format!("spans of UDFs are not sent: {why}"));
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            };
            // It came as JSON.
            self.spans.allowance.take(serde_json::to_string(&view).map_or(0, |text| text.len()));
            // What there is no room for stays on workers, which count what they forget.
            if self.spans.bytes > HELD {
                break;
            }
            self.spans.after = view.next.into_iter().collect();
            self.spans.missed += view.missed;
            if view.spans.is_empty() {
                break;
            }
            for span in view.spans {
                self.spans.bytes += span.bytes();
                self.spans.held.entry(span.query.clone()).or_default().push(span);
            }
        }
        Ok(())
    }

    /// Sends the spans of a query that are held. A collector that does not take them is sent them again.
    fn send_spans(&mut self, query: &str, with: Option<&Profile>) -> Result<(), Failure> {
        let Some(mut left) = self.spans.held.remove(query) else { return Ok(()) };
        while !left.is_empty() {
            let mut bytes = 0;
            let fits = |span: &&AuthorSpan| {
                bytes += span.bytes();
                bytes <= BYTES_AT_ONCE
            };
            let now = left.iter().take(AT_ONCE).take_while(fits).count().max(1);
            let sent = self.post("/v1/traces", &otlp::authors(&left[..now], with));
            if let Err(failure) = sent {
                self.spans.held.insert(query.to_owned(), left);
                return Err(failure);
            }
            self.spans.bytes -= left.drain(..now).map(|span| span.bytes()).sum::<usize>();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_take_half_of_what_a_head_gives_and_what_was_too_much_is_waited_for() {
        let mut allowance = Allowance::default();
        let began = allowance.since;
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(allowance.due(at(100)), Duration::ZERO, "no more than at once is saved");
        allowance.take(3 << 20);
        assert_eq!(allowance.due(at(100)), Duration::from_secs(16));
        assert_eq!((allowance.due(at(110)), allowance.due(at(116))), (Duration::from_secs(6), Duration::ZERO));
    }
}
