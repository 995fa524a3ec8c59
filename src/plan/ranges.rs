//! A sort of many rows: each task sorts a range of the keys, and ranges follow each other.
//!
//! The rows are kept as they come. If they are few, one task sorts them. Else tasks look at some of their keys each, one draws borders of
//! these, and tasks that read the rows again leave them in sections: each row in that of its range. A section has rows in the order in
//! which they came, so that who sorts it keeps the order of equal ones. What is known to be much of a source is not kept, but read twice,
//! the first time its keys only. (reference: exchanges.md §4.1, which would cut sorted runs.)

use std::collections::BTreeSet;
use std::sync::Arc;

use polars::prelude::*;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{AExpr, IR};
use polars_plan::prelude::{JoinOptionsIR, ProjectionOptions, UnionOptions};
use polars_plan::utils::aexpr_to_leaf_names_iter;
use polars_utils::arena::Node;

use super::aggregate::shown;
use super::borders::{Borders, Part};
use super::common::{is_worth_keeping, varies};
use super::cut::Cutter;
use super::files::Layout;
use super::rowwise::{expr_is_row_wise, reads_a_column};
use super::scan::{Choice, Splits};
use super::wire::{placeholder, placeholder_of};
use super::{Scatter, Split};
use crate::sched::{Fits, StageId, Way};

/// So many bytes are sorted by one task sooner than by several.
const FEW: u64 = 16 << 20;
/// So many bytes of a source are taken for many before they are measured.
const MANY: u64 = 64 << 20;

/// Where the rows of a sort are read from.
#[derive(Clone, Copy)]
enum Rows {
    /// From what a stage keeps.
    Kept(StageId),
    /// From their source, at this node.
    Source(Node),
}

/// What is sorted by, and in which order.
struct Order {
    keys: Vec<ExprIR>,
    descending: Vec<bool>,
    nulls_last: Vec<bool>,
    /// For people.
    shown: String,
}

impl Cutter {
    /// A sort: of the first rows of each task, or by ranges.
    pub(super) fn sort(&mut self, node: Node) -> bool {
        if self.top(node) {
            return true;
        }
        let IR::Sort { input, by_column, slice, sort_options } = self.ir.get(node).clone() else { return false };
        let top = self.draw_in(input);
        // Many rows of one task may be sorted by several.
        if !self.is_several(top) && self.estimate(top).bytes <= MANY {
            return false;
        }
        let slice = slice.map(|(offset, len, _)| (offset, len));
        if let Err(why) = self.has_ranges(&by_column, top) {
            self.whole.insert(node.0, format!("it sorts all rows at once, because {why}"));
            return false;
        }
        let order = self.order(&by_column, &sort_options);
        let rows = self.rows_of(top);
        let (columns, shown) = (self.schema(top), order.shown.clone());
        let (ranges, input) = self.in_ranges(rows, &columns, &order);
        let by_range = Choice::sections([ranges]);
        let (input, splits) = match rows {
            Rows::Source(_) => (input, Splits::chosen(vec![by_range], format!("each sorts a range of {shown}"))),
            Rows::Kept(rows) => {
                let few = Choice::ways(vec![(rows, Way::All), (ranges, Way::Without)], Fits::Few(rows, FEW));
                let ways = vec![(rows, Way::Without), (ranges, Way::Sections)];
                let choices = vec![few, Choice { ways, ..by_range }];
                let why = format!("each sorts a range of {shown}; one sorts all rows, if they are few");
                let splits = Splits { splits: vec![Split::Whole], ..Splits::chosen(choices, why) };
                (self.either(rows, ranges, input, columns), splits)
            }
        };
        let sort = IR::Sort { input, by_column, slice: None, sort_options };
        let Some((offset, len)) = slice else {
            self.ir.replace(node, sort);
            self.decided.insert(node.0, splits);
            return true;
        };
        let input = self.ir.add(sort);
        self.decided.insert(input.0, splits);
        let len = IdxSize::try_from(len).unwrap_or(IdxSize::MAX);
        self.ir.replace(node, IR::Slice { input, offset, len });
        self.limit(node);
        if offset < 0 && !self.last(node) {
            self.gather(node);
        }
        true
    }

