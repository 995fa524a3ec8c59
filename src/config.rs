//! One `Config`: defaults, then environment, then builder calls. Every `DAFT_*` and `REGATTA_*` variable is read here
//! and nowhere else.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use crate::error::ConfigError;
use crate::notice::notice;
use crate::progress::ProgressBar;
use crate::sched::Forced;

/// Where queries run, as `DAFT_RUNNER` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runner {
    /// `native`: embedded in this process.
    Native,
    /// `flotilla`: the cluster at `REGATTA_ADDRESS`, else worker processes of this machine.
    Flotilla,
    /// `ray`: workers on the Ray cluster at `RAY_ADDRESS`, else the one that this machine is a node of. Inside a Ray job also when
    /// nothing is said.
    Ray,
}

/// Settings of a session.
///
/// | variable | default | meaning |
/// |---|---|---|
/// | `DAFT_RUNNER` | `native`; `ray` in a Ray job | `native`: in this process; `flotilla`: on the cluster at `REGATTA_ADDRESS`, else on local worker processes; `ray`: on workers that Ray places |
/// | `RAY_ADDRESS` | `auto` | the Ray cluster: the host:port of its GCS, or `auto` for the one that this machine is a node of |
/// | `REGATTA_RAY_PYTHON` | `python3` | a Python that can import Ray |
/// | `REGATTA_KUBERNETES` | | `flotilla` has so many pods of this Kubernetes cluster as workers, as `0..16`, unless `REGATTA_ADDRESS` is set; needs the feature `kubernetes`. `REGATTA_CPUS` and `REGATTA_MEMORY` then say what each has: 1 CPU and no limit of memory unless set |
/// | `DAFT_ACTOR_UDF_READY_TIMEOUT` | 120 | seconds for UDF replicas to become ready |
/// | `REGATTA_POOL_WARM_SECONDS` | 60 | how long the replicas of a UDF stay for the next query when no query uses them |
/// | `DAFT_MIN_CPU_PER_TASK` | 0.5 | CPU that one task is charged |
/// | `DAFT_PROGRESS_BAR` | `1` | where it is shown where queries stand: `0`: nowhere; `1`: at a terminal as a block, else in lines of the log; `persist`: the block stays when a query has ended; `log`: in lines also at a terminal |
/// | `DAFT_SCHEDULER_LINEAR` | `false` | one task in flight, for debugging |
/// | `DAFT_AUTOSCALING_THRESHOLD` | 1.25 | what waits over what there is, above which more workers are asked for; at least 1 |
/// | `AUTOSCALER_UPDATE_INTERVAL_S` | 5 | least seconds between two requests for more workers |
/// | `DAFT_AUTOSCALING_DOWNSCALE_ENABLED` | `true` | idle workers retire |
/// | `DAFT_AUTOSCALING_DOWNSCALE_IDLE_SECONDS` | 60 | how long a worker is idle before it may |
/// | `DAFT_AUTOSCALING_MIN_SURVIVOR_WORKERS` | 1 | workers that are kept while queries run |
/// | `REGATTA_WORKER_TIMEOUT` | 120 | seconds that queries wait while there is no worker at all |
/// | `REGATTA_ADDRESS`, `REGATTA_TOKEN` | | the cluster that `flotilla` connects to: its head's host:port, and a driver's token |
/// | `REGATTA_JOIN`, `REGATTA_TOKEN` | | makes this process a worker of that head's cluster, with a worker's token |
/// | `REGATTA_CPUS`, `REGATTA_MEMORY` | measured | what a worker that joins has to give: CPUs, `POLARS_MAX_THREADS` of them unless said; bytes, also as `8GiB`, which each worker of a local session has, too: for so much work is admitted, and no limit is enforced |
/// | `REGATTA_PORT` | a free one | the UDP port at which a worker that joins is reached by others |
/// | `REGATTA_BUILD` | the executable's own | a name for this build: processes of one cluster that have the same name work together though they are not the same executable |
/// | `DAFT_AUTOSCALING_PENDING_RELEASE_EXCLUDE_SECONDS` | 120 | how long a machine that was let go is not taken in again |
/// | `DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS` | 64 | calls that a replica of an async UDF has in flight |
/// | `REGATTA_QUIET` | `false` | says nothing on standard error of lost workers, long waits and misspelt variables |
/// | `REGATTA_OBSERVE_MEMORY` | 32 MiB | bytes that may be kept of what queries did: see [`Run::profile`](crate::Run::profile) |
/// | `REGATTA_HISTORY` | | a folder for what queries did, a file for each that has ended, the newest 1,000 and 1 GiB at most: `regatta --history FOLDER` reads them. `DAFT_EVENT_LOG_DIR` means it too, and `DAFT_EVENT_LOG_ENABLED` alone `~/.daft/events` |
/// | `REGATTA_DASHBOARD` | | serves pages of each session for a browser at this address and port, as `127.0.0.1:7780`, or at the next port that is free; needs the feature `dashboard` |
/// | `REGATTA_JOBS` | 0 | programs that operators may have run beside a head of several machines at once, by `regatta submit`: this same executable, with other arguments |
/// | `REGATTA_SCRATCH` | the system's folder for temporary files | where clusters keep their scratch folders: one, or several with a colon between them, over which outputs are spread |
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where [`Session::from_env`](crate::Session::from_env) runs queries.
    pub runner: Runner,
    /// How long UDF replicas may take to become ready.
    pub actor_udf_ready_timeout: Duration,
    /// How long the replicas of a UDF stay for the next query when no query uses them, where its pool does not say.
    pub pool_warm: Duration,
    /// CPU that one task is charged.
    pub min_cpu_per_task: f64,
    /// One task in flight, of all queries: for debugging.
    pub scheduler_linear: bool,
    /// What waits over what there is, above which more workers are asked for.
    pub autoscaling_threshold: f64,
    /// Least time between two requests for more workers.
    pub autoscaler_update_interval: Duration,
    /// Idle workers retire. Off: workers are added and stay.
    pub autoscaling_downscale_enabled: bool,
    /// How long a worker is idle before it may retire.
    pub autoscaling_downscale_idle: Duration,
    /// Workers that are kept while queries run.
    pub autoscaling_min_survivor_workers: usize,
    /// How long queries wait while there is no worker at all.
    pub worker_timeout: Duration,
    /// The cluster that [`Session::from_env`](crate::Session::from_env) connects to, if the runner is `flotilla`.
    pub cluster: Option<ClusterAt>,
    /// How many pods [`Session::from_env`](crate::Session::from_env) has as workers, the least and the most, if the runner is `flotilla`.
    pub kubernetes: Option<RangeInclusive<usize>>,
    /// How long a machine whose worker was let go is not taken in again, unless more are asked for.
    pub autoscaling_pending_release_exclude: Duration,
    /// Short tasks that may wait at one worker behind those that run there, so that it need not wait for the scheduler;
    /// unset: behind each what takes ten milliseconds, one task at least.
    pub max_task_backlog: Option<usize>,
    /// Calls that a replica of an async UDF has in flight, where its pool does not say.
    pub max_async_udf_inflight_tasks: usize,
    /// Where it is shown where queries stand.
    pub progress: ProgressBar,
    /// Bytes that may be kept of what queries did.
    pub observe_memory: usize,
    /// The folder in which there is a file for each query that has ended.
    pub history: Option<PathBuf>,
    /// Where pages of the session are served for a browser.
    pub dashboard: Option<SocketAddr>,
    /// Programs that operators may have run beside a head at once, by `regatta submit`.
    pub jobs: usize,
    /// Where clusters keep their scratch folders, at least one: each on a disk of its own, best. What tasks leave is spread over all
    /// of them; all else is in the first.
    pub scratch: Vec<PathBuf>,
}

