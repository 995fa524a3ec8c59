//! Streamed replies, as their consumer sees them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler, Message};
use futures_util::{Stream, stream};
use serde::de::DeserializeOwned;

use crate::error::AskError;
use crate::link::Incoming;
use crate::local::{LocalRef, Producing};
use crate::net::Net;
use crate::parcel::Opened;
use crate::router::{Router, read};
use crate::stream::Items;

/// The items of a streamed reply, in the order in which they were sent. Dropping it stops the producer.
pub struct Replies<T: Send + 'static> {
    source: Source<T>,
    patience: Duration,
    net: Net,
}

enum Source<T: Send + 'static> {
    Local(Producing<T>),
    Remote { incoming: Incoming, node: Arc<dyn Router>, read: fn(&Arc<dyn Router>, Opened) -> Result<T, AskError> },
    Ended,
}

impl<T: Send + 'static> Replies<T> {
    pub(crate) fn remote(incoming: Incoming, patience: Duration, node: Arc<dyn Router>) -> Self
    where
        T: DeserializeOwned,
    {
        let net = node.net().clone();
        Self { source: Source::Remote { incoming, node, read: read::<T> }, patience, net }
    }

    /// The next item; `None` at the end, and after an error.
    ///
    /// # Errors
    /// No item came within the patience, or the stream failed. Ends the stream; items that came before are good.
    /// [`AskError::may_have_run`] says whether the handler may have begun.
    ///
    /// # Cancel safety
    /// Safe: call it again and nothing is lost.
    pub async fn next(&mut self) -> Result<Option<T>, AskError> {
        let next = match &mut self.source {
            Source::Local(producing) => self.net.within(self.patience, producing.next()).await,
            Source::Remote { incoming, node, read } => {
                let item = self.net.within(self.patience, incoming.next()).await;
                item.map(|item| item.and_then(|item| item.map(|item| read(node, item)).transpose()))
            }
            Source::Ended => return Ok(None),
        };
        let next = next.unwrap_or(Err(AskError::Deadline));
        if !matches!(next, Ok(Some(_))) {
            self.source = Source::Ended;
        }
        next
    }

    /// This as a stream of the `futures` crates, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<T, AskError>> + Send {
        stream::try_unfold(self, |mut replies| async move {
            let item = replies.next().await?;
            Ok(item.map(|item| (item, replies)))
        })
    }
}

impl<T: Send + 'static> fmt::Debug for Replies<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = matches!(self.source, Source::Ended);
        f.debug_struct("Replies").field("ended", &ended).finish_non_exhaustive()
    }
}

impl<A: Actor<Context = Context<A>>> LocalRef<A> {
    /// Sends a message that is answered by a stream. `patience` is how long to wait for room, and then for each item.
    /// The message's place in the mailbox is freed when its producer is done.
    ///
    /// # Errors
    /// No room in time, or the actor is gone. The message has not run.
    ///
    /// # Cancel safety
    /// Dropping the future sends nothing. Dropping the [`Replies`] stops the producer, which can see it.
    ///
    /// # Delivery
    /// At most once, in the sender's order.
    pub async fn stream<M, T>(&self, message: M, patience: Duration) -> Result<Replies<T>, AskError>
    where
        A: Handler<M>,
        M: Message<Result = Items<T>> + Send + 'static,
        T: Send + 'static,
    {
        let permit = self.net().within(patience, self.permit()).await.ok_or(AskError::Busy)??;
        let source = Source::Local(Producing::new(self.enqueue_ask(message, permit)?));
        Ok(Replies { source, patience, net: self.net().clone() })
    }
}
