//! A whole cluster in one thread, on virtual time and a simulated network: what it does is drawn from a seed, and is the same whenever
//! that is run. `docs/simulation.md` says how it is used and what it leaves out.
//!
//! `SIMULATION=17` or `3,17` runs these seeds (and `RUST_LOG=regatta=debug` says what it does; `regatta_remote::network=trace` each packet), `SIMULATION=0..5000` many; unset, those of the ordinary tests. A seed that fails prints the line that
//! repeats it.

#[path = "../random_plans/exprs.rs"]
mod exprs;
mod faults;
mod processes;
mod queries;
#[path = "../random_plans/queries.rs"]
mod random;
#[path = "../random_plans/rng.rs"]
mod rng;
mod scale;
#[path = "../random_plans/tables.rs"]
mod tables;
#[path = "../random_plans/udfs.rs"]
mod udfs;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use faults::Fault;
use world::{Directed, Outcome, simulate};

/// Seeds of the ordinary tests.
const SEEDS: u64 = 200;
/// Polars plans by recursion, in a debug build with large frames.
const STACK: usize = 64 << 20;

fn seeds() -> Vec<u64> {
    let Ok(asked) = std::env::var("SIMULATION") else { return (0..SEEDS).collect() };
    let number = |text: &str| text.parse().unwrap_or_else(|e| panic!("SIMULATION={asked}: {e}"));
    match asked.split_once("..") {
        Some((from, to)) => (number(from)..number(to)).collect(),
        None => asked.split(',').map(number).collect(),
    }
}

/// In real time: a seed takes a fraction of a second.
const STUCK: Duration = Duration::from_secs(120);

/// Runs a seed on a thread of its own: what it leaves in thread-locals goes with it.
fn on_a_thread(seed: u64, directed: Option<Directed>) -> Outcome {
    let (sender, result) = sync_channel(1);
    let run = thread::Builder::new().stack_size(STACK).spawn(move || sender.send(simulate(seed, directed)));
    run.unwrap();
    let failed = |why: String| Outcome { problems: vec![why], ..Outcome::default() };
    match result.recv_timeout(STUCK) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Disconnected) => failed("it panicked".to_owned()),
        Err(RecvTimeoutError::Timeout) => failed(format!("it has not ended within {STUCK:?} of real time")),
    }
}

fn report(seed: u64, outcome: &Outcome) {
    println!(
        "seed {seed}: {}\nafter {:?}\nrepeat it: SIMULATION={seed} cargo test --workspace --lib simulation -- --nocapture\n",
        outcome.problems.join("\n"),
        outcome.faults
    );
}

#[test]
fn whatever_fails_answers_are_right_or_errors_name_a_fault_and_nothing_is_left() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_ansi(false)
        .without_time()
        .try_init();
    let (seeds, next, done) = (seeds(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let began = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(seeds.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = on_a_thread(*seed, None);
                    if seeds.len() == 1 {
                        println!("{outcome:?}");
                    }
                    if !outcome.problems.is_empty() {
                        report(*seed, &outcome);
                    }
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((*seed, outcome));
                    if done.len().is_multiple_of(500) {
                        let failed = done.iter().filter(|(_, outcome)| !outcome.problems.is_empty()).count();
                        println!("{} seeds of {} in {:?}, {failed} failed", done.len(), seeds.len(), began.elapsed());
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let count = |of: fn(&Outcome) -> usize| done.iter().map(|(_, outcome)| of(outcome)).sum::<usize>();
    let virtual_time: Duration = done.iter().map(|(_, outcome)| outcome.took).sum();
    println!(
        "{} seeds in {:?}, of {virtual_time:?} in virtual time: {} faults, {} queries answered as by Polars, {} ended with an error",
        done.len(),
        began.elapsed(),
        count(|outcome| outcome.faults.len()),
        count(|outcome| outcome.answered),
        count(|outcome| outcome.errors.len()),
    );
    let mut failed: Vec<_> = done.iter().filter(|(_, outcome)| !outcome.problems.is_empty()).collect();
    failed.sort_by_key(|(seed, _)| *seed);
    let failed: Vec<_> = failed.into_iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{} of {} seeds fail: {failed:?}", failed.len(), done.len());
}

#[test]
fn the_same_seed_is_the_same_run_packet_for_packet() {
    for seed in 0..8 {
        let (one, other) = (on_a_thread(seed, None), on_a_thread(seed, None));
        assert_eq!(one, other, "seed {seed}");
    }
}

/// So many are silent at once that nobody is declared dead; what is asked of the head meanwhile has its deadline all the same.
#[test]
fn a_replica_whose_last_word_the_head_has_not_heard_is_not_charged_for_ever() {
    for seed in 0..24 {
        let faults =
            vec![(Duration::from_millis(150 + 90 * seed), Fault::FreezeMost { time: Duration::from_secs(15) })];
        let outcome = on_a_thread(seed, Some(Directed { workers: 5, udfs: true, faults }));
        assert!(outcome.problems.is_empty(), "seed {seed}: {outcome:#?}");
    }
}
