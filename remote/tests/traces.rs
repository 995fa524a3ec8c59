//! Trace context: from the caller, over the network, into the handler and what it asks in turn.

mod common;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, Once};

use actix::{Actor, Context, Handler, ResponseFuture};
use common::{SOON, World, eventually};
use regatta_remote::*;
use serde::{Deserialize, Serialize};
use tracing_subscriber::fmt::format::FmtSpan;

both!(a_trace_goes_with_every_message_and_through_the_handlers, without_a_trace_one_begins_because_somebody_looks,);

/// Asks the next actor, if there is one, and replies with the contexts of all handlers.
#[derive(Debug, Serialize, Deserialize)]
struct Hop;
#[derive(Debug, Serialize, Deserialize)]
struct Told;
#[derive(Debug, Serialize, Deserialize)]
struct Streamed;

regatta_remote::messages! {
    0x31 Hop => Vec<(u128, u64)>,
    0x32 Told => (),
    0x33 Streamed => stream (u128, u64),
}

struct Relay {
    next: Option<ActorRef<Self>>,
    told: Arc<Mutex<Option<(u128, u64)>>>,
}

impl Actor for Relay {
    type Context = Context<Self>;
}

fn now() -> (u128, u64) {
    TraceContext::current().map_or((0, 0), |context| (context.trace_id(), context.span_id()))
}

impl Handler<Hop> for Relay {
    type Result = ResponseFuture<Vec<(u128, u64)>>;
    fn handle(&mut self, _: Hop, _: &mut Context<Self>) -> Self::Result {
        let next = self.next.clone();
        let mut seen = vec![now()];
        Box::pin(TraceContext::carry(async move {
            if let Some(next) = next {
                seen.extend(next.ask(Hop, SOON).await.unwrap());
            }
            assert_eq!(seen[0], now(), "carried into the future");
            seen
        }))
    }
}

impl Handler<Told> for Relay {
    type Result = ();
    fn handle(&mut self, _: Told, _: &mut Context<Self>) {
        *self.told.lock().unwrap() = Some(now());
    }
}

impl Handler<Streamed> for Relay {
    type Result = Items<(u128, u64)>;
    fn handle(&mut self, _: Streamed, _: &mut Context<Self>) -> Self::Result {
        Items::of(futures_util::stream::once(async { now() }))
    }
}

struct Scene {
    head: Node,
    worker: Node,
    told: Arc<Mutex<Option<(u128, u64)>>>,
    /// From the worker to the head's relay, which asks another of the head's.
    remote: ActorRef<Relay>,
    _arbiter: Arbiter,
}

async fn scene(world: &World) -> Scene {
    let authority = world.authority();
    let (head, worker) = (world.bind(&authority, Role::Head), world.bind(&authority, Role::Worker));
    let arbiter = world.runtime.arbiter().unwrap();
    let told = Arc::<Mutex<Option<(u128, u64)>>>::default();
    let last = arbiter.spawn(4, |_| Relay { next: None, told: Arc::default() });
    let first = arbiter.spawn(4, {
        let told = Arc::clone(&told);
        move |_| Relay { next: Some(last.into()), told }
    });
    let workers = [Role::Worker];
    head.publish(ActorId(1), &first).on::<Hop>(&workers).on::<Told>(&workers).on::<Streamed>(&workers);
    worker.connect(head.address().unwrap(), SOON).await.unwrap();
    let remote = worker.actor(Address { node: head.id(), actor: ActorId(1) });
    Scene { head, worker, told, remote, _arbiter: arbiter }
}

async fn a_trace_goes_with_every_message_and_through_the_handlers(world: World) {
    let log = log();
    let scene = scene(&world).await;
    // Tests of one process share their log: each has a trace of its own.
    let id = (0xabc << 64) | u128::from(world.sim.is_some());
    let ours = TraceContext::new(id, 0x77).unwrap();
    let seen = ours.scope(scene.remote.ask(Hop, SOON)).await.unwrap();
    let [(first, first_span), (second, second_span)] = seen[..] else { panic!("{seen:?}") };
    assert!(first == id && second == id, "{seen:?}");
    assert!(first_span != 0x77 && first_span != second_span, "each handler is a span of its own");
    let text = log.lock().unwrap().clone();
    let spans = String::from_utf8(text).unwrap();
    let span = |own: u64| {
        let own = format!("span={own:016x}");
        spans.lines().find(|line| line.contains(&own)).unwrap_or_else(|| panic!("no {own} in {spans}")).to_owned()
    };
    let of = |line: &str, field: &str| assert!(line.contains(field), "no {field} in {line}");
    for (own, parent) in [(first_span, 0x77), (second_span, first_span)] {
        let line = span(own);
        of(&line, &format!("trace={id:032x}"));
        of(&line, &format!("parent={parent:016x}"));
        of(&line, "Hop");
    }
    of(&span(first_span), &format!("peer={}", scene.worker.id()));
    assert!(!span(second_span).contains(&format!("peer={}", scene.worker.id())), "the second was asked in its process");

    ours.scope(scene.remote.tell(Told, SOON)).await.unwrap();
    eventually("told", || scene.told.lock().unwrap().is_some()).await;
    assert_eq!(scene.told.lock().unwrap().unwrap().0, id);
    let mut replies = ours.scope(scene.remote.stream(Streamed, SOON)).await.unwrap();
    assert_eq!(replies.next().await.unwrap().unwrap().0, id);
    drop(scene.head);
}

async fn without_a_trace_one_begins_because_somebody_looks(world: World) {
    log();
    let scene = scene(&world).await;
    let seen = scene.remote.ask(Hop, SOON).await.unwrap();
    assert!(seen[0].0 != 0 && seen[0].0 == seen[1].0, "{seen:?}");
    let again = scene.remote.ask(Hop, SOON).await.unwrap();
    assert_ne!(again[0].0, seen[0].0, "another message, another trace");
    assert_eq!(TraceContext::current(), None);
}

#[test]
fn a_context_is_never_zero_and_reads_as_a_traceparent() {
    assert!(TraceContext::new(0, 1).is_none() && TraceContext::new(1, 0).is_none());
    let text = TraceContext::new(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331).unwrap().to_string();
    assert_eq!(text, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
}

#[derive(Clone)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What this process traces from now on.
fn log() -> Arc<Mutex<Vec<u8>>> {
    static ONCE: Once = Once::new();
    static LOG: Mutex<Option<Log>> = Mutex::new(None);
    ONCE.call_once(|| {
        let log = Log(Arc::default());
        *LOG.lock().unwrap() = Some(log.clone());
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_span_events(FmtSpan::NEW)
            .with_writer(move || log.clone())
            .init();
    });
    Arc::clone(&LOG.lock().unwrap().as_ref().unwrap().0)
}
