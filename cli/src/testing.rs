//! What tests show: a cluster that never was.

use regatta_observe::{ClusterView, Fleet, PoolRow, QueryRow, QueryState, WorkerRow};

pub(crate) const SECOND: u64 = 1_000_000_000;
/// What others may call something, to move a cursor, clear a screen, ring, or turn what follows around.
pub(crate) const HOSTILE: &str = "a\x1b[2J\x1b]0;owned\x07b\r\nc\u{9b}31m\u{202e}d";

/// A cluster of three workers and as many queries.
pub(crate) fn view() -> ClusterView {
    let query = |id: u64, name: Option<&str>, state| QueryRow {
        id: format!("{id:016x}"),
        name: name.map(str::to_owned),
        state,
        submitted_ms: 1_700_000_000_000,
        time: 42 * SECOND,
        stages: (1, 4),
        doing: "scan lineitem.parquet, Embed".to_owned(),
        tasks: (311, Some(512)),
        running: 8,
        rows: 3_638_700,
        rate: Some(86_000.0),
        driver: Some("00000000000000a7".to_owned()),
        ..QueryRow::default()
    };
    let mut nightly = query(0xabc_0000_0007, Some("nightly"), QueryState::Running);
    nightly.waits =
        vec!["12 batches wait for room at a replica of UDF demo::Embed, on worker 2, for 3.10 s".to_owned()];
    let second =
        QueryRow { stages: (0, 1), tasks: (0, None), rate: None, ..query(0xabc_0000_0008, None, QueryState::Running) };
    let failed = QueryRow {
        error: Some("stage 1, task 3, attempt 5 on worker 1: UDF demo::Embed: no such token".to_owned()),
        time: 3 * SECOND,
        ..query(0xabc_0000_0006, None, QueryState::Failed)
    };
    let worker = |worker: u32| WorkerRow {
        worker,
        cpus: (4.0, 3.5),
        busy: Some(1.25 * f64::from(worker + 1)),
        memory: (8 << 30, 3 << 30),
        used: 2 << 30,
        peak: 5 << 30,
        tasks: (4, 2 * worker),
        silent: (worker == 2).then_some(4 * SECOND),
        address: Some(format!("10.0.0.{worker}:7001")),
        ..WorkerRow::default()
    };
    ClusterView {
        build: "regatta 0.1.0".to_owned(),
        up: 7865 * SECOND,
        fleet: Fleet {
            workers: 3,
            silent: 1,
            cpus: (12.0, 10.5),
            busy: Some(7.5),
            memory: (24 << 30, 9 << 30),
            used: 6 << 30,
            tasks: (12, 6),
            ..Fleet::default()
        },
        backlog: 14.0,
        known: (2, 1),
        queries: vec![nightly, second, failed],
        workers: (0..3).map(worker).collect(),
        pools: vec![PoolRow { udf: "demo::Embed".to_owned(), ready: 4, queries: 1, ..PoolRow::default() }],
        ..ClusterView::default()
    }
}
