//! Options of a UDF, and the expression that calls it.

use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use polars::prelude::*;
use polars_plan::prelude::{FunctionFlags, FunctionOptions};
use regatta_remote::encode;
use serde::{Deserialize, Serialize};

use super::{AsyncUdf, OnError, Registered, UdfCall};

/// How many replicas a UDF gets, what each costs, and how rows are cut into calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolOptions {
    /// Replicas that must be placed before work starts, and the most that are asked for.
    pub replicas: (usize, usize),
    /// CPUs that one replica is charged.
    pub cpus: f64,
    /// GPUs that one replica is given: a share of one, or whole ones.
    pub gpus: f64,
    /// Bytes of memory that one replica is charged on each of its GPUs.
    pub gpu_memory: u64,
    /// Bytes of memory that one replica is charged.
    pub memory: u64,
    /// Rows of one call: the least, but for the last of a task, and the most; `None`: as the rows come.
    pub batch: Option<(usize, usize)>,
    /// How often a batch that failed runs again.
    pub max_retries: u32,
    /// What becomes of rows that fail for good.
    pub on_error: OnError,
    /// How long one call may run; `None`: as long as it wants.
    pub timeout: Option<Duration>,
    /// How long `start` may take; `None`: what the session says.
    pub ready_timeout: Option<Duration>,
    /// Calls that one replica of an async UDF has in flight; `None` for others, and until the query is planned.
    pub in_flight: Option<usize>,
    /// Each replica is a process of its own.
    pub isolated: bool,
    /// How long the replicas stay when no query uses them; `None`: what the session says.
    pub keep_warm: Option<Duration>,
    /// Whether replicas of a UDF on GPUs may run without one.
    pub run_on: RunOn,
}

/// Whether a UDF on GPUs (feature `gpu`) may run on CPUs, where it has a form for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RunOn {
    /// On GPUs. A query is refused where no worker has one.
    #[default]
    RequireGpu,
    /// On GPUs if some worker has one when the query starts, else on CPUs: which is logged, and counted in the UDF's metrics
    /// as `cpu_batches`.
    PreferGpu,
    /// On CPUs.
    CpuOnly,
}

/// Calls in flight of an async UDF, per replica, where the session has not said otherwise.
pub(super) const IN_FLIGHT: usize = 64;

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
        if !(self.gpus >= 0.0 && (self.gpus <= 1.0 || (self.gpus.fract() == 0.0 && self.gpus <= f64::from(u16::MAX)))) {
            return Err(format!(
                "gpus({}) cannot be given to a replica: use a share of one GPU, from 0 to 1, or a whole number of them",
                self.gpus
            ));
        }
        if let Some((least, most)) = self.batch
            && (least == 0 || least > most)
        {
            let batch = if least == most { format!("batch({most})") } else { format!("batch({least}..={most})") };
            return Err(format!(
                "{batch} would never hand a row to the UDF: use batch(n) or batch(least..=most) with least >= 1, or leave it out"
            ));
        }
        if self.timeout == Some(Duration::ZERO) {
            return Err("timeout(0) would fail every call: use a longer one, or leave it out".to_owned());
        }
        if self.ready_timeout == Some(Duration::ZERO) {
            return Err("ready_timeout(0) gives start no time: use a longer one, or leave it out".to_owned());
        }
        if self.in_flight == Some(0) {
            return Err("in_flight(0) would never make a call: use at least 1, or leave it out".to_owned());
        }
        Ok(())
    }
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            replicas: (1, 1),
            cpus: 0.5,
            gpus: 0.0,
            gpu_memory: 0,
            memory: 0,
            batch: None,
            max_retries: 0,
            on_error: OnError::Raise,
            timeout: None,
            ready_timeout: None,
            in_flight: None,
            isolated: false,
            keep_warm: None,
            run_on: RunOn::RequireGpu,
        }
    }
}

/// A UDF with its options: call [`on`](Self::on) to use it in a query.
#[derive(Debug, Clone)]
pub struct Pool<U> {
    call: Arc<UdfCall>,
    udf: PhantomData<fn() -> U>,
}

/// What [`Pool::replicas`] and [`Pool::batch`] take: a number, or a range from the least to the most.
#[derive(Debug, Clone, Copy)]
pub struct Count(usize, usize);

impl From<usize> for Count {
    fn from(n: usize) -> Self {
        Self(n, n)
    }
}

impl From<RangeInclusive<usize>> for Count {
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
    pub fn replicas(self, replicas: impl Into<Count>) -> Self {
        let Count(least, most) = replicas.into();
        self.with(|o| o.replicas = (least, most))
    }

    /// CPUs that each replica is charged, 0.5 unless said.
    #[must_use]
    pub fn cpus(self, cpus: f64) -> Self {
        self.with(|o| o.cpus = cpus)
    }

    /// GPUs that each replica is given: a share of one, which others may then share, or whole ones for it alone; none unless
    /// said. Which they are is decided where the replica is placed.
    #[must_use]
    pub fn gpus(self, gpus: f64) -> Self {
        self.with(|o| o.gpus = gpus)
    }

    /// Bytes of memory that each replica is charged on each of its GPUs. Without [`gpus`](Self::gpus), it shares one GPU with
    /// whom there is memory for.
    #[must_use]
    pub fn gpu_memory(self, bytes: u64) -> Self {
        self.with(|o| o.gpu_memory = bytes)
    }

    /// Bytes of memory that each replica is charged. Only an [`isolated`](Pool::isolated) one on CPUs cannot allocate more.
    #[must_use]
    pub fn memory(self, bytes: u64) -> Self {
        self.with(|o| o.memory = bytes)
    }

