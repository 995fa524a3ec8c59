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

    /// The reply was dropped: because the actor is gone, or because the handler's future died alone.
    async fn why_dropped(&mut self) -> AskError {
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
            // The place stays taken until the actor is done with the message.
            self.net.handle.spawn(async move {
                let _ = receiver.await;
                drop(permit);
            });
        }
    }
}
