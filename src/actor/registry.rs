//! Actor types by name: every type of the program is known to the driver and to each worker, which are the same executable.

use std::collections::{BTreeMap, btree_map::Entry};
use std::pin::Pin;
use std::sync::LazyLock;

use regatta_remote::{ActorId, Arbiter, CodecError, Down, Names, Node, decode};

use super::{ActorSpec, LOOK_UP, RemoteActor};
use crate::error::ActorError;

/// A registration. Made by [`#[regatta::actor]`](macro@crate::actor); nobody else needs it.
#[derive(Debug)]
pub struct ActorEntry {
    name: &'static str,
    start: Start,
}

type Start = fn(&Arbiter, Launch) -> Result<Started, ActorError>;

/// What becomes of an actor: has its name, or cannot get it; then, when it ends, why.
pub(crate) type Started = Boxed<Result<Boxed<Down>, ActorError>>;
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl ActorEntry {
    /// The entry of one actor type.
    pub const fn of<A: RemoteActor>() -> Self {
        Self { name: A::NAME, start: start::<A> }
    }
}

inventory::collect!(ActorEntry);

/// As what an actor is started.
pub(crate) struct Launch {
    pub(crate) node: Node,
    pub(crate) names: Names,
    pub(crate) id: ActorId,
    pub(crate) spec: ActorSpec,
}

/// Starts an actor on this thread, if its type is registered.
pub(crate) fn open(arbiter: &Arbiter, launch: Launch) -> Result<Started, ActorError> {
    let kind = &launch.spec.kind;
    let start = TABLE.get(kind.as_str()).ok_or_else(|| ActorError::NotRegistered { kind: kind.clone() })?;
    start.clone()?(arbiter, launch)
}

/// The names of all registered actor types, sorted. Two programs can share a cluster only if these agree.
pub(crate) fn registered() -> Vec<&'static str> {
    TABLE.keys().copied().collect()
}

fn start<A: RemoteActor>(arbiter: &Arbiter, launch: Launch) -> Result<Started, ActorError> {
    let Launch { node, names, id, spec } = launch;
    let build = {
        let (node, arguments) = (node.clone(), spec.arguments);
        move || -> Result<A, CodecError> { node.decoding(|| decode(&arguments)) }
    };
    build().map_err(|error| ActorError::arguments(A::NAME, error))?;
    let actor = arbiter.supervise(spec.options.mailbox, spec.options.restarts, move |_| {
        build().unwrap_or_else(|error| panic!("its arguments could be read once, and now not: {error}"))
    });
    A::publish(node.publish(id, &actor));
    Ok(Box::pin(async move {
        if let Some(name) = &spec.options.name {
            names.register(name, &actor, LOOK_UP).await?;
        }
        Ok(Box::pin(async move { actor.down().await }) as Boxed<Down>)
    }))
}

type Table = BTreeMap<&'static str, Result<Start, ActorError>>;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table::new();
    for entry in inventory::iter::<ActorEntry> {
        match table.entry(entry.name) {
            Entry::Vacant(slot) => _ = slot.insert(Ok(entry.start)),
            Entry::Occupied(mut slot) => _ = slot.insert(Err(ActorError::Twice { kind: entry.name.to_owned() })),
        }
    }
    table
});
