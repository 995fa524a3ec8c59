//! Handles of actors inside messages: whoever receives one reaches the actor, wherever it is.

mod common;

use std::time::Duration;

use actix::{Actor, Context, Handler, ResponseFuture};
use common::*;
use regatta_remote::*;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

both!(
    a_handle_in_a_message_and_in_a_reply_reaches_its_actor,
    a_handle_of_the_receivers_own_actor_is_local,
    a_handle_of_a_third_node_connects_on_demand_for_many_asks_at_once,
    a_handle_of_a_node_that_is_gone_ends_by_the_deadline,
    an_actor_that_is_not_published_cannot_travel,
    a_handle_of_another_type_is_refused_by_name,
    a_handle_that_was_read_outside_of_a_node_can_only_be_sent_on,
);

/// Where relays are published.
const RELAY: ActorId = ActorId(8);

/// Passes a text on to an actor.
#[derive(Debug, Serialize, Deserialize)]
struct Pass(ActorRef<Tester>, String);
/// Says how it sees the actor.
#[derive(Debug, Serialize, Deserialize)]
struct Look(ActorRef<Tester>);
/// Gives the actor back.
#[derive(Debug, Serialize, Deserialize)]
struct Return(ActorRef<Tester>);

regatta_remote::messages! {
    0x11 Pass => Result<String, String>,
    0x12 Look => String,
    0x13 Return => ActorRef<Tester>,
}

/// Pretends to be [`Look`].
#[derive(Debug, Serialize, Deserialize)]
struct Lie(ActorRef<Relay>);

regatta_remote::messages! { 0x12 Lie => String }

struct Relay;

impl Actor for Relay {
    type Context = Context<Self>;
}

impl Handler<Pass> for Relay {
    type Result = ResponseFuture<Result<String, String>>;
    fn handle(&mut self, Pass(actor, text): Pass, _: &mut Context<Self>) -> Self::Result {
        Box::pin(async move { actor.ask(Echo(text), SOON).await.map_err(|error| error.to_string()) })
    }
}

impl Handler<Look> for Relay {
    type Result = String;
    fn handle(&mut self, Look(actor): Look, _: &mut Context<Self>) -> String {
        format!("{actor:?}")
    }
}

impl Handler<Return> for Relay {
    type Result = actix::MessageResult<Return>;
    fn handle(&mut self, Return(actor): Return, _: &mut Context<Self>) -> Self::Result {
        actix::MessageResult(actor)
    }
}

impl Handler<Lie> for Relay {
    type Result = String;
    fn handle(&mut self, _: Lie, _: &mut Context<Self>) -> String {
        "taken".to_owned()
    }
}

/// A head with a tester and a relay, and two workers that know only the head. The first has a tester too, the second a relay.
struct Three {
    pair: Pair,
    second: Node,
    mine: LocalRef<Tester>,
    _relays: [LocalRef<Relay>; 2],
}

impl Three {
    async fn new(world: &World) -> Self {
        let authority = world.authority();
        let mut pair = Pair::new(world, 64).await;
        // Of one cluster with the second worker.
        let [head, worker, second] = [Role::Head, Role::Worker, Role::Worker].map(|role| world.bind(&authority, role));
        let all = [Role::Head, Role::Worker];
        let mine = pair.arbiter.spawn(64, {
            let seen = pair.seen.clone();
            move |_| Tester(seen)
        });
        head.publish(ECHO, &pair.actor).on::<Echo>(&all);
        worker.publish(ECHO, &mine).on::<Echo>(&all);
        let relays = [&head, &second].map(|node| {
            let relay = pair.arbiter.spawn(64, |_| Relay);
            node.publish(RELAY, &relay).on::<Pass>(&all).on::<Look>(&all).on::<Return>(&all);
            relay
        });
        for node in [&worker, &second] {
            node.connect(head.address().unwrap(), SOON).await.unwrap();
        }
        (pair.head, pair.worker) = (head, worker);
        Self { pair, second, mine, _relays: relays }
    }

    /// The head's relay, as the first worker sees it.
    fn relay(&self) -> ActorRef<Relay> {
        self.pair.worker.actor(Address { node: self.pair.head.id(), actor: RELAY })
    }
}

async fn a_handle_in_a_message_and_in_a_reply_reaches_its_actor(world: World) {
    let three = Three::new(&world).await;
    let mine: ActorRef<Tester> = three.mine.clone().into();
    let answer = three.relay().ask(Pass(mine.clone(), "ahoy".into()), SOON).await.unwrap();
    assert_eq!(answer.unwrap(), "ahoy");
    let back = three.relay().ask(Return(mine), SOON).await.unwrap();
    assert!(format!("{back:?}").starts_with("LocalRef"), "{back:?}");
    assert_eq!(back.ask(Echo("a".into()), SOON).await.unwrap(), "a");
}