/// A cluster elsewhere, and what lets a process in.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterAt {
    /// The head's `host:port`.
    pub address: String,
    /// A token of the head, for a driver or for workers. A secret.
    pub token: String,
}

/// What a worker of a cluster elsewhere may use, where that is said and not measured; and its port, 0 for any.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Offer {
    pub(crate) cpus: Option<f64>,
    pub(crate) memory: Option<u64>,
    pub(crate) port: u16,
}

impl std::fmt::Debug for ClusterAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterAt").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runner: Runner::Native,
            actor_udf_ready_timeout: Duration::from_secs(120),
            pool_warm: Duration::from_secs(60),
            min_cpu_per_task: 0.5,
            scheduler_linear: false,
            autoscaling_threshold: 1.25,
            autoscaler_update_interval: Duration::from_secs(5),
            autoscaling_downscale_enabled: true,
            autoscaling_downscale_idle: Duration::from_secs(60),
            autoscaling_min_survivor_workers: 1,
            worker_timeout: Duration::from_secs(120),
            cluster: None,
            kubernetes: None,
            autoscaling_pending_release_exclude: Duration::from_secs(120),
            max_task_backlog: None,
            max_async_udf_inflight_tasks: 64,
            progress: ProgressBar::Auto,
            observe_memory: 32 << 20,
            history: None,
            dashboard: None,
            jobs: 0,
            scratch: vec![std::env::temp_dir()],
        }
    }
}

