//! The pages of a cluster that works, in Chromium, and every command that others do not try there. Where there is no Chromium the first
//! says so, and does nothing.

#[cfg(feature = "dashboard")]
#[path = "../../dashboard/tests/browser/chromium.rs"]
#[expect(dead_code, reason = "the tests of the dashboard use the rest")]
mod chromium;

use std::io::{Read, Write};
use std::time::Duration;

#[cfg(feature = "dashboard")]
use chromium::Chromium;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta_cli::Failure;
use regatta_cli::clap::Parser;
use serde_json::{Value, json};

use crate::joining::{Other, cluster, join, lose};
use crate::looking::{fails_at_seven, regatta, running};
use crate::spans::collector;
use crate::udfs::{Endless, numbers};

const VALID: Duration = Duration::from_secs(600);

/// A cluster with a query that has failed, and one whose pool runs on; of its two workers one is lost.
struct Scene {
    cluster: Cluster,
    run: Run,
    failed: String,
    runs: String,
    _workers: Vec<Other>,
}

fn scene() -> Scene {
    let cluster = cluster();
    let mut workers = join(&cluster, 2);
    let observer = cluster.observer_token(VALID).unwrap();
    let error = numbers().select([fails_at_seven::on([col("x")])]).collect_on(cluster.session()).unwrap_err();
    assert!(error.to_string().contains("seven"), "{error}");
    let rows: Value =
        serde_json::from_str(&regatta(&cluster, &observer, &["queries", "--all", "--json"]).unwrap()).unwrap();
    let failed = rows[0]["id"].as_str().unwrap().to_owned();
    let endless = numbers().into_partitions(4).with_column(Endless.pool().on([col("x")]).alias("y"));
    let run = cluster.session().submit(endless).unwrap();
    let digits = running(&cluster, &observer);
    let workers_run = || cluster.session().status().unwrap().workers.iter().all(|worker| worker.tasks.0 > 0);
    eventually("each worker runs a part of it", workers_run);
    eventually("its pool runs", || regatta(&cluster, &observer, &["pools"]).unwrap().contains("Endless"));
    let rows: Value = serde_json::from_str(&regatta(&cluster, &observer, &["queries", "--json"]).unwrap()).unwrap();
    let runs = rows[0]["id"].as_str().unwrap().to_owned();
    assert!(runs.ends_with(&digits));
    lose(&cluster, &mut workers);
    Scene { cluster, run, failed, runs, _workers: workers }
}

#[cfg(feature = "dashboard")]
#[test]
fn every_page_of_a_cluster_with_pools_a_lost_worker_and_a_failed_query_says_so() {
    let Some(mut browser) = Chromium::start("cluster") else {
        println!("skipped: there is no Chromium on this machine");
        return;
    };
    let scene = scene();
    let url = scene.cluster.session().dashboard(regatta::Dashboard::new().with_control()).unwrap();
    let (failed, runs) = (format!("#/query/{}", scene.failed), format!("#/query/{}", scene.runs));
    let of = |query: &str, page: &str| format!("{query}{page}");
    browser.call("Page.navigate", json!({ "url": url }));
    browser.until("document.documentElement.dataset.ready === ''");
    let pages: [(String, &[&str]); 12] = [
        ("#/".to_owned(), &["Overview", "▶ running", "✗ failed", "127.0.0.1:"]),
        ("#/workers".to_owned(), &["Workers", "1 worker", "127.0.0.1:"]),
        ("#/pools".to_owned(), &["Pools", "Endless"]),
        ("#/findings".to_owned(), &["Findings"]),
        ("#/logs".to_owned(), &["Logs", "joined"]),
        ("#/about".to_owned(), &["About", "may cancel queries"]),
        (of(&runs, ""), &["Cancel this query", "Endless"]),
        (of(&runs, "/timeline"), &["✗ lost: no heartbeat"]),
        (of(&runs, "/tasks?stage=0"), &["Attempt"]),
        (of(&failed, ""), &["seven"]),
        (of(&failed, "/tasks?stage=0"), &["✗ failed"]),
        (of(&failed, "/errors"), &["seven", "fails_at_seven"]),
    ];
    for (page, texts) in &pages {
        browser.value(&format!("location.hash = {}", json!(page)));
        for text in *texts {
            browser.until(&format!("document.body.innerText.includes({})", json!(text)));
        }
    }
    // It is cancelled by hand, as a person would.
    browser.value(&format!("location.hash = {}", json!(runs)));
    browser
        .until("[...document.querySelectorAll('button')].some((button) => button.textContent === 'Cancel this query')");
    assert_eq!(browser.complaints, Vec::<String>::new());
    drop(browser);
    drop(scene.run);
}

