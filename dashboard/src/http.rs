//! As much of HTTP/1.1 as pages and programs need: requests without a body, answers with one, and a deadline for each step of both.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The most bytes of a request.
const MOST: usize = 16 << 10;
/// Headers of a request.
const HEADERS: usize = 64;
/// How long a connection may be quiet before its first request, and between two; and how long a request may take to come.
const QUIET: Duration = Duration::from_secs(30);
const COMING: Duration = Duration::from_secs(5);
/// So many bytes of an answer are taken within this time, or its reader is too slow.
const PIECE: usize = 64 << 10;
const TAKEN: Duration = Duration::from_secs(10);

/// What somebody asks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without what follows a question mark.
    pub(crate) path: String,
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) host: Option<String>,
    pub(crate) origin: Option<String>,
    /// The token that it brings.
    pub(crate) bearer: Option<String>,
    /// Others may follow on this connection.
    pub(crate) stays: bool,
}

impl Request {
    /// The value of a parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

/// What it is told.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) body: Body,
}

/// Bytes that nobody copies.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Fixed(&'static [u8]),
    Made(std::sync::Arc<str>),
}

impl Response {
    pub(crate) fn text(status: u16, text: impl Into<std::sync::Arc<str>>) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: Body::Made(text.into()) }
    }

    pub(crate) fn json(status: u16, text: impl Into<std::sync::Arc<str>>) -> Self {
        Self { status, kind: "application/json", body: Body::Made(text.into()) }
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Made(text) => text.as_bytes(),
        }
    }
}

/// A request that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) status: u16,
    pub(crate) why: &'static str,
}

/// Reads the next request; `None`: there is none any more. What has come of the one after it stays in the buffer.
///
/// # Errors
/// What came is no request; the connection is of no more use then.
pub(crate) async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Request>, Bad> {
    if buffer.is_empty() && !matches!(timeout(QUIET, more(stream, buffer)).await, Ok(Ok(true))) {
        return Ok(None);
    }
    let coming = async {
        loop {
            if let Some((request, length)) = parse(buffer)? {
                buffer.drain(..length);
                return Ok(Some(request));
            }
            if !matches!(more(stream, buffer).await, Ok(true)) {
                return Ok(None);
            }
        }
    };
    timeout(COMING, coming).await.unwrap_or(Err(Bad { status: 408, why: "the request took too long to come" }))
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 2048];
    let read = stream.read(&mut piece).await?;
    buffer.extend_from_slice(&piece[..read]);
    Ok(read > 0)
}

/// The request that a text begins with, and how long it is; `None`: more of it is to come. Pure.
fn parse(text: &[u8]) -> Result<Option<(Request, usize)>, Bad> {
    let bad = |why| Bad { status: 400, why };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(text) {
        Ok(httparse::Status::Complete(length)) if length <= MOST => length,
        Ok(httparse::Status::Partial) if text.len() < MOST => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Bad { status: 431, why: "the request is too long" });
        }
        Err(_) => return Err(bad("this is no request of HTTP/1.1")),
    };
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Err(bad("there is nothing in it")) };
    let (path, parameters) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        parameters: parameters.split('&').filter(|one| !one.is_empty()).map(parameter).collect(),
        stays: parsed.version == Some(1),
        ..Request::default()
    };
    for header in parsed.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| bad("a header is no text"))?.trim();
        // Of what matters there is one, or two sides could read two things.
        let once = |kept: &mut Option<String>, value: &str| match kept.replace(value.to_owned()) {
            Some(_) => Err(bad("a header is there twice")),
            None => Ok(()),
        };
        match header.name.to_ascii_lowercase().as_str() {
            "host" => once(&mut request.host, value)?,
            "origin" => once(&mut request.origin, value)?,
            "authorization" => {
                let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
                let token = if scheme.eq_ignore_ascii_case("bearer") { token.trim() } else { "" };
                once(&mut request.bearer, token)?;
            }
            "connection" => request.stays &= !value.to_ascii_lowercase().split(',').any(|word| word.trim() == "close"),
            "content-length" if value == "0" => (),
            "content-length" | "transfer-encoding" => {
                return Err(Bad { status: 413, why: "no request here has a body" });
            }
            _ => (),
        }
    }
    Ok(Some((request, length)))
}

