//! Actors of the program's own: on workers and native alike.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use regatta::actor::actix::{Actor, ActorContext, AsyncContext, Context, Handler};
use regatta::actor::{ActorRef, AskError, Down, NameError, Restarts};
use regatta::error::ActorError;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::{Error, WorkerId};
use serde::{Deserialize, Serialize};

use crate::errors::{on_both, says};
use crate::joining::{cluster, join};
use crate::udfs::numbers;

const SOON: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize, regatta::Message)]
#[message(id = 1, reply = u64)]
struct Add(u64);

/// In which process is it?
#[derive(Serialize, Deserialize, regatta::Message)]
#[message(id = 2, reply = u32)]
struct Where;

#[derive(Serialize, Deserialize, regatta::Message)]
#[message(id = 3)]
struct Sink;

#[derive(Serialize, Deserialize, regatta::Message)]
#[message(id = 4)]
struct Leave;

/// Adds to a total that begins with its argument.
#[regatta::actor(Add, Where, Sink, Leave)]
#[derive(Serialize, Deserialize)]
struct Counter {
    first: u64,
    #[serde(skip)]
    total: u64,
}

fn counter(first: u64) -> Counter {
    Counter { first, total: 0 }
}

impl Actor for Counter {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        self.total = self.first;
    }
}

impl Handler<Add> for Counter {
    type Result = u64;

    fn handle(&mut self, Add(number): Add, _: &mut Self::Context) -> u64 {
        self.total += number;
        self.total
    }
}

impl Handler<Where> for Counter {
    type Result = u32;

    fn handle(&mut self, _: Where, _: &mut Self::Context) -> u32 {
        std::process::id()
    }
}

impl Handler<Sink> for Counter {
    type Result = ();

    fn handle(&mut self, _: Sink, _: &mut Self::Context) {
        panic!("a plank gave way");
    }
}

impl Handler<Leave> for Counter {
    type Result = ();

    fn handle(&mut self, _: Leave, ctx: &mut Self::Context) {
        ctx.run_later(Duration::ZERO, |_, ctx| ctx.stop());
    }
}

/// Another actor type.
#[regatta::actor(Leave)]
#[derive(Serialize, Deserialize)]
struct Mute;

impl Actor for Mute {
    type Context = Context<Self>;
}

impl Handler<Leave> for Mute {
    type Result = ();

    fn handle(&mut self, _: Leave, _: &mut Self::Context) {}
}

/// Adds the rows of each batch to the counter of that name, or to the one it was given.
#[derive(Serialize, Deserialize)]
struct Count(Option<ActorRef<Counter>>);

#[regatta::udf(name = "count")]
impl Udf for Count {
    type State = ActorRef<Counter>;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, cx: &mut Start) -> UdfResult<Self::State> {
        match &self.0 {
            Some(counter) => Ok(counter.clone()),
            None => cx.actor("counter"),
        }
    }

    fn run(&self, counter: &mut Self::State, batch: &Batch) -> UdfResult<Column> {
        counter.ask_blocking(Add(batch.height() as u64), SOON)?;
        Ok(batch.column(0)?.clone())
    }
}

/// The same, waiting for the answer with others.
#[derive(Serialize, Deserialize)]
struct CountLater;

#[regatta::udf]
impl AsyncUdf for CountLater {
    type State = ActorRef<Counter>;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    async fn start(&self, cx: &mut Start) -> UdfResult<Self::State> {
        cx.actor("counter")
    }

    async fn run(&self, counter: &Self::State, batch: &Batch) -> UdfResult<Column> {
        counter.ask(Add(batch.height() as u64), SOON).await?;
        Ok(batch.column(0)?.clone())
    }
}

fn down(actor: &ActorRef<Counter>) -> Down {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(actor.down())
}

fn is_unknown<A>(found: Result<A, Error>) -> bool {
    matches!(found, Err(Error::Actor(ActorError::Name(NameError::Unknown { .. }))))
}

