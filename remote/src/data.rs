//! Transfers of bulk bytes: one stream each on the data connection, opened by the consumer, under byte credits.
//!
//! Consumer to producer: `{u32 ticket length, u64 first credit, ticket}`, where the length's highest bit marks a ticket
//! for what is beside a message, then `1, u32` for more credit, and `2`
//! when everything has been taken. Producer to consumer: `0, u64 total` and the bytes, or `1` and why not.
//! Little-endian.

mod serve;

use std::io;
use std::pin::pin;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, WriteError};
use tokio::time::Instant;

use crate::account::{Account, MAX_TICKET, Request, WINDOW};
use crate::close::Code;
use crate::error::FetchError;
use crate::ids::PeerId;
use crate::lane::SLICE;
use crate::net::Net;
use crate::patience::{Patience, at_once};
use crate::text::line;

pub(crate) use serve::{Store, serve};

/// Longest reason of a refusal, in bytes.
const MAX_REFUSAL: usize = 4 << 10;
const CREDIT: u8 = 1;
const TAKEN: u8 = 2;
const OK: u8 = 0;
const REFUSED: u8 = 1;

/// Where a node's transfers come from.
pub trait DataSource: Send + Sync + 'static {
    /// Opens what a ticket stands for, for a peer as its certificate names it. May touch the disk. An error is a refusal, whose
    /// text the peer sees.
    ///
    /// # Errors
    /// The ticket stands for nothing, or not for this peer.
    fn open(&self, ticket: &[u8], peer: PeerId) -> Result<Box<dyn DataReader>, String>;

    /// The peer has taken everything. Never called for a transfer that was cancelled or failed; may be missed when
    /// the connection is lost at the end. Called on a thread of the network: it must not block.
    fn delivered(&self, ticket: &[u8], peer: PeerId);
}

/// The bytes of one transfer.
pub trait DataReader: Send {
    /// How many bytes there are.
    fn total(&self) -> u64;

    /// The next bytes, `max` at most; empty at the end. May touch the disk, if it [waits](Self::waits).
    ///
    /// # Errors
    /// Reading failed; the transfer fails with it. [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) says that the source is well,
    /// and its bytes were lost on their way here: the consumer may begin anew.
    fn read(&mut self, max: usize) -> io::Result<Bytes>;

    /// Whether reading may take longer than some microseconds: it is then done on a thread that may wait. What hands out memory
    /// that is there says no, and saves two hops for each MiB.
    fn waits(&self) -> bool {
        true
    }
}

/// A transfer that is coming in. Dropping it before the end cancels it.
pub struct Fetch {
    send: SendStream,
    read: RecvStream,
    net: Net,
    patience: Patience,
    account: Account,
    /// What remains to be written of a credit or of the acknowledgement.
    pending: BytesMut,
    done: bool,
    _counted: Arc<()>,
}

impl Fetch {
    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.account.total
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
        // Coming back means that the caller is done with what it got before.
        if let Some(more) = self.account.taken() {
            self.pending.put_u8(CREDIT);
            self.pending.put_u32_le(more);
        }
        self.flush().await?;
        let chunk = patiently(&self.net, &mut self.patience, self.read.read_chunk(SLICE, true)).await;
        match chunk?.map_err(read_error)? {
            Some(chunk) => {
                self.patience.moved(chunk.bytes.len());
                self.account.arrived(chunk.bytes.len() as u64)?;
                Ok(Some(chunk.bytes))
            }
            None if self.account.got < self.account.total => {
                Err(FetchError::Truncated { got: self.account.got, total: self.account.total })
            }
            None => {
                self.pending.put_u8(TAKEN);
                self.flush().await?;
                let _ = self.send.finish(); // fails only if the producer is gone already
                self.done = true;
                Ok(None)
            }
        }
    }

    /// Everything at once, if that is no more than `most` bytes: how much it is, the producer says.
    ///
    /// # Errors
    /// [`FetchError::TooLarge`], at once; else as [`next`](Self::next).
    ///
    /// # Cancel safety
    /// Dropping the future cancels the transfer.
    pub async fn collect(mut self, most: usize) -> Result<Bytes, FetchError> {
        if self.total() > most as u64 {
            return Err(FetchError::TooLarge { total: self.total(), most });
        }
        let mut all = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    async fn flush(&mut self) -> Result<(), FetchError> {
        while self.pending.has_remaining() {
            let written = patiently(&self.net, &mut self.patience, self.send.write(&self.pending)).await;
            self.pending.advance(written?.map_err(write_error)?);
        }
        Ok(())
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if !self.done {
            // Fails only if the streams are closed already.
            let _ = self.send.reset(Code::Cancelled.into());
            let _ = self.read.stop(Code::Cancelled.into());
        }
    }
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetch").field("total", &self.account.total).field("got", &self.account.got).finish()
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
    let (beside, ticket) = match ticket {
        Ticket::Of(ticket) => (false, ticket),
        Ticket::Beside(number) => (true, Bytes::copy_from_slice(&number.to_le_bytes())),
    };
    if ticket.len() > MAX_TICKET {
        return Err(FetchError::TicketTooLong { size: ticket.len(), max: MAX_TICKET });
    }
    let (send, read) = connection.open_bi().await.map_err(lost)?;
    let mut pending = BytesMut::with_capacity(Request::LEN + ticket.len());
    pending.extend_from_slice(&Request { ticket: ticket.len(), beside, credit: WINDOW }.encode());
    pending.extend_from_slice(&ticket);
    let (patience, account) = (Patience::new(), Account::new(0));
    let mut fetch = Fetch { send, read, net, patience, account, pending, done: false, _counted: counted };
    fetch.flush().await?;
    let mut answer = [0; 1];
    fetch.read.read_exact(&mut answer).await.map_err(cut)?;
    match answer {
        [OK] => {
            let mut total = [0; 8];
            fetch.read.read_exact(&mut total).await.map_err(cut)?;
            fetch.account = Account::new(u64::from_le_bytes(total));
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

/// Waits for the producer, as long as patience lasts.
async fn patiently<T>(net: &Net, patience: &mut Patience, producer: impl Future<Output = T>) -> Result<T, FetchError> {
    let mut producer = pin!(producer);
    if let Some(output) = at_once(producer.as_mut()).await {
        return Ok(output);
    }
    let started = Instant::now();
    let output = net.within(patience.left(), producer).await;
    patience.waited(started.elapsed());
    output.ok_or(FetchError::Stalled)
}

fn lost(error: ConnectionError) -> FetchError {
    FetchError::Lost { cause: line(error) }
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
    if code == Code::SourceFailed.into() {
        FetchError::SourceFailed
    } else if code == Code::Stalled.into() {
        FetchError::Stalled
    } else {
        FetchError::Protocol("the producer ended the transfer")
    }
}
