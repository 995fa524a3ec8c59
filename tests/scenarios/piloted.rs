//! Workers in places that a pilot gives: this test binary plays the pilot, too, a good one or a bad one.

use std::fs::{self, File};
use std::io::{BufRead, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use regatta::error::ClusterError;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::{Config, Error, Pilot};
use serde_json::{Value, json};

use crate::endings::is_alive;
use crate::errors::says;
use crate::udfs::{Process, numbers, row_groups};

const AS_PILOT: &str = "REGATTA_TEST_AS_PILOT";

/// What a pilot does, and notes in a folder which its processes are.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A pilot that does this, for so many workers.
    fn pilot(&self, does: &str, workers: std::ops::RangeInclusive<usize>) -> Pilot {
        // What libtest prints is not to come between its events, which go to a descriptor of their own.
        let shell = format!(
            "exec env {AS_PILOT}=\"$1\" REGATTA_TEST_FOLDER=\"$2\" \"$0\" piloted::is_a_pilot --exact --nocapture 3>&1 1>/dev/null"
        );
        let program = std::env::current_exe().unwrap().display().to_string();
        let folder = self.path().display().to_string();
        Pilot::new(["sh".to_owned(), "-c".to_owned(), shell, program, does.to_owned(), folder], workers)
    }

    /// Processes of workers that have not ended, as the pilot knows.
    fn workers(&self) -> Vec<u32> {
        let names = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.strip_prefix("worker-")?.parse().ok()).collect()
    }

    fn pilot_process(&self) -> u32 {
        fs::read_to_string(self.path().join("pilot")).unwrap().trim().parse().unwrap()
    }

    /// Lets what waits for it go on.
    fn open(&self, gate: &str) {
        File::create(self.path().join(gate)).unwrap();
    }
}

/// Reacts at once, and lets queries wait for this long.
fn eager(worker_timeout: Duration) -> Config {
    Config {
        autoscaler_update_interval: Duration::from_millis(50),
        autoscaling_downscale_idle: Duration::from_millis(100),
        autoscaling_min_survivor_workers: 0,
        pool_warm: Duration::ZERO,
        worker_timeout,
        ..Config::default()
    }
}

