//! The process that a replica is in, from its parent.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::output::Output;
use super::wire::{GpuSeat, VISIBLE};
use crate::os;
use crate::process::{SEVERAL, replica_command};
use crate::sched::QueryId;
use crate::udf::{UdfError, UdfResult};

/// This executable, started again: for one replica, or for those of a query on one GPU. Ends when the last one is dropped.
pub(super) struct Process {
    child: Arc<Watched>,
    output: Mutex<Output>,
    /// Where one for several gets the sockets of its replicas.
    door: Option<UnixStream>,
}

/// A process whose end a thread waits for. One that hangs in a driver does not end when it is killed, and nobody else is to
/// wait for that.
struct Watched {
    /// The process, and how it has ended.
    state: Mutex<(Child, Option<String>)>,
    ended: Condvar,
}

/// How long a process that is killed is waited for.
const END: Duration = Duration::from_secs(1);

impl Process {
    /// A process for one replica, and the socket to it.
    ///
    /// # Errors
    /// This executable cannot be started again.
    pub(super) fn alone(gpu: Option<&GpuSeat>) -> UdfResult<(Arc<Self>, UnixStream)> {
        let (here, there) = UnixStream::pair()?;
        Ok((Arc::new(Self::start(there.into(), gpu, None)?), here))
    }

    /// A place for a replica in the process that replicas for this query share on its GPU, and the socket to it.
    ///
    /// # Errors
    /// This executable cannot be started again.
    pub(super) fn shared(gpu: &GpuSeat, query: Option<QueryId>) -> UdfResult<(Arc<Self>, UnixStream)> {
        type Key = (String, Option<QueryId>);
        static SHARED: Mutex<BTreeMap<Key, Weak<Process>>> = Mutex::new(BTreeMap::new());
        let (here, there) = UnixStream::pair()?;
        let mut shared = lock(&SHARED);
        shared.retain(|_, process| process.strong_count() > 0);
        let whose = (gpu.device.clone(), query);
        if let Some(process) = shared.get(&whose).and_then(Weak::upgrade)
            && !process.has_ended()
            && process.hand_over(&there).is_ok()
        {
            return Ok((process, here));
        }
        let (door, inside) = UnixStream::pair()?;
        let process = Arc::new(Self::start(inside.into(), Some(gpu), Some(door))?);
        process.hand_over(&there)?;
        shared.insert(whose, Arc::downgrade(&process));
        Ok((process, here))
    }

    fn start(stdin: OwnedFd, gpu: Option<&GpuSeat>, door: Option<UnixStream>) -> UdfResult<Self> {
        let mut command = replica_command().ok_or_else(|| {
            UdfError::new(
                "a replica in a process of its own (isolated, or with a GPU) is this same executable, started again, and its \
                 main cannot be one: put #[regatta::main] on main, or regatta::testing::worker!() into the test binary",
            )
        })?;
        // One thread for Polars: replicas are what runs in parallel.
        command.env("POLARS_MAX_THREADS", "1").stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(gpu) = gpu {
            command.env(VISIBLE, &gpu.device).env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        }
        if door.is_some() {
            let (marker, value) = SEVERAL;
            command.env(marker, value);
        }
        let mut child = command.spawn()?;
        drop(command); // and with it our copy of the child's end
        let output = Output::read(child.stdout.take(), child.stderr.take());
        Ok(Self { child: Watched::new(child)?, output: Mutex::new(output), door })
    }

    /// Hands a replica's socket to a process for several, unless it has ended.
    fn hand_over(&self, socket: &UnixStream) -> io::Result<()> {
        let door = self.door.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        os::send_with_file(door, &[1], socket.as_fd()).map(drop)
    }

    /// Whether other replicas may be in it.
    pub(super) fn is_shared(&self) -> bool {
        self.door.is_some()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.child.has_ended()
    }

    /// Ends it, with all that are in it.
    pub(super) fn kill(&self) {
        self.child.kill();
    }

    /// From here on what it prints belongs to the current span.
    pub(super) fn output_belongs_here(&self) {
        lock(&self.output).belongs_here();
    }

    /// What can be said of it when it has gone.
    pub(super) fn last_words(&self, error: impl fmt::Display) -> String {
        // It may only have closed the socket.
        let status = self.child.end().unwrap_or_else(|| "it does not end".to_owned());
        let last = lock(&self.output).last_words();
        let last = if last.is_empty() { String::new() } else { format!("; its last words: {last}") };
        format!("its process ended ({status}, {error}){last}")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.end().is_none() {
            tracing::warn!("a process of replicas does not end");
        }
    }
}

impl Watched {
    fn new(child: Child) -> UdfResult<Arc<Self>> {
        let number = child.id();
        let watched = Arc::new(Self { state: Mutex::new((child, None)), ended: Condvar::new() });
        let watches = Arc::clone(&watched);
        let watch = thread::Builder::new().name("regatta-child".to_owned()).spawn(move || {
            let waited = os::until_ended(number);
            let (child, status) = &mut *lock(&watches.state);
            // At once, since it has ended.
            let waited = waited.and_then(|()| child.wait());
            *status = Some(waited.map_or_else(|error| error.to_string(), |status| status.to_string()));
            watches.ended.notify_all();
        });
        watch.inspect_err(|_| watched.kill())?;
        Ok(watched)
    }

    /// Also before the thread that waits for it has come to say so: who would hand work to it needs to know now.
    fn has_ended(&self) -> bool {
        let (child, status) = &*lock(&self.state);
        status.is_some() || os::has_ended(child.id()).unwrap_or(true)
    }

    fn kill(&self) {
        // Does nothing once it was waited for.
        let _ = lock(&self.state).0.kill();
    }

    /// Kills it, and waits a little for its end: how that was.
    fn end(&self) -> Option<String> {
        self.kill();
        let waited = self.ended.wait_timeout_while(lock(&self.state), END, |(_, status)| status.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.1.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn that_a_process_has_ended_is_known_as_soon_as_it_has() {
        let mut held = Vec::new();
        for _ in 0..20 {
            let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            let (number, input) = (child.id(), child.stdin.take());
            let watched = Watched::new(child).unwrap();
            assert!(!watched.has_ended());
            drop(input);
            // An error: it has been waited for already.
            let _ = os::until_ended(number);
            assert!(watched.has_ended(), "whoever has seen its end may rely on it");
            held.push(watched);
        }
        for watched in held {
            assert_eq!(watched.end().as_deref(), Some("exit status: 0"), "and how it ended is still to be had");
            assert!(watched.has_ended());
        }
    }
}
