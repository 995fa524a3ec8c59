//! What the head shows to who looks from outside, and does for operators. The scheduler says where things stand; it neither waits
//! for a viewer nor writes an answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{AsyncContext, Handler, Message, MessageResult};
use futures_util::StreamExt;
use regatta_observe::window::{Answering, Head, MAILBOX, Window};
use regatta_observe::{
    Answer, Ask, AuthorSpan, ClusterView, Fleet, LogFilter, LogLine, LogPage, LogsView, Order, PoolRow, QueryRow,
    QueryState, QueryView, Refusal, SpanPage, SpansView, TokenRole, Totals, WorkerRow,
};
use regatta_remote::{ActorRef, Arbiter, Authority, LocalRef, Node, NodeId, RemoteMessage, Role};
use tokio::sync::Mutex;

use super::messages::{LogsOf, ProfileOf, SpansOf};
use super::{CONTROL, Drain, Host, SchedulerActor, SwordfishActor};
use crate::engine::nanoseconds;
use crate::error::Error;
use crate::jobs::Jobs;
use crate::notice::notice;
use crate::sched::{Event, PoolStatus, QueryId, StageWaits, WaitsFor, WorkerId, WorkerStatus};

/// Publishes the window of a head, on this thread.
pub(crate) fn open(
    node: &Node,
    host: &Host,
    scheduler: LocalRef<SchedulerActor>,
    authority: Arc<Authority>,
    jobs: Option<Jobs>,
    on: &Arbiter,
) {
    let jobs = jobs.map(Arc::new);
    let shown = Arc::new(Shown { jobs, ..Shown::new(scheduler, Some(authority)) });
    let (head, runtime) = (Arc::new(Showing(shown)), host.runtime.clone());
    Window::publish(node, &on.spawn(MAILBOX, move |_| Window::new(head, runtime)));
}

struct Showing(Arc<Shown>);

/// What is shown of a scheduler of this process.
pub(crate) struct Shown {
    scheduler: LocalRef<SchedulerActor>,
    /// What lets others in, if anything does.
    authority: Option<Arc<Authority>>,
    /// Programs that run here, if any are accepted.
    jobs: Option<Arc<Jobs>>,
    /// Who asks the scheduler, and who asks the workers.
    turn: Mutex<Turn>,
    workers: Mutex<Turn>,
    /// Where the cluster stood when it was asked last.
    cluster: Mutex<Fresh>,
}

/// What workers have answered.
struct Asked<T> {
    answers: Vec<(u32, T)>,
    /// Of those that have not: after which number they are asked again.
    next: Vec<(u32, u64)>,
    /// And why they have not.
    silent: Vec<(u32, String)>,
}

/// Whoever holds it asks: all viewers together take a small part of the time of those who are asked.
struct Turn {
    free: Instant,
}

type Fresh = Option<(Instant, Arc<ClusterView>)>;

/// Where the cluster stands is asked no more often than this, however many look.
const FRESH: Duration = Duration::from_millis(500);
/// After a question the scheduler is left alone for so many times as long as it took, and no longer than this.
const TIMES: u32 = 10;
const ALONE: Duration = Duration::from_millis(250);
/// The same of the workers, who are many.
const LONG: Duration = Duration::from_secs(1);
/// Queries that are shown, at most.
const QUERIES: usize = 256;
/// What a query waits for: so many of it in a line.
const WAITS: usize = 3;
/// And all of it where that query alone is looked at.
const ALL_WAITS: usize = 256;
/// Lines of a worker that are shown at once, and bytes of those of all workers, and of one at least.
const LINES: usize = 1000;
const LOG_BYTES: usize = 512 << 10;
const LEAST_LOG: usize = 2 << 10;
/// Workers that are asked for lines at a time, and how long each may take.
const AT_ONCE: usize = 32;
const LOG_ANSWER: Duration = Duration::from_secs(3);
/// How long is looked what queries wait for, in a survey.
const LOOK: Duration = Duration::from_millis(2);

