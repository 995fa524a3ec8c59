//! The server, by its socket: what viewers get, and what strangers get.

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::*;
use regatta_dashboard::{Dashboard, Token};
use regatta_observe::{Limits, Node, NodeKind, Order, QueryState, Recorder, Seen, StagePlan, Submitted};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const PAGES: [&str; 10] = [
    "cluster",
    "queries/0007",
    "queries/0007/profile",
    "queries/0007/timeline",
    "queries/0007/tasks",
    "queries/0007/text",
    "findings",
    "logs",
    "about",
    "queries/0007/cancel",
];

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_nothing() {
    let serving = Serving::new(Made::new(true), Dashboard::new().with_control()).await;
    let right = &serving.token;
    let wrong = Token::random().unwrap().to_string();
    for method in ["GET", "POST", "PUT", "DELETE"] {
        for page in PAGES {
            for (host, origin, token, status) in [
                ("localhost", "", String::new(), 401),
                ("localhost", "", format!("Bearer {wrong}"), 401),
                ("localhost", "", format!("Basic {right}"), 401),
                ("evil.example", "", format!("Bearer {right}"), 421),
                ("localhost", "http://evil.example", format!("Bearer {right}"), 403),
                ("localhost", "null", format!("Bearer {right}"), 403),
            ] {
                let origin = if origin.is_empty() { String::new() } else { format!("origin: {origin}\r\n") };
                let head = format!("host: {host}\r\n{origin}connection: close\r\nauthorization: {token}\r\n");
                let told = serving.say(&format!("{method} /api/v1/{page} HTTP/1.1\r\n{head}\r\n")).await;
                let is_refused = told.status == status || (status, told.status) == (401, 429);
                assert!(is_refused, "{method} {page} {head}: {told:?}");
                assert!(!told.body.contains("lineitem") && !told.body.contains(right), "{told:?}");
            }
        }
    }
    assert_eq!(serving.made.asked.load(Ordering::Relaxed), 0, "nothing was asked for them");
    assert!(serving.made.orders.lock().unwrap().is_empty());
    // Files of the pages are no secret, and name none.
    for path in ["/", "/app.js", "/app.css", "/healthz"] {
        let told = serving.say(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
        assert!(told.status == 200 && !told.body.contains(right), "{path}");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'",
            "frame-ancestors 'none'",
            "nosniff",
            "no-referrer",
            "no-store",
        ] {
            assert!(told.head.contains(header), "{path}: {}", told.head);
        }
    }
    let told = serving.say("GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").await;
    assert_eq!(told.status, 421, "not even those under another's name");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_eleventh_wrong_token_is_told_so_and_the_right_one_is_let_in() {
    let serving = Serving::new(Made::new(false), Dashboard::new()).await;
    let mut statuses = Vec::new();
    for _ in 0..11 {
        let token = format!("authorization: Bearer {}\r\n", Token::random().unwrap());
        let told = serving
            .say(&format!("GET /api/v1/about HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{token}\r\n"))
            .await;
        statuses.push(told.status);
    }
    assert_eq!(statuses, [vec![401; 10], vec![429]].concat());
    assert!(serving.url.ends_with(&format!("/#t={}", serving.token)), "in the part that no browser sends");
    assert_eq!(serving.get("/api/v1/about").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_with_control_and_the_right_to_it_is_a_query_cancelled() {
    for (may_act, control, status) in [(false, false, 403), (false, true, 403), (true, false, 403), (true, true, 200)] {
        let dashboard = if control { Dashboard::new().with_control() } else { Dashboard::new() };
        let serving = Serving::new(Made::new(may_act), dashboard).await;
        assert_eq!(serving.json("/api/v1/about").await["may_act"], may_act && control);
        let head = format!("host: localhost\r\nconnection: close\r\nauthorization: Bearer {}\r\n", serving.token);
        let told = serving.say(&format!("POST /api/v1/queries/0007/cancel HTTP/1.1\r\n{head}\r\n")).await;
        assert_eq!(told.status, status, "{told:?}");
        let orders = serving.made.orders.lock().unwrap().clone();
        let expected = if status == 200 { vec![Order::Cancel { query: "0007".to_owned() }] } else { vec![] };
        assert_eq!(orders, expected);
        assert_eq!(serving.get("/api/v1/queries/0007/cancel").await.status, 404, "looking cancels nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_says_what_the_source_says() {
    let serving = Serving::new(Made::new(false), Dashboard::new()).await;
    let whole = |told: Value| {
        assert_eq!(told["from"], Value::Null);
        told["change"][0].clone()
    };
    let cluster = whole(serving.json("/api/v1/cluster?queries=1&workers=2&from=1").await);
    assert_eq!((cluster["queries"].as_array().unwrap().len(), &cluster["workers"][0]["worker"]), (1, &json!(1)));
    assert_eq!(cluster["queries"][0]["name"], HOSTILE);
    assert_eq!(whole(serving.json("/api/v1/queries/0007").await)["waits"][0][0], 1);
    let summary = whole(serving.json("/api/v1/queries/0007/profile").await);
    assert_eq!(summary["pools"][0]["udf"], "demo::Embed");
    assert_eq!(serving.json("/api/v1/queries/0007/timeline").await["all"], 2);
    assert_eq!(serving.json("/api/v1/queries/0007/tasks?limit=3&stage=0").await["rows"].as_array().unwrap().len(), 3);
    assert!(serving.get("/api/v1/queries/0007/text?of=explain").await.body.contains("stage"));
    assert_eq!(serving.json("/api/v1/queries/0007/text?of=json").await["regatta_profile"], 1);
    assert_eq!(whole(serving.json("/api/v1/findings").await)[0]["findings"][0]["id"], "pool-bound");
    let lines = serving.json("/api/v1/logs").await;
    assert_eq!((lines["lines"].as_array().unwrap().len(), &lines["lines"][1]["text"]), (2, &json!(HOSTILE)));
    assert_eq!(serving.json("/api/v1/logs?next=0:2").await["lines"], json!([]));
    for (path, status) in [
        ("/api/v1/queries/ffff", 404),
        ("/api/v1/queries/xyz", 400),
        ("/api/v1/queries/0007/tasks?stage=-1", 400),
        ("/api/v1/queries/0007/text?of=pdf", 400),
        ("/api/v1/logs?level=loud", 400),
        ("/api/v1/logs?next=1", 400),
        ("/api/v2/cluster", 404),
        ("/../Cargo.toml", 404),
        ("/%2e%2e/Cargo.toml", 404),
    ] {
        assert_eq!(serving.get(path).await.status, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_knows_what_there_is_gets_what_has_changed_when_it_has() {
    let serving = Serving::new(Made::new(false), Dashboard::new()).await;
    let first = serving.json("/api/v1/cluster").await;
    let revision = first["revision"].as_u64().unwrap();
    let path = format!("/api/v1/cluster?after={revision}");
    let began = Instant::now();
    let (told, ()) = tokio::join!(serving.json(&path), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        serving.made.view.lock().unwrap().workers[1].tasks = (7, 7);
    });
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(
        told,
        json!({ "revision": revision + 1, "from": revision, "change": { "workers": { "1": { "tasks": [[7, 7]] } } } })
    );
    let of_another = serving.json("/api/v1/cluster?after=1").await;
    assert_eq!((&of_another["from"], &of_another["revision"]), (&Value::Null, &json!(revision + 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_viewers_cost_the_source_no_more_than_one_and_nobody_costs_nothing() {
    let serving = Serving::new(Made::new(false), Dashboard::new()).await;
    let looks = futures(30, || serving.json("/api/v1/cluster"));
    looks.await;
    let asked = serving.made.asked.load(Ordering::Relaxed);
    assert!(asked <= 3, "{asked}");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(serving.made.asked.load(Ordering::Relaxed), asked);
}

async fn futures<F: Future>(count: usize, make: impl Fn() -> F) {
    let mut all: Vec<_> = (0..count).map(|_| Box::pin(make())).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_or_says_nothing_harms_nobody() {
    let serving = Serving::new(Made::new(false), Dashboard::new()).await;
    // Some ask for much and never read, as viewers; many more say nothing, and are strangers.
    let ask = format!(
        "GET /api/v1/queries/0007/text?of=json HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n",
        serving.token
    );
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(serving.address).await.unwrap();
        stream.write_all(ask.repeat(1000).as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(serving.address).await.unwrap());
    }
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(serving.get("/api/v1/cluster").await.status, 200);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    let connections = async || serving.json("/api/v1/about").await["connections"].clone();
    let (there, most) = (connections().await[0].as_u64().unwrap(), connections().await[1].as_u64().unwrap());
    assert!((9..=most).contains(&there), "viewers stay, and there are never more than so many of all: {there}");
    // Those who do not read are given up.
    drop(silent);
    let until = Instant::now() + Duration::from_secs(45);
    while connections().await[0] != 1 {
        assert!(Instant::now() < until, "slow readers are still there: {}", connections().await);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    drop(slow);
}

/// Bytes of an answer that change what is seen, each second.
#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_of_a_thousand_busy_workers_takes_little() {
    let made = Made::new(false);
    made.view.lock().unwrap().workers = (0..1000).map(worker).collect();
    let serving = Serving::new(made, Dashboard::new()).await;
    let changes = {
        let made = std::sync::Arc::clone(&serving.made);
        tokio::spawn(async move {
            for round in 0..u32::MAX {
                {
                    let mut view = made.view.lock().unwrap();
                    view.up += SECOND / 4;
                    for (at, worker) in view.workers.iter_mut().enumerate() {
                        let figure = (at as u32 * 7 + round * 13) % 100;
                        worker.tasks = (figure % 8, figure % 5);
                        worker.cpus.1 = f64::from(figure) / 25.0;
                        // They say this every five seconds.
                        if (at as u32 + round).is_multiple_of(20) {
                            (worker.busy, worker.used) = (Some(f64::from(figure) / 33.0), u64::from(figure) << 24);
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        })
    };
    // What the overview asks for, and the page of workers.
    for (path, most) in
        [("cluster?queries=40&from=0&workers=20", 6 << 10), ("cluster?queries=0&from=0&workers=100", 20 << 10)]
    {
        let mut revision = serving.json(&format!("/api/v1/{path}")).await["revision"].clone();
        let (began, mut bytes) = (Instant::now(), 0);
        for _ in 0..4 {
            let told = serving.get(&format!("/api/v1/{path}&after={revision}")).await;
            bytes += told.head.len() + told.body.len();
            let told: Value = serde_json::from_str(&told.body).unwrap();
            assert_ne!(told["from"], Value::Null);
            revision = told["revision"].clone();
        }
        let rate = bytes as f64 / began.elapsed().as_secs_f64();
        println!("{path}: {rate:.0} B/s");
        assert!(rate < f64::from(most), "{path}: {rate:.0} B/s");
    }
    changes.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_look_at_a_query_of_a_million_tasks_is_small() {
    let serving = Serving::new(Made::new(false), Dashboard::new()).await;
    *serving.made.profile.lock().unwrap() = million();
    let mut bytes = 0;
    for path in [
        "/",
        "/app.css",
        "/app.js",
        "/server.js",
        "/words.js",
        "/parts.js",
        "/cluster.js",
        "/query.js",
        "/pictures.js",
        "/icon.svg",
    ] {
        bytes += serving.get(path).await.body.len();
    }
    for page in ["about", "queries/0007", "queries/0007/profile"] {
        let began = Instant::now();
        let body = serving.get(&format!("/api/v1/{page}")).await.body;
        println!("{page}: {} B in {:?}", body.len(), began.elapsed());
        bytes += body.len();
    }
    println!("first look: {bytes} B");
    assert!(bytes < 300 << 10, "{bytes}");
    for page in ["timeline", "tasks"] {
        let body = serving.get(&format!("/api/v1/queries/0007/{page}")).await.body;
        println!("{page}: {} B", body.len());
        assert!(body.len() < 120 << 10, "{page}: {}", body.len());
    }
}

/// A query of ten stages with a hundred thousand tasks each, on a thousand workers.
fn million() -> regatta_observe::Profile {
    use regatta_observe::{End, MetricsByUdf, QueryId, StageId, TaskId, WorkerId};
    let mut recorder = Recorder::new(Limits::default(), "made", 0);
    for worker in 0..1000 {
        recorder.saw(Seen::Joined { worker: WorkerId(worker), cpus: 4.0, gpus: 0.0, memory: 8 << 30 }, 0);
    }
    let stage = |stage| StagePlan { stage, tasks: Some(100_000), ..StagePlan::default() };
    let node = |stage| Node {
        id: stage,
        stage,
        kind: NodeKind::Fragment,
        label: format!("scan part {stage}"),
        ..Node::default()
    };
    let plan = regatta_observe::Explain::new((0..10).map(stage).collect(), (0..10).map(node).collect());
    let query = QueryId(7);
    recorder.saw(Seen::Submitted(Submitted { query, name: None, plan: &plan, planned: 0 }), 0);
    let none = MetricsByUdf::new();
    let mut now = 0;
    for index in 0..1_000_000_u32 {
        now += 20_000;
        let task = TaskId { query, stage: StageId(index / 100_000), index: index % 100_000 };
        recorder.saw(Seen::Placed { task, attempt: 1, worker: WorkerId(index % 1000) }, now);
        let end = End::Done { rows: u64::from(index % 977), bytes: u64::from(index) };
        recorder.saw(
            Seen::Ended { task, attempt: 1, end, ran: Some(u64::from(index % 1009) * 100_000), metrics: &none },
            now,
        );
    }
    recorder.saw(Seen::Done(query), now);
    let profile = recorder.profile(query, now).unwrap();
    assert_eq!(profile.query.state, QueryState::Done);
    profile
}
