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
    let of = |column: &Column| exact(column, row);
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
    // Not every struct has values that Polars compares one by one.
    let fields = fields(a).zip(fields(b)).map(|(a, b)| a.into_iter().zip(b).collect::<Vec<_>>());
    (0..a.len()).find(|row| match (a.get(*row), b.get(*row), &fields) {
        (Ok(a), Ok(b), Some(_)) if a.is_null() || b.is_null() => a.is_null() != b.is_null(),
        (Ok(_), Ok(_), Some(fields)) => {
            let at = |column: &Column| column.slice(*row as i64, 1);
            fields.iter().any(|(a, b)| first_difference(&at(a), &at(b), approximate).is_some())
        }
        (Ok(a), Ok(b), None) => !equal(&a, &b, approximate),
        _ => true,
    })
}

/// Those of a column of structs.
fn fields(of: &Column) -> Option<Vec<Column>> {
    let of = of.as_materialized_series().struct_().ok()?;
    Some(of.fields_as_series().into_iter().map(Series::into_column).collect())
}

fn equal(a: &AnyValue<'_>, b: &AnyValue<'_>, approximate: bool) -> bool {
    match (a, b) {
        (AnyValue::Null, AnyValue::Null) => true,
        (AnyValue::Float64(x), AnyValue::Float64(y)) => same_float(*x, *y, approximate),
        (AnyValue::Float32(x), AnyValue::Float32(y)) => same_float(f64::from(*x), f64::from(*y), approximate),
        (AnyValue::List(x), AnyValue::List(y)) | (AnyValue::Array(x, _), AnyValue::Array(y, _)) => {
            same_series(x, y, approximate)
        }
        _ => a == b,
    }
}

fn same_series(a: &Series, b: &Series, approximate: bool) -> bool {
    a.len() == b.len() && first_difference(&a.clone().into_column(), &b.clone().into_column(), approximate).is_none()
}

fn same_float(x: f64, y: f64, approximate: bool) -> bool {
    x == y || (x.is_nan() && y.is_nan()) || (approximate && (x - y).abs() <= 1e-9 * x.abs().max(y.abs()))
}

/// The value in a row, to its last digit.
fn exact(column: &Column, row: usize) -> String {
    let all = |columns: &[Column], rows: &[usize]| {
        let each = rows.iter().flat_map(|row| columns.iter().map(|column| exact(column, *row)));
        each.collect::<Vec<_>>().join(", ")
    };
    match (column.get(row), fields(column)) {
        (Err(error), _) => error.to_string(),
        (Ok(AnyValue::Float64(x)), _) => format!("{x:?}"),
        (Ok(AnyValue::Float32(x)), _) => format!("{x:?}"),
        (Ok(AnyValue::List(series) | AnyValue::Array(series, _)), _) => {
            let rows: Vec<_> = (0..series.len()).collect();
            format!("[{}]", all(&[series.into_column()], &rows))
        }
        (Ok(value), Some(fields)) if !value.is_null() => format!("{{{}}}", all(&fields, &[row])),
        (Ok(other), _) => format!("{other:?}"),
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

    #[test]
    fn structs_of_whatever_are_compared_field_by_field() {
        let frame = |pair: [f64; 2], bytes: &[u8]| {
            let pairs = Series::new("".into(), [1.0, 2.0, pair[0], pair[1]]);
            let pairs = pairs.reshape_array(&[ReshapeDimension::new(2), ReshapeDimension::new(2)]).unwrap();
            let bytes = Series::new("bytes".into(), [b"a".as_slice(), bytes]);
            let fields = [pairs.with_name("pair".into()), bytes];
            let made = StructChunked::from_series("s".into(), 2, fields.iter()).unwrap();
            DataFrame::new(2, vec![made.into_series().into_column()]).unwrap()
        };
        assert_eq!(difference(&frame([3.0, 4.0], b"b"), &frame([3.0, 4.0], b"b"), true, &[]), None);
        assert_eq!(difference(&frame([0.1 + 0.2, 4.0], b"b"), &frame([0.3, 4.0], b"b"), true, &["s"]), None);
        let text = difference(&frame([0.1 + 0.2, 4.0], b"b"), &frame([0.3, 4.0], b"b"), true, &[]).unwrap();
        assert!(
            text.contains("row 1 differs") && text.contains("{[0.30000000000000004, 4.0], Binary([98])}"),
            "{text}"
        );
        assert!(difference(&frame([3.0, 4.0], b"b"), &frame([3.0, 4.0], b"c"), true, &["s"]).is_some());
    }
}
