//! UDFs of every kind.

use regatta::polars::prelude::*;
use regatta::prelude::*;
use serde::{Deserialize, Serialize};

#[regatta::udf]
pub(crate) fn double(n: i64) -> i64 {
    n.wrapping_mul(2)
}

#[regatta::udf]
pub(crate) async fn later(n: i64) -> Option<i64> {
    tokio::task::yield_now().await;
    (n % 5 != 0).then_some(n.wrapping_add(1))
}

#[regatta::udf]
pub(crate) fn measure(word: Option<&str>, n: Option<i64>) -> Option<i64> {
    (n != Some(3)).then_some(n.unwrap_or(-1).wrapping_add(word.map_or(-1, |word| word.len() as i64)))
}

/// So many elements; of some rows none, of some null.
#[regatta::udf]
pub(crate) fn several(n: i64) -> Option<Vec<i64>> {
    (n % 7 != 6).then(|| (0..n.rem_euclid(4)).collect())
}

#[regatta::udf(dtype = DataType::Struct(vec![
    Field::new("n".into(), DataType::Int64),
    Field::new("word".into(), DataType::String),
]))]
pub(crate) fn paired(n: &Series, word: &Series) -> UdfResult<Series> {
    let fields = [n.clone().with_name("n".into()), word.clone().with_name("word".into())];
    Ok(StructChunked::from_series("".into(), n.len(), fields.iter())?.into_series())
}

/// What it is given, of whatever dtype.
#[derive(Serialize, Deserialize)]
pub(crate) struct Echo;

#[regatta::udf]
impl Udf for Echo {
    type State = ();

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        Ok(inputs[0].dtype().clone())
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        Ok(batch.column(0)?.clone())
    }
}

/// The sum, the number of rows, and the first of them.
#[derive(Serialize, Deserialize)]
pub(crate) struct Total {
    pub(crate) ordered: bool,
}

#[regatta::udf]
impl Aggregate for Total {
    type Partial = (i64, i64, Option<i64>);

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn partial(&self, batch: &Batch) -> UdfResult<Self::Partial> {
        let numbers = batch.column(0)?.i64()?;
        let first = if self.ordered { numbers.iter().flatten().next() } else { None };
        Ok((numbers.iter().flatten().fold(0, i64::wrapping_add), numbers.len() as i64, first))
    }

    fn merge(&self, (a, m, first): Self::Partial, (b, n, next): Self::Partial) -> UdfResult<Self::Partial> {
        Ok((a.wrapping_add(b), m + n, first.or(next)))
    }

    fn finish(&self, (sum, rows, first): Self::Partial) -> UdfResult<AnyValue<'static>> {
        let sum = sum.wrapping_add(rows).wrapping_mul(3).wrapping_add(first.unwrap_or_default());
        Ok(if rows == 0 { AnyValue::Null } else { AnyValue::Int64(sum) })
    }
}
