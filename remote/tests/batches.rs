//! Arrow batches in messages, replies and items: whole, in order, and held no longer than somebody wants them.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Context, Handler, ResponseFuture};
use arrow::array::*;
use arrow::datatypes::{Field, Int32Type, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use common::{SOON, World, eventually};
use regatta_remote::*;
use serde::{Deserialize, Serialize};

both!(
    batches_of_any_kind_and_size_survive,
    in_one_process_a_batch_is_handed_over_as_it_is,
    messages_wait_behind_batches_of_their_actor_and_pass_those_of_others,
    what_nobody_takes_is_let_go,
    a_dropped_asker_frees_both_sides,
    a_lost_connection_frees_both_sides,
    a_consumer_that_leaves_frees_the_batches_of_its_stream,
    broken_ipc_is_a_bad_message_and_no_more,
    more_than_a_message_may_have_is_refused_at_once,
    closing_delivers_batches_that_were_told,
);

/// Replies with what it got.
#[derive(Debug, Serialize, Deserialize)]
struct Echo(Vec<Batch>);
/// Notes that it came, and replies how many rows it had.
#[derive(Debug, Serialize, Deserialize)]
struct Load(u32, Batch);
#[derive(Debug, Serialize, Deserialize)]
struct Mark(u32);
/// Replies with what it got, when the gate is opened.
#[derive(Debug, Serialize, Deserialize)]
struct Later(Batch);
#[derive(Debug, Serialize, Deserialize)]
struct Flow(u32, Batch);

regatta_remote::messages! {
    0x41 Echo => Vec<Batch>,
    0x42 Load => usize,
    0x43 Mark => (),
    0x44 Later => Batch,
    0x45 Flow => stream Batch,
}

/// What goes for an `Echo` on the wire: one batch inside, or beside.
#[derive(Debug, Serialize, Deserialize)]
struct Forged(Vec<Sent>);
#[derive(Debug, Serialize, Deserialize)]
enum Sent {
    Inside(Vec<u8>),
    Beside(u32),
}
regatta_remote::messages! { 0x41 Forged => () }

#[derive(Clone, Default)]
struct Store {
    log: Arc<Mutex<Vec<u32>>>,
    gate: Arc<tokio::sync::Notify>,
}

impl Actor for Store {
    type Context = Context<Self>;
}

impl Handler<Echo> for Store {
    type Result = Vec<Batch>;
    fn handle(&mut self, message: Echo, _: &mut Context<Self>) -> Vec<Batch> {
        message.0
    }
}

impl Handler<Load> for Store {
    type Result = usize;
    fn handle(&mut self, Load(number, batch): Load, _: &mut Context<Self>) -> usize {
        self.log.lock().unwrap().push(number);
        batch.num_rows()
    }
}

impl Handler<Mark> for Store {
    type Result = ();
    fn handle(&mut self, Mark(number): Mark, _: &mut Context<Self>) {
        self.log.lock().unwrap().push(number);
    }
}

impl Handler<Later> for Store {
    type Result = ResponseFuture<Batch>;
    fn handle(&mut self, Later(batch): Later, _: &mut Context<Self>) -> Self::Result {
        let mut open = Box::pin(Arc::clone(&self.gate).notified_owned());
        open.as_mut().enable(); // not only when this is polled, which may be after the gate was opened
        Box::pin(async move {
            open.await;
            batch
        })
    }
}

impl Handler<Flow> for Store {
    type Result = Items<Batch>;
    fn handle(&mut self, Flow(times, batch): Flow, _: &mut Context<Self>) -> Items<Batch> {
        Items::of(futures_util::stream::iter((0..times).map(move |_| batch.clone())))
    }
}

impl Handler<Forged> for Store {
    type Result = ();
    fn handle(&mut self, _: Forged, _: &mut Context<Self>) {}
}

struct Scene {
    store: Store,
    actor: LocalRef<Store>,
    /// Another of the same node.
    other: LocalRef<Store>,
    head: Node,
    worker: Node,
    _arbiter: Arbiter,
}

const STORE: ActorId = ActorId(4);
const OTHER: ActorId = ActorId(5);

impl Scene {
    async fn new(world: &World) -> Self {
        let authority = world.authority();
        let (head, worker) = (world.bind(&authority, Role::Head), world.bind(&authority, Role::Worker));
        let arbiter = world.runtime.arbiter().unwrap();
        let store = Store::default();
        let kept = store.clone();
        let actor = arbiter.spawn(8, move |_| kept);
        let other = arbiter.spawn(8, |_| Store::default());
        for (id, actor) in [(STORE, &actor), (OTHER, &other)] {
            let workers = [Role::Worker];
            head.publish(id, actor)
                .on::<Echo>(&workers)
                .on::<Load>(&workers)
                .on::<Mark>(&workers)
                .on::<Later>(&workers)
                .on::<Flow>(&workers);
        }
        worker.connect(head.address().unwrap(), SOON).await.unwrap();
        Self { store, actor, other, head, worker, _arbiter: arbiter }
    }

    fn remote(&self, actor: ActorId) -> ActorRef<Store> {
        self.worker.actor(Address { node: self.head.id(), actor })
    }

    async fn settled(&self) {
        for node in [&self.head, &self.worker] {
            let end = tokio::time::Instant::now() + SOON;
            while node.in_hand() != InHand::default() {
                assert!(tokio::time::Instant::now() < end, "left over: {:?}", node.in_hand());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        for actor in [&self.actor, &self.other] {
            eventually("all places free", || actor.room() == actor.places()).await;
        }
    }
}

fn numbers(rows: usize) -> Batch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    RecordBatch::try_from_iter([("n", column)]).unwrap().into()
}

/// One of every kind of layout that a batch may have.
fn kinds(rows: usize) -> Batch {
    let text = |n: usize| (!n.is_multiple_of(3)).then(|| format!("a text that is longer than twelve bytes {n}"));
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "flags",
            Arc::new(BooleanArray::from_iter((0..rows).map(|n| (!n.is_multiple_of(5)).then_some(n.is_multiple_of(2))))),
        ),
        ("numbers", Arc::new(Int64Array::from_iter((0..rows).map(|n| (!n.is_multiple_of(7)).then_some(n as i64))))),
        ("texts", Arc::new(StringArray::from_iter((0..rows).map(text)))),
        ("views", Arc::new(StringViewArray::from_iter((0..rows).map(text)))),
        ("keys", Arc::new(DictionaryArray::<Int32Type>::from_iter((0..rows).map(|n| ["a", "b"][n % 2])))),
        (
            "lists",
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
                (0..rows).map(|n| Some(vec![Some(n as i32); n % 3])),
            )),
        ),
        ("decimals", Arc::new(Decimal128Array::from_iter_values((0..rows).map(|n| n as i128 * 1_000_000_007)))),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap().into()
}

