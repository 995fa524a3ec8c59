//! Each command by its binary, against a head that shows what it was made with: what it says, how it ends, and who gets nothing.

mod common;
mod exporting;
mod history;
mod top;

use std::io::{BufRead, BufReader};
use std::process::Command;

use common::*;
use regatta_observe::{Order, TokenRole};
use regatta_remote::Role;

fn golden(name: &str) -> String {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../observe/golden").join(name);
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn every_command_says_what_the_head_shows() {
    let made = Made::new(view(), profile());
    let token = made.token(Role::Observer);
    let says = |arguments: &[&str]| {
        let output = made.regatta(&token, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", complained(&output));
        said(&output)
    };
    assert_eq!(says(&["status"]), view().to_string());
    let expected =
        "query 00000007 nightly  0:42  stage 2 of 4, 311 of 512 tasks, 86 k rows/s: scan lineitem.parquet, Embed";
    assert!(says(&["status"]).contains(expected), "{}", says(&["status"]));
    assert!(says(&["status", "0008"]).contains("query 00000008"));
    assert!(says(&["status", "0006"]).contains("failed after 3 s: stage 1, task 3, attempt 5 on worker 1"));
    let (running, all) = (says(&["queries"]), says(&["queries", "--all"]));
    assert_eq!((running.lines().count(), all.lines().count()), (3, 4));
    assert!(all.contains("00000006  -        failed") && !running.contains("failed"), "{all}");
    let workers = says(&["workers"]);
    assert!(
        workers.contains("     2  3.5 of 4   3.8") && workers.contains("4+4  silent for 4 s  10.0.0.2:7001"),
        "{workers}"
    );
    assert!(says(&["pools"]).contains("demo::Embed      4"));
    assert_eq!(says(&["query", "0007"]), golden("pipeline.txt"));
    assert_eq!(says(&["profile", "0007"]), golden("pipeline.txt"));
    assert_eq!(says(&["query", "0007", "--full"]), golden("pipeline_full.txt"));
    assert_eq!(says(&["query", "0007", "--format", "mermaid"]), golden("pipeline.mmd"));
    assert_eq!(says(&["query", "0007", "--format", "json"]).trim_end(), golden("pipeline.json").trim_end());
    assert_eq!(says(&["query", "0007", "--explain"]), golden("plan.txt"));
    assert_eq!(says(&["query", "0007", "--explain", "--format", "dot"]).trim_end(), golden("plan.dot").trim_end());
    let file = made.file("page.html", "");
    assert_eq!(says(&["query", "0007", "--format", "html", "-o", file.to_str().unwrap()]), "");
    assert!(std::fs::read_to_string(file).unwrap().starts_with("<!doctype html>"));
    let found = says(&["findings"]);
    assert!(
        found.contains("  stage 1: tasks waited 1923 s for demo::Embed") && found.contains("(pool-bound)"),
        "{found}"
    );
    assert!(says(&["findings", "0006"]).ends_with("nothing was found to be wrong with it\n"));
}

#[test]
fn json_is_one_value_of_what_is_shown() {
    let made = Made::new(view(), profile());
    let token = made.token(Role::Operator);
    let says = |arguments: &[&str]| -> serde_json::Value {
        let output = made.regatta(&token, &[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", complained(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let status = says(&["status"]);
    assert_eq!((&status["fleet"]["workers"], status["queries"].as_array().unwrap().len()), (&3.into(), 3));
    assert_eq!(says(&["queries"]).as_array().unwrap().len(), 2);
    assert_eq!(says(&["workers"])[2]["silent"], 4 * SECOND);
    assert_eq!(says(&["query", "0007"])["regatta_profile"], 1);
    assert_eq!(says(&["findings"])[0]["findings"][0]["id"], "pool-bound");
    assert_eq!(says(&["cancel", "0007"])["state"], "cancelled");
    assert_eq!(says(&["token", "driver"])["token"], "04made");
}

#[test]
fn an_operator_cancels_and_makes_tokens_and_an_observer_does_neither() {
    let made = Made::new(view(), profile());
    let (observer, operator) = (made.token(Role::Observer), made.token(Role::Operator));
    for arguments in [&["cancel", "0007"][..], &["token", "worker"], &["drain", "0"]] {
        let output = made.regatta(&observer, arguments);
        assert_eq!((output.status.code(), said(&output)), (Some(4), String::new()));
        assert!(complained(&output).contains("needs one of Cluster::operator_token"), "{}", complained(&output));
    }
    assert!(made.orders().is_empty(), "nothing has reached who does it");
    let output = made.regatta(&operator, &["cancel", "0007"]);
    assert_eq!(said(&output), "query 00000007 nightly was cancelled after 42 s\n");
    let output = made.regatta(&operator, &["token", "worker", "--uses", "8", "--for", "10m"]);
    assert_eq!(said(&output), "04made\n");
    made.regatta(&operator, &["token", "observer"]);
    let output = made.regatta(&operator, &["drain", "0", "--within", "30s"]);
    assert!(said(&output).starts_with("worker 0 leaves, within 30 s at most"), "{}", complained(&output));
    assert_eq!(made.regatta(&operator, &["drain", "9"]).status.code(), Some(1));
    let token = |role, uses, seconds| Order::Token { role, uses, seconds };
    let wanted = [
        Order::Cancel { query: "0007".to_owned() },
        token(TokenRole::Worker, 8, 600),
        token(TokenRole::Observer, u32::MAX, 3600),
        Order::Drain { worker: 0, seconds: 30 },
        Order::Drain { worker: 9, seconds: 300 },
    ];
    assert_eq!(made.orders(), wanted);
    assert_eq!(
        made.regatta(&operator, &["token", "operator"]).status.code(),
        Some(2),
        "only the head's program makes those"
    );
}

#[test]
fn jobs_are_submitted_by_their_programs_build_and_followed_to_their_end() {
    let made = Made::new(view(), profile());
    let (observer, operator) = (made.token(Role::Observer), made.token(Role::Operator));
    let table = said(&made.regatta(&observer, &["jobs"]));
    let lines: Vec<_> = table.lines().collect();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(lines[0]), "JOB STATE TIME ARGUMENTS HOW IT ENDED");
    assert_eq!(words(lines[2]), "2 failed 2:04 exit status: 3");
    assert_eq!(lines[3], "  1  running  1:02  nightly --date 2026-11-30");
    assert!(table.chars().all(|c| c == '\n' || !c.is_control()), "{table:?}");
    let program = made.file("program", "no ELF");
    let name = program.to_str().unwrap();
    for arguments in [&["submit", "--", name, "x"][..], &["jobs", "stop", "1"]] {
        assert_eq!(made.regatta(&observer, arguments).status.code(), Some(4), "{arguments:?}");
    }
    let output = made.regatta(&operator, &["submit", "--", name, "nightly", "--date", "-3"]);
    let followed = said(&output);
    assert!(followed.starts_with("job 3 (nightly --date -3) runs, for 0:00\none\n"), "{followed}");
    assert!(followed.contains("\nthree\njob 3 (nightly ") && followed.trim_end().ends_with(" is done, after 3:06"));
    assert!(followed.chars().all(|c| c == '\n' || !c.is_control()), "{followed:?}");
    let output = made.regatta(&operator, &["jobs", "log", "-f", "2"]);
    assert_eq!((output.status.code(), said(&output).lines().count()), (Some(1), 3));
    assert!(complained(&output).contains("job 2 failed after 2:04: exit status: 3"), "{}", complained(&output));
    let json = said(&made.regatta(&operator, &["jobs", "log", "1", "--json"]));
    assert_eq!(json.lines().next().unwrap(), r#"{"job":1,"line":"one"}"#);
    made.regatta(&operator, &["jobs", "stop", "1"]);
    let build = "21acf3822c030924a7c3d0a305e1c5a576c0cd50b0d9096d065ff28fc1c4a783".to_owned();
    let arguments = ["nightly", "--date", "-3"].map(str::to_owned).to_vec();
    assert_eq!(made.orders(), [Order::Submit { arguments, build }, Order::Stop { job: 1 }]);
    let nowhere = made.regatta(&operator, &["submit", "--", "/nowhere"]);
    assert!(complained(&nowhere).contains("/nowhere cannot be read"), "{}", complained(&nowhere));
}

#[test]
fn each_way_to_fail_has_its_exit_code_and_says_what_to_do() {
    let made = Made::new(view(), profile());
    let (token, address) = (made.token(Role::Observer), made.address());
    let other = Made::new(view(), profile());
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = silent.local_addr().unwrap().to_string();
    let at =
        |address: &str, token: &str| regatta(&[("REGATTA_ADDRESS", address), ("REGATTA_TOKEN", token)], &["status"]);
    let expired = made.authority.token_for(9, Role::Observer, std::time::Duration::ZERO).unwrap().to_string();
    let revoked = made.authority.token(Role::Observer, std::time::Duration::from_secs(60)).unwrap();
    assert!(made.authority.revoke(&revoked));
    for (output, code, why) in [
        (made.regatta(&token, &["query", "ffff"]), 1, "no query is known whose number ends with \"ffff\""),
        (regatta(&[("REGATTA_TOKEN", &token)], &["status"]), 2, "--connect host:port"),
        (regatta(&[("REGATTA_ADDRESS", &address)], &["status"]), 2, "--token-file"),
        (made.regatta(&token, &["top"]), 2, "top needs a terminal"),
        (made.regatta(&token, &["sing"]), 2, "unrecognized subcommand"),
        (at(&nobody, &token), 3, "no answer from"),
        (at("nowhere", &token), 3, "host:port"),
        (at(&address, "04nonsense"), 4, "copy the whole text"),
        (at(&address, &made.token(Role::Worker)), 4, "is of the role worker: looking at a cluster needs one of"),
        (at(&address, &made.token(Role::Driver)), 4, "is of the role driver"),
        (at(&address, &other.token(Role::Observer)), 4, "of another cluster than the token"),
        (at(&address, &expired), 4, "expired"),
        (at(&address, &revoked.to_string()), 4, "revoked"),
    ] {
        assert_eq!(
            (output.status.code(), said(&output)),
            (Some(code), String::new()),
            "{why}: {}",
            complained(&output)
        );
        assert!(complained(&output).contains(why), "{why}: {}", complained(&output));
        assert!(!complained(&output).contains(&token), "a token is a secret");
    }
    let file = made.file("token", &format!("{token}\n"));
    let by_file = regatta(&[], &["--connect", &address, "--token-file", file.to_str().unwrap(), "workers"]);
    assert!(by_file.status.success(), "{}", complained(&by_file));
}

#[test]
fn lines_of_the_log_are_one_each_and_follow_each_other() {
    let made = Made::new(view(), profile());
    let token = made.token(Role::Observer);
    let text = said(&made.regatta(&token, &["logs"]));
    let lines: Vec<_> = text.lines().collect();
    let first = "22:13:23.205 worker 0 query 00000007 stage 1 demo::Embed rank 1 INFO regatta::output: weights 61 %";
    assert_eq!((lines.len(), lines[0]), (5, first), "{text}");
    assert_eq!(lines[3], "(7 lines were forgotten before they could be shown)");
    assert_eq!(lines[4], "(worker 1 does not say: no answer before the deadline)");
    let json = said(&made.regatta(&token, &["logs", "--worker", "2", "--json"]));
    let line: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!((&line["worker"], &line["text"]), (&2.into(), &"weights 62 %".into()));
    // Of a worker that says nothing there is nothing; of one that is not there, or a query, that is said.
    assert_eq!(made.regatta(&token, &["logs", "--worker", "1"]).status.code(), Some(0));
    for (of, says) in [
        (&["logs", "--worker", "77"][..], "worker 77 is not there; there are 0, 1"),
        (&["logs", "--worker", "1", "--query", "9999"], "no query is known whose number ends with \"9999\""),
    ] {
        let output = made.regatta(&token, of);
        assert!(output.status.code() == Some(1) && complained(&output).contains(says), "{output:?}");
    }
    // Whoever follows gets each line once, and nobody else waits for it, however slow it is.
    let mut follower = made.start(&token, &["logs", "-f", "-n", "1", "--json"]);
    let mut read = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    for number in 1..=3 {
        let line: serde_json::Value = serde_json::from_str(&read.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["number"], number);
    }
    // One whose reader has gone ends.
    let mut watcher = made.start(&token, &["status", "--watch"]);
    drop(watcher.0.stdout.take());
    assert!(watcher.0.wait().unwrap().success());
    let stopped = Command::new("kill").args(["-STOP", &follower.0.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    for _ in 0..5 {
        assert!(made.regatta(&token, &["status"]).status.success());
    }
}

#[test]
fn eleven_wrong_tokens_get_nothing_and_slow_nobody_down_for_long() {
    let made = Made::new(view(), profile());
    let token = made.token(Role::Observer);
    for _ in 0..11 {
        let output = made.regatta(&made.forged(Role::Observer), &["status"]);
        assert_eq!((output.status.code(), said(&output)), (Some(4), String::new()), "{}", complained(&output));
        assert!(complained(&output).contains("does not know this token"), "{}", complained(&output));
    }
    assert!(made.regatta(&token, &["status"]).status.success());
}

#[test]
fn why_a_query_is_not_further_and_all_figures_are_said() {
    let made = Made::new(view(), profile());
    let token = made.token(Role::Observer);
    let says = |arguments: &[&str]| said(&made.regatta(&token, arguments));
    let why = says(&["why", "0007"]);
    assert!(why.starts_with("query 00000007 nightly has run for 0:42\n"), "{why}");
    assert!(why.ends_with("; 2 queries run, 14.0 CPU of work waits for room\n"), "{why}");
    let failed = says(&["why", "0006"]);
    assert!(
        failed.contains(" failed after 3 s: stage 1") && failed.ends_with("nothing was found to be wrong with it\n"),
        "{failed}"
    );
    let json: serde_json::Value = serde_json::from_str(&says(&["why", "0007", "--json"])).unwrap();
    assert_eq!(json["query"]["row"]["name"], "nightly");
    let metrics = says(&["metrics"]);
    assert!(
        metrics.contains("\nregatta_query_running 2\n")
            && metrics.contains("regatta_worker_cpu_busy{worker=\"1\"} 2.5\n"),
        "{metrics}"
    );
}

#[test]
fn the_doctor_says_what_is_well_and_what_is_not_and_what_to_do() {
    let made = Made::new(view(), profile());
    let token = made.token(Role::Observer);
    let output = made.regatta(&token, &["doctor"]);
    let lines = said(&output);
    assert_eq!((output.status.code(), complained(&output).as_str()), (Some(1), "regatta: 1 thing is wrong\n"));
    let starts: Vec<_> =
        lines.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(starts, ["ok token", "ok head", "ok answers", "ok workers", "!! workers"], "{lines}");
    assert!(lines.contains("worker 2 has been silent for 4 s: its machine or the way there"), "{lines}");
    let mut well = view();
    well.workers.iter_mut().for_each(|worker| worker.silent = None);
    let made = Made::new(well, profile());
    let token = made.token(Role::Observer);
    let output = made.regatta(&token, &["doctor", "--json"]);
    assert!(output.status.success(), "{}", complained(&output));
    let checks: serde_json::Value = serde_json::from_str(&said(&output)).unwrap();
    assert!(checks.as_array().unwrap().iter().all(|check| check["ok"] == true), "{checks}");
    let address = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = regatta(&[("REGATTA_ADDRESS", &address), ("REGATTA_TOKEN", &token)], &["doctor"]);
    assert_eq!(
        (output.status.code(), said(&output).lines().last().map(|line| line.starts_with("!!  head"))),
        (Some(3), Some(true)),
        "{output:?}"
    );
    let both = said(&output) + &complained(&output);
    assert_eq!(both.matches(&address).count(), 1, "it is said once: {both}");
}

/// What a dashboard answers.
fn http(url: &str, method: &str, path: &str, token: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[test]
fn pages_are_served_beside_the_head_and_control_is_an_operators() {
    let made = Made::new(view(), profile());
    let (observer, operator) = (made.token(Role::Observer), made.token(Role::Operator));
    let start = |token: &str, control: &[&str]| {
        let mut serving = made.start(token, &[&["dashboard", "--listen", "127.0.0.1:0"], control].concat());
        let url = BufReader::new(serving.0.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        let token = url.split("#t=").nth(1).unwrap().to_owned();
        (serving, url, token)
    };
    let cancel = "/api/v1/queries/0007/cancel";
    let (_serving, url, token) = start(&observer, &[]);
    assert!(url.starts_with("http://127.0.0.1:") && token.len() == 64, "{url}");
    let (status, view) = http(&url, "GET", "/api/v1/cluster", &token);
    assert!(status == 200 && view.contains("\"nightly\""), "{status} {view}");
    assert!(http(&url, "GET", "/api/v1/queries/0007/profile", &token).1.contains("demo::Embed"));
    assert!(http(&url, "GET", "/metrics", &token).1.contains("regatta_query_running 2\n"));
    assert_eq!(http(&url, "GET", "/api/v1/queries/ffff", &token).0, 404);
    // A head that was lost is found again.
    made.head.peers().into_iter().for_each(|peer| made.head.disconnect(peer.node));
    assert_eq!(http(&url, "GET", "/api/v1/logs", &token).0, 200);
    assert_eq!(http(&url, "GET", "/api/v1/cluster", &observer).0, 401, "that is the cluster's, not the dashboard's");
    assert_eq!(http(&url, "POST", cancel, &token).0, 403);
    let output = made.regatta(&observer, &["dashboard", "--listen", "127.0.0.1:0", "--control"]);
    assert!(output.status.code() == Some(4) && complained(&output).contains("Cluster::operator_token"), "{output:?}");
    assert!(made.orders().is_empty());
    let (_serving, url, token) = start(&operator, &["--control"]);
    assert_eq!(http(&url, "POST", cancel, &token).0, 200);
    assert_eq!(made.orders(), [Order::Cancel { query: "0007".to_owned() }]);
}

#[test]
fn names_and_words_of_others_stay_text_at_the_terminal() {
    let mut view = view();
    let hostile = || HOSTILE.to_owned();
    for row in &mut view.queries {
        (row.name, row.doing, row.error, row.driver) = (Some(hostile()), hostile(), Some(hostile()), Some(hostile()));
        row.waits = vec![hostile()];
    }
    view.workers.iter_mut().for_each(|row| row.address = Some(hostile()));
    view.pools.iter_mut().for_each(|row| (row.udf, row.starting) = (hostile(), vec![Some(hostile())]));
    view.not_joined = Some((1, hostile()));
    let mut profile = profile();
    profile.query.name = Some(hostile());
    profile.plan.nodes.iter_mut().for_each(|node| node.label = hostile());
    profile.pools.iter_mut().for_each(|pool| pool.udf = hostile());
    profile.findings.iter_mut().for_each(|finding| finding.says = hostile());
    let made = Made::new(view, profile);
    let token = made.token(Role::Operator);
    for arguments in [
        &["status"][..],
        &["status", "0007"],
        &["status", "0006"],
        &["queries", "--all"],
        &["workers"],
        &["pools"],
        &["query", "0007", "--full"],
        &["findings"],
        &["logs"],
        &["cancel", "0007"],
        &["query", HOSTILE],
    ] {
        let output = made.regatta(&token, arguments);
        for text in [said(&output), complained(&output)] {
            let is_text =
                text.chars().all(|c| c == '\n' || !(c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)));
            assert!(is_text, "{arguments:?}: {text:?}");
        }
        assert!(!output.stdout.is_empty() || !output.stderr.is_empty());
    }
}
