//! What the commands do.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use regatta_observe::{
    Answer, Ask, ClusterView, Explain, LogFilter, LogLevel, LogsView, Measured, Order, Profile, QueryRow, QueryState,
    Table, TokenRole, Totals, Why, line, prometheus,
};
use serde_json::{Value, json};

use crate::client::Client;
use crate::command::{Command, Form, What};
use crate::{Failure, doctor, export, pages, top};

/// Between two looks of `--watch`.
const AGAIN: Duration = Duration::from_secs(2);
/// Queries whose findings are told if none is named.
const NEWEST: u32 = 16;
/// Queries of which a status speaks.
const SAID: u32 = 20;
/// Rows that are asked for at once.
const PAGE: u32 = 1000;

pub(crate) fn run(command: &Command, to: &mut dyn Write) -> Result<(), Failure> {
    let (address, token) = command.at()?;
    let mut out = Out { to, json: command.json, is_closed: false };
    if matches!(command.what, What::Doctor) {
        return doctor::run(&address, &token, &mut out);
    }
    let client = Client::connect(&address, &token)?;
    match &command.what {
        What::Status { query, watch } => loop {
            match query {
                Some(query) => out.say(&query_view(&client, query)?)?,
                None if out.json => out.say(&cluster(&client, PAGE, 0, PAGE)?)?,
                None => out.say(&cluster(&client, SAID, 0, 0)?)?,
            }
            if !watch || out.is_closed {
                return Ok(());
            }
            out.next()?;
            thread::sleep(AGAIN);
        },
        What::Queries { all } => {
            let mut rows = cluster(&client, PAGE, 0, 0)?.queries;
            rows.retain(|row| *all || row.state == QueryState::Running);
            out.rows(&rows, Table::queries(&rows), if *all { "no queries are known" } else { "no queries run" })
        }
        What::Query { query, format, full, explain, output } => {
            let profile = profile(&client, query)?;
            let text = form(&profile, *format, *full, *explain, out.json);
            match output {
                None => out.text(&text),
                Some(file) => {
                    let failed = |error| Failure::Failed(format!("cannot write {}: {error}", file.display()));
                    fs::write(file, text).map_err(failed)
                }
            }
        }
        What::Workers => {
            let rows = workers(&client)?;
            out.rows(&rows, Table::workers(&rows), "no worker has joined")
        }
        What::Pools => {
            let rows = cluster(&client, 0, 0, 0)?.pools;
            out.rows(&rows, Table::pools(&rows), "no UDF has replicas")
        }
        What::Findings { query: Some(query) } => {
            let (row, findings) = findings(&client, query)?;
            out.findings(vec![(row, findings)])
        }
        What::Findings { query: None } => {
            let rows = cluster(&client, NEWEST, 0, 0)?.queries;
            let mut all = Vec::new();
            for row in rows {
                match findings(&client, &row.id) {
                    Ok(found) => all.push(found),
                    Err(Failure::Failed(_)) => (), // it was forgotten meanwhile
                    Err(failure) => return Err(failure),
                }
            }
            out.findings(all)
        }
        What::Cancel { query } => match client.act(&Order::Cancel { query: query.clone() })? {
            Answer::Cancelled(row) => out.say(&*row),
            other => Err(unexpected(&other)),
        },
        What::Drain { worker, within } => {
            match client.act(&Order::Drain { worker: *worker, seconds: within.as_secs() })? {
                Answer::Drains(worker) if out.json => out.text(&format!("{}\n", json!({ "drains": worker }))),
                Answer::Drains(worker) => out.text(&format!(
                    "worker {worker} leaves, within {} s at most: `regatta workers` says when it is gone\n",
                    within.as_secs()
                )),
                other => Err(unexpected(&other)),
            }
        }
        What::Token { role, uses, time } => {
            let role = TokenRole::from(*role);
            let uses = uses.unwrap_or(if role == TokenRole::Observer { u32::MAX } else { 1 });
            match client.act(&Order::Token { role, uses, seconds: time.as_secs() })? {
                Answer::Token(token) if out.json => out.text(&format!("{}\n", json!({ "token": token }))),
                Answer::Token(token) => out.text(&format!("{}\n", line(&token))),
                other => Err(unexpected(&other)),
            }
        }
        What::Logs { follow, worker, query, task, udf, level, lines } => {
            let level = level.map(LogLevel::from);
            let filter = LogFilter { worker: *worker, query: query.clone(), task: *task, udf: udf.clone(), level };
            let mut after = Vec::new();
            loop {
                let view = logs(&client, after, &filter, *lines)?;
                out.logs(&view)?;
                after = view.next;
                if !follow || out.is_closed {
                    return Ok(());
                }
                thread::sleep(AGAIN / 2);
            }
        }
        What::Why { query } => {
            let view = query_view(&client, query)?;
            let findings = match view.row.state {
                QueryState::Running => Vec::new(),
                _ => findings(&client, query)?.1,
            };
            let why = Why { cluster: cluster(&client, 0, 0, 0)?, query: view, findings };
            out.say(&why)
        }
        What::Export { to, every, once } => export::run(&client, to, *every, *once, &mut out),
        What::Metrics => {
            let mut cluster = cluster(&client, 0, 0, 0)?;
            cluster.workers = workers(&client)?;
            let measured = Measured { cluster, totals: totals(&client)? };
            if out.json {
                out.json(&serde_json::to_value(&measured).unwrap_or_default())
            } else {
                out.text(&prometheus(&measured))
            }
        }
        What::Dashboard { listen, host, control } => pages::run(&client, &address, *listen, host, *control, &mut out),
        What::Doctor => Ok(()), // it has run
        What::Top => top::run(&client, &address),
    }
}