impl Head for Showing {
    fn look(&self, ask: Ask) -> Answering {
        let shown = Arc::clone(&self.0);
        Box::pin(async move { shown.look(ask).await })
    }

    fn act(&self, order: Order, operator: NodeId) -> Answering {
        let shown = Arc::clone(&self.0);
        Box::pin(async move { shown.act(order, &format!("operator {operator}")).await })
    }
}

impl Shown {
    pub(crate) fn new(scheduler: LocalRef<SchedulerActor>, authority: Option<Arc<Authority>>) -> Self {
        let (turn, workers) = (Turn::new(), Turn::new());
        Self { scheduler, authority, jobs: None, turn, workers, cluster: Mutex::default() }
    }

    pub(crate) async fn look(&self, ask: Ask) -> Result<Answer, Refusal> {
        match ask {
            Ask::Cluster { queries, from, workers } => {
                let view = self.cluster().await?;
                Ok(Answer::Cluster(Box::new(page(&view, queries as usize, from, workers as usize))))
            }
            Ask::Query { query } => Ok(Answer::Query(self.ask(Stand(query)).await??)),
            Ask::Profile { query } => Ok(Answer::Profile(self.profile(query).await?.1)),
            Ask::Findings { query } => {
                let (row, profile) = self.profile(query).await?;
                Ok(Answer::Findings(Box::new(row), profile.findings))
            }
            Ask::Totals => Ok(Answer::Totals(self.ask(AllTotals).await?)),
            Ask::Logs { after, filter, lines } => Ok(Answer::Logs(Box::new(self.logs(after, filter, lines).await?))),
            Ask::Spans { after, noted_s } => {
                Ok(Answer::Spans(Box::new(self.spans(after, Duration::from_secs(noted_s)).await?)))
            }
            Ask::Jobs => Ok(Answer::Jobs(self.jobs.as_ref().map(|jobs| jobs.rows()).unwrap_or_default())),
            Ask::JobLog { job, after, lines } => {
                Ok(Answer::JobLog(Box::new(self.jobs()?.log(job, after, (lines as usize).min(LINES))?)))
            }
        }
    }

    /// Does what somebody wants, who is called this where it is noted.
    pub(crate) async fn act(&self, order: Order, who: &str) -> Result<Answer, Refusal> {
        match order {
            Order::Cancel { query } => Ok(Answer::Cancelled(Box::new(self.ask(Cancel(query, who.to_owned())).await??))),
            Order::Drain { worker, seconds } => {
                let drain = Drain { worker: WorkerId(worker), within: Duration::from_secs(seconds) };
                // That it is gone is seen: nobody waits for it here.
                let leaves = self.ask(drain).await?;
                leaves.map_err(|error| Refusal::NoSuch(error.to_string()))?;
                notice(format_args!("{who} has worker {worker} leave, within {seconds} s"));
                Ok(Answer::Drains(worker))
            }
            Order::Token { role, uses, seconds } => {
                let name = match role {
                    TokenRole::Worker => Role::Worker,
                    TokenRole::Driver => Role::Driver,
                    TokenRole::Observer => Role::Observer,
                };
                let nobody = || Refusal::Failed("this session lets nobody in".to_owned());
                let token =
                    self.authority.as_ref().ok_or_else(nobody)?.token_for(uses, name, Duration::from_secs(seconds));
                let token = token.map_err(|error| Refusal::Failed(error.to_string()))?;
                notice(format_args!("{who} has made a token for {uses} times a {name}"));
                Ok(Answer::Token(token.to_string()))
            }
            Order::Submit { arguments, build } => {
                let (jobs, who) = (Arc::clone(self.jobs()?), who.to_owned());
                // A process is started, and this executable looked at.
                let started = tokio::task::spawn_blocking(move || jobs.submit(arguments, &build, &who)).await;
                let row = started.map_err(|error| Refusal::Failed(error.to_string()))??;
                Ok(Answer::Job(Box::new(row)))
            }
            Order::Stop { job } => Ok(Answer::Job(Box::new(self.jobs()?.stop(job, who)?))),
        }
    }

