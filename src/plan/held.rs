//! Partitions that workers hold beyond their query, as a scan: one path for each, whose name says where it is.
//!
//! To Polars it is a scan of IPC files, so that filters and projections are pushed into it. Plain Polars cannot run it.

use std::sync::{Arc, Mutex};

use polars::prelude::*;
use polars_plan::dsl::{DslPlan, FileScanDsl, FileScanIR, ScanSources, UnifiedScanArgs};
use polars_plan::plans::{FileInfo, IR};
use polars_utils::pl_path::PlRefPath;

const MARK: &str = "regatta-held:";

/// A query over partitions of one schema, in order.
pub(crate) fn scan_held(schema: SchemaRef, names: &[String]) -> LazyFrame {
    let paths = names.iter().map(|name| PlRefPath::new(format!("{MARK}{name}").as_str()));
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

/// The names of the partitions that this node scans; none if it is no such scan.
pub(crate) fn held_by(ir: &IR) -> Vec<&str> {
    match ir {
        IR::Scan { sources: ScanSources::Paths(paths), .. } => {
            paths.iter().filter_map(|path| path.as_str().strip_prefix(MARK)).collect()
        }
        _ => Vec::new(),
    }
}
