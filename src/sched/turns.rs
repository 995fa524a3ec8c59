//! Whose turn it is: drivers take turns, and the queries of each.

use std::collections::{BTreeMap, BTreeSet};

use super::{DriverId, QueryId};

/// Queries that are not done, each in the line of those that want the same. Whoever was served goes to the back. If one of a
/// line cannot have what it wants, none of them can: then nobody looks at the others.
#[derive(Debug)]
pub(super) struct Turns<W> {
    queries: BTreeMap<QueryId, Entry<W>>,
    /// When each driver was served, and how many queries it has here.
    drivers: BTreeMap<DriverId, (u64, usize)>,
    lines: BTreeMap<W, Line>,
    /// What could not be had when it was tried.
    refused: BTreeSet<W>,
    /// Counts who was served.
    served: u64,
}

#[derive(Debug)]
struct Entry<W> {
    driver: DriverId,
    served: u64,
    wants: Option<W>,
}

#[derive(Debug, Default)]
struct Line {
    drivers: BTreeSet<(u64, DriverId)>,
    queries: BTreeMap<DriverId, BTreeSet<(u64, QueryId)>>,
}

impl<W: Ord + Clone> Turns<W> {
    /// A query of this driver is the last of its queries, and wants nothing yet.
    pub(super) fn enter(&mut self, query: QueryId, driver: DriverId) {
        self.leave(query);
        self.served += 1;
        self.queries.insert(query, Entry { driver, served: self.served, wants: None });
        self.drivers.entry(driver).or_insert((self.served, 0)).1 += 1;
    }

    /// How many drivers have queries here.
    pub(super) fn drivers(&self) -> usize {
        self.drivers.len()
    }

    pub(super) fn leave(&mut self, query: QueryId) {
        self.step_out(query);
        let Some(entry) = self.queries.remove(&query) else { return };
        if let Some(driver) = self.drivers.get_mut(&entry.driver) {
            driver.1 -= 1;
            if driver.1 == 0 {
                self.drivers.remove(&entry.driver);
            }
        }
    }

    /// Notes what a query wants now.
    pub(super) fn want(&mut self, query: QueryId, wants: Option<W>) {
        if self.queries.get(&query).is_some_and(|entry| entry.wants != wants) {
            self.step_out(query);
            if let Some(entry) = self.queries.get_mut(&query) {
                entry.wants = wants;
            }
            self.step_in(query);
        }
    }

    /// The first one that may get what it wants.
    pub(super) fn next(&self) -> Option<QueryId> {
        let lines = self.lines.iter().filter(|(wants, _)| !self.refused.contains(wants));
        let first = lines.filter_map(|(_, line)| {
            let (driver_served, driver) = *line.drivers.first()?;
            let (served, query) = *line.queries.get(&driver)?.first()?;
            Some((driver_served, driver, served, query))
        });
        first.min().map(|(.., query)| query)
    }

    /// It has got something: the others come first.
    pub(super) fn serve(&mut self, query: QueryId) {
        if self.queries.len() == 1 {
            return;
        }
        self.step_out(query);
        self.served += 1;
        let Some(entry) = self.queries.get_mut(&query) else { return };
        entry.served = self.served;
        let Some(driver) = self.drivers.get_mut(&entry.driver) else { return };
        let before = std::mem::replace(&mut driver.0, self.served);
        for line in self.lines.values_mut() {
            if line.drivers.remove(&(before, entry.driver)) {
                line.drivers.insert((self.served, entry.driver));
            }
        }
        self.step_in(query);
    }

    /// It cannot have what it wants, nor can any other that wants the same, until somebody says [`Self::look_again`].
    pub(super) fn refuse(&mut self, query: QueryId) {
        self.refused.extend(self.queries.get(&query).and_then(|entry| entry.wants.clone()));
    }

    /// What could not be had may be there now.
    pub(super) fn look_again(&mut self) {
        self.refused.clear();
    }

