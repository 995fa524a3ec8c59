//! The head's table of names, and the actor that keeps it.

use std::collections::{BTreeMap, btree_map};
use std::net::SocketAddr;

use actix::{Actor, Context, Handler};
use serde::{Deserialize, Serialize};

use super::NameError;
use crate::ids::{Address, NodeId};
use crate::local::Sender;
use crate::node::WeakNode;
use crate::text::{cut, line, short};

/// The most bytes of a name.
pub(super) const LONGEST: usize = 256;
/// What is kept of an actor's type, in bytes: those of generic actors have any length.
pub(super) const KIND: usize = 1 << 10;
/// The most names, and those of one node: none takes all.
const MOST: usize = 1 << 16;
const MOST_OF_NODE: usize = MOST / 4;
/// Names that an error lists.
pub(super) const LISTED: usize = 20;

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

/// Take a name back, which an actor of the sender has; `only` from this one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Unregister {
    pub(super) name: String,
    pub(super) only: Option<Address>,
}

/// Forget the actors of nodes that are gone, and have not come back.
#[derive(Debug)]
pub(super) struct Sweep;

/// Who has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) address: Address,
    pub(crate) at: Option<SocketAddr>,
    #[serde(deserialize_with = "short")]
    pub(crate) kind: String,
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
    fn is_there(&self) -> impl Fn(NodeId) -> bool + use<> {
        let here = self.node.upgrade();
        move |node| here.as_ref().is_some_and(|here| here.id() == node || here.shared().peers.link(node).is_some())
    }
}

impl Actor for Registry {
    type Context = Context<Self>;
}

impl Handler<Register> for Registry {
    type Result = Result<(), NameError>;

    fn handle(&mut self, Register { name, address, mut at, kind }: Register, _: &mut Context<Self>) -> Self::Result {
        // The node may have been lost while its message waited: then nothing would end the entry.
        let is_there = self.is_there();
        if !is_there(address.node) {
            return Err(NameError::NodeGone { node: address.node });
        }
        if at.is_none() {
            let link = self.node.upgrade().and_then(|node| node.shared().peers.link(address.node));
            at = link.map(|link| link.remote_address());
        }
        let kind = line(cut(&kind, KIND));
        self.table.register(name, Entry { address, at, kind }, Sender::current(), is_there)
    }
}

impl Handler<Find> for Registry {
    type Result = Result<Entry, NameError>;

    fn handle(&mut self, Find { name }: Find, _: &mut Context<Self>) -> Self::Result {
        self.table.find(&name, self.is_there()).cloned()
    }
}

impl Handler<Unregister> for Registry {
    type Result = Result<(), NameError>;

    fn handle(&mut self, Unregister { name, only }: Unregister, _: &mut Context<Self>) -> Self::Result {
        self.table.unregister(&name, only, Sender::current(), self.is_there())
    }
}

impl Handler<Sweep> for Registry {
    type Result = ();

    fn handle(&mut self, _: Sweep, _: &mut Context<Self>) {
        let is_there = self.is_there();
        self.table.sweep(is_there);
    }
}

/// Names and who has them. One whose node is not there is remembered, in case it comes back, and counts for nothing. Pure.
#[derive(Default)]
pub(crate) struct Table {
    names: BTreeMap<String, Entry>,
    of_node: BTreeMap<NodeId, usize>,
}

impl Table {
    pub(crate) fn register(
        &mut self,
        name: String,
        entry: Entry,
        by: Sender,
        is_there: impl Fn(NodeId) -> bool,
    ) -> Result<(), NameError> {
        let node = entry.address.node;
        if !by.is(node) {
            return Err(NameError::OtherNode { node });
        }
        if name.is_empty() || name.len() > LONGEST {
            return Err(NameError::Malformed { name: cut(&name, LONGEST).to_owned(), max: LONGEST });
        }
        let had = self.names.get(&name);
        match had {
            // The answer to an earlier try was lost.
            Some(has) if *has == entry => return Ok(()),
            Some(has) if is_there(has.address.node) => {
                return Err(NameError::Taken { name, by: has.address, kind: has.kind.clone() });
            }
            None if self.names.len() >= MOST => return Err(NameError::TooMany { max: MOST }),
            _ => (),
        }
        let has_more = had.is_none_or(|had| had.address.node != node);
        if has_more && self.of_node.get(&node).is_some_and(|names| *names >= MOST_OF_NODE) {
            return Err(NameError::TooMany { max: MOST_OF_NODE });
        }
        self.remove(&name);
        *self.of_node.entry(node).or_default() += 1;
        self.names.insert(name, entry);
        Ok(())
    }

