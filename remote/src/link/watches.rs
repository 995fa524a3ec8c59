//! Death watches over a link, in both directions. All their frames are on lane 0, so they keep their order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Link, length, sorted};
use crate::codec::encode;
use crate::error::Down;
use crate::frame::{Header, Kind};
use crate::ids::ActorId;
use crate::text::cut;

/// Actors of one peer that are watched at a time; more wait for a place.
const WATCHES: usize = 4096;
/// Watches of one peer that are borne at a time: with room for those that have ended and are not yet told.
const WATCHED: usize = 2 * WATCHES;

/// What is said of a panic where a peer does not read: what needs no room.
const CUT: usize = 1 << 10;

/// The watches of a link.
pub(super) struct Watches {
    places: Arc<Semaphore>,
    ours: DashMap<u64, oneshot::Sender<Down>>,
    /// Each watch of the peer keeps one until all is told that there is to tell.
    borne: Arc<Semaphore>,
    theirs: DashMap<u64, oneshot::Sender<()>>,
}

/// Why a watch of the peer is not borne.
pub(crate) enum NotBorne {
    TooMany,
    /// Its number is that of another one.
    Again,
}

impl Default for Watches {
    fn default() -> Self {
        let [places, borne] = [WATCHES, WATCHED].map(|places| Arc::new(Semaphore::new(places)));
        Self { places, ours: DashMap::new(), borne, theirs: DashMap::new() }
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
        let Some(room) = self.system.place().await else {
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
        room.send(header, Bytes::new());
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

    /// Notes that the peer watches an actor.
    pub(crate) fn watched(self: &Arc<Self>, call: u64) -> Result<Watched, NotBorne> {
        let place = Arc::clone(&self.watches.borne).try_acquire_owned().map_err(|_| NotBorne::TooMany)?;
        let (end, unwatched) = oneshot::channel();
        match self.watches.theirs.entry(call) {
            Entry::Vacant(entry) => drop(entry.insert(end)),
            Entry::Occupied(_) => return Err(NotBorne::Again),
        }
        if self.ended.get().is_some() {
            self.watches.theirs.remove(&call); // as in `ask`
        }
        Ok(Watched { link: Arc::clone(self), call, unwatched, place: Some(place) })
    }

    /// The peer ends a watch.
    pub(crate) fn unwatch(&self, call: u64) {
        self.watches.theirs.remove(&call);
    }
}

/// A watch of the peer; forgotten when dropped.
pub(crate) struct Watched {
    link: Arc<Link>,
    call: u64,
    unwatched: oneshot::Receiver<()>,
    place: Option<OwnedSemaphorePermit>,
}

impl Watched {
    /// Waits for the end of the actor and tells it, unless the peer ends the watch or is lost before.
    pub(crate) async fn tell(mut self, down: impl Future<Output = Down>) {
        let down = tokio::select! {
            biased;
            _ = &mut self.unwatched => return,
            down = down => down,
        };
        let mut payload = encode(&down).unwrap_or_default();
        let room = self.link.room_for_answer(payload.len());
        if room.is_err()
            && let Down::Panicked { text } = down
        {
            // It is not to be lost: without room, its text is.
            payload = encode(&Down::Panicked { text: cut(&text, CUT).to_owned() }).unwrap_or_default();
        }
        let header = Header { len: length(&payload), ..Header::of_call(Kind::Down, self.call) };
        self.link.system.push(header, payload, [self.place.take(), room.unwrap_or_default()]);
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
            self.link.system.push(Header::of_call(Kind::Unwatch, self.call), Bytes::new(), [Some(place), None]);
        }
    }
}
