//! What a collector is sent: by a receiver of this process, of a query that has lost a worker.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use regatta_observe::{
    End, Explain, Limits, MetricsByUdf, Node, Outcome, Profile, QueryId, QueryState, Recorder, Seen, StageId,
    StagePlan, Submitted, TaskId, Totals, WorkerId,
};
use regatta_remote::Role;
use serde_json::Value;

use crate::common::*;

/// Takes what it is sent, and answers by this status: the path and the body of each request.
fn receiver(status: u16) -> (String, Receiver<(String, Value)>) {
    receiver_that(move |_| status)
}

/// As what comes to this path is to be answered.
fn receiver_that(mut answers: impl FnMut(&str) -> u16 + Send + 'static) -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/otlp", listener.local_addr().unwrap());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut text = Vec::new();
            let (head, length) = loop {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).unwrap();
                text.extend_from_slice(&piece[..read]);
                let so_far = String::from_utf8_lossy(&text).into_owned();
                let Some((head, _)) = so_far.split_once("\r\n\r\n") else { continue };
                let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
                let length: usize = length.parse().unwrap();
                if text.len() >= head.len() + 4 + length {
                    break (head.to_owned(), length);
                }
            };
            assert!(head.contains("content-type: application/json"), "{head}");
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let status = answers(&path);
            write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 9\r\nconnection: close\r\n\r\nno\x1b[2J room")
                .unwrap();
            let body = serde_json::from_slice(&text[head.len() + 4..][..length]).unwrap();
            if tell.send((path, body)).is_err() {
                return;
            }
        }
    });
    (url, told)
}

/// A query of eight tasks on two workers, of which one was lost with two of them.
fn lost_worker() -> (Profile, Totals) {
    let mut recorder = Recorder::new(Limits::default(), "made", 1_700_000_000_000);
    for worker in 0..2 {
        recorder.saw(Seen::Joined { worker: WorkerId(worker), cpus: 4.0, gpus: 0.0, memory: 8 << 30 }, 0);
    }
    let stage = StagePlan { tasks: Some(8), ..StagePlan::default() };
    let plan = Explain::new(vec![stage], vec![Node { label: "scan lineitem.parquet".to_owned(), ..Node::default() }]);
    let query = QueryId(0xabc_0000_0006);
    recorder.saw(Seen::Submitted(Submitted { query, name: None, plan: &plan, planned: 0 }), 0);
    let (task, none) = (|index| TaskId { query, stage: StageId(0), index }, MetricsByUdf::new());
    let place = |index, attempt, worker| Seen::Placed { task: task(index), attempt, worker: WorkerId(worker) };
    (0..8).for_each(|index| recorder.saw(place(index, 1, index % 2), SECOND));
    let ends = |index, attempt| {
        let end = End::Done { rows: 10, bytes: 100 };
        Seen::Ended { task: task(index), attempt, end, ran: Some(SECOND), metrics: &none }
    };
    [0, 1, 2, 3, 4, 6].into_iter().for_each(|index| recorder.saw(ends(index, 1), 2 * SECOND));
    recorder.saw(Seen::Lost { worker: WorkerId(1), why: "its process ended: signal 9" }, 3 * SECOND);
    for index in [1, 3, 5, 7] {
        recorder.saw(place(index, 2, 0), 3 * SECOND);
        recorder.saw(ends(index, 2), 4 * SECOND);
    }
    recorder.saw(Seen::StageDone { query, stage: StageId(0) }, 4 * SECOND);
    recorder.saw(Seen::Done(query), 4 * SECOND);
    (recorder.profile(query, 4 * SECOND).unwrap(), recorder.totals(4 * SECOND))
}