    /// Whether rows can be put into ranges by these keys.
    ///
    /// # Errors
    /// In words, why not.
    fn has_ranges(&self, keys: &[ExprIR], top: Node) -> Result<(), String> {
        let schema = self.schema(top);
        for key in keys {
            let name = || shown(key.node(), &self.exprs);
            if !expr_is_row_wise(key.node(), &self.exprs) {
                return Err(format!("the key {} is not computed row by row", name()));
            }
            // It is computed once for its range, and again where it is sorted by.
            if varies(key.node(), &self.exprs) {
                return Err(format!("the key {} may have other values each time", name()));
            }
            let dtype = key.dtype(&schema, &self.exprs).map_err(|error| error.to_string())?;
            if dtype.is_nested() || dtype.is_object() || dtype.is_null() || dtype.is_unknown() {
                return Err(format!("the key {} is of type {dtype}", name()));
            }
        }
        if !keys.iter().any(|key| reads_a_column(key.node(), &self.exprs)) {
            return Err("no key reads a column".to_owned());
        }
        Ok(())
    }

    /// The keys that tell rows apart. What is said once of directions and nulls holds for all keys.
    fn order(&self, keys: &[ExprIR], options: &SortMultipleOptions) -> Order {
        let of = |each: &[bool], key: usize| each.get(key).or_else(|| each.first()) == Some(&true);
        let all = keys.iter().enumerate().filter(|(_, key)| reads_a_column(key.node(), &self.exprs));
        let numbers: Vec<_> = all.map(|(number, _)| number).collect();
        Order {
            keys: numbers.iter().map(|key| keys[*key].clone()).collect(),
            descending: numbers.iter().map(|key| of(&options.descending, *key)).collect(),
            nulls_last: numbers.iter().map(|key| of(&options.nulls_last, *key)).collect(),
            shown: self.shown_keys(keys),
        }
    }

    /// Rows of a source that are many are left where they are; others are kept.
    fn rows_of(&mut self, top: Node) -> Rows {
        let base = self.row_wise_base(top);
        let is_source = matches!(self.ir.get(base), IR::Scan { .. })
            && placeholder_of(self.ir.get(base)).is_none()
            && !self.decided.contains_key(&base.0)
            && !is_worth_keeping(top, &self.ir, &self.exprs);
        let is_known = |files: &[Layout]| !files.is_empty() && files.iter().all(|file| file.bytes().is_some());
        if is_source
            && self.splits(top).are_several()
            && self.estimate(top).bytes > MANY
            && is_known(self.layouts(base).as_ref())
        {
            return Rows::Source(top);
        }
        Rows::Kept(self.kept(top))
    }

    /// The stage that keeps the rows of a node.
    pub(super) fn kept(&mut self, top: Node) -> StageId {
        match placeholder_of(self.ir.get(top)) {
            // They are kept already.
            Some(stage) if self.growing_at(top).is_none() && self.open[stage.0 as usize].scatter.is_none() => stage,
            _ => self.leave(top, None).0,
        }
    }

    /// The same rows, from where a stage keeps them or from their ranges: whichever of the two is read.
    fn either(&mut self, rows: StageId, ranges: StageId, in_ranges: Node, columns: SchemaRef) -> Node {
        let all = self.ir.add(placeholder(rows, columns));
        self.decided.insert(all.0, Splits::whole("it gathers its input"));
        let options = UnionOptions { maintain_order: true, ..Default::default() };
        let either = self.ir.add(IR::Union { inputs: vec![all, in_ranges], options });
        self.others.insert(either.0, [rows, ranges]);
        either
    }

    /// Has rows left in sections, by ranges of their keys: the stage that does so, and what stands for its rows.
    fn in_ranges(&mut self, rows: Rows, columns: &SchemaRef, order: &Order) -> (StageId, Node) {
        let (descending, nulls_last) = (order.descending.clone(), order.nulls_last.clone());
        let function = Borders { part: Part::Sample, descending, nulls_last, ranges: self.target.sections() };

        let (input, splits) = self.sampled(rows, columns, order);
        let keys = self.names.fresh("keys");
        let sample = self.one_value(input, function.clone(), order.keys.clone(), &keys);
        self.decided.insert(sample.0, splits);
        self.partials.insert(sample.0);
        let (_, samples) = self.leave(sample, None);
        let (of, borders) = (ExprIR::from_column_name(keys, &mut self.exprs), self.names.fresh("borders"));
        let drawn = self.one_value(samples, Borders { part: Part::Draw, ..function.clone() }, vec![of], &borders);
        let why = format!("it draws borders between ranges of {}", order.shown);
        self.whole.insert(drawn.0, why);
        self.partials.insert(drawn.0);
        let drawn = self.leave(drawn, None);

        let input = self.beside(rows, columns, drawn);
        let range = self.names.fresh("range");
        let mut of = order.keys.clone();
        of.push(ExprIR::from_column_name(borders, &mut self.exprs));
        let number = self.call(Borders { part: Part::Number, ..function }, of, &range);
        let with = |columns: &Schema| {
            let mut columns = columns.clone();
            columns.insert(range.clone(), DataType::UInt32);
            Arc::new(columns)
        };
        let (options, schema) = (ProjectionOptions::default(), with(&self.schema(input)));
        let input = self.ir.add(IR::HStack { input, exprs: vec![number], schema, options });
        let numbered = self.ir.add(IR::SimpleProjection { input, columns: with(columns) });
        let into = self.target.sections() as usize;
        let (keys, ranges_of) = (vec![range.to_string()], Some(order.shown.clone()));
        let (ranges, input) = self.leave(numbered, Some(Scatter { keys, computed: None, into, ranges_of }));
        (ranges, self.ir.add(IR::SimpleProjection { input, columns: Arc::clone(columns) }))
    }

