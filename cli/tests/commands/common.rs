//! A head without a cluster behind it: it shows what it was made with.

#[path = "../../src/testing.rs"]
mod testing;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use regatta_observe::window::{Answering, Head, MAILBOX, Window};
use regatta_observe::{
    Answer, Ask, AuthorSpan, ClusterView, Finding, JobLog, JobRow, JobState, LogFilter, LogLevel, LogLine, LogsView,
    Order, Profile, Progress, QueryRow, QueryState, QueryView, Refusal, Severity, SpansView, Totals,
};
use regatta_remote::{Arbiter, Authority, Node, NodeId, Role, Runtime};
pub(crate) use testing::{HOSTILE, SECOND, view};

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A head, and files with tokens for it.
pub(crate) struct Made {
    pub(crate) authority: Arc<Authority>,
    pub(crate) head: Node,
    folder: PathBuf,
    orders: Arc<Mutex<Vec<Order>>>,
    _runtime: Runtime,
    _arbiter: Arbiter,
}

struct Shows {
    view: ClusterView,
    profile: Profile,
    totals: Totals,
    orders: Arc<Mutex<Vec<Order>>>,
    /// How often for spans.
    asked: AtomicU64,
}

impl Head for Shows {
    fn look(&self, ask: Ask) -> Answering {
        let answer = self.answer(ask);
        Box::pin(async move { answer })
    }

    fn act(&self, order: Order, _: NodeId) -> Answering {
        self.orders.lock().unwrap().push(order.clone());
        let answer = match order {
            Order::Cancel { query } => self
                .row(&query)
                .map(|row| Answer::Cancelled(Box::new(QueryRow { state: QueryState::Cancelled, ..row }))),
            Order::Drain { worker: 0, .. } => Ok(Answer::Drains(0)),
            Order::Drain { .. } => Err(Refusal::NoSuch("there is no such worker".to_owned())),
            Order::Token { .. } => Ok(Answer::Token("04made".to_owned())),
            Order::Submit { arguments, .. } => {
                Ok(Answer::Job(Box::new(JobRow { job: 3, arguments, ..JobRow::default() })))
            }
            Order::Stop { job } => Ok(Answer::Job(Box::new(JobRow { job, ..JobRow::default() }))),
        };
        Box::pin(async move { answer })
    }
}

impl Shows {
    fn row(&self, digits: &str) -> Result<QueryRow, Refusal> {
        let found = self.view.queries.iter().find(|row| row.id.ends_with(digits)).cloned();
        found.ok_or_else(|| Refusal::NoSuch(format!("no query is known whose number ends with {digits:?}")))
    }

    /// One line more for each look.
    fn logs(&self, after: &[(u32, u64)], filter: &LogFilter, most: u32) -> LogsView {
        let seen = after.first().map_or(0, |(_, number)| *number);
        let wanted =
            |line: &LogLine| line.number > seen && filter.worker.is_none_or(|worker| line.worker == Some(worker));
        let lines: Vec<_> = lines().into_iter().filter(wanted).take(most as usize).collect();
        let next = lines.last().map_or(seen, |line| line.number);
        let silent = vec![(1, "no answer before the deadline".to_owned())];
        LogsView { lines, next: vec![(0, next)], missed: 7, silent }
    }

    fn answer(&self, ask: Ask) -> Result<Answer, Refusal> {
        Ok(match ask {
            Ask::Cluster { queries, from, workers } => {
                let mut view = self.view.clone();
                view.queries.truncate(queries as usize);
                view.workers.retain(|row| row.worker >= from);
                view.workers.truncate(workers as usize);
                Answer::Cluster(Box::new(view))
            }
            Ask::Query { query } => {
                let row = self.row(&query)?;
                let progress = Progress::default();
                let waits = row.waits.iter().map(|wait| (1, wait.clone())).collect();
                let mut view = QueryView { row, progress, waits };
                view.progress.state = view.row.state;
                view.progress.id = view.row.id.clone();
                Answer::Query(Box::new(view))
            }
            Ask::Profile { query } => {
                self.row(&query)?;
                Answer::Profile(Box::new(self.profile.clone()))
            }
            Ask::Totals => Answer::Totals(Box::new(self.totals.clone())),
            Ask::Jobs => Answer::Jobs(jobs()),
            Ask::JobLog { job, after, lines } => {
                let row = jobs().into_iter().find(|row| row.job == job);
                let row = row.ok_or_else(|| Refusal::NoSuch(format!("no job {job} is known")))?;
                let all = ["one", HOSTILE, "three"].map(str::to_owned);
                let after = after.min(all.len() as u64);
                // One line at a time, though more were asked for.
                let lines: Vec<_> = all.into_iter().skip(after as usize).take(1.min(lines as usize)).collect();
                let next = after + lines.len() as u64;
                Answer::JobLog(Box::new(JobLog { row, lines, next, missed: 0 }))
            }
            Ask::Logs { after, filter, lines } => Answer::Logs(Box::new(self.logs(&after, &filter, lines))),
            Ask::Spans { .. } => Answer::Spans(Box::new(spans(self.asked.fetch_add(1, Ordering::Relaxed)))),
            Ask::Findings { query } => {
                let row = self.row(&query)?;
                let findings = if row.state == QueryState::Running { vec![finding()] } else { Vec::new() };
                Answer::Findings(Box::new(row), findings)
            }
        })
    }
}