#[test]
fn a_collector_gets_one_query_with_a_lost_worker_as_its_profile_has_it() {
    let (profile, totals) = lost_worker();
    assert_eq!((profile.query.state, profile.query.rows), (QueryState::Done, 80));
    let mut view = view();
    view.queries.retain(|row| row.state == QueryState::Failed);
    let made = Made::with(view, profile.clone(), totals);
    let (url, told) = receiver(200);
    let output = made.regatta(&made.token(Role::Observer), &["export", "--once", "--to", &url]);
    assert_eq!(said(&output), "sent all figures and 1 query that has ended\n", "{}", complained(&output));
    let (path, metrics) = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(path, "/otlp/v1/metrics");
    let metrics = metrics["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap().clone();
    let number = |name: &str| {
        metrics.iter().find(|metric| metric["name"] == name).unwrap()["sum"]["dataPoints"][0]["asDouble"].clone()
    };
    assert_eq!(
        (number("regatta.worker.lost"), number("regatta.task.again")),
        (1.0.into(), f64::from(profile.stages[0].again).into())
    );
    let (path, traces) = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(path, "/otlp/v1/traces");
    let spans = traces["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
    let count = |name: &str| spans.iter().filter(|span| span["name"] == name).count();
    assert_eq!((count("regatta.query"), count("regatta.stage"), count("regatta.task")), (1, 1, profile.tasks.len()));
    let lost = profile.tasks.iter().filter(|task| task.outcome == Outcome::Lost).count();
    assert_eq!((lost, spans.iter().filter(|span| span["status"]["code"] == 2).count()), (2, 2));
    let (path, authors) = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(path, "/otlp/v1/traces");
    let authors = authors["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
    let root = spans.iter().find(|span| span["name"] == "regatta.query").unwrap();
    assert_eq!((authors.len(), &authors[0]["parentSpanId"]), (1, &root["spanId"]), "of no stage: below its query");
    assert_eq!((&authors[0]["traceId"], &authors[0]["name"]), (&root["traceId"], &HOSTILE.into()));
    assert!(complained(&output).contains("3 spans of UDFs were forgotten before they were sent"));
}

#[test]
fn a_collector_that_refuses_or_is_not_there_is_an_error_that_says_so() {
    let made = Made::new(view(), profile());
    let token = made.token(Role::Observer);
    let (url, _told) = receiver(503);
    let output = made.regatta(&token, &["export", "--once", "--to", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complained(&output).contains("has not taken what it was sent: status 503 /v1/metrics no [2J room"),
        "{}",
        complained(&output)
    );
    let nobody = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let output = made.regatta(&token, &["export", "--once", "--to", &nobody]);
    assert!(
        output.status.code() == Some(1) && complained(&output).contains("has not taken"),
        "{}",
        complained(&output)
    );
    let output = made.regatta(&token, &["export", "--to", "https://collector"]);
    assert!(output.status.code() == Some(2) && complained(&output).contains("plain HTTP"), "{}", complained(&output));
}

#[test]
fn what_a_collector_refuses_for_good_is_not_sent_again_and_holds_nothing_else_up() {
    let made = Made::new(view(), lost_worker().0);
    let token = made.token(Role::Observer);
    // As one that takes traces alone.
    let (url, told) = receiver_that(|path| if path.ends_with("metrics") { 404 } else { 200 });
    let output = made.regatta(&token, &["export", "--once", "--to", &url]);
    let complaint = "has not taken what it was sent: status 404 /v1/metrics";
    assert!(output.status.code() == Some(1) && complained(&output).contains(complaint), "{}", complained(&output));
    let name = |(path, body): (String, Value)| {
        path.ends_with("traces").then(|| body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"].clone())
    };
    let names: Vec<_> = told.try_iter().filter_map(name).collect();
    assert!(names.contains(&"regatta.query".into()) && names.contains(&HOSTILE.into()), "{names:?}");
    let made = Made::new(view(), lost_worker().0);
    let token = made.token(Role::Observer);
    // One that is not ready yet is sent it again; one that refuses it is not.
    let mut answers = [503, 400].into_iter();
    let (url, told) =
        receiver_that(move |path| if path.ends_with("traces") { answers.next().unwrap_or(200) } else { 200 });
    let _export = made.start(&token, &["export", "--every", "1s", "--to", &url]);
    let (mut figures, mut names) = (0, Vec::new());
    while figures < 5 {
        match name(told.recv_timeout(Duration::from_secs(30)).unwrap()) {
            Some(name) => names.push(name),
            None => figures += 1,
        }
    }
    assert_eq!(names, [HOSTILE, HOSTILE]);
}
