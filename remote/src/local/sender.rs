//! Who has sent the message that is being handled.

use std::cell::Cell;

use crate::ids::{NodeId, PeerId, Role};

/// The sender of the message that is being handled, as its certificate names it: whatever the message says.
///
/// ```
/// # use regatta_remote::{NodeId, Sender};
/// // in a handler, before its future is made:
/// fn release(owner: NodeId) -> Result<(), String> {
///     let sender = Sender::current();
///     if sender.is(owner) { Ok(()) } else { Err(format!("it is not {sender}'s")) }
/// }
/// # assert!(release(regatta_remote::decode(&[1]).unwrap()).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// No handler runs on this thread: nobody may do anything.
    Nobody,
    /// This process.
    Here,
    /// A node that has proven to be this one.
    Node(PeerId),
}

impl Sender {
    /// The sender of the message whose `handle` runs on this thread.
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// Whether it is this node, or this process, which trusts itself.
    pub fn is(self, node: NodeId) -> bool {
        match self {
            Self::Nobody => false,
            Self::Here => true,
            Self::Node(peer) => peer.node == node,
        }
    }

    /// The node, if it is another process.
    pub fn node(self) -> Option<NodeId> {
        Some(self.peer()?.node)
    }

    /// The role of the node, if it is another process.
    pub fn role(self) -> Option<Role> {
        Some(self.peer()?.role)
    }

    fn peer(self) -> Option<PeerId> {
        match self {
            Self::Nobody | Self::Here => None,
            Self::Node(peer) => Some(peer),
        }
    }

    /// Makes this the current sender until the guard is dropped.
    pub(super) fn enter(self) -> Entered {
        Entered(CURRENT.replace(self))
    }
}

impl std::fmt::Display for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Here => f.write_str("this process"),
            Self::Node(peer) => peer.fmt(f),
        }
    }
}

/// Restores the sender that was current before.
pub(super) struct Entered(Sender);

impl Drop for Entered {
    fn drop(&mut self) {
        // Fails only while the thread ends; then no handler runs on it.
        let _ = CURRENT.try_with(|current| current.set(self.0));
    }
}

thread_local! {
    static CURRENT: Cell<Sender> = const { Cell::new(Sender::Nobody) };
}
