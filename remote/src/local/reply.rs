//! A reply that is awaited.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::{Asker, Down, Life};
use crate::error::AskError;
use crate::runtime::Net;

/// How long an actor that dropped a reply may take to say that it is gone.
const GRACE: Duration = Duration::from_millis(250);

/// A message at an actor. Holds its place in the mailbox until it has left the actor, also if this is dropped.
pub(crate) struct Reply<R: Send + 'static> {
    waiting: Option<(oneshot::Receiver<R>, OwnedSemaphorePermit)>,
    asker: Asker,
    life: watch::Receiver<Life>,
    net: Net,
}

impl<R: Send + 'static> Reply<R> {
    pub(super) fn new(
        receiver: oneshot::Receiver<R>,
        permit: OwnedSemaphorePermit,
        asker: Asker,
        life: watch::Receiver<Life>,
        net: Net,
    ) -> Self {
        Self { waiting: Some((receiver, permit)), asker, life, net }
    }

    pub(crate) async fn wait(mut self) -> Result<R, AskError> {
        let Some((receiver, _)) = &mut self.waiting else {
            return Err(AskError::NoReply);
        };
        let answer = receiver.await;
        self.waiting = None; // frees the place
        match answer {
            Ok(reply) => Ok(reply),
            Err(_) => Err(self.why_dropped().await),
        }
    }

    /// The reply was dropped: because the actor panicked or is gone, or because the handler's future died alone.
    async fn why_dropped(&mut self) -> AskError {
        let before = self.asker.panics_before();
        let over = |life: &Life| life.down.is_some() || before.is_some_and(|before| life.panics.0 > before);
        let life = self.net.within(GRACE, self.life.wait_for(over)).await.and_then(Result::ok).map(|life| life.clone());
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
        self.asker.leave();
        if let Some((receiver, permit)) = self.waiting.take() {
            // The place stays taken until the actor is done with the message.
            self.net.handle.spawn(async move {
                let _ = receiver.await;
                drop(permit);
            });
        }
    }
}