fn parameter(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (decoded(name), decoded(value))
}

/// A text with its `%3A` and `+` as what they stand for.
fn decoded(text: &str) -> String {
    let digit = |at: Option<&u8>| at.and_then(|digit| char::from(*digit).to_digit(16)).map(|digit| digit as u8);
    let (mut bytes, text, mut at) = (Vec::with_capacity(text.len()), text.as_bytes(), 0);
    while let Some(byte) = text.get(at) {
        match (byte, digit(text.get(at + 1)), digit(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(high << 4 | low);
                at += 2;
            }
            (b'+', ..) => bytes.push(b' '),
            (byte, ..) => bytes.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What every answer says to browsers: nothing in a page comes from elsewhere or goes elsewhere, nothing is kept, and no page of
/// somebody else shows it.
const ALWAYS: &str = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'\r\n\
                      x-content-type-options: nosniff\r\n\
                      referrer-policy: no-referrer\r\n\
                      cross-origin-resource-policy: same-origin\r\n\
                      cross-origin-opener-policy: same-origin\r\n\
                      cache-control: no-store\r\n";

/// Writes an answer.
///
/// # Errors
/// Its reader is gone, or too slow.
pub(crate) async fn write(stream: &mut TcpStream, response: &Response, stays: bool) -> io::Result<()> {
    let Response { status, kind, body } = response;
    let (reason, connection) = (reason(*status), if stays { "keep-alive" } else { "close" });
    let length = body.as_ref().len();
    let again = if *status == 429 { "retry-after: 60\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: {connection}\r\n{again}{ALWAYS}\r\n"
    );
    put(stream, head.as_bytes()).await?;
    for piece in body.as_ref().chunks(PIECE) {
        put(stream, piece).await?;
    }
    Ok(())
}

async fn put(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    timeout(TAKEN, stream.write_all(bytes)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        let (request, length) = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(length, text.len());
        request
    }

    #[test]
    fn a_request_is_what_it_says() {
        let text = "GET /api/v1/logs?udf=demo%3A%3AEmbed&text=a+b%&lines HTTP/1.1\r\nHOST: localhost:1\r\nauthorization: bearer  07 \r\n\r\n";
        let request = request(text);
        assert_eq!((request.method.as_str(), request.path.as_str(), request.stays), ("GET", "/api/v1/logs", true));
        assert_eq!(
            (request.host.as_deref(), request.bearer.as_deref(), request.origin),
            (Some("localhost:1"), Some("07"), None)
        );
        let parameter = |name: &str| request.parameters.iter().find(|(of, _)| of == name).unwrap().1.clone();
        assert_eq!(
            (parameter("udf"), parameter("text"), parameter("lines")),
            ("demo::Embed".into(), "a b%".into(), String::new())
        );
        for closes in ["GET / HTTP/1.1\r\nconnection: x, Close\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"] {
            assert!(!tests::request(closes).stays, "{closes}");
        }
    }

    #[test]
    fn what_is_no_request_or_has_a_body_is_refused_and_what_is_not_there_yet_is_waited_for() {
        let text = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\nGET /next";
        assert_eq!(parse(&text.as_bytes()[..20]), Ok(None));
        assert_eq!(parse(text.as_bytes()).unwrap().unwrap().1, text.len() - "GET /next".len());
        let status = |text: &str| parse(text.as_bytes()).unwrap_err().status;
        assert_eq!(status("\0\x01\x02\x03 \r\n\r\n"), 400);
        assert_eq!(status("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello"), 413);
        assert_eq!(status("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"), 413);
        assert_eq!(status("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"), 400);
        assert_eq!(status(&format!("GET /{} HTTP/1.1\r\n", "x".repeat(MOST))), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS + 1))), 431);
    }
}
