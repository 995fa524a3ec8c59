//! What the commands do.

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use regatta_observe::{
    Answer, LogFilter, LogLevel, Measured, Order, QueryState, Table, TokenRole, Why, line, prometheus,
};
use serde_json::json;

use crate::asking::{NEWEST, PAGE, cluster, findings, logs, profile, query_view, totals, unexpected, workers};
use crate::client::Client;
use crate::command::{Command, What};
use crate::out::Out;
use crate::{Failure, doctor, export, history, jobs, pages, top};

/// Between two looks of `--watch`.
const AGAIN: Duration = Duration::from_secs(2);
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
    let mut out = Out::new(to, command.json);
    if let Some(folder) = &command.history {
        return history::run(folder, &command.what, &mut out);
    }
    let (address, token) = command.at()?;
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
            out.profile(&profile(&client, query)?, (*format, *full, *explain), output.as_deref())
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
        What::Submit { detach, program, arguments } => jobs::submit(&client, program, arguments, *detach, &mut out),
        What::Jobs { what } => jobs::run(&client, what.as_ref(), &mut out),
        What::Logs { follow, worker, query, task, udf, level, lines } => {
            let level = level.map(LogLevel::from);
            let filter = LogFilter { worker: *worker, query: query.clone(), task: *task, udf: udf.clone(), level };
            let mut after = Vec::new();
            loop {
                let is_first = after.is_empty();
                let view = logs(&client, after, &filter, *lines)?;
                if is_first && view.lines.is_empty() {
                    are_there(&client, &filter)?;
                }
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

/// Whether the worker and the query are there whose lines are wanted.
fn are_there(client: &Client, of: &LogFilter) -> Result<(), Failure> {
    if let Some(worker) = of.worker {
        let there: Vec<_> = workers(client)?.iter().map(|row| row.worker.to_string()).collect();
        if !there.contains(&worker.to_string()) {
            let there =
                if there.is_empty() { "there is none".into() } else { format!("there are {}", there.join(", ")) };
            return Err(Failure::Failed(format!("worker {worker} is not there; {there}")));
        }
    }
    of.query.iter().try_for_each(|query| query_view(client, query).map(drop))
}
