//! One run: a cluster, what its driver asks for, what happens to it, and what must hold afterwards.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use regatta::polars::prelude::*;
use regatta::testing::difference;
use regatta_remote::sim::{Faults as Network, Sim};
use regatta_remote::{NodeId, wait_simulated};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::faults::{self, Fault, Planned, Victim, When};
use super::processes::{Common, DRIVER, Driver, FIRST_WORKER, HEAD, Head, Worker, host};
use super::queries::{self, INJECTED};
use super::random::Query;
use super::rng::Rng;
use crate::Session;
use crate::actors::moments::{self, Point};
use crate::actors::{CONTROL, Left};
use crate::config::Config;
use crate::error::{ClusterError, Error, TaskFailure};
use crate::os;
use crate::progress::ProgressBar;
use crate::sched::Forced;

/// What a run has come to. Two of one seed are the same.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) faults: Vec<Planned>,
    pub(crate) answered: usize,
    /// What queries ended with that ended with an error.
    pub(crate) errors: Vec<String>,
    /// What must not be.
    pub(crate) problems: Vec<String>,
    /// What has happened that a fault may come with, until the queries had ended.
    pub(crate) moments: usize,
    /// In virtual time.
    pub(crate) took: Duration,
    /// Of all packets: what they were, how many were sent and lost.
    pub(crate) trace: (u64, u64, u64),
}

/// A query has ended by then, in virtual time, or hangs.
const HUNG: Duration = Duration::from_secs(900);
/// What a query has left is gone by then.
const TIDY: Duration = Duration::from_secs(60);
/// No task, and no UDF, is blamed for fewer lost workers.
const FEW_LOSSES: usize = 4;
/// How often a query runs of which nobody has seen anything when it turns out that it has to begin anew.
const RUNS: usize = 5;

/// What is not left to the seed.
#[derive(Debug, Clone)]
pub(crate) struct Directed {
    pub(crate) workers: usize,
    pub(crate) udfs: bool,
    pub(crate) faults: Vec<Planned>,
}

/// Runs one seed.
pub(crate) fn simulate(seed: u64, directed: Option<Directed>) -> Outcome {
    // Polars numbers the columns that it makes, of all queries together; that number is to have as many digits in all runs.
    while polars_utils::pl_str::unique_column_name().len() < "_POLARS_TMP_100000".len() {}
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let mut rng = Rng::new(seed);
    let mut wanted = Vec::new();
    let queries = 1 + rng.below(2);
    for number in 0.. {
        if wanted.len() == queries {
            break;
        }
        let files = path.join(format!("files-{number:03}"));
        std::fs::create_dir(&files).unwrap();
        let udfs = directed.as_ref().is_some_and(|directed| directed.udfs);
        wanted.extend(queries::draw(&mut rng, seed, &files, udfs));
    }
    let outcome = Sim::run(seed, |sim| run(sim, seed, rng, path, wanted, directed));
    queries::forget_calls(seed);
    outcome
}

