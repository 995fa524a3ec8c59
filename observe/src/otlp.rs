//! Figures and queries as OpenTelemetry's protocol has them, in its JSON form. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::{Value, json};

use crate::instruments::BOUNDS;
use crate::{
    AuthorSpan, Figure, Histogram, INSTRUMENTS, InstrumentKind, Measured, Outcome, Point, Profile, QueryState,
    SpanValue, StageFigures, TaskRecord,
};

/// Attempts of a query that have spans of their own: those that went wrong, and then the longest.
const TASKS: usize = 1000;
/// Attempts that took less long, in nanoseconds, have none if they went well.
const SHORT: u64 = 10_000_000;

/// All figures at a time, in milliseconds since 1970: the body of a request to `/v1/metrics`.
pub fn metrics(of: &Measured, now_ms: u64) -> String {
    let at = nanoseconds(now_ms, 0);
    let begin = nanoseconds(now_ms, 0).saturating_sub(of.cluster.up);
    let metrics = INSTRUMENTS.iter().filter_map(|instrument| {
        let points = instrument.points(of);
        let point = |point: &Point| {
            let named = instrument.attributes.iter().zip(&point.attributes);
            let mut told = json!({
                "attributes": named.map(|(name, value)| text(name, value)).collect::<Value>(),
                "startTimeUnixNano": begin.to_string(),
                "timeUnixNano": at.to_string(),
            });
            match &point.figure {
                Figure::Number(figure) => told["asDouble"] = json!(figure),
                Figure::Spread(spread) => put_spread(&mut told, spread),
            }
            told
        };
        let points: Vec<_> = points.iter().map(point).collect();
        let (kind, mut data) = match instrument.kind {
            InstrumentKind::Counter => ("sum", json!({ "aggregationTemporality": CUMULATIVE, "isMonotonic": true })),
            InstrumentKind::Gauge => ("gauge", json!({})),
            InstrumentKind::Histogram => ("histogram", json!({ "aggregationTemporality": CUMULATIVE })),
        };
        let is_some = !points.is_empty();
        data["dataPoints"] = points.into();
        let metric =
            json!({ "name": instrument.name, "unit": instrument.unit, "description": instrument.about, kind: data });
        is_some.then_some(metric)
    });
    let scope = json!({ "scope": scope(&of.cluster.build), "metrics": metrics.collect::<Value>() });
    json!({ "resourceMetrics": [{ "resource": resource(), "scopeMetrics": [scope] }] }).to_string()
}

