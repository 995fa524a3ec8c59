//! The store as a source of data transfers.
//!
//! A transfer of blocks begins with a head that says which blocks there are of every output that was asked for; they follow one after
//! the other. A reader of the same machine may be told where they are instead.

use std::ffi::OsStr;
use std::io::{self, Error, ErrorKind};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use regatta_remote::{DataReader, DataSource, NodeId, PeerId, Role, decode};
use serde::{Deserialize, Serialize};

use super::output::{Block, Chosen, Sealed};
use super::{Store, moving};
use crate::os;
use crate::sched::{Attempt, PartitionId, QueryId, StageId, TaskId, WorkerId};

/// What a reader asks a store for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ticket {
    /// Blocks of outputs; as often as wanted while their query lives.
    Blocks(Wanted),
    /// A batch on its way to or from a UDF replica; once.
    Batch(u64),
    /// All that there is of these outputs: for workers that take them over.
    Whole(Vec<PartitionId>),
    /// Blocks that another node holds: for the head, which passes them on to nodes that cannot reach that one.
    Through { worker: WorkerId, node: NodeId, wanted: Wanted },
}

/// Some of what a stage has left in one store, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) query: QueryId,
    pub(crate) stage: StageId,
    pub(crate) sections: Range<u32>,
    pub(crate) parts: Vec<Part>,
    /// The reader's machine, if it would rather map files than be sent what is in them.
    pub(crate) machine: Option<u64>,
}

/// An output of a stage, or some of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) task: u32,
    pub(crate) attempt: Attempt,
    pub(crate) rows: Option<RowRange>,
}

impl Part {
    pub(crate) fn all(output: PartitionId) -> Self {
        Self { task: output.task.index, attempt: output.attempt, rows: None }
    }
}

/// Rows of an output, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowRange {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Outputs in one transfer: their ticket fits into one.
pub(crate) const PARTS: usize = if cfg!(test) { 4 } else { 2048 };

impl Wanted {
    pub(crate) fn id(&self, part: &Part) -> PartitionId {
        let task = TaskId { query: self.query, stage: self.stage, index: part.task };
        PartitionId { task, attempt: part.attempt }
    }
}

/// What a head says.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// The files in which the blocks are that do not come.
    pub(crate) files: Vec<PathBuf>,
    /// Of each output that was asked for; `None` if it is not there.
    pub(crate) outputs: Vec<Option<Listed>>,
}

/// What a head says of an output.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Of the form of its blocks.
    pub(crate) mark: u32,
    /// In which of the files its blocks are; `None`: they come.
    pub(crate) file: Option<u32>,
    pub(crate) chosen: Vec<Chosen>,
}

/// Bytes before what a head says: how many there are.
pub(crate) const HEAD_PREFIX: usize = 4;
/// Of what is said of a block.
const ENTRY: usize = 24;
/// In place of how many blocks there are.
const GONE: u32 = u32::MAX;
/// In place of a file.
const COMES: u32 = u32::MAX;

/// The bytes that a head has after its [`HEAD_PREFIX`].
pub(crate) fn head_size(prefix: [u8; HEAD_PREFIX]) -> usize {
    u32::from_le_bytes(prefix) as usize
}

impl Head {
    /// Which of its files this is. All outputs of a stage share one in each folder.
    fn file(&mut self, path: &Path) -> u32 {
        let known = self.files.iter().position(|known| known == path);
        let which = known.unwrap_or_else(|| {
            self.files.push(path.to_owned());
            self.files.len() - 1
        });
        which as u32
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(0);
        bytes.put_u32_le(self.files.len() as u32);
        for path in self.files.iter().map(|path| path.as_os_str().as_bytes()) {
            bytes.put_u32_le(path.len() as u32);
            bytes.extend_from_slice(path);
        }
        for output in &self.outputs {
            let Some(Listed { mark, file, chosen }) = output else {
                bytes.put_u32_le(GONE);
                continue;
            };
            bytes.put_u32_le(chosen.len() as u32);
            bytes.put_u32_le(*mark);
            bytes.put_u32_le(file.unwrap_or(COMES));
            for Chosen { block, from, rows } in chosen {
                [block.len, block.crc, *from, *rows].into_iter().for_each(|number| bytes.put_u32_le(number));
                bytes.put_u64_le(block.offset);
            }
        }
        let size = (bytes.len() - HEAD_PREFIX) as u32;
        bytes[..HEAD_PREFIX].copy_from_slice(&size.to_le_bytes());
        bytes.freeze()
    }

