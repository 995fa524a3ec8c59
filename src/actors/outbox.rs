//! What the scheduler sends to its workers: in order for each, and tasks that wait together as one message.

use std::collections::VecDeque;

use actix::Handler;
use regatta_remote::{ActorRef, AskError};
use tokio::sync::mpsc;

use super::leaving::TakeOver;
use super::messages::{
    Dismiss, DropStage, End, Enough, Gone, Prepare, RunTask, RunTasks, Serve, StartReplica, StopReplica, Withdraw,
};
use super::{SchedulerActor, SwordfishActor, insist, insist_on};
use crate::error::{ClusterError, TaskFailure};
use crate::sched::{Attempt, Event, QueryId, ReplicaId, TaskId, WorkerId};
use crate::udf::UdfError;

/// A message to a worker.
pub(super) enum Outgoing {
    Prepare(Prepare),
    Run(RunTask),
    Start(StartReplica),
    Stop(StopReplica),
    Serve(Serve),
    Enough(Enough),
    Drop(DropStage),
    End(End),
    Gone(Gone),
    Dismiss(Dismiss),
    Withdraw(Withdraw),
    TakeOver(TakeOver),
}

/// Messages to one worker that may wait. What is placed there bounds them; a worker that lets so many wait is lost.
pub(super) const OUTBOX: usize = 8192;

/// Tasks in one message, at most.
const TOGETHER: usize = 64;
/// Partitions that they name, but for the last of them: keeps the message far below its limit.
const PIECES_TOGETHER: usize = 10_000;

/// A message could not be delivered.
pub(super) struct Undelivered {
    pub(super) worker: WorkerId,
    pub(super) error: AskError,
}

/// A message could not be made: it is too large, or cannot be written. That is no fault of the worker's.
pub(super) enum Undeliverable {
    /// The program of a stage of this query, and why.
    Query(QueryId, String),
    Task(TaskId, Attempt, String),
    /// The start of a replica.
    Replica(ReplicaId, String),
}

/// What could not be done of the core's actions. It hears of it once all of them are carried out, for they are of the state that it
/// was in: what it decides next must not come before them.
#[derive(Default)]
pub(super) struct Undone {
    /// Workers that do not take their messages, and why.
    pub(super) unreached: VecDeque<(WorkerId, String)>,
    /// Attempts of which it could not be said where all is that they read.
    pub(super) unfed: VecDeque<(TaskId, Attempt)>,
    /// It is being told.
    is_told: bool,
}

impl actix::Message for Undeliverable {
    type Result = ();
}

impl actix::Message for Undelivered {
    type Result = ();
}

/// Sends a worker's messages one after the other, each until it has certainly been taken. Ends with the outbox.
pub(super) async fn deliver(
    actor: ActorRef<SwordfishActor>,
    mut messages: mpsc::Receiver<Outgoing>,
    worker: WorkerId,
    scheduler: actix::WeakAddr<SchedulerActor>,
) {
    let mut next = None;
    loop {
        let message = match next.take() {
            Some(message) => message,
            None => match messages.recv().await {
                Some(message) => message,
                None => return,
            },
        };
        let refuse = |message| {
            if let Some(scheduler) = scheduler.upgrade() {
                scheduler.do_send(message);
            }
        };
        let sent = match message {
            Outgoing::Prepare(message) => {
                let query = message.query;
                insist(&actor, message)
                    .await
                    .or_else(|error| spare(error, |why| refuse(Undeliverable::Query(query, why))))
            }
            Outgoing::Run(task) => run_tasks(&actor, together(task, &mut messages, &mut next), refuse).await,
            Outgoing::Start(message) => {
                let replica = message.replica;
                let refuse = |why| refuse(Undeliverable::Replica(replica, why));
                insist(&actor, message).await.or_else(|error| spare(error, refuse))
            }
            Outgoing::Stop(message) => insist(&actor, message).await,
            Outgoing::Serve(message) => insist(&actor, message).await,
            Outgoing::Enough(message) => insist(&actor, message).await,
            Outgoing::Drop(message) => insist(&actor, message).await,
            Outgoing::End(message) => insist(&actor, message).await,
            Outgoing::Gone(message) => insist(&actor, message).await,
            Outgoing::Dismiss(message) => insist(&actor, message).await,
            Outgoing::Withdraw(message) => insist(&actor, message).await,
            Outgoing::TakeOver(message) => insist(&actor, message).await,
        };
        if let Err(error) = sent {
            if let Some(scheduler) = scheduler.upgrade() {
                scheduler.do_send(Undelivered { worker, error });
            }
            return;
        }
    }
}

