//! What a reader has of what it reads: blocks in order, each in this process or on its way here.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use polars::prelude::*;
use regatta_observe::Fetched;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::form::Form;
use super::output::{Chosen, Sealed, map};
use super::{Mapped, Part, Store, Wanted};
use crate::error::{PolarsFailure, TaskFailure};
use crate::sched::{PartitionId, WorkerId};

/// Blocks in order, of which any may be asked for. Dropped, it brings no more of them.
#[derive(Debug)]
pub(crate) struct Reading {
    form: Arc<Form>,
    blocks: Vec<Source>,
    arrivals: Arc<Arrivals>,
    bringing: Vec<AbortHandle>,
    copies: bool,
}

/// A block, what it is of, and the worker that has it.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) home: Home,
    pub(crate) of: PartitionId,
    pub(crate) worker: WorkerId,
}

/// Where a block is.
#[derive(Debug)]
pub(crate) enum Home {
    Here(Arc<Sealed>, Chosen),
    /// In a file of another process of this machine.
    Near(Arc<Mapped>, Chosen),
    /// Somebody brings it.
    Comes(Chosen),
}

/// A group of blocks has about so many bytes, or so many rows: enough that the work on it is worth more than the way to it.
pub(crate) const GROUP: usize = 512 << 10;
const GROUP_ROWS: usize = 1 << 15;

impl Home {
    fn chosen(&self) -> &Chosen {
        match self {
            Self::Here(_, chosen) | Self::Near(_, chosen) | Self::Comes(chosen) => chosen,
        }
    }
}

impl Reading {
    pub(crate) fn new(
        form: Arc<Form>,
        blocks: Vec<Source>,
        arrivals: Arc<Arrivals>,
        bringing: Vec<AbortHandle>,
    ) -> Self {
        Self { form, blocks, arrivals, bringing, copies: false }
    }

    /// What there is to read, and by which way it comes. `is_passed_on`: whether what a worker has comes by way of another.
    pub(crate) fn fetched(&self, is_passed_on: impl Fn(WorkerId) -> bool) -> Fetched {
        let mut fetched = Fetched::default();
        for Source { home, worker, .. } in &self.blocks {
            let Chosen { block, rows, .. } = home.chosen();
            fetched.rows += u64::from(*rows);
            let way = match home {
                Home::Here(..) => &mut fetched.here,
                Home::Near(..) => &mut fetched.mapped,
                Home::Comes(_) if is_passed_on(*worker) => &mut fetched.relayed,
                Home::Comes(_) => &mut fetched.network,
            };
            *way += u64::from(block.len);
        }
        fetched
    }

    /// Hands on copies, for whoever may keep them: what is mapped keeps a file's place on the disk.
    pub(crate) fn copied(mut self) -> Self {
        self.copies = true;
        self
    }

    pub(crate) fn form(&self) -> &Form {
        &self.form
    }

    /// Blocks that are best read together, in order.
    pub(crate) fn groups(&self) -> Vec<Range<usize>> {
        let mut groups: Vec<Range<usize>> = Vec::new();
        let (mut bytes, mut rows) = (0, 0);
        for (number, block) in self.blocks.iter().enumerate() {
            let Chosen { block, rows: more, .. } = block.home.chosen();
            let fits = bytes + block.len as usize <= GROUP && rows + *more as usize <= GROUP_ROWS;
            match groups.last_mut() {
                Some(group) if fits => group.end = number + 1,
                _ => {
                    groups.push(number..number + 1);
                    (bytes, rows) = (0, 0);
                }
            }
            bytes += block.len as usize;
            rows += *more as usize;
        }
        groups
    }

    /// The rows of some blocks, once they are here.
    ///
    /// # Errors
    /// They are lost, or cannot be brought.
    ///
    /// # Cancel safety
    /// What has been taken is gone: ask for nothing again after that.
    pub(crate) async fn rows(&self, blocks: Range<usize>) -> Result<DataFrame, TaskFailure> {
        let mut rows: Option<DataFrame> = None;
        for number in blocks {
            let Some(Source { home, of, worker }) = self.blocks.get(number) else { continue };
            let lost = |why: String| self.arrivals.fail(lost(*of, *worker, why));
            let block = match home {
                Home::Here(sealed, chosen) => {
                    let block = sealed.map(&chosen.block).map_err(|e| lost(e.to_string()))?;
                    if sealed.is_brought() { self.form.decode(&block) } else { self.decode(block) }
                }
                Home::Near(file, chosen) => self.decode(map(file, &chosen.block).map_err(|e| lost(e.to_string()))?),
                Home::Comes(_) => self.form.decode(&self.arrivals.take(number).await?),
            };
            let mut block = block.map_err(|e| lost(e.to_string()))?;
            let Chosen { from, rows: height, .. } = *home.chosen();
            if block.height() < from as usize + height as usize {
                return Err(lost("a block of it has fewer rows than it should".to_owned()));
            }
            if block.height() > height as usize {
                block = block.slice(i64::from(from), height as usize);
            }
            match &mut rows {
                Some(rows) => drop(rows.vstack_mut_owned_unchecked(block)),
                None => rows = Some(block),
            }
        }
        let mut rows = rows.unwrap_or_else(|| DataFrame::empty_with_schema(self.form.schema()));
        if rows.first_col_n_chunks() > 1 {
            rows.rechunk_mut();
        }
        Ok(rows)
    }

