//! The store as a source of data transfers.

use std::fs::File;
use std::io::{self, Error, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use regatta_remote::{DataReader, DataSource, NodeId, PeerId, Role, decode};
use serde::{Deserialize, Serialize};

use super::{Data, Sealed, Store};
use crate::sched::{PartitionId, QueryId, WorkerId};

/// What a reader asks a store for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ticket {
    /// A sealed partition; as often as wanted while its query lives.
    Partition(PartitionId),
    /// Some rows of a sealed partition; likewise.
    Rows(PartitionId, RowRange),
    /// A batch on its way to or from a UDF replica; once.
    Batch(u64),
    /// A sealed partition of another node: for the head, which passes it on to nodes that cannot reach that one.
    Through { worker: WorkerId, node: NodeId, address: SocketAddr, partition: PartitionId, rows: Option<RowRange> },
}

/// Rows of a partition, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowRange {
    pub(crate) offset: u64,
    pub(crate) len: u64,
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
            Role::Guest => false,
        };
        if may { Ok(()) } else { Err(format!("{query} is not a query of {peer}")) }
    }

    fn may_open(&self, ticket: Ticket, peer: PeerId) -> Result<(), String> {
        match ticket {
            Ticket::Partition(id) | Ticket::Rows(id, _) => self.may_read(id.task.query, peer),
            Ticket::Batch(number) => match self.offers.get(&number) {
                Some(offer) if offer.1 != Some(peer.node) => Err(format!("the batch is not for {peer}")),
                _ => Ok(()), // or it is not there
            },
            Ticket::Through { partition, .. } => self.may_read(partition.task.query, peer),
        }
    }
}

impl DataSource for Store {
    fn open(&self, ticket: &[u8], peer: PeerId) -> Result<Box<dyn DataReader>, String> {
        let ticket = decode(ticket).map_err(|e| e.to_string())?;
        self.may_open(ticket, peer)?;
        match ticket {
            Ticket::Partition(id) => {
                Ok(Box::new(Reader { sealed: self.sealed(id)?, at: 0, crc: crc32fast::Hasher::new() }))
            }
            ticket => {
                let left = self.read(ticket)?;
                Ok(Box::new(Memory { total: left.len() as u64, left }))
            }
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

/// Reads a partition from its start, and knows at its end whether it is what was written.
struct Reader {
    sealed: Arc<Sealed>,
    at: u64,
    crc: crc32fast::Hasher,
}

impl DataReader for Reader {
    fn total(&self) -> u64 {
        self.sealed.len()
    }

    fn read(&mut self, max: usize) -> io::Result<Bytes> {
        let len = self.total().saturating_sub(self.at).min(max as u64) as usize;
        let piece = match &self.sealed.data {
            Data::Memory(bytes) => bytes.slice(self.at as usize..self.at as usize + len),
            Data::File(owned) => read_at(&owned.file, self.at, len)?,
        };
        self.at += len as u64;
        self.crc.update(&piece);
        if self.at == self.total() && self.crc.clone().finalize() != self.sealed.crc {
            return Err(Error::new(ErrorKind::InvalidData, "the partition's file was changed after it was sealed"));
        }
        Ok(piece)
    }
}

fn read_at(file: &File, at: u64, len: usize) -> io::Result<Bytes> {
    let mut piece = BytesMut::zeroed(len);
    file.read_exact_at(&mut piece, at)?;
    Ok(piece.freeze())
}
