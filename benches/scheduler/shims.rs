//! What `src/sched` names of the rest of the crate, without Polars: as much as it needs to compile. None of it runs here.
#![allow(dead_code, reason = "it only compiles")]

pub(crate) mod udf {
    #[derive(Debug, Clone)]
    pub(crate) struct UdfError;
}

pub(crate) mod error {
    use std::fmt;
    use std::time::Duration;

    use super::udf::UdfError;
    use crate::sched::{QueryId, StageId, StepId, TaskId};

    #[derive(Debug, Clone)]
    pub(crate) enum Error {
        Task(TaskError),
        Pool(PoolError),
        Cluster(ClusterError),
        MadeOtherwise(MadeOtherwise),
        Cancelled,
    }

    #[derive(Debug, Clone)]
    pub(crate) enum MadeOtherwise {
        Result { query: QueryId, stage: StageId },
        Persisted { query: QueryId, persisted: QueryId },
    }

    #[derive(Debug, Clone)]
    pub(crate) struct TaskError {
        pub(crate) task: TaskId,
        pub(crate) attempt: u32,
        pub(crate) worker: String,
        pub(crate) cause: TaskFailure,
        pub(crate) before: Vec<EarlierAttempt>,
    }

    #[derive(Debug, Clone)]
    pub(crate) struct EarlierAttempt {
        pub(crate) attempt: u32,
        pub(crate) worker: String,
        pub(crate) why: String,
    }

    #[derive(Debug, Clone)]
    pub(crate) enum TaskFailure {
        Transfer { from: String, why: String },
        WorkerLost(String),
        MadeAgain(QueryId),
        LostInput { task: TaskId, attempt: u32, from: String, why: String },
        DiskFull { folder: String, need: u64, room: u64 },
        Cancelled,
    }

    impl fmt::Display for TaskFailure {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Debug::fmt(self, f)
        }
    }

    impl TaskFailure {
        pub(crate) fn is_retryable(&self) -> bool {
            true
        }
    }

    #[derive(Debug, Clone)]
    pub(crate) struct PoolError {
        pub(crate) step: StepId,
        pub(crate) udf: String,
        pub(crate) cause: PoolFailure,
    }

    #[derive(Debug, Clone)]
    pub(crate) enum PoolFailure {
        Start { rank: u32, worker: String, error: UdfError },
        NotReady { rank: u32, worker: String, timeout: Duration, progress: Option<String> },
        Lost { rank: u32, worker: String, why: String },
    }

    #[derive(Debug, Clone)]
    pub(crate) enum ClusterError {
        Infeasible { request: String, largest: String, no_gpu: String },
        NoWorkers { waited: Duration, not_joined: Option<(usize, String)>, provider_waits: Option<String> },
    }

    impl From<TaskError> for Error {
        fn from(error: TaskError) -> Self {
            Self::Task(error)
        }
    }

    impl From<MadeOtherwise> for Error {
        fn from(error: MadeOtherwise) -> Self {
            Self::MadeOtherwise(error)
        }
    }

    impl From<PoolError> for Error {
        fn from(error: PoolError) -> Self {
            Self::Pool(error)
        }
    }

    impl From<ClusterError> for Error {
        fn from(error: ClusterError) -> Self {
            Self::Cluster(error)
        }
    }
}
