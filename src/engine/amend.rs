//! Where one of Polars' engines answers wrongly and the other rightly: the plan is rewritten, or runs in memory.
//! docs/decisions.md names each, until Polars mends it.

use std::any::Any;
use std::sync::Arc;

use polars::prelude::*;
use polars_plan::dsl::LazySerde;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{
    AExpr, ArenaExprIter, ArenaLpIter, FunctionIR, IR, IRAggExpr, IRFunctionExpr, IRPlan, is_scalar_ae,
};
use polars_plan::prelude::{AnonymousColumnsUdf, ColumnsUdf, FunctionOptions, SpecialEq};
use polars_utils::arena::{Arena, Node};
use polars_utils::total_ord::canonical_f64;

/// Whether the streaming engine can run every node, and runs it rightly.
pub(super) fn streams(top: Node, ir: &Arena<IR>, exprs: &Arena<AExpr>) -> bool {
    // It panics on the one, and takes slices from the end in expressions as in nodes, where they cannot be rewritten.
    let cut_short = |root: Node| exprs.iter(root).any(|(_, expr)| is_cut_short(expr, exprs));
    !ir.iter(top).any(|(_, node)| match node {
        IR::ExtContext { .. } => true,
        // It repeats each row of structs of which some are null, but not the mask that says so.
        IR::Join { input_left, input_right, options, .. } if options.args.how.is_cross() => {
            [input_left, input_right].into_iter().any(|input| has_struct(&ir.get(*input).schema(ir)))
        }
        // Its groups are sliced one by one.
        IR::GroupBy { keys, .. } => keys.iter().any(|key| cut_short(key.node())),
        other => other.exprs().any(|expr| cut_short(expr.node())),
    })
}

fn has_struct(schema: &Schema) -> bool {
    fn is_one(dtype: &DataType) -> bool {
        dtype.is_struct() || dtype.inner_dtype().is_some_and(is_one)
    }
    schema.iter_values().any(is_one)
}

/// Rewrites what the streaming engine would err at, as far as that can be done.
///
/// A slice from the end that ends before the end takes too many rows where there are several morsels: it is taken to the end,
/// and cut to its length of that.
pub(super) fn rewrite(top: Node, ir: &mut Arena<IR>, exprs: &mut Arena<AExpr>) {
    let nodes: Vec<_> = ir.iter(top).map(|(node, _)| node).collect();
    for node in nodes {
        count_groups(node, ir, exprs);
        explode_in_one_chunk(node, ir);
        let mut sliced = ir.get(node).clone();
        let Some((input, offset, len)) = take_slice(&mut sliced, ir) else { continue };
        let to_the_end = IdxSize::try_from(offset.unsigned_abs()).unwrap_or(IdxSize::MAX);
        let input = ir.add(IR::Slice { input, offset, len: to_the_end });
        let function = of_all_rows("cut short", move |rows| Ok(rows.slice(offset, len)));
        ir.replace(node, IR::MapFunction { input, function });
    }
}

/// A function of all rows of a node at once, which leaves its columns as they are.
pub(super) fn of_all_rows(
    words: &str,
    function: impl Fn(DataFrame) -> PolarsResult<DataFrame> + Send + Sync + 'static,
) -> FunctionIR {
    FunctionIR::Opaque {
        function: Arc::new(function),
        schema: None,
        predicate_pd: false,
        projection_pd: false,
        streamable: false,
        fmt_str: words.into(),
    }
}

/// The same of some rows at a time, as they come.
pub(super) fn of_some_rows(
    words: &str,
    function: impl Fn(DataFrame) -> PolarsResult<DataFrame> + Send + Sync + 'static,
) -> FunctionIR {
    let mut of = of_all_rows(words, function);
    if let FunctionIR::Opaque { streamable, .. } = &mut of {
        *streamable = true;
    }
    of
}