    /// The rows for whoever looks at their keys only.
    fn sampled(&mut self, rows: Rows, columns: &SchemaRef, order: &Order) -> (Node, Splits) {
        match rows {
            Rows::Kept(stage) => {
                let why = "they look at some keys of equal shares of the rows".to_owned();
                (self.shares_of(stage, columns), Splits { why, ..Splits::shares(self.target.tasks) })
            }
            Rows::Source(top) => {
                let read = order.keys.iter().flat_map(|key| aexpr_to_leaf_names_iter(key.node(), &self.exprs));
                let read: BTreeSet<_> = read.cloned().collect();
                let keys = self.narrowed(top, read);
                let Splits { splits, are_equal, why, .. } = self.splits(keys);
                (keys, Splits::of(splits, are_equal, format!("they look at some keys; {why}")))
            }
        }
    }

    /// Equal shares of what a stage has left.
    pub(super) fn shares_of(&mut self, stage: StageId, columns: &SchemaRef) -> Node {
        self.dealt(stage, Arc::clone(columns), Splits::shares(self.target.tasks))
    }

    /// All rows, each with the single one that a stage has left.
    fn beside(&mut self, rows: Rows, columns: &SchemaRef, single: (StageId, Node)) -> Node {
        let (single, input_right) = single;
        let (input_left, way, splits) = match rows {
            Rows::Kept(stage) => {
                (self.shares_of(stage, columns), (stage, Way::Share), Splits::shares(self.target.tasks))
            }
            Rows::Source(top) => {
                let (stage, cut) = self.leave_for(top, None);
                (cut, (stage, Way::Along), Splits::chosen(Vec::new(), ""))
            }
        };
        let join = self.with_single(input_left, input_right);
        let choice = Choice::ways(vec![way, (single, Way::All)], Fits::Always);
        let why = "they put the rows into ranges".to_owned();
        self.decided.insert(join.0, Splits { choices: vec![choice], why, ..splits });
        join
    }

    /// Rows, each with the single one that stands beside them.
    pub(super) fn with_single(&mut self, input_left: Node, input_right: Node) -> Node {
        let mut schema = self.schema(input_left).as_ref().clone();
        schema.extend(self.schema(input_right).iter_fields());
        let mut args = JoinArgs::new(JoinType::Cross);
        args.maintain_order = MaintainOrderJoin::Left;
        let options = Arc::new(JoinOptionsIR { allow_parallel: true, force_parallel: false, args, options: None });
        let (schema, left_on, right_on) = (Arc::new(schema), Vec::new(), Vec::new());
        self.ir.add(IR::Join { input_left, input_right, schema, left_on, right_on, options })
    }

    /// A row with one value, which a function makes of rows.
    fn one_value(&mut self, input: Node, function: Borders, of: Vec<ExprIR>, name: &PlSmallStr) -> Node {
        let schema = Arc::new(Schema::from_iter([(name.clone(), DataType::Binary)]));
        let expr = vec![self.call(function, of, name)];
        self.ir.add(IR::Select { input, expr, schema, options: ProjectionOptions::default() })
    }

    fn call(&mut self, function: Borders, input: Vec<ExprIR>, name: &PlSmallStr) -> ExprIR {
        let fmt_str = Box::new(format!("{:?}", function.part).to_lowercase().into());
        let options = function.options();
        let call = AExpr::AnonymousFunction { input, function: function.function(), options, fmt_str };
        ExprIR::new(self.exprs.add(call), OutputName::Alias(name.clone()))
    }
}