async fn batches_of_any_kind_and_size_survive(world: World) {
    let scene = Scene::new(&world).await;
    let no_columns = RecordBatch::try_new_with_options(
        Arc::new(Schema::empty()),
        Vec::new(),
        &RecordBatchOptions::new().with_row_count(Some(7)),
    );
    let sliced = Batch::from(kinds(5000).slice(1003, 2000));
    // From nothing over what goes inside and what goes beside to both in one message.
    let messages = [
        vec![],
        vec![kinds(0), no_columns.unwrap().into(), kinds(10)],
        vec![kinds(20_000)],
        vec![numbers(5000), numbers(5000), kinds(3), sliced],
    ];
    for batches in messages {
        let echoed = scene.remote(STORE).ask(Echo(batches.clone()), SOON).await.unwrap();
        assert!(echoed == batches, "{:?}", batches.iter().map(|batch| batch.num_rows()).collect::<Vec<_>>());
    }
    for batch in [kinds(4), numbers(30_000)] {
        let mut replies = scene.remote(STORE).stream(Flow(12, batch.clone()), SOON).await.unwrap();
        for _ in 0..12 {
            assert!(replies.next().await.unwrap().unwrap() == batch);
        }
        assert!(replies.next().await.unwrap().is_none());
    }
    // What others make of it needs none of this crate's connections.
    assert!(decode::<Batch>(&encode(&kinds(20_000)).unwrap()).unwrap() == kinds(20_000));
    scene.settled().await;
}