/// Two spans of an author's, of the query that has failed: the first, then nothing, the other, and nothing more.
fn spans(asked: u64) -> SpansView {
    let next = (asked / 2 + 1).min(2);
    let span = AuthorSpan {
        number: next,
        id: 6 + next,
        name: HOSTILE.to_owned(),
        query: format!("{:016x}", 0xabc_0000_0006_u64),
        ..AuthorSpan::default()
    };
    let is_new = asked == 0 || asked == 2;
    let (spans, missed) = if is_new { (vec![span], 3) } else { (Vec::new(), 0) };
    SpansView { spans, next: vec![(0, next)], missed, silent: Vec::new() }
}

fn jobs() -> Vec<JobRow> {
    let row = |job, state, how: Option<&str>, arguments: &[&str]| JobRow {
        job,
        arguments: arguments.iter().map(|of| (*of).to_owned()).collect(),
        state,
        how: how.map(str::to_owned),
        began_ms: 1_700_000_000_000,
        time: u64::from(job) * 62 * SECOND,
    };
    vec![
        row(3, JobState::Done, None, &["nightly", HOSTILE]),
        row(2, JobState::Failed, Some("exit status: 3"), &[]),
        row(1, JobState::Running, None, &["nightly", "--date", "2026-11-30"]),
    ]
}

fn lines() -> Vec<LogLine> {
    let line = |number: u64, worker: u32, text: &str| LogLine {
        number,
        at_ms: 1_700_000_003_204 + number,
        level: if number.is_multiple_of(2) { LogLevel::Warn } else { LogLevel::Info },
        target: "regatta::output".to_owned(),
        worker: Some(worker),
        query: Some("00000abc00000007".to_owned()),
        stage: Some(1),
        udf: Some(("demo::Embed".to_owned(), 1)),
        text: text.to_owned(),
        ..LogLine::default()
    };
    vec![line(1, 0, "weights 61 %"), line(2, 0, HOSTILE), line(3, 2, "weights 62 %")]
}

fn finding() -> Finding {
    Finding {
        id: "pool-bound".to_owned(),
        severity: Severity::Warning,
        stage: Some(1),
        says: "tasks waited 1923 s for demo::Embed, whose replicas were 97 % busy".to_owned(),
        advice: "try .replicas(1..=8)".to_owned(),
    }
}

impl Made {
    pub(crate) fn new(view: ClusterView, profile: Profile) -> Self {
        Self::with(view, profile, Totals::default())
    }

    pub(crate) fn with(view: ClusterView, profile: Profile, totals: Totals) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let authority = Arc::new(Authority::kept(folder.join("authority")).unwrap());
        let runtime = Runtime::new("made", 2).unwrap();
        let identity = authority.issue(Role::Head).unwrap();
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let head = Node::bind(identity, here, &runtime.with_build(&b"a program of somebody"[..])).unwrap();
        let (arbiter, orders) = (runtime.arbiter().unwrap(), Arc::default());
        let shows = Arc::new(Shows { view, profile, totals, orders: Arc::clone(&orders), asked: AtomicU64::new(0) });
        let own = runtime.clone();
        Window::publish(&head, &arbiter.spawn(MAILBOX, move |_| Window::new(shows, own)));
        head.serve_joins(Arc::clone(&authority)).unwrap();
        Self { authority, head, folder, orders, _runtime: runtime, _arbiter: arbiter }
    }

    pub(crate) fn token(&self, role: Role) -> String {
        self.authority.token_for(u32::MAX, role, Duration::from_secs(600)).unwrap().to_string()
    }

    /// Tokens of this cluster, as it names its key; but the head has not made them.
    pub(crate) fn forged(&self, role: Role) -> String {
        let same = Authority::kept(self.folder.join("authority")).unwrap();
        same.token(role, Duration::from_secs(600)).unwrap().to_string()
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    pub(crate) fn address(&self) -> String {
        self.head.address().unwrap().to_string()
    }

    /// What the binary does with this token.
    pub(crate) fn regatta(&self, token: &str, arguments: &[&str]) -> Output {
        regatta(&[("REGATTA_ADDRESS", &self.address()), ("REGATTA_TOKEN", token)], arguments)
    }

    /// The binary, while it runs.
    pub(crate) fn start(&self, token: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_regatta"));
        command.args(arguments).env("REGATTA_ADDRESS", self.address()).env("REGATTA_TOKEN", token);
        Running(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    pub(crate) fn orders(&self) -> Vec<Order> {
        self.orders.lock().unwrap().clone()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What the binary does, with these variables and no others of ours.
pub(crate) fn regatta(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regatta"));
    command.env_remove("REGATTA_ADDRESS").env_remove("REGATTA_TOKEN").envs(variables.iter().copied());
    command.args(arguments).output().unwrap()
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn complained(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The profile of a query that has run.
pub(crate) fn profile() -> Profile {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../observe/golden/pipeline.json");
    Profile::from_json(&std::fs::read_to_string(file).unwrap()).unwrap()
}
