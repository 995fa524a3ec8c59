//! What tasks leave: written once, sealed, served to readers, dropped with their query.
//!
//! An output is blocks of rows, by section. They are in one file for each stage of a query, in the worker's scratch folder, and are
//! read through the page cache; those of a small output stay in memory. An index in memory says where they are. Where there are several
//! folders, a stage has a file in each, and outputs take turns.

mod along;
mod file;
mod form;
mod ipc;
mod moving;
mod output;
mod reading;
mod serve;
mod staging;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use dashmap::DashMap;
use polars::prelude::DataFrame;
use regatta_remote::NodeId;

use crate::error::TaskFailure;
use crate::os;
use crate::sched::{Attempt, Output, PartitionId, QueryId, StageId, TaskId};

pub(crate) use along::Rows;
pub(crate) use file::Mapped;
use file::{BLOCKS, StageFile, has_room};
pub(crate) use form::Form;
pub(crate) use ipc::{decode_frame, encode_frame};
pub(crate) use moving::{Listing, Taking};
use output::{Allowance, Sealed};
pub(crate) use output::{Chosen, check};
#[cfg(test)]
pub(crate) use reading::GROUP;
pub(crate) use reading::{Arrivals, Home, Reading, Source, lost};
pub(crate) use serve::{HEAD_PREFIX, Head, Listed, PARTS, Part, RowRange, Ticket, Wanted, head_size};
pub(crate) use staging::{Staging, Step, is_there};
use writer::BLOCK_ROWS;
#[cfg(test)]
pub(crate) use writer::WRITING;
pub(crate) use writer::{Writer, size};

/// Memory for small outputs: this share of what there is, and no more than so much.
const SMALL_SHARE: u64 = 32;
const SMALL_MOST: u64 = 256 << 20;

/// The outputs in one process, and batches that wait to be fetched.
#[derive(Debug)]
pub(crate) struct Store {
    /// At least one.
    folders: Vec<PathBuf>,
    /// While something of them is wanted, of each folder.
    files: DashMap<(QueryId, StageId, usize), Weak<StageFile>>,
    outputs: DashMap<PartitionId, Arc<Sealed>>,
    small: Arc<Allowance>,
    /// Rows that a block has at most.
    block_rows: usize,
    /// Whose queries these are: of drivers elsewhere, which may read what they left.
    owners: DashMap<QueryId, NodeId>,
    /// Batches, and who may fetch them.
    offers: DashMap<u64, (Bytes, Option<NodeId>)>,
    next: AtomicU64,
}

/// What tests of ours want of stores: nothing in memory (`disk`), and blocks of one row, too (`rows`).
fn forced() -> Option<String> {
    std::env::var("REGATTA_TEST_STORE").ok().filter(|wanted| ["disk", "rows"].contains(&wanted.as_str()))
}

impl Store {
    /// A store that keeps its files in `folder`, which exists.
    #[cfg(test)]
    pub(crate) fn new(folder: &Path) -> Arc<Self> {
        Self::over(vec![folder.to_owned()])
    }

    /// A store whose files are spread over these folders: one at least, all of which exist.
    pub(crate) fn over(folders: Vec<PathBuf>) -> Arc<Self> {
        let forced = forced();
        Arc::new(Self {
            folders,
            files: DashMap::new(),
            outputs: DashMap::new(),
            small: Allowance::new(if forced.is_some() { 0 } else { (os::memory() / SMALL_SHARE).min(SMALL_MOST) }),
            block_rows: if forced.as_deref() == Some("rows") { 1 } else { BLOCK_ROWS },
            owners: DashMap::new(),
            offers: DashMap::new(),
            next: AtomicU64::new(0),
        })
    }

    /// Over these folders, with so much memory for small outputs.
    #[cfg(test)]
    pub(crate) fn with_small(folders: Vec<PathBuf>, most: u64) -> Arc<Self> {
        let mut store = Self::over(folders);
        Arc::get_mut(&mut store).into_iter().for_each(|store| store.small = Allowance::new(most));
        store
    }

    /// Where it keeps its files, of several folders the first.
    pub(crate) fn folder(&self) -> &Path {
        self.folders.first().map_or_else(|| Path::new(""), PathBuf::as_path)
    }

    #[cfg(test)]
    pub(crate) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// A file that another process of this machine names, if it is one of a store of this session.
    ///
    /// # Errors
    /// It is not, or is gone.
    pub(crate) fn beside(&self, path: &Path) -> std::io::Result<Mapped> {
        Mapped::beside(&self.folders, path)
    }