#[test]
fn an_actor_is_spawned_asked_found_by_name_and_stopped() {
    on_both(|session| {
        let actor = session.spawn(counter(1).named("counter")).unwrap();
        assert_eq!(actor.ask_blocking(Add(2), SOON).unwrap(), 3);
        let process = actor.ask_blocking(Where, SOON).unwrap();
        let workers = session.processes();
        assert!(if workers.is_empty() { process == std::process::id() } else { workers.contains(&process) });
        assert_eq!(session.actor::<Counter>("counter").unwrap().ask_blocking(Add(1), SOON).unwrap(), 4);
        session.stop(&actor).unwrap();
        let error = actor.ask_blocking(Add(1), SOON).unwrap_err();
        assert!(!error.may_have_run(), "{error}");
        let error = session.stop(&actor).unwrap_err();
        assert!(matches!(error, Error::Actor(ActorError::NotRunning)), "{error}");
        eventually("the name is free", || is_unknown(session.actor::<Counter>("counter")));
        session.spawn(counter(1).named("counter")).unwrap();
    });
}

#[test]
fn udfs_of_all_workers_isolated_or_not_share_an_actor_by_its_name_or_by_a_handle_in_their_arguments() {
    on_both(|session| {
        let actor = session.spawn(counter(0).named("counter")).unwrap();
        let replicas = |pool: regatta::udf::Pool<Count>| pool.replicas(2).batch(100).on([col("x")]);
        let (by_name, by_handle) = (|| Count(None).pool(), || Count(Some(actor.clone())).pool());
        let calls = [
            replicas(by_name()),
            replicas(by_handle()),
            replicas(by_name().isolated()),
            replicas(by_handle().isolated()),
            CountLater.pool().batch(100).isolated().on([col("x")]),
        ];
        for (round, call) in calls.into_iter().enumerate() {
            let answer = numbers().select([call.sum()]).collect_on(session).unwrap();
            assert_eq!(answer.column("x").unwrap().i64().unwrap().get(0), Some(999 * 500));
            assert_eq!(actor.ask_blocking(Add(0), SOON).unwrap(), 1000 * (round as u64 + 1));
        }
    });
}

#[test]
fn a_warm_replica_that_found_an_actor_asks_the_one_that_has_its_name_now() {
    on_both(|session| {
        let calls = [
            Count(None).pool().batch(100).on([col("x")]),
            Count(None).pool().batch(100).isolated().on([col("x")]),
            CountLater.pool().batch(100).on([col("x")]),
            CountLater.pool().batch(100).isolated().on([col("x")]),
        ];
        let queries = calls.map(|call| numbers().select([call.sum()]));
        for (form, query) in queries.iter().enumerate() {
            for job in 0..3 {
                let actor = session.spawn(counter(0).named("counter")).unwrap();
                query.clone().collect_on(session).unwrap();
                assert_eq!(actor.ask_blocking(Add(0), SOON).unwrap(), 1000, "form {form}, job {job}");
                // The same one is not looked for in vain.
                query.clone().collect_on(session).unwrap();
                assert_eq!(actor.ask_blocking(Add(0), SOON).unwrap(), 2000, "form {form}, job {job}");
                session.stop(&actor).unwrap();
                eventually("its name is free", || is_unknown(session.actor::<Counter>("counter")));
            }
        }
        // At last: other calls of a query that has failed may look for a little longer, and would find the next one.
        for query in queries {
            says(&query.collect_on(session).unwrap_err(), &["no actor is named \"counter\""]);
        }
    });
}

#[test]
fn isolated_replicas_of_workers_that_joined_find_actors_too() {
    let cluster = cluster();
    let _workers = join(&cluster, 2);
    let actor = cluster.session().spawn(counter(0).named("counter")).unwrap();
    let query = numbers().select([Count(None).pool().replicas(2).batch(100).isolated().on([col("x")]).sum()]);
    let answer = query.collect_on(cluster.session()).unwrap();
    assert_eq!(answer.column("x").unwrap().i64().unwrap().get(0), Some(999 * 500));
    assert_eq!(actor.ask_blocking(Add(0), SOON).unwrap(), 1000);
}

#[test]
fn an_actor_that_panics_is_built_again_from_its_arguments_until_its_limit() {
    on_both(|session| {
        let limit = Restarts { times: 1, ..Restarts::default() };
        let actor = session.spawn(counter(5).named("counter").restarts(limit)).unwrap();
        assert_eq!(actor.ask_blocking(Add(1), SOON).unwrap(), 6);
        let sink = || {
            let error = actor.ask_blocking(Sink, SOON).unwrap_err();
            assert!(matches!(&error, AskError::Panicked { text } if text.contains("a plank gave way")), "{error}");
        };
        sink();
        assert_eq!(actor.ask_blocking(Add(1), SOON).unwrap(), 6, "a new one");
        sink();
        eventually("its name is gone", || is_unknown(session.actor::<Counter>("counter")));
        assert!(actor.ask_blocking(Add(1), SOON).is_err());
    });
}