async fn run(
    sim: Sim,
    seed: u64,
    mut rng: Rng,
    folder: PathBuf,
    wanted: Vec<(Query, DataFrame)>,
    directed: Option<Directed>,
) -> Outcome {
    let began = Instant::now();
    let config = Config {
        pool_warm: Duration::from_secs([0, 0, 2][rng.below(3)]),
        progress: ProgressBar::Off,
        observe_memory: 1 << 20,
        worker_timeout: Duration::from_secs(30),
        max_task_backlog: [None, Some(0), Some(2)][rng.below(3)],
        scheduler_linear: rng.percent(5),
        min_cpu_per_task: [0.5, 1.0, 2.0][rng.below(3)],
        ..Config::default()
    };
    let common = Common {
        sim: sim.clone(),
        authority: Arc::new(sim.authority().unwrap()),
        folder,
        config,
        pace: (Duration::ZERO, Duration::from_millis([5, 30, 120][rng.below(3)])),
        cpus: [5.0, 6.0, 8.0][rng.below(3)],
        small: [0, 4 << 10, 1 << 20][rng.below(3)],
        beside: rng.percent(30),
    };
    let forced =
        [None, None, Some(Forced::Hash), Some(Forced::OneSection), Some(Forced::Shared), Some(Forced::Broadcast)];
    let (forced, workers, tasks) = (forced[rng.below(6)], 1 + rng.below(4), 1 + rng.below(6));
    let faults = faults::draw(&mut rng);
    let (workers, faults) = directed.map_or((workers, faults), |directed| (directed.workers, directed.faults));
    let replaced_after = (!rng.percent(8)).then(|| Duration::from_millis(200 + rng.below(3000) as u64));
    let head = Head::start(&common, forced);
    let driver = Driver::start(&common, &head, tasks).await;
    let world = Rc::new(World {
        common,
        head,
        driver,
        driver_died: Cell::new(false),
        workers: RefCell::default(),
        started: Cell::new(FIRST_WORKER),
        replaced_after,
        cancel: RefCell::default(),
        over: Cell::new(false),
    });
    for _ in 0..workers {
        world.start_worker().await;
    }
    let mut outcome = Outcome { faults: faults.clone(), ..Outcome::default() };
    let running: Vec<_> = wanted.iter().map(|(query, _)| world.submit(query.frame.clone())).collect();
    let (over, until) = oneshot::channel();
    let happen = actix::spawn(Rc::clone(&world).happen(faults.clone(), seed, until));
    for (running, (query, plain)) in running.into_iter().zip(&wanted) {
        let words = &query.words;
        let approximate: Vec<_> = query.approximate.iter().map(PlSmallStr::as_str).collect();
        match timeout(HUNG, running).await {
            Err(_) => outcome.problems.push(format!("it hangs: {words}")),
            Ok(Err(_)) => outcome.problems.push(format!("the driver panicked: {words}")),
            Ok(Ok(Ok(answer))) => match difference(&answer, plain, query.ordered, &approximate) {
                None => outcome.answered += 1,
                // Its engines differ where one of them is wrong; whatever fails here has nothing to do with that.
                Some(_)
                    if queries::streamed(query)
                        .is_some_and(|plain| difference(&answer, &plain, query.ordered, &approximate).is_none()) =>
                {
                    outcome.answered += 1;
                }
                Some(difference) => outcome.problems.push(format!("not as Polars: {words}: {difference}")),
            },
            Ok(Ok(Err(error))) => {
                if !is_excused(&error, &faults) {
                    outcome.problems.push(format!("no fault explains it: {words}: {error}"));
                }
                outcome.errors.push(error.to_string());
            }
        }
    }
    // Those that come with something come no more.
    let _ = over.send(());
    outcome.moments = happen.await.unwrap();
    world.over.set(true);
    outcome.problems.extend(world.left().await);
    outcome.took = began.elapsed();
    let trace = sim.trace();
    outcome.trace = (trace.hash, trace.sent, trace.lost);
    world.end().await;
    outcome
}

struct World {
    common: Common,
    head: Head,
    driver: Driver,
    driver_died: Cell<bool>,
    workers: RefCell<Vec<Rc<Worker>>>,
    /// Numbers of workers so far.
    started: Cell<u8>,
    /// Another comes where one has gone, so long after.
    replaced_after: Option<Duration>,
    /// Lets a query be given up.
    cancel: RefCell<Vec<Option<oneshot::Sender<()>>>>,
    over: Cell<bool>,
}

impl World {
    /// Has the driver run a query, in its process.
    fn submit(&self, query: LazyFrame) -> JoinHandle<Result<DataFrame, Error>> {
        let (cancel, cancelled) = oneshot::channel();
        self.cancel.borrow_mut().push(Some(cancel));
        let session = self.driver.session();
        self.driver.runtime.spawn_blocking(move || {
            let mut cancelled = cancelled;
            let mut runs = 1;
            loop {
                match collect(&session, query.clone(), &mut cancelled) {
                    Err(Error::MadeOtherwise(_)) if runs < RUNS => runs += 1,
                    result => return result,
                }
            }
        })
    }

