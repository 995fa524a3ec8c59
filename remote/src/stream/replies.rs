//! Streamed replies, as their consumer sees them.

use std::fmt;
use std::time::Duration;

use futures_util::{Stream, stream};
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::Items;
use crate::actor::read;
use crate::error::AskError;
use crate::link::Incoming;
use crate::local::Reply;
use crate::node::Node;
use crate::parcel::Opened;
use crate::runtime::Net;

/// The items of a streamed reply, in the order in which they were sent. Dropping it stops the producer.
pub struct Replies<T: Send + 'static> {
    source: Source<T>,
    patience: Duration,
    net: Net,
}

enum Source<T: Send + 'static> {
    Local(Producing<T>),
    Remote { incoming: Incoming, node: Node, read: fn(&Node, Opened) -> Result<T, AskError> },
    Ended,
}

impl<T: Send + 'static> Replies<T> {
    pub(crate) fn local(producing: Producing<T>, patience: Duration, net: Net) -> Self {
        Self { source: Source::Local(producing), patience, net }
    }

    pub(crate) fn remote(incoming: Incoming, patience: Duration, node: Node) -> Self
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

/// A stream of this process's actor. Its message's place is free when the producer is done, also if this is dropped.
pub(crate) struct Producing<T: Send + 'static> {
    reply: Reply<Items<T>>,
    items: Option<(Items<T>, OwnedSemaphorePermit)>,
}

impl<T: Send + 'static> Producing<T> {
    pub(crate) fn new(reply: Reply<Items<T>>) -> Self {
        Self { reply, items: None }
    }

    /// The next item; `None` at the end. Nothing is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, AskError> {
        let (items, _) = match &mut self.items {
            Some(items) => items,
            none => none.insert(self.reply.take().await?),
        };
        if let Some(item) = items.queue.recv().await {
            return Ok(Some(item));
        }
        let end = (&mut items.end).await;
        // Its place is free now, and its end is not to be waited for again.
        self.items = None;
        match end {
            Ok(()) => Ok(None),
            Err(_) => Err(self.reply.why_dropped().await),
        }
    }
}

impl<T: Send + 'static> Drop for Producing<T> {
    fn drop(&mut self) {
        if let Some((receiver, place)) = self.reply.abandon() {
            let done = async move {
                if let Ok(Items { queue, end }) = receiver.await {
                    drop(queue); // the producer sees that nobody is there
                    let _ = end.await;
                }
            };
            self.reply.free_after(done, place);
        } else if let Some((Items { queue, end }, place)) = self.items.take() {
            drop(queue);
            self.reply.free_after(end, place);
        }
    }
}
