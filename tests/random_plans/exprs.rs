//! Random expressions over given columns.

use polars_core::series::ops::NullBehavior;
use regatta::polars::prelude::*;
use regatta::prelude::*;

use super::rng::Rng;
use super::tables::WORDS;
use super::udfs::{Echo, Total, double, later, measure, paired, several};

/// What an expression may read.
pub(crate) struct Scope<'a> {
    pub(crate) schema: &'a Schema,
    /// Whether all engines agree on the order of the rows.
    pub(crate) ordered: bool,
    /// Whether an expression may look at other rows than its own.
    pub(crate) whole: bool,
}

impl Scope<'_> {
    fn names(&self, of: impl Fn(&DataType) -> bool) -> Vec<PlSmallStr> {
        self.schema.iter().filter(|(_, dtype)| of(dtype)).map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn column(&self, rng: &mut Rng, of: impl Fn(&DataType) -> bool) -> Option<(PlSmallStr, DataType)> {
        let name = rng.pick(&self.names(of))?.clone();
        let dtype = self.schema.get(&name)?.clone();
        Some((name, dtype))
    }

    fn is_row_wise(&self) -> Scope<'_> {
        Scope { schema: self.schema, ordered: self.ordered, whole: false }
    }
}

/// An Int64.
pub(crate) fn int(rng: &mut Rng, scope: &Scope<'_>, depth: usize) -> Expr {
    let leaf = |rng: &mut Rng| match scope.column(rng, DataType::is_integer) {
        Some((name, DataType::Int64)) => col(name),
        Some((name, _)) => col(name).cast(DataType::Int64),
        None => lit(7i64).cast(DataType::Int64),
    };
    if depth == 0 {
        return leaf(rng);
    }
    let some = |rng: &mut Rng| int(rng, scope, depth - 1);
    match rng.below(17) {
        0 => some(rng) + lit(rng.between(-3, 9)),
        1 => some(rng) - some(rng),
        2 => some(rng) * lit(rng.between(-2, 3)),
        3 => some(rng) % lit(rng.between(2, 7)),
        4 => some(rng).floor_div(lit(3i64)),
        5 => when(truth(rng, scope, depth - 1)).then(some(rng)).otherwise(some(rng)),
        6 => some(rng).fill_null(lit(rng.between(-2, 2))),
        7 => text(rng, scope, depth - 1).str().len_bytes().cast(DataType::Int64),
        8 => match scope.column(rng, DataType::is_list) {
            Some((name, _)) => col(name).list().len().cast(DataType::Int64),
            None => some(rng).abs(),
        },
        9 => match scope.column(rng, |dtype| matches!(dtype, DataType::Date | DataType::Datetime(..))) {
            Some((name, _)) => col(name).dt().year().cast(DataType::Int64),
            None => some(rng).clip(lit(-5), lit(5)),
        },
        10 => double::on([some(rng)]),
        11 => double::pool().batch(11).replicas(2).cpus(0.1).on([some(rng)]),
        12 => measure::on([text(rng, scope, 0), some(rng)]),
        13 if rng.percent(40) => later::on([some(rng)]),
        14 if scope.whole => whole(rng, scope, depth),
        15 => truth(rng, scope, depth - 1).cast(DataType::Int64),
        _ => leaf(rng),
    }
}

/// An Int64 that sees other rows.
fn whole(rng: &mut Rng, scope: &Scope<'_>, depth: usize) -> Expr {
    let inner = scope.is_row_wise();
    let of = int(rng, &inner, depth - 1);
    let keys = |rng: &mut Rng| {
        let (name, _) = scope.column(rng, is_key).unwrap_or(("id".into(), DataType::Int64));
        [col(name)]
    };
    match rng.below(if scope.ordered { 16 } else { 8 }) {
        0 => of.clone() - of.min(),
        1 => of.max(),
        2 => of.sum().over(keys(rng)).unwrap(),
        3 => of.count().over(keys(rng)).unwrap().cast(DataType::Int64),
        4 => (of.clone() - of.mean().cast(DataType::Int64)).fill_null(lit(0i64)),
        5 => of.n_unique().over(keys(rng)).unwrap().cast(DataType::Int64),
        6 => of.clone().rank(RankOptions { method: RankMethod::Dense, descending: false }, None).cast(DataType::Int64),
        7 => rank(of, RankMethod::Min).over(keys(rng)).unwrap(),
        13 => beside(of, rng.between(-3, 3), scope.schema.len()),
        8 => of.cum_sum(rng.percent(50)),
        9 => of.first().over(keys(rng)).unwrap(),
        10 => of.diff(lit(1), NullBehavior::Ignore),
        11 => of.reverse(),
        // No two rows are equal in what they are ordered by.
        14 if scope.schema.contains("id") => {
            let by = (vec![col("id")], SortOptions { descending: rng.percent(50), ..Default::default() });
            let of = if rng.percent(50) { of.cum_sum(false) } else { of.last() };
            of.over_with_options(Some(keys(rng).to_vec()), Some(by), WindowMapping::GroupsToRows).unwrap()
        }
        15 => {
            let lists = of.over_with_options(Some(keys(rng)), None, WindowMapping::Join).unwrap();
            lists.list().get(lit(0), true)
        }
        _ => of.cum_sum(false).over(keys(rng)).unwrap(),
    }
}

