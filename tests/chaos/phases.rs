//! Workers are killed between and in the middle of all phases of each operator: every row and key is there, once, as one attempt has it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::{TestCluster, difference, eventually};
use regatta::{Error, Run};

use crate::leaving::draws;
use crate::rounds;

const ROWS: i64 = 12_000;
const GROUPS: i64 = 300;

/// A table in files of many row groups: `id` numbers the rows, `key` is one of [`GROUPS`], sums of `x` depend on their order.
pub(crate) fn table(folder: &Path) -> LazyFrame {
    let path = folder.join("table.parquet");
    if !path.exists() {
        let key = |id: i64| (id * 7919) % GROUPS;
        let mut frame = df![
            "id" => (0..ROWS).collect::<Vec<_>>(),
            "key" => (0..ROWS).map(key).collect::<Vec<_>>(),
            "x" => (0..ROWS).map(|id| 1.0 / (id + 1) as f64).collect::<Vec<_>>(),
        ]
        .unwrap();
        ParquetWriter::new(File::create(&path).unwrap()).with_row_group_size(Some(600)).finish(&mut frame).unwrap();
    }
    LazyFrame::scan_parquet(PlRefPath::try_from_path(&path).unwrap(), Default::default()).unwrap()
}

fn inner(left: LazyFrame, right: LazyFrame, on: &str) -> LazyFrame {
    left.join(right, [col(on)], [col(on)], JoinArgs::new(JoinType::Inner))
}

/// Equal rows as they came.
fn sorted(rows: LazyFrame, by: &str) -> LazyFrame {
    rows.sort([by], SortMultipleOptions::default().with_maintain_order(true))
}

fn sums(table: LazyFrame) -> LazyFrame {
    table.group_by([col("key")]).agg([col("x").sum().alias("sum"), col("id").sum().alias("ids"), len().alias("rows")])
}

/// What is asked, and what must hold of the answer beside that it is Polars'.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) query: fn(LazyFrame) -> LazyFrame,
    /// Columns that another run may have other values in.
    approximate: &'static [&'static str],
    holds: Holds,
}