    /// Rows of one call: `256`, or `64..=256` to wait for 64 and take up to 256. The last call of each task has what is left.
    /// Where Polars evaluates the call itself only the most counts.
    #[must_use]
    pub fn batch(self, rows: impl Into<Count>) -> Self {
        let Count(least, most) = rows.into();
        self.with(|o| o.batch = Some((least, most)))
    }

    /// How often a batch that failed runs again, on the same or another replica; 0 unless said.
    ///
    /// Of a function on Rust values the rows run again that have failed, and what the others came to is kept. Of any other UDF, or where
    /// a call panics or outlasts its time-out, the whole batch does. So each batch runs at least once: see
    /// [`Batch::attempt`](super::Batch::attempt). The first retry waits 100 ms, each further one twice as long, up to 60 s, all with 25 % of jitter;
    /// [`UdfError::retry_after`](super::UdfError::retry_after) asks for more. No replica waits meanwhile, and the end of the
    /// query ends the wait.
    #[must_use]
    pub fn max_retries(self, retries: u32) -> Self {
        self.with(|o| o.max_retries = retries)
    }

    /// What becomes of rows for which the UDF still fails after the last retry: [`OnError::Raise`] unless said.
    ///
    /// A function on Rust values fails for one row, and that row becomes null. Any other failure, of a function on columns, of
    /// an `impl Udf`, a panic, or a call that outlasts its time-out, is that of the whole batch.
    #[must_use]
    pub fn on_error(self, policy: OnError) -> Self {
        self.with(|o| o.on_error = policy)
    }

    /// How long one call, which is one [`batch`](Self::batch) also of a function on Rust values, may run. Time spent waiting for a replica does
    /// not count.
    ///
    /// A call that runs longer has failed, with [`max_retries`](Self::max_retries) and [`on_error`](Self::on_error) as for other
    /// errors. What becomes of its replica: a thread cannot be stopped, so it is not used again, and a query that has no other
    /// fails and says so; an [`isolated`](Pool::isolated) one is killed and started anew; an async one drops the future and
    /// goes on, isolated or not.
    #[must_use]
    pub fn timeout(self, limit: Duration) -> Self {
        self.with(|o| o.timeout = Some(limit))
    }

    /// How long `start` may take, in place of [`Config::actor_udf_ready_timeout`](crate::Config::actor_udf_ready_timeout).
    #[must_use]
    pub fn ready_timeout(self, limit: Duration) -> Self {
        self.with(|o| o.ready_timeout = Some(limit))
    }

    /// How long the replicas stay when no query uses them any more, in place of [`Config::pool_warm`](crate::Config::pool_warm):
    /// a query of this session or cluster that calls the same UDF with the same arguments and options finds them started.
    /// Zero: they end with the last query.
    #[must_use]
    pub fn keep_warm(self, time: Duration) -> Self {
        self.with(|o| o.keep_warm = Some(time))
    }

    /// Makes each replica a process of its own: this same executable, started again. What the UDF does to its process (a crash,
    /// a leak, a library that exits, endless output) then touches no other work. Costs a process each, and one write of each
    /// batch and result to a file that the other side maps.
    #[must_use]
    pub fn isolated(self) -> Self {
        self.with(|o| o.isolated = true)
    }

    /// The UDF applied to these inputs. The result is named after the first input; use `.alias` for another name.
    pub fn on<E: AsRef<[Expr]>>(&self, inputs: E) -> Expr {
        // Row-wise, and it may wait: Polars then runs it on a blocking thread wherever the planner leaves it in place.
        let options = FunctionOptions::elementwise().flag(FunctionFlags::OPTIONAL_RE_ENTRANT);
        #[cfg(feature = "gpu")]
        if let Some((whole, inputs)) = crate::gpu::fuse(&self.call, inputs.as_ref()) {
            return Arc::new(whole).expression(&inputs, options);
        }
        self.call.expression(inputs.as_ref(), options)
    }

    pub(crate) fn call(&self) -> &UdfCall {
        &self.call
    }

    fn with(mut self, change: impl FnOnce(&mut PoolOptions)) -> Self {
        self.call = Arc::new(self.call.with_options(change));
        self
    }
}

impl<U: AsyncUdf + Registered> Pool<U> {
    /// Calls that one replica has in flight; 64 unless said here or by `DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS`. A call is a
    /// [`batch`](Self::batch), or for a function on Rust values a row.
    #[must_use]
    pub fn in_flight(self, calls: usize) -> Self {
        self.with(|o| o.in_flight = Some(calls))
    }
}

#[cfg(feature = "gpu")]
impl<U: crate::gpu::GpuUdf + Registered> Pool<U> {
    /// Whether replicas may run without a GPU: [`RunOn::RequireGpu`] unless said. The others need a
    /// [`twin`](crate::gpu::GpuUdf::twin).
    #[must_use]
    pub fn run_on(self, run_on: RunOn) -> Self {
        self.with(|o| o.run_on = run_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_gpu_or_whole_ones_are_given_and_nothing_between() {
        for (gpus, legal) in [(0.0, true), (0.5, true), (1.0, true), (2.0, true), (1.5, false), (-1.0, false)] {
            let checked = PoolOptions { gpus, ..PoolOptions::default() }.validate();
            assert_eq!(checked.is_ok(), legal, "{gpus}: {checked:?}");
        }
        for gpus in [f64::NAN, f64::INFINITY, 1e9] {
            let text = PoolOptions { gpus, ..PoolOptions::default() }.validate().unwrap_err();
            assert!(text.contains("whole number"), "{text}");
        }
    }
}
