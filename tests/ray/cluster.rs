//! Real Ray clusters of this machine, each with a folder, ports and processes of its own.

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use regatta::prelude::*;

use super::{PATIENCE, eager, eventually, options, program};

/// A Ray cluster. It ends with this process, however that ends: with its input.
pub(crate) struct Ray {
    _life: Life,
    folder: PathBuf,
    bin: PathBuf,
    pub(crate) address: String,
    /// Where jobs are submitted, if it has a dashboard.
    pub(crate) dashboard: String,
}

/// The shell whose input is the life of what it has started.
pub(crate) struct Life(Child);

impl Drop for Life {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

/// Ends all that has this folder in its command line: Ray's own processes, and no other Ray's.
const LIFE: &str = r#"
ours() { me=$BASHPID; grep -las -f <(echo "$folder") /proc/[0-9]*/cmdline | cut -d/ -f3 | grep -vx -e $$ -e $me; }
"$@" >"$folder/start.log" 2>&1 </dev/null &
cat >/dev/null
kill $! 2>/dev/null
for i in 1 2 3 4 5; do [ -n "$(ours)" ] || break; sleep 1; done
kill -9 $(ours) 2>/dev/null
rm -rf "$folder"
"#;

/// Ends a node that was started by itself: `ray start --block` ends all of its node.
const LIFE_OF_NODE: &str = r#"
"$@" >/dev/null 2>&1 </dev/null &
cat >/dev/null
kill $! 2>/dev/null
wait
"#;

const ANY_PORT: [&str; 3] = ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"];

/// Else a token that is in the user's home is asked for.
const AUTH_MODE: &str = "RAY_AUTH_MODE";
const NO_TOKENS: &str = "disabled";

/// A port that is free, until this is dropped.
fn free() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

impl Ray {
    /// A cluster whose head node has this; `None`: there is no Ray, and the test says that it is skipped. `autoscaling`, if any, is what
    /// Ray's autoscaler is configured with, of the address that it is given.
    pub(crate) fn start(flags: &[&str], env: &[(&str, &str)], autoscaling: Option<fn(&str) -> String>) -> Option<Self> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        let bin = cache.join("regatta/ray/bin");
        if !bin.join("ray").exists() {
            eprintln!("skipped: there is no Ray in {}; tests/ray/install puts it there", bin.display());
            return None;
        }
        // Short: paths of its sockets are no longer than a hundred bytes.
        let folder = tempfile::Builder::new().prefix("rr").tempdir().unwrap().keep();
        // All at once, so that they differ; given back before Ray wants them.
        let ports = [free(), free(), free(), free(), free()].map(|port| port.local_addr().unwrap().port());
        let mut life = Command::new("bash");
        life.args(["-c", LIFE, "life"]).arg(bin.join("ray")).args(["start", "--head", "--block"]);
        life.arg("--object-store-memory=100000000").args(ANY_PORT).args(flags);
        life.arg(format!("--temp-dir={}", folder.display()));
        let named =
            ["port", "dashboard-agent-listen-port", "metrics-export-port", "ray-client-server-port", "dashboard-port"];
        life.args(named.iter().zip(&ports).map(|(flag, port)| format!("--{flag}={port}")));
        if let Some(autoscaling) = autoscaling {
            let config = folder.join("autoscaling.json");
            fs::write(&config, autoscaling(&format!("{}:{}", this_machine(), ports[0]))).unwrap();
            life.arg(format!("--autoscaling-config={}", config.display()));
        }
        life.env(AUTH_MODE, NO_TOKENS).envs(env.iter().copied()).env("folder", &folder);
        let life = Life(life.process_group(0).stdin(Stdio::piped()).spawn().unwrap());
        let with_mode =
            format!("{AUTH_MODE}=${{{AUTH_MODE}:-{NO_TOKENS}}} exec {} \"$@\"", bin.join("python").display());
        program(folder.join("python"), &with_mode);
        let written = folder.join("ray_current_cluster");
        let dashboard = format!("http://127.0.0.1:{}", ports[4]);
        let until = Instant::now() + PATIENCE;
        loop {
            let address = fs::read_to_string(&written).unwrap_or_default().trim().to_owned();
            if TcpStream::connect(&address).is_ok() {
                return Some(Self { _life: life, folder, bin, address, dashboard });
            }
            let log = || fs::read_to_string(folder.join("start.log")).unwrap_or_default();
            assert!(Instant::now() < until, "Ray does not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Which takes no token that is not said to it.
    pub(crate) fn python(&self) -> PathBuf {
        self.folder.join("python")
    }

    pub(crate) fn session(&self, workers: std::ops::RangeInclusive<usize>) -> Session {
        Session::ray_with(options(&self.python(), &self.address, workers), eager()).unwrap()
    }

    /// Another node of the cluster, which is there when this returns, and its raylet.
    pub(crate) fn node(&self, flags: &[&str]) -> (Life, u32) {
        let before = self.raylets();
        let mut life = Command::new("bash");
        life.args(["-c", LIFE_OF_NODE, "life"]).arg(self.bin.join("ray")).args(["start", "--block"]);
        life.arg(format!("--address={}", self.address)).arg("--object-store-memory=80000000");
        life.args(ANY_PORT).args(flags).env(AUTH_MODE, NO_TOKENS);
        let life = Life(life.process_group(0).stdin(Stdio::piped()).spawn().unwrap());
        let new = || self.raylets().into_iter().find(|raylet| !before.contains(raylet));
        eventually("another node is there", || new().is_some());
        (life, new().unwrap())
    }

    /// The process of each node that says what the node has.
    pub(crate) fn raylets(&self) -> Vec<u32> {
        let of_this = format!("--raylet_socket_name={}", self.folder.display());
        processes_that(|process| {
            let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            let mut words = command.split(|byte| *byte == 0);
            words.next().is_some_and(|program| program.ends_with(b"/raylet"))
                && words.any(|word| word.starts_with(of_this.as_bytes()))
        })
    }

    /// Runs Ray's command for jobs.
    pub(crate) fn job(&self, arguments: &[impl AsRef<OsStr>]) -> String {
        let (does, arguments) = arguments.split_first().unwrap();
        let mut job = Command::new(self.bin.join("ray"));
        job.env(AUTH_MODE, NO_TOKENS).arg("job").arg(does).args(["--address", &self.dashboard]).args(arguments);
        let output = job.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        said.into_owned()
    }
}

/// Its address on the network, as Ray finds it.
fn this_machine() -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: this asks which way it would go.
    let address = socket.connect("8.8.8.8:53").and_then(|()| socket.local_addr());
    address.map_or_else(|_| "127.0.0.1".to_owned(), |address| address.ip().to_string())
}

fn processes_that(are: impl Fn(u32) -> bool) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|process| are(*process)).collect()
}

fn parent(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    status.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// The processes that have started these: actors of Ray's.
pub(crate) fn parents(processes: &[u32]) -> Vec<u32> {
    let mut all: Vec<u32> = processes.iter().filter_map(|process| parent(*process)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The processes that this one has started: of a head its launcher.
pub(crate) fn children(of: u32) -> Vec<u32> {
    processes_that(|process| parent(process) == Some(of))
}
