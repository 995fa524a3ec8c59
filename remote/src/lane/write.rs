//! Writing to lanes and streams.

use bytes::{Buf, Bytes, BytesMut};
use quinn::{Connection, SendStream};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::close::Code;
use crate::frame::{HEADER, Header};
use crate::patience::{Patience, STALL};
use crate::queue::{COPY, Held, Out, Waiting};

/// Writes what is queued, many frames at once, until the lane is finished or its connection ends.
pub(crate) async fn write_lane(connection: Connection, mut stream: SendStream, mut queue: Waiting) {
    let mut busy = false;
    while let Some(mut next) = queue.recv().await {
        if busy {
            // Where there was more than one there will be more: those who are about to queue it go first.
            yield_now().await;
        }
        let mut batch = Batch::default();
        let finish = loop {
            match next {
                Out::Frame(header, payload, held) => batch.push(header, payload, held),
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
        let (slices, held) = batch.into_slices();
        if let Err(error) = write_slices(&mut stream, slices, &mut Patience::new()).await {
            if matches!(error, StreamStop::Stalled) {
                connection.close(Code::Stalled.into(), b"a lane stalled");
            }
            return;
        }
        drop(held);
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

/// Writes all slices, as long as patience lasts.
pub(crate) async fn write_slices(
    stream: &mut SendStream,
    mut slices: Vec<Bytes>,
    patience: &mut Patience,
) -> Result<(), StreamStop> {
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let written = patience.wait(stream.write_chunks(rest)).await;
        let written = written.ok_or(StreamStop::Stalled)?.map_err(StreamStop::Write)?;
        patience.moved(written.bytes);
        rest = rest.get_mut(written.chunks..).unwrap_or_default();
    }
    Ok(())
}

/// quinn pins a whole slice until all of it is acknowledged.
pub(crate) const SLICE: usize = 256 << 10;
const BATCH_BYTES: usize = 64 << 10;

#[derive(Default)]
struct Batch {
    slices: Vec<Bytes>,
    small: BytesMut,
    held: Vec<Held>,
    frames: usize,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, header: Header, mut payload: Bytes, held: Held) {
        self.frames += 1;
        self.held.push(held);
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

    fn into_slices(mut self) -> (Vec<Bytes>, Vec<Held>) {
        if !self.small.is_empty() {
            self.slices.push(self.small.freeze());
        }
        (self.slices, self.held)
    }
}
