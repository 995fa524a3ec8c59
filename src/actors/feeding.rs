//! Brings to a reader what it reads: blocks of this process by reference, others over one transfer from each worker that holds some.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use polars::prelude::DataFrame;
use regatta_remote::{Fetch, FetchError};
use tokio::time::timeout;

use super::Host;
use super::messages::{Feed, Place};
use crate::error::TaskFailure;
use crate::sched::{PartitionId, QueryId, StageId, WorkerId};
use crate::store::{
    Arrivals, Chosen, Form, HEAD_PREFIX, Home, Listed, PARTS, Part, Reading, RowRange, Source, Wanted, check,
    head_size, lost, parse_head,
};

/// Blocks that a reader has of one stage before it takes them, in bytes.
pub(crate) const AHEAD: usize = 64 << 20;
/// A transfer is given up when the reader has had no room for so long: its producer would take it for stalled. It is begun again.
const PATIENCE: Duration = Duration::from_secs(10);

impl Host {
    /// Begins to read what a feed names of a stage; no more than `most` bytes of it wait here.
    ///
    /// # Errors
    /// Some of it is gone, or its worker cannot be reached.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        (query, stage): (QueryId, StageId),
        feed: Feed,
        form: Arc<Form>,
        most: usize,
    ) -> Result<Reading, TaskFailure> {
        let Feed { sections, places, parts } = feed;
        let from = |place: usize| parts.iter().filter(move |(at, _)| *at as usize == place).map(|(_, part)| *part);
        let opened = places.iter().enumerate().map(|(index, place)| {
            let wanted = Wanted { query, stage, sections: sections.clone(), parts: from(index).collect() };
            self.open(*place, wanted)
        });
        let mut opened: Vec<_> = try_join_all(opened).await?;
        let (arrivals, mut blocks) = (Arrivals::new(most), Vec::new());
        for (place, part) in &parts {
            let Some(at) = opened.get_mut(*place as usize) else { continue };
            let id = at.wanted.id(part);
            let worker = at.place.worker;
            let (mark, homes) = at.found.pop_front().flatten().ok_or_else(|| gone(id, worker))?;
            if mark != form.mark() {
                return Err(lost(id, worker, "its columns are others than the plan says"));
            }
            let mut row = part.rows.map_or(0, |rows| rows.offset);
            for home in homes {
                if let Home::Comes(chosen) = &home {
                    let end = part.rows.map(|rows| rows.offset + rows.len);
                    at.comes.push_back(Coming { number: blocks.len(), id, chosen: *chosen, row, end });
                    row += u64::from(chosen.rows);
                }
                blocks.push(Source { home, of: id, worker });
            }
        }
        let bringing = opened.into_iter().filter(|opened| !opened.comes.is_empty()).map(|opened| {
            let Opened { place, wanted, incoming, comes, .. } = opened;
            let bring =
                Bring { host: Arc::clone(self), place, wanted, comes, incoming, arrivals: Arc::clone(&arrivals) };
            self.runtime.handle().spawn(bring.run()).abort_handle()
        });
        let bringing = bringing.collect();
        Ok(Reading::new(form, blocks, arrivals, bringing))
    }

    /// One output, whole.
    ///
    /// # Errors
    /// As [`begin`](Self::begin), or it is lost on the way.
    pub(crate) async fn rows(
        self: &Arc<Self>,
        place: Place,
        id: PartitionId,
        form: &Arc<Form>,
    ) -> Result<DataFrame, TaskFailure> {
        let of = (id.task.query, id.task.stage);
        let reading = self.begin(of, Feed::of(place, id), Arc::clone(form), AHEAD).await?;
        // Decoding is work, and may touch the disk.
        let runtime = self.runtime.handle().clone();
        let all = move || runtime.block_on(reading.all());
        tokio::task::spawn_blocking(all).await.unwrap_or_else(|e| Err(TaskFailure::Panicked(e.to_string())))
    }

    /// Asks a worker, or this process, which blocks there are.
    async fn open(&self, place: Place, wanted: Wanted) -> Result<Opened, TaskFailure> {
        let (mut found, mut incoming) = (VecDeque::new(), None);
        if self.is_here(&place) {
            found.extend(wanted.parts.iter().map(|part| self.store.find(&wanted, part)));
            return Ok(Opened { place, wanted, found, incoming, comes: VecDeque::new() });
        }
        for parts in wanted.parts.chunks(PARTS) {
            let some = Wanted { parts: parts.to_vec(), ..wanted.clone() };
            let (listed, from) = self.transfer(&place, some).await?;
            let homes = listed.into_iter().map(|listed| {
                let (mark, chosen) = listed?;
                Some((mark, chosen.into_iter().map(Home::Comes).collect()))
            });
            found.extend(homes);
            // The others are begun again when it is their turn.
            incoming.get_or_insert(from);
        }
        Ok(Opened { place, wanted, found, incoming, comes: VecDeque::new() })
    }

    /// Begins a transfer of blocks: what it says of them, and then the blocks.
    async fn transfer(&self, place: &Place, wanted: Wanted) -> Result<(Vec<Listed>, Incoming), TaskFailure> {
        let outputs = wanted.parts.len();
        let fetch = self.fetch_blocks(place, wanted).await?;
        let mut incoming = Incoming { fetch, left: Bytes::new() };
        let failed = |why: String| TaskFailure::Transfer { from: place.worker.to_string(), why };
        let read = async {
            let mut prefix = [0; HEAD_PREFIX];
            prefix.copy_from_slice(&incoming.take(HEAD_PREFIX).await?);
            incoming.take(head_size(prefix)).await
        };
        let head = read.await.map_err(|e| failed(e.to_string()))?;
        let listed = parse_head(&head, outputs).ok_or_else(|| failed("it does not say what comes".to_owned()))?;
        Ok((listed, incoming))
    }
}