#[test]
fn an_actor_that_stops_itself_gives_its_name_back() {
    on_both(|session| {
        let actor = session.spawn(counter(0).named("counter")).unwrap();
        actor.ask_blocking(Leave, SOON).unwrap();
        eventually("its name is free", || is_unknown(session.actor::<Counter>("counter")));
        eventually("it is let go", || matches!(session.stop(&actor), Err(Error::Actor(ActorError::NotRunning))));
    });
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    on_both(|session| {
        session.spawn(counter(0).named("counter")).unwrap();
        let error = session.spawn(counter(1).named("counter")).unwrap_err();
        says(&error, &["\"counter\"", "taken", "Counter"]);
        says(&session.actor::<Counter>("cuonter").unwrap_err(), &["\"cuonter\"", "there are [\"counter\"]"]);
        says(&session.actor::<Mute>("counter").unwrap_err(), &["\"counter\"", "Counter", "not a", "Mute"]);
        says(&session.spawn(counter(0).on(WorkerId(9))).unwrap_err(), &["worker 9 is not there", "worker 0"]);
        let query = numbers().select([Count(None).pool().on([col("x")])]);
        session.stop(&session.actor::<Counter>("counter").unwrap()).unwrap();
        eventually("the name is free", || is_unknown(session.actor::<Counter>("counter")));
        says(&query.collect_on(session).unwrap_err(), &["count", "could not start", "no actor is named \"counter\""]);
        let isolated = numbers().select([Count(None).pool().isolated().on([col("x")])]);
        says(
            &isolated.collect_on(session).unwrap_err(),
            &["count", "could not start", "no actor is named \"counter\""],
        );
    });
}

#[test]
fn actors_spread_over_the_workers_and_end_with_theirs() {
    let session = Session::local(2).unwrap();
    let actors = [(); 4].map(|()| session.spawn(counter(0)).unwrap());
    let mut at = actors.each_ref().map(|actor| actor.ask_blocking(Where, SOON).unwrap());
    at.sort_unstable();
    assert!(at[0] == at[1] && at[1] != at[2] && at[2] == at[3], "{at:?}");
    let chosen = session.spawn(counter(0).on(WorkerId(1)).named("chosen")).unwrap();
    let process = chosen.ask_blocking(Where, SOON).unwrap();
    assert_eq!(process, session.processes()[1]);
    assert!(std::process::Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
    assert!(matches!(down(&chosen), Down::NodeLost { .. }));
    eventually("its name is gone", || is_unknown(session.actor::<Counter>("chosen")));
    let (lost, live): (Vec<_>, Vec<_>) =
        actors.iter().map(|actor| actor.ask_blocking(Add(1), SOON / 10)).partition(Result::is_err);
    assert_eq!((lost.len(), live.len()), (2, 2));
    session.spawn(counter(0).named("chosen")).unwrap();
}

/// Counts those of it that live in this process.
#[regatta::actor(Leave)]
#[derive(Serialize, Deserialize)]
struct Witness;

static WITNESSES: AtomicUsize = AtomicUsize::new(0);

impl Actor for Witness {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        WITNESSES.fetch_add(1, Ordering::SeqCst);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        WITNESSES.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler<Leave> for Witness {
    type Result = ();

    fn handle(&mut self, _: Leave, _: &mut Self::Context) {}
}

#[test]
fn an_actor_ends_with_its_session_also_if_somebody_holds_its_handle() {
    let session = Session::native().unwrap();
    let actor = session.spawn(Witness).unwrap();
    actor.ask_blocking(Leave, SOON).unwrap();
    assert_eq!(WITNESSES.load(Ordering::SeqCst), 1);
    drop(session);
    eventually("it has ended", || WITNESSES.load(Ordering::SeqCst) == 0);
    assert!(actor.ask_blocking(Leave, SOON).is_err());
}
