//! What a node's tasks share.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use crate::authority::Authority;
use crate::dials::Dials;
use crate::door::{Crowd, Door};
use crate::endpoint::Endpoint;
use crate::given_up::GivenUp;
use crate::identity::Identity;
use crate::ids::{Fingerprint, NodeId, PeerId};
use crate::kept::Kept;
use crate::net::Net;
use crate::peers::Peers;
use crate::route::Routes;
use crate::transfers::Transfers;

/// What a node's tasks share.
pub(crate) struct Shared {
    pub(crate) me: PeerId,
    pub(crate) authority_print: Fingerprint,
    pub(crate) identity: Mutex<Identity>,
    /// On a head: what signs certificates.
    pub(crate) authority: OnceLock<Arc<Authority>>,
    /// Places for joins.
    pub(crate) joins: Crowd,
    pub(crate) door: Mutex<Door>,
    pub(crate) build: Bytes,
    pub(crate) endpoint: Endpoint,
    pub(crate) net: Net,
    pub(crate) peers: Arc<Peers>,
    pub(crate) given_up: GivenUp,
    pub(crate) dials: Dials,
    pub(crate) routes: Arc<Routes>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) named: Kept,
}

impl Shared {
    pub(crate) fn id(&self) -> NodeId {
        self.me.node
    }

    pub(crate) fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
