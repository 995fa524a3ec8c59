//! Death watches over a link, in both directions. All their frames are on lane 0, so they keep their order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Link, sorted};
use crate::actor::ActorId;
use crate::frame::{Header, Kind};
use crate::lane::Out;
use crate::local::Down;

/// Actors of one peer that are watched at a time; more wait for a place.
const WATCHES: usize = 4096;
/// Watches of one peer that are borne at a time: with room for those that have ended and are not yet told.
const WATCHED: usize = 2 * WATCHES;

/// The watches of a link.
pub(super) struct Watches {
    places: Arc<Semaphore>,
    ours: DashMap<u64, oneshot::Sender<Down>>,
    theirs: DashMap<u64, oneshot::Sender<()>>,
}

impl Default for Watches {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(WATCHES)), ours: DashMap::new(), theirs: DashMap::new() }
    }
}

impl Watches {
    pub(super) fn len(&self) -> usize {
        self.ours.len() + self.theirs.len()
    }

    /// The link has ended: watchers learn it, and nothing is watched for the peer.
    pub(super) fn end(&self) {
        self.places.close();
        for watch in sorted(&self.ours) {
            self.ours.remove(&watch);
        }
        for watch in sorted(&self.theirs) {
            self.theirs.remove(&watch);
        }
    }
}

impl Link {
    /// Waits for the end of an actor; dropping the future ends the watch there.
    pub(crate) async fn watch(self: &Arc<Self>, actor: ActorId) -> Down {
        let lost = || Down::NodeLost { cause: self.cause() };
        let Ok(place) = Arc::clone(&self.watches.places).acquire_owned().await else {
            return lost();
        };
        let Ok(room) = self.system.reserve().await else {
            return lost();
        };
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (sender, down) = oneshot::channel();
        self.watches.ours.insert(call, sender);
        let mut guard = WatchGuard { link: self, call, open: Some(place) };
        // As in `ask`: the end of the link must not miss this entry.
        if self.ended.get().is_some() {
            return lost();
        }
        let header = Header { recipient: actor.0, ..Header::of_call(Kind::Watch, call) };
        room.send(Out::Frame(header, Bytes::new()));
        let down = down.await;
        guard.open = None;
        down.unwrap_or_else(|_| lost())
    }

    /// An actor that was watched has ended.
    pub(crate) fn down(&self, call: u64, down: Down) {
        if let Some((_, watcher)) = self.watches.ours.remove(&call) {
            let _ = watcher.send(down);
        }
    }

    /// Notes that the peer watches an actor. `None` if it watches too many.
    pub(crate) fn watched(self: &Arc<Self>, call: u64) -> Option<Watched> {
        if self.watches.theirs.len() >= WATCHED {
            return None;
        }
        let (end, unwatched) = oneshot::channel();
        self.watches.theirs.insert(call, end);
        if self.ended.get().is_some() {
            self.watches.theirs.remove(&call); // as in `ask`
        }
        Some(Watched { link: Arc::clone(self), call, unwatched })
    }

    /// The peer ends a watch.
    pub(crate) fn unwatch(&self, call: u64) {
        self.watches.theirs.remove(&call);
    }
}

/// A watch of the peer; forgotten when dropped.
pub(crate) struct Watched {
    link: Arc<Link>,
    pub(crate) call: u64,
    unwatched: oneshot::Receiver<()>,
}

impl Watched {
    /// Waits until the peer ends the watch or is lost.
    pub(crate) async fn unwatched(&mut self) {
        let _ = (&mut self.unwatched).await;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.link.watches.theirs.remove(&self.call);
    }
}

/// Forgets a watch when its watcher goes, and ends it there if it is open.
struct WatchGuard<'a> {
    link: &'a Arc<Link>,
    call: u64,
    open: Option<OwnedSemaphorePermit>,
}

impl Drop for WatchGuard<'_> {
    fn drop(&mut self) {
        self.link.watches.ours.remove(&self.call);
        if let Some(place) = self.open.take() {
            self.link.send_surely(Header::of_call(Kind::Unwatch, self.call), place);
        }
    }
}
