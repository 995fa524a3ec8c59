//! The producer's side of transfers.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream};

use super::{CREDIT, DataReader, DataSource, MAX_REFUSAL, OK, REFUSED, TAKEN, Ticket};
use crate::account::{Allowance, Request};
use crate::close::Code;
use crate::fence::catch;
use crate::ids::{NodeId, PeerId};
use crate::lane::{SLICE, StreamStop, write_slices};
use crate::net::{Net, blocking};
use crate::patience::Patience;
use crate::text::{line, shorten};

/// Bytes read from a source at a time.
const READ: u64 = 1 << 20;

/// What transfers are served from.
pub(crate) trait Store: Send + Sync + 'static {
    /// What serves tickets, if anything does.
    fn source(&self) -> Option<&Arc<dyn DataSource>>;

    /// What is held beside a message to a node.
    fn held(&self, node: NodeId, number: u64) -> Option<VecDeque<Bytes>>;

    /// A node has what was held beside a message.
    fn let_go(&self, node: NodeId, number: u64);

    /// To be held as long as a transfer lasts.
    fn counted(&self) -> Arc<()>;
}

/// Serves a data connection until it ends, and says why.
pub(crate) async fn serve<S: Store>(store: Arc<S>, peer: PeerId, connection: &Connection, net: &Net) -> String {
    loop {
        // quinn bounds the streams of a peer, and so these tasks.
        match connection.accept_bi().await {
            Ok((send, read)) => {
                let (allowance, patience) = (Allowance::new(0, 0), Patience::new());
                let (net, counted) = (net.clone(), store.counted());
                let transfer = Transfer { send, read, peer, net, allowance, patience, _counted: counted };
                tokio::spawn(transfer.run(Arc::clone(&store)));
            }
            Err(error) => return line(error),
        }
    }
}

struct Transfer {
    send: SendStream,
    read: RecvStream,
    peer: PeerId,
    net: Net,
    allowance: Allowance,
    /// What earns it back is bytes that have gone: credit alone is no progress.
    patience: Patience,
    _counted: Arc<()>,
}

/// Why a transfer ended early.
enum Stop {
    /// The consumer or its connection is gone.
    Gone,
    Stalled,
    BadRequest,
    Source(String),
    /// Lost on the way to here.
    LostBefore(String),
}

impl Transfer {
    async fn run(mut self, store: Arc<impl Store>) {
        let Err(stop) = self.serve(&*store).await else {
            return;
        };
        let (code, why) = match stop {
            Stop::Gone => (Code::Cancelled, None),
            Stop::Stalled => (Code::Stalled, Some("it stalled".to_owned())),
            Stop::BadRequest => (Code::BadRequest, Some("not a request for a transfer".to_owned())),
            Stop::Source(text) => (Code::SourceFailed, Some(format!("its source failed: {}", shorten(text)))),
            Stop::LostBefore(text) => {
                tracing::debug!(peer = %self.peer, text, "what is passed on was lost on its way here");
                (Code::Cancelled, None)
            }
        };
        if let Some(why) = why.filter(|_| self.net.may_say(self.peer)) {
            tracing::warn!(peer = %self.peer, why, "a transfer ended early");
        }
        // Fails only if the streams are closed already.
        let _ = self.send.reset(code.into());
        let _ = self.read.stop(code.into());
    }