/// Where it is written.
pub(crate) struct Out<'a> {
    to: &'a mut dyn Write,
    pub(crate) json: bool,
    /// Nobody reads it any more.
    is_closed: bool,
}

impl Out<'_> {
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        match self.to.write_all(text.as_bytes()).and_then(|()| self.to.flush()) {
            // As when it is piped into `head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            written => Ok(written?),
        }
    }

    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.text(&format!("{value}\n"))
    }

    fn say(&mut self, what: &(impl Display + serde::Serialize)) -> Result<(), Failure> {
        if self.json {
            let value = serde_json::to_value(what).unwrap_or_default();
            return self.json(&value);
        }
        let text = what.to_string();
        self.text(&format!("{}\n", text.trim_end_matches('\n')))
    }

    fn next(&mut self) -> Result<(), Failure> {
        if self.json { Ok(()) } else { self.text("\n") }
    }

    fn rows(&mut self, rows: &(impl serde::Serialize + ?Sized), table: Table, none: &str) -> Result<(), Failure> {
        if self.json {
            return self.json(&serde_json::to_value(rows).unwrap_or_default());
        }
        if table.is_empty() { self.text(&format!("{none}\n")) } else { self.text(&table.to_string()) }
    }

    /// A line or a JSON value each.
    fn logs(&mut self, view: &LogsView) -> Result<(), Failure> {
        let mut text = String::new();
        for line in &view.lines {
            let json = || serde_json::to_string(line).unwrap_or_default();
            text.push_str(&if self.json { json() } else { line.to_string() });
            text.push('\n');
        }
        if !self.json && view.missed > 0 {
            text.push_str(&format!("({} lines were forgotten before they could be shown)\n", view.missed));
        }
        for (worker, why) in view.silent.iter().filter(|_| !self.json) {
            text.push_str(&format!("(worker {worker} does not say: {})\n", line(why)));
        }
        self.text(&text)
    }

    fn findings(&mut self, all: Vec<(QueryRow, Vec<regatta_observe::Finding>)>) -> Result<(), Failure> {
        if self.json {
            let all = all.iter().map(|(row, findings)| json!({ "query": row, "findings": findings }));
            return self.json(&all.collect());
        }
        let mut text = String::new();
        for (row, findings) in all.iter().filter(|(_, findings)| !findings.is_empty()) {
            text.push_str(&format!("{row}\n"));
            for finding in findings {
                text.push_str(&format!("  {finding}\n"));
            }
        }
        match (text.is_empty(), &all[..]) {
            (false, _) => self.text(&text),
            (true, [(row, _)]) => self.text(&format!("{row}\nnothing was found to be wrong with it\n")),
            (true, all) => self.text(&format!("nothing was found to be wrong with the newest {} queries\n", all.len())),
        }
    }
}

fn unexpected(answer: &Answer) -> Failure {
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

fn findings(client: &Client, query: &str) -> Result<(QueryRow, Vec<regatta_observe::Finding>), Failure> {
    match client.look(&Ask::Findings { query: query.to_owned() })? {
        Answer::Findings(row, findings) => Ok((*row, findings)),
        other => Err(unexpected(&other)),
    }
}

fn logs(client: &Client, after: Vec<(u32, u64)>, filter: &LogFilter, lines: u32) -> Result<LogsView, Failure> {
    match client.look(&Ask::Logs { after, filter: filter.clone(), lines })? {
        Answer::Logs(view) => Ok(*view),
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

/// The text of a profile, or of how the query is run.
fn form(profile: &Profile, format: Form, full: bool, explain: bool, json: bool) -> String {
    let plan: &Explain = &profile.plan;
    let format = if json && format == Form::Text { Form::Json } else { format };
    let text = match (format, explain) {
        (Form::Text, false) if full => format!("{profile:#}"),
        (Form::Text, false) => profile.to_string(),
        (Form::Json, false) => profile.to_json(),
        (Form::Mermaid, false) => profile.to_mermaid(),
        (Form::Dot, false) => profile.to_dot(),
        (Form::Svg, false) => profile.to_svg(),
        (Form::Html, _) => profile.to_html(),
        (Form::Text, true) => plan.to_string(),
        (Form::Json, true) => plan.to_json(),
        (Form::Mermaid, true) => plan.to_mermaid(),
        (Form::Dot, true) => plan.to_dot(),
        (Form::Svg, true) => plan.to_svg(),
    };
    format!("{}\n", text.trim_end_matches('\n'))
}
