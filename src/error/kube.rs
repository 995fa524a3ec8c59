//! What can go wrong with workers on Kubernetes.

use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

/// Why there are no workers on Kubernetes.
#[derive(Clone, PartialEq, Eq, ThisError, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KubeError {
    /// This process is in no pod.
    #[error(
        "this process is in no pod that may ask for others ({missing}): the head of workers on Kubernetes runs in one itself. Run the \
         program as deploy/kubernetes has it, under a service account with its role and automountServiceAccountToken; without \
         Kubernetes, DAFT_RUNNER=flotilla starts workers on this machine"
    )]
    Outside {
        /// What a pod has and this process has not.
        missing: String,
    },
    /// The pod's spec does not say what it is called.
    #[error(
        "{variable} is not set: workers are owned by the head's pod, with which they end, and find it at its address. Have the spec of this \
         pod say POD_NAME, POD_UID and POD_IP by fieldRef (metadata.name, metadata.uid, status.podIP), as deploy/kubernetes does"
    )]
    Nameless {
        /// Which.
        variable: String,
    },
    /// The API server does not answer.
    #[error(
        "the API server of Kubernetes at {server} cannot be reached ({why}): a network policy may be in the way of this pod, or its \
         service account's certificate is that of another server"
    )]
    NotReachable {
        /// Where.
        server: String,
        /// What happened.
        why: String,
    },
    /// The API server refuses what is needed for any worker.
    #[error(
        "the API server of Kubernetes refuses to {what}: {why}. Bind the role of deploy/kubernetes to this pod's service account, in the \
         namespace {namespace}"
    )]
    Refused {
        /// What was asked.
        what: String,
        /// Where.
        namespace: String,
        /// What it said.
        why: String,
    },
    /// The options make no pod.
    #[error("no pod can be made of these KubeOptions: {why}")]
    Template {
        /// What is wrong with them.
        why: String,
    },
}
