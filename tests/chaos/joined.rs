//! Processes of this test binary that come to a cluster by token. Nobody but their own fences ends those that are thought lost.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use regatta::{Cluster, Session};

pub(crate) const VALID: Duration = Duration::from_secs(600);

/// Killed with the test.
pub(crate) struct Joined(Child);

impl Joined {
    pub(crate) fn worker(cluster: &Cluster, variables: &[(&str, &str)]) -> Self {
        Self::worker_of(Command::new(std::env::current_exe().unwrap()), cluster, variables)
    }

    /// One that may have so few files open.
    pub(crate) fn worker_with_files(cluster: &Cluster, files: u32) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
        Self::worker_of(shell, cluster, &[])
    }

    fn worker_of(command: Command, cluster: &Cluster, variables: &[(&str, &str)]) -> Self {
        let (address, token) = (cluster.address().to_string(), cluster.worker_token(1, VALID).unwrap());
        let join = [("REGATTA_JOIN", &*address), ("REGATTA_TOKEN", &*token)];
        Self::start(command, "regatta_worker", &[&join, variables].concat())
    }

    /// One that is the first process of a namespace of its own, as in a container; `None` where that may not be made.
    pub(crate) fn first_of_its_own(cluster: &Cluster) -> Option<Self> {
        let alone = ["--pid", "--fork", "--kill-child=KILL", "--mount-proc"];
        let may = Command::new("unshare").args(alone).arg("true").status();
        may.is_ok_and(|status| status.success()).then(|| {
            let mut unshare = Command::new("unshare");
            unshare.args(alone).arg(std::env::current_exe().unwrap());
            Self::worker_of(unshare, cluster, &[])
        })
    }

    /// Whether it does something of its own when it is sent a SIGTERM.
    pub(crate) fn heeds_a_sigterm(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught.and_then(|caught| u64::from_str_radix(caught.trim(), 16).ok()).is_some_and(|set| set & (1 << 14) != 0)
    }

    /// What is started from it.
    pub(crate) fn child(&self) -> Option<u32> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).ok()?.flatten();
        let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        children.collect::<Vec<_>>().concat().split_whitespace().next()?.parse().ok()
    }

    pub(crate) fn test(test: &str, variables: &[(&str, &str)]) -> Self {
        Self::start(Command::new(std::env::current_exe().unwrap()), test, variables)
    }

    /// A test of this binary, that is a driver if it finds these variables.
    pub(crate) fn driver(cluster: &Cluster, test: &str, variables: &[(&str, &str)]) -> Self {
        let (address, token) = (cluster.address().to_string(), cluster.driver_token(1, VALID).unwrap());
        let way = [("REGATTA_ADDRESS", &*address), ("REGATTA_TOKEN", &*token)];
        Self::start(Command::new(std::env::current_exe().unwrap()), test, &[&way, variables].concat())
    }

    pub(crate) fn start(mut command: Command, test: &str, variables: &[(&str, &str)]) -> Self {
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env("POLARS_MAX_THREADS", "1");
        command.envs(variables.iter().copied()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (said, id) = (BufReader::new(process.stderr.take().unwrap()), process.id());
        thread::spawn(move || said.lines().map_while(Result::ok).for_each(|line| eprintln!("[{id}] {line}")));
        Self(process)
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// `None`: it is still there.
    pub(crate) fn ends_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.0.try_wait().unwrap() {
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                ended => return ended,
            }
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn connect(cluster: &Cluster) -> Session {
    Session::connect(&cluster.address().to_string(), &cluster.driver_token(1, VALID).unwrap()).unwrap()
}
