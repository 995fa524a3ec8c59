//! Tasks that do next to nothing, from the driver to workers and back. See docs/book/src/benchmarks.md.

mod support;

#[cfg(feature = "dashboard")]
use std::io::{Read, Write};
#[cfg(feature = "dashboard")]
use std::net::TcpStream;
#[cfg(feature = "dashboard")]
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(feature = "dashboard")]
use std::thread;

use regatta::{LazyFrameExt, Session};
use support::foreign::{figure, python};
use support::local::{numbers, seconds, workers};
use support::report::{Better, Case, Report};

const TASKS: usize = 20_000;

const RATE: Case = Case { name: "no-op tasks", unit: "/s", better: Better::Higher };
const WATCHED: Case = Case { name: "no-op tasks, two pages of the dashboard open", unit: "/s", better: Better::Higher };
const FETCHED: Case = Case { name: "and their results fetched", unit: "/s", better: Better::Higher };

#[regatta::main]
fn main() {
    let mut report = Report::from_args("tasks", "Ray tasks");
    let cluster = workers();
    for _ in 0..report.repetitions() {
        report.add(&RATE, "regatta", Ok(left(&cluster)));
        report.add(&WATCHED, "regatta", watched(&cluster));
        report.add(&FETCHED, "regatta", Ok(fetched(&cluster)));
        let ray = python("ray_tasks.py", &[]);
        report.add(&RATE, "Ray tasks", figure(&ray, "tasks"));
        report.add(&FETCHED, "Ray tasks", figure(&ray, "fetched"));
    }
    report.finish();
}

/// Tasks per second: each takes its one row of a frame that is in the stage's plan, and leaves it where it is.
fn left(session: &Session) -> f64 {
    let tasks = || numbers(TASKS as i64).into_partitions(TASKS);
    TASKS as f64 / seconds(|| drop(tasks().persist_on(session).expect("it runs")))
}

fn fetched(session: &Session) -> f64 {
    let tasks = || numbers(TASKS as i64).into_partitions(TASKS);
    TASKS as f64 / seconds(|| assert_eq!(tasks().collect_on(session).expect("it runs").height(), TASKS))
}

/// The same while two browsers look, at the overview and at the workers.
#[cfg(feature = "dashboard")]
fn watched(session: &Session) -> Result<f64, String> {
    let url = session.dashboard(regatta::Dashboard::new()).map_err(|error| error.to_string())?;
    let (address, token) = url.strip_prefix("http://").and_then(|url| url.split_once("/#t=")).ok_or("no address")?;
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        for page in ["cluster?queries=40&from=0&workers=20", "cluster?queries=0&from=0&workers=100"] {
            let ends = &ends;
            scope.spawn(move || {
                let mut revision = None;
                while !ends.load(Ordering::Relaxed) {
                    revision = look(address, token, page, revision).ok();
                }
            });
        }
        let rate = left(session);
        ends.store(true, Ordering::Relaxed);
        Ok(rate)
    })
}

#[cfg(not(feature = "dashboard"))]
fn watched(_: &Session) -> Result<f64, String> {
    Err("the feature dashboard is off".to_owned())
}

/// What a page asks until something has changed since the revision that it shows; the one that it shows then.
#[cfg(feature = "dashboard")]
fn look(address: &str, token: &str, page: &str, after: Option<u64>) -> std::io::Result<u64> {
    let after = after.map(|revision| format!("&after={revision}")).unwrap_or_default();
    let mut stream = TcpStream::connect(address)?;
    let head = format!("host: {address}\r\nconnection: close\r\nauthorization: Bearer {token}\r\n");
    write!(stream, "GET /api/v1/{page}{after} HTTP/1.1\r\n{head}\r\n")?;
    let mut told = String::new();
    stream.read_to_string(&mut told)?;
    let revision = told.split("\"revision\":").nth(1).and_then(|rest| rest.split([',', '}']).next()?.parse().ok());
    revision.ok_or_else(|| std::io::Error::other(told))
}