/// Lets an aggregation count its groups where it has filtered rows and distinct ones and nothing else.
///
/// The engine takes the groups from the distinct rows then, which come later than the filtered ones, and has no value for those
/// groups that it learns of too late: a column comes out shorter than the others. With a count it takes them from all rows.
fn count_groups(node: Node, ir: &mut Arena<IR>, exprs: &mut Arena<AExpr>) {
    let IR::GroupBy { aggs, .. } = ir.get(node) else { return };
    let holds = |what: fn(&AExpr) -> bool| aggs.iter().any(|agg| exprs.iter(agg.node()).any(|(_, expr)| what(expr)));
    if !holds(leaves_out_rows) || !holds(is_distinct) {
        return;
    }
    let mut counted = ir.get(node).clone();
    let IR::GroupBy { aggs, schema, .. } = &mut counted else { return };
    let columns = Arc::clone(schema);
    let mut name = String::from("__regatta_groups");
    while columns.contains(name.as_str()) {
        name.push('_');
    }
    let mut with_count = columns.as_ref().clone();
    with_count.insert(name.as_str().into(), IDX_DTYPE);
    *schema = Arc::new(with_count);
    aggs.push(ExprIR::new(exprs.add(AExpr::Len), OutputName::Alias(name.into())));
    let input = ir.add(counted);
    ir.replace(node, IR::SimpleProjection { input, columns });
}

/// Rewrites what the in-memory engine would err at.
pub(super) fn rewrite_for_memory(top: Node, ir: &mut Arena<IR>, exprs: &mut Arena<AExpr>) {
    for node in ir.iter(top).map(|(node, _)| node).collect::<Vec<_>>() {
        match ir.get(node) {
            IR::Join { .. } => {
                join_by_bits(node, ir, exprs);
                join_in_one_chunk(node, ir);
            }
            IR::Sort { .. } => leave_constants_out(node, ir, exprs),
            IR::MapFunction { .. } => explode_in_one_chunk(node, ir),
            _ => (),
        }
    }
}

/// What runs of each batch of a UDF's, likewise.
pub(super) fn rewritten_for_memory(plan: &IRPlan) -> IRPlan {
    let (lp_top, mut lp_arena, mut expr_arena) = (plan.lp_top, plan.lp_arena.clone(), plan.expr_arena.clone());
    rewrite_for_memory(lp_top, &mut lp_arena, &mut expr_arena);
    IRPlan { lp_top, lp_arena, expr_arena }
}

/// Leaves keys of a sort out that are one value, which tell no rows apart.
///
/// Of no rows the engine takes such a key for one of another length: an error.
fn leave_constants_out(node: Node, ir: &mut Arena<IR>, exprs: &Arena<AExpr>) {
    let mut sort = ir.get(node).clone();
    let IR::Sort { input, by_column, slice, sort_options } = &mut sort else { return };
    let tells: Vec<_> = by_column.iter().map(|key| !is_scalar_ae(key.node(), exprs)).collect();
    if tells.iter().all(|tells| *tells) {
        return;
    }
    let kept = |which: &mut Vec<bool>| {
        if which.len() == tells.len() {
            let mut keys = tells.iter();
            which.retain(|_| keys.next().is_none_or(|tells| *tells));
        }
    };
    kept(&mut sort_options.descending);
    kept(&mut sort_options.nulls_last);
    let mut keys = tells.iter();
    by_column.retain(|_| keys.next().is_none_or(|tells| *tells));
    if by_column.is_empty() {
        let (offset, len) = slice.as_ref().map_or((0, usize::MAX), |(offset, len, _)| (*offset, *len));
        let len = IdxSize::try_from(len).unwrap_or(IdxSize::MAX);
        sort = IR::Slice { input: *input, offset, len };
    }
    ir.replace(node, sort);
}

/// Has a join by one float compare numbers that are equal where the floats are.
///
/// Keys that are known to be sorted, as a single one is, are merged there by what is less, and a NaN is neither less than another
/// nor equal to it: it has no match, which by hashes it has.
fn join_by_bits(node: Node, ir: &mut Arena<IR>, exprs: &mut Arena<AExpr>) {
    let mut join = ir.get(node).clone();
    let schema = join.inputs().next().map(|left| ir.get(left).schema(ir).into_owned());
    let IR::Join { left_on, right_on, options, .. } = &mut join else { return };
    let ([left], [right], Some(schema)) = (&mut left_on[..], &mut right_on[..], schema) else { return };
    let is_float = left.dtype(&schema, exprs).is_ok_and(DataType::is_float);
    if !is_float || !matches!(options.args.how, JoinType::Inner | JoinType::Left | JoinType::Right) {
        return;
    }
    for key in [left, right] {
        let function = LazySerde::Deserialized(SpecialEq::new(Arc::new(Bits) as Arc<dyn AnonymousColumnsUdf>));
        let bits = exprs.add(AExpr::AnonymousFunction {
            input: vec![key.clone()],
            function,
            options: FunctionOptions::elementwise(),
            fmt_str: Box::new("bits".into()),
        });
        *key = ExprIR::new(bits, OutputName::ColumnLhs(key.output_name().clone()));
    }
    ir.replace(node, join);
}

