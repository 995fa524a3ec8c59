//! A node, as far as a handle to an actor knows it, and the one that receives what this thread decodes.

use std::any::Any;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;

use crate::error::{AskError, TellError};
use crate::ids::{ActorId, NodeId};
use crate::link::Link;
use crate::local::Home;
use crate::net::Net;
use crate::parcel::Opened;

/// What finds the way to actors. While it is held, its node stays open.
pub(crate) trait Router: Home {
    fn net(&self) -> &Net;

    /// The actor that it publishes under this number: a [`LocalRef`](crate::LocalRef).
    fn published(&self, id: ActorId) -> Option<Arc<dyn Any + Send + Sync>>;

    /// The control connection to a node, if there is one.
    fn link(&self, node: NodeId) -> Option<Arc<Link>>;

    /// The control connection to a node, made by dialling `at` if there is none.
    fn dial(
        &self,
        node: NodeId,
        at: Option<SocketAddr>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Arc<Link>, TellError>>;

    /// Whether nobody is to wait for a node any more.
    fn has_given_up(&self, node: NodeId) -> bool;
}

/// The control connection to a node, made by dialling `at` if there is none.
pub(crate) async fn reach(
    router: &dyn Router,
    node: NodeId,
    at: Option<SocketAddr>,
    deadline: Duration,
) -> Result<Arc<Link>, TellError> {
    if router.has_given_up(node) {
        return Err(TellError::NoSuchActor);
    }
    match router.link(node) {
        Some(link) => Ok(link),
        None => router.dial(node, at, deadline).await,
    }
}

/// Makes a node the receiver of the references that this thread reads, until the guard is dropped.
pub(crate) fn enter(node: Arc<dyn Router>) -> Receiving {
    Receiving(CURRENT.replace(Some(node)))
}

/// The node that receives the references which this thread reads.
pub(crate) fn receiver() -> Option<Arc<dyn Router>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Restores the receiver that was there before.
pub(crate) struct Receiving(Option<Arc<dyn Router>>);

impl Drop for Receiving {
    fn drop(&mut self) {
        let before = self.0.take();
        // Fails only while the thread ends; then nothing is read on it.
        let _ = CURRENT.try_with(|current| current.replace(before));
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Router>>> = const { RefCell::new(None) };
}

/// Reads what the other side answered.
pub(crate) fn read<T: DeserializeOwned>(node: &Arc<dyn Router>, answer: Opened) -> Result<T, AskError> {
    let _receiving = enter(Arc::clone(node));
    answer.unpack().map(|(value, _)| value).map_err(|text| AskError::BadReply { text })
}
