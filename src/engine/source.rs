//! What a task reads of what others have left, as sources that Polars takes blocks from while it runs.
//!
//! Polars has no streaming source of ours. But a scan of tickets, each a record batch of one row, is one, and a streamable function above
//! it exchanges each ticket for a block: in order, on all pipelines, and only as far as what is above has room.

use std::ops::Range;
use std::sync::Arc;

use polars::prelude::*;
use polars_async::executor::block_in_place;
use polars_buffer::Buffer;
use polars_plan::dsl::{FileScanIR, ScanSources, UnifiedScanArgs};
use polars_plan::plans::{FileInfo, FunctionIR, IR};
use polars_utils::arena::Arena;
use regatta_remote::Runtime;
use tokio::sync::watch;

use super::program::Read;
use crate::error::{PolarsFailure, TaskFailure};
use crate::store::{Reading, encode_frame};

/// How a task waits for its blocks.
#[derive(Clone)]
pub(crate) struct Waits {
    pub(crate) runtime: Runtime,
    /// Becomes true, or its sender is dropped, when the query ends.
    pub(crate) cancelled: watch::Receiver<bool>,
}

const TICKET: &str = "ticket";

impl Waits {
    /// The rows of some blocks, once they are here. Blocks.
    fn rows(&self, reading: &Reading, blocks: Range<usize>) -> Result<DataFrame, TaskFailure> {
        self.until_cancelled(reading.rows(blocks))
    }

    /// Waits for something, or for the query's end. Blocks.
    pub(crate) fn until_cancelled<T>(
        &self,
        what: impl Future<Output = Result<T, TaskFailure>>,
    ) -> Result<T, TaskFailure> {
        let mut cancelled = self.cancelled.clone();
        self.runtime.wait(async {
            tokio::select! {
                biased;
                _ = cancelled.wait_for(|cancelled| *cancelled) => Err(TaskFailure::Cancelled),
                done = what => done,
            }
        })
    }
}

/// Puts what is read in the place of a node.
///
/// # Errors
/// It was little, was waited for, and is lost.
pub(super) fn put(reading: &Arc<Reading>, read: &Read, ir: &mut Arena<IR>, waits: &Waits) -> Result<(), TaskFailure> {
    let IR::Scan { predicate, output_schema, unified_scan_args: args, .. } = ir.get(read.at) else { return Ok(()) };
    if args.pre_slice.is_some() || args.row_index.is_some() {
        // The scan counts rows, and is left to do it.
        let rows = waits.until_cancelled(reading.all())?;
        let file = encode_frame(&rows).map_err(PolarsFailure::from)?;
        if let IR::Scan { sources, .. } = ir.get_mut(read.at) {
            *sources = ScanSources::Buffers([Buffer::from_owner(file)].into_iter().collect());
        }
        return Ok(());
    }
    let (predicate, columns) = (predicate.clone(), output_schema.clone());
    let mut top = source(reading, read.shared, ir, waits)?;
    if let Some(predicate) = predicate {
        let input = ir.add(top);
        top = IR::Filter { input, predicate };
    }
    if let Some(columns) = columns {
        let input = ir.add(top);
        top = IR::SimpleProjection { input, columns };
    }
    ir.replace(read.at, top);
    Ok(())
}

fn source(reading: &Arc<Reading>, shared: bool, ir: &mut Arena<IR>, waits: &Waits) -> Result<IR, TaskFailure> {
    let groups = reading.groups();
    // One block needs no tickets; and a node that two others read would take each twice.
    if groups.len() < 2 || shared {
        let df = Arc::new(waits.until_cancelled(reading.all())?);
        let schema = Arc::clone(df.schema());
        return Ok(IR::DataFrameScan { df, schema, output_schema: None });
    }
    let input = tickets(groups.len() as u32).map_err(PolarsFailure::from)?;
    let input = ir.add(input);
    let (schema, out) = (Arc::clone(reading.form().schema()), Arc::clone(reading.form().schema()));
    let (reading, waits) = (Arc::clone(reading), waits.clone());
    let exchange = move |tickets: DataFrame| -> PolarsResult<DataFrame> {
        let mut rows = DataFrame::empty_with_schema(&schema);
        for ticket in tickets.column(TICKET)?.u32()?.into_no_null_iter() {
            let Some(group) = groups.get(ticket as usize).cloned() else { continue };
            // Waiting must not keep others from running: the threads are everybody's.
            let more = block_in_place(|| waits.rows(&reading, group));
            // What the task says of it is the failure itself.
            rows.vstack_mut_owned(more.map_err(|e| polars_err!(ComputeError: "{e}"))?)?;
        }
        Ok(rows)
    };
    let function = FunctionIR::Opaque {
        function: Arc::new(exchange),
        schema: Some(Arc::new(move |_: &Schema| Ok(Arc::clone(&out)))),
        predicate_pd: false,
        projection_pd: false,
        streamable: true,
        fmt_str: "blocks of the stage below".into(),
    };
    Ok(IR::MapFunction { input, function })
}

/// A scan of so many tickets, each a morsel: Polars' writer makes a record batch of each chunk.
fn tickets(count: u32) -> PolarsResult<IR> {
    let mut tickets = df![TICKET => [0u32]]?;
    for ticket in 1..count {
        tickets.vstack_mut_owned(df![TICKET => [ticket]]?)?;
    }
    let schema = Arc::clone(tickets.schema());
    let mut file = Vec::new();
    IpcWriter::new(&mut file).finish(&mut tickets)?;
    Ok(IR::Scan {
        sources: ScanSources::Buffers([Buffer::from(file)].into_iter().collect()),
        file_info: FileInfo::new(schema, None, (None, usize::MAX)),
        hive_parts: None,
        predicate: None,
        predicate_file_skip_applied: None,
        output_schema: None,
        scan_type: Box::new(FileScanIR::Ipc { options: Default::default(), metadata: None }),
        unified_scan_args: Box::new(UnifiedScanArgs { glob: false, cache: false, ..Default::default() }),
    })
}