impl Config {
    /// The defaults, changed by what the environment says.
    ///
    /// # Errors
    /// A variable whose value is not valid: named, with what is accepted.
    pub fn from_env() -> Result<Self, ConfigError> {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
            names.filter_map(|name| Some((nearest(&name)?, name))).for_each(|(nearest, name)| {
                notice(format_args!("the variable {name} is not known, and has no effect: is it {nearest}?"));
            });
        });
        Self::from_variables(variable)
    }

    /// Says once what of the cluster to connect to is set and has no effect on [`Session::from_env`](crate::Session::from_env).
    pub(crate) fn say_what_has_no_effect(&self) {
        static SAID: Once = Once::new();
        let said = self.without_effect(variable);
        SAID.call_once(|| said.into_iter().for_each(notice));
    }

    fn without_effect(&self, get: impl Fn(&str) -> Option<String>) -> Option<String> {
        // With the second the token is a worker's.
        let is_set = |name| get(name).is_some();
        let (address, token) = (is_set("REGATTA_ADDRESS"), is_set("REGATTA_TOKEN") && !is_set(JOIN));
        let runner = match self.runner {
            Runner::Native => "native",
            Runner::Ray => "ray",
            Runner::Flotilla if token && !address => {
                return Some(
                    "REGATTA_TOKEN has no effect without REGATTA_ADDRESS, the host:port of the head whose token it is: queries run \
                     on workers that this session starts"
                        .to_owned(),
                );
            }
            Runner::Flotilla => return None,
        };
        let said =
            format!("no effect while DAFT_RUNNER is {runner}: DAFT_RUNNER=flotilla connects to the cluster there");
        match (address, token) {
            (true, true) => Some(format!("REGATTA_ADDRESS and REGATTA_TOKEN have {said}")),
            (true, false) => Some(format!("REGATTA_ADDRESS has {said}")),
            // A head, or a program of Ray's, may have one for others.
            (false, _) => None,
        }
    }

    /// Whether `REGATTA_JOIN` makes this process a worker of a cluster elsewhere.
    pub(crate) fn joins() -> bool {
        variable(JOIN).is_some()
    }

    /// The shapes that tests of ours want of stages, whatever is measured.
    pub(crate) fn forced_shapes() -> Option<Forced> {
        match variable("REGATTA_TEST_SHAPES")?.as_str() {
            "broadcast" => Some(Forced::Broadcast),
            "hash" => Some(Forced::Hash),
            "one_section" => Some(Forced::OneSection),
            "shared" => Some(Forced::Shared),
            "parts" => Some(Forced::Parts),
            _ => None,
        }
    }

    /// Whether a benchmark of ours wants to know what it costs to observe what queries do: then nothing is observed.
    pub(crate) fn is_unobserved() -> bool {
        variable("REGATTA_TEST_UNOBSERVED").is_some()
    }

    /// The name by which `REGATTA_BUILD` says that builds which differ belong together.
    pub(crate) fn build() -> Option<String> {
        variable("REGATTA_BUILD").filter(|name| !name.is_empty())
    }

    /// The cluster that this process is to join as a worker.
    ///
    /// # Errors
    /// There is no token.
    pub(crate) fn join_at() -> Result<Option<ClusterAt>, ConfigError> {
        cluster_at(&variable, JOIN, "worker_token")
    }

    /// What this process has to give as a worker.
    ///
    /// # Errors
    /// A variable whose value is not valid.
    pub(crate) fn offer() -> Result<Offer, ConfigError> {
        offer(&variable)
    }

    /// The Ray cluster that `RAY_ADDRESS` names.
    pub(crate) fn ray_address() -> Option<String> {
        variable("RAY_ADDRESS").filter(|address| !address.is_empty())
    }

    /// The Python that can import Ray, as `REGATTA_RAY_PYTHON` says.
    pub(crate) fn ray_python() -> Option<PathBuf> {
        std::env::var_os("REGATTA_RAY_PYTHON").filter(|python| !python.is_empty()).map(PathBuf::from)
    }

    /// Whether this process belongs to a Ray job.
    pub(crate) fn is_ray_job() -> bool {
        variable(RAY_JOB).is_some()
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if get(RAY_JOB).is_some() {
            config.runner = Runner::Ray;
        }
        if get(RAY_WORKER).is_some() {
            // Its output is one of many in a log.
            config.progress = ProgressBar::Off;
        }
        if let Some(value) = get("DAFT_RUNNER") {
            config.runner = match value.to_ascii_lowercase().as_str() {
                "native" => Runner::Native,
                "flotilla" => Runner::Flotilla,
                "ray" => Runner::Ray,
                _ => return Err(invalid("DAFT_RUNNER", value, "use native, flotilla or ray")),
            };
        }
        if let Some(timeout) = seconds(&get, "DAFT_ACTOR_UDF_READY_TIMEOUT")? {
            config.actor_udf_ready_timeout = timeout;
        }
        if let Some(time) = seconds(&get, "REGATTA_POOL_WARM_SECONDS")? {
            config.pool_warm = time;
        }
        if let Some(timeout) = seconds(&get, "REGATTA_WORKER_TIMEOUT")? {
            config.worker_timeout = timeout;
        }
        config.cluster = cluster_at(&get, "REGATTA_ADDRESS", "driver_token")?;
        if let Some(value) = get("REGATTA_KUBERNETES").filter(|value| !value.is_empty()) {
            let accepted = "use the least and the most workers, as 0..16";
            config.kubernetes = Some(range(&value).ok_or_else(|| invalid("REGATTA_KUBERNETES", value, accepted))?);
        }
        if let Some(interval) = seconds(&get, "AUTOSCALER_UPDATE_INTERVAL_S")? {
            config.autoscaler_update_interval = interval;
        }
        if let Some(idle) = seconds(&get, "DAFT_AUTOSCALING_DOWNSCALE_IDLE_SECONDS")? {
            config.autoscaling_downscale_idle = idle;
        }
        if let Some(time) = seconds(&get, "DAFT_AUTOSCALING_PENDING_RELEASE_EXCLUDE_SECONDS")? {
            config.autoscaling_pending_release_exclude = time;
        }
        if let Some(value) = get("DAFT_AUTOSCALING_THRESHOLD") {
            config.autoscaling_threshold = number("DAFT_AUTOSCALING_THRESHOLD", value, "use a ratio, at least 1")?;
        }
        if let Some(on) = boolean(&get, "DAFT_SCHEDULER_LINEAR")? {
            config.scheduler_linear = on;
        }
        if let Some(on) = boolean(&get, "DAFT_AUTOSCALING_DOWNSCALE_ENABLED")? {
            config.autoscaling_downscale_enabled = on;
        }
        if let Some(value) = get("DAFT_AUTOSCALING_MIN_SURVIVOR_WORKERS") {
            let name = "DAFT_AUTOSCALING_MIN_SURVIVOR_WORKERS";
            let workers = value.trim().parse();
            config.autoscaling_min_survivor_workers =
                workers.map_err(|_| invalid(name, value, "use a number of workers, 0 or more"))?;
        }
        if let Some(value) = get("DAFT_MIN_CPU_PER_TASK") {
            config.min_cpu_per_task = number("DAFT_MIN_CPU_PER_TASK", value, "use a number of CPUs, > 0")?;
        }
        if let Some(value) = get("DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS") {
            let calls = value.trim().parse();
            config.max_async_udf_inflight_tasks =
                calls.map_err(|_| invalid("DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS", value, CALLS))?;
        }
        if let Some(value) = get("DAFT_PROGRESS_BAR") {
            config.progress = match value.trim().to_ascii_lowercase().as_str() {
                "0" => ProgressBar::Off,
                "1" => ProgressBar::Auto,
                "persist" => ProgressBar::Persist,
                "log" => ProgressBar::Log,
                _ => return Err(invalid("DAFT_PROGRESS_BAR", value, "use 0, 1, persist or log")),
            };
        }
        if let Some(value) = get("REGATTA_OBSERVE_MEMORY") {
            let bytes = value.trim().parse();
            config.observe_memory =
                bytes.map_err(|_| invalid("REGATTA_OBSERVE_MEMORY", value, "use a number of bytes"))?;
        }
        // Notices read it themselves: they come also from where there is no session.
        boolean(&|name: &str| get(name).filter(|value| !value.is_empty()), "REGATTA_QUIET")?;
        config.history = history(&get)?;
        if let Some(value) = get("REGATTA_DASHBOARD").filter(|value| !value.is_empty()) {
            let address = value.trim().replace("localhost", "127.0.0.1").parse();
            let accepted = "use an address and a port, as 127.0.0.1:7780";
            config.dashboard = Some(address.map_err(|_| invalid("REGATTA_DASHBOARD", value, accepted))?);
        }
        if let Some(value) = get("REGATTA_JOBS") {
            let jobs = value.trim().parse();
            config.jobs = jobs.map_err(|_| invalid("REGATTA_JOBS", value, JOBS))?;
        }
        if let Some(value) = get("REGATTA_SCRATCH").filter(|value| !value.is_empty()) {
            config.scratch = std::env::split_paths(&value).filter(|folder| !folder.as_os_str().is_empty()).collect();
        }
        config.validate()?;
        Ok(config)
    }

    /// Checks what builder calls may have set.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let cpu = self.min_cpu_per_task;
        if !(cpu.is_finite() && cpu > 0.0) {
            return Err(invalid("DAFT_MIN_CPU_PER_TASK", cpu.to_string(), "use a number of CPUs, > 0"));
        }
        if self.scratch.is_empty() {
            return Err(invalid("REGATTA_SCRATCH", String::new(), "name a folder, or several, as /mnt/a:/mnt/b"));
        }
        if self.jobs > 256 {
            return Err(invalid("REGATTA_JOBS", self.jobs.to_string(), JOBS));
        }
        let threshold = self.autoscaling_threshold;
        if !(threshold.is_finite() && threshold >= 1.0) {
            return Err(invalid("DAFT_AUTOSCALING_THRESHOLD", threshold.to_string(), "use a ratio, at least 1"));
        }
        if self.actor_udf_ready_timeout.is_zero() {
            return Err(invalid("DAFT_ACTOR_UDF_READY_TIMEOUT", "0".to_owned(), "use seconds, a number > 0"));
        }
        if let Some(address) = self.dashboard.filter(|_| !cfg!(feature = "dashboard")) {
            let accepted =
                "build the program with regatta's feature `dashboard`, or use the command `regatta dashboard`";
            return Err(invalid("REGATTA_DASHBOARD", address.to_string(), accepted));
        }
        if let Some(workers) = self.kubernetes.as_ref().filter(|_| !cfg!(feature = "kubernetes")) {
            let accepted = "build the program with regatta's feature `kubernetes`";
            return Err(invalid("REGATTA_KUBERNETES", format!("{}..{}", workers.start(), workers.end()), accepted));
        }
        if self.max_async_udf_inflight_tasks == 0 {
            return Err(invalid("DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS", "0".to_owned(), CALLS));
        }
        Ok(())
    }
}

