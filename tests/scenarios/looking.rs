//! The `regatta` command on a cluster of processes: by the head's address and a token, from outside, and whoever else it serves.

use std::time::{Duration, Instant};

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::{Config, Error};
use regatta_cli::clap::Parser;
use regatta_cli::{Failure, Regatta};

use crate::joining::{cluster, connect, join, lose};
use crate::udfs::{Endless, Process, numbers};

const VALID: Duration = Duration::from_secs(600);

/// What a command says that knows the address and a token.
pub(crate) fn regatta(cluster: &Cluster, token: &str, arguments: &[&str]) -> Result<String, Failure> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, token).unwrap();
    let address = cluster.address().to_string();
    let first = ["regatta", "--connect", &address, "--token-file", file.to_str().unwrap()];
    let mut said = Vec::new();
    let command = Regatta::try_parse_from(first.iter().chain(arguments)).unwrap().command;
    command.execute(&mut said)?;
    Ok(String::from_utf8(said).unwrap())
}

fn endless() -> LazyFrame {
    numbers().with_column(Endless.pool().on([col("x")]).alias("y"))
}

/// The last digits of the one query that runs.
pub(crate) fn running(cluster: &Cluster, token: &str) -> String {
    let rows = || -> Vec<serde_json::Value> {
        serde_json::from_str(&regatta(cluster, token, &["queries", "--json"]).unwrap()).unwrap()
    };
    eventually("the query is shown", || !rows().is_empty());
    rows()[0]["id"].as_str().unwrap()[8..].to_owned()
}

#[test]
fn every_command_says_what_a_cluster_does_and_did() {
    let cluster = cluster();
    let _workers = join(&cluster, 2);
    let session = connect(&cluster);
    let token = cluster.observer_token(VALID).unwrap();
    let says = |arguments: &[&str]| regatta(&cluster, &token, arguments).unwrap();
    assert_eq!(says(&["queries"]), "no queries run\n");
    assert_eq!(says(&["pools"]), "no UDF has replicas\n");
    assert!(says(&["status"]).starts_with("2 workers, 0 of 2 CPU charged"), "{}", says(&["status"]));
    assert!(says(&["status"]).ends_with("0 queries run, 0 have ended\n"), "{}", says(&["status"]));
    let workers = says(&["workers"]);
    let lines: Vec<_> = workers.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("WORKER") && lines[2].contains("127.0.0.1:"), "{workers}");

    let done = numbers().with_column(Process.pool().on([col("x")]).alias("process")).filter(col("x").lt(lit(7)));
    let mut run = session.submit(done).unwrap();
    assert_eq!(run.collect().unwrap().height(), 7);
    let profile = run.profile().unwrap();
    drop(run);
    let id = &profile.query.id[8..];
    eventually("it has ended", || says(&["queries", "--all"]).contains(" done "));
    let all = says(&["queries", "--all"]);
    assert!(all.contains(id) && !all.contains(" head "), "it is of a driver elsewhere: {all}");
    // The same figures as the driver has, in the same words.
    let told = says(&["query", id]);
    let tree = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(tree(&told)[1..4], tree(&profile.to_string())[1..4], "{told}");
    assert!(says(&["query", id, "--explain"]).contains("then UDF"), "{}", says(&["query", id, "--explain"]));
    assert!(says(&["query", id, "--format", "svg"]).starts_with("<svg"));
    let json: serde_json::Value = serde_json::from_str(&says(&["query", id, "--json"])).unwrap();
    assert_eq!((&json["query"]["rows"], &json["query"]["id"]), (&7.into(), &profile.query.id.as_str().into()));
    assert!(says(&["status", id]).contains("is done: 7 rows"), "{}", says(&["status", id]));
    says(&["findings"]);
    says(&["findings", id]);
    let error = regatta(&cluster, &token, &["query", "not-a-number"]).unwrap_err();
    assert!(error.exit_code() == 1 && error.to_string().contains("last digits of its number"), "{error}");
}

