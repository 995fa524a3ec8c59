//! The numbers with which connections and streams are closed. Never renumbered, never reused.

/// Why a connection was closed or a stream reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Code {
    Bye = 0,
    BuildDiffers = 1,
    ProtocolDiffers = 2,
    BadHello = 3,
    BadFrame = 4,
    FrameTooLarge = 5,
    NoControl = 6,
    PeerLost = 7,
    Stalled = 8,
    Cancelled = 9,
    SourceFailed = 10,
    BadRequest = 11,
    Abandoned = 12,
    NoCertificate = 13,
    TooMany = 14,
    DeclaredDead = 15,
    Superseded = 16,
    Expelled = 17,
}

impl Code {
    #[cfg(test)]
    const ALL: [Self; 18] = [
        Self::Bye,
        Self::BuildDiffers,
        Self::ProtocolDiffers,
        Self::BadHello,
        Self::BadFrame,
        Self::FrameTooLarge,
        Self::NoControl,
        Self::PeerLost,
        Self::Stalled,
        Self::Cancelled,
        Self::SourceFailed,
        Self::BadRequest,
        Self::Abandoned,
        Self::NoCertificate,
        Self::TooMany,
        Self::DeclaredDead,
        Self::Superseded,
        Self::Expelled,
    ];

    pub(crate) fn number(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_are_unique_and_keep_their_numbers() {
        let numbers: Vec<u32> = Code::ALL.iter().map(|code| *code as u32).collect();
        assert_eq!(numbers, (0..18).collect::<Vec<u32>>());
    }
}