    async fn serve(&mut self, store: &impl Store) -> Result<(), Stop> {
        let (ticket, credit) = self.request().await?;
        let ticket = match ticket {
            Ticket::Of(ticket) => ticket,
            Ticket::Beside(number) => {
                let Some(held) = store.held(self.peer.node, number) else {
                    return self.refuse("it is not held any more").await;
                };
                let mut held = Box::new(held);
                let begun = Begun::of(&mut *held, credit);
                self.produce(held, begun, credit).await?;
                self.delivered().await?;
                store.let_go(self.peer.node, number);
                return Ok(());
            }
        };
        let Some(source) = store.source() else {
            return self.refuse("this node serves no data").await;
        };
        let opened = {
            let (source, ticket, peer) = (Arc::clone(source), ticket.clone(), self.peer);
            // With its first bytes: a hop to a thread that may touch the disk and back is most of what a small transfer costs.
            blocking(move || {
                let mut reader = source.open(&ticket, peer)?;
                // What it says when it panics is not for the peer, as the text of a refusal is.
                let begun = catch(|| Begun::of(&mut *reader, credit));
                let failed = |panic| Begun { total: 0, first: Some(Err(io::Error::other(panic))) };
                Ok((reader, begun.unwrap_or_else(failed)))
            })
            .await
        };
        let (reader, begun) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(text)) | Err(text) => return self.refuse(&text).await,
        };
        self.produce(reader, begun, credit).await?;
        self.delivered().await?;
        catch(|| source.delivered(&ticket, self.peer)).map_err(Stop::Source)
    }

    /// Waits until the consumer has taken everything.
    async fn delivered(&mut self) -> Result<(), Stop> {
        self.send.finish().map_err(|_| Stop::Gone)?;
        while !self.message().await? {}
        Ok(())
    }

    /// Reads the request: the ticket and the first credit.
    async fn request(&mut self) -> Result<(Ticket, u64), Stop> {
        let mut head = [0; Request::LEN];
        self.read_exact(&mut head).await?;
        let Request { ticket, beside, credit } = Request::parse(head).ok_or(Stop::BadRequest)?;
        let mut ticket = vec![0; ticket];
        self.read_exact(&mut ticket).await?;
        if !beside {
            return Ok((Ticket::Of(ticket.into()), credit));
        }
        let number = ticket.try_into().map_err(|_| Stop::BadRequest)?;
        Ok((Ticket::Beside(u64::from_le_bytes(number)), credit))
    }

    async fn refuse(&mut self, text: &str) -> Result<(), Stop> {
        let mut end = text.len().min(MAX_REFUSAL);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut answer = BytesMut::with_capacity(1 + end);
        answer.put_u8(REFUSED);
        answer.extend_from_slice(text.get(..end).unwrap_or_default().as_bytes());
        self.write(vec![answer.freeze()]).await?;
        self.send.finish().map_err(|_| Stop::Gone)
    }

    /// Sends the total and all bytes, never beyond the credit.
    async fn produce(&mut self, mut reader: Box<dyn DataReader>, begun: Begun, credit: u64) -> Result<(), Stop> {
        self.allowance = Allowance::new(credit, begun.total);
        let mut answer = BytesMut::with_capacity(9);
        answer.put_u8(OK);
        answer.put_u64_le(self.allowance.left);
        let mut slices = vec![answer.freeze()];
        if let Some(bytes) = begun.first {
            self.cut(bytes, &mut slices)?;
        }
        while self.allowance.left > 0 {
            while self.allowance.may_send() == 0 {
                // What was read goes out before we wait.
                self.write(std::mem::take(&mut slices)).await?;
                if self.message().await? {
                    return Err(Stop::BadRequest); // taken before it was sent
                }
            }
            let max = self.allowance.may_send().min(READ);
            if !reader.waits() {
                self.write(std::mem::take(&mut slices)).await?;
                let bytes = catch(|| reader.read(max as usize)).map_err(Stop::Source)?;
                self.cut(bytes, &mut slices)?;
                continue;
            }
            // The next bytes are read while the last ones are written.
            let read = blocking(move || {
                let bytes = reader.read(max as usize);
                (reader, bytes)
            });
            let (read, written) = tokio::join!(read, write_slices(&mut self.send, slices, &mut self.patience));
            written.map_err(stop)?;
            let (returned, bytes) = read.map_err(Stop::Source)?;
            reader = returned;
            slices = Vec::new();
            self.cut(bytes, &mut slices)?;
        }
        self.write(slices).await
    }

    /// Takes what was read into account, and cuts it into slices.
    fn cut(&mut self, bytes: io::Result<Bytes>, slices: &mut Vec<Bytes>) -> Result<(), Stop> {
        let mut bytes = bytes.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionAborted => Stop::LostBefore(error.to_string()),
            _ => Stop::Source(error.to_string()),
        })?;
        let size = bytes.len() as u64;
        if size > READ || !self.allowance.sent(size) {
            return Err(Stop::Source(format!("read {size} bytes where {} are left", self.allowance.left)));
        }
        while !bytes.is_empty() {
            slices.push(bytes.split_to(bytes.len().min(SLICE)));
        }
        Ok(())
    }

    /// Reads one message of the consumer; true when it has taken everything.
    async fn message(&mut self) -> Result<bool, Stop> {
        let mut kind = [0; 1];
        self.read_exact(&mut kind).await?;
        match kind {
            [CREDIT] => {
                let mut more = [0; 4];
                self.read_exact(&mut more).await?;
                if !self.allowance.credit(u32::from_le_bytes(more)) {
                    return Err(Stop::BadRequest);
                }
                Ok(false)
            }
            [TAKEN] => Ok(true),
            _ => Err(Stop::BadRequest),
        }
    }

    async fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), Stop> {
        let read = self.patience.wait(self.read.read_exact(bytes)).await;
        read.ok_or(Stop::Stalled)?.map_err(|_| Stop::Gone)
    }

    async fn write(&mut self, slices: Vec<Bytes>) -> Result<(), Stop> {
        write_slices(&mut self.send, slices, &mut self.patience).await.map_err(stop)
    }
}

/// A reader whose first bytes have been read.
struct Begun {
    /// Bytes that it had before.
    total: u64,
    /// What may be sent at once; `None` if that is nothing.
    first: Option<io::Result<Bytes>>,
}

impl Begun {
    fn of(reader: &mut dyn DataReader, credit: u64) -> Self {
        let total = reader.total();
        let max = credit.min(total).min(READ) as usize;
        Self { total, first: (max > 0).then(|| reader.read(max)) }
    }
}

fn stop(stop: StreamStop) -> Stop {
    match stop {
        StreamStop::Stalled => Stop::Stalled,
        StreamStop::Write(_) => Stop::Gone,
    }
}

/// Reads what is held beside a message.
impl DataReader for VecDeque<Bytes> {
    fn total(&self) -> u64 {
        self.iter().map(|slice| slice.len() as u64).sum()
    }

    fn read(&mut self, max: usize) -> io::Result<Bytes> {
        while self.front().is_some_and(Bytes::is_empty) {
            self.pop_front();
        }
        let Some(first) = self.front_mut() else {
            return Ok(Bytes::new());
        };
        Ok(first.split_to(first.len().min(max)))
    }

    fn waits(&self) -> bool {
        false
    }
}
