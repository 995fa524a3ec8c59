//! What the nodes of Polars' streaming engine do: rows and time of each.

use std::collections::HashMap;
use std::time::Duration;

use polars::prelude::*;
use polars_plan::plans::{AExpr, IR};
use polars_stream::{NodeMetrics, StreamingQuery};
use polars_utils::arena::{Arena, Node};
use regatta_observe::EngineNode;

use super::spending::{Spending, nanoseconds};

/// Runs a query as `polars_stream::run_query` does, and tells what each of its nodes did, also if it fails.
pub(super) fn run(top: Node, ir: &mut Arena<IR>, exprs: &mut Arena<AExpr>, meter: &Spending) -> PolarsResult<()> {
    let mut query = StreamingQuery::build(top, ir, exprs)?;
    // Of all of this process, from here on: the engine panics at a query that is measured if its threads do not measure.
    polars_async::executor::track_task_metrics(true);
    let metrics = Arc::clone(query.metrics.get_or_insert_default());
    let nodes: Vec<_> = query.graph.nodes.iter().map(|(key, node)| (key, node.compute.name().to_owned())).collect();
    let outcome = query.execute();
    let metrics = metrics.lock();
    let mut named: HashMap<String, u32> = HashMap::new();
    for (key, name) in nodes {
        let next = named.entry(name.clone()).or_default();
        let nth = std::mem::replace(next, *next + 1);
        metrics.get(key).into_iter().for_each(|did| meter.node(&engine_node(name.clone(), nth, did)));
    }
    outcome.map(drop)
}

fn engine_node(name: String, nth: u32, did: &NodeMetrics) -> EngineNode {
    EngineNode {
        name,
        nth,
        rows_in: did.rows_received,
        rows_out: did.rows_sent,
        time: did.total_poll_time_ns + did.total_state_update_time_ns,
        io: did.io_total_active_ns,
        io_bytes: did.io_total_bytes_received + did.io_total_bytes_sent,
    }
}

/// A query ran on the in-memory engine, of whose nodes nothing is known.
pub(super) fn was_in_memory(frame: &DataFrame, time: Duration, meter: &Spending) {
    let name = "in-memory engine".to_owned();
    meter.node(&EngineNode { name, rows_out: frame.height() as u64, time: nanoseconds(time), ..EngineNode::default() });
}
