use std::path::Path;

use super::*;
use crate::testing;

/// As in the tests of the forms.
fn is_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("REGATTA_TEST_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(known == text, "{} differs from:\n{text}", path.display());
}

const SECOND: u64 = testing::SECOND;
/// What others may call something, to move a cursor, clear a screen, ring, or turn what follows around.
const HOSTILE: &str = "a\x1b[2J\x1b]0;owned\x07b\r\nc\u{9b}31m\u{202e}d";

/// Whether nothing in it but the ends of lines does anything at a terminal.
fn is_text(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !crate::text::is_hidden(c))
}

fn running() -> QueryRow {
    let (made, _) = testing::running();
    let mut row = made.recorder.row(made.query, made.now).unwrap();
    row.waits = vec!["12 batches wait for room at a replica of UDF demo::Embed, on worker 2, for 3.10 s".to_owned()];
    row.driver = Some("00000000000000a7".to_owned());
    row
}

fn view() -> ClusterView {
    let failed = QueryRow {
        id: "00000000000000b2".to_owned(),
        state: QueryState::Failed,
        error: Some("stage 1, task 3, attempt 5 on worker 1: UDF demo::Embed: no such token".to_owned()),
        time: 3 * SECOND,
        stages: (1, 4),
        ..QueryRow::default()
    };
    let done = QueryRow {
        id: "00000000000000b1".to_owned(),
        state: QueryState::Done,
        time: SECOND / 3,
        stages: (2, 2),
        rows: 120_000,
        ..QueryRow::default()
    };
    let worker = |worker: u32| WorkerRow {
        worker,
        cpus: (4.0, 3.5),
        busy: (worker > 0).then_some(2.25),
        memory: (8 << 30, 3 << 30),
        used: 2 << 30,
        peak: 5 << 30,
        tasks: (4, u32::from(worker == 1) * 2),
        silent: (worker == 2).then_some(4 * SECOND),
        address: Some(format!("10.0.0.{worker}:7001")),
        ..WorkerRow::default()
    };
    let pools = vec![
        PoolRow { udf: "demo::Embed".to_owned(), ready: 4, idle: 1, queries: 1, ..PoolRow::default() },
        PoolRow {
            udf: "demo::Rank".to_owned(),
            starting: vec![Some("weights 61 %".to_owned())],
            queries: 1,
            ..PoolRow::default()
        },
        PoolRow { udf: "demo::Old".to_owned(), ready: 1, unused: Some(40 * SECOND), ..PoolRow::default() },
    ];
    ClusterView {
        build: "build 1".to_owned(),
        up: 7865 * SECOND,
        fleet: Fleet {
            workers: 3,
            silent: 1,
            cpus: (12.0, 10.5),
            busy: None,
            gpus: (0.0, 0.0),
            memory: (24 << 30, 9 << 30),
            used: 6 << 30,
            tasks: (12, 2),
        },
        wanted: Some((4, 9 * SECOND)),
        not_joined: Some((1, "its process ended: exit code 2".to_owned())),
        backlog: 14.0,
        known: (1, 2),
        queries: vec![running(), failed, done],
        workers: (0..3).map(worker).collect(),
        pools,
        dropped: Dropped::default(),
    }
}

#[test]
fn what_is_said_of_a_cluster_is_the_golden_text() {
    let view = view();
    is_golden("view.txt", &view.to_string());
    is_golden("queries.txt", &Table::queries(&view.queries).to_string());
    is_golden("workers.txt", &Table::workers(&view.workers).to_string());
    is_golden("pools.txt", &Table::pools(&view.pools).to_string());
    let (made, _) = testing::running();
    let progress = made.recorder.progress(made.query, made.now).unwrap();
    let waits = vec![(1, "1 replica waits for UDF demo::Embed to start on worker 3: weights 61 %".to_owned())];
    is_golden("query_view.txt", &QueryView { row: running(), progress, waits }.to_string());
}

#[test]
fn names_and_words_of_others_stay_text_wherever_they_are_shown() {
    let mut view = view();
    let hostile = || HOSTILE.to_owned();
    view.not_joined = Some((1, hostile()));
    for row in &mut view.queries {
        (row.id, row.name, row.doing, row.error) = (hostile(), Some(hostile()), hostile(), Some(hostile()));
        (row.waits, row.driver) = (vec![hostile()], Some(hostile()));
    }
    for row in &mut view.workers {
        (row.address, row.devices) = (Some(hostile()), vec![hostile()]);
    }
    for row in &mut view.pools {
        (row.udf, row.starting) = (hostile(), vec![Some(hostile())]);
    }
    let query = QueryView { row: view.queries[0].clone(), waits: vec![(0, hostile())], ..QueryView::default() };
    let texts = [
        view.to_string(),
        query.to_string(),
        Table::queries(&view.queries).to_string(),
        Table::workers(&view.workers).to_string(),
        Table::pools(&view.pools).to_string(),
        Refusal::NoSuch(hostile()).to_string(),
        Finding { says: hostile(), advice: hostile(), id: hostile(), ..Finding::default() }.to_string(),
    ];
    for text in texts {
        assert!(is_text(&text), "{text:?}");
    }
    assert_eq!(Table::queries(&view.queries).to_string().lines().count(), 1 + view.queries.len());
}

#[test]
fn queries_that_run_come_first_the_oldest_of_them_first_and_are_found_by_their_last_digits() {
    let mut made = testing::Made::new(2, crate::Limits::default());
    let plan = testing::plan();
    for (at, id) in [(10, 0xab_0001), (20, 0xab_0002), (30, 0xab_0012), (40, 0xab_0003)] {
        made.query = crate::QueryId(id);
        made.at(at).submit(None, &plan);
    }
    made.at(50).saw(crate::Seen::Released(crate::QueryId(0xab_0002)));
    made.at(60).saw(crate::Seen::Released(crate::QueryId(0xab_0001)));
    let ids = |most| made.recorder.rows(most, made.now).iter().map(|(id, _)| id.0 & 0xff).collect::<Vec<_>>();
    assert_eq!(ids(10), [0x12, 0x03, 0x01, 0x02]);
    assert_eq!((ids(3), ids(1), ids(0)), (vec![0x12, 0x03, 0x01], vec![0x12], vec![]));
    assert_eq!(made.recorder.known(), (2, 2));
    let found = |digits| made.recorder.ending_with(digits).len();
    assert_eq!((found("AB0001"), found("02"), found("2"), found("ff"), found("0000000000ab0003")), (1, 1, 2, 0, 1));
}

#[test]
fn a_row_is_of_the_first_stage_that_runs_and_in_the_end_of_the_result() {
    let row = running();
    assert_eq!((row.stages, row.tasks, row.running), ((1, 4), (311, Some(512)), 8));
    assert_eq!(
        (row.doing.as_str(), row.stage(), row.tasks()),
        ("scan lineitem.parquet, filter, Embed", "2/4".into(), "311/512".into())
    );
    assert!(row.rows > 3_000_000 && row.rate.is_some(), "{row:?}");
    let profile = testing::pipeline();
    let text = serde_json::to_string(&row).unwrap();
    assert_eq!(serde_json::from_str::<QueryRow>(&text).unwrap(), row);
    // What a later build of this version has added is passed over, what an earlier one had not has its default.
    let other = r#"{"id":"07","state":"done","colour":"red"}"#;
    assert_eq!(serde_json::from_str::<QueryRow>(other).unwrap().state, QueryState::Done);
    assert_eq!(profile.query.rows, 10);
}
