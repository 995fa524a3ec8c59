//! A browser without a window, told by its own protocol what to do.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take on a machine that does much else.
const SOON: Duration = Duration::from_secs(60);

/// The browser, until it is dropped, and what it complained of.
pub(crate) struct Chromium {
    process: Child,
    folder: PathBuf,
    socket: TcpStream,
    next: u64,
    pub(crate) complaints: Vec<String>,
}

impl Chromium {
    /// Starts it; `None`: there is none on this machine.
    pub(crate) fn start(name: &str) -> Option<Self> {
        let program = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|program| {
            let asked = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            asked.is_ok_and(|status| status.success())
        })?;
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chromium-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let process = Command::new(program)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--remote-debugging-port=0",
            ])
            .args(["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1280,900"])
            .arg(format!("--user-data-dir={}", folder.display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let port = eventually("it says its port", || {
            let text = std::fs::read_to_string(folder.join("DevToolsActivePort")).ok()?;
            text.lines().next()?.parse::<u16>().ok()
        });
        let path = eventually("it has a page", || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            write!(stream, "GET /json/list HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").ok()?;
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text);
            let pages: Value = serde_json::from_str(&text[text.find('[')?..]).ok()?;
            let page = pages.as_array()?.iter().find(|page| page["type"] == "page")?;
            let url = page["webSocketDebuggerUrl"].as_str()?;
            Some(url[url.find("/devtools")?..].to_owned())
        });
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cmVnYXR0YXJlZ2F0dGEwMQ==\r\n\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let mut this = Self { process, folder, socket, next: 0, complaints: Vec::new() };
        for domain in ["Runtime", "Log", "Page", "Accessibility"] {
            this.call(&format!("{domain}.enable"), json!({}));
        }
        Some(this)
    }

    /// Has it do something, and waits until it has.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let number = self.next;
        self.send(&json!({ "id": number, "method": method, "params": parameters }).to_string());
        loop {
            let said: Value = serde_json::from_slice(&self.receive()).unwrap();
            if said["id"] == number {
                assert!(said["error"].is_null(), "{method}: {said}");
                return said["result"].clone();
            }
            let is_complaint = match said["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown" => true,
                "Runtime.consoleAPICalled" => said["params"]["type"] == "error",
                "Log.entryAdded" => said["params"]["entry"]["level"] == "error",
                _ => false,
            };
            if is_complaint {
                self.complaints.push(said.to_string());
            }
        }
    }

    /// The value of an expression in the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let told = self
            .call("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true, "awaitPromise": true }));
        assert!(told["exceptionDetails"].is_null(), "{expression}: {told}");
        told["result"]["value"].clone()
    }

    pub(crate) fn text(&mut self, expression: &str) -> String {
        self.value(expression).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression in the page is true. While a page is being left there is nothing to ask.
    pub(crate) fn until(&mut self, expression: &str) {
        let until = Instant::now() + SOON;
        let guarded = format!("(() => {{ try {{ return {expression} }} catch {{ return false }} }})()");
        while self.value(&guarded) != json!(true) {
            let page = self.text("document.body?.innerText ?? ''");
            assert!(Instant::now() < until, "never so: {expression}\n{page}\n{:?}", self.complaints);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn press(&mut self, key: &str) {
        let text = if key == "Enter" { "\r" } else { "" };
        let code = if key == "Enter" { 13 } else { 9 };
        for kind in ["keyDown", "keyUp"] {
            let pressed = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": if kind == "keyDown" { text } else { "" } });
            self.call("Input.dispatchKeyEvent", pressed);
        }
    }

    fn send(&mut self, text: &str) {
        // Masked with zeros, which changes nothing.
        let mut frame = vec![0x81, 0x80 | 127];
        frame.extend((text.len() as u64).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.socket.write_all(&frame).unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut whole = Vec::new();
        loop {
            let mut head = [0; 2];
            self.socket.read_exact(&mut head).unwrap();
            let length = match head[1] & 127 {
                126 => {
                    let mut bytes = [0; 2];
                    self.socket.read_exact(&mut bytes).unwrap();
                    u64::from(u16::from_be_bytes(bytes))
                }
                127 => {
                    let mut bytes = [0; 8];
                    self.socket.read_exact(&mut bytes).unwrap();
                    u64::from_be_bytes(bytes)
                }
                length => u64::from(length),
            };
            let mut piece = vec![0; length as usize];
            self.socket.read_exact(&mut piece).unwrap();
            whole.extend(piece);
            if head[0] & 0x80 != 0 {
                return whole;
            }
        }
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Its helpers may still write while they end.
        for _ in 0..50 {
            match std::fs::remove_dir_all(&self.folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => std::thread::sleep(Duration::from_millis(100)),
                _ => return,
            }
        }
    }
}

fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let until = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