/// Has a join take array columns in one chunk.
///
/// Where it takes no row of one in several chunks, Polars panics.
fn join_in_one_chunk(node: Node, ir: &mut Arena<IR>) {
    let join = ir.get(node).clone();
    let inputs: Vec<_> = join.inputs().collect();
    let inputs: Vec<_> = inputs.into_iter().map(|input| in_one_chunk(input, ir)).collect();
    ir.replace(node, join.with_inputs(inputs));
}

/// Has rows that become those of their lists in one chunk, for the same reason: it takes no row where no list has an element.
fn explode_in_one_chunk(node: Node, ir: &mut Arena<IR>) {
    let IR::MapFunction { input, function: function @ FunctionIR::Explode { .. } } = ir.get(node) else { return };
    let (input, function) = (*input, function.clone());
    let input = in_one_chunk(input, ir);
    ir.replace(node, IR::MapFunction { input, function });
}

fn in_one_chunk(input: Node, ir: &mut Arena<IR>) -> Node {
    if !ir.get(input).schema(ir).iter_values().any(DataType::is_array) {
        return input;
    }
    let function = of_some_rows("in one chunk", |mut rows| {
        rows.rechunk_mut();
        Ok(rows)
    });
    ir.add(IR::MapFunction { input, function })
}

/// A float as a whole number: both zeros are one, and a NaN is any other.
struct Bits;

impl ColumnsUdf for Bits {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn call_udf(&self, columns: &mut [Column]) -> PolarsResult<Column> {
        let [floats] = columns else { polars_bail!(ComputeError: "a join has one key, and not {}", columns.len()) };
        // Floats of fewer bits are these, too.
        let wide = floats.cast(&DataType::Float64)?;
        let bits: UInt64Chunked = wide.f64()?.iter().map(|float| Some(canonical_f64(float?).to_bits())).collect();
        Ok(bits.with_name(floats.name().clone()).into_column())
    }
}

impl AnonymousColumnsUdf for Bits {
    fn as_column_udf(self: Arc<Self>) -> Arc<dyn ColumnsUdf> {
        self
    }

    fn deep_clone(self: Arc<Self>) -> Arc<dyn AnonymousColumnsUdf> {
        self
    }

    fn get_field(&self, _: &Schema, inputs: &[Field]) -> PolarsResult<Field> {
        let [float] = inputs else { polars_bail!(ComputeError: "a join has one key, and not {}", inputs.len()) };
        Ok(Field::new(float.name().clone(), DataType::UInt64))
    }
}

fn leaves_out_rows(expr: &AExpr) -> bool {
    let drops = |function: &IRFunctionExpr| matches!(function, IRFunctionExpr::DropNulls | IRFunctionExpr::DropNans);
    match expr {
        AExpr::Function { function, .. } => drops(function),
        other => matches!(other, AExpr::Filter { .. }),
    }
}

fn is_distinct(expr: &AExpr) -> bool {
    match expr {
        AExpr::Function { function, .. } => matches!(function, IRFunctionExpr::Unique(_)),
        other => matches!(other, AExpr::Agg(IRAggExpr::NUnique(_))),
    }
}

