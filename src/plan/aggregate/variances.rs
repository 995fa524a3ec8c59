//! Variances of what tasks have kept of their rows, merged as Chan, Golub and LeVeque do ("Updating formulae and a pairwise algorithm for
//! computing sample variances", 1979): the textbook's difference of squares loses all digits where the mean is large.
//!
//! A function of lists, one for each group: expressions that hold what is of a group against each of its rows, Polars evaluates group by
//! group.

use std::any::Any;
use std::sync::Arc;

use polars::prelude::*;
use polars_arrow::array::{ListArray, PrimitiveArray};
use polars_plan::dsl::LazySerde;
use polars_plan::prelude::{AnonymousColumnsUdf, OpaqueColumnUdf, SpecialEq};
use regatta_remote::{decode, encode};
use serde::{Deserialize, Serialize};

use crate::udf::wire_form;

/// From what parts of a group's rows have kept to the variance of all of them: lists of how many values each part has, of their means,
/// and of the sums of the squares of their distances from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::plan) struct Variances {
    pub(super) ddof: u8,
}

/// What its wire form begins with.
const MARK: &[u8] = b"regatta:variance";
/// Of the square of a mean: means that differ by less are equal but for their rounding, so that equal values have no variance.
const ROUNDING: f64 = 1e-30;

impl Variances {
    pub(super) fn function(self) -> OpaqueColumnUdf {
        LazySerde::Deserialized(SpecialEq::new(Arc::new(self) as Arc<dyn AnonymousColumnsUdf>))
    }

    /// Whether a function is one of these.
    pub(in crate::plan) fn is(function: &OpaqueColumnUdf) -> bool {
        wire_form(function).is_some_and(|wire| wire.starts_with(MARK))
    }

    /// Reads one back, if it is one.
    pub(in crate::plan) fn from_wire(bytes: &[u8]) -> Option<Self> {
        decode(bytes.strip_prefix(MARK)?).ok()
    }

    /// Null of too few values. What is of no value is not looked at.
    fn of_parts(self, counts: &[f64], means: &[f64], squares: &[f64]) -> Option<f64> {
        let parts = || counts.iter().zip(means).zip(squares).map(|((n, mean), squares)| (*n, *mean, *squares));
        let parts = || parts().filter(|(n, ..)| *n > 0.0);
        let (all, ddof) = (parts().map(|(n, ..)| n).sum::<f64>(), f64::from(self.ddof));
        if all <= ddof {
            return None;
        }
        // From one of the means on, so that equal ones give just that.
        let least = parts().map(|(_, mean, _)| mean).fold(f64::NAN, f64::min);
        let mean_of_all = least + parts().map(|(n, mean, _)| n * (mean - least)).sum::<f64>() / all;
        let is_equal = |apart: f64| apart <= mean_of_all * mean_of_all * ROUNDING;
        let between = |mean: f64| Some((mean - mean_of_all).powi(2)).filter(|apart| !is_equal(*apart)).unwrap_or(0.0);
        let of_all: f64 = parts().map(|(n, mean, squares)| squares + n * between(mean)).sum();
        Some(of_all / (all - ddof))
    }
}

impl ColumnsUdf for Variances {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn call_udf(&self, inputs: &mut [Column]) -> PolarsResult<Column> {
        let [counts, means, squares] = &*inputs else {
            polars_bail!(ComputeError: "variances are of three lists, not of {}", inputs.len());
        };
        let name = counts.name().clone();
        let [counts, means, squares] = [counts.list()?, means.list()?, squares.list()?].map(ListChunked::rechunk);
        let [counts, means, squares] = [&counts, &means, &squares].map(|lists| lists.downcast_as_array());
        polars_ensure!(means.len() == counts.len() && squares.len() == counts.len(), ComputeError: "lists of several groups");
        let of_group = |group| {
            let of = |lists| floats_of(lists, group);
            Ok(self.of_parts(of(counts)?, of(means)?, of(squares)?))
        };
        let variances: Float64Chunked = (0..counts.len()).map(of_group).collect::<PolarsResult<_>>()?;
        Ok(variances.with_name(name).into_column())
    }
}

/// What is behind a null is whatever it is.
fn floats_of(lists: &ListArray<i64>, group: usize) -> PolarsResult<&[f64]> {
    let floats = lists.values().as_any().downcast_ref::<PrimitiveArray<f64>>();
    let floats = floats.ok_or_else(|| polars_err!(ComputeError: "no list of floats"))?;
    let (from, to) = lists.offsets().start_end(group);
    Ok(&floats.values()[from..to])
}

impl AnonymousColumnsUdf for Variances {
    fn as_column_udf(self: Arc<Self>) -> Arc<dyn ColumnsUdf> {
        self
    }

    fn deep_clone(self: Arc<Self>) -> Arc<dyn AnonymousColumnsUdf> {
        self
    }

    fn get_field(&self, _: &Schema, inputs: &[Field]) -> PolarsResult<Field> {
        let first = inputs.first().ok_or_else(|| polars_err!(ComputeError: "no parts"))?;
        Ok(Field::new(first.name().clone(), DataType::Float64))
    }

    fn try_serialize(&self, buffer: &mut Vec<u8>) -> PolarsResult<()> {
        let encoded = encode(self).map_err(|e| polars_err!(ComputeError: "{e}"))?;
        buffer.extend_from_slice(MARK);
        buffer.extend_from_slice(&encoded);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parts_have_kept_is_merged_to_the_variance_of_all_values() {
        let of = |ddof, parts: &[&[f64]]| {
            let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
            let squares = |part: &[f64]| part.iter().map(|value| (value - mean(part)).powi(2)).sum::<f64>();
            let counts: Vec<f64> = parts.iter().map(|part| part.len() as f64).collect();
            let means: Vec<f64> = parts.iter().map(|part| mean(part)).collect();
            let squares: Vec<f64> =
                parts.iter().map(|part| if part.is_empty() { 7.0 } else { squares(part) }).collect();
            Variances { ddof }.of_parts(&counts, &means, &squares)
        };
        assert_eq!(of(0, &[&[1.0, 2.0], &[], &[3.0, 4.0]]), Some(1.25));
        assert_eq!(of(1, &[&[1.0, 2.0], &[9.0]]), Some(19.0));
        assert_eq!(of(1, &[&[], &[1.0]]), None, "one value varies in nothing");
        assert_eq!(of(0, &[]), None);
        assert_eq!(of(0, &[&[0.1 + 0.2], &[0.3]]), Some(0.0), "by rounding");
        // All digits of the squares of these are lost.
        assert_eq!(of(0, &[&[1e9, 1e9 + 1.0], &[1e9 + 2.0, 1e9 + 3.0]]), Some(1.25));
        assert!(of(0, &[&[f64::NAN], &[1.0]]).is_some_and(f64::is_nan));
    }
}