async fn in_one_process_a_batch_is_handed_over_as_it_is(world: World) {
    let scene = Scene::new(&world).await;
    let here = scene.head.actor::<Store>(Address { node: scene.head.id(), actor: STORE });
    let batch = numbers(100_000);
    let echoed = here.ask(Echo(vec![batch.clone()]), SOON).await.unwrap();
    assert!(Arc::ptr_eq(echoed[0].column(0), batch.column(0)));
    let mut replies = here.stream(Flow(1, batch.clone()), SOON).await.unwrap();
    assert!(Arc::ptr_eq(replies.next().await.unwrap().unwrap().column(0), batch.column(0)));
}

async fn messages_wait_behind_batches_of_their_actor_and_pass_those_of_others(world: World) {
    let scene = Scene::new(&world).await;
    let actor = scene.remote(STORE);
    let large = numbers(200_000);
    for round in 0..10 {
        let first = round * 4;
        actor.tell(Load(first, large.clone()), SOON).await.unwrap();
        actor.tell(Mark(first + 1), SOON).await.unwrap();
        actor.tell(Load(first + 2, numbers(10)), SOON).await.unwrap();
        actor.tell(Load(first + 3, large.clone()), SOON).await.unwrap();
    }
    // The other actor's messages do not wait. (Only the simulated network is slow enough to be sure of it.)
    scene.remote(OTHER).ask(Mark(0), SOON).await.unwrap();
    assert!(world.sim.is_none() || scene.store.log.lock().unwrap().len() < 40, "nothing was passed");
    assert_eq!(actor.ask(Load(40, numbers(20_000)), SOON).await.unwrap(), 20_000);
    actor.ask(Mark(41), SOON).await.unwrap();
    assert_eq!(*scene.store.log.lock().unwrap(), (0..=41).collect::<Vec<_>>());
    scene.settled().await;
}

async fn what_nobody_takes_is_let_go(world: World) {
    let scene = Scene::new(&world).await;
    let nobody = scene.remote(ActorId(99));
    nobody.tell(Load(0, numbers(50_000)), SOON).await.unwrap();
    let error = nobody.ask(Load(0, numbers(50_000)), SOON).await.unwrap_err();
    assert!(matches!(error, AskError::NoSuchActor), "{error}");
    scene.settled().await;
    // An actor without a place: an ask is told so, a tell is dropped.
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let actor = scene.actor.clone();
            world.spawn(async move { actor.ask(Later(numbers(1)), SOON).await })
        })
        .collect();
    eventually("no place", || scene.actor.room() == 0).await;
    let error = scene.remote(STORE).ask(Load(0, numbers(50_000)), SOON).await.unwrap_err();
    assert!(matches!(error, AskError::Busy) && !error.may_have_run(), "{error}");
    scene.remote(STORE).tell(Load(0, numbers(50_000)), SOON).await.unwrap();
    // What comes after it, in order, is refused after it.
    let error = scene.remote(STORE).ask(Mark(0), SOON).await.unwrap_err();
    assert!(matches!(error, AskError::Busy), "{error}");
    eventually("let go", || scene.worker.in_hand() == InHand::default()).await;
    for _ in 0..8 {
        scene.store.gate.notify_one();
    }
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    assert!(scene.store.log.lock().unwrap().is_empty());
    scene.settled().await;
}

async fn a_dropped_asker_frees_both_sides(world: World) {
    let scene = Scene::new(&world).await;
    // While its message's batches are on their way, and after that.
    for until in ["held", "taken"] {
        let actor = scene.remote(STORE);
        let asking = world.spawn(async move { actor.ask(Later(numbers(2_000_000)), SOON).await });
        eventually(until, || match until {
            "held" => scene.worker.in_hand().batches == 1,
            _ => scene.actor.room() < 8 && scene.worker.in_hand().batches == 0,
        })
        .await;
        asking.abort();
        eventually("let go", || scene.worker.in_hand() == InHand::default()).await;
        eventually("let go there", || scene.head.in_hand() == InHand::default()).await;
        scene.store.gate.notify_waiters();
        scene.settled().await;
    }
    // While its reply's are: a deadline is no other than a drop.
    let actor = scene.remote(STORE);
    let asking = world.spawn(async move { actor.ask(Later(numbers(2_000_000)), SOON).await });
    eventually("asked", || scene.actor.room() < 8).await;
    scene.store.gate.notify_one();
    eventually("the reply waits", || scene.head.in_hand().batches == 1).await;
    asking.abort();
    scene.settled().await;
}