/// Every variable that is read, or set for others.
const KNOWN: [&str; 37] = [
    "AUTOSCALER_UPDATE_INTERVAL_S",
    "DAFT_ACTOR_UDF_READY_TIMEOUT",
    "DAFT_AUTOSCALING_DOWNSCALE_ENABLED",
    "DAFT_AUTOSCALING_DOWNSCALE_IDLE_SECONDS",
    "DAFT_AUTOSCALING_MIN_SURVIVOR_WORKERS",
    "DAFT_AUTOSCALING_PENDING_RELEASE_EXCLUDE_SECONDS",
    "DAFT_AUTOSCALING_THRESHOLD",
    "DAFT_EVENT_LOG_DIR",
    "DAFT_EVENT_LOG_ENABLED",
    "DAFT_FLOTILLA_WORKER",
    "DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS",
    "DAFT_MIN_CPU_PER_TASK",
    "DAFT_PROGRESS_BAR",
    "DAFT_RUNNER",
    "DAFT_SCHEDULER_LINEAR",
    "REGATTA_ADDRESS",
    "REGATTA_BUILD",
    "REGATTA_CPUS",
    "REGATTA_CUDA_LIBS",
    "REGATTA_DASHBOARD",
    "REGATTA_FAKES",
    "REGATTA_HISTORY",
    "REGATTA_JOBS",
    "REGATTA_JOIN",
    "REGATTA_KUBERNETES",
    "REGATTA_MEMORY",
    "REGATTA_OBSERVE_MEMORY",
    "REGATTA_PEERS",
    "REGATTA_POOL_WARM_SECONDS",
    "REGATTA_PORT",
    "REGATTA_QUIET",
    "REGATTA_RAY_PYTHON",
    "REGATTA_SCRATCH",
    "REGATTA_SEED",
    "REGATTA_TOKEN",
    "REGATTA_WORKER",
    "REGATTA_WORKER_TIMEOUT",
];

