//! The frame on a lane: a fixed little-endian header, then a payload. Pure.

/// Length of the header in bytes.
pub(crate) const HEADER: usize = 32;
/// Version of the header and of the meaning of its fields.
pub(crate) const VERSION: u16 = 1;

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
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) len: u32,
    pub(crate) kind: Kind,
    pub(crate) message: u32,
    pub(crate) call: u64,
    pub(crate) recipient: u64,
    pub(crate) deadline_ms: u32,
}

/// Bytes that are not a frame of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("frame of {len} bytes is larger than the maximum of {max}")]
    TooLarge { len: u32, max: u32 },
    #[error("unknown frame kind {0}")]
    Kind(u8),
    #[error("frame version {0}, not {VERSION}")]
    Version(u16),
}

impl Header {
    /// A header with nothing but a kind.
    pub(crate) fn bare(kind: Kind) -> Self {
        Self { len: 0, kind, message: 0, call: 0, recipient: 0, deadline_ms: 0 }
    }

    /// A header about one call.
    pub(crate) fn of_call(kind: Kind, call: u64) -> Self {
        Self { call, ..Self::bare(kind) }
    }

    /// The bytes of this header.
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = 0; // flags, none yet
        bytes[6..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.message.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.call.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.recipient.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.deadline_ms.to_le_bytes());
        bytes
    }

    /// Reads a header; the length is checked here, before anything is allocated for it.
    pub(crate) fn parse(bytes: &[u8; HEADER], max: u32) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, kind, _flags, v0, v1, m0, m1, m2, m3, rest @ ..] = *bytes;
        let [c0, c1, c2, c3, c4, c5, c6, c7, r0, r1, r2, r3, r4, r5, r6, r7, d0, d1, d2, d3] = rest;
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        if len > max {
            return Err(FrameError::TooLarge { len, max });
        }
        Ok(Self {
            len,
            kind: Kind::parse(kind)?,
            message: u32::from_le_bytes([m0, m1, m2, m3]),
            call: u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            recipient: u64::from_le_bytes([r0, r1, r2, r3, r4, r5, r6, r7]),
            deadline_ms: u32::from_le_bytes([d0, d1, d2, d3]),
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
            other => return Err(FrameError::Kind(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: [u8; HEADER] = [
        0x04, 0x03, 0x02, 0x01, // len
        4, 0, // kind, flags
        1, 0, // version
        0x01, 0x01, 0, 0, // message
        0x2a, 0, 0, 0, 0, 0, 0, 0, // call
        0x07, 0, 0, 0, 0, 0, 0, 0x80, // recipient
        0xe8, 0x03, 0, 0, // deadline
    ];

    fn header() -> Header {
        Header {
            len: 0x0102_0304,
            kind: Kind::Ask,
            message: 0x0101,
            call: 42,
            recipient: (1 << 63) | 7,
            deadline_ms: 1000,
        }
    }

    #[test]
    fn the_header_keeps_its_bytes() {
        assert_eq!(header().encode(), GOLDEN);
        assert_eq!(Header::parse(&GOLDEN, u32::MAX), Ok(header()));
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
        assert!(Kind::parse(14).is_ok());
        assert!(Kind::parse(15).is_err());
    }

    #[test]
    fn another_version_is_refused() {
        let mut bytes = GOLDEN;
        bytes[6] = 2;
        assert_eq!(Header::parse(&bytes, u32::MAX), Err(FrameError::Version(2)));
    }
}
