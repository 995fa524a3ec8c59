//! A whole cluster in one thread, on virtual time and a simulated network: what it does is drawn from a seed, and is the same whenever
//! that is run. `docs/book/src/simulation.md` says how it is used and what it leaves out.
//!
//! Each seed runs in a process of its own, for Polars counts what it makes in one for all queries, and what is random is to follow the
//! seed there.
//!
//! `SIMULATION=17` or `3,17` runs these seeds (and `RUST_LOG=regatta=debug` says what it does; `regatta_remote::network=trace` each
//! packet), `SIMULATION=0..5000` many; unset, those of the ordinary tests. A seed that fails prints the line that repeats it.

#[path = "../random_plans/exprs.rs"]
mod exprs;
mod faults;
mod processes;
mod queries;
#[path = "../random_plans/queries.rs"]
mod random;
mod randomness;
#[path = "../random_plans/rng.rs"]
mod rng;
mod scale;
mod sweep;
#[path = "../random_plans/tables.rs"]
mod tables;
#[path = "../random_plans/udfs.rs"]
mod udfs;
mod world;

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use faults::{Fault, When};
use sweep::Kill;
use world::{Directed, Outcome, simulate};

/// Seeds of the ordinary tests, and those of others that have found what none of these did.
const SEEDS: u64 = 200;
const FOUND: [u64; 4] = [40265, 49468, 50667, 51124];
/// Polars plans by recursion, in a debug build with large frames.
const STACK: usize = 64 << 20;
/// Says in a process of its own which seed it runs.
const SEED: &str = "SIMULATION_SEED";
/// In real time: a seed takes a fraction of a second.
const STUCK: Duration = Duration::from_secs(300);

fn seeds() -> Vec<u64> {
    let Ok(asked) = std::env::var("SIMULATION") else { return (0..SEEDS).chain(FOUND).collect() };
    let number = |text: &str| text.parse().unwrap_or_else(|e| panic!("SIMULATION={asked}: {e}"));
    match asked.split_once("..") {
        Some((from, to)) => (number(from)..number(to)).collect(),
        None => asked.split(',').map(number).collect(),
    }
}

fn on_a_large_stack(seed: u64, directed: Option<Directed>) -> Outcome {
    let run = thread::Builder::new().stack_size(STACK).spawn(move || simulate(seed, directed));
    run.unwrap().join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A seed, or what its drivers ask for with one fault only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    seed: u64,
    kill: Option<Kill>,
}

/// What a process of its own says of a seed.
#[derive(Debug, PartialEq)]
struct Told {
    answered: usize,
    errors: usize,
    faults: usize,
    moments: usize,
    took: Duration,
    /// The whole outcome; none if nothing is wrong with it.
    problem: Option<String>,
    trace: String,
}

impl Told {
    fn of(said: &str) -> Option<Self> {
        let rest = said.lines().find_map(|line| line.strip_prefix("outcome "))?;
        let (counts, whole) = rest.split_once(" | ")?;
        let counts: Vec<usize> = counts.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [answered, errors, faults, moments, millis, problems] = counts[..] else { return None };
        let (took, trace) = (Duration::from_millis(millis as u64), whole.to_owned());
        Some(Self { answered, errors, faults, moments, took, problem: (problems > 0).then(|| whole.to_owned()), trace })
    }

    /// Of one that has said nothing of it.
    fn failed(why: &str, said: &str) -> Self {
        let problem = Some(format!(
            "{why}; the end of what it said:\n{}",
            &said[said.floor_char_boundary(said.len().saturating_sub(3000))..]
        ));
        let (answered, errors, faults, moments) = (0, 0, 0, 0);
        Self { answered, errors, faults, moments, took: Duration::ZERO, problem, trace: String::new() }
    }
}

/// In the process that runs it; else nothing.
#[test]
fn one_seed() {
    let Ok(seed) = std::env::var(SEED) else { return };
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).without_time().try_init();
    let seed = seed.parse().unwrap();
    randomness::follows(seed);
    let outcome = on_a_large_stack(seed, Kill::asked().map(Kill::directs));
    let Outcome { faults, answered, errors, problems, moments, took, .. } = &outcome;
    let (errors, faults, problems) = (errors.len(), faults.len(), problems.len());
    println!("\noutcome {answered} {errors} {faults} {moments} {} {problems} | {outcome:?}", took.as_millis());
}

