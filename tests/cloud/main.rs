//! Object stores, against an S3-compatible server of this machine. Where that cannot be installed, each test says so and passes.

mod server;

use std::sync::Arc;

use polars_plan::dsl::{FileWriteFormat, PartitionStrategy, SinkDestination, SinkTarget, UnifiedSinkArgs};
use regatta::error::PlanError;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::assert_same_as_polars;
use regatta::{Error, LazyFrameExt};
use serde::{Deserialize, Serialize};
use server::{SECRET, Server};

regatta::testing::worker!();

/// Rows of a file, in row groups of a hundred.
fn parquet(from: i64, rows: i64) -> Vec<u8> {
    let ids: Vec<_> = (from..from + rows).collect();
    let words = ids.iter().map(|id| format!("word {}", id % 17)).collect::<Vec<_>>();
    let mut bytes = Vec::new();
    let mut frame = df!["id" => &ids, "word" => words].unwrap();
    ParquetWriter::new(&mut bytes).with_row_group_size(Some(100)).finish(&mut frame).unwrap();
    bytes
}

fn scan(server: &Server, path: &str) -> LazyFrame {
    let args = ScanArgsParquet { cloud_options: Some(server.options()), ..Default::default() };
    LazyFrame::scan_parquet(path.into(), args).unwrap()
}

/// A bucket with one larger file and three small ones.
fn harbour() -> Option<Server> {
    let server = Server::start()?;
    server.put("harbour", &[]);
    server.put("harbour/large.parquet", &parquet(0, 2000));
    for file in 0..3 {
        server.put(&format!("harbour/small/{file}.parquet"), &parquet(file * 50, 50));
    }
    Some(server)
}

fn sessions() -> [Session; 3] {
    [Session::native().unwrap(), Session::local(1).unwrap(), Session::local(4).unwrap()]
}

#[track_caller]
fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains(SECRET), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

#[test]
fn scans_of_an_object_store_give_plain_polars_answers_on_any_workers() {
    let Some(server) = harbour() else { return };
    let (large, small) = (scan(&server, "s3://harbour/large.parquet"), scan(&server, "s3://harbour/small/*.parquet"));
    for session in sessions() {
        for (query, ordered) in [
            (large.clone().filter(col("id").gt(lit(150))).select([col("word")]), true),
            (large.clone().slice(250, 300), true),
            (large.clone().with_row_index("row", None), true),
            (large.clone().group_by([col("word")]).agg([len(), col("id").sum()]), false),
            (small.clone(), true),
            (scan(&server, "s3://harbour/small/").filter(col("id").lt(lit(70))), true),
            (small.clone().join(large.clone(), [col("id")], [col("id")], JoinArgs::new(JoinType::Inner)), false),
        ] {
            assert_same_as_polars(&session, &query, ordered, &[]);
        }
        assert_eq!(session.partitions_held(), 0);
    }
    let session = Session::local(4).unwrap();
    let explain = session.explain(&large).unwrap();
    assert!(explain.contains("1 file, 20 row groups") && !explain.contains("stage 0: 1 task"), "{explain}");
    let explain = session.explain(&small).unwrap();
    assert!(explain.contains("stage 0: 3 tasks"), "{explain}");
}

#[derive(Serialize, Deserialize)]
struct Sinks;

#[regatta::udf]
impl Udf for Sinks {
    type State = ();

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        Ok(inputs[0].dtype().clone())
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        match batch.column(0)?.max_reduce()?.value().extract::<i64>() {
            Some(id) if id > 1500 => Err(UdfError::new("it sinks")),
            _ => Ok(batch.column(0)?.clone()),
        }
    }
}

fn into_object(server: &Server, query: LazyFrame, path: &str) -> LazyFrame {
    let to = SinkDestination::File { target: SinkTarget::Path(path.into()) };
    let args = UnifiedSinkArgs { cloud_options: Some(Arc::new(server.options())), ..Default::default() };
    query.sink(to, FileWriteFormat::Parquet(Arc::default()), args).unwrap()
}

#[test]
fn a_sink_into_an_object_store_is_there_whole_or_not_at_all() {
    let Some(server) = harbour() else { return };
    let before = server.list("harbour");
    assert_eq!(before.len(), 4, "{before:?}");
    let rows = || scan(&server, "s3://harbour/large.parquet");
    for (number, session) in sessions().into_iter().enumerate() {
        let path = format!("s3://harbour/copies/{number}.parquet");
        into_object(&server, rows().filter(col("id").gt(lit(7))), &path).collect_on(&session).unwrap();
        let copy = scan(&server, &path).collect().unwrap();
        assert!(copy.equals(&rows().filter(col("id").gt(lit(7))).collect().unwrap()), "{copy}");
        // In place, so that it fails in the task that writes.
        let fails = concat_list([col("id")]).unwrap().list().eval(Sinks.pool().on([col("")])).list().len();
        let fails = into_object(&server, rows().with_column(fails.alias("n")), "s3://harbour/half.parquet");
        says(&fails.collect_on(&session).expect_err("the UDF fails"), &["it sinks"]);
        let many = SinkDestination::Partitioned {
            base_path: "s3://harbour/many".into(),
            file_path_provider: None,
            partition_strategy: PartitionStrategy::Keyed {
                keys: vec![col("word")],
                include_keys: true,
                keys_pre_grouped: false,
            },
            max_rows_per_file: IdxSize::MAX,
            approximate_bytes_per_file: u64::MAX,
        };
        let args = UnifiedSinkArgs { cloud_options: Some(Arc::new(server.options())), ..Default::default() };
        let many = rows().sink(many, FileWriteFormat::Parquet(Arc::default()), args).unwrap();
        let error = many.collect_on(&session).expect_err("not whole");
        assert!(matches!(error, Error::Plan(PlanError::ManyFiles { .. })) && !error.may_have_run());
        says(&error, &["s3://harbour/many", "cannot be published whole", "Write one file there"]);
    }
    let after = server.list("harbour");
    let copies: Vec<_> = after.iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(copies, ["copies/0.parquet", "copies/1.parquet", "copies/2.parquet"], "and nothing else");
}

#[test]
fn what_the_store_refuses_is_an_error_with_the_remedy_and_secrets_are_nowhere() {
    let Some(server) = Server::that_refuses_everybody() else { return };
    let harbour = harbour().unwrap();
    for session in sessions() {
        let error = scan(&server, "s3://harbour/large.parquet").collect_on(&session).expect_err("no such key");
        says(&error, &["s3://harbour/large.parquet", "cloud_options"]);
        let missing = scan(&harbour, "s3://harbour/nothing.parquet").collect_on(&session).expect_err("it is not there");
        says(&missing, &["s3://harbour/nothing.parquet", "404 Not Found"]);

        let query = scan(&harbour, "s3://harbour/large.parquet").select([col("id").sum()]);
        let mut run = session.submit(query).unwrap();
        let status = run.status().unwrap();
        let seen = format!(
            "{} {run:?} {status:?} {}",
            run.explain(),
            status.as_ref().map(ToString::to_string).unwrap_or_default()
        );
        assert!(!seen.contains(SECRET), "{seen}");
        run.collect().unwrap();
    }
}