    fn jobs(&self) -> Result<&Arc<Jobs>, Refusal> {
        let none = || "this head accepts no jobs: start it with REGATTA_JOBS=<how many may run at once>".to_owned();
        self.jobs.as_ref().ok_or_else(|| Refusal::Failed(none()))
    }

    async fn profile(&self, query: String) -> Result<(QueryRow, Box<regatta_observe::Profile>), Refusal> {
        let (id, row) = self.ask(Seek(query)).await??;
        let forgotten = || Refusal::NoSuch(format!("{id} has just been forgotten"));
        Ok((row, self.ask(ProfileOf(id)).await?.ok_or_else(forgotten)?))
    }

    /// Lines of the logs of all workers, or of one, asked by and by.
    async fn logs(&self, after: Vec<(u32, u64)>, filter: LogFilter, lines: u32) -> Result<LogsView, Refusal> {
        if !filter.is_short() {
            return Err(Refusal::NoSuch("no query or UDF has so long a name".to_owned()));
        }
        let (after, lines) = (BTreeMap::from_iter(after), (lines as usize).min(LINES));
        let only = filter.worker;
        let wanted = |after, bytes| LogsOf { after, filter: filter.clone(), lines, bytes };
        let Asked { answers, next, silent } = self.of_workers(only, &after, wanted).await?;
        let mut view = LogsView { next, silent, ..LogsView::default() };
        for (worker, LogPage { lines, next, missed }) in answers {
            view.next.push((worker, next));
            view.missed += missed;
            view.lines.extend(lines.into_iter().map(|line| LogLine { worker: Some(worker), ..line }));
        }
        view.lines.sort_by_key(|line| (line.at_ms, line.worker, line.number));
        if after.is_empty() {
            view.lines.drain(..view.lines.len().saturating_sub(lines));
        }
        view.next.sort_unstable();
        Ok(view)
    }

    /// Spans of authors' programs on all workers, which note them for so long from now.
    async fn spans(&self, after: Vec<(u32, u64)>, noted: Duration) -> Result<SpansView, Refusal> {
        let after = BTreeMap::from_iter(after);
        let wanted = |after, bytes| SpansOf { after, bytes, noted };
        let Asked { mut answers, next, silent } = self.of_workers(None, &after, wanted).await?;
        answers.sort_by_key(|(worker, _)| *worker);
        let mut view = SpansView { next, silent, ..SpansView::default() };
        for (worker, SpanPage { spans, next, missed }) in answers {
            view.next.push((worker, next));
            view.missed += missed;
            view.spans.extend(spans.into_iter().map(|span| AuthorSpan { worker: Some(worker), ..span }));
        }
        Ok(view)
    }

    /// What workers answer, or one: asked by and by, each for what is after a number and so many bytes of it.
    async fn of_workers<M>(
        &self,
        only: Option<u32>,
        after: &BTreeMap<u32, u64>,
        wanted: impl Fn(u64, usize) -> M,
    ) -> Result<Asked<M::Result>, Refusal>
    where
        SwordfishActor: Handler<M>,
        M: RemoteMessage,
    {
        let mut crews = self.ask(Crews).await?;
        crews.retain(|(worker, _)| only.is_none_or(|only| worker.0 == only));
        let bytes = (LOG_BYTES / crews.len().max(1)).max(LEAST_LOG);
        let asks = crews.into_iter().map(|(worker, actor)| {
            let wanted = wanted(after.get(&worker.0).copied().unwrap_or(0), bytes);
            async move { (worker.0, actor.ask(wanted, LOG_ANSWER).await) }
        });
        let asks = futures_util::stream::iter(asks).buffer_unordered(AT_ONCE).collect::<Vec<_>>();
        let mut asked = Asked { answers: Vec::new(), next: Vec::new(), silent: Vec::new() };
        for (worker, answer) in self.workers.lock().await.take(asks, LONG).await {
            match answer {
                Ok(answer) => asked.answers.push((worker, answer)),
                Err(error) => {
                    // What it says later is not missed.
                    asked.next.extend(after.get(&worker).map(|after| (worker, *after)));
                    asked.silent.push((worker, error.to_string()));
                }
            }
        }
        Ok(asked)
    }

