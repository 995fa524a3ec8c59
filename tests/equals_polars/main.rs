//! A query on a session gives plain Polars' answer: native, on one worker process, and on four.

mod analyses;
mod exchanges;
mod neighbours;
mod orders;
mod sources;
mod text;
mod udfs;
mod verbs;
mod windows;

use std::collections::BTreeSet;

use polars_plan::dsl::FileScanIR;
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

fn all() -> [Vec<Case>; 4] {
    [sources::cases(), verbs::cases(), analyses::cases(), udfs::cases()]
}

#[test]
fn native() {
    let session = Session::native().unwrap();
    all().into_iter().for_each(|cases| same_on(&session, cases));
}

#[test]
fn one_worker_process() {
    let session = Session::local(1).unwrap();
    all().into_iter().for_each(|cases| same_on(&session, cases));
}

#[test]
fn sources_on_four_worker_processes() {
    same_on(&Session::local(4).unwrap(), sources::cases());
}

#[test]
fn exchanges_on_three_worker_processes() {
    same_on(&Session::local(3).unwrap(), exchanges::cases());
}

#[test]
fn aggregates_of_every_type_on_three_worker_processes() {
    same_on(&Session::local(3).unwrap(), exchanges::of_every_type());
}

/// Of each second task each row is a group by itself.
#[test]
fn aggregates_of_every_type_in_both_forms() {
    orders::in_shapes("aggregates_of_every_type_on_three_worker_processes", "hash");
}

#[test]
fn rows_that_are_together_on_three_worker_processes() {
    same_on(&Session::local(3).unwrap(), exchanges::together());
}

#[test]
fn rows_that_are_together_wherever_sides_come_by_keys() {
    for shapes in ["hash", "shared", "parts"] {
        orders::in_shapes("rows_that_are_together_on_three_worker_processes", shapes);
    }
}

#[test]
fn exchanges_on_three_worker_processes_with_sections_in_parts() {
    orders::in_shapes("exchanges_on_three_worker_processes", "parts");
}

#[test]
fn verbs_on_four_worker_processes() {
    same_on(&Session::local(4).unwrap(), verbs::cases());
}

#[test]
fn analyses_on_four_worker_processes() {
    same_on(&Session::local(4).unwrap(), analyses::cases());
}

#[test]
fn udfs_on_four_worker_processes() {
    same_on(&Session::local(4).unwrap(), udfs::cases());
}

/// What Polars' optimiser makes of a query, by name: its nodes, and the functions behind `map_function`. Nothing is matched
/// by a wildcard: what a new Polars, or another feature of it, brings does not compile until it is in [`NODES`].
fn nodes(query: LazyFrame) -> Vec<String> {
    let plan = query.with_comm_subplan_elim(false).with_streaming(true).to_alp_optimized().unwrap();
    plan.lp_arena.iter(plan.lp_top).map(|(_, ir)| node(ir)).collect()
}

fn node(ir: &IR) -> String {
    let name = match ir {
        IR::MapFunction { function, .. } => match function {
            FunctionIR::RowIndex { .. } => "row index",
            FunctionIR::FastCount { .. } => "fast count",
            FunctionIR::Unnest { .. } => "unnest",
            FunctionIR::Explode { .. } => "explode",
            FunctionIR::Unpivot { .. } => "unpivot",
            FunctionIR::Opaque { .. } => "opaque",
            FunctionIR::Hint(_) => "hint",
            // Nothing in Polars 0.55.2 makes it.
            FunctionIR::Rechunk => "rechunk",
        },
        IR::Scan { scan_type, .. } => match &**scan_type {
            FileScanIR::Csv { .. } => "csv",
            FileScanIR::NDJson { .. } => "ndjson",
            FileScanIR::Parquet { .. } => "parquet",
            FileScanIR::Ipc { .. } => "ipc",
            // A closure, for native sessions only; paths that are not yet files, while Polars plans.
            FileScanIR::Anonymous { .. } => "anonymous scan",
            FileScanIR::ExpandedPaths { .. } => "expanded paths",
        },
        IR::GroupBy { options, .. } if options.is_dynamic() => "aggregate (dynamic)",
        IR::GroupBy { options, .. } if options.is_rolling() => "aggregate (rolling)",
        IR::Join { options, .. } => match options.args.how {
            JoinType::Inner => "join inner",
            JoinType::Left => "join left",
            JoinType::Right => "join right",
            JoinType::Full => "join full",
            JoinType::Semi => "join semi",
            JoinType::Anti => "join anti",
            JoinType::IEJoin => "join of inequalities",
            JoinType::Range => "join of a range",
            JoinType::Cross => "join cross",
        },
        IR::Slice { .. }
        | IR::Filter { .. }
        | IR::DataFrameScan { .. }
        | IR::SimpleProjection { .. }
        | IR::Select { .. }
        | IR::Sort { .. }
        | IR::GroupBy { .. }
        | IR::Gather { .. }
        | IR::HStack { .. }
        | IR::Distinct { .. }
        | IR::Union { .. }
        | IR::HConcat { .. }
        | IR::ExtContext { .. }
        | IR::MergeSorted { .. } => ir.name(),
        // Sinks are tested in `scenarios`; several need several queries at once. No optimiser leaves a cache without subplan
        // elimination. The last two exist only while Polars plans or lowers.
        IR::Sink { .. } | IR::SinkMultiple { .. } | IR::Cache { .. } | IR::UnoptimizedDispatch { .. } | IR::Invalid => {
            ir.name()
        }
    };
    name.to_owned()
}

/// Every node and file kind that this build has and an optimised query can hold.
const NODES: &str = "aggregate, aggregate (dynamic), aggregate (rolling), csv, df, distinct, ext_context, explode, \
    fast count, filter, gather, hconcat, hint, hstack, ipc, join anti, join cross, join full, join inner, join left, \
    join of a range, join of inequalities, join right, join semi, merge_sorted, ndjson, opaque, parquet, projection, \
    row index, simple_projection, slice, sort, union, unnest, unpivot";

#[test]
fn the_cases_hold_every_node_and_file_kind() {
    let cases: Vec<Case> = all().into_iter().flatten().collect();
    assert!(cases.len() >= 60, "{} queries", cases.len());
    let held: BTreeSet<_> = cases.into_iter().flat_map(|(_, query, _, _)| nodes(query)).collect();
    let wanted: BTreeSet<_> = NODES.split(", ").map(str::to_owned).collect();
    assert_eq!(held, wanted);
}
