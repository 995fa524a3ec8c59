//! Actors by name: one registry for a cluster, at its head.

mod kept;
#[cfg(any(fuzzing, test))]
pub(crate) use registry::{Entry, Table};
mod registry;

use std::any::type_name;
use std::fmt;
use std::future::pending;
use std::time::Duration;

use actix::{Actor, Context};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::{Instant, sleep_until};

use crate::actor::ActorRef;
use crate::error::AskError;
use crate::ids::{ActorId, Address, NodeId, Role};
use crate::local::LocalRef;
use crate::node::Node;
use crate::peers::PeerEvent;
use crate::redial::WINDOW;
use crate::runtime::Arbiter;
use crate::text::{cut, debug_is_display};
use registry::{Find, KIND, LISTED, LONGEST, Register, Registry, Sweep, Unregister};

/// The number under which a head publishes its registry. No other actor of a head may have it.
const NAMES: ActorId = ActorId(0);
/// Questions that wait at the registry.
const MAILBOX: usize = 1024;
/// How long the registry may take to hear of an actor's end; it is told again until it has.
const TOLD: Duration = Duration::from_secs(10);
/// How long the names of a node that was lost are remembered: it may come back as long as it is dialled, and once more so long
/// as a dial may take.
const REMEMBERED: Duration = WINDOW.saturating_mul(2);

/// The names of a cluster's actors, as one of its nodes sees them. From [`Node::names`].
#[derive(Clone)]
pub struct Names {
    node: Node,
    head: NodeId,
}

/// A name could not be registered or found.
#[derive(Clone, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NameError {
    /// Another actor has the name.
    #[error("the name {name:?} is taken by the {kind} at {by}: choose another, or unregister or stop that actor first")]
    Taken {
        /// The name.
        #[serde(deserialize_with = "crate::text::short")]
        name: String,
        /// Who has it.
        by: Address,
        /// Its type.
        #[serde(deserialize_with = "crate::text::short")]
        kind: String,
    },
    /// Nobody has the name.
    #[error("no actor is named {name:?}; {}", known_names(known))]
    Unknown {
        /// The name.
        #[serde(deserialize_with = "crate::text::short")]
        name: String,
        /// Some of the names that there are.
        #[serde(deserialize_with = "few")]
        known: Vec<String>,
    },
    /// The name is that of an actor of another type.
    #[error("the actor named {name:?} is a {kind}, not a {wanted}")]
    OtherType {
        /// The name.
        #[serde(deserialize_with = "crate::text::short")]
        name: String,
        /// The actor's type.
        #[serde(deserialize_with = "crate::text::short")]
        kind: String,
        /// The type that was asked for.
        #[serde(deserialize_with = "crate::text::short")]
        wanted: String,
    },
    /// The actor cannot be reached by others.
    #[error("{kind} is not published at this node, so nobody could reach it by the name {name:?}: publish it first")]
    NotPublished {
        /// The name.
        #[serde(deserialize_with = "crate::text::short")]
        name: String,
        /// The actor's type.
        #[serde(deserialize_with = "crate::text::short")]
        kind: String,
    },
    /// Not a name.
    #[error("{name:?} cannot be a name: a name has 1 to {max} bytes")]
    Malformed {
        /// The text, cut if it is long.
        #[serde(deserialize_with = "crate::text::short")]
        name: String,
        /// The most bytes of a name.
        max: usize,
    },
    /// The registry is full, or has as many names of one node as it takes.
    #[error("{max} actors have names already: unregister some")]
    TooMany {
        /// The most names.
        max: usize,
    },
    /// The name is that of another node's actor.
    #[error("the name {name:?} belongs to the {kind} at {by}: only its node, or the head, takes it back")]
    NotYours {
        /// The name.
        #[serde(deserialize_with = "crate::text::short")]
        name: String,
        /// Who has it.
        by: Address,
        /// Its type.
        #[serde(deserialize_with = "crate::text::short")]
        kind: String,
    },
    /// A node wanted a name for another node's actor.
    #[error("an actor of node {node} gets its names by that node, not by another")]
    OtherNode {
        /// The actor's node.
        node: NodeId,
    },
    /// The head has lost the actor's node.
    #[error("the head is not connected to node {node}")]
    NodeGone {
        /// The node.
        node: NodeId,
    },
    /// The head did not answer.
    #[error("the head's registry of names: {0}")]
    #[serde(skip)]
    NoAnswer(#[from] AskError),
}

debug_is_display!(NameError);

/// Reads names that a head lists, and no more of them than one lists.
fn few<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let mut known = Vec::<String>::deserialize(from)?;
    known.truncate(LISTED);
    Ok(known.iter().map(|name| cut(name, LONGEST).to_owned()).collect())
}

fn known_names(known: &[String]) -> String {
    match known {
        [] => "no name is registered. Its actor must be running, and registered under that name".to_owned(),
        known => format!("there are {known:?}. Is it misspelt, or has its actor ended?"),
    }
}

