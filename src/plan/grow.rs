//! An open stage grows: UDF calls above it become its steps, and row-wise nodes above those are drawn in behind them.

use std::collections::BTreeMap;

use polars::prelude::*;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{AExpr, IR};
use polars_plan::prelude::ProjectionOptions;
use polars_utils::arena::Node;

use super::UdfStep;
use super::cut::{Cutter, Head, OpenStep, single_input};
use super::lift::{self, Liftable};
use super::rowwise::is_row_wise;
use super::wire::{Fragment, placeholder};
use crate::error::PlanError;

impl Cutter {
    pub(super) fn lift_from_scan(&mut self, node: Node) {
        let mut scan = self.ir.get(node).clone();
        if let Some(predicate) = lift::take_udf_terms(&mut scan, &mut self.exprs) {
            let input = self.ir.add(scan);
            self.ir.replace(node, IR::Filter { input, predicate });
        }
    }

    /// Lifts one layer of calls (those without calls in their inputs) out of a node. False if there is none to lift.
    pub(super) fn lift_calls(&mut self, node: Node) -> Result<bool, PlanError> {
        let ir = self.ir.get(node).clone();
        // What a sink computes by itself, its keys, stays there: a column below would end in its files.
        let Some(input) = single_input(&ir).filter(|_| !matches!(ir, IR::Sink { .. })) else { return Ok(false) };
        let calls = lift::liftable(ir.exprs().map(ExprIR::node), &self.exprs);
        if calls.is_empty() {
            return Ok(false);
        }
        let (below, arguments) = self.input_columns(input, &calls)?;
        let schema = self.schema(input);
        let (mut columns, mut steps) = (BTreeMap::new(), Vec::with_capacity(calls.len()));
        for (call, inputs) in calls.iter().zip(arguments) {
            let name = self.names.fresh("udf");
            let fields = call.inputs.iter().map(|e| e.field(&schema, &self.exprs));
            let fields = fields.collect::<PolarsResult<Vec<_>>>().map_err(PlanError::polars)?;
            let dtype = call.call.get_field(&schema, &fields).map_err(PlanError::polars)?.dtype;
            let output = Field::new(name.clone(), dtype);
            steps.push(OpenStep { call: call.call.clone(), inputs, output, then: None });
            let column = self.exprs.add(AExpr::Column(name));
            columns.extend(call.at.iter().map(|at| (*at, column)));
        }
        let below = self.add_steps(below, steps);
        let rewritten: Vec<_> = ir.exprs().cloned().collect();
        let rewritten = rewritten.into_iter().map(|mut expr| {
            expr.set_node(lift::replaced(expr.node(), &columns, &mut self.exprs));
            expr
        });
        let rewritten: Vec<_> = rewritten.collect();
        let before = self.schema(node);
        let ir = ir.with_exprs(rewritten).with_inputs([below]);
        self.put_back(node, ir, before);
        Ok(true)
    }

    /// Puts a node that now reads added columns in the place of the old one, with the old one's schema. Returns the one that does the work.
    pub(super) fn put_back(&mut self, node: Node, ir: IR, before: SchemaRef) -> Node {
        let ir = match single_input(&ir) {
            Some(input) => self.widened(ir, input),
            None => ir,
        };
        let keeps_its_own_columns = matches!(ir, IR::Select { .. } | IR::GroupBy { .. });
        if keeps_its_own_columns {
            self.ir.replace(node, ir);
            return node;
        }
        let input = self.ir.add(ir);
        self.ir.replace(node, IR::SimpleProjection { input, columns: before });
        input
    }

    /// Makes every input of the calls a column, below them. Returns the node and, for each call, its columns.
    fn input_columns(&mut self, input: Node, calls: &[Liftable]) -> Result<(Node, Vec<Vec<PlSmallStr>>), PlanError> {
        let mut schema = self.schema(input).as_ref().clone();
        let (mut computed, mut arguments) = (Vec::new(), Vec::new());
        for call in calls {
            let mut columns = Vec::new();
            for expr in &call.inputs {
                if let AExpr::Column(name) = self.exprs.get(expr.node()) {
                    columns.push(name.clone());
                    continue;
                }
                let name = self.names.fresh("in");
                let dtype = expr.dtype(&schema, &self.exprs).map_err(PlanError::polars)?.clone();
                // The type of a literal is open until here; what is computed for it has this one.
                let dtype = dtype.materialize_unknown(true).map_err(PlanError::polars)?;
                schema.insert(name.clone(), dtype);
                computed.push(ExprIR::new(expr.node(), OutputName::Alias(name.clone())));
                columns.push(name);
            }
            arguments.push(columns);
        }
        if computed.is_empty() {
            return Ok((input, arguments));
        }
        let options = ProjectionOptions::default();
        let node = self.ir.add(IR::HStack { input, exprs: computed, schema: Arc::new(schema), options });
        Ok((node, arguments))
    }

    /// Appends steps to the stage whose placeholder `input` stands on, or begins a stage with `input` as its head.
    fn add_steps(&mut self, input: Node, steps: Vec<OpenStep>) -> Node {
        let input = self.draw_in(input);
        let mut schema = self.schema(input).as_ref().clone();
        schema.extend(steps.iter().map(|step| step.output.clone()));
        let stage = match self.growing_at(input) {
            Some(stage) => stage,
            None => self.open(Head::Node(input)),
        };
        self.open[stage.0 as usize].steps.extend(steps);
        self.ir.add(placeholder(stage, Arc::new(schema)))
    }

    /// Draws row-wise nodes above a placeholder into its stage, behind the last step.
    pub(super) fn draw_in(&mut self, top: Node) -> Node {
        let base = self.row_wise_base(top);
        let Some(stage) = self.growing_at(base).filter(|_| base != top) else { return top };
        let Some(step) = self.open[stage.0 as usize].steps.last() else { return top };
        // What was drawn in before stays, below what is drawn in now.
        if let Some((input, _)) = step.then.filter(|(_, drawn)| *drawn == base) {
            let columns = self.schema(base);
            self.ir.replace(base, IR::SimpleProjection { input, columns });
        }
        let drawn = self.ir.add(placeholder(stage, self.schema(top)));
        if let Some(step) = self.open[stage.0 as usize].steps.last_mut() {
            step.then = Some((top, drawn));
        }
        drawn
    }

    pub(super) fn close_step(&self, step: OpenStep) -> Result<UdfStep, PlanError> {
        let call = step.call;
        let batches = step.then.and_then(|(root, _)| self.batches_above(root));
        let then =
            step.then.map(|(root, _)| Fragment::new(root, &self.ir, &self.exprs, self.target.travels)).transpose()?;
        Ok(UdfStep {
            udf: call.name().to_owned(),
            arguments: call.arguments().map_err(|e| PlanError::udf(call.name(), e))?.to_vec(),
            options: call.planned_options(self.target.in_flight).map_err(|e| PlanError::udf(call.name(), e))?,
            inputs: step.inputs.iter().map(ToString::to_string).collect(),
            output: (step.output.name.to_string(), step.output.dtype),
            then,
            batches,
        })
    }

    /// The batches that are asked for in the row-wise nodes from `top` downwards.
    pub(super) fn batches_above(&self, top: Node) -> Option<usize> {
        let mut node = top;
        loop {
            if let Some(rows) = self.batches.get(&node.0) {
                return Some(*rows);
            }
            if !is_row_wise(self.ir.get(node), &self.exprs) {
                return None;
            }
            node = single_input(self.ir.get(node))?;
        }
    }
}
