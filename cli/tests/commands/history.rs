//! Queries from a folder, without a head or a token.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use regatta_observe::{Profile, QueryState};

use super::common::*;
use super::http;

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn regatta(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regatta"));
    // Whoever looks at a cluster all day has this set.
    command.env("REGATTA_ADDRESS", "127.0.0.1:1").env_remove("REGATTA_TOKEN");
    command.arg("--history").arg(folder).args(arguments).stdin(Stdio::piped()).output().unwrap()
}

#[test]
fn what_has_ended_is_said_from_its_file_and_what_cannot_be_read_hides_no_other() {
    let folder = Folder(std::env::temp_dir().join(format!("regatta-cli-history-{}", std::process::id())));
    fs::create_dir_all(&folder.0).unwrap();
    let mut first = profile();
    first.query.state = QueryState::Done;
    let mut second = first.clone();
    second.query.id = "00000abc00000009".to_owned();
    (second.query.state, second.query.error) = (QueryState::Failed, Some(format!("{HOSTILE}\nand more")));
    second.findings.clear();
    let put = |ms: u64, profile: &Profile| {
        fs::write(folder.0.join(format!("{ms:013}-{}.json", profile.query.id)), profile.to_json()).unwrap();
    };
    put(1, &first);
    put(2, &second);
    let says = |arguments: &[&str]| {
        let output = regatta(&folder.0, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", complained(&output));
        (said(&output), complained(&output))
    };
    let (queries, nothing) = says(&["queries"]);
    assert!(nothing.is_empty() && !queries.contains('\x1b') && !queries.contains("and more"), "{queries}");
    let lines: Vec<_> = queries.lines().collect();
    assert!(
        lines.len() == 3 && lines[1].contains("00000009") && lines[1].contains("failed"),
        "the newest first: {queries}"
    );
    let number = &first.query.id[8..];
    assert_eq!(says(&["query", number]).0.trim_end(), first.to_string().trim_end());
    assert_eq!(says(&["query", number, "--json"]).0.trim_end(), first.to_json());
    assert!(says(&["findings", number]).0.contains("(pool-bound)"));
    assert!(says(&["findings", "0009"]).0.ends_with("nothing was found to be wrong with it\n"));

    fs::write(folder.0.join("0000000000003-00000abc0000000a.json"), "{\"regatta_profile\": 1").unwrap();
    let (same, complaint) = says(&["queries"]);
    assert!(same == queries && complaint.contains("0000000a.json: this is not a profile"), "{complaint}");

    // What never ends, or whose end nobody brings, is not read; nor does a name write to the terminal.
    let endless = [("/dev/zero", "4-00000abc0000000b"), ("/proc/self/fd/0", "5-00000abc0000000c")];
    for (to, name) in endless {
        std::os::unix::fs::symlink(to, folder.0.join(format!("{name}.json"))).unwrap();
    }
    let large = fs::File::create(folder.0.join("6-\x1b[2J00000abc0000000d.json")).unwrap();
    large.set_len(1 << 40).unwrap();
    let (same, complaint) = says(&["queries"]);
    assert!(same == queries && complaint.lines().count() == 4 && !complaint.contains('\x1b'), "{complaint}");
    assert_eq!(complaint.matches("this is not a file of 64 MiB at most").count(), 3, "{complaint}");

    let fails = |arguments: &[&str]| {
        let output = regatta(&folder.0, arguments);
        (output.status.code(), complained(&output))
    };
    let (code, why) = fails(&["query", "ffff"]);
    assert!(code == Some(1) && why.contains("no query whose number ends with ffff"), "{why}");
    let (code, why) = fails(&["query", ""]);
    assert!(code == Some(1) && why.contains("several queries' numbers end with"), "{why}");
    let (code, why) = fails(&["workers"]);
    assert!(code == Some(2) && why.contains("a history has `queries`"), "{why}");
    let (code, why) = fails(&["query", "0000000a"]);
    assert!(code == Some(1) && why.contains("this is not a profile of a query"), "{why}");
}

#[test]
fn a_folder_that_is_not_there_is_said() {
    let output = regatta(Path::new("/no/such/folder"), &["queries"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complained(&output).contains("cannot read the history in /no/such/folder"), "{}", complained(&output));
}

#[test]
fn its_pages_are_served_without_a_head_and_nothing_can_be_done_there() {
    let folder = Folder(std::env::temp_dir().join(format!("regatta-cli-pages-{}", std::process::id())));
    fs::create_dir_all(&folder.0).unwrap();
    let mut ended = profile();
    ended.query.state = QueryState::Done;
    let put = |ms: u64, text: &str, id: &str| fs::write(folder.0.join(format!("{ms:013}-{id}.json")), text).unwrap();
    put(1, &ended.to_json(), &ended.query.id);
    put(2, "{", "00000abc0000000a");
    let mut command = Command::new(env!("CARGO_BIN_EXE_regatta"));
    command.env_remove("REGATTA_TOKEN").arg("--history").arg(&folder.0).args(["dashboard", "--listen", "127.0.0.1:0"]);
    let mut serving = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let url = BufReader::new(serving.0.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    let token = url.split("#t=").nth(1).unwrap().to_owned();
    let get = |path: &str| http(&url, "GET", path, &token);
    let number = &ended.query.id[8..];
    let (status, view) = get("/api/v1/cluster");
    assert!(
        status == 200 && view.contains(number) && !view.contains("0000000a"),
        "what cannot be read hides no other: {view}"
    );
    assert!(get(&format!("/api/v1/queries/{number}")).1.contains("\"done\""));
    assert!(get(&format!("/api/v1/queries/{number}/profile")).1.contains("demo::Embed"));
    assert!(get("/api/v1/findings").1.contains("pool-bound"));
    assert_eq!((get("/api/v1/queries/ffff").0, get("/api/v1/logs").0), (404, 200));
    assert_eq!(http(&url, "POST", &format!("/api/v1/queries/{number}/cancel"), &token).0, 403);
    assert_eq!(http(&url, "GET", "/api/v1/cluster", "no token").0, 401);
    // One that ends later is there without a new start.
    let mut later = ended.clone();
    later.query.id = "00000abc0000000b".to_owned();
    put(3, &later.to_json(), &later.query.id);
    let is_shown = |id: &str| {
        let until = Instant::now() + Duration::from_secs(20);
        while !get("/api/v1/cluster").1.contains(id) {
            assert!(Instant::now() < until, "{}", get("/api/v1/cluster").1);
            std::thread::yield_now();
        }
    };
    is_shown("0000000b");
    // So is one that had not all come when it was read first.
    later.query.id = "00000abc0000000a".to_owned();
    put(2, &later.to_json(), &later.query.id);
    is_shown("0000000a");
    let control = regatta(&folder.0, &["dashboard", "--control"]);
    assert!(control.status.code() == Some(2) && complained(&control).contains("without --control"), "{control:?}");
    let nowhere = regatta(Path::new("/nowhere/history"), &["dashboard"]);
    assert!(complained(&nowhere).contains("/nowhere/history"), "{}", complained(&nowhere));
}
