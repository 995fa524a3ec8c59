//! Fragments as they travel: Polars' IR in its self-describing form.

use std::fmt;
use std::sync::Arc;

use polars::prelude::*;
use polars_plan::dsl::{FileScanIR, LazySerde, ScanSources, UnifiedScanArgs};
use polars_plan::plans::prune::{prune, prune_plan};
use polars_plan::plans::{AExpr, FileInfo, FunctionIR, IR, IRPlan, IRPlanRef};
use polars_plan::prelude::{AnonymousColumnsUdf, SpecialEq};
use polars_utils::arena::{Arena, Node};
use polars_utils::pl_path::PlRefPath;
use polars_utils::pl_serialize::SerializeOptions;
use serde::{Deserialize, Serialize};

use super::Without;
use super::aggregate::Variances;
use super::borders::Borders;
use super::lift::udf_calls;
use super::place::Place;
use crate::error::{PlanError, PolarsFailure};
use crate::sched::StageId;
use crate::udf::UdfCall;

/// A piece of a plan that an engine runs.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Fragment {
    /// Polars' msgpack form: it carries every node kind that can travel at all, which bincode does not.
    Encoded(#[serde(with = "super::blob")] Vec<u8>),
    /// Never left this process, so it may hold closures.
    #[serde(skip)]
    Resident(Resident),
}

/// A plan that stays in the process.
#[derive(Clone)]
pub(crate) struct Resident(Arc<IRPlan>);

// Plans hold what scans of object stores need, secrets too.
impl fmt::Debug for Fragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoded(bytes) => write!(f, "Encoded({} bytes)", bytes.len()),
            Self::Resident(_) => f.write_str("Resident"),
        }
    }
}

impl Fragment {
    pub(super) fn new(root: Node, ir: &Arena<IR>, exprs: &Arena<AExpr>, travels: bool) -> Result<Self, PlanError> {
        Self::of(prune_plan(IRPlanRef { lp_top: root, lp_arena: ir, expr_arena: exprs }), travels)
    }

    /// All that stands below these nodes, and their numbers in it.
    pub(super) fn whole(
        nodes: &[Node],
        ir: &Arena<IR>,
        exprs: &Arena<AExpr>,
        travels: bool,
    ) -> Result<(Self, Vec<Node>), PlanError> {
        let (mut lp_arena, mut expr_arena) = (Arena::new(), Arena::new());
        let nodes = prune(nodes, ir, exprs, &mut lp_arena, &mut expr_arena);
        let lp_top = nodes.last().copied().unwrap_or_default();
        Ok((Self::of(IRPlan { lp_top, lp_arena, expr_arena }, travels)?, nodes))
    }

    fn of(mut plan: IRPlan, travels: bool) -> Result<Self, PlanError> {
        prepare_scans(&mut plan);
        for (_, call) in udf_calls(&plan) {
            call.check_in_place().map_err(|error| PlanError::udf(call.name(), error))?;
        }
        if !travels {
            return Ok(Self::Resident(Resident(Arc::new(plan))));
        }
        let mut bytes = Vec::new();
        let encoded = SerializeOptions::default().serialize_into_writer::<_, _, true>(&mut bytes, &plan);
        encoded.map_err(|error| PlanError::CannotTravel {
            what: culprit(&plan).unwrap_or_else(|| "a part of the plan".to_owned()),
            error: error.into(),
        })?;
        Ok(Self::Encoded(bytes))
    }

    /// A whole plan that stays in this process, as Polars has optimised it.
    pub(super) fn as_it_is(plan: IRPlan) -> Self {
        Self::Resident(Resident(Arc::new(plan)))
    }

    /// Bytes that it takes to send it.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Encoded(bytes) => bytes.len(),
            Self::Resident(_) => 0,
        }
    }

    /// The plan, ready to be cloned for a task. Decode once, not per task.
    pub(crate) fn open(&self) -> Result<Arc<IRPlan>, PolarsFailure> {
        match self {
            Self::Resident(Resident(plan)) => Ok(Arc::clone(plan)),
            Self::Encoded(bytes) => {
                let mut plan: IRPlan =
                    SerializeOptions::default().deserialize_from_reader::<_, _, true>(&mut &bytes[..])?;
                resolve_udfs(&mut plan.expr_arena)?;
                Ok(Arc::new(plan))
            }
        }
    }
}

