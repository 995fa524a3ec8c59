//! Faults by seed: whatever the network does, what `docs/book/src/semantics.md` promises holds.

mod common;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use common::*;
use regatta_remote::sim::{Faults, Sim, Trace};
use regatta_remote::*;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Seeds of an ordinary run; `REGATTA_SEEDS` asks for more, `REGATTA_SEED` for one.
const SEEDS: u64 = 40;
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
    let mut ended = 0;
    let count = seeds.end - seeds.start;
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| World::simulated(seed, storm))) {
            Ok((_, watches)) => ended += watches,
            Err(panic) => {
                eprintln!("seed {seed} failed; again with:");
                eprintln!(
                    "REGATTA_SEED={seed} cargo test -p regatta-remote --test simulation guarantees -- --nocapture"
                );
                resume_unwind(panic);
            }
        }
    }
    assert!(count < 10 || ended as u64 > count, "{ended} watches ended with their actor in {count} storms");
}

#[test]
fn one_seed_gives_one_trace() {
    for seed in [3, 4] {
        let (first, watches) = World::simulated(seed, storm);
        assert!(first.sent > 500 && first.lost > 0, "{first:?}");
        assert_eq!(World::simulated(seed, storm), (first, watches), "seed {seed}");
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
fn a_silent_peer_is_suspect_and_recovers_or_is_dead_for_good() {
    World::simulated(11, |world| async move {
        let sim = world.sim.clone().unwrap();
        let authority = world.authority();
        let head = world.bind(&authority, Role::Head);
        let worker = world.bind(&authority, Role::Worker);
        let there = head.address().unwrap();
        let hosts = (host(&head), host(&worker));
        worker.connect(there, SOON).await.unwrap();
        eventually("leases", || worker.is_leased(head.id()) && head.is_leased(worker.id())).await;
        let mut at_head = head.events();
        let mut at_worker = worker.events();
        let (head_id, worker_id) = (head.id(), worker.id());
        let suspect = |event: PeerEvent, node: NodeId| matches!(event, PeerEvent::Suspect(peer) if peer.node == node);

        // Calm for a minute: nobody is suspected. Then five seconds apart: suspects, who recover.
        sleep(Duration::from_secs(60)).await;
        assert!(at_head.try_recv().is_none() && at_worker.try_recv().is_none());
        sim.partition(hosts.0, hosts.1);
        sleep(Duration::from_secs(5)).await;
        sim.heal(hosts.0, hosts.1);
        for (events, of) in [(&mut at_head, worker_id), (&mut at_worker, head_id)] {
            assert!(suspect(events.recv().await.unwrap(), of));
            let event = events.recv().await.unwrap();
            assert!(matches!(event, PeerEvent::Recovered(peer) if peer.node == of), "{event:?}");
        }
        sleep(Duration::from_secs(5)).await;
        assert!(worker.is_leased(head_id));

        // Apart for good. The worker's lease ends before the head gives it up.
        sim.partition(hosts.0, hosts.1);
        let cut = Instant::now();
        assert!(suspect(at_worker.recv().await.unwrap(), head_id));
        assert!(suspect(at_head.recv().await.unwrap(), worker_id));
        let event = at_worker.recv().await.unwrap();
        assert!(matches!(event, PeerEvent::LeaseLost(peer) if peer.node == head_id), "{event:?}");
        let lost = cut.elapsed();
        assert!(!worker.is_leased(head_id) && head.peers().len() == 1);
        assert!(matches!(at_head.recv().await.unwrap(), PeerEvent::LeaseLost(_)));
        let event = at_head.recv().await.unwrap();
        let PeerEvent::Down { peer, cause } = &event else { panic!("{event:?}") };
        assert!(peer.node == worker_id && cause.contains("no heartbeat"), "{cause}");
        assert!(lost < cut.elapsed() && cut.elapsed() < Duration::from_secs(12), "{lost:?} {:?}", cut.elapsed());

        // Back under its old number it is refused, by a new one it is not.
        sim.heal(hosts.0, hosts.1);
        eventually("the worker knows", || worker.peers().is_empty()).await;
        let error = worker.connect(there, SOON).await.unwrap_err();
        assert!(matches!(error, ConnectError::DeclaredDead) && !error.is_retryable(), "{error}");
        let fresh = world.bind(&authority, Role::Worker);
        fresh.connect(there, SOON).await.unwrap();
        let error = head.connect(worker.address().unwrap(), SOON).await.unwrap_err();
        assert!(matches!(error, ConnectError::DeclaredDead), "{error}");
        let third = world.bind(&authority, Role::Driver);
        third.connect(worker.address().unwrap(), SOON).await.unwrap(); // to others it is not dead
    });
}

#[test]
fn a_peer_that_is_not_heard_learns_that_it_was_given_up() {
    World::simulated(12, |world| async move {
        let sim = world.sim.clone().unwrap();
        let authority = world.authority();
        let head = world.bind(&authority, Role::Head);
        let worker = world.bind(&authority, Role::Worker);
        let there = head.address().unwrap();
        worker.connect(there, SOON).await.unwrap();
        eventually("leases", || worker.is_leased(head.id()) && head.is_leased(worker.id())).await;
        let mut events = worker.events();
        sim.cut(host(&worker), host(&head));
        // It hears the head all the time, and that the head does not hear it.
        let event = events.recv().await.unwrap();
        assert!(matches!(event, PeerEvent::LeaseLost(_)), "{event:?}");
        let event = events.recv().await.unwrap();
        assert!(matches!(&event, PeerEvent::Down { cause, .. } if cause.contains("no heartbeat")), "{event:?}");
        sim.heal(host(&worker), host(&head));
        let error = worker.connect(there, SOON).await.unwrap_err();
        assert!(matches!(error, ConnectError::DeclaredDead) && !error.is_retryable(), "{error}");
        assert!(head.peers().is_empty());
    });
}

#[test]
fn a_large_reply_on_a_slow_network_does_not_silence_its_sender() {
    World::simulated(14, |world| async move {
        let pair = Pair::new(&world, 4).await;
        eventually("leases", || pair.worker.is_leased(pair.head.id())).await;
        let mut events = pair.worker.events();
        world.sim.as_ref().unwrap().set(Faults { rate: 1 << 20, ..Faults::default() });
        let started = Instant::now();
        let answer = pair.remote().ask(Echo("x".repeat(15 << 20)), 20 * SOON).await.unwrap();
        assert_eq!(answer.len(), 15 << 20);
        assert!(started.elapsed() > Duration::from_secs(25), "not slow: {:?}", started.elapsed());
        assert!(events.try_recv().is_none());
    });
}

#[test]
fn a_stream_of_large_items_on_a_slow_network_does_not_hold_up_replies() {
    World::simulated(15, |world| async move {
        let pair = Pair::new(&world, 4).await;
        world.sim.as_ref().unwrap().set(Faults { rate: 256 << 10, ..Faults::default() });
        let mut streams = Vec::new();
        for _ in 0..2 {
            streams.push(pair.remote().stream(Count { items: 2, size: 1 << 20 }, 10 * SOON).await.unwrap());
        }
        let [first, second] = streams.try_into().unwrap();
        let streaming = world.spawn(async move {
            let take = |mut replies: Replies<Vec<u8>>| async move {
                while let Some(item) = replies.next().await.unwrap() {
                    assert_eq!(item.len(), 1 << 20);
                }
                Instant::now()
            };
            tokio::join!(take(first), take(second))
        });
        let started = Instant::now();
        while !streaming.is_finished() {
            // A window of each stream, and what the network has in its own hands.
            let asked = timeout(Duration::from_secs(4), pair.remote().ask(Echo("ahoy".into()), 2 * SOON)).await;
            assert_eq!(asked.expect("held up").unwrap(), "ahoy");
        }
        assert!(started.elapsed() > Duration::from_secs(14), "not slow: {:?}", started.elapsed());
        let (first, second) = streaming.await.unwrap();
        let apart = if first > second { first - second } else { second - first };
        assert!(apart < Duration::from_secs(4), "one stream had more than the other: {apart:?}");
        pair.settled().await;
    });
}

#[test]
fn who_leaves_is_not_dead() {
    World::simulated(13, |world| async move {
        let authority = world.authority();
        let head = world.bind(&authority, Role::Head);
        let there = head.address().unwrap();
        let identity = authority.issue(Role::Worker).unwrap();
        for _ in 0..2 {
            let worker = Node::bind(identity.clone(), world.any(), &world.runtime.with_build("build 1")).unwrap();
            worker.connect(there, SOON).await.unwrap();
            worker.close(SOON).await;
            eventually("left", || head.peers().is_empty()).await;
            sleep(Duration::from_secs(60)).await;
        }
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
///
/// Gives what the network carried, and how many watches ended with their actor.
async fn storm(world: World) -> (Trace, u32) {
    let sim = world.sim.clone().unwrap();
    let authority = Arc::new(world.authority());
    let head = world.bind(&authority, Role::Head);
    let mut events = head.events();
    let arbiter = world.runtime.arbiter().unwrap();
    let seen = Seen::default();
    let actor = arbiter.spawn(MAILBOX, {
        let seen = seen.clone();
        move |_| Tester(seen)
    });
    let workers_only = [Role::Worker];
    head.publish(ECHO, &actor)
        .on::<Echo>(&workers_only)
        .on::<Note>(&workers_only)
        .on::<Wait>(&workers_only)
        .on::<Count>(&workers_only)
        .on::<Loaded>(&workers_only);
    head.serve_data(Arc::new(Numbers));
    let workers: Vec<Node> = (0..WORKERS).map(|_| world.bind(&authority, Role::Worker)).collect();
    let working: Vec<_> = (0..)
        .zip(&workers)
        .map(|(number, node)| {
            let (node, head, authority) = (node.clone(), head.clone(), Arc::clone(&authority));
            world.spawn(
                Worker { number, node, head, authority, world: world.clone(), told: Vec::new(), watching: Vec::new() }
                    .work(),
            )
        })
        .collect();
    let brief = world.spawn(brief_lives(sim.clone(), head.clone(), arbiter));
    let weather = world.spawn(weather(sim.clone(), host(&head), workers.iter().map(host).collect()));
    drop(workers);
    let (mut told, mut watching, mut workers) = (Vec::new(), Vec::new(), Vec::new());
    for worker in working {
        let worker = timeout(Duration::from_secs(3600), worker).await.expect("a worker hangs").unwrap();
        told.push(worker.told);
        watching.extend(worker.watching);
        workers.push(worker.node);
    }
    weather.await.unwrap();
    let arbiter = brief.await.unwrap();
    // All of them are gone, so each watch has ended: with its actor, or with the connection.
    let mut ended = 0;
    for watching in watching {
        let down = timeout(Duration::from_secs(60), watching).await.expect("a watch was lost").unwrap();
        ended += u32::from(matches!(down, Down::Stopped | Down::Panicked { .. }));
    }

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
    eventually("all are down", || head.peers().is_empty()).await;
    let mut up = BTreeSet::new();
    while let Some(event) = events.try_recv() {
        match event {
            PeerEvent::Up(peer) => assert!(up.insert(peer), "up twice: {peer}"),
            PeerEvent::Down { peer, .. } => assert!(up.remove(&peer), "down and not up: {peer}"),
            PeerEvent::Suspect(peer) | PeerEvent::Recovered(peer) => assert!(up.contains(&peer), "not up: {peer}"),
            _ => (),
        }
    }
    assert!(up.is_empty(), "up and never down: {up:?}");
    drop(arbiter);
    (sim.trace(), ended)
}

const BRIEF: ActorId = ActorId(8);

/// Actors of one number that live for a while, one after the other, and stop or panic.
async fn brief_lives(sim: Sim, head: Node, arbiter: Arbiter) -> Arbiter {
    for _ in 0..12 {
        let actor = arbiter.spawn(MAILBOX, |_| Tester(Seen::default()));
        head.publish(BRIEF, &actor).on::<Echo>(&[Role::Worker]);
        sleep(Duration::from_millis(sim.random(1500))).await;
        // Where a panic ends the process, all stop.
        if sim.random(2) == 0 || cfg!(panic = "abort") {
            actor.tell(Stop, SOON).await.unwrap();
        } else {
            actor.tell(Panic("squall".to_owned()), SOON).await.unwrap();
        }
        actor.down().await;
        head.unpublish(BRIEF);
    }
    arbiter
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
    authority: Arc<Authority>,
    world: World,
    told: Vec<(u32, Fate)>,
    watching: Vec<JoinHandle<Down>>,
}

impl Worker {
    async fn work(mut self) -> Self {
        for step in 0..STEPS {
            let deadline = Duration::from_millis(50 + self.random(3000));
            if self.node.peers().is_empty() {
                let there = self.head.address().unwrap();
                let connected = self.timed(deadline, self.node.connect(there, deadline)).await;
                match connected {
                    Ok(_) | Err(ConnectError::Deadline | ConnectError::Failed(_)) => (),
                    // As a process that was given up: it starts again, on the same host.
                    Err(ConnectError::DeclaredDead) => {
                        let identity = self.authority.issue(Role::Worker).unwrap();
                        let here = (host(&self.node), 0).into();
                        self.node = Node::bind(identity, here, &self.world.runtime.with_build("build 1")).unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            self.step(step, deadline).await;
            sleep(Duration::from_millis(self.random(400))).await;
        }
        self
    }

    async fn step(&mut self, step: u32, deadline: Duration) {
        let actor = self.node.actor::<Tester>(Address { node: self.head.id(), actor: ECHO });
        match self.random(11) {
            0 => {
                let text = "x".repeat(self.random(20_000) as usize) + &step.to_string();
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
                let waited = timeout(Duration::from_millis(self.random(1000)), actor.ask(Wait, deadline)).await;
                assert!(!matches!(waited, Ok(Ok(()))));
            }
            5 => {
                // The actor outlives the storm: only a lost connection ends a watch.
                let down = timeout(Duration::from_millis(self.random(1000)), actor.down()).await;
                assert!(matches!(down, Err(_) | Ok(Down::NodeLost { .. })), "{down:?}");
                let brief = self.node.actor::<Tester>(Address { node: self.head.id(), actor: BRIEF });
                self.watching.push(self.world.spawn(async move { brief.down().await }));
            }
            6 | 7 => self.stream(actor, deadline).await,
            8 | 9 => {
                // Inside or beside its message: the order among all notes is the same.
                let rows = self.random(if self.random(2) == 0 { 100 } else { 30_000 }) as i64;
                let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
                let batch = Batch::from(RecordBatch::try_from_iter([("n", column)]).unwrap());
                let note = Loaded(self.number * SENDER + step, batch.clone());
                let fate = if self.random(3) == 0 {
                    let told = self.timed(deadline, actor.tell(note, deadline)).await;
                    if told.is_ok() { Fate::Unknown } else { Fate::NotRun }
                } else {
                    let patience = if self.random(3) == 0 { deadline / 10 } else { deadline };
                    match timeout(patience, self.timed(deadline, actor.ask(note, deadline))).await {
                        Ok(Ok(back)) => {
                            assert!(back == batch, "another's batch");
                            Fate::Ran
                        }
                        Ok(Err(error)) if !error.may_have_run() => Fate::NotRun,
                        _ => Fate::Unknown,
                    }
                };
                self.told.push((step, fate));
            }
            _ => self.fetch(deadline).await,
        }
    }

    /// Items come in order and without a gap, up to the end or one error; some consumers leave before, some are slow.
    async fn stream(&self, actor: ActorRef<Tester>, patience: Duration) {
        let (items, size) = (self.random(60) as u32, self.random(15_000) as usize);
        let take = if self.random(3) == 0 { self.random(40) as u32 } else { u32::MAX };
        let pause = if self.random(4) == 0 { self.random(300) } else { 0 };
        let begun = self.timed(patience, actor.stream(Count { items, size }, patience)).await;
        let Ok(mut replies) = begun else { return };
        for n in 0..take {
            match self.timed(patience, replies.next()).await {
                Ok(Some(item)) => assert!(n < items && item == vec![n as u8; size], "item {n} of {items}"),
                Ok(None) => return assert_eq!(n, items, "a gap at the end"),
                Err(_) => return assert!(replies.next().await.unwrap().is_none(), "it ended twice"),
            }
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn fetch(&self, deadline: Duration) {
        let size = self.random(300_000) as u32;
        let ticket = Bytes::copy_from_slice(&size.to_le_bytes());
        let Ok(mut fetch) = self.timed(deadline, self.node.fetch(self.head.id(), ticket, deadline)).await else {
            return;
        };
        assert_eq!(fetch.total(), u64::from(size));
        if self.random(3) == 0 {
            let _ = timeout(deadline, fetch.next()).await;
            return; // dropped half way
        }
        if let Ok(all) = fetch.collect(1 << 30).await {
            assert!(all.len() == size as usize && all.iter().enumerate().all(|(at, byte)| *byte == at as u8));
        }
    }

    fn random(&self, bound: u64) -> u64 {
        self.world.sim.as_ref().unwrap().random(bound)
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
        match sim.random(5) {
            0 => {
                sim.partition(head, worker);
                sleep(time).await;
                sim.heal(head, worker);
            }
            1 => {
                sim.cut(worker, head);
                sleep(time).await;
                sim.heal(worker, head);
            }
            2 => {
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
    fn open(&self, ticket: &[u8], _: PeerId) -> Result<Box<dyn DataReader>, String> {
        let total = u32::from_le_bytes(ticket.try_into().map_err(|_| "bad ticket")?);
        Ok(Box::new(Reader { total, at: 0 }))
    }

    fn delivered(&self, _: &[u8], _: PeerId) {}
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
