//! The program on the first page of the guide (`docs/book`): a scan, a filter, a UDF with state.
//!
//! ```text
//! cargo run --example first                            # in this process
//! DAFT_RUNNER=flotilla cargo run --example first       # on worker processes
//! ```

// ANCHOR: program
use std::collections::HashMap;

use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Mood(Vec<(String, i64)>); // arguments: they travel to where it runs

#[regatta::udf]
impl Udf for Mood {
    type State = HashMap<String, i64>; // the model: built there, once for each replica

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<Self::State> {
        Ok(self.0.iter().cloned().collect())
    }

    fn run(&self, model: &mut Self::State, batch: &Batch) -> UdfResult<Column> {
        let score = |text: &str| text.split_whitespace().filter_map(|word| model.get(word)).sum::<i64>();
        let scores: Int64Chunked = batch.column(0)?.str()?.iter().map(|text| text.map(score)).collect();
        Ok(scores.into_column())
    }
}

#[regatta::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let session = Session::from_env()?; // where it runs
    let words = [("fair", 1), ("fast", 2), ("rough", -1), ("torn", -2)];
    let mood = Mood(words.map(|(word, weight)| (word.to_owned(), weight)).into());
    let query = LazyCsvReader::new("examples/first/log.csv".into())
        .finish()?
        .filter(col("lang").eq(lit("en")))
        .with_column(mood.pool().replicas(1..=2).on([col("entry")]).alias("mood"));
    println!("{}", query.collect_on(&session)?);
    Ok(())
}
// ANCHOR_END: program