    /// What a head of so many outputs says, from after its prefix on. `None` if it is none.
    pub(crate) fn decode(mut bytes: &[u8], outputs: usize) -> Option<Self> {
        // Each is that of an output at least.
        let files = bytes.try_get_u32_le().ok().filter(|files| *files as usize <= outputs)?;
        let mut head = Self { files: Vec::new(), outputs: Vec::with_capacity(outputs) };
        for _ in 0..files {
            let path = bytes.try_get_u32_le().ok()? as usize;
            let (path, rest) = bytes.split_at_checked(path)?;
            bytes = rest;
            head.files.push(PathBuf::from(OsStr::from_bytes(path)));
        }
        for _ in 0..outputs {
            let count = bytes.try_get_u32_le().ok()?;
            if count == GONE {
                head.outputs.push(None);
                continue;
            }
            let (mark, file) = (bytes.try_get_u32_le().ok()?, bytes.try_get_u32_le().ok()?);
            let file = (file != COMES).then_some(file);
            if file.is_some_and(|file| file >= files) {
                return None;
            }
            let count = count as usize;
            if bytes.len() < count.checked_mul(ENTRY)? {
                return None;
            }
            let chosen = (0..count).map(|_| {
                let (len, crc, from, rows) =
                    (bytes.get_u32_le(), bytes.get_u32_le(), bytes.get_u32_le(), bytes.get_u32_le());
                let block = Block { section: 0, rows: from.checked_add(rows)?, len, crc, offset: bytes.get_u64_le() };
                Some(Chosen { block, from, rows })
            });
            let chosen = chosen.collect::<Option<_>>()?;
            head.outputs.push(Some(Listed { mark, file, chosen }));
        }
        bytes.is_empty().then_some(head)
    }
}

impl Store {
    /// Whether a node may read what a query has left: workers run tasks of every query, a driver has its own.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn may_read(&self, query: QueryId, peer: PeerId) -> Result<(), String> {
        let may = match peer.role {
            Role::Head | Role::Worker => true,
            Role::Driver => self.owners.get(&query).is_some_and(|driver| *driver == peer.node),
            Role::Guest | Role::Own(_) | Role::Observer | Role::Operator => false,
        };
        if may { Ok(()) } else { Err(format!("{query} is not a query of {peer}")) }
    }

    fn may_open(&self, ticket: &Ticket, peer: PeerId) -> Result<(), String> {
        match ticket {
            Ticket::Blocks(wanted) | Ticket::Through { wanted, .. } => self.may_read(wanted.query, peer),
            Ticket::Whole(_) if matches!(peer.role, Role::Head | Role::Worker) => Ok(()),
            Ticket::Whole(_) => Err(format!("outputs that are moved are not for {peer}")),
            Ticket::Batch(number) => match self.offers.get(number) {
                Some(offer) if offer.1 != Some(peer.node) => Err(format!("the batch is not for {peer}")),
                _ => Ok(()), // or it is not there
            },
        }
    }
}

impl DataSource for Store {
    fn open(&self, ticket: &[u8], peer: PeerId) -> Result<Box<dyn DataReader>, String> {
        let ticket = decode(ticket).map_err(|e| e.to_string())?;
        self.may_open(&ticket, peer)?;
        match ticket {
            Ticket::Blocks(wanted) => Ok(Box::new(Blocks::new(self, &wanted))),
            Ticket::Whole(outputs) => Ok(Box::new(Blocks::whole(self, &outputs)?)),
            Ticket::Batch(number) => {
                let left = self.batch(number)?;
                Ok(Box::new(Memory { total: left.len() as u64, left }))
            }
            Ticket::Through { .. } => Err("only the head passes on what others hold".to_owned()),
        }
    }

