//! What parent and child say to each other.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use regatta_observe::AuthorSpan;
use regatta_remote::{decode, encode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::slab::Parcel;
use crate::os;
use crate::udf::found::Found;
use crate::udf::{Call, Metrics, Report, Seat, UdfError};

#[derive(Serialize, Deserialize)]
pub(super) enum ToChild {
    Start(Box<StartChild>),
    /// Where its cluster is, and a token that lets it in.
    Admitted(Result<(String, String), UdfError>),
    Run {
        number: u64,
        call: Call,
        inputs: Parcel,
        /// Whether spans of the author's are noted.
        noted: bool,
    },
    /// Nobody wants this call any more. It is answered all the same.
    Forget {
        number: u64,
    },
    Stop,
}

/// What a replica on a GPU is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct GpuSeat {
    /// Its GPU's name for [`VISIBLE`].
    pub(crate) device: String,
    /// Its share of it.
    pub(crate) share: f64,
    /// Bytes that it may allocate there; 0: its share.
    pub(crate) memory: u64,
}

/// Names the GPUs that a process sees, by number or UUID.
pub(crate) const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

#[derive(Serialize, Deserialize)]
pub(super) struct StartChild {
    pub(super) udf: String,
    pub(super) arguments: Vec<u8>,
    pub(super) seat: Seat,
    /// Bytes that it may allocate.
    pub(super) memory: Option<u64>,
    /// Calls that an async one has in flight.
    pub(super) in_flight: usize,
    /// The GPU that it runs on.
    pub(super) gpu: Option<GpuSeat>,
    /// Whether spans of the author's are noted.
    pub(super) noted: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) enum FromChild {
    Progress(String),
    /// It looks for an actor, and must enter its cluster for that. Only in `start`.
    Admit,
    Started(Result<(Metrics, Found), UdfError>),
    /// A batch runs from now on. Of async ones nobody says it.
    Began,
    /// Each call is answered once.
    Done {
        number: u64,
        outcome: Outcome,
        /// The child has done with the call's slab for good: the UDF has kept some of its inputs, or it is a large one.
        spent: bool,
    },
    /// What has ended in it meanwhile, and how much of that it has forgotten; before the word that something is done.
    Spans(Vec<AuthorSpan>, u64),
    Stopped(Metrics),
}

/// The result is in the call's slab, there. An error says whether it was a panic.
pub(super) type Outcome = Result<(Report, Place), (UdfError, bool)>;

/// Bytes of a slab: where they start and how many they are.
pub(super) type Place = (usize, usize);

/// The socket between them: frames of four bytes of length and a message.
pub(crate) struct Link {
    stream: UnixStream,
    received: Vec<u8>,
    /// Open files that came, each with a message that says so.
    files: VecDeque<File>,
}

/// The longest message: arguments may be large, batches are in slabs.
const LONGEST: usize = 1 << 30;
const WRITE: Duration = Duration::from_secs(30);

impl Link {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new(), files: VecDeque::new() }
    }

    /// The same socket, for words the other way.
    pub(super) fn other_way(&self) -> io::Result<Self> {
        Ok(Self::new(self.stream.try_clone()?))
    }

    pub(crate) fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.send_with(message, None)
    }

    /// Sends a message, and hands over a copy of an open file.
    pub(super) fn send_with(&mut self, message: &impl Serialize, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = encode(message).map_err(io::Error::other)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?.to_le_bytes();
        self.stream.set_write_timeout(Some(WRITE))?;
        let sent = file.map_or(Ok(0), |file| os::send_with_file(&self.stream, &length, file))?;
        self.stream.write_all(&length[sent..])?;
        self.stream.write_all(&bytes)
    }

    /// The file that came with the last message, which says that one did.
    pub(super) fn file(&mut self) -> io::Result<File> {
        self.files.pop_front().ok_or_else(|| io::Error::other("the file that was announced did not come"))
    }

    /// The next message; `None` if none came in this time.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self, wait: Duration) -> io::Result<Option<T>> {
        self.stream.set_read_timeout(Some(wait))?;
        loop {
            if let Some(message) = self.next()? {
                return Ok(Some(message));
            }
            let mut piece = [0; 16 << 10];
            match os::receive_with_file(&self.stream, &mut piece) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((length, file)) => {
                    self.received.extend_from_slice(&piece[..length]);
                    self.files.extend(file.map(File::from));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
    }

    fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some((length, rest)) = self.received.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > LONGEST {
            return Err(io::Error::other("the other process sent what is no message"));
        }
        let Some(bytes) = rest.get(..length) else { return Ok(None) };
        let message = decode(bytes).map_err(io::Error::other)?;
        self.received.drain(..4 + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn messages_arrive_whole_in_order_and_their_end_is_seen() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut here, mut there) = (Link::new(here), Link::new(there));
        assert!(here.receive::<String>(Duration::from_millis(1)).unwrap().is_none());
        let long = "x".repeat(100_000);
        let sender = std::thread::spawn({
            let long = long.clone();
            move || ["a", &long, "b"].map(|text| there.send(&text).unwrap())
        });
        for want in ["a", &long, "b"] {
            assert_eq!(here.receive::<String>(Duration::from_secs(10)).unwrap().as_deref(), Some(want));
        }
        sender.join().unwrap();
        assert!(here.receive::<String>(Duration::from_secs(10)).is_err());
    }

    #[test]
    fn a_length_that_nothing_has_is_refused() {
        let (here, mut there) = UnixStream::pair().unwrap();
        there.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(Link::new(here).receive::<String>(Duration::from_secs(10)).is_err());
    }

    #[test]
    fn each_file_arrives_with_its_message() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut here, mut there) = (Link::new(here), Link::new(there));
        for text in ["first", "second"] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            there.send(&"without").unwrap();
            there.send_with(&text, Some(file.as_fd())).unwrap();
        }
        let mut next = || here.receive::<String>(Duration::from_secs(10)).unwrap().unwrap();
        assert_eq!([next(), next(), next(), next()], ["without", "first", "without", "second"]);
        for want in ["first", "second"] {
            let (mut file, mut text) = (here.file().unwrap(), String::new());
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, want);
        }
        assert!(here.file().is_err());
    }
}
