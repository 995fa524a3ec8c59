//! One `Config`: defaults, then environment, then builder calls. Every `DAFT_*` and `REGATTA_*` variable is read here
//! and nowhere else.

use std::net::SocketAddr;
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
}

/// Settings of a session.
///
/// | variable | default | meaning |
/// |---|---|---|
/// | `DAFT_RUNNER` | `native` | `native`: in this process; `flotilla`: on the cluster at `REGATTA_ADDRESS`, else on local worker processes |
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
/// | `REGATTA_CPUS`, `REGATTA_MEMORY` | measured | what a worker that joins may use: CPUs, `POLARS_MAX_THREADS` of them unless said; bytes, also as `8GiB` |
/// | `REGATTA_PORT` | a free one | the UDP port at which a worker that joins is reached by others |
/// | `REGATTA_BUILD` | the executable's own | a name for this build: processes of one cluster that have the same name work together though they are not the same executable |
/// | `DAFT_AUTOSCALING_PENDING_RELEASE_EXCLUDE_SECONDS` | 120 | how long a machine that was let go is not taken in again |
/// | `DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS` | 64 | calls that a replica of an async UDF has in flight |
/// | `REGATTA_QUIET` | `false` | says nothing on standard error of lost workers, long waits and misspelt variables |
/// | `REGATTA_OBSERVE_MEMORY` | 32 MiB | bytes that may be kept of what queries did: see [`Run::profile`](crate::Run::profile) |
/// | `REGATTA_DASHBOARD` | | serves pages of each session for a browser at this address and port, as `127.0.0.1:7780`, or at the next port that is free; needs the feature `dashboard` |
/// | `REGATTA_SCRATCH` | the system's folder for temporary files | where clusters keep their scratch folders |
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
    /// Where pages of the session are served for a browser.
    pub dashboard: Option<SocketAddr>,
    /// Where clusters keep their scratch folders.
    pub scratch: PathBuf,
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
            autoscaling_pending_release_exclude: Duration::from_secs(120),
            max_task_backlog: None,
            max_async_udf_inflight_tasks: 64,
            progress: ProgressBar::Auto,
            observe_memory: 32 << 20,
            dashboard: None,
            scratch: std::env::temp_dir(),
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

    /// Whether `REGATTA_JOIN` makes this process a worker of a cluster elsewhere.
    pub(crate) fn joins() -> bool {
        variable(JOIN).is_some()
    }

    /// Whether `REGATTA_QUIET` keeps us from standard error.
    pub(crate) fn is_quiet() -> bool {
        variable("REGATTA_QUIET").is_some_and(|value| !["", "0", "false"].contains(&&*value.to_ascii_lowercase()))
    }

    /// The shapes that tests of ours want of stages, whatever is measured.
    pub(crate) fn forced_shapes() -> Option<Forced> {
        match variable("REGATTA_TEST_SHAPES")?.as_str() {
            "broadcast" => Some(Forced::Broadcast),
            "hash" => Some(Forced::Hash),
            "one_section" => Some(Forced::OneSection),
            "shared" => Some(Forced::Shared),
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

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(value) = get("DAFT_RUNNER") {
            config.runner = match value.to_ascii_lowercase().as_str() {
                "native" => Runner::Native,
                "flotilla" => Runner::Flotilla,
                "ray" => return Err(invalid("DAFT_RUNNER", value, NO_RAY)),
                _ => return Err(invalid("DAFT_RUNNER", value, "use native or flotilla")),
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
        if let Some(value) = get("REGATTA_DASHBOARD").filter(|value| !value.is_empty()) {
            let address = value.trim().replace("localhost", "127.0.0.1").parse();
            let accepted = "use an address and a port, as 127.0.0.1:7780";
            config.dashboard = Some(address.map_err(|_| invalid("REGATTA_DASHBOARD", value, accepted))?);
        }
        if let Some(value) = get("REGATTA_SCRATCH") {
            config.scratch = PathBuf::from(value);
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
        if self.max_async_udf_inflight_tasks == 0 {
            return Err(invalid("DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS", "0".to_owned(), CALLS));
        }
        Ok(())
    }
}

/// Every variable that is read, or set for others.
const KNOWN: [&str; 31] = [
    "AUTOSCALER_UPDATE_INTERVAL_S",
    "DAFT_ACTOR_UDF_READY_TIMEOUT",
    "DAFT_AUTOSCALING_DOWNSCALE_ENABLED",
    "DAFT_AUTOSCALING_DOWNSCALE_IDLE_SECONDS",
    "DAFT_AUTOSCALING_MIN_SURVIVOR_WORKERS",
    "DAFT_AUTOSCALING_PENDING_RELEASE_EXCLUDE_SECONDS",
    "DAFT_AUTOSCALING_THRESHOLD",
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
    "REGATTA_JOIN",
    "REGATTA_MEMORY",
    "REGATTA_OBSERVE_MEMORY",
    "REGATTA_PEERS",
    "REGATTA_POOL_WARM_SECONDS",
    "REGATTA_PORT",
    "REGATTA_QUIET",
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
const NO_RAY: &str = "workers on Ray are not there yet: use flotilla, with REGATTA_ADDRESS and REGATTA_TOKEN for a cluster \
                      of several machines, or native";

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
        let accepted = "use a number of bytes, or one of KiB, MiB, GiB or TiB, as 8GiB";
        bytes(&value).ok_or_else(|| invalid("REGATTA_MEMORY", value, accepted))
    });
    let port = get("REGATTA_PORT").map(|value| {
        let port = value.trim().parse();
        port.map_err(|_| invalid("REGATTA_PORT", value, "use a UDP port, 0 for any that is free"))
    });
    Ok(Offer { cpus: cpus.transpose()?, memory: memory.transpose()?, port: port.transpose()?.unwrap_or(0) })
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

const CALLS: &str = "use a number of calls, at least 1";

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
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> Result<Config, ConfigError> {
        Config::from_variables(|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn variables_change_the_defaults() {
        assert_eq!(Config::from_variables(|_| None).unwrap(), Config::default());
        assert_eq!(with("DAFT_RUNNER", "Flotilla").unwrap().runner, Runner::Flotilla);
        assert_eq!(
            with("DAFT_ACTOR_UDF_READY_TIMEOUT", "1.5").unwrap().actor_udf_ready_timeout,
            Duration::from_millis(1500)
        );
        assert_eq!(with("REGATTA_POOL_WARM_SECONDS", "0").unwrap().pool_warm, Duration::ZERO);
        assert_eq!(with("DAFT_MIN_CPU_PER_TASK", "2").unwrap().min_cpu_per_task, 2.0);
        assert_eq!(with("DAFT_AUTOSCALING_THRESHOLD", "2.5").unwrap().autoscaling_threshold, 2.5);
        assert!(!with("DAFT_AUTOSCALING_DOWNSCALE_ENABLED", "False").unwrap().autoscaling_downscale_enabled);
        assert!(with("DAFT_AUTOSCALING_DOWNSCALE_ENABLED", "1").unwrap().autoscaling_downscale_enabled);
        assert_eq!(
            with("DAFT_AUTOSCALING_DOWNSCALE_IDLE_SECONDS", "0").unwrap().autoscaling_downscale_idle,
            Duration::ZERO
        );
        assert_eq!(with("DAFT_AUTOSCALING_MIN_SURVIVOR_WORKERS", "0").unwrap().autoscaling_min_survivor_workers, 0);
        assert_eq!(
            with("AUTOSCALER_UPDATE_INTERVAL_S", "0.5").unwrap().autoscaler_update_interval,
            Duration::from_millis(500)
        );
        assert_eq!(
            with("DAFT_AUTOSCALING_PENDING_RELEASE_EXCLUDE_SECONDS", "7").unwrap().autoscaling_pending_release_exclude,
            Duration::from_secs(7)
        );
        assert_eq!(with("DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS", "7").unwrap().max_async_udf_inflight_tasks, 7);
        assert_eq!(with("REGATTA_OBSERVE_MEMORY", "1048576").unwrap().observe_memory, 1 << 20);
        for (value, bar) in [
            ("0", ProgressBar::Off),
            ("1", ProgressBar::Auto),
            ("persist", ProgressBar::Persist),
            ("log", ProgressBar::Log),
        ] {
            assert_eq!(with("DAFT_PROGRESS_BAR", value).unwrap().progress, bar);
        }
        assert_eq!(with("REGATTA_SCRATCH", "/x").unwrap().scratch, PathBuf::from("/x"));
        assert_eq!(with("REGATTA_WORKER_TIMEOUT", "1").unwrap().worker_timeout, Duration::from_secs(1));
        let pages = with("REGATTA_DASHBOARD", "localhost:7780").map(|config| config.dashboard);
        match pages {
            Ok(address) => assert_eq!(address, Some(SocketAddr::from(([127, 0, 0, 1], 7780)))),
            Err(error) => {
                assert!(!cfg!(feature = "dashboard") && error.to_string().contains("`regatta dashboard`"), "{error}");
            }
        }
        assert!(with("REGATTA_DASHBOARD", "7780").unwrap_err().to_string().contains("127.0.0.1:7780"));
        assert_eq!(with("REGATTA_DASHBOARD", "").unwrap().dashboard, None);
    }

    #[test]
    fn a_misspelt_variable_is_known_by_the_nearest_and_one_of_others_is_not() {
        for (name, meant) in [
            ("REGATTA_SCRACH", "REGATTA_SCRATCH"),
            ("REGATTA_SCRATCH_DIR", "REGATTA_SCRATCH"),
            ("REGATTA_POOL_WARM", "REGATTA_POOL_WARM_SECONDS"),
            ("regatta_token", "REGATTA_TOKEN"),
            ("DAFT_RUNER", "DAFT_RUNNER"),
            ("DAFT_MIN_CPUS_PER_TASK", "DAFT_MIN_CPU_PER_TASK"),
            ("AUTOSCALER_UPDATE_INTERVAL", "AUTOSCALER_UPDATE_INTERVAL_S"),
        ] {
            assert_eq!(nearest(name), Some(meant), "{name}");
        }
        for name in
            ["DAFT_RUNNER", "DAFT_PROGRESS_BAR", "DAFT_SHUFFLE_ALGORITHM", "REGATTA_TEST_AS_HEAD", "PATH", "DAFTAR"]
        {
            assert_eq!(nearest(name), None, "{name}");
        }
        // All of them are in the table that people read.
        let page = include_str!("../README.md");
        let unsaid = [
            "DAFT_FLOTILLA_WORKER",
            "REGATTA_FAKES",
            "REGATTA_PEERS",
            "REGATTA_SEED",
            "REGATTA_WORKER",
            "REGATTA_CUDA_LIBS",
        ];
        let missing: Vec<_> = KNOWN.iter().filter(|name| !unsaid.contains(name) && !page.contains(**name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn an_address_comes_with_a_token_which_is_not_shown() {
        let both = |name: &str| ["REGATTA_ADDRESS", "REGATTA_TOKEN"].contains(&name).then(|| format!("<{name}>"));
        let at = Config::from_variables(both).unwrap().cluster.unwrap();
        assert_eq!((at.address.as_str(), at.token.as_str()), ("<REGATTA_ADDRESS>", "<REGATTA_TOKEN>"));
        assert!(!format!("{at:?}").contains("TOKEN"), "a token is a secret: {at:?}");
    }

    #[test]
    fn what_a_worker_may_use_is_said_in_numbers_and_units() {
        let with =
            |name: &'static str, value: &'static str| offer(&|asked: &str| (asked == name).then(|| value.to_owned()));
        assert_eq!(offer(&|_| None).unwrap(), Offer::default());
        assert_eq!(with("REGATTA_CPUS", "2.5").unwrap().cpus, Some(2.5));
        assert_eq!(with("REGATTA_PORT", "7701").unwrap().port, 7701);
        let memory = |value| with("REGATTA_MEMORY", value).unwrap().memory.unwrap();
        assert_eq!([memory("1024"), memory("3 KiB"), memory("8GiB")], [1024, 3072, 8 << 30]);
        for (name, value) in [
            ("REGATTA_CPUS", "0"),
            ("REGATTA_CPUS", "all"),
            ("REGATTA_CPUS", "inf"),
            ("REGATTA_PORT", "65536"),
            ("REGATTA_MEMORY", "8GB"),
            ("REGATTA_MEMORY", "0"),
            ("REGATTA_MEMORY", "99999999999TiB"),
        ] {
            let text = with(name, value).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains("use a"), "{text}");
        }
    }

    #[test]
    fn a_bad_value_is_refused_with_variable_value_and_what_is_accepted() {
        for (name, value) in [
            ("DAFT_RUNNER", "ray-ish"),
            ("DAFT_RUNNER", "ray"),
            ("REGATTA_ADDRESS", "host:1"),
            ("REGATTA_WORKER_TIMEOUT", "later"),
            ("DAFT_ACTOR_UDF_READY_TIMEOUT", "soon"),
            ("DAFT_ACTOR_UDF_READY_TIMEOUT", "-1"),
            ("DAFT_ACTOR_UDF_READY_TIMEOUT", "0"),
            ("DAFT_ACTOR_UDF_READY_TIMEOUT", "inf"),
            ("REGATTA_POOL_WARM_SECONDS", "for ever"),
            ("DAFT_SCHEDULER_LINEAR", "yes please"),
            ("DAFT_PROGRESS_BAR", "2"),
            ("REGATTA_OBSERVE_MEMORY", "much"),
            ("DAFT_AUTOSCALING_THRESHOLD", "0.9"),
            ("DAFT_AUTOSCALING_DOWNSCALE_ENABLED", "perhaps"),
            ("DAFT_AUTOSCALING_DOWNSCALE_IDLE_SECONDS", "-1"),
            ("DAFT_AUTOSCALING_MIN_SURVIVOR_WORKERS", "-1"),
            ("DAFT_AUTOSCALING_PENDING_RELEASE_EXCLUDE_SECONDS", "never"),
            ("AUTOSCALER_UPDATE_INTERVAL_S", "often"),
            ("DAFT_MIN_CPU_PER_TASK", "NaN"),
            ("DAFT_MIN_CPU_PER_TASK", "0"),
            ("DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS", "0"),
            ("DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS", "many"),
        ] {
            let text = with(name, value).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains("use ") || text.contains("set "), "{text}");
        }
    }
}
