//! Random queries over random tables: a session answers as plain Polars does.
//!
//! `RANDOM_PLANS=17` runs one seed, `RANDOM_PLANS=0..5000` many; unset, a few. A seed that fails prints the line that repeats it.
//! `RANDOM_PLANS_WORKERS=4` runs them on as many workers in place of two; `REGATTA_TEST_SHAPES=broadcast` (or `hash`, `one_section`
//! or `shared`) forces the shapes of stages, whatever the sizes.

mod exprs;
mod queries;
mod rng;
mod tables;
mod udfs;

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use regatta::Session;
use regatta::polars::prelude::*;
use regatta::testing::difference;

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
const LIMIT: Duration = Duration::from_secs(30);

fn on_session(query: &LazyFrame, session: &Session) -> Result<DataFrame, String> {
    let submit = || session.submit(query.clone());
    let mut run =
        catch_unwind(AssertUnwindSafe(submit)).map_err(|_| "panicked in submit")?.map_err(|e| e.to_string())?;
    let (sender, result) = sync_channel(1);
    let batches = run.batches();
    let schema = Arc::clone(run.schema());
    thread::spawn(move || {
        let mut whole = DataFrame::empty_with_schema(&schema);
        let collected = batches.into_iter().try_for_each(|batch| {
            let batch = batch.map_err(|e| e.to_string())?;
            whole.vstack_mut_owned(batch).map(drop).map_err(|e| e.to_string())
        });
        sender.send(collected.map(|()| whole))
    });
    match result.recv_timeout(LIMIT) {
        Ok(result) => result,
        Err(RecvTimeoutError::Disconnected) => Err("panicked in collect".to_owned()),
        Err(RecvTimeoutError::Timeout) => {
            Err(format!("still runs after {LIMIT:?}: {:?}\n{}", run.status(), session.status().unwrap()))
        }
    }
}

#[derive(Default)]
struct Tally {
    equal: usize,
    refused: usize,
    /// Queries that Polars' engines answer differently, which must be ours to mend.
    engines_differ: Vec<u64>,
    failed: Vec<String>,
}

/// One seed, on both engines of Polars and on the sessions.
fn run(seed: u64, sessions: &[(&str, &Session)], tally: &mut Tally) {
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
    let compare = |ours: &Result<DataFrame, String>, plain: &DataFrame| match ours {
        Ok(ours) => difference(ours, plain, ordered, &approximate),
        Err(error) => Some(format!("fails: {error}")),
    };
    let plain = match &memory {
        Ok(plain) => plain,
        Err(error) => {
            println!("seed {seed} fails on Polars itself: {}", error.lines().next().unwrap_or_default());
            tally.refused += 1;
            // It may be that not all of it is run; it must come to an end.
            sessions.iter().for_each(|(_, session)| drop(on_session(&frame, session)));
            return;
        }
    };
    let engines = compare(&streaming, plain);
    if engines.is_some() {
        tally.engines_differ.push(seed);
    }
    let mut report = String::new();
    for (place, session) in sessions {
        if let Some(difference) = compare(&on_session(&frame, session), plain) {
            let _ = writeln!(report, "--- {place}: {difference}");
            if let Ok(explain) = session.explain(&frame) {
                let _ = writeln!(report, "{explain}");
            }
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
    let (native, local) = (Session::native().unwrap(), Session::local(workers).unwrap());
    let (seeds, mut tally, began) = (seeds(), Tally::default(), Instant::now());
    let mut said = began;
    for (done, seed) in seeds.iter().enumerate() {
        run(*seed, &[("native", &native), ("on workers", &local)], &mut tally);
        if said.elapsed() > Duration::from_secs(30) {
            said = Instant::now();
            println!("{} seeds of {}, {} failed", done + 1, seeds.len(), tally.failed.len());
        }
    }
    let Tally { equal, refused, engines_differ, failed } = tally;
    println!("{} seeds in {:?}: {equal} equal, {refused} that Polars fails at", seeds.len(), began.elapsed());
    println!("Polars' engines differ at {engines_differ:?}");
    assert!(failed.is_empty(), "{} of {} seeds fail\n{}", failed.len(), seeds.len(), failed.join("\n"));
    assert!(refused * 4 <= seeds.len().max(10), "too many queries fail on Polars itself: {refused}");
    assert_eq!(native.partitions_held() + local.partitions_held(), 0, "nothing is left");
}