#[test]
fn a_query_that_runs_is_shown_with_what_it_waits_for_and_ends_when_an_operator_cancels_it() {
    let cluster = cluster();
    let _workers = join(&cluster, 1);
    let session = connect(&cluster);
    let (observer, operator) = (cluster.observer_token(VALID).unwrap(), cluster.operator_token(VALID).unwrap());
    let mut run = session.submit(endless()).unwrap();
    let id = running(&cluster, &observer);
    eventually("its pool is shown", || regatta(&cluster, &observer, &["pools"]).unwrap().contains("Endless"));
    let status = regatta(&cluster, &observer, &["status", &id]).unwrap();
    assert!(status.contains("stage 1 of ") && status.contains("1 worker"), "{status}");
    let error = regatta(&cluster, &observer, &["cancel", &id]).unwrap_err();
    assert!(matches!(&error, Failure::Refused(why) if why.contains("Cluster::operator_token")), "{error}");
    assert!(!run.status().unwrap().unwrap().state.eq(&regatta::observe::QueryState::Cancelled));
    let said = regatta(&cluster, &operator, &["cancel", &id]).unwrap();
    assert!(said.starts_with(&format!("query {id} was cancelled after ")), "{said}");
    // Who waits for it hears so, and everything that it held is free.
    assert!(matches!(run.collect(), Err(Error::Cancelled)));
    eventually("nothing is charged", || {
        cluster.session().status().unwrap().workers.iter().all(|worker| worker.tasks == (0, 0))
    });
    let again = regatta(&cluster, &operator, &["cancel", &id]).unwrap_err();
    assert!(again.exit_code() == 1 && again.to_string().contains("does not run any more"), "{again}");
    assert_eq!(numbers().collect_on(&session).unwrap().height(), 1000, "the driver goes on");
}

#[test]
fn a_worker_that_an_operator_drains_is_gone_and_the_others_go_on() {
    let cluster = cluster();
    let _workers = join(&cluster, 2);
    let operator = cluster.operator_token(VALID).unwrap();
    let there = || cluster.session().status().unwrap().workers;
    let first = there()[0].worker.0.to_string();
    let refused = regatta(&cluster, &cluster.observer_token(VALID).unwrap(), &["drain", &first]).unwrap_err();
    assert_eq!((refused.exit_code(), there().len()), (4, 2), "{refused}");
    let said = regatta(&cluster, &operator, &["drain", &first, "--within", "20s"]).unwrap();
    assert!(said.starts_with(&format!("worker {first} leaves")), "{said}");
    eventually("it is gone", || there().len() == 1);
    assert_eq!(numbers().collect_on(cluster.session()).unwrap().height(), 1000);
    let again = regatta(&cluster, &operator, &["drain", &first]).unwrap_err();
    assert_eq!(again.exit_code(), 1, "{again}");
}

#[regatta::udf]
fn says(x: i64) -> i64 {
    if x % 100 == 7 {
        tracing::warn!(row = x, "odd\x1b[2J one");
    }
    x
}

#[test]
fn lines_of_all_workers_are_found_by_query_and_udf_and_stay_text() {
    let cluster = cluster();
    let _workers = join(&cluster, 2);
    let token = cluster.observer_token(VALID).unwrap();
    let log = |arguments: &[&str]| regatta(&cluster, &token, &[&["logs"], arguments].concat()).unwrap();
    let all = log(&[]);
    for worker in cluster.session().status().unwrap().workers {
        assert!(all.contains(&format!("{} INFO regatta::cluster::worker: joined", worker.worker)), "{all}");
    }
    let mut run = cluster.session().submit(numbers().with_column(says::on([col("x")]).alias("y"))).unwrap();
    assert_eq!(run.collect().unwrap().height(), 1000);
    let id = run.profile().unwrap().query.id;
    let of_query = log(&["--query", &id[8..]]);
    assert_eq!(of_query.lines().count(), 10, "{of_query}");
    for line in of_query.lines() {
        assert!(
            line.contains(&format!(" query {} stage 0 ", &id[8..])) && line.contains("looking::says rank"),
            "{line}"
        );
        assert!(line.contains(" WARN scenarios::looking: odd [2J one row=") && !line.contains('\x1b'), "{line:?}");
    }
    assert_eq!(log(&["--udf", "says", "--level", "warn"]), of_query);
    assert_eq!(log(&["--udf", "says", "--level", "error"]), "");
    assert_eq!(log(&["--udf", "says", "-n", "3"]).lines().count(), 3);
    let json = log(&["--query", &id, "--json"]);
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!((&first["level"], &first["query"]), (&"warn".into(), &id.as_str().into()));
    for (of, which, says) in [
        ("--worker", "999", "worker 999 is not there; there are "),
        ("--query", "9999999999999999", "no query is known"),
    ] {
        let error = regatta(&cluster, &token, &["logs", of, which]).unwrap_err();
        assert!(error.exit_code() == 1 && error.to_string().contains(says), "{error}");
    }
}

