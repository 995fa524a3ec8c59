//! Random queries over random tables: a session answers as plain Polars does.
//!
//! `RANDOM_PLANS=17` runs one seed, `RANDOM_PLANS=0..5000` many; unset, a few. A seed that fails prints the line that repeats it.
//! `RANDOM_PLANS_WORKERS=4` runs them on as many workers in place of two; `REGATTA_TEST_SHAPES=broadcast` (or `hash`, `one_section`,
//! `shared` or `parts`) forces the shapes of stages, whatever the sizes.
//!
//! One query of ten runs once more on the workers, of which one is killed meanwhile; `RANDOM_PLANS_KILLS=1`: each does.

mod exprs;
mod queries;
mod rng;
mod tables;
mod udfs;

use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use regatta::polars::prelude::*;
use regatta::testing::{TestCluster, difference, eventually};
use regatta::{Error, Session};

use queries::Query;
use rng::Rng;

regatta::testing::worker!();

/// Seeds of the ordinary tests.
const SEEDS: u64 = 100;

fn seeds() -> Vec<u64> {
    let Ok(asked) = std::env::var("RANDOM_PLANS") else { return (0..SEEDS).collect() };
    let number = |text: &str| text.parse().unwrap_or_else(|e| panic!("RANDOM_PLANS={asked}: {e}"));
    match asked.split_once("..") {
        Some((from, to)) => (number(from)..number(to)).collect(),
        None => vec![number(&asked)],
    }
}

/// Small morsels, so that small tables are many of them. Also for the workers, which inherit it.
fn small_morsels() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the first thing that each test does; no other thread reads the environment meanwhile.
        unsafe { std::env::set_var("POLARS_IDEAL_MORSEL_SIZE", "23") };
    });
}

/// A panic is an error with its text.
fn tried(run: impl FnOnce() -> Result<DataFrame, String>) -> Result<DataFrame, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("?")))
    })
}

fn on_polars(query: &LazyFrame, engine: Engine) -> Result<DataFrame, String> {
    let run = || query.clone().collect_with_engine(engine).map(|result| result.unwrap_single());
    tried(|| run().map_err(|e| e.to_string()))
}

/// How long a query may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Why a session has no answer.
enum Failure {
    Told(Error),
    Panicked(&'static str),
    Hangs(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(error) => write!(f, "{error}"),
            Self::Panicked(whence) => write!(f, "panicked in {whence}"),
            Self::Hangs(status) => write!(f, "still runs after {LIMIT:?}: {status}"),
        }
    }
}

fn on_session(query: &LazyFrame, session: &Session) -> Result<DataFrame, Failure> {
    let submit = || session.submit(query.clone());
    let submitted = catch_unwind(AssertUnwindSafe(submit)).map_err(|_| Failure::Panicked("submit"))?;
    let mut run = submitted.map_err(Failure::Told)?;
    let (sender, result) = sync_channel(1);
    let batches = run.batches();
    let schema = Arc::clone(run.schema());
    thread::spawn(move || {
        let mut whole = DataFrame::empty_with_schema(&schema);
        let collected = batches.into_iter().try_for_each(|batch| {
            whole.vstack_mut_owned(batch?)?;
            Ok::<_, Error>(())
        });
        sender.send(collected.map(|()| whole))
    });
    match result.recv_timeout(LIMIT) {
        Ok(result) => result.map_err(Failure::Told),
        Err(RecvTimeoutError::Disconnected) => Err(Failure::Panicked("collect")),
        Err(RecvTimeoutError::Timeout) => {
            Err(Failure::Hangs(format!("{:?}\n{}", run.status(), session.status().unwrap())))
        }
    }
}

/// The same while a worker is killed: which, and when within the time that it took undisturbed, is the seed's.
fn with_a_loss(seed: u64, took: Duration, query: &LazyFrame, cluster: &TestCluster) -> Result<DataFrame, Failure> {
    let mut dice = Rng::new(!seed);
    let after = took.mul_f64(dice.below(1000) as f64 / 900.0);
    let there = cluster.session().status().unwrap().workers;
    let victim = there.get(dice.below(there.len().max(1))).map(|worker| worker.worker);
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(after);
            // One that has just been lost, or replaced, is not there any more.
            victim.into_iter().for_each(|victim| drop(cluster.kill(victim)));
        });
        on_session(query, cluster.session())
    })
}

#[derive(Default)]
struct Tally {
    equal: usize,
    refused: usize,
    /// Queries that Polars' engines answer differently, which must be ours to mend.
    engines_differ: Vec<u64>,
    /// Queries that lost a worker, and those of them that had given out what could not be made again.
    killed: (usize, usize),
    failed: Vec<String>,
}

