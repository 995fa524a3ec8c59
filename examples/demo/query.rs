//! What the demo asks: the mood and the worth of what was ordered, by priority.

use std::collections::HashMap;
use std::path::Path;

use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};

/// Scores a comment by its words, with a small model that is built once per replica.
#[derive(Serialize, Deserialize)]
struct Mood {
    /// Words and their weights: the model's file, so to say.
    weights: Vec<(String, i64)>,
}

#[regatta::udf]
impl Udf for Mood {
    type State = HashMap<String, i64>;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        match inputs[0].dtype() {
            DataType::String => Ok(DataType::Int64),
            other => Err(UdfError::new(format!("Mood reads text, not {other}"))),
        }
    }

    fn start(&self, cx: &mut Start) -> UdfResult<Self::State> {
        cx.progress(format!("loading {} words", self.weights.len()));
        Ok(self.weights.iter().cloned().collect())
    }

    fn run(&self, model: &mut Self::State, batch: &Batch) -> UdfResult<Column> {
        let comments = batch.column(0)?.str()?;
        let weigh = |text: &str| text.split_whitespace().filter_map(|word| model.get(word)).sum::<i64>();
        let scores: Int64Chunked = comments.iter().map(|text| text.map(weigh)).collect();
        Ok(scores.into_column())
    }
}

/// The query over the two tables in this folder.
pub(crate) fn query(folder: &Path) -> PolarsResult<LazyFrame> {
    let scan = |name: &str| {
        let path = folder.join(format!("{name}.parquet"));
        LazyFrame::scan_parquet(PlRefPath::try_from_path(&path)?, ScanArgsParquet::default())
    };
    let weights = [("furiously", -3), ("carefully", 2), ("quickly", 1), ("slyly", -1), ("regular", 1), ("final", -1)];
    let mood = Mood { weights: weights.map(|(word, weight)| (word.to_owned(), weight)).into() };
    let mood = mood.pool().replicas(2).batch(8192);

    Ok(scan("lineitem")?
        .filter(col("l_shipdate").gt_eq(datetime(DatetimeArgs::new(lit(1995), lit(1), lit(1))).cast(DataType::Date)))
        .with_column(mood.on([col("l_comment")]).alias("mood"))
        .join(scan("orders")?, [col("l_orderkey")], [col("o_orderkey")], JoinArgs::new(JoinType::Inner))
        .group_by([col("o_orderpriority")])
        .agg([len().alias("lines"), col("l_extendedprice").sum().alias("revenue"), col("mood").mean()])
        .sort(["o_orderpriority"], SortMultipleOptions::default()))
}
