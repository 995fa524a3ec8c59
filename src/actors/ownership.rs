//! Whose is what: of what the sender of a message may speak. Who may send it at all stands beside each message, in
//! `messages.rs`.

use actix::{Context, Handler};
use regatta_remote::{NodeId, Sender};

use super::SchedulerActor;
use super::messages::{Enlist, Place};
use crate::error::ClusterError;
use crate::plan::QueryPlan;
use crate::sched::{QueryId, WorkerId};

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::{Line, send};

impl SchedulerActor {
    /// Whether the message that is being handled comes from this worker.
    pub(super) fn is_from(&self, worker: WorkerId) -> bool {
        match self.workers.get(&worker).map(|crew| crew.place.node) {
            Some(Some((node, _))) => Sender::current().is(node),
            Some(None) => Sender::current() == Sender::Here,
            None => false,
        }
    }

    /// Whether it comes from the driver of this query.
    pub(super) fn is_owner(&self, query: QueryId) -> bool {
        let driver = self.queries.get(&query).and_then(|submitted| submitted.driver.node);
        match Sender::current() {
            Sender::Here => true,
            sender => driver.is_some_and(|(node, _)| sender.is(node)),
        }
    }

    /// Whether the sender may join at this node, as this worker.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn may_register(&self, worker: WorkerId, node: NodeId) -> Result<(), ClusterError> {
        let refused = |why: &str| Err(ClusterError::network(format!("join as {worker}"), why));
        if !Sender::current().is(node) {
            return refused("a worker joins at its own node");
        }
        if self.host.is_gone(node) {
            return refused("this node was given up");
        }
        if self.number_of(node).is_some_and(|own| own != worker) {
            return refused("this node has another number");
        }
        if self.enrolled.iter().any(|(of, number)| *number == worker && *of != node) {
            return refused("that number was given to another node");
        }
        Ok(())
    }

    /// Whether a driver may submit a query.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn may_submit(&self, query: QueryId, plan: &QueryPlan, driver: &Place) -> Result<(), ClusterError> {
        let refused = |why: &str| Err(ClusterError::network("submit the query", why));
        if self.queries.contains_key(&query) {
            return refused("there is a query of its number");
        }
        if !plan.is_sound() {
            return refused("its stages do not fit together");
        }
        let node = |place: &Place| place.node.map(|(node, _)| node);
        let is_others = |read: &QueryId| self.queries.get(read).is_some_and(|of| node(&of.driver) != node(driver));
        if plan.stages.iter().flat_map(|stage| &stage.held).flatten().any(|(read, _)| is_others(read)) {
            return refused("it reads what another driver has persisted");
        }
        Ok(())
    }

    /// Whether two queries are of one driver.
    pub(super) fn is_of_one_driver(&self, one: QueryId, other: QueryId) -> bool {
        let driver = |query| self.queries.get(&query).map(|of| of.driver.node.map(|(node, _)| node));
        driver(one).is_some_and(|one| driver(other) == Some(one))
    }

    /// The number of the worker at a node, if it has one.
    fn number_of(&self, node: NodeId) -> Option<WorkerId> {
        self.worker_at(node).or_else(|| self.enrolled.get(&node).copied())
    }
}

impl Handler<Enlist> for SchedulerActor {
    type Result = actix::MessageResult<Enlist>;

    fn handle(&mut self, Enlist(node): Enlist, _: &mut Context<Self>) -> Self::Result {
        if let Some(worker) = self.number_of(node) {
            return actix::MessageResult(worker);
        }
        while self.workers.contains_key(&WorkerId(self.next_number)) {
            self.next_number = self.next_number.wrapping_add(1);
        }
        let worker = WorkerId(self.next_number);
        self.next_number = self.next_number.wrapping_add(1);
        // Its loss, which gives the number back, may have been told before.
        if self.host.knows(node) {
            self.enrolled.insert(node, worker);
        }
        actix::MessageResult(worker)
    }
}