/// What looks at rows beside each: which of these is not drawn, so that seeds keep their meaning.
fn beside(of: Expr, rows: i64, kind: usize) -> Expr {
    let window_size = rows.unsigned_abs() as usize + 2;
    let rolling = RollingOptionsFixedWindow { window_size, min_periods: 1, center: rows < 0, ..Default::default() };
    match kind % 5 {
        0 => of.rolling_sum(rolling),
        1 => of.rolling_min(rolling),
        2 => of.shift_and_fill(lit(rows), lit(7i64)),
        3 => {
            let limit = Some(rows.unsigned_abs() as IdxSize);
            let filled = |strategy| of.clone().fill_null_with_strategy(strategy);
            if rows < 0 { filled(FillNullStrategy::Backward(limit)) } else { filled(FillNullStrategy::Forward(limit)) }
        }
        _ => of.shift(lit(rows)),
    }
}

fn rank(of: Expr, method: RankMethod) -> Expr {
    of.rank(RankOptions { method, descending: false }, None).cast(DataType::Int64)
}

/// A Boolean.
pub(crate) fn truth(rng: &mut Rng, scope: &Scope<'_>, depth: usize) -> Expr {
    let (name, dtype) = scope.column(rng, |_| true).unwrap_or(("id".into(), DataType::Int64));
    match rng.below(if depth == 0 { 6 } else { 12 }) {
        0 => col(name).is_null(),
        1 => col(name).is_not_null(),
        2 if dtype.is_float() => col(name).is_nan(),
        2 if dtype.is_bool() => col(name),
        3 if is_key(&dtype) => match scope.column(rng, |other| *other == dtype) {
            Some((other, _)) if rng.percent(50) => col(name).lt_eq(col(other)),
            Some((other, _)) => col(name).eq_missing(col(other)),
            None => col(name).is_null(),
        },
        4 => text(rng, scope, 0).str().contains_literal(lit("a")),
        6 => truth(rng, scope, depth - 1).and(truth(rng, scope, depth - 1)),
        7 => truth(rng, scope, depth - 1).or(truth(rng, scope, depth - 1)),
        8 => truth(rng, scope, depth - 1).not(),
        9 => int(rng, scope, depth - 1).is_between(lit(-2i64), lit(5i64), ClosedInterval::Both),
        10 => {
            let some = Series::new("".into(), [0i64, 2, 3, 8]);
            int(rng, scope, depth - 1).is_in(lit(some).implode(true), false)
        }
        _ => int(rng, scope, depth.saturating_sub(1)).gt(lit(rng.between(-4, 6))),
    }
}

/// A String.
pub(crate) fn text(rng: &mut Rng, scope: &Scope<'_>, depth: usize) -> Expr {
    let leaf = |rng: &mut Rng| match scope.column(rng, |d| d.is_string() || d.is_categorical() || d.is_enum()) {
        Some((name, DataType::String)) => col(name),
        Some((name, _)) => col(name).cast(DataType::String),
        None => lit(WORDS[rng.below(WORDS.len())]),
    };
    match rng.below(if depth == 0 { 1 } else { 6 }) {
        1 => concat_str([leaf(rng), text(rng, scope, depth - 1)], "-", rng.percent(50)),
        2 => leaf(rng).str().to_uppercase(),
        3 => leaf(rng).str().head(lit(3)),
        4 => int(rng, scope, depth - 1).cast(DataType::String),
        5 => paired::on([int(rng, scope, 0), text(rng, scope, 0)]).struct_().field_by_name("word"),
        _ => leaf(rng),
    }
}