fn run(Run { seed, kill }: Run, aloud: bool) -> Told {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("said");
    let said = File::create(&path).unwrap();
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["simulation::one_seed", "--exact", "--nocapture"]).env(SEED, seed.to_string()).stdin(Stdio::null());
    process.envs(kill.map(|kill| (sweep::KILL, kill.to_string())));
    let mut process = process.stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap();
    let began = Instant::now();
    let ended = loop {
        match process.try_wait().unwrap() {
            Some(_) => break true,
            None if began.elapsed() > STUCK => break false,
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    if !ended {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let said = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
    if aloud {
        println!("{said}");
    }
    match ended {
        true => Told::of(&said).unwrap_or_else(|| Told::failed("it panicked", &said)),
        false => Told::failed("it is stuck", &said),
    }
}

/// Runs all of them, as many at once as there are CPUs, says what is wrong with which, and asserts that nothing is.
fn all_hold(runs: &[Run]) {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let began = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(runs.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let told = self::run(*run, runs.len() == 1);
                    if let Some(problem) = &told.problem {
                        println!("seed {}: {problem}\nrepeat it: {}\n", run.seed, run.repeats());
                    }
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((*run, told));
                    if done.len().is_multiple_of(500) {
                        println!("{} runs of {} in {:?}", done.len(), runs.len(), began.elapsed());
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let count = |of: fn(&Told) -> usize| done.iter().map(|(_, told)| of(told)).sum::<usize>();
    println!(
        "{} runs in {:?}, of {:?} in virtual time: {} faults, {} queries answered as by Polars, {} ended with an error",
        done.len(),
        began.elapsed(),
        done.iter().map(|(_, told)| told.took).sum::<Duration>(),
        count(|told| told.faults),
        count(|told| told.answered),
        count(|told| told.errors),
    );
    done.retain(|(_, told)| told.problem.is_some());
    let mut failed: Vec<_> = done.iter().map(|(run, _)| run.name()).collect();
    failed.sort_unstable();
    assert!(failed.is_empty(), "{} of these fail: {}", failed.len(), failed.join(", "));
}

impl Run {
    fn name(self) -> String {
        let Self { seed, kill } = self;
        kill.map_or_else(|| seed.to_string(), |kill| format!("{seed} {}={kill}", sweep::KILL))
    }

    /// The command that repeats it.
    fn repeats(self) -> String {
        let Self { seed, kill } = self;
        let kill = kill.map(|kill| format!("{}={kill} ", sweep::KILL)).unwrap_or_default();
        format!("{kill}{SEED}={seed} cargo test --workspace --lib simulation::one_seed -- --nocapture")
    }
}

#[test]
fn whatever_fails_answers_are_right_or_errors_name_a_fault_and_nothing_is_left() {
    let runs: Vec<_> = seeds().into_iter().map(|seed| Run { seed, kill: None }).collect();
    all_hold(&runs);
}

#[test]
fn the_same_seed_is_the_same_run_packet_for_packet() {
    // In the last one more tasks than in others wait for the same connection.
    for seed in (0..6).chain([22]) {
        let [one, other] = [(); 2].map(|()| run(Run { seed, kill: None }, false));
        assert!(!one.trace.is_empty(), "seed {seed}: {one:?}");
        assert_eq!(one, other, "seed {seed}");
    }
}

/// So many are silent at once that nobody is declared dead; what is asked of the head meanwhile has its deadline all the same.
#[test]
fn a_replica_whose_last_word_the_head_has_not_heard_is_not_charged_for_ever() {
    for seed in 0..6 {
        let when = When::After(Duration::from_millis(150 + 250 * seed));
        let faults = vec![(when, Fault::FreezeMost { time: Duration::from_secs(15) })];
        let outcome = on_a_large_stack(seed, Some(Directed { workers: 5, udfs: true, faults }));
        assert!(outcome.problems.is_empty(), "seed {seed}: {outcome:#?}");
    }
}