/// The variable that one which is not known, but looks like one of ours, is meant to be.
fn nearest(name: &str) -> Option<&'static str> {
    let ours = ["REGATTA", "DAFT", "AUTOSCALER"].iter().any(|word| name.to_ascii_uppercase().starts_with(word));
    if !ours || KNOWN.contains(&name) || name.starts_with("REGATTA_TEST_") || name == "REGATTA_SEEDS" {
        return None;
    }
    let upper = name.to_ascii_uppercase();
    let is_part = |known: &str| known.starts_with(&upper) || upper.starts_with(known);
    let how_far = |known: &&str| if is_part(known) { 1 } else { distance(&upper, known) };
    let nearest = KNOWN.into_iter().min_by_key(how_far)?;
    // Others have variables of these names, too.
    (how_far(&nearest) <= FAR).then_some(nearest)
}

/// Letters in which a name that is misspelt may differ.
const FAR: usize = 4;

/// How many letters are to be put in, left out or changed.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

const JOIN: &str = "REGATTA_JOIN";
/// What Ray sets for the entrypoint of a job, and for nobody else; and for its own worker processes, and their children.
const RAY_JOB: &str = "RAY_JOB_CONFIG_JSON_ENV_VAR";
const RAY_WORKER: &str = "RAY_RAYLET_PID";

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn cluster_at(
    get: &impl Fn(&str) -> Option<String>,
    address: &str,
    token_of: &str,
) -> Result<Option<ClusterAt>, ConfigError> {
    let Some(at) = get(address) else { return Ok(None) };
    match get("REGATTA_TOKEN") {
        Some(token) => Ok(Some(ClusterAt { address: at, token })),
        None => {
            let accepted = format!("set REGATTA_TOKEN too, to a text that Cluster::{token_of} of its head has made");
            Err(invalid(address, at, &accepted))
        }
    }
}

