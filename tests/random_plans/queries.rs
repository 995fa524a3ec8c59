//! Random queries.

use std::path::Path;

use regatta::polars::prelude::*;
use regatta::prelude::*;

use super::exprs::{Scope, aggregate, any, int, is_key, text, truth};
use super::rng::Rng;
use super::tables::source;
use super::udfs::{double, several};

/// A query, and what may be asked of its answer.
#[derive(Clone)]
pub(crate) struct Query {
    pub(crate) frame: LazyFrame,
    /// Whether Polars promises an order of its rows.
    pub(crate) ordered: bool,
    /// Columns that passed sums of floats which are not exact.
    pub(crate) approximate: Vec<PlSmallStr>,
    /// The steps that made it.
    pub(crate) words: String,
}

struct Maker<'a> {
    rng: &'a mut Rng,
    folder: &'a Path,
    sources: usize,
    names: usize,
}

impl Query {
    pub(crate) fn random(rng: &mut Rng, folder: &Path) -> Self {
        let steps = 2 + rng.below(7);
        Maker { rng, folder, sources: 0, names: 0 }.query(steps, 1)
    }

    fn with(self, frame: LazyFrame, step: &str) -> Self {
        Self { frame, words: format!("{}, {step}", self.words), ..self }
    }

    fn unordered(self) -> Self {
        Self { ordered: false, ..self }
    }
}

