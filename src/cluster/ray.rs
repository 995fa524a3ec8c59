//! Workers on a Ray cluster: a pilot that asks it for an actor for each.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Host as _;
use super::pilot::Machine;
use super::piloted::{Each, Wanted, as_worker, this_program};
use super::provider::{Engaged, Patience};
use crate::config::Config;
use crate::error::{ClusterError, RayError};

/// Workers on a Ray cluster that is there: what each of them is given by Ray, and which cluster it is. See
/// [`Session::ray`](crate::Session::ray).
///
/// ```no_run
/// use regatta::{RayOptions, Session};
///
/// // From one to eight workers, of four CPUs and one GPU each, as there is work for them.
/// let options = RayOptions { workers: Some(1..=8), cpus: Some(4.0), gpus: 1, ..RayOptions::default() };
/// let session = Session::ray(options)?;
/// # Ok::<(), regatta::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RayOptions {
    /// The cluster: `auto` for the one that this machine is a node of, or the `host:port` of its GCS. Unless said it is what
    /// `RAY_ADDRESS` says, else `auto`. Addresses for programs outside of the cluster (`http://`, `ray://`) are refused with what to
    /// do instead.
    pub address: Option<String>,
    /// A session on Ray that this process has already is given again, whatever else is said here. Without it there is another,
    /// with workers of its own.
    pub noop_if_initialized: bool,
    /// Short tasks that may wait at one worker behind those that run there; unless said, as
    /// [`Config::max_task_backlog`](crate::Config::max_task_backlog).
    pub max_task_backlog: Option<usize>,
    /// Refused with what to do instead: in Ray's client mode no worker could reach the head.
    pub force_client_mode: bool,
    /// How many workers there are, from the least, which are there also without a query, to the most. Unless said, as many as the
    /// nodes that are there by now have room for.
    pub workers: Option<RangeInclusive<usize>>,
    /// CPUs of each worker; unless said, those of the smallest node that has any.
    pub cpus: Option<f64>,
    /// GPUs of each worker. Ray says to each which are its own.
    pub gpus: u32,
    /// Bytes of memory of each worker, which Ray then counts, too. Unless said, its share of the smallest node's by CPUs, uncounted.
    pub memory: Option<u64>,
    /// Other resources of Ray's that each worker takes.
    pub resources: BTreeMap<String, f64>,
    /// Labels that a worker's node must have.
    pub labels: BTreeMap<String, String>,
    /// The Python that can import Ray. Unless said, what `REGATTA_RAY_PYTHON` says, else `python3` or `python`.
    pub python: Option<PathBuf>,
    /// This executable's path on the nodes, where that is another than here. In a job whose package it came with it is found.
    pub executable: Option<String>,
    /// How long Python and Ray may take until workers can be asked for.
    pub ready_timeout: Duration,
}

impl Default for RayOptions {
    fn default() -> Self {
        Self {
            address: None,
            noop_if_initialized: false,
            max_task_backlog: None,
            force_client_mode: false,
            workers: None,
            cpus: None,
            gpus: 0,
            memory: None,
            resources: BTreeMap::new(),
            labels: BTreeMap::new(),
            python: None,
            executable: None,
            ready_timeout: Duration::from_secs(30),
        }
    }
}

/// What is run by Python.
const LAUNCHER: &str = include_str!("ray/launcher.py");
/// A head that is lost for longer ends its cluster of itself, after 60 s.
const ANSWER: Duration = Duration::from_secs(90);
/// Until a worker has joined: a package is unpacked on its node before.
const JOIN: Duration = Duration::from_secs(60);

