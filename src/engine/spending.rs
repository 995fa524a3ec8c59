//! Where the time of an attempt of a task goes: what follows the engine always waits for one thing, or writes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use regatta_observe::{EngineNode, Fetched, Spent};

use super::Called;
use crate::os;
use crate::sched::StageId;

/// Two looks at the clock for each batch and call, none for a row.
#[derive(Debug)]
pub(crate) struct Spending(Mutex<Purse>);

#[derive(Debug)]
struct Purse {
    spent: Spent,
    on: On,
    since: Instant,
    /// Calls of UDFs that are under way.
    calls: usize,
}

/// What time is spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    Fetch,
    Engine,
    Udf,
    Write,
}

impl Spending {
    /// An attempt begins: it fetches what it reads.
    pub(crate) fn begin() -> Self {
        Self(Mutex::new(Purse { spent: Spent::default(), on: On::Fetch, since: os::now(), calls: 0 }))
    }

    /// It reads so much of a stage.
    pub(crate) fn reads(&self, stage: StageId, fetched: &Fetched) {
        self.purse().spent.input_mut(stage.0).merge(fetched);
    }

    /// What it reads is there, or comes as the engine asks for it.
    pub(super) fn engine_begins(&self) {
        self.purse().turn(On::Engine);
    }

    /// A UDF is called. The call has ended when this is dropped.
    pub(super) fn call(&self) -> Call<'_> {
        let mut purse = self.purse();
        purse.calls += 1;
        if purse.on == On::Engine {
            purse.turn(On::Udf);
        }
        Call { of: self, began: os::now() }
    }

    /// Does something that is writing.
    pub(super) fn writing<T>(&self, write: impl FnOnce() -> T) -> T {
        self.purse().turn(On::Write);
        let written = write();
        let mut purse = self.purse();
        let on = purse.waits_for();
        purse.turn(on);
        written
    }

    /// A node of the engine did this.
    pub(super) fn node(&self, node: &EngineNode) {
        self.purse().spent.node(node);
    }

    /// All that was spent.
    pub(crate) fn take(&self) -> Spent {
        let mut purse = self.purse();
        let on = purse.on;
        purse.turn(on);
        std::mem::take(&mut purse.spent)
    }

    fn purse(&self) -> MutexGuard<'_, Purse> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Purse {
    fn turn(&mut self, on: On) {
        let now = os::now();
        let time = nanoseconds(now - self.since);
        match self.on {
            On::Fetch => self.spent.fetch += time,
            On::Engine => self.spent.engine += time,
            On::Udf => self.spent.udf += time,
            On::Write => self.spent.write += time,
        }
        (self.on, self.since) = (on, now);
    }

    fn waits_for(&self) -> On {
        if self.calls > 0 { On::Udf } else { On::Engine }
    }
}

/// A call of a UDF that is under way.
pub(super) struct Call<'a> {
    of: &'a Spending,
    began: Instant,
}

impl Call<'_> {
    /// It has had its answer.
    pub(super) fn answered(&self, step: usize, rows: usize, called: &Called) {
        let calls = &mut self.of.purse().spent;
        let calls = calls.call_mut(step as u32);
        calls.rows += rows as u64;
        calls.call.add(nanoseconds(os::since(self.began)) / 1000);
        calls.busy += nanoseconds(called.busy);
        calls.retried += called.again;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut purse = self.of.purse();
        purse.calls -= 1;
        if purse.on == On::Udf {
            let on = purse.waits_for();
            purse.turn(on);
        }
    }
}

/// More than five centuries is as long as that.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use polars::prelude::{Column, DataType};

    use super::*;
    use crate::udf::{Reply, Report};

    /// Two calls at once are waited for once; writing meanwhile is writing.
    #[test]
    fn every_moment_is_of_one_thing() {
        // In this order: what it counts lies between them.
        let (began, spending, step) = (Instant::now(), Spending::begin(), Duration::from_millis(20));
        sleep(step);
        spending.engine_begins();
        sleep(step);
        let (one, other) = (spending.call(), spending.call());
        sleep(step);
        spending.writing(|| sleep(step));
        sleep(step);
        let column = Column::full_null("".into(), 3, &DataType::Null);
        let called = Called { reply: Reply { column, report: Report::default() }, busy: step, again: 1 };
        one.answered(0, 3, &called);
        drop((one, other));
        sleep(step);
        let (spent, all) = (spending.take(), nanoseconds(began.elapsed()));
        let step = nanoseconds(step);
        for (time, steps) in [(spent.fetch, 1), (spent.engine, 2), (spent.udf, 2), (spent.write, 1)] {
            assert!(time >= steps * step, "{spent:?}");
        }
        assert!(spent.fetch + spent.engine + spent.udf + spent.write <= all, "{spent:?} in {all}");
        let calls = &spent.calls[0].1;
        assert_eq!((calls.rows, calls.call.count(), calls.busy, calls.retried), (3, 1, step, 1));
        assert!(calls.call.most() * 1000 >= 3 * step);
    }
}
