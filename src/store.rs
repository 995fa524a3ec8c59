//! Partitions: written once, sealed, served to readers, dropped with their query.
//!
//! A partition is a whole Arrow IPC file. Below [`INLINE`] bytes it stays in memory; a larger one is a file in the
//! worker's scratch folder, read through the page cache.

mod ipc;
mod rows;
mod serve;
mod staging;
mod writer;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dashmap::DashMap;
use regatta_remote::NodeId;

use polars::prelude::{DataFrame, Schema};

use crate::error::TaskFailure;
use crate::sched::{Attempt, Output, PartitionId, QueryId, TaskId};

pub(crate) use ipc::{decode_frame, encode_frame};
pub(crate) use serve::{RowRange, Ticket};
pub(crate) use staging::{Staging, Step, is_there};
pub(crate) use writer::PartitionWriter;

/// Partitions up to this size stay in memory.
const INLINE: usize = 1 << 20;

/// The partitions of one process, and batches that wait to be fetched.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    partitions: DashMap<PartitionId, Arc<Sealed>>,
    /// Whose queries these are: of drivers elsewhere, which may read what they left.
    owners: DashMap<QueryId, NodeId>,
    /// Batches, and who may fetch them.
    offers: DashMap<u64, (Bytes, Option<NodeId>)>,
    next: AtomicU64,
}

/// A partition that is complete and does not change any more.
#[derive(Debug)]
pub(crate) struct Sealed {
    data: Data,
    crc: u32,
}

#[derive(Debug)]
enum Data {
    Memory(Bytes),
    File(OwnedFile),
}

/// A file that goes when its last reader does.
#[derive(Debug)]
struct OwnedFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Store {
    /// A store that keeps its files in `folder`, which exists.
    pub(crate) fn new(folder: &Path) -> Arc<Self> {
        Arc::new(Self {
            folder: folder.to_owned(),
            partitions: DashMap::new(),
            owners: DashMap::new(),
            offers: DashMap::new(),
            next: AtomicU64::new(0),
        })
    }

    /// Where it keeps its files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A writer of one partition. Nothing is visible before it is sealed.
    ///
    /// # Errors
    /// A dtype has no Arrow form.
    pub(crate) fn writer(self: &Arc<Self>, id: PartitionId, schema: &Schema) -> Result<PartitionWriter, TaskFailure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        PartitionWriter::new(Arc::clone(self), id, self.folder.join(format!("{number}.arrow")), schema)
    }

    /// A sealed partition.
    pub(crate) fn get(&self, id: PartitionId) -> Option<Arc<Sealed>> {
        self.partitions.get(&id).map(|sealed| Arc::clone(&sealed))
    }

    /// Writes and seals a partition that is one frame.
    ///
    /// # Errors
    /// As for [`PartitionWriter::write`].
    pub(crate) fn keep(self: &Arc<Self>, id: PartitionId, frame: &DataFrame) -> Result<Output, TaskFailure> {
        let mut writer = self.writer(id, frame.schema())?;
        writer.write(frame)?;
        writer.seal()
    }

    /// What a ticket stands for, as one IPC file.
    ///
    /// # Errors
    /// Why it is not there, in words.
    pub(crate) fn read(&self, ticket: Ticket) -> Result<Bytes, String> {
        match ticket {
            Ticket::Partition(id) => self.sealed(id)?.bytes().map_err(|e| e.to_string()),
            Ticket::Rows(id, range) => {
                let file = self.sealed(id)?.bytes().map_err(|e| e.to_string())?;
                rows::rows(&file, range).map_err(|e| format!("{}: {e}", id.task))
            }
            Ticket::Batch(number) => {
                let batch = self.offers.get(&number).map(|offer| offer.0.clone());
                batch.ok_or_else(|| "no such batch: its query may have ended".to_owned())
            }
            Ticket::Through { .. } => Err("only the head passes on what others hold".to_owned()),
        }
    }

    fn sealed(&self, id: PartitionId) -> Result<Arc<Sealed>, String> {
        self.get(id).ok_or_else(|| format!("{}, attempt {}: no such partition", id.task, id.attempt.0))
    }

    /// Notes whose query this is, until it is dropped.
    pub(crate) fn own(&self, query: QueryId, driver: NodeId) {
        self.owners.insert(query, driver);
    }

    /// Forgets whose query this was.
    pub(crate) fn disown(&self, query: QueryId) {
        self.owners.remove(&query);
    }

    /// Keeps a batch until that node has fetched it once, or its offer is dropped.
    pub(crate) fn offer(self: &Arc<Self>, batch: Bytes, to: Option<NodeId>) -> Offer {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.offers.insert(number, (batch, to));
        Offer { store: Arc::clone(self), number }
    }

    /// Drops the partitions of an attempt. Readers that have begun finish.
    pub(crate) fn drop_attempt(&self, task: TaskId, attempt: Attempt) {
        self.partitions.retain(|id, _| (id.task, id.attempt) != (task, attempt));
    }

    /// Drops all partitions of a query. Readers that have begun finish.
    pub(crate) fn drop_query(&self, query: QueryId) {
        self.disown(query);
        self.partitions.retain(|id, _| id.task.query != query);
    }

    /// Partitions and batches that are held.
    pub(crate) fn held(&self) -> usize {
        self.partitions.len() + self.offers.len()
    }

    fn insert(&self, id: PartitionId, sealed: Sealed) {
        self.partitions.insert(id, Arc::new(sealed));
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

impl Sealed {
    /// The whole IPC file, mapped if it is on disk.
    ///
    /// # Errors
    /// The file cannot be mapped.
    pub(crate) fn bytes(&self) -> io::Result<Bytes> {
        match &self.data {
            Data::Memory(bytes) => Ok(bytes.clone()),
            Data::File(owned) => {
                // SAFETY: the file is sealed: this process wrote it under a name of its own in a folder of its own,
                // and neither writes nor truncates it again. Removing it leaves the mapping valid.
                let map = unsafe { memmap2::Mmap::map(&owned.file)? };
                Ok(Bytes::from_owner(map))
            }
        }
    }

    pub(crate) fn len(&self) -> u64 {
        match &self.data {
            Data::Memory(bytes) => bytes.len() as u64,
            Data::File(owned) => owned.len,
        }
    }
}

impl Drop for OwnedFile {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the folder is swept with its cluster.
        drop(std::fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests;