/// Sends tasks together. If that is too much for one message, each alone, and refuses what is too much even so.
async fn run_tasks(
    actor: &ActorRef<SwordfishActor>,
    tasks: Vec<RunTask>,
    refuse: impl Fn(Undeliverable),
) -> Result<(), AskError> {
    let tasks = RunTasks(tasks);
    match insist_on(actor, &tasks).await {
        Err(AskError::Codec(_)) => (),
        sent => return sent,
    }
    for alone in tasks.0 {
        let (task, attempt) = (alone.task, alone.attempt);
        let sent = insist(actor, RunTasks(vec![alone])).await;
        sent.or_else(|error| spare(error, |why| refuse(Undeliverable::Task(task, attempt, why))))?;
    }
    Ok(())
}

/// A message that cannot be made is refused, and its worker spared.
fn spare(error: AskError, refuse: impl FnOnce(String)) -> Result<(), AskError> {
    match error {
        AskError::Codec(why) => {
            refuse(why.to_string());
            Ok(())
        }
        error => Err(error),
    }
}

/// Tasks that wait to be sent, as one message. `next`: what waits behind them.
fn together(first: RunTask, messages: &mut mpsc::Receiver<Outgoing>, next: &mut Option<Outgoing>) -> Vec<RunTask> {
    let pieces = |task: &RunTask| task.inputs.iter().map(|(_, feed)| 1 + feed.parts.len()).sum::<usize>();
    let mut size = pieces(&first);
    let mut tasks = vec![first];
    while tasks.len() < TOGETHER && size < PIECES_TOGETHER {
        match messages.try_recv() {
            Ok(Outgoing::Run(task)) => {
                size += pieces(&task);
                tasks.push(task);
            }
            Ok(other) => {
                *next = Some(other);
                break;
            }
            Err(_) => break,
        }
    }
    tasks
}

impl Handler<Undeliverable> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, message: Undeliverable, _: &mut Self::Context) {
        self.take(match message {
            Undeliverable::Query(query, why) => {
                Event::Fail(query, ClusterError::network("tell a worker of a stage of the query", why).into())
            }
            Undeliverable::Task(task, attempt, why) => {
                Event::TaskEnded { task, attempt, outcome: Err(TaskFailure::CannotBeSent(why)) }
            }
            Undeliverable::Replica(replica, why) => Event::ReplicaFailed { replica, error: UdfError::new(why) },
        });
    }
}

impl SchedulerActor {
    /// Tells the core what could not be done of its actions, and of those that follow.
    pub(super) fn tell_undone(&mut self) {
        if std::mem::replace(&mut self.undone.is_told, true) {
            return;
        }
        loop {
            if let Some((task, attempt)) = self.undone.unfed.pop_front() {
                let (from, why) = ("a worker".to_owned(), "it is not there any more".to_owned());
                self.take(Event::TaskEnded { task, attempt, outcome: Err(TaskFailure::Transfer { from, why }) });
            } else if let Some((worker, why)) = self.undone.unreached.pop_front() {
                self.lose(worker, why);
            } else {
                break;
            }
        }
        self.undone.is_told = false;
    }
}

impl Handler<Undelivered> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, Undelivered { worker, error }: Undelivered, _: &mut Self::Context) {
        let why = ClusterError::network(format!("{worker} does not answer"), error);
        self.lose(worker, why.to_string());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::{Arc, Mutex};

