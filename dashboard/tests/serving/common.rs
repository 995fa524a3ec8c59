//! A cluster that never was, and a client that says what it wants to.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use regatta_dashboard::{Bound, Dashboard, Source, Token};
use regatta_observe::{
    Answer, Answering, Ask, ClusterView, Finding, Fleet, LogLevel, LogLine, LogsView, Order, PoolRow, Profile,
    QueryRow, QueryState, QueryView, Refusal, Severity, WorkerRow,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const SECOND: u64 = 1_000_000_000;
/// What others may call something, to become mark-up.
pub(crate) const HOSTILE: &str =
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u{202e}";

/// What it shows, and what it was asked.
pub(crate) struct Made {
    pub(crate) view: Mutex<ClusterView>,
    pub(crate) profile: Mutex<Profile>,
    pub(crate) asked: AtomicU32,
    pub(crate) orders: Mutex<Vec<Order>>,
    pub(crate) may_act: bool,
}

impl Source for Made {
    fn name(&self) -> String {
        "the cluster at head:7700".to_owned()
    }

    fn look(&self, ask: Ask) -> Answering {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer(ask);
        Box::pin(async move { answer })
    }

    fn may_act(&self) -> bool {
        self.may_act
    }

    fn act(&self, order: Order) -> Answering {
        let answer = match &order {
            Order::Cancel { query } => self.row(query).map(|row| Answer::Cancelled(Box::new(row))),
            _ => Err(Refusal::Failed("nobody asks for that".to_owned())),
        };
        self.orders.lock().unwrap().push(order);
        Box::pin(async move { answer })
    }
}

impl Made {
    pub(crate) fn new(may_act: bool) -> Arc<Self> {
        let (view, profile) = (Mutex::new(view()), Mutex::new(pipeline()));
        Arc::new(Self { view, profile, asked: AtomicU32::new(0), orders: Mutex::default(), may_act })
    }

    fn row(&self, digits: &str) -> Result<QueryRow, Refusal> {
        let found = self.view.lock().unwrap().queries.iter().find(|row| row.id.ends_with(digits)).cloned();
        found.ok_or_else(|| Refusal::NoSuch(format!("no query is known whose number ends with {digits:?}")))
    }

    fn answer(&self, ask: Ask) -> Result<Answer, Refusal> {
        Ok(match ask {
            Ask::Cluster { queries, from, workers } => {
                let mut view = self.view.lock().unwrap().clone();
                view.queries.truncate(queries as usize);
                view.workers.retain(|row| row.worker >= from);
                view.workers.truncate(workers as usize);
                Answer::Cluster(Box::new(view))
            }
            Ask::Query { query } => {
                let row = self.row(&query)?;
                let waits = row.waits.iter().map(|wait| (1, wait.clone())).collect();
                Answer::Query(Box::new(QueryView { row, waits, ..QueryView::default() }))
            }
            Ask::Profile { query } => {
                self.row(&query)?;
                Answer::Profile(Box::new(self.profile.lock().unwrap().clone()))
            }
            Ask::Findings { query } => Answer::Findings(Box::new(self.row(&query)?), vec![finding()]),
            Ask::Totals => Answer::Totals(Box::default()),
            Ask::Jobs | Ask::JobLog { .. } => return Err(Refusal::Failed("nobody asks for that".to_owned())),
            Ask::Spans { .. } => Answer::Spans(Box::default()),
            Ask::Logs { after, .. } => {
                let seen = after.first().map_or(0, |(_, line)| *line);
                let lines = lines().into_iter().filter(|line| line.number > seen).collect();
                Answer::Logs(Box::new(LogsView { lines, next: vec![(0, 2)], ..LogsView::default() }))
            }
        })
    }
}

fn finding() -> Finding {
    Finding {
        id: "pool-bound".to_owned(),
        severity: Severity::Warning,
        stage: Some(1),
        says: HOSTILE.to_owned(),
        advice: "try .replicas(1..=8)".to_owned(),
    }
}

fn lines() -> Vec<LogLine> {
    let line = |number, text: &str| LogLine {
        number,
        at_ms: 1_700_000_003_204 + number,
        level: LogLevel::Warn,
        target: "regatta::output".to_owned(),
        worker: Some(0),
        query: Some("00000abc00000007".to_owned()),
        udf: Some((HOSTILE.to_owned(), 1)),
        text: text.to_owned(),
        ..LogLine::default()
    };
    vec![line(1, "weights 61 %"), line(2, HOSTILE)]
}

/// A profile of a query that has run.
pub(crate) fn pipeline() -> Profile {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../observe/golden/pipeline.json");
    Profile::from_json(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// A cluster of three workers and as many queries.
pub(crate) fn view() -> ClusterView {
    let query = |id: u64, name: Option<&str>, state| QueryRow {
        id: format!("{id:016x}"),
        name: name.map(str::to_owned),
        state,
        submitted_ms: 1_700_000_000_000,
        time: 42 * SECOND,
        stages: (1, 4),
        doing: "scan lineitem.parquet, Embed".to_owned(),
        tasks: (311, Some(512)),
        running: 8,
        rows: 3_638_700,
        rate: Some(86_000.0),
        ..QueryRow::default()
    };
    let mut nightly = query(0xabc_0000_0007, Some(HOSTILE), QueryState::Running);
    nightly.waits = vec![format!("12 batches wait for room at a replica of UDF {HOSTILE}, on worker 2, for 3.10 s")];
    let failed = QueryRow { error: Some(HOSTILE.to_owned()), ..query(0xabc_0000_0006, None, QueryState::Failed) };
    let workers = (0..3).map(worker).collect();
    let pool =
        PoolRow { udf: HOSTILE.to_owned(), ready: 4, starting: vec![Some(HOSTILE.to_owned())], ..PoolRow::default() };
    ClusterView {
        build: "regatta 0.1.0".to_owned(),
        up: 7865 * SECOND,
        fleet: Fleet { workers: 3, silent: 1, cpus: (12.0, 10.5), busy: Some(7.5), tasks: (12, 6), ..Fleet::default() },
        backlog: 14.0,
        known: (1, 1),
        queries: vec![nightly, failed],
        workers,
        pools: vec![pool],
        ..ClusterView::default()
    }
}

pub(crate) fn worker(worker: u32) -> WorkerRow {
    WorkerRow {
        worker,
        cpus: (4.0, 3.5),
        busy: Some(1.25),
        memory: (8 << 30, 3 << 30),
        used: 2 << 30,
        peak: 5 << 30,
        tasks: (4, 2),
        silent: (worker == 2).then_some(4 * SECOND),
        address: Some(format!("10.0.0.{worker}:7001")),
        ..WorkerRow::default()
    }
}

/// A dashboard that serves, until it is dropped.
pub(crate) struct Serving {
    pub(crate) made: Arc<Made>,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) token: String,
    pub(crate) url: String,
    _ends: tokio::task::JoinSet<()>,
}

impl Serving {
    pub(crate) async fn new(made: Arc<Made>, dashboard: Dashboard) -> Self {
        let any = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
        let source: Arc<dyn Source> = Arc::<Made>::clone(&made);
        let bound: Bound = dashboard.at(any).with_token(Token::random().unwrap()).bind(source).await.unwrap();
        let (address, token, url) = (bound.address(), bound.token().to_string(), bound.url());
        let mut ends = tokio::task::JoinSet::new();
        ends.spawn(bound.run());
        Self { made, address, token, url, _ends: ends }
    }

    /// What a viewer with the token is told.
    pub(crate) async fn get(&self, path: &str) -> Told {
        let token = format!("authorization: Bearer {}\r\n", self.token);
        self.say(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{token}\r\n")).await
    }

    /// The same as JSON.
    pub(crate) async fn json(&self, path: &str) -> Value {
        let told = self.get(path).await;
        assert_eq!(told.status, 200, "{path}: {}", told.body);
        serde_json::from_str(&told.body).unwrap()
    }

    /// What whoever says this is told.
    pub(crate) async fn say(&self, request: &str) -> Told {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut text)).await;
        read.expect("an answer in time").unwrap();
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Told { status, head: head.to_owned(), body: body.to_owned() }
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}