    async fn start_worker(self: &Rc<Self>) {
        let number = self.started.get();
        self.started.set(number + 1);
        let head = (self.head.id, self.head.address);
        let world = Rc::clone(self);
        match Worker::start(&self.common, head, number).await {
            Some(worker) => {
                self.workers.borrow_mut().push(Rc::clone(&worker));
                actix::spawn(world.replace(Some(worker)));
            }
            None => drop(actix::spawn(world.replace(None))),
        }
    }

    /// Starts another worker some time after one has gone.
    async fn replace(self: Rc<Self>, worker: Option<Rc<Worker>>) {
        if let Some(worker) = worker {
            while !worker.ended.get() {
                sleep(Duration::from_millis(50)).await;
            }
            self.workers.borrow_mut().retain(|other| !Rc::ptr_eq(other, &worker));
        }
        if let Some(after) = self.replaced_after {
            sleep(after).await;
            if !self.over.get() {
                Box::pin(self.start_worker()).await;
            }
        }
    }

    /// Lets faults happen, those that come with something as long as queries run, and yields how much of that there was. `until`: they
    /// are over.
    async fn happen(self: Rc<Self>, faults: Vec<Planned>, seed: u64, until: oneshot::Receiver<()>) -> usize {
        let began = Instant::now();
        let (tells, mut moments) = unbounded_channel();
        moments::watch(tells);
        let (timed, mut with_some): (Vec<_>, Vec<_>) =
            faults.into_iter().partition(|(when, _)| matches!(when, When::After(_)));
        let timed = async {
            let mut ends = Vec::new();
            for (when, fault) in timed {
                if let When::After(at) = when {
                    sleep_until(began + at).await;
                }
                ends.extend(self.suffer(&fault, None, seed));
            }
            ends
        };
        let come_with = async {
            let (mut seen, mut all) = (BTreeMap::<Point, usize>::new(), 0);
            let (mut ends, mut until) = (Vec::new(), until);
            loop {
                let (point, at) = tokio::select! {
                    biased;
                    Some(moment) = moments.recv() => moment,
                    _ = &mut until => break,
                };
                let count = seen.entry(point).or_default();
                *count += 1;
                all += 1;
                let comes = |(when, _): &mut Planned| match *when {
                    When::After(_) => false,
                    When::With(of, nth, _) => (of, nth) == (point, *count),
                    When::Moment(nth) => nth == all,
                };
                for (when, fault) in with_some.extract_if(.., comes).collect::<Vec<_>>() {
                    let after = if let When::With(_, _, after) = when { after } else { Duration::ZERO };
                    let world = Rc::clone(&self);
                    ends.push(actix::spawn(async move {
                        if !after.is_zero() {
                            sleep(after).await;
                        }
                        if let Some(end) = world.suffer(&fault, at, seed) {
                            end.await.unwrap();
                        }
                    }));
                }
            }
            (ends, all)
        };
        let (timed, (come_with, all)) = tokio::join!(timed, come_with);
        for end in timed.into_iter().chain(come_with) {
            end.await.unwrap();
        }
        all
    }

