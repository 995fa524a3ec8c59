//! A reply that is awaited.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::{Asker, Down};
use crate::error::AskError;
use crate::runtime::Net;

/// How long an actor that dropped a reply may take to say that it is gone.
const GRACE: Duration = Duration::from_millis(250);

/// A message at an actor. Holds its place in the mailbox until it has left the actor, also if this is dropped.
pub(crate) struct Reply<R: Send + 'static> {
    waiting: Option<(oneshot::Receiver<R>, OwnedSemaphorePermit)>,
    asker: Asker,
    down: watch::Receiver<Option<Down>>,
    net: Net,
}

impl<R: Send + 'static> Reply<R> {
    pub(super) fn new(
        receiver: oneshot::Receiver<R>,
        permit: OwnedSemaphorePermit,
        asker: Asker,
        down: watch::Receiver<Option<Down>>,
        net: Net,
    ) -> Self {
        Self { waiting: Some((receiver, permit)), asker, down, net }
    }

    pub(crate) async fn wait(mut self) -> Result<R, AskError> {
        Ok(self.take().await?.0)
    }

    /// The reply, and the message's place, which the reply would free. Nothing is lost if the future is dropped.
    pub(crate) async fn take(&mut self) -> Result<(R, OwnedSemaphorePermit), AskError> {
        let Some((receiver, _)) = &mut self.waiting else {
            return Err(AskError::NoReply);
        };
        let answer = receiver.await;
        let place = self.waiting.take().map(|(_, place)| place);
        match (answer, place) {
            (Ok(reply), Some(place)) => Ok((reply, place)),
            _ => Err(self.why_dropped().await),
        }
    }

    /// Gives up the reply, for who has more to wait for before the place is free.
    pub(crate) fn abandon(&mut self) -> Option<(oneshot::Receiver<R>, OwnedSemaphorePermit)> {
        self.waiting.take()
    }

    /// Waits for what ends a message's stay at its actor, and frees its place then.
    pub(crate) fn free_after(&self, done: impl Future + Send + 'static, place: OwnedSemaphorePermit) {
        self.net.handle.spawn(async move {
            done.await;
            drop(place);
        });
    }

    /// The reply was dropped: because the actor is gone, or because the handler's future died alone.
    pub(crate) async fn why_dropped(&mut self) -> AskError {
        let gone = self.net.within(GRACE, self.down.wait_for(Option::is_some)).await;
        let down = gone.and_then(Result::ok).and_then(|down| down.clone());
        match down {
            Some(Down::Panicked { text }) => AskError::Panicked { text },
            Some(_) if !self.asker.has_started() => AskError::Stopped,
            _ => AskError::NoReply,
        }
    }
}

impl<R: Send + 'static> Drop for Reply<R> {
    fn drop(&mut self) {
        self.asker.leave();
        if let Some((receiver, permit)) = self.waiting.take() {
            self.free_after(receiver, permit);
        }
    }
}