async fn a_handle_of_the_receivers_own_actor_is_local(world: World) {
    let three = Three::new(&world).await;
    let theirs = three.pair.remote();
    assert!(format!("{theirs:?}").starts_with("ActorRef"), "{theirs:?}");
    let seen = three.relay().ask(Look(theirs), SOON).await.unwrap();
    assert!(seen.starts_with("LocalRef"), "{seen}");
}

async fn a_handle_of_a_third_node_connects_on_demand_for_many_asks_at_once(world: World) {
    let three = Three::new(&world).await;
    let Three { pair, second, mine, .. } = &three;
    // From the first worker by way of the head to the second, which has never heard of the first.
    let through_head = three.relay().ask(Return(mine.clone().into()), SOON).await.unwrap();
    let relay = pair.head.actor::<Relay>(Address { node: second.id(), actor: RELAY });
    let mut events = pair.worker.events();
    let asks: Vec<_> = (0..20)
        .map(|number| {
            let (relay, actor) = (relay.clone(), through_head.clone());
            world.spawn(async move { relay.ask(Pass(actor, number.to_string()), SOON).await })
        })
        .collect();
    for (number, ask) in asks.into_iter().enumerate() {
        assert_eq!(ask.await.unwrap().unwrap().unwrap(), number.to_string());
    }
    let event = events.try_recv().unwrap();
    assert!(matches!(event, PeerEvent::Up(peer) if peer.node == second.id()), "{event:?}");
    assert!(events.try_recv().is_none());
    assert_eq!(second.peers().len(), 2);
}

async fn a_handle_of_a_node_that_is_gone_ends_by_the_deadline(world: World) {
    let three = Three::new(&world).await;
    let known = three.relay().ask(Return(three.mine.clone().into()), SOON).await.unwrap();
    let bytes = encode(&known).unwrap();
    let Three { pair, second, .. } = three;
    let Pair { worker, .. } = pair;
    worker.close(SOON).await;
    drop((worker, known));
    let gone: ActorRef<Tester> = second.decoding(|| decode(&bytes)).unwrap();
    let (started, deadline) = (Instant::now(), Duration::from_millis(200));
    let error = gone.ask(Echo("a".into()), deadline).await.unwrap_err();
    assert!(matches!(error, AskError::NotConnected) && !error.may_have_run(), "{error}");
    let error = gone.tell(Note(1), deadline).await.unwrap_err();
    assert!(matches!(error, TellError::NotConnected), "{error}");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

async fn an_actor_that_is_not_published_cannot_travel(world: World) {
    let three = Three::new(&world).await;
    let hidden = three.pair.arbiter.spawn(1, |_| Tester(Seen::default()));
    three.pair.worker.publish(ActorId(20), &hidden).on::<Echo>(&[Role::Head]);
    let pass = |text: &str| Pass(hidden.clone().into(), text.into());
    assert_eq!(three.relay().ask(pass("a"), SOON).await.unwrap().unwrap(), "a");
    three.pair.worker.unpublish(ActorId(20));
    let error = three.relay().ask(pass("b"), SOON).await.unwrap_err();
    assert!(matches!(error, AskError::Codec(_)) && !error.may_have_run(), "{error}");
    assert!(error.to_string().contains("publish it first"), "{error}");
}

async fn a_handle_of_another_type_is_refused_by_name(world: World) {
    let three = Three::new(&world).await;
    let error = three.relay().ask(Lie(three.relay()), SOON).await.unwrap_err();
    let AskError::BadMessage { text } = &error else { panic!("{error}") };
    assert!(text.contains("Relay") && text.contains("Tester"), "{text}");
    assert!(!error.may_have_run());
}

async fn a_handle_that_was_read_outside_of_a_node_can_only_be_sent_on(world: World) {
    let three = Three::new(&world).await;
    let bytes = encode(&ActorRef::from(three.mine.clone())).unwrap();
    let detached: ActorRef<Tester> = decode(&bytes).unwrap();
    let error = detached.ask(Echo("a".into()), SOON).await.unwrap_err();
    assert!(matches!(error, AskError::Detached) && !error.may_have_run(), "{error}");
    assert!(matches!(detached.tell(Note(1), SOON).await, Err(TellError::Detached)));
    assert!(three.pair.seen.notes.lock().unwrap().is_empty());
    let answer = three.relay().ask(Pass(detached, "b".into()), SOON).await.unwrap();
    assert_eq!(answer.unwrap(), "b");
}
