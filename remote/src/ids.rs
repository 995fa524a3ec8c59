//! What things are called: clusters, nodes and their roles, actors and where they are.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A cluster. Random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterId(pub(crate) u128);

/// A node: one process's life. Drawn anew at each start, so it is also the incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub(crate) u64);

/// What a node is for; decides which messages it may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Runs the scheduler.
    Head,
    /// Submits queries.
    Driver,
    /// Runs tasks.
    Worker,
    /// Finds actors by name and talks to those that take messages from it: a process that a worker has started.
    Guest,
    /// One that an application has made its own, by a number.
    ///
    /// ```
    /// const SENSOR: regatta_remote::Role = regatta_remote::Role::Own(1);
    /// ```
    Own(u8),
    /// Looks at the cluster by what its head answers, and does nothing else. It knows heads alone, and may be of another build.
    Observer,
    /// An observer that may also say what is to be done.
    Operator,
}

/// A node as its certificate names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PeerId {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its role.
    pub role: Role,
    /// The node.
    pub node: NodeId,
}

/// An actor's number in its node, given by whoever publishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ActorId(pub u64);

/// Where an actor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// Its node.
    pub node: NodeId,
    /// Its number there.
    pub actor: ActorId,
}

/// The SHA-256 of an authority's public key.
pub(crate) type Fingerprint = [u8; 32];

impl PeerId {
    /// The name in the certificate: `regatta://<cluster>/<role>/<node>`.
    pub(crate) fn uri(&self) -> String {
        format!("regatta://{}/{}/{}", self.cluster, self.role, self.node)
    }

    pub(crate) fn from_uri(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix("regatta://")?.split('/');
        let cluster = ClusterId(u128::from_str_radix(parts.next()?, 16).ok()?);
        let role = Role::from_name(parts.next()?)?;
        let node = NodeId(u64::from_str_radix(parts.next()?, 16).ok()?);
        let peer = Self { cluster, role, node };
        // One spelling per peer: compare with what we would have written.
        (peer.uri() == uri).then_some(peer)
    }
}

impl Role {
    /// All that have a name.
    pub const ALL: [Self; 6] = [Self::Head, Self::Driver, Self::Worker, Self::Guest, Self::Observer, Self::Operator];

    /// Those of nodes that run the application, and are of one build.
    pub const MEMBERS: [Self; 4] = [Self::Head, Self::Driver, Self::Worker, Self::Guest];

    /// Whether such a node looks from outside: at heads alone, and whatever its build is.
    pub fn is_outside(self) -> bool {
        matches!(self, Self::Observer | Self::Operator)
    }

    fn from_name(name: &str) -> Option<Self> {
        match name.strip_prefix(OWN) {
            Some(number) => number.parse().ok().map(Self::Own),
            None => Self::ALL.into_iter().find(|role| role.to_string() == name),
        }
    }
}

/// What the names of an application's own roles begin with.
const OWN: &str = "own-";

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.write_str("head"),
            Self::Driver => f.write_str("driver"),
            Self::Worker => f.write_str("worker"),
            Self::Guest => f.write_str("guest"),
            Self::Own(number) => write!(f, "{OWN}{number}"),
            Self::Observer => f.write_str("observer"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.node)
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.actor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_survives_its_uri_and_only_its_own_spelling() {
        let of = |role| PeerId { cluster: ClusterId(0xabc), role, node: NodeId(0xdef) };
        for role in Role::ALL.into_iter().chain([Role::Own(0), Role::Own(255)]) {
            assert_eq!(PeerId::from_uri(&of(role).uri()), Some(of(role)));
        }
        let peer = of(Role::Worker);
        for other in ["own-", "own-01", "own-256", "own--1", "own-+1", "master"] {
            assert_eq!(PeerId::from_uri(&peer.uri().replace("worker", other)), None, "{other}");
        }
        assert_eq!(PeerId::from_uri(&format!("{}/more", peer.uri())), None);
        assert_eq!(PeerId::from_uri(&peer.uri().to_uppercase()), None);
        assert_eq!(PeerId::from_uri("regatta://1/worker/2"), None);
    }
}