/// A query that has ended as spans: the body of a request to `/v1/traces`. The query is the root; below it are its stages, and below
/// those the attempts of tasks that went wrong or took longest. The same query has the same ids whenever it is asked.
pub fn trace(of: &Profile) -> String {
    let query = number_of(&of.query.id);
    let root = span_id(query, &[]);
    let begin = |after: u64| nanoseconds(of.query.submitted_ms, after);
    let span = |id: &str, parent: Option<&str>, name: &str, from: u64, until: u64| {
        span(query, [id, parent.unwrap_or_default(), name], begin(from)..begin(until.max(from)))
    };
    let mut spans = vec![span(&root, None, "regatta.query", 0, of.took())];
    let figures = &of.query;
    let state = format!("{:?}", figures.state).to_lowercase();
    let mut attributes = vec![text("regatta.query.id", &figures.id), text("regatta.outcome", &state)];
    attributes.extend(figures.name.iter().map(|name| text("regatta.query.name", name)));
    attributes.extend([number("regatta.rows", figures.rows), number("regatta.busy", figures.busy)]);
    spans[0]["attributes"] = attributes.into();
    if figures.state == QueryState::Failed {
        spans[0]["status"] = failed(figures.error.as_deref().unwrap_or("no reason is known"));
    }
    for stage in of.stages.iter().filter(|stage| stage.started.is_some()) {
        let (id, from) = (span_id(query, &[stage.stage]), stage.started.unwrap_or(0));
        let mut told = span(&id, Some(&root), "regatta.stage", from, stage.ended.unwrap_or_else(|| of.took()));
        told["attributes"] = stage_attributes(of, stage).into();
        spans.push(told);
    }
    for task in wanted(&of.tasks) {
        let (id, parent) = (span_id(query, &[task.stage, task.task, task.attempt]), span_id(query, &[task.stage]));
        let mut told = span(&id, Some(&parent), "regatta.task", task.placed, task.placed.saturating_add(task.ran));
        let outcome = format!("{:?}", task.outcome).to_lowercase();
        let worker = number("regatta.worker.id", task.worker.into());
        let of_it =
            [("regatta.stage.id", task.stage), ("regatta.task.id", task.task), ("regatta.attempt", task.attempt)];
        let of_it = of_it.map(|(name, value)| number(name, value.into()));
        let figures = [worker, number("regatta.rows", task.rows), text("regatta.outcome", &outcome)];
        told["attributes"] = [of_it.to_vec(), figures.to_vec()].concat().into();
        if matches!(task.outcome, Outcome::Failed | Outcome::Lost) {
            let is_it = |error: &&crate::ErrorRecord| {
                error.stage == Some(task.stage) && error.task == Some((task.task, task.attempt))
            };
            let why = of.errors.iter().find(is_it).map_or("lost", |error| error.text.as_str());
            told["status"] = failed(why);
        }
        spans.push(told);
    }
    let scope = json!({ "scope": scope(&of.build), "spans": spans });
    json!({ "resourceSpans": [{ "resource": resource(), "scopeSpans": [scope] }] }).to_string()
}

/// Spans of authors' programs, of any queries: the body of a request to `/v1/traces`. Each is in the span that its author has it in;
/// else below the attempt that it is of, if `trace` of this profile has that, or below its stage.
pub fn authors(spans: &[AuthorSpan], with: Option<&Profile>) -> String {
    let attempts: BTreeSet<_> = with
        .map(|of| wanted(&of.tasks).into_iter().map(|task| (task.stage, task.task, task.attempt)).collect())
        .unwrap_or_default();
    let mut scopes: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for of in spans {
        let query = number_of(&of.query);
        let attempt = of.stage.zip(of.task).map(|(stage, (task, attempt))| (stage, task, attempt));
        let parent = match (of.parent, attempt.filter(|attempt| attempts.contains(attempt)), of.stage) {
            (0, Some((stage, task, attempt)), _) => span_id(query, &[stage, task, attempt]),
            (0, None, Some(stage)) => span_id(query, &[stage]),
            (0, None, None) => span_id(query, &[]),
            (parent, ..) => hex(parent),
        };
        let mut told = span(query, [&hex(of.id), &parent, &of.name], of.from..of.from.saturating_add(of.took));
        let numbers = [
            ("regatta.worker.id", of.worker),
            ("regatta.stage.id", of.stage),
            ("regatta.task.id", of.task.map(|(task, _)| task)),
            ("regatta.attempt", of.task.map(|(_, attempt)| attempt)),
            ("regatta.udf.rank", of.udf.as_ref().map(|(_, rank)| *rank)),
        ];
        let numbers = numbers.into_iter().filter_map(|(name, value)| Some(number(name, value?.into())));
        let udf = of.udf.iter().map(|(udf, _)| text("regatta.udf.name", udf));
        let fields = of.fields.iter().map(|(name, value)| {
            let value = match value {
                SpanValue::Text(text) => json!({ "stringValue": text }),
                SpanValue::Int(number) => json!({ "intValue": number.to_string() }),
                SpanValue::Float(number) => json!({ "doubleValue": number }),
                SpanValue::Bool(is) => json!({ "boolValue": is }),
            };
            json!({ "key": name, "value": value })
        });
        told["attributes"] = numbers.chain(udf).chain(fields).collect();
        scopes.entry(&of.target).or_default().push(told);
    }
    let scopes = scopes.into_iter().map(|(target, spans)| json!({ "scope": { "name": target }, "spans": spans }));
    json!({ "resourceSpans": [{ "resource": resource(), "scopeSpans": scopes.collect::<Value>() }] }).to_string()
}

