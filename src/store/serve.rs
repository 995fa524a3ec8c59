//! The store as a source of data transfers.

use std::fs::File;
use std::io::{self, Error, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use regatta_remote::{DataReader, DataSource, NodeId, decode};
use serde::{Deserialize, Serialize};

use super::{Data, Sealed, Store};
use crate::sched::{PartitionId, WorkerId};

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

impl DataSource for Store {
    fn open(&self, ticket: &[u8], _: NodeId) -> Result<Box<dyn DataReader>, String> {
        match decode(ticket).map_err(|e| e.to_string())? {
            Ticket::Partition(id) => {
                Ok(Box::new(Reader { sealed: self.sealed(id)?, at: 0, crc: crc32fast::Hasher::new() }))
            }
            ticket => {
                let left = self.read(ticket)?;
                Ok(Box::new(Memory { total: left.len() as u64, left }))
            }
        }
    }

    fn delivered(&self, ticket: &[u8], _: NodeId) {
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