#[test]
fn why_doctor_metrics_and_export_say_of_a_cluster_that_lost_a_worker_what_is_so() {
    let scene = scene();
    let token = scene.cluster.observer_token(VALID).unwrap();
    let says = |arguments: &[&str]| regatta(&scene.cluster, &token, arguments).unwrap();
    let why = says(&["why", &scene.runs[8..]]);
    assert!(why.contains("Endless"), "{why}");
    assert!(says(&["why", &scene.failed[8..]]).contains("seven"));
    assert!(says(&["findings", &scene.failed[8..]]).contains(&scene.failed[8..]));
    let doctor = says(&["doctor"]);
    assert!(doctor.lines().count() >= 4 && doctor.contains("observer"), "{doctor}");
    let metrics = says(&["metrics"]);
    for line in ["regatta_worker_lost_total 1", "regatta_query_running 1"] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line}: {metrics}");
    }
    let profile: Value = serde_json::from_str(&says(&["query", &scene.failed[8..], "--json"])).unwrap();
    let (url, told) = collector();
    assert_eq!(says(&["export", "--once", "--to", &url]), "sent all figures and 1 query that has ended\n");
    let bodies: Vec<Value> = told.try_iter().collect();
    let figures = bodies[0]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap();
    let lost = figures.iter().find(|figure| figure["name"] == "regatta.worker.lost").unwrap();
    assert_eq!(lost["sum"]["dataPoints"][0]["asDouble"], 1.0);
    let spans = bodies[1]["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let count = |name: &str| spans.iter().filter(|span| span["name"] == name).count();
    assert_eq!((count("regatta.query"), count("regatta.stage")), (1, profile["stages"].as_array().unwrap().len()));
    assert_eq!(count("regatta.task"), profile["tasks"].as_array().unwrap().len());
    let refused = regatta(&scene.cluster, &token, &["top"]).unwrap_err();
    assert!(matches!(refused, Failure::Usage(_)), "a screen needs a terminal: {refused}");
    drop(scene.run);
}

/// Hands on what a command writes.
struct Told(std::sync::mpsc::Sender<String>);

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned()); // nobody listens any more
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_command_serves_pages_of_a_cluster_from_elsewhere() {
    let cluster = cluster();
    let _workers = join(&cluster, 1);
    assert_eq!(numbers().collect_on(cluster.session()).unwrap().height(), 1000);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, cluster.observer_token(VALID).unwrap()).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let address = cluster.address().to_string();
    // It serves until the process ends.
    std::thread::spawn(move || {
        let arguments = ["regatta", "--connect", &address, "--token-file", file.to_str().unwrap()];
        let rest = ["dashboard", "--listen", "127.0.0.1:0"];
        let command = regatta_cli::Regatta::try_parse_from(arguments.iter().chain(&rest)).unwrap().command;
        command.execute(&mut Told(tell)).unwrap();
    });
    let url = told.recv_timeout(Duration::from_secs(30)).unwrap();
    let (to, token) = url.trim().strip_prefix("http://").unwrap().split_once("/#t=").unwrap();
    let get = |path: &str, token: &str| {
        let mut stream = std::net::TcpStream::connect(to).unwrap();
        let head = format!("host: {to}\r\nconnection: close\r\nauthorization: Bearer {token}\r\n");
        write!(stream, "GET /api/v1/{path} HTTP/1.1\r\n{head}\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let view = get("cluster", token);
    assert!(view.starts_with("HTTP/1.1 200") && view.contains("\"done\"") && view.contains("127.0.0.1:"), "{view}");
    assert!(get("cluster", "another").starts_with("HTTP/1.1 401"));
}
