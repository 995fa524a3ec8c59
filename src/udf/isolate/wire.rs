//! What parent and child say to each other, and the files that they hand over.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use polars::prelude::*;
use regatta_remote::{decode, encode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::udf::{Call, Metrics, Seat, UdfError};

#[derive(Serialize, Deserialize)]
pub(super) enum ToChild {
    Start(Box<StartChild>),
    /// Where its cluster is, and a token that lets it in.
    Admitted(Result<(String, String), UdfError>),
    Run {
        number: u64,
        call: Call,
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
}

#[derive(Serialize, Deserialize)]
pub(super) enum FromChild {
    Progress(String),
    /// It looks for an actor, and must enter its cluster for that. Only in `start`.
    Admit,
    Started(Result<Metrics, UdfError>),
    /// A batch runs from now on. Of async ones nobody says it.
    Began,
    /// Each call is answered once.
    Done {
        number: u64,
        outcome: Outcome,
    },
    Stopped(Metrics),
}

/// The result is in its file. An error says whether it was a panic.
pub(super) type Outcome = Result<Metrics, (UdfError, bool)>;

/// The socket between them: frames of four bytes of length and a message.
pub(crate) struct Link {
    stream: UnixStream,
    received: Vec<u8>,
}

/// The longest message: arguments may be large, batches are in files.
const LONGEST: usize = 1 << 30;
const WRITE: Duration = Duration::from_secs(30);

impl Link {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new() }
    }

    /// The same socket, for words the other way.
    pub(super) fn other_way(&self) -> io::Result<Self> {
        Ok(Self::new(self.stream.try_clone()?))
    }

    pub(crate) fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let bytes = encode(message).map_err(io::Error::other)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.stream.set_write_timeout(Some(WRITE))?;
        self.stream.write_all(&length.to_le_bytes())?;
        self.stream.write_all(&bytes)
    }

    /// The next message; `None` if none came in this time.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self, wait: Duration) -> io::Result<Option<T>> {
        self.stream.set_read_timeout(Some(wait))?;
        loop {
            if let Some(message) = self.next()? {
                return Ok(Some(message));
            }
            let mut piece = [0; 16 << 10];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.received.extend_from_slice(&piece[..length]),
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

/// Writes a batch or a result into a new file.
pub(super) fn write(path: &Path, frame: &DataFrame) -> PolarsResult<()> {
    let mut file = BufWriter::new(File::create_new(path)?);
    IpcWriter::new(&mut file).finish(&mut frame.clone())?;
    Ok(file.flush()?)
}

/// Maps a batch that the parent has written; its columns are the file's pages.
pub(super) fn map(path: &Path) -> PolarsResult<DataFrame> {
    let reader = IpcReader::new(File::open(path)?);
    // SAFETY: Polars has written the file, in the parent, which has then told us its name and does not change it again.
    // Removing it leaves the mapping valid.
    unsafe { reader.memory_mapped(Some(path.to_owned())) }.finish()
}

/// Reads a result and checks it: what comes from a process that may be broken is not trusted as a mapping would be.
pub(super) fn read(path: &Path) -> PolarsResult<DataFrame> {
    IpcReader::new(File::open(path)?).finish()
}

#[cfg(test)]
mod tests {
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
    fn a_batch_that_is_mapped_outlives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let frame =
            df!["n" => (0..10_000i64).collect::<Vec<_>>(), "s" => vec!["longer than twelve bytes"; 10_000]].unwrap();
        write(&path, &frame).unwrap();
        let mapped = map(&path).unwrap();
        let read = read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(mapped.equals(&frame) && read.equals(&frame));
    }
}