/// The rows of which a node takes a slice that is cut short before the end, and the slice.
fn take_slice(node: &mut IR, ir: &mut Arena<IR>) -> Option<(Node, i64, usize)> {
    let short = |(offset, len): (i64, usize)| offset < 0 && (len as u64) < offset.unsigned_abs();
    let (offset, len) = match node {
        IR::Slice { input, offset, len } => {
            let slice = (*offset, *len as usize);
            return short(slice).then_some((*input, slice.0, slice.1));
        }
        IR::Sort { slice, .. } => {
            let (offset, len, _) = slice.take_if(|(offset, len, _)| short((*offset, *len)))?;
            (offset, len)
        }
        IR::GroupBy { options, .. } => Arc::make_mut(options).slice.take_if(|slice| short(*slice))?,
        IR::Join { options, .. } => Arc::make_mut(options).args.slice.take_if(|slice| short(*slice))?,
        IR::Distinct { options, .. } => options.slice.take_if(|slice| short(*slice))?,
        IR::Union { options, .. } => options.slice.take_if(|slice| short(*slice))?,
        _ => return None,
    };
    Some((ir.add(node.clone()), offset, len))
}

/// Whether this is a slice from the end that may be cut short before the end.
fn is_cut_short(expr: &AExpr, exprs: &Arena<AExpr>) -> bool {
    let AExpr::Slice { offset, length, .. } = expr else { return false };
    let (AExpr::Literal(offset), AExpr::Literal(length)) = (exprs.get(*offset), exprs.get(*length)) else {
        return true;
    };
    match (offset.extract_i64(), length.extract_usize()) {
        (Ok(offset), _) if offset >= 0 => false,
        (Ok(offset), Ok(length)) => (length as u64) < offset.unsigned_abs(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use regatta_remote::catch;

    use super::super::in_memory::execute_in_memory;
    use super::*;

    /// What the in-memory engine answers, as it is or rewritten.
    fn answer(query: LazyFrame, is_rewritten: bool) -> Option<DataFrame> {
        let plan = query.to_alp_optimized().unwrap();
        let (top, mut ir, mut exprs) = (plan.lp_top, plan.lp_arena, plan.expr_arena);
        if is_rewritten {
            rewrite_for_memory(top, &mut ir, &mut exprs);
        }
        catch(|| execute_in_memory(top, &mut ir, &mut exprs)).ok()?.ok()
    }

    #[test]
    fn what_the_in_memory_engine_errs_at_it_answers_once_it_is_rewritten() {
        let pair = DataType::Array(Box::new(DataType::Int64), 2);
        let pairs = |k: i64| {
            let frame = df!["k" => [k, k + 1]].unwrap().lazy();
            let pair = concat_list([col("k"), col("k")]).unwrap().cast(pair.clone());
            frame.with_column(pair.alias("pair")).collect().unwrap()
        };
        let mut apart = pairs(0);
        apart.vstack_mut_owned(pairs(2)).unwrap();
        let empty = concat_list([col("k")]).unwrap().list().head(lit(0)).alias("list");
        let options = ExplodeOptions { empty_as_null: false, keep_nulls: false };
        let of_nothing = apart.clone().lazy().with_column(empty).explode(by_name(["list"], true, false), options);
        let nan = || df!["x" => [f64::NAN]].unwrap().lazy();
        let none = || df!["x" => [1i64]].unwrap().lazy().filter(col("x").gt(lit(1i64)));
        let descending = || SortMultipleOptions::default().with_order_descending_multi([true, false]);
        let inner = || JoinArgs::new(JoinType::Inner);
        for (what, query, rows) in [
            ("no row of an array in pieces", apart.lazy().join(pairs(9).lazy(), [col("k")], [col("k")], inner()), 0),
            ("lists of nothing beside an array in pieces", of_nothing, 0),
            ("a NaN that is alone", nan().join(nan(), [col("x")], [col("x")], inner()), 1),
            ("a sort by one value", none().sort_by_exprs([lit(1i64)], SortMultipleOptions::default()), 0),
            ("a sort by one value, and others", none().sort_by_exprs([lit(1i64), col("x")], descending()), 0),
        ] {
            let of = |is_rewritten| answer(query.clone(), is_rewritten).map(|frame| frame.height());
            assert_ne!(of(false), Some(rows), "{what}: Polars has mended it");
            assert_eq!(of(true), Some(rows), "{what}");
        }
        let rows = df!["x" => [2i64, 1, 3]].unwrap().lazy();
        let sorted = answer(rows.sort_by_exprs([lit(1i64), col("x")], descending()), true).unwrap();
        assert_eq!(sorted.column("x").unwrap().i64().unwrap().to_vec(), [Some(1), Some(2), Some(3)]);
    }
}
