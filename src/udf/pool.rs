//! Options of a UDF, and the expression that calls it.

use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::sync::Arc;

use polars::prelude::*;
use polars_plan::dsl::LazySerde;
use polars_plan::prelude::{FunctionFlags, FunctionOptions, SpecialEq};
use regatta_remote::encode;
use serde::{Deserialize, Serialize};

use super::{Registered, UdfCall};

/// How many replicas a UDF gets, what each costs, and how rows are cut into calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolOptions {
    /// Replicas that must be placed before work starts, and the most that are asked for.
    pub replicas: (usize, usize),
    /// CPUs that one replica is charged.
    pub cpus: f64,
    /// Rows of one call, at most; `None`: as the rows come.
    pub batch: Option<usize>,
}

impl PoolOptions {
    /// What is wrong with these options, in words.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let (least, most) = self.replicas;
        if most == 0 || least > most {
            return Err(format!(
                "replicas({least}..={most}) asks for no replica: use replicas(n) or replicas(least..=most) with most >= 1"
            ));
        }
        if !(self.cpus.is_finite() && self.cpus >= 0.0) {
            return Err(format!("cpus({}) is not an amount of CPU: use a number >= 0", self.cpus));
        }
        if self.batch == Some(0) {
            return Err("batch(0) would never hand a row to the UDF: use at least 1, or leave it out".to_owned());
        }
        Ok(())
    }
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { replicas: (1, 1), cpus: 0.5, batch: None }
    }
}

/// A UDF with its options: call [`on`](Self::on) to use it in a query.
#[derive(Debug, Clone)]
pub struct Pool<U> {
    call: Arc<UdfCall>,
    udf: PhantomData<fn() -> U>,
}

/// What [`Pool::replicas`] takes: a number, or a range from the least to the most.
#[derive(Debug, Clone, Copy)]
pub struct Replicas(usize, usize);

impl From<usize> for Replicas {
    fn from(n: usize) -> Self {
        Self(n, n)
    }
}

impl From<RangeInclusive<usize>> for Replicas {
    fn from(range: RangeInclusive<usize>) -> Self {
        Self(*range.start(), *range.end())
    }
}

impl<U: Registered> Pool<U> {
    pub(crate) fn new(udf: U) -> Self {
        let call = UdfCall::new(U::NAME, encode(&udf), PoolOptions::default());
        Self { call: Arc::new(call), udf: PhantomData }
    }

    /// How many replicas: `4`, or `1..=8` to start with one and take what fits up to eight.
    /// A pool runs with at least one while it has work, whatever the lower bound.
    #[must_use]
    pub fn replicas(self, replicas: impl Into<Replicas>) -> Self {
        let Replicas(least, most) = replicas.into();
        self.with(|o| o.replicas = (least, most))
    }

    /// CPUs that each replica is charged, 0.5 unless said.
    #[must_use]
    pub fn cpus(self, cpus: f64) -> Self {
        self.with(|o| o.cpus = cpus)
    }

    /// Rows of one call, at most.
    #[must_use]
    pub fn batch(self, rows: usize) -> Self {
        self.with(|o| o.batch = Some(rows))
    }

    /// The UDF applied to these inputs. The result is named after the first input; use `.alias` for another name.
    pub fn on<E: AsRef<[Expr]>>(&self, inputs: E) -> Expr {
        Expr::AnonymousFunction {
            input: inputs.as_ref().to_vec(),
            function: LazySerde::Named {
                name: self.call.name().to_owned(),
                payload: self.call.payload(),
                value: Some(SpecialEq::new(Arc::clone(&self.call) as Arc<dyn AnonymousColumnsUdf>)),
            },
            // Row-wise, and it may wait: Polars then runs it on a blocking thread wherever the planner leaves it in place.
            options: FunctionOptions::elementwise().flag(FunctionFlags::OPTIONAL_RE_ENTRANT),
            fmt_str: Box::new(self.call.name().into()),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut PoolOptions)) -> Self {
        self.call = Arc::new(self.call.with_options(change));
        self
    }
}
