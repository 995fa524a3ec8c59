//! What is asked of a pilot: how many workers, what each has, and as what they are started.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use super::Host;
use super::provider::{Engaged, Patience, Start};
use crate::error::ClusterError;
use crate::os;
use crate::process::TestWorker;
use crate::sched::Resources;

/// A program that gives a cluster places for its workers, as an administrator's script for Slurm or SSH: see
/// [`Cluster::serve_by`](crate::Cluster::serve_by). It runs beside the head, takes orders as lines of JSON on its standard input, and
/// says what happens as lines of JSON on its standard output; docs/book/src/pilots.md has both.
#[derive(Debug, Clone)]
pub struct Pilot {
    command: Vec<String>,
    pub(super) workers: RangeInclusive<usize>,
    pub(super) each: Each,
    program: Option<Vec<String>>,
    pub(super) patience: Patience,
}

/// What each worker has, so far as it is said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Each {
    pub(super) cpus: f64,
    pub(super) memory: Option<u64>,
    pub(super) gpus: u32,
}

/// Who gives places, and what is wanted of them.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) engaged: Box<dyn Host>,
    /// Least and most.
    pub(crate) workers: (usize, usize),
    pub(crate) each: Resources,
    /// Why that has no GPU.
    pub(crate) no_gpu: Option<String>,
    pub(crate) start: Start,
}

const PATIENCE: Patience =
    Patience { ready: Duration::from_secs(30), answer: Duration::from_secs(90), join: Duration::from_secs(60) };

impl Pilot {
    /// The program and its arguments, and how many workers there are to be: from the least, which are there also without a query, to
    /// the most.
    pub fn new(command: impl IntoIterator<Item = impl Into<String>>, workers: RangeInclusive<usize>) -> Self {
        let command = command.into_iter().map(Into::into).collect();
        let each = Each { cpus: 1.0, memory: None, gpus: 0 };
        Self { command, workers, each, program: None, patience: PATIENCE }
    }

    /// CPUs of each worker; 1 unless said.
    #[must_use]
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.each.cpus = cpus;
        self
    }

    /// Bytes of memory of each worker; unless said it takes what it finds.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.each.memory = Some(bytes);
        self
    }

    /// GPUs of each worker; none unless said, and then it sees none.
    #[must_use]
    pub fn gpus(mut self, gpus: u32) -> Self {
        self.each.gpus = gpus;
        self
    }

    /// What is run as a worker: a program and its arguments, which must be this same build. Unless said, this executable, by the path
    /// that it has here.
    #[must_use]
    pub fn program(mut self, argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.program = Some(argv.into_iter().map(Into::into).collect());
        self
    }

    /// How long it may take from its start until it says that it is ready; 30 s unless said.
    #[must_use]
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.patience.ready = timeout;
        self
    }

    /// How long it may be silent before it counts as hung, though it is asked whether it is there; 90 s unless said.
    #[must_use]
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.patience.answer = timeout;
        self
    }

    /// How long a worker may take from its start until it has joined; 60 s unless said. A place may take as long as it takes.
    #[must_use]
    pub fn join_timeout(mut self, timeout: Duration) -> Self {
        self.patience.join = timeout;
        self
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    /// It is not, and why.
    pub(crate) fn engage(self) -> Result<Wanted, ClusterError> {
        let Self { command, workers, each, program, patience } = self;
        let name = super::pilot::named(&command);
        let engaged = Engaged::start(command, patience, |_, why| ClusterError::pilot(&name, why))?;
        let program = program.map_or_else(this_program, Ok)?;
        Wanted::new(engaged, workers, each, program, Value::Object(serde_json::Map::default()))
    }
}

impl Wanted {
    pub(super) fn new(
        engaged: impl Host + 'static,
        workers: RangeInclusive<usize>,
        each: Each,
        argv: Vec<String>,
        options: Value,
    ) -> Result<Self, ClusterError> {
        let Each { cpus, memory, gpus } = each;
        if !(cpus.is_finite() && cpus > 0.0) {
            return Err(ClusterError::os("start workers", format!("{cpus} CPUs each: use a number > 0")));
        }
        let least = *workers.start();
        let most = (*workers.end()).max(least).max(1);
        let mut env: BTreeMap<String, String> = ["REGATTA_BUILD", "RUST_LOG", "REGATTA_QUIET"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
            .collect();
        let mut set = |name: &str, value: String| _ = env.insert(name.to_owned(), value);
        set("DAFT_FLOTILLA_WORKER", "1".to_owned());
        set("REGATTA_CPUS", cpus.to_string());
        set("POLARS_MAX_THREADS", cpus.ceil().to_string());
        memory.into_iter().for_each(|memory| set("REGATTA_MEMORY", memory.to_string()));
        if gpus == 0 {
            // Where none were asked for, a process often sees all of the machine's.
            set(crate::udf::VISIBLE, String::new());
        }
        // Until a worker has come that says how much it has, there may be any amount.
        let here = Resources::cpus(cpus).with_memory(memory.unwrap_or(os::UNKNOWN));
        let gpu_memory = if gpus == 0 { 0 } else { os::UNKNOWN };
        let no_gpu = (gpus == 0).then(|| "workers are asked for without GPUs".to_owned());
        Ok(Self {
            engaged: Box::new(engaged),
            workers: (least, most),
            each: here.with_gpus(gpus.into(), gpu_memory),
            no_gpu,
            start: Start { argv, env, options },
        })
    }
}

/// What this process runs, as a worker.
///
/// # Errors
/// The system does not say what that is.
pub(super) fn this_program() -> Result<Vec<String>, ClusterError> {
    let program = std::env::current_exe().map_err(|e| ClusterError::os("find this executable", e))?;
    Ok(as_worker(program.display().to_string()))
}

/// The command line of a program that is to be a worker.
pub(super) fn as_worker(program: String) -> Vec<String> {
    std::iter::once(program).chain(TestWorker::arguments().into_iter().flatten()).collect()
}
