//! Sinks that write files, and where the files are until all of them are there.

use std::path::{Path, PathBuf};

use polars::prelude::*;
use polars_plan::dsl::{PartitionStrategyIR, PartitionedSinkOptionsIR, SinkTarget, SinkTypeIR};
use polars_plan::plans::{AExpr, IR, IRPlan};
use polars_utils::arena::{Arena, Node};
use serde::{Deserialize, Serialize};

use super::rowwise::expr_is_row_wise;
use crate::error::PlanError;
use crate::sched::QueryId;

/// A sink that writes into the file system: a file, or files in a folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FileSink {
    /// The file or the folder.
    pub(crate) target: PathBuf,
    pub(crate) is_folder: bool,
    /// Folders on the way are made.
    pub(crate) mkdir: bool,
}

/// Whether rows go to where somebody has said, and not just to who asked for them.
pub(super) fn is_sink(ir: &IR) -> bool {
    match ir {
        IR::Sink { payload, .. } => !matches!(payload, SinkTypeIR::Memory),
        ir => matches!(ir, IR::SinkMultiple { .. }),
    }
}

/// How the names of folders begin in which files are until they are published.
const STAGING: &str = ".regatta-";
/// How the names of such files end: whoever reads `*.parquet` everywhere does not read them.
pub(crate) const STAGED: &str = ".staged";

impl FileSink {
    /// The sink at the root of a plan. Of others (closures, memory, object stores, which publish by themselves), none.
    pub(crate) fn of(ir: &IR) -> Option<Self> {
        let IR::Sink { payload, .. } = ir else { return None };
        let (path, is_folder, args) = match payload {
            SinkTypeIR::File(file) => match &file.target {
                SinkTarget::Path(path) => (path, false, &file.unified_sink_args),
                SinkTarget::Dyn(_) => return None,
            },
            SinkTypeIR::Partitioned(files) => (&files.base_path, true, &files.unified_sink_args),
            SinkTypeIR::Memory | SinkTypeIR::Callback(_) => return None,
        };
        let target = path.as_std_path().to_owned();
        (!path.has_scheme()).then_some(Self { target, is_folder, mkdir: args.mkdir })
    }

    /// The folder that the sink writes into, itself or its target.
    pub(crate) fn folder(&self) -> &Path {
        if self.is_folder { &self.target } else { self.target.parent().unwrap_or(&self.target) }
    }

    /// A folder, in some other, in which a query's files are until they are published.
    pub(crate) fn staging_in(folder: &Path, query: QueryId) -> PathBuf {
        folder.join(format!("{STAGING}{:016x}", query.0))
    }

    pub(crate) fn is_staging(path: &Path) -> bool {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(STAGING.as_bytes()))
    }

    /// Where that folder may be: in the sink's folder, or in one above it.
    pub(crate) fn stagings(&self, query: QueryId) -> impl Iterator<Item = PathBuf> + '_ {
        self.folder().ancestors().map(move |folder| Self::staging_in(folder, query))
    }

    /// What a task of the sink leaves: where each file is, and its name below the sink's folder.
    pub(crate) fn listing() -> SchemaRef {
        let text = |name: &str| Field::new(name.into(), DataType::String);
        let fields = [text("staged"), text("name"), Field::new("bytes".into(), DataType::UInt64)];
        Arc::new(Schema::from_iter(fields))
    }

    /// What a query with a sink yields: each file, and how large it is.
    pub(crate) fn schema() -> SchemaRef {
        let fields = [Field::new("path".into(), DataType::String), Field::new("bytes".into(), DataType::UInt64)];
        Arc::new(Schema::from_iter(fields))
    }
}

/// Nobody publishes the files of a sink into an object store: Polars writes each to its place.
pub(super) fn refuse_many_objects(ir: &IR) -> Result<(), PlanError> {
    match ir {
        IR::Sink { payload: SinkTypeIR::Partitioned(files), .. } if files.base_path.has_scheme() => {
            Err(PlanError::ManyFiles { target: files.base_path.to_string() })
        }
        _ => Ok(()),
    }
}

/// Workers may be in other folders than the driver.
pub(super) fn make_absolute(plan: &mut IRPlan) -> PolarsResult<()> {
    if FileSink::of(plan.lp_arena.get(plan.lp_top)).is_none() {
        return Ok(());
    }
    let IR::Sink { payload, .. } = plan.lp_arena.get_mut(plan.lp_top) else { return Ok(()) };
    let path = match payload {
        SinkTypeIR::File(FileSinkOptions { target: SinkTarget::Path(path), .. }) => path,
        SinkTypeIR::Partitioned(PartitionedSinkOptionsIR { base_path, .. }) => base_path,
        _ => return Ok(()),
    };
    *path = path.to_absolute_path()?.into_owned();
    Ok(())
}

/// The input of a sink that writes one object.
pub(super) fn input_of_object(ir: &IR) -> Option<Node> {
    match ir {
        IR::Sink { input, payload: SinkTypeIR::File(FileSinkOptions { target: SinkTarget::Path(path), .. }) } => {
            path.has_scheme().then_some(*input)
        }
        _ => None,
    }
}

/// The input of a sink of which each task can write its own files.
pub(super) fn input_of_split_sink(ir: &IR, exprs: &Arena<AExpr>) -> Option<Node> {
    let IR::Sink { input, payload: SinkTypeIR::Partitioned(files) } = ir else { return None };
    let may_split = match &files.partition_strategy {
        PartitionStrategyIR::Keyed { keys, keys_pre_grouped, .. } => {
            !keys_pre_grouped && keys.iter().all(|key| expr_is_row_wise(key.node(), exprs))
        }
        PartitionStrategyIR::FileSize => true,
    };
    may_split.then_some(*input)
}
