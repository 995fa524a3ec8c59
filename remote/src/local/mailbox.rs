//! The future that feeds an actor its messages and outlives it by nothing, unless a supervisor builds the actor again.

use std::pin::Pin;
use std::sync::Arc;
use std::task;

use actix::{Actor, ActorFuture, AsyncContext, Context};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::life::Story;
use crate::error::Down;
use crate::fence;
use crate::net::Net;
use crate::room::Room;
use crate::supervise::History;

/// A message on its way: what to do with the actor, and with the number of panics before it.
pub(super) type Envelope<A> = Box<dyn FnOnce(&mut A, &mut Context<A>, u32) + Send>;

/// Builds the actor once more.
pub(super) type Factory<A> = Arc<dyn Fn(&mut Context<A>) -> A + Send + Sync>;

/// Lives in the actor's context and is dropped with it.
pub(super) struct Mailbox<A: Actor<Context = Context<A>>>(Option<Seat<A>>);

/// What waits for an actor: its messages, and those who watch it.
pub(super) struct Seat<A: Actor<Context = Context<A>>> {
    // Declared first, so dropped first: the reason stands before any waiting message is dropped.
    watch: Watch,
    waiting: mpsc::Receiver<Envelope<A>>,
    /// Ends with the arbiter, where that shares its thread with others: its actors end with it, as with a thread.
    end: Option<watch::Receiver<()>>,
    supervisor: Option<Supervisor<A>>,
}

/// Builds an actor again after a panic.
pub(super) struct Supervisor<A: Actor<Context = Context<A>>> {
    pub(super) make: Factory<A>,
    pub(super) arbiter: actix_rt::ArbiterHandle,
    pub(super) net: Net,
    pub(super) history: History,
    pub(super) started: Instant,
}

impl<A: Actor<Context = Context<A>>> Seat<A> {
    pub(super) fn new(
        waiting: mpsc::Receiver<Envelope<A>>,
        life: Story,
        (permits, room): (Arc<Semaphore>, Arc<Room>),
        end: Option<watch::Receiver<()>>,
        supervisor: Option<Supervisor<A>>,
    ) -> Self {
        Self { watch: Watch { life, permits, room }, waiting, end, supervisor }
    }

    /// Starts an actor that takes the messages.
    pub(super) fn start(
        self,
        arbiter: &actix_rt::ArbiterHandle,
        make: impl FnOnce(&mut Context<A>) -> A + Send + 'static,
    ) {
        let end = self.end.clone();
        // Made here and moved along, so that it speaks even if the arbiter is gone or `make` panics.
        let mailbox = Mailbox(Some(self));
        arbiter.spawn_fn(move || {
            let mut ctx = Context::new();
            ctx.spawn(mailbox);
            let actor = make(&mut ctx);
            let lives = ctx.into_future(actor);
            let Some(mut end) = end else { return drop(actix_rt::spawn(lives)) };
            actix_rt::spawn(async move {
                tokio::select! {
                    biased;
                    _ = async { while end.changed().await.is_ok() {} } => (),
                    () = lives => (),
                }
            });
        });
    }

    /// The actor has panicked.
    fn panicked(mut self, text: String) {
        let again = self.supervisor.as_mut().and_then(|supervisor| {
            let delay = supervisor.history.panicked(supervisor.started.elapsed())?;
            Some((delay, supervisor.net.handle.clone(), supervisor.arbiter.clone(), Arc::clone(&supervisor.make)))
        });
        let Some((delay, runtime, arbiter, make)) = again else {
            return self.watch.end(Down::Panicked { text });
        };
        tracing::warn!(actor = std::any::type_name::<A>(), text, ?delay, "an actor panicked and is built again");
        self.watch.life.change(|life| life.panics = (life.panics.0 + 1, text));
        runtime.spawn(async move {
            tokio::time::sleep(delay).await;
            self.start(&arbiter, move |ctx| make(ctx));
        });
    }
}

impl<A: Actor<Context = Context<A>>> ActorFuture<A> for Mailbox<A> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, actor: &mut A, ctx: &mut Context<A>, task: &mut task::Context<'_>) -> task::Poll<()> {
        let Some(seat) = &mut self.get_mut().0 else { return task::Poll::Ready(()) };
        let panics = seat.watch.life.so_far().panics.0;
        // actix polls every spawned future again after `ctx.wait`, so stopping here loses nothing.
        // tokio's budget ends the loop from time to time, so that neighbours get their turn.
        while !ctx.waiting() {
            match task::ready!(seat.waiting.poll_recv(task)) {
                Some(envelope) => envelope(actor, ctx, panics),
                None => return task::Poll::Ready(()), // the last reference is gone
            }
        }
        task::Poll::Pending
    }
}

impl<A: Actor<Context = Context<A>>> Drop for Mailbox<A> {
    fn drop(&mut self) {
        if let Some(seat) = self.0.take()
            && std::thread::panicking()
        {
            seat.panicked(fence::take_text().unwrap_or_else(|| "no text was kept".to_owned()));
        }
    }
}

/// Says why the actor is gone, when it goes.
struct Watch {
    life: Story,
    permits: Arc<Semaphore>,
    room: Arc<Room>,
}

impl Watch {
    fn end(&self, down: Down) {
        self.life.change(|life| _ = life.down.get_or_insert(down));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end(Down::Stopped); // unless its end stands already
        // Wakes those who wait for room.
        self.permits.close();
        self.room.close();
    }
}