    /// Lets a fault happen, where something happened at a worker, and yields what waits for its end.
    fn suffer(self: &Rc<Self>, fault: &Fault, there: Option<NodeId>, seed: u64) -> Option<JoinHandle<()>> {
        let sim = self.common.sim.clone();
        let victim = |worker: Victim| match worker {
            Victim::At(place) => self.worker(place),
            Victim::There => {
                self.workers.borrow().iter().find(|worker| !worker.ended.get() && Some(worker.node) == there).cloned()
            }
        };
        match *fault {
            Fault::Kill { worker, told } => {
                let worker = victim(worker)?;
                worker.kill(&sim);
                if told {
                    (self.head.on_end)(Some(worker.node), "it was killed".to_owned());
                }
                None
            }
            Fault::Freeze { worker, time } => {
                let frozen = host(victim(worker)?.number);
                sim.pause(frozen);
                Some(later(time, move || sim.resume(frozen)))
            }
            Fault::FreezeMost { time } => {
                let most: Vec<_> =
                    self.ends().into_iter().filter(|end| *end >= FIRST_WORKER).skip(1).map(host).collect();
                most.iter().for_each(|host| sim.pause(*host));
                Some(later(time, move || most.into_iter().for_each(|host| sim.resume(host))))
            }
            Fault::Slow { worker, times } => {
                let (least, most) = self.common.pace;
                victim(worker)?.runtime.take_time(least * times, most * times);
                None
            }
            Fault::Cut { ends: (one, other), both, time } => {
                let ends = self.ends();
                Some(self.cut((ends[one % ends.len()], ends[other % ends.len()]), both, time))
            }
            Fault::CutOff { worker, both, hears, time } => {
                let worker = victim(worker)?.number;
                Some(self.cut(if hears { (worker, HEAD) } else { (HEAD, worker) }, both, time))
            }
            Fault::Noise { loss, late, latency, time } => {
                sim.set(Network { loss, late, latency, jitter: 2 * latency, rate: 0 });
                Some(later(time, move || sim.set(Network::default())))
            }
            Fault::FillDisk { worker, time } => {
                let worker = victim(worker)?;
                // All of its disks, or all but one.
                let full = worker.folders().iter().rev().take(1 + usize::from(worker.number % 4 == 0));
                let full: Vec<_> = full.map(|folder| folder.join(os::FULL)).collect();
                full.iter().for_each(|full| std::fs::write(full, "").unwrap());
                Some(later(time, move || full.iter().for_each(|full| drop(std::fs::remove_file(full)))))
            }
            Fault::FailCall { nth } => {
                queries::fail_call(seed, nth);
                None
            }
            Fault::Cancel { query } => {
                self.cancel(query);
                None
            }
            Fault::DriverDies => {
                self.driver_died.set(true);
                (1..=u8::MAX).for_each(|other| sim.partition(host(DRIVER), host(other)));
                // What is left of it here does not go on without end.
                (0..2).for_each(|query| self.cancel(query));
                None
            }
        }
    }

    /// Nothing comes from one end to the other for a while, or back either.
    fn cut(self: &Rc<Self>, (one, other): (u8, u8), both: bool, time: Duration) -> JoinHandle<()> {
        let (sim, from, to) = (self.common.sim.clone(), host(one), host(other));
        sim.cut(from, to);
        if both {
            sim.cut(to, from);
        }
        let world = Rc::clone(self);
        // A process that has died meanwhile stays cut off.
        later(time, move || {
            if [one, other].iter().all(|end| world.ends().contains(end)) {
                sim.heal(from, to);
            }
        })
    }

    fn cancel(&self, query: usize) {
        let cancel = self.cancel.borrow_mut().get_mut(query).and_then(Option::take);
        cancel.into_iter().for_each(|cancel| _ = cancel.send(()));
    }

    fn worker(&self, place: usize) -> Option<Rc<Worker>> {
        let workers = self.workers.borrow();
        let there: Vec<_> = workers.iter().filter(|worker| !worker.ended.get()).collect();
        there.get(place % there.len().max(1)).map(|worker| Rc::clone(worker))
    }

    /// Processes that live.
    fn ends(&self) -> Vec<u8> {
        let driver = (!self.driver_died.get()).then_some(DRIVER);
        let workers = self.workers.borrow();
        let there = workers.iter().filter(|worker| !worker.ended.get()).map(|worker| worker.number);
        [HEAD].into_iter().chain(driver).chain(there).collect()
    }