    /// A writer of one output. Nothing is visible before it is sealed.
    pub(crate) fn writer(self: &Arc<Self>, id: PartitionId, form: &Arc<Form>) -> Writer {
        Writer::new(Arc::clone(self), id, Arc::clone(form))
    }

    /// Writes and seals an output that is one frame.
    ///
    /// # Errors
    /// As for [`Writer::write`].
    pub(crate) fn keep(self: &Arc<Self>, id: PartitionId, frame: DataFrame) -> Result<Output, TaskFailure> {
        let mut writer = self.writer(id, &Form::new(frame.schema()));
        writer.write(0, frame)?;
        writer.seal()
    }

    fn get(&self, id: PartitionId) -> Option<Arc<Sealed>> {
        self.outputs.get(&id).map(|sealed| Arc::clone(&sealed))
    }

    fn insert(&self, id: PartitionId, sealed: Sealed) {
        self.outputs.insert(id, Arc::new(sealed));
    }

    /// The file to which an output of a task is to be appended: that of its stage, in the folder whose turn it is.
    fn file(&self, TaskId { query, stage, .. }: TaskId) -> Result<Arc<StageFile>, TaskFailure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = number as usize % self.folders.len().max(1);
        // One that is full is left out, while another is not.
        let mut turns = self.folders.iter().enumerate().cycle().skip(turn).take(self.folders.len());
        let (which, folder) = match turns.clone().find(|(_, folder)| self.folders.len() == 1 || has_room(folder)) {
            Some(turn) => turn,
            None => turns.next().ok_or_else(|| TaskFailure::Store("it has no folder".to_owned()))?,
        };
        let mut file = self.files.entry((query, stage, which)).or_default();
        if let Some(file) = file.upgrade() {
            return Ok(file);
        }
        let made = Arc::new(StageFile::create(folder.join(format!("{number}.{BLOCKS}")))?);
        *file = Arc::downgrade(&made);
        Ok(made)
    }

    fn batch(&self, number: u64) -> Result<Bytes, String> {
        let batch = self.offers.get(&number).map(|offer| offer.0.clone());
        batch.ok_or_else(|| "no such batch: its query may have ended".to_owned())
    }

    /// Notes whose query this is, until it is dropped.
    pub(crate) fn own(&self, query: QueryId, driver: NodeId) {
        self.owners.insert(query, driver);
    }

    /// Keeps a batch until that node has fetched it once, or its offer is dropped.
    pub(crate) fn offer(self: &Arc<Self>, batch: Bytes, to: Option<NodeId>) -> Offer {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.offers.insert(number, (batch, to));
        Offer { store: Arc::clone(self), number }
    }

    /// Drops what an attempt has left. Readers that have begun finish.
    pub(crate) fn drop_attempt(&self, task: TaskId, attempt: Attempt) {
        self.outputs.remove(&PartitionId { task, attempt });
    }

    /// Takes out what the tasks of a stage have left. Readers that have begun finish.
    pub(crate) fn drop_stage(self: &Arc<Self>, query: QueryId, stage: StageId) -> Dropped {
        self.take_out(|id| (id.task.query, id.task.stage) == (query, stage))
    }

    /// Takes out what a query has left. Readers that have begun finish.
    pub(crate) fn drop_query(self: &Arc<Self>, query: QueryId) -> Dropped {
        self.owners.remove(&query);
        self.take_out(|id| id.task.query == query)
    }

    fn take_out(self: &Arc<Self>, is_dropped: impl Fn(&PartitionId) -> bool) -> Dropped {
        let mut outputs = Vec::new();
        self.outputs.retain(|id, output| {
            let stays = !is_dropped(id);
            outputs.extend((!stays).then(|| Arc::clone(output)));
            stays
        });
        Dropped { outputs, store: Arc::clone(self) }
    }

    /// Outputs and batches that are held.
    pub(crate) fn held(&self) -> usize {
        self.outputs.len() + self.offers.len()
    }
}

/// What the store no longer has. Its memory and its files go with it, which takes a millisecond for every few MiB.
#[derive(Debug)]
pub(crate) struct Dropped {
    outputs: Vec<Arc<Sealed>>,
    store: Arc<Store>,
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.outputs.clear();
        // Those of a task that ended later than its query, too.
        self.store.files.retain(|_, file| file.strong_count() > 0);
    }
}

/// A batch that waits for its reader; taken back when this is dropped.
#[derive(Debug)]
pub(crate) struct Offer {
    store: Arc<Store>,
    number: u64,
}

impl Offer {
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket::Batch(self.number)
    }

    /// Whether nobody has fetched it yet.
    pub(crate) fn waits(&self) -> bool {
        self.store.offers.contains_key(&self.number)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.store.offers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests;
