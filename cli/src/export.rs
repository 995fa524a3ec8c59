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
use crate::collector::Collector;
use crate::out::Out;

/// Queries that are looked at, each time.
const QUERIES: u32 = 256;
/// How often it is said that a collector does not take what it is sent, or that spans are missed.
const SAID: Duration = Duration::from_secs(60);
/// How much longer than until the next look workers note spans: for a look that is late.
const LATE: Duration = Duration::from_secs(60);
/// Bytes of spans that wait for the end of their query; more are sent before it.
const HELD: usize = 16 << 20;
/// Spans that are sent at once.
const AT_ONCE: usize = 1000;
/// Pages of spans that are asked for, each time.
const PAGES: usize = 64;

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
    let mut exporter = Exporter { client, to, noted, sent: BTreeSet::new(), spans: Spans::default() };
    let mut aside = Aside::default();
    if !once {
        // What has ended before is history.
        exporter.sent = queries(client)?.1.into_iter().collect();
        exporter.look_at_spans(&mut aside)?;
        exporter.spans.held.clear();
        (exporter.spans.bytes, exporter.spans.missed) = (0, 0);
    }
    loop {
        let began = Instant::now();
        match exporter.send(&mut aside) {
            Ok(queries) if once => {
                let of = if queries == 1 { "query that has" } else { "queries that have" };
                return out.text(&format!("sent all figures and {queries} {of} ended\n"));
            }
            Ok(_) => (),
            // It may be back in a minute; queries are remembered until then.
            Err(Failure::Failed(why)) if !once => aside.say(&why),
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
    /// Queries that were sent.
    sent: BTreeSet<String>,
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
}

/// Says what is wrong, though not each time.
#[derive(Default)]
struct Aside(Option<Instant>);

impl Aside {
    fn say(&mut self, what: &str) {
        if self.0.is_none_or(|told| told.elapsed() >= SAID) {
            self.0 = Some(Instant::now());
            let _ = writeln!(std::io::stderr(), "regatta: {}", line(what));
        }
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
    fn send(&mut self, aside: &mut Aside) -> Result<usize, Failure> {
        let mut view = cluster(self.client, 0, 0, 0)?;
        view.workers = workers(self.client)?;
        let measured = Measured { cluster: view, totals: totals(self.client)? };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.to.post("/v1/metrics", &otlp::metrics(&measured, u64::try_from(now.as_millis()).unwrap_or(0)))?;
        // In this order: of a query that has ended all spans are there.
        let (running, ended) = queries(self.client)?;
        self.look_at_spans(aside)?;
        let mut count = 0;
        for query in ended.iter().filter(|query| !self.sent.contains(*query)).cloned().collect::<Vec<_>>() {
            match profile(self.client, &query) {
                Ok(profile) => {
                    self.to.post("/v1/traces", &otlp::trace(&profile))?;
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
            self.send_spans(&query, None)?;
        }
        self.spans.unknown = self.spans.held.keys().filter(|query| !running.contains(query)).cloned().collect();
        let missed = std::mem::take(&mut self.spans.missed);
        if missed > 0 {
            aside.say(&format!(
                "{missed} spans of UDFs were forgotten before they were sent: a worker remembers the last megabyte; ask more often, by --every"
            ));
        }
        Ok(count)
    }

    /// Takes in the spans of authors that have ended on workers since the last time.
    fn look_at_spans(&mut self, aside: &mut Aside) -> Result<(), Failure> {
        for _ in 0..PAGES {
            let after = self.spans.after.iter().map(|(worker, number)| (*worker, *number)).collect();
            let view = match spans(self.client, after, self.noted) {
                Ok(view) => view,
                // As a head of an earlier version says.
                Err(Failure::Failed(why)) => {
                    aside.say(&format!("spans of UDFs are not sent: {why}"));
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            };
            self.spans.after.extend(view.next);
            self.spans.missed += view.missed;
            if view.spans.is_empty() {
                break;
            }
            for span in view.spans {
                self.spans.bytes += span.bytes();
                self.spans.held.entry(span.query.clone()).or_default().push(span);
            }
            if self.spans.bytes > HELD {
                break;
            }
        }
        Ok(())
    }

    /// Sends the spans of a query that are held. A collector that does not take them is sent them again, while there is room.
    fn send_spans(&mut self, query: &str, with: Option<&Profile>) -> Result<(), Failure> {
        let Some(mut left) = self.spans.held.remove(query) else { return Ok(()) };
        let bytes = |spans: &[AuthorSpan]| spans.iter().map(AuthorSpan::bytes).sum::<usize>();
        while !left.is_empty() {
            let now = left.len().min(AT_ONCE);
            let sent = self.to.post("/v1/traces", &otlp::authors(&left[..now], with));
            if let Err(failure) = sent {
                if self.spans.bytes > HELD {
                    self.spans.missed += left.len() as u64;
                    self.spans.bytes -= bytes(&left);
                } else {
                    self.spans.held.insert(query.to_owned(), left);
                }
                return Err(failure);
            }
            self.spans.bytes -= bytes(&left[..now]);
            left.drain(..now);
        }
        Ok(())
    }
}
