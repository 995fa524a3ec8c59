//! The head's table of names, and the actor that keeps it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use actix::{Actor, Context, Handler};
use serde::{Deserialize, Serialize};

use super::NameError;
use crate::actor::Address;
use crate::identity::NodeId;
use crate::node::WeakNode;

/// The most bytes of a name.
const LONGEST: usize = 256;
/// The most names.
const MOST: usize = 1 << 16;
/// Names that an error lists.
const LISTED: usize = 20;

/// Give an actor a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Register {
    pub(super) name: String,
    pub(super) address: Address,
    /// Where to dial its node, if that knows it.
    pub(super) at: Option<SocketAddr>,
    pub(super) kind: String,
}

/// Who has this name?
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Find {
    pub(super) name: String,
}

/// Take a name back; `only` from this actor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Unregister {
    pub(super) name: String,
    pub(super) only: Option<Address>,
}

/// Forget the actors of nodes that are gone.
#[derive(Debug)]
pub(super) struct Sweep;

/// Who has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) address: Address,
    pub(super) at: Option<SocketAddr>,
    pub(super) kind: String,
}

crate::messages! {
    0x01 Register => Result<(), NameError>,
    0x02 Find => Result<Entry, NameError>,
    0x03 Unregister => Result<(), NameError>,
}

impl actix::Message for Sweep {
    type Result = ();
}

/// Keeps the names.
pub(super) struct Registry {
    table: Table,
    node: WeakNode,
}

impl Registry {
    pub(super) fn new(node: WeakNode) -> Self {
        Self { table: Table::default(), node }
    }

    /// Whether a node is this one or connected to it.
    fn is_there(&self, node: NodeId) -> bool {
        self.node.upgrade().is_some_and(|here| here.id() == node || here.link(node).is_some())
    }
}

impl Actor for Registry {
    type Context = Context<Self>;
}

impl Handler<Register> for Registry {
    type Result = Result<(), NameError>;

    fn handle(&mut self, Register { name, address, mut at, kind }: Register, _: &mut Context<Self>) -> Self::Result {
        // The node may have been lost while its message waited: then nothing would end the entry.
        if !self.is_there(address.node) {
            return Err(NameError::NodeGone { node: address.node });
        }
        if at.is_none() {
            let link = self.node.upgrade().and_then(|node| node.link(address.node));
            at = link.map(|link| link.connection.remote_address());
        }
        self.table.register(name, Entry { address, at, kind })
    }
}

impl Handler<Find> for Registry {
    type Result = Result<Entry, NameError>;

    fn handle(&mut self, Find { name }: Find, ctx: &mut Context<Self>) -> Self::Result {
        match self.table.find(&name)? {
            entry if self.is_there(entry.address.node) => Ok(entry.clone()),
            _ => {
                self.handle(Sweep, ctx);
                Err(self.table.unknown(&name))
            }
        }
    }
}

impl Handler<Unregister> for Registry {
    type Result = Result<(), NameError>;

    fn handle(&mut self, Unregister { name, only }: Unregister, _: &mut Context<Self>) -> Self::Result {
        self.table.unregister(&name, only)
    }
}

impl Handler<Sweep> for Registry {
    type Result = ();

    fn handle(&mut self, _: Sweep, _: &mut Context<Self>) {
        let mut table = std::mem::take(&mut self.table);
        table.0.retain(|_, entry| self.is_there(entry.address.node));
        self.table = table;
    }
}

/// Names and who has them. Pure.
#[derive(Default)]
struct Table(BTreeMap<String, Entry>);

impl Table {
    fn register(&mut self, name: String, entry: Entry) -> Result<(), NameError> {
        if name.is_empty() || name.len() > LONGEST {
            return Err(NameError::Malformed { name: name.chars().take(LONGEST).collect(), max: LONGEST });
        }
        match self.0.get(&name) {
            // The answer to an earlier try was lost.
            Some(has) if *has == entry => Ok(()),
            Some(has) => Err(NameError::Taken { name, by: has.address, kind: has.kind.clone() }),
            None if self.0.len() >= MOST => Err(NameError::TooMany { max: MOST }),
            None => {
                self.0.insert(name, entry);
                Ok(())
            }
        }
    }

    fn find(&self, name: &str) -> Result<&Entry, NameError> {
        self.0.get(name).ok_or_else(|| self.unknown(name))
    }

    fn unregister(&mut self, name: &str, only: Option<Address>) -> Result<(), NameError> {
        let entry = self.find(name)?;
        if only.is_none_or(|only| entry.address == only) {
            self.0.remove(name);
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> NameError {
        let name = name.chars().take(LONGEST).collect();
        NameError::Unknown { name, known: self.0.keys().take(LISTED).cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ActorId;

    fn entry(actor: u64) -> Entry {
        let node = crate::decode(&[1]).unwrap();
        Entry { address: Address { node, actor: ActorId(actor) }, at: None, kind: "Boat".to_owned() }
    }

    #[test]
    fn a_name_has_one_actor_and_is_taken_back_only_from_it() {
        let mut table = Table::default();
        table.register("a".to_owned(), entry(1)).unwrap();
        table.register("a".to_owned(), entry(1)).unwrap();
        let error = table.register("a".to_owned(), entry(2)).unwrap_err();
        assert!(matches!(&error, NameError::Taken { by, .. } if *by == entry(1).address), "{error}");
        table.unregister("a", Some(entry(2).address)).unwrap();
        assert_eq!(table.find("a").unwrap(), &entry(1));
        table.unregister("a", Some(entry(1).address)).unwrap();
        assert!(matches!(table.find("a"), Err(NameError::Unknown { .. })));
        assert!(matches!(table.unregister("a", None), Err(NameError::Unknown { .. })));
    }

    #[test]
    fn names_and_their_number_are_bounded() {
        let mut table = Table::default();
        for name in [String::new(), "x".repeat(LONGEST + 1)] {
            assert!(matches!(table.register(name, entry(1)), Err(NameError::Malformed { .. })));
        }
        for number in 0..MOST {
            table.register(number.to_string(), entry(1)).unwrap();
        }
        assert!(matches!(table.register("one more".to_owned(), entry(1)), Err(NameError::TooMany { .. })));
        let NameError::Unknown { known, .. } = table.find("one more").unwrap_err() else { panic!("it is not there") };
        assert_eq!(known.len(), LISTED);
    }
}
