//! Sends what a cluster does to a collector, by OpenTelemetry's protocol over HTTP: figures every so often, and each query as spans
//! when it has ended.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use regatta_observe::{Measured, QueryRow, QueryState, line, otlp};

use crate::Failure;
use crate::asking::{cluster, profile, totals, workers};
use crate::client::Client;
use crate::out::Out;

/// How long a collector may take, for each step.
const STEP: Duration = Duration::from_secs(10);
/// Queries that are looked at, each time.
const QUERIES: u32 = 256;
/// What a collector says is read this far.
const ANSWER: u64 = 4 << 10;
/// How often it is said that a collector does not take what it is sent.
const SAID: Duration = Duration::from_secs(60);

/// Where a collector listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collector {
    /// `host:port`.
    address: String,
    /// What comes before `/v1/metrics`.
    path: String,
}

/// The collector at this address, as `http://127.0.0.1:4318`.
///
/// # Errors
/// It is none that this can reach.
pub(crate) fn collector(url: &str) -> Result<Collector, String> {
    let Some(rest) = url.strip_prefix("http://") else {
        let how = "write http://host:port; with TLS, have a collector beside this pass it on";
        return Err(format!("{url:?} is no address that is sent to by plain HTTP: {how}"));
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || host.contains('@') || !is_plain(rest) {
        return Err(format!("{url:?} has no host: write http://host:port"));
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { host.to_owned() } else { format!("{host}:4318") };
    let path = path.trim_end_matches('/');
    Ok(Collector { address, path: if path.is_empty() { String::new() } else { format!("/{path}") } })
}

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
    let mut told: Option<Instant> = None;
    // Those that had ended before are history, unless that is what is wanted.
    let mut sent: BTreeSet<String> = if once { BTreeSet::new() } else { ended(client)?.into_iter().collect() };
    loop {
        let began = Instant::now();
        match send(client, to, &mut sent) {
            Ok(queries) if once => {
                let of = if queries == 1 { "query that has" } else { "queries that have" };
                return out.text(&format!("sent all figures and {queries} {of} ended\n"));
            }
            Ok(_) => (),
            Err(Failure::Failed(why)) if !once => {
                // It may be back in a minute; queries are remembered until then.
                if told.is_none_or(|told| told.elapsed() >= SAID) {
                    told = Some(Instant::now());
                    let _ = writeln!(std::io::stderr(), "regatta: {}", line(&why));
                }
            }
            Err(failure) => return Err(failure),
        }
        thread::sleep(every.saturating_sub(began.elapsed()));
    }
}

/// Sends all figures, and the queries that have ended and were not sent yet: says how many.
fn send(client: &Client, to: &Collector, sent: &mut BTreeSet<String>) -> Result<usize, Failure> {
    let mut view = cluster(client, 0, 0, 0)?;
    view.workers = workers(client)?;
    let measured = Measured { cluster: view, totals: totals(client)? };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    to.post("/v1/metrics", &otlp::metrics(&measured, u64::try_from(now.as_millis()).unwrap_or(0)))?;
    let ended = ended(client)?;
    let mut count = 0;
    for query in ended.iter().filter(|query| !sent.contains(*query)).cloned().collect::<Vec<_>>() {
        match profile(client, &query) {
            Ok(profile) => to.post("/v1/traces", &otlp::trace(&profile))?,
            Err(Failure::Failed(_)) => continue, // it was forgotten meanwhile
            Err(failure) => return Err(failure),
        }
        count += 1;
        sent.insert(query);
    }
    // Of those that the head has forgotten nothing is asked again.
    sent.retain(|query| ended.contains(query));
    Ok(count)
}

/// The numbers of queries that have ended and are remembered.
fn ended(client: &Client) -> Result<Vec<String>, Failure> {
    let rows = cluster(client, QUERIES, 0, 0)?.queries.into_iter();
    Ok(rows.filter(|row: &QueryRow| row.state != QueryState::Running).map(|row| row.id).collect())
}

impl Collector {
    /// Sends it this text.
    fn post(&self, path: &str, body: &str) -> Result<(), Failure> {
        let Self { address, path: before } = self;
        let failed = |why: &dyn std::fmt::Display| {
            Failure::Failed(format!("the collector at {address} has not taken what it was sent: {why}"))
        };
        let mut resolved = address.to_socket_addrs().map_err(|error| failed(&error))?;
        let to = resolved.next().ok_or_else(|| failed(&"the host has no address"))?;
        let mut stream = TcpStream::connect_timeout(&to, STEP).map_err(|error| failed(&error))?;
        let steps = stream.set_read_timeout(Some(STEP)).and_then(|()| stream.set_write_timeout(Some(STEP)));
        steps.map_err(|error| failed(&error))?;
        let head = format!(
            "POST {before}{path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let put = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        put.map_err(|error| failed(&error))?;
        let mut answer = Vec::new();
        let read = stream.take(ANSWER).read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status =
            answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|status| status.parse().ok());
        match (status, read) {
            (Some(200..300), _) => Ok(()),
            (Some::<u16>(status), _) => {
                let why = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                Err(failed(&format_args!("status {status} {}", line(why))))
            }
            (None, Err(error)) => Err(failed(&error)),
            (None, Ok(_)) => Err(failed(&"it does not speak HTTP")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_by_its_address() {
        let named = |url: &str| collector(url).map(|Collector { address, path }| format!("{address} {path}"));
        assert_eq!(named("http://127.0.0.1:4318"), Ok("127.0.0.1:4318 ".to_owned()));
        assert_eq!(named("http://collector/otlp/"), Ok("collector:4318 /otlp".to_owned()));
        assert_eq!(named("http://[::1]:1/"), Ok("[::1]:1 ".to_owned()));
        for wrong in [
            "https://collector",
            "collector:4318",
            "http://",
            "http:///x",
            "http://a b",
            "http://user@host",
            "http://a/\r\nx: y",
        ] {
            assert!(collector(wrong).is_err(), "{wrong}");
        }
    }
}
