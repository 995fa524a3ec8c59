//! A lane: one long-lived stream of frames in each direction.

mod frames;

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::close::Code;
use crate::frame::{FrameError, HEADER, Header};

pub(crate) use frames::Frames;

/// Frames that may wait for a lane's writer.
pub(crate) const QUEUE: usize = 1024;
/// Longest time without progress on a stream.
pub(crate) const STALL: Duration = Duration::from_secs(30);

/// What a writer writes.
pub(crate) enum Out {
    Frame(Header, Bytes),
    /// End the lane, and say so when the peer has everything.
    Finish(oneshot::Sender<()>),
}

/// Reads frames. Not to be dropped between two reads of one lane: it holds what came too early.
pub(crate) struct FrameReader {
    stream: RecvStream,
    frames: Frames,
}

/// A lane cannot be read further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    #[error("{0}")]
    Read(#[from] quinn::ReadError),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the lane ended inside a frame")]
    Cut,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream, max: u32) -> Self {
        Self { stream, frames: Frames::new(max) }
    }

    /// Raises or lowers the largest payload from the next frame on.
    pub(crate) fn set_max(&mut self, max: u32) {
        self.frames.set_max(max);
    }

    /// The next frame; `None` at the lane's end.
    pub(crate) async fn next(&mut self) -> Result<Option<(Header, Bytes)>, LaneError> {
        loop {
            if let Some(frame) = self.frames.take()? {
                return Ok(Some(frame));
            }
            match self.stream.read_chunk(READ, true).await? {
                Some(chunk) => self.frames.push(&chunk.bytes),
                None if self.frames.is_empty() => return Ok(None),
                None => return Err(LaneError::Cut),
            }
        }
    }
}

/// Writes what is queued, many frames at once, until the lane is finished or its connection ends.
pub(crate) async fn write_lane(connection: Connection, mut stream: SendStream, mut queue: mpsc::Receiver<Out>) {
    let mut busy = false;
    while let Some(mut next) = queue.recv().await {
        if busy {
            // Where there was more than one there will be more: those who are about to queue it go first.
            yield_now().await;
        }
        let mut batch = Batch::default();
        let finish = loop {
            match next {
                Out::Frame(header, payload) => batch.push(header, payload),
                Out::Finish(done) => break Some(done),
            }
            if batch.is_full() {
                break None;
            }
            match queue.try_recv() {
                Ok(more) => next = more,
                Err(_) => break None,
            }
        };
        busy = batch.frames > 1;
        if let Err(error) = write_slices(&mut stream, batch.into_slices()).await {
            if matches!(error, StreamStop::Stalled) {
                connection.close(Code::Stalled.var(), b"a lane stalled");
            }
            return;
        }
        if let Some(done) = finish {
            let _ = stream.finish(); // fails only if the peer has stopped the lane
            if timeout(STALL, stream.stopped()).await.is_ok() {
                let _ = done.send(());
            }
            return;
        }
    }
}

/// Why a stream takes no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamStop {
    #[error("no progress for {STALL:?}")]
    Stalled,
    #[error("{0}")]
    Write(quinn::WriteError),
}

/// Writes all slices; every piece of progress renews the deadline.
pub(crate) async fn write_slices(stream: &mut SendStream, mut slices: Vec<Bytes>) -> Result<(), StreamStop> {
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let written = timeout(STALL, stream.write_chunks(rest))
            .await
            .map_err(|_| StreamStop::Stalled)?
            .map_err(StreamStop::Write)?;
        rest = rest.get_mut(written.chunks..).unwrap_or_default();
    }
    Ok(())
}

const READ: usize = 64 << 10;
/// Larger payloads are sent as they are instead of being copied behind their header.
const COPY: usize = 4 << 10;
/// quinn pins a whole slice until all of it is acknowledged.
pub(crate) const SLICE: usize = 256 << 10;
const BATCH_BYTES: usize = 64 << 10;

#[derive(Default)]
struct Batch {
    slices: Vec<Bytes>,
    small: BytesMut,
    frames: usize,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, header: Header, mut payload: Bytes) {
        self.frames += 1;
        self.bytes += HEADER + payload.len();
        header.write(&mut self.small);
        if payload.len() <= COPY {
            self.small.extend_from_slice(&payload);
            return;
        }
        self.slices.push(self.small.split().freeze());
        while payload.has_remaining() {
            self.slices.push(payload.split_to(payload.len().min(SLICE)));
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES
    }

    fn into_slices(mut self) -> Vec<Bytes> {
        if !self.small.is_empty() {
            self.slices.push(self.small.freeze());
        }
        self.slices
    }
}
