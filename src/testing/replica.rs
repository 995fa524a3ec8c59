//! One replica of a UDF, for tests of the UDF.

use std::sync::mpsc::{Receiver, channel};

use polars::prelude::{Column, DataFrame, DataType, Field};

use crate::sched::{QueryId, StageId, StepId, WorkerId};
use crate::udf::{
    Fault, Metrics, Pool, Registered, ReplicaSpec, ReplicaThread, Said, Seat, UdfCall, UdfError, UdfResult,
};

/// What a UDF under test is told by its [`Context`](crate::udf::Context).
#[derive(Debug, Clone)]
pub struct TestContext {
    /// The query that calls.
    pub query: QueryId,
    /// The stage that calls.
    pub stage: StageId,
    /// Where the replica runs.
    pub worker: WorkerId,
    /// Which of the replicas it is.
    pub rank: u32,
    /// How many there may be.
    pub replicas: usize,
    /// The GPUs that it was given.
    pub devices: Vec<u32>,
    /// How often the batches have been tried, with this time.
    pub attempt: u32,
}

impl Default for TestContext {
    /// The first replica of one, in query 1, at the first attempt.
    fn default() -> Self {
        let (query, stage, worker) = (QueryId(1), StageId(0), WorkerId(0));
        Self { query, stage, worker, rank: 0, replicas: 1, devices: Vec::new(), attempt: 1 }
    }
}

/// One replica of a UDF without a session, a query or a retry: `start`, then `run` for each frame, then `stop`, as a worker would
/// call them, on a thread of its own, or in a process if the pool is [isolated](Pool::isolated). Its arguments have been
/// encoded and decoded, and what it returns is checked.
///
/// ```
/// use regatta::testing::{TestContext, TestReplica};
/// use regatta::{polars::prelude::*, prelude::*};
///
/// #[regatta::udf]
/// fn tokens(cx: &Context, text: &str) -> u64 {
///     cx.metrics().count("calls", 1);
///     text.split_whitespace().count() as u64 * u64::from(cx.attempt())
/// }
///
/// let mut replica = TestReplica::start(&tokens::pool(), TestContext { attempt: 2, ..Default::default() })?;
/// assert_eq!(replica.run(&df!["text" => ["a b", "c"]].unwrap())?.u64()?.to_vec(), [Some(4), Some(2)]);
/// assert_eq!(replica.stop().to_string(), "calls 2");
/// # Ok::<(), regatta::udf::UdfError>(())
/// ```
#[derive(Debug)]
pub struct TestReplica {
    call: UdfCall,
    context: TestContext,
    thread: ReplicaThread,
    /// What is left to report at its end.
    left: Receiver<Metrics>,
    metrics: Metrics,
}

impl TestReplica {
    /// Starts it, and waits until it has.
    ///
    /// # Errors
    /// What `start` says; options that make no sense; an aggregation, which has no replicas.
    pub fn start<U: Registered>(pool: &Pool<U>, context: TestContext) -> UdfResult<Self> {
        let call = pool.call();
        call.validate()?;
        let seat = Seat::of(
            step(&context),
            context.rank,
            context.worker,
            context.replicas,
            context.devices.clone(),
            &std::env::temp_dir(),
        );
        let (udf, arguments) = (call.name().to_owned(), call.arguments()?.to_vec());
        let spec = ReplicaSpec { udf, arguments, options: call.options.clone(), seat, directory: None };
        let ((started, starts), (stopped, left)) = (channel(), channel());
        let thread = ReplicaThread::start(spec, move |said| {
            // Nobody hears the end of one that is dropped.
            let _ = match said {
                Said::Started(result) => started.send(result).is_ok(),
                Said::Stopped(_, metrics) => stopped.send(metrics).is_ok(),
                Said::Progress(_) => true,
            };
        })?;
        starts.recv().unwrap_or_else(|_| Err(UdfError::new("its thread ended in start")))?;
        Ok(Self { call: call.clone(), context, thread, left, metrics: Metrics::default() })
    }

    /// Has it run one batch: the inputs, in the order in which [`Pool::on`] would be given them.
    ///
    /// # Errors
    /// What `run` says; a result that is not as high as the inputs, or not of the dtype that `output` has promised.
    pub fn run(&mut self, inputs: &DataFrame) -> UdfResult<Column> {
        let fields: Vec<Field> = inputs.columns().iter().map(|column| column.field().into_owned()).collect();
        let dtype: DataType = self.call.output(&fields)?;
        let (done, result) = channel();
        let call = self.call.tried(step(&self.context), self.context.attempt);
        let _wanted = self.thread.run(inputs.clone(), call, || (), move |outcome| drop(done.send(outcome)));
        let reply = result.recv().map_err(|_| UdfError::new("its thread has ended"))?;
        let reply = reply.map_err(|fault| match fault {
            Fault::Failed(error) => error,
            Fault::Died(why) => UdfError::new(why),
        })?;
        self.metrics.merge(&reply.report.metrics);
        crate::udf::conform(reply.column, &dtype)
    }

    /// Ends it, and yields what it has reported.
    pub fn stop(self) -> Metrics {
        let Self { thread, left, mut metrics, .. } = self;
        drop(thread);
        if let Ok(left) = left.recv() {
            metrics.merge(&left);
        }
        metrics
    }
}

fn step(context: &TestContext) -> StepId {
    StepId { query: context.query, stage: context.stage, step: 0 }
}