impl Maker<'_> {
    /// So many steps on a source of its own. A step that Polars does not plan is left out.
    fn query(&mut self, steps: usize, branches: usize) -> Query {
        self.sources += 1;
        let name = format!("t{}", self.sources);
        let frame = source(self.rng, self.folder, &name);
        let mut query = Query { frame, ordered: true, approximate: Vec::new(), words: name };
        for _ in 0..steps {
            let Ok(schema) = query.frame.collect_schema() else { break };
            if let Some(mut next) = self.step(query.clone(), &schema, branches)
                && next.frame.collect_schema().is_ok_and(|schema| !schema.is_empty())
            {
                query = next;
            }
        }
        query
    }

    fn name(&mut self) -> PlSmallStr {
        self.names += 1;
        format!("n{}", self.names).into()
    }

    fn step(&mut self, query: Query, schema: &Schema, branches: usize) -> Option<Query> {
        let frame = query.frame.clone();
        let scope = |whole| Scope { schema, ordered: query.ordered, whole };
        let whole = self.rng.percent(35);
        Some(match self.rng.below(34) {
            0..=3 => {
                let predicate = truth(self.rng, &scope(whole), 3);
                query.with(frame.filter(predicate), "filter")
            }
            4..=7 => {
                let columns = self.columns(&scope(whole), 1 + whole as usize);
                query.with(frame.with_columns(columns), "with_columns")
            }
            8 => {
                // A column's own name again.
                let (name, _) = scope(false).column(self.rng, |_| true)?;
                let value = any(self.rng, &scope(whole)).alias(name);
                query.with(frame.with_column(value), "replaced")
            }
            9..=10 => {
                let mut kept: Vec<_> = schema.iter_names_cloned().collect();
                self.rng.shuffle(&mut kept);
                kept.truncate(1 + self.rng.below(kept.len()));
                let more = self.columns(&scope(whole), 1);
                query.with(frame.select(kept.into_iter().map(col).chain(more).collect::<Vec<_>>()), "select")
            }
            11..=12 => self.sorted(query, schema)?,
            13..=15 if query.ordered => self.sliced(query),
            16..=18 => self.grouped(query, schema)?,
            19..=20 if branches > 0 => self.joined(query, schema, branches)?,
            21 if branches > 0 => {
                let other = truth(self.rng, &scope(false), 2);
                let parts = [frame.clone(), frame.filter(other)];
                query.with(concat(parts, UnionArgs::default()).ok()?, "concat")
            }
            22 => self.distinct(query, schema)?,
            23 => {
                let n = self.rng.below(9) + 1;
                query.with(frame.into_batches(n * 5), "into_batches")
            }
            24..=25 => {
                let n = self.rng.below(5) + 1;
                query.with(frame.into_partitions(n), "into_partitions")
            }
            26..=27 => {
                let keys = self.keys(&scope(false));
                let n = self.rng.below(4) + 1;
                query.with(frame.repartition(n, keys), "repartition").unordered()
            }
            28 => {
                let lists = several::on([int(self.rng, &scope(false), 1)]);
                let name = self.name();
                query.with(frame.generate(&name, lists), "generate")
            }
            29 => {
                let (name, _) = scope(false).column(self.rng, DataType::is_list)?;
                let options = ExplodeOptions { empty_as_null: self.rng.percent(50), keep_nulls: self.rng.percent(50) };
                query.with(frame.explode(by_name([name], true, false), options), "explode")
            }
            30 if query.ordered => {
                let name = self.name();
                query.with(frame.with_row_index(name, Some(3)), "row index")
            }
            31 if query.ordered => query.with(frame.shuffle(7), "shuffle"),
            32 => {
                let (name, _) = scope(false).column(self.rng, |_| true)?;
                query.with(frame.drop_nulls(Some(by_name([name], true, false))), "drop_nulls")
            }
            33 => {
                let aggregates: Vec<_> = (0..1 + self.rng.below(3)).map(|_| self.aggregate(&scope(false))).collect();
                Query { ordered: true, ..query.with(frame.select(aggregates), "aggregates") }
            }
            _ => return None,
        })
    }

    fn columns(&mut self, scope: &Scope<'_>, most: usize) -> Vec<Expr> {
        let columns = (0..1 + self.rng.below(most + 1)).map(|_| any(self.rng, scope).alias(self.name()));
        columns.collect()
    }

    fn aggregate(&mut self, scope: &Scope<'_>) -> Expr {
        let aggregate = aggregate(self.rng, scope);
        aggregate.alias(self.name())
    }

    /// Columns, or what is computed of some.
    fn keys(&mut self, scope: &Scope<'_>) -> Vec<Expr> {
        let key = |rng: &mut Rng| match (rng.below(6), scope.column(rng, is_key)) {
            (0, _) => int(rng, scope, 1) % lit(4i64),
            (1, _) => text(rng, scope, 1),
            (2, _) => double::on([int(rng, scope, 0)]),
            (_, Some((name, _))) => col(name),
            _ => int(rng, scope, 0),
        };
        (0..1 + self.rng.below(2)).map(|_| key(self.rng)).collect()
    }

    /// By all columns, so that rows which compare equal are; or by some, so that equal ones stay as they were; sometimes the first of
    /// them only.
    fn sorted(&mut self, query: Query, schema: &Schema) -> Option<Query> {
        if query.ordered && self.rng.percent(60) {
            return Some(self.sorted_by_some(query, schema));
        }
        let mut keys: Vec<_> = schema.iter_names_cloned().collect();
        self.rng.shuffle(&mut keys);
        let directions: Vec<_> = keys.iter().map(|_| self.rng.percent(40)).collect();
        let options = SortMultipleOptions::default()
            .with_order_descending_multi(directions)
            .with_nulls_last(self.rng.percent(50));
        let sorted = query.frame.clone().sort(keys, options);
        let query = Query { ordered: true, ..query };
        Some(match self.rng.below(3) {
            0 => query.with(sorted.limit(self.rng.below(40) as u32), "first sorted"),
            _ => query.with(sorted, "sort"),
        })
    }

    fn sorted_by_some(&mut self, query: Query, schema: &Schema) -> Query {
        let keys = self.keys(&Scope { schema, ordered: true, whole: false });
        let (directions, last): (Vec<_>, Vec<_>) =
            keys.iter().map(|_| (self.rng.percent(40), self.rng.percent(50))).unzip();
        let options = SortMultipleOptions::default()
            .with_order_descending_multi(directions)
            .with_nulls_last_multi(last)
            .with_maintain_order(true);
        let sorted = query.frame.clone().sort_by_exprs(keys, options);
        match self.rng.below(5) {
            0 => query.with(sorted.slice(self.rng.below(20) as i64, 3_000_000), "rows of a stable sort"),
            1 => query.with(sorted.slice(self.rng.between(-60, 60), 30), "some of a stable sort"),
            _ => query.with(sorted, "stable sort"),
        }
    }

    fn sliced(&mut self, query: Query) -> Query {
        let frame = query.frame.clone();
        let (offset, len) = (self.rng.between(-60, 60), self.rng.below(70) as u32);
        match self.rng.below(3) {
            0 => query.with(frame.limit(len), "limit"),
            1 => query.with(frame.tail(len), "tail"),
            _ => query.with(frame.slice(offset, len), &format!("slice({offset}, {len})")),
        }
    }

    fn grouped(&mut self, query: Query, schema: &Schema) -> Option<Query> {
        let scope = Scope { schema, ordered: query.ordered, whole: false };
        let names = [self.name(), self.name()];
        let keys: Vec<_> = self.keys(&scope).into_iter().zip(names).map(|(key, name)| key.alias(name)).collect();
        let aggregates: Vec<_> = (0..1 + self.rng.below(4)).map(|_| self.aggregate(&scope)).collect();
        let frame = query.frame.clone();
        Some(match query.ordered && self.rng.percent(50) {
            true => query.with(frame.group_by_stable(keys).agg(aggregates), "stable group_by"),
            false => query.with(frame.group_by(keys).agg(aggregates), "group_by").unordered(),
        })
    }

    fn joined(&mut self, query: Query, schema: &Schema, branches: usize) -> Option<Query> {
        let steps = self.rng.below(3);
        let mut right = self.query(steps, branches - 1);
        // Few rows, so that several joins do not make millions.
        if right.ordered {
            right.frame = right.frame.limit(40);
        }
        let right_schema = right.frame.collect_schema().ok()?;
        let prefixed: Vec<_> =
            right_schema.iter_names().map(|name| col(name.clone()).alias(format!("r{name}"))).collect();
        let right_frame = right.frame.select(prefixed);
        let pairs = schema.iter().filter(|(_, dtype)| is_key(dtype)).flat_map(|(left, dtype)| {
            let same = right_schema.iter().filter(move |(_, other)| *other == dtype);
            same.map(move |(right, _)| (left.clone(), right.clone()))
        });
        let pairs: Vec<_> = pairs.collect();
        let (left_on, right_on) = self.rng.pick(&pairs)?.clone();
        if right.ordered && self.rng.percent(10) {
            // Every row with every other, and some of those.
            let both = query.frame.clone().cross_join(right_frame.limit(5), None);
            let joined = query.with(both, &format!("cross join of ({})", right.words)).unordered();
            return Some(joined);
        }
        let (left, right_on) = (query.frame.clone(), col(format!("r{right_on}")));
        let left_on = match (self.rng.below(5), schema.get(&left_on)) {
            (0, Some(DataType::Int64)) => double::on([col(left_on)]),
            _ => col(left_on),
        };
        let types = [JoinType::Inner, JoinType::Left, JoinType::Right, JoinType::Full, JoinType::Semi, JoinType::Anti];
        let how = types[self.rng.below(types.len())].clone();
        let words = format!("{how:?} join of ({})", right.words);
        let mut args = JoinArgs { nulls_equal: self.rng.percent(30), ..JoinArgs::new(how) };
        if query.ordered && right.ordered && self.rng.percent(40) {
            args.maintain_order = MaintainOrderJoin::LeftRight;
        }
        // Of rows without a match on the left Polars promises no order, whatever is asked for.
        let keeps = args.maintain_order != MaintainOrderJoin::None
            && matches!(args.how, JoinType::Inner | JoinType::Left | JoinType::Semi | JoinType::Anti);
        let (mut left_on, mut right_on) = (vec![left_on], vec![right_on]);
        if self.rng.percent(30) {
            // By a second key, which is computed on both sides.
            let (other_left, other_right) = self.rng.pick(&pairs)?.clone();
            left_on.push(col(other_left).cast(DataType::String).str().head(lit(1)));
            right_on.push(col(format!("r{other_right}")).cast(DataType::String).str().head(lit(1)));
            args.coalesce = JoinCoalesce::KeepColumns;
        }
        let joined = query.with(left.join(right_frame, left_on, right_on, args), &words);
        Some(if keeps { joined } else { joined.unordered() })
    }

    fn distinct(&mut self, query: Query, schema: &Schema) -> Option<Query> {
        let scope = Scope { schema, ordered: query.ordered, whole: false };
        let frame = query.frame.clone();
        let (name, _) = scope.column(self.rng, is_key)?;
        let subset = || Some(by_name([name.clone()], true, false));
        Some(match self.rng.below(if query.ordered { 8 } else { 2 }) {
            5 => query.with(frame.unique(subset(), UniqueKeepStrategy::First), "unique, first").unordered(),
            0 => {
                let frame = frame.select([col(name)]).unique(None, UniqueKeepStrategy::Any);
                query.with(frame, "unique").unordered()
            }
            1 => query.with(frame.unique(subset(), UniqueKeepStrategy::None), "unique, none").unordered(),
            2 => query.with(frame.unique_stable(subset(), UniqueKeepStrategy::First), "unique, first in order"),
            3 => query.with(frame.unique_stable(subset(), UniqueKeepStrategy::Last), "unique, last in order"),
            6 => query.with(frame.unique_stable(subset(), UniqueKeepStrategy::None), "unique, none in order"),
            // Polars may find that nobody looks at the order, and take any row.
            7 => {
                let frame = frame.select([col(name)]).unique_stable(None, UniqueKeepStrategy::Any);
                query.with(frame, "unique, any in order")
            }
            _ => query.with(frame.unique(subset(), UniqueKeepStrategy::Last), "unique, last").unordered(),
        })
    }
}
