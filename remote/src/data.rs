//! Transfers of bulk bytes: one stream each on the data connection, opened by the consumer, under byte credits.
//!
//! Consumer to producer: `{u32 ticket length, u64 first credit, ticket}`, where the length's highest bit marks a ticket
//! for what is beside a message, then `1, u32` for more credit, and `2`
//! when everything has been taken. Producer to consumer: `0, u64 total` and the bytes, or `1` and why not.
//! Little-endian.

mod serve;

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, WriteError};

use crate::close::Code;
use crate::error::FetchError;
use crate::identity::NodeId;
use crate::lane::{SLICE, STALL};
use crate::runtime::Net;

pub(crate) use serve::serve;

/// Longest ticket, in bytes.
const MAX_TICKET: usize = 64 << 10;
/// In a ticket's length: it is the number of what is beside a message.
const OF_MESSAGE: u32 = 1 << 31;
/// Longest reason of a refusal, in bytes.
const MAX_REFUSAL: usize = 4 << 10;
/// Bytes that a consumer lets a producer be ahead.
const WINDOW: u64 = 4 << 20;
/// Credit is returned in pieces of at least this, so that it costs few packets.
const RETURN: u64 = WINDOW / 4;
const CREDIT: u8 = 1;
const TAKEN: u8 = 2;
const OK: u8 = 0;
const REFUSED: u8 = 1;

/// Where a node's transfers come from.
pub trait DataSource: Send + Sync + 'static {
    /// Opens what a ticket stands for. May touch the disk. An error is a refusal, whose text the peer sees.
    ///
    /// # Errors
    /// The ticket stands for nothing, or not for this peer.
    fn open(&self, ticket: &[u8], peer: NodeId) -> Result<Box<dyn DataReader>, String>;

    /// The peer has taken everything. Never called for a transfer that was cancelled or failed; may be missed when
    /// the connection is lost at the end.
    fn delivered(&self, ticket: &[u8], peer: NodeId);
}

/// The bytes of one transfer.
pub trait DataReader: Send {
    /// How many bytes there are.
    fn total(&self) -> u64;

    /// The next bytes, `max` at most; empty at the end. May touch the disk.
    ///
    /// # Errors
    /// Reading failed; the transfer fails with it.
    fn read(&mut self, max: usize) -> io::Result<Bytes>;
}

/// A transfer that is coming in. Dropping it before the end cancels it.
pub struct Fetch {
    send: SendStream,
    read: RecvStream,
    net: Net,
    total: u64,
    got: u64,
    /// Bytes handed to the caller whose credit was not yet returned.
    taken: u64,
    /// Bytes that the producer may still send.
    credit: u64,
    /// What remains to be written of a credit or of the acknowledgement.
    pending: BytesMut,
    done: bool,
    _counted: Arc<()>,
}

impl Fetch {
    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The next bytes; `None` when all have come and the producer has been told so.
    ///
    /// # Errors
    /// The transfer failed; see [`FetchError::is_retryable`].
    ///
    /// # Cancel safety
    /// Safe: call it again and nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        if self.done {
            return Ok(None);
        }
        let net = self.net.clone();
        // Coming back means that the caller is done with what it got before.
        if self.taken >= RETURN && self.credit < self.total - self.got {
            self.pending.put_u8(CREDIT);
            self.pending.put_u32_le(u32::try_from(self.taken).unwrap_or(u32::MAX));
            self.credit += self.taken;
            self.taken = 0;
        }
        self.flush(&net).await?;
        let chunk = net.within(STALL, self.read.read_chunk(SLICE, true)).await;
        match chunk.ok_or(FetchError::Stalled)?.map_err(read_error)? {
            Some(chunk) => {
                let size = chunk.bytes.len() as u64;
                if size > self.credit {
                    return Err(FetchError::Protocol("more bytes than credit"));
                }
                if size > self.total - self.got {
                    return Err(FetchError::Protocol("more bytes than promised"));
                }
                self.credit -= size;
                self.got += size;
                self.taken += size;
                Ok(Some(chunk.bytes))
            }
            None if self.got < self.total => Err(FetchError::Truncated { got: self.got, total: self.total }),
            None => {
                self.pending.put_u8(TAKEN);
                self.flush(&net).await?;
                let _ = self.send.finish(); // fails only if the producer is gone already
                self.done = true;
                Ok(None)
            }
        }
    }

    /// Everything at once.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    ///
    /// # Cancel safety
    /// Dropping the future cancels the transfer.
    pub async fn collect(mut self) -> Result<Bytes, FetchError> {
        let mut all = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    async fn flush(&mut self, net: &Net) -> Result<(), FetchError> {
        while self.pending.has_remaining() {
            let written = net.within(STALL, self.send.write(&self.pending)).await;
            self.pending.advance(written.ok_or(FetchError::Stalled)?.map_err(write_error)?);
        }
        Ok(())
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if !self.done {
            // Fails only if the streams are closed already.
            let _ = self.send.reset(Code::Cancelled.var());
            let _ = self.read.stop(Code::Cancelled.var());
        }
    }
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetch").field("total", &self.total).field("got", &self.got).finish()
    }
}

