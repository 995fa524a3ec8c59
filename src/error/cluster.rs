//! What can go wrong with clusters, and with actors on them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regatta_remote::NameError;
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

use super::{KubeError, RayError};
use crate::sched::WorkerId;

/// Why a cluster could not be started or used.
#[derive(Clone, ThisError, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ClusterError {
    /// The operating system refused something.
    #[error("{what}: {why}")]
    Os {
        /// What was tried.
        what: String,
        /// What it said.
        why: String,
    },
    /// A folder for what a session keeps on disk.
    #[error("cannot make {what} in {}: {why}. It may be full, or of another user: REGATTA_SCRATCH names another", folder.display())]
    Scratch {
        /// What is kept there.
        what: String,
        /// Where.
        folder: PathBuf,
        /// What the system said.
        why: String,
    },
    /// A worker process ended before it joined.
    #[error(
        "worker {worker} ended before it joined ({status}). A worker is this same executable: its main must be under \
         #[regatta::main], and a test binary needs regatta::testing::worker!(). Its last words:\n{stderr}"
    )]
    WorkerEnded {
        /// Its number.
        worker: u32,
        /// Exit status.
        status: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// Not all workers joined in time.
    #[error(
        "{joined} of {wanted} workers joined within {} s. A worker is this same executable: its main must be under \
         #[regatta::main], and a test binary needs regatta::testing::worker!()", timeout.as_secs()
    )]
    NotJoined {
        /// How many did.
        joined: usize,
        /// How many were started.
        wanted: usize,
        /// How long was waited.
        timeout: Duration,
    },
    /// A worker process asked for workers of its own.
    #[error(
        "this process was started as a worker and cannot start workers. If it is meant to be one, its main must be under \
         #[regatta::main] (a test binary: regatta::testing::worker!()), so that it never gets here"
    )]
    InWorker,
    /// A cluster could not be joined or connected to.
    #[error("could not join the cluster at {address}: {why}")]
    Join {
        /// The address of its head, as it was given.
        address: String,
        /// What failed, and what to do about it.
        why: String,
    },
    /// No worker was there for too long.
    #[error(
        "there was no worker for {} s{}{}. {}; to wait longer, raise REGATTA_WORKER_TIMEOUT (seconds) at the head",
        waited.as_secs_f64(), did_not_join(not_joined), still_waits(provider_waits), who_starts(not_joined, provider_waits)
    )]
    NoWorkers {
        /// How long the query waited.
        waited: Duration,
        /// How many workers that were started ended before they joined, one after the other, and why the last did.
        not_joined: Option<(usize, String)>,
        /// What the pilot that places workers waits for, if there is one.
        provider_waits: Option<String>,
    },
    /// The program that gives places for workers failed.
    #[error("the pilot `{pilot}` {why}")]
    Pilot {
        /// Its command.
        pilot: String,
        /// What it did or did not do.
        why: String,
    },
    /// Workers on Ray.
    #[error(transparent)]
    Ray(#[from] RayError),
    /// Workers on Kubernetes.
    #[error(transparent)]
    Kubernetes(#[from] KubeError),
    /// The head of the cluster that the session is connected to is gone.
    #[error(
        "the cluster is gone: {why}. Its head has ended or cannot be reached, and its queries with it; when it runs \
         again, connect with a new token"
    )]
    Gone {
        /// What broke.
        why: String,
    },
    /// The process of the session, or of the cluster's head, was asked to end.
    #[error("{who} was asked to end ({signal}), and has ended its queries: run them again where it runs again")]
    Terminated {
        /// Which process.
        who: String,
        /// How.
        signal: String,
    },
    /// A stage asks for more than any worker has.
    #[error(
        "{request} fits on no worker: the largest has {largest}. Lower what it asks for, or use larger workers{}{no_gpu}",
        if no_gpu.is_empty() { "" } else { ". Why workers have no GPU: " }
    )]
    Infeasible {
        /// What was asked for.
        request: String,
        /// What the largest worker has.
        largest: String,
        /// Why workers have no GPU; empty if all have one, or none was asked for.
        no_gpu: String,
    },
    /// The network between driver and workers.
    #[error("{what}: {why}")]
    Network {
        /// What was tried.
        what: String,
        /// What broke.
        why: String,
    },
    /// The session was closed, or its threads are gone.
    #[error("the session is closed")]
    Closed,
}

