//! A process of replicas, from its parent.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::output::Output;
use super::wire::{FromChild, GpuSeat, Link, ToChild, VISIBLE};
use crate::cluster::replica_command;
use crate::udf::{UdfError, UdfResult};

/// How long a read waits; then it waits again.
const WAIT: Duration = Duration::from_secs(3600);

/// This executable, started again, with one replica in it or several. Ends with the last of them.
pub(super) struct Process {
    child: Mutex<Child>,
    words: Mutex<Link>,
    replicas: Arc<Mutex<Replicas>>,
    output: Mutex<Output>,
}

struct Replicas {
    inboxes: HashMap<u64, Sender<FromChild>>,
    last: u64,
    /// Nothing comes from it any more.
    ended: bool,
}

/// A replica's place in its process.
pub(super) struct Place {
    process: Arc<Process>,
    number: u64,
    inbox: Receiver<FromChild>,
}

impl Process {
    fn start(gpu: Option<&GpuSeat>) -> UdfResult<Arc<Self>> {
        let mut command = replica_command().ok_or_else(|| {
            UdfError::new(
                "a replica in a process of its own (isolated, or with a GPU) is this same executable, started again, and its \
                 main cannot be one: put #[regatta::main] on main, or regatta::testing::worker!() into the test binary",
            )
        })?;
        let (here, there) = UnixStream::pair()?;
        // One thread for Polars: replicas are what runs in parallel.
        command
            .env("POLARS_MAX_THREADS", "1")
            .stdin(OwnedFd::from(there))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(gpu) = gpu {
            command.env(VISIBLE, &gpu.device).env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        }
        let mut child = command.spawn()?;
        drop(command); // and with it our copy of the child's end
        let output = Mutex::new(Output::read(child.stdout.take(), child.stderr.take()));
        let replicas = Arc::new(Mutex::new(Replicas { inboxes: HashMap::new(), last: 0, ended: false }));
        let process = Self {
            child: Mutex::new(child),
            words: Mutex::new(Link::new(here.try_clone()?)),
            replicas: Arc::clone(&replicas),
            output,
        };
        thread::Builder::new()
            .name("regatta-replicas".to_owned())
            .spawn(move || dispatch(Link::new(here), &replicas))?;
        Ok(Arc::new(process))
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut replicas = lock(&self.replicas);
        if replicas.ended {
            return None;
        }
        replicas.last += 1;
        let (number, (said, inbox)) = (replicas.last, channel());
        replicas.inboxes.insert(number, said);
        drop(replicas);
        Some(Place { process: Arc::clone(self), number, inbox })
    }
}

/// Hands the child's words to its replicas, until it is gone.
fn dispatch(mut link: Link, replicas: &Mutex<Replicas>) {
    loop {
        match link.receive::<(u64, FromChild)>(WAIT) {
            Ok(Some((number, word))) => {
                if let Some(inbox) = lock(replicas).inboxes.get(&number) {
                    // One that has left does not listen.
                    let _ = inbox.send(word);
                }
            }
            Ok(None) => (),
            Err(_) => {
                let mut replicas = lock(replicas);
                replicas.ended = true;
                return replicas.inboxes.clear();
            }
        }
    }
}

impl Place {
    /// In a process of its own; or with a GPU in that of all replicas here with this GPU, which is started if there is none.
    pub(super) fn take(gpu: Option<&GpuSeat>) -> UdfResult<Self> {
        static DEVICES: Mutex<BTreeMap<String, Weak<Process>>> = Mutex::new(BTreeMap::new());
        let ended = || UdfError::new("its process ended as soon as it was started");
        let Some(gpu) = gpu else { return Process::start(None)?.enter().ok_or_else(ended) };
        let mut devices = lock(&DEVICES);
        devices.retain(|_, process| process.strong_count() > 0);
        let there = devices.get(&gpu.device).and_then(Weak::upgrade).and_then(|process| process.enter());
        if let Some(place) = there {
            return Ok(place);
        }
        let process = Process::start(Some(gpu))?;
        devices.insert(gpu.device.clone(), Arc::downgrade(&process));
        process.enter().ok_or_else(ended)
    }

    pub(super) fn send(&self, word: ToChild) -> io::Result<()> {
        lock(&self.process.words).send(&(self.number, word))
    }

    /// The next word; `None` if none came in this time.
    pub(super) fn receive(&self, wait: Duration) -> io::Result<Option<FromChild>> {
        match self.inbox.recv_timeout(wait) {
            Ok(word) => Ok(Some(word)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Ends the process, with all that are in it.
    pub(super) fn kill(&self) {
        let _ = lock(&self.process.child).kill();
    }

    /// What can be said of a process that has gone.
    pub(super) fn last_words(&self, error: &io::Error) -> String {
        self.kill(); // it may only have closed the socket
        let status = lock(&self.process.child).wait();
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let last = lock(&self.process.output).last_words();
        let last = if last.is_empty() { String::new() } else { format!("; its last words: {last}") };
        format!("its process ended ({status}, {error}){last}")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Where others stay, this one's memory is to be freed.
        let _ = self.send(ToChild::Stop);
        lock(&self.process.replicas).inboxes.remove(&self.number);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
