//! A small cluster, on loopback or simulated, and an actor to talk to.
#![allow(dead_code)] // each test binary uses a part

pub(crate) mod panics;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Context, Handler, ResponseFuture};
use futures_util::stream;
use regatta_remote::sim::Sim;
use regatta_remote::*;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub(crate) const SOON: Duration = Duration::from_secs(4);
pub(crate) const ECHO: ActorId = ActorId(7);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Echo(pub String);
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Note(pub u32);
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Panic(pub String);
/// Replies only when the gate is opened.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Wait;
/// Its reply's future panics, outside the actor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Drown;
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stop;

/// A note with a batch, which is sent back.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Loaded(pub u32, pub Batch);
/// Answered by a stream of items, each of its number's bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Count {
    pub items: u32,
    pub size: usize,
}

/// Answered by so many bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fill(pub usize);

regatta_remote::messages! {
    0x01 Echo => String,
    0x02 Note => (),
    0x03 Panic => (),
    0x04 Wait => (),
    0x05 Drown => (),
    0x06 Stop => (),
    0x07 Count => stream Vec<u8>,
    0x08 Loaded => Batch,
    0x09 Fill => String,
}

#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub notes: Arc<Mutex<Vec<u32>>>,
    pub started: Arc<AtomicU32>,
    pub cancelled: Arc<AtomicBool>,
    pub gate: Arc<tokio::sync::Notify>,
}

pub(crate) struct Tester(pub Seen);

impl Actor for Tester {
    type Context = Context<Self>;
}

impl Handler<Echo> for Tester {
    type Result = String;
    fn handle(&mut self, message: Echo, _: &mut Context<Self>) -> String {
        message.0
    }
}

impl Handler<Note> for Tester {
    type Result = ();
    fn handle(&mut self, message: Note, _: &mut Context<Self>) {
        self.0.notes.lock().unwrap().push(message.0);
    }
}

impl Handler<Panic> for Tester {
    type Result = ();
    fn handle(&mut self, message: Panic, _: &mut Context<Self>) {
        panics::wanted(&message.0)
    }
}

impl Handler<Wait> for Tester {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, _: Wait, _: &mut Context<Self>) -> ResponseFuture<()> {
        let seen = self.0.clone();
        let asker = Asker::current();
        seen.started.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            tokio::select! {
                () = seen.gate.notified() => (),
                () = asker.gone() => seen.cancelled.store(true, Ordering::SeqCst),
            }
        })
    }
}

impl Handler<Loaded> for Tester {
    type Result = Batch;
    fn handle(&mut self, Loaded(note, batch): Loaded, _: &mut Context<Self>) -> Batch {
        self.0.notes.lock().unwrap().push(note);
        batch
    }
}

impl Handler<Count> for Tester {
    type Result = Items<Vec<u8>>;
    fn handle(&mut self, Count { items, size }: Count, _: &mut Context<Self>) -> Items<Vec<u8>> {
        Items::of(stream::iter((0..items).map(move |n| vec![n as u8; size])))
    }
}

impl Handler<Fill> for Tester {
    type Result = String;
    fn handle(&mut self, Fill(size): Fill, _: &mut Context<Self>) -> String {
        "x".repeat(size)
    }
}

impl Handler<Drown> for Tester {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, _: Drown, _: &mut Context<Self>) -> ResponseFuture<()> {
        Box::pin(async { panics::wanted("drowned alone") })
    }
}

impl Handler<Stop> for Tester {
    type Result = ();
    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        actix::ActorContext::stop(ctx);
    }
}

/// Where a test runs: on loopback with threads, or on the simulated network.
#[derive(Clone)]
pub(crate) struct World {
    pub runtime: Runtime,
    pub sim: Option<Sim>,
}

impl World {
    pub(crate) fn loopback<F: Future>(body: impl FnOnce(Self) -> F) -> F::Output {
        let world = Self::threads();
        world.runtime.handle().clone().block_on(body(world))
    }

    /// On loopback, for a test that is not async.
    pub(crate) fn threads() -> Self {
        panics::watch();
        Self { runtime: Runtime::new("test", 2).unwrap(), sim: None }
    }

    pub(crate) fn simulated<F: Future>(seed: u64, body: impl FnOnce(Self) -> F) -> F::Output {
        panics::watch();
        Sim::run(seed, |sim| body(Self { runtime: sim.runtime(), sim: Some(sim) }))
    }

    pub(crate) fn authority(&self) -> Authority {
        self.sim.as_ref().map_or_else(Authority::new, Sim::authority).unwrap()
    }

    pub(crate) fn any(&self) -> SocketAddr {
        let host = if self.sim.is_some() { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        (host, 0).into()
    }

    pub(crate) fn bind(&self, authority: &Authority, role: Role) -> Node {
        self.bind_build(authority, role, b"build 1")
    }

    pub(crate) fn bind_build(&self, authority: &Authority, role: Role, build: &'static [u8]) -> Node {
        let identity = authority.issue(role).unwrap();
        Node::bind(identity, self.any(), &self.runtime.with_build(build)).unwrap()
    }

    pub(crate) fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.handle().spawn(future)
    }
}

/// Makes two tests of each function: one on loopback, one on the simulated network.
#[macro_export]
macro_rules! both {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            use super::common::World;

            #[test]
            fn loopback() {
                World::loopback(super::$name);
            }

            #[test]
            fn sim() {
                World::simulated(1, super::$name);
            }
        }
    )*};
}

/// A head that serves a [`Tester`], and a worker that is connected to it.
pub(crate) struct Pair {
    pub authority: Arc<Authority>,
    pub seen: Seen,
    pub actor: LocalRef<Tester>,
    pub head: Node,
    pub worker: Node,
    pub arbiter: Arbiter,
    pub world: World,
}

impl Pair {
    pub(crate) async fn new(world: &World, mailbox: usize) -> Self {
        let authority = world.authority();
        let head = world.bind(&authority, Role::Head);
        let worker = world.bind(&authority, Role::Worker);
        let arbiter = world.runtime.arbiter().unwrap();
        let seen = Seen::default();
        let actor = arbiter.spawn(mailbox, {
            let seen = seen.clone();
            move |_| Tester(seen)
        });
        let all = [Role::Worker, Role::Head];
        head.publish(ECHO, &actor)
            .on::<Echo>(&all)
            .on::<Note>(&all)
            .on::<Panic>(&all)
            .on::<Wait>(&all)
            .on::<Drown>(&all)
            .on::<Count>(&all)
            .on::<Fill>(&all)
            .on::<Stop>(&[Role::Head]);
        let node = worker.connect(head.address().unwrap(), SOON).await.unwrap();
        assert_eq!(node, head.id());
        Self { authority: Arc::new(authority), seen, actor, head, worker, arbiter, world: world.clone() }
    }

    pub(crate) fn remote(&self) -> ActorRef<Tester> {
        self.worker.actor(Address { node: self.head.id(), actor: ECHO })
    }

    /// Nothing is left of what was asked or fetched: no call, no transfer, no place taken.
    pub(crate) async fn settled(&self) {
        for node in [&self.head, &self.worker] {
            eventually("nothing in hand", || node.in_hand() == InHand::default()).await;
        }
        eventually("all places free", || self.actor.room() == self.actor.places()).await;
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
