//! Rows that go to others by their keys, and come back into the order that they had.
//!
//! Each row takes along its place: the number of the task that read it, and its own among the rows of that task, which are in order as
//! tasks are. Whoever has the rows of a key has them in the order of their places, because sections are read task by task. Afterwards rows go
//! to sections once more, by the task that they came from, and each section is sorted. (reference: exchanges.md §4.2.)

use std::sync::Arc;

use polars::prelude::*;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{AExpr, FunctionIR, IR};
use polars_plan::prelude::{FunctionOptions, ProjectionOptions};
use polars_utils::arena::Node;

use super::Scatter;
use super::cut::{Cutter, Head};
use super::place::Place;
use super::scan::{Choice, Splits};
use crate::sched::Way;

/// Rows that have their places beside them.
pub(super) struct Placed {
    pub(super) top: Node,
    /// The column that says it.
    pub(super) place: PlSmallStr,
    /// How a place leads to a section.
    section: Place,
}

impl Cutter {
    /// Whether what ends at a node, or at the stage that still grows there, is several tasks.
    pub(super) fn is_several(&self, top: Node) -> bool {
        match self.growing_at(top).map(|stage| &self.open[stage.0 as usize].head) {
            Some(Head::Node(head)) => self.splits(*head).are_several(),
            _ => self.splits(top).are_several(),
        }
    }

    /// These rows, each with its place.
    pub(super) fn placed(&mut self, top: Node) -> Placed {
        let top = self.share_out(top).unwrap_or(top);
        let splits = self.splits(top);
        let sections = self.target.sections();
        let tasks = (self.most_tasks(&splits) as u32).div_ceil(sections);
        let (columns, place) = (self.schema(top), self.names.fresh("place"));
        let (numbered, row) = self.numbered(top, splits);
        let of = self.place_of(Place::Of { task: 0 }, &row, &place);
        let with = self.with_column(numbered, of, DataType::UInt64);
        let mut columns = columns.as_ref().clone();
        columns.insert(place.clone(), DataType::UInt64);
        let top = self.ir.add(IR::SimpleProjection { input: with, columns: Arc::new(columns) });
        self.places.insert(place.clone());
        Placed { top, place, section: Place::Section { tasks, sections } }
    }

    /// Rows with their numbers in their task beside them, and the column that says them.
    pub(super) fn numbered(&mut self, input: Node, splits: Splits) -> (Node, PlSmallStr) {
        let row = self.names.fresh("row");
        let function = FunctionIR::RowIndex { name: row.clone(), offset: None, schema: Default::default() };
        let numbered = self.ir.add(IR::MapFunction { input, function });
        self.decided.insert(numbered.0, splits);
        (numbered, row)
    }

    /// Puts the rows of a node, each of which has its place, back into their order: at another node, without it.
    pub(super) fn back_in_order(&mut self, work: Node, placed: &Placed, at: Node) {
        let (before, Placed { place, section, .. }) = (self.schema(at), placed);
        let name = self.names.fresh("section");
        let of = self.place_of(*section, place, &name);
        let numbered = self.with_column(work, of, DataType::UInt32);
        let (keys, into) = (vec![name.to_string()], self.target.sections() as usize);
        let ranges_of = Some("the places of rows".to_owned());
        let (stage, input) = self.leave(numbered, Some(Scatter { keys, computed: None, into, ranges_of }));
        let by_column = vec![ExprIR::from_column_name(place.clone(), &mut self.exprs)];
        let sort_options = SortMultipleOptions::default();
        let sort = self.ir.add(IR::Sort { input, by_column, slice: None, sort_options });
        let why = "each puts some of the rows back into their order";
        self.decided.insert(sort.0, Splits::chosen(vec![Choice::sections([stage])], why));
        self.ir.replace(at, IR::SimpleProjection { input: sort, columns: before });
    }

    pub(super) fn place_of(&mut self, function: Place, of: &PlSmallStr, name: &PlSmallStr) -> ExprIR {
        let input = vec![ExprIR::from_column_name(of.clone(), &mut self.exprs)];
        let fmt_str = Box::new(PlSmallStr::from_static("place"));
        let options = FunctionOptions::elementwise();
        let call = AExpr::AnonymousFunction { input, function: function.function(), options, fmt_str };
        ExprIR::new(self.exprs.add(call), OutputName::Alias(name.clone()))
    }

    /// A node that adds a column.
    pub(super) fn with_column(&mut self, input: Node, column: ExprIR, dtype: DataType) -> Node {
        let mut schema = self.schema(input).as_ref().clone();
        schema.insert(column.output_name().clone(), dtype);
        let (schema, options) = (Arc::new(schema), ProjectionOptions::default());
        self.ir.add(IR::HStack { input, exprs: vec![column], schema, options })
    }

    /// How many tasks a stage has at most that is split so.
    fn most_tasks(&self, splits: &Splits) -> usize {
        let most = |choice: &Choice| match choice.ways.iter().find(|(_, way)| *way == Way::Along) {
            _ if choice.by_size => self.target.sections() as usize,
            Some((stage, _)) => match self.open[stage.0 as usize].head {
                Head::Node(head) => self.most_tasks(&self.splits(head)),
                Head::Frame(_) => self.target.tasks,
            },
            None => splits.splits.len(),
        };
        splits.choices.iter().map(most).max().unwrap_or(splits.splits.len())
    }
}