    /// All that are here, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = QueryId> + '_ {
        self.queries.keys().copied()
    }

    /// The same, in the order in which it is their turn.
    pub(super) fn in_order(&self) -> Vec<QueryId> {
        let mut all: Vec<_> = self
            .queries
            .iter()
            .map(|(query, entry)| {
                (self.drivers.get(&entry.driver).map(|driver| driver.0), entry.driver, entry.served, *query)
            })
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(.., query)| query).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.queries.len()
    }

    fn step_in(&mut self, query: QueryId) {
        let Some(Entry { driver, served, wants: Some(wants) }) = self.queries.get(&query) else { return };
        let driver_served = self.drivers.get(driver).map_or(0, |driver| driver.0);
        let line = self.lines.entry(wants.clone()).or_default();
        line.drivers.insert((driver_served, *driver));
        line.queries.entry(*driver).or_default().insert((*served, query));
    }

    fn step_out(&mut self, query: QueryId) {
        let Some(Entry { driver, served, wants: Some(wants) }) = self.queries.get(&query) else { return };
        let Some(line) = self.lines.get_mut(wants) else { return };
        let Some(queries) = line.queries.get_mut(driver) else { return };
        queries.remove(&(*served, query));
        if queries.is_empty() {
            line.queries.remove(driver);
            let driver_served = self.drivers.get(driver).map_or(0, |driver| driver.0);
            line.drivers.remove(&(driver_served, *driver));
        }
        if line.queries.is_empty() {
            self.lines.remove(wants);
        }
    }
}

impl<W> Default for Turns<W> {
    fn default() -> Self {
        let (queries, drivers, lines) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { queries, drivers, lines, refused: BTreeSet::new(), served: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(queries: &[(u64, u64, &'static str)]) -> Turns<&'static str> {
        let mut turns = Turns::default();
        for (query, driver, wants) in queries {
            turns.enter(QueryId(*query), DriverId(*driver));
            turns.want(QueryId(*query), Some(*wants));
        }
        turns
    }

    fn serve(turns: &mut Turns<&'static str>, times: usize) -> Vec<u64> {
        let served = (0..times).map_while(|_| {
            let next = turns.next()?;
            turns.serve(next);
            Some(next.0)
        });
        served.collect()
    }

    #[test]
    fn drivers_take_turns_and_then_their_queries_whatever_each_wants() {
        let mut turns = turns(&[(1, 1, "task"), (2, 1, "task"), (3, 1, "pool"), (4, 2, "task")]);
        assert_eq!(serve(&mut turns, 8), [1, 4, 2, 4, 3, 4, 1, 4]);
        assert_eq!(turns.in_order(), [2, 3, 1, 4].map(QueryId));
    }

    #[test]
    fn if_one_cannot_have_what_it_wants_nobody_looks_at_those_that_want_the_same() {
        let mut turns = turns(&[(1, 1, "task"), (2, 1, "task"), (3, 1, "pool"), (4, 2, "task")]);
        turns.refuse(QueryId(1));
        assert_eq!(serve(&mut turns, 2), [3, 3]);
        turns.want(QueryId(2), Some("pool"));
        assert_eq!(serve(&mut turns, 2), [2, 3]);
        turns.refuse(QueryId(3));
        assert_eq!(turns.next(), None);
        turns.look_again();
        assert_eq!(serve(&mut turns, 3), [4, 1, 4]);
    }

    #[test]
    fn who_wants_nothing_or_has_left_has_no_turn_and_leaves_nothing() {
        let mut turns = turns(&[(1, 1, "task"), (2, 2, "task")]);
        turns.want(QueryId(1), None);
        assert_eq!(serve(&mut turns, 2), [2, 2]);
        turns.leave(QueryId(2));
        assert_eq!((turns.next(), turns.len(), turns.lines.len(), turns.drivers.len()), (None, 1, 0, 1));
        turns.want(QueryId(1), Some("pool"));
        assert_eq!(serve(&mut turns, 1), [1]);
        turns.leave(QueryId(1));
        assert_eq!((turns.iter().count(), turns.lines.len(), turns.drivers.len()), (0, 0, 0));
    }
}
