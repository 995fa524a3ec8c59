//! Which worker a task runs on, and how many tasks run at once.

use std::fmt;

use super::WorkerId;
use super::ledger::{Grant, Ledger};
use super::need::Need;

/// Where a task wants to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Affinity {
    /// On this worker if there is room, else anywhere.
    Soft(WorkerId),
    /// On this worker and no other, for as long as it stays; then anywhere.
    Hard(WorkerId),
}

/// Decides for one task at a time. Who is asked for first is not its business.
pub(super) trait Policy: fmt::Debug + Send {
    /// Whether one more task may start, or wait at a worker, beside so many of all queries.
    fn admits(&self, running: usize) -> bool;

    /// Charges a worker for a task, on which it fits; `None`: it waits.
    fn place(&self, task: Need, affinity: Option<Affinity>, ledger: &mut Ledger) -> Option<Grant>;
}

/// As many tasks as there is room for, each where it wants to be, or else where most is free; the lowest number among equals.
#[derive(Debug)]
pub(super) struct DefaultScheduler;

/// One task at a time, for debugging.
#[derive(Debug)]
pub(super) struct LinearScheduler;

impl Policy for DefaultScheduler {
    fn admits(&self, _: usize) -> bool {
        true
    }

    fn place(&self, task: Need, affinity: Option<Affinity>, ledger: &mut Ledger) -> Option<Grant> {
        match affinity {
            Some(Affinity::Hard(worker)) if ledger.stays(worker) => ledger.place_task_on(worker, task),
            Some(Affinity::Soft(worker) | Affinity::Hard(worker)) => {
                let wished = ledger.place_task_on(worker, task);
                wished.or_else(|| ledger.place_task(task))
            }
            None => ledger.place_task(task),
        }
    }
}

impl Policy for LinearScheduler {
    fn admits(&self, running: usize) -> bool {
        running == 0
    }

    fn place(&self, task: Need, affinity: Option<Affinity>, ledger: &mut Ledger) -> Option<Grant> {
        DefaultScheduler.place(task, affinity, ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::Resources;

    fn task() -> Need {
        Need::new(Resources::cpus(0.5), 0, 0)
    }

    fn ledger(cpus: &[f64]) -> Ledger {
        let mut ledger = Ledger::default();
        for (worker, cpus) in cpus.iter().enumerate() {
            ledger.add(WorkerId(worker as u32), Resources::cpus(*cpus));
        }
        ledger
    }

    fn place(ledger: &mut Ledger, affinity: Option<Affinity>) -> Option<u32> {
        DefaultScheduler.place(task(), affinity, ledger).map(|grant| grant.worker.0)
    }

    #[test]
    fn tasks_spread_evenly_over_equal_workers_and_fill_them() {
        let mut ledger = ledger(&[1.0, 1.0, 1.0]);
        let placed: Vec<_> = std::iter::from_fn(|| place(&mut ledger, None)).collect();
        assert_eq!(placed, [0, 1, 2, 0, 1, 2], "and what is left over waits");
    }

    #[test]
    fn tasks_spread_over_unequal_workers_and_fill_each_exactly() {
        let mut ledger = ledger(&[0.5, 1.0, 1.5]);
        let placed: Vec<_> = std::iter::from_fn(|| place(&mut ledger, None)).collect();
        assert_eq!(placed, [2, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_soft_wish_is_granted_while_there_is_room_and_then_spills() {
        let mut ledger = ledger(&[1.0, 1.0]);
        let wish = Some(Affinity::Soft(WorkerId(1)));
        let placed: Vec<_> = std::iter::from_fn(|| place(&mut ledger, wish)).collect();
        assert_eq!(placed, [1, 1, 0, 0]);
    }

    #[test]
    fn a_hard_wish_never_spills() {
        let mut ledger = ledger(&[1.0, 1.0]);
        let wish = Some(Affinity::Hard(WorkerId(1)));
        assert_eq!([(); 3].map(|()| place(&mut ledger, wish)), [Some(1), Some(1), None]);
        assert_eq!(place(&mut ledger, None), Some(0), "others go on");
    }

    #[test]
    fn a_hard_wish_for_a_worker_that_is_gone_is_a_soft_one() {
        let mut ledger = ledger(&[1.0, 1.0]);
        ledger.remove(WorkerId(1));
        assert_eq!(place(&mut ledger, Some(Affinity::Hard(WorkerId(1)))), Some(0));
    }

    #[test]
    fn a_linear_scheduler_admits_nothing_beside_a_task() {
        assert!(LinearScheduler.admits(0) && !LinearScheduler.admits(1));
        assert_eq!(LinearScheduler.place(task(), None, &mut ledger(&[])), None, "no workers, no task");
    }
}
