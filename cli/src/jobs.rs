//! Programs that a head runs for operators.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::Duration;

use regatta_observe::{Answer, Ask, JobLog, JobRow, JobState, Order, Table, line};
use regatta_remote::fingerprint;
use serde_json::json;

use crate::Failure;
use crate::asking::{PAGE, unexpected};
use crate::client::Client;
use crate::command::OfJob;
use crate::out::Out;

/// Between two looks at what a job prints.
const AGAIN: Duration = Duration::from_millis(500);
/// Bytes of lines that are asked for in a second: half of what the head gives to one who looks.
const EACH_SECOND: u64 = 128 << 10;

/// Has the head run its program with these arguments, and follows it unless it is detached.
pub(crate) fn submit(
    client: &Client,
    program: &Path,
    arguments: &[String],
    detach: bool,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let unread = |error| Failure::Failed(format!("the program {} cannot be read: {error}", program.display()));
    let build = File::open(program).and_then(|program| fingerprint(&program)).map_err(unread)?;
    let row = job(client.act(&Order::Submit { arguments: arguments.to_vec(), build })?)?;
    if detach || !out.json {
        out.say(&row)?;
    }
    if detach { Ok(()) } else { follow(client, row.job, out) }
}

/// All of them, or what is wanted of one.
pub(crate) fn run(client: &Client, what: Option<&OfJob>, out: &mut Out<'_>) -> Result<(), Failure> {
    match what {
        None => match client.look(&Ask::Jobs)? {
            Answer::Jobs(rows) => out.rows(&rows, Table::jobs(&rows), "no jobs are known"),
            other => Err(unexpected(&other)),
        },
        Some(OfJob::Log { job, follow: true }) => follow(client, *job, out),
        Some(OfJob::Log { job, follow: false }) => {
            // What there is now: of one that prints much there would always be more.
            let (mut after, end) = (0, log(client, *job, u64::MAX)?.next);
            while after < end && !out.is_closed {
                let page = log(client, *job, after)?;
                if page.lines.is_empty() {
                    return Ok(());
                }
                after = page.next;
                print(&page, out)?;
            }
            Ok(())
        }
        Some(OfJob::Stop { job: number }) => {
            let row = job(client.act(&Order::Stop { job: *number })?)?;
            if out.json {
                return out.say(&row);
            }
            out.text(&format!("job {number} is told to end: `regatta jobs` says when it has\n"))
        }
    }
}

/// Prints what a job prints until it has ended; a job that has not ended well is a failure.
fn follow(client: &Client, number: u32, out: &mut Out<'_>) -> Result<(), Failure> {
    let mut after = 0;
    loop {
        let page = log(client, number, after)?;
        after = page.next;
        print(&page, out)?;
        if out.is_closed {
            return Ok(());
        }
        if !page.lines.is_empty() {
            // What it prints faster than this is forgotten before it can be shown, and that is said.
            thread::sleep(pause(page.lines.iter().map(|line| line.len() as u64).sum()));
            continue;
        }
        match page.row.state {
            JobState::Running => thread::sleep(AGAIN),
            JobState::Done => return out.say(&page.row),
            JobState::Failed | JobState::Stopped => return Err(Failure::Failed(page.row.to_string())),
        }
    }
}

/// After so many bytes no more are asked for.
fn pause(bytes: u64) -> Duration {
    Duration::from_millis(bytes * 1000 / EACH_SECOND)
}

fn log(client: &Client, job: u32, after: u64) -> Result<JobLog, Failure> {
    match client.look(&Ask::JobLog { job, after, lines: PAGE })? {
        Answer::JobLog(log) => Ok(*log),
        other => Err(unexpected(&other)),
    }
}

fn print(page: &JobLog, out: &mut Out<'_>) -> Result<(), Failure> {
    let mut text = String::new();
    if page.missed > 0 && !out.json {
        text.push_str(&format!("({} lines were forgotten before they could be shown)\n", page.missed));
    }
    for of in &page.lines {
        text.push_str(&if out.json { json!({ "job": page.row.job, "line": of }).to_string() } else { line(of) });
        text.push('\n');
    }
    out.text(&text)
}

fn job(answer: Answer) -> Result<JobRow, Failure> {
    match answer {
        Answer::Job(row) => Ok(*row),
        other => Err(unexpected(&other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_follows_asks_for_no_more_than_the_head_gives() {
        assert_eq!((pause(0), pause(EACH_SECOND)), (Duration::ZERO, Duration::from_secs(1)));
        assert!(pause(11 * u64::from(PAGE)) < AGAIN, "short lines come at once");
    }
}