/// Why an actor could not be started, found or stopped.
#[derive(Clone, ThisError, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ActorError {
    /// The worker does not know the type.
    #[error(
        "no actor {kind:?} is registered in the program that runs there: put #[regatta::actor(...)] on it, link the crate \
         that holds it, and start workers of the same build"
    )]
    NotRegistered {
        /// The type's name.
        kind: String,
    },
    /// Two types have one name.
    #[error(
        "two actors of this program are registered as {kind:?}: give one another name, #[regatta::actor(..., name = \"...\")]"
    )]
    Twice {
        /// The name.
        kind: String,
    },
    /// The actor's value could not be written or read.
    #[error("the fields of actor {kind:?} cannot travel: {why}")]
    Arguments {
        /// The type's name.
        kind: String,
        /// What serde said.
        why: String,
    },
    /// Its name is taken, or nobody has the name that was looked up.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no worker that could run it.
    #[error("there is no worker to run the actor on yet: start the session with at least one")]
    NoWorker,
    /// The worker that was asked for is not there.
    #[error("{worker} is not there; there {}", are(there))]
    NoSuchWorker {
        /// The one that was asked for.
        worker: WorkerId,
        /// Those that are there.
        there: String,
    },
    /// The handle is not of an actor that this session started and that still runs.
    #[error("this handle is of no actor that the session runs: it has ended, or was not started by Session::spawn")]
    NotRunning,
    /// The worker did not answer.
    #[error("the worker did not answer: {0}")]
    NoAnswer(String),
}

impl ActorError {
    pub(crate) fn arguments(kind: &str, why: impl fmt::Display) -> Self {
        Self::Arguments { kind: kind.to_owned(), why: why.to_string() }
    }
}

impl ClusterError {
    pub(crate) fn os(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::Os { what: what.into(), why: why.to_string() }
    }

    pub(crate) fn scratch(what: &str, folder: &Path, why: impl fmt::Display) -> Self {
        Self::Scratch { what: what.to_owned(), folder: folder.to_owned(), why: why.to_string() }
    }

    pub(crate) fn pilot(pilot: &str, why: impl fmt::Display) -> Self {
        Self::Pilot { pilot: pilot.to_owned(), why: why.to_string() }
    }

    /// Whether it may be otherwise when it is tried again.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::NoWorkers { .. }
            | Self::Join { .. }
            | Self::Pilot { .. }
            | Self::Ray(_)
            | Self::Kubernetes(_)
            | Self::Gone { .. }
            | Self::Terminated { .. }
            | Self::Network { .. } => true,
            Self::Os { .. }
            | Self::Scratch { .. }
            | Self::WorkerEnded { .. }
            | Self::NotJoined { .. }
            | Self::InWorker
            | Self::Infeasible { .. }
            | Self::Closed => false,
        }
    }

    /// Whether there was a session, so that queries may have run.
    pub(super) fn had_session(&self) -> bool {
        !matches!(
            self,
            Self::Scratch { .. }
                | Self::WorkerEnded { .. }
                | Self::NotJoined { .. }
                | Self::InWorker
                | Self::Join { .. }
        )
    }

    pub(crate) fn network(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::Network { what: what.into(), why: why.to_string() }
    }
}

fn did_not_join(workers: &Option<(usize, String)>) -> String {
    let said = |(count, why): &(usize, String)| {
        format!("; {count} were started and ended before they joined, the last: {why}")
    };
    workers.as_ref().map(said).unwrap_or_default()
}

fn are(there: &str) -> String {
    if there.is_empty() { "is none".to_owned() } else { format!("are {there}") }
}

fn still_waits(waits: &Option<String>) -> String {
    waits.as_ref().map(|waits| format!("; the cluster waits {waits}")).unwrap_or_default()
}

/// What to do about it: who started some, or has asked for them, knows how.
fn who_starts(not_joined: &Option<(usize, String)>, waits: &Option<String>) -> &'static str {
    match (not_joined, waits) {
        (_, Some(_)) => "Make room there, or ask for less for each worker",
        (Some(_), None) => "See why they ended",
        (None, None) => {
            "On a machine for workers, run this same executable with REGATTA_JOIN=<the head's host:port> and \
             REGATTA_TOKEN=<a text of Cluster::worker_token>"
        }
    }
}
