//! Hosts with a network of their own each: one is unplugged in the middle of a query, two do not reach each other, and the driver is
//! behind an address translation. Skipped where namespaces may not be made.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::{difference, eventually};

use crate::joined::{Joined, VALID};
use crate::phases::done;

/// Set in the process that is the network of a test: all hosts are started from it, and go with it.
const IS_NETWORK: &str = "REGATTA_TEST_NETWORK";
/// Set in a head: the file that it writes its tokens to.
const TOKENS: &str = "REGATTA_TEST_TOKENS";
const HEAD: &str = "10.77.0.2:7700";

/// Runs a test again in namespaces of its own. Whether this is that run.
fn is_alone(test: &str) -> bool {
    if std::env::var_os(IS_NETWORK).is_some() {
        return true;
    }
    let alone = |what: &mut Command| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]).arg(what.get_program());
        unshare.args(what.get_args()).env(IS_NETWORK, "1").status().is_ok_and(|status| status.success())
    };
    let may = "ip link add one type veth peer name two && nsenter --version && mount -t tmpfs tmpfs /mnt";
    if !alone(Command::new("sh").args(["-c", may])) {
        println!("not run: no networks of their own can be made here");
        return false;
    }
    let name = format!("networks::{test}");
    let again = alone(Command::new(std::env::current_exe().unwrap()).args([&*name, "--exact", "--nocapture"]));
    assert!(again, "see what it printed above");
    false
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

/// A machine: a network and a scratch folder that no other one sees, and a cable to the router, which this process is.
struct Host {
    number: u32,
    /// Keeps its namespaces.
    keeper: Child,
    scratch: PathBuf,
}

