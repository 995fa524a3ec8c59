//! Where the rows of results are, for those who read them: whether they stay, are taken, or are made again.

use std::collections::{BTreeMap, HashMap};

use actix::Handler;

use super::SchedulerActor;
use super::messages::{Find, Found, Locate, Located, Place, Taken};
use super::scheduler::Submitted;
use crate::plan::QueryPlan;
use crate::sched::{Affinity, Event, Output, PartitionId, QueryId, StageId, WorkerId};

impl SchedulerActor {
    /// What a finished stage left, and where; `None` if some of it is not there.
    pub(super) fn outputs(&self, query: QueryId, stage: StageId) -> Option<Vec<(Place, Output)>> {
        let outputs = self.core.outputs(query, stage)?.into_iter();
        outputs.map(|(worker, output)| Some((self.place(query, worker)?, output))).collect()
    }

    pub(super) fn place(&self, query: QueryId, worker: WorkerId) -> Option<Place> {
        match worker {
            WorkerId::DRIVER => Some(self.queries.get(&query)?.driver),
            worker => Some(self.workers.get(&worker)?.place),
        }
    }

    /// For each stage, the tasks that read persisted partitions, and the worker that has most of them.
    pub(super) fn near_persisted(&self, plan: &QueryPlan) -> Vec<BTreeMap<usize, Affinity>> {
        let mut places: HashMap<QueryId, Vec<WorkerId>> = HashMap::new();
        let mut near = |read: &[(QueryId, usize)]| {
            let mut there: BTreeMap<WorkerId, usize> = BTreeMap::new();
            for (query, partition) in read {
                let places = places.entry(*query).or_insert_with(|| self.persisted(*query));
                places.get(*partition).into_iter().for_each(|worker| *there.entry(*worker).or_default() += 1);
            }
            there.into_iter().max_by_key(|(_, partitions)| *partitions).map(|(worker, _)| Affinity::Soft(worker))
        };
        let stages = plan.stages.iter().map(|stage| {
            let tasks = stage.held.iter().enumerate();
            tasks.filter_map(|(task, read)| Some((task, near(read)?))).collect()
        });
        stages.collect()
    }

    /// Where the partitions of a persisted result are, in order; none while they are being made again.
    fn persisted(&self, query: QueryId) -> Vec<WorkerId> {
        self.located(query).unwrap_or_default().into_iter().map(|(place, _)| place.worker).collect()
    }

    /// The partitions of a finished query's result, if they are all there.
    pub(super) fn located(&self, query: QueryId) -> Option<Vec<(Place, PartitionId)>> {
        let last = self.queries.get(&query)?.plan.last().filter(|_| self.core.is_done(query))?.id;
        Some(self.outputs(query, last)?.into_iter().map(|(place, output)| (place, output.id)).collect())
    }
}

impl Handler<Taken> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, Taken(query): Taken, _: &mut Self::Context) {
        if self.is_owner(query) {
            self.take(Event::Taken(query));
        }
    }
}

impl Handler<Find> for SchedulerActor {
    type Result = actix::MessageResult<Find>;

    fn handle(&mut self, Find { query, partition, unread }: Find, _: &mut Self::Context) -> Self::Result {
        if !self.is_owner(query) {
            return actix::MessageResult(Found::Nowhere);
        }
        if let Some((task, attempt, why)) = unread.filter(|(task, ..)| task.query == query) {
            self.take(Event::Unread { task, attempt, why });
        }
        let there = self.core.partition(query, partition);
        let there = there.and_then(|(worker, output)| Some((self.place(query, worker)?, output)));
        actix::MessageResult(match (there, self.queries.get(&query)) {
            (Some((place, output)), _) => Found::There(place, output),
            (None, Some(Submitted { lost: Some(error), .. })) => Found::Failed(error.clone()),
            (None, Some(_)) => Found::MadeAgain,
            (None, None) => Found::Nowhere,
        })
    }
}

impl Handler<Locate> for SchedulerActor {
    type Result = actix::MessageResult<Locate>;

    fn handle(&mut self, Locate { query, reader, partitions }: Locate, _: &mut Self::Context) -> Self::Result {
        if !self.is_of_one_driver(query, reader) {
            return actix::MessageResult(Located::Nowhere);
        }
        let is_made = !self.core.is_done(query) && self.queries.get(&query).is_some_and(|of| of.lost.is_none());
        let there = self.located(query);
        let wanted = there.and_then(|there| partitions.into_iter().map(|index| there.get(index).copied()).collect());
        actix::MessageResult(match wanted {
            Some(partitions) => Located::There(partitions),
            None if is_made => Located::MadeAgain,
            None => Located::Nowhere,
        })
    }
}
