//! UDFs of several inputs whose results are structs.

use regatta::polars::prelude::*;
use regatta::prelude::*;

use crate::errors::{on_both, says};

fn parts() -> DataType {
    DataType::Struct(vec![Field::new("head".into(), DataType::String), Field::new("sum".into(), DataType::Int64)])
}

fn made(head: &Series, sum: Series) -> UdfResult<Series> {
    let fields = [head.clone().with_name("head".into()), sum.with_name("sum".into())];
    Ok(StructChunked::from_series("".into(), head.len(), fields.iter())?.into_series())
}

#[regatta::udf(dtype = parts())]
fn take_apart(head: &Series, a: &Series, b: &Series) -> UdfResult<Series> {
    assert!(!head.is_empty(), "a batch without rows");
    made(head, (a + b)?)
}

/// Promises `Int64` for a field and makes it `Float32`.
#[regatta::udf(dtype = parts())]
fn other_field(head: &Series, a: &Series) -> UdfResult<Series> {
    made(head, a.cast(&DataType::Float32)?)
}

#[regatta::udf(dtype = parts())]
fn too_few(head: &Series, a: &Series) -> UdfResult<Series> {
    made(&head.clear(), a.clear())
}

fn frame() -> LazyFrame {
    df!["s" => [Some("x"), None, Some("z")], "a" => [1i64, 2, 3], "b" => [Some(10i64), Some(20), None]].unwrap().lazy()
}

#[test]
fn a_struct_comes_apart_into_columns() {
    let expected = df!["head" => [Some("x"), None, Some("z")], "sum" => [Some(11i64), Some(22), None]].unwrap();
    let call = || take_apart::pool().batch(2).on([col("s"), col("a"), col("b")]);
    on_both(|session| {
        let unnested = frame().select([call().alias("p")]).unnest(by_name(["p"], true, false), None);
        assert!(unnested.collect_on(session).unwrap().equals_missing(&expected));
        let fields = frame().select([call().struct_().field_by_name("*")]);
        assert!(fields.collect_on(session).unwrap().equals_missing(&expected));
    });
}

#[test]
fn the_inputs_come_in_the_order_of_the_call_also_when_one_comes_twice() {
    on_both(|session| {
        let twice = take_apart::on([col("s"), col("b"), col("b")]).struct_().field_by_name("sum");
        let frame = frame().select([twice]).collect_on(session).unwrap();
        assert_eq!(Vec::from(frame.column("sum").unwrap().i64().unwrap()), [Some(20), Some(40), None]);
    });
}

#[test]
fn a_batch_without_rows_reaches_no_udf_and_the_schema_stays() {
    on_both(|session| {
        let call = take_apart::on([col("s"), col("a"), col("b")]).alias("p");
        let in_place = take_apart::on([col("s"), col("a").max(), col("b")]).alias("q");
        let none = frame().filter(col("a").gt(lit(100))).with_columns([call, in_place]).collect_on(session).unwrap();
        assert_eq!((none.height(), none.column("p").unwrap().dtype()), (0, &parts()));
        assert_eq!(none.column("q").unwrap().dtype(), &parts());
    });
}

#[test]
fn dtype_and_length_of_a_struct_are_checked_wherever_the_call_runs() {
    let inputs = [col("s"), col("a")];
    // An input that is no column of the batch: Polars evaluates the call in place.
    let in_place = [col("s"), col("a") + col("a").max()];
    on_both(|session| {
        for inputs in [&inputs, &in_place] {
            let error = frame().select([other_field::on(inputs)]).collect_on(session).expect_err("another dtype");
            says(&error, &["other_field", "promised", "Int64", "returned", "Float32"]);
            let error = frame().select([too_few::on(inputs)]).collect_on(session).expect_err("too few rows");
            says(&error, &["too_few", "0 rows for a batch of"]);
            let nulls = frame().select([too_few::pool().on_error(OnError::Null).on(inputs)]);
            let nulls = nulls.collect_on(session).unwrap();
            assert_eq!((nulls.column("s").unwrap().dtype(), nulls.column("s").unwrap().null_count()), (&parts(), 3));
        }
    });
}
