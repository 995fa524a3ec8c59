//! A query on a session gives plain Polars' answer: native, on one worker process, and on four.

mod sources;
mod udfs;
mod verbs;

use std::collections::BTreeSet;

use polars_plan::plans::{ArenaLpIter, FunctionIR, IR};
use regatta::Session;
use regatta::polars::prelude::*;
use regatta::testing::assert_same_as_polars;

regatta::testing::worker!();

/// Name, query, whether Polars promises its row order, and columns that passed a float sum.
type Case = (&'static str, LazyFrame, bool, &'static [&'static str]);

fn same_on(session: &Session, cases: Vec<Case>) {
    for (name, query, ordered, approximate) in cases {
        println!("{name}");
        assert_same_as_polars(session, &query, ordered, approximate);
    }
    assert_eq!(session.partitions_held(), 0, "nothing is left");
}

#[test]
fn native() {
    let session = Session::native().unwrap();
    [sources::cases(), verbs::cases(), udfs::cases()].into_iter().for_each(|cases| same_on(&session, cases));
}

#[test]
fn one_worker_process() {
    let session = Session::local(1).unwrap();
    [sources::cases(), verbs::cases(), udfs::cases()].into_iter().for_each(|cases| same_on(&session, cases));
}

#[test]
fn sources_on_four_worker_processes() {
    same_on(&Session::local(4).unwrap(), sources::cases());
}

#[test]
fn verbs_on_four_worker_processes() {
    same_on(&Session::local(4).unwrap(), verbs::cases());
}

#[test]
fn udfs_on_four_worker_processes() {
    same_on(&Session::local(4).unwrap(), udfs::cases());
}

/// What Polars' optimiser makes of a query, by name: its nodes, and the functions behind `map_function`.
fn nodes(query: LazyFrame) -> Vec<String> {
    let plan = query.with_comm_subplan_elim(false).with_streaming(true).to_alp_optimized().unwrap();
    let node = |ir: &IR| match ir {
        IR::MapFunction { function: FunctionIR::FastCount { .. }, .. } => "fast count".to_owned(),
        IR::MapFunction { function: FunctionIR::Opaque { .. }, .. } => "opaque".to_owned(),
        IR::MapFunction { function, .. } => {
            function.to_string().split([' ', '[', '.']).next().unwrap_or_default().to_lowercase()
        }
        IR::GroupBy { options, .. } if options.is_dynamic() => "aggregate (dynamic)".to_owned(),
        IR::GroupBy { options, .. } if options.is_rolling() => "aggregate (rolling)".to_owned(),
        IR::Join { options, .. } => format!("join {}", options.args.how).to_lowercase(),
        ir => ir.name().to_lowercase(),
    };
    let names = plan.lp_arena.iter(plan.lp_top).map(|(_, ir)| node(ir));
    names.collect()
}

/// Every node and file kind that this build has and a query can hold. Sinks are tested in `scenarios`. The others need
/// several queries at once (`sink multiple`), or no optimiser leaves them (`cache` is gone without subplan elimination).
const NODES: &str = "aggregate, aggregate (dynamic), aggregate (rolling), csv, df, distinct, ext_context, explode, \
    fast count, filter, gather, hconcat, hint, hstack, ipc, join anti, join cross, join full, join inner, join left, \
    join range, join right, join semi, merge_sorted, ndjson, opaque, parquet, projection, row, simple_projection, slice, \
    sort, union, unnest";

#[test]
fn the_cases_hold_every_node_and_file_kind() {
    let cases: Vec<Case> = [sources::cases(), verbs::cases(), udfs::cases()].into_iter().flatten().collect();
    assert!(cases.len() >= 60, "{} queries", cases.len());
    let held: BTreeSet<_> = cases.into_iter().flat_map(|(_, query, _, _)| nodes(query)).collect();
    let wanted: BTreeSet<_> = NODES.split(", ").map(str::to_owned).collect();
    assert_eq!(held, wanted);
}