fn offer(get: &impl Fn(&str) -> Option<String>) -> Result<Offer, ConfigError> {
    let cpus = get("REGATTA_CPUS").map(|value| {
        let accepted = "use a number of CPUs, > 0";
        let cpus = number("REGATTA_CPUS", value.clone(), accepted)?;
        if cpus.is_finite() && cpus > 0.0 { Ok(cpus) } else { Err(invalid("REGATTA_CPUS", value, accepted)) }
    });
    let memory = get("REGATTA_MEMORY").map(|value| {
        let accepted = "use a number of bytes above 0, or one of KiB, MiB, GiB or TiB, as 8GiB";
        bytes(&value).ok_or_else(|| invalid("REGATTA_MEMORY", value, accepted))
    });
    let port = get("REGATTA_PORT").map(|value| {
        let port = value.trim().parse();
        port.map_err(|_| invalid("REGATTA_PORT", value, "use a UDP port, 0 for any that is free"))
    });
    Ok(Offer { cpus: cpus.transpose()?, memory: memory.transpose()?, port: port.transpose()?.unwrap_or(0) })
}

/// The least and the most, as `0..16`; one number is both.
fn range(text: &str) -> Option<RangeInclusive<usize>> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let (least, most) = (least.trim().parse().ok()?, most.trim().parse().ok()?);
    (least <= most && most > 0).then_some(least..=most)
}