/// What a transfer is asked for with.
#[derive(Clone, Debug)]
pub(crate) enum Ticket {
    /// Of the producer's [`DataSource`].
    Of(Bytes),
    /// What is beside a message.
    Beside(u64),
}

/// Asks for a transfer and waits for the answer.
pub(crate) async fn fetch(
    connection: Connection,
    ticket: Ticket,
    net: Net,
    counted: Arc<()>,
) -> Result<Fetch, FetchError> {
    let (mark, ticket) = match ticket {
        Ticket::Of(ticket) => (0, ticket),
        Ticket::Beside(number) => (OF_MESSAGE, Bytes::copy_from_slice(&number.to_le_bytes())),
    };
    if ticket.len() > MAX_TICKET {
        return Err(FetchError::TicketTooLong { size: ticket.len(), max: MAX_TICKET });
    }
    let (send, read) = connection.open_bi().await.map_err(lost)?;
    let mut pending = BytesMut::with_capacity(12 + ticket.len());
    pending.put_u32_le(mark | ticket.len() as u32); // checked above
    pending.put_u64_le(WINDOW);
    pending.extend_from_slice(&ticket);
    let mut fetch = Fetch {
        send,
        read,
        net: net.clone(),
        total: 0,
        got: 0,
        taken: 0,
        credit: WINDOW,
        pending,
        done: false,
        _counted: counted,
    };
    fetch.flush(&net).await?;
    let mut answer = [0; 1];
    fetch.read.read_exact(&mut answer).await.map_err(cut)?;
    match answer {
        [OK] => {
            let mut total = [0; 8];
            fetch.read.read_exact(&mut total).await.map_err(cut)?;
            fetch.total = u64::from_le_bytes(total);
            Ok(fetch)
        }
        [REFUSED] => {
            let text = fetch.read.read_to_end(MAX_REFUSAL).await;
            let text = text.map_err(|_| FetchError::Protocol("unreadable refusal"))?;
            Err(FetchError::Refused(String::from_utf8_lossy(&text).into_owned()))
        }
        _ => Err(FetchError::Protocol("unknown answer")),
    }
}

fn lost(error: ConnectionError) -> FetchError {
    FetchError::Lost { cause: error.to_string() }
}

fn cut(error: quinn::ReadExactError) -> FetchError {
    match error {
        quinn::ReadExactError::FinishedEarly(_) => FetchError::Protocol("no answer"),
        quinn::ReadExactError::ReadError(error) => read_error(error),
    }
}

fn read_error(error: ReadError) -> FetchError {
    match error {
        ReadError::Reset(code) => reset(code),
        ReadError::ConnectionLost(error) => lost(error),
        other => FetchError::Lost { cause: other.to_string() },
    }
}

fn write_error(error: WriteError) -> FetchError {
    match error {
        WriteError::Stopped(code) => reset(code),
        WriteError::ConnectionLost(error) => lost(error),
        other => FetchError::Lost { cause: other.to_string() },
    }
}

fn reset(code: quinn::VarInt) -> FetchError {
    if code == Code::SourceFailed.var() {
        FetchError::SourceFailed
    } else if code == Code::Stalled.var() {
        FetchError::Stalled
    } else {
        FetchError::Protocol("the producer ended the transfer")
    }
}
