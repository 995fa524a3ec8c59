//! For tests of programs that use Regatta.

use std::time::{Duration, Instant};

use polars::prelude::*;

#[doc(hidden)]
pub use crate::cluster::{TestWorker, become_worker_if_started_as_one};
#[doc(hidden)]
pub use inventory;

/// Lets this test binary be a worker, so that sessions in its tests can start worker processes, with the UDFs that
/// the test binary registers. Once in each test binary, at its root.
///
/// ```
/// #[cfg(test)]
/// regatta::testing::worker!();
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __testing_worker {
    () => {
        #[test]
        fn regatta_worker() {
            $crate::testing::become_worker_if_started_as_one();
        }

        $crate::testing::inventory::submit! { $crate::testing::TestWorker { module: ::core::module_path!() } }
    };
}
#[doc(inline)]
pub use crate::__testing_worker as worker;

/// Waits for a condition that some other thread or process brings about, for ten seconds at most. In place of a sleep.
///
/// # Panics
/// The condition does not come about; `what` says which.
#[track_caller]
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::yield_now();
    }
}

/// Runs a query on the session and with plain Polars, and compares the answers.
///
/// Equal means exact, in names, dtypes and values, except columns named in `approximate` (those that passed a float sum,
/// mean, var or std), where floats may differ by 1e-9 relatively. Without `ordered`, rows are sorted first.
///
/// # Panics
/// The answers differ, or one of the two fails.
pub fn assert_same_as_polars(session: &crate::Session, query: &LazyFrame, ordered: bool, approximate: &[&str]) {
    let plain = query.clone().collect().unwrap_or_else(|error| panic!("plain Polars fails: {error}"));
    let mut run = session.submit(query.clone()).unwrap_or_else(|error| panic!("the session refuses: {error}"));
    let ours = run.collect().unwrap_or_else(|error| panic!("the session fails: {error}"));
    if let Some(difference) = difference(&ours, &plain, ordered, approximate) {
        panic!("the session's answer is not plain Polars': {difference}\n{}", run.explain());
    }
}

/// Where two answers differ, in words; `None`: they are equal, as [`assert_same_as_polars`] says.
pub fn difference(ours: &DataFrame, plain: &DataFrame, ordered: bool, approximate: &[&str]) -> Option<String> {
    if ours.schema() != plain.schema() {
        return Some(format!("schemas differ\nours:  {:?}\nplain: {:?}", ours.schema(), plain.schema()));
    }
    if ours.height() != plain.height() {
        return Some(format!("there are {} rows, of {}\nours: {ours}\nplain: {plain}", ours.height(), plain.height()));
    }
    let (ours, plain) = match ordered {
        true => (ours.clone(), plain.clone()),
        false => (sorted(ours, approximate), sorted(plain, approximate)),
    };
    for (a, b) in ours.columns().iter().zip(plain.columns()) {
        let name = a.name().as_str();
        let same = |a: &Column, b: &Column| match approximate.contains(&name) {
            true => close(a, b),
            false => a.equals_missing(b),
        };
        if same(a, b) {
            continue;
        }
        let differs = |row: &usize| !same(&a.slice(*row as i64, 1), &b.slice(*row as i64, 1));
        let row = (0..a.len()).find(differs).unwrap_or_default();
        let hint = match a.dtype().is_float() && !approximate.contains(&name) && close(a, b) {
            true => "\nit is equal to 1e-9: if it comes of sums of floats, name it as approximate",
            false => "",
        };
        let order = if ordered { "" } else { ", once sorted" };
        let (ours, plain) = (values(&ours, row), values(&plain, row));
        return Some(format!("column {name:?} differs in row {row}{order}\nours:  {ours}\nplain: {plain}{hint}"));
    }
    None
}

/// The values of a row, in full.
fn values(frame: &DataFrame, row: usize) -> String {
    let values = frame.columns().iter().map(|column| match column.get(row) {
        Ok(AnyValue::Float64(value)) => format!("{}: {value:?}", column.name()),
        Ok(AnyValue::Float32(value)) => format!("{}: {value:?}", column.name()),
        Ok(value) => format!("{}: {value:?}", column.name()),
        Err(error) => format!("{}: {error}", column.name()),
    });
    values.collect::<Vec<_>>().join(", ")
}

/// Rows in an order that is the same for the same rows.
fn sorted(frame: &DataFrame, approximate: &[&str]) -> DataFrame {
    let mut names: Vec<_> = frame.get_column_names_owned();
    names.sort_by_key(|name| approximate.contains(&name.as_str()));
    if names.is_empty() {
        return frame.clone();
    }
    frame.sort(names, SortMultipleOptions::default()).unwrap_or_else(|error| panic!("cannot sort the rows: {error}"))
}

fn close(a: &Column, b: &Column) -> bool {
    let (Ok(a), Ok(b)) = (a.cast(&DataType::Float64), b.cast(&DataType::Float64)) else { return false };
    let (Ok(a), Ok(b)) = (a.f64(), b.f64()) else { return false };
    a.iter().zip(b.iter()).all(|pair| match pair {
        (Some(x), Some(y)) => x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= 1e-9 * x.abs().max(y.abs()),
        (x, y) => x == y,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_test_that_a_page_names_exists() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (page, least, folders) in [
            ("docs/scheduler.md", 60, &["src", "tests/scenarios"][..]),
            ("docs/udfs.md", 50, &["src", "tests"]),
            ("docs/semantics.md", 50, &["remote/src", "remote/tests"]),
        ] {
            let text = fs::read_to_string(here.join(page)).unwrap();
            let mut sources = String::new();
            folders.iter().for_each(|folder| read_all(&here.join(folder), &mut sources));
            // A test's name is a sentence: at least three words.
            let is_name =
                |code: &&str| code.matches('_').count() >= 3 && !code.contains(' ') && **code == code.to_lowercase();
            let named: BTreeSet<&str> = text.split('`').skip(1).step_by(2).filter(is_name).collect();
            assert!(named.len() > least, "{page}: the names are no longer found: {named:?}");
            let missing: Vec<_> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
            assert!(missing.is_empty(), "{page} names tests that do not exist: {missing:?}");
        }
    }

    fn read_all(folder: &Path, into: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read_all(&path, into);
            } else {
                into.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
}
