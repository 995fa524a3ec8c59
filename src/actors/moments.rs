//! What happens in a simulated cluster, for faults that are to come just then.

use std::sync::{Mutex, PoisonError};

use regatta_remote::{NodeId, is_simulated};
use tokio::sync::mpsc::UnboundedSender;

use super::SchedulerActor;
use crate::sched::{Action, Attempt, WorkerId};

/// What a fault may come with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Point {
    /// It has just been decided how a stage runs; a worker is told its program.
    Shaped,
    /// A worker is told to run an attempt.
    Placed,
    /// The same, of a task that had one before.
    PlacedAgain,
    /// A worker is about to say that an attempt has succeeded.
    Ends,
    /// The scheduler has heard of that.
    Ended,
    /// What an attempt has left begins to be read.
    Read,
    /// A replica is ready.
    Ready,
    /// A worker is told that attempts are superseded, or not needed.
    Enough,
    /// A worker is told to drop what a stage has left.
    Dropped,
    /// The driver lets a query go.
    Released,
    /// A worker is told that a query has ended.
    Over,
}

/// A moment: what happens, and at which worker.
pub(crate) type Moment = (Point, Option<NodeId>);

/// Who wants to know. A process runs one simulation at a time.
static WATCHES: Mutex<Option<UnboundedSender<Moment>>> = Mutex::new(None);

/// Has all that happens from now on told to this one.
pub(crate) fn watch(tells: UnboundedSender<Moment>) {
    *WATCHES.lock().unwrap_or_else(PoisonError::into_inner) = Some(tells);
}

/// Something happens. Nobody need watch.
pub(crate) fn note(point: Point, at: Option<NodeId>) {
    if !is_simulated() {
        return;
    }
    let watches = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
    // Nobody watches any more once a simulation is over.
    watches.iter().for_each(|tells| _ = tells.send((point, at)));
}

impl SchedulerActor {
    pub(super) fn note_at(&self, point: Point, worker: WorkerId) {
        let node = self.workers.get(&worker).and_then(|crew| crew.place.node);
        note(point, node.map(|(node, _)| node));
    }

    /// Something is about to be done.
    pub(super) fn note_action(&self, action: &Action) {
        match action {
            Action::Prepare { worker, .. } => self.note_at(Point::Shaped, *worker),
            Action::Run { worker, attempt: Attempt(1), .. } => self.note_at(Point::Placed, *worker),
            Action::Run { worker, .. } => self.note_at(Point::PlacedAgain, *worker),
            Action::Enough { worker, .. } | Action::Stop { worker, .. } => self.note_at(Point::Enough, *worker),
            Action::Drop { worker, .. } => self.note_at(Point::Dropped, *worker),
            Action::End { worker, .. } => self.note_at(Point::Over, *worker),
            _ => (),
        }
    }
}
