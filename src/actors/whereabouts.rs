//! Where the rows of results are, for those who read them: whether they stay, are taken, or are made again.

use actix::Handler;

use super::SchedulerActor;
use super::messages::{Find, Found, Locate, Located, Taken};
use super::scheduler::Submitted;
use crate::sched::Event;

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