    async fn cluster(&self) -> Result<Arc<ClusterView>, Refusal> {
        let mut cluster = self.cluster.lock().await;
        if let Some((_, view)) = cluster.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(Arc::clone(view));
        }
        let view: Arc<ClusterView> = Arc::from(self.ask(Survey).await?);
        *cluster = Some((Instant::now(), Arc::clone(&view)));
        Ok(view)
    }

    async fn ask<M>(&self, message: M) -> Result<M::Result, Refusal>
    where
        SchedulerActor: Handler<M>,
        M: Message<Result: Send> + Send + 'static,
    {
        let asked = self.scheduler.ask(message, CONTROL);
        let answer = self.turn.lock().await.take(asked, ALONE).await;
        answer.map_err(|error| Refusal::Failed(format!("the scheduler does not answer: {error}")))
    }
}

impl Turn {
    fn new() -> Mutex<Self> {
        Mutex::new(Self { free: Instant::now() })
    }

    async fn take<T>(&mut self, asked: impl Future<Output = T>, longest: Duration) -> T {
        tokio::time::sleep_until(self.free.into()).await;
        let began = Instant::now();
        let answer = asked.await;
        self.free = Instant::now() + (began.elapsed() * TIMES).min(longest);
        answer
    }
}

/// As much of it as was asked for.
fn page(view: &ClusterView, queries: usize, from: u32, workers: usize) -> ClusterView {
    ClusterView {
        queries: view.queries.iter().take(queries).cloned().collect(),
        workers: view.workers.iter().filter(|row| row.worker >= from).take(workers).cloned().collect(),
        pools: view.pools.clone(),
        build: view.build.clone(),
        not_joined: view.not_joined.clone(),
        ..*view
    }
}

/// Where everything stands.
struct Survey;

/// What all queries did.
struct AllTotals;

/// Where the workers are.
struct Crews;

/// Which query it is whose number ends with these digits.
struct Seek(String);

/// Where that query stands.
struct Stand(String);

/// Stop that query: so says somebody.
struct Cancel(String, String);

impl Message for Survey {
    type Result = Box<ClusterView>;
}
impl Message for AllTotals {
    type Result = Box<Totals>;
}
impl Message for Crews {
    type Result = Vec<(WorkerId, ActorRef<SwordfishActor>)>;
}
impl Message for Seek {
    type Result = Result<(QueryId, QueryRow), Refusal>;
}
impl Message for Stand {
    type Result = Result<Box<QueryView>, Refusal>;
}
impl Message for Cancel {
    type Result = Result<QueryRow, Refusal>;
}