/// A span of a query: its id, its parent's and its name, and when it was.
fn span(query: u64, [id, parent, name]: [&str; 3], when: Range<u64>) -> Value {
    json!({
        "traceId": format!("{}{}", hex(mixed(query)), hex(mixed(query.wrapping_add(1)))),
        "spanId": id,
        "parentSpanId": parent,
        "name": name,
        "kind": 1,
        "startTimeUnixNano": when.start.to_string(),
        "endTimeUnixNano": when.end.to_string(),
    })
}

/// A query's number.
fn number_of(digits: &str) -> u64 {
    u64::from_str_radix(digits, 16).unwrap_or(0)
}

fn hex(number: u64) -> String {
    format!("{number:016x}")
}

/// Sums since the beginning, not since the last time.
const CUMULATIVE: u32 = 2;

/// So many nanoseconds after a time in milliseconds.
fn nanoseconds(ms: u64, after: u64) -> u64 {
    ms.saturating_mul(1_000_000).saturating_add(after)
}

fn put_spread(point: &mut Value, spread: &Histogram) {
    let mut below = 0;
    let mut counts: Vec<String> = Vec::new();
    for count in BOUNDS.map(|power| spread.at_most(power)).into_iter().chain([spread.count()]) {
        counts.push((count - below).to_string());
        below = count;
    }
    point["count"] = spread.count().to_string().into();
    point["sum"] = json!(spread.sum() as f64 / 1e6);
    point["explicitBounds"] = BOUNDS.map(|power| json!((1_u64 << power) as f64 / 1e6)).to_vec().into();
    point["bucketCounts"] = counts.into();
}

fn stage_attributes(of: &Profile, stage: &StageFigures) -> Vec<Value> {
    let counts = [
        ("regatta.stage.id", u64::from(stage.stage)),
        ("regatta.rows", stage.rows),
        ("regatta.bytes", stage.bytes),
        ("regatta.busy", stage.busy),
        ("regatta.task.done", stage.done.into()),
        ("regatta.task.failed", stage.failed.into()),
        ("regatta.task.lost", stage.lost.into()),
        ("regatta.task.again", stage.again.into()),
    ];
    let counts = counts.map(|(name, value)| number(name, value));
    [vec![text("regatta.stage.does", &of.plan.label(stage.stage))], counts.to_vec()].concat()
}

/// Attempts that have a span: all that went wrong come first.
fn wanted(tasks: &[TaskRecord]) -> Vec<&TaskRecord> {
    let is_wrong = |task: &TaskRecord| matches!(task.outcome, Outcome::Failed | Outcome::Lost);
    let mut wanted: Vec<_> = tasks.iter().filter(|task| is_wrong(task) || task.ran >= SHORT).collect();
    wanted.sort_by_key(|task| (!is_wrong(task), std::cmp::Reverse(task.ran), task.stage, task.task, task.attempt));
    wanted.truncate(TASKS);
    wanted
}

/// An id that is the same each time, and never zero.
fn span_id(query: u64, of: &[u32]) -> String {
    let id = of.iter().fold(mixed(query ^ of.len() as u64), |id, part| mixed(id ^ u64::from(*part)));
    hex(id.max(1))
}