enum Holds {
    /// The answer is Polars'.
    Same,
    /// And its rows are in that order.
    InOrder,
    /// Which rows are kept is open: so many, each with the key of its `id`, no id twice.
    SomeRows(usize),
    /// In all rows with one `key` the column has one value, to the last bit.
    OneValueOf(&'static str),
    /// Two columns are equal, to the last bit.
    Equal(&'static str, &'static str),
    /// All rows in the order of their `id`, whose one column is another's value of the row before. What that is is open.
    Follows(&'static str, &'static str),
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "merged sums, dealt",
        query: |t| sums(t).into_partitions(7),
        approximate: &["sum"],
        holds: Holds::Same,
    },
    Case {
        name: "a join, dealt",
        query: |t| {
            let other = t.clone().filter(col("id").lt(lit(GROUPS * 4))).select([col("key"), col("id").alias("other")]);
            inner(t, other, "key").into_partitions(7).select([
                col("id"),
                col("other"),
                (col("id") + col("other")).alias("both"),
            ])
        },
        approximate: &[],
        holds: Holds::Same,
    },
    Case {
        name: "an outer join, by a column of it",
        query: |t| {
            let other =
                t.clone().filter((col("key") % lit(3)).eq(lit(0))).select([col("id"), col("key").alias("third")]);
            let args = JoinArgs::new(JoinType::Full).with_coalesce(JoinCoalesce::CoalesceColumns);
            t.join(other, [col("id")], [col("id")], args)
                .repartition(5, [col("third")])
                .group_by([col("third")])
                .agg([len(), col("id").sum()])
        },
        approximate: &[],
        holds: Holds::Same,
    },
    Case {
        name: "distinct keys, dealt",
        query: |t| t.select([col("key")]).unique(None, UniqueKeepStrategy::Any).into_partitions(7),
        approximate: &[],
        holds: Holds::Same,
    },
    Case {
        name: "any row of each key, dealt",
        query: |t| {
            t.select([col("key"), col("id")])
                .unique(Some(by_name(["key"], true, false)), UniqueKeepStrategy::Any)
                .into_partitions(7)
        },
        approximate: &[],
        holds: Holds::SomeRows(GROUPS as usize),
    },
    Case {
        name: "first rows with ties, dealt",
        query: |t| {
            let first = t
                .select([col("key"), col("id")])
                .sort(["key"], SortMultipleOptions::default().with_maintain_order(false));
            first.limit(1_000).into_partitions(7)
        },
        approximate: &[],
        holds: Holds::SomeRows(1_000),
    },
    Case {
        name: "a sum of floats beside each row of its key",
        query: |t| t.with_column(col("x").sum().over([col("key")]).unwrap().alias("w")),
        approximate: &["w"],
        holds: Holds::OneValueOf("w"),
    },
    Case {
        name: "rows above the mean, counted",
        query: |t| t.filter(col("x").gt(col("x").mean())).group_by([col("key")]).agg([len(), col("id").sum()]),
        approximate: &[],
        holds: Holds::Same,
    },
    Case {
        name: "rows by a sum of floats, counted",
        query: |t| {
            let with = inner(t.clone(), sums(t), "key").repartition(6, [col("sum")]);
            with.group_by([col("key")]).agg([len().alias("all"), col("id").sum(), col("ids").first()])
        },
        approximate: &[],
        holds: Holds::Same,
    },
    Case {
        name: "groups by a sum of floats",
        query: |t| {
            let with = inner(t.clone(), sums(t), "key");
            with.group_by([col("sum")]).agg([len().alias("all"), col("id").sum(), col("key").min()]).select([
                col("all"),
                col("id"),
                col("key"),
            ])
        },
        approximate: &[],
        holds: Holds::Same,
    },
    Case {
        name: "sums of floats beside each row",
        query: |t| inner(t.clone(), sums(t), "key").select([col("id"), col("key"), col("sum")]),
        approximate: &["sum"],
        holds: Holds::OneValueOf("sum"),
    },
    Case {
        name: "sums of floats that are read twice",
        query: |t| {
            let sums = sums(t).cache();
            let renamed = sums.clone().select([col("key"), col("sum").alias("again")]);
            inner(sums, renamed, "key").into_partitions(5)
        },
        approximate: &["sum", "again"],
        holds: Holds::Equal("sum", "again"),
    },
    Case {
        name: "a union of groups, grouped",
        query: |t| {
            let few = t.clone().filter((col("id") % lit(5)).eq(lit(0)));
            let all = concat([sums(t), sums(few)], UnionArgs::default()).unwrap();
            all.group_by([col("key") % lit(11)]).agg([col("rows").sum(), col("ids").sum()])
        },
        approximate: &[],
        holds: Holds::Same,
    },
    Case {
        name: "rows of some keys, and of no others",
        query: |t| {
            let keys = t.clone().filter((col("id") % lit(977)).eq(lit(0))).select([col("key")]);
            let semi = t.clone().join(keys.clone(), [col("key")], [col("key")], JoinArgs::new(JoinType::Semi));
            let anti = t.join(keys, [col("key")], [col("key")], JoinArgs::new(JoinType::Anti));
            concat([semi, anti], UnionArgs::default()).unwrap().into_partitions(9).select([col("id")])
        },
        approximate: &[],
        holds: Holds::Same,
    },
    Case {
        name: "a sort with ties",
        query: |t| sorted(t.select([col("key"), col("id")]), "key").with_row_index("place", None),
        approximate: &[],
        holds: Holds::InOrder,
    },
    Case {
        name: "a sort with ties, dealt",
        query: |t| sorted(t.select([col("key"), col("id")]), "key").into_partitions(7),
        approximate: &[],
        holds: Holds::InOrder,
    },
    Case {
        name: "first rows of many that are sorted",
        query: |t| sorted(t.select([col("key"), col("id")]), "key").slice(1_000, 3_000_000),
        approximate: &[],
        holds: Holds::InOrder,
    },
    Case {
        name: "a sort of a join",
        query: |t| {
            let other = t.clone().filter(col("id").lt(lit(GROUPS * 4))).select([col("key"), col("id").alias("other")]);
            let joined = inner(t, other, "key").select([col("key"), col("id"), col("other")]);
            joined.sort(["key", "id", "other"], Default::default())
        },
        approximate: &[],
        holds: Holds::InOrder,
    },
    Case {
        name: "rows beside each of a sort with ties",
        query: |t| {
            let before = (col("id") - col("id").shift(lit(3))).alias("before");
            sorted(t.select([col("key"), col("id")]), "key").with_column(before)
        },
        approximate: &[],
        holds: Holds::InOrder,
    },
    Case {
        name: "rows beside each, of what a UDF draws",
        query: |t| {
            let drawn = t.select([col("id"), draws::on([col("id")]).alias("drawn")]);
            drawn.with_column(col("drawn").shift(lit(1)).alias("before"))
        },
        approximate: &[],
        holds: Holds::Follows("before", "drawn"),
    },
    Case {
        name: "sums that run on, over what a filter leaves, numbered",
        query: |t| {
            let some = t.filter((col("id") % lit(3)).neq(lit(1))).with_row_index("place", None);
            some.with_columns([col("id").cum_sum(false).alias("sums"), col("key").cum_max(true).alias("most")])
        },
        approximate: &[],
        holds: Holds::InOrder,
    },
    Case {
        name: "sums of floats that run on",
        query: |t| t.select([col("id"), col("x").cum_sum(false).alias("sum")]),
        approximate: &[],
        holds: Holds::InOrder,
    },
    Case {
        name: "a join, numbered",
        query: |t| {
            let other = t.clone().select([col("key"), col("id").alias("other")]).filter(col("other").lt(lit(GROUPS)));
            let joined = inner(t, other, "key").with_row_index("place", None);
            joined.select([col("id").sum(), col("place").max(), len()])
        },
        approximate: &[],
        holds: Holds::Same,
    },
    Case {
        name: "a sort by sums of floats",
        query: |t| sums(t).sort(["sum"], Default::default()).select([col("key"), col("rows"), col("ids")]),
        approximate: &[],
        holds: Holds::Same,
    },
    Case {
        name: "a limit over a join",
        query: |t| {
            inner(t.clone(), t.select([col("key"), col("id").alias("other")]), "key")
                .select([col("key"), col("id")])
                .limit(5_000)
                .group_by([lit(1).alias("one")])
                .agg([len()])
        },
        approximate: &[],
        holds: Holds::Same,
    },
];

