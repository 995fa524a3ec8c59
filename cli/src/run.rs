//! What the commands do.

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use regatta_observe::{
    Answer, Explain, LogFilter, LogLevel, Measured, Order, Profile, QueryState, Table, TokenRole, Why, line, prometheus,
};
use serde_json::json;

use crate::asking::{PAGE, cluster, findings, logs, profile, query_view, totals, unexpected, workers};
use crate::client::Client;
use crate::command::{Command, Form, What};
use crate::out::Out;
use crate::{Failure, doctor, export, pages, top};

/// Between two looks of `--watch`.
const AGAIN: Duration = Duration::from_secs(2);
/// Queries whose findings are told if none is named.
const NEWEST: u32 = 16;
/// Queries of which a status speaks.
const SAID: u32 = 20;

impl Command {
    /// Does it, says why not on standard error, and yields what the program should end with.
    pub fn run(&self) -> ExitCode {
        match self.execute(&mut io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                // Nobody reads it any more if this fails.
                let _ = writeln!(io::stderr(), "regatta: {failure}");
                ExitCode::from(failure.exit_code())
            }
        }
    }

    /// Does it, and writes what there is to say.
    ///
    /// # Errors
    /// Why not.
    pub fn execute(&self, to: &mut dyn Write) -> Result<(), Failure> {
        run(self, to)
    }
}

fn run(command: &Command, to: &mut dyn Write) -> Result<(), Failure> {
    let (address, token) = command.at()?;
    let mut out = Out::new(to, command.json);
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
