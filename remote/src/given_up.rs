//! Nodes that are gone for good, or must be.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use dashmap::DashSet;
use tokio::sync::Notify;

use crate::ids::NodeId;

/// Nodes given up that are remembered. Without renewal a certificate lasts a day.
const GIVEN_UP: usize = 64 << 10;

/// The nodes that this one has given up: a node is one life of one process, so none comes back.
#[derive(Default)]
pub(crate) struct GivenUp {
    nodes: DashSet<NodeId>,
    gave_up: Notify,
    /// The same, the oldest first.
    order: Mutex<VecDeque<NodeId>>,
}

impl GivenUp {
    /// From now on nothing makes this node dial that one, or let it in.
    pub(crate) fn add(&self, node: NodeId) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if self.nodes.insert(node) {
            order.push_back(node);
        }
        if order.len() > GIVEN_UP
            && let Some(oldest) = order.pop_front()
        {
            self.nodes.remove(&oldest);
        }
        drop(order);
        self.gave_up.notify_waiters();
    }

    /// Ends when a node is given up.
    pub(crate) async fn until(&self, node: NodeId) {
        loop {
            let given_up = self.gave_up.notified(); // before the look: it hears every later one
            if self.has(node) {
                return;
            }
            given_up.await;
        }
    }

    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_nodes_that_were_given_up_are_remembered() {
        let (given_up, node) = (GivenUp::default(), |n: usize| NodeId(n as u64));
        for n in (0..GIVEN_UP + 2).chain([5, GIVEN_UP + 1]) {
            given_up.add(node(n));
        }
        let known = [0, 1, 2, 5, GIVEN_UP + 1, GIVEN_UP + 2].map(|n| given_up.has(node(n)));
        assert_eq!(known, [false, false, true, true, true, false]);
    }
}