    use regatta_remote::{Address, Authority, Node, Role, Runtime};

    use super::super::{CONTROL, MAILBOX, SWORDFISH};
    use super::*;
    use crate::plan::Split;
    use crate::sched::StageId;

    /// Takes tasks, and notes which.
    #[derive(Clone, Default)]
    struct Taken(Arc<Mutex<Vec<u32>>>);

    impl actix::Actor for Taken {
        type Context = actix::Context<Self>;
    }

    impl Handler<RunTasks> for Taken {
        type Result = ();

        fn handle(&mut self, RunTasks(tasks): RunTasks, _: &mut Self::Context) {
            self.0.lock().unwrap().extend(tasks.iter().map(|task| task.task.index));
        }
    }

    fn run(index: u32) -> RunTask {
        let task = TaskId { query: QueryId(1), stage: StageId(0), index };
        let (inputs, replicas) = (Vec::new(), Vec::new());
        RunTask { task, attempt: Attempt(1), split: Split::Whole, inputs, replicas, after: None }
    }

    #[test]
    fn tasks_go_together_in_order_and_never_past_another_message() {
        let (outbox, mut messages) = mpsc::channel(OUTBOX);
        (1..100).for_each(|index| drop(outbox.try_send(Outgoing::Run(run(index)))));
        drop(outbox.try_send(Outgoing::End(End(QueryId(1)))));
        drop(outbox.try_send(Outgoing::Run(run(100))));
        let mut next = None;
        let first = together(run(0), &mut messages, &mut next);
        assert!(next.is_none());
        let Ok(Outgoing::Run(task)) = messages.try_recv() else { panic!("a task waits") };
        let second = together(task, &mut messages, &mut next);
        let sent: Vec<_> = first.iter().chain(&second).map(|task| task.task.index).collect();
        assert_eq!(sent, (0..100).collect::<Vec<_>>());
        assert_eq!(first.len(), TOGETHER);
        assert!(matches!(next, Some(Outgoing::End(_))));
        assert!(matches!(messages.try_recv(), Ok(Outgoing::Run(task)) if task.task.index == 100));
    }

    #[test]
    fn a_task_that_is_too_much_for_a_message_is_refused_and_those_beside_it_reach_their_worker() {
        let (runtime, authority) = (Runtime::new("outbox", 2).unwrap(), Authority::new().unwrap());
        let bind = |role| {
            let (identity, loopback) = (authority.issue(role).unwrap(), "127.0.0.1:0".parse().unwrap());
            Node::bind(identity, loopback, &runtime).unwrap()
        };
        let (head, worker) = (bind(Role::Head), bind(Role::Worker));
        runtime.handle().block_on(worker.connect(head.address().unwrap(), CONTROL)).unwrap();
        let (arbiter, taken) = (runtime.arbiter().unwrap(), Taken::default());
        let kept = taken.clone();
        let taker = arbiter.spawn(MAILBOX, move |_| kept);
        worker.publish(SWORDFISH, &taker).on::<RunTasks>(&[Role::Head]);
        let actor = head.actor(Address { node: worker.id(), actor: SWORDFISH });
        let large = RunTask { split: Split::Files { files: vec![usize::MAX; 8 << 20], rows_before: 0 }, ..run(1) };
        let refused = RefCell::new(Vec::new());
        let refuse = |message| match message {
            Undeliverable::Task(task, Attempt(1), why) => refused.borrow_mut().push((task.index, why)),
            _ => panic!("it is a task"),
        };
        runtime.handle().block_on(run_tasks(&actor, vec![run(0), large, run(2)], refuse)).unwrap();
        let refused = refused.into_inner();
        assert!(refused.len() == 1 && refused[0].0 == 1 && refused[0].1.contains("larger than"), "{refused:?}");
        assert_eq!(*taken.0.lock().unwrap(), [0, 2]);
        drop((taker, arbiter));
        runtime.shutdown(std::time::Duration::from_secs(2));
    }
}
