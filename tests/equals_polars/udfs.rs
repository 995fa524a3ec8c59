//! UDFs, wherever an expression may stand.

use regatta::Session;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Case;
use crate::sources::{path, rows, scan};

/// Adds to an integer; its state counts, so that a state shared by threads would show.
#[derive(Serialize, Deserialize)]
struct Add {
    n: i64,
}

#[regatta::udf]
impl Udf for Add {
    type State = std::rc::Rc<std::cell::Cell<usize>>;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        match inputs[0].dtype() {
            DataType::Int64 => Ok(DataType::Int64),
            other => Err(UdfError::new(format!("takes Int64, not {other}"))),
        }
    }

    fn start(&self, cx: &mut Start) -> UdfResult<Self::State> {
        cx.progress("counting from nothing");
        Ok(Default::default())
    }

    fn run(&self, calls: &mut Self::State, batch: &Batch) -> UdfResult<Column> {
        calls.set(calls.get() + 1);
        Ok(batch.column(0)? + self.n)
    }
}

/// Two inputs, a string out, through arrow-rs arrays.
#[derive(Serialize, Deserialize)]
struct Label;

#[regatta::udf(name = "label")]
impl Udf for Label {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::String)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        use arrow::array::{AsArray, StringArray};
        use arrow::datatypes::Int64Type;
        let batch = batch.record_batch()?;
        let (words, numbers) = (batch.column(0).as_string_view(), batch.column(1).as_primitive::<Int64Type>());
        let labels: StringArray =
            words.iter().zip(numbers).map(|(word, n)| Some(format!("{}-{}", word?, n?))).collect();
        regatta::udf::column_from_arrow("label", &labels)
    }
}

/// A plain function, row by row, beside nulls.
#[regatta::udf]
fn measure(word: Option<&str>, id: i64) -> Option<i64> {
    (id % 3 != 0).then_some(id + word.map_or(-1, |word| word.len() as i64))
}

/// A plain function over whole columns.
#[regatta::udf(dtype = DataType::Float64)]
fn ratio(a: &Series, b: &Series) -> UdfResult<Series> {
    Ok((&a.cast(&DataType::Float64)? / &b.cast(&DataType::Float64)?)?)
}

/// Several inputs, a struct out; fails on a batch without rows.
#[regatta::udf(dtype = DataType::Struct(vec![
    Field::new("text".into(), DataType::String),
    Field::new("sum".into(), DataType::Int64),
]))]
fn describe(word: &Series, id: &Series, group: &Series) -> UdfResult<Series> {
    if word.is_empty() {
        return Err(UdfError::new("a batch without rows"));
    }
    let fields = [word.clone().with_name("text".into()), (id + group)?.with_name("sum".into())];
    Ok(StructChunked::from_series("".into(), word.len(), fields.iter())?.into_series())
}

/// How many rows, the first of them that is no null, and their greatest word: a struct, which depends on the order of rows.
#[derive(Serialize, Deserialize)]
struct Summary;

#[derive(Serialize, Deserialize)]
struct Seen {
    rows: u32,
    first: Option<i64>,
    word: Option<String>,
}

#[regatta::udf(name = "summary")]
impl Aggregate for Summary {
    type Partial = Seen;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        let field = |name: &str, dtype| Field::new(name.into(), dtype);
        let (rows, first) = (field("rows", DataType::UInt32), field("first", DataType::Int64));
        Ok(DataType::Struct(vec![rows, first, field("word", DataType::String)]))
    }

    fn partial(&self, batch: &Batch) -> UdfResult<Seen> {
        let (ids, words) = (batch.column(0)?.i64()?, batch.column(1)?.str()?);
        let word = words.iter().flatten().max().map(str::to_owned);
        Ok(Seen { rows: batch.height() as u32, first: ids.iter().flatten().next(), word })
    }

    fn merge(&self, before: Seen, after: Seen) -> UdfResult<Seen> {
        let (rows, first) = (before.rows + after.rows, before.first.or(after.first));
        Ok(Seen { rows, first, word: before.word.max(after.word) })
    }

    fn finish(&self, Seen { rows, first, word }: Seen) -> UdfResult<AnyValue<'static>> {
        let word = word.map_or(AnyValue::Null, |word| AnyValue::StringOwned(word.into()));
        let DataType::Struct(fields) = self.output(&[])? else { unreachable!() };
        let values = vec![AnyValue::UInt32(rows), first.map_or(AnyValue::Null, AnyValue::Int64), word];
        Ok(AnyValue::StructOwned(Box::new((values, fields))))
    }
}

