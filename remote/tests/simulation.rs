//! Faults by seed: whatever the network does, what `docs/semantics.md` promises holds.

mod common;

use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use regatta_remote::sim::{Faults, Sim, Trace};
use regatta_remote::*;
use tokio::time::{Instant, sleep, timeout};

/// Seeds of an ordinary run; `REGATTA_SEEDS` asks for more, `REGATTA_SEED` for one.
const SEEDS: u64 = 60;
const WORKERS: u32 = 2;
const STEPS: u32 = 30;
const MAILBOX: usize = 4;
/// Any call ends within its deadline and this.
const SLACK: Duration = Duration::from_millis(500);
/// Notes carry their sender and a number that grows.
const SENDER: u32 = 1 << 20;

#[test]
fn guarantees_hold_under_faults_of_every_seed() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("REGATTA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("REGATTA_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| World::simulated(seed, storm))) {
            eprintln!("seed {seed} failed; again with:");
            eprintln!("REGATTA_SEED={seed} cargo test -p regatta-remote --test simulation guarantees -- --nocapture");
            resume_unwind(panic);
        }
    }
}

#[test]
fn one_seed_gives_one_trace() {
    for seed in [3, 4] {
        let first = World::simulated(seed, storm);
        assert!(first.sent > 500 && first.lost > 0, "{first:?}");
        assert_eq!(World::simulated(seed, storm), first, "seed {seed}");
    }
    assert_ne!(World::simulated(3, storm), World::simulated(4, storm));
}

#[test]
fn a_partition_ends_what_it_cuts_and_a_short_one_does_not() {
    World::simulated(9, |world| async move {
        let sim = world.sim.clone().unwrap();
        let pair = Pair::new(&world, 4).await;
        let hosts = (host(&pair.head), host(&pair.worker));
        let actor = pair.remote();
        sim.partition(hosts.0, hosts.1);
        let asking = world.spawn({
            let actor = actor.clone();
            async move { actor.ask(Echo("short".into()), SOON).await }
        });
        sleep(Duration::from_secs(2)).await;
        sim.heal(hosts.0, hosts.1);
        assert_eq!(asking.await.unwrap().unwrap(), "short");
        sim.partition(hosts.0, hosts.1);
        let error = actor.ask(Echo("long".into()), 100 * SOON).await.unwrap_err();
        assert!(matches!(error, AskError::ConnectionLost { .. }), "{error}");
        sim.heal(hosts.0, hosts.1);
        pair.settled().await;
    });
}

#[test]
fn a_paused_host_answers_when_it_goes_on() {
    World::simulated(10, |world| async move {
        let sim = world.sim.clone().unwrap();
        let pair = Pair::new(&world, 4).await;
        sim.pause(host(&pair.head));
        let error = pair.remote().ask(Note(1), Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, AskError::Deadline) && error.may_have_run(), "{error}");
        assert!(pair.seen.notes.lock().unwrap().is_empty());
        sim.resume(host(&pair.head));
        assert_eq!(pair.remote().ask(Echo("b".into()), SOON).await.unwrap(), "b");
        pair.settled().await;
    });
}

/// Workers do things by chance while the network does, then all is calm and nothing may be left.
async fn storm(world: World) -> Trace {
    let sim = world.sim.clone().unwrap();
    let authority = world.authority();
    let head = world.bind(&authority, Role::Head);
    let arbiter = world.runtime.arbiter().unwrap();
    let seen = Seen::default();
    let actor = arbiter.spawn(MAILBOX, {
        let seen = seen.clone();
        move |_| Tester(seen)
    });
    head.publish(ECHO, &actor).on::<Echo>(&[Role::Worker]).on::<Note>(&[Role::Worker]).on::<Wait>(&[Role::Worker]);
    head.serve_data(Arc::new(Numbers));
    let workers: Vec<Node> = (0..WORKERS).map(|_| world.bind(&authority, Role::Worker)).collect();
    let working: Vec<_> = (0..)
        .zip(&workers)
        .map(|(number, node)| {
            let worker = Worker { number, node: node.clone(), head: head.clone(), sim: sim.clone(), told: Vec::new() };
            world.spawn(worker.work())
        })
        .collect();
    let weather = world.spawn(weather(sim.clone(), host(&head), workers.iter().map(host).collect()));
    let mut told = Vec::new();
    for worker in working {
        told.push(timeout(Duration::from_secs(3600), worker).await.expect("a worker hangs").unwrap());
    }
    weather.await.unwrap();

    let end = Instant::now() + Duration::from_secs(120);
    let left = || -> Vec<InHand> { workers.iter().chain([&head]).map(Node::in_hand).collect() };
    while left().iter().any(|left| *left != InHand::default()) || actor.room() < actor.places() {
        assert!(Instant::now() < end, "left over: {:?}, {} of {} places", left(), actor.room(), actor.places());
        sleep(Duration::from_millis(100)).await;
    }
    let notes = seen.notes.lock().unwrap().clone();
    for (number, told) in (0..).zip(told) {
        let came: Vec<u32> = notes.iter().filter(|note| *note / SENDER == number).map(|note| note % SENDER).collect();
        assert!(came.is_sorted_by(|a, b| a < b), "twice or out of order: {came:?}");
        for (note, fate) in told {
            let ran = came.contains(&note);
            assert!(fate != Fate::Ran || ran, "note {note} was answered and has not run");
            assert!(fate != Fate::NotRun || !ran, "note {note} was refused and has run");
        }
    }
    for worker in &workers {
        worker.close(SOON).await;
    }
    sim.trace()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Ran,
    NotRun,
    Unknown,
}