/// Bytes, also in larger units.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let power = match unit.trim() {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << power).filter(|bytes| *bytes > 0)
}

const JOBS: &str = "use a number of programs, 0 for none, 256 at most";
const CALLS: &str = "use a number of calls, at least 1";

fn history(get: &impl Fn(&str) -> Option<String>) -> Result<Option<PathBuf>, ConfigError> {
    let folder = |name| get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = folder("REGATTA_HISTORY") {
        return Ok(Some(folder));
    }
    Ok(match (boolean(get, "DAFT_EVENT_LOG_ENABLED")?, folder("DAFT_EVENT_LOG_DIR")) {
        (Some(false), _) | (None, None) => None,
        (_, Some(folder)) => Some(folder),
        (Some(true), None) => match folder("HOME") {
            Some(home) => Some(home.join(".daft/events")),
            None => {
                let accepted = "say the folder too, by REGATTA_HISTORY, where HOME is not set";
                return Err(invalid("DAFT_EVENT_LOG_ENABLED", "1".to_owned(), accepted));
            }
        },
    })
}

fn boolean(get: &impl Fn(&str) -> Option<String>, variable: &str) -> Result<Option<bool>, ConfigError> {
    let Some(value) = get(variable) else { return Ok(None) };
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(Some(true)),
        "0" | "false" => Ok(Some(false)),
        _ => Err(invalid(variable, value, "use 1, true, 0 or false")),
    }
}

fn seconds(get: &impl Fn(&str) -> Option<String>, variable: &str) -> Result<Option<Duration>, ConfigError> {
    let Some(value) = get(variable) else { return Ok(None) };
    let accepted = "use seconds, a number >= 0";
    let duration = Duration::try_from_secs_f64(number(variable, value.clone(), accepted)?);
    duration.map(Some).map_err(|_| invalid(variable, value, accepted))
}

fn number(variable: &str, value: String, accepted: &str) -> Result<f64, ConfigError> {
    value.trim().parse().map_err(|_| invalid(variable, value, accepted))
}

fn invalid(variable: &str, value: String, accepted: &str) -> ConfigError {
    ConfigError { variable: variable.to_owned(), value, accepted: accepted.to_owned() }
}

#[cfg(test)]
mod tests;