/// The part of a plan below one of its nodes, with placeholders of stages in the places of some, and others left out.
///
/// # Errors
/// There are no such nodes.
pub(crate) fn cut_off(
    whole: &IRPlan,
    root: u32,
    cuts: &[(u32, StageId)],
    without: &[Without],
) -> Result<IRPlan, PolarsFailure> {
    let node = |number: u32| Node(number as usize);
    let known = |number: u32| (number as usize) < whole.lp_arena.len();
    if !known(root) || !cuts.iter().map(|(cut, _)| *cut).chain(without.iter().map(|at| at.node)).all(known) {
        return Err(PolarsFailure::new("protocol", "the plan has no node of that number"));
    }
    if cuts.is_empty() && without.is_empty() {
        let (lp_arena, expr_arena) = (&whole.lp_arena, &whole.expr_arena);
        return Ok(prune_plan(IRPlanRef { lp_top: node(root), lp_arena, expr_arena }));
    }
    let mut lp_arena = whole.lp_arena.clone();
    for (cut, stage) in cuts {
        let schema = whole.lp_arena.get(node(*cut)).schema(&whole.lp_arena).into_owned();
        lp_arena.replace(node(*cut), placeholder(*stage, schema));
    }
    for Without { node: number, input } in without {
        let ir = whole.lp_arena.get(node(*number));
        let Some(input) = ir.inputs().nth(*input as usize) else { continue };
        let columns = ir.schema(&whole.lp_arena).into_owned();
        lp_arena.replace(node(*number), IR::SimpleProjection { input, columns });
    }
    Ok(prune_plan(IRPlanRef { lp_top: node(root), lp_arena: &lp_arena, expr_arena: &whole.expr_arena }))
}

const MARK: &str = "regatta-stage:";

/// A scan that stands for the output of a stage. The engine puts partitions or a batch in its place.
pub(super) fn placeholder(stage: StageId, schema: SchemaRef) -> IR {
    let path = PlRefPath::new(format!("{MARK}{}", stage.0).as_str());
    IR::Scan {
        sources: ScanSources::Paths([path].into_iter().collect()),
        file_info: FileInfo::new(schema, None, (None, usize::MAX)),
        hive_parts: None,
        predicate: None,
        predicate_file_skip_applied: None,
        output_schema: None,
        scan_type: Box::new(FileScanIR::Ipc { options: Default::default(), metadata: None }),
        unified_scan_args: Box::new(UnifiedScanArgs { glob: false, cache: false, ..Default::default() }),
    }
}

/// The stage that this node is a placeholder of.
pub(crate) fn placeholder_of(ir: &IR) -> Option<StageId> {
    let IR::Scan { sources: ScanSources::Paths(paths), .. } = ir else { return None };
    paths.first()?.as_str().strip_prefix(MARK)?.parse().ok().map(StageId)
}

// Polars' wire form of a Parquet footer loses the Arrow schema, and with it dtypes of the first file; the worker reads
// the footer of its own files anyway. Paths were expanded here, so they must not be expanded again there.
fn prepare_scans(plan: &mut IRPlan) {
    for node in (0..plan.lp_arena.len()).map(Node) {
        if let IR::Scan { scan_type, unified_scan_args, .. } = plan.lp_arena.get_mut(node) {
            unified_scan_args.glob = false;
            if let FileScanIR::Parquet { first_metadata, metadata_per_source, .. } = &mut **scan_type {
                (*first_metadata, *metadata_per_source) = (None, None);
            }
        }
    }
}

// After decoding, Polars keeps a function as bytes. Put the call in its place before anything asks for a schema.
fn resolve_udfs(exprs: &mut Arena<AExpr>) -> Result<(), PolarsFailure> {
    for node in (0..exprs.len()).map(Node) {
        let AExpr::AnonymousFunction { function, .. } = exprs.get_mut(node) else { continue };
        if let LazySerde::Bytes(bytes) = function {
            let call: Arc<dyn AnonymousColumnsUdf> = if let Some(borders) = Borders::from_wire(bytes) {
                Arc::new(borders)
            } else if let Some(place) = Place::from_wire(bytes) {
                Arc::new(place)
            } else if let Some(variances) = Variances::from_wire(bytes) {
                Arc::new(variances)
            } else {
                let call = UdfCall::from_wire(bytes);
                Arc::new(call.map_err(|e| PolarsFailure::new("udf", e.to_string()))?)
            };
            *function = LazySerde::Deserialized(SpecialEq::new(call));
        }
    }
    Ok(())
}

/// Names what keeps a plan from being encoded.
fn culprit(plan: &IRPlan) -> Option<String> {
    let exprs = (0..plan.expr_arena.len()).map(|n| plan.expr_arena.get(Node(n)));
    let closure = exprs.into_iter().find_map(|expr| match expr {
        AExpr::AnonymousFunction { function, fmt_str, .. }
            if UdfCall::of(function).is_none()
                && !Borders::is(function)
                && !Place::is(function)
                && !Variances::is(function) =>
        {
            Some(format!("the closure {:?} in an expression", fmt_str.as_str()))
        }
        _ => None,
    });
    closure.or_else(|| {
        (0..plan.lp_arena.len()).find_map(|n| match plan.lp_arena.get(Node(n)) {
            IR::MapFunction { function: FunctionIR::Opaque { fmt_str, .. }, .. } => {
                Some(format!("the closure {:?} in LazyFrame::map", fmt_str.as_str()))
            }
            IR::GroupBy { apply: Some(_), .. } => Some("the closure of a group_by().apply()".to_owned()),
            IR::Scan { scan_type, .. } if matches!(**scan_type, FileScanIR::Anonymous { .. }) => {
                Some("an anonymous scan".to_owned())
            }
            IR::Sink { .. } => Some("a sink with a callback".to_owned()),
            _ => None,
        })
    })
}
