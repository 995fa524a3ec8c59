//! Actors of your own: started on any worker, found by name, told, asked, watched and started again.
//!
//! An actor is a plain actix actor that is also a serde value: its arguments travel, fields marked `#[serde(skip)]` are its
//! state, and [`started`](actix::Actor::started) prepares it. [`#[regatta::actor]`](macro@crate::actor) registers it with the
//! messages that other processes may send, each a [`#[derive(regatta::Message)]`](macro@crate::Message).
//! [`Session::spawn`](crate::Session::spawn) starts it.
//!
//! ```
//! use std::time::Duration;
//! use regatta::actor::actix::{Actor, Context, Handler};
//! use regatta::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, regatta::Message)]
//! #[message(id = 1, reply = u64)]
//! struct Add(u64);
//!
//! #[regatta::actor(Add)]
//! #[derive(Serialize, Deserialize)]
//! struct Counter { total: u64 }
//!
//! impl Actor for Counter { type Context = Context<Self>; }
//!
//! impl Handler<Add> for Counter {
//!     type Result = u64;
//!     fn handle(&mut self, Add(number): Add, _: &mut Context<Self>) -> u64 {
//!         self.total += number;
//!         self.total
//!     }
//! }
//!
//! let session = Session::native()?;
//! let counter = session.spawn(Counter { total: 1 }.named("counter"))?;
//! assert_eq!(counter.ask_blocking(Add(2), Duration::from_secs(1)).unwrap(), 3);
//! let again = session.actor::<Counter>("counter")?;
//! assert_eq!(again.ask_blocking(Add(2), Duration::from_secs(1)).unwrap(), 5);
//! # Ok::<(), regatta::Error>(())
//! ```

mod registry;

use std::sync::Arc;
use std::time::Duration;

use regatta_remote::{Names, Node, Role, encode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::config::ClusterAt;
use crate::error::{ActorError, ClusterError};
use crate::sched::WorkerId;

pub use regatta_remote::{
    ActorRef, Address, AskError, Asker, Down, NameError, Publication, RemoteMessage, Restarts, Sender, TellError,
    WireMessage, actix,
};
#[doc(hidden)]
pub use registry::ActorEntry;
pub(crate) use registry::{Launch, open, registered};

#[doc(hidden)]
pub use regatta_remote::assert_distinct;

/// Messages to an actor may come from everywhere in its cluster.
#[doc(hidden)]
pub const EVERY_ROLE: [Role; 4] = Role::MEMBERS;

/// An actor that a session can start anywhere. Implemented by [`#[regatta::actor]`](macro@crate::actor).
pub trait RemoteActor: actix::Actor<Context = actix::Context<Self>> + Serialize + DeserializeOwned {
    /// The name under which its type travels: the type's path unless the attribute says otherwise.
    const NAME: &'static str;

    /// Names the messages that other processes may send.
    fn publish(actor: Publication<Self>) -> Publication<Self>;

    /// With a name by which everybody in the cluster finds it. Unique among the actors that live.
    fn named(self, name: &str) -> Spawn<Self> {
        Spawn::from(self).named(name)
    }

    /// On this worker.
    fn on(self, worker: WorkerId) -> Spawn<Self> {
        Spawn::from(self).on(worker)
    }
}

/// How an actor is to be started; every [`RemoteActor`] is one.
#[derive(Debug)]
pub struct Spawn<A> {
    actor: A,
    options: SpawnOptions,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SpawnOptions {
    pub(crate) name: Option<String>,
    pub(crate) worker: Option<WorkerId>,
    pub(crate) mailbox: usize,
    pub(crate) restarts: Restarts,
}

/// An actor on its way to a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ActorSpec {
    /// Its type's registered name.
    pub(crate) kind: String,
    pub(crate) arguments: Vec<u8>,
    pub(crate) options: SpawnOptions,
}

/// How long the head may take to register or find a name.
pub(crate) const LOOK_UP: Duration = Duration::from_secs(10);
/// Messages that wait at an actor, unless said otherwise.
const MAILBOX: usize = 256;

impl<A: RemoteActor> From<A> for Spawn<A> {
    fn from(actor: A) -> Self {
        let options = SpawnOptions { name: None, worker: None, mailbox: MAILBOX, restarts: Restarts::default() };
        Self { actor, options }
    }
}

impl<A: RemoteActor> Spawn<A> {
    /// With a name by which everybody in the cluster finds it. Unique among the actors that live.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.options.name = Some(name.to_owned());
        self
    }

    /// On this worker; else on the one with the fewest actors.
    #[must_use]
    pub fn on(mut self, worker: WorkerId) -> Self {
        self.options.worker = Some(worker);
        self
    }

    /// At most so many messages wait at it or are handled; more are [`Busy`](AskError::Busy). 256 unless said otherwise.
    #[must_use]
    pub fn mailbox(mut self, places: usize) -> Self {
        self.options.mailbox = places;
        self
    }

    /// How often it is built again from its arguments after a panic.
    #[must_use]
    pub fn restarts(mut self, limit: Restarts) -> Self {
        self.options.restarts = limit;
        self
    }

    pub(crate) fn spec(self) -> Result<ActorSpec, ActorError> {
        let arguments = encode(&self.actor).map_err(|error| ActorError::arguments(A::NAME, error))?;
        Ok(ActorSpec { kind: A::NAME.to_owned(), arguments: arguments.into(), options: self.options })
    }
}

/// How UDFs find the actors of their cluster: by what the process that they run in knows.
pub(crate) trait ActorDirectory: Send + Sync {
    /// The names of the cluster's actors, and the runtime to ask on.
    fn names(&self) -> Result<(Names, tokio::runtime::Handle), ClusterError>;

    /// The node whose handles arguments hold; `None` if there can be none.
    fn receiver(&self) -> Option<Node>;

    /// What lets one process of this one's own in to the cluster.
    fn admit(&self) -> Result<ClusterAt, ClusterError>;
}

/// `None`: outside of any session.
pub(crate) type Directory = Option<Arc<dyn ActorDirectory>>;
