//! What the two ends of a transfer say to each other, and how far the producer may be ahead. Pure.

use crate::error::FetchError;

/// Longest ticket, in bytes.
pub(crate) const MAX_TICKET: usize = 64 << 10;
/// Set in a ticket's length if the ticket is the number of what is beside a message.
const BESIDE: u32 = 1 << 31;
/// Bytes that a consumer lets a producer be ahead.
pub(crate) const WINDOW: u64 = 4 << 20;
/// Credit is returned in pieces of at least this, so that it costs few packets.
const RETURN: u64 = WINDOW / 4;

/// What a consumer's request begins with; the ticket follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Length of the ticket, [`MAX_TICKET`] at most.
    pub(crate) ticket: usize,
    /// Whether the ticket is the number of what is beside a message, not one of the producer's source.
    pub(crate) beside: bool,
    /// The first credit.
    pub(crate) credit: u64,
}

impl Request {
    /// Bytes of a request before its ticket.
    pub(crate) const LEN: usize = 12;

    pub(crate) fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mark = if self.beside { BESIDE } else { 0 };
        bytes[..4].copy_from_slice(&(mark | self.ticket as u32).to_le_bytes());
        bytes[4..].copy_from_slice(&self.credit.to_le_bytes());
        bytes
    }

    /// `None` if the ticket is too long.
    pub(crate) fn parse(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [l0, l1, l2, l3, credit @ ..] = bytes;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let (ticket, beside) = ((length & !BESIDE) as usize, length & BESIDE != 0);
        (ticket <= MAX_TICKET).then(|| Self { ticket, beside, credit: u64::from_le_bytes(credit) })
    }
}

/// The consumer's account of a transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) total: u64,
    pub(crate) got: u64,
    /// Bytes handed to the caller whose credit was not yet returned.
    taken: u64,
    /// Bytes that the producer may still send.
    credit: u64,
}

impl Account {
    /// To begin with, the producer has the credit of one window.
    pub(crate) fn new(total: u64) -> Self {
        Self { total, got: 0, taken: 0, credit: WINDOW }
    }

    /// Bytes have come, and are the caller's now.
    pub(crate) fn arrived(&mut self, size: u64) -> Result<(), FetchError> {
        if size > self.credit {
            return Err(FetchError::Protocol("more bytes than credit"));
        }
        if size > self.total - self.got {
            return Err(FetchError::Protocol("more bytes than promised"));
        }
        self.credit -= size;
        self.got += size;
        self.taken += size;
        Ok(())
    }

    /// The caller is done with what it got. Returns the credit to give for it, if it is worth a packet and needed.
    pub(crate) fn taken(&mut self) -> Option<u32> {
        if self.taken < RETURN || self.credit >= self.total - self.got {
            return None;
        }
        let more = u32::try_from(self.taken).unwrap_or(u32::MAX);
        self.credit += u64::from(more);
        self.taken -= u64::from(more);
        Some(more)
    }
}

/// The producer's account of a transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// Bytes that it still has to send.
    pub(crate) left: u64,
    /// Bytes that it may send.
    credit: u64,
}

impl Allowance {
    pub(crate) fn new(credit: u64, total: u64) -> Self {
        Self { left: total, credit }
    }

    /// How many bytes may go now.
    pub(crate) fn may_send(&self) -> u64 {
        self.credit.min(self.left)
    }

    /// Bytes have gone. False if there were none, or more than may.
    #[must_use]
    pub(crate) fn sent(&mut self, size: u64) -> bool {
        let may = size > 0 && size <= self.may_send();
        if may {
            self.credit -= size;
            self.left -= size;
        }
        may
    }

    /// The consumer gives more credit. False if it is less than any consumer returns: each piece may cost a hop to a thread
    /// that touches the disk, and a consumer that gives byte after byte would have us make one for each.
    #[must_use]
    pub(crate) fn credit(&mut self, more: u32) -> bool {
        let worth = u64::from(more) >= RETURN;
        if worth {
            self.credit = self.credit.saturating_add(u64::from(more));
        }
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_bytes() {
        for (beside, mark) in [(false, 0), (true, 0x80)] {
            let request = Request { ticket: 0x0102, beside, credit: 7 };
            let golden = [2, 1, 0, mark, 7, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!((request.encode(), Request::parse(golden)), (golden, Some(request)));
        }
        let long = Request { ticket: MAX_TICKET + 1, beside: false, credit: 0 };
        assert_eq!(Request::parse(long.encode()), None);
    }

    #[test]
    fn bytes_beyond_credit_or_total_are_refused_and_change_nothing() {
        let mut account = Account::new(WINDOW + 10);
        assert!(account.arrived(WINDOW + 1).is_err());
        account.arrived(WINDOW).unwrap();
        assert!(account.arrived(1).is_err());
        assert_eq!(account.taken(), Some(WINDOW as u32));
        assert!(account.arrived(11).is_err());
        account.arrived(10).unwrap();
        assert_eq!((account.got, account.taken()), (account.total, None));
    }

    #[test]
    fn a_producer_sends_no_more_than_its_credit() {
        let mut allowance = Allowance::new(5, 8);
        assert!(!allowance.sent(6) && !allowance.sent(0) && allowance.sent(5));
        assert_eq!(allowance.may_send(), 0);
        assert!(!allowance.credit(RETURN as u32 - 1), "a drop");
        assert_eq!(allowance.may_send(), 0);
        assert!(allowance.credit(u32::MAX));
        assert_eq!(allowance.may_send(), 3);
    }
}