impl Host {
    fn new(number: u32, scratch: &Path) -> Self {
        let mut unshare = Command::new("unshare");
        let keeper = unshare.args(["--net", "--mount", "sleep", "infinity"]).spawn().unwrap();
        let id = keeper.id();
        // A name of what the process runs: by then it has its namespaces.
        eventually("it has namespaces", || {
            std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim() == "sleep")
        });
        let host = Self { number, keeper, scratch: scratch.to_owned() };
        ip(&format!("link add h{number} type veth peer name eth0 netns {id}"));
        ip(&format!("addr add 10.77.{number}.1/24 dev h{number}"));
        host.plug("up");
        let inside = format!(
            "ip link set lo up && ip addr add 10.77.{number}.2/24 dev eth0 && ip link set eth0 up && \
             ip route add default via 10.77.{number}.1 && mount -t tmpfs tmpfs {}",
            scratch.display()
        );
        run(host.command("sh").args(["-c", &inside]));
        host
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.keeper.id().to_string(), "--net", "--mount", program]);
        command
    }

    /// Its cable, `up` or `down`.
    fn plug(&self, how: &str) {
        ip(&format!("link set h{} {how}", self.number));
    }

    fn reaches_not(&self, other: &Self) {
        let route = format!("ip route add unreachable 10.77.{}.0/24", other.number);
        run(self.command("sh").args(["-c", &route]));
    }

    fn start(&self, test: &str, variables: &[(&str, &str)]) -> Joined {
        let scratch = [("REGATTA_SCRATCH", self.scratch.to_str().unwrap())];
        let command = self.command(std::env::current_exe().unwrap().to_str().unwrap());
        Joined::start(command, test, &[&scratch, variables].concat())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// A head and two workers, and a driver that reaches them.
struct Hosts {
    session: Session,
    workers: [Joined; 2],
    hosts: [Host; 3],
    _folder: tempfile::TempDir,
}

impl Hosts {
    fn start(are_apart: bool) -> Self {
        ip("link set lo up");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (scratch, tokens) = (folder.path().join("scratch"), folder.path().join("tokens"));
        std::fs::create_dir(&scratch).unwrap();
        let hosts = [0, 1, 2].map(|number| Host::new(number, &scratch));
        if are_apart {
            hosts[1].reaches_not(&hosts[2]);
            hosts[2].reaches_not(&hosts[1]);
        }
        let head = hosts[0].start("networks::serves_until_it_is_killed", &[(TOKENS, tokens.to_str().unwrap())]);
        // It goes with the network.
        std::mem::forget(head);
        eventually("there is a head", || tokens.exists());
        let tokens = std::fs::read_to_string(&tokens).unwrap();
        let (worker, driver) = tokens.split_once(' ').unwrap();
        let join = [("REGATTA_JOIN", HEAD), ("REGATTA_TOKEN", worker)];
        let workers = [1, 2].map(|host| hosts[host].start("regatta_worker", &join));
        let session = Session::connect(&translated(HEAD.parse().unwrap()).to_string(), driver).unwrap();
        eventually("all have joined", || session.status().unwrap().workers.len() == 2);
        Self { session, workers, hosts, _folder: folder }
    }
}

/// An address from which packets go on to another, as from a port of this machine for each that sends some.
fn translated(to: SocketAddr) -> SocketAddr {
    let inner = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
    let address = inner.local_addr().unwrap();
    thread::spawn(move || {
        let (mut outer, mut packet) = (HashMap::<SocketAddr, Arc<UdpSocket>>::new(), [0; 1 << 16]);
        while let Ok((len, from)) = inner.recv_from(&mut packet) {
            let outer = outer.entry(from).or_insert_with(|| {
                let (outer, inner) = (Arc::new(UdpSocket::bind("10.77.0.1:0").unwrap()), Arc::clone(&inner));
                let back = Arc::clone(&outer);
                thread::spawn(move || {
                    let mut packet = [0; 1 << 16];
                    while let Ok((len, _)) = back.recv_from(&mut packet) {
                        let _ = inner.send_to(&packet[..len], from);
                    }
                });
                outer
            });
            let _ = outer.send_to(&packet[..len], to);
        }
    });
    address
}

/// Started by the tests below: a head, until its network ends.
#[test]
fn serves_until_it_is_killed() {
    let Ok(tokens) = std::env::var(TOKENS) else { return };
    let cluster = Cluster::serve(HEAD).unwrap();
    let (worker, driver) = (cluster.worker_token(2, VALID).unwrap(), cluster.driver_token(1, VALID).unwrap());
    let written = format!("{tokens}.new");
    std::fs::write(&written, format!("{worker} {driver}")).unwrap();
    std::fs::rename(written, tokens).unwrap();
    cluster.session().until_terminated().unwrap();
}

/// Rows that are moved in about five megabytes, which do not get smaller when they are compressed.
fn counted() -> LazyFrame {
    let scrambled = |n: i64| ((col("id") + lit(n)) * lit(6_364_136_223_846_793_005_i64)).alias(format!("x{n}"));
    let rows = df!["id" => (0..100_000_i64).collect::<Vec<_>>()].unwrap().lazy().into_partitions(12);
    let sums: Vec<_> = (0..5).map(|n| (col(format!("x{n}")) % lit(1_000)).sum()).collect();
    rows.with_columns((0..5).map(scrambled).collect::<Vec<_>>())
        .repartition(9, [col("id")])
        .group_by([col("id") % lit(10)])
        .agg([vec![len(), col("id").sum().alias("ids")], sums].concat())
}

/// Whether a query finds that what it reads goes by way of another host.
fn is_relayed(session: &Session) -> bool {
    let mut run = session.submit(counted()).unwrap();
    assert_eq!(difference(&run.collect().unwrap(), &counted().collect().unwrap(), false, &[]), None);
    let profile = run.profile().unwrap();
    profile.findings.iter().any(|finding| finding.id == "relayed")
}

#[test]
fn a_host_that_is_unplugged_in_the_middle_costs_time_and_no_answer() {
    if !is_alone("a_host_that_is_unplugged_in_the_middle_costs_time_and_no_answer") {
        return;
    }
    let Hosts { session, mut workers, hosts, _folder } = Hosts::start(false);
    assert!(!is_relayed(&session), "all reach each other");
    let mut run = session.submit(counted()).unwrap();
    // The first stage has ended, or nearly: the other host has half of what the second reads.
    while done(&run) < 11 {
        thread::yield_now();
    }
    hosts[2].plug("down");
    assert_eq!(difference(&run.collect().unwrap(), &counted().collect().unwrap(), false, &[]), None);
    let ended = workers[1].ends_within(Duration::from_secs(20));
    assert!(ended.is_some_and(|status| status.success()), "it has ended by itself: {ended:?}");
    hosts[2].plug("up");
    assert_eq!(difference(&counted().collect_on(&session).unwrap(), &counted().collect().unwrap(), false, &[]), None);
    assert!(workers[0].ends_within(Duration::ZERO).is_none(), "the other one goes on");
}

#[test]
fn hosts_that_do_not_reach_each_other_read_by_way_of_the_head_and_a_finding_says_so() {
    if !is_alone("hosts_that_do_not_reach_each_other_read_by_way_of_the_head_and_a_finding_says_so") {
        return;
    }
    let Hosts { session, .. } = &Hosts::start(true);
    assert!(is_relayed(session));
}
