//! A streamed reply of an actor of this process.

use tokio::sync::OwnedSemaphorePermit;

use super::Reply;
use crate::error::AskError;
use crate::stream::Items;

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
        self.reply.leave();
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
