//! What the head is asked.

use regatta_observe::{Answer, Ask, ClusterView, LogFilter, LogsView, Profile, QueryRow, SpansView, Totals};

use crate::Failure;
use crate::client::Client;

/// Rows that are asked for at once.
pub(crate) const PAGE: u32 = 1000;
/// Queries whose findings are told if none is named.
pub(crate) const NEWEST: u32 = 16;

pub(crate) fn unexpected(answer: &Answer) -> Failure {
    let text = format!("{answer:?}");
    Failure::Failed(format!("the head has answered something else: {}", text.chars().take(80).collect::<String>()))
}

pub(crate) fn cluster(client: &Client, queries: u32, from: u32, workers: u32) -> Result<ClusterView, Failure> {
    match client.look(&Ask::Cluster { queries, from, workers })? {
        Answer::Cluster(view) => Ok(*view),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn query_view(client: &Client, query: &str) -> Result<regatta_observe::QueryView, Failure> {
    match client.look(&Ask::Query { query: query.to_owned() })? {
        Answer::Query(view) => Ok(*view),
        other => Err(unexpected(&other)),
    }
}

/// What all queries did.
pub(crate) fn totals(client: &Client) -> Result<Totals, Failure> {
    match client.look(&Ask::Totals)? {
        Answer::Totals(totals) => Ok(*totals),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn profile(client: &Client, query: &str) -> Result<Profile, Failure> {
    match client.look(&Ask::Profile { query: query.to_owned() })? {
        Answer::Profile(profile) => Ok(*profile),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn findings(client: &Client, query: &str) -> Result<(QueryRow, Vec<regatta_observe::Finding>), Failure> {
    match client.look(&Ask::Findings { query: query.to_owned() })? {
        Answer::Findings(row, findings) => Ok((*row, findings)),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn logs(
    client: &Client,
    after: Vec<(u32, u64)>,
    filter: &LogFilter,
    lines: u32,
) -> Result<LogsView, Failure> {
    match client.look(&Ask::Logs { after, filter: filter.clone(), lines })? {
        Answer::Logs(view) => Ok(*view),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn spans(client: &Client, after: Vec<(u32, u64)>, noted_s: u64) -> Result<SpansView, Failure> {
    match client.look(&Ask::Spans { after, noted_s })? {
        Answer::Spans(view) => Ok(*view),
        other => Err(unexpected(&other)),
    }
}

/// All of them, by pages.
pub(crate) fn workers(client: &Client) -> Result<Vec<regatta_observe::WorkerRow>, Failure> {
    let mut all = Vec::new();
    let mut from = 0;
    loop {
        let page = cluster(client, 0, from, PAGE)?.workers;
        let Some(last) = page.last().map(|row| row.worker) else { return Ok(all) };
        all.extend(page);
        let Some(next) = last.checked_add(1) else { return Ok(all) };
        from = next;
    }
}
