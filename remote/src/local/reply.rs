//! A reply that is awaited.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::life::{Life, Story};
use crate::error::{AskError, Down};
use crate::net::Net;
use crate::presence::Presence;

/// How long an actor that dropped a reply may take to say that it is gone.
const GRACE: Duration = Duration::from_millis(250);

/// A message at an actor. Holds its place in the mailbox until it has left the actor, also if this is dropped.
pub(crate) struct Reply<R: Send + 'static> {
    waiting: Option<(oneshot::Receiver<R>, OwnedSemaphorePermit)>,
    asker: Presence,
    life: Story,
    net: Net,
}

impl<R: Send + 'static> Reply<R> {
    pub(super) fn new(
        receiver: oneshot::Receiver<R>,
        permit: OwnedSemaphorePermit,
        asker: Presence,
        life: Story,
        net: Net,
    ) -> Self {
        Self { waiting: Some((receiver, permit)), asker, life, net }
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

    /// The reply, if it is there, and the message's place.
    pub(crate) fn at_once(&mut self) -> Option<(R, OwnedSemaphorePermit)> {
        let (receiver, _) = self.waiting.as_mut()?;
        let reply = receiver.try_recv().ok()?;
        self.waiting.take().map(|(_, place)| (reply, place))
    }

    /// Nobody waits for more of what the handler has begun.
    pub(crate) fn leave(&self) {
        self.asker.leave();
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

    /// The reply was dropped: because the actor panicked or is gone, or because the handler's future died alone.
    pub(crate) async fn why_dropped(&mut self) -> AskError {
        let before = self.asker.panics_before();
        let over = |life: &Life| life.down.is_some() || before.is_some_and(|before| life.panics.0 > before);
        let life = self.life.wait(|life| over(life).then(|| life.clone()));
        let life = self.net.within(GRACE, life).await;
        match life {
            Some(Life { down: Some(Down::Panicked { text }), .. } | Life { down: None, panics: (_, text) }) => {
                AskError::Panicked { text }
            }
            Some(_) if before.is_none() => AskError::Stopped,
            _ => AskError::NoReply,
        }
    }
}

impl<R: Send + 'static> Drop for Reply<R> {
    fn drop(&mut self) {
        // Who has the reply, or knows that there is none, may have more to do for the asker.
        if let Some((receiver, permit)) = self.waiting.take() {
            self.asker.leave();
            self.free_after(receiver, permit);
        }
    }
}