impl RayOptions {
    /// Starts the pilot, and waits until it has found the cluster. Also gives this machine's address there.
    ///
    /// # Errors
    /// [`RayError`], or the pilot broke.
    pub(crate) fn engage(&self) -> Result<(Wanted, String), ClusterError> {
        if self.force_client_mode {
            return Err(RayError::ClientMode.into());
        }
        let address = self.address.clone().or_else(Config::ray_address).unwrap_or_else(|| "auto".to_owned());
        let address = inside(&address)?;
        let python = self.python.clone().or_else(Config::ray_python).map_or_else(|| found(on_path), Ok)?;
        let python = python.display().to_string();
        let command = [&python, "-u", "-c", LAUNCHER, &address].map(str::to_owned).into();
        let patience = Patience { ready: self.ready_timeout, answer: ANSWER, join: JOIN };
        let failed = |kind: &str, why: String| {
            let (address, python) = (address.clone(), python.clone());
            ClusterError::from(match kind {
                "no_ray" => RayError::NoRay { python, why },
                "no_cluster" => RayError::NotInitialised { why },
                "not_reachable" => RayError::NotReachable { address, why },
                "not_ready" => RayError::NotReady { address, why },
                _ => RayError::Refused { address, why },
            })
        };
        let engaged = Engaged::start(command, patience, failed)?;
        let Some(host) = engaged.host().map(str::to_owned) else {
            return Err(ClusterError::pilot(&python, "does not say where it is"));
        };
        let (workers, each) = self.fit(engaged.nodes());
        let argv = match &self.executable {
            Some(executable) => as_worker(executable.clone()),
            None => {
                in_package(this_program()?, std::env::current_dir().ok().filter(|_| Config::is_ray_job()).as_deref())
            }
        };
        Ok((Wanted::new(engaged, workers, each, argv, self.of_each(each))?, host))
    }

    /// How many workers of what size these nodes have room for, where that is not said.
    fn fit(&self, nodes: &[Machine]) -> (RangeInclusive<usize>, Each) {
        let with_cpus = || nodes.iter().filter(|node| node.cpus > 0.0);
        let smallest = with_cpus().copied().min_by(|one, other| one.cpus.total_cmp(&other.cpus));
        let cpus = self.cpus.or_else(|| Some(smallest?.cpus)).unwrap_or(1.0);
        let share = smallest.filter(|node| node.memory > 0).map(|node| {
            let share = (cpus / node.cpus).min(1.0);
            (node.memory as f64 * share) as u64
        });
        let room = || {
            let fit = with_cpus().map(|node| {
                let by_gpus = if self.gpus == 0 { f64::INFINITY } else { node.gpus / f64::from(self.gpus) };
                (node.cpus / cpus).min(by_gpus) as usize
            });
            fit.sum::<usize>().max(1)
        };
        let workers = self.workers.clone().unwrap_or_else(|| {
            let room = room();
            room..=room
        });
        (workers, Each { cpus, memory: self.memory.or(share), gpus: self.gpus })
    }

    /// What Ray is told of each worker: its own options of an actor, without what is zero.
    fn of_each(&self, each: Each) -> Value {
        let mut options = Map::new();
        let mut set = |name: &str, value: Value| _ = options.insert(name.to_owned(), value);
        set("num_cpus", whole(each.cpus));
        set("scheduling_strategy", "SPREAD".into());
        if each.gpus > 0 {
            set("num_gpus", each.gpus.into());
        }
        self.memory.into_iter().for_each(|memory| set("memory", memory.into()));
        if !self.resources.is_empty() {
            let resources = self.resources.iter().map(|(name, amount)| (name.clone(), whole(*amount)));
            set("resources", Value::Object(resources.collect()));
        }
        if !self.labels.is_empty() {
            set("label_selector", json!(self.labels));
            // Ray takes one or the other.
            options.remove("scheduling_strategy");
        }
        Value::Object(options)
    }
}

/// Ray takes fractions below one only.
fn whole(amount: f64) -> Value {
    if amount.fract() == 0.0 { (amount as u64).into() } else { amount.into() }
}

/// An address that is good inside of a cluster.
fn inside(address: &str) -> Result<String, RayError> {
    let address = address.trim();
    let outside = |submit: String| Err(RayError::Outside { address: address.to_owned(), submit });
    if address.starts_with("http://") || address.starts_with("https://") {
        return outside(address.to_owned());
    }
    if let Some(rest) = address.strip_prefix("ray://") {
        let host = rest.split_once('/').map_or(rest, |(host, _)| host);
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        return outside(format!("http://{host}:8265"));
    }
    match address {
        "" => Ok("auto".to_owned()),
        "auto" => Ok(address.to_owned()),
        _ if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => Ok(address.to_owned()),
        _ => {
            let why = "it is none: use auto or host:port".to_owned();
            Err(RayError::NotReachable { address: address.to_owned(), why })
        }
    }
}

/// A Python that is there.
fn found(is_there: impl Fn(&Path) -> bool) -> Result<PathBuf, RayError> {
    const NAMES: [&str; 2] = ["python3", "python"];
    let python = NAMES.iter().map(PathBuf::from).find(|name| is_there(name));
    python.ok_or_else(|| RayError::NoPython { tried: format!("no {} on PATH", NAMES.join(" or ")) })
}