/// What the pages of a session are told at this path.
#[cfg(feature = "dashboard")]
fn told(url: &str, method: &str, path: &str) -> serde_json::Value {
    use std::io::{Read, Write};
    let (address, token) = url.strip_prefix("http://").unwrap().split_once("/#t=").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let head = format!("host: {address}\r\nconnection: close\r\nauthorization: Bearer {token}\r\n");
    write!(stream, "{method} /api/v1/{path} HTTP/1.1\r\n{head}\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {text}");
    serde_json::from_str(body).unwrap()
}

#[cfg(feature = "dashboard")]
#[test]
fn the_pages_of_a_session_follow_a_query_whose_worker_is_lost_until_it_is_cancelled() {
    let cluster = cluster();
    let mut workers = join(&cluster, 2);
    let url = cluster.session().dashboard(regatta::Dashboard::new().with_control()).unwrap();
    let view = |path: &str| told(&url, "GET", path)["change"][0].clone();
    assert_eq!(view("cluster")["fleet"]["workers"], 2);
    let mut run = cluster.session().submit(endless()).unwrap();
    eventually("the query is shown", || view("cluster")["queries"].as_array().is_some_and(|rows| !rows.is_empty()));
    let id = view("cluster")["queries"][0]["id"].as_str().unwrap().to_owned();
    eventually("its pool is shown", || {
        view(&format!("queries/{id}/profile"))["pools"][0]["udf"].as_str().is_some_and(|udf| udf.ends_with("Endless"))
    });
    lose(&cluster, &mut workers);
    eventually("the loss is shown", || view("cluster")["fleet"]["workers"] == 1);
    let metrics = regatta(&cluster, &cluster.observer_token(VALID).unwrap(), &["metrics"]).unwrap();
    assert!(
        metrics.contains("\nregatta_worker_lost_total 1\n") && metrics.contains("\nregatta_query_running 1\n"),
        "{metrics}"
    );
    assert_eq!(told(&url, "POST", &format!("queries/{id}/cancel"))["state"], "cancelled");
    assert!(matches!(run.collect(), Err(Error::Cancelled)));
    eventually("its end is shown", || view(&format!("queries/{id}"))["row"]["state"] == "cancelled");
    let lines = told(&url, "GET", "logs?level=info");
    assert!(
        lines["lines"].as_array().unwrap().iter().any(|line| line["text"].as_str().unwrap().contains("joined")),
        "{lines}"
    );
}

