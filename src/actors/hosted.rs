//! Users' actors: placed by the scheduler, each on a thread of its own at a worker.

use std::sync::Arc;

use actix::{ActorFutureExt, AsyncContext, Context, Handler, ResponseActFuture, ResponseFuture, WrapFuture, fut};
use regatta_remote::{ActorId, Address, AskError, Sender};

use super::messages::{ActorEnded, DropActor, HostActor, Hosted, SpawnActor, StopActor};
use super::{CONTROL, FIRST_HOSTED, SchedulerActor, SwordfishActor, insist};
use crate::actor::{Launch, open};
use crate::error::ActorError;
use crate::sched::WorkerId;

impl Handler<SpawnActor> for SchedulerActor {
    type Result = ResponseActFuture<Self, Result<Hosted, ActorError>>;

    fn handle(&mut self, SpawnActor(spec): SpawnActor, _: &mut Context<Self>) -> Self::Result {
        let worker = match self.place_actor(spec.options.worker) {
            Ok(worker) => worker,
            Err(error) => return Box::pin(fut::ready(Err(error))),
        };
        let Some(swordfish) = self.swordfish(worker) else {
            return Box::pin(fut::ready(Err(ActorError::NoWorker)));
        };
        self.core.actor_started(worker);
        self.hosted += 1;
        let id = ActorId(FIRST_HOSTED + self.hosted);
        self.owners.insert(id, (worker, Sender::current()));
        let asked = async move {
            let answer = swordfish.ask(HostActor { id, spec }, 2 * CONTROL).await;
            let lost = answer.as_ref().is_err_and(AskError::may_have_run);
            (answer.unwrap_or_else(|error| Err(ActorError::NoAnswer(error.to_string()))), lost.then_some(swordfish))
        };
        Box::pin(asked.into_actor(self).map(move |(answer, lost), scheduler, ctx| {
            if let Some(swordfish) = lost {
                // Nobody will ever hold it. If it was there, its worker tells its end in turn.
                let dropped = async move { insist(&swordfish, DropActor(id)).await };
                ctx.spawn(dropped.into_actor(scheduler).map(move |was_there, scheduler, _| match was_there {
                    Ok(false) => scheduler.ended(worker, id),
                    Ok(true) => (),
                    Err(error) => tracing::warn!(%worker, %error, "could not drop an actor that nobody holds"),
                }));
            } else if answer.is_err() {
                scheduler.ended(worker, id);
            }
            answer
        }))
    }
}

impl Handler<StopActor> for SchedulerActor {
    type Result = ResponseFuture<Result<(), ActorError>>;

    fn handle(&mut self, StopActor(Address { node, actor }): StopActor, _: &mut Context<Self>) -> Self::Result {
        let may = |owner: Sender| [owner, Sender::Here].contains(&Sender::current());
        let is_own = self.owners.get(&actor).is_some_and(|(_, owner)| may(*owner));
        let swordfish = self.worker_of(node).filter(|_| is_own).and_then(|worker| self.swordfish(worker));
        Box::pin(async move {
            let swordfish = swordfish.ok_or(ActorError::NotRunning)?;
            let stopped = swordfish.ask(DropActor(actor), CONTROL).await;
            let stopped = stopped.map_err(|error| ActorError::NoAnswer(error.to_string()))?;
            if stopped { Ok(()) } else { Err(ActorError::NotRunning) }
        })
    }
}

impl Handler<ActorEnded> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, ActorEnded(worker, id): ActorEnded, _: &mut Context<Self>) {
        if self.is_from(worker) && self.owners.get(&id).is_some_and(|(on, _)| *on == worker) {
            self.ended(worker, id);
        }
    }
}

impl SchedulerActor {
    /// An actor is not on that worker any more.
    fn ended(&mut self, worker: WorkerId, id: ActorId) {
        self.owners.remove(&id);
        self.core.actor_ended(worker);
    }

    fn place_actor(&self, on: Option<WorkerId>) -> Result<WorkerId, ActorError> {
        match on {
            None => self.core.place_actor(self.workers()).ok_or(ActorError::NoWorker),
            Some(worker) if self.workers().any(|there| there == worker) => Ok(worker),
            Some(worker) => {
                let there: Vec<_> = self.workers().map(|worker| worker.to_string()).collect();
                Err(ActorError::NoSuchWorker { worker, there: there.join(", ") })
            }
        }
    }
}

impl Handler<HostActor> for SwordfishActor {
    type Result = ResponseActFuture<Self, Result<Hosted, ActorError>>;

    fn handle(&mut self, HostActor { id, spec }: HostActor, _: &mut Context<Self>) -> Self::Result {
        let started = || {
            let failed = |error: &dyn std::fmt::Display| ActorError::NoAnswer(error.to_string());
            let (node, names) = self.host.actor_node().map_err(|error| failed(&error))?;
            let hosted = Hosted { address: Address { node: node.id(), actor: id }, at: node.address().ok() };
            let arbiter = self.host.runtime.arbiter().map_err(|error| failed(&error))?;
            let started = open(&arbiter, Launch { node, names, id, spec })?;
            Ok((arbiter, started, hosted))
        };
        let (arbiter, started, hosted) = match started() {
            Ok(started) => started,
            Err(error) => return Box::pin(fut::ready(Err(error))),
        };
        self.hosted.insert(id, arbiter);
        Box::pin(started.into_actor(self).map(move |named, swordfish, ctx| match named {
            Ok(down) => {
                ctx.spawn(down.into_actor(swordfish).map(move |down, swordfish, _| {
                    tracing::debug!(actor = %id, %down, "an actor has ended");
                    drop(swordfish.let_go(id));
                }));
                Ok(hosted)
            }
            Err(error) => {
                swordfish.hosted.remove(&id).map(|arbiter| swordfish.end_thread(id, arbiter));
                Err(error)
            }
        }))
    }
}

impl Handler<DropActor> for SwordfishActor {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, DropActor(id): DropActor, _: &mut Context<Self>) -> Self::Result {
        let ended = self.let_go(id);
        Box::pin(async move {
            match ended {
                Some(ended) => ended.await.is_ok(),
                None => false,
            }
        })
    }
}

impl SwordfishActor {
    /// Ends an actor, if it is here still, and tells the scheduler once.
    fn let_go(&mut self, id: ActorId) -> Option<tokio::task::JoinHandle<()>> {
        let arbiter = self.hosted.remove(&id)?;
        let (scheduler, worker) = (self.scheduler.clone(), self.here.worker);
        self.host.runtime.handle().spawn(async move {
            if let Err(error) = insist(&scheduler, ActorEnded(worker, id)).await {
                tracing::warn!(%error, "could not report the end of an actor");
            }
        });
        Some(self.end_thread(id, arbiter))
    }

    fn end_thread(&self, id: ActorId, arbiter: regatta_remote::Arbiter) -> tokio::task::JoinHandle<()> {
        let host = Arc::clone(&self.host);
        // Joins the actor's thread, which may be in the author's code: not here.
        self.host.runtime.spawn_blocking(move || {
            if let Ok((node, _)) = host.actor_node() {
                node.unpublish(id);
            }
            drop(arbiter);
        })
    }
}