fn gone(id: PartitionId, from: WorkerId) -> TaskFailure {
    lost(id, from, "it is not there any more")
}

/// What is read from one place.
struct Opened {
    place: Place,
    wanted: Wanted,
    /// Of each part, in order.
    found: VecDeque<Option<(u32, Vec<Home>)>>,
    incoming: Option<Incoming>,
    comes: VecDeque<Coming>,
}

/// A block that is to come.
struct Coming {
    number: usize,
    id: PartitionId,
    chosen: Chosen,
    /// Its first row, and the row after the last that is wanted, as its output counts them.
    row: u64,
    end: Option<u64>,
}

/// A transfer whose bytes are taken piece by piece.
struct Incoming {
    fetch: Fetch,
    left: Bytes,
}

impl Incoming {
    async fn take(&mut self, len: usize) -> Result<Bytes, FetchError> {
        if self.left.len() >= len {
            return Ok(self.left.split_to(len));
        }
        let mut taken = BytesMut::with_capacity(len.min(1 << 20));
        loop {
            let more = self.left.split_to(self.left.len().min(len - taken.len()));
            taken.extend_from_slice(&more);
            if taken.len() == len {
                return Ok(taken.freeze());
            }
            let next = self.fetch.next().await?;
            self.left = next.ok_or(FetchError::Truncated { got: taken.len() as u64, total: len as u64 })?;
        }
    }
}

/// Brings the blocks of one worker, in order.
struct Bring {
    host: Arc<Host>,
    place: Place,
    wanted: Wanted,
    comes: VecDeque<Coming>,
    incoming: Option<Incoming>,
    arrivals: Arc<Arrivals>,
}

impl Bring {
    async fn run(mut self) {
        while !self.comes.is_empty() {
            if timeout(PATIENCE, self.arrivals.room()).await.is_err() {
                self.incoming = None;
                self.arrivals.room().await;
            }
            match self.next().await {
                Ok((number, block)) => self.arrivals.put(number, block),
                Err(failure) => return drop(self.arrivals.fail(failure)),
            }
        }
    }

    /// The next block. A transfer that breaks is begun again once.
    async fn next(&mut self) -> Result<(usize, Bytes), TaskFailure> {
        let (mut broken, worker) = (false, self.place.worker);
        loop {
            let incoming = match &mut self.incoming {
                Some(incoming) => incoming,
                None => {
                    let again = self.again().await?;
                    self.incoming.insert(again)
                }
            };
            let Some(Coming { number, id, chosen, .. }) = self.comes.front() else {
                return Err(TaskFailure::Cancelled);
            };
            match (incoming.take(chosen.block.len as usize).await, broken) {
                (Ok(block), _) => {
                    check(&block, chosen.block.crc).map_err(|e| lost(*id, worker, e.to_string()))?;
                    let number = *number;
                    self.comes.pop_front();
                    return Ok((number, block));
                }
                (Err(FetchError::SourceFailed), _) => return Err(lost(*id, worker, "its file cannot be read")),
                (Err(error), true) => {
                    return Err(TaskFailure::Transfer { from: worker.to_string(), why: error.to_string() });
                }
                (Err(error), false) => {
                    tracing::debug!(%error, from = %worker, "a transfer is begun again");
                    broken = true;
                    self.incoming = None;
                }
            }
        }
    }

    /// Begins the transfer of what is left.
    async fn again(&self) -> Result<Incoming, TaskFailure> {
        let mut parts: Vec<(Part, PartitionId)> = Vec::new();
        for Coming { id, row, end, .. } in &self.comes {
            if parts.last().is_some_and(|(_, last)| last == id) {
                continue;
            }
            if parts.len() == PARTS {
                break;
            }
            let rows = RowRange { offset: *row, len: end.unwrap_or(u64::MAX) - row };
            parts.push((Part { task: id.task.index, attempt: id.attempt, rows: Some(rows) }, *id));
        }
        let wanted = Wanted { parts: parts.iter().map(|(part, _)| *part).collect(), ..self.wanted.clone() };
        let (listed, incoming) = self.host.transfer(&self.place, wanted).await?;
        let mut expected = self.comes.iter();
        for (listed, (_, id)) in listed.into_iter().zip(parts) {
            let (_, listed) = listed.ok_or_else(|| gone(id, self.place.worker))?;
            let same = listed
                .iter()
                .all(|chosen| expected.next().is_some_and(|coming| coming.id == id && coming.chosen == *chosen));
            if !same {
                return Err(lost(id, self.place.worker, "its worker says something else of it than before"));
            }
        }
        Ok(incoming)
    }
}