fn summary() -> Expr {
    Summary.on([col("id"), col("word")])
}

/// Fails on some rows, and on a batch without rows.
#[regatta::udf]
fn odd(id: i64) -> UdfResult<i64> {
    if id % 2 == 0 { Err(UdfError::new("even")) } else { Ok(id) }
}

fn add(n: i64) -> regatta::udf::Pool<Add> {
    Add { n }.pool().replicas(2).batch(97).cpus(0.1)
}

fn described() -> Expr {
    describe::pool().replicas(2).batch(111).on([col("word"), col("id"), col("group")])
}

fn label() -> Expr {
    Label.pool().on([col("word"), col("id")])
}

/// Rows with columns of names that the planner and our verbs could think of.
fn taken() -> LazyFrame {
    let names = ["udf", "in", "kept", "key", "row"];
    let taken = names
        .into_iter()
        .flat_map(|what| [format!("__regatta_{what}"), format!("__regatta_{what}_1"), format!("__regatta_{what}_2")]);
    let taken = taken.enumerate().map(|(at, name)| (col("group") * lit(at as i64)).alias(name));
    scan().with_columns(taken.collect::<Vec<_>>())
}

pub(crate) fn cases() -> Vec<Case> {
    let by_group = || scan().group_by([col("group")]);
    let small = || df!["group" => [0i64, 3, 5, 99], "name" => ["a", "b", "c", "d"]].unwrap().lazy();
    let both = |rows: LazyFrame| {
        let some = rows.clone().filter(col("group").gt(lit(3)));
        concat([rows, some], UnionArgs::default()).unwrap()
    };
    let more = || scan().select([col("group"), add(5).on([col("id")]).alias("more")]);
    vec![
        ("batches of a udf, all and some of them", both(more().into_batches(20)), true, &[]),
        ("partitions of a udf, all and some of them", both(more().into_partitions(3)), true, &[]),
        ("sections of a udf, all and some of them", both(more().repartition(3, [col("group")])), false, &[]),
        (
            "batches of a udf, grouped twice",
            both(more().into_batches(7)).left_join(
                more()
                    .into_batches(7)
                    .filter(col("group").lt(lit(9)))
                    .group_by([col("group")])
                    .agg([col("more").sum()]),
                col("group"),
                col("group"),
            ),
            false,
            &[],
        ),
        (
            "a udf over no rows, which it does not see",
            scan().filter(col("id").lt(lit(-1))).with_column(described().alias("d")),
            true,
            &[],
        ),
        ("udf in select", scan().select([col("id"), add(5).on([col("id")]).alias("more")]), true, &[]),
        (
            "udf in with_columns, nested and beside others",
            scan().with_columns([
                add(1).on([add(2).on([col("id") + col("group")])]).alias("sum"),
                label().alias("label"),
                (col("value") * lit(2.0)).alias("double"),
            ]),
            true,
            &[],
        ),
        (
            "udf in filter, with a plain term beside it",
            scan().filter(add(3).on([col("id")]).gt(lit(500)).and(col("group").neq(lit(4)))),
            true,
            &[],
        ),
        (
            "the same udf call twice in one expression",
            scan().select([(add(1).on([col("id")]) * add(1).on([col("id")])).alias("square")]),
            true,
            &[],
        ),
        (
            "udf, then a group-by that runs whole",
            scan().with_column(add(10).on([col("id")]).alias("more")).group_by([col("group")]).agg([
                col("more").sum(),
                len().alias("rows"),
                col("value").mean().alias("mean"),
            ]),
            false,
            &["mean"],
        ),
        ("udf inside an aggregate", by_group().agg([add(1).on([col("id")]).sum().alias("sum")]), false, &[]),
        (
            "udf over an aggregate",
            by_group().agg([col("id").max()]).with_column(add(1).on([col("id")]).alias("next")),
            false,
            &[],
        ),
        (
            "join that runs whole, with a udf on one side",
            scan().with_column(label().alias("label")).join(
                small(),
                [col("group")],
                [col("group")],
                JoinArgs::new(JoinType::Left),
            ),
            false,
            &[],
        ),
        (
            "sort, after a udf",
            scan().with_column(add(1).on([col("id")]).alias("n")).sort(["group", "id"], SortMultipleOptions::default()),
            true,
            &[],
        ),
        ("udf after a slice", scan().slice(10, 1200).with_column(add(1).on([col("id")]).alias("n")), true, &[]),
        ("a frame in memory", rows(0, 300).lazy().with_column(add(1).on([col("id")]).alias("n")), true, &[]),
        (
            "udf that cannot be lifted: inside a list",
            scan()
                .select([col("id"), col("group")])
                .with_column(concat_list([col("id"), col("group")]).unwrap().alias("l"))
                .select([col("id"), col("l").list().eval(add(1).on([col("")])).alias("l")]),
            true,
            &[],
        ),
        (
            "plain functions, row by row and over columns",
            scan().with_columns([
                measure::pool().replicas(2).batch(50).on([col("word"), col("id")]).alias("measure"),
                ratio::on([col("id"), measure::on([col("word"), col("group")])]).alias("ratio"),
            ]),
            true,
            &[],
        ),
        (
            "a struct out of several inputs, unnested",
            scan().with_column(described().alias("d")).unnest(by_name(["d"], true, false), None),
            true,
            &[],
        ),
        (
            "a struct's fields, in expressions and in a filter",
            scan()
                .with_columns([
                    described().struct_().field_by_name("sum").alias("sum"),
                    described().struct_().field_by_name("text").str().len_bytes().alias("bytes"),
                ])
                .filter(described().struct_().field_by_name("sum").gt(lit(700))),
            true,
            &[],
        ),
        (
            "all fields of a struct, by expansion",
            scan().select([col("id"), described().struct_().field_by_name("*")]),
            true,
            &[],
        ),
        (
            "a struct that is unnested, computed with, grouped and joined",
            scan()
                .select([described().alias("d"), col("group")])
                .unnest(by_name(["d"], true, false), None)
                .with_column(add(1).on([col("sum")]).alias("more"))
                .group_by([col("group")])
                .agg([col("more").max(), col("text").n_unique()])
                .join(small(), [col("group")], [col("group")], JoinArgs::new(JoinType::Inner)),
            false,
            &[],
        ),
        (
            "no row for a udf: after a filter, and in empty lists",
            scan()
                .filter(col("id").lt(lit(-1)))
                .with_columns([described().alias("d"), concat_list([col("id")]).unwrap().alias("l")])
                .with_column(col("l").list().eval(describe::on([col(""), lit(1i64), col("")])).alias("e")),
            true,
            &[],
        ),
        (
            "inputs that are literals or one value for all rows",
            scan().with_columns([
                describe::on([lit("x"), col("id"), lit(5i64)]).alias("literals"),
                ratio::on([col("id"), col("id")]).alias("twice"),
                describe::on([col("word"), col("id").max(), col("group")]).alias("broadcast"),
            ]),
            true,
            &[],
        ),
        (
            "literals of the types that a function takes",
            scan().with_columns([
                measure::on([col("word"), lit(5i64)]).alias("five"),
                measure::on([lit("x"), lit(4)]).alias("four"),
                measure::on([col("word").shift(lit(1)), lit(7i64)]).alias("seven"),
            ]),
            true,
            &[],
        ),
        (
            "rows that fail are null",
            scan().with_columns([odd::pool().on_error(OnError::Null).batch(60).on([col("id")]).alias("odd")]),
            true,
            &[],
        ),
        (
            "udfs in conditions, structs and lists",
            scan().select([
                when(add(1).on([col("id")]).gt(lit(600)))
                    .then(add(2).on([col("group")]))
                    .otherwise(add(3).on([col("group")]) - add(1).on([col("id")]))
                    .alias("condition"),
                as_struct(vec![add(4).on([col("id")]).alias("a"), label().alias("b")]).alias("struct"),
                concat_list([add(5).on([col("id")]), col("group")]).unwrap().alias("list"),
            ]),
            true,
            &[],
        ),
        (
            "udfs inside windows, and over them",
            scan().with_columns([
                add(1).on([col("id")]).sum().over([col("group")]).unwrap().alias("inside"),
                add(1).on([col("id").max().over([add(2).on([col("group")])]).unwrap()]).alias("over"),
            ]),
            true,
            &[],
        ),
        (
            "udfs as keys, in a sort and in a join",
            scan()
                .group_by([add(1).on([col("group")]).alias("key")])
                .agg([
                    add(2).on([col("id")]).max().alias("most"),
                    add(3).on([col("id")]).filter(col("value").is_null()).sum(),
                ])
                .join(small(), [add(1).on([col("key")])], [add(2).on([col("group")])], JoinArgs::new(JoinType::Inner))
                .sort_by_exprs([add(5).on([col("key")])], SortMultipleOptions::default()),
            true,
            &[],
        ),
        (
            "the first rows of a stage with udfs",
            scan().filter(add(1).on([col("id")]).gt(lit(300))).with_column(label().alias("label")).slice(7, 400),
            true,
            &[],
        ),
        (
            "no more rows than a limit asks for, twice",
            scan()
                .filter(add(1).on([col("id")]).gt(lit(300)))
                .limit(900)
                .with_column(add(2).on([col("id")]).alias("n"))
                .filter(col("n").gt(lit(700)))
                .limit(50),
            true,
            &[],
        ),
        (
            "into_partitions, below and above udfs",
            scan()
                .into_partitions(5)
                .with_column(label().alias("label"))
                .into_partitions(3)
                .filter(col("group").gt(lit(4)))
                .with_column(add(1).on([col("id")]).alias("n")),
            true,
            &[],
        ),
        (
            "into_batches, below and above udfs",
            scan()
                .filter(col("group").gt(lit(4)))
                .into_batches(30)
                .with_column(label().alias("label"))
                .into_batches(1000)
                .drop_nulls(None),
            true,
            &[],
        ),
        (
            "into_partitions of a frame, of an aggregate and of nothing",
            concat(
                [
                    rows(0, 300).lazy().into_partitions(7).select([add(1).on([col("id")])]),
                    scan()
                        .group_by_stable([col("group")])
                        .agg([col("id").sum()])
                        .into_partitions(4)
                        .select([col("id")]),
                    rows(0, 0).lazy().into_partitions(3).select([add(1).on([col("id")])]),
                ],
                UnionArgs::default(),
            )
            .unwrap(),
            true,
            &[],
        ),
        (
            "aggregations by udfs, beside others, of keys with nulls, in the order of the groups",
            scan()
                .group_by_stable([col("word").alias("by"), (col("group") % lit(3i64)).alias("key")])
                .agg([
                    summary().alias("summary"),
                    (summary().struct_().field_by_name("rows") - len() + col("value").count()).alias("n"),
                    col("day").max(),
                    col("id").sum(),
                ])
                .unnest(by_name(["summary"], true, false), None),
            true,
            &[],
        ),
        (
            "an aggregation by a udf of keys that are categories, floats, decimals and dates",
            scan()
                .group_by_stable([col("kind"), col("value"), col("price").gt(lit(40)).alias("dear"), col("day")])
                .agg([summary().alias("s"), col("value").min().alias("least"), col("price").sum().alias("total")]),
            true,
            &[],
        ),
        (
            "an aggregation by a udf of keys that are NaN, both zeros and null",
            LazyFrame::scan_parquet(path("parquet/nasty.parquet"), Default::default())
                .unwrap()
                .group_by_stable([col("größe"), col("flag")])
                .agg([Summary.on([col("id"), col("名")]).alias("s"), col("größe").max().alias("most")]),
            true,
            &[],
        ),
        (
            "an aggregation by a udf of as many groups as rows, and a slice of them",
            scan().group_by_stable([col("id")]).agg([summary().alias("s")]).slice(100, 1900),
            true,
            &[],
        ),
        (
            "an aggregation by a udf of all rows, of which some tasks have none, and of no rows",
            concat(
                [
                    scan().filter(col("id").gt(lit(1500))).select([summary()]),
                    scan().filter(col("id").lt(lit(0))).select([summary()]),
                    scan().filter(col("id").lt(lit(0))).group_by([col("group")]).agg([summary()]).select([col("id")]),
                ],
                UnionArgs::default(),
            )
            .unwrap(),
            true,
            &[],
        ),
        (
            "an aggregation by a udf of what udfs have made, and udfs over it",
            scan()
                .with_column(add(1).on([col("id")]).alias("more"))
                .group_by([add(2).on([col("group")]).alias("key")])
                .agg([Summary.on([add(3).on([col("more")]), col("word")]).struct_().field_by_name("first").alias("f")])
                .with_column(add(4).on([col("f")]).alias("g")),
            false,
            &[],
        ),
        (
            "aggregations by udfs that run whole: beside a mean, in windows, and of rows that are sorted",
            scan()
                .with_column(summary().over([col("group")]).unwrap().struct_().field_by_name("rows").alias("rows"))
                .group_by([col("group")])
                .agg([
                    summary().alias("summary"),
                    col("value").mean().alias("mean"),
                    Summary.on([col("id").sort(SortOptions::default()), col("word")]).alias("sorted"),
                    col("rows").first(),
                ]),
            false,
            &["mean"],
        ),
        (
            "work between a udf and a hash regroup: a filter, a column of the same name, and one of another",
            concat(
                [
                    scan().filter(add(1).on([col("id")]).gt(lit(500))).repartition(2, [col("group")]),
                    scan().with_column(add(2).on([col("id")]).alias("id")).repartition(3, [col("group")]),
                    scan()
                        .with_column(add(3).on([col("id")]).alias("sum"))
                        .repartition(2, [col("sum")])
                        .with_column(col("sum").alias("id"))
                        .drop(by_name(["sum"], true, false)),
                ]
                .map(|query| query.select([col("id"), col("word")])),
                UnionArgs::default(),
            )
            .unwrap(),
            false,
            &[],
        ),
        (
            "columns that are named as ours would be",
            taken()
                .with_column((add(1).on([col("id") + lit(1)]) - add(2).on([col("group")])).alias("n"))
                .repartition(3, [col("id") % lit(7), col("group")])
                .shuffle(3)
                .sort(["id"], Default::default()),
            true,
            &[],
        ),
        (
            "keys of an aggregation by a udf that are named as ours would be",
            taken().group_by_stable([col("__regatta_kept_1"), col("__regatta_kept_2")]).agg([summary(), len()]),
            true,
            &[],
        ),
        (
            "a frame that is too large for the plan, aggregated by a udf",
            rows(0, 20_000).lazy().group_by([col("group")]).agg([summary()]),
            false,
            &[],
        ),
        (
            "a frame that is too large for the plan, as it is and gathered",
            rows(0, 20_000)
                .lazy()
                .filter(col("value").is_not_null())
                .with_column(add(1).on([col("id")]).alias("n"))
                .join(
                    rows(10_000, 20_000).lazy().select([col("id"), col("price").alias("other")]),
                    [col("n")],
                    [col("id")],
                    JoinArgs::new(JoinType::Inner),
                ),
            false,
            &[],
        ),
    ]
}

/// No element of any row.
#[regatta::udf]
fn nothing(x: i64) -> Vec<i64> {
    let _ = x;
    Vec::new()
}

/// Polars panics where it takes no row of an array column in several chunks, which batches of several morsels are.
#[test]
fn lists_of_nothing_beside_an_array_leave_no_row() {
    let pair = DataType::Array(Box::new(DataType::Int64), 2);
    let pairs = concat_list([col("id"), col("group")]).unwrap().cast(pair).alias("pair");
    let options = ExplodeOptions { empty_as_null: false, keep_nulls: false };
    for session in [Session::native().unwrap(), Session::local(2).unwrap()] {
        let rows = scan().select([col("id"), pairs.clone()]).into_batches(50);
        let lists = rows.with_column(nothing::pool().batch(700).on([col("id")]).alias("list"));
        let exploded = lists.explode(by_name(["list"], true, false), options);
        assert_eq!(exploded.collect_on(&session).unwrap().shape(), (0, 3));
    }
}