pub(crate) fn done(run: &Run) -> usize {
    run.status().unwrap().map_or(usize::MAX, |status| status.stages.iter().map(|stage| stage.tasks.2).sum())
}

/// Draws below `n`.
pub(crate) fn draw(state: &mut u64, n: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize % n.max(1)
}

impl Case {
    pub(crate) fn assert(&self, ours: &DataFrame, plain: &DataFrame, when: &str) {
        let say = |what: String| panic!("{}, {when}: {what}", self.name);
        match self.holds {
            Holds::SomeRows(rows) => {
                if ours.height() != rows {
                    say(format!("{} rows in place of {rows}", ours.height()));
                }
            }
            Holds::Follows(..) => {
                if ours.column("id").unwrap() != plain.column("id").unwrap() {
                    say("other rows, or in another order".to_owned());
                }
            }
            _ => {
                let in_order = matches!(self.holds, Holds::InOrder);
                if let Some(difference) = difference(ours, plain, in_order, self.approximate) {
                    say(difference);
                }
            }
        }
        let ints = |name: &str| ours.column(name).unwrap().i64().unwrap().iter().flatten().collect::<Vec<_>>();
        let bits = |name: &str| {
            ours.column(name).unwrap().f64().unwrap().iter().map(|x| x.unwrap().to_bits()).collect::<Vec<_>>()
        };
        match self.holds {
            Holds::Same | Holds::InOrder => (),
            Holds::SomeRows(_) => {
                let mut seen = HashMap::new();
                for (id, key) in ints("id").into_iter().zip(ints("key")) {
                    if (id * 7919) % GROUPS != key || seen.insert(id, key).is_some() {
                        say(format!("row {id} with key {key}, or twice"));
                    }
                }
            }
            Holds::OneValueOf(name) => {
                let mut values: BTreeMap<i64, u64> = BTreeMap::new();
                for (key, value) in ints("key").into_iter().zip(bits(name)) {
                    if *values.entry(key).or_insert(value) != value {
                        say(format!("key {key} has two values"));
                    }
                }
            }
            Holds::Follows(after, of) => {
                let before = ours.column(of).unwrap().shift(1);
                if !ours.column(after).unwrap().equals_missing(&before.with_name(after.into())) {
                    say("what a row says of the one before is not what that says".to_owned());
                }
            }
            Holds::Equal(one, other) => {
                if bits(one) != bits(other) {
                    say("two attempts are mixed".to_owned());
                }
            }
        }
    }
}