    fn delivered(&self, ticket: &[u8], _: PeerId) {
        if let Ok(Ticket::Batch(number)) = decode(ticket) {
            self.offers.remove(&number);
        }
    }
}

struct Memory {
    left: Bytes,
    total: u64,
}

impl DataReader for Memory {
    fn total(&self) -> u64 {
        self.total
    }

    fn read(&mut self, max: usize) -> io::Result<Bytes> {
        Ok(self.left.split_to(max.min(self.left.len())))
    }

    fn waits(&self) -> bool {
        false
    }
}

/// Reads a head, and then blocks: those that lie one after the other at once.
struct Blocks {
    total: u64,
    head: Bytes,
    /// In reverse order.
    left: Vec<(Arc<Sealed>, Range<u64>)>,
    on_disk: bool,
}

impl Blocks {
    fn new(store: &Store, wanted: &Wanted) -> Self {
        let is_near = wanted.machine.is_some_and(|machine| machine == os::machine());
        let mut head = Head::default();
        let mut left: Vec<(Arc<Sealed>, Range<u64>)> = Vec::new();
        for part in &wanted.parts {
            // A reader that hears of it first knows whose it was.
            let Some(sealed) = store.get(wanted.id(part)).filter(|sealed| sealed.is_whole()) else {
                head.outputs.push(None);
                continue;
            };
            let chosen = sealed.choose(&wanted.sections, part.rows);
            let near = sealed.file().filter(|_| is_near && !sealed.is_brought());
            let file = near.map(|near| head.file(near.path()));
            if file.is_none() {
                chosen.iter().for_each(|chosen| add(&mut left, &sealed, &chosen.block));
            }
            head.outputs.push(Some(Listed { mark: sealed.mark, file, chosen }));
        }
        Self::of(head.encode(), left)
    }

    /// Outputs as they are: what there is, and then the bytes of all blocks in their order.
    fn whole(store: &Store, outputs: &[PartitionId]) -> Result<Self, String> {
        let there = outputs.iter().filter_map(|id| Some((*id, store.get(*id).filter(|sealed| sealed.is_whole())?)));
        let there: Vec<_> = there.collect();
        let head = moving::head(&there)?;
        let blocks = there.iter().flat_map(|(_, sealed)| sealed.blocks.iter().map(move |block| (sealed, block)));
        let mut left: Vec<(Arc<Sealed>, Range<u64>)> = Vec::new();
        for (sealed, block) in blocks {
            add(&mut left, sealed, block);
        }
        Ok(Self::of(head, left))
    }

    fn of(head: Bytes, mut left: Vec<(Arc<Sealed>, Range<u64>)>) -> Self {
        let total = head.len() as u64 + left.iter().map(|(_, range)| range.end - range.start).sum::<u64>();
        let on_disk = left.iter().any(|(sealed, _)| sealed.file().is_some());
        left.reverse();
        Self { total, head, left, on_disk }
    }
}

/// A block is to follow, together with those before it if they lie so.
fn add(left: &mut Vec<(Arc<Sealed>, Range<u64>)>, sealed: &Arc<Sealed>, block: &Block) {
    let range = block.offset..block.offset + u64::from(block.len);
    match left.last_mut() {
        Some((last, before)) if Arc::ptr_eq(last, sealed) && before.end == range.start => before.end = range.end,
        _ => left.push((Arc::clone(sealed), range)),
    }
}

impl DataReader for Blocks {
    fn total(&self) -> u64 {
        self.total
    }

    fn read(&mut self, max: usize) -> io::Result<Bytes> {
        if !self.head.is_empty() {
            return Ok(self.head.split_to(max.min(self.head.len())));
        }
        let Some((sealed, range)) = self.left.last_mut() else { return Ok(Bytes::new()) };
        let piece = range.start..range.end.min(range.start + max as u64);
        let bytes = sealed.read(piece.clone())?;
        if bytes.len() as u64 != piece.end - piece.start {
            return Err(Error::new(ErrorKind::UnexpectedEof, "an output is shorter than it was"));
        }
        range.start = piece.end;
        if range.is_empty() {
            self.left.pop();
        }
        Ok(bytes)
    }

    fn waits(&self) -> bool {
        self.on_disk
    }
}