    /// What is left of the queries although there has been time to do away with it.
    async fn left(&self) -> Vec<String> {
        let until = Instant::now() + TIDY;
        loop {
            let left = self.is_left().await;
            if left.is_empty() || Instant::now() > until {
                return left;
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    async fn is_left(&self) -> Vec<String> {
        let asked = self.head.scheduler.ask(Left, CONTROL).await;
        let mut left = asked.unwrap_or_else(|error| vec![format!("the scheduler does not answer: {error}")]);
        let mut look = |whose: String, held: usize| {
            if held > 0 {
                left.push(format!("{whose} holds {held} outputs and batches"));
            }
        };
        look("the head".to_owned(), self.head.session().partitions_held());
        if !self.driver_died.get() {
            look("the driver".to_owned(), self.driver.session().partitions_held());
        }
        for worker in self.workers.borrow().iter().filter(|worker| !worker.ended.get()) {
            look(format!("worker at {}", host(worker.number)), worker.store.held());
            let files = worker.folders().iter().flat_map(|folder| std::fs::read_dir(folder).unwrap().flatten());
            let files = files.filter(|file| file.path().extension().is_some_and(|ends| ends == "blocks"));
            look(format!("the folder of the worker at {}", host(worker.number)), files.count());
        }
        left
    }

    /// Ends its processes in order: a goodbye waits for the network.
    async fn end(&self) {
        let (driver, head) = (self.driver.take(), self.head.take());
        self.driver.runtime.spawn_blocking(move || drop(driver)).await.unwrap();
        self.head.runtime.spawn_blocking(move || drop(head)).await.unwrap();
    }
}

fn collect(session: &Session, query: LazyFrame, cancelled: &mut oneshot::Receiver<()>) -> Result<DataFrame, Error> {
    let run = session.submit(query)?;
    let collects = async {
        tokio::select! {
            biased;
            Ok(()) = cancelled => Err(Error::Cancelled),
            result = run => result,
        }
    };
    wait_simulated(collects).unwrap_or_else(|_| panic!("it is a thread of a simulation"))
}

/// Does something after a while.
fn later(time: Duration, what: impl FnOnce() + 'static) -> JoinHandle<()> {
    actix::spawn(async move {
        sleep(time).await;
        what();
    })
}

/// Whether a fault is one of the network's.
fn is_of_links(fault: &Fault) -> bool {
    matches!(fault, Fault::Cut { .. } | Fault::CutOff { .. } | Fault::Noise { .. })
}

/// Whether a worker may be lost by it.
fn loses(fault: &Fault) -> bool {
    is_of_links(fault) || matches!(fault, Fault::Kill { .. } | Fault::Freeze { .. } | Fault::FreezeMost { .. })
}

/// Whether one of these faults may end a query so.
fn is_excused(error: &Error, faults: &[Planned]) -> bool {
    let any = |which: fn(&Fault) -> bool| faults.iter().any(|(_, fault)| which(fault));
    let of_links = any(is_of_links);
    let of_workers = any(loses);
    // Each of these loses one worker, but for those that hit several at once.
    let losses = faults.iter().filter(|(_, fault)| loses(fault)).count();
    let of_many = losses >= FEW_LOSSES || any(|fault| matches!(fault, Fault::FreezeMost { .. } | Fault::Noise { .. }));
    match error {
        Error::Cancelled => any(|fault| matches!(fault, Fault::Cancel { .. } | Fault::DriverDies)),
        Error::MadeOtherwise(_) => of_workers,
        Error::Pool(_) => of_many,
        Error::Cluster(ClusterError::NoWorkers { .. }) => of_workers,
        // A driver that has died reaches nobody, if its queries had not come so far that they could be cancelled.
        Error::Cluster(ClusterError::Gone { .. } | ClusterError::Network { .. } | ClusterError::Closed) => {
            of_links || any(|fault| matches!(fault, Fault::DriverDies))
        }
        Error::Task(failed) => match &failed.cause {
            TaskFailure::Udf { error, .. } => {
                error.to_string().contains(INJECTED) && any(|fault| matches!(fault, Fault::FailCall { .. }))
            }
            TaskFailure::DiskFull { .. } => any(|fault| matches!(fault, Fault::FillDisk { .. })),
            TaskFailure::WorkerLost(_) => of_many,
            TaskFailure::Transfer { .. } | TaskFailure::LostInput { .. } => of_workers,
            _ => false,
        },
        _ => false,
    }
}