fn on_path(name: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// A command line of what came with a job's package: Ray unpacks that on each node, and actors of the job begin in it.
fn in_package(mut argv: Vec<String>, package: Option<&Path>) -> Vec<String> {
    if let (Some(program), Some(package)) = (argv.first_mut(), package)
        && let Ok(within) = Path::new(program).strip_prefix(package)
    {
        *program = format!("./{}", within.display());
    }
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_from_outside_is_refused_with_where_to_submit() {
        for address in ["auto", " auto ", ""] {
            assert_eq!(inside(address).as_deref(), Ok("auto"));
        }
        assert_eq!(inside("10.0.0.1:6379").as_deref(), Ok("10.0.0.1:6379"));
        assert_eq!(inside("[::1]:6379").as_deref(), Ok("[::1]:6379"));
        for (address, submit) in [
            ("http://head:8265", "http://head:8265"),
            ("https://ray.example/x", "https://ray.example/x"),
            ("ray://head:10001", "http://head:8265"),
            ("ray://head", "http://head:8265"),
        ] {
            let text = inside(address).unwrap_err().to_string();
            assert!(text.contains(address) && text.contains(&format!("ray job submit --address {submit} ")), "{text}");
        }
        assert!(inside("head").unwrap_err().to_string().contains("use auto or host:port"));
        let options = RayOptions { force_client_mode: true, ..RayOptions::default() };
        assert!(options.engage().unwrap_err().to_string().contains("ray job submit"));
    }

    #[test]
    fn workers_fit_the_nodes_that_are_there_unless_it_is_said_otherwise() {
        let machine = |(cpus, gpus, memory)| Machine { cpus, gpus, memory };
        let nodes = [(0.0, 0.0, 100), (4.0, 0.0, 4000), (8.0, 2.0, 9000)].map(machine);
        let fit = |options: RayOptions| {
            let (workers, each) = options.fit(&nodes);
            (workers, each.cpus, each.memory)
        };
        assert_eq!(fit(RayOptions::default()), (3..=3, 4.0, Some(4000)));
        assert_eq!(fit(RayOptions { cpus: Some(2.0), ..RayOptions::default() }), (6..=6, 2.0, Some(2000)));
        assert_eq!(fit(RayOptions { gpus: 1, ..RayOptions::default() }), (2..=2, 4.0, Some(4000)));
        let said = RayOptions { workers: Some(0..=9), memory: Some(7), cpus: Some(16.0), ..RayOptions::default() };
        assert_eq!(fit(said), (0..=9, 16.0, Some(7)));
        let (workers, each) = RayOptions::default().fit(&[]);
        assert_eq!((workers, each.cpus, each.memory), (1..=1, 1.0, None));
    }

    #[test]
    fn ray_is_told_what_each_worker_takes_and_nothing_that_is_zero() {
        let of = |options: RayOptions| options.of_each(options.fit(&[]).1).to_string();
        assert_eq!(of(RayOptions::default()), r#"{"num_cpus":1,"scheduling_strategy":"SPREAD"}"#);
        let labels = [("zone".to_owned(), "a".to_owned())].into();
        let resources = [("disk".to_owned(), 1.0), ("part".to_owned(), 0.5)].into();
        let all = RayOptions { cpus: Some(0.5), gpus: 2, memory: Some(64), labels, resources, ..RayOptions::default() };
        let told: Value = serde_json::from_str(&of(all)).unwrap();
        let expected = json!({
            "num_cpus": 0.5, "num_gpus": 2, "memory": 64, "label_selector": {"zone": "a"}, "resources": {"disk": 1, "part": 0.5},
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn what_came_with_a_package_is_found_in_it_and_nothing_else_is() {
        let argv =
            |program: &str, package: Option<&str>| in_package(vec![program.into(), "x".into()], package.map(Path::new));
        assert_eq!(argv("/tmp/pkg/bin/program", Some("/tmp/pkg")), ["./bin/program", "x"]);
        assert_eq!(argv("/usr/bin/program", Some("/tmp/pkg")), ["/usr/bin/program", "x"]);
        assert_eq!(argv("/tmp/pkg/program", None), ["/tmp/pkg/program", "x"]);
    }

    #[test]
    fn without_any_python_it_is_said_which_were_looked_for() {
        assert_eq!(found(|name| name == Path::new("python")), Ok(PathBuf::from("python")));
        let text = found(|_| false).unwrap_err().to_string();
        assert!(text.contains("no python3 or python on PATH") && text.contains("REGATTA_RAY_PYTHON"), "{text}");
    }
}
