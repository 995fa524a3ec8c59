//! What can go wrong with workers on Ray.

use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

/// Why there are no workers on Ray.
#[derive(Clone, PartialEq, Eq, ThisError, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RayError {
    /// There is no Python.
    #[error(
        "there is no Python ({tried}). Workers on Ray are placed by one that can import ray, as there is on each of its nodes: set \
         REGATTA_RAY_PYTHON, or RayOptions::python, to its path"
    )]
    NoPython {
        /// What was looked for.
        tried: String,
    },
    /// That Python has no Ray.
    #[error(
        "{python} cannot import ray ({why}). Set REGATTA_RAY_PYTHON, or RayOptions::python, to the Python that the cluster runs with \
         (on a node of it, the one of `ray start`), or install the cluster's version there: pip install ray==<version>"
    )]
    NoRay {
        /// Which Python.
        python: String,
        /// What it said.
        why: String,
    },
    /// No Ray runs here.
    #[error(
        "no Ray cluster runs on this machine ({why}). Run this program on a node of one, as by `ray job submit --working-dir . -- \
         ./program`, or begin one here with `ray start --head`; without Ray, DAFT_RUNNER=flotilla starts workers on this machine"
    )]
    NotInitialised {
        /// What Ray said.
        why: String,
    },
    /// The cluster does not answer.
    #[error(
        "no Ray cluster can be reached at {address} ({why}). The address is that of its GCS, host:6379 unless `ray start` was told \
         another port, and this machine must be a node of it; `auto` finds the cluster of this machine"
    )]
    NotReachable {
        /// Where.
        address: String,
        /// What happened.
        why: String,
    },
    /// Ray refused the connection.
    #[error(
        "Ray at {address} refused: {why}. Versions of Ray and Python must be the cluster's (RayOptions::python), and a cluster with \
         tokens wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    )]
    Refused {
        /// Where.
        address: String,
        /// What it said.
        why: String,
    },
    /// The address is for those who are not in the cluster.
    #[error(
        "{address} is the way into Ray for programs outside of it, and the head must run inside: workers and head talk by UDP. Submit the \
         program, which then finds its cluster by itself: ray job submit --address {submit} --working-dir . -- ./program"
    )]
    Outside {
        /// The address.
        address: String,
        /// Where jobs are submitted.
        submit: String,
    },
    /// Ray's client mode was forced.
    #[error(
        "force_client_mode asks for Ray Client (ray://), by which only Python objects travel. Leave it out, and run the program as a job: \
         ray job submit --working-dir . -- ./program"
    )]
    ClientMode,
    /// Ray did not answer in time.
    #[error(
        "Ray at {address} did not answer in time: {why}. See on a node whether `ray status` answers; a slow machine may need more than \
         RayOptions::ready_timeout"
    )]
    NotReady {
        /// Where.
        address: String,
        /// How long was waited, and what was said meanwhile.
        why: String,
    },
}