    fn remove(&mut self, name: &str) {
        if let Some(had) = self.names.remove(name) {
            self.forget_one(had.address.node);
        }
    }

    fn forget_one(&mut self, node: NodeId) {
        if let btree_map::Entry::Occupied(mut names) = self.of_node.entry(node) {
            *names.get_mut() -= 1; // as the one that is gone is in it
            if *names.get() == 0 {
                names.remove();
            }
        }
    }

    /// Forgets the names of nodes that are not there.
    pub(crate) fn sweep(&mut self, is_there: impl Fn(NodeId) -> bool) {
        self.names.retain(|_, entry| is_there(entry.address.node));
        self.of_node.retain(|node, _| is_there(*node));
    }

    pub(crate) fn find(&self, name: &str, is_there: impl Fn(NodeId) -> bool) -> Result<&Entry, NameError> {
        let there = |entry: &&Entry| is_there(entry.address.node);
        self.names.get(name).filter(there).ok_or_else(|| {
            let known = self.names.iter().filter(|(_, entry)| there(entry)).take(LISTED);
            let name = cut(name, LONGEST).to_owned();
            NameError::Unknown { name, known: known.map(|(name, _)| name.clone()).collect() }
        })
    }

    pub(crate) fn unregister(
        &mut self,
        name: &str,
        only: Option<Address>,
        by: Sender,
        is_there: impl Fn(NodeId) -> bool,
    ) -> Result<(), NameError> {
        let entry = self.find(name, is_there)?;
        if !by.is(entry.address.node) {
            let (by, kind) = (entry.address, entry.kind.clone());
            return Err(NameError::NotYours { name: name.to_owned(), by, kind });
        }
        if only.is_none_or(|only| entry.address == only) {
            self.remove(name);
        }
        Ok(())
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
        table.register("a".to_owned(), entry(1), Sender::Here, |_| true).unwrap();
        table.register("a".to_owned(), entry(1), Sender::Here, |_| true).unwrap();
        let error = table.register("a".to_owned(), entry(2), Sender::Here, |_| true).unwrap_err();
        assert!(matches!(&error, NameError::Taken { by, .. } if *by == entry(1).address), "{error}");
        table.unregister("a", Some(entry(2).address), Sender::Here, |_| true).unwrap();
        assert_eq!(table.find("a", |_| true).unwrap(), &entry(1));
        table.unregister("a", Some(entry(1).address), Sender::Here, |_| true).unwrap();
        assert!(matches!(table.find("a", |_| true), Err(NameError::Unknown { .. })));
        assert!(matches!(table.unregister("a", None, Sender::Here, |_| true), Err(NameError::Unknown { .. })));
    }

    #[test]
    fn names_and_their_number_are_bounded() {
        let mut table = Table::default();
        for name in [String::new(), "x".repeat(LONGEST + 1)] {
            assert!(matches!(table.register(name, entry(1), Sender::Here, |_| true), Err(NameError::Malformed { .. })));
        }
        let of = |node: u8| {
            let node = crate::decode(&[node]).unwrap();
            Entry { address: Address { node, ..entry(1).address }, ..entry(1) }
        };
        for number in 0..MOST {
            table.register(number.to_string(), of((number / MOST_OF_NODE) as u8), Sender::Here, |_| true).unwrap();
        }
        let more = |table: &mut Table, node| table.register("one more".to_owned(), of(node), Sender::Here, |_| true);
        assert!(matches!(more(&mut table, 9), Err(NameError::TooMany { max: MOST })));
        table.unregister("0", None, Sender::Here, |_| true).unwrap();
        assert!(matches!(more(&mut table, 1), Err(NameError::TooMany { max: MOST_OF_NODE })));
        more(&mut table, 0).unwrap();
        table.unregister("one more", None, Sender::Here, |_| true).unwrap();
        let NameError::Unknown { known, .. } = table.find("one more", |_| true).unwrap_err() else {
            panic!("it is not there")
        };
        assert_eq!(known.len(), LISTED);
    }
}
