//! Spans that authors have around what they do in UDFs, as a collector gets them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use serde_json::Value;
use tracing::{Instrument, info_span};

use crate::joining::{cluster, join};
use crate::looking::regatta;
use crate::udfs::numbers;

#[regatta::udf]
fn squared(x: i64) -> i64 {
    info_span!("square", x).in_scope(|| info_span!("multiply").in_scope(|| x * x))
}

#[regatta::udf]
async fn later(x: i64) -> i64 {
    async {
        tokio::task::yield_now().await;
        x
    }
    .instrument(info_span!("wait", x))
    .await
}

/// Takes all that it is sent: the bodies.
pub(crate) fn collector() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = bytes.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            if tell.send(serde_json::from_slice::<Value>(&body).unwrap()).is_err() {
                return;
            }
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        }
    });
    (url, told)
}

/// The spans in these bodies, each with what its scope is called.
fn spans(bodies: &[Value]) -> Vec<(String, Value)> {
    let of_scope = |scope: &Value| {
        let name = scope["scope"]["name"].as_str().unwrap().to_owned();
        let spans = scope["spans"].as_array().unwrap().clone();
        spans.into_iter().map(move |span| (name.clone(), span)).collect::<Vec<_>>()
    };
    let scopes = |body: &Value| body["resourceSpans"][0]["scopeSpans"].as_array().cloned().unwrap_or_default();
    bodies.iter().flat_map(scopes).flat_map(|scope| of_scope(&scope)).collect()
}

fn attribute(span: &Value, name: &str) -> Option<String> {
    let found = span["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == name)?;
    let value = &found["value"];
    Some(value["intValue"].as_str().or_else(|| value["stringValue"].as_str())?.to_owned())
}

#[test]
fn spans_of_authors_come_to_a_collector_below_the_tasks_that_they_are_of_wherever_the_udf_runs() {
    let cluster = cluster();
    let _workers = join(&cluster, 2);
    let token = cluster.observer_token(Duration::from_secs(600)).unwrap();
    let (url, told) = collector();
    let ways = || {
        // Where Polars evaluates the call itself, in a replica on a thread, in a process; and many calls at once.
        let ways = [
            concat_list([col("x")]).unwrap().list().eval(squared::on([col("")])),
            squared::pool().on([col("x")]),
            squared::pool().isolated().on([col("x")]),
            later::pool().on([col("x")]),
            later::pool().isolated().on([col("x")]),
        ];
        let ways: Vec<_> = ways.into_iter().enumerate().map(|(n, way)| way.alias(format!("y{n}"))).collect();
        numbers().filter(col("x").lt(lit(100))).into_partitions(4).with_columns(ways)
    };
    let rows = || ways().collect_on(cluster.session()).unwrap().height();
    assert_eq!(rows(), 100);
    let export = || {
        regatta(&cluster, &token, &["export", "--once", "--to", &url]).unwrap();
        spans(&told.try_iter().collect::<Vec<_>>())
    };
    let first = export();
    assert!(first.iter().all(|(scope, _)| scope == "regatta"), "nobody looked: {first:?}");
    assert_eq!(rows(), 100);
    let spans = RefCell::default();
    eventually("it is known that the query has ended", || {
        *spans.borrow_mut() = export();
        spans.borrow().iter().any(|(scope, _)| scope == module_path!())
    });
    let spans = spans.into_inner();
    let by_id: BTreeMap<&str, &Value> =
        spans.iter().map(|(_, span)| (span["spanId"].as_str().unwrap(), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "each has a number of its own");
    let parent = |span: &Value| by_id.get(span["parentSpanId"].as_str().unwrap()).copied();
    let named = |name: &str| {
        let of = spans.iter().filter(|(scope, span)| scope == module_path!() && span["name"] == name);
        of.map(|(_, span)| span).collect::<Vec<_>>()
    };
    assert_eq!((named("square").len(), named("multiply").len(), named("wait").len()), (300, 300, 200));
    for span in named("multiply") {
        assert_eq!(parent(span).unwrap()["name"], "square");
    }
    let mut below = BTreeSet::new();
    for span in named("square").into_iter().chain(named("wait")) {
        let above = parent(span).unwrap_or_else(|| panic!("nothing is above {span}"));
        below.insert(above["name"].as_str().unwrap());
        assert_eq!(above["traceId"], span["traceId"]);
        for name in ["regatta.stage.id", "regatta.task.id"] {
            assert!(attribute(above, name).is_none() || attribute(above, name) == attribute(span, name), "{span}");
        }
        let [udf, worker] = ["regatta.udf.name", "regatta.worker.id"].map(|name| attribute(span, name).unwrap());
        assert!(udf.contains(if span["name"] == "wait" { "later" } else { "squared" }) && "01".contains(&worker));
        assert!(attribute(span, "regatta.task.id").is_some() && attribute(span, "x").is_some(), "{span}");
    }
    assert!(
        below.iter().all(|name| ["regatta.task", "regatta.stage"].contains(name)) && !below.is_empty(),
        "{below:?}"
    );
}
