//! Workers as pods of a Kubernetes cluster: one for each, which the head asks for and deletes itself.

mod access;
mod api;
mod crew;
mod pod;
mod watch;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use self::api::{Api, Failure};
use self::crew::{KubeWorkers, Patience};
use self::pod::{Blueprint, WORKERS};
use super::piloted::{Each, Wanted, this_program};
use super::provider::Start;
use super::tokens::Entrance;
use super::{Host, Hosted};
use crate::error::{ClusterError, KubeError};
use crate::os;

pub use self::access::KubeAccess;

/// Workers on the Kubernetes cluster that this process runs in: what each of them has. See
/// [`Session::kubernetes`](crate::Session::kubernetes).
///
/// ```no_run
/// use regatta::{KubeOptions, Session};
///
/// // None to sixteen workers, of four CPUs each, as there is work for them.
/// let options = KubeOptions { workers: 0..=16, cpus: 4.0, memory: Some(8 << 30), ..KubeOptions::default() };
/// let session = Session::kubernetes(options)?;
/// # Ok::<(), regatta::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct KubeOptions {
    /// How many workers there are, from the least, which are there also without a query, to the most.
    pub workers: RangeInclusive<usize>,
    /// CPUs of each worker, requested and its limit.
    pub cpus: f64,
    /// Bytes of memory of each worker, requested and its limit. Unless said it has neither, and takes what its node has.
    pub memory: Option<u64>,
    /// GPUs of each worker, as `nvidia.com/gpu`.
    pub gpus: u32,
    /// What is run. Unless said, the image of the container `head` of this pod, else of its first.
    pub image: Option<String>,
    /// A pod, or parts of one, that goes over what is made for each worker: labels, tolerations, volumes, resources and so on. Its first
    /// container is the worker's; an entry of a list goes over one of the same name.
    pub template: Value,
    /// How long a worker may run until it has joined.
    pub join_timeout: Duration,
    /// How long a pod may be unable to start, as for want of its image; waiting for a node is none of this.
    pub stuck_timeout: Duration,
    /// The API server and this pod. Unless said, those that Kubernetes says to each pod.
    pub access: Option<KubeAccess>,
}

impl Default for KubeOptions {
    fn default() -> Self {
        Self {
            workers: 0..=1,
            cpus: 1.0,
            memory: None,
            gpus: 0,
            image: None,
            template: Value::Null,
            join_timeout: Duration::from_secs(60),
            stuck_timeout: Duration::from_secs(60),
            access: None,
        }
    }
}

/// An API server that answers, and nobody asks it for workers yet.
#[derive(Debug)]
struct Engaged {
    api: Arc<Api>,
    blueprint: Blueprint,
    patience: Patience,
    address: String,
}

/// Clusters of this process: their pods are not left from an earlier one.
static LIVING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The name of one of them, which tells its pods from those of others.
#[derive(Debug)]
struct Living(String);

impl Living {
    fn called(name: String) -> Self {
        Self::all().insert(name.clone());
        Self(name)
    }

    fn all() -> MutexGuard<'static, BTreeSet<String>> {
        LIVING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(name: &str) -> bool {
        Self::all().contains(name)
    }

    fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        Self::all().remove(&self.0);
    }
}

impl KubeOptions {
    /// Asks whether pods may be asked for, and deletes what an earlier process of this pod has left. Also gives this pod's address.
    ///
    /// # Errors
    /// [`KubeError`].
    pub(crate) fn engage(self) -> Result<(Wanted, String), ClusterError> {
        let access = self.access.clone().map_or_else(KubeAccess::of_this_pod, Ok)?;
        let each = Each { cpus: self.cpus, memory: self.memory, gpus: self.gpus };
        let api = Arc::new(Api::new(access.clone())?);
        let cluster = Living::called(format!("{:08x}", os::random() as u32));
        let asked = self.image.clone().or_else(|| {
            let image = self.template.pointer("/spec/containers/0/image")?;
            image.as_str().map(str::to_owned)
        });
        let asking = Arc::clone(&api);
        let asking = on_a_thread(move || async move {
            let late = |_| Err(("delete pods", Failure::Away(format!("it took more than {} s", PREPARE.as_secs()))));
            tokio::time::timeout(PREPARE, prepare(&asking, asked)).await.unwrap_or_else(late)
        })?;
        let image = asking.map_err(|(what, failure)| match failure {
            Failure::Away(why) => KubeError::NotReachable { server: access.server.clone(), why },
            Failure::Refused(status, why) => {
                let (what, namespace) = (what.to_owned(), access.namespace.clone());
                KubeError::Refused { what, namespace, why: format!("{why} ({status})") }
            }
        })?;
        let blueprint = Blueprint::new(cluster, &access, (image, each, self.template))?;
        let patience = Patience { join: self.join_timeout, stuck: self.stuck_timeout };
        let address = access.address;
        let engaged = Engaged { api, blueprint, patience, address: address.clone() };
        Ok((Wanted::new(engaged, self.workers, each, this_program()?, Value::Null)?, address))
    }
}

/// How long all answers may take that a session waits for when it starts. What an earlier process has left may be much.
const PREPARE: Duration = Duration::from_secs(60);

/// Finds the image of this pod, if none was said, and deletes what an earlier process of it has left.
async fn prepare(api: &Api, image: Option<String>) -> Result<Option<String>, (&'static str, Failure)> {
    let (pod, uid) = &api.access.pod;
    let image = match image {
        None => api.pod(pod).await.map_err(|failure| ("get this pod", failure))?.image("head"),
        image => image,
    };
    let pods = api.pods(WORKERS).await.map_err(|failure| ("list pods", failure))?;
    for pod in pods.items {
        if pod.is_owned_by(uid) && !pod.cluster().is_some_and(Living::has) {
            api.delete("secrets", &pod.metadata.name).await.map_err(|failure| ("delete secrets", failure))?;
            api.delete("pods", &pod.metadata.name).await.map_err(|failure| ("delete pods", failure))?;
        }
    }
    Ok(image)
}

/// The caller may be on a runtime of its own, which must not be waited on.
fn on_a_thread<T: Send, F: Future<Output = T>>(work: impl FnOnce() -> F + Send) -> Result<T, ClusterError> {
    let failed = |e: std::io::Error| ClusterError::os("start a runtime for Kubernetes", e);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(work()))
        });
        let ended = thread.map_err(failed)?.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(failed)
    })
}

impl Host for Engaged {
    fn host(&self) -> Option<&str> {
        Some(&self.address)
    }

    fn serve(self: Box<Self>, start: Start, entrance: Entrance) -> Result<Arc<dyn Hosted>, ClusterError> {
        let Self { api, blueprint, patience, .. } = *self;
        let blueprint = blueprint.starting(start, entrance.address);
        Ok(KubeWorkers::start(api, blueprint, patience, entrance)?)
    }
}
