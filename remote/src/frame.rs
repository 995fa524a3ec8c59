//! The frame on a lane: a fixed little-endian header, then a payload. Pure.

use bytes::{Buf, Bytes, BytesMut};

use crate::trace::{self, TraceContext};

/// Length of the header in bytes.
pub(crate) const HEADER: usize = 32;
/// Version of the header and of the meaning of its fields.
pub(crate) const VERSION: u16 = 2;
/// Flag: the item goes on in the next frame of its call.
pub(crate) const MORE: u8 = 1;
/// Flag: the payload begins with a trace context.
const TRACED: u8 = 2;
/// Flag: batches are beside the payload, which ends in a trailer that says where.
pub(crate) const BESIDE: u8 = 4;
/// All flags.
const FLAGS: u8 = MORE | TRACED | BESIDE;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    /// First frame of a lane, so that the peer learns of the stream.
    Open = 2,
    Tell = 3,
    Ask = 4,
    Reply = 5,
    Error = 6,
    Cancel = 7,
    GoAway = 8,
    /// A node without a certificate asks for one.
    Join = 9,
    /// A node asks for a new certificate under its name.
    Renew = 10,
    /// Still here: its number stands for the call, the last beat seen for the recipient.
    Beat = 11,
    /// Asks for the end of an actor.
    Watch = 12,
    /// Nobody waits for that end any more.
    Unwatch = 13,
    /// The end of an actor that was watched.
    Down = 14,
    /// An item of a streamed reply, or a piece of one.
    Item = 15,
    /// The end of a streamed reply.
    End = 16,
    /// More bytes that a stream's producer may send: its number stands for the recipient.
    Credit = 17,
    /// What is held beside a payload need not be: its number stands for the call.
    Unwanted = 18,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) len: u32,
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) message: u32,
    pub(crate) call: u64,
    pub(crate) recipient: u64,
    pub(crate) deadline_ms: u32,
    /// Goes before the payload, beyond `len`.
    pub(crate) trace: Option<TraceContext>,
}

/// Bytes that are not a frame of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("frame of {len} bytes is larger than the maximum of {max}")]
    TooLarge { len: u32, max: u32 },
    #[error("unknown frame kind {0}")]
    Kind(u8),
    #[error("unknown frame flags {0:#04x}")]
    Flags(u8),
    #[error("frame version {0}, not {VERSION}")]
    Version(u16),
    #[error("a payload is shorter than its flags say")]
    Cut,
    #[error("{count} batches beside one message, more than the maximum of {max}")]
    TooMany { count: usize, max: usize },
}

impl Header {
    /// A header with nothing but a kind.
    pub(crate) fn bare(kind: Kind) -> Self {
        Self { len: 0, kind, flags: 0, message: 0, call: 0, recipient: 0, deadline_ms: 0, trace: None }
    }

    /// A header about one call.
    pub(crate) fn of_call(kind: Kind, call: u64) -> Self {
        Self { call, ..Self::bare(kind) }
    }

    /// Writes what goes before the payload.
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.extend_from_slice(&self.encode());
        if let Some(trace) = self.trace {
            to.extend_from_slice(&trace.to_bytes());
        }
    }

    /// Takes the trace context off a payload that came with this header.
    pub(crate) fn take_trace(&mut self, payload: &mut Bytes) -> Result<(), FrameError> {
        if self.flags & TRACED != 0 {
            let trace = payload.first_chunk().ok_or(FrameError::Cut)?;
            self.trace = TraceContext::from_bytes(trace); // one that means nothing is none
            payload.advance(trace::BYTES);
        }
        Ok(())
    }

    /// The bytes of this header.
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let (traced, more) = if self.trace.is_some() { (TRACED, trace::BYTES as u32) } else { (0, 0) };
        bytes[0..4].copy_from_slice(&self.len.saturating_add(more).to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags | traced;
        bytes[6..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.message.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.call.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.recipient.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.deadline_ms.to_le_bytes());
        bytes
    }

    /// Reads a header; the length is checked here, before anything is allocated for it.
    pub(crate) fn parse(bytes: &[u8; HEADER], max: u32) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, kind, flags, v0, v1, m0, m1, m2, m3, rest @ ..] = *bytes;
        let [c0, c1, c2, c3, c4, c5, c6, c7, r0, r1, r2, r3, r4, r5, r6, r7, d0, d1, d2, d3] = rest;
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        if len > max {
            return Err(FrameError::TooLarge { len, max });
        }
        if flags & !FLAGS != 0 {
            return Err(FrameError::Flags(flags));
        }
        Ok(Self {
            len,
            kind: Kind::parse(kind)?,
            flags,
            message: u32::from_le_bytes([m0, m1, m2, m3]),
            call: u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            recipient: u64::from_le_bytes([r0, r1, r2, r3, r4, r5, r6, r7]),
            deadline_ms: u32::from_le_bytes([d0, d1, d2, d3]),
            trace: None,
        })
    }
}