/// Processes of a machine that is busy take their time.
#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(40);
    while !condition() {
        assert!(Instant::now() < until, "not within 40 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const LONG: Duration = Duration::from_secs(60);

fn serve(pilot: Pilot, config: Config) -> Result<Cluster, Error> {
    Cluster::serve_by_with("127.0.0.1:0", pilot, config)
}

fn kill(process: u32) {
    assert!(Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
}

fn slow_query(folder: &Path) -> LazyFrame {
    row_groups(folder, 3000).with_column(Process.pool().replicas(1..=4).batch(20).on([col("x")]).alias("process"))
}

fn sum(frame: &DataFrame) -> i64 {
    frame.column("x").unwrap().i64().unwrap().sum().unwrap()
}

/// The pilot of the tests below.
#[test]
fn is_a_pilot() {
    let Ok(does) = std::env::var(AS_PILOT) else { return };
    let folder = PathBuf::from(std::env::var_os("REGATTA_TEST_FOLDER").unwrap());
    // Whole as soon as it is there.
    fs::write(folder.join("new"), std::process::id().to_string()).unwrap();
    fs::rename(folder.join("new"), folder.join("pilot")).unwrap();
    let out = Arc::new(Mutex::new(File::options().write(true).open("/proc/self/fd/3").unwrap()));
    let say = |event: Value| {
        let mut line = event.to_string();
        line.push('\n');
        // Fails if nobody listens any more.
        let _ = out.lock().unwrap().write_all(line.as_bytes());
    };
    let raw = |text: &[u8]| drop(out.lock().unwrap().write_all(text));
    let misbehaves = |moment: &str| match does.strip_suffix(moment).map(|what| what.trim_end_matches(' ')) {
        Some("rubbish") => raw(b"Traceback (most recent call last):\n"),
        Some("flood") => raw(&vec![b'x'; 1 << 20]),
        Some("exit") => {
            eprintln!("the mast broke");
            std::process::exit(7);
        }
        Some("mute") => loop {
            std::thread::park();
        },
        Some("lie") => say(json!({"event": "placed", "berth": 99})),
        _ => (),
    };
    misbehaves("at start");
    say(json!({"event": "ready", "host": null}));
    misbehaves("after ready");
    let children: Arc<Mutex<Vec<(u64, Child)>>> = Arc::default();
    let is_open = |gate: &str| folder.join(gate).exists();
    for line in std::io::stdin().lines() {
        let order: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let berth = order["berth"].as_u64().unwrap_or_default();
        match order["do"].as_str().unwrap() {
            "ping" => say(json!({"event": "pong"})),
            "place" => {
                misbehaves("at place");
                if does != "has no room" {
                    say(json!({"event": "placed", "berth": berth}));
                }
            }
            "run" => {
                misbehaves("at run");
                while does == "is late" && !is_open("gate") {
                    std::thread::sleep(Duration::from_millis(5));
                }
                let argv: Vec<_> =
                    order["argv"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
                let argv = match &*does {
                    "starts sleepers" => vec!["sleep", "1000"],
                    "starts what ends" => vec!["sh", "-c", "echo no such port; exit 3"],
                    _ => argv,
                };
                for _ in 0..if does == "starts each twice" { 2 } else { 1 } {
                    let env = order["env"].as_object().unwrap().iter();
                    let mut child = Command::new(argv[0])
                        .args(&argv[1..])
                        .envs(env.map(|(name, value)| (name, value.as_str().unwrap())))
                        .env_remove(AS_PILOT)
                        .stdin(Stdio::null())
                        .stdout(Stdio::piped())
                        .spawn()
                        .unwrap();
                    let note = folder.join(format!("worker-{}", child.id()));
                    fs::write(&note, "").unwrap();
                    let (pipe, out, children) = (child.stdout.take(), Arc::clone(&out), Arc::clone(&children));
                    let process = child.id();
                    children.lock().unwrap().push((berth, child));
                    std::thread::spawn(move || {
                        let last: Vec<_> =
                            std::io::BufReader::new(pipe.unwrap()).lines().map_while(Result::ok).collect();
                        let (mut child, others) = {
                            let mut children = children.lock().unwrap();
                            let at = children.iter().position(|(_, child)| child.id() == process).unwrap();
                            (children.swap_remove(at).1, children.iter().filter(|(of, _)| *of == berth).count())
                        };
                        let status = child.wait().unwrap();
                        fs::remove_file(note).unwrap();
                        if others > 0 {
                            return;
                        }
                        let why = format!("its process ended ({status})");
                        let line = json!({"event": "ended", "berth": berth, "why": why, "last": last});
                        drop(writeln!(out.lock().unwrap(), "{line}"));
                    });
                }
                misbehaves("after run");
            }
            // Too late, as over a network that is slow.
            "end" if does == "is late" => (),
            "end" => {
                let mut children = children.lock().unwrap();
                children.iter_mut().filter(|(of, _)| *of == berth).for_each(|(_, child)| child.kill().unwrap());
            }
            order => panic!("{order}"),
        }
    }
    children.lock().unwrap().iter_mut().for_each(|(_, child)| drop(child.kill()));
}

/// An address of this machine that is not the loopback's, of which no two workers count as of one machine. Nothing is sent.
fn own_address() -> SocketAddr {
    let found = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    found.map_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 0)), |address| SocketAddr::new(address.ip(), 0))
}

#[test]
fn workers_come_with_the_work_and_go_and_come_again_on_the_same_machine() {
    let scene = Scene::new();
    let (address, pilot) = (own_address().to_string(), scene.pilot("as it should", 0..=3));
    let cluster = Cluster::serve_by_with(&address, pilot.cpus(0.5), eager(LONG)).unwrap();
    let session = cluster.session();
    assert!(scene.workers().is_empty());
    for round in 0..2 {
        let mut run = session.submit(slow_query(scene.path())).unwrap();
        eventually("three workers have joined", || session.status().unwrap().workers.len() == 3);
        assert_eq!(session.status().unwrap().workers[0].cpus.0, 0.5);
        assert_eq!(sum(&run.collect().unwrap()), 2999 * 1500, "round {round}");
        drop(run);
        eventually("all have gone", || session.status().unwrap().workers.is_empty() && scene.workers().is_empty());
        assert_eq!(session.status().unwrap().not_joined, None);
    }
}

#[test]
fn a_worker_that_dies_is_missed_at_once_and_another_takes_its_place() {
    let scene = Scene::new();
    let cluster = serve(scene.pilot("as it should", 2..=2), eager(LONG)).unwrap();
    let session = cluster.session();
    eventually("two workers have joined", || session.status().unwrap().workers.len() == 2);
    let mut run = session.submit(slow_query(scene.path())).unwrap();
    eventually("some tasks are done", || run.status().unwrap().unwrap().stages[0].tasks.2 > 0);
    let (before, since) = (scene.workers(), Instant::now());
    kill(before[0]);
    eventually("the pilot's word is proof", || session.status().unwrap().workers.len() == 1);
    assert!(since.elapsed() < Duration::from_secs(5), "not its silence, which takes ten");
    eventually("another has joined", || session.status().unwrap().workers.len() == 2);
    assert_eq!(sum(&run.collect().unwrap()), 2999 * 1500);
}

#[test]
fn what_is_waited_for_is_said_and_taken_back_when_nobody_wants_it_any_more() {
    let scene = Scene::new();
    let cluster = serve(scene.pilot("has no room", 0..=4), eager(Duration::from_secs(3))).unwrap();
    let session = cluster.session();
    let error = numbers().collect_on(session).unwrap_err();
    assert!(matches!(error, Error::Cluster(ClusterError::NoWorkers { .. })));
    says(&error, &["no worker for 3 s", "waits for 1 of sh -c exec env", "'s places, since", "Make room there"]);
    eventually("it is wanted no more", || session.status().unwrap().provider_waits.is_none());
}

#[test]
fn a_worker_that_was_taken_back_before_it_joined_is_let_in_no_more() {
    let scene = Scene::new();
    let cluster = serve(scene.pilot("is late", 0..=1), eager(LONG)).unwrap();
    let session = cluster.session();
    let run = session.submit(numbers()).unwrap();
    let waits = || session.status().unwrap().provider_waits;
    eventually("it is started", || waits().is_some_and(|waits| waits.contains("1 started by it to join")));
    drop(run);
    eventually("it is taken back", || waits().is_none());
    // The pilot reads that only after it has started it.
    scene.open("gate");
    eventually("it was started", || scene.path().join("pilot").exists() && !scene.workers().is_empty());
    eventually("and has ended", || scene.workers().is_empty());
    assert!(session.status().unwrap().workers.is_empty());
}

#[test]
fn a_worker_that_does_not_join_in_time_is_ended_and_said() {
    let scene = Scene::new();
    let pilot = scene.pilot("starts sleepers", 0..=1).join_timeout(Duration::from_secs(1));
    let cluster = serve(pilot, eager(Duration::from_secs(4))).unwrap();
    let error = numbers().collect_on(cluster.session()).unwrap_err();
    says(&error, &["no worker for 4 s", "the last: it was started and did not join within 1 s"]);
    drop(cluster);
    eventually("no sleeper is left", || scene.workers().iter().all(|process| !is_alive(*process)));
}

#[test]
fn a_worker_that_ends_before_it_joins_is_asked_for_again_and_its_last_words_are_said() {
    let scene = Scene::new();
    let cluster = serve(scene.pilot("starts what ends", 0..=1), eager(Duration::from_secs(2))).unwrap();
    let error = numbers().collect_on(cluster.session()).unwrap_err();
    let Error::Cluster(ClusterError::NoWorkers { not_joined: Some((count, _)), .. }) = &error else {
        panic!("{error}")
    };
    assert!(*count >= 3, "it backs off, and goes on: {count}");
    says(&error, &["its process ended (exit status: 3)", "no such port", "See why they ended"]);
}

#[test]
fn a_token_that_two_processes_have_lets_in_one_and_the_other_ends() {
    let scene = Scene::new();
    let cluster = serve(scene.pilot("starts each twice", 1..=1), eager(LONG)).unwrap();
    let session = cluster.session();
    let there = || (session.status().unwrap().workers.len(), scene.workers().len());
    eventually("one has joined, and the other has ended", || there() == (1, 1));
    assert_eq!(numbers().collect_on(session).unwrap().height(), 1000);
    assert_eq!(there(), (1, 1));
}

#[test]
fn a_pilot_that_cannot_begin_is_an_error_that_names_it() {
    let soon = Duration::from_secs(1);
    for (does, parts) in [
        ("rubbish at start", vec!["what is no event", "Traceback (most recent call last):"]),
        ("flood at start", vec!["a line of more than 65536 bytes"]),
        ("exit at start", vec!["has ended (exit status: 7)", "the mast broke"]),
        ("lie at start", vec!["does not say first that it is ready"]),
        ("mute at start", vec!["was not ready within 1 s"]),
    ] {
        let scene = Scene::new();
        // Long for those that do not wait for it: a process takes its time here.
        let timeout = if does.starts_with("mute") { soon } else { LONG };
        let error = serve(scene.pilot(does, 1..=1).ready_timeout(timeout), eager(LONG)).unwrap_err();
        assert!(matches!(error, Error::Cluster(ClusterError::Pilot { .. })), "{error}");
        says(&error, &[&["the pilot `sh -c exec env"], &parts[..]].concat());
        let process = scene.path().join("pilot");
        assert!(!process.exists() || !is_alive(scene.pilot_process()), "{does}: it is still there");
    }
    let none = serve(Pilot::new(["/no/such/program"], 1..=1), eager(LONG)).unwrap_err();
    says(&none, &["the pilot `/no/such/program` cannot be started", "No such file"]);
}

#[test]
fn a_pilot_that_breaks_at_any_moment_is_said_by_the_query_that_waits_and_leaves_nothing() {
    std::thread::scope(|scope| {
        for (does, part) in [
            ("rubbish after ready", "what is no event"),
            ("flood at place", "a line of more than 65536 bytes"),
            ("lie at place", "speaks of berth 99, which nobody asked for"),
            ("exit at place", "the mast broke"),
            ("exit at run", "has ended (exit status: 7)"),
            ("exit after run", "has ended (exit status: 7)"),
            ("mute at place", "has not answered within 1 s"),
        ] {
            scope.spawn(move || {
                let scene = Scene::new();
                let pilot = scene.pilot(does, 0..=1).answer_timeout(Duration::from_secs(1));
                let cluster = serve(pilot, eager(Duration::from_secs(8))).unwrap();
                let error = numbers().collect_on(cluster.session()).unwrap_err();
                says(&error, &["no worker for 8 s", "the pilot `sh -c exec env", part]);
                drop(cluster);
                let process = scene.pilot_process();
                eventually("no pilot is left", || !is_alive(process));
                eventually("no worker is left", || scene.workers().iter().all(|process| !is_alive(*process)));
            });
        }
    });
}

#[test]
fn a_query_outlives_its_pilot_which_is_started_again() {
    let scene = Scene::new();
    let cluster = serve(scene.pilot("as it should", 2..=2), eager(LONG)).unwrap();
    let session = cluster.session();
    eventually("two workers have joined", || session.status().unwrap().workers.len() == 2);
    let mut run = session.submit(slow_query(scene.path())).unwrap();
    eventually("some tasks are done", || run.status().unwrap().unwrap().stages[0].tasks.2 > 0);
    let (pilot, workers) = (scene.pilot_process(), scene.workers());
    kill(pilot);
    eventually("another is there", || scene.pilot_process() != pilot);
    // Nobody reaps those of a pilot that is gone; the head has let them go.
    eventually("workers of the old one end", || workers.iter().all(|process| !is_alive(*process)));
    assert_eq!(sum(&run.collect().unwrap()), 2999 * 1500);
}

/// Started by the test below: a head with two workers that a pilot has placed.
#[test]
fn is_a_head_with_a_pilot() {
    let Some(folder) = std::env::var_os("REGATTA_TEST_AS_PILOTED_HEAD") else { return };
    let folder = PathBuf::from(folder);
    let scene = Scene { folder: tempfile::Builder::new().prefix("of-").tempdir_in(&folder).unwrap() };
    let cluster = serve(scene.pilot("as it should", 2..=2), eager(LONG)).unwrap();
    eventually("two workers have joined", || cluster.session().status().unwrap().workers.len() == 2);
    let all: Vec<_> = scene.workers().into_iter().chain([scene.pilot_process()]).map(|id| id.to_string()).collect();
    fs::write(folder.join("new"), all.join(" ")).unwrap();
    fs::rename(folder.join("new"), folder.join("processes")).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_head_that_is_killed_leaves_no_pilot_and_no_worker() {
    let folder = tempfile::tempdir().unwrap();
    let mut head = Command::new(std::env::current_exe().unwrap())
        .args(["piloted::is_a_head_with_a_pilot", "--exact", "--nocapture"])
        .env("REGATTA_TEST_AS_PILOTED_HEAD", folder.path())
        .spawn()
        .unwrap();
    let list = folder.path().join("processes");
    eventually("it has workers", || list.exists());
    let processes: Vec<u32> =
        fs::read_to_string(list).unwrap().split(' ').map(|process| process.parse().unwrap()).collect();
    assert!(processes.len() == 3 && processes.iter().all(|process| is_alive(*process)));
    head.kill().unwrap();
    head.wait().unwrap();
    eventually("all of them have ended", || processes.iter().all(|process| !is_alive(*process)));
}