#[test]
fn tokens_that_an_operator_makes_let_in_whom_they_are_for_and_nobody_else() {
    let cluster = cluster();
    let address = cluster.address().to_string();
    let operator = cluster.operator_token(VALID).unwrap();
    let token = |role| regatta(&cluster, &operator, &["token", role, "--for", "10m"]).unwrap().trim().to_owned();
    let driver = token("driver");
    assert_eq!(Session::connect(&address, &driver).unwrap().status().unwrap().workers.len(), 0);
    assert!(
        Session::connect(&address, &driver).unwrap_err().to_string().contains("used"),
        "one time each, unless said otherwise"
    );
    let observer = token("observer");
    for _ in 0..3 {
        regatta(&cluster, &observer, &["status"]).unwrap();
    }
    let refused = regatta(&cluster, &observer, &["token", "driver"]).unwrap_err();
    assert_eq!(refused.exit_code(), 4, "{refused}");
    // One kind is not taken for another.
    for token in [&observer, &operator] {
        let error = Session::connect(&address, token).unwrap_err().to_string();
        assert!(error.contains("not a driver"), "{error}");
    }
    for token in [&token("worker"), &token("driver")] {
        let error = regatta(&cluster, token, &["status"]).unwrap_err();
        assert!(error.exit_code() == 4 && error.to_string().contains("observer_token"), "{error}");
    }
}

#[test]
fn who_looks_all_the_time_costs_queries_nothing_that_they_notice() {
    let cluster = cluster();
    let _workers = join(&cluster, 1);
    let token = cluster.observer_token(VALID).unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        let looking = (0..4).map(|_| {
            scope.spawn(|| {
                let mut looks = 0;
                while Instant::now() < until {
                    regatta(&cluster, &token, &["status"]).unwrap();
                    looks += 1;
                }
                looks
            })
        });
        let looking: Vec<_> = looking.collect();
        while Instant::now() < until {
            assert_eq!(numbers().collect_on(cluster.session()).unwrap().height(), 1000);
        }
        assert!(looking.into_iter().map(|looks| looks.join().unwrap()).sum::<u32>() > 4);
    });
}

#[regatta::udf]
pub(crate) fn fails_at_seven(x: i64) -> std::io::Result<i64> {
    if x == 7 { Err(std::io::Error::other("seven")) } else { Ok(x) }
}

/// What the session knew of each query is what its file says, when the session is gone.
#[test]
fn what_queries_did_is_in_files_when_their_session_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let history = folder.path().join("history");
    let config = Config { history: Some(history.clone()), ..Config::default() };
    let session = Session::local_with(2, config).unwrap();
    let rows = numbers().collect_on(&session).unwrap().height();
    let fails = numbers().select([fails_at_seven::on([col("x")])]).collect_on(&session).unwrap_err();
    let known = session.observe().unwrap();
    // It is let go with the session.
    let held = numbers().persist_on(&session).unwrap();
    drop(held);
    drop(session);
    let mut files: Vec<_> = std::fs::read_dir(&history).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let profiles: Vec<_> = files
        .iter()
        .map(|file| regatta_observe::Profile::from_json(&std::fs::read_to_string(file).unwrap()).unwrap())
        .collect();
    let words: Vec<_> = profiles.iter().map(|profile| format!("{:?}", profile.query.state)).collect();
    assert_eq!(words, ["Done", "Failed", "Done"], "{files:?}");
    assert_eq!(profiles[0].query.rows, rows as u64);
    assert!(profiles[1].query.error.as_ref().unwrap().contains("seven") && fails.to_string().contains("seven"));
    for (before, after) in known.profiles().iter().zip(&profiles) {
        assert_eq!((&before.query.id, &before.plan), (&after.query.id, &after.plan));
    }
}

/// Whoever has submitted it: what a head knows of a query that failed is in a file as soon as it has.
#[test]
fn what_failed_for_a_driver_elsewhere_is_in_a_file_while_the_head_runs() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { history: Some(folder.path().to_owned()), ..Config::default() };
    let cluster = Cluster::serve_with("127.0.0.1:0", config).unwrap();
    let _workers = join(&cluster, 1);
    let session = connect(&cluster);
    numbers().select([fails_at_seven::on([col("x")])]).collect_on(&session).unwrap_err();
    eventually("its file is there", || {
        let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut said =
            files.filter_map(|file| regatta_observe::Profile::from_json(&std::fs::read_to_string(file).ok()?).ok());
        said.any(|profile| {
            let query = profile.query;
            query.driver.is_some() && query.error.is_some_and(|error| error.contains("seven"))
        })
    });
}
