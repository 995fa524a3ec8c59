//! The names that a node's actors have. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ids::NodeId;

/// By head and actor, which has a number of its own in this process.
#[derive(Default)]
pub(crate) struct Kept(Mutex<BTreeMap<Key, BTreeSet<String>>>);

pub(crate) type Key = (NodeId, u64);

impl Kept {
    /// An actor has got a name. True if it is its first.
    pub(crate) fn keep(&self, key: Key, name: String) -> bool {
        let mut kept = self.kept();
        let is_first = !kept.contains_key(&key);
        kept.entry(key).or_default().insert(name);
        is_first
    }

    /// A name was taken back at this head, whose ever it was.
    pub(crate) fn forget(&self, head: NodeId, name: &str) {
        let mut kept = self.kept();
        kept.iter_mut().filter(|((of, _), _)| *of == head).for_each(|(_, of_actor)| _ = of_actor.remove(name));
    }

    /// A name of an actor that has ended. Without one, the actor is forgotten.
    pub(crate) fn first(&self, key: Key) -> Option<String> {
        let mut kept = self.kept();
        let name = kept.get(&key)?.first().cloned();
        if name.is_none() {
            kept.remove(&key);
        }
        name
    }

    /// A name of an actor that has ended was taken back.
    pub(crate) fn remove(&self, key: Key, name: &str) {
        if let Some(names) = self.kept().get_mut(&key) {
            names.remove(name);
        }
    }

    /// An actor is of no interest any more.
    pub(crate) fn remove_all(&self, key: Key) {
        self.kept().remove(&key);
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Key, BTreeSet<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
