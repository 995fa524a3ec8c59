//! All queries, and which of them may have changed.

use std::collections::BTreeMap;

use super::QueryId;
use super::query::Query;

/// Whoever may change a query has it noted, so that what it wants is looked at again.
#[derive(Debug, Default)]
pub(super) struct Queries {
    all: BTreeMap<QueryId, Query>,
    changed: Vec<QueryId>,
}

impl Queries {
    pub(super) fn insert(&mut self, query: Query) {
        self.note(query.spec.id);
        self.all.insert(query.spec.id, query);
    }

    pub(super) fn remove(&mut self, id: &QueryId) -> Option<Query> {
        self.all.remove(id)
    }

    pub(super) fn get(&self, id: &QueryId) -> Option<&Query> {
        self.all.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &QueryId) -> Option<&mut Query> {
        self.note(*id);
        self.all.get_mut(id)
    }

    pub(super) fn contains_key(&self, id: &QueryId) -> bool {
        self.all.contains_key(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&QueryId, &Query)> {
        self.all.iter()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Query> {
        self.changed.extend(self.all.keys());
        self.all.values_mut()
    }

    /// Something that this query uses has changed.
    pub(super) fn note(&mut self, id: QueryId) {
        if self.changed.last() != Some(&id) {
            self.changed.push(id);
        }
    }

    /// A query that may have changed, once; it may be gone.
    pub(super) fn next_changed(&mut self) -> Option<QueryId> {
        self.changed.pop()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}
