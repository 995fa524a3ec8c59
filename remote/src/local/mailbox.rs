//! The future that feeds an actor its messages and outlives it by nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::task;

use actix::{Actor, ActorContext, ActorFuture, AsyncContext, Context};
use tokio::sync::{Semaphore, mpsc, watch};

use super::Down;
use crate::fence;

/// A message on its way: what to do with the actor.
pub(super) type Envelope<A> = Box<dyn FnOnce(&mut A, &mut Context<A>) + Send>;

/// Lives in the actor's context and is dropped with it.
pub(super) struct Mailbox<A: Actor<Context = Context<A>>> {
    // Declared first, so dropped first: the reason stands before any waiting message is dropped.
    _watch: Watch,
    waiting: mpsc::Receiver<Envelope<A>>,
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<A: Actor<Context = Context<A>>> Mailbox<A> {
    pub(super) fn new(
        waiting: mpsc::Receiver<Envelope<A>>,
        reason: watch::Sender<Option<Down>>,
        permits: Arc<Semaphore>,
        end: Option<watch::Receiver<()>>,
    ) -> Self {
        let end = end.map(|mut end| -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(async move { while end.changed().await.is_ok() {} })
        });
        Self { _watch: Watch { reason, permits }, waiting, end }
    }
}

impl<A: Actor<Context = Context<A>>> ActorFuture<A> for Mailbox<A> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, actor: &mut A, ctx: &mut Context<A>, task: &mut task::Context<'_>) -> task::Poll<()> {
        let this = self.get_mut();
        if let Some(end) = &mut this.end
            && end.as_mut().poll(task).is_ready()
        {
            this.end = None;
            ctx.terminate();
            return task::Poll::Ready(());
        }
        // actix polls every spawned future again after `ctx.wait`, so stopping here loses nothing.
        // tokio's budget ends the loop from time to time, so that neighbours get their turn.
        while !ctx.waiting() {
            match task::ready!(this.waiting.poll_recv(task)) {
                Some(envelope) => envelope(actor, ctx),
                None => return task::Poll::Ready(()), // the last reference is gone
            }
        }
        task::Poll::Pending
    }
}

/// Says why the actor is gone, when it goes.
struct Watch {
    reason: watch::Sender<Option<Down>>,
    permits: Arc<Semaphore>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let down = if std::thread::panicking() {
            let text = fence::take_text().unwrap_or_else(|| "no text was kept".to_owned());
            Down::Panicked { text }
        } else {
            Down::Stopped
        };
        self.reason.send_replace(Some(down));
        self.permits.close(); // wakes those who wait for room
    }
}
