//! The addresses that a node has dialled, and is dialling.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::ids::NodeId;

/// One dial at a time for each address, and one task that keeps its node connected.
#[derive(Default)]
pub(crate) struct Dials {
    turns: Mutex<BTreeMap<SocketAddr, Turn>>,
    keepers: Mutex<BTreeMap<SocketAddr, (NodeId, AbortHandle)>>,
    /// Connections that are being made on demand: one for all who want it.
    on_demand: Mutex<HashMap<SocketAddr, Dialling>>,
}

/// Who holds it may dial its address.
pub(crate) type Turn = Arc<tokio::sync::Mutex<()>>;

/// Ends when a dial is done, however.
pub(crate) type Dialling = watch::Receiver<()>;

impl Dials {
    /// Dials nobody again.
    pub(crate) fn stop(&self) {
        lock(&self.keepers).values().for_each(|(_, keeper)| keeper.abort());
    }

    /// Does not dial a node again.
    pub(crate) fn forget(&self, node: NodeId) {
        lock(&self.keepers).values().filter(|(kept, _)| *kept == node).for_each(|(_, keeper)| keeper.abort());
    }

    pub(crate) fn turn(&self, to: SocketAddr) -> Turn {
        let mut turns = lock(&self.turns);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(to).or_default())
    }

    /// Who keeps the node at an address connected: the newest stays.
    pub(crate) fn keep(&self, to: SocketAddr, node: NodeId, keeper: AbortHandle) {
        let mut keepers = lock(&self.keepers);
        keepers.retain(|_, (_, keeper)| !keeper.is_finished());
        if let Some((_, old)) = keepers.insert(to, (node, keeper)) {
            old.abort();
        }
    }

    /// The dial of an address that is under way, or that `begin` begins: it is over when what `begin` is given is dropped,
    /// after [`done`](Self::done).
    pub(crate) fn on_demand(&self, to: SocketAddr, begin: impl FnOnce(watch::Sender<()>)) -> Dialling {
        let mut on_demand = lock(&self.on_demand);
        let dialling = on_demand.entry(to).or_insert_with(|| {
            let (done, dialling) = watch::channel(());
            begin(done);
            dialling
        });
        dialling.clone()
    }

    /// The next who wants this address dials it.
    pub(crate) fn done(&self, to: SocketAddr) {
        lock(&self.on_demand).remove(&to);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