impl SchedulerActor {
    /// The query whose number ends with these digits.
    fn seek(&self, digits: &str) -> Result<QueryId, Refusal> {
        let nobody = |why: &str| {
            Err(Refusal::NoSuch(format!("{why} {digits:?}: `regatta queries --all` has all that are known")))
        };
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return nobody("a query is named by the last digits of its number, not by");
        }
        match self.observed.recorder.ending_with(digits)[..] {
            [] => nobody("no query is known whose number ends with"),
            [query] => Ok(query),
            _ => nobody("there are several queries whose numbers end with"),
        }
    }

    fn query_row(&self, query: QueryId) -> Result<QueryRow, Refusal> {
        let row = self.observed.recorder.row(query, self.observed.at());
        let mut row = row.ok_or_else(|| Refusal::NoSuch(format!("{query} has just been forgotten")))?;
        row.driver = self.observed.owner(query);
        Ok(row)
    }

    fn waits(&self, query: QueryId, now: Instant) -> Vec<(u32, Duration, String)> {
        let waits = self.core.waits(query, now).unwrap_or_default().into_iter().enumerate();
        let waits = waits.flat_map(|(stage, StageWaits { waits, .. })| {
            let waits = waits.into_iter().filter(|wait| !matches!(wait.on, WaitsFor::Inputs(_) | WaitsFor::TaskBefore));
            waits.map(move |wait| (stage as u32, wait.time, wait.to_string()))
        });
        let mut waits: Vec<_> = waits.collect();
        waits.sort_by_key(|(_, time, _)| std::cmp::Reverse(*time));
        waits
    }

    fn worker_row(&self, status: WorkerStatus) -> WorkerRow {
        let crew = self.workers.get(&status.worker);
        let (sample, busy) = self.observed.recorder.usage(status.worker).unwrap_or_default();
        let few = |(one, other): (usize, usize)| (few(one), few(other));
        WorkerRow {
            worker: status.worker.0,
            cpus: status.cpus,
            busy,
            gpus: status.gpus,
            devices: crew.map(|crew| crew.devices.iter().map(ToString::to_string).collect()).unwrap_or_default(),
            memory: status.memory,
            used: sample.memory,
            peak: sample.peak,
            tasks: few(status.tasks),
            leaving: status.leaving.map(|(count, time)| (self::few(count), nanoseconds(time))),
            idle: status.idle.map(nanoseconds),
            silent: status.silent.map(nanoseconds),
            drains: status.drains.map(|(time, left)| (nanoseconds(time), nanoseconds(left))),
            address: crew.and_then(|crew| crew.place.node).map(|(_, address)| address.to_string()),
        }
    }
}

