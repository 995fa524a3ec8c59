use std::collections::{BTreeMap, BTreeSet};

use super::prometheus::name;
use super::*;
use crate::testing::{SECOND, lost_worker_made, pipeline_made, plan};
use crate::{End, PoolRow, QueryId, Seen, WorkerRow};

/// The samples of a text of Prometheus, by name and labels; panics where it is none.
fn parsed(text: &str) -> BTreeMap<String, f64> {
    let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
        let of = series.split('{').next().unwrap();
        let is_name =
            |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':');
        assert!(is_name(of), "{line}");
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| of.strip_suffix(end).filter(|name| types.contains_key(*name)));
        assert!(types.contains_key(family.unwrap_or(of)), "{line}: of no type");
        let labels = series.strip_prefix(of).unwrap();
        assert!(labels.is_empty() || labels.starts_with('{') && labels.ends_with("\"}"), "{line}");
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} twice");
    }
    samples
}

#[test]
fn the_figures_are_those_of_the_profile() {
    for made in [pipeline_made(), lost_worker_made()] {
        let profile = made.profile();
        let totals = made.recorder.totals(made.now);
        let measured = Measured { totals, ..Measured::default() };
        let samples = parsed(&prometheus(&measured));
        let of = |series: &str| samples.get(series).copied().unwrap_or_else(|| panic!("{series}: {samples:#?}"));
        assert_eq!(of("regatta_query_ended_total{outcome=\"done\"}"), 1.0);
        let sum = |figure: fn(&crate::StageFigures) -> u64| profile.stages.iter().map(figure).sum::<u64>() as f64;
        assert_eq!(of("regatta_task_ended_total{outcome=\"done\"}"), sum(|stage| stage.durations.count()));
        assert_eq!(of("regatta_task_ended_total{outcome=\"failed\"}"), sum(|stage| stage.failed.into()));
        assert_eq!(of("regatta_task_ended_total{outcome=\"lost\"}"), sum(|stage| stage.lost.into()));
        assert_eq!(of("regatta_task_again_total"), sum(|stage| stage.again.into()));
        assert_eq!(of("regatta_task_time_seconds_total{kind=\"udf\"}"), sum(|stage| stage.spent.udf) / 1e9);
        assert_eq!(of("regatta_task_duration_seconds_count"), sum(|stage| stage.durations.count()));
        assert_eq!(of("regatta_task_duration_seconds_bucket{le=\"+Inf\"}"), sum(|stage| stage.durations.count()));
        assert_eq!(of("regatta_task_duration_seconds_sum"), sum(|stage| stage.durations.sum()) / 1e6);
        let read = profile.exchanged();
        assert_eq!(of("regatta_exchange_io_bytes_total{transport=\"mapped\"}"), read.mapped as f64);
        assert_eq!(of("regatta_exchange_rows_total"), read.rows as f64);
        for pool in &profile.pools {
            assert_eq!(of(&format!("regatta_udf_rows_total{{udf=\"{}\"}}", pool.udf)), pool.calls.rows as f64);
            assert_eq!(
                of(&format!("regatta_udf_call_duration_seconds_count{{udf=\"{}\"}}", pool.udf)),
                pool.calls.call.count() as f64
            );
        }
        let lost = profile.workers.iter().filter(|worker| worker.lost.is_some()).count();
        assert_eq!(of("regatta_worker_lost_total"), lost as f64);
    }
}

#[test]
fn names_and_series_are_few_and_distinct_whatever_others_are_called() {
    let names: BTreeSet<_> = INSTRUMENTS.iter().map(name).collect();
    assert_eq!(names.len(), INSTRUMENTS.len());
    let mut measured = Measured::default();
    measured.cluster.workers = (0..5000)
        .map(|worker| WorkerRow {
            worker,
            cpus: (4.0, 1.0),
            busy: Some(1.0),
            memory: (1, 1),
            used: 1,
            gpus: (1.0, 0.0),
            ..WorkerRow::default()
        })
        .collect();
    for udf in 0..5000 {
        let hostile = format!("a\"}} 1\nowned_total{{x=\"\\{udf}");
        measured.totals.udf(&hostile).started += 1;
        measured.cluster.pools.push(PoolRow { udf: hostile, ready: 1, ..PoolRow::default() });
    }
    let samples = parsed(&prometheus(&measured));
    assert!(samples.len() < 4000, "{}", samples.len());
    assert!(!samples.keys().any(|series| series.starts_with("owned")));
    let sum = |start: &str| {
        samples.iter().filter(|(series, _)| series.starts_with(start)).map(|(_, value)| value).sum::<f64>()
    };
    assert_eq!(
        (sum("regatta_worker_cpu_limit{"), sum("regatta_replica_started_total{"), sum("regatta_replica_count{")),
        (20_000.0, 5000.0, 5000.0)
    );
}

#[test]
fn every_figure_that_counts_only_grows_also_when_queries_are_forgotten() {
    let mut made = pipeline_made();
    let mut before: BTreeMap<String, f64> = BTreeMap::new();
    for round in 0..200 {
        (made.query, made.now) = (QueryId(1000 + round), made.now + SECOND);
        made.submit(None, &plan());
        (0..4).for_each(|task| made.run(0, task, task % 2, 90, 1000 * u64::from(task)));
        made.place(0, 1, 2, 0);
        made.ends(0, 1, 2, End::Failed("no room"));
        // Some run on.
        if round % 3 > 0 {
            made.saw(Seen::Released(made.query));
        }
        let totals = made.recorder.totals(made.now);
        let samples = parsed(&prometheus(&Measured { totals, ..Measured::default() }));
        for (series, value) in &before {
            let now = samples.get(series).copied().unwrap_or(0.0);
            assert!(!series.contains("_total") || now >= *value, "{series}: {value} to {now}");
        }
        before = samples;
    }
    assert_eq!(before["regatta_query_submitted_total"], 201.0);
}

#[test]
fn docs_dashboard_md_has_every_instrument() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/book/src/dashboard.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (begin, rest) = page.split_once("<!-- instruments -->\n").unwrap();
    let (is, end) = rest.split_once("<!-- /instruments -->").unwrap();
    let mut table = "| | labels | |\n|---|---|---|\n".to_owned();
    for instrument in INSTRUMENTS {
        let labels: Vec<_> = instrument.attributes.iter().map(|label| format!("`{label}`")).collect();
        let kind = format!("{:?}", instrument.kind).to_lowercase();
        table.push_str(&format!("| `{}` {kind} | {} | {} |\n", name(instrument), labels.join(", "), instrument.about));
    }
    if std::env::var_os("REGATTA_TEST_GOLDEN").is_some() {
        std::fs::write(path, format!("{begin}<!-- instruments -->\n{table}<!-- /instruments -->{end}")).unwrap();
    } else {
        assert!(
            is == table,
            "docs/book/src/dashboard.md is not what the code says: run this with REGATTA_TEST_GOLDEN=write"
        );
    }
}
