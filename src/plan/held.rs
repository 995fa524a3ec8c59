//! What a query has persisted on the workers, as a scan: one path for each partition, whose name says which it is. Where it is, the
//! scheduler knows.
//!
//! To Polars it is a scan of IPC files, so that filters and projections are pushed into it. Plain Polars cannot run it.

use std::sync::{Arc, Mutex};

use polars::prelude::*;
use polars_plan::dsl::{DslPlan, FileScanDsl, FileScanIR, ScanSources, UnifiedScanArgs};
use polars_plan::plans::{FileInfo, IR};
use polars_utils::pl_path::PlRefPath;

use super::Split;
use crate::sched::QueryId;

const MARK: &str = "regatta-held:";

/// A query over so many partitions that another has left, in order.
pub(crate) fn scan_held(schema: SchemaRef, query: QueryId, partitions: usize) -> LazyFrame {
    let path = |partition| PlRefPath::new(format!("{MARK}{}", held_name(query, partition)).as_str());
    let paths = (0..partitions).map(path);
    let sources = ScanSources::Paths(paths.collect());
    let args = UnifiedScanArgs { glob: false, cache: false, ..Default::default() };
    // Given here, so that nothing looks for files.
    let ir = IR::Scan {
        sources: sources.clone(),
        file_info: FileInfo::new(schema, None, (None, usize::MAX)),
        hive_parts: None,
        predicate: None,
        predicate_file_skip_applied: None,
        output_schema: None,
        scan_type: Box::new(FileScanIR::Ipc { options: Default::default(), metadata: None }),
        unified_scan_args: Box::new(args.clone()),
    };
    let scan = LazyFrame::from(DslPlan::Scan {
        sources,
        unified_scan_args: Box::new(args),
        scan_type: Box::new(FileScanDsl::Ipc { options: Default::default() }),
        cached_ir: Arc::new(Mutex::new(Some(ir))),
    });
    // On a bare scan, `with_row_index` makes another one and forgets what is given here.
    scan.select([all().as_expr()])
}

/// A partition's name: who has left it, and which it is.
fn held_name(query: QueryId, partition: usize) -> String {
    format!("{:016x}.{partition}", query.0)
}

/// What a partition's name says.
fn held_at(name: &str) -> Option<(QueryId, usize)> {
    let (query, partition) = name.split_once('.')?;
    Some((QueryId(u64::from_str_radix(query, 16).ok()?), partition.parse().ok()?))
}

/// The persisted partitions that each task reads of these nodes; nothing if there are none.
pub(super) fn held_by_splits<'a>(nodes: impl Iterator<Item = &'a IR>, splits: &[Split]) -> Vec<Vec<(QueryId, usize)>> {
    let scans: Vec<_> = nodes.map(held_by).filter(|scan| !scan.is_empty()).collect();
    let of = |split: &Split| scans.iter().flat_map(|scan| held_in(split, scan)).collect();
    if scans.is_empty() { Vec::new() } else { splits.iter().map(of).collect() }
}

/// Of the partitions that a node scans, those that a task with this split reads.
pub(crate) fn held_in(split: &Split, scanned: &[(QueryId, usize)]) -> Vec<(QueryId, usize)> {
    match split {
        Split::Branch { split, .. } => held_in(split, scanned),
        Split::Files { files, .. } => files.iter().filter_map(|file| scanned.get(*file)).copied().collect(),
        _ => scanned.to_vec(),
    }
}

/// The partitions that this node scans; none if it is no such scan.
pub(crate) fn held_by(ir: &IR) -> Vec<(QueryId, usize)> {
    match ir {
        IR::Scan { sources: ScanSources::Paths(paths), .. } => {
            paths.iter().filter_map(|path| held_at(path.as_str().strip_prefix(MARK)?)).collect()
        }
        _ => Vec::new(),
    }
}
