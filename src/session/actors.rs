//! Actors of the program's own.

use regatta_remote::ActorRef;

use super::Session;
use crate::actor::{RemoteActor, Spawn};
use crate::actors::{CONTROL, SpawnActor, StopActor};
use crate::error::{ActorError, Error};

impl Session {
    /// Starts an actor of your own on a worker, where it lives until it stops, is [stopped](Self::stop), panics too often, or
    /// the session ends: of a [connected](Self::connect) session, the cluster. Blocks until it takes messages and has its name.
    ///
    /// ```text
    /// let limiter = session.spawn(RateLimiter { per_second: 50 }.named("limiter"))?;
    /// ```
    ///
    /// # Errors
    /// [`ActorError`]: its name is taken, its fields cannot travel, there is no such worker.
    pub fn spawn<A: RemoteActor>(&self, actor: impl Into<Spawn<A>>) -> Result<ActorRef<A>, Error> {
        let spec = actor.into().spec()?;
        let hosted = self.inner.door.ask(self.host(), SpawnActor(spec))??;
        let (node, _) = self.inner.host.actor_node()?;
        Ok(node.actor_at(hosted.address, hosted.at))
    }

    /// The actor of that name, whoever started it. In a UDF: [`Start::actor`](crate::udf::Start::actor).
    ///
    /// # Errors
    /// [`NameError`](crate::actor::NameError): nobody has the name, or an actor of another type has it.
    pub fn actor<A: RemoteActor>(&self, name: &str) -> Result<ActorRef<A>, Error> {
        let (names, name) = (self.inner.host.actor_node()?.1, name.to_owned());
        let found = self.inner.host.wait(async move { names.find(&name, CONTROL).await })?;
        Ok(found.map_err(ActorError::from)?)
    }

    /// Stops an actor that this session has started. Messages that wait at it are not handled; the one that is being handled
    /// ends first.
    ///
    /// # Errors
    /// [`ActorError::NotRunning`] if it has ended already.
    pub fn stop<A: RemoteActor>(&self, actor: &ActorRef<A>) -> Result<(), Error> {
        let address = actor.address().ok_or(ActorError::NotRunning)?;
        Ok(self.inner.door.ask(self.host(), StopActor(address))??)
    }
}
