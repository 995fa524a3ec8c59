//! The other process of a measurement.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// This program, started again as a peer. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    /// What it said first: how to reach it.
    pub(crate) greeting: String,
}

impl Peer {
    /// Starts this program as the peer of a system. `handed` reaches it through its standard input.
    pub(crate) fn start(system: &str, handed: &[u8]) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .args([PEER, system])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let stdin = child.stdin.as_mut().expect("piped");
        stdin.write_all(&(handed.len() as u32).to_le_bytes()).expect("the peer reads");
        stdin.write_all(handed).expect("the peer reads");
        let mut greeting = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut greeting).expect("the peer greets");
        Self { child, greeting: greeting.trim().to_owned() }
    }

    /// CPU time that it has used.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(self.child.id())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // asks it to end
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// If this process is a peer: its system, and what was handed to it.
pub(crate) fn role() -> Option<(String, Vec<u8>)> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(PEER) {
        return None;
    }
    let system = args.next().expect("a peer has a system");
    let mut len = [0; 4];
    let mut stdin = std::io::stdin();
    stdin.read_exact(&mut len).expect("something is handed over");
    let mut handed = vec![0; u32::from_le_bytes(len) as usize];
    stdin.read_exact(&mut handed).expect("something is handed over");
    Some((system, handed))
}

/// Says how this peer is reached, and waits until it is no longer needed.
pub(crate) fn greet_and_wait(greeting: &str) {
    println!("{greeting}");
    let _ = std::io::stdin().read(&mut [0]);
}

/// CPU time that a process has used, in steps of 10 ms.
pub(crate) fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux tells");
    // The name, in parentheses, may contain anything; user and system time are fields 14 and 15 in all.
    let fields = stat.rsplit(") ").next().expect("fields follow the name");
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

const PEER: &str = "--peer";