/// SplitMix64's last step: other bits for each number.
fn mixed(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn text(name: &str, value: &str) -> Value {
    json!({ "key": name, "value": { "stringValue": value } })
}

fn number(name: &str, value: u64) -> Value {
    json!({ "key": name, "value": { "intValue": value.to_string() } })
}

fn failed(why: &str) -> Value {
    json!({ "code": 2, "message": why })
}

fn scope(build: &str) -> Value {
    json!({ "name": "regatta", "version": build })
}

fn resource() -> Value {
    json!({ "attributes": [text("service.name", "regatta")] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{failed, lost_worker, lost_worker_made, pipeline};

    fn spans(of: &Profile) -> Vec<Value> {
        let body: Value = serde_json::from_str(&trace(of)).unwrap();
        body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
    }

    fn time(span: &Value, name: &str) -> u64 {
        span[name].as_str().unwrap().parse().unwrap()
    }

    fn attribute(span: &Value, name: &str) -> Option<String> {
        let found = span["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == name)?;
        let value = &found["value"];
        Some(value["intValue"].as_str().or_else(|| value["stringValue"].as_str())?.to_owned())
    }

    #[test]
    fn a_query_whose_worker_was_lost_is_a_tree_of_spans_as_its_profile_has_it() {
        for profile in [lost_worker(), pipeline(), failed()] {
            let spans = spans(&profile);
            let ids: BTreeMap<&str, &Value> =
                spans.iter().map(|span| (span["spanId"].as_str().unwrap(), span)).collect();
            assert_eq!(ids.len(), spans.len(), "each has an id of its own");
            assert_eq!(spans.iter().map(|span| span["traceId"].as_str()).collect::<BTreeSet<_>>().len(), 1);
            for span in &spans {
                assert!(span["traceId"].as_str().unwrap().len() == 32 && span["spanId"].as_str().unwrap().len() == 16);
                assert!(time(span, "endTimeUnixNano") >= time(span, "startTimeUnixNano"));
                let parent = match span["name"].as_str().unwrap() {
                    "regatta.query" => "",
                    "regatta.stage" => "regatta.query",
                    _ => "regatta.stage",
                };
                let is = ids
                    .get(span["parentSpanId"].as_str().unwrap())
                    .map_or("", |parent| parent["name"].as_str().unwrap());
                assert_eq!(is, parent, "{span}");
            }
            assert_eq!(time(&spans[0], "endTimeUnixNano") - time(&spans[0], "startTimeUnixNano"), profile.took());
            let of = |name: &str| spans.iter().filter(move |span| span["name"] == name).collect::<Vec<_>>();
            assert_eq!(
                of("regatta.stage").len(),
                profile.stages.iter().filter(|stage| stage.started.is_some()).count()
            );
            for span in of("regatta.stage") {
                let stage = profile.stage(attribute(span, "regatta.stage.id").unwrap().parse().unwrap()).unwrap();
                assert_eq!(attribute(span, "regatta.task.lost"), Some(stage.lost.to_string()));
                assert_eq!(attribute(span, "regatta.rows"), Some(stage.rows.to_string()));
            }
            let count = |outcome| profile.tasks.iter().filter(|task| task.outcome == outcome).count();
            let told = |outcome: &str| {
                of("regatta.task")
                    .iter()
                    .filter(|span| attribute(span, "regatta.outcome").as_deref() == Some(outcome))
                    .count()
            };
            assert_eq!((told("lost"), told("failed")), (count(Outcome::Lost), count(Outcome::Failed)));
            let is_wrong = of("regatta.task").iter().filter(|span| span["status"]["code"] == 2).count();
            assert_eq!(is_wrong, count(Outcome::Lost) + count(Outcome::Failed));
        }
        let failed = spans(&failed());
        assert_eq!(failed[0]["status"]["code"], 2);
        let why = failed.iter().find(|span| span["name"] == "regatta.task" && span["status"]["code"] == 2).unwrap();
        assert!(why["status"]["message"].as_str().unwrap().contains("no such token"), "{why}");
    }

    #[test]
    fn spans_of_authors_are_below_their_attempt_or_its_stage() {
        let profile = lost_worker();
        let engine = spans(&profile);
        let task = wanted(&profile.tasks)[0];
        let with = |id, parent, task| AuthorSpan {
            id,
            parent,
            query: profile.query.id.clone(),
            stage: Some(0),
            task,
            name: "tokenize".to_owned(),
            target: "demo".to_owned(),
            from: 1_700_000_000_000_000_000,
            took: 5,
            worker: Some(1),
            udf: Some(("demo::Embed".to_owned(), 3)),
            fields: vec![("docs".to_owned(), SpanValue::Int(7)), ("fast".to_owned(), SpanValue::Bool(true))],
            ..AuthorSpan::default()
        };
        let authored = [
            with(1, 0, Some((task.task, task.attempt))),
            with(2, 1, Some((task.task, task.attempt))),
            with(3, 0, Some((task.task, 77))),
            with(4, 0, None),
        ];
        let read = |with| {
            let body: Value = serde_json::from_str(&authors(&authored, with)).unwrap();
            let scope = body["resourceSpans"][0]["scopeSpans"][0].clone();
            assert_eq!(scope["scope"]["name"], "demo");
            scope["spans"].as_array().unwrap().clone()
        };
        let (told, late) = (read(Some(&profile)), read(None));
        let all: Vec<&Value> = engine.iter().chain(&told).collect();
        let name_of_parent = |span: &Value| {
            let parent = all.iter().find(|other| other["spanId"] == span["parentSpanId"]).unwrap();
            (parent["name"].as_str().unwrap().to_owned(), parent["traceId"] == span["traceId"])
        };
        let parents = |spans: &[Value]| spans.iter().map(name_of_parent).collect::<Vec<_>>();
        let named = |names: [&str; 4]| names.map(|name| (name.to_owned(), true)).to_vec();
        assert_eq!(parents(&told), named(["regatta.task", "tokenize", "regatta.stage", "regatta.stage"]));
        assert_eq!(parents(&late), named(["regatta.stage", "tokenize", "regatta.stage", "regatta.stage"]));
        let [first, ..] = &told[..] else { panic!("{told:?}") };
        assert_eq!(time(first, "endTimeUnixNano") - time(first, "startTimeUnixNano"), 5);
        let said =
            ["regatta.worker.id", "regatta.task.id", "regatta.udf.name", "docs"].map(|name| attribute(first, name));
        let wanted = ["1".to_owned(), task.task.to_string(), "demo::Embed".to_owned(), "7".to_owned()];
        assert_eq!(said, wanted.map(Some));
    }

    #[test]
    fn figures_are_those_that_prometheus_reads() {
        let made = lost_worker_made();
        let measured = Measured { totals: made.recorder.totals(made.now), ..Measured::default() };
        let body: Value = serde_json::from_str(&metrics(&measured, 1_700_000_000_000)).unwrap();
        let metrics = body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap();
        let named: BTreeMap<&str, &Value> =
            metrics.iter().map(|metric| (metric["name"].as_str().unwrap(), metric)).collect();
        assert_eq!(named["regatta.worker.lost"]["sum"]["dataPoints"][0]["asDouble"], 1.0);
        assert_eq!(named["regatta.worker.lost"]["sum"]["isMonotonic"], true);
        let ended = named["regatta.task.ended"]["sum"]["dataPoints"].as_array().unwrap();
        let lost = ended.iter().find(|point| point["attributes"][0]["value"]["stringValue"] == "lost").unwrap();
        assert_eq!(lost["asDouble"], measured.totals.attempts.lost as f64);
        let spread = &named["regatta.task.duration"]["histogram"]["dataPoints"][0];
        let counts: u64 = spread["bucketCounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|count| count.as_str().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(
            (counts, spread["count"].as_str().unwrap()),
            (measured.totals.attempts.done.count(), counts.to_string().as_str())
        );
        assert_eq!(
            spread["bucketCounts"].as_array().unwrap().len(),
            spread["explicitBounds"].as_array().unwrap().len() + 1
        );
        assert!(named.contains_key("regatta.backlog") && named["regatta.backlog"]["gauge"].is_object());
    }
}