/// How many of something there are, of which there are not so many.
fn few(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn fleet(workers: &[WorkerRow]) -> Fleet {
    let mut all = Fleet { workers: few(workers.len()), busy: Some(0.0), ..Fleet::default() };
    for worker in workers {
        all.silent += u32::from(worker.silent.is_some());
        all.cpus = (all.cpus.0 + worker.cpus.0, all.cpus.1 + worker.cpus.1);
        all.gpus = (all.gpus.0 + worker.gpus.0, all.gpus.1 + worker.gpus.1);
        all.memory = (all.memory.0.saturating_add(worker.memory.0), all.memory.1.saturating_add(worker.memory.1));
        all.used = all.used.saturating_add(worker.used);
        all.tasks = (all.tasks.0 + u64::from(worker.tasks.0), all.tasks.1 + u64::from(worker.tasks.1));
        all.busy = all.busy.zip(worker.busy).map(|(all, busy)| all + busy);
    }
    all.busy = all.busy.filter(|_| !workers.is_empty());
    all
}

fn pool_row(status: PoolStatus) -> PoolRow {
    PoolRow {
        udf: status.udf,
        ready: few(status.ready),
        idle: few(status.idle),
        starting: status.starting,
        queries: few(status.queries.len()),
        unused: status.unused.map(nanoseconds),
    }
}

impl Handler<Survey> for SchedulerActor {
    type Result = MessageResult<Survey>;

    fn handle(&mut self, _: Survey, _: &mut Self::Context) -> Self::Result {
        let now = Instant::now();
        let status = self.core.session_status(now, |_| None);
        let recorder = &self.observed.recorder;
        let mut queries = recorder.rows(QUERIES, self.observed.at());
        for (id, row) in &mut queries {
            row.driver = self.observed.owner(*id);
            // There may be queries of thousands of stages.
            if row.state == QueryState::Running && now.elapsed() < LOOK {
                row.waits = self.waits(*id, now).into_iter().take(WAITS).map(|(_, _, wait)| wait).collect();
            }
        }
        let workers: Vec<_> = status.workers.into_iter().map(|worker| self.worker_row(worker)).collect();
        let (running, ended) = recorder.known();
        MessageResult(Box::new(ClusterView {
            build: super::observed::BUILD.to_owned(),
            up: self.observed.at(),
            fleet: fleet(&workers),
            wanted: status.wanted.map(|(wanted, since)| (few(wanted), nanoseconds(since))),
            not_joined: status.not_joined.map(|(count, why)| (few(count), why)),
            backlog: status.backlog,
            known: (few(running), few(ended)),
            queries: queries.into_iter().map(|(_, row)| row).collect(),
            workers,
            pools: status.pools.into_iter().map(pool_row).collect(),
            dropped: recorder.dropped(),
        }))
    }
}

impl Handler<AllTotals> for SchedulerActor {
    type Result = MessageResult<AllTotals>;

    fn handle(&mut self, _: AllTotals, _: &mut Self::Context) -> Self::Result {
        MessageResult(Box::new(self.observed.recorder.totals(self.observed.at())))
    }
}

impl Handler<Crews> for SchedulerActor {
    type Result = MessageResult<Crews>;

    fn handle(&mut self, _: Crews, _: &mut Self::Context) -> Self::Result {
        let crews = self.workers().filter_map(|worker| Some((worker, self.swordfish(worker)?)));
        MessageResult(crews.collect())
    }
}

impl Handler<Seek> for SchedulerActor {
    type Result = Result<(QueryId, QueryRow), Refusal>;

    fn handle(&mut self, Seek(digits): Seek, _: &mut Self::Context) -> Self::Result {
        let query = self.seek(&digits)?;
        Ok((query, self.query_row(query)?))
    }
}

impl Handler<Stand> for SchedulerActor {
    type Result = Result<Box<QueryView>, Refusal>;

    fn handle(&mut self, Stand(digits): Stand, _: &mut Self::Context) -> Self::Result {
        let query = self.seek(&digits)?;
        let row = self.query_row(query)?;
        let progress = self.observed.recorder.progress(query, self.observed.at()).unwrap_or_default();
        let waits = self.waits(query, Instant::now()).into_iter().take(ALL_WAITS);
        let waits = waits.map(|(stage, _, wait)| (stage, wait)).collect();
        Ok(Box::new(QueryView { row, progress, waits }))
    }
}

impl Handler<Cancel> for SchedulerActor {
    type Result = Result<QueryRow, Refusal>;

    fn handle(&mut self, Cancel(digits, who): Cancel, _: &mut Self::Context) -> Self::Result {
        let query = self.seek(&digits)?;
        let row = self.query_row(query)?;
        if row.state != QueryState::Running || !self.queries.contains_key(&query) {
            return Err(Refusal::NoSuch(format!("{query} does not run any more: {row}")));
        }
        notice(format_args!("{query} is cancelled by {who}"));
        // Who waits for its result is told.
        self.take(Event::Fail(query, Error::Cancelled));
        self.observed.released(query);
        self.query_row(query)
    }
}

impl Handler<SpansOf> for SwordfishActor {
    type Result = MessageResult<SpansOf>;

    fn handle(&mut self, SpansOf { after, bytes, noted }: SpansOf, ctx: &mut Self::Context) -> Self::Result {
        let (page, noted) = crate::spans::page(after, bytes, noted);
        // If nobody looks again. One waits for that, however many have looked.
        let waits = ctx.run_later(noted, |_, _| crate::spans::look_away());
        if let Some(before) = self.looks_away.replace(waits) {
            ctx.cancel_future(before);
        }
        MessageResult(page)
    }
}

impl Handler<LogsOf> for SwordfishActor {
    type Result = MessageResult<LogsOf>;

    fn handle(&mut self, LogsOf { after, filter, lines, bytes }: LogsOf, _: &mut Self::Context) -> Self::Result {
        MessageResult(crate::logs::page(after, &filter, lines, bytes))
    }
}
