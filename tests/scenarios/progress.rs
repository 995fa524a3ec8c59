//! Where a query stands, for who waits for it: at a terminal, in a log, and for a program.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use regatta::observe::{Progress, QueryState};
use regatta::polars::prelude::*;
use regatta::prelude::*;

#[regatta::udf]
fn dawdle(x: i64) -> i64 {
    sleep(Duration::from_millis(10));
    x
}

/// It takes about two seconds.
fn query() -> LazyFrame {
    let dawdles = dawdle::pool().batch(10).on([col("id")]).alias("late");
    df!["id" => (0..200_i64).collect::<Vec<_>>()].unwrap().lazy().with_column(dawdles)
}

const AS_DRIVER: &str = "REGATTA_TEST_PROGRESS";

/// This test binary, started again by the tests below, which read what it writes.
#[test]
fn driver_that_shows_where_it_stands() {
    let Ok(as_driver) = std::env::var(AS_DRIVER) else { return };
    if as_driver != "without a subscriber" {
        tracing_subscriber::fmt().with_ansi(false).with_writer(regatta::progress::stderr).init();
    }
    let session = Session::native().unwrap();
    let mut run = session.submit(query()).unwrap();
    if as_driver == "with a log" {
        sleep(Duration::from_millis(1200));
        tracing::warn!("something happens");
    }
    assert_eq!(run.collect().unwrap().height(), 200);
    // Too quick to be shown.
    query().limit(1).collect_on(&session).unwrap();
}

const DRIVER: &str = "progress::driver_that_shows_where_it_stands";

/// What the driver writes to standard error, which is a pipe.
fn to_a_pipe(as_driver: &str, bar: &str) -> String {
    let mut driver = Command::new(std::env::current_exe().unwrap());
    driver.args(["--exact", DRIVER, "--nocapture"]).env(AS_DRIVER, as_driver).env("DAFT_PROGRESS_BAR", bar);
    let said = driver.env("TERM", "xterm").output().unwrap();
    let errors = String::from_utf8(said.stderr).unwrap();
    assert!(said.status.success(), "{errors}");
    errors
}

/// What the driver writes to a terminal.
fn to_a_terminal(as_driver: &str, bar: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let command = format!("stty rows 24 cols 100; {} --exact {DRIVER} --nocapture", program.display());
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).env(AS_DRIVER, as_driver).env("DAFT_PROGRESS_BAR", bar);
    let said = script.env("TERM", "xterm").env("LC_ALL", "C.UTF-8").stdin(std::process::Stdio::null()).output();
    let said = said.expect("script, of util-linux, gives a program a terminal");
    let shown = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success(), "{shown}");
    shown
}

#[test]
fn a_pipe_gets_lines_of_a_log_and_no_escape_byte() {
    let lines = to_a_pipe("with a subscriber", "1");
    assert!(!lines.contains('\x1b'), "{lines}");
    let lines: Vec<_> = lines.lines().filter(|line| line.contains("regatta::progress")).collect();
    let [starts, done, ends] = lines[..] else { panic!("start, the stage's end and the end: {lines:?}") };
    assert!(starts.contains(" starts: ") && done.contains("is done: 1 of 1 task") && ends.contains(": 200 rows in "));
    assert_eq!(to_a_pipe("without a subscriber", "1").matches("query").count(), 0, "nobody has asked for a log");
    assert_eq!(to_a_pipe("with a subscriber", "0").matches("regatta::progress").count(), 0, "it is turned off");
}

#[test]
fn a_terminal_gets_a_block_that_is_drawn_over_and_leaves_one_line() {
    let shown = to_a_terminal("with a log", "1");
    let draws = shown.matches("\x1b[J").count();
    assert!((2..40).contains(&draws), "drawn {draws} times: {shown:?}");
    assert!(
        shown.contains("stage 1 of 1") && shown.contains("0 of 1 task") && shown.contains("1 of 1 replicas"),
        "{shown:?}"
    );
    // The log's line is above the block, which is drawn again below it.
    let after = shown.split_once("something happens\r\n").unwrap_or_else(|| panic!("no log: {shown:?}")).1;
    assert!(after.starts_with("query ") && shown.contains("\x1b[J20"), "{shown:?}");
    let last = shown.rsplit("\x1b[J").next().unwrap();
    assert!(last.starts_with("query ") && last.contains(": 200 rows in "), "{last:?}");
    assert_eq!(shown.matches("rows in").count(), 1, "of the quick one nothing is shown: {shown:?}");
    let kept = to_a_terminal("with a log", "persist");
    let last = kept.rsplit("\x1b[J").next().unwrap();
    assert!(last.contains("1 of 1 task") && last.contains(" ok "), "{last:?}");
    assert!(!to_a_terminal("with a subscriber", "log").contains("\x1b[J"), "lines at a terminal, too");
    assert!(!to_a_terminal("with a subscriber", "0").contains("rows in"), "it is turned off");
}

#[test]
fn a_program_hears_where_its_queries_stand_and_how_they_ended() {
    for session in [Session::native().unwrap(), Session::local(1).unwrap()] {
        let heard: Arc<Mutex<Vec<Progress>>> = Arc::default();
        let hears = Arc::clone(&heard);
        session.on_progress(move |progress| hears.lock().unwrap().push(progress.clone()));
        query().collect_on(&session).unwrap();
        let told = std::mem::take(&mut *heard.lock().unwrap());
        let (last, before) = told.split_last().unwrap();
        assert_eq!((last.state, last.rows), (QueryState::Done, 200), "{last:?}");
        assert!(!before.is_empty() && before.iter().all(|progress| progress.state == QueryState::Running));
        assert!(before.windows(2).all(|two| two[0].time <= two[1].time && two[0].id == two[1].id));
        let run = session.submit(query()).unwrap();
        regatta::testing::eventually("it is told of", || !heard.lock().unwrap().is_empty());
        drop(run);
        assert_eq!(heard.lock().unwrap().last().unwrap().state, QueryState::Cancelled);
    }
}