impl Kind {
    fn parse(byte: u8) -> Result<Self, FrameError> {
        Ok(match byte {
            1 => Self::Hello,
            2 => Self::Open,
            3 => Self::Tell,
            4 => Self::Ask,
            5 => Self::Reply,
            6 => Self::Error,
            7 => Self::Cancel,
            8 => Self::GoAway,
            9 => Self::Join,
            10 => Self::Renew,
            11 => Self::Beat,
            12 => Self::Watch,
            13 => Self::Unwatch,
            14 => Self::Down,
            15 => Self::Item,
            16 => Self::End,
            17 => Self::Credit,
            18 => Self::Unwanted,
            other => return Err(FrameError::Kind(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: [u8; HEADER] = [
        0x04, 0x03, 0x02, 0x01, // len
        4, 1, // kind, flags
        2, 0, // version
        0x01, 0x01, 0, 0, // message
        0x2a, 0, 0, 0, 0, 0, 0, 0, // call
        0x07, 0, 0, 0, 0, 0, 0, 0x80, // recipient
        0xe8, 0x03, 0, 0, // deadline
    ];

    fn header() -> Header {
        Header {
            len: 0x0102_0304,
            kind: Kind::Ask,
            flags: MORE,
            message: 0x0101,
            call: 42,
            recipient: (1 << 63) | 7,
            deadline_ms: 1000,
            trace: None,
        }
    }

    #[test]
    fn the_header_keeps_its_bytes() {
        assert_eq!(header().encode(), GOLDEN);
        assert_eq!(Header::parse(&GOLDEN, u32::MAX), Ok(header()));
    }

    #[test]
    fn a_trace_keeps_its_bytes_between_header_and_payload() {
        let trace = TraceContext::new(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331);
        let sent = Header { len: 3, trace, ..Header::of_call(Kind::Tell, 1) };
        let mut bytes = BytesMut::new();
        sent.write(&mut bytes);
        bytes.extend_from_slice(b"abc");
        assert_eq!(bytes[..6], [27, 0, 0, 0, 3, 2]);
        const TRACE: [u8; 24] = [
            0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31,
            0x9c, // trace
            0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31, // span
        ];
        assert_eq!(bytes[HEADER..HEADER + 24], TRACE);
        let mut came = Header::parse(bytes.first_chunk().unwrap(), u32::MAX).unwrap();
        let mut payload = bytes.freeze().slice(HEADER..);
        came.take_trace(&mut payload).unwrap();
        assert_eq!((came.trace, &payload[..]), (trace, &b"abc"[..]));
        // A payload without room for it is refused, and a context of zeros is none.
        assert_eq!(came.take_trace(&mut payload), Err(FrameError::Cut));
        came.take_trace(&mut Bytes::from_static(&[0; 24])).unwrap();
        assert_eq!(came.trace, None);
    }

    #[test]
    fn a_length_over_the_maximum_is_refused() {
        let error = Header::parse(&GOLDEN, 1024);
        assert_eq!(error, Err(FrameError::TooLarge { len: 0x0102_0304, max: 1024 }));
    }

    #[test]
    fn every_kind_survives_and_others_are_refused() {
        for byte in 0..=255u8 {
            match Kind::parse(byte) {
                Ok(kind) => assert_eq!(kind as u8, byte),
                Err(error) => assert_eq!(error, FrameError::Kind(byte)),
            }
        }
        assert!(Kind::parse(0).is_err());
        assert!(Kind::parse(18).is_ok());
        assert!(Kind::parse(19).is_err());
    }

    #[test]
    fn another_version_is_refused() {
        let mut bytes = GOLDEN;
        bytes[6] = 1;
        assert_eq!(Header::parse(&bytes, u32::MAX), Err(FrameError::Version(1)));
    }

    #[test]
    fn unknown_flags_are_refused() {
        let mut bytes = GOLDEN;
        bytes[5] = 0x80;
        assert_eq!(Header::parse(&bytes, u32::MAX), Err(FrameError::Flags(0x80)));
    }
}
