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

use super::program::{Read, Scattering};
use crate::error::{PolarsFailure, TaskFailure};
use crate::sched::Part;
use crate::store::{Reading, encode_frame};
use crate::udf::CallingTask;

/// How a task waits for its blocks.
#[derive(Clone)]
pub(crate) struct Waits {
    pub(crate) runtime: Runtime,
    /// Becomes true, or its sender is dropped, when the query ends.
    pub(crate) cancelled: watch::Receiver<bool>,
}

const TICKET: &str = "ticket";

/// The rows that a task reads of an input.
#[derive(Clone)]
pub(super) struct Rows {
    pub(super) reading: Arc<Reading>,
    pub(super) waits: Waits,
    /// Of its sections it takes one part.
    pub(super) part: Option<(Scattering, Part, CallingTask)>,
}

impl Rows {
    /// Those of some blocks, once they are here. Blocks.
    fn some(&self, blocks: Range<usize>) -> Result<DataFrame, TaskFailure> {
        let rows = self.waits.until_cancelled(self.reading.rows(blocks))?;
        match &self.part {
            Some((scattering, part, calling)) => scattering.part_of(rows, *part, calling),
            None => Ok(rows),
        }
    }

    /// All of them. Blocks.
    fn all(&self) -> Result<DataFrame, TaskFailure> {
        let mut all: Option<DataFrame> = None;
        for group in self.reading.groups() {
            let rows = self.some(group)?;
            match &mut all {
                Some(all) => drop(all.vstack_mut_owned(rows).map_err(PolarsFailure::from)?),
                None => all = Some(rows),
            }
        }
        Ok(all.unwrap_or_else(|| DataFrame::empty_with_schema(self.reading.form().schema())))
    }
}

impl Waits {
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
pub(super) fn put(rows: &Rows, read: &Read, ir: &mut Arena<IR>) -> Result<(), TaskFailure> {
    let IR::Scan { predicate, output_schema, unified_scan_args: args, .. } = ir.get(read.at) else { return Ok(()) };
    if args.pre_slice.is_some() || args.row_index.is_some() {
        // The scan counts rows, and is left to do it.
        let rows = rows.all()?;
        let file = encode_frame(&rows).map_err(PolarsFailure::from)?;
        if let IR::Scan { sources, .. } = ir.get_mut(read.at) {
            *sources = ScanSources::Buffers([Buffer::from_owner(file)].into_iter().collect());
        }
        return Ok(());
    }
    let (predicate, columns) = (predicate.clone(), output_schema.clone());
    let mut top = source(rows, read.shared, ir)?;
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

fn source(rows: &Rows, shared: bool, ir: &mut Arena<IR>) -> Result<IR, TaskFailure> {
    let groups = rows.reading.groups();
    // One block needs no tickets; and a node that two others read would take each twice.
    if groups.len() < 2 || shared {
        let df = Arc::new(rows.all()?);
        let schema = Arc::clone(df.schema());
        return Ok(IR::DataFrameScan { df, schema, output_schema: None });
    }
    let input = tickets(groups.len() as u32).map_err(PolarsFailure::from)?;
    let input = ir.add(input);
    let schema = rows.reading.form().schema();
    let (schema, out, blocks) = (Arc::clone(schema), Arc::clone(schema), rows.clone());
    let exchange = move |tickets: DataFrame| -> PolarsResult<DataFrame> {
        let mut rows = DataFrame::empty_with_schema(&schema);
        for ticket in tickets.column(TICKET)?.u32()?.into_no_null_iter() {
            let Some(group) = groups.get(ticket as usize).cloned() else { continue };
            // Waiting must not keep others from running: the threads are everybody's.
            let more = block_in_place(|| blocks.some(group));
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
