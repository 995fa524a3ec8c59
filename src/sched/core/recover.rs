//! What a lost worker costs: its running tasks and the partitions that only it held. They run again elsewhere, as new
//! attempts; what reads them waits.

use std::time::{Duration, Instant};

use super::{Action, Core};
use crate::error::{Error, PoolError, PoolFailure, TaskError, TaskFailure};
use crate::sched::query::{Phase, Query, ReplicaState, TaskState};
use crate::sched::{Attempt, Resources, WorkerId};

/// Attempts of one task before its failure is the query's.
pub(crate) const MAX_ATTEMPTS: u32 = 5;
/// Replicas that a pool may lose before the query fails: a UDF that kills its workers must not kill them all.
const MAX_LOST_REPLICAS: usize = 4;
/// How long a task waits before its second attempt; each further one waits twice as long. A worker that is lost is known to
/// be before the attempts are used up.
const BACK_OFF: Duration = Duration::from_millis(250);

impl Core {
    pub(super) fn lose(&mut self, worker: WorkerId, why: &str, now: Instant, actions: &mut Vec<Action>) {
        self.ledger.remove(worker);
        if let Some(scaler) = &mut self.autoscaler {
            scaler.lost();
        }
        let mut failed = Vec::new();
        for (id, query) in self.queries.iter_mut().filter(|(_, query)| !query.done) {
            let running = query.running();
            let lost = query.lose(worker, why, now);
            // What was superseded elsewhere, because its pool is gone, gives back its charge.
            query.superseded.drain(..).for_each(|on| self.ledger.release(on, self.settings.task_cpus));
            self.running -= running - query.running();
            failed.extend(lost.err().map(|error| (*id, error)));
        }
        for (query, error) in failed {
            self.end(query, Some(error), actions);
        }
        self.end_infeasible(actions);
    }

    /// Puts tasks whose back-off is over into the queue again.
    pub(super) fn wake(&mut self, now: Instant) {
        for stage in self.queries.values_mut().flat_map(|query| &mut query.stages) {
            let (due, later) = stage.delayed.drain(..).partition(|(at, _)| *at <= now);
            stage.delayed = later;
            let due: Vec<(Instant, usize)> = due;
            stage.pending.extend(due.into_iter().map(|(_, index)| index));
        }
    }
}

impl Query {
    /// Makes the next attempt of a task wait for its turn. False if there is none.
    pub(super) fn retry(&mut self, stage: usize, index: usize, at: Option<Instant>) -> bool {
        let stage = &mut self.stages[stage];
        let task = &mut stage.tasks[index];
        task.state = TaskState::Pending;
        if task.attempt.0 >= MAX_ATTEMPTS {
            return false;
        }
        match at {
            Some(now) => stage.delayed.push((now + BACK_OFF * 2u32.pow(task.attempt.0 - 1), index)),
            None => stage.pending.push_back(index),
        }
        task.attempt = Attempt(task.attempt.0 + 1);
        true
    }

    fn running(&self) -> usize {
        let tasks = self.stages.iter().flat_map(|stage| &stage.tasks);
        tasks.filter(|task| matches!(task.state, TaskState::Running(_))).count()
    }

    fn lose(&mut self, worker: WorkerId, why: &str, now: Instant) -> Result<(), Error> {
        self.holders.remove(&worker);
        for stage in 0..self.stages.len() {
            self.stages[stage].prepared.remove(&worker);
            let pool_is_gone = self.lose_replicas(stage, worker, why)?;
            self.lose_tasks(stage, worker, pool_is_gone, why)?;
            if pool_is_gone {
                // Admitted whole again: its tasks must not hold the room that its replicas need.
                self.stages[stage].phase = Phase::Waiting;
                self.stages[stage].since = now;
            }
        }
        Ok(())
    }

    /// True if a pool of a running stage has no replica left.
    fn lose_replicas(&mut self, stage: usize, worker: WorkerId, why: &str) -> Result<bool, Error> {
        let mut gone = false;
        for step in 0..self.stages[stage].pools.len() {
            let pool = &mut self.stages[stage].pools[step];
            let mut last = None;
            for (rank, replica) in pool.replicas.iter_mut().enumerate() {
                if replica.worker == worker && replica.state != ReplicaState::Stopped {
                    replica.state = ReplicaState::Stopped;
                    pool.lost += 1;
                    last = Some(rank);
                }
            }
            let Some(rank) = last else { continue };
            gone |= pool.alive() == 0;
            if pool.lost > MAX_LOST_REPLICAS {
                let id = self.replica_id(stage, step, rank);
                let cause = PoolFailure::Lost { rank: id.rank, worker: worker.to_string(), why: why.to_owned() };
                let udf = self.spec.stages[stage].pools[step].udf.clone();
                return Err(PoolError { pool: id.pool, udf, cause }.into());
            }
        }
        Ok(gone)
    }

    fn lose_tasks(&mut self, stage: usize, worker: WorkerId, pool_is_gone: bool, why: &str) -> Result<(), Error> {
        let needed = self.is_needed(stage);
        for index in 0..self.stages[stage].tasks.len() {
            match self.stages[stage].tasks[index].state {
                TaskState::Running(on) if on == worker => (),
                TaskState::Running(on) if pool_is_gone => self.superseded.push(on),
                TaskState::Done(on, _) if on == worker && needed => {
                    self.stages[stage].left += 1;
                    if self.stages[stage].phase == Phase::Done {
                        self.stages[stage].phase = Phase::Waiting;
                    }
                }
                _ => continue,
            }
            let attempt = self.stages[stage].tasks[index].attempt.0;
            if !self.retry(stage, index, None) {
                let cause = TaskFailure::WorkerLost(why.to_owned());
                let task = self.task_id(stage, index);
                return Err(TaskError { task, attempt, worker: worker.to_string(), cause }.into());
            }
        }
        Ok(())
    }

    /// Whether somebody still reads what this stage leaves: the submitter, or a stage that is not done.
    fn is_needed(&self, stage: usize) -> bool {
        let reads = |reader: usize| self.spec.stages[reader].inputs.iter().any(|input| input.0 as usize == stage);
        stage + 1 == self.stages.len()
            || (0..self.stages.len()).any(|reader| reads(reader) && self.stages[reader].phase != Phase::Done)
    }
}

/// Room that an extra must leave; the only replica of a pool that has work needs leave none.
pub(super) fn spare(alive: usize, task: Resources) -> Resources {
    if alive == 0 { Resources::NONE } else { task }
}
