//! Where a collector listens, and what it is sent: OpenTelemetry's protocol over HTTP.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use regatta_observe::line;

use crate::Failure;

/// How long a collector may take, for each step.
const STEP: Duration = Duration::from_secs(10);
/// And for all of them.
const WHOLE: Duration = Duration::from_secs(30);
/// What a collector says is read this far.
const ANSWER: u64 = 4 << 10;

/// Where a collector listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collector {
    /// `host:port`.
    address: String,
    /// What comes before `/v1/metrics`.
    path: String,
}

/// The collector at this address, as `http://127.0.0.1:4318`.
///
/// # Errors
/// It is none that this can reach.
pub(crate) fn collector(url: &str) -> Result<Collector, String> {
    let Some(rest) = url.strip_prefix("http://") else {
        let how = "write http://host:port; with TLS, have a collector beside this pass it on";
        return Err(format!("{url:?} is no address that is sent to by plain HTTP: {how}"));
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || host.contains('@') || !is_plain(rest) {
        return Err(format!("{url:?} has no host: write http://host:port"));
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { host.to_owned() } else { format!("{host}:4318") };
    let path = path.trim_end_matches('/');
    Ok(Collector { address, path: if path.is_empty() { String::new() } else { format!("/{path}") } })
}

/// Why a collector has not taken what it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// It may take it later.
    Yet(String),
    /// It never will: the protocol wants that it is not sent again.
    Ever(String),
}

impl From<NotTaken> for Failure {
    fn from((NotTaken::Yet(why) | NotTaken::Ever(why)): NotTaken) -> Self {
        Self::Failed(why)
    }
}

/// A connection until a time.
struct Until(TcpStream, Instant);

impl Until {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.1.saturating_duration_since(Instant::now()).min(STEP);
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

/// Of a wait that is over the system says that nothing is there yet.
fn late(error: io::Error) -> io::Error {
    let is_late = error.kind() == io::ErrorKind::WouldBlock;
    if is_late { io::Error::new(io::ErrorKind::TimedOut, "it does not go on in time") } else { error }
}

impl Read for Until {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.set_read_timeout(self.left()?)?;
        self.0.read(into).map_err(late)
    }
}

impl Write for Until {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.set_write_timeout(self.left()?)?;
        self.0.write(from).map_err(late)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Collector {
    /// Sends it this text.
    ///
    /// # Errors
    /// It has not taken it.
    pub(crate) fn post(&self, path: &str, body: &str) -> Result<(), NotTaken> {
        let Self { address, path: before } = self;
        let why_not =
            |why: &dyn std::fmt::Display| format!("the collector at {address} has not taken what it was sent: {why}");
        let failed = |why: &dyn std::fmt::Display| NotTaken::Yet(why_not(why));
        let mut resolved = address.to_socket_addrs().map_err(|error| failed(&error))?;
        let to = resolved.next().ok_or_else(|| failed(&"the host has no address"))?;
        let stream = TcpStream::connect_timeout(&to, STEP).map_err(|error| failed(&error))?;
        let mut stream = Until(stream, Instant::now() + WHOLE);
        let head = format!(
            "POST {before}{path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let put = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        put.map_err(|error| failed(&error))?;
        let mut answer = Vec::new();
        let read = stream.take(ANSWER).read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status =
            answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|status| status.parse().ok());
        match (status, read) {
            (Some(200..300), _) => Ok(()),
            (Some::<u16>(status), _) => {
                let why = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                let why = why_not(&format_args!("status {status} {path} {}", line(why)));
                let is_for_now = matches!(status, 429 | 502..=504);
                Err(if is_for_now { NotTaken::Yet(why) } else { NotTaken::Ever(why) })
            }
            (None, Err(error)) => Err(failed(&error)),
            (None, Ok(_)) => Err(failed(&"it does not speak HTTP")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_by_its_address() {
        let named = |url: &str| collector(url).map(|Collector { address, path }| format!("{address} {path}"));
        assert_eq!(named("http://127.0.0.1:4318"), Ok("127.0.0.1:4318 ".to_owned()));
        assert_eq!(named("http://collector/otlp/"), Ok("collector:4318 /otlp".to_owned()));
        assert_eq!(named("http://[::1]:1/"), Ok("[::1]:1 ".to_owned()));
        for wrong in [
            "https://collector",
            "collector:4318",
            "http://",
            "http:///x",
            "http://a b",
            "http://user@host",
            "http://a/\r\nx: y",
        ] {
            assert!(collector(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_collector_that_does_not_answer_in_time_is_said_to_do_so() {
        let (_other, here) = std::os::unix::net::UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let error = (&here).read(&mut [0]).map_err(late).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::TimedOut, "it does not go on in time"));
    }
}