/// One seed, on both engines of Polars, natively and on workers.
fn run(seed: u64, native: &Session, cluster: &TestCluster, kills: bool, tally: &mut Tally) {
    let sessions = [("native", native), ("on workers", cluster.session())];
    let folder = tempfile::tempdir().unwrap();
    let Query { frame, ordered, approximate, words } = Query::random(&mut Rng::new(seed), folder.path());
    if std::env::var("RANDOM_PLANS").is_ok() {
        // Before it runs: it may hang.
        println!("seed {seed}: {words}");
    }
    let approximate: Vec<_> = approximate.iter().map(PlSmallStr::as_str).collect();
    // Polars overlooks some observers of an order, so that any order will do for them: its answer is that of the query as it
    // stands.
    let flags = frame.get_current_optimizations() - OptFlags::CHECK_ORDER_OBSERVE;
    let memory = on_polars(&frame.clone().with_optimizations(flags), Engine::InMemory);
    let streaming = on_polars(&frame, Engine::Streaming);
    let compare = |ours: Result<&DataFrame, &dyn fmt::Display>, plain: &DataFrame| match ours {
        Ok(ours) => difference(ours, plain, ordered, &approximate),
        Err(error) => Some(format!("fails: {error}")),
    };
    let plain = match &memory {
        Ok(plain) => plain,
        Err(error) => {
            println!("seed {seed} fails on Polars itself: {}", error.lines().next().unwrap_or_default());
            tally.refused += 1;
            // It may be that not all of it is run; it must come to an end.
            sessions.into_iter().for_each(|(_, session)| drop(on_session(&frame, session)));
            return;
        }
    };
    let engines = compare(streaming.as_ref().map_err(|error| error as _), plain);
    if engines.is_some() {
        tally.engines_differ.push(seed);
    }
    let mut report = String::new();
    let mut differs = |place: &str, ours: &Result<DataFrame, Failure>| {
        if let Some(difference) = compare(ours.as_ref().map_err(|error| error as _), plain) {
            let _ = writeln!(report, "--- {place}: {difference}");
            if let Ok(explain) = cluster.session().explain(&frame) {
                let _ = writeln!(report, "{explain}");
            }
        }
    };
    let mut took = Duration::ZERO;
    for (place, session) in sessions {
        let began = Instant::now();
        differs(place, &on_session(&frame, session));
        took = began.elapsed();
    }
    if kills {
        tally.killed.0 += 1;
        match with_a_loss(seed, took, &frame, cluster) {
            Err(Failure::Told(Error::MadeOtherwise(_))) => tally.killed.1 += 1,
            ours => differs("on workers of which one is killed", &ours),
        }
    }
    if report.is_empty() {
        tally.equal += 1;
        return;
    }
    let plan = frame.describe_optimized_plan().unwrap_or_default();
    let engines = engines.unwrap_or_else(|| "answers the same".to_owned());
    tally.failed.push(format!(
        "seed {seed}: {words}\n{plan}\nPolars' streaming engine {engines}\n{report}repeat it: \
         RANDOM_PLANS={seed} cargo test --workspace --test random_plans -- --nocapture\n"
    ));
}

/// Polars plans by recursion, in a debug build with large frames.
const STACK: usize = 64 << 20;

#[test]
fn random_queries_are_answered_as_by_polars_natively_and_on_two_workers() {
    small_morsels();
    let all = thread::Builder::new().stack_size(STACK).spawn(run_all).unwrap();
    all.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn run_all() {
    let workers = std::env::var("RANDOM_PLANS_WORKERS").map_or(2, |workers| workers.parse().unwrap());
    let (native, cluster) = (Session::native().unwrap(), TestCluster::start(workers).unwrap());
    let kills = |seed: u64| seed % 10 == 7 || std::env::var("RANDOM_PLANS_KILLS").is_ok();
    let (seeds, mut tally, began) = (seeds(), Tally::default(), Instant::now());
    let mut said = began;
    for (done, seed) in seeds.iter().enumerate() {
        run(*seed, &native, &cluster, kills(*seed), &mut tally);
        if said.elapsed() > Duration::from_secs(30) {
            said = Instant::now();
            println!("{} seeds of {}, {} failed", done + 1, seeds.len(), tally.failed.len());
        }
    }
    let Tally { equal, refused, engines_differ, killed, failed } = tally;
    println!("{} seeds in {:?}: {equal} equal, {refused} that Polars fails at", seeds.len(), began.elapsed());
    println!("Polars' engines differ at {engines_differ:?}");
    println!("{} with a worker killed, of which {} ended with MadeOtherwise", killed.0, killed.1);
    assert!(failed.is_empty(), "{} of {} seeds fail\n{}", failed.len(), seeds.len(), failed.join("\n"));
    assert!(refused * 4 <= seeds.len().max(10), "too many queries fail on Polars itself: {refused}");
    eventually("nothing is left", || native.partitions_held() + cluster.session().partitions_held() == 0);
}
