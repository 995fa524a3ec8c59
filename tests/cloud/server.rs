//! An S3-compatible server of this machine, for one test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use polars_io::cloud::{AmazonS3ConfigKey, CloudOptions};

/// What must never be seen.
pub(crate) const SECRET: &str = "a-secret-that-nobody-may-see";

pub(crate) struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// None, with a word on why, where it cannot be installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// One that knows nobody's key.
    pub(crate) fn that_refuses_everybody() -> Option<Self> {
        Self::start_with(&[("INITIAL_NO_AUTH_ACTION_COUNT", "0")])
    }

    fn start_with(variables: &[(&str, &str)]) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cloud/s3_server.sh");
        let mut command = Command::new(script);
        command.arg(port.to_string()).envs(variables.iter().copied());
        // Not a pipe: it logs every request, and stands still when nobody reads.
        let log = tempfile::NamedTempFile::new().unwrap();
        let to_log = log.reopen().unwrap();
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(to_log).spawn().unwrap();
        let mut server = Self { process, port };
        // It may have to be installed.
        let deadline = Instant::now() + Duration::from_secs(50);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if server.process.try_wait().unwrap().is_some() || Instant::now() > deadline {
                let why = std::fs::read_to_string(log.path()).unwrap_or_default();
                println!("skipped: there is no S3-compatible server: {why}");
                assert!(std::env::var_os("REQUIRE_MOTO").is_none(), "REQUIRE_MOTO is set");
                return None;
            }
            std::thread::yield_now();
        }
        Some(server)
    }

    /// How Polars gets at it.
    pub(crate) fn options(&self) -> CloudOptions {
        let options = [
            (AmazonS3ConfigKey::Endpoint, format!("http://127.0.0.1:{}", self.port)),
            (AmazonS3ConfigKey::AccessKeyId, "regatta".to_owned()),
            (AmazonS3ConfigKey::SecretAccessKey, SECRET.to_owned()),
            (AmazonS3ConfigKey::Region, "us-east-1".to_owned()),
        ];
        CloudOptions::default().with_aws(options)
    }

    /// Makes a bucket, or an object in one.
    pub(crate) fn put(&self, path: &str, body: &[u8]) {
        let answer = self.ask("PUT", path, body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// What is in a bucket, by name.
    pub(crate) fn list(&self, bucket: &str) -> Vec<String> {
        let answer = self.ask("GET", &format!("{bucket}?list-type=2"), &[]);
        let names = answer.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        names.map(str::to_owned).collect()
    }

    fn ask(&self, verb: &str, path: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let length = body.len();
        // Moto wants to see a key, and believes any.
        let head = format!(
            "{verb} /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=regatta/20260101/us-east-1/s3/aws4_request, Signature=0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
