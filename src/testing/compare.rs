//! Answers, and how they differ.

use polars::prelude::*;

/// Where two answers differ, for people; `None`: they are equal, as [`assert_same_as_polars`](super::assert_same_as_polars) says.
pub fn difference(ours: &DataFrame, plain: &DataFrame, ordered: bool, approximate: &[&str]) -> Option<String> {
    let unknown = |name: &&&str| plain.column(name).is_err();
    if let Some(name) = approximate.iter().find(unknown) {
        return Some(format!(
            "there is no column {name:?} to be approximate: there are {:?}",
            plain.get_column_names()
        ));
    }
    if ours.schema() != plain.schema() {
        return Some(format!("the columns differ\n  ours:  {:?}\n  plain: {:?}", ours.schema(), plain.schema()));
    }
    if ours.height() != plain.height() {
        return Some(format!("there are {} rows, and plain Polars has {}", ours.height(), plain.height()));
    }
    let (ours, plain) = match ordered {
        true => (ours.clone(), plain.clone()),
        false => (sorted(ours, approximate), sorted(plain, approximate)),
    };
    let rows = ours.columns().iter().zip(plain.columns()).filter_map(|(a, b)| {
        let approximate = approximate.contains(&a.name().as_str());
        let row = first_difference(a, b, approximate)?;
        Some((row, a, b, approximate))
    });
    // In the first row that differs, the first column that does.
    let (row, a, b, approximate) = rows.min_by_key(|(row, ..)| *row)?;
    let of = |column: &Column| column.get(row).map_or_else(|error| error.to_string(), |value| exact(&value));
    let which = if ordered { "row" } else { "row (of the sorted rows)" };
    let hint = match (a.dtype().is_float(), approximate) {
        (true, false) => format!(
            "\nIf the column has passed a sum, mean, var or std of floats, which depend on the order of the rows, name it: \
             approximate = &[{:?}]",
            a.name()
        ),
        (true, true) => "\nApproximate floats may differ by 1e-9 of their size".to_owned(),
        (false, _) => String::new(),
    };
    Some(format!("{which} {row} differs in column {:?}\n  ours:  {}\n  plain: {}{hint}", a.name(), of(a), of(b)))
}

/// The first row in which two columns of one dtype and height differ.
fn first_difference(a: &Column, b: &Column, approximate: bool) -> Option<usize> {
    if a.equals_missing(b) {
        return None;
    }
    (0..a.len()).find(|row| match (a.get(*row), b.get(*row)) {
        (Ok(a), Ok(b)) => !equal(&a, &b, approximate),
        _ => true,
    })
}

fn equal(a: &AnyValue<'_>, b: &AnyValue<'_>, approximate: bool) -> bool {
    match (a, b) {
        (AnyValue::Null, AnyValue::Null) => true,
        (AnyValue::Float64(x), AnyValue::Float64(y)) => same_float(*x, *y, approximate),
        (AnyValue::Float32(x), AnyValue::Float32(y)) => same_float(f64::from(*x), f64::from(*y), approximate),
        (AnyValue::List(x), AnyValue::List(y)) => same_series(x, y, approximate),
        _ => a == b,
    }
}

fn same_series(a: &Series, b: &Series, approximate: bool) -> bool {
    a.len() == b.len() && first_difference(&a.clone().into_column(), &b.clone().into_column(), approximate).is_none()
}

fn same_float(x: f64, y: f64, approximate: bool) -> bool {
    x == y || (x.is_nan() && y.is_nan()) || (approximate && (x - y).abs() <= 1e-9 * x.abs().max(y.abs()))
}

/// A value to its last digit.
fn exact(value: &AnyValue<'_>) -> String {
    match value {
        AnyValue::Float64(x) => format!("{x:?}"),
        AnyValue::Float32(x) => format!("{x:?}"),
        AnyValue::List(series) => {
            let values: Vec<_> = series.iter().map(|value| exact(&value)).collect();
            format!("[{}]", values.join(", "))
        }
        other => format!("{other:?}"),
    }
}

/// Rows in an order that is the same for the same rows: floats that may differ are looked at last.
fn sorted(frame: &DataFrame, approximate: &[&str]) -> DataFrame {
    let mut names: Vec<_> = frame.get_column_names_owned();
    names.sort_by_key(|name| approximate.contains(&name.as_str()));
    if names.is_empty() {
        return frame.clone();
    }
    frame.sort(names, SortMultipleOptions::default()).unwrap_or_else(|error| panic!("cannot sort the rows: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_that_differs_is_shown_to_its_last_digit_with_the_column_to_name() {
        let a = df!["k" => ["a", "b", "c"], "x" => [1.0, 0.1 + 0.2, 3.0], "n" => [1, 2, 3]].unwrap();
        let b = df!["k" => ["a", "b", "c"], "x" => [1.0, 0.3, 3.0], "n" => [1, 2, 4]].unwrap();
        assert_eq!(difference(&a, &a, true, &[]), None);
        let text = difference(&a, &b, true, &[]).unwrap();
        for part in ["row 1 differs in column \"x\"", "0.30000000000000004", "plain: 0.3\n", "approximate = &[\"x\"]"] {
            assert!(text.contains(part), "{part:?} is missing in: {text}");
        }
        let text = difference(&a, &b, true, &["x"]).unwrap();
        assert!(text.contains("row 2 differs in column \"n\"") && !text.contains("approximate ="), "{text}");
        let b = b.drop("n").unwrap();
        let a = a.drop("n").unwrap();
        assert_eq!(difference(&a, &b, false, &["x"]), None);
        assert!(difference(&a, &b, true, &["y"]).unwrap().contains("no column \"y\""));
        assert!(difference(&a.head(Some(1)), &b, true, &[]).unwrap().contains("1 rows, and plain Polars has 3"));
    }

    #[test]
    fn nulls_and_nans_are_equal_to_themselves_and_lists_are_compared_to_the_last_element() {
        let frame = |last: f64| {
            let lists = [Some(Series::new("".into(), [1.0, f64::NAN])), None, Some(Series::new("".into(), [last]))];
            let lists: ListChunked = lists.into_iter().collect();
            DataFrame::new(3, vec![lists.with_name("l".into()).into_column()]).unwrap()
        };
        assert_eq!(difference(&frame(0.3), &frame(0.3), true, &[]), None);
        let text = difference(&frame(0.1 + 0.2), &frame(0.3), true, &[]).unwrap();
        assert!(text.contains("row 2") && text.contains("[0.30000000000000004]"), "{text}");
        assert_eq!(difference(&frame(0.1 + 0.2), &frame(0.3), true, &["l"]), None);
    }
}