struct Worker {
    number: u32,
    node: Node,
    head: Node,
    sim: Sim,
    told: Vec<(u32, Fate)>,
}

impl Worker {
    async fn work(mut self) -> Vec<(u32, Fate)> {
        for step in 0..STEPS {
            let deadline = Duration::from_millis(50 + self.sim.random(3000));
            if self.node.peers().is_empty() {
                let there = self.head.address().unwrap();
                let connected = self.timed(deadline, self.node.connect(there, deadline)).await;
                assert!(matches!(&connected, Ok(_) | Err(ConnectError::Deadline | ConnectError::Failed(_))));
            }
            self.step(step, deadline).await;
            sleep(Duration::from_millis(self.sim.random(400))).await;
        }
        self.told
    }

    async fn step(&mut self, step: u32, deadline: Duration) {
        let actor = self.node.actor::<Tester>(Address { node: self.head.id(), actor: ECHO });
        match self.sim.random(6) {
            0 => {
                let text = "x".repeat(self.sim.random(20_000) as usize) + &step.to_string();
                let asked = self.timed(deadline, actor.ask(Echo(text.clone()), deadline)).await;
                assert!(asked.is_err() || asked.is_ok_and(|answer| answer == text), "another's answer");
            }
            1 | 2 => {
                let note = Note(self.number * SENDER + step);
                let fate = match self.timed(deadline, actor.ask(note, deadline)).await {
                    Ok(()) => Fate::Ran,
                    Err(error) if error.may_have_run() => Fate::Unknown,
                    Err(_) => Fate::NotRun,
                };
                self.told.push((step, fate));
            }
            3 => {
                let note = Note(self.number * SENDER + step);
                let told = self.timed(deadline, actor.tell(note, deadline)).await;
                self.told.push((step, if told.is_ok() { Fate::Unknown } else { Fate::NotRun }));
            }
            4 => {
                // Nobody opens the gate: it ends by its deadline, or because we drop it.
                let waited = timeout(Duration::from_millis(self.sim.random(1000)), actor.ask(Wait, deadline)).await;
                assert!(!matches!(waited, Ok(Ok(()))));
            }
            _ => self.fetch(deadline).await,
        }
    }

    async fn fetch(&self, deadline: Duration) {
        let size = self.sim.random(300_000) as u32;
        let ticket = Bytes::copy_from_slice(&size.to_le_bytes());
        let Ok(mut fetch) = self.timed(deadline, self.node.fetch(self.head.id(), ticket, deadline)).await else {
            return;
        };
        assert_eq!(fetch.total(), u64::from(size));
        if self.sim.random(3) == 0 {
            let _ = timeout(deadline, fetch.next()).await;
            return; // dropped half way
        }
        if let Ok(all) = fetch.collect().await {
            assert!(all.len() == size as usize && all.iter().enumerate().all(|(at, byte)| *byte == at as u8));
        }
    }

    async fn timed<T>(&self, deadline: Duration, future: impl Future<Output = T>) -> T {
        timeout(deadline + SLACK, future).await.expect("past its deadline")
    }
}

/// Partitions, pauses, loss and lateness by the seed; calm at the end.
async fn weather(sim: Sim, head: IpAddr, workers: Vec<IpAddr>) {
    for _ in 0..8 {
        let loss = sim.random(60_000) as u32;
        let late = sim.random(30_000) as u32;
        sim.set(Faults { loss, late, ..Faults::default() });
        let worker = workers[sim.random(workers.len() as u64) as usize];
        let time = Duration::from_millis(sim.random(if sim.random(4) == 0 { 15_000 } else { 2_000 }));
        match sim.random(4) {
            0 => {
                sim.partition(head, worker);
                sleep(time).await;
                sim.heal(head, worker);
            }
            1 => {
                sim.pause(worker);
                sleep(time).await;
                sim.resume(worker);
            }
            _ => sleep(time).await,
        }
    }
    sim.set(Faults::default());
}

fn host(node: &Node) -> IpAddr {
    node.address().unwrap().ip()
}

/// Serves as many bytes as the ticket says.
struct Numbers;

struct Reader {
    total: u32,
    at: u32,
}

impl DataSource for Numbers {
    fn open(&self, ticket: &[u8], _: NodeId) -> Result<Box<dyn DataReader>, String> {
        let total = u32::from_le_bytes(ticket.try_into().map_err(|_| "bad ticket")?);
        Ok(Box::new(Reader { total, at: 0 }))
    }

    fn delivered(&self, _: &[u8], _: NodeId) {}
}

impl DataReader for Reader {
    fn total(&self) -> u64 {
        u64::from(self.total)
    }

    fn read(&mut self, max: usize) -> io::Result<Bytes> {
        let end = self.total.min(self.at.saturating_add(max as u32));
        let bytes = (self.at..end).map(|at| at as u8).collect();
        self.at = end;
        Ok(bytes)
    }
}
