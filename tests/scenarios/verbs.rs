//! What a session does beside running a query: SQL over its tables, previews.

use std::path::Path;

use regatta::polars::prelude::*;
use regatta::polars::sql::SQLContext;
use regatta::prelude::*;

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
    session.sql("CREATE TABLE rich AS SELECT * FROM crew WHERE pay > 20").unwrap();
    assert_eq!(rows("SELECT * FROM rich"), 3);
    session.register("rich", crew.limit(1));
    assert_eq!(rows("SELECT * FROM rich"), 1);
    let failed = session.sql("WITH secret AS (SELECT * FROM crew) SELECT nothing FROM nowhere");
    says(&failed.map(drop).expect_err("no such table"), &["nowhere"]);
    assert!(session.sql("SELECT * FROM secret").is_err(), "the name of a statement that failed lives on");
    session.sql("DROP TABLE rich").unwrap();
    says(&session.sql("SELECT * FROM rich").map(drop).expect_err("dropped"), &["rich"]);
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
