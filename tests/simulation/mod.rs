//! A whole cluster in one thread, on virtual time and a simulated network: what it does is drawn from a seed, and is the same whenever
//! that is run. `docs/simulation.md` says how it is used and what it leaves out.
//!
//! `SIMULATION=17` runs one seed, `SIMULATION=0..5000` many; unset, those of the ordinary tests. A seed that fails prints the line that
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
#[path = "../random_plans/tables.rs"]
mod tables;
#[path = "../random_plans/udfs.rs"]
mod udfs;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use world::{Outcome, simulate};

/// Seeds of the ordinary tests.
const SEEDS: u64 = 200;
/// Polars plans by recursion, in a debug build with large frames.
const STACK: usize = 64 << 20;

fn seeds() -> Vec<u64> {
    let Ok(asked) = std::env::var("SIMULATION") else { return (0..SEEDS).collect() };
    let number = |text: &str| text.parse().unwrap_or_else(|e| panic!("SIMULATION={asked}: {e}"));
    match asked.split_once("..") {
        Some((from, to)) => (number(from)..number(to)).collect(),
        None => vec![number(&asked)],
    }
}

/// Runs a seed on a thread of its own: what it leaves in thread-locals goes with it.
fn on_a_thread(seed: u64) -> Outcome {
    let run = thread::Builder::new().stack_size(STACK).spawn(move || simulate(seed));
    run.unwrap().join().unwrap_or_else(|_| Outcome { problems: vec!["it panicked".to_owned()], ..Outcome::default() })
}

#[test]
fn whatever_fails_answers_are_right_or_errors_name_a_fault_and_nothing_is_left() {
    let (seeds, next, done) = (seeds(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let began = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(seeds.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = on_a_thread(*seed);
                    if seeds.len() == 1 {
                        println!("{outcome:#?}");
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
    for (seed, outcome) in &failed {
        println!(
            "seed {seed}: {}\nafter {:#?}\nrepeat it: SIMULATION={seed} cargo test --workspace --lib simulation -- --nocapture\n",
            outcome.problems.join("\n"),
            outcome.faults
        );
    }
    assert!(failed.is_empty(), "{} of {} seeds fail", failed.len(), done.len());
}

#[test]
fn the_same_seed_is_the_same_run_packet_for_packet() {
    for seed in 0..8 {
        let (one, other) = (on_a_thread(seed), on_a_thread(seed));
        assert_eq!(one, other, "seed {seed}");
    }
}