impl Node {
    /// Keeps the names of the cluster, by an actor on this thread. To be called on its head, once.
    pub fn keep_names(&self, arbiter: &Arbiter) {
        let node = self.weak();
        let registry = arbiter.spawn(MAILBOX, move |_| Registry::new(node));
        let hosts = &[Role::Head, Role::Driver, Role::Worker];
        self.publish(NAMES, &registry)
            .on_own::<Register>(hosts)
            .on_own::<Unregister>(hosts)
            .on_own::<Find>(&Role::MEMBERS);
        let mut events = self.events();
        let handle = self.shared().net.handle.clone();
        handle.spawn(async move {
            // When a node was lost last, and when is looked for what has not come back. The first of many losses is late.
            let (mut lost, mut look) = (Instant::now(), None);
            loop {
                let due = async {
                    match look {
                        Some(look) => sleep_until(look).await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    event = events.recv() => match event {
                        Some(PeerEvent::Down { .. }) => {
                            lost = Instant::now();
                            look.get_or_insert(lost + REMEMBERED);
                        }
                        Some(_) => (),
                        None => return,
                    },
                    () = due => {
                        // Not taken only by a registry that is gone; a find looks for itself whether a node is there.
                        let _ = registry.tell(Sweep, TOLD).await;
                        look = Some(lost + REMEMBERED).filter(|look| *look > Instant::now());
                    }
                }
            }
        });
    }

    /// The names that this head [keeps](Self::keep_names).
    pub fn names(&self, head: NodeId) -> Names {
        Names { node: self.clone(), head }
    }
}

impl Names {
    /// Gives a name to an actor that this node publishes. Registering the same actor again changes nothing. The name goes
    /// with the actor. While the head has lost this node nobody finds it, and another actor may take it; else it is there again
    /// as soon as the two are connected again.
    ///
    /// # Errors
    /// [`NameError::Taken`] if another actor has it; the actor is not published; the head does not answer.
    ///
    /// # Cancel safety
    /// The name may have been registered all the same.
    pub async fn register<A>(&self, name: &str, actor: &LocalRef<A>, deadline: Duration) -> Result<(), NameError>
    where
        A: Actor<Context = Context<A>>,
    {
        let name = short(name)?;
        let unpublished = || NameError::NotPublished { name: name.clone(), kind: kind::<A>() };
        let here = actor.home().filter(|(node, _)| node.id() == self.node.id());
        let (node, id) = here.ok_or_else(unpublished)?;
        let address = Address { node: node.id(), actor: id };
        let register = Register { name: name.clone(), address, at: node.dialled_at(), kind: kind::<A>() };
        self.registry().ask(register, deadline).await??;
        // Also if it ends before this: then it is told at once.
        self.keep(actor, address, name);
        Ok(())
    }

    /// The actor of that name.
    ///
    /// # Errors
    /// [`NameError::Unknown`], also when its node has just been lost; [`NameError::OtherType`]; the head does not answer.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn find<A>(&self, name: &str, deadline: Duration) -> Result<ActorRef<A>, NameError>
    where
        A: Actor<Context = Context<A>>,
    {
        let name = short(name)?;
        let found = self.registry().ask(Find { name: name.clone() }, deadline).await??;
        if found.kind != kind::<A>() {
            return Err(NameError::OtherType { name, kind: found.kind, wanted: kind::<A>() });
        }
        Ok(ActorRef::at(self.node.router(), found.address, found.at))
    }

    /// Where the actor of that name is, of whatever type.
    ///
    /// # Errors
    /// As [`find`](Self::find), but for the type.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn locate(&self, name: &str, deadline: Duration) -> Result<Address, NameError> {
        Ok(self.registry().ask(Find { name: name.to_owned() }, deadline).await??.address)
    }

    /// Takes back a name of one of this node's actors; at the head, whoever has it. The actor goes on.
    ///
    /// # Errors
    /// Nobody has it, or another node's actor; the head does not answer.
    ///
    /// # Cancel safety
    /// The name may be gone all the same.
    pub async fn unregister(&self, name: &str, deadline: Duration) -> Result<(), NameError> {
        let name = short(name)?;
        self.registry().ask(Unregister { name: name.clone(), only: None }, deadline).await??;
        self.node.shared().named.forget(self.head, &name);
        Ok(())
    }

    fn registry(&self) -> ActorRef<Registry> {
        self.node.actor(Address { node: self.head, actor: NAMES })
    }
}

/// A name, if it may be one: no other is sent.
fn short(name: &str) -> Result<String, NameError> {
    let malformed = || NameError::Malformed { name: cut(name, LONGEST).to_owned(), max: LONGEST };
    (1..=LONGEST).contains(&name.len()).then(|| name.to_owned()).ok_or_else(malformed)
}

/// A type as the registry knows it.
fn kind<A>() -> String {
    cut(type_name::<A>(), KIND).to_owned()
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("head", &self.head).finish_non_exhaustive()
    }
}