async fn a_lost_connection_frees_both_sides(world: World) {
    let scene = Scene::new(&world).await;
    let actor = scene.remote(STORE);
    actor.tell(Load(1, numbers(2_000_000)), SOON).await.unwrap();
    let asking = world.spawn(async move { actor.ask(Load(2, numbers(2_000_000)), SOON).await });
    eventually("both are held", || scene.worker.in_hand().batches == 2).await;
    scene.worker.disconnect(scene.head.id());
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, AskError::ConnectionLost { .. }) && error.may_have_run(), "{error}");
    scene.settled().await;
    assert!(scene.store.log.lock().unwrap().is_empty());
}

async fn a_consumer_that_leaves_frees_the_batches_of_its_stream(world: World) {
    let scene = Scene::new(&world).await;
    let mut replies = scene.remote(STORE).stream(Flow(u32::MAX, numbers(100_000)), SOON).await.unwrap();
    replies.next().await.unwrap().unwrap();
    eventually("the window is used", || scene.head.in_hand().batches >= 2).await;
    assert!(scene.head.in_hand().batches <= 4, "more than the window");
    drop(replies);
    scene.settled().await;
}

async fn broken_ipc_is_a_bad_message_and_no_more(world: World) {
    common::panics::wanted_of_others("the offset of the new Buffer cannot exceed"); // Arrow's, which decoding catches
    let scene = Scene::new(&world).await;
    let actor = scene.remote(STORE);
    // A batch as it goes inside: an enum's number, a length, an IPC stream.
    let good = encode(&kinds(5)).unwrap().to_vec();
    let ipc = decode::<Sent>(&good).unwrap();
    let Sent::Inside(ipc) = ipc else { panic!("{ipc:?}") };
    let mut refused = 0;
    for at in (0..ipc.len()).step_by(37) {
        let mut broken = ipc.clone();
        broken[at] ^= 0x55;
        let asked = actor.ask(Forged(vec![Sent::Inside(broken)]), SOON).await;
        match asked {
            Err(error @ AskError::BadMessage { .. }) => {
                assert!(!error.may_have_run());
                refused += 1;
            }
            // Some bytes are only numbers, and the reply is not that of a `Forged`.
            Ok(()) | Err(AskError::BadReply { .. }) => (),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 10, "only {refused} were refused");
    for sent in
        [Sent::Inside(ipc[..ipc.len() - 9].to_vec()), Sent::Inside([&ipc[..], &ipc[..]].concat()), Sent::Beside(0)]
    {
        let error = actor.ask(Forged(vec![sent]), SOON).await.unwrap_err();
        assert!(matches!(error, AskError::BadMessage { .. }), "{error}");
    }
    assert_eq!(actor.ask(Load(1, numbers(3)), SOON).await.unwrap(), 3);
    scene.settled().await;
}

async fn more_than_a_message_may_have_is_refused_at_once(world: World) {
    let scene = Scene::new(&world).await;
    let large = numbers(MAX_BATCHES / 8 / 4);
    let error = scene.remote(STORE).ask(Echo(vec![large; 5]), SOON).await.unwrap_err();
    let AskError::Codec(CodecError::BatchesTooLarge { size }) = error else { panic!("{error}") };
    assert!(size > MAX_BATCHES && !error.may_have_run());
    let error = scene.remote(STORE).ask(Echo(vec![numbers(1000); 5000]), SOON).await.unwrap_err();
    assert!(matches!(error, AskError::Codec(CodecError::TooManyBatches { .. })), "{error}");
    scene.settled().await;
}

async fn closing_delivers_batches_that_were_told(world: World) {
    let scene = Scene::new(&world).await;
    scene.remote(STORE).tell(Load(1, numbers(300_000)), SOON).await.unwrap();
    scene.worker.close(SOON).await;
    eventually("it came", || *scene.store.log.lock().unwrap() == [1]).await;
}
