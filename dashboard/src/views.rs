//! What viewers look at, asked of the source once for all of them and only while somebody looks, and handed out as what has changed.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use regatta_observe::{Answer, Ask, ClusterView, Measured, Refusal, prometheus};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::Source;
use crate::asking::{pause, unexpected};
use crate::delta::delta;
use crate::profiles::Profiles;
use crate::summary::summary;

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Look {
    /// The cluster: so many queries, and so many workers from a number on.
    Cluster { queries: u32, from: u32, workers: u32 },
    /// Where a query stands.
    Query(String),
    /// What a query did, without its single tasks.
    Summary(String),
    /// What is wrong with the newest queries.
    Findings,
}

/// All that is looked at.
pub(crate) struct Views {
    source: Arc<dyn Source>,
    profiles: Arc<Profiles>,
    views: std::sync::Mutex<HashMap<Look, Arc<View>>>,
    looks: AtomicU64,
    /// All figures as Prometheus reads them, and until when they are new enough.
    metrics: Mutex<Option<(Instant, Arc<str>)>>,
}

struct View {
    /// When it was looked at last, counted in looks.
    looked: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// The source is asked again from here on.
    due: Instant,
    failed: Option<Refusal>,
    /// The newest ones as JSON, by revision, the oldest first.
    kept: VecDeque<(u64, Arc<str>)>,
    /// The newest one.
    newest: Value,
    /// What was told last: to who knows this revision, and what.
    told: Option<(Option<u64>, Arc<str>)>,
}

/// A source is asked no more often than this about one thing.
const TICK: Duration = Duration::from_secs(1);
/// A viewer that knows what there is waits so long for something else.
const WAIT: Duration = Duration::from_secs(10);
/// Things that are looked at, at once.
const VIEWS: usize = 32;
/// Revisions of one that are remembered, and their bytes.
const KEPT: usize = 6;
const KEPT_BYTES: usize = 1 << 20;
/// Workers that are asked for at once.
const PAGE: u32 = 1000;
/// Queries whose findings are told at once.
const FOUND: u32 = 16;
/// The most bytes of one.
const MOST: usize = 4 << 20;

impl Views {
    pub(crate) fn new(source: Arc<dyn Source>, profiles: Arc<Profiles>) -> Self {
        Self {
            source,
            profiles,
            views: std::sync::Mutex::default(),
            looks: AtomicU64::new(0),
            metrics: Mutex::default(),
        }
    }

    /// What somebody is told who knows this revision: `{"revision", "from", "change"}`. Whoever knows the newest one waits a while for
    /// another. `from` is what the [change](delta) is to be made to, or null if it is the whole.
    pub(crate) async fn look(&self, look: &Look, knows: Option<u64>) -> Result<Arc<str>, Refusal> {
        let (view, until) = (self.view(look), Instant::now() + WAIT);
        loop {
            let due = {
                // Others wait here while one asks, and then find the answer.
                let mut state = view.state.lock().await;
                if Instant::now() >= state.due {
                    let began = Instant::now();
                    let answer = self.ask(look).await;
                    state.take(answer);
                    state.due = Instant::now() + pause(began.elapsed(), TICK);
                }
                if let Some(refusal) = &state.failed {
                    return Err(refusal.clone());
                }
                if knows != state.revision() {
                    return state.tell(knows);
                }
                state.due
            };
            sleep_until(due.min(until)).await;
            if Instant::now() >= until {
                return Ok(json!({ "revision": knows, "from": knows, "change": {} }).to_string().into());
            }
        }
    }

    /// All figures of the cluster as Prometheus reads them.
    pub(crate) async fn metrics(&self) -> Result<Arc<str>, Refusal> {
        let mut metrics = self.metrics.lock().await;
        if let Some((_, text)) = metrics.as_ref().filter(|(due, _)| Instant::now() < *due) {
            return Ok(Arc::clone(text));
        }
        let began = Instant::now();
        let Answer::Totals(totals) = self.source.look(Ask::Totals).await? else { return Err(unexpected()) };
        let mut cluster = self.workers(0).await?;
        while let Some(next) = cluster.workers.last().and_then(|last| last.worker.checked_add(1)) {
            let more = self.workers(next).await?.workers;
            if more.is_empty() {
                break;
            }
            cluster.workers.extend(more);
        }
        let text: Arc<str> = prometheus(&Measured { cluster, totals: *totals }).into();
        *metrics = Some((Instant::now() + pause(began.elapsed(), TICK), Arc::clone(&text)));
        Ok(text)
    }