/// A value of any dtype for each row.
pub(crate) fn any(rng: &mut Rng, scope: &Scope<'_>) -> Expr {
    let (name, dtype) = scope.column(rng, |_| true).unwrap_or(("id".into(), DataType::Int64));
    match (rng.below(14), dtype) {
        (0..=1, _) => text(rng, scope, 2),
        (2, _) => truth(rng, scope, 2),
        (3, _) => Echo.pool().on([col(name)]),
        (4, _) => Echo.pool().batch(17).replicas(2).cpus(0.1).on([col(name)]),
        (5, _) => as_struct(vec![col(name).alias("x"), int(rng, scope, 1).alias("y")]),
        (6, _) => paired::on([int(rng, scope, 1), text(rng, scope, 1)]),
        (7, _) => several::on([int(rng, scope, 1)]),
        (8, dtype) if is_key(&dtype) => concat_list([col(name.clone()), col(name)]).unwrap(),
        (9, DataType::List(_)) => col(name).list().get(lit(0), true),
        (10, DataType::List(inner)) if *inner == DataType::Int64 => col(name).list().eval(double::on([col("")])),
        (11, DataType::Struct(fields)) => match rng.pick(&fields) {
            Some(field) => col(name).struct_().field_by_name(field.name()),
            None => col(name),
        },
        (12, dtype) if dtype.is_float() => (col(name) * lit(2.0)).cast(DataType::Float64),
        _ => int(rng, scope, 3),
    }
}

/// What can be compared and hashed by value.
pub(crate) fn is_key(dtype: &DataType) -> bool {
    !dtype.is_nested() && !dtype.is_null()
}

/// An aggregate of one value.
pub(crate) fn aggregate(rng: &mut Rng, scope: &Scope<'_>) -> Expr {
    let (name, dtype) = scope.column(rng, |_| true).unwrap_or(("id".into(), DataType::Int64));
    let row_wise = scope.is_row_wise();
    match rng.below(26) {
        0 => len(),
        23 if scope.ordered => col(name).filter(truth(rng, &row_wise, 1)).last(),
        24 if scope.ordered => col(name).first_non_null(),
        25 => truth(rng, &row_wise, 1).all(rng.percent(50)),
        1 => col(name).count(),
        2 => col(name).null_count(),
        3 if is_key(&dtype) => col(name).n_unique(),
        4..=5 if is_key(&dtype) && !matches!(dtype, DataType::Binary) => {
            if rng.percent(50) {
                col(name).max()
            } else {
                col(name).min()
            }
        }
        6 if dtype.is_primitive_numeric() => col(name).sum(),
        7 if dtype.is_primitive_numeric() => col(name).mean(),
        8 if scope.ordered => col(name).first(),
        9 if scope.ordered => col(name).last(),
        10 if scope.ordered => col(name).implode(true),
        11 => Total { ordered: scope.ordered }.on([int(rng, &row_wise, 1)]),
        12 => truth(rng, &row_wise, 1).any(true),
        13 => int(rng, &row_wise, 1).filter(truth(rng, &row_wise, 1)).sum(),
        15 => truth(rng, &row_wise, 1).sum(),
        16 => int(rng, &row_wise, 1).filter(truth(rng, &row_wise, 1)).mean(),
        17 => spread(int(rng, &row_wise, 1).filter(truth(rng, &row_wise, 1)), |of| of.var(rng.below(3) as u8)),
        18 if dtype.is_primitive_numeric() => {
            spread(col(name).cast(DataType::Float64), |of| of.std(rng.below(2) as u8))
        }
        19 => int(rng, &row_wise, 1).median(),
        20 => int(rng, &row_wise, 1).max() - int(rng, &row_wise, 1).min() + int(rng, &row_wise, 0).sum(),
        21 if is_key(&dtype) => when(col(name.clone()).count().gt(lit(2))).then(col(name).n_unique()).otherwise(len()),
        14 => int(rng, &row_wise, 1).sum() + col(name).count().cast(DataType::Int64) * lit(2i64),
        _ => int(rng, &row_wise, 2).max(),
    }
}

/// How far values are apart, in eighths. Its last digits are those of the order in which it was summed, and large ones have no others but
/// for their root; sums of eighths are exact, in whatever order. Of nothing Polars' in-memory engine says that it is 0, if it is one null.
fn spread(of: Expr, how: impl FnOnce(Expr) -> Expr) -> Expr {
    let is_any = of.clone().count().gt(lit(0));
    let eighths = (how(of).sqrt().sqrt().sqrt() * lit(8.0)).round(0, RoundMode::HalfToEven) / lit(8.0);
    when(is_any).then(eighths).otherwise(lit(NULL))
}
