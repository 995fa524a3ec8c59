//! What a session does beside running a query: SQL over its tables, previews.

use std::path::Path;

use regatta::polars::prelude::*;
use regatta::polars::sql::SQLContext;
use regatta::prelude::*;
use regatta::testing::eventually;

use crate::errors::{on_both, says};
use crate::udfs::row_groups;

const QUERIES: [&str; 7] = [
    "SELECT * FROM crew WHERE pay > 20 ORDER BY name",
    "SELECT boat, SUM(pay) AS pay, COUNT(*) AS hands FROM crew GROUP BY boat ORDER BY boat",
    "SELECT c.name, b.length FROM crew c JOIN boats b ON c.boat = b.boat ORDER BY c.name LIMIT 2",
    "WITH rich AS (SELECT * FROM crew WHERE pay >= 30) SELECT name, pay FROM rich ORDER BY pay DESC",
    "SELECT name FROM crew WHERE boat IN (SELECT boat FROM boats WHERE length > 10) ORDER BY name",
    "SELECT name, SUM(pay) OVER (PARTITION BY boat) AS purse FROM crew ORDER BY name",
    "SELECT boat FROM boats UNION ALL SELECT name AS boat FROM crew ORDER BY boat",
];

fn tables() -> [(&'static str, LazyFrame); 2] {
    let crew = df![
        "name" => ["Ada", "Ben", "Cy", "Di", "Ed"],
        "boat" => ["Ayu", "Bora", "Ayu", "Bora", "Caya"],
        "pay" => [30i64, 10, 25, 40, 20],
    ];
    let boats = df!["boat" => ["Ayu", "Bora"], "length" => [9.5, 12.0]];
    [("crew", crew.unwrap().lazy()), ("boats", boats.unwrap().lazy())]
}

fn in_file(folder: &Path) -> String {
    drop(row_groups(folder, 1000));
    format!("SELECT COUNT(*) AS n, MAX(x) AS x FROM read_parquet('{}/x.parquet') WHERE x % 7 = 0", folder.display())
}

#[test]
fn sql_over_registered_frames_and_files_answers_as_polars_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = in_file(folder.path());
    let polars = SQLContext::new();
    tables().into_iter().for_each(|(name, table)| polars.register(name, table));
    on_both(|session| {
        tables().into_iter().for_each(|(name, table)| session.register(name, table));
        for text in QUERIES.into_iter().chain([file.as_str()]) {
            let plain = polars.clone().execute(text).unwrap().collect().unwrap();
            let ours = session.sql(text).unwrap_or_else(|e| panic!("{text}: {e}")).collect_on(session).unwrap();
            assert!(ours.equals_missing(&plain), "{text}\nours: {ours}\nplain: {plain}");
        }
    });
}

#[test]
fn tables_are_made_replaced_and_dropped_and_a_statement_that_fails_leaves_nothing() {
    let session = Session::native().unwrap();
    let [(_, crew), _] = tables();
    session.register("crew", crew.clone());
    let rows = |text: &str| session.sql(text).unwrap().collect_on(&session).unwrap().height();
    let _ = session.sql("CREATE TABLE rich AS SELECT * FROM crew WHERE pay > 20").unwrap();
    assert_eq!(rows("SELECT * FROM rich"), 3);
    session.register("rich", crew.limit(1));
    assert_eq!(rows("SELECT * FROM rich"), 1);
    let failed = session.sql("WITH secret AS (SELECT * FROM crew) SELECT nothing FROM nowhere");
    says(&failed.map(drop).expect_err("no such table"), &["nowhere"]);
    assert!(session.sql("SELECT * FROM secret").is_err(), "the name of a statement that failed lives on");
    let _ = session.sql("DROP TABLE rich").unwrap();
    says(&session.sql("SELECT * FROM rich").map(drop).expect_err("dropped"), &["rich"]);
}

#[test]
fn a_persisted_result_is_a_source_that_answers_as_polars_does_until_it_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    on_both(|session| {
        let made = row_groups(folder.path(), 3000).with_column((col("x") % lit(7)).alias("day"));
        let persisted = made.clone().persist_on(session).unwrap();
        let small = || df!["day" => [1i64, 5], "name" => ["Mon", "Fri"]].unwrap().lazy();
        // What it was made of is not read again.
        std::fs::remove_file(folder.path().join("x.parquet")).unwrap();
        let plain = df!["x" => (0..3000i64).collect::<Vec<_>>()].unwrap().lazy();
        let plain = plain.with_column((col("x") % lit(7)).alias("day"));
        let further: [fn(LazyFrame) -> LazyFrame; 7] = [
            |held| held,
            |held| held.filter(col("day").eq(lit(3))).select([col("x")]),
            |held| held.select([len()]),
            |held| held.slice(1234, 100),
            |held| held.with_row_index("row", None).filter(col("x").gt(lit(2990))),
            |held| held.group_by([col("day")]).agg([col("x").sum()]).sort(["day"], Default::default()),
            |held| {
                held.clone().join(held, [col("x")], [col("x")], JoinArgs::new(JoinType::Inner)).select([col("x").sum()])
            },
        ];
        for query in further {
            let ours = query(persisted.lazy()).collect_on(session).unwrap();
            assert!(ours.equals_missing(&query(plain.clone()).collect().unwrap()), "{ours}");
        }
        let joined = persisted.lazy().join(small(), [col("day")], [col("day")], JoinArgs::new(JoinType::Semi));
        assert_eq!(joined.collect_on(session).unwrap().height(), 857);
        let again = persisted.lazy().filter(col("x").lt(lit(10))).persist_on(session).unwrap();
        let late = persisted.lazy();
        drop(persisted);
        assert_eq!(again.lazy().collect_on(session).unwrap().height(), 10, "it needs the first no more");
        let error = late.collect_on(session).expect_err("it was dropped");
        says(&error, &["their handle was dropped", "Persist the query again"]);
        drop(again);
        eventually("nothing is left of it", || session.partitions_held() == 0);
    });
}

#[test]
fn a_preview_runs_no_more_than_its_rows_need() {
    let folder = tempfile::tempdir().unwrap();
    on_both(|session| {
        let scan = row_groups(folder.path(), 4000);
        scan.clone().show_on(session, 3).unwrap();
        let strict = scan.with_column((lit(100) - col("x")).strict_cast(DataType::UInt32).alias("left"));
        assert!(strict.clone().collect_on(session).is_err(), "rows past the 100th fail");
        strict.show_on(session, 5).unwrap();
    });
}