    pub(crate) fn count(&self) -> usize {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn view(&self, look: &Look) -> Arc<View> {
        let now = self.looks.fetch_add(1, Ordering::Relaxed);
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let view = Arc::clone(views.entry(look.clone()).or_insert_with(|| Arc::new(View::new())));
        view.looked.store(now, Ordering::Relaxed);
        if views.len() > VIEWS {
            let oldest = views.iter().min_by_key(|(_, view)| view.looked.load(Ordering::Relaxed));
            let oldest = oldest.map(|(look, _)| look.clone());
            oldest.map(|look| views.remove(&look));
        }
        view
    }

    async fn ask(&self, look: &Look) -> Result<Value, Refusal> {
        let ask = match look {
            Look::Cluster { queries, from, workers } => {
                Ask::Cluster { queries: *queries, from: *from, workers: *workers }
            }
            Look::Query(query) => Ask::Query { query: query.clone() },
            Look::Summary(query) => return Ok(summary(&*self.profiles.profile(query).await?)),
            Look::Findings => return self.findings().await,
        };
        let value = match self.source.look(ask).await? {
            Answer::Cluster(view) => serde_json::to_value(view),
            Answer::Query(view) => serde_json::to_value(view),
            _ => return Err(unexpected()),
        };
        value.map(rounded).map_err(|error| Refusal::Failed(error.to_string()))
    }

    /// The cluster with a page of its workers.
    async fn workers(&self, from: u32) -> Result<ClusterView, Refusal> {
        match self.source.look(Ask::Cluster { queries: 0, from, workers: PAGE }).await? {
            Answer::Cluster(view) => Ok(*view),
            _ => Err(unexpected()),
        }
    }

    async fn findings(&self) -> Result<Value, Refusal> {
        let answer = self.source.look(Ask::Cluster { queries: FOUND, from: 0, workers: 0 }).await?;
        let Answer::Cluster(view) = answer else { return Err(unexpected()) };
        let mut all = Vec::new();
        for row in view.queries {
            match self.source.look(Ask::Findings { query: row.id }).await {
                Ok(Answer::Findings(row, findings)) => all.push(json!({ "query": row, "findings": findings })),
                Ok(_) => return Err(unexpected()),
                Err(Refusal::NoSuch(_)) => (), // it was forgotten meanwhile
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(rounded(all.into()))
    }
}

/// Three decimals are enough to look at, and change less often than all of them.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            json!(number.as_f64().map(|number| (number * 1000.0).round() / 1000.0))
        }
        Value::Array(values) => values.into_iter().map(rounded).collect(),
        Value::Object(values) => values.into_iter().map(|(key, value)| (key, rounded(value))).collect(),
        value => value,
    }
}

impl View {
    fn new() -> Self {
        let state = State { due: Instant::now(), failed: None, kept: VecDeque::new(), newest: Value::Null, told: None };
        Self { looked: AtomicU64::new(0), state: Mutex::new(state) }
    }
}

impl State {
    fn revision(&self) -> Option<u64> {
        self.kept.back().map(|(revision, _)| *revision)
    }

    fn take(&mut self, answer: Result<Value, Refusal>) {
        let value = match answer {
            Ok(value) => value,
            Err(refusal) => return self.failed = Some(refusal),
        };
        self.failed = None;
        if value == self.newest {
            return;
        }
        let text: Arc<str> = value.to_string().into();
        if text.len() > MOST {
            let why = format!("this has {} bytes, and a page is shown no more than {MOST}", text.len());
            return self.failed = Some(Refusal::TooMuch(why));
        }
        // One of an earlier server is none of this one.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_millis() as u64);
        let revision = self.revision().map_or(now, |last| last + 1);
        (self.newest, self.told) = (value, None);
        self.kept.push_back((revision, text));
        while self.kept.len() > KEPT || self.kept.len() > 1 && self.bytes() > KEPT_BYTES {
            self.kept.pop_front();
        }
    }

    fn bytes(&self) -> usize {
        self.kept.iter().map(|(_, text)| text.len()).sum()
    }

    /// The newest one, to who knows that one; made once for all who do.
    fn tell(&mut self, knows: Option<u64>) -> Result<Arc<str>, Refusal> {
        if let Some((_, text)) = self.told.as_ref().filter(|(to, _)| *to == knows) {
            return Ok(Arc::clone(text));
        }
        let nothing = || Refusal::Failed("there is nothing to see".to_owned());
        let (revision, whole) = self.kept.back().ok_or_else(nothing)?;
        let known = self.kept.iter().find(|(revision, _)| Some(*revision) == knows);
        let change = known.and_then(|(_, text)| serde_json::from_str(text).ok());
        let change = change.and_then(|old: Value| delta(&old, &self.newest)).map(|change| change.to_string());
        let text = match change.filter(|change| change.len() < whole.len()) {
            Some(change) => format!("{{\"revision\":{revision},\"from\":{},\"change\":{change}}}", json!(knows)),
            None => format!("{{\"revision\":{revision},\"from\":null,\"change\":[{whole}]}}"),
        };
        let text: Arc<str> = text.into();
        self.told = Some((knows, Arc::clone(&text)));
        Ok(text)
    }
}
