//! A lane: one long-lived stream of frames in each direction.

mod write;

use std::sync::Arc;

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::yield_now;

use crate::close::Code;
use crate::frame::{FrameError, Header, Kind};
use crate::frames::Frames;
use crate::link::Rooms;
use crate::patience::Patience;

pub(crate) use write::{SLICE, StreamStop, write_lane, write_slices};

const READ: usize = 64 << 10;
/// Frames after which others have their turn. Fewer cost asks in flight more CPU: what answers them comes in smaller groups.
const TURN: u32 = 1024;
/// Frames of no more than this need no room.
const SMALL: usize = 64 << 10;

/// Reads frames. Not to be dropped between two reads of one lane: it holds what came too early.
pub(crate) struct FrameReader {
    stream: RecvStream,
    frames: Frames,
    /// For large frames that have not come whole.
    rooms: Option<Arc<Rooms>>,
    held: Option<OwnedSemaphorePermit>,
    /// Frames since others had their turn.
    turn: u32,
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
    #[error("a frame stopped before its end")]
    Stalled,
    #[error("too many bytes in frames that have not come whole")]
    NoRoom,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream, max: u32) -> Self {
        Self { stream, frames: Frames::new(max), rooms: None, held: None, turn: 0 }
    }

    /// Raises or lowers the largest payload from the next frame on.
    pub(crate) fn set_max(&mut self, max: u32) {
        self.frames.set_max(max);
    }

    /// Where large frames take room until they have come whole.
    pub(crate) fn set_rooms(&mut self, rooms: Arc<Rooms>) {
        self.rooms = Some(rooms);
    }

    /// The next frame; `None` at the lane's end. One that has begun must go on.
    pub(crate) async fn next(&mut self) -> Result<Option<(Header, Bytes)>, LaneError> {
        let mut patience = Patience::new();
        self.turn += 1;
        if self.turn == TURN {
            // Else whoever sends many small frames has a thread of the network for as long as they last.
            self.turn = 0;
            yield_now().await;
        }
        loop {
            if let Some(frame) = self.frames.take()? {
                self.held = None;
                return Ok(Some(frame));
            }
            let reading = self.stream.read_chunk(READ, true);
            let chunk = if self.frames.is_empty() {
                reading.await?
            } else {
                let wanted = self.frames.wanted();
                if let Some(rooms) = self.rooms.as_ref().filter(|_| self.held.is_none() && wanted > SMALL) {
                    self.held = Some(rooms.frames.try_take(wanted).ok_or(LaneError::NoRoom)?);
                }
                patience.wait(reading).await.ok_or(LaneError::Stalled)??
            };
            match chunk {
                Some(chunk) => {
                    patience.moved(chunk.bytes.len());
                    self.frames.push(&chunk.bytes);
                }
                None if self.frames.is_empty() => return Ok(None),
                None => return Err(LaneError::Cut),
            }
        }
    }
}

/// Writes one frame, on a stream that is no lane yet.
pub(crate) async fn send(stream: &mut SendStream, kind: Kind, payload: Bytes) -> Result<(), String> {
    let len = u32::try_from(payload.len()).map_err(|error| error.to_string())?;
    let header = Header { len, ..Header::bare(kind) }.encode();
    let slices = vec![Bytes::copy_from_slice(&header), payload];
    write_slices(stream, slices, &mut Patience::new()).await.map_err(|error| error.to_string())
}

impl From<Code> for VarInt {
    fn from(code: Code) -> Self {
        code.number().into()
    }
}