    fn decode(&self, mapped: Bytes) -> PolarsResult<DataFrame> {
        if self.copies { self.form.decode(&mapped) } else { self.form.map(mapped) }
    }

    /// All rows.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub(crate) async fn all(&self) -> Result<DataFrame, TaskFailure> {
        let mut all: Option<DataFrame> = None;
        for group in self.groups() {
            let rows = self.rows(group).await?;
            match &mut all {
                Some(all) => drop(all.vstack_mut_owned(rows).map_err(PolarsFailure::from)?),
                None => all = Some(rows),
            }
        }
        Ok(all.unwrap_or_else(|| DataFrame::empty_with_schema(self.form.schema())))
    }

    /// Bytes that have come and have not been taken.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.arrivals.state().held
    }

    /// Why some block cannot be had, if that is so.
    pub(crate) fn failure(&self) -> Option<TaskFailure> {
        self.arrivals.state().failed.clone()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.bringing.iter().for_each(AbortHandle::abort);
    }
}

impl Store {
    /// The blocks of some parts; `None` where one is not there. And what their form is.
    pub(crate) fn find(&self, wanted: &Wanted, part: &Part) -> Option<(u32, Vec<Home>)> {
        let id = wanted.id(part);
        let sealed = self.get(id)?;
        let chosen = sealed.choose(&wanted.sections, part.rows).into_iter();
        let homes = chosen.map(|chosen| Home::Here(Arc::clone(&sealed), chosen)).collect();
        Some((sealed.mark, homes))
    }
}

/// What a reader of an output that is not to be had says. `from`: the worker that should have it.
pub(crate) fn lost(id: PartitionId, from: WorkerId, why: impl Into<String>) -> TaskFailure {
    TaskFailure::LostInput { task: id.task, attempt: id.attempt.0, from: from.to_string(), why: why.into() }
}

/// Blocks that have come and have not been taken: no more than so many bytes, unless somebody waits for one that has not come.
#[derive(Debug)]
pub(crate) struct Arrivals {
    most: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    here: HashMap<usize, Bytes>,
    held: usize,
    /// Blocks that somebody waits for.
    wanted: BTreeSet<usize>,
    failed: Option<TaskFailure>,
}

impl Arrivals {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default(), changed: Notify::new() })
    }

    /// Waits until another block may come to who brings these: past the bound, only as far as the one that somebody waits for.
    pub(crate) async fn room(&self, brings: impl Fn(usize) -> bool) {
        loop {
            let changed = self.changed.notified(); // before the look: it hears every later change
            {
                let state = self.state();
                if state.held < self.most || state.wanted.iter().any(|number| brings(*number)) {
                    return;
                }
            }
            changed.await;
        }
    }

    /// A block has come.
    pub(crate) fn put(&self, number: usize, block: Bytes) {
        let mut state = self.state();
        state.wanted.remove(&number);
        state.held += block.len();
        state.here.insert(number, block);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Nothing more comes. All who wait hear it; the first reason counts.
    pub(crate) fn fail(&self, failure: TaskFailure) -> TaskFailure {
        let failure = self.state().failed.get_or_insert(failure).clone();
        self.changed.notify_waiters();
        failure
    }

    async fn take(&self, number: usize) -> Result<Bytes, TaskFailure> {
        let _no_longer = NoLonger(self, number);
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                if let Some(failure) = &state.failed {
                    return Err(failure.clone());
                }
                if let Some(block) = state.here.remove(&number) {
                    state.held -= block.len();
                    drop(state);
                    self.changed.notify_waiters();
                    return Ok(block);
                }
                if state.wanted.insert(number) {
                    drop(state);
                    self.changed.notify_waiters();
                }
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever waited for a block does not any more, whether it has come or not.
struct NoLonger<'a>(&'a Arrivals, usize);

impl Drop for NoLonger<'_> {
    fn drop(&mut self) {
        self.0.state().wanted.remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn past_the_bound_only_who_brings_what_is_waited_for_has_room() {
        let arrivals = Arrivals::new(10);
        let has_room = |brings: fn(usize) -> bool| arrivals.room(brings).now_or_never().is_some();
        assert!(has_room(|_| false));
        arrivals.put(0, Bytes::from(vec![0; 10]));
        assert!(!has_room(|_| true), "nobody waits for a block");
        let mut waiting = Box::pin(arrivals.take(3));
        assert!((&mut waiting).now_or_never().is_none());
        assert!(has_room(|number| number == 3));
        assert!(!has_room(|number| number != 3), "another worker's blocks are not waited for");
        drop(waiting);
        assert!(!has_room(|number| number == 3), "nor this one any longer");
    }
}
