//! Streamed replies, as their producer sees them.

use std::fmt;
use std::pin::pin;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Message};
use futures_util::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};

use crate::trace::TraceContext;

/// Items that a producer may be ahead of its consumer in one process; to another process, this and what is under way.
const AHEAD: usize = 16;

/// What a handler returns for a message that is answered by a stream.
///
/// ```
/// # use regatta_remote::Items;
/// // from any stream, which is polled on the actor's thread:
/// fn handle() -> Items<u64> {
///     Items::of(futures_util::stream::iter(0..1000))
/// }
/// // or from a thread, a task, or the actor itself as time goes by:
/// fn handle_on_a_thread() -> Items<u64> {
///     let (sender, items) = Items::channel();
///     std::thread::spawn(move || {
///         for n in 0..1000 {
///             if sender.blocking_send(n).is_err() {
///                 return; // nobody takes them any more
///             }
///         }
///         sender.end();
///     });
///     items
/// }
/// ```
pub struct Items<T> {
    pub(crate) queue: mpsc::Receiver<T>,
    pub(crate) end: oneshot::Receiver<()>,
}

/// Where a producer puts its items. Dropping it without [`end`](Self::end) is a failure to the consumer.
pub struct ItemSender<T> {
    queue: mpsc::Sender<T>,
    end: oneshot::Sender<()>,
}

/// The consumer of a stream has left, or its node was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes the items any more")]
pub struct ConsumerGone;

impl<T: 'static> Items<T> {
    /// The items of a stream, which is polled on this actor's thread while the consumer has room, and dropped when
    /// the consumer leaves. One that panics is [`AskError::NoReply`](crate::AskError::NoReply) to the consumer.
    ///
    /// # Panics
    /// Outside an actor's thread.
    pub fn of(stream: impl Stream<Item = T> + 'static) -> Self {
        let (sender, items) = Self::channel();
        actix_rt::spawn(TraceContext::carry(async move {
            let mut stream = pin!(stream);
            // Room first: nothing is made that nobody has room for.
            while let Ok(room) = sender.queue.reserve().await {
                tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    item = stream.next() => match item {
                        Some(item) => room.send(item),
                        None => break,
                    },
                }
            }
            sender.end();
        }));
        items
    }

    /// Items that come through a sender.
    pub fn channel() -> (ItemSender<T>, Self) {
        let (sender, queue) = mpsc::channel(AHEAD);
        let (end, ended) = oneshot::channel();
        (ItemSender { queue: sender, end }, Self { queue, end: ended })
    }
}

impl<T> ItemSender<T> {
    /// Sends an item, waiting for room.
    ///
    /// # Errors
    /// The consumer has left.
    ///
    /// # Cancel safety
    /// Dropping the future before it is done sends nothing.
    pub async fn send(&self, item: T) -> Result<(), ConsumerGone> {
        self.queue.send(item).await.map_err(|_| ConsumerGone)
    }

    /// Sends an item, blocking this thread while there is no room.
    ///
    /// # Errors
    /// The consumer has left.
    ///
    /// # Panics
    /// On a thread that runs actors or other async code.
    pub fn blocking_send(&self, item: T) -> Result<(), ConsumerGone> {
        self.queue.blocking_send(item).map_err(|_| ConsumerGone)
    }

    /// Waits until the consumer has left.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Whether the consumer has left.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// These were all items.
    pub fn end(self) {
        let _ = self.end.send(()); // fails only if the consumer has left
    }
}

impl<A, M, T> MessageResponse<A, M> for Items<T>
where
    A: Actor,
    M: Message<Result = Self>,
{
    fn handle(self, _: &mut A::Context, asker: Option<OneshotSender<Self>>) {
        if let Some(asker) = asker {
            let _ = asker.send(self); // fails only if the asker has left
        }
    }
}

impl<T> fmt::Debug for Items<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").field("waiting", &self.queue.len()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for ItemSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemSender").field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}
