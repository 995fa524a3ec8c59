//! Bytes of a lane to frames. Pure.

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::{FrameError, HEADER, Header};

/// A payload of no more than this gets memory of its own, and one beyond the other shares its with nothing else: who keeps
/// a payload keeps no more than about twice its bytes, or 128 KiB, whatever came around it.
const OWN: usize = 16 << 10;
const ALONE: usize = 64 << 10;

/// What has come of a lane and is not taken yet.
pub(crate) struct Frames {
    buffer: BytesMut,
    max: u32,
}

impl Frames {
    pub(crate) fn new(max: u32) -> Self {
        Self { buffer: BytesMut::new(), max }
    }

    /// Raises or lowers the largest payload from the next frame on.
    pub(crate) fn set_max(&mut self, max: u32) {
        self.max = max;
    }

    /// Adds what has come. Memory grows with that, not with the length that a header claims.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next frame; `None` if it has not come whole.
    pub(crate) fn take(&mut self) -> Result<Option<(Header, Bytes)>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let header = Header::parse(header, self.max)?;
        let len = header.len as usize;
        if self.buffer.len() - HEADER < len {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        if len <= OWN {
            let payload = self.buffer.get(..len).map(Bytes::copy_from_slice).unwrap_or_default();
            self.buffer.advance(len);
            return Ok(Some((header, payload)));
        }
        let payload = self.buffer.split_to(len).freeze();
        if len > ALONE {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Ok(Some((header, payload)))
    }

    /// How long the payload is to be of the frame that has begun; 0 before its header has come.
    pub(crate) fn wanted(&self) -> usize {
        let header = self.buffer.first_chunk::<HEADER>();
        header.map_or(0, |[l0, l1, l2, l3, ..]| u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize)
    }

    /// Whether nothing is left, not even a part of a frame.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Bytes that it has room for.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;

    fn frame(len: usize) -> Vec<u8> {
        let header = Header { len: len as u32, ..Header::bare(Kind::Tell) };
        [&header.encode()[..], &vec![7; len]].concat()
    }

    #[test]
    fn who_keeps_a_small_payload_keeps_nothing_of_what_came_around_it() {
        for (around, kept, most) in [(4 << 20, 10, 64), (60 << 10, OWN, 2 * OWN), (4 << 20, OWN + 1, 256 << 10)] {
            let mut frames = Frames::new(u32::MAX);
            let lane = [frame(around), frame(kept), frame(around)].concat();
            let mut payloads = Vec::new();
            for piece in lane.chunks(6000) {
                frames.push(piece);
                while let Some((_, payload)) = frames.take().unwrap() {
                    payloads.push(payload);
                }
            }
            let payload = payloads.swap_remove(1);
            assert_eq!(payload, vec![7; kept]);
            drop((payloads, frames));
            let memory = payload.try_into_mut().expect("nobody else has it").capacity();
            assert!(memory <= most, "{memory} bytes for {kept} after {around}");
        }
    }
}
