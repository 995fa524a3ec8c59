//! Bytes of a lane to frames. Pure.

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::{FrameError, HEADER, Header};

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
        Ok(Some((header, self.buffer.split_to(len).freeze())))
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