/// What comes of a query of which some worker is killed when so many of its tasks are done, and how many it has.
fn killed_at(
    cluster: &TestCluster,
    query: LazyFrame,
    at: usize,
    victim: usize,
    streams: bool,
) -> Result<DataFrame, Error> {
    let mut run = cluster.session().submit(query).unwrap();
    let mut batches = streams.then(|| run.batches());
    let mut taken = Vec::new();
    let began = Instant::now();
    while done(&run) < at && began.elapsed() < Duration::from_secs(20) {
        std::hint::spin_loop();
    }
    if let Some(batches) = &mut batches {
        taken.extend(batches.next().transpose()?);
    }
    let there = cluster.session().status().unwrap().workers;
    let victim = there.get(victim % there.len().max(1)).map(|worker| worker.worker);
    victim.into_iter().for_each(|victim| drop(cluster.kill(victim)));
    match batches {
        None => run.collect(),
        Some(batches) => {
            for batch in batches {
                taken.push(batch?);
            }
            let mut whole = DataFrame::empty_with_schema(run.schema());
            taken.into_iter().for_each(|batch| whole.vstack_mut_owned(batch).map(drop).unwrap());
            Ok(whole)
        }
    }
}

/// At as many moments as are drawn.
fn each_operator(shapes: &str, streams: bool) {
    let folder = tempfile::tempdir().unwrap();
    let cluster = TestCluster::start(3).unwrap();
    let (mut seed, mut contradicted, mut kills) = (shapes.len() as u64, 0, 0);
    for case in CASES {
        let query = (case.query)(table(folder.path()));
        let plain = query.clone().collect().unwrap();
        let mut run = cluster.session().submit(query.clone()).unwrap();
        let whole = run.collect().unwrap();
        case.assert(&whole, &plain, "undisturbed");
        let tasks: u32 = run.profile().unwrap().stages.iter().filter_map(|stage| stage.tasks).sum();
        for _ in 0..2 * rounds() {
            let (at, victim) = (draw(&mut seed, tasks as usize + 1), draw(&mut seed, 3));
            let when = format!(
                "worker {victim} killed when {at} of {tasks} tasks were done, shapes {shapes:?}, streamed: {streams}"
            );
            kills += 1;
            match killed_at(&cluster, query.clone(), at, victim, streams) {
                Ok(ours) => case.assert(&ours, &plain, &when),
                Err(Error::MadeOtherwise(_)) => contradicted += 1,
                Err(error) => panic!("{}, {when}: {error}\n{}", case.name, run.explain()),
            }
        }
    }
    println!("{kills} kills, {contradicted} queries could not contradict what they had given out");
    eventually("nothing is left", || cluster.session().partitions_held() == 0);
}

#[test]
fn each_operator_loses_a_worker_at_any_moment() {
    each_operator(&std::env::var("REGATTA_TEST_SHAPES").unwrap_or_default(), false);
}

#[test]
fn each_operator_loses_a_worker_while_its_result_is_read() {
    each_operator(&std::env::var("REGATTA_TEST_SHAPES").unwrap_or_default(), true);
}

#[test]
fn each_operator_loses_a_worker_at_any_moment_in_every_shape_that_can_be_forced() {
    // All of them take minutes.
    let shapes = if rounds() > 1 { &["broadcast", "hash", "one_section", "parts"][..] } else { &["hash"] };
    for shapes in shapes {
        // In a process of its own, which reads it when its session begins.
        let test = ["phases::each_operator_loses_a_worker_at_any_moment", "--exact", "--nocapture"];
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let ended = again.args(test).env("REGATTA_TEST_SHAPES", shapes).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{shapes}: {said}{}", String::from_utf8_lossy(&ended.stdout));
    }
}
