//! The actors: thin shells over `sched`, `engine` and `udf`.
//!
//! A [`SchedulerActor`] places work, a [`SwordfishActor`] per worker runs tasks, and each [`UdfActor`] is one replica of a
//! UDF on a thread of its own. A `GatewayActor` at the head takes the queries of drivers elsewhere. They share nothing but
//! the messages in `messages.rs`.

#[cfg(test)]
mod at_rest;
mod ends;
mod feed;
mod feeding;
mod gateway;
mod host;
mod hosted;
mod lanes;
mod leaving;
mod messages;
#[cfg(test)]
pub(crate) mod moments;
mod observed;
mod outbox;
mod ownership;
mod pools;
mod providing;
mod relay;
mod scheduler;
mod specs;
mod swordfish;
mod udf;
mod whereabouts;
mod window;

use std::time::Duration;

use regatta_remote::{ActorId, ActorRef, AskError, RemoteMessage};

#[cfg(test)]
pub(crate) use at_rest::Left;
pub(crate) use gateway::GatewayActor;
pub(crate) use host::{Host, wait};
pub(crate) use leaving::{Departs, Drain, EndAll};
pub(crate) use messages::{
    DriverDown, Enrol, Find, Found, Hear, Known, Place, ProfileOf, ProgressOf, Register, Release, RunEvent, SpawnActor,
    Status, StopActor, Submit, SubmitFrom, Taken, WholeStatus, Worker, WorkerDown, WorkerSilent,
};
pub(crate) use observed::Kept;
pub(crate) use providing::{ClusterProvider, UseProvider};
pub(crate) use relay::Relay;
pub use scheduler::SchedulerActor;
pub use swordfish::SwordfishActor;
pub use udf::UdfActor;
#[cfg(feature = "dashboard")]
pub(crate) use window::Shown;
pub(crate) use window::open as open_window;

/// Where the scheduler is found at the head.
pub(crate) const SCHEDULER: ActorId = ActorId(1);
/// Where the swordfish is found at each worker.
pub(crate) const SWORDFISH: ActorId = ActorId(2);
/// Where the gateway is found at the head of a cluster that others join.
pub(crate) const GATEWAY: ActorId = ActorId(3);
// Where the head is looked at by who is outside: `regatta_observe::window::WINDOW`, which is 4.

/// Replicas are numbered from here.
const FIRST_REPLICA: u64 = 16;
/// Users' actors are numbered from here, by the scheduler.
const FIRST_HOSTED: u64 = 1 << 32;

/// How long a control message may take: its handlers only note it.
pub(crate) const CONTROL: Duration = Duration::from_secs(10);
/// Messages that an actor holds, waiting and handled.
pub(crate) const MAILBOX: usize = 1024;

/// Asks until the message has certainly been taken, for as long as `CONTROL`: a busy actor is asked again.
pub(crate) async fn insist<A, M>(actor: &ActorRef<A>, message: M) -> Result<M::Result, AskError>
where
    A: actix::Actor<Context = actix::Context<A>> + actix::Handler<M>,
    M: RemoteMessage + Clone,
{
    insist_on(actor, &message).await
}

/// The same, with a message that is still wanted.
async fn insist_on<A, M>(actor: &ActorRef<A>, message: &M) -> Result<M::Result, AskError>
where
    A: actix::Actor<Context = actix::Context<A>> + actix::Handler<M>,
    M: RemoteMessage + Clone,
{
    let until = tokio::time::Instant::now() + CONTROL;
    loop {
        match actor.ask(message.clone(), CONTROL).await {
            Err(error) if error.is_retryable() && !error.may_have_run() && tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answer => return answer,
        }
    }
}
