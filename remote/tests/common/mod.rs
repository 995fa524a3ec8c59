//! A small cluster on loopback and an actor to talk to.
#![allow(dead_code)] // each test binary uses a part

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler, ResponseFuture};
use bytes::Bytes;
use regatta_remote::*;
use serde::{Deserialize, Serialize};

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

regatta_remote::messages! {
    0x01 Echo => String,
    0x02 Note => (),
    0x03 Panic => (),
    0x04 Wait => (),
    0x05 Drown => (),
    0x06 Stop => (),
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
        panic!("{}", message.0);
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

impl Handler<Drown> for Tester {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, _: Drown, _: &mut Context<Self>) -> ResponseFuture<()> {
        Box::pin(async { panic!("drowned alone") })
    }
}

impl Handler<Stop> for Tester {
    type Result = ();
    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        actix::ActorContext::stop(ctx);
    }
}

pub(crate) fn runtime() -> Runtime {
    Runtime::new("test", 2).unwrap()
}

pub(crate) fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

pub(crate) fn bind(authority: &Authority, role: Role, runtime: &Runtime) -> Node {
    let identity = authority.issue(role).unwrap();
    Node::bind(identity, any(), Bytes::from_static(b"build 1"), runtime).unwrap()
}

/// A head that serves a [`Tester`], and a worker that is connected to it.
pub(crate) struct Pair {
    pub seen: Seen,
    pub actor: LocalRef<Tester>,
    pub head: Node,
    pub worker: Node,
    pub arbiter: Arbiter,
    pub runtime: Runtime,
}

impl Pair {
    pub(crate) fn new(mailbox: usize) -> Self {
        let runtime = runtime();
        let authority = Authority::new().unwrap();
        let head = bind(&authority, Role::Head, &runtime);
        let worker = bind(&authority, Role::Worker, &runtime);
        let arbiter = runtime.arbiter().unwrap();
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
            .on::<Stop>(&[Role::Head]);
        let pair = Self { seen, actor, head, worker, arbiter, runtime };
        let there = pair.head.address().unwrap();
        let node = pair.block_on(pair.worker.connect(there, SOON)).unwrap();
        assert_eq!(node, pair.head.id());
        pair
    }

    pub(crate) fn remote(&self) -> ActorRef<Tester> {
        self.worker.actor(Address { node: self.head.id(), actor: ECHO })
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.handle().block_on(future)
    }
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
